import dataclasses
import json
import math
import os
import pathlib
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.util import event_pb2

from bert_tfx.modeling import training_run
from bert_tfx.modeling.checkpoints.loading import save_hugging_face
from bert_tfx.modeling.distillation.settings import Distillation
from bert_tfx.modeling.encoders.albert import AlbertEncoder
from bert_tfx.modeling.encoders.bert import BertEncoder
from bert_tfx.modeling.encoders.distil_bert import DistilBertEncoder
from bert_tfx.modeling.export import saved_model
from bert_tfx.modeling.export.trained_model import load_trained_model
from bert_tfx.modeling.text.batching import Rows
from bert_tfx.modeling.training import training_state
from bert_tfx.modeling.training.recipes import Recipe
from bert_tfx.modeling.training_run import TrainingRun
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.tasks import TASKS

SIZE = {"num_layers": 2, "hidden_dim": 16, "num_heads": 2, "intermediate_dim": 32}
SIZES = {
    "bert": {"toy": SIZE},
    "distilbert": {"toy": SIZE},
    "albert": {"toy": {**SIZE, "embedding_dim": 8}},
}
RECIPE = Recipe(max_length=8, batch_size=8, epochs=2, learning_rate=1e-3, seed=3, patience=9)


@pytest.fixture(autouse=True)
def toy_sizes(monkeypatch):
    monkeypatch.setattr(training_run, "SIZES", SIZES)


def make_rows(seed, count=20):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 9, count)
    tokens = rng.integers(5, 14, lengths.sum()).astype(np.int32)
    labels = rng.integers(0, 2, count).astype(np.int32)
    return Rows(tokens, None, lengths, labels)


TRAIN, EVAL = make_rows(0), make_rows(1)


@pytest.fixture
def make_run(vocab_file):
    def make_run(model="bert", *, pretrained=None, base_model=None, **recipe):
        return TrainingRun(
            task=TASKS["sst2"],
            recipe=dataclasses.replace(RECIPE, **recipe),
            model=model,
            size="toy",
            pretrained=None if pretrained is None else str(pretrained),
            vocab_file=vocab_file,
            lowercase=True,
            eval_fraction=0.1,
            base_model=None if base_model is None else str(base_model),
        )

    return make_run


def train(run, folder):
    return run.train(
        TRAIN,
        EVAL,
        model_dir=str(folder / "model"),
        log_dir=str(folder / "logs"),
        state_dir=str(folder / "state"),
    )


def logits(model):
    return np.asarray(model.classifier(EVAL.batch(np.arange(len(EVAL))), training=False))


def history(folder):
    return json.loads((folder / "model" / "history.json").read_text(encoding="utf-8"))


def scalars(folder):
    """Returns what TensorBoard shows of a folder: for each name the values by step."""
    found = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for record in tf.data.TFRecordDataset(str(path)):
            event = event_pb2.Event.FromString(record.numpy())
            for value in event.summary.value:
                number = float(tf.make_ndarray(value.tensor))
                found.setdefault(value.tag, {})[event.step] = number
    return found


@pytest.fixture(scope="module")
def first(tmp_path_factory, vocab_file):
    """A trained model to start from, and the same in Hugging Face's format."""
    folder = tmp_path_factory.mktemp("first")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_run, "SIZES", SIZES)
        run = TrainingRun(TASKS["sst2"], RECIPE, "bert", "toy", None, vocab_file, True, 0.1)
        trained = train(run, folder)
    save_hugging_face(
        trained.classifier,
        str(folder / "hf"),
        vocab_file=vocab_file,
        lowercase=True,
        labels=["0", "1"],
    )
    return folder, trained


