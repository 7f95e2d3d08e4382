"""Smaller models in the pipeline: who teaches the model, and what is taken out of it after that."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from bert_tfx.components.variant_gate.limits import MAX_COMPRESSIONS, VariantLimits
from bert_tfx.modeling.compression.settings import Compression
from bert_tfx.modeling.distillation.settings import Distillation
from bert_tfx.modeling.training.recipes import Recipe
from bert_tfx.pipeline.configuration.kinds import (
    check_options,
    fields_of,
    read_json_option,
)
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.options import kinds_of

TEACHER, CONTROL, STUDENT = "Teacher", "Control", "Trainer"
"""The nodes that train. What goes on is the student, which without a teacher is all there is."""
ANSWERS = "TeacherAnswers"
"""The node that asks the teacher, where that is done before the student is trained."""
LONGEST = (TEACHER, ANSWERS, CONTROL, STUDENT)
"""The nodes that run a model on all rows of train."""
LAST = "last"
"""The teacher is the last model that was good enough, in place of one that is trained first."""

_DISTILL_EXAMPLE = '{"student_layers": 2, "alpha": 0.5, "max_accuracy_drop": 0.02}'
_COMPRESS_EXAMPLE = '[{"prune_vocab": true}, {"store": "float16", "max_accuracy_drop": 0.001}]'

# What says how something is taken out, not what.
_HOW = frozenset(
    {"importance_rows", "min_count", "characters", "recovery_steps", "recovery_learning_rate"}
    | {"recovery_seed"}
)
_TEACHER_KINDS = {
    **{"model": str, "size": str, "pretrained": str},
    # Both read the same rows.
    **{name: kind for name, kind in kinds_of(Recipe).items() if name != "max_length"},
}
_DISTILL_KINDS = {
    **{"teacher": object, "control": bool},
    **kinds_of(Distillation),
    **kinds_of(VariantLimits),
}
_COMPRESS_KINDS = {**kinds_of(Compression), **kinds_of(VariantLimits)}


@dataclasses.dataclass(frozen=True)
class DistillPlan:
    """How the run's model learns from a larger one.

    Attributes:
        settings: What it learns.
        limits: What it may lose to its teacher, and what it must gain.
        teacher: In what the teacher's training differs from the student's: `model`, `size`,
            `pretrained`, fields of `Recipe`. Or `LAST`.
        control: Whether the same student is trained on the labels alone, too, to compare with.
    """

    settings: Distillation
    limits: VariantLimits
    teacher: str | Mapping[str, Any]
    control: bool

    @property
    def teacher_recipe(self) -> Mapping[str, Any]:
        """The fields of the recipe in which the teacher's differs."""
        return {} if isinstance(self.teacher, str) else fields_of(Recipe, self.teacher)

    @property
    def teacher_model(self) -> Mapping[str, Any]:
        """What else differs: `model`, `size`, `pretrained`."""
        if isinstance(self.teacher, str):
            return {}
        return {name: self.teacher[name] for name in self.teacher.keys() - self.teacher_recipe}


@dataclasses.dataclass(frozen=True)
class CompressStep:
    """A step that makes the trained model smaller.

    Attributes:
        settings: What is taken out.
        limits: What may be lost to the model before the step, and what must be gained.
    """

    settings: Compression
    limits: VariantLimits

    @property
    def name(self) -> str:
        """What the step is called: what is asked of it, such as `heads 0.5, ffn 0.5`."""
        asked = []
        for name, value in dataclasses.asdict(self.settings).items():
            if name not in _HOW and value:
                text = name.replace("_", " ")
                asked.append(text if value is True else f"{text} {value}")
        return ", ".join(asked)


def parse_distill(value: str | Mapping[str, Any] = "") -> DistillPlan | None:
    """Returns how a model learns from a larger one.

    Args:
        value: An object of fields of `Distillation` and `VariantLimits`, `teacher` and `control`;
            or such an object as JSON text; or the path of a JSON file that holds one. Empty text is
            no teacher.

    Returns:
        The plan, or None where there is no teacher.

    Raises:
        InputError: If it is something else, or a field is unknown or out of range.
    """
    where = "distill"
    if isinstance(value, str):
        if not value.strip():
            return None
        value, where = read_json_option(value, where, _DISTILL_EXAMPLE)
    if not isinstance(value, Mapping):
        raise InputError(f"{where}: expected an object such as {_DISTILL_EXAMPLE}")
    check_options(value, _DISTILL_KINDS, f"{where}: ")
    teacher = value.get("teacher", {})
    if isinstance(teacher, Mapping):
        check_options(teacher, _TEACHER_KINDS, f"{where}, teacher: ")
        if {"size", "pretrained"} <= teacher.keys():
            raise InputError(f"{where}, teacher: size and pretrained: give one or the other")
    elif teacher != LAST:
        raise InputError(
            f'{where}: teacher must be "{LAST}", the last good model, or an object of what differs '
            f'from the student, such as {{"size": "small", "epochs": 3}}. Received: {teacher!r}'
        )
    try:
        return DistillPlan(
            settings=Distillation(**fields_of(Distillation, value)),
            limits=VariantLimits(**fields_of(VariantLimits, value)),
            teacher=teacher,
            control=value.get("control", False),
        )
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def parse_compress(value: str | list[Any] = "") -> tuple[CompressStep, ...]:
    """Returns the steps that make a trained model smaller.

    Args:
        value: A list of objects, each with fields of `Compression` and `VariantLimits`; or such a
            list as JSON text; or the path of a JSON file that holds one. Empty text is no step.

    Raises:
        InputError: If it is something else, or a field is unknown or out of range.
    """
    where = "compress"
    if isinstance(value, str):
        if not value.strip():
            return ()
        value, where = read_json_option(value, where, _COMPRESS_EXAMPLE)
    if not isinstance(value, list):
        raise InputError(f"{where}: expected a list such as {_COMPRESS_EXAMPLE}")
    if len(value) > MAX_COMPRESSIONS:
        raise InputError(
            f"{where}: has {len(value)} steps, and there may be {MAX_COMPRESSIONS}: several things "
            "may be asked of one step"
        )
    return tuple(_step(fields, f"{where}, step {i}") for i, fields in enumerate(value, start=1))


def _step(fields: Any, where: str) -> CompressStep:
    if not isinstance(fields, Mapping):
        raise InputError(f"{where}: expected an object. Received: {fields!r}")
    check_options(fields, _COMPRESS_KINDS, f"{where}: ")
    try:
        return CompressStep(
            settings=Compression(**fields_of(Compression, fields)),
            limits=VariantLimits(**fields_of(VariantLimits, fields)),
        )
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
