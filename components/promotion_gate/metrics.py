"""The figures that classifiers are judged by, and how sure they are.

All formulas stand here once: they take counts and sums, so that PromotionGate computes them from
the rows and TFMA from what its combiner has added up. Beyond N rows and C classes, shapes may have
leading dimensions (resamples). What is undefined, such as the recall of a class without rows, is
NaN, and so is every mean over it.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from scipy import stats

ACCURACY = "accuracy"
BALANCED_ACCURACY = "balanced_accuracy"
MACRO_PRECISION = "macro_precision"
MACRO_RECALL = "macro_recall"
MACRO_F1 = "macro_f1"
MCC = "mcc"
MACRO_ROC_AUC = "macro_roc_auc"
MACRO_PR_AUC = "macro_pr_auc"
LOG_LOSS = "log_loss"
BRIER = "brier_score"
ECE = "expected_calibration_error"
PRECISION = "precision"
RECALL = "recall"
F1 = "f1"
ROC_AUC = "roc_auc"
PR_AUC = "pr_auc"

# Guo et al., On Calibration of Modern Neural Networks, ICML 2017, section 4.
CALIBRATION_BINS = 15
INTERVAL = 0.95
RESAMPLES = 2000

# A probability of 0 for the right label would make the mean of all rows infinite.
_LEAST_PROBABILITY = float(np.finfo(np.float32).eps)
_SUM_TOLERANCE = 1e-3
# Numbers in one chunk of resamples: 8 MB, which bounds the memory and fits a cache.
_CHUNK = 1_000_000


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A figure and the interval in which it lies with a confidence of 95%; None where undefined."""

    value: float | None
    low: float | None
    high: float | None


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What a model's answers are worth.

    Attributes:
        overall: The figures over all classes, by name.
        classes: For each class, in order: its rows and its figures by name, None where undefined.
        confusion: Rows of each right label (outer) and each answer (inner).
    """

    overall: Mapping[str, Estimate]
    classes: Sequence[Mapping[str, float | None]]
    confusion: Sequence[Sequence[int]]


# === Formulas ===


def invalid_rows(probabilities: np.ndarray, num_classes: int) -> np.ndarray:
    """Says which answers are no distribution over the classes.

    Args:
        probabilities: float `[N, C]`.
        num_classes: C as it should be.

    Returns:
        bool `[N]`: True where a number is NaN, infinite or negative, or they do not add up to 1
        (within 0.001, which half precision needs).
    """
    if probabilities.shape[1:] != (num_classes,):
        return np.ones(len(probabilities), bool)
    finite = np.isfinite(probabilities).all(axis=1)
    sums = np.where(finite[:, None], probabilities, 0).sum(axis=1, dtype=np.float64)
    return ~finite | (probabilities < 0).any(axis=1) | (np.abs(sums - 1) > _SUM_TOLERANCE)


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Returns the quotients; NaN where the denominator is 0 or undefined."""
    numerator, denominator = np.asarray(numerator, float), np.asarray(denominator, float)
    return np.divide(
        numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0
    )


