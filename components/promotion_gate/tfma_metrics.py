"""The figures of PromotionGate as a TFMA metric.

TFMA's own are of two classes, or of one against the others at a threshold of 0.5, which for more
classes is not what the model answers; its areas under curves are 0 where they are undefined, and
have 10,000 linear thresholds where the answers of a sure model all lie beyond the last; its plots
fail on NaN. One metric of ours adds up what all figures need in one pass, and is NaN where they
are undefined or an answer is no probability.
"""

import collections
import dataclasses
import itertools
from collections.abc import Iterable
from typing import Any

import apache_beam as beam
import numpy as np
from tensorflow_model_analysis.metrics import metric_types, metric_util
from tensorflow_model_analysis.proto import config_pb2, metrics_for_slice_pb2

from bert_tfx.components.promotion_gate.metrics import (
    ACCURACY,
    BRIER,
    CALIBRATION_BINS,
    ECE,
    LOG_LOSS,
    MACRO_PR_AUC,
    MACRO_ROC_AUC,
    PR_AUC,
    ROC_AUC,
    average_precision,
    calibration_bin,
    calibration_error,
    class_figures,
    confusion_matrix,
    invalid_rows,
    overall_figures,
    ratio,
    roc_auc,
    row_losses,
)

TFMA_ACCURACY = "sparse_categorical_accuracy"
# Of plots without a class, or of the same class, TFMA's reader keeps those of one name only; these
# two names count as one.
_CALIBRATION_PLOT = "calibration_plot"
_CONFUSION_PLOT = "confusion_matrix_plot"

# Scores are counted in bins of their logit, so that 0.9999 and 0.99999 are told apart; float32 ends
# at 1 - 6e-8, where it is 16.6. The bins are so many that different scores hardly meet in one, and
# few enough to bound what millions of rows take.
_SCORE_BINS = 2**18
_MOST_LOGIT = 17.0
_CURVE_POINTS = 1000
_ROWS_AT_ONCE = 1000
_LOSSES = (LOG_LOSS, BRIER)


