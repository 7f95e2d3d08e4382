import json
from pathlib import Path

import keras
import numpy as np
import pytest

from bert_tfx.modeling.checkpoints.loading import load_classifier
from bert_tfx.modeling.encoders.albert import AlbertEncoder
from bert_tfx.modeling.encoders.bert import BertEncoder
from bert_tfx.modeling.encoders.classifier import TextClassifier
from bert_tfx.modeling.encoders.distil_bert import DistilBertEncoder

GOLDEN = Path(__file__).parents[3] / ".." / "shared" / "golden" / "models"
needs_golden = pytest.mark.skipif(
    not GOLDEN.is_dir(), reason="the reference models (../shared/golden/models) are not here"
)
every_encoder = pytest.mark.parametrize("kind", [BertEncoder, DistilBertEncoder, AlbertEncoder])


def make_classifier(kind, dropout=None, seed=0, **kwargs):
    keras.utils.set_random_seed(seed)
    if kind is AlbertEncoder:
        kwargs = {"embedding_dim": 8, "hidden_dropout": 0.1, **kwargs}
    encoder = kind(
        vocab_size=50,
        hidden_dim=12,
        num_layers=2,
        num_heads=3,
        intermediate_dim=20,
        max_length=16,
        initializer_range=0.3,
        **kwargs,
    )
    return TextClassifier(encoder, num_labels=4, dropout=dropout)


def make_inputs(lengths=(9, 5, 2), width=9, seed=0):
    random = np.random.default_rng(seed)
    mask = np.array([[1] * n + [0] * (width - n) for n in lengths], "int32")
    return {
        "token_ids": random.integers(1, 50, mask.shape).astype("int32") * mask,
        "segment_ids": random.integers(0, 2, mask.shape).astype("int32") * mask,
        "padding_mask": mask,
    }


LABELS = np.array([0, 3, 1], "int32")

# --- published checkpoints ---


def assert_equals_golden(classifier, folder):
    expected = np.load(folder / "expected.npz")
    mask = expected["attention_mask"]
    inputs = {
        "token_ids": expected["input_ids"],
        "segment_ids": expected["token_type_ids"],
        "padding_mask": mask,
    }
    for layer, ours in enumerate(classifier.encoder(inputs)["hidden_states"]):
        difference = np.abs(np.asarray(ours) - expected[f"hidden_{layer}"])[mask == 1].max()
        assert difference < 1e-5, f"hidden state {layer} is {difference:.1e} away"
    np.testing.assert_allclose(classifier(inputs), expected["logits"], rtol=0, atol=1e-5)


@needs_golden
@pytest.mark.parametrize("name", ["hf_bert_classifier", "hf_distilbert_classifier"])
def test_equals_hugging_faces_classifier(name):
    assert_equals_golden(load_classifier(str(GOLDEN / name), 3), GOLDEN / name)


def test_equals_hugging_faces_albert_classifier():
    folder = Path(__file__).parents[2] / "testdata" / "hf_albert_classifier"
    assert_equals_golden(load_classifier(str(folder), 3), folder)


# --- by itself ---


def test_head_follows_from_the_encoder():
    head = "text_classifier"
    bert = [w.path for w in make_classifier(BertEncoder).weights if w.path.startswith(head)]
    distil = [w.path for w in make_classifier(DistilBertEncoder).weights if w.path.startswith(head)]
    assert bert == [f"{head}/logits/kernel", f"{head}/logits/bias"]
    assert distil == [f"{head}/pre_classifier/kernel", f"{head}/pre_classifier/bias", *bert]


@every_encoder
def test_the_encoders_variables_keep_their_names(kind):
    classifier = make_classifier(kind)
    paths = [weight.path for weight in classifier.weights]
    assert [weight.path for weight in classifier.encoder.weights] == [
        path for path in paths if not path.startswith("text_classifier/")
    ]
    assert len(paths) == len(set(paths))
    assert {path.split("/")[0] for path in paths} == {classifier.encoder.name, "text_classifier"}


@every_encoder
def test_dropout_defaults_to_the_encoders_usual_one(kind):
    usual = {BertEncoder: 0.1, DistilBertEncoder: 0.2, AlbertEncoder: 0.1}[kind]
    assert make_classifier(kind).dropout.rate == usual
    assert make_classifier(kind, dropout=0.0).dropout.rate == 0.0


@every_encoder
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_logits_are_finite_float32_under_every_policy(kind, policy):
    classifier = make_classifier(kind, dtype=policy)
    assert classifier.compute_dtype == classifier.encoder.compute_dtype
    logits = classifier(make_inputs())
    assert logits.shape == (3, 4)
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    assert {weight.dtype for weight in classifier.weights} == {"float32"}
    assert np.isfinite(np.asarray(logits)).all()
    exact = make_classifier(kind)
    exact.set_weights(classifier.get_weights())
    np.testing.assert_allclose(logits, exact(make_inputs()), rtol=0, atol=0.2)


