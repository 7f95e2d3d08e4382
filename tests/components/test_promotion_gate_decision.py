import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert_tfx.components.predictor.predictions import Predictions
from bert_tfx.components.promotion_gate.decision import Decision, decide
from bert_tfx.components.promotion_gate.limits import GATE_METRICS, PromotionLimits
from bert_tfx.schema.errors import InputError

LABELS = ("negative", "positive")
LIMITS = PromotionLimits(min_accuracy=0.8, max_regression=0.01)


def probabilities(found: np.ndarray, classes: int = 2) -> np.ndarray:
    """Answers these classes, surely enough."""
    answers = np.full((len(found), classes), 0.1 / (classes - 1), np.float32)
    answers[np.arange(len(found)), found] = 0.9
    return answers


def rows(
    count: int,
    *,
    wrong=(),
    baseline_wrong=(),
    language: str = "",
    classes: int = 2,
    has_baseline: bool = True,
) -> Predictions:
    """Rows with the labels in turn, and the positions where each model is wrong.

    Args:
        count: Of rows.
        wrong: Where the candidate is.
        baseline_wrong: Where the baseline is.
        language: One letter for each row, "e" or "z", repeated; none where it is empty.
        classes: Of labels.
        has_baseline: Whether there is one.
    """
    labels = np.arange(count) % classes
    found, baseline = labels.copy(), labels.copy()
    for answers, positions in ((found, wrong), (baseline, baseline_wrong)):
        at = np.array(list(positions), int)
        answers[at] = (answers[at] + 1) % classes
    letters = {"e": "en", "z": "zh", "-": ""}
    slices = {}
    if language:
        values = [letters[language[i % len(language)]] for i in range(count)]
        slices["language"] = np.array(values, object)
    return Predictions(
        labels=labels,
        candidate=probabilities(found, classes),
        baseline=probabilities(baseline, classes) if has_baseline else None,
        slices=slices,
    )


def spoilt(predictions: Predictions, positions, value: float) -> Predictions:
    candidate = predictions.candidate.copy()
    candidate[list(positions)] = value
    return dataclasses.replace(predictions, candidate=candidate)


def only_label(predictions: Predictions, label: int) -> Predictions:
    kept = predictions.labels == label
    return dataclasses.replace(
        predictions,
        labels=predictions.labels[kept],
        candidate=predictions.candidate[kept],
        baseline=predictions.baseline[kept],
    )


def flipped(predictions: Predictions) -> Predictions:
    return dataclasses.replace(predictions, candidate=1 - predictions.candidate)


EVERY_TENTH = range(0, 400, 10)

