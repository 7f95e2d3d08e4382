"""Names by which variables are written to files, and found again.

Keras does not promise in which order a model lists its variables. By position, a release with
another order would swap query, key and value without a word; by name it cannot.
"""

from collections.abc import Collection, Iterable, Mapping

import keras
import numpy as np

from bert_tfx.schema.errors import InputError

SEED_STATE = "seed_generator_state"
"""Keras' name of the variable that a dropout draws its seeds from."""

_SHOWN = 3


def by_name(variables: Iterable[keras.Variable], model: keras.Model) -> dict[str, keras.Variable]:
    """Names variables so that another process, and another model of the same kind, agree.

    A name is the variable's path (`bert/block_0/attention/query/kernel`). The path of a dropout's
    random state holds a number that counts all those that the process has made
    (`seed_generator_17`); it has the names of the layers around it instead
    (`text_classifier/bert/block_0/attention/dropout/seed_generator_state`).

    Args:
        variables: The model's, its optimizer's, or some of them.
        model: The model that the random states among them belong to.

    Returns:
        The variables by their names, in the order in which they were given.

    Raises:
        RuntimeError: If two have the same name.
    """
    seeds = _seed_names(model, model.name)
    named: dict[str, keras.Variable] = {}
    for variable in variables:
        name = seeds.get(id(variable), variable.path)
        if name in named:
            raise RuntimeError(f"two variables are named {name}: name their layers apart")
        named[name] = variable
    return named


def assign_by_name(
    variables: Mapping[str, keras.Variable],
    values: Mapping[str, np.ndarray],
    *,
    source: str,
    remedy: str,
) -> None:
    """Gives each variable the value of its name: all of them, or none where one does not fit.

    Args:
        variables: What is to be assigned, from `by_name`.
        values: By the same names, of the same shapes and types.
        source: The file that they are from.
        remedy: What to do where they do not fit.

    Raises:
        InputError: If a name is missing or unexpected, or a shape or type differs.
    """
    both = [name for name in variables if name in values]
    others = {
        name: f"{name} ({there} there, {here} here)"
        for name in both
        if (there := _kind(values[name])) != (here := _kind(variables[name]))
    }
    wrong = {
        "missing": [name for name in variables if name not in values],
        "unexpected": [name for name in values if name not in variables],
        "of another shape or type": others.values(),
    }
    if any(wrong.values()):
        listed = "; ".join(f"{what}: {_listed(names)}" for what, names in wrong.items() if names)
        raise InputError(f"{source}: holds other variables than this model has. {listed}. {remedy}")
    for name, variable in variables.items():
        variable.assign(values[name])


def _seed_names(layer: keras.layers.Layer, place: str) -> dict[int, str]:
    """Returns the names of the random states in a layer by their `id`."""
    names: dict[int, str] = {}
    # Keras has no public way into a layer that is no model. Without this one it would fail loudly.
    for inner in layer._flatten_layers(include_self=False, recursive=False):
        for number, name in _seed_names(inner, f"{place}/{inner.name}").items():
            names.setdefault(number, name)
    for variable in layer.variables:
        if variable.name == SEED_STATE:
            names.setdefault(id(variable), f"{place}/{SEED_STATE}")
    return names


def _kind(array: keras.Variable | np.ndarray) -> str:
    """Returns type and shape as they are shown: `float32 [2, 3]`."""
    return f"{array.dtype} {list(array.shape)}"


def _listed(names: Collection[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join([*names][:_SHOWN]) + (f" and {more} more" if more > 0 else "")
