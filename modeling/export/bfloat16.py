"""Products of bfloat16 numbers: matrices are held in 16 bits, and multiplied so.

An input is rounded to bfloat16, multiplied, summed up in float32 and rounded once more. All between
the products (GELU, softmax, LayerNorm, the residual stream) stays in float32, and so does the head.
docs/decisions/0040-bfloat16.md has on which processors that is faster.
"""

import contextlib
from collections.abc import Iterator

import keras
import tensorflow as tf

from bert_tfx.modeling.encoders.classifier import TextClassifier
from bert_tfx.modeling.export.matrix_layers import computing_with, matrix_layers, matrix_of


class Bfloat16Computation:
    """What TensorFlow needs to run a classifier's products in bfloat16.

    Args:
        classifier: The classifier; it stays as it is.

    Attributes:
        matrices: bfloat16 variables by the path of the classifier's own.
    """

    def __init__(self, classifier: TextClassifier) -> None:
        self._layers = matrix_layers(classifier)
        self.matrices: dict[str, tf.Variable] = {}
        for layer in self._layers:
            matrix = matrix_of(layer)
            narrow = tf.cast(keras.ops.convert_to_numpy(matrix), tf.bfloat16)
            self.matrices[matrix.path] = tf.Variable(narrow, trainable=False)

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """While it lasts, the classifier's layers multiply in bfloat16."""
        with computing_with(self._layers, multiply=self._multiply, look_up=self._look_up):
            yield

    def _look_up(self, layer: keras.layers.Layer, ids: tf.Tensor) -> tf.Tensor:
        rows = tf.gather(self.matrices[matrix_of(layer).path], ids)
        return tf.cast(rows, layer.compute_dtype)

    def _multiply(self, layer: keras.layers.Layer, inputs: tf.Tensor) -> tf.Tensor:
        """Computes a dense layer; `inputs` is float `[R, K]`."""
        kernel = self.matrices[matrix_of(layer).path]
        products = tf.matmul(tf.cast(inputs, tf.bfloat16), kernel)
        # In bfloat16, too: TensorFlow makes one operation of product and bias.
        outputs = tf.nn.bias_add(products, tf.cast(layer.bias, tf.bfloat16))
        return tf.cast(outputs, layer.compute_dtype)
