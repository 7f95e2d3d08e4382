"""Decides whether a model may take the place of the last good one, and says why."""

import dataclasses
import json
import statistics
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bert_tfx.components.promotion_gate.comparison import (
    Difference,
    PairedCounts,
    accuracy_difference,
    figure_difference,
    paired_counts,
)
from bert_tfx.components.promotion_gate.limits import PromotionLimits
from bert_tfx.components.promotion_gate.metrics import (
    ACCURACY,
    BALANCED_ACCURACY,
    F1,
    INTERVAL,
    RESAMPLES,
    Estimate,
    Measurement,
    accuracy_estimate,
    class_figures,
    confusion_matrix,
    invalid_rows,
    measure,
)
from bert_tfx.schema.tasks import LABEL

if TYPE_CHECKING:
    # It reads files with TensorFlow, which a decision does not need.
    from bert_tfx.components.predictor.predictions import Predictions

_NAMED_ROWS = 5
# Sums of floats may miss a limit that they reach by this much.
_ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True)
class SliceResult:
    """What the models are worth on the rows that have one value of one feature.

    Attributes:
        feature: What is sliced by; of `label`, the accuracy is the recall of that label.
        value: The value; a label as it stands in the files.
        rows: The rows that have it.
        candidate: Its accuracy there.
        baseline: The baseline's, or None where there is none.
        difference: Between them, or None where there is no baseline or no row.
        not_judged: Why the slice blocks nothing, or None where it could.
    """

    feature: str
    value: str
    rows: int
    candidate: Estimate
    baseline: Estimate | None
    difference: Difference | None
    not_judged: str | None

    @property
    def name(self) -> str:
        """`feature=value`."""
        return f"{self.feature}={self.value}"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The candidate and the baseline on the same rows.

    Attributes:
        counts: Rows by which model is right.
        mcnemar_p: The p value of McNemar's exact test.
        difference: In the gate metric.
    """

    counts: PairedCounts
    mcnemar_p: float
    difference: Difference


@dataclasses.dataclass(frozen=True)
class SeedRuns:
    """What chance in training makes of the accuracy.

    Attributes:
        accuracies: Of the model of each seed.
        mean: Their mean.
        standard_deviation: Of the sample (n - 1).
        baseline_within: Whether the baseline's accuracy lies within two standard deviations of the
            mean; None without a baseline.
    """

    accuracies: Sequence[float]
    mean: float
    standard_deviation: float
    baseline_within: bool | None


@dataclasses.dataclass(frozen=True)
class Decision:
    """Whether a model is promoted, why, and all the figures.

    Attributes:
        blessed: Whether it is.
        verdict: One sentence for it.
        reasons: A sentence for each finding that blocks; empty where it is blessed.
        warnings: A sentence for each finding that does not block and should be known.
        labels: The classes, in order.
        rows: Rows of the eval split.
        limits: What was asked for.
        interval: The confidence of the intervals.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.
        candidate: Its figures, or None where there are no rows or its answers are invalid.
        baseline: The same of the baseline, or None where there is none.
        comparison: Of both, or None.
        slices: By feature, the values sorted.
        seeds: What other seeds reached, or None where that is not known.
    """

    blessed: bool
    verdict: str
    reasons: Sequence[str]
    warnings: Sequence[str]
    labels: Sequence[str]
    rows: int
    limits: PromotionLimits
    interval: float
    resamples: int
    seed: int
    candidate: Measurement | None
    baseline: Measurement | None
    comparison: Comparison | None
    slices: Sequence[SliceResult]
    seeds: SeedRuns | None

    def to_json(self) -> str:
        """Returns the decision as JSON; what is undefined is null."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "Decision":
        """Returns the decision that `to_json` wrote."""
        fields = json.loads(text)
        comparison = fields["comparison"]
        return cls(
            **fields
            | {
                "limits": PromotionLimits(**fields["limits"]),
                "candidate": _measurement(fields["candidate"]),
                "baseline": _measurement(fields["baseline"]),
                "comparison": comparison
                and Comparison(
                    counts=PairedCounts(**comparison["counts"]),
                    mcnemar_p=comparison["mcnemar_p"],
                    difference=_difference(comparison["difference"]),
                ),
                "slices": [
                    SliceResult(
                        **found
                        | {
                            "candidate": Estimate(**found["candidate"]),
                            "baseline": found["baseline"] and Estimate(**found["baseline"]),
                            "difference": found["difference"] and _difference(found["difference"]),
                        }
                    )
                    for found in fields["slices"]
                ],
                "seeds": fields["seeds"] and SeedRuns(**fields["seeds"]),
            }
        )


