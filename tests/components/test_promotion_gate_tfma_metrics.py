import math
import pickle

import numpy as np
import pytest
from tensorflow_model_analysis.metrics import metric_types

from bert_tfx.components.promotion_gate import tfma_metrics
from bert_tfx.components.promotion_gate.metrics import measure
from bert_tfx.components.promotion_gate.tfma_metrics import TFMA_ACCURACY, Totals


def rows(count: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(count)
    labels = rng.integers(0, classes, count)
    odds = np.exp(2 * rng.normal(size=(count, classes)) + 2 * np.eye(classes)[labels])
    return labels, (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)


def totals(labels: np.ndarray, probabilities: np.ndarray, classes: int) -> Totals:
    made = Totals.zero(classes)
    made.add_rows(labels, probabilities)
    return made


@pytest.mark.parametrize("classes", [2, 4])
def test_figures_are_those_that_the_gate_decides_by(classes):
    labels, probabilities = rows(500, classes)
    overall, by_class = totals(labels, probabilities, classes).figures()
    measured = measure(labels, probabilities, resamples=1)
    for name, found in measured.overall.items():
        name = TFMA_ACCURACY if name == "accuracy" else name
        # Two scores in a thousand may share a bin.
        assert overall[name] == pytest.approx(found.value, abs=1e-4), name
    for found, expected in zip(by_class, measured.classes, strict=True):
        assert found == pytest.approx({k: v for k, v in expected.items() if k != "rows"}, abs=1e-4)


def test_totals_of_parts_are_those_of_the_whole(monkeypatch):
    labels, probabilities = rows(500, 3)
    whole = totals(labels, probabilities, 3)
    monkeypatch.setattr(tfma_metrics, "_ROWS_AT_ONCE", 7)
    combiner = tfma_metrics._Combiner(metric_types.MetricKey("totals"), None, 3)
    monkeypatch.setattr(
        tfma_metrics.metric_util,
        "to_label_prediction_example_weight",
        lambda row, **_: iter([(np.array([row[0]]), row[1], 1.0)]),
    )
    parts = []
    for part in np.array_split(np.arange(500), 6):
        accumulator = combiner.create_accumulator()
        for i in part:
            accumulator = combiner.add_input(accumulator, (labels[i], probabilities[i]))
            assert len(accumulator.labels) < 7
        # Beam hands accumulators from one worker to another.
        parts.append(pickle.loads(pickle.dumps(combiner.compact(accumulator))))
    ((_, merged),) = combiner.extract_output(combiner.merge_accumulators(parts)).items()
    assert merged.confusion.tolist() == whole.confusion.tolist()
    assert merged.scores == whole.scores
    np.testing.assert_allclose(merged.losses, whole.losses)
    np.testing.assert_allclose(merged.calibration, whole.calibration)


@pytest.mark.parametrize(
    "answer", [[math.nan, 0.5], [0.5, 0.6], [0.2, 0.3, 0.5]], ids=["nan", "sum", "three labels"]
)
def test_one_invalid_answer_leaves_no_figure(answer):
    made = totals(*rows(100, 2), 2)
    made.add_rows(np.array([1]), np.array([answer], np.float32))
    overall, by_class = made.figures()
    assert all(math.isnan(value) for value in overall.values())
    assert all(math.isnan(value) for values in by_class for value in values.values())


def test_probability_with_a_rounding_error_is_one():
    answers = np.array([[1 + 1e-6, 0.0], [0.0, 1 + 1e-6]], np.float32)
    overall, _ = totals(np.array([0, 1]), answers, 2).figures()
    assert overall[TFMA_ACCURACY] == overall["macro_roc_auc"] == 1


def test_curve_of_many_rows_is_thinned_and_keeps_its_ends():
    labels, probabilities = rows(5000, 2)
    made = totals(labels, probabilities, 2)
    points = made.curve_plot(1).matrices
    assert len(points) == 1000
    assert points[0].true_positives == (labels == 1).sum()
    assert points[0].false_positives == (labels == 0).sum()
    assert points[-1].true_positives == points[-1].false_positives == 0
    thresholds = [point.threshold for point in points]
    assert thresholds == sorted(thresholds)
    assert len(made.by_score(1)[0]) > 4000


def test_threshold_of_a_point_is_where_its_rows_begin():
    labels, probabilities = rows(200, 2)
    scores = probabilities[:, 1].astype(np.float64)
    for point in totals(labels, probabilities, 2).curve_plot(1).matrices:
        above = scores >= point.threshold - 1e-12
        assert point.true_positives == (above & (labels == 1)).sum()
        assert point.false_positives == (above & (labels == 0)).sum()
