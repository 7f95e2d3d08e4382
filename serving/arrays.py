"""Tensors of requests and answers as numpy arrays, and back: protobuf messages and JSON.

What comes in is held against the signature's declaration before memory is taken for it.

Sources: `tensorflow/core/framework/tensor.proto`; TensorFlow Serving's REST API
(`tensorflow_serving/util/json_tensor.h`).
"""

import base64
import binascii
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from tensorflow.core.framework import tensor_pb2

from bert_tfx.serving.messages import enum_name
from bert_tfx.serving.model_api import TensorSpec
from bert_tfx.serving.tensors import shape_of, strings_of

Json = Any

# A tensor may leave out repetitions of its last value; so many at most.
_MAX_LEFT_OUT = 65_536
_MAX_RANK = 8
_STRING = "DT_STRING"


class _Kind(NamedTuple):
    """How a type's values lie in an array and in a message."""

    dtype: type[np.generic]
    field: str


_KINDS = {
    "DT_FLOAT": _Kind(np.float32, "float_val"),
    "DT_DOUBLE": _Kind(np.float64, "double_val"),
    "DT_INT8": _Kind(np.int8, "int_val"),
    "DT_INT16": _Kind(np.int16, "int_val"),
    "DT_INT32": _Kind(np.int32, "int_val"),
    "DT_INT64": _Kind(np.int64, "int64_val"),
    "DT_UINT8": _Kind(np.uint8, "int_val"),
    "DT_UINT16": _Kind(np.uint16, "int_val"),
    "DT_UINT32": _Kind(np.uint32, "uint32_val"),
    "DT_UINT64": _Kind(np.uint64, "uint64_val"),
    "DT_BOOL": _Kind(np.bool_, "bool_val"),
}


def type_name(dtype: int) -> str:
    """Returns TensorFlow's name of a type, such as `DT_STRING`."""
    return enum_name("tensorflow.DataType", dtype)


def read_tensor(tensor: Any, spec: TensorSpec) -> np.ndarray:
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
    shape = shape_of(tensor)
    _check_shape(shape, spec)
    size = math.prod(shape)
    content = tensor.tensor_content
    if spec.dtype == _STRING:
        _check_held(size, len(tensor.string_val))
        _check_left_out(size, len(content) or len(tensor.string_val))
        return _strings(strings_of(tensor), shape)
    kind = _kind(spec)
    if content:
        if len(content) != size * np.dtype(kind.dtype).itemsize:
            raise ValueError(f"its shape says {size:,} values, and it holds {len(content):,} bytes")
        return np.frombuffer(content, kind.dtype).reshape(shape)
    held = getattr(tensor, kind.field)
    _check_held(size, len(held))
    _check_left_out(size, len(held))
    values = list(held)
    values += values[-1:] * (size - len(values)) if values else [0] * size
    return _numbers(values, kind, shape)


def write_tensor(array: np.ndarray, dtype: int) -> Any:
    """Returns an array as a `TensorProto`.

    Args:
        array: The values.
        dtype: The type's number in `tensorflow.DataType`.
    """
    tensor = tensor_pb2.TensorProto(dtype=dtype)
    for size in array.shape:
        tensor.tensor_shape.dim.add(size=size)
    name = type_name(dtype)
    if name == _STRING:
        tensor.string_val.extend(array.ravel().tolist())
    elif name in _KINDS:
        # One by one, as TF Serving does: callers look for `float_val`.
        getattr(tensor, _KINDS[name].field).extend(array.ravel().tolist())
    else:
        tensor.tensor_content = array.tobytes()
    return tensor


def read_json(value: Json, spec: TensorSpec) -> np.ndarray:
    """Returns the values of nested JSON lists.

    Strings are UTF-8, or base64 as `{"b64": "..."}`.

    Args:
        value: A value or lists of them.
        spec: What the signature declares.

    Raises:
        ValueError: If they are of another type or shape, or lists are of unequal length.
    """
    shape: list[int] = []
    level = value
    while isinstance(level, list):
        shape.append(len(level))
        if len(shape) > _MAX_RANK:
            raise ValueError(f"is nested more than {_MAX_RANK} times")
        if not level:
            break
        level = level[0]
    _check_shape(tuple(shape), spec)
    values: list[Json] = []
    _flatten(value, shape, values)
    if spec.dtype == _STRING:
        return _strings([_json_bytes(v) for v in values], tuple(shape))
    kind = _kind(spec)
    allowed: tuple[type, ...] = (int,)
    if issubclass(kind.dtype, np.floating):
        allowed = (int, float)
    elif kind.dtype is np.bool_:
        allowed = (bool,)
    for v in values:
        if type(v) not in allowed:
            raise ValueError(f"holds {str(v)[:40]!r}, expected values of {spec.dtype}")
    return _numbers(values, kind, tuple(shape))


