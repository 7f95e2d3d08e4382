import dataclasses

import keras
import numpy as np
import pytest

from bert_tfx.modeling.distillation import distil, learner, losses
from bert_tfx.modeling.distillation.distil import distilling
from bert_tfx.modeling.distillation.learner import (
    DistillationLoss,
    Distilled,
    TaughtRows,
    Teaching,
)
from bert_tfx.modeling.distillation.settings import Distillation
from bert_tfx.modeling.distillation.students import student_from_teacher
from bert_tfx.modeling.encoders.albert import AlbertEncoder
from bert_tfx.modeling.encoders.bert import BertEncoder
from bert_tfx.modeling.encoders.classifier import TextClassifier
from bert_tfx.modeling.encoders.distil_bert import DistilBertEncoder
from bert_tfx.modeling.encoders.transformer import padding_scores
from bert_tfx.modeling.text import batching
from bert_tfx.modeling.training import fine_tuning, optimization, train_step, training_state
from bert_tfx.modeling.training.cross_entropy import CrossEntropy
from bert_tfx.modeling.training.recipes import Recipe
from bert_tfx.schema.errors import InputError

ENCODERS = [BertEncoder, DistilBertEncoder, AlbertEncoder]


def make_model(kind=BertEncoder, *, seed=3, num_layers=2, width=16, dropout=0.0, **options):
    keras.utils.set_random_seed(seed)
    if kind is AlbertEncoder:
        options["embedding_dim"] = 8
    encoder = kind(
        **{
            "vocab_size": 20,
            "hidden_dim": width,
            "num_layers": num_layers,
            "num_heads": 2,
            "intermediate_dim": 32,
            "initializer_range": 0.3,
            "max_length": 12,
            "hidden_dropout": dropout,
            "attention_dropout": dropout,
            **options,
        }
    )
    return TextClassifier(encoder, num_labels=2, dropout=dropout)


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


TRAIN, EVAL = make_rows(64, 0), make_rows(40, 1)
BATCH = TRAIN.batch(np.arange(7))
LABELS = TRAIN.labels[:7]
RECIPE = Recipe(max_length=12, batch_size=8, epochs=2, learning_rate=3e-3, seed=3)
ALL = {"cosine_weight": 1.0, "embedding_weight": 0.5, "hidden_weight": 2.0, "attention_weight": 0.1}


def weights(model):
    return [np.array(variable) for variable in model.variables]


def assert_equal(first, second):
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def teaching(*teachers, **settings):
    return Teaching(Distillation(**settings), teachers)


def distilled(student, what, *, layers=True, answers=True):
    keras.utils.set_random_seed(9)
    return Distilled(student, what, layers=layers, answers=answers)


# What is computed.


def test_distance_is_the_weighted_sum_of_the_losses():
    student, teacher = make_model(num_layers=2), make_model(num_layers=4, seed=8)
    what = teaching(teacher, temperature=3.0, alpha=0.7, **ALL)
    done = distilled(student, what)(BATCH)
    ours, theirs = student.encoder(BATCH), teacher.encoder(BATCH)
    np.testing.assert_array_equal(done["logits"], student(BATCH))

    mask = BATCH["padding_mask"]
    a, b = ours["hidden_states"], theirs["hidden_states"]
    targets = losses.soft_targets([teacher(BATCH)], 3.0)
    expected = 0.7 * losses.soft_target_loss(targets, student(BATCH), 3.0)
    expected += 1.0 * losses.cosine_loss(ours["sequence_output"], theirs["sequence_output"], mask)
    expected += 0.5 * losses.hidden_loss(a[0], b[0], mask)
    for layer, above in ((1, 2), (2, 4)):
        expected += 2.0 * losses.hidden_loss(a[layer], b[above], mask)
        scores = [
            learner.attention_scores(model.encoder.layer(number).attention, states[number - 1])
            for model, states, number in ((student, a, layer), (teacher, b, above))
        ]
        expected += 0.1 * losses.attention_loss(*scores, mask)
    np.testing.assert_allclose(done["distance"], expected, rtol=1e-5)


