"""What VariantGate holds a smaller model to. Plain Python."""

import dataclasses
import json

from bert_tfx.schema.errors import InputError

MAX_COMPRESSIONS = 16
"""So many steps of a compression have a place in a report."""
VARIANT_NAME = "variant"
"""Custom property of a model that VariantGate let go on: the step that made it."""


@dataclasses.dataclass(frozen=True)
class VariantLimits:
    """What a smaller model may lose to the one that it was made of, and what it must gain.

    Attributes:
        max_accuracy_drop: By how much its accuracy over all eval rows may lie below the other's;
            in [0, 1]. The figure itself counts. On slices a larger drop must be shown with 95%
            confidence, as the PromotionGate does.
        min_speedup: How many times as fast its requests must be answered (p50), those of one row
            and those of 32 alike; None asks for nothing.
        max_size: Size of the exported model, in megabytes (10^6 bytes); None asks for nothing.

    Raises:
        InputError: If a value is out of range.
    """

    max_accuracy_drop: float = 0.02
    min_speedup: float | None = None
    max_size: float | None = None

    def __post_init__(self) -> None:
        """Checks the values."""
        if not 0 <= self.max_accuracy_drop <= 1:
            raise InputError(
                f"max_accuracy_drop must be in [0, 1]. Received: {self.max_accuracy_drop}"
            )
        for name in ("min_speedup", "max_size"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"{name} must be positive. Received: {value}")

    def to_json(self) -> str:
        """Returns the limits as JSON, equal for equal limits (it takes part in cache keys)."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "VariantLimits":
        """Returns the limits that `to_json` wrote."""
        return cls(**json.loads(text))
