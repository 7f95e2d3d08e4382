"""Weights stored in 16 bits and computed with in float32; or see `bfloat16.py` and `int8.py`.

Only matrices: biases and the scales of LayerNorm are a thousandth of a model.
"""

import hashlib

import keras
import numpy as np
import tensorflow as tf

from bert_tfx.modeling.encoders.classifier import TextClassifier
from bert_tfx.modeling.encoders.reshaping import as_array, reshaped
from bert_tfx.modeling.export.int8 import quantized
from bert_tfx.modeling.export.matrix_layers import matrix_layers, matrix_of
from bert_tfx.modeling.export.storages import BFLOAT16_COMPUTE, INT8
from bert_tfx.schema.errors import InputError


def rounded(classifier: TextClassifier, storage: str) -> TextClassifier:
    """Makes a classifier whose matrices are what 16 or 8 bits can say.

    Args:
        classifier: It stays as it is.
        storage: One of `STORAGES`.

    Returns:
        A new classifier, in float32: stored and read back it is the same (in 8 bits to 1e-6).

    Raises:
        InputError: If a weight is larger than the format can say.
    """
    values = {}
    if storage == INT8:
        for layer in matrix_layers(classifier):
            matrix, scales = quantized(layer)
            values[matrix_of(layer).path] = matrix.astype(np.float32) * scales
        return reshaped(classifier, {}, values)
    narrow = [weight for weight in classifier.weights if is_stored_narrow(weight)]
    dtype = storage
    if storage == BFLOAT16_COMPUTE:
        narrow, dtype = [matrix_of(layer) for layer in matrix_layers(classifier)], "bfloat16"
    for weight in narrow:
        value = tf.cast(tf.cast(as_array(weight), dtype), tf.float32).numpy()
        if not np.isfinite(value).all():
            raise InputError(f"{weight.path}: holds a weight that {dtype} cannot say")
        values[weight.path] = value
    return reshaped(classifier, {}, values)


def is_stored_narrow(variable: keras.Variable) -> bool:
    """Returns whether a variable is one that may be held in 16 bits: a matrix."""
    return len(variable.shape) > 1


class WidenedVariable(tf.saved_model.experimental.TrackableResource):
    """A float32 variable that a SavedModel fills from a 16-bit one when it is loaded.

    Once, that is, and not with each request, which would cast every weight of the model again.

    Args:
        stored: The 16-bit variable.
    """

    def __init__(self, stored: tf.Variable) -> None:
        super().__init__()
        self._stored = stored
        # Several models may be loaded into one process; those of the same name share the variable.
        content = hashlib.sha256(tf.io.serialize_tensor(stored).numpy()).hexdigest()
        self._name = f"widened_{stored.dtype.name}_{content}"
        self._initialize()

    def _create_resource(self) -> tf.Tensor:
        return tf.raw_ops.VarHandleOp(
            dtype=tf.float32, shape=self._stored.shape, shared_name=self._name
        )

    def _initialize(self) -> None:
        tf.raw_ops.AssignVariableOp(
            resource=self.resource_handle, value=tf.cast(self._stored, tf.float32)
        )

    def read(self) -> tf.Tensor:
        """Returns the value, float32."""
        value = tf.raw_ops.ReadVariableOp(resource=self.resource_handle, dtype=tf.float32)
        return tf.ensure_shape(value, self._stored.shape)
