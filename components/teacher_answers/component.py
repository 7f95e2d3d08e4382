"""TeacherAnswers: asks a teacher about each row of train, once for all trainings to come."""

from tfx import types
from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import component_spec, standard_artifacts

from bert_tfx.components.teacher_answers import executor
from bert_tfx.schema.fingerprint import source_fingerprint
from bert_tfx.schema.tasks import Task


class TeacherAnswersSpec(component_spec.ComponentSpec):
    """Inputs, outputs and parameters of `TeacherAnswers`."""

    PARAMETERS = {
        "answers_fn": component_spec.ExecutionParameter(type=str),
        "task": component_spec.ExecutionParameter(type=str),
        "lowercase": component_spec.ExecutionParameter(type=int),
        "rows_seen": component_spec.ExecutionParameter(type=int, optional=True),
        "fingerprint": component_spec.ExecutionParameter(type=str),
    }
    INPUTS = {
        "transformed_examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
        "transform_graph": component_spec.ChannelParameter(type=standard_artifacts.TransformGraph),
        "model": component_spec.ChannelParameter(type=standard_artifacts.Model, optional=True),
    }
    OUTPUTS = {"examples": component_spec.ChannelParameter(type=standard_artifacts.Examples)}


class TeacherAnswers(base_beam_component.BaseBeamComponent):
    """Adds a teacher's answers to the rows of train.

    A training then does not run the teacher, and one with another temperature, rate or student,
    which finds these answers in the cache, does not either.

    Args:
        transformed_examples: The rows, as Transform made them: `train` and `eval`.
        transform_graph: Says how to parse them.
        model: The teacher, exported; there may be none yet.
        answers_fn: Dotted name of the function that checks the teacher and returns what loads it on
            a worker; `bert_tfx.modeling.tfx.teacher_answers` has it.
        task: What the rows mean.
        lowercase: Whether their vocabulary is uncased.
        rows_seen: Rows that all steps of a training see together, each time they see one; None is
            each row at least once. Where there are more rows than that, the teacher is not asked
            here.
    """

    SPEC_CLASS = TeacherAnswersSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)

    def __init__(
        self,
        *,
        transformed_examples: types.BaseChannel,
        transform_graph: types.BaseChannel,
        model: types.BaseChannel,
        answers_fn: str,
        task: Task,
        lowercase: bool,
        rows_seen: int | None = None,
    ) -> None:
        super().__init__(
            TeacherAnswersSpec(
                transformed_examples=transformed_examples,
                transform_graph=transform_graph,
                model=model,
                answers_fn=answers_fn,
                task=task.to_json(),
                lowercase=int(lowercase),
                rows_seen=rows_seen,
                fingerprint=source_fingerprint(executor.__name__, answers_fn.rpartition(".")[0]),
                examples=types.Channel(type=standard_artifacts.Examples),
            )
        )
