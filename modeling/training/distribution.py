"""Training on several devices and machines, by TensorFlow's synchronous mirrored strategies.

Every replica holds all weights and works its rows of each batch; gradients are summed over the
replicas, and the optimizer then takes the same step on each. A worker is a process, with one
replica for each of its GPUs, or one on its CPU.
"""

import contextlib
import functools
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from bert_tfx.modeling.checkpoints.variable_names import SEED_STATE
from bert_tfx.modeling.training.recipes import Recipe
from bert_tfx.schema.errors import InputError

# Keras draws the layers' seeds below it, so that a seed of one replica is hardly another one's.
_SEED_DISTANCE = 10**9


@contextlib.contextmanager
def scope(recipe: Recipe) -> Iterator[None]:
    """Makes the models that are made within it ready for `recipe.distribution`.

    With "multi_worker", enter it (or `connect`) before TensorFlow computes anything in the process,
    in as many processes as the environment variable TF_CONFIG names, which are then to make the
    same models and to train them on the same rows.

    Args:
        recipe: Its `distribution` is what counts.

    Raises:
        InputError: If the distribution cannot be had here.
    """
    if recipe.distribution == "none":
        yield
        return
    with _strategy(recipe.distribution).scope():
        yield


def connect(recipe: Recipe) -> None:
    """Joins the other workers, if there are any, before TensorFlow computes anything.

    Raises:
        InputError: See `scope`.
    """
    with scope(recipe):
        pass


def strategy_of(model: keras.Model, recipe: Recipe) -> Any:
    """Returns the `tf.distribute.Strategy` to train a model by, or None where there is one replica.

    Raises:
        InputError: If the model was not made within `scope(recipe)`.
    """
    kinds = {
        tf.distribute.MirroredStrategy: "mirrored",
        tf.distribute.MultiWorkerMirroredStrategy: "multi_worker",
    }
    made_for = kinds.get(type(model.distribute_strategy), "none")
    if made_for != recipe.distribution:
        raise InputError(
            f"distribution is {recipe.distribution}, but the model was made for {made_for}: make "
            "it within distribution.scope(recipe)"
        )
    return None if made_for == "none" else model.distribute_strategy


def is_chief(strategy: Any) -> bool:
    """Returns whether this process is the one worker that writes files and reports."""
    resolver = getattr(strategy, "cluster_resolver", None)
    if resolver is None:
        return True
    has_chief = "chief" in resolver.cluster_spec().as_dict()
    return resolver.task_type == "chief" or (not has_chief and resolver.task_id == 0)


def sum_over_workers(strategy: Any, values: Sequence[float]) -> list[float]:
    """Returns the sum of all workers' values, the same on all; each waits for all others."""
    if getattr(strategy, "cluster_resolver", None) is None:
        return [float(value) for value in values]
    mine = tf.constant(values, tf.float64)
    replicas = len(strategy.extended.worker_devices)

    def contribute() -> Any:
        context = tf.distribute.get_replica_context()
        first = context.replica_id_in_sync_group % replicas == 0
        return context.all_reduce(
            tf.distribute.ReduceOp.SUM, tf.where(first, mine, tf.zeros_like(mine))
        )

    totals = tf.function(lambda: strategy.run(contribute))()
    return [float(total) for total in strategy.experimental_local_results(totals)[0]]


def from_chief(strategy: Any, values: Sequence[float]) -> list[float]:
    """Returns the chief's values on all workers; each waits for all others."""
    return sum_over_workers(strategy, values if is_chief(strategy) else [0.0] * len(values))


def part_seeds(model: keras.Model, strategy: Any) -> None:
    """Makes each replica's dropouts draw numbers of their own; those of the first stay.

    Args:
        model: Its seeds are the same on all replicas.
        strategy: The one that the model was made for.
    """
    states = [v for v in model.variables if v.name == SEED_STATE]

    @tf.function
    def part() -> None:
        def move() -> None:
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            for state in states:
                distance = tf.cast(replica, state.value.dtype) * np.array([_SEED_DISTANCE, 0])
                state.assign_add(distance)

        strategy.run(move)

    part()


@functools.cache
def _strategy(distribution: str) -> Any:
    if distribution == "mirrored":
        return tf.distribute.MirroredStrategy()
    config = os.environ.get("TF_CONFIG", "")
    try:
        parsed = json.loads(config)
        named = bool(parsed["cluster"]) and {"type", "index"} <= set(parsed["task"])
    except (ValueError, KeyError, TypeError):
        named = False
    if not named:
        raise InputError(
            "distribution=multi_worker needs the environment variable TF_CONFIG, as in "
            '{"cluster": {"worker": ["host:port", "host:port"]}, '
            f'"task": {{"type": "worker", "index": 0}}}}. Received: {config}'
        )
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except RuntimeError as error:
        raise InputError(
            f"distribution=multi_worker must be set up before TensorFlow computes anything: {error}"
        ) from error