def confusion_matrix(labels: np.ndarray, answers: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns int64 `[C, C]`: the rows of each right label (first) and each answer (second)."""
    cells = np.bincount(labels * num_classes + answers, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes)


def class_figures(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Returns precision, recall and F1 of each class, `[..., C]`, of confusions `[..., C, C]`.

    F1 = 2 TP / (2 TP + FP + FN), which is 0 for a class that has rows and is never the answer; its
    precision is undefined.
    """
    right, rows, answers = _margins(confusion)
    return {
        PRECISION: ratio(right, answers),
        RECALL: ratio(right, rows),
        F1: ratio(2 * right, rows + answers),
    }


def overall_figures(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the figures over all classes, `[...]`, of confusion matrices `[..., C, C]`.

    Balanced accuracy is the mean of the classes' recalls, and so equals the macro recall. Matthews'
    correlation is that of Gorodkin (2004), which for two classes is Matthews' own (1975).
    """
    right, rows, answers = _margins(confusion)
    total, all_right = rows.sum(axis=-1), right.sum(axis=-1)
    by_class = class_figures(confusion)
    recall = by_class[RECALL].mean(axis=-1)
    spread = (total**2 - (rows**2).sum(axis=-1)) * (total**2 - (answers**2).sum(axis=-1))
    return {
        ACCURACY: ratio(all_right, total),
        BALANCED_ACCURACY: recall,
        MACRO_PRECISION: by_class[PRECISION].mean(axis=-1),
        MACRO_RECALL: recall,
        MACRO_F1: by_class[F1].mean(axis=-1),
        MCC: ratio(all_right * total - (rows * answers).sum(axis=-1), np.sqrt(spread)),
    }


def roc_auc(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    """Returns the area under the ROC curve, `[...]`; rows of the same score count half.

    Args:
        positives: The class's rows at each distinct score, the highest score first; `[..., G]`.
        negatives: The other rows.
    """
    above = np.cumsum(positives, axis=-1) - positives / 2
    pairs = positives.sum(axis=-1) * negatives.sum(axis=-1)
    return ratio((above * negatives).sum(axis=-1), pairs)


def average_precision(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    """Returns the area under the precision-recall curve, `[...]`, in steps (not interpolated).

    Args:
        positives: The class's rows at each distinct score, the highest score first; `[..., G]`.
        negatives: The other rows.
    """
    found = np.cumsum(positives, axis=-1)
    answered = np.maximum(found + np.cumsum(negatives, axis=-1), 1)
    return ratio((positives * found / answered).sum(axis=-1), positives.sum(axis=-1))


def row_losses(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, np.ndarray]:
    """Returns each row's log loss and Brier score, float64 `[N]`; their means are the figures.

    The log loss is that of natural logarithms, with probabilities of at least 1.2e-7. The Brier
    score is Brier's own (1950), summed over the classes: 0 at best, 2 at worst, and for two classes
    twice the score of one class alone.

    Args:
        labels: int64 `[N]`.
        probabilities: float `[N, C]`.
    """
    probabilities = probabilities.astype(np.float64)
    right = np.eye(probabilities.shape[1])[labels]
    of_right = (probabilities * right).sum(axis=1)
    return {
        LOG_LOSS: -np.log(np.maximum(of_right, _LEAST_PROBABILITY)),
        BRIER: ((probabilities - right) ** 2).sum(axis=1),
    }


def calibration_bin(scores: np.ndarray) -> np.ndarray:
    """Returns the bin of each probability: 15 of the same width, closed above."""
    bins = np.ceil(scores.astype(np.float64) * CALIBRATION_BINS) - 1
    return np.clip(bins, 0, CALIBRATION_BINS - 1).astype(np.int64)


def calibration_error(gaps: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Returns the expected calibration error (Guo et al. 2017, equation 3), `[...]`.

    Args:
        gaps: For each bin, over its rows, the sum of `right (0 or 1) - probability of the answer`;
            `[..., 15]`.
        rows: The rows of all bins, `[...]`.
    """
    return ratio(np.abs(gaps).sum(axis=-1), rows)


def _margins(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns right answers, rows and answers of each class, float64 `[..., C]`."""
    counts = confusion.astype(np.float64)
    return np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(axis=-1), counts.sum(axis=-2)


# === Intervals ===
#
# Percentile bootstrap (Efron 1979): the rows are drawn anew with replacement, and the middle 95% of
# the figures of such draws is the interval.


def estimate(value: float, drawn: np.ndarray) -> Estimate:
    """Returns a figure with the percentile interval of its resamples; undefined ones are left out.

    Args:
        value: The figure on the rows themselves; where it is NaN there is no interval.
        drawn: The figure on each resample, `[resamples]`.
    """
    drawn = drawn[~np.isnan(drawn)]
    if np.isnan(value) or not drawn.size:
        return Estimate(number(value), None, None)
    tail = (1 - INTERVAL) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Estimate(float(value), float(low), float(high))


def accuracy_estimate(right: int, rows: int) -> Estimate:
    """Returns the accuracy with its percentile bootstrap interval.

    The right rows of a resample are binomial, so nothing need be drawn.
    """
    if not rows:
        return Estimate(None, None, None)
    tail = (1 - INTERVAL) / 2
    low, high = stats.binom.ppf([tail, 1 - tail], rows, right / rows) / rows
    return Estimate(right / rows, float(low), float(high))


def draw_confusions(
    labels: np.ndarray,
    answers: Sequence[np.ndarray],
    num_classes: int,
    *,
    resamples: int,
    rng: np.random.Generator,
) -> Iterator[list[np.ndarray]]:
    """Yields confusion matrices of resamples in chunks, without drawing a single row.

    How many rows of a resample fall into each cell (label and answers) is multinomial. The order of
    the rows makes no difference.

    Args:
        labels: int64 `[N]`.
        answers: Of each model, int64 `[N]`; a resample's matrices are of the same rows.
        num_classes: C.
        resamples: How many.
        rng: The source of chance.

    Yields:
        For each model, int64 `[resamples in the chunk, C, C]`.
    """
    cells, counts = np.unique(np.stack([labels, *answers]), axis=1, return_counts=True)
    size = max(1, _CHUNK // max(num_classes**2, len(counts)))
    for start in range(0, resamples, size):
        drawn = rng.multinomial(
            len(labels), counts / len(labels), size=min(size, resamples - start)
        )
        confusions = []
        for of_model in cells[1:]:
            confusion = np.zeros((len(drawn), num_classes, num_classes), np.int64)
            for cell, (label, answer) in enumerate(zip(cells[0], of_model, strict=True)):
                confusion[:, label, answer] += drawn[:, cell]
            confusions.append(confusion)
        yield confusions


def measure(
    labels: np.ndarray, probabilities: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0
) -> Measurement:
    """Measures a model's answers.

    The interval of the calibration error lies too high where the model is well calibrated: drawing
    rows anew adds deviations, and each counts.

    Args:
        labels: int64 `[N]`, N at least 1.
        probabilities: float32 `[N, C]`, valid (`invalid_rows`); the answer is the highest one.
        resamples: How many are drawn; the figures take about their number times N times C steps.
        seed: Of the draws; with the same one, rows in another order give the same figures.

    Returns:
        Every figure, those over all classes with intervals.
    """
    # Draws go by position, so that must not depend on the order of the rows.
    order = np.lexsort((*probabilities.T, labels))
    labels, probabilities = labels[order], probabilities[order]
    num_classes = probabilities.shape[1]
    answers = probabilities.argmax(axis=1)
    confusion = confusion_matrix(labels, answers, num_classes)
    by_class = class_figures(confusion)
    rng = np.random.default_rng(seed)

    of_counts = [
        overall_figures(drawn)
        for (drawn,) in draw_confusions(
            labels, [answers], num_classes, resamples=resamples, rng=rng
        )
    ]
    overall = {
        name: estimate(float(value), np.concatenate([figures[name] for figures in of_counts]))
        for name, value in overall_figures(confusion).items()
    }
    overall[ACCURACY] = accuracy_estimate(int(confusion.trace()), len(labels))

    rows = _Rows(labels, probabilities, answers)
    whole = rows.figures(np.ones((1, len(labels))))
    of_rows = [rows.figures(weights) for weights in _draw_weights(len(labels), resamples, rng)]
    for name in (MACRO_ROC_AUC, MACRO_PR_AUC, LOG_LOSS, BRIER, ECE):
        drawn = np.concatenate([figures[name] for figures in of_rows])
        overall[name] = estimate(float(whole[name][0]), drawn)
    by_class |= {ROC_AUC: whole[ROC_AUC][0], PR_AUC: whole[PR_AUC][0]}
    return Measurement(
        overall=overall,
        classes=[
            {"rows": int(count)} | {name: number(values[i]) for name, values in by_class.items()}
            for i, count in enumerate(confusion.sum(axis=1))
        ],
        confusion=confusion.tolist(),
    )


class _Rows:
    """Figures that need the rows, for many weightings of them at once."""

    def __init__(self, labels: np.ndarray, probabilities: np.ndarray, answers: np.ndarray) -> None:
        top = probabilities.max(axis=1).astype(np.float64)
        gaps = np.zeros((len(labels), CALIBRATION_BINS))
        gaps[np.arange(len(labels)), calibration_bin(top)] = (answers == labels) - top
        losses = row_losses(labels, probabilities)
        self._columns = np.column_stack([losses[LOG_LOSS], losses[BRIER], gaps])
        self._curves = [
            self._sorted(labels == i, scores) for i, scores in enumerate(probabilities.T)
        ]

    @staticmethod
    def _sorted(positive: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, ...]:
        """Returns the order from the highest score, what is positive in it, and where groups start.

        A group is the rows of the same score.
        """
        order = np.argsort(-scores, kind="stable")
        ranked = scores[order]
        starts = np.flatnonzero(np.append(True, ranked[1:] != ranked[:-1]))
        return order, positive[order].astype(np.float64), starts

    def figures(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the figures by name, `[W]`; those of each class are `[W, C]`.

        Args:
            weights: How often each row counts, `[W, N]`.
        """
        weights = weights.astype(np.float64)
        sums = weights @ self._columns
        total = weights.sum(axis=1)
        roc, pr = [], []
        for order, positive, starts in self._curves:
            ranked = weights[:, order]
            positives = ranked * positive
            if len(starts) < len(order):
                ranked = np.add.reduceat(ranked, starts, axis=1)
                positives = np.add.reduceat(positives, starts, axis=1)
            ranked -= positives
            roc.append(roc_auc(positives, ranked))
            pr.append(average_precision(positives, ranked))
        roc_by_class, pr_by_class = np.stack(roc, axis=1), np.stack(pr, axis=1)
        return {
            ROC_AUC: roc_by_class,
            PR_AUC: pr_by_class,
            MACRO_ROC_AUC: roc_by_class.mean(axis=1),
            MACRO_PR_AUC: pr_by_class.mean(axis=1),
            LOG_LOSS: sums[:, 0] / total,
            BRIER: sums[:, 1] / total,
            ECE: calibration_error(sums[:, 2:], total),
        }


def _draw_weights(rows: int, resamples: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yields how often each row is in each resample, int64 `[resamples in the chunk, rows]`."""
    size = max(1, _CHUNK // rows)
    for start in range(0, resamples, size):
        count = min(size, resamples - start)
        drawn = rng.integers(rows, size=(count, rows))
        drawn += rows * np.arange(count)[:, None]
        yield np.bincount(drawn.ravel(), minlength=count * rows).reshape(count, rows)


def number(value: float) -> float | None:
    """Returns a figure as JSON can say it: None where it is undefined."""
    return None if np.isnan(value) else float(value)