def test_scores_are_what_attention_takes_the_softmax_of():
    encoder = make_model().encoder
    states = encoder(BATCH)["hidden_states"]
    rows = keras.ops.reshape(states[0], (-1, 16))
    attention = encoder.layer(1).attention
    padding = padding_scores(BATCH["padding_mask"])
    probabilities = keras.ops.softmax(learner.attention_scores(attention, states[0]) + padding)
    value = keras.ops.reshape(attention.value_dense(rows), (*BATCH["token_ids"].shape, 2, 8))
    context = keras.ops.einsum("bhts,bshd->bthd", probabilities, value)
    expected = attention.output_dense(keras.ops.reshape(context, (-1, 16)))
    np.testing.assert_allclose(attention(rows, padding), expected, atol=1e-6)


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("of", ENCODERS)
def test_more_padding_changes_no_distance(kind, of):
    """Every architecture learns from every other one, of another width and depth."""
    student, teacher = make_model(kind, width=8), make_model(of, num_layers=3, seed=8)
    what = teaching(teacher, alpha=0.5, **{**ALL, "cosine_weight": 0.0})
    model = distilled(student, what)
    wider = {name: np.pad(array, ((0, 0), (0, 1))) for name, array in BATCH.items()}
    wider["token_ids"][:, -1] = 5
    np.testing.assert_allclose(
        model(wider)["distance"], model(BATCH)["distance"], rtol=1e-4, atol=1e-5
    )


def test_a_student_that_is_its_teacher_is_no_distance_away():
    model = make_model()
    np.testing.assert_allclose(
        distilled(model, teaching(model, **ALL))(BATCH)["distance"], 0, atol=1e-5
    )


def test_several_teachers_answer_together_and_the_first_shows_its_layers():
    student, first, second = make_model(), make_model(seed=4), make_model(seed=5, num_layers=1)
    targets = losses.soft_targets([first(BATCH), second(BATCH)], 2.0)
    expected = 0.5 * losses.soft_target_loss(targets, student(BATCH), 2.0)
    done = distilled(student, teaching(first, second), layers=False)(BATCH)
    np.testing.assert_allclose(done["distance"], expected, rtol=1e-5)
    layers = [
        distilled(student, teaching(*teachers, hidden_weight=1.0), answers=False)(BATCH)
        for teachers in ((first, second), (first,))
    ]
    np.testing.assert_array_equal(layers[0]["distance"], layers[1]["distance"])


def test_targets_that_are_known_stand_for_the_teacher():
    student, teacher = make_model(), make_model(seed=4)
    targets = np.asarray(losses.soft_targets([teacher(BATCH)], 2.0))
    model = distilled(student, teaching(teacher), layers=False)
    asked = model(BATCH)["distance"]
    np.testing.assert_allclose(model({**BATCH, "soft_targets": targets})["distance"], asked)
    other = np.full_like(targets, 0.5)
    assert not np.allclose(model({**BATCH, "soft_targets": other})["distance"], asked)


def test_the_student_drops_out_and_the_teacher_does_not():
    student, teacher = make_model(dropout=0.5), make_model(seed=4, dropout=0.5)
    model = distilled(student, teaching(teacher, alpha=1.0, **ALL))
    before = weights(teacher)
    first, second = (np.asarray(model(BATCH, training=True)["logits"]) for _ in range(2))
    assert not np.allclose(first, second)
    assert np.array_equal(model(BATCH)["logits"], model(BATCH)["logits"])
    # Not even the seeds of its dropouts move.
    assert_equal(weights(teacher), before)


def test_variables_are_the_students_and_the_projections():
    student, teacher = make_model(width=8), make_model(seed=4)
    what = teaching(teacher, embedding_weight=1.0, hidden_weight=1.0)
    names = {v.path for v in distilled(student, what).variables} - {
        v.path for v in student.variables
    }
    assert names == {
        "distilled/embedding_projection/kernel",
        "distilled/hidden_projection/kernel",
    }
    assert len(distilled(student, what, layers=False).variables) == len(student.variables)
    same = distilled(make_model(), what)
    assert len(same.variables) == len(make_model().variables)


def test_loss_weighs_labels_and_rows():
    counts = np.array([0.5, 2.0])
    logits = np.random.default_rng(0).normal(size=(7, 2)).astype(np.float32)
    distance = np.arange(7, dtype=np.float32)
    loss = DistillationLoss(counts, 0.1, label_weight=0.3)
    plain = CrossEntropy(counts, 0.1)
    row = counts[LABELS]
    expected = 0.3 * float(plain(LABELS, logits)) + (row * distance).sum() / row.sum()
    outputs = {"logits": logits, "distance": distance}
    assert float(loss(LABELS, outputs)) == pytest.approx(expected, rel=1e-5)
    alone = DistillationLoss(label_weight=0.0)
    assert float(alone(LABELS, outputs)) == pytest.approx(3.0)


# Settings that do not fit the models.