@pytest.mark.parametrize(
    ("model", "kind"),
    [("bert", BertEncoder), ("distilbert", DistilBertEncoder), ("albert", AlbertEncoder)],
)
def test_new_weights(make_run, tmp_path, model, kind):
    trained = train(make_run(model), tmp_path)
    encoder = trained.classifier.encoder
    assert type(encoder) is kind
    assert (encoder.config.vocab_size, encoder.config.max_length) == (15, 8)
    assert (trained.training["model"], trained.training["size"]) == (model, "toy")
    assert trained.training["pretrained"] is None
    assert trained.training["recipe"] == dataclasses.asdict(make_run(model).recipe)

    loaded = load_trained_model(str(tmp_path / "model"))
    np.testing.assert_array_equal(logits(loaded), logits(trained))
    assert loaded.training == json.loads(json.dumps(trained.training))
    assert (loaded.task, loaded.lowercase, loaded.max_length) == (TASKS["sst2"], True, 8)
    correct = (logits(trained).argmax(axis=1) == EVAL.labels).mean()
    assert trained.training["eval"]["eval_accuracy"] == pytest.approx(correct)


def test_history_has_every_step_and_epoch(first):
    folder, trained = first
    told = history(folder)
    assert (told["metric"], told["best_seed"], [*told["seeds"]]) == ("accuracy", 3, ["3"])
    one = told["seeds"]["3"]
    # 3 batches in each of 2 epochs.
    assert len(one["step_losses"]) == len(one["learning_rates"]) == 6
    assert all(0 < loss < 10 for loss in one["step_losses"])
    assert max(one["learning_rates"]) <= 1e-3 * (1 + 1e-6)
    assert one["learning_rates"][-1] < one["learning_rates"][0]
    assert len(one["history"]) == one["epoch"] == 2
    assert {"loss", "accuracy", "eval_loss", "eval_accuracy", "eval_mcc"} <= {*one["history"][0]}
    assert one["history"][one["best_epoch"] - 1] == trained.training["eval"]
    assert told["mean"] == one["best_value"]
    assert told["standard_deviation"] == 0


def test_tensorboard_reads_the_logs(first):
    folder, _ = first
    shown = scalars(folder / "logs")
    (one,) = history(folder)["seeds"].values()
    for name in ("loss", "accuracy", "eval_loss", "eval_accuracy"):
        expected = [epoch[name] for epoch in one["history"]]
        assert [*shown[name]] == [3, 6]
        assert [*shown[name].values()] == pytest.approx(expected, rel=1e-6)
    rates = [one["learning_rates"][2], one["learning_rates"][5]]
    assert [*shown["learning_rate"].values()] == pytest.approx(rates, rel=1e-6)


@pytest.mark.slow
def test_seeds_are_compared_and_the_best_is_kept(make_run, tmp_path):
    both = train(make_run(num_seeds=2, learning_rate=1e-2), tmp_path / "both")
    told = history(tmp_path / "both")
    assert [*told["seeds"]] == ["3", "4"]
    values = [told["seeds"][seed]["best_value"] for seed in ("3", "4")]
    assert told["mean"] == pytest.approx(sum(values) / 2)
    assert told["standard_deviation"] == pytest.approx(abs(values[0] - values[1]) / math.sqrt(2))
    assert told["seeds"]["3"]["step_losses"] != told["seeds"]["4"]["step_losses"]
    best = both.training["seed"]
    assert told["best_seed"] == best
    assert told["seeds"][str(best)]["best_value"] == max(values)
    for seed in ("3", "4"):
        assert [*scalars(tmp_path / "both" / "logs" / f"seed-{seed}")["eval_loss"]] == [3, 6]

    alone = train(make_run(seed=best, learning_rate=1e-2), tmp_path / "alone")
    np.testing.assert_array_equal(logits(alone), logits(both))


@pytest.mark.parametrize("model", ["bert", "distilbert", "albert"])
def test_dropout_reaches_all_rates(make_run, model):
    def rates(classifier):
        layers = classifier._flatten_layers()
        return [layer.rate for layer in layers if isinstance(layer, keras.layers.Dropout)]

    usual = rates(make_run(model).make_classifier())
    assert len(usual) >= 4
    classifier = make_run(model, dropout=0.37).make_classifier()
    assert rates(classifier) == [0.37] * len(usual)
    assert classifier.dropout_rate == 0.37