# Name, rows, whether they promote, what the verdict says, what a further sentence says.
CASES = {
    "better overall, worse on one slice": (
        # Every fourth row is Chinese. The candidate has 30 of these wrong, the baseline 80 others.
        rows(
            400,
            wrong=range(3, 120, 4),
            baseline_wrong=[i for i in range(160) if i % 4 < 2],
            language="eeez",
        ),
        False,
        "Not promoted: on language=zh (100 rows) accuracy fell from 1.0000 to 0.7000; with 95% "
        "confidence among 2 slices by more than the 0.0100 allowed (95% interval of the difference "
        "-0.3900 to -0.2100).",
        None,
    ),
    "equal to the baseline": (
        rows(400, wrong=EVERY_TENTH, baseline_wrong=EVERY_TENTH),
        True,
        "there is no difference to the baseline: what one has right, so has the other.",
        None,
    ),
    "labels flipped": (
        flipped(rows(400, wrong=EVERY_TENTH, baseline_wrong=EVERY_TENTH)),
        False,
        "Not promoted: accuracy 0.1000 (95% interval 0.0725 to 0.1300) on 400 rows does not reach "
        "the 0.8000 needed",
        "is worse than guessing (0.5000): are the labels of train and eval in the same order?",
    ),
    "NaN": (
        spoilt(rows(400), [7, 9, 11, 100, 101, 102, 399], math.nan),
        False,
        "Not promoted: on 7 of 400 rows the candidate's answer is no probability for each of the 2 "
        "labels (not finite, negative or not adding up to 1): row 8, row 10, row 12, row 101, "
        "row 102, ...; nothing was measured.",
        None,
    ),
    "infinite": (spoilt(rows(400), [0], math.inf), False, "on 1 of 400 rows", None),
    "not adding up to 1": (spoilt(rows(400), [0], 0.7), False, "on 1 of 400 rows", None),
    "answers for three labels": (
        dataclasses.replace(rows(400), candidate=np.full((400, 3), 1 / 3, np.float32)),
        False,
        "on 400 of 400 rows the candidate's answer is no probability for each of the 2 labels",
        None,
    ),
    "one row": (
        rows(1),
        False,
        "Not promoted: the eval split has 1 row, fewer than the 30 that a decision needs (and 1 "
        "more reason).",
        "None of the 1 eval rows has label 'positive'",
    ),
    "no rows": (
        rows(0, has_baseline=False),
        False,
        "Not promoted: the eval split has no rows, so nothing shows what the model is worth.",
        None,
    ),
    "class absent": (
        only_label(rows(400), 1),
        False,
        "Not promoted: none of the 200 eval rows has label 'negative', so nothing shows whether "
        "the model knows it; the eval split needs rows of every label.",
        None,
    ),
    "no baseline": (
        rows(400, wrong=EVERY_TENTH, has_baseline=False),
        True,
        "Promoted: accuracy 0.9000 (95% interval 0.8700 to 0.9275) on 400 rows reaches the 0.8000 "
        "needed; there is no baseline to compare it with.",
        None,
    ),
    "no baseline and bad": (
        rows(400, wrong=range(100), has_baseline=False),
        False,
        "Not promoted: accuracy 0.7500",
        None,
    ),
    "slice too small": (
        # 40 Chinese rows, all of which only the baseline has right.
        rows(
            400,
            wrong=[i for i in range(400) if i % 20 in (0, 11)],
            baseline_wrong=[i for i in range(400) if i % 20 in (2, 13)],
            language="zeeeeeeeeeezeeeeeeee",
        ),
        True,
        "Promoted: accuracy 0.9000",
        None,
    ),
    "small loss, not shown": (
        rows(400, wrong=range(30), baseline_wrong=range(10, 33)),
        True,
        "Promoted: accuracy 0.9250 (95% interval 0.8975 to 0.9500) on 400 rows reaches the 0.8000 "
        "needed; accuracy is 0.9250 against the baseline's 0.9425",
        "On all 400 rows accuracy fell from 0.9425 to 0.9250, which is more than the 0.0100 "
        "allowed, but not shown with 95% confidence",
    ),
    "large loss, shown": (
        rows(400, wrong=range(50), baseline_wrong=range(10)),
        False,
        "Not promoted: on all 400 rows accuracy fell from 0.9750 to 0.8750; with 95% confidence by "
        "more than the 0.0100 allowed",
        "On label=negative (200 rows) accuracy fell",
    ),
    "loss within what is allowed": (
        rows(1000, wrong=range(20), baseline_wrong=range(10)),
        True,
        "10 only the baseline (McNemar's exact p = 0.002)",
        None,
    ),
    "one answer to everything": (
        dataclasses.replace(rows(400), candidate=probabilities(np.zeros(400, int))),
        False,
        "accuracy 0.5000",
        "The candidate answers 'negative' on every row.",
    ),
    "good by luck": (
        rows(40, wrong=range(7), has_baseline=False),
        True,
        "Promoted: accuracy 0.8250",
        "reaches the 0.8000 needed, but other rows of the same kind might show less.",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_hard_to_fool(name):
    predictions, blessed, verdict, sentence = CASES[name]
    decision = decide(predictions, LABELS, LIMITS, resamples=100)
    print(f"\n{name}: {decision.verdict}")
    assert decision.blessed is blessed, decision.verdict
    assert verdict in decision.verdict
    assert bool(decision.reasons) is not blessed
    sentences = [*decision.reasons, *decision.warnings]
    assert sentence is None or any(sentence in found for found in sentences), sentences
    for found in [decision.verdict, *sentences]:
        assert found[0].isupper() and found.endswith("."), found
        assert "None" not in found.replace("None of", "") and "nan" not in found, found


def test_rows_are_called_by_their_names():
    names = [f"dev.tsv:{i}" for i in range(2, 402)]
    predictions = spoilt(rows(400), [7, 9], math.nan)
    decision = decide(predictions, LABELS, LIMITS, row_names=names, resamples=20)
    assert "dev.tsv:9, dev.tsv:11; nothing" in decision.verdict
    assert decision.candidate is decision.comparison is None


def test_slice_that_is_too_small_is_shown_and_not_judged():
    decision = decide(CASES["slice too small"][0], LABELS, LIMITS, resamples=20)
    found = {s.name: s for s in decision.slices}
    small = found["language=zh"]
    assert (small.rows, small.candidate.value, small.baseline.value) == (40, 0.0, 1.0)
    assert small.not_judged == "40 of the 50 rows that it takes"
    assert found["language=en"].not_judged is None
    lower = dataclasses.replace(LIMITS, min_slice_rows=40)
    assert (
        "on language=zh (40 rows)"
        in decide(CASES["slice too small"][0], LABELS, lower, resamples=20).verdict
    )


def test_slice_without_rows_or_value_is_no_obstacle():
    predictions = rows(200, language="e-", classes=2)
    decision = decide(predictions, (*LABELS, "mixed"), LIMITS, resamples=20)
    assert not decision.blessed  # the answers are for two labels
    three = dataclasses.replace(
        predictions,
        candidate=probabilities(predictions.labels, 3),
        baseline=probabilities(predictions.labels, 3),
    )
    decision = decide(three, (*LABELS, "mixed"), LIMITS, resamples=20)
    assert decision.reasons == [
        "None of the 200 eval rows has label 'mixed', so nothing shows whether the model knows it; "
        "the eval split needs rows of every label."
    ]
    found = {s.name: s for s in decision.slices}
    assert list(found) == ["label=negative", "label=positive", "label=mixed", "language=en"]
    assert found["label=mixed"].rows == 0
    assert found["label=mixed"].candidate.value is found["label=mixed"].difference is None
    assert found["language=en"].rows == 100


def test_slice_of_all_rows_counts_once():
    decision = decide(rows(200, language="z"), LABELS, LIMITS, resamples=20)
    assert decision.slices[-1].name == "language=zh"
    assert decision.slices[-1].not_judged == "it holds all rows"


def test_confidence_is_divided_among_the_slices_that_are_judged():
    decision = decide(CASES["better overall, worse on one slice"][0], LABELS, LIMITS, resamples=20)
    not_judged = {found.name: found.not_judged for found in decision.slices if found.not_judged}
    # Overall it is the better one, for each label, too.
    assert {name: why[:11] for name, why in not_judged.items()} == {
        f"label={label}": "its F1 rose" for label in LABELS
    }
    for found in decision.slices:
        assert found.difference.confidence == pytest.approx(1 - 0.05 / 2)
    assert decision.comparison.difference.confidence == 0.95


def test_a_baseline_that_gives_one_answer_can_be_replaced():
    """Its recall of that label is 1, and nothing better has as much."""
    better = rows(400, wrong=range(0, 400, 20))
    one_answer = np.tile(np.array([0.9, 0.1], np.float32), (400, 1))
    decision = decide(
        dataclasses.replace(better, baseline=one_answer), LABELS, LIMITS, resamples=20
    )
    assert decision.blessed, decision.verdict
    of_label = next(found for found in decision.slices if found.name == f"label={LABELS[0]}")
    assert of_label.difference.estimate.value < 0
    assert of_label.not_judged == "its F1 rose from 0.6667 to 0.9474"


def test_a_label_that_is_lost_is_seen():
    """Half of one label is given away for a little of the other."""
    predictions = rows(400, wrong=range(0, 120, 2), baseline_wrong=range(1, 25, 2))
    decision = decide(predictions, LABELS, LIMITS, resamples=20)
    assert not decision.blessed
    assert any(f"n label={LABELS[0]} (200 rows)" in reason for reason in decision.reasons)


def test_among_many_slices_a_loss_must_be_surer():
    # Every fourth row is Chinese; of these 100 the candidate has 7 wrong.
    predictions = rows(400, wrong=range(3, 31, 4), language="eeez")
    limits = dataclasses.replace(LIMITS, min_slice_rows=20)
    decision = decide(predictions, LABELS, limits, resamples=20)
    assert "on language=zh (100 rows) accuracy fell from 1.0000 to 0.9300" in decision.verdict
    sources = np.array([f"site {i // 20}" for i in range(400)], object)
    slices = {"language": predictions.slices["language"], "source": sources}
    decision = decide(dataclasses.replace(predictions, slices=slices), LABELS, limits, resamples=20)
    assert decision.blessed
    assert any(
        "On language=zh (100 rows) accuracy fell from 1.0000 to 0.9300, which is more than the "
        "0.0100 allowed, but not shown with 95% confidence among 24 slices" in warning
        for warning in decision.warnings
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))
def test_with_a_confidence_of_a_half_the_figures_decide(both, candidate_only, baseline_only):
    wrong = [*range(both), *range(100, 100 + baseline_only)]
    baseline_wrong = [*range(both), *range(200, 200 + candidate_only)]
    predictions = rows(300, wrong=wrong, baseline_wrong=baseline_wrong)
    limits = PromotionLimits(0.0, 0.05, confidence=0.5, min_slice_rows=1000)
    decision = decide(predictions, LABELS, limits, resamples=5)
    assert decision.blessed is (candidate_only - baseline_only >= -15)
    assert not any("not shown" in warning for warning in decision.warnings)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.99])
