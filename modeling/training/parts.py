"""A batch that is worked in parts: in pieces that follow one another, by replicas, or by both."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import tensorflow as tf

Batch: TypeAlias = Mapping[str, np.ndarray]
"""`token_ids`, `segment_ids`, `padding_mask`: int32 `[B, T]`; where a student learns from answers
that are known beforehand, `soft_targets`: float32 `[B, C]`."""


class RowSums(NamedTuple):
    """What some rows of a batch add to the whole.

    Attributes:
        share: Their share of the batch's loss, float32 `[]`.
        correct: How many of them were classified correctly, float32 `[]`.
        gradients: Of `share`, a tensor for each variable.
    """

    share: Any
    correct: Any
    gradients: list[Any]


Work: TypeAlias = Callable[[Batch, Any, Any], RowSums]
"""Works rows: their arrays, their labels, and what all rows of the batch count together."""


def in_parts(work: Work, variables: Sequence[Any], *, pieces: int, replicas: int) -> Work:
    """Makes the function that works a batch in parts and adds up what they give.

    Args:
        work: Works a part.
        variables: What the gradients are of.
        pieces: Parts in which a replica works its rows, one after another, so that less memory is
            taken. The parts of a batch differ by at most one row.
        replicas: Replicas that are given the batch, each to work its rows of it.
    """
    parts = replicas * pieces

    def work_part(number: Any, batch: Batch, labels: Any, total_weight: Any) -> RowSums:
        rows = tf.size(labels)
        chosen = slice(rows * number // parts, rows * (number + 1) // parts)
        some = {name: array[chosen] for name, array in batch.items()}
        return work(some, labels[chosen], total_weight)

    def work_pieces(first: Any, *rows: Any) -> RowSums:
        zeros = [tf.zeros(v.shape, v.dtype) for v in variables]
        nothing = RowSums(tf.constant(0.0), tf.constant(0.0), zeros)

        def add(k: Any, sums: RowSums) -> tuple[Any, RowSums]:
            return k + 1, tf.nest.map_structure(tf.add, sums, work_part(first + k, *rows))

        return tf.while_loop(
            lambda k, _: k < pieces, add, (tf.constant(0), nothing), parallel_iterations=1
        )[1]

    def work_parts(*rows: Any) -> RowSums:
        context = tf.distribute.get_replica_context()
        first = tf.cast(context.replica_id_in_sync_group, tf.int32) * pieces
        sums = work_part(first, *rows) if pieces == 1 else work_pieces(first, *rows)
        return context.all_reduce(tf.distribute.ReduceOp.SUM, sums) if replicas > 1 else sums

    return work_parts
