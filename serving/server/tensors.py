"""Tensors of requests and answers as numpy arrays, and back.

What comes in is held against the signature's declaration before memory is taken for it.
"""

import math

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

from bert_tfx.serving.protocol.messages import enum_name
from bert_tfx.serving.protocol.model_api import TensorSpec

# A tensor may leave out repetitions of its last value: a short message may stand for a large one.
_MAX_VALUES = 2**24
# One by one, as TensorFlow Serving answers: callers look for `float_val`.
_FIELDS = {
    tf.float32.as_datatype_enum: "float_val",
    tf.int32.as_datatype_enum: "int_val",
    tf.int64.as_datatype_enum: "int64_val",
    tf.bool.as_datatype_enum: "bool_val",
    tf.string.as_datatype_enum: "string_val",
}


def type_name(dtype: int) -> str:
    """Returns TensorFlow's name of a type, such as `DT_STRING`."""
    return enum_name("tensorflow.DataType", dtype)


def read_tensor(tensor: tensor_pb2.TensorProto, spec: TensorSpec) -> np.ndarray:
    """Returns the values of a `TensorProto`.

    Args:
        tensor: The message.
        spec: What the signature declares.

    Returns:
        An array of the declared type; of strings, `bytes` objects.

    Raises:
        ValueError: If type or shape are others than declared, or do not fit the values.
    """
    if type_name(tensor.dtype) != spec.dtype:
        raise ValueError(f"its type is {type_name(tensor.dtype)}, expected {spec.dtype}")
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if spec.shape is not None and (
        len(shape) != len(spec.shape)
        or any(want not in (None, size) for size, want in zip(shape, spec.shape, strict=True))
    ):
        expected = [-1 if size is None else size for size in spec.shape]
        raise ValueError(f"its shape is {shape}, expected {expected} (-1: any size)")
    size = math.prod(shape)
    if min(shape, default=0) < 0 or size > _MAX_VALUES:
        raise ValueError(f"its shape is {shape}; at most {_MAX_VALUES:,} values are taken")
    if size and spec.dtype == "DT_STRING" and not tensor.string_val:
        # TensorFlow would make texts of nothing.
        raise ValueError(f"its shape is {shape}, and it holds no strings")
    try:
        return np.asarray(tf.make_ndarray(tensor))
    except (ValueError, TypeError) as error:
        raise ValueError(f"its values do not fit its shape {shape}: {error}") from error


def write_tensor(array: np.ndarray, dtype: int) -> tensor_pb2.TensorProto:
    """Returns an array as a `TensorProto`.

    Args:
        array: The values.
        dtype: The type's number in `tensorflow.DataType`.
    """
    tensor = tensor_pb2.TensorProto(dtype=dtype)
    for size in array.shape:
        tensor.tensor_shape.dim.add(size=size)
    if dtype in _FIELDS:
        getattr(tensor, _FIELDS[dtype]).extend(array.ravel().tolist())
    else:
        tensor.tensor_content = array.tobytes()
    return tensor
