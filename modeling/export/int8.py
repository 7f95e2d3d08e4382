"""Matrices in 8 bits, and the products with them in 8 bits, too.

Of a kernel every column has a scale of its own, of an embedding table every row, and of a
product's input every row: a row's answer then does not depend on the rows beside it. With x a row,
its scale s = max|x| / 127, and w a kernel's column, its scale t = max|w| / 63:

    x . w = s t (q(x) . q(w)),    q(x) = round(x / s),    q(w) = round(w / t)

where the product on the right is one of whole numbers. Kernels take 7 of the 8 bits: processors
without VNNI add two products of 8 bits in 16, which 255 * 127 * 2 does not fit into, and they would
give other answers than those that were evaluated. Biases, LayerNorm, softmax and the head stay in
float32. Both the SavedModel and the ONNX file of an export compute this.

Shapes: R rows, K and N a kernel's two dimensions.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, Final

import keras
import numpy as np
import tensorflow as tf

from bert_tfx.modeling.encoders.classifier import TextClassifier
from bert_tfx.modeling.export.matrix_layers import computing_with, matrix_layers, matrix_of
from bert_tfx.schema.int8_product import int8_product

LEVELS: Final = 127
"""The largest number of inputs and tables, of either sign."""
KERNEL_LEVELS: Final = 63
"""The largest number of kernels."""
ZERO_POINT: Final = 128
"""Added to an input's numbers: the kernels multiply unsigned inputs with signed weights."""
SMALLEST: Final = 1e-12
"""Stands for the largest of a row or column that holds zeros alone."""


def quantized(layer: keras.layers.Layer) -> tuple[np.ndarray, np.ndarray]:
    """Returns the matrix of one of the `matrix_layers` in 8 bits.

    Args:
        layer: The layer.

    Returns:
        int8 `[K, N]`, and float32 scales that it is to be multiplied with, `[1, N]` of a kernel,
        `[K, 1]` of a table.
    """
    matrix = np.asarray(keras.ops.convert_to_numpy(matrix_of(layer)), np.float32)
    axis, levels = (0, KERNEL_LEVELS) if isinstance(layer, keras.layers.Dense) else (1, LEVELS)
    largest = np.maximum(np.abs(matrix).max(axis, keepdims=True), SMALLEST)
    scales = (largest / levels).astype(np.float32)
    return np.round(matrix / scales).astype(np.int8), scales


class Int8Computation:
    """What TensorFlow needs to run a classifier in 8 bits.

    Args:
        classifier: The classifier; it stays as it is.

    Attributes:
        matrices: int8 variables by the path of the classifier's own.
        scales: Their scales.
        sums: Of the columns of kernels, times the zero point: it is no part of the product.
    """

    def __init__(self, classifier: TextClassifier) -> None:
        self.matrices: dict[str, tf.Variable] = {}
        self.scales: dict[str, tf.Variable] = {}
        self.sums: dict[str, tf.Variable] = {}
        self._layers = matrix_layers(classifier)
        for layer in self._layers:
            matrix, scales = quantized(layer)
            path = matrix_of(layer).path
            self.matrices[path] = tf.Variable(matrix, trainable=False)
            self.scales[path] = tf.Variable(scales, trainable=False)
            if isinstance(layer, keras.layers.Dense):
                # Not with each request: that would read every weight once more.
                columns = -ZERO_POINT * matrix.sum(axis=0, dtype=np.float32)
                self.sums[path] = tf.Variable(columns, trainable=False)
        self._last: tuple[Any, Any] = (None, None)

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """While it lasts, the classifier's layers compute in 8 bits."""
        with computing_with(self._layers, multiply=self._multiply, look_up=self._look_up):
            try:
                yield
            finally:
                self._last = (None, None)

    def _look_up(self, layer: keras.layers.Layer, ids: tf.Tensor) -> tf.Tensor:
        path = matrix_of(layer).path
        rows = tf.cast(tf.gather(self.matrices[path], ids), tf.float32)
        return tf.cast(rows * tf.gather(self.scales[path], ids), layer.compute_dtype)

    def _multiply(self, layer: keras.layers.Layer, inputs: tf.Tensor) -> tf.Tensor:
        """Computes a dense layer; `inputs` is float `[R, K]`."""
        path = matrix_of(layer).path
        kernel = self.matrices[path]
        unsigned, scales = self._unsigned(inputs)
        products = int8_product(unsigned, kernel, self.sums[path])
        products = tf.ensure_shape(products, [None, kernel.shape[1]])
        outputs = products * scales * self.scales[path] + tf.cast(layer.bias, tf.float32)
        return tf.cast(outputs, layer.compute_dtype)

    def _unsigned(self, inputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns a product's input as quint8 `[R, K]`, and its scales, float32 `[R, 1]`."""
        # Query, key and value have the same.
        if self._last[0] is not inputs:
            wide = tf.cast(inputs, tf.float32)
            largest = tf.reduce_max(tf.abs(wide), axis=1, keepdims=True)
            scales = tf.maximum(largest, SMALLEST) / LEVELS
            unsigned = tf.raw_ops.QuantizeV2(
                input=wide / scales + ZERO_POINT,
                min_range=0.0,
                max_range=255.0,
                T=tf.quint8,
                mode="SCALED",
                round_mode="HALF_TO_EVEN",
            ).output
            self._last = inputs, (unsigned, scales)
        return self._last[1]
