"""What a student learns from its teachers, as it is asked for.

Plain Python, so that the command line can refuse what cannot be without loading a framework.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from bert_tfx.schema.errors import InputError
from bert_tfx.schema.options import option

UNIFORM = "uniform"
LAST = "last"

_LAYER_WEIGHTS = ("embedding_weight", "hidden_weight", "attention_weight")


@dataclasses.dataclass(frozen=True)
class Distillation:
    """What a student learns from its teachers, and how much each thing counts.

    A row's training loss is `(1 - alpha)` times that of its label plus `alpha` times that of the
    soft targets, plus the weighted others. `bert_tfx.modeling.distillation.losses` has the
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

    temperature: float = option(
        "how soft the teacher's answers are made (default: 2)", 2.0, metavar="T"
    )
    alpha: float = option("share of these; the labels have the rest (default: 0.5)", 0.5)
    cosine_weight: float = option("of the angle between the last hidden states (default: 0)", 0.0)
    embedding_weight: float = option("of the distance between the embeddings (default: 0)", 0.0)
    hidden_weight: float = option("of that between the layers' hidden states (default: 0)", 0.0)
    attention_weight: float = option("of that between their attention scores (default: 0)", 0.0)
    layer_map: str = option(
        "a teacher layer for each of the student's: uniform (default), last, or numbers from 1 on, "
        "such as 3,6,9,12",
        UNIFORM,
        metavar="MAP",
    )
    intermediate_epochs: int = option("epochs before the others for these three (default: 0)", 0)
    student_layers: int | None = option(
        "the student starts as a copy of N layers of the teacher", None
    )

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
