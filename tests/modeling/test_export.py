import keras
import numpy as np
import pytest
import tensorflow as tf

from bert_tfx.modeling import export
from bert_tfx.modeling.bert import BertEncoder
from bert_tfx.modeling.classifier import TextClassifier

LABELS = ("no", "yes")


def make_classifier():
    keras.utils.set_random_seed(1)
    encoder = BertEncoder(
        vocab_size=15,
        hidden_dim=8,
        num_layers=2,
        num_heads=2,
        intermediate_dim=16,
        max_length=8,
        initializer_range=0.5,
    )
    return TextClassifier(encoder, num_labels=2)


def served(transform_output, directory, *, is_pair=False):
    """Saves a classifier with its transform graph; returns it and what is loaded again."""
    classifier = make_classifier()
    module = export.ServedClassifier(
        classifier, transform_output.transform_features_layer(), labels=LABELS, is_pair=is_pair
    )
    module.save(str(directory))
    return classifier, tf.saved_model.load(str(directory))


@pytest.fixture(scope="module")
def single_served(single, tmp_path_factory):
    return served(single[0], tmp_path_factory.mktemp("export") / "single")


@pytest.fixture(scope="module")
def pair_served(pair, tmp_path_factory):
    return served(pair[0], tmp_path_factory.mktemp("export") / "pair", is_pair=True)


def examples(**columns):
    """Serializes rows of bytes features."""
    return tf.constant(
        [
            tf.train.Example(
                features=tf.train.Features(
                    feature={
                        name: tf.train.Feature(
                            bytes_list=tf.train.BytesList(value=[value.encode()])
                        )
                        for name, value in zip(columns, row, strict=True)
                    }
                )
            ).SerializeToString()
            for row in zip(*columns.values(), strict=True)
        ]
    )


TEXTS = ["a", "a b c d e f g h", "好", "", "x y z", "a b c"]


def direct(classifier, ids, segments=None):
    """Runs the classifier over one row without padding."""
    ids = np.array([ids], np.int32)
    batch = {
        "token_ids": ids,
        "segment_ids": np.zeros_like(ids) if segments is None else np.array([segments], np.int32),
        "padding_mask": np.ones_like(ids),
    }
    return tf.nn.softmax(classifier(batch)).numpy()[0]


def test_answers_are_those_of_the_classifier(single_served):
    classifier, loaded = single_served
    answer = loaded.signatures["serve_text"](text_a=tf.constant(TEXTS))
    ids = [
        [2, 5, 3],
        [2, 5, 6, 7, 8, 9, 10, 3],
        [2, 13, 3],
        [2, 3],
        [2, 1, 1, 1, 3],
        [2, 5, 6, 7, 3],
    ]
    expected = np.stack([direct(classifier, row) for row in ids])
    assert np.abs(answer["probabilities"].numpy() - expected).max() < 1e-6
    assert answer["probabilities"].dtype == tf.float32
    assert answer["classes"].numpy().tolist() == [[b"no", b"yes"]] * len(TEXTS)
    names = [LABELS[i].encode() for i in expected.argmax(axis=1)]
    assert answer["label"].numpy().tolist() == names


def test_both_signatures_agree(single_served):
    _, loaded = single_served
    by_text = loaded.signatures["serve_text"](text_a=tf.constant(TEXTS))
    by_example = loaded.signatures["serving_default"](examples=examples(text_a=TEXTS))
    for name in ("probabilities", "label", "classes"):
        assert np.array_equal(by_text[name], by_example[name])


def test_pairs(pair_served):
    classifier, loaded = pair_served
    texts_a, texts_b = ["a b", "a"], ["c", "b c d"]
    by_text = loaded.signatures["serve_text"](
        text_a=tf.constant(texts_a), text_b=tf.constant(texts_b)
    )
    expected = [
        direct(classifier, [2, 5, 6, 3, 7, 3], [0, 0, 0, 0, 1, 1]),
        direct(classifier, [2, 5, 3, 6, 7, 8, 3], [0, 0, 0, 1, 1, 1, 1]),
    ]
    assert np.abs(by_text["probabilities"].numpy() - np.stack(expected)).max() < 1e-6
    by_example = loaded.signatures["serving_default"](
        examples=examples(text_a=texts_a, text_b=texts_b)
    )
    assert np.array_equal(by_text["probabilities"], by_example["probabilities"])


def test_micro_batches_change_nothing(single, tmp_path, monkeypatch, single_served):
    _, whole = single_served
    monkeypatch.setattr(export, "_TOKENS_PER_MICRO_BATCH", 9)
    _, split = served(single[0], tmp_path / "split")
    texts = tf.constant(TEXTS * 5)
    first = whole.signatures["serve_text"](text_a=texts)["probabilities"].numpy()
    second = split.signatures["serve_text"](text_a=texts)["probabilities"].numpy()
    assert np.abs(first - second).max() < 1e-6


def test_no_rows_are_answered_by_no_rows(single_served):
    _, loaded = single_served
    answer = loaded.signatures["serve_text"](text_a=tf.constant([], tf.string))
    assert answer["probabilities"].shape == (0, 2)
    assert answer["classes"].shape == (0, 2)
    assert answer["label"].shape == (0,)


def test_slice_features(single_served):
    _, loaded = single_served
    slices = loaded.signatures["slice_features"](examples=examples(text_a=TEXTS))
    assert slices["truncated"].numpy().tolist() == [b"no", b"yes", *[b"no"] * 4]
    assert set(slices["length_bucket"].numpy()) == {b"000-015"}


def test_vocabulary_travels_inside(single, tmp_path):
    served(single[0], tmp_path / "model")
    assert [path.name for path in (tmp_path / "model/assets").iterdir()] == ["vocab.txt"]
