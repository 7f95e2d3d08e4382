import json

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bert_tfx.serving.arrays import (
    is_base64,
    read_json,
    read_tensor,
    type_name,
    write_json,
    write_tensor,
)
from bert_tfx.serving.model_api import TensorSpec

DTYPES = ("float32", "float64", "int8", "int16", "int32", "int64")
DTYPES += ("uint8", "uint16", "uint32", "uint64", "bool")


def spec_of(array, shape=None):
    return TensorSpec(type_name(tf.as_dtype(array.dtype).as_datatype_enum), shape)


def arrays(dtypes=DTYPES):
    shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
    return st.sampled_from(dtypes).flatmap(lambda dtype: hnp.arrays(dtype, shapes))


def strings(values):
    array = np.empty(len(values), object)
    array[:] = values
    return array


@given(array=arrays())
@settings(deadline=None)
def test_packed_and_written_tensors_are_read(array):
    spec = spec_of(array)
    np.testing.assert_array_equal(read_tensor(tf.make_tensor_proto(array), spec), array)
    written = write_tensor(array, tf.as_dtype(array.dtype).as_datatype_enum)
    np.testing.assert_array_equal(tf.make_ndarray(written), array)
    found = read_tensor(written, spec)
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype
    assert not written.tensor_content


@given(values=st.lists(st.binary(max_size=20), max_size=6))
@settings(deadline=None)
def test_strings(values):
    array = strings(values)
    spec = TensorSpec("DT_STRING", (None,))
    assert read_tensor(tf.make_tensor_proto(array), spec).tolist() == values
    written = write_tensor(array, tf.string.as_datatype_enum)
    assert tf.make_ndarray(written).tolist() == values
    assert read_tensor(written, spec).tolist() == values


def test_types_without_a_field_of_their_own_are_packed():
    array = np.array([1.5, -2], tf.bfloat16.as_numpy_dtype)
    written = write_tensor(array, tf.bfloat16.as_datatype_enum)
    np.testing.assert_array_equal(tf.make_ndarray(written), array)
    with pytest.raises(ValueError, match="DT_BFLOAT16, which this server does not take"):
        read_tensor(written, TensorSpec("DT_BFLOAT16", None))


def test_values_that_are_left_out_repeat_the_last():
    tensor = tf.make_tensor_proto([1.0, 2.0])
    tensor.tensor_content = b""
    tensor.float_val[:] = [1.0, 2.0]
    tensor.tensor_shape.dim[0].size = 4
    spec = TensorSpec("DT_FLOAT", (None,))
    assert read_tensor(tensor, spec).tolist() == [1, 2, 2, 2]
    del tensor.float_val[:]
    assert read_tensor(tensor, spec).tolist() == [0, 0, 0, 0]
    tensor.tensor_shape.dim[0].size = 10**9
    with pytest.raises(ValueError, match="says 1,000,000,000 values, and it holds 0"):
        read_tensor(tensor, spec)


def changed(**fields):
    tensor = tf.make_tensor_proto(np.ones([2, 2], np.float32))
    for name, value in fields.items():
        if name == "shape":
            del tensor.tensor_shape.dim[:]
            for size in value:
                tensor.tensor_shape.dim.add(size=size)
        elif name == "float_val":
            tensor.tensor_content = b""
            tensor.float_val[:] = value
        else:
            setattr(tensor, name, value)
    return tensor


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (changed(dtype=2), "its type is DT_DOUBLE, expected DT_FLOAT"),
        (changed(shape=[2]), "its shape is [2], expected [-1, 2]"),
        (changed(shape=[2, 3]), "its shape is [2, 3], expected [-1, 2]"),
        (changed(shape=[3, 2]), "says 6 values, and it holds 16 bytes"),
        (changed(tensor_content=b"123"), "says 4 values, and it holds 3 bytes"),
        (changed(float_val=[1.0] * 5), "says 4 values, and it holds 5"),
        (changed(shape=[-1, 2]), "its shape is not known"),
        (changed(shape=[1] * 300), "300 dimensions, at most 8"),
    ],
)
def test_tensors_that_do_not_fit(tensor, words):
    with pytest.raises(ValueError) as caught:
        read_tensor(tensor, TensorSpec("DT_FLOAT", (None, 2)))
    assert words in str(caught.value)


def test_numbers_that_do_not_fit():
    tensor = tf.make_tensor_proto(np.zeros(1, np.uint8))
    tensor.tensor_content = b""
    tensor.int_val[:] = [256]
    with pytest.raises(ValueError, match="a number outside of 0 to 255"):
        read_tensor(tensor, TensorSpec("DT_UINT8", (None,)))


@given(array=arrays(("float32", "float64", "int32", "int64", "uint8", "bool")))
@settings(deadline=None)
def test_json_goes_both_ways(array):
    text = json.dumps(write_json(array, "x"))
    found = read_json(json.loads(text), spec_of(array))
    # A list without elements does not say how large they would be.
    if array.size:
        np.testing.assert_array_equal(found, array)
        assert found.dtype == array.dtype
    else:
        assert not found.size


def test_json_strings():
    spec = TensorSpec("DT_STRING", (None,))
    assert read_json(["很好", {"b64": "/wA="}], spec).tolist() == ["很好".encode(), b"\xff\x00"]
    array = strings(["很好".encode(), b"\xff\x00"])
    assert write_json(array, "x") == ["很好", {"b64": "/wA="}]
    assert write_json(array[:1], "x_bytes") == [{"b64": "5b6I5aW9"}]
    assert write_json(array.reshape(2, 1), "x") == [["很好"], [{"b64": "/wA="}]]
    assert not is_base64({"b64": 1})
    assert not is_base64({"b64": "", "x": 1})


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (1, "its shape is [], expected [-1]"),
        ([[1]], "its shape is [1, 1], expected [-1]"),
        ([1, [2]], "nested unequally"),
        (["1"], "holds '1', expected values of DT_INT32"),
        ([True], "holds 'True'"),
        ([1.0], "holds '1.0'"),
        ([None], "holds 'None'"),
        ([2**31], "outside of -2147483648 to 2147483647"),
    ],
)
def test_json_that_does_not_fit(value, words):
    with pytest.raises(ValueError) as caught:
        read_json(value, TensorSpec("DT_INT32", (None,)))
    assert words in str(caught.value)


def test_json_nested_too_deeply():
    value = []
    for _ in range(500):
        value = [value]
    with pytest.raises(ValueError, match="nested more than 8 times"):
        read_json(value, TensorSpec("DT_FLOAT", None))