@pytest.mark.parametrize(
    ("settings", "student", "teacher", "message"),
    [
        ({}, {}, {"max_length": 11}, r"positions for 11 tokens, .* rows of up to 12"),
        ({"cosine_weight": 1.0}, {"width": 8}, {}, "student's is 8, the teacher's 16"),
        ({"attention_weight": 1.0}, {"num_heads": 4}, {}, "the student has 4, the teacher 2"),
        ({"hidden_weight": 1.0, "layer_map": "2,3"}, {}, {}, "names layer 3, and the teacher has"),
        ({"hidden_weight": 1.0, "layer_map": "2"}, {}, {}, "each of the student's 2 layers"),
        ({"hidden_weight": 1.0, "layer_map": "last"}, {"num_layers": 3}, {}, "layer_map=last"),
    ],
)
def test_what_does_not_fit_is_told(tmp_path, settings, student, teacher, message):
    what = teaching(make_model(seed=4, **teacher), **settings)
    model = make_model(**student)
    before = weights(model)
    with pytest.raises(InputError, match=message):
        distilling(what)(model, TRAIN, EVAL, RECIPE, state_dir=str(tmp_path))
    assert_equal(weights(model), before)


def test_another_number_of_labels_is_told():
    teacher = TextClassifier(make_model().encoder, num_labels=3)
    with pytest.raises(InputError, match="answers 3 labels, the student 2"):
        teaching(teacher).check(make_model(), 12)


# Students.


@pytest.mark.parametrize("kind", ENCODERS)
def test_a_student_as_deep_as_its_teacher_is_its_copy(kind):
    teacher = make_model(kind)
    student = student_from_teacher(teacher, Distillation())
    np.testing.assert_array_equal(student(BATCH), teacher(BATCH))
    assert [v.path for v in student.variables] == [v.path for v in teacher.variables]
    assert not {*map(id, student.variables)} & {*map(id, teacher.variables)}


@pytest.mark.parametrize(
    ("layer_map", "taken"), [("uniform", (2, 4)), ("last", (3, 4)), ("1,3", (1, 3))]
)
def test_a_student_starts_with_the_mapped_layers(layer_map, taken):
    teacher = make_model(num_layers=4)
    settings = Distillation(student_layers=2, layer_map=layer_map)
    student = student_from_teacher(teacher, settings, hidden_dropout=0.3, head_dropout=0.4)
    assert (student.encoder.config.hidden_dropout, student.dropout_rate) == (0.3, 0.4)
    assert student.encoder.config.num_layers == 2
    for block, number in zip(student.encoder.blocks, taken, strict=True):
        for ours, theirs in zip(
            block.weights, teacher.encoder.blocks[number - 1].weights, strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)
    for name in ("token_embedding", "embeddings_norm", "pooler"):
        mine, its = (getattr(m.encoder, name) for m in (student, teacher))
        assert_equal(mine.get_weights(), its.get_weights())
    assert_equal(student.logits.get_weights(), teacher.logits.get_weights())


def test_a_distilbert_out_of_a_bert_has_its_embeddings_of_single_texts():
    teacher = make_model(num_layers=4)
    student = student_from_teacher(
        teacher, Distillation(student_layers=2), architecture="distilbert"
    )
    assert type(student.encoder) is DistilBertEncoder
    assert student.encoder.name == "distil_bert"
    assert student.dropout_rate == 0.2
    ours, theirs = (model.encoder(BATCH)["hidden_states"][0] for model in (student, teacher))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert_equal(
        student.encoder.blocks[0].get_weights()[:8], teacher.encoder.blocks[1].get_weights()[:8]
    )


def test_an_albert_applies_its_block_less_often():
    teacher = make_model(AlbertEncoder, num_layers=4)
    student = student_from_teacher(teacher, Distillation(student_layers=2))
    ours, theirs = (model.encoder(BATCH)["hidden_states"][:3] for model in (student, teacher))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("pair", [("bert", AlbertEncoder), ("bert", DistilBertEncoder)])
def test_layers_of_another_architecture_are_not_taken(pair):
    architecture, kind = pair
    with pytest.raises(InputError, match="cannot be copied into bert"):
        student_from_teacher(make_model(kind), Distillation(), architecture=architecture)


# The step.


def take_steps(student, what, *, steps=3, targets=None, **options):
    model = distilled(student, what, layers=what.settings.learns_layers)
    optimizer = optimization.adamw(
        learning_rate=0.01, warmup_steps=0, total_steps=10, weight_decay=0.01, clip_norm=1e9
    )
    optimizer.build(model.trainable_variables)
    loss = DistillationLoss(np.array([0.5, 2.0]), 0.1, label_weight=0.5)
    batch = BATCH if targets is None else {**BATCH, "soft_targets": targets}
    step = train_step.train_step(model, optimizer, loss, **options)
    first = float(loss(LABELS, model(BATCH)))
    taken = [step(batch, LABELS) for _ in range(steps)]
    return first, taken, weights(model)


