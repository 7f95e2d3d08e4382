"""Teachers that are read, and students that start as some of a teacher's layers."""

import dataclasses
import logging
from typing import Any

import keras
from keras import ops

from bert_tfx.modeling.checkpoints.loading import ENCODERS, architecture_of, load_saved_classifier
from bert_tfx.modeling.distillation.settings import Distillation, fits_layers
from bert_tfx.modeling.encoders.bert import BertEncoder
from bert_tfx.modeling.encoders.classifier import TextClassifier
from bert_tfx.modeling.export.teacher_files import TeacherFiles
from bert_tfx.schema.errors import InputError

logger = logging.getLogger(__name__)


def load_teacher(files: TeacherFiles) -> TextClassifier:
    """Reads a teacher's classifier.

    Args:
        files: From `find_teacher`.

    Raises:
        InputError: If its weights cannot be read.
    """
    if files.is_exported:
        from bert_tfx.modeling.export.saved_model import load_exported_classifier

        return load_exported_classifier(files.path)
    return load_saved_classifier(files.files[0])


def student_from_teacher(
    teacher: TextClassifier,
    settings: Distillation,
    *,
    architecture: str | None = None,
    head_dropout: float | None = None,
    **overrides: Any,
) -> TextClassifier:
    """Makes a student out of a teacher's embeddings and some of its layers.

    Layer m starts as a copy of the teacher's layer that the layer map names for it. Pooler and head
    are copied, too. ALBERT has one block, which the student applies less often. A DistilBERT out of
    a BERT (Sanh et al. 2019, arXiv:1910.01108, section 3) has neither segments nor pooler: the
    first segment's embedding is added to the positions', so that the embeddings of single texts
    stay the teacher's, and the head is new, as it reads something else.

    Args:
        teacher: The teacher; not changed.
        settings: Its `student_layers` and `layer_map` are what counts.
        architecture: `bert`, `distilbert` or `albert`; None is the teacher's.
        head_dropout: Dropout rate of the head instead of the teacher's.
        **overrides: Arguments of the encoder that shall not be the teacher's, such as
            `hidden_dropout` or `dtype`.

    Raises:
        InputError: If the teacher's layers do not fit the architecture or the map.
    """
    source = teacher.encoder
    ours, theirs = architecture or architecture_of(source), architecture_of(source)
    if not fits_layers(ours, theirs):
        raise InputError(
            f"student_layers: the teacher is {theirs}, its layers cannot be copied into {ours}: "
            "leave student_layers out, for new weights, or model, for the teacher's architecture"
        )
    num_layers = settings.student_layers or source.config.num_layers
    layers = settings.teacher_layers(num_layers, source.config.num_layers)
    kind = ENCODERS[ours]
    fields = {field.name for field in dataclasses.fields(kind.Config)}
    config = {k: v for k, v in dataclasses.asdict(source.config).items() if k in fields}
    if ours == theirs:
        config |= {"name": source.name, "dtype": source.dtype_policy}
    elif head_dropout is None:
        head_dropout = 0.2
    encoder = kind(**{**config, "num_layers": num_layers, **overrides})
    student = TextClassifier(
        encoder,
        teacher.num_labels,
        teacher.dropout_rate if head_dropout is None else head_dropout,
    )
    for layer in encoder.embedding_layers():
        _copy(getattr(source, layer.name), layer)
    for block, number in zip(encoder.blocks, layers, strict=False):
        _copy(source.layer(number), block)
    if ours != theirs and isinstance(source, BertEncoder):
        positions = ops.convert_to_numpy(source.position_embedding.embeddings)
        first = ops.convert_to_numpy(source.segment_embedding.embeddings)[0]
        encoder.position_embedding.embeddings.assign(positions + first)
        logger.info("the head is new: a DistilBERT's reads something else than a BERT's")
        return student
    for layer, copied in zip(student.head_layers(), teacher.head_layers(), strict=True):
        _copy(copied, layer)
    return student


def _copy(source: keras.layers.Layer, target: keras.layers.Layer) -> None:
    for ours, theirs in zip(target.weights, source.weights, strict=True):
        ours.assign(ops.convert_to_numpy(theirs))
