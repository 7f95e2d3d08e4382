import dataclasses
import json

import keras
import numpy as np
import pytest

from bert_tfx.modeling.encoders.bert import BertEncoder
from bert_tfx.modeling.encoders.classifier import TextClassifier
from bert_tfx.modeling.text import batching
from bert_tfx.modeling.training import fine_tuning, metrics, training_state
from bert_tfx.modeling.training.recipes import METRICS, Recipe
from bert_tfx.schema.errors import InputError

RECIPE = Recipe(max_length=12, batch_size=4, epochs=3, learning_rate=1e-2, seed=3)


def make_model(*, num_layers=1, num_labels=2, dtype=None, seed=3):
    keras.utils.set_random_seed(seed)
    encoder = BertEncoder(
        vocab_size=20,
        hidden_dim=16,
        num_layers=num_layers,
        num_heads=2,
        intermediate_dim=32,
        initializer_range=0.1,
        max_length=12,
        dtype=dtype,
    )
    return TextClassifier(encoder, num_labels=num_labels)


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


def train(recipe, folder, model=None, **options):
    """Returns what happened, and the weights."""
    model = model or make_model(dtype=recipe.precision)
    progress = fine_tuning.fine_tune(model, TRAIN, EVAL, recipe, state_dir=str(folder), **options)
    return progress, weights(model)


def kill_at_save(number, monkeypatch, work):
    """Does some work, saves the state after every step, and stops it after a save."""
    save = training_state.TrainingState.save
    saves = 0

    def save_and_die(self, progress):
        nonlocal saves
        save(self, progress)
        saves += 1
        if saves == number:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(training_state, "_SECONDS_BETWEEN_SAVES", 0.0)
        patch.setattr(training_state, "_SAVE_COST_FACTOR", 0.0)
        patch.setattr(training_state.TrainingState, "save", save_and_die)
        with pytest.raises(Killed):
            work()


@pytest.mark.parametrize(
    "at_save",
    [5, 26, *(pytest.param(number, marks=pytest.mark.slow) for number in (1, 25, 60))],
)
def test_goes_on_as_if_never_stopped(uninterrupted, tmp_path, monkeypatch, at_save):
    kill_at_save(at_save, monkeypatch, lambda: train(RECIPE, tmp_path))
    progress, resumed = train(RECIPE, tmp_path)
    assert_equal(resumed, uninterrupted[1])
    assert progress == uninterrupted[0]


OPTIONS = [
    {"accumulation_steps": 2, "gradient_checkpointing": True},
    {"layer_decay": 0.8, "freeze_embeddings": True, "metric": "loss"},
    {"precision": "mixed_float16", "class_weights": "balanced", "label_smoothing": 0.1},
    {"precision": "mixed_bfloat16", "patience": 1},
]


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS)
def test_goes_on_with_every_option(tmp_path, monkeypatch, options):
    recipe = dataclasses.replace(RECIPE, epochs=2, **options)
    expected, whole = train(recipe, tmp_path / "whole")
    kill_at_save(31, monkeypatch, lambda: train(recipe, tmp_path / "killed"))
    progress, resumed = train(recipe, tmp_path / "killed")
    assert_equal(resumed, whole)
    assert progress == expected
    assert len(progress.step_losses) == 50


@pytest.mark.parametrize("options", [{"max_steps": 5}, {"patience": 1, "epochs": 30}])
def test_a_finished_training_is_not_taken_further(tmp_path, monkeypatch, options):
    """As after a kill between the last epoch and the export."""
    if "patience" in options:
        losses = iter([0.5, 0.6])
        monkeypatch.setattr(
            fine_tuning, "evaluate", lambda *_: {"loss": next(losses), "accuracy": 0.5}
        )
    recipe = dataclasses.replace(RECIPE, **options)
    before, first = train(recipe, tmp_path)
    steps = []
    after, second = train(recipe, tmp_path, on_metrics=lambda step, measured: steps.append(step))
    assert_equal(first, second)
    assert before == after
    assert not steps
    assert len(after.step_losses) == {"max_steps": 5, "patience": 50}[next(iter(options))]


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
    assert len(progress.step_losses) == 30
    assert progress.learning_rates[-1] == pytest.approx(1e-2 / 27)


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


