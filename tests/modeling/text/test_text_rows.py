import glob

import numpy as np
import pytest
import tensorflow as tf

from bert_tfx.modeling.text import text_rows
from bert_tfx.modeling.text.features import TextTransform
from bert_tfx.modeling.text.text_rows import rows_of_texts
from bert_tfx.modeling.text.tokenization import WordPieceTokenizer
from bert_tfx.modeling.tfx.transformed_rows import read_rows


@pytest.fixture(scope="module")
def transform(vocab_file):
    return TextTransform(WordPieceTokenizer(vocab_file, lowercase=True), max_length=8)


# The rows of the transforms in conftest.
SINGLE = {"text_a": ["a b c", "好x a", "a b c d e f g h", "ab [CLS]"]}, [1, 0, 1, 0]
PAIR = {"text_a": ["a b", "a a a a a a"], "text_b": ["c", "b b b b b b"]}, [1, 0]


def content(rows):
    """The rows as a set of tuples: the pipeline's come in another order."""
    ends = np.cumsum(rows.lengths)
    found = set()
    for end, length, label in zip(ends, rows.lengths, rows.labels, strict=True):
        row = slice(end - length, end)
        segments = None if rows.segment_ids is None else tuple(rows.segment_ids[row])
        found.add((tuple(rows.token_ids[row]), segments, label))
    return found


@pytest.mark.parametrize(("name", "given"), [("single", SINGLE), ("pair", PAIR)])
def test_rows_are_those_of_the_pipeline(request, transform, name, given):
    transform_output, pattern = request.getfixturevalue(name)
    texts, labels = given
    found = rows_of_texts(
        transform, {name: [t.encode() for t in column] for name, column in texts.items()}, labels
    )
    pipelines = read_rows([pattern], transform_output)
    assert glob.glob(pattern)
    assert content(found) == content(pipelines)
    assert len(content(found)) == len(found) == len(pipelines) == len(labels)
    for array in ("token_ids", "segment_ids", "lengths", "labels"):
        ours, theirs = getattr(found, array), getattr(pipelines, array)
        assert (ours is None) == (theirs is None)
        assert ours is None or ours.dtype == theirs.dtype


def test_rows_keep_their_order_across_batches(transform, monkeypatch):
    texts = {
        "text_a": [b"a", b"b b b", b"", b"c c", b"d"],
        "text_b": [b"a b", b"c", b"d", b"e f g", b"h"],
    }
    labels = [3, 1, 4, 1, 5]
    whole = rows_of_texts(transform, texts, labels)
    monkeypatch.setattr(text_rows, "_BATCH", 2)
    pieces = rows_of_texts(transform, texts, labels)
    for array in ("token_ids", "segment_ids", "lengths", "labels"):
        np.testing.assert_array_equal(getattr(whole, array), getattr(pieces, array))
    assert whole.lengths.tolist() == [6, 7, 4, 8, 5]
    assert whole.labels.tolist() == labels
    features = transform({name: tf.constant(column) for name, column in texts.items()})
    assert whole.token_ids.tolist() == features["token_ids"].values.numpy().tolist()