def test_exactly_what_is_allowed_passes(confidence):
    predictions = rows(300, wrong=range(33), baseline_wrong=range(30))
    limits = PromotionLimits(0.89, 0.01, confidence=confidence, min_slice_rows=1000)
    decision = decide(predictions, LABELS, limits, resamples=5)
    assert decision.blessed
    assert not any("which is more than" in warning for warning in decision.warnings)


@pytest.mark.parametrize("metric", GATE_METRICS)
def test_gate_metric_decides_over_all_rows(metric):
    limits = dataclasses.replace(LIMITS, gate_metric=metric, min_accuracy=0.5)
    worse = rows(600, wrong=range(120), baseline_wrong=range(10), classes=3)
    decision = decide(worse, ("a", "b", "c"), limits, resamples=100)
    assert decision.verdict.startswith(f"Not promoted: on all 600 rows {metric} fell from 0.9")
    better = rows(600, wrong=range(10), baseline_wrong=range(120), classes=3)
    decision = decide(better, ("a", "b", "c"), limits, resamples=100)
    assert decision.blessed
    assert f"; {metric} is 0.9" in decision.verdict


def test_gate_metric_sees_what_accuracy_does_not():
    # 5% of the rows are positive: to answer `negative` always is 95% right.
    labels = (np.arange(1000) % 20 == 0).astype(int)
    wrong = np.flatnonzero(labels == 0)[:60]
    baseline = labels.copy()
    baseline[wrong] = 1
    predictions = Predictions(labels, probabilities(0 * labels), probabilities(baseline), {})
    limits = dataclasses.replace(LIMITS, min_slice_rows=1000)
    assert decide(predictions, LABELS, limits, resamples=100).blessed
    limits = dataclasses.replace(limits, gate_metric="macro_f1")
    decision = decide(predictions, LABELS, limits, resamples=100)
    assert decision.verdict.startswith("Not promoted: on all 1,000 rows macro_f1 fell")
    limits = dataclasses.replace(limits, gate_metric="mcc")
    decision = decide(predictions, LABELS, limits, resamples=100)
    assert decision.reasons == ["The gate metric mcc is undefined for the candidate's answers."]
    swapped = dataclasses.replace(
        predictions, candidate=predictions.baseline, baseline=predictions.candidate
    )
    decision = decide(swapped, LABELS, limits, resamples=100)
    assert decision.blessed
    assert (
        "On all 1,000 rows mcc is undefined for the baseline, so it is not compared."
        in decision.warnings
    )