@every_encoder
def test_dropout_is_active_only_in_training(kind):
    inputs = make_inputs()
    # Only the head's.
    classifier = make_classifier(kind, dropout=0.5, hidden_dropout=0.0, attention_dropout=0.0)
    quiet = np.asarray(classifier(inputs))
    np.testing.assert_array_equal(quiet, classifier(inputs, training=False))
    assert np.abs(quiet - np.asarray(classifier(inputs, training=True))).max() > 1e-3
    # Only the encoder's.
    classifier = make_classifier(kind, dropout=0.0, hidden_dropout=0.5)
    quiet = np.asarray(classifier(inputs))
    assert np.abs(quiet - np.asarray(classifier(inputs, training=True))).max() > 1e-3
    # None.
    classifier = make_classifier(kind, dropout=0.0, hidden_dropout=0.0, attention_dropout=0.0)
    np.testing.assert_array_equal(classifier(inputs), classifier(inputs, training=True))


@every_encoder
def test_padding_changes_nothing(kind):
    classifier, inputs = make_classifier(kind), make_inputs()
    wider = {name: np.pad(value, ((0, 0), (0, 7))) for name, value in inputs.items()}
    wider["token_ids"] = np.where(wider["padding_mask"] == 1, wider["token_ids"], 49).astype(
        "int32"
    )
    np.testing.assert_allclose(classifier(inputs), classifier(wider), rtol=0, atol=1e-6)


@every_encoder
def test_a_training_step_changes_what_it_should_and_nothing_else(kind):
    classifier, inputs = make_classifier(kind), make_inputs()
    before = {weight.path: np.array(weight) for weight in classifier.weights}
    classifier.compile(
        keras.optimizers.SGD(1.0), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    loss = classifier.train_on_batch(inputs, LABELS)
    assert np.isfinite(loss)
    assert len(classifier.trainable_weights) == len(before)

    moved = {w.path: np.abs(np.asarray(w) - before[w.path]) for w in classifier.trainable_weights}
    for path, distance in moved.items():
        if path.endswith("attention/key/bias"):
            # It adds the same to all scores of a query, and softmax takes it out again.
            assert distance.max() < 1e-5, path
        else:
            assert distance.max() > 1e-5, path

    encoder = classifier.encoder.name
    seen = np.isin(np.arange(50), inputs["token_ids"][inputs["padding_mask"] == 1])
    assert ((moved[f"{encoder}/token_embedding/embeddings"].max(-1) > 1e-7) == seen).all()
    assert (moved[f"{encoder}/position_embedding/embeddings"][9:] == 0.0).all()


@every_encoder
def test_learns(kind):
    classifier, inputs = make_classifier(kind, dropout=0.0), make_inputs()
    classifier.compile(
        keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    for _ in range(40):
        classifier.train_on_batch(inputs, LABELS)
    np.testing.assert_array_equal(np.asarray(classifier(inputs)).argmax(-1), LABELS)


@every_encoder
def test_config_round_trip(kind):
    classifier = make_classifier(kind, dropout=0.3, activation="gelu_tanh", dtype="mixed_bfloat16")
    config = classifier.get_config()
    again = TextClassifier.from_config(config)
    assert again.get_config() == config
    assert type(again.encoder) is kind
    assert (again.num_labels, again.dropout.rate) == (4, 0.3)
    assert again.encoder.get_config() == classifier.encoder.get_config()
    # It is JSON: it travels in `.keras` files.
    assert json.loads(json.dumps(config)) == config


@every_encoder
def test_saved_file_gives_the_same_numbers(kind, tmp_path):
    classifier, inputs = make_classifier(kind), make_inputs()
    classifier.save(tmp_path / "classifier.keras")
    again = keras.saving.load_model(tmp_path / "classifier.keras")
    assert type(again) is TextClassifier
    np.testing.assert_array_equal(again(inputs), classifier(inputs))
    assert [w.path for w in again.weights] == [w.path for w in classifier.weights]


def test_saved_file_keeps_the_optimizer(tmp_path):
    classifier, inputs = make_classifier(BertEncoder), make_inputs()
    classifier.compile(
        keras.optimizers.SGD(0.1, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    classifier.train_on_batch(inputs, LABELS)
    classifier.save(tmp_path / "classifier.keras")
    again = keras.saving.load_model(tmp_path / "classifier.keras")
    np.testing.assert_array_equal(again(inputs), classifier(inputs))
    assert int(again.optimizer.iterations) == 1
    for ours, theirs in zip(again.optimizer.variables, classifier.optimizer.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)