@pytest.mark.parametrize("name", ["model", "model/classifier.keras", "hf"])
def test_checkpoint_is_where_training_starts(make_run, tmp_path, first, name):
    folder, source = first
    run = make_run(pretrained=folder / name)
    start = run.make_classifier()
    batch = EVAL.batch(np.arange(len(EVAL)))
    np.testing.assert_allclose(
        np.asarray(start(batch, training=False)), logits(source), rtol=0, atol=1e-6
    )
    trained = train(run, tmp_path)
    assert trained.training["pretrained"] == str(folder / name)
    assert trained.training["size"] is None
    assert not np.array_equal(logits(trained), logits(source))
    assert history(tmp_path)["seeds"]["3"]["epoch"] == 2


def test_architecture_is_the_checkpoints(make_run, tmp_path):
    """A Keras file says it no sooner than it is loaded."""
    train(make_run("distilbert"), tmp_path / "first")
    run = make_run("bert", pretrained=tmp_path / "first" / "model" / "classifier.keras")
    trained = train(run, tmp_path / "second")
    assert type(trained.classifier.encoder) is DistilBertEncoder
    assert trained.training["model"] == "distilbert"


@pytest.mark.parametrize("name", ["model", "hf"])
def test_dropout_and_precision_reach_a_checkpoint(make_run, first, name):
    folder, _ = first
    run = make_run(pretrained=folder / name, dropout=0.37, precision="mixed_bfloat16")
    classifier = run.make_classifier()
    layers = [x for x in classifier._flatten_layers() if isinstance(x, keras.layers.Dropout)]
    assert {layer.rate for layer in layers} == {0.37}
    assert classifier.dtype_policy.name == "mixed_bfloat16"
    assert classifier.encoder.dtype_policy.name == "mixed_bfloat16"


def test_checkpoint_that_does_not_fit_is_told(make_run, first, tmp_path, vocab_file):
    folder, _ = first
    with pytest.raises(InputError, match=r"15 tokens and 8 positions; .* rows of up to 9 tokens"):
        make_run(pretrained=folder / "model", max_length=9).make_classifier()
    vocabulary = tmp_path / "vocab.txt"
    shutil.copyfile(vocab_file, vocabulary)
    with vocabulary.open("a", encoding="utf-8") as file:
        file.write("more\nmost\n")
    run = dataclasses.replace(make_run(pretrained=folder / "hf"), vocab_file=str(vocabulary))
    with pytest.raises(InputError, match=r"this run has 17 tokens in its vocabulary"):
        run.make_classifier()


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_gives_a_float32_model(make_run, tmp_path, precision):
    trained = train(make_run(precision=precision), tmp_path)
    for model in (trained, load_trained_model(str(tmp_path / "model"))):
        assert model.classifier.dtype_policy.name == "float32"
        policies = {layer.dtype_policy.name for layer in model.classifier._flatten_layers()}
        assert policies == {"float32"}
        assert {v.dtype for v in model.classifier.trainable_variables} == {"float32"}
    assert trained.training["recipe"]["precision"] == precision
    # What was evaluated was computed in 16 bits.
    truth, answers = EVAL.labels, logits(trained)
    losses = np.log(np.exp(answers).sum(axis=1)) - answers[np.arange(len(truth)), truth]
    assert losses.mean() == pytest.approx(trained.training["eval"]["eval_loss"], abs=0.02)


