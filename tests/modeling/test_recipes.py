import dataclasses

import pytest

from bert_tfx.modeling.recipes import RECIPES, Recipe
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.tasks import TASKS


def test_every_task_has_a_recipe():
    assert set(RECIPES) == set(TASKS)


@pytest.mark.parametrize(
    ("task", "rate"), [("chnsenticorp", 3e-5), ("lcqmc", 3e-5), ("sst2", 4e-5)]
)
def test_published_recipes(task, rate):
    recipe = RECIPES[task]
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
    ],
)
def test_values_out_of_range(field, value):
    with pytest.raises(InputError, match=field):
        dataclasses.replace(Recipe(), **{field: value})
