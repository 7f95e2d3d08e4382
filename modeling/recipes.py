"""Recipes: the hyper-parameters of a fine-tuning, one for each task.

Plain Python, so that the command line can show its defaults without loading a framework.
"""

import dataclasses
from collections.abc import Mapping

from bert_tfx.schema.errors import InputError


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Hyper-parameters of one fine-tuning.

    The defaults are those of the reference implementation (google-research/bert,
    `run_classifier.py` and `optimization.py`).

    Attributes:
        max_length: Tokens a row at most, special ones included.
        batch_size: Rows a step.
        epochs: Passes over the training rows at most.
        learning_rate: The highest learning rate, reached at the end of the warm-up.
        warmup_fraction: Share of all steps in which the rate grows linearly from 0; after that it
            falls linearly to 0.
        weight_decay: AdamW's decoupled decay; biases and LayerNorms do not decay.
        clip_norm: Gradients are scaled so that their global norm is this at most.
        patience: Epochs without a better eval accuracy after which training stops.
        max_steps: Steps at most, or None; the schedule ends there.
        seed: Of new weights, dropout and the order of rows.

    Raises:
        InputError: If a value is out of range.
    """

    max_length: int = 128
    batch_size: int = 32
    epochs: int = 4
    learning_rate: float = 3e-5
    warmup_fraction: float = 0.1
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    patience: int = 2
    max_steps: int | None = None
    seed: int = 1

    def __post_init__(self) -> None:
        """Checks the ranges."""
        at_least = {"max_length": 5, "batch_size": 1, "epochs": 1, "patience": 1, "seed": 0}
        for name, low in at_least.items():
            if getattr(self, name) < low:
                raise InputError(f"{name} must be at least {low}. Received: {getattr(self, name)}")
        if self.max_steps is not None and self.max_steps < 1:
            raise InputError(f"max_steps must be at least 1. Received: {self.max_steps}")
        if not 0 < self.learning_rate < 1:
            raise InputError(
                f"learning_rate must lie between 0 and 1. Received: {self.learning_rate}"
            )
        if not 0 <= self.warmup_fraction < 1:
            raise InputError(f"warmup_fraction must be in [0, 1). Received: {self.warmup_fraction}")
        if self.weight_decay < 0 or self.clip_norm <= 0:
            raise InputError("weight_decay must not be negative and clip_norm must be positive")


# The published results these lead to with the published base weights, dev / test accuracy:
# ChnSentiCorp 94.00 / 94.08, LCQMC 88.74 / 86.11, DistilBERT on SST-2 90.71 / 90.38.
RECIPES: Mapping[str, Recipe] = {
    "chnsenticorp": Recipe(learning_rate=3e-5),
    "lcqmc": Recipe(learning_rate=3e-5),
    "sst2": Recipe(learning_rate=4e-5),
    # New weights of size tiny on the embedded sample: over 0.9 in about a minute on two cores.
    "sample": Recipe(learning_rate=1e-3, epochs=5),
}