def test_step_reports_what_it_minimizes():
    teacher = make_model(seed=4, num_layers=3)
    before = weights(teacher)
    first, taken, _ = take_steps(make_model(width=8), teaching(teacher, hidden_weight=1.0))
    assert taken[0].loss == pytest.approx(first, rel=1e-5)
    assert taken[-1].loss < taken[0].loss
    assert_equal(weights(teacher), before)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"pieces": 3}, {"gradient_checkpointing": True}])
def test_pieces_and_checkpoints_give_the_step_of_the_whole(options):
    what = teaching(make_model(seed=4, num_layers=1), **ALL)
    _, whole, expected = take_steps(make_model(num_layers=1), what)
    _, taken, got = take_steps(make_model(num_layers=1), what, **options)
    assert [s.loss for s in taken] == pytest.approx([s.loss for s in whole], abs=1e-5)
    for a, b in zip(got, expected, strict=True):
        # A weight without a real gradient is left to Adam's whim.
        assert np.mean(np.abs(a - b) > 1e-4) < 0.1


def test_step_with_known_targets_is_the_step_that_asks():
    teacher = make_model(seed=4)
    targets = np.asarray(losses.soft_targets([teacher(BATCH)], 2.0))
    what = teaching(teacher, cosine_weight=0.0)
    _, asked, _ = take_steps(make_model(), what)
    _, known, _ = take_steps(make_model(), what, targets=targets, pieces=2)
    assert [s.loss for s in known] == pytest.approx([s.loss for s in asked], abs=1e-5)


def test_mixed_precision_learns_in_float32_distances():
    student = make_model(dtype="mixed_bfloat16")
    teacher = make_model(seed=4)
    model = distilled(student, teaching(teacher, **ALL))
    done = model(BATCH)
    assert done["distance"].dtype == done["logits"].dtype == "float32"
    exact = distilled(make_model(), teaching(teacher, **ALL))(BATCH)
    np.testing.assert_allclose(done["distance"], exact["distance"], rtol=0.1)


