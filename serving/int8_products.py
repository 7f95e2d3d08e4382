"""Whether TensorFlow multiplies in 8 bits here.

The op of exports in int8 is computed by oneDNN alone. TensorFlow switches oneDNN on by itself on
processors that have instructions for it (AVX512-VNNI, AMX and the like) and leaves it off on
others, where the op is there and gives nothing. With the variable it works on these, too.
"""

import functools
import os
from typing import Final

import tensorflow as tf

from bert_tfx.schema.errors import InputError
from bert_tfx.schema.int8_product import int8_product

_OP: Final = b"QuantizedMatMulWithBiasAndDequantize"
_GRAPH_FILE = "saved_model.pb"


def check_products() -> None:
    """Raises if TensorFlow cannot multiply in 8 bits.

    Raises:
        InputError: If so.
    """
    if not _are_computed():
        raise InputError(
            "TensorFlow cannot multiply in 8 bits here, as oneDNN is off: set "
            "TF_ENABLE_ONEDNN_OPTS=1 in the environment, which TensorFlow itself does only on "
            "processors with AVX512-VNNI or AMX, or store the model in another type than int8"
        )


def check_export(path: str) -> None:
    """Raises if TensorFlow cannot compute an exported model, as it multiplies in 8 bits.

    Args:
        path: The SavedModel's folder.

    Raises:
        InputError: If so.
    """
    file = os.path.join(path, _GRAPH_FILE)
    if not tf.io.gfile.exists(file):
        # What is wrong with the folder is for who loads it to say.
        return
    with tf.io.gfile.GFile(file, "rb") as graph:
        if _OP not in graph.read():
            return
    try:
        check_products()
    except InputError as error:
        raise InputError(
            f"{path}: {error}; `--backend onnx` of serve and predict does without, where the "
            "export holds an ONNX file"
        ) from error


@functools.cache
def _are_computed() -> bool:
    """Asks the op itself: on which processors it computes differs with TensorFlow's release."""

    @tf.function
    def product() -> tf.Tensor:
        inputs = tf.bitcast(tf.ones([1, 1], tf.uint8), tf.quint8)
        return int8_product(inputs, tf.ones([1, 1], tf.int8), tf.zeros([1]))

    with tf.init_scope(), tf.device("CPU:0"):
        try:
            # In a function: by itself the op returns without a word, and without a tensor.
            product()
        except tf.errors.OpError:
            return False
    return True