def _measurement(fields: dict[str, Any] | None) -> Measurement | None:
    if fields is None:
        return None
    overall = {name: Estimate(**found) for name, found in fields["overall"].items()}
    return Measurement(**fields | {"overall": overall})


def _difference(fields: dict[str, Any]) -> Difference:
    return Difference(**fields | {"estimate": Estimate(**fields["estimate"])})


def decide(
    predictions: "Predictions",
    labels: Sequence[str],
    limits: PromotionLimits,
    *,
    row_names: Sequence[str] | None = None,
    seed_accuracies: Sequence[float] = (),
    refusals: Sequence[str] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Decision:
    """Decides on the rows' answers; the order of the rows makes no difference.

    Args:
        predictions: The rows of the eval split and what the models answer.
        labels: The labels, by class index.
        limits: What the candidate must reach.
        row_names: What each row is called (`dev.tsv:17`); by default its position, from 1.
        seed_accuracies: Accuracies on these rows of the models that were trained with other seeds
            and this one's, two or more; none where only one was trained.
        refusals: Clauses that say why it may not be promoted, whatever the rows show.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.

    Returns:
        The decision; what is wrong with the answers is a reason in it, not an error.
    """
    findings = _Findings(reasons=list(refusals))
    rows = len(predictions.labels)
    num_classes = len(labels)
    names = list(row_names) if row_names is not None else [f"row {i + 1}" for i in range(rows)]
    candidate = baseline = comparison = None
    slices: list[SliceResult] = []

    if not rows:
        findings.block("the eval split has no rows, so nothing shows what the model is worth")
    elif (invalid := invalid_rows(predictions.candidate, num_classes)).any():
        findings.block(
            f"on {_count(invalid)} of {rows:,} rows the candidate's answer is no probability for "
            f"each of the {num_classes} labels (not finite, negative or not adding up to 1): "
            f"{_named(invalid, names)}; nothing was measured"
        )
    else:
        _check_rows(findings, predictions.labels, labels, limits)
        candidate = measure(
            predictions.labels, predictions.candidate, resamples=resamples, seed=seed
        )
        _check_candidate(findings, candidate, labels, limits, rows)
        compared = _comparable(findings, predictions, num_classes, names)
        if compared.baseline is not None:
            baseline = measure(compared.labels, compared.baseline, resamples=resamples, seed=seed)
            comparison = _compare(
                compared.labels,
                compared.candidate.argmax(axis=1),
                compared.baseline.argmax(axis=1),
                num_classes,
                limits,
                resamples=resamples,
                seed=seed,
            )
            what = f"on all {len(compared.labels):,} rows {limits.gate_metric}"
            _check_difference(findings, what, comparison.difference, limits)
        slices = _slice_results(compared, labels, limits)
        _check_slices(findings, slices, limits)

    seeds = None
    if len(seed_accuracies) > 1:
        seeds = _seed_runs(seed_accuracies, baseline)
        findings.warn(_seeds_sentence(seeds, baseline))
    return Decision(
        blessed=not findings.reasons,
        verdict=_verdict(findings, candidate, comparison, limits, rows),
        reasons=[_sentence(clause) for clause in findings.reasons],
        warnings=[_sentence(clause) for clause in findings.warnings],
        labels=list(labels),
        rows=rows,
        limits=limits,
        interval=INTERVAL,
        resamples=resamples,
        seed=seed,
        candidate=candidate,
        baseline=baseline,
        comparison=comparison,
        slices=slices,
        seeds=seeds,
    )


@dataclasses.dataclass
class _Findings:
    """Clauses, each of which makes a sentence."""

    reasons: list[str] = dataclasses.field(default_factory=list)
    warnings: list[str] = dataclasses.field(default_factory=list)

    def block(self, clause: str) -> None:
        self.reasons.append(clause)

    def warn(self, clause: str) -> None:
        self.warnings.append(clause)


# === Rules ===


def _check_rows(
    findings: _Findings, indices: np.ndarray, labels: Sequence[str], limits: PromotionLimits
) -> None:
    rows = len(indices)
    if rows < limits.min_eval_rows:
        findings.block(
            f"the eval split has {rows:,} {'row' if rows == 1 else 'rows'}, fewer than the "
            f"{limits.min_eval_rows:,} that a decision needs"
        )
    counts = np.bincount(indices, minlength=len(labels))
    if missing := [label for label, count in zip(labels, counts, strict=True) if not count]:
        findings.block(
            f"none of the {rows:,} eval rows has label {', '.join(map(repr, missing))}, so nothing "
            "shows whether the model knows it; the eval split needs rows of every label"
        )


def _check_candidate(
    findings: _Findings,
    candidate: Measurement,
    labels: Sequence[str],
    limits: PromotionLimits,
    rows: int,
) -> None:
    accuracy = candidate.overall[ACCURACY]
    reached = f"accuracy {_with_interval(accuracy)} on {rows:,} rows"
    if (accuracy.value or 0) < limits.min_accuracy:
        findings.block(f"{reached} does not reach the {limits.min_accuracy:.4f} needed")
    elif (accuracy.low or 0) < limits.min_accuracy:
        findings.warn(
            f"{reached} reaches the {limits.min_accuracy:.4f} needed, but other rows of the same "
            "kind might show less"
        )
    answered = [label for label, n in zip(labels, np.sum(candidate.confusion, 0), strict=True) if n]
    if len(answered) == 1:
        findings.warn(f"the candidate answers {answered[0]!r} on every row")
    balanced = candidate.overall[BALANCED_ACCURACY]
    if balanced.high is not None and balanced.high < 1 / len(labels):
        findings.warn(
            f"balanced accuracy {_with_interval(balanced)} is worse than guessing "
            f"({1 / len(labels):.4f}): are the labels of train and eval in the same order?"
        )
    gate = candidate.overall[limits.gate_metric]
    if gate.value is None:
        findings.block(
            f"the gate metric {limits.gate_metric} is undefined for the candidate's answers"
        )


def _comparable(
    findings: _Findings, predictions: "Predictions", num_classes: int, names: Sequence[str]
) -> "Predictions":
    """Returns the rows on which both models have an answer."""
    if predictions.baseline is None:
        return predictions
    invalid = invalid_rows(predictions.baseline, num_classes)
    if not invalid.any():
        return predictions
    what = (
        f"on {_count(invalid)} of {len(invalid):,} rows the baseline's answer is no probability "
        f"for each of the {num_classes} labels: {_named(invalid, names)}"
    )
    if invalid.all():
        findings.warn(f"{what}; it cannot be compared with")
        return dataclasses.replace(predictions, baseline=None)
    findings.warn(f"{what}; the comparison leaves them out")
    return dataclasses.replace(
        predictions,
        labels=predictions.labels[~invalid],
        candidate=predictions.candidate[~invalid],
        baseline=predictions.baseline[~invalid],
        slices={feature: values[~invalid] for feature, values in predictions.slices.items()},
    )


def _compare(
    labels: np.ndarray,
    candidate: np.ndarray,
    baseline: np.ndarray,
    num_classes: int,
    limits: PromotionLimits,
    **bootstrap: int,
) -> Comparison:
    counts = paired_counts(labels, candidate, baseline)
    return Comparison(
        counts=counts,
        mcnemar_p=counts.mcnemar_p(),
        difference=figure_difference(
            limits.gate_metric,
            labels,
            candidate,
            baseline,
            num_classes,
            confidence=limits.confidence,
            **bootstrap,
        ),
    )


def _check_slices(
    findings: _Findings, slices: Sequence[SliceResult], limits: PromotionLimits
) -> None:
    judged = [(found, found.difference) for found in slices if not found.not_judged]
    among = f" among {len(judged)} slices" if len(judged) > 1 else ""
    differences = [(found, difference) for found, difference in judged if difference]
    for found, difference in sorted(differences, key=lambda pair: pair[1].estimate.value or 0):
        what = f"on {found.name} ({found.rows:,} rows) {ACCURACY}"
        _check_difference(findings, what, difference, limits, among)


def _check_difference(
    findings: _Findings, what: str, difference: Difference, limits: PromotionLimits, among: str = ""
) -> None:
    if difference.baseline is None:
        findings.warn(f"{what} is undefined for the baseline, so it is not compared")
    if difference.estimate.value is None or difference.at_most is None:
        return
    fell = f"{what} fell from {_figure(difference.baseline)} to {_figure(difference.candidate)}"
    allowed = -limits.max_regression - _ROUNDING
    interval = f"{INTERVAL:.0%} interval of the difference {_interval(difference.estimate, '+')}"
    sure = f"{100 * limits.confidence:g}% confidence{among}"
    if difference.at_most < allowed:
        findings.block(
            f"{fell}; with {sure} by more than the {limits.max_regression:.4f} allowed ({interval})"
        )
    elif difference.estimate.value < allowed:
        findings.warn(
            f"{fell}, which is more than the {limits.max_regression:.4f} allowed, but not shown "
            f"with {sure} ({interval}); more eval rows would tell"
        )


def _slice_results(
    compared: "Predictions", labels: Sequence[str], limits: PromotionLimits
) -> list[SliceResult]:
    answers = compared.candidate.argmax(axis=1)
    baseline_answers = None if compared.baseline is None else compared.baseline.argmax(axis=1)
    members = list(_members(compared, labels))
    not_judged = [
        _not_judged(len(rows), len(answers), baseline_answers, limits) for _, _, rows in members
    ]
    if baseline_answers is not None:
        balanced = _balanced(compared.labels, answers, baseline_answers, labels)
        not_judged = [
            why or (balanced.get(value) if feature == LABEL else None)
            for why, (feature, value, _) in zip(not_judged, members, strict=True)
        ]
    confidence = 1 - (1 - limits.confidence) / max(1, not_judged.count(None))
    results = []
    for (feature, value, rows), why in zip(members, not_judged, strict=True):
        baseline = difference = None
        if baseline_answers is not None:
            counts = paired_counts(compared.labels[rows], answers[rows], baseline_answers[rows])
            baseline = accuracy_estimate(counts.both_right + counts.only_baseline, len(rows))
            difference = accuracy_difference(counts, confidence) if len(rows) else None
        right = int((answers[rows] == compared.labels[rows]).sum())
        results.append(
            SliceResult(
                feature=feature,
                value=value,
                rows=len(rows),
                candidate=accuracy_estimate(right, len(rows)),
                baseline=baseline,
                difference=difference,
                not_judged=why,
            )
        )
    return results


def _balanced(
    right: np.ndarray, answers: np.ndarray, baseline: np.ndarray, labels: Sequence[str]
) -> dict[str, str]:
    """Returns the labels whose recall alone says nothing, each with the reason.

    Who answers one label to everything has a recall of 1 on it: no better model could replace it.
    """
    of_candidate, of_baseline = (
        class_figures(confusion_matrix(right, given, len(labels)))[F1]
        for given in (answers, baseline)
    )
    return {
        label: f"its F1 rose from {before:.4f} to {now:.4f}"
        for label, now, before in zip(labels, of_candidate, of_baseline, strict=True)
        if now > before
    }


def _members(
    compared: "Predictions", labels: Sequence[str]
) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yields feature, value and rows of each slice; a row without the feature is in none of it."""
    columns = [(LABEL, np.array(labels), compared.labels)]
    for feature, values in compared.slices.items():
        columns.append((feature, *np.unique(values.astype(str), return_inverse=True)))
    for feature, values, indices in columns:
        ends = np.cumsum(np.bincount(indices, minlength=len(values)))
        by_value = np.split(np.argsort(indices, kind="stable"), ends[:-1])
        for value, rows in zip(values.tolist(), by_value, strict=True):
            if value:
                yield feature, value, rows


def _not_judged(
    rows: int, all_rows: int, baseline: np.ndarray | None, limits: PromotionLimits
) -> str | None:
    if baseline is None:
        return "there is no baseline"
    if rows < limits.min_slice_rows:
        return f"{rows:,} of the {limits.min_slice_rows:,} rows that it takes"
    if rows == all_rows:
        return "it holds all rows"
    return None


def _seed_runs(accuracies: Sequence[float], baseline: Measurement | None) -> SeedRuns:
    mean, deviation = statistics.mean(accuracies), statistics.stdev(accuracies)
    within = None
    if baseline is not None:
        distance = abs((baseline.overall[ACCURACY].value or 0) - mean)
        within = distance <= 2 * deviation + _ROUNDING
    return SeedRuns(list(accuracies), mean, deviation, within)


# === Words ===


def _verdict(
    findings: _Findings,
    candidate: Measurement | None,
    comparison: Comparison | None,
    limits: PromotionLimits,
    rows: int,
) -> str:
    if findings.reasons or candidate is None:
        more = len(findings.reasons) - 1
        others = f" (and {more} more {'reason' if more == 1 else 'reasons'})" if more else ""
        return f"Not promoted: {findings.reasons[0]}{others}."
    reached = (
        f"Promoted: accuracy {_with_interval(candidate.overall[ACCURACY])} on {rows:,} rows "
        f"reaches the {limits.min_accuracy:.4f} needed"
    )
    if comparison is None:
        return f"{reached}; there is no baseline to compare it with."
    counts = comparison.counts
    if not counts.only_candidate and not counts.only_baseline:
        return (
            f"{reached}; there is no difference to the baseline: what one has right, so has the "
            "other."
        )
    found = comparison.difference
    return (
        f"{reached}; {limits.gate_metric} is {_figure(found.candidate)} against the baseline's "
        f"{_figure(found.baseline)} ({INTERVAL:.0%} interval of the difference "
        f"{_interval(found.estimate, '+')}); {counts.only_candidate:,} rows only it has right, "
        f"{counts.only_baseline:,} only the baseline (McNemar's exact p = "
        f"{comparison.mcnemar_p:.2g})."
    )


def _seeds_sentence(seeds: SeedRuns, baseline: Measurement | None) -> str:
    spread = (
        f"the accuracies of {len(seeds.accuracies)} seeds have mean {seeds.mean:.4f} and standard "
        f"deviation {seeds.standard_deviation:.4f}"
    )
    if baseline is None:
        return spread
    accuracy = _figure(baseline.overall[ACCURACY].value)
    if seeds.baseline_within:
        return (
            f"{spread}; the baseline's {accuracy} lies within two of these of the mean, so chance "
            "in training may explain the difference"
        )
    return f"{spread}; the baseline's {accuracy} lies more than two of these from the mean"


def _sentence(clause: str) -> str:
    return f"{clause[0].upper()}{clause[1:]}."


def _with_interval(found: Estimate) -> str:
    return f"{_figure(found.value)} ({INTERVAL:.0%} interval {_interval(found)})"


def _interval(found: Estimate, sign: str = "") -> str:
    return " to ".join(
        "undefined" if bound is None else f"{bound:{sign}.4f}" for bound in (found.low, found.high)
    )


def _figure(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


def _count(mask: np.ndarray) -> str:
    return f"{int(mask.sum()):,}"


def _named(mask: np.ndarray, names: Sequence[str]) -> str:
    """Names a few rows; shorter names come first, so that 9 stands before 10."""
    rows = np.flatnonzero(mask).tolist()
    found = sorted((names[row] for row in rows), key=lambda name: (len(name), name))
    others = ", ..." if len(found) > _NAMED_ROWS else ""
    return ", ".join(found[:_NAMED_ROWS]) + others
