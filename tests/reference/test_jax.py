"""The encoders on JAX, where TensorFlow is not installed."""

import importlib.util
import os
import pathlib
import re
import sys

import pytest

if os.environ.get("KERAS_BACKEND") != "jax":
    pytest.skip("runs under JAX: `make test-jax`", allow_module_level=True)

import keras
import numpy as np

from bert_tfx.modeling.checkpoints.loading import (
    ENCODERS,
    load_classifier,
    load_encoder,
    save_hugging_face,
)
from bert_tfx.modeling.encoders.classifier import TextClassifier
from bert_tfx.modeling.training import metrics

# Keras 3.12 saves and returns weights in a way that NumPy 2 still understands.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

ROOT = pathlib.Path(__file__).parents[2]
GOLDEN = ROOT / ".." / "shared" / "golden" / "models"
ALBERT = ROOT / "tests" / "testdata" / "hf_albert_classifier"

TOY = {
    "vocab_size": 50,
    "hidden_dim": 12,
    "num_layers": 2,
    "num_heads": 3,
    "intermediate_dim": 20,
    "max_length": 16,
}


def make_classifier(architecture, **kwargs) -> TextClassifier:
    keras.utils.set_random_seed(0)
    if architecture == "albert":
        kwargs["embedding_dim"] = 8
    encoder = ENCODERS[architecture](**{**TOY, "initializer_range": 0.5, **kwargs})
    return TextClassifier(encoder, num_labels=3, dropout=0.0)


def make_inputs():
    random = np.random.default_rng(0)
    mask = (np.arange(9) < np.array([[9], [5], [2]])).astype("int32")
    return {
        "token_ids": random.integers(1, 50, mask.shape).astype("int32") * mask,
        "segment_ids": random.integers(0, 2, mask.shape).astype("int32") * mask,
        "padding_mask": mask,
    }


def test_this_is_jax_without_tensorflow_and_the_projects_keras():
    assert keras.backend.backend() == "jax"
    assert importlib.util.find_spec("tensorflow") is None
    assert "tensorflow" not in sys.modules
    stack = (pathlib.Path(sys.prefix) / "stack").read_text(encoding="utf-8").strip()
    lock = (ROOT / "requirements" / stack / "run.txt").read_text(encoding="utf-8")
    assert re.search(r"^keras==(\S+)", lock, re.MULTILINE)[1] == keras.__version__


@pytest.mark.parametrize(
    "name",
    [
        "hf_bert_base",
        "hf_bert_classifier",
        "hf_distilbert_base",
        "hf_distilbert_classifier",
        "hf_albert_classifier",
    ],
)
def test_every_layer_is_hugging_faces(name):
    folder = ALBERT if name == ALBERT.name else GOLDEN / name
    if not folder.is_dir():
        pytest.skip("the reference models (../shared/golden/models) are not here")
    expected = np.load(folder / "expected.npz")
    mask = expected["attention_mask"]
    inputs = {
        "token_ids": expected["input_ids"],
        "segment_ids": expected["token_type_ids"],
        "padding_mask": mask,
    }
    outputs = load_encoder(str(folder))(inputs)
    states = [expected[f"hidden_{i}"] for i in range(5) if f"hidden_{i}" in expected]
    for layer, (ours, theirs) in enumerate(zip(outputs["hidden_states"], states, strict=True)):
        difference = np.abs(np.asarray(ours) - theirs)[mask == 1].max()
        assert difference < 1e-5, f"hidden state {layer} is {difference:.1e} away"
    if "pooled" in expected:
        np.testing.assert_allclose(outputs["pooled_output"], expected["pooled"], rtol=0, atol=1e-5)
    if "logits" in expected:
        logits = load_classifier(str(folder), 3)(inputs)
        np.testing.assert_allclose(logits, expected["logits"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("architecture", ENCODERS)
def test_learns(architecture):
    classifier, inputs = make_classifier(architecture), make_inputs()
    labels = np.array([0, 2, 1])
    classifier.compile(
        keras.optimizers.SGD(0.05), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    for _ in range(40):
        classifier.train_on_batch(inputs, labels)
    logits = classifier.predict_on_batch(inputs)
    assert logits.shape == (3, 3)
    assert metrics.evaluation_metrics(labels, logits)["accuracy"] == 1.0


@pytest.mark.parametrize("architecture", ENCODERS)
def test_logits_are_float32_under_a_mixed_policy(architecture):
    exact = make_classifier(architecture)
    mixed = make_classifier(architecture, dtype="mixed_bfloat16")
    mixed.set_weights(exact.get_weights())
    logits = mixed(make_inputs())
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    np.testing.assert_allclose(logits, exact(make_inputs()), rtol=0, atol=0.3)


@pytest.mark.parametrize("architecture", ENCODERS)
def test_files_of_both_formats_give_the_same_numbers(tmp_path, architecture):
    classifier = make_classifier(architecture)
    expected = np.asarray(classifier(make_inputs()))
    vocab_file = tmp_path / "vocab.txt"
    vocab_file.write_text("[UNK]\n[CLS]\n[SEP]\n")
    save_hugging_face(
        classifier,
        str(tmp_path / "hugging_face"),
        labels=["a", "b", "c"],
        vocab_file=str(vocab_file),
        lowercase=True,
    )
    classifier.save(tmp_path / "classifier.keras")
    for path in ("hugging_face", "classifier.keras"):
        loaded = load_classifier(str(tmp_path / path), 3)
        np.testing.assert_array_equal(loaded(make_inputs()), expected)