@dataclasses.dataclass
class Totals:
    """What is added up over rows, for C classes.

    Attributes:
        confusion: Rows by right label and answer, `[C, C]`; all NaN once an answer is invalid.
        losses: Sums of log loss and Brier score, `[2]`.
        calibration: For the answer's probability (first) and that of each class, for each bin: its
            rows, the sum of the probabilities, and the rows where it is right; `[1 + C, 15, 3]`.
        scores: Rows by class, bin of that class's score, and whether they are the class's own.
    """

    confusion: np.ndarray
    losses: np.ndarray
    calibration: np.ndarray
    scores: collections.Counter[tuple[int, int, bool]]

    @classmethod
    def zero(cls, num_classes: int) -> "Totals":
        """Returns those of no rows."""
        return cls(
            confusion=np.zeros((num_classes, num_classes)),
            losses=np.zeros(len(_LOSSES)),
            calibration=np.zeros((1 + num_classes, CALIBRATION_BINS, 3)),
            scores=collections.Counter(),
        )

    def add_rows(self, labels: np.ndarray, probabilities: np.ndarray) -> None:
        """Adds rows: int64 `[N]`, and the answers to them, float32 `[N, C]`."""
        num_classes = len(self.confusion)
        if invalid_rows(probabilities, num_classes).any():
            self.confusion += np.nan
            return
        answers = probabilities.argmax(axis=1)
        self.confusion += confusion_matrix(labels, answers, num_classes)
        losses = row_losses(labels, probabilities)
        self.losses += [losses[name].sum() for name in _LOSSES]
        own = labels[:, None] == np.arange(num_classes)
        self._calibrate(0, probabilities.max(axis=1), answers == labels)
        for index, scores in enumerate(probabilities.T):
            self._calibrate(1 + index, scores, own[:, index])
            bins = _score_bin(scores).tolist()
            self.scores.update(zip(itertools.repeat(index), bins, own[:, index].tolist()))

    def _calibrate(self, index: int, scores: np.ndarray, right: np.ndarray) -> None:
        bins = calibration_bin(scores)
        for column, weights in enumerate((np.ones(len(scores)), scores, right)):
            self.calibration[index, :, column] += np.bincount(bins, weights, CALIBRATION_BINS)

    def add(self, other: "Totals") -> None:
        """Adds those of other rows."""
        self.confusion += other.confusion
        self.losses += other.losses
        self.calibration += other.calibration
        self.scores.update(other.scores)

    def by_score(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the bins of a class's scores, the highest first, its rows there, and others."""
        found = {score_bin for of_class, score_bin, _ in self.scores if of_class == index}
        bins = sorted(found, reverse=True)
        own, others = (
            np.array([self.scores[index, score_bin, is_own] for score_bin in bins], float)
            for is_own in (True, False)
        )
        return np.array(bins, int), own, others

    def figures(self) -> tuple[dict[str, float], list[dict[str, float]]]:
        """Returns the figures over all classes, and those of each."""
        rows = self.confusion.sum()
        valid = np.where(np.isnan(rows), np.nan, 1)
        counts = [self.by_score(index)[1:] for index in range(len(self.confusion))]
        by_class = class_figures(self.confusion) | {
            ROC_AUC: np.array([roc_auc(own, others) for own, others in counts]) * valid,
            PR_AUC: np.array([average_precision(own, others) for own, others in counts]) * valid,
        }
        gaps = self.calibration[0, :, 2] - self.calibration[0, :, 1]
        overall = overall_figures(self.confusion) | {
            MACRO_ROC_AUC: by_class[ROC_AUC].mean(),
            MACRO_PR_AUC: by_class[PR_AUC].mean(),
            ECE: calibration_error(gaps, rows),
            **dict(zip(_LOSSES, ratio(self.losses, np.full(2, rows)), strict=True)),
        }
        overall = {TFMA_ACCURACY if name == ACCURACY else name: v for name, v in overall.items()}
        return (
            {name: float(value) for name, value in overall.items()},
            [
                {name: float(values[i]) for name, values in by_class.items()}
                for i in range(len(self.confusion))
            ],
        )

    def calibration_plot(self, index: int) -> metrics_for_slice_pb2.CalibrationHistogramBuckets:
        """Returns the reliability diagram of the answers (index 0) or of class `index - 1`."""
        plot = metrics_for_slice_pb2.CalibrationHistogramBuckets()
        for i, (rows, scores, right) in enumerate(self.calibration[index]):
            plot.buckets.add(
                lower_threshold_inclusive=i / CALIBRATION_BINS,
                upper_threshold_exclusive=(i + 1) / CALIBRATION_BINS,
                num_weighted_examples={"value": rows},
                total_weighted_refined_prediction={"value": scores},
                total_weighted_label={"value": right},
            )
        return plot

    def curve_plot(self, index: int) -> metrics_for_slice_pb2.ConfusionMatrixAtThresholds:
        """Returns the points of a class's curves: counts at each threshold where they change."""
        bins, own, others = self.by_score(index)
        # Above the highest score there is nothing.
        found, wrong = (np.append(0, counts.cumsum()) for counts in (own, others))
        points = np.unique(np.linspace(0, len(bins), _CURVE_POINTS).astype(int))
        plot = metrics_for_slice_pb2.ConfusionMatrixAtThresholds()
        for i in points[::-1]:
            tp, fp = found[i], wrong[i]
            plot.matrices.add(
                threshold=_threshold(bins[i - 1]) if i else 1.0,
                true_positives=tp,
                false_positives=fp,
                true_negatives=wrong[-1] - fp,
                false_negatives=found[-1] - tp,
                precision=tp / (tp + fp) if tp + fp else np.nan,
                recall=tp / found[-1] if found[-1] else np.nan,
            )
        return plot

    def confusion_plot(self) -> metrics_for_slice_pb2.MultiClassConfusionMatrixAtThresholds:
        """Returns the confusion matrix."""
        plot = metrics_for_slice_pb2.MultiClassConfusionMatrixAtThresholds()
        matrix = plot.matrices.add(threshold=0)
        for (label, answer), rows in np.ndenumerate(self.confusion):
            matrix.entries.add(
                actual_class_id=label, predicted_class_id=answer, num_weighted_examples=rows
            )
        return plot


def _score_bin(scores: np.ndarray) -> np.ndarray:
    # What counts as a probability may have a rounding error above 1.
    scores = np.minimum(scores.astype(np.float64), 1)
    with np.errstate(divide="ignore"):
        logits = np.log(scores) - np.log1p(-scores)
    bins = (logits + _MOST_LOGIT) / (2 * _MOST_LOGIT) * _SCORE_BINS
    return np.clip(bins, 0, _SCORE_BINS - 1).astype(np.int64)


def _threshold(score_bin: int) -> float:
    """Returns a bin's lower edge as a probability."""
    logit = (2 * score_bin / _SCORE_BINS - 1) * _MOST_LOGIT
    return 0.0 if not score_bin else float(1 / (1 + np.exp(-logit)))


class ClassificationFigures(metric_types.Metric):
    """All figures of a classifier, under their names in `metrics`; accuracy under TFMA's.

    Beyond those there are plots: the confusion matrix, the reliability diagram of the answers and
    of each class, and each class's counts at thresholds, from which its ROC and precision-recall
    curves are drawn.

    Args:
        num_classes: How many classes there are.
        name: Of the metric; its figures have their own names.
    """

    def __init__(self, num_classes: int, name: str = "classification_figures") -> None:
        super().__init__(
            metric_util.merge_per_key_computations(_computations),
            num_classes=num_classes,
            name=name,
        )


def _computations(
    num_classes: int,
    name: str,
    eval_config: config_pb2.EvalConfig | None = None,
    model_name: str = "",
) -> metric_types.MetricComputations:
    key = metric_types.MetricKey(name=f"_{name}", model_name=model_name)
    return [
        metric_types.MetricComputation(
            keys=[key], preprocessors=None, combiner=_Combiner(key, eval_config, num_classes)
        ),
        metric_types.DerivedMetricComputation(
            keys=[*_results(Totals.zero(num_classes), model_name)],
            result=lambda metrics: _results(metrics[key], model_name),
        ),
    ]


def _results(totals: Totals, model_name: str) -> dict[metric_types.MetricKey, Any]:
    """Returns all figures and plots by key."""
    overall, by_class = totals.figures()
    results: dict[metric_types.MetricKey, Any] = {
        metric_types.MetricKey(name=name, model_name=model_name): value
        for name, value in overall.items()
    }

    def plot(name: str, value: Any, sub_key: metric_types.SubKey | None = None) -> None:
        results[metric_types.PlotKey(name=name, model_name=model_name, sub_key=sub_key)] = value

    plot(_CONFUSION_PLOT, totals.confusion_plot())
    plot(_CALIBRATION_PLOT, totals.calibration_plot(0))
    for index, figures in enumerate(by_class):
        of_class = metric_types.SubKey(class_id=index)
        for name, value in figures.items():
            key = metric_types.MetricKey(name=name, model_name=model_name, sub_key=of_class)
            results[key] = value
        plot(_CALIBRATION_PLOT, totals.calibration_plot(1 + index), of_class)
        plot(_CONFUSION_PLOT, totals.curve_plot(index), of_class)
    return results


@dataclasses.dataclass
class _Accumulator:
    """Totals, and rows that wait to be added many at once, which is many times faster."""

    totals: Totals
    labels: list[int] = dataclasses.field(default_factory=list)
    probabilities: list[np.ndarray] = dataclasses.field(default_factory=list)

    def added(self) -> Totals:
        """Returns the totals, with all rows."""
        if self.labels:
            self.totals.add_rows(np.array(self.labels), np.stack(self.probabilities))
        self.labels, self.probabilities = [], []
        return self.totals


class _Combiner(beam.CombineFn):
    """Adds up rows."""

    def __init__(
        self,
        key: metric_types.MetricKey,
        eval_config: config_pb2.EvalConfig | None,
        num_classes: int,
    ) -> None:
        self._key = key
        self._eval_config = eval_config
        self._num_classes = num_classes

    def create_accumulator(self) -> _Accumulator:
        return _Accumulator(Totals.zero(self._num_classes))

    def add_input(
        self, accumulator: _Accumulator, element: metric_types.StandardMetricInputs
    ) -> _Accumulator:
        label, probabilities, _ = next(
            metric_util.to_label_prediction_example_weight(
                element,
                eval_config=self._eval_config,
                model_name=self._key.model_name,
                flatten=False,
            )
        )
        accumulator.labels.append(int(label.item()))
        accumulator.probabilities.append(probabilities)
        if len(accumulator.labels) >= _ROWS_AT_ONCE:
            accumulator.added()
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[_Accumulator]) -> _Accumulator:
        merged = self.create_accumulator()
        for accumulator in accumulators:
            merged.totals.add(accumulator.added())
        return merged

    def compact(self, accumulator: _Accumulator) -> _Accumulator:
        accumulator.added()
        return accumulator

    def extract_output(self, accumulator: _Accumulator) -> dict[metric_types.MetricKey, Totals]:
        return {self._key: accumulator.added()}