def write_json(array: np.ndarray, name: str) -> Json:
    """Returns an array as nested lists.

    Args:
        array: The values.
        name: Its name; what ends in `_bytes` becomes base64, and what is not UTF-8.
    """
    if array.dtype == object:
        flat = [_json_string(value, name) for value in array.ravel().tolist()]
        return _nested(flat, array.shape)
    if array.dtype == np.float32:
        # The shortest number that reads as the same float32; a double would have 17 digits.
        return array.astype(str).astype(np.float64).tolist()
    return array.tolist()


def is_base64(value: Json) -> bool:
    """Whether a JSON value stands for bytes."""
    return isinstance(value, dict) and set(value) == {"b64"} and isinstance(value["b64"], str)


def _kind(spec: TensorSpec) -> _Kind:
    if spec.dtype not in _KINDS:
        raise ValueError(f"is of type {spec.dtype}, which this server does not take")
    return _KINDS[spec.dtype]


def _check_shape(shape: tuple[int, ...], spec: TensorSpec) -> None:
    if len(shape) > _MAX_RANK:
        raise ValueError(f"its shape has {len(shape)} dimensions, at most {_MAX_RANK} are taken")
    if spec.shape is None:
        return
    if len(shape) != len(spec.shape) or any(
        expected not in (None, size) for size, expected in zip(shape, spec.shape, strict=True)
    ):
        expected = [-1 if size is None else size for size in spec.shape]
        raise ValueError(f"its shape is {[*shape]}, expected {expected} (-1: any size)")


def _check_held(size: int, held: int) -> None:
    if held > size:
        raise ValueError(f"its shape says {size:,} values, and it holds {held:,}")


def _check_left_out(size: int, held: int) -> None:
    if size > max(held, _MAX_LEFT_OUT):
        raise ValueError(f"its shape says {size:,} values, and it holds {held:,}")


def _strings(values: Sequence[bytes], shape: tuple[int, ...]) -> np.ndarray:
    array = np.empty(len(values), object)
    array[:] = values
    return array.reshape(shape)


def _numbers(values: Sequence[Any], kind: _Kind, shape: tuple[int, ...]) -> np.ndarray:
    if issubclass(kind.dtype, np.integer) and values:
        limits = np.iinfo(kind.dtype)
        if min(values) < limits.min or max(values) > limits.max:
            raise ValueError(f"holds a number outside of {limits.min} to {limits.max}")
    try:
        with np.errstate(over="ignore"):
            return np.array(values, kind.dtype).reshape(shape)
    except OverflowError as error:
        raise ValueError(f"holds a number that is too large: {error}") from error


def _flatten(value: Json, shape: Sequence[int], values: list[Json]) -> None:
    if not shape:
        if isinstance(value, list):
            raise ValueError("its lists are nested unequally")
        values.append(value)
        return
    if not isinstance(value, list) or len(value) != shape[0]:
        raise ValueError("its lists are of unequal length")
    for part in value:
        _flatten(part, shape[1:], values)


def _json_bytes(value: Json) -> bytes:
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError as error:
            raise ValueError("holds half of a surrogate pair, which is no character") from error
    if is_base64(value):
        try:
            return base64.b64decode(cast(Mapping[str, str], value)["b64"], validate=True)
        except (binascii.Error, ValueError) as error:
            raise ValueError(f"holds wrong base64: {error}") from error
    raise ValueError(f'holds {str(value)[:40]!r}, expected strings or {{"b64": "..."}}')


def _json_string(value: bytes, name: str) -> Json:
    if not name.endswith("_bytes"):
        try:
            return value.decode()
        except UnicodeDecodeError:
            pass
    return {"b64": base64.b64encode(value).decode()}


def _nested(flat: list[Json], shape: Sequence[int]) -> Json:
    if not shape:
        return flat[0]
    if len(shape) == 1:
        return flat
    step = math.prod(shape[1:])
    return [_nested(flat[i * step : (i + 1) * step], shape[1:]) for i in range(shape[0])]
