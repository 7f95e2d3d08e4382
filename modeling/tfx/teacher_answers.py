"""TeacherAnswers adapter: what a teacher answers to transformed examples."""

import functools
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import tensorflow as tf
import tensorflow_transform as tft

from bert_tfx.modeling.distillation.learner import check_positions
from bert_tfx.modeling.distillation.students import load_teacher
from bert_tfx.modeling.export.teacher_files import NO_TEACHER, TeacherFiles, find_teacher
from bert_tfx.modeling.tfx.transformed_rows import TEACHER_LOGITS, rows_of, vocabulary_file
from bert_tfx.modeling.training.fine_tuning import predict_rows
from bert_tfx.modeling.training.train_step import predictor
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.tasks import Task

Answer: TypeAlias = Callable[[tf.Tensor], dict[str, np.ndarray]]
"""Maps serialized examples, string `[rows]`, to `TEACHER_LOGITS`, float32 `[rows, C]`."""


def answers_fn(
    *, model: str | None, task: Task, lowercase: bool, transform_graph: str
) -> Callable[[], Answer]:
    """Checks a teacher, and returns what loads it where it is to answer.

    Args:
        model: The teacher, exported; None where there is none.
        task: What the rows mean.
        lowercase: Whether their vocabulary is uncased.
        transform_graph: Says how to parse the transformed examples, and holds their vocabulary.

    Returns:
        The setup, which can be pickled. What it returns raises InputError if the teacher has fewer
        positions than a row has tokens.

    Raises:
        InputError: If there is no teacher, or it answers other labels or reads other tokens.
    """
    if model is None:
        raise InputError(NO_TEACHER)
    found = find_teacher(model)
    found.check(task, vocabulary_file(tft.TFTransformOutput(transform_graph)), lowercase=lowercase)
    return functools.partial(_load, found, transform_graph)


def _load(found: TeacherFiles, transform_graph: str) -> Answer:
    transform_output = tft.TFTransformOutput(transform_graph)
    teacher = load_teacher(found)
    predict = predictor(teacher)

    def answer(records: tf.Tensor) -> dict[str, np.ndarray]:
        rows = rows_of(records, transform_output)
        check_positions(teacher, int(rows.lengths.max()))
        return {TEACHER_LOGITS: predict_rows(predict, rows)}

    return answer