def test_curves_have_a_number_for_each_step(uninterrupted):
    progress, _ = uninterrupted
    assert len(progress.step_losses) == len(progress.learning_rates) == 75
    sizes = np.array(([4] * 25) * 3).reshape(3, 25)
    losses = np.array(progress.step_losses).reshape(3, 25)
    means = (losses * sizes).sum(axis=1) / 100
    assert [epoch["loss"] for epoch in progress.history] == pytest.approx(list(means))
    assert max(progress.learning_rates) == pytest.approx(1e-2)
    # Exact: what TensorFlow computed, and what JSON gives back.
    assert all(np.float32(loss) == loss for loss in progress.step_losses)
    copy = json.loads(json.dumps(dataclasses.asdict(progress)))
    assert training_state.Progress(**copy) == progress


def test_history_holds_all_metrics(uninterrupted):
    names = {f"eval_{name}" for name in METRICS}
    expected = {"loss", "accuracy", "padding", *names}
    assert all(set(epoch) == expected for epoch in uninterrupted[0].history)


def test_reports_the_learning_rate(tmp_path):
    reports = []
    progress, _ = train(
        dataclasses.replace(RECIPE, epochs=1),
        tmp_path,
        on_metrics=lambda step, measured: reports.append(measured),
    )
    assert reports[-1]["learning_rate"] == progress.learning_rates[-1]
    assert "learning_rate" not in progress.history[-1]


@pytest.mark.parametrize(
    ("metric", "best"), [("accuracy", 1), ("loss", 3), ("macro_f1", 2), ("mcc", 3)]
)
def test_the_named_metric_chooses_the_epoch(tmp_path, monkeypatch, metric, best):
    """Equal MCC in epochs 2 and 3: the lower loss of the third decides."""
    evaluations = iter(
        {"loss": loss, "accuracy": accuracy, "macro_f1": f1, "mcc": mcc}
        for loss, accuracy, f1, mcc in [
            (0.9, 0.9, 0.1, 0.1),
            (0.8, 0.8, 0.8, 0.2),
            (0.7, 0, 0, 0.2),
        ]
    )
    monkeypatch.setattr(fine_tuning, "evaluate", lambda *_: next(evaluations))
    recipe = dataclasses.replace(RECIPE, metric=metric, patience=3, max_steps=75)
    monkeypatch.setattr(fine_tuning, "_train_epoch", take_no_steps)
    progress, _ = train(recipe, tmp_path)
    assert progress.best_epoch == best
    assert progress.best_value == progress.history[best - 1][f"eval_{metric}"]


def take_no_steps(take_step, rows, recipe, progress, *_):
    progress.rows = 1
    progress.learning_rates.append(0.1)


def test_an_epoch_without_a_number_is_the_best_only_alone(tmp_path, monkeypatch):
    evaluations = iter([np.nan, 0.5, np.nan])
    monkeypatch.setattr(
        fine_tuning, "evaluate", lambda *_: {"loss": next(evaluations), "accuracy": 0.5}
    )
    monkeypatch.setattr(fine_tuning, "_train_epoch", take_no_steps)
    progress, _ = train(dataclasses.replace(RECIPE, metric="loss"), tmp_path)
    assert progress.best_epoch == 2


@pytest.mark.parametrize("options", [{"freeze_embeddings": True}, {"freeze_layers": 1}])
def test_frozen_weights_stay(tmp_path, options):
    model = make_model(num_layers=2)
    before = {v.path: np.asarray(v) for v in model.trainable_variables}
    recipe = dataclasses.replace(RECIPE, max_steps=3, weight_decay=0.5, **options)
    train(recipe, tmp_path, model)
    stayed = {
        v.path.split("/")[1]
        for v in model.trainable_variables
        if np.array_equal(np.asarray(v), before[v.path])
    }
    embeddings = {"token_embedding", "position_embedding", "segment_embedding", "embeddings_norm"}
    assert stayed == embeddings | ({"block_0"} if "freeze_layers" in options else set())
    # What is saved afterwards can be trained again as a whole.
    assert all(layer.trainable for layer in model.encoder.blocks)
    assert len(model.trainable_variables) == len(before)


