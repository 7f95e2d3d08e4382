"""What PromotionGate holds a model to. Plain Python, for the command line."""

import dataclasses
import json

from bert_tfx.schema.errors import InputError
from bert_tfx.schema.options import option

GATE_METRICS = ("accuracy", "macro_f1", "balanced_accuracy", "mcc")


@dataclasses.dataclass(frozen=True)
class PromotionLimits:
    """What a model must reach.

    Attributes:
        min_accuracy: Accuracy over all rows, in [0, 1]; the figure itself must reach it.
        max_regression: By how much the gate metric over all rows, and the accuracy on each slice,
            may lie below the baseline's; in [0, 1].
        confidence: How sure it must be that a model is worse by more than that, before it is
            blocked; in [0.5, 1). With 0.5, the figure itself decides over all rows. On slices it is
            the confidence that none of those that are blocked is so by chance (Bonferroni): each
            of k slices is held to 1 - (1 - confidence) / k.
        gate_metric: One of `GATE_METRICS`.
        min_slice_rows: Slices of fewer rows are shown and not judged.
        min_eval_rows: With fewer rows nothing is promoted.

    Raises:
        InputError: If a value is out of range.
    """

    min_accuracy: float = option("eval accuracy (default: the task's)")
    max_regression: float = option("how far it may lie below the last good one (default: 0.01)")
    confidence: float = option(
        "how sure a larger loss must be to count, over all rows and on any slice; 0.5 takes the "
        "figure as it is (default: 0.95)",
        0.95,
    )
    gate_metric: str = option(
        "what may not be lost (default: accuracy)", "accuracy", choices=GATE_METRICS
    )
    min_slice_rows: int = option("smaller slices do not count (default: 50)", 50)
    min_eval_rows: int = option("with fewer rows nothing is promoted (default: 30)", 30)

    def __post_init__(self) -> None:
        """Checks the values."""
        for name in ("min_accuracy", "max_regression"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} must be in [0, 1]. Received: {getattr(self, name)}")
        if not 0.5 <= self.confidence < 1:
            raise InputError(f"confidence must be in [0.5, 1). Received: {self.confidence}")
        if self.gate_metric not in GATE_METRICS:
            raise InputError(
                f"gate_metric must be one of {', '.join(GATE_METRICS)}. "
                f"Received: {self.gate_metric!r}"
            )
        for name in ("min_slice_rows", "min_eval_rows"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1. Received: {getattr(self, name)}")

    def to_json(self) -> str:
        """Returns the limits as JSON, equal for equal limits (it takes part in cache keys)."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "PromotionLimits":
        """Returns the limits that `to_json` wrote."""
        return cls(**json.loads(text))
