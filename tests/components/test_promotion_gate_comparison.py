import itertools

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar

from bert_tfx.components.promotion_gate.comparison import (
    PairedCounts,
    accuracy_difference,
    figure_difference,
    paired_counts,
)

COUNTS = st.builds(PairedCounts, *[st.integers(0, 60)] * 4).filter(lambda counts: counts.rows > 0)


def some_answers(count: int, classes: int, seed: int = 0):
    """Makes up labels, and the answers of a better and a worse model."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(count) % classes
    others = rng.integers(0, classes, (2, count))
    kept = rng.random((2, count)) < [[0.8], [0.7]]
    return labels, *np.where(kept, labels, others)


def test_paired_counts():
    labels = np.array([0, 1, 2, 0, 1, 2])
    candidate = np.array([0, 1, 2, 1, 0, 0])
    baseline = np.array([0, 1, 0, 0, 2, 0])
    assert paired_counts(labels, candidate, baseline) == PairedCounts(2, 1, 1, 2)


@settings(deadline=None)
@given(COUNTS)
@example(PairedCounts(10, 0, 0, 2))
def test_mcnemar_is_that_of_statsmodels(counts):
    table = [
        [counts.both_right, counts.only_candidate],
        [counts.only_baseline, counts.both_wrong],
    ]
    assert counts.mcnemar_p() == pytest.approx(mcnemar(table, exact=True).pvalue, abs=1e-12)


@pytest.mark.parametrize("differing", [(0, 5), (3, 2), (1, 0), (4, 4)])
@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.95, 0.999])
def test_distribution_of_the_difference_is_that_of_all_resamples(differing, confidence):
    counts = PairedCounts(2, *differing, 1)
    rows = counts.rows
    shares = np.array([differing[0], differing[1], 3]) / rows
    probability = dict.fromkeys(range(-rows, rows + 1), 0.0)
    for up, down in itertools.product(range(rows + 1), repeat=2):
        if up + down <= rows:
            probability[up - down] += stats.multinomial.pmf(
                [up, down, rows - up - down], rows, shares
            )
    values = list(probability)
    below = np.cumsum(list(probability.values()))

    def quantile(share: float) -> float:
        return next(v for v, b in zip(values, below, strict=True) if b >= share - 1e-10) / rows

    found = accuracy_difference(counts, confidence)
    assert found.at_most == quantile(confidence)
    assert (found.estimate.low, found.estimate.high) == (quantile(0.025), quantile(0.975))


@pytest.mark.parametrize("count", [80, 1000])
def test_interval_of_the_accuracies_is_that_of_scipy(count):
    labels, candidate, baseline = some_answers(count, 2)
    right = (candidate == labels).astype(float), (baseline == labels).astype(float)
    reference = stats.bootstrap(
        right,
        lambda x, y, axis: x.mean(axis=axis) - y.mean(axis=axis),
        paired=True,
        n_resamples=20_000,
        method="percentile",
        random_state=1,
    ).confidence_interval
    found = accuracy_difference(paired_counts(labels, candidate, baseline), 0.975)
    assert found.candidate == right[0].mean()
    assert found.baseline == right[1].mean()
    assert found.estimate.value == pytest.approx(right[0].mean() - right[1].mean())
    width = reference.high - reference.low
    assert found.estimate.low == pytest.approx(reference.low, abs=0.03 * width)
    assert found.estimate.high == pytest.approx(reference.high, abs=0.03 * width)
    assert found.at_most == found.estimate.high


@pytest.mark.parametrize("metric", ["macro_f1", "balanced_accuracy", "mcc"])
def test_interval_of_other_figures_is_that_of_scipy(metric):
    labels, candidate, baseline = some_answers(150, 3)
    figure = {
        "macro_f1": lambda y, found: sklearn.metrics.f1_score(y, found, average="macro"),
        "balanced_accuracy": sklearn.metrics.balanced_accuracy_score,
        "mcc": sklearn.metrics.matthews_corrcoef,
    }[metric]
    reference = stats.bootstrap(
        (labels, candidate, baseline),
        lambda y, first, second: figure(y, first) - figure(y, second),
        paired=True,
        vectorized=False,
        n_resamples=600,
        method="percentile",
        random_state=1,
    ).confidence_interval
    found = figure_difference(
        metric, labels, candidate, baseline, 3, confidence=0.975, resamples=5000, seed=0
    )
    assert found.estimate.value == pytest.approx(
        figure(labels, candidate) - figure(labels, baseline)
    )
    assert found.candidate == pytest.approx(figure(labels, candidate))
    width = reference.high - reference.low
    assert found.estimate.low == pytest.approx(reference.low, abs=0.15 * width)
    assert found.estimate.high == pytest.approx(reference.high, abs=0.15 * width)
    assert found.at_most == pytest.approx(found.estimate.high)


@settings(deadline=None)
@given(COUNTS)
def test_bounds_lie_in_order(counts):
    found = accuracy_difference(counts, 0.95)
    assert -1 <= found.estimate.low <= found.estimate.value <= found.estimate.high <= 1
    assert found.estimate.value <= found.at_most <= found.estimate.high


@settings(deadline=None)
@given(COUNTS)
def test_with_a_confidence_of_a_half_the_difference_itself_is_the_bound(counts):
    found = accuracy_difference(counts, 0.5)
    assert found.at_most == found.estimate.value


@settings(deadline=None)
@given(COUNTS)
def test_models_that_change_places_change_the_sign(counts):
    swapped = PairedCounts(
        counts.both_right, counts.only_baseline, counts.only_candidate, counts.both_wrong
    )
    found, other = accuracy_difference(counts, 0.95), accuracy_difference(swapped, 0.95)
    assert found.estimate.value == -other.estimate.value
    assert found.estimate.low == pytest.approx(-other.estimate.high, abs=1.01 / counts.rows)


def test_undefined_figure_of_one_model_leaves_no_difference():
    labels = np.array([0, 1] * 30)
    found = figure_difference(
        "mcc", labels, labels, np.zeros(60, int), 2, confidence=0.95, resamples=20, seed=0
    )
    assert found.candidate == 1
    assert found.baseline is found.estimate.value is found.at_most is None


def test_draws_are_of_the_same_rows():
    labels, candidate, _ = some_answers(60, 3)
    found = figure_difference(
        "macro_f1", labels, candidate, candidate, 3, confidence=0.95, resamples=50, seed=0
    )
    assert (found.estimate.low, found.estimate.value, found.estimate.high) == (0, 0, 0)


def test_a_million_rows_are_no_trouble():
    found = accuracy_difference(PairedCounts(900_000, 20_000, 30_000, 50_000), 0.999)
    spread = np.sqrt(0.05 - 0.01**2) / 1000
    assert found.estimate.low == pytest.approx(-0.01 - 1.96 * spread, abs=2e-6)
    assert found.at_most == pytest.approx(-0.01 + stats.norm.ppf(0.999) * spread, abs=2e-6)