def test_label_smoothing_and_weights_leave_the_eval_loss_plain(tmp_path):
    recipe = dataclasses.replace(RECIPE, max_steps=1, label_smoothing=0.5, class_weights="1,9")
    model = make_model()
    progress, _ = train(recipe, tmp_path, model)
    logits = fine_tuning.predict_rows(fine_tuning.predictor(model), EVAL)
    expected = metrics.evaluation_metrics(EVAL.labels, logits)["loss"]
    assert progress.history[0]["eval_loss"] == pytest.approx(expected)


def test_class_weights():
    labels = np.array([0, 0, 0, 1, 2, 2])

    def weights_of(text):
        return fine_tuning.class_weights(Recipe(class_weights=text), labels, 3)

    assert weights_of("") is None
    assert weights_of("balanced").tolist() == pytest.approx([6 / 9, 6 / 3, 6 / 6])
    assert weights_of("1, 2.5,3").tolist() == [1, 2.5, 3]
    with pytest.raises(InputError, match="each of the 3 labels"):
        weights_of("1,2")
    with pytest.raises(InputError, match="none of label number 4"):
        fine_tuning.class_weights(Recipe(class_weights="balanced"), labels, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "f1"}, "two labels, and there are 3"),
        ({"precision": "mixed_bfloat16"}, "dtype policy float32"),
        ({"freeze_layers": 2}, "at most 1"),
        ({"distribution": "mirrored"}, "made for none"),
    ],
)
def test_recipe_and_model_must_fit(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        train(dataclasses.replace(RECIPE, **options), tmp_path, make_model(num_labels=3))


def seeds(recipe, folder, made=None):
    def make(seed):
        if made is not None:
            made.append(seed)
        return make_model(seed=seed)

    return fine_tuning.fine_tune_seeds(make, TRAIN, EVAL, recipe, state_dir=str(folder))


def test_one_seed_is_a_fine_tuning(uninterrupted, tmp_path):
    result = seeds(RECIPE, tmp_path)
    assert result.progress == {3: uninterrupted[0]}
    assert_equal(weights(result.model), uninterrupted[1])
    assert (result.best_seed, result.standard_deviation) == (3, 0.0)
    assert result.mean == uninterrupted[0].best_accuracy


@pytest.mark.slow
def test_several_seeds_go_on_at_the_right_one(tmp_path, monkeypatch):
    recipe = dataclasses.replace(RECIPE, max_steps=6, num_seeds=3, metric="loss")
    expected = seeds(recipe, tmp_path / "whole")
    assert list(expected.progress) == [3, 4, 5]
    values = [progress.best_loss for progress in expected.progress.values()]
    assert expected.mean == pytest.approx(sum(values) / 3)
    assert expected.standard_deviation == pytest.approx(np.std(values) * np.sqrt(3 / 2))
    assert expected.best_seed == 3 + int(np.argmin(values))
    alone = dataclasses.replace(recipe, seed=4, num_seeds=1)
    progress, _ = train(alone, tmp_path / "alone", make_model(seed=4))
    assert progress == expected.progress[4]

    # The second seed's second step.
    kill_at_save(9, monkeypatch, lambda: seeds(recipe, tmp_path / "killed"))
    steps = []
    take = fine_tuning._train_epoch
    monkeypatch.setattr(
        fine_tuning,
        "_train_epoch",
        lambda *a: (steps.append((a[2].seed, a[3].step_in_epoch)), take(*a))[1],
    )
    result = seeds(recipe, tmp_path / "killed")
    assert steps == [(4, 2), (5, 0)]
    assert result.progress == expected.progress
    assert_equal(weights(result.model), weights(expected.model))
