"""Tensors as they travel: `tensorflow.TensorProto` to Python values and back.

A TensorProto holds its values either one by one, in a field of their type, or packed, in
`tensor_content`; servers choose (`AsProtoField` and `AsProtoTensorContent` of
`tensorflow/core/framework/tensor.cc`).
"""

import math
import struct
from collections.abc import Sequence
from typing import Any, TypeVar

from bert_tfx.serving.protocol.messages import DT_BOOL, DT_FLOAT, DT_STRING, TensorProto, enum_name

_T = TypeVar("_T")


def string_tensor(values: Sequence[str]) -> Any:
    """Returns a `TensorProto` of type string and shape `[len(values)]`.

    Args:
        values: Texts without lone surrogates.
    """
    tensor = TensorProto(dtype=DT_STRING, string_val=[value.encode() for value in values])
    tensor.tensor_shape.dim.add(size=len(values))
    return tensor


def shape_of(tensor: Any) -> tuple[int, ...]:
    """Returns the shape that a `TensorProto` claims to have.

    Raises:
        ValueError: If it has none, or one with a negative size.
    """
    shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
    if tensor.tensor_shape.unknown_rank or any(size < 0 for size in shape):
        raise ValueError("its shape is not known")
    return shape


def floats_of(tensor: Any) -> list[float]:
    """Returns the values of a float32 `TensorProto`, in row-major order.

    Raises:
        ValueError: If it is of another type, or does not hold as many values as its shape says.
    """
    _check_dtype(tensor, DT_FLOAT)
    size = math.prod(shape_of(tensor))
    if not tensor.tensor_content:
        return _filled(list(tensor.float_val), size, 0.0)
    if len(tensor.tensor_content) != 4 * size:
        raise ValueError(
            f"its shape says {size:,} values of 4 bytes, and it holds "
            f"{len(tensor.tensor_content):,} bytes"
        )
    return list(struct.unpack(f"<{size}f", tensor.tensor_content))


def bools_of(tensor: Any) -> list[bool]:
    """Returns the values of a bool `TensorProto`, in row-major order.

    Raises:
        ValueError: If it is of another type, or does not hold as many values as its shape says.
    """
    _check_dtype(tensor, DT_BOOL)
    size = math.prod(shape_of(tensor))
    if not tensor.tensor_content:
        return _filled(list(tensor.bool_val), size, False)
    if len(tensor.tensor_content) != size:
        raise ValueError(
            f"its shape says {size:,} values of a byte, and it holds "
            f"{len(tensor.tensor_content):,} bytes"
        )
    return [byte != 0 for byte in tensor.tensor_content]


def strings_of(tensor: Any) -> list[bytes]:
    """Returns the values of a string `TensorProto`, in row-major order.

    Raises:
        ValueError: If it is of another type, or does not hold as many values as its shape says.
    """
    _check_dtype(tensor, DT_STRING)
    size = math.prod(shape_of(tensor))
    if not tensor.tensor_content:
        return _filled(list(tensor.string_val), size, b"")
    return _unpacked_strings(tensor.tensor_content, size)


def _check_dtype(tensor: Any, dtype: int) -> None:
    if tensor.dtype != dtype:
        found, expected = (enum_name("tensorflow.DataType", n) for n in (tensor.dtype, dtype))
        raise ValueError(f"its type is {found}, expected {expected}")


def _filled(values: list[_T], size: int, default: _T) -> list[_T]:
    """Repeats the last value up to `size`, as TensorFlow does (`tensor.proto`)."""
    if len(values) > size:
        raise ValueError(f"its shape says {size:,} values, and it holds {len(values):,}")
    last = values[-1] if values else default
    return values + [last] * (size - len(values))


def _unpacked_strings(content: bytes, size: int) -> list[bytes]:
    """Reads strings packed by TensorFlow: all lengths as varints, then all bytes.

    Source: `EncodeStringList` of `tensorflow/core/platform/tensor_coding.cc`.
    """
    lengths, position = [], 0
    for _ in range(size):
        length = shift = 0
        more = True
        while more:
            if position == len(content) or shift > 28:
                raise ValueError("its packed strings are cut or damaged")
            byte = content[position]
            length |= (byte & 0x7F) << shift
            more, shift, position = byte >= 0x80, shift + 7, position + 1
        lengths.append(length)
    if position + sum(lengths) != len(content):
        raise ValueError("its packed strings are cut or damaged")
    values = []
    for length in lengths:
        values.append(content[position : position + length])
        position += length
    return values
