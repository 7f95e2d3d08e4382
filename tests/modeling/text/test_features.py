import numpy as np
import pytest
import tensorflow as tf

from bert_tfx.modeling.text.features import TextTransform, text_features
from bert_tfx.modeling.text.tokenization import WordPieceTokenizer


@pytest.fixture(scope="module")
def tokenizer(vocab_file):
    return WordPieceTokenizer(vocab_file, lowercase=True)


def test_single_texts(tokenizer):
    texts = {"text_a": tf.constant(["a B", "好x a", "", "a b c d e f g h"])}
    found = text_features(texts, tokenizer, max_length=6)
    assert {*found} == {"token_ids", "num_tokens", "num_unknown", "num_truncated"}
    assert found["token_ids"].to_list() == [
        [2, 5, 6, 3],
        [2, 13, 1, 5, 3],
        [2, 3],
        [2, 5, 6, 7, 8, 3],
    ]
    assert found["num_tokens"].numpy().tolist() == [4, 5, 2, 6]
    assert found["num_unknown"].numpy().tolist() == [0, 1, 0, 0]
    assert found["num_truncated"].numpy().tolist() == [0, 0, 0, 4]
    assert {value.dtype for value in found.values()} == {tf.int64}


def test_pairs(tokenizer):
    texts = {
        "text_a": tf.constant(["a b", "a a a a"]),
        "text_b": tf.constant(["c", "b b b b"]),
    }
    found = text_features(texts, tokenizer, max_length=8)
    assert found["token_ids"].to_list() == [[2, 5, 6, 3, 7, 3], [2, 5, 5, 5, 3, 6, 6, 3]]
    assert found["segment_ids"].to_list() == [[0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 0, 1, 1, 1]]
    assert found["num_truncated"].numpy().tolist() == [0, 3]


def test_transform_answers_in_a_saved_model_as_it_does_here(tokenizer, tmp_path):
    transform = TextTransform(tokenizer, max_length=7)
    texts = ["a b", "h g f e d c b a", "nobody", ""]
    expected = transform({"text_a": tf.constant(texts)})

    module = tf.Module()
    module.transform = transform
    module.answer = tf.function(
        lambda text_a: transform({"text_a": text_a}),
        input_signature=[tf.TensorSpec([None], tf.string)],
    )
    tf.saved_model.save(module, str(tmp_path / "saved"))
    found = tf.saved_model.load(str(tmp_path / "saved")).answer(tf.constant(texts))
    assert {*found} == {*expected}
    assert found["token_ids"].to_list() == expected["token_ids"].to_list()
    for name in ("num_tokens", "num_unknown", "num_truncated"):
        np.testing.assert_array_equal(found[name], expected[name])
