"""ONNX Runtime answers what Keras answers."""

import keras
import numpy as np
import onnx
import onnxruntime
import pytest

from bert_tfx.modeling.encoders.albert import AlbertEncoder
from bert_tfx.modeling.encoders.bert import BertEncoder
from bert_tfx.modeling.encoders.classifier import TextClassifier
from bert_tfx.modeling.encoders.distil_bert import DistilBertEncoder
from bert_tfx.modeling.export import onnx_export
from bert_tfx.modeling.export.onnx_export import to_onnx
from bert_tfx.schema.errors import InputError

SIZE = {
    "vocab_size": 50,
    "hidden_dim": 32,
    "num_layers": 2,
    "num_heads": 2,
    "intermediate_dim": 64,
    "max_length": 16,
    "initializer_range": 0.2,
}
ENCODERS = {
    "bert": lambda: BertEncoder(**SIZE),
    "bert, other gelu": lambda: BertEncoder(**SIZE, activation="gelu_tanh"),
    "bert, heads taken out": lambda: BertEncoder(**{**SIZE, "num_heads": 1}, head_dim=16),
    "distilbert": lambda: DistilBertEncoder(**SIZE),
    "albert": lambda: AlbertEncoder(**SIZE, embedding_dim=16),
}


@pytest.fixture(scope="module", params=ENCODERS)
def classifier(request):
    keras.utils.set_random_seed(1)
    classifier = TextClassifier(ENCODERS[request.param](), 3)
    rng = np.random.default_rng(2)
    # New ones are 0 and 1, which would hide one that is taken for another.
    for weight in classifier.weights:
        if len(weight.shape) == 1:
            weight.assign(weight + rng.normal(scale=0.2, size=weight.shape))
    return classifier


def pairs(rows=5, tokens=11):
    """Rows of several lengths, each of two texts."""
    rng = np.random.default_rng(3)
    lengths = np.linspace(3, tokens, rows).astype(int)[:, None]
    positions = np.arange(tokens)
    mask = (positions < lengths).astype(np.int32)
    return {
        "token_ids": rng.integers(1, 50, (rows, tokens)).astype(np.int32) * mask,
        "segment_ids": (positions > lengths // 2).astype(np.int32) * mask,
        "padding_mask": mask,
    }


def session_of(classifier, *, int8):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(to_onnx(classifier, int8=int8), options)


def answers(session, rows):
    names = {given.name for given in session.get_inputs()}
    return session.run(["logits"], {name: rows[name] for name in names})[0]


def test_float32_is_what_keras_computes(classifier):
    rows = pairs()
    expected = np.asarray(classifier(rows, training=False))
    found = answers(session_of(classifier, int8=False), rows)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.ptp(expected, axis=0).min() > 0.1


def test_int8_is_near_and_no_rows_answer_depends_on_the_others(classifier):
    rows = pairs()
    expected = np.asarray(classifier(rows, training=False))
    session = session_of(classifier, int8=True)
    found = answers(session, rows)
    assert np.abs(found - expected).max() < 0.1 * expected.std() + 0.02
    # A row of its own, and without its padding.
    for row, length in enumerate(rows["padding_mask"].sum(axis=1)):
        alone = {name: values[row : row + 1, :length] for name, values in rows.items()}
        np.testing.assert_allclose(answers(session, alone)[0], found[row], atol=1e-5)


def test_int8_is_a_quarter_and_keeps_the_inputs():
    classifier = TextClassifier(BertEncoder(**{**SIZE, "vocab_size": 5000}), 2)
    wide, narrow = (to_onnx(classifier, int8=int8) for int8 in (False, True))
    assert len(narrow) < 0.35 * len(wide)
    inputs = [
        [given.name for given in onnx.load_from_string(c).graph.input] for c in (wide, narrow)
    ]
    assert inputs == [["token_ids", "segment_ids", "padding_mask"]] * 2


def test_missing_package_is_told(monkeypatch):
    monkeypatch.setattr(onnx_export, "is_onnx_installed", lambda: False)
    with pytest.raises(InputError, match=r'pip install "bert-tfx\[onnx\]"'):
        to_onnx(TextClassifier(BertEncoder(**SIZE), 2), int8=True)