def test_rows_that_the_baseline_did_not_answer_are_left_out_of_the_comparison():
    predictions = rows(400, wrong=range(20), baseline_wrong=range(20, 30), language="ez")
    predictions.baseline[:40] = math.nan
    decision = decide(predictions, LABELS, LIMITS, resamples=20)
    assert decision.warnings[0] == (
        "On 40 of 400 rows the baseline's answer is no probability for each of the 2 labels: "
        "row 1, row 2, row 3, row 4, row 5, ...; the comparison leaves them out."
    )
    assert decision.candidate.overall["accuracy"].value == 0.95
    assert decision.comparison.counts.rows == 360
    assert decision.comparison.counts.only_candidate == 0
    predictions.baseline[:] = math.nan
    decision = decide(predictions, LABELS, LIMITS, resamples=20)
    assert decision.blessed and decision.baseline is None
    assert decision.warnings[0].endswith("...; it cannot be compared with.")


def test_seeds_are_told_and_whether_the_baseline_is_among_them():
    predictions = rows(400, wrong=range(40), baseline_wrong=range(44))
    decision = decide(predictions, LABELS, LIMITS, seed_accuracies=[0.9, 0.88, 0.92], resamples=20)
    assert decision.seeds.mean == pytest.approx(0.9)
    assert decision.seeds.standard_deviation == pytest.approx(0.02)
    assert decision.seeds.baseline_within is True
    assert decision.warnings[-1] == (
        "The accuracies of 3 seeds have mean 0.9000 and standard deviation 0.0200; the baseline's "
        "0.8900 lies within two of these of the mean, so chance in training may explain the "
        "difference."
    )
    decision = decide(
        predictions, LABELS, LIMITS, seed_accuracies=[0.9, 0.901, 0.902], resamples=20
    )
    assert decision.seeds.baseline_within is False
    assert decision.warnings[-1].endswith("0.8900 lies more than two of these from the mean.")
    alone = dataclasses.replace(predictions, baseline=None)
    assert decide(alone, LABELS, LIMITS, seed_accuracies=[0.9, 0.9]).seeds.baseline_within is None
    assert decide(predictions, LABELS, LIMITS, seed_accuracies=[0.9], resamples=20).seeds is None


