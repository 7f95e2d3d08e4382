"""Recipes: the hyper-parameters of a fine-tuning, one for each task; settings of a distillation.

Plain Python, so that the command line can show its defaults without loading a framework.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from bert_tfx.schema.errors import InputError

METRICS = ("accuracy", "loss", "macro_f1", "f1", "mcc", "balanced_accuracy")
"""What `bert_tfx.modeling.metrics` computes and `Recipe.metric` may name."""
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
"""Keras' dtype policies that `Recipe.precision` may name."""
DISTRIBUTIONS = ("none", "mirrored", "multi_worker")
BALANCED = "balanced"
UNIFORM = "uniform"
LAST = "last"

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
_LAYER_WEIGHTS = ("embedding_weight", "hidden_weight", "attention_weight")
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
    num_seeds: int = 1
    metric: str = "accuracy"
    layer_decay: float = 1.0
    freeze_embeddings: bool = False
    freeze_layers: int = 0
    label_smoothing: float = 0.0
    class_weights: str = ""
    accumulation_steps: int = 1
    precision: str = "float32"
    gradient_checkpointing: bool = False
    dropout: float | None = None
    distribution: str = "none"

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


@dataclasses.dataclass(frozen=True)
class Distillation:
    """What a student learns from its teachers, and how much each thing counts.

    A row's training loss is `(1 - alpha)` times that of its label plus `alpha` times that of the
    soft targets, plus the weighted others. `bert_tfx.modeling.distillation_losses` has the
    formulas. Soft targets are the mean of all teachers; what lies inside of a model is compared
    with the first teacher's.

    Layers are numbered from 1, the lowest, as in `hidden_states`, where 0 is the embeddings. The
    layer map says which teacher layer each student layer learns from, and starts as a copy of:

    - "uniform": of M student and N teacher layers, layer m has layer ceil(m * N / M). The top has
      the top; half the layers have each second one.
    - "last": the top M of the teacher's, layer m has layer N - M + m.
    - numbers with commas between them, one for each student layer, such as "3,6,9,12".

    Attributes:
        temperature: Of the soft targets: what the logits are divided by before the softmax.
        alpha: Share of the soft targets, in [0, 1]; the labels have the rest.
        cosine_weight: Of the angle between the last hidden states (DistilBERT).
        embedding_weight: Of the distance between the embeddings (TinyBERT).
        hidden_weight: Of the distance between the mapped layers' hidden states (TinyBERT).
        attention_weight: Of the distance between the mapped layers' attention scores (TinyBERT).
        layer_map: "uniform", "last" or numbers.
        intermediate_epochs: Epochs before the recipe's in which the student learns from embeddings,
            hidden states and attention alone; the recipe's are then without these (TinyBERT's two
            stages). With 0 all is learned together.
        student_layers: Layers of a student that starts as a copy of the first teacher's embeddings
            and of some of its layers; None is a student from elsewhere.

    Raises:
        InputError: If a value is out of range, or nothing would be learned from the teacher.
    """

    temperature: float = 2.0
    alpha: float = 0.5
    cosine_weight: float = 0.0
    embedding_weight: float = 0.0
    hidden_weight: float = 0.0
    attention_weight: float = 0.0
    layer_map: str = UNIFORM
    intermediate_epochs: int = 0
    student_layers: int | None = None

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if not 0 < self.temperature < math.inf:
            raise InputError(f"temperature must be positive. Received: {self.temperature}")
        if not 0 <= self.alpha <= 1:
            raise InputError(f"alpha must be in [0, 1]. Received: {self.alpha}")
        for name in ("cosine_weight", *_LAYER_WEIGHTS):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} must not be negative. Received: {getattr(self, name)}")
        if self.intermediate_epochs < 0:
            raise InputError(
                f"intermediate_epochs must not be negative. Received: {self.intermediate_epochs}"
            )
        if self.student_layers is not None and self.student_layers < 1:
            raise InputError(f"student_layers must be at least 1. Received: {self.student_layers}")
        if self.intermediate_epochs and not self.learns_layers:
            raise InputError(
                "intermediate_epochs need something to learn from: give embedding_weight, "
                "hidden_weight or attention_weight"
            )
        if not (self.alpha or self.cosine_weight or self.learns_layers):
            raise InputError(
                "alpha is 0 and so is every other weight: nothing would be learned from the teacher"
            )
        if self.layer_map not in (UNIFORM, LAST):
            _numbers(self.layer_map)

    @property
    def learns_layers(self) -> bool:
        """Whether embeddings, hidden states or attention scores are learned from."""
        return any(getattr(self, name) for name in _LAYER_WEIGHTS)

    @property
    def learns_answers_alone(self) -> bool:
        """Whether the recipe's epochs need the teachers' answers, and nothing else of them.

        Then they can be asked once for all; `intermediate_epochs` ask them in any case.
        """
        together = self.learns_layers and not self.intermediate_epochs
        return self.alpha > 0 and not (self.cosine_weight or together)

    def teacher_layers(self, student: int, teacher: int) -> tuple[int, ...]:
        """Returns the teacher layer of each student layer, from the lowest on.

        Args:
            student: The student's number of layers.
            teacher: The teacher's.

        Raises:
            InputError: If the map has not one number for each student layer, goes down, or names a
                layer that the teacher has not.
        """
        if self.layer_map == UNIFORM:
            return tuple(-(-layer * teacher // student) for layer in range(1, student + 1))
        if self.layer_map == LAST:
            if student > teacher:
                raise InputError(
                    f"layer_map={LAST}: the student has {student} layers and the teacher has "
                    f"{teacher}; take {UNIFORM}, or name the layers"
                )
            return tuple(range(teacher - student + 1, teacher + 1))
        layers = _numbers(self.layer_map)
        if len(layers) != student:
            raise InputError(
                f"layer_map must name a teacher layer for each of the student's {student} layers. "
                f"Received {len(layers)}: {self.layer_map}"
            )
        if max(layers) > teacher:
            raise InputError(
                f"layer_map names layer {max(layers)}, and the teacher has {teacher}: "
                f"{self.layer_map}"
            )
        return layers

    def check_shapes(self, student: Mapping[str, Any], teacher: Mapping[str, Any]) -> None:
        """Raises where a student of one shape cannot learn so from a teacher of another.

        Args:
            student: Its `num_layers`, `hidden_dim` and `num_heads`; what is not known may be left
                out, and is not checked.
            teacher: The same of the first teacher.

        Raises:
            InputError: If layers, widths or heads do not fit.
        """
        known = student.keys() & teacher.keys()
        if self.cosine_weight and "hidden_dim" in known:
            ours, theirs = student["hidden_dim"], teacher["hidden_dim"]
            if ours != theirs:
                raise InputError(
                    f"cosine_weight compares hidden states of the same width; the student's is "
                    f"{ours}, the teacher's {theirs}: take hidden_weight, which projects them"
                )
        copies = self.student_layers is not None
        if (self.hidden_weight or self.attention_weight or copies) and "num_layers" in known:
            self.teacher_layers(student["num_layers"], teacher["num_layers"])
        if self.attention_weight and "num_heads" in known:
            ours, theirs = student["num_heads"], teacher["num_heads"]
            if ours != theirs:
                raise InputError(
                    f"attention_weight compares heads one by one; the student has {ours}, the "
                    f"teacher {theirs}: leave it out, or give the student as many"
                )


def fits_layers(student: str, teacher: str) -> bool:
    """Whether a student of one architecture can start as copies of a teacher's layers."""
    return student == teacher or (student, teacher) == ("distilbert", "bert")


def _numbers(layer_map: str) -> tuple[int, ...]:
    """Reads a layer map that is written out."""
    try:
        layers = [int(number) for number in layer_map.split(",")]
    except ValueError:
        layers = []
    if not layers or layers[0] < 1 or layers != sorted(layers):
        raise InputError(
            f'layer_map must be "{UNIFORM}", "{LAST}" or layer numbers from 1 on with commas '
            f"between them, none lower than the one before. Received: {layer_map}"
        )
    return tuple(layers)


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
