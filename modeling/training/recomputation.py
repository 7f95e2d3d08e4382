"""Inner values of the blocks that are computed again for the gradient, not kept for it."""

import contextlib
import functools
from typing import Any

import keras
import tensorflow as tf

from bert_tfx.modeling.checkpoints.variable_names import SEED_STATE
from bert_tfx.modeling.encoders.albert import AlbertEncoder
from bert_tfx.modeling.encoders.altering import altered
from bert_tfx.modeling.encoders.encoder import Encoder
from bert_tfx.modeling.encoders.transformer import TransformerBlock


def recomputed(encoder: Encoder) -> contextlib.AbstractContextManager[None]:
    """Within it, the blocks of an encoder compute inner values again for the gradient.

    Not by `keras.RematScope`: computing again, its dropouts would draw other numbers. Here the
    seeds are drawn once, outside of what is computed again.

    Args:
        encoder: Called to train.
    """
    recomputing = [functools.partial(_recompute, block) for block in encoder.blocks]
    if isinstance(encoder, AlbertEncoder):
        return altered(encoder, block=recomputing[0])
    return altered(encoder, blocks=recomputing)


def _recompute(block: TransformerBlock, hidden: Any, padding: Any, *, training: bool) -> Any:
    """Calls a block so that its gradient keeps its input only."""
    states = [v for v in block.variables if v.name == SEED_STATE]
    seeds = [tf.identity(state.value) for state in states]
    seeds_after: list[Any] = []

    def call(hidden: Any) -> Any:
        with keras.StatelessScope(zip(states, seeds, strict=True)) as scope:
            output = block(hidden, padding, training=training)
        if not seeds_after:
            seeds_after.extend(scope.get_current_value(state) for state in states)
        return output

    output = tf.recompute_grad(call)(hidden)
    for state, after in zip(states, seeds_after, strict=True):
        state.assign(after)
    return output
