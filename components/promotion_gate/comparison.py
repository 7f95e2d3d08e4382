"""Compares two models by their answers to the same rows."""

import dataclasses

import numpy as np
from scipy import fft, stats

from bert_tfx.components.promotion_gate.metrics import (
    ACCURACY,
    INTERVAL,
    Estimate,
    confusion_matrix,
    draw_confusions,
    estimate,
    number,
    overall_figures,
)

# Of the Fourier transform, whose probabilities have errors of about 1e-13.
_ROUNDING = 1e-10


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far the candidate lies above the baseline in one figure, on the same rows.

    Attributes:
        candidate: The candidate's figure on these rows; None where it is undefined.
        baseline: The baseline's.
        estimate: Candidate - baseline, with the interval of 95%.
        at_most: What it is at most, with the one-sided confidence that was asked for.
        confidence: That confidence.
    """

    candidate: float | None
    baseline: float | None
    estimate: Estimate
    at_most: float | None
    confidence: float


@dataclasses.dataclass(frozen=True)
class PairedCounts:
    """Rows by which of the two models is right.

    Attributes:
        both_right: Rows that both have right.
        only_candidate: Rows that only the candidate has right.
        only_baseline: Rows that only the baseline has right.
        both_wrong: Rows that both have wrong.
    """

    both_right: int
    only_candidate: int
    only_baseline: int
    both_wrong: int

    @property
    def rows(self) -> int:
        """All rows."""
        return self.both_right + self.only_candidate + self.only_baseline + self.both_wrong

    def mcnemar_p(self) -> float:
        """Returns the p value of McNemar's exact test (1947), two-sided.

        How likely are such unequal numbers of rows that only one model has right, or more unequal
        ones, where in truth both models are equally good? 1 where there is no such row.
        """
        differing = self.only_candidate + self.only_baseline
        if not differing:
            return 1.0
        return float(stats.binomtest(self.only_candidate, differing).pvalue)


def paired_counts(labels: np.ndarray, candidate: np.ndarray, baseline: np.ndarray) -> PairedCounts:
    """Counts rows by which model is right; all arguments are class indices, int64 `[N]`."""
    right, baseline_right = candidate == labels, baseline == labels
    return PairedCounts(
        both_right=int((right & baseline_right).sum()),
        only_candidate=int((right & ~baseline_right).sum()),
        only_baseline=int((~right & baseline_right).sum()),
        both_wrong=int((~right & ~baseline_right).sum()),
    )


def accuracy_difference(counts: PairedCounts, confidence: float) -> Difference:
    """Returns the difference in accuracy, with the bounds of the paired percentile bootstrap.

    Each row of a resample adds 1, 0 or -1, with the probabilities that these have among the rows.
    The distribution of the sum is their N-fold convolution, so nothing need be drawn, and the
    bounds are those of infinitely many resamples, however far out in the tail.

    Args:
        counts: Of at least one row.
        confidence: Of the one-sided bound.

    Returns:
        The difference.
    """
    rows = counts.rows
    length = fft.next_fast_len(2 * rows + 1, real=True)
    one_row = np.zeros(length)
    # A sum below 0 stands at the end: indices are sums modulo the length.
    one_row[[0, 1, -1]] = (
        counts.both_right + counts.both_wrong,
        counts.only_candidate,
        counts.only_baseline,
    )
    sums = fft.irfft(fft.rfft(one_row / rows) ** rows, length)
    below = np.cumsum(np.concatenate([sums[-rows:], sums[: rows + 1]]))
    tail = (1 - INTERVAL) / 2
    ranks = np.searchsorted(below, np.array([tail, 1 - tail, confidence]) - _ROUNDING)
    low, high, at_most = ((ranks - rows) / rows).tolist()
    return Difference(
        candidate=(counts.both_right + counts.only_candidate) / rows,
        baseline=(counts.both_right + counts.only_baseline) / rows,
        estimate=Estimate((counts.only_candidate - counts.only_baseline) / rows, low, high),
        at_most=at_most,
        confidence=confidence,
    )


def figure_difference(
    metric: str,
    labels: np.ndarray,
    candidate: np.ndarray,
    baseline: np.ndarray,
    num_classes: int,
    *,
    confidence: float,
    resamples: int,
    seed: int,
) -> Difference:
    """Returns the difference in a figure over all classes, with paired percentile bootstrap bounds.

    Args:
        metric: One of those of `overall_figures`.
        labels: int64 `[N]`, N at least 1.
        candidate: Class indices, int64 `[N]`.
        baseline: The same.
        num_classes: C.
        confidence: Of the one-sided bound.
        resamples: How many are drawn; accuracy needs none.
        seed: Of the draws.

    Returns:
        The difference; None stands in it where the figure of a model is undefined.
    """
    if metric == ACCURACY:
        return accuracy_difference(paired_counts(labels, candidate, baseline), confidence)
    of_candidate, of_baseline = (
        float(overall_figures(confusion_matrix(labels, answers, num_classes))[metric])
        for answers in (candidate, baseline)
    )
    drawn = np.concatenate(
        [
            overall_figures(first)[metric] - overall_figures(second)[metric]
            for first, second in draw_confusions(
                labels,
                [candidate, baseline],
                num_classes,
                resamples=resamples,
                rng=np.random.default_rng(seed),
            )
        ]
    )
    found = estimate(of_candidate - of_baseline, drawn)
    return Difference(
        candidate=number(of_candidate),
        baseline=number(of_baseline),
        estimate=found,
        at_most=None if found.low is None else float(np.nanquantile(drawn, confidence)),
        confidence=confidence,
    )
