"""What single nodes of the pipeline are given to run with."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from bert_tfx.pipeline.configuration.kinds import read_json_option
from bert_tfx.schema.errors import InputError

_EXAMPLE = '{"Transform": {"workers": 4, "memory_gb": 16}}'


@dataclasses.dataclass(frozen=True)
class Resources:
    """What a node is given; None leaves it to where the node runs.

    Attributes:
        cpus: Cores of the node's container, more than 0; may be a part of one.
        memory_gb: Memory of the node's container in gigabytes (10^9 bytes), more than 0.
        gpus: GPUs of the node's container.
        workers: Workers of the node's Beam pipeline, 1 or more.
    """

    cpus: float | None = None
    memory_gb: float | None = None
    gpus: int = 0
    workers: int | None = None


# Kind and least value of each; where the least is 0.0 the value must be more.
_FIELDS: Mapping[str, tuple[type, float, str]] = {
    "cpus": (float, 0, "a number above 0, of cores"),
    "memory_gb": (float, 0, "a number above 0, of gigabytes"),
    "gpus": (int, 0, "a whole number, 0 or more"),
    "workers": (int, 1, "a whole number, 1 or more"),
}


def parse_resources(
    value: str | Mapping[str, Any] = "", *, where: str = "resources"
) -> Mapping[str, Resources]:
    """Returns what each node that is named is given.

    Whether there are such nodes is checked where the pipeline is made.

    Args:
        value: An object of objects, by node and by field of `Resources`; or such an object as JSON
            text; or the path of a JSON file that holds one. Empty text names no node.
        where: What a message calls the source of `value`, where that is no file.

    Raises:
        InputError: If it is something else, or a field is unknown or out of range.
    """
    if isinstance(value, str):
        if not value.strip():
            return {}
        value, where = read_json_option(value, where, _EXAMPLE)
    if not isinstance(value, Mapping):
        raise InputError(f"{where}: expected an object by node, such as {_EXAMPLE}")
    return {node: _resources(fields, f"{where}, {node}") for node, fields in value.items()}


def _resources(fields: Any, where: str) -> Resources:
    if not isinstance(fields, Mapping):
        raise InputError(
            f"{where}: expected an object of {', '.join(_FIELDS)}. Received: {fields!r}"
        )
    for name, value in fields.items():
        if name not in _FIELDS:
            raise InputError(f"{where}: unknown {name!r}; known are {', '.join(_FIELDS)}")
        kind, least, expected = _FIELDS[name]
        fits = isinstance(value, (int, kind)) and not isinstance(value, bool)
        if not fits or not math.isfinite(value) or value < least or (kind is float and value == 0):
            raise InputError(f"{where}: {name} must be {expected}. Received: {value!r}")
    return Resources(**fields)