ROW = st.tuples(
    st.integers(0, 2), st.integers(0, 2), st.integers(0, 2), st.sampled_from(["en", "zh", ""])
)


@settings(max_examples=40, deadline=None)
@given(st.lists(ROW, max_size=60), st.randoms(use_true_random=False), st.sampled_from(GATE_METRICS))
def test_order_of_the_rows_changes_nothing_and_decisions_survive_json(drawn, random, metric):
    limits = PromotionLimits(0.3, 0.01, gate_metric=metric, min_slice_rows=5, min_eval_rows=10)

    def decided(of_rows) -> Decision:
        columns = [list(column) for column in zip(*of_rows, strict=True)] or [[], [], [], []]
        labels, candidate, baseline = (np.array(column, int) for column in columns[:3])
        predictions = Predictions(
            labels,
            probabilities(candidate, 3),
            probabilities(baseline, 3),
            {"language": np.array(columns[3], object)},
        )
        return decide(predictions, ("a", "b", "c"), limits, resamples=20)

    decision = decided(drawn)
    shuffled = list(drawn)
    random.shuffle(shuffled)
    assert decided(shuffled) == decision

    def refuse(token: str) -> None:
        raise AssertionError(f"{token} is no JSON")

    text = decision.to_json()
    json.loads(text, parse_constant=refuse)
    assert Decision.from_json(text) == decision
    assert decision.blessed is not bool(decision.reasons)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"min_accuracy": 1.5}, "min_accuracy must be in [0, 1]. Received: 1.5"),
        ({"max_regression": -0.1}, "max_regression must be in [0, 1]. Received: -0.1"),
        ({"max_regression": math.nan}, "max_regression must be in [0, 1]. Received: nan"),
        ({"confidence": 1.0}, "confidence must be in [0.5, 1). Received: 1.0"),
        ({"confidence": 0.4}, "confidence must be in [0.5, 1). Received: 0.4"),
        (
            {"gate_metric": "loss"},
            "gate_metric must be one of accuracy, macro_f1, balanced_accuracy, mcc. "
            "Received: 'loss'",
        ),
        ({"min_slice_rows": 0}, "min_slice_rows must be at least 1. Received: 0"),
        ({"min_eval_rows": 0}, "min_eval_rows must be at least 1. Received: 0"),
    ],
)
def test_limits_out_of_range_are_refused(change, message):
    with pytest.raises(InputError) as error:
        dataclasses.replace(LIMITS, **change)
    assert str(error.value) == message


def test_limits_survive_json():
    limits = PromotionLimits(0.7, 0.02, 0.9, "mcc", 10, 20)
    assert PromotionLimits.from_json(limits.to_json()) == limits
