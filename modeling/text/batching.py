"""Rows in memory and batches of like length.

Padding is the largest waste in fine-tuning BERT: at a fixed 128 tokens nine tenths of SST-2 are
padding. Rows are therefore sorted into batches of like length, and each batch is padded to the
next of a few widths. The order depends on the seed and the epoch alone, so a run that was stopped
can go on at any step, on any machine and backend.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

# A batch is padded to the first of these that holds its longest row: few enough that the shapes a
# compiler or an allocator sees stay few.
WIDTHS = (
    *range(8, 64, 8),
    *range(64, 128, 16),
    *range(128, 256, 32),
    *range(256, 513, 64),
)
# Rows are sorted by length within so many batches at a time: enough to have like lengths together,
# few enough that batches stay random.
_BATCHES_SORTED_TOGETHER = 50


@dataclasses.dataclass(frozen=True)
class Rows:
    """Tokenized rows of variable length, in memory.

    Attributes:
        token_ids: int32 `[sum of lengths]`, the rows one after another.
        segment_ids: int32 of the same shape, or None where all are 0.
        lengths: int64 `[rows]`, tokens of each row.
        labels: int32 `[rows]`, class indices.
    """

    token_ids: np.ndarray
    segment_ids: np.ndarray | None
    lengths: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        """Returns the number of rows."""
        return len(self.lengths)

    @functools.cached_property
    def _longest(self) -> int:
        return int(self.lengths.max())

    @functools.cached_property
    def _starts(self) -> np.ndarray:
        """int64 `[rows]`: where each row begins."""
        return np.cumsum(self.lengths) - self.lengths

    def batch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the model's input for some rows.

        Args:
            indices: int `[B]`, positions of the rows.

        Returns:
            `token_ids`, `segment_ids`, `padding_mask`: int32 `[B, T]`; the mask is 1 where a token
            is, and everything is 0 where none is. T is the first of `WIDTHS` that holds the longest
            of these rows, but never more than the longest of all rows: a model need not have
            positions beyond that.
        """
        width = self._width(indices)
        lengths = self.lengths[indices]
        starts = self._starts[indices]
        positions = np.arange(width)
        mask = positions < lengths[:, None]  # [B, T]
        where = np.where(mask, starts[:, None] + positions, 0)  # [B, T]
        padding_mask = mask.astype(np.int32)
        segments = (
            np.zeros_like(padding_mask)
            if self.segment_ids is None
            else self.segment_ids[where] * padding_mask
        )
        return {
            "token_ids": self.token_ids[where] * padding_mask,
            "segment_ids": segments,
            "padding_mask": padding_mask,
        }

    def padding(self, batches: Sequence[np.ndarray]) -> float:
        """Returns the share of the batches' places that hold no token, in [0, 1)."""
        places = sum(len(indices) * self._width(indices) for indices in batches)
        return 1 - sum(int(self.lengths[indices].sum()) for indices in batches) / places

    def _width(self, indices: np.ndarray) -> int:
        return min(padded_width(int(self.lengths[indices].max())), self._longest)


def padded_width(longest: int) -> int:
    """Returns the width to which a batch is padded whose longest row has `longest` tokens."""
    return next((width for width in WIDTHS if width >= longest), longest)


def training_batches(
    lengths: np.ndarray, batch_size: int, *, seed: int, epoch: int
) -> list[np.ndarray]:
    """Divides all rows into batches of like length, in random order.

    Args:
        lengths: int `[rows]`, tokens of each row.
        batch_size: Rows a batch; one batch holds the rest.
        seed: Of the order.
        epoch: Each epoch has another order.

    Returns:
        `ceil(rows / batch_size)` arrays of row positions, int64 `[B]`.
    """
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(len(lengths))
    together = batch_size * _BATCHES_SORTED_TOGETHER
    batches = []
    for start in range(0, len(order), together):
        chunk = order[start : start + together]
        chunk = chunk[np.argsort(lengths[chunk], kind="stable")]
        batches += [chunk[i : i + batch_size] for i in range(0, len(chunk), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def evaluation_batches(lengths: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Divides all rows into batches, sorted by length; see `training_batches` for the shapes."""
    order = np.argsort(lengths, kind="stable")
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