class Killed(BaseException):
    """Stands for a kill: nothing may catch it."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory, vocab_file, first):
    """Trainings that nothing stopped, by their number of seeds."""
    folder, trained = first
    two = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_run, "SIZES", SIZES)
        recipe = dataclasses.replace(RECIPE, num_seeds=2)
        run = TrainingRun(TASKS["sst2"], recipe, "bert", "toy", None, vocab_file, True, 0.1)
        both = train(run, two)
    return {1: (logits(trained), history(folder)), 2: (logits(both), history(two))}


# A seed takes 6 steps and 2 epochs: 8 saves.
@pytest.mark.slow
@pytest.mark.parametrize(("num_seeds", "kill_at_save"), [(1, 2), (1, 8), (2, 4), (2, 11)])
def test_killed_training_goes_on(make_run, tmp_path, monkeypatch, whole, num_seeds, kill_at_save):
    monkeypatch.setattr(training_state, "_SECONDS_BETWEEN_SAVES", 0.0)
    monkeypatch.setattr(training_state, "_SAVE_COST_FACTOR", 0.0)
    run = make_run(num_seeds=num_seeds)
    saved = []
    save = training_state.TrainingState.save

    def save_and_die(self, progress):
        save(self, progress)
        saved.append(progress)
        if len(saved) == kill_at_save:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(training_state.TrainingState, "save", save_and_die)
        with pytest.raises(Killed):
            train(run, tmp_path)
    assert not os.path.exists(tmp_path / "model" / "model.json")

    after = train(run, tmp_path)
    expected, told = whole[num_seeds]
    np.testing.assert_array_equal(logits(after), expected)
    assert history(tmp_path) == told


def test_crash_while_the_model_is_written_costs_no_training(make_run, tmp_path, monkeypatch):
    def crash(*_, **__):
        raise OSError(28, "No space left on device")

    run = make_run()
    with monkeypatch.context() as patch:
        patch.setattr(training_run.TrainedModel, "save", crash)
        with pytest.raises(OSError, match="No space"):
            train(run, tmp_path)
    state = tmp_path / "state" / "seed-3" / "state.npz"
    before = state.stat().st_mtime_ns
    train(run, tmp_path)
    assert state.stat().st_mtime_ns == before
    assert load_trained_model(str(tmp_path / "model")).training["epoch"] in (1, 2)


# A warm start.


@pytest.fixture(scope="module")
def base(first, tmp_path_factory):
    """An exported model to go on from."""
    folder = tmp_path_factory.mktemp("base") / "model"
    saved_model.save_for_serving(first[1], str(folder))
    return folder


def test_a_warm_start_has_the_base_models_weights(make_run, first, base):
    run = make_run(base_model=base, dropout=0.3, seed=9)
    classifier = run.make_classifier()
    assert run.why_cold(classifier) is None
    assert classifier.encoder.config.hidden_dropout == classifier.dropout_rate == 0.3
    for ours, theirs in zip(classifier.weights, first[1].classifier.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_warm_start_is_noted(make_run, base, tmp_path):
    trained = train(make_run(base_model=base), tmp_path)
    assert trained.training["warm_start"] == {"model": str(base), "why_not": None}
    assert train(make_run(), tmp_path / "cold").training["warm_start"] is None


@pytest.mark.parametrize(
    "shape", [("distilbert", 8), pytest.param(("bert", 12), marks=pytest.mark.slow)]
)
def test_a_model_of_another_shape_is_not_gone_on_from(make_run, base, caplog, tmp_path, shape):
    model, max_length = shape
    run = make_run(model, base_model=base, max_length=max_length, epochs=1)
    with caplog.at_level("WARNING"):
        trained = train(run, tmp_path)
    why = "it is of another shape"
    assert trained.training["warm_start"] == {"model": str(base), "why_not": why}
    assert f"does not go on from the last good model: {why}" in caplog.text


def test_a_model_of_another_vocabulary_is_not_gone_on_from(make_run, base, tmp_path):
    run = make_run(base_model=base)
    other = tmp_path / "vocab.txt"
    lines = pathlib.Path(run.vocab_file).read_text().splitlines()
    other.write_text("\n".join([*lines[:-2], lines[-1], lines[-2]]) + "\n")
    run = dataclasses.replace(run, vocab_file=str(other))
    assert run.why_cold(run.make_classifier()) == "it has another vocabulary"
    cased = dataclasses.replace(make_run(base_model=base), lowercase=False)
    assert cased.why_cold(cased.make_classifier()) == "it is uncased"


# Teachers.


@pytest.fixture
def taught(make_run, first):
    """Makes a run that learns from the trained model, in the way of one of two layers."""

    def taught(model=None, *, teachers=("model",), settings=None, **recipe):
        return dataclasses.replace(
            make_run(model, **recipe),
            teachers=tuple(str(first[0] / name) for name in teachers),
            distillation=Distillation(**{"student_layers": 1, **(settings or {})}),
        )

    return taught


def test_a_student_starts_from_its_teachers_layers(taught, first, caplog):
    classifier = taught(dropout=0.3, settings={"layer_map": "1"}).make_classifier()
    teacher = first[1].classifier
    assert classifier.encoder.config.num_layers == 1
    assert classifier.encoder.config.hidden_dropout == classifier.dropout_rate == 0.3
    ours, theirs = (model.encoder.blocks[0].get_weights() for model in (classifier, teacher))
    assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_student_without_a_teacher_starts_from_layers_of_the_checkpoint(make_run, first, tmp_path):
    run = make_run(pretrained=first[0] / "model")
    whole = run.make_classifier()
    number = whole.encoder.config.num_layers
    alone = dataclasses.replace(run, distillation=Distillation(student_layers=1))
    classifier = alone.make_classifier()
    assert alone.teaching is None
    assert classifier.encoder.config.num_layers == 1 < number
    ours = classifier.encoder.blocks[0].get_weights()
    theirs = whole.encoder.blocks[-1].get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
    about = train(alone, tmp_path).training
    assert about["distillation"] is None
    assert about["pretrained"] == str(first[0] / "model")


def test_a_student_is_trained_and_described(taught, first, tmp_path, caplog):
    with caplog.at_level("INFO"):
        trained = train(taught(), tmp_path)
    folder = first[0] / "model"
    assert f"bert from layers 2 of {folder} with " in caplog.text
    about = load_trained_model(str(tmp_path / "model")).training
    assert about["distillation"] == {
        "teachers": [str(folder)],
        **dataclasses.asdict(Distillation(student_layers=1)),
    }
    assert (about["model"], about["size"], about["pretrained"]) == ("bert", None, None)
    np.testing.assert_array_equal(
        logits(load_trained_model(str(tmp_path / "model"))), logits(trained)
    )
    assert first[1].training["distillation"] is None


@pytest.mark.parametrize("model", ["bert", pytest.param("distilbert", marks=pytest.mark.slow)])
def test_a_student_of_new_weights_learns_from_several(taught, base, model, tmp_path):
    run = taught(model, settings={"student_layers": None}, epochs=1)
    run = dataclasses.replace(run, teachers=(*run.teachers, str(base)))
    trained = train(run, tmp_path)
    assert trained.training["size"] == "toy"
    assert [teacher.num_labels for teacher in run.teaching.teachers] == [2, 2]
    for ours, theirs in zip(*(t.get_weights() for t in run.teaching.teachers), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_student_out_of_another_architecture(taught, caplog):
    with caplog.at_level("INFO"):
        classifier = taught("distilbert").make_classifier()
    assert type(classifier.encoder) is DistilBertEncoder
    assert "the head is new: a DistilBERT's reads something else than a BERT's" in caplog.text
    with pytest.raises(InputError, match="cannot be copied into albert"):
        taught("albert").make_classifier()


def test_a_student_larger_than_its_teacher_is_warned_of(taught, tmp_path, caplog, monkeypatch):
    wide = {"bert": {"toy": {**SIZE, "hidden_dim": 32}}}
    monkeypatch.setattr(training_run, "SIZES", wide)
    run = taught("bert", settings={"student_layers": None}, epochs=1)
    with caplog.at_level("WARNING"):
        train(run, tmp_path)
    assert "more than its teacher" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lowercase": False}, "is uncased and the student cased"),
        ({"task": TASKS["lcqmc"]}, "reads single texts, and lcqmc has pairs"),
        ({"recipe": dataclasses.replace(RECIPE, max_length=9)}, "positions for 8 tokens"),
        ({"distillation": Distillation(student_layers=3, layer_map="last")}, "layer_map=last"),
        ({"teachers": ("nowhere",)}, "nowhere: no such folder"),
    ],
)
def test_a_teacher_that_does_not_fit_is_told_before(taught, tmp_path, change, message):
    run = dataclasses.replace(taught(), **change)
    with pytest.raises(InputError, match=message):
        train(run, tmp_path)
    assert not (tmp_path / "model").exists()
    assert not [*tmp_path.rglob("*.npz")]
