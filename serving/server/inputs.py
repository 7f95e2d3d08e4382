"""Whether a request's inputs fit the function that it asks for, told before the graph runs."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from bert_tfx.schema.tasks import TEXT_A, TEXT_B
from bert_tfx.serving.protocol.model_api import SERVE_TEXT, Signature, TensorSpec
from bert_tfx.serving.server.refused import invalid

EXAMPLES = "examples"
"""The input that takes serialized `tf.Example` messages."""

_TEXTS = (TEXT_A, TEXT_B)


def check_names(given: Mapping[str, Any], signature: Signature, name: str) -> None:
    """Raises if a request has other inputs than the signature.

    Raises:
        Refused: If so; the message names them.
    """
    if set(given) != set(signature.inputs):
        raise invalid(
            f"signature {name!r} takes the inputs {_listed(signature.inputs)}. "
            f"Received: {_listed(given)}"
        )


def count_rows(inputs: Mapping[str, np.ndarray], signature: Signature) -> int:
    """Returns the rows of a request, 1 for functions that know no rows.

    Raises:
        Refused: If the inputs of a function of rows have unequally many.
    """
    if not takes_rows(signature.inputs):
        return 1
    rows = {name: array.shape[0] for name, array in inputs.items()}
    if len(set(rows.values())) > 1:
        counts = ", ".join(f"{name} {count}" for name, count in sorted(rows.items()))
        raise invalid(f"the inputs must have equally many rows. Received: {counts}")
    return next(iter(rows.values()), 1)


def takes_rows(specs: Mapping[str, TensorSpec]) -> bool:
    """Whether all of these have an open first dimension."""
    return bool(specs) and all(spec.shape and spec.shape[0] is None for spec in specs.values())


def text_features(signatures: Mapping[str, Signature]) -> tuple[str, ...]:
    """Returns which texts the model takes, as far as its signatures tell."""
    signature = signatures.get(SERVE_TEXT)
    return tuple(name for name in _TEXTS if signature and name in signature.inputs)


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(repr(name[:100]) for name in sorted(names)[:20]) or "none"