# The training.


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A teacher that has learned."""
    model = make_model(seed=8, num_layers=2, width=32)
    recipe = dataclasses.replace(RECIPE, epochs=8, patience=9)
    folder = str(tmp_path_factory.mktemp("teacher"))
    progress = fine_tuning.fine_tune(model, make_rows(256, 7), EVAL, recipe, state_dir=folder)
    assert progress.best_accuracy > 0.95
    return model


def train(folder, what, recipe=RECIPE, model=None, rows=TRAIN, **options):
    model = model or make_model(num_layers=1, dropout=0.1, dtype=recipe.precision)
    fine_tune = distilling(what) if what else fine_tuning.fine_tune
    progress = fine_tune(model, rows, EVAL, recipe, state_dir=str(folder), **options)
    return progress, weights(model)


def divergence(model, teacher):
    batch = EVAL.batch(np.arange(len(EVAL)))
    targets = losses.soft_targets([teacher(batch)], 1.0)
    return float(np.mean(losses.soft_target_loss(targets, model(batch), 1.0)))


@pytest.mark.slow
def test_soft_targets_bring_a_student_nearer_to_its_teacher(teacher, tmp_path):
    before = weights(teacher)
    apart = {}
    for name, what in (("labels", None), ("teacher", teaching(teacher, alpha=0.9))):
        model = make_model()
        train(tmp_path / name, what, dataclasses.replace(RECIPE, epochs=6, patience=9), model)
        apart[name] = divergence(model, teacher)
    assert apart["teacher"] < 0.7 * apart["labels"]
    assert_equal(weights(teacher), before)


def test_answers_are_asked_for_once_where_nothing_else_is(teacher, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        distil,
        "predict_rows",
        lambda predict, rows, what: asked.append(len(rows)) or np.zeros((len(rows), 2), np.float32),
    )
    for settings, recipe, expected in (
        ({}, RECIPE, [64]),
        ({"hidden_weight": 1.0, "intermediate_epochs": 1}, RECIPE, [64]),
        ({"hidden_weight": 1.0}, RECIPE, []),
        ({"cosine_weight": 1.0}, RECIPE, []),
        ({"alpha": 0.0, "hidden_weight": 1.0, "intermediate_epochs": 1}, RECIPE, []),
        ({}, dataclasses.replace(RECIPE, max_steps=7), []),
    ):
        asked.clear()
        rows = distil.with_soft_targets(TRAIN, teaching(teacher, **settings), recipe)
        assert asked == expected
        assert isinstance(rows, TaughtRows) == bool(expected)


def test_answers_stay_with_their_rows(teacher):
    rows = distil.with_soft_targets(TRAIN, teaching(teacher, temperature=3.0), RECIPE)
    for indices in (np.array([5, 0, 40]), np.array([63])):
        batch = rows.batch(indices)
        plain = TRAIN.batch(indices)
        expected = losses.soft_targets([teacher(plain)], 3.0)
        np.testing.assert_allclose(batch.pop("soft_targets"), expected, atol=1e-5)
        assert_equal(batch.values(), plain.values())
    assert distil.with_soft_targets(rows, teaching(teacher), RECIPE) is rows


def test_seeds_share_the_answers(teacher, tmp_path, monkeypatch):
    asked = []
    ask = distil.with_soft_targets
    monkeypatch.setattr(distil, "with_soft_targets", lambda *a: asked.append(type(a[0])) or ask(*a))
    result = fine_tuning.fine_tune_seeds(
        lambda seed: make_model(seed=seed),
        TRAIN,
        EVAL,
        dataclasses.replace(RECIPE, num_seeds=2, epochs=1),
        state_dir=str(tmp_path),
        train=distilling(teaching(teacher)),
    )
    assert [*result.progress] == [3, 4]
    assert asked == [batching.Rows]


def test_the_stages_come_one_after_the_other(teacher, tmp_path):
    """The layers first, which change neither head nor pooler; then the answers."""
    what = teaching(teacher, **{**ALL, "cosine_weight": 0.0}, intermediate_epochs=3)
    reports = []
    model = make_model()
    head = weights_of_head(model)
    recipe = dataclasses.replace(RECIPE, epochs=1)

    def on_metrics(step, measured):
        if "eval_loss" not in measured:
            assert_equal(weights_of_head(model), head)
        reports.append((step, measured))

    progress, _ = train(tmp_path, what, recipe, model, on_metrics=on_metrics)
    steps = [step for step, measured in reports if "intermediate_loss" in measured]
    distances = [m["intermediate_loss"] for _, m in reports if "intermediate_loss" in m]
    assert steps == [8, 16, 24]
    assert distances[-1] < 0.8 * distances[0]
    assert reports[-1][0] == 8
    assert len(progress.step_losses) == 8
    assert not np.array_equal(weights_of_head(model)[0], head[0])
    assert all(variable.trainable for variable in model.trainable_variables)
    assert len(model.trainable_variables) == len(make_model().trainable_variables)


def weights_of_head(model):
    return [np.array(v) for layer in model.head_layers() for v in layer.variables]


class Killed(BaseException):
    """Stands for a kill: nothing may catch it."""


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


STAGES = {
    "together": ALL | {"cosine_weight": 0.0},
    "stages": ALL | {"cosine_weight": 0.0, "intermediate_epochs": 1},
}


@pytest.fixture(scope="module")
def uninterrupted(teacher, tmp_path_factory):
    """Each way to learn, as it ends where nothing stopped it."""
    return {
        name: train(tmp_path_factory.mktemp(name), teaching(teacher, **settings))
        for name, settings in STAGES.items()
    }


# Of two stages the first has 8 steps and an epoch's end: 9 saves.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "at_save"),
    [("together", 5), ("stages", 4), ("stages", 15)],
)
def test_goes_on_as_if_never_stopped(teacher, uninterrupted, tmp_path, monkeypatch, name, at_save):
    what = teaching(teacher, **STAGES[name])
    kill_at_save(at_save, monkeypatch, lambda: train(tmp_path, what))
    progress, resumed = train(tmp_path, what)
    assert progress == uninterrupted[name][0]
    assert_equal(resumed, uninterrupted[name][1])


def test_recipe_options_work_with_teachers(teacher, tmp_path):
    recipe = dataclasses.replace(
        RECIPE,
        epochs=1,
        layer_decay=0.8,
        freeze_layers=1,
        accumulation_steps=2,
        gradient_checkpointing=True,
        class_weights="balanced",
        label_smoothing=0.1,
        precision="mixed_float16",
    )
    model = make_model(dtype="mixed_float16")
    frozen = [np.array(v) for v in model.encoder.blocks[0].weights]
    top = [np.array(v) for v in model.encoder.blocks[1].weights]
    train(tmp_path, teaching(teacher, **STAGES["stages"]), recipe, model)
    assert_equal(model.encoder.blocks[0].get_weights(), frozen)
    assert not np.array_equal(model.encoder.blocks[1].get_weights()[0], top[0])
