"""Recipes: the hyper-parameters of a fine-tuning, one for each task.

Plain Python, so that the command line can show its defaults without loading a framework.
"""

import dataclasses
import math
from collections.abc import Mapping

from bert_tfx.schema.errors import InputError
from bert_tfx.schema.options import option

METRICS = ("accuracy", "loss", "macro_f1", "f1", "mcc", "balanced_accuracy")
"""What `bert_tfx.modeling.training.metrics` computes and `Recipe.metric` may name."""
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
"""Keras' dtype policies that `Recipe.precision` may name."""
DISTRIBUTIONS = ("none", "mirrored", "multi_worker")
BALANCED = "balanced"

_AT_LEAST = {
    "max_length": 5,
    "batch_size": 1,
    "epochs": 1,
    "patience": 1,
    "seed": 0,
    "num_seeds": 1,
    "freeze_layers": 0,
    "accumulation_steps": 1,
}
_NAMES = {"metric": METRICS, "precision": PRECISIONS, "distribution": DISTRIBUTIONS}
# NumPy's generators take no larger ones.
_LAST_SEED = 2**32 - 1


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
        patience: Epochs without a better eval `metric` after which training stops.
        max_steps: Steps at most, or None; the schedule ends there.
        seed: Of new weights, dropout and the order of rows.
        num_seeds: Models to train, with the seeds `seed`, `seed + 1`, ...; the best one is kept.
        metric: What chooses the best epoch and the best seed and stops early, a name of `METRICS`.
            Ties are broken by the eval loss.
        layer_decay: Each layer's learning rate is that of the layer above it times this. The head
            (with BERT's pooler) has `learning_rate`, block i of L has `learning_rate *
            layer_decay ** (L - i)`, the embeddings have one power more than block 0 (Clark et al.
            2020, arXiv:2003.10555, section 3.1). 1 is one rate for all.
        freeze_embeddings: Whether the embeddings keep their weights.
        freeze_layers: The lowest blocks that keep their weights; the embeddings then do, too.
        label_smoothing: Share of a row's label that is spread evenly over all labels (Szegedy et
            al. 2016, arXiv:1512.00567, section 7).
        class_weights: How much the rows of each label count in the training loss: "" all alike,
            "balanced" inversely to their number, or one number for each label, by commas.
        accumulation_steps: Pieces in which the rows of a step are worked one after another. More
            pieces take less memory; the step is the same.
        precision: "float32", or "mixed_bfloat16" or "mixed_float16": what is computed in 16 bits.
            The weights are float32 in any case.
        gradient_checkpointing: Whether the blocks' inner values are computed again for the
            gradient instead of kept: less memory, more time.
        dropout: Replaces all dropout rates of the encoder and the head; None keeps the model's.
        distribution: "none"; "mirrored", all GPUs of this machine; or "multi_worker", all the
            machines named by the environment variable TF_CONFIG. `batch_size` counts the rows of
            all of them together.

    Raises:
        InputError: If a value is out of range.
    """

    max_length: int = option(
        "tokens a row at most, special ones included", 128, names=("max_seq_len",)
    )
    batch_size: int = option("rows a step", 32)
    epochs: int = option("passes over the rows at most", 4)
    learning_rate: float = option("the highest learning rate", 3e-5, names=("lr",))
    warmup_fraction: float = option("share of the steps in which the rate grows", 0.1)
    weight_decay: float = option("AdamW's weight decay", 0.01)
    clip_norm: float = option("global norm to which gradients are clipped", 1.0)
    patience: int = option("epochs without progress after which training stops", 2)
    max_steps: int | None = option("steps at most", None)
    seed: int = option("of new weights, dropout and order", 1)
    num_seeds: int = option("models to train, with seeds from --seed on; the best is kept", 1)
    metric: str = option(
        "what the best epoch is chosen by (default: accuracy)", "accuracy", choices=METRICS
    )
    layer_decay: float = option(
        "each layer's learning rate, as a multiple of that of the one above", 1.0
    )
    freeze_embeddings: bool = option("the embeddings keep their weights", False)
    freeze_layers: int = option("lowest blocks that keep their weights, and the embeddings", 0)
    label_smoothing: float = option("share of a label that is spread over all", 0.0)
    class_weights: str = option("how much each label's rows count, or: balanced", "", metavar="A,B")
    accumulation_steps: int = option(
        "pieces in which the rows of a step are worked: saves memory", 1
    )
    precision: str = option(
        "what is computed in 16 bits (default: nothing)", "float32", choices=PRECISIONS
    )
    gradient_checkpointing: bool = option("less memory, more time", False)
    dropout: float | None = option("replaces all dropout rates of the model", None)
    distribution: str = option(
        "over all GPUs, or the machines that TF_CONFIG names", "none", choices=DISTRIBUTIONS
    )

    def __post_init__(self) -> None:
        """Checks the ranges."""
        for name, low in _AT_LEAST.items():
            if getattr(self, name) < low:
                raise InputError(f"{name} must be at least {low}. Received: {getattr(self, name)}")
        if self.seed + self.num_seeds - 1 > _LAST_SEED:
            raise InputError(
                f"seed must be at most {_LAST_SEED - self.num_seeds + 1} where num_seeds is "
                f"{self.num_seeds}. Received: {self.seed}"
            )
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
        if not 0 < self.layer_decay <= 1:
            raise InputError(f"layer_decay must be in (0, 1]. Received: {self.layer_decay}")
        for name in ("label_smoothing", "dropout"):
            share = getattr(self, name)
            if share is not None and not 0 <= share < 1:
                raise InputError(f"{name} must be in [0, 1). Received: {share}")
        if self.accumulation_steps > self.batch_size:
            raise InputError(
                "accumulation_steps must not exceed batch_size, the rows that it divides. "
                f"Received: {self.accumulation_steps} and {self.batch_size}"
            )
        for name, names in _NAMES.items():
            if getattr(self, name) not in names:
                raise InputError(
                    f"{name} must be one of {', '.join(names)}. Received: {getattr(self, name)}"
                )
        _check_class_weights(self.class_weights)


def _check_class_weights(text: str) -> None:
    if text in ("", BALANCED):
        return
    try:
        weights = [float(number) for number in text.split(",")]
    except ValueError:
        weights = []
    if not weights or not all(0 < weight < math.inf for weight in weights):
        raise InputError(
            f'class_weights must be "{BALANCED}" or positive numbers with commas between them, one '
            f"for each label. Received: {text}"
        )


# The published results these lead to with the published base weights, dev / test accuracy:
# ChnSentiCorp 94.00 / 94.08, LCQMC 88.74 / 86.11, DistilBERT on SST-2 90.71 / 90.38.
RECIPES: Mapping[str, Recipe] = {
    "seed-chnsenticorp": Recipe(learning_rate=3e-5),
    "seed-lcqmc": Recipe(learning_rate=3e-5),
    "seed-sst2": Recipe(learning_rate=4e-5),
    # New weights of size tiny on the embedded sample: over 0.9 in about a minute on two cores. At
    # 1e-3 one training in some falls to one answer for all rows and stays there.
    "sample": Recipe(learning_rate=5e-4, epochs=5),
}

TASK_RECIPES: Mapping[str, str] = {
    "chnsenticorp": "seed-chnsenticorp",
    "lcqmc": "seed-lcqmc",
    "sst2": "seed-sst2",
    "sample": "sample",
}
"""The recipe of each task that is trained without naming one."""
