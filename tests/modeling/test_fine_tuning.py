import dataclasses

import keras
import numpy as np
import pytest

from bert_tfx.modeling import batching, fine_tuning
from bert_tfx.modeling.bert import BertEncoder
from bert_tfx.modeling.classifier import TextClassifier
from bert_tfx.modeling.recipes import Recipe

RECIPE = Recipe(max_length=12, batch_size=4, epochs=3, learning_rate=1e-2, seed=3)


def make_model():
    keras.utils.set_random_seed(3)
    encoder = BertEncoder(
        vocab_size=20,
        hidden_dim=16,
        num_layers=1,
        num_heads=2,
        intermediate_dim=32,
        initializer_range=0.1,
        max_length=12,
    )
    return TextClassifier(encoder, num_labels=2)


def make_rows(count, seed):
    """Rows whose label says whether token 7 is among them."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 12, count)
    tokens = rng.integers(8, 20, lengths.sum()).astype(np.int32)
    starts = np.cumsum(lengths) - lengths
    labels = rng.integers(0, 2, count).astype(np.int32)
    tokens[starts] = 2
    tokens[starts[labels == 1] + 1] = 7
    return batching.Rows(tokens, None, lengths, labels)


TRAIN, EVAL = make_rows(100, 0), make_rows(50, 1)


def weights(model):
    return [np.asarray(variable) for variable in model.trainable_variables]


def assert_equal(first, second):
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


class Killed(BaseException):
    """Stands for a kill: nothing may catch it."""


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    model = make_model()
    folder = str(tmp_path_factory.mktemp("state"))
    return fine_tuning.fine_tune(model, TRAIN, EVAL, RECIPE, state_dir=folder), weights(model)


def test_learns(uninterrupted):
    progress, _ = uninterrupted
    assert progress.best_accuracy > 0.9
    assert progress.history[-1]["loss"] < progress.history[0]["loss"]
    assert len(progress.history) == progress.epoch == 3


def test_same_seed_same_weights(uninterrupted, tmp_path):
    model = make_model()
    progress = fine_tuning.fine_tune(model, TRAIN, EVAL, RECIPE, state_dir=str(tmp_path))
    assert progress.history == uninterrupted[0].history
    assert_equal(weights(model), uninterrupted[1])


@pytest.mark.parametrize("kill_at_save", [1, 5, 25, 26, 60])
def test_goes_on_as_if_never_stopped(uninterrupted, tmp_path, monkeypatch, kill_at_save):
    monkeypatch.setattr(fine_tuning, "_SECONDS_BETWEEN_SAVES", 0.0)
    monkeypatch.setattr(fine_tuning, "_SAVE_COST_FACTOR", 0.0)
    save = fine_tuning._State.save
    saves = 0

    def save_and_die(self, progress):
        nonlocal saves
        save(self, progress)
        saves += 1
        if saves == kill_at_save:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(fine_tuning._State, "save", save_and_die)
        with pytest.raises(Killed):
            fine_tuning.fine_tune(make_model(), TRAIN, EVAL, RECIPE, state_dir=str(tmp_path))

    model = make_model()
    progress = fine_tuning.fine_tune(model, TRAIN, EVAL, RECIPE, state_dir=str(tmp_path))
    assert_equal(weights(model), uninterrupted[1])
    assert progress.best_epoch == uninterrupted[0].best_epoch
    assert progress.history == uninterrupted[0].history


def test_a_half_written_state_is_not_taken(uninterrupted, tmp_path):
    (tmp_path / ".state.npz").write_bytes(b"half")
    model = make_model()
    fine_tuning.fine_tune(model, TRAIN, EVAL, RECIPE, state_dir=str(tmp_path))
    assert_equal(weights(model), uninterrupted[1])


def test_stops_early_and_keeps_the_best_epoch(tmp_path, monkeypatch):
    accuracies = iter([0.6, 0.8, 0.7, 0.8, 0.9])
    kept = []

    def evaluate(predict, rows):
        kept.append(weights(model))
        return {"loss": 1.0, "accuracy": next(accuracies)}

    monkeypatch.setattr(fine_tuning, "evaluate", evaluate)
    recipe = dataclasses.replace(RECIPE, epochs=5, patience=2)
    model = make_model()
    progress = fine_tuning.fine_tune(model, TRAIN, EVAL, recipe, state_dir=str(tmp_path))
    assert (progress.epoch, progress.best_epoch, progress.best_accuracy) == (4, 2, 0.8)
    assert_equal(weights(model), kept[1])


def test_max_steps_ends_the_schedule_and_the_training(tmp_path):
    steps = []
    recipe = dataclasses.replace(RECIPE, max_steps=30)
    model = make_model()
    progress = fine_tuning.fine_tune(
        model,
        TRAIN,
        EVAL,
        recipe,
        state_dir=str(tmp_path),
        on_metrics=lambda step, metrics: steps.append(step),
    )
    assert progress.epoch == 2
    assert steps[-1] == 30


def test_evaluate_counts_every_row_once():
    model = make_model()
    predict = fine_tuning.predictor(model)
    logits = predict(EVAL.batch(np.arange(len(EVAL))))
    expected = (logits.argmax(axis=1) == EVAL.labels).mean()
    loss = keras.ops.mean(
        keras.losses.sparse_categorical_crossentropy(EVAL.labels, logits, from_logits=True)
    )
    result = fine_tuning.evaluate(predict, EVAL)
    assert result["accuracy"] == pytest.approx(expected)
    assert result["loss"] == pytest.approx(float(loss), rel=1e-5)
