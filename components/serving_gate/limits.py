"""What ServingGate holds a served model to. Plain Python, for the command line."""

import dataclasses
import json

from bert_tfx.schema.errors import InputError
from bert_tfx.schema.options import option

# Where nothing else was asked for. In few bits a float's last bit, which differs with the batch,
# decides how a number is rounded.
_TOLERANCE = 1e-5
_TOLERANCES = {"bfloat16_compute": 0.02, "int8": 0.05}


def tolerance_of(storage: str, asked: float | None) -> float:
    """Returns by how much served probabilities may differ from the evaluated ones.

    Args:
        storage: What the model's matrices are held in.
        asked: What was asked for, `serving_tolerance`.
    """
    return asked or _TOLERANCES.get(storage, _TOLERANCE)


@dataclasses.dataclass(frozen=True)
class ServingLimits:
    """What a served model must keep to; None allows all.

    Attributes:
        serving_tolerance: By how much a served probability may differ from the evaluated one; None
            is 1e-5, 0.02 for a model that multiplies in bfloat16 and 0.05 for one that does so in
            8 bits. Rounding explains 1e-6 in 32 bits, some 1e-3 in 16 and 1e-2 in 8.
        serving_timeout: Seconds that the server has to load the model.
        max_slowdown: How many times the latency (p50) of the last pushed model, measured in turns
            with it on the same machine.
        max_model_mb: Size of the exported model, in megabytes (10^6 bytes).
        max_server_mb: Memory of the server, in megabytes, with the candidate alone in it.

    Raises:
        InputError: If a value is not positive.
    """

    serving_tolerance: float | None = option(
        "how far a served probability may be off the evaluated one (default: 1e-5, in "
        "bfloat16_compute 0.02, in int8 0.05)",
        None,
    )
    serving_timeout: float = option("seconds in which it must be loaded (default: 120)", 120.0)
    max_slowdown: float | None = option(
        "times the latency of the last pushed model (default: any)", None
    )
    max_model_mb: float | None = option("megabytes of the exported model (default: any)", None)
    max_server_mb: float | None = option("megabytes of the server with it (default: any)", None)

    def __post_init__(self) -> None:
        """Checks the values."""
        for name, value in dataclasses.asdict(self).items():
            if value is not None and not value > 0:
                raise InputError(f"{name} must be positive. Received: {value}")

    def to_json(self) -> str:
        """Returns the limits as JSON, equal for equal limits (it takes part in cache keys)."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "ServingLimits":
        """Returns the limits that `to_json` wrote."""
        return cls(**json.loads(text))
