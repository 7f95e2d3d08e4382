import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bert_tfx.serving.protocol.model_api import TensorSpec
from bert_tfx.serving.server.tensors import read_tensor, type_name, write_tensor

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
    if array.dtype in (np.float32, np.int32, np.int64, np.bool_):
        # As TensorFlow Serving, one by one.
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
    np.testing.assert_array_equal(read_tensor(written, TensorSpec("DT_BFLOAT16", None)), array)


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
    with pytest.raises(ValueError, match=r"its shape is \[1000000000\]; at most 16,777,216 values"):
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
        (changed(shape=[3, 2]), "its values do not fit its shape [3, 2]"),
        (changed(tensor_content=b"123"), "its values do not fit its shape [2, 2]"),
        (changed(float_val=[1.0] * 5), "its values do not fit its shape [2, 2]"),
        (changed(shape=[-1, 2]), "its shape is [-1, 2]"),
        (changed(shape=[1] * 300), "expected [-1, 2]"),
    ],
)
def test_tensors_that_do_not_fit(tensor, words):
    with pytest.raises(ValueError) as caught:
        read_tensor(tensor, TensorSpec("DT_FLOAT", (None, 2)))
    assert words in str(caught.value)


def test_strings_that_are_not_there():
    tensor = tf.make_tensor_proto([b"x", b"y"])
    del tensor.string_val[:]
    with pytest.raises(ValueError, match=r"its shape is \[2\], and it holds no strings"):
        read_tensor(tensor, TensorSpec("DT_STRING", (None,)))
