import dataclasses

import pytest

from bert_tfx.modeling.training.recipes import RECIPES, TASK_RECIPES, Recipe
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
