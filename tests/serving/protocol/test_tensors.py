import struct
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_tfx.serving.protocol.messages import DT_BOOL, DT_FLOAT, DT_STRING, TensorProto
from bert_tfx.serving.protocol.tensors import (
    bools_of,
    floats_of,
    shape_of,
    string_tensor,
    strings_of,
)

texts = st.lists(st.text(st.characters(exclude_categories=["Cs"])))
float32 = st.floats(width=32, allow_nan=False)


def tensor(dtype, *shape, **values):
    proto = TensorProto(dtype=dtype, **values)
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    return proto


def packed(values: list[bytes]) -> bytes:
    lengths = b""
    for value in values:
        length = len(value)
        while length >= 0x80:
            lengths += bytes([length & 0x7F | 0x80])
            length >>= 7
        lengths += bytes([length])
    return lengths + b"".join(values)


@given(texts)
def test_texts_come_back_after_the_wire(values):
    proto = TensorProto.FromString(string_tensor(values).SerializeToString())
    assert shape_of(proto) == (len(values),)
    assert [value.decode() for value in strings_of(proto)] == values


@given(st.lists(float32), st.booleans())
def test_floats_are_read_packed_or_one_by_one(values, pack):
    content = {"tensor_content": struct.pack(f"<{len(values)}f", *values)}
    proto = tensor(DT_FLOAT, len(values), **(content if pack else {"float_val": values}))
    assert floats_of(TensorProto.FromString(proto.SerializeToString())) == values


@given(st.lists(st.booleans(), min_size=1), st.booleans())
def test_bools_are_read_packed_or_one_by_one(values, pack):
    content = {"tensor_content": bytes(values)} if pack else {"bool_val": values}
    assert bools_of(tensor(DT_BOOL, len(values), **content)) == values


@given(st.lists(st.binary(max_size=300), min_size=1), st.booleans())
def test_strings_are_read_packed_or_one_by_one(values, pack):
    content = {"tensor_content": packed(values)} if pack else {"string_val": values}
    assert strings_of(tensor(DT_STRING, len(values), **content)) == values


@given(st.lists(st.binary(max_size=300), min_size=1), st.data())
def test_packed_strings_that_are_cut_are_refused(values, data):
    content = packed(values)
    cut = content[: data.draw(st.integers(1, len(content) - 1))] if len(content) > 1 else b"\x85"
    with pytest.raises(ValueError, match="cut or damaged"):
        strings_of(tensor(DT_STRING, len(values), tensor_content=cut))


@given(st.binary(min_size=1), st.integers(0, 20))
def test_any_bytes_are_read_or_refused(content, size):
    for read, dtype in ((floats_of, DT_FLOAT), (strings_of, DT_STRING)):
        try:
            assert len(read(tensor(dtype, size, tensor_content=content))) == size
        except ValueError as error:
            assert str(error).startswith("its ")


def test_the_last_value_is_repeated():
    assert floats_of(tensor(DT_FLOAT, 2, 2, float_val=[1.0, 0.5])) == [1.0, 0.5, 0.5, 0.5]
    assert strings_of(tensor(DT_STRING, 3, string_val=[b"x"])) == [b"x"] * 3
    assert floats_of(tensor(DT_FLOAT, 2)) == [0.0, 0.0]
    assert floats_of(tensor(DT_FLOAT, float_val=[0.25])) == [0.25]


@pytest.mark.parametrize(
    ("read", "proto", "message"),
    [
        (floats_of, tensor(DT_STRING, 1), "type is DT_STRING, expected DT_FLOAT"),
        (strings_of, tensor(99, 1), "type is 99, expected DT_STRING"),
        (floats_of, tensor(DT_FLOAT, 1, float_val=[1, 2]), "says 1 values, and it holds 2"),
        (floats_of, tensor(DT_FLOAT, 2, tensor_content=b"1234"), "2 values of 4 bytes, and .* 4"),
        (floats_of, tensor(DT_FLOAT, -1), "shape is not known"),
        (bools_of, tensor(DT_FLOAT, 1), "type is DT_FLOAT, expected DT_BOOL"),
        (bools_of, tensor(DT_BOOL, 2, tensor_content=b"1"), "2 values of a byte, and .* 1"),
    ],
)
def test_a_tensor_that_contradicts_itself_is_refused(read, proto, message):
    with pytest.raises(ValueError, match=message):
        read(proto)


# TensorFlow itself packs and reads; in a process of its own, for its 10 s of import.
AGAINST_TENSORFLOW = """
import numpy as np, tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from bert_tfx.serving.protocol.messages import DT_STRING, TensorProto
from bert_tfx.serving.protocol.tensors import bools_of, floats_of, shape_of
from bert_tfx.serving.protocol.tensors import string_tensor, strings_of

def ours(value):
    return TensorProto.FromString(tf.make_tensor_proto(value).SerializeToString())

matrix = np.random.default_rng(0).random((5, 3), np.float32)
assert floats_of(ours(matrix)) == matrix.ravel().tolist()
assert shape_of(ours(matrix)) == (5, 3)
one = np.array([[0.5]], np.float32)
assert floats_of(ours(one)) == [0.5]
flags = [True, False, True]
assert bools_of(ours(flags)) == flags
words = ["很好", "", "a\\0b"]
assert [v.decode() for v in strings_of(ours(words))] == words
sent = tensor_pb2.TensorProto.FromString(string_tensor(words).SerializeToString())
assert [v.decode() for v in tf.make_ndarray(sent)] == words
long = ["x" * 300, "", "yz"]
content = bytes([0xAC, 0x02, 0, 2]) + "".join(long).encode()
packed = TensorProto(dtype=DT_STRING, tensor_content=content)
packed.tensor_shape.dim.add(size=3)
parsed = tf.io.parse_tensor(packed.SerializeToString(), tf.string).numpy()
assert [v.decode() for v in parsed] == long == [v.decode() for v in strings_of(packed)]
filled = TensorProto(dtype=DT_STRING, string_val=[b"a", b"b"])
filled.tensor_shape.dim.add(size=4)
parsed = tf.io.parse_tensor(filled.SerializeToString(), tf.string).numpy()
assert list(parsed) == strings_of(filled)
print("same")
"""


def test_tensorflow_packs_and_reads_the_same():
    pytest.importorskip("tensorflow_serving", reason="stands for an installed TensorFlow")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", AGAINST_TENSORFLOW],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "same\n", done.stderr[-2000:]
