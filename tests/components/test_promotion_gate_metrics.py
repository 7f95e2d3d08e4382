import math
import time

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bert_tfx.components.promotion_gate import metrics
from bert_tfx.components.promotion_gate.metrics import (
    Estimate,
    accuracy_estimate,
    calibration_bin,
    estimate,
    invalid_rows,
    measure,
)


def answers(labels: np.ndarray, classes: int, *, seed: int, decimals: int = 7) -> np.ndarray:
    """Makes up probabilities that are right more often than not; fewer decimals make ties."""
    scores = np.random.default_rng(seed).normal(size=(len(labels), classes))
    scores[np.arange(len(labels)), labels] += 1
    odds = np.round(np.exp(2 * scores), decimals) + 10.0**-decimals
    return (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)


def rows(count: int, classes: int, *, seed: int = 0, decimals: int = 7):
    labels = np.random.default_rng(seed).permutation(count) % classes
    return labels, answers(labels, classes, seed=seed, decimals=decimals)


def calibration_error(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Guo et al. 2017, equation 3, bin by bin."""
    top = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    error = 0.0
    for i in range(15):
        inside = (top > i / 15) & (top <= (i + 1) / 15)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - top[inside].mean())
    return error


def one_against_the_others(figure, labels: np.ndarray, probabilities: np.ndarray) -> list[float]:
    return [figure(labels == i, scores) for i, scores in enumerate(probabilities.T)]


def brier(labels: np.ndarray, probabilities: np.ndarray) -> float:
    return ((probabilities - np.eye(probabilities.shape[1])[labels]) ** 2).sum(axis=1).mean()


# === Figures ===


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("decimals", [7, 0])
def test_figures_are_those_of_scikit_learn(classes, decimals):
    labels, probabilities = rows(400, classes, seed=classes, decimals=decimals)
    found = probabilities.argmax(axis=1)
    precision, recall, f1, _ = sklearn.metrics.precision_recall_fscore_support(labels, found)
    roc = one_against_the_others(sklearn.metrics.roc_auc_score, labels, probabilities)
    pr = one_against_the_others(sklearn.metrics.average_precision_score, labels, probabilities)
    reference = {
        "accuracy": sklearn.metrics.accuracy_score(labels, found),
        "balanced_accuracy": sklearn.metrics.balanced_accuracy_score(labels, found),
        "macro_precision": sklearn.metrics.precision_score(labels, found, average="macro"),
        "macro_recall": sklearn.metrics.recall_score(labels, found, average="macro"),
        "macro_f1": sklearn.metrics.f1_score(labels, found, average="macro"),
        "mcc": sklearn.metrics.matthews_corrcoef(labels, found),
        "macro_roc_auc": np.mean(roc),
        "macro_pr_auc": np.mean(pr),
        "log_loss": sklearn.metrics.log_loss(labels, probabilities),
        "brier_score": brier(labels, probabilities),
        "expected_calibration_error": calibration_error(labels, probabilities),
    }
    measured = measure(labels, probabilities, resamples=20)
    assert {name: e.value for name, e in measured.overall.items()} == pytest.approx(
        reference, abs=1e-7
    )
    for i, of_class in enumerate(measured.classes):
        values = {"precision": precision, "recall": recall, "f1": f1, "roc_auc": roc, "pr_auc": pr}
        assert of_class == pytest.approx(
            {"rows": (labels == i).sum()} | {name: by[i] for name, by in values.items()}
        )
    assert measured.confusion == sklearn.metrics.confusion_matrix(labels, found).tolist()


def test_brier_score_of_two_classes_is_twice_that_of_one():
    labels, probabilities = rows(100, 2)
    of_one = sklearn.metrics.brier_score_loss(labels, probabilities[:, 1])
    value = measure(labels, probabilities, resamples=1).overall["brier_score"].value
    assert value == pytest.approx(2 * of_one, abs=1e-6)


def test_macro_roc_auc_is_that_of_one_class_against_the_rest():
    labels, probabilities = rows(200, 3)
    probabilities = probabilities.astype(np.float64)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    reference = sklearn.metrics.roc_auc_score(labels, probabilities, multi_class="ovr")
    value = measure(labels, probabilities, resamples=1).overall["macro_roc_auc"].value
    assert value == pytest.approx(reference)


def test_what_a_single_class_cannot_show_is_undefined():
    labels, probabilities = rows(60, 2)
    measured = measure(labels[labels == 0], probabilities[labels == 0], resamples=10)
    undefined = {name for name, e in measured.overall.items() if e == Estimate(None, None, None)}
    assert undefined == {
        "balanced_accuracy",
        "macro_recall",
        "mcc",
        "macro_roc_auc",
        "macro_pr_auc",
    }
    assert measured.classes[1]["rows"] == 0
    assert measured.classes[1]["recall"] is measured.classes[1]["roc_auc"] is None
    assert measured.overall["accuracy"].value == measured.classes[0]["recall"]


def test_class_that_is_never_the_answer_has_no_precision_and_an_f1_of_0():
    labels = np.array([0, 1] * 20)
    always = np.tile(np.array([0.9, 0.1], np.float32), (40, 1))
    measured = measure(labels, always, resamples=10)
    assert measured.classes[1]["precision"] is None
    assert measured.classes[1]["f1"] == measured.classes[1]["recall"] == 0
    assert measured.overall["macro_precision"].value is None
    assert measured.overall["mcc"].value is None
    assert measured.overall["balanced_accuracy"].value == 0.5
    assert measured.overall["macro_roc_auc"].value == 0.5


def test_sure_and_wrong_has_a_finite_loss():
    sure = np.array([[1.0, 0.0]] * 4, np.float32)
    overall = measure(np.array([1, 1, 0, 0]), sure, resamples=5).overall
    assert overall["log_loss"].value == pytest.approx(0.5 * -math.log(np.finfo(np.float32).eps))
    assert overall["brier_score"].value == 1.0


@pytest.mark.parametrize(
    ("score", "expected"), [(0.0, 0), (1 / 15, 0), (0.07, 1), (0.5, 7), (14.5 / 15, 14), (1.0, 14)]
)
def test_calibration_bins_are_closed_above(score, expected):
    assert calibration_bin(np.array([score])).tolist() == [expected]


@pytest.mark.parametrize(
    ("answer", "invalid"),
    [
        ([0.25, 0.75], False),
        ([0.0, 1.0], False),
        ([0.4995, 0.5], False),
        ([0.49, 0.5], True),
        ([0.6, 0.6], True),
        ([math.nan, 0.5], True),
        ([math.inf, 0.5], True),
        ([math.inf, -math.inf], True),
        ([-0.5, 1.5], True),
        ([0.0, 0.0], True),
    ],
)
def test_invalid_answers(answer, invalid):
    assert invalid_rows(np.array([answer], np.float32), 2).tolist() == [invalid]


def test_answers_for_another_number_of_classes_are_invalid():
    assert invalid_rows(np.full((3, 2), 0.5, np.float32), 3).all()


# === Intervals ===


@pytest.mark.parametrize(("classes", "count"), [(2, 300), (3, 240)])
def test_intervals_are_those_of_scipy(classes, count):
    labels, probabilities = rows(count, classes, seed=4)

    def figures(sample: np.ndarray) -> list[float]:
        right, scores = labels[sample], probabilities[sample]
        found = scores.argmax(axis=1)
        roc = one_against_the_others(sklearn.metrics.roc_auc_score, right, scores)
        return [
            (right == found).mean(),
            sklearn.metrics.f1_score(right, found, average="macro"),
            sklearn.metrics.matthews_corrcoef(right, found),
            np.mean(roc),
            sklearn.metrics.log_loss(right, scores),
            brier(right, scores),
            calibration_error(right, scores),
        ]

    names = (
        "accuracy",
        "macro_f1",
        "mcc",
        "macro_roc_auc",
        "log_loss",
        "brier_score",
        "expected_calibration_error",
    )
    reference = stats.bootstrap(
        (np.arange(count),),
        figures,
        n_resamples=600,
        vectorized=False,
        method="percentile",
        random_state=1,
    ).confidence_interval
    found = measure(labels, probabilities, resamples=4000).overall
    for name, low, high in zip(names, *reference, strict=True):
        # Of 600 draws, a bound has an error of about 5% of the width.
        assert found[name].low == pytest.approx(low, abs=0.15 * (high - low)), name
        assert found[name].high == pytest.approx(high, abs=0.15 * (high - low)), name


@given(st.integers(1, 400), st.floats(0, 1))
def test_interval_of_the_accuracy_holds_it(count, share):
    found = accuracy_estimate(round(count * share), count)
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_accuracy_of_no_rows_is_undefined():
    assert accuracy_estimate(0, 0) == Estimate(None, None, None)


def test_undefined_resamples_are_left_out():
    drawn = np.array([np.nan, 1.0, 2.0, 3.0])
    assert estimate(2.0, drawn) == Estimate(2.0, 1.05, 2.95)
    assert estimate(2.0, np.full(3, np.nan)) == Estimate(2.0, None, None)
    assert estimate(np.nan, drawn) == Estimate(None, None, None)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 4), st.booleans())
def test_order_of_the_rows_makes_no_difference(seed, classes, ties):
    labels, probabilities = rows(50, classes, seed=seed, decimals=0 if ties else 7)
    order = np.random.default_rng(seed).permutation(50)
    assert measure(labels, probabilities, resamples=50) == measure(
        labels[order], probabilities[order], resamples=50
    )


def test_seed_decides_the_draws():
    labels, probabilities = rows(80, 3)
    first, again, other = (
        measure(labels, probabilities, resamples=50, seed=seed).overall for seed in (1, 1, 2)
    )
    assert first == again
    for name in ("macro_f1", "macro_roc_auc", "log_loss"):
        assert first[name].value == other[name].value
        assert first[name].low != other[name].low


def test_chunks_bound_the_memory_and_change_nothing(monkeypatch):
    labels, probabilities = rows(90, 3)
    whole = measure(labels, probabilities, resamples=70)
    monkeypatch.setattr(metrics, "_CHUNK", 1000)
    sizes = [len(weights) for weights in metrics._draw_weights(90, 70, np.random.default_rng(0))]
    assert sizes == [11] * 6 + [4]
    assert measure(labels, probabilities, resamples=70) == whole


def test_many_rows_take_seconds():
    labels, probabilities = rows(12_500, 2)
    started = time.monotonic()
    measure(labels, probabilities)
    assert time.monotonic() - started < 30
