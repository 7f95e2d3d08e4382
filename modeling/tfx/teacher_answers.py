"""TeacherAnswers adapter: what a teacher answers, beside the transformed examples."""

from collections.abc import Mapping

import tensorflow as tf
import tensorflow_transform as tft

from bert_tfx.modeling.distillation.learner import check_positions
from bert_tfx.modeling.distillation.students import load_teacher
from bert_tfx.modeling.export.teacher_files import NO_TEACHER, find_teacher
from bert_tfx.modeling.tfx.transformed_rows import (
    COMPRESSION,
    TEACHER_LOGITS,
    read_rows,
    vocabulary_file,
)
from bert_tfx.modeling.training.fine_tuning import predict_rows
from bert_tfx.modeling.training.train_step import predictor
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.tasks import Task


def answers_fn(
    *,
    model: str | None,
    task: Task,
    lowercase: bool,
    transform_graph: str,
    files: Mapping[str, str],
) -> None:
    """Copies transformed examples, each with what a teacher answers to it.

    Args:
        model: The teacher, exported; None where there is none.
        task: What the rows mean.
        lowercase: Whether their vocabulary is uncased.
        transform_graph: Says how to parse the examples, and holds their vocabulary.
        files: For each gzipped TFRecord file, where its copy goes. The records stay in their order
            and are as they were but for the feature `TEACHER_LOGITS`.

    Raises:
        InputError: If there is no teacher, or it answers other labels, reads other tokens or has
            fewer positions than a row has tokens.
    """
    if model is None:
        raise InputError(NO_TEACHER)
    transform_output = tft.TFTransformOutput(transform_graph)
    found = find_teacher(model)
    found.check(task, vocabulary_file(transform_output), lowercase=lowercase)
    teacher = load_teacher(found)
    predict = predictor(teacher)
    for source, target in files.items():
        rows = read_rows([source], transform_output)
        check_positions(teacher, int(rows.lengths.max()))
        answers = predict_rows(predict, rows, "teacher's answers")
        records = tf.data.TFRecordDataset(source, COMPRESSION).as_numpy_iterator()
        with tf.io.TFRecordWriter(target, COMPRESSION) as writer:
            for record, logits in zip(records, answers, strict=True):
                example = tf.train.Example.FromString(record)
                example.features.feature[TEACHER_LOGITS].float_list.value.extend(logits)
                writer.write(example.SerializeToString(deterministic=True))
