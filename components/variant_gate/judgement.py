"""Whether a smaller model lost no more than it may, and gained at least what it must."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bert_tfx.components.promotion_gate.decision import (
    Comparison,
    Decision,
    SliceResult,
    decide,
)
from bert_tfx.components.promotion_gate.limits import PromotionLimits
from bert_tfx.components.promotion_gate.metrics import ACCURACY
from bert_tfx.components.variant_gate.limits import VariantLimits

if TYPE_CHECKING:
    # It reads files with TensorFlow, which a judgement does not need.
    from bert_tfx.components.predictor.predictions import Predictions

BEFORE = "before"
VARIANT = "variant"

_MB = 1_000_000
# Sums of floats may miss a limit that they reach by this much.
_ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True)
class Judgement:
    """Whether a smaller model is accepted, and why.

    Attributes:
        accepted: Whether it is.
        verdict: One sentence for it.
        reasons: A sentence for each limit that it does not keep to.
        warnings: A sentence for each finding that does not block and should be known.
        speedup: How many times as fast its requests are answered, by rows in a request.
        comparison: With the model before, on all rows; None where there is nothing to compare.
        slices: The same by slices.
    """

    accepted: bool
    verdict: str
    reasons: Sequence[str]
    warnings: Sequence[str]
    speedup: Mapping[str, float]
    comparison: Comparison | None
    slices: Sequence[SliceResult]


def judge(
    predictions: "Predictions",
    labels: Sequence[str],
    measured: Mapping[str, Mapping[str, Any]],
    limits: VariantLimits,
    *,
    name: str,
    of: str,
    row_names: Sequence[str],
) -> Judgement:
    """Judges a smaller model.

    Args:
        predictions: The eval rows; the candidate is the smaller model, the baseline the one that it
            was made of.
        labels: The labels, by class index.
        measured: Of `BEFORE` and `VARIANT` the `bytes` of the export and `load`, a list of the
            fields of `Load`.
        limits: What it may lose and must gain.
        name: What sentences call it.
        of: What they call the model that it was made of.
        row_names: What each row is called.

    Returns:
        The judgement.
    """
    decision = decide(
        predictions,
        labels,
        PromotionLimits(min_accuracy=0, max_regression=limits.max_accuracy_drop),
        row_names=row_names,
    )
    speedup = {
        str(before["rows"]): before["p50"] / variant["p50"]
        for before, variant in zip(measured[BEFORE]["load"], measured[VARIANT]["load"], strict=True)
    }
    clauses = [
        *_lost(decision, limits, name, of),
        *_not_gained(measured, speedup, limits, name),
    ]
    reasons = [f"{clause[0].upper()}{clause[1:]}" for clause in clauses]
    return Judgement(
        accepted=not reasons,
        verdict=_verdict(decision, measured, speedup, reasons, name, of),
        reasons=reasons,
        warnings=list(decision.warnings),
        speedup=speedup,
        comparison=decision.comparison,
        slices=decision.slices,
    )


def unusable(name: str, why: str) -> Judgement:
    """Refuses a smaller model that a server cannot load, or whose answers are none.

    Args:
        name: What sentences call it.
        why: What is wrong.
    """
    reason = f"{name} cannot be used: {why.removesuffix('.')}."
    reason = f"{reason[0].upper()}{reason[1:]}"
    return Judgement(False, f"Refused: {reason}", [reason], [], {}, None, [])


def _lost(decision: Decision, limits: VariantLimits, name: str, of: str) -> list[str]:
    """Says what it lost beyond what it may: of all rows by the figure, of slices by evidence."""
    if decision.comparison is None:
        # Its answers are no probabilities, or there are no rows.
        return list(decision.reasons) or [f"{name} could not be compared with {of}."]
    counts = decision.comparison.counts
    drop = (counts.only_baseline - counts.only_candidate) / counts.rows
    reasons = [reason for reason in decision.reasons if not reason.startswith("On all ")]
    if drop > limits.max_accuracy_drop + _ROUNDING:
        reasons.insert(
            0,
            f"{name} has {drop:.4f} less accuracy than {of} on {counts.rows:,} rows, where "
            f"{limits.max_accuracy_drop:.4f} less is allowed.",
        )
    return reasons


def _not_gained(
    measured: Mapping[str, Mapping[str, Any]],
    speedup: Mapping[str, float],
    limits: VariantLimits,
    name: str,
) -> list[str]:
    reasons = []
    for rows, times in speedup.items():
        if limits.min_speedup is not None and times < limits.min_speedup - _ROUNDING:
            reasons.append(
                f"{name} answers requests of {rows} {'row' if rows == '1' else 'rows'} "
                f"{times:.2f} times as fast, where {limits.min_speedup:g} times is asked for."
            )
    size = measured[VARIANT]["bytes"] / _MB
    if limits.max_size is not None and size > limits.max_size:
        reasons.append(f"{name} has {size:,.1f} MB, where {limits.max_size:,g} MB are allowed.")
    return reasons


def _verdict(
    decision: Decision,
    measured: Mapping[str, Mapping[str, Any]],
    speedup: Mapping[str, float],
    reasons: Sequence[str],
    name: str,
    of: str,
) -> str:
    if reasons:
        more = len(reasons) - 1
        others = f" (and {more} more {'reason' if more == 1 else 'reasons'})" if more else ""
        return f"Refused: {reasons[0].removesuffix('.')}{others}."
    # Where nothing was refused, both have been measured.
    accuracies = [
        0.0 if found is None else found.overall[ACCURACY].value or 0.0
        for found in (decision.candidate, decision.baseline)
    ]
    sizes = [measured[model]["bytes"] / _MB for model in (VARIANT, BEFORE)]
    faster = " and ".join(
        f"{times:.2f} times as fast with {rows} {'row' if rows == '1' else 'rows'}"
        for rows, times in speedup.items()
    )
    return (
        f"Accepted: {name} has accuracy {accuracies[0]:.4f} against {of}'s {accuracies[1]:.4f}, "
        f"{sizes[0]:,.1f} MB against {sizes[1]:,.1f}, and is {faster}."
    )
