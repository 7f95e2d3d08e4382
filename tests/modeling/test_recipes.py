import dataclasses

import pytest

from bert_tfx.modeling.recipes import RECIPES, TASK_RECIPES, Distillation, Recipe
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.tasks import TASKS


def test_every_task_has_a_recipe():
    assert set(TASK_RECIPES) == set(TASKS)
    assert set(TASK_RECIPES.values()) <= set(RECIPES)


@pytest.mark.parametrize(
    ("task", "rate"), [("chnsenticorp", 3e-5), ("lcqmc", 3e-5), ("sst2", 4e-5)]
)
def test_published_recipes(task, rate):
    recipe = RECIPES[TASK_RECIPES[task]]
    assert (recipe.learning_rate, recipe.batch_size, recipe.epochs) == (rate, 32, 4)
    assert recipe.max_length == 128


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_length", 4),
        ("batch_size", 0),
        ("epochs", 0),
        ("patience", 0),
        ("seed", -1),
        ("max_steps", 0),
        ("learning_rate", 0.0),
        ("learning_rate", 1.5),
        ("warmup_fraction", 1.0),
        ("weight_decay", -0.1),
        ("clip_norm", 0.0),
        ("seed", 2**32),
        ("num_seeds", 0),
        ("metric", "accuracies"),
        ("layer_decay", 0.0),
        ("layer_decay", 1.1),
        ("freeze_layers", -1),
        ("label_smoothing", 1.0),
        ("label_smoothing", -0.1),
        ("class_weights", "even"),
        ("class_weights", "1,"),
        ("class_weights", "1,0"),
        ("class_weights", "1,nan"),
        ("class_weights", "1,inf"),
        ("accumulation_steps", 0),
        ("accumulation_steps", 33),
        ("precision", "float16"),
        ("dropout", 1.0),
        ("dropout", -0.1),
        ("distribution", "parameter_server"),
    ],
)
def test_values_out_of_range(field, value):
    with pytest.raises(InputError, match=field):
        dataclasses.replace(Recipe(), **{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", 2**32 - 1),
        ("layer_decay", 1.0),
        ("class_weights", "balanced"),
        ("class_weights", "1,2.5, 1e-3"),
        ("accumulation_steps", 32),
        ("dropout", 0.0),
        ("max_steps", None),
    ],
)
def test_values_at_the_edge(field, value):
    assert getattr(dataclasses.replace(Recipe(), **{field: value}), field) == value


def test_the_last_of_several_seeds_must_be_a_seed():
    assert Recipe(seed=2**32 - 3, num_seeds=3).num_seeds == 3
    with pytest.raises(InputError, match="seed must be at most 4294967293"):
        Recipe(seed=2**32 - 2, num_seeds=3)


def test_fields_are_plain_values():
    """The command line makes an option of each."""
    assert {type(value) for value in dataclasses.asdict(Recipe()).values()} <= {
        int,
        float,
        str,
        bool,
        type(None),
    }


# Distillation.


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", 0.0),
        ("temperature", float("inf")),
        ("alpha", 1.1),
        ("alpha", float("nan")),
        ("cosine_weight", -1.0),
        ("hidden_weight", float("nan")),
        ("attention_weight", float("inf")),
        ("intermediate_epochs", -1),
        ("student_layers", 0),
        ("layer_map", "first"),
        ("layer_map", ""),
        ("layer_map", "0,2"),
        ("layer_map", "3,2"),
        ("layer_map", "1,,2"),
    ],
)
def test_distillation_is_checked(field, value):
    with pytest.raises(InputError, match=f"^{field} must"):
        Distillation(**{field: value})


def test_distillation_needs_something_to_learn():
    with pytest.raises(InputError, match="intermediate_epochs need something to learn from"):
        Distillation(intermediate_epochs=1, cosine_weight=1.0)
    with pytest.raises(InputError, match="nothing would be learned from the teacher"):
        Distillation(alpha=0.0)
    assert not Distillation(alpha=0.0, cosine_weight=1.0).learns_layers
    assert Distillation(alpha=0.0, attention_weight=1.0).learns_layers


@pytest.mark.parametrize(
    ("layer_map", "student", "teacher", "expected"),
    [
        ("uniform", 6, 12, (2, 4, 6, 8, 10, 12)),
        ("uniform", 4, 12, (3, 6, 9, 12)),
        ("uniform", 3, 4, (2, 3, 4)),
        ("uniform", 1, 12, (12,)),
        ("uniform", 2, 2, (1, 2)),
        ("uniform", 4, 2, (1, 1, 2, 2)),
        ("last", 2, 5, (4, 5)),
        ("last", 3, 3, (1, 2, 3)),
        ("1,1,5", 3, 5, (1, 1, 5)),
    ],
)
def test_layer_map(layer_map, student, teacher, expected):
    assert Distillation(layer_map=layer_map).teacher_layers(student, teacher) == expected


@pytest.mark.parametrize(
    ("layer_map", "message"),
    [
        ("last", "layer_map=last: the student has 3 layers and the teacher has 2"),
        ("1,2", "must name a teacher layer for each of the student's 3 layers. Received 2"),
        ("1,2,3", "layer_map names layer 3, and the teacher has 2"),
    ],
)
def test_layer_map_outside_of_the_teacher(layer_map, message):
    with pytest.raises(InputError, match=message):
        Distillation(layer_map=layer_map).teacher_layers(3, 2)
