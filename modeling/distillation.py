"""Distillation: a student classifier learns from the answers and the insides of larger ones.

Knows no TFX; TensorFlow only to read a teacher that was exported. `bert_tfx.modeling.recipes` has
the settings, `bert_tfx.modeling.distillation_losses` the formulas, and
`bert_tfx.modeling.fine_tuning` the loop.

Shapes: B batch, T tokens, C classes.
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from bert_tfx.modeling import distillation_losses as losses
from bert_tfx.modeling.batching import Rows
from bert_tfx.modeling.checkpoints import ENCODERS, architecture_of, load_saved_classifier
from bert_tfx.modeling.classifier import TextClassifier
from bert_tfx.modeling.optimization import embedding_layers
from bert_tfx.modeling.recipes import Distillation, fits_layers
from bert_tfx.modeling.teacher_files import TeacherFiles
from bert_tfx.modeling.train_step import DISTANCE, LOGITS, SOFT_TARGETS, CrossEntropy, Encoder
from bert_tfx.modeling.transformer import SelfAttention, Tensor, kernel_initializer
from bert_tfx.schema.errors import InputError

logger = logging.getLogger(__name__)

_SHAPE = ("num_layers", "hidden_dim", "num_heads")
_FEATURES = ("token_ids", "segment_ids", "padding_mask")


@dataclasses.dataclass(frozen=True)
class Teaching:
    """What there is to learn from.

    Attributes:
        settings: What is learned, and how much each thing counts.
        teachers: Classifiers that answer the student's labels from the student's token ids. They
            are never changed.
    """

    settings: Distillation
    teachers: tuple[TextClassifier, ...]

    def check(self, student: TextClassifier, max_length: int) -> None:
        """Raises where a student cannot learn so.

        Args:
            student: The student.
            max_length: Tokens that its rows have at most.

        Raises:
            InputError: If labels, positions, layers, widths or heads do not fit.
        """
        settings = self.settings
        for number, teacher in enumerate(self.teachers, start=1):
            if teacher.num_labels != student.num_labels:
                raise InputError(
                    f"teacher {number} answers {teacher.num_labels} labels, the student "
                    f"{student.num_labels}: they must be the same"
                )
            check_positions(teacher, max_length, f"teacher {number}")
        ours, theirs = (
            {name: getattr(model.encoder, name) for name in _SHAPE}
            for model in (student, self.teachers[0])
        )
        settings.check_shapes(ours, theirs)


def check_positions(teacher: TextClassifier, tokens: int, name: str = "the teacher") -> None:
    """Raises where a teacher cannot read its student's rows.

    Args:
        teacher: The teacher.
        tokens: Tokens that the rows have at most.
        name: What the message calls it.

    Raises:
        InputError: If it has fewer positions.
    """
    positions = teacher.encoder.max_length
    if positions < tokens:
        raise InputError(
            f"{name} has positions for {positions} tokens, and the student reads rows of up to "
            f"{tokens}: set max_length to {positions} at most"
        )


@dataclasses.dataclass(frozen=True)
class TaughtRows(Rows):
    """Rows and what the teachers answer to them.

    Attributes:
        soft_targets: float32 `[rows, C]`, `distillation_losses.soft_targets`.
    """

    soft_targets: np.ndarray

    def batch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the model's input for some rows, and their `soft_targets`."""
        return {**super().batch(indices), SOFT_TARGETS: self.soft_targets[indices]}


def taught_rows(rows: Rows, answers: Sequence[np.ndarray], settings: Distillation) -> TaughtRows:
    """Returns rows with what their teachers answer.

    Args:
        rows: The rows.
        answers: Each teacher's logits, float32 `[rows, C]`.
        settings: Its `temperature` is what counts.
    """
    return TaughtRows(
        rows.token_ids,
        rows.segment_ids,
        rows.lengths,
        rows.labels,
        np.asarray(losses.soft_targets(answers, settings.temperature)),
    )


class DistillationLoss(CrossEntropy):
    """The training loss of a `Distilled` model.

    A row of class y has w_y times its distance from the teachers, plus `label_weight` times its
    cross-entropy; the batch is averaged as in `CrossEntropy`.

    Args:
        class_weights: As in `CrossEntropy`.
        label_smoothing: As in `CrossEntropy`.
        label_weight: How much the labels count.
    """

    def __init__(
        self,
        class_weights: np.ndarray | None = None,
        label_smoothing: float = 0.0,
        *,
        label_weight: float,
    ) -> None:
        super().__init__(class_weights, label_smoothing)
        self.label_weight = label_weight

    def call(self, y_true: Any, y_pred: Mapping[str, Any]) -> Any:
        """Returns each row's loss, float32 `[B]`."""
        total = y_pred[DISTANCE]
        if self.class_weights is not None:
            total = total * ops.take(self.class_weights, y_true)
        if self.label_weight:
            total = total + self.label_weight * super().call(y_true, y_pred[LOGITS])
        return total


@dataclasses.dataclass(frozen=True)
class _Pair:
    """A student layer and the teacher layer that it learns from, as numbers and their attention."""

    student: int
    teacher: int
    student_attention: SelfAttention
    teacher_attention: SelfAttention


@dataclasses.dataclass(frozen=True)
class _Lesson:
    """What a `Distilled` model learns; a dataclass, so that Keras tracks no teacher in it."""

    teaching: Teaching
    pairs: tuple[_Pair, ...]
    layers: bool
    answers: bool


class Distilled(keras.Model):
    """A student and what it takes to measure how far it is from its teachers.

    Its variables are the student's and, where the widths differ and layers are learned from,
    projections from the student's width to the teacher's: W_e of the embeddings and one W_h of all
    hidden states (arXiv:1909.10351, equations 8 and 9). The teachers' are not among them.

    Args:
        student: The classifier that learns.
        teaching: What from; checked.
        layers: Whether from embeddings, hidden states and attention.
        answers: Whether from the soft targets and the last hidden states' angles.

    Call arguments:
        inputs: dict of int32 [B, T], as the student is called with, and `soft_targets`, float32
            [B, C], where they are known; else the teachers are asked.

    Returns:
        dict of `logits`, float32 [B, C], and `distance`, float32 [B]: the weighted sum of what
        `distillation_losses` computes.
    """

    def __init__(
        self, student: TextClassifier, teaching: Teaching, *, layers: bool, answers: bool
    ) -> None:
        super().__init__(name="distilled", dtype="float32")
        self.student = student
        settings = teaching.settings
        teacher = teaching.teachers[0].encoder
        wider = layers and student.encoder.hidden_dim != teacher.hidden_dim

        def projection(name: str) -> keras.layers.Dense:
            return keras.layers.Dense(
                teacher.hidden_dim,
                use_bias=False,
                kernel_initializer=kernel_initializer(student.encoder.initializer_range),
                dtype="float32",
                name=name,
            )

        self.embedding_projection = self.hidden_projection = None
        if wider and settings.embedding_weight:
            self.embedding_projection = projection("embedding_projection")
        if wider and settings.hidden_weight:
            self.hidden_projection = projection("hidden_projection")
        self._lesson = _Lesson(
            teaching,
            _pairs(student.encoder, teacher, settings) if layers else (),
            layers=layers,
            answers=answers,
        )
        self.build()

    def build(self, input_shape: Any = None) -> None:
        """Creates the projections; the constructor has called it."""
        for projection in (self.embedding_projection, self.hidden_projection):
            if projection is not None:
                projection.build((None, None, self.encoder.hidden_dim))

    @property
    def encoder(self) -> Encoder:
        """The student's."""
        return self.student.encoder

    def call(self, inputs: Mapping[str, Tensor], training: bool | None = None) -> dict[str, Tensor]:
        """Computes the student's logits and its distance; see the class."""
        lesson = self._lesson
        teaching, settings = lesson.teaching, lesson.teaching.settings
        features = {name: inputs[name] for name in _FEATURES}
        mask = features["padding_mask"]
        # The student first: Keras hands `training` on from one layer called to the next.
        ours = self.student.encoder(features, training=training)
        logits = self.student.head(ours)

        asks = lesson.answers and settings.alpha > 0 and SOFT_TARGETS not in inputs
        insides = lesson.layers or (lesson.answers and settings.cosine_weight > 0)
        asked = teaching.teachers if asks else teaching.teachers[: int(insides)]
        encoded = [teacher.encoder(features, training=False) for teacher in asked]

        distance = ops.zeros_like(logits[:, 0])
        if lesson.layers:
            states = [ops.stop_gradient(state) for state in encoded[0]["hidden_states"]]
            distance += self._layer_distance(ours["hidden_states"], states, mask)
        if lesson.answers and settings.cosine_weight:
            theirs = ops.stop_gradient(encoded[0]["sequence_output"])
            cosine = losses.cosine_loss(ours["sequence_output"], theirs, mask)
            distance += settings.cosine_weight * cosine
        if lesson.answers and settings.alpha:
            if asks:
                answers = [t.head(e) for t, e in zip(asked, encoded, strict=True)]
                targets = losses.soft_targets(answers, settings.temperature)
            else:
                targets = inputs[SOFT_TARGETS]
            soft = losses.soft_target_loss(ops.stop_gradient(targets), logits, settings.temperature)
            distance += settings.alpha * soft
        return {LOGITS: logits, DISTANCE: distance}

    def _layer_distance(
        self, ours: Sequence[Tensor], theirs: Sequence[Tensor], mask: Tensor
    ) -> Tensor:
        """Returns the weighted sum over the mapped layers, float32 [B]."""
        settings = self._lesson.teaching.settings
        terms = []
        if settings.embedding_weight:
            student = _projected(self.embedding_projection, ours[0])
            embedding = losses.hidden_loss(student, theirs[0], mask)
            terms.append(settings.embedding_weight * embedding)
        for pair in self._lesson.pairs:
            if settings.hidden_weight:
                student = _projected(self.hidden_projection, ours[pair.student])
                hidden = losses.hidden_loss(student, theirs[pair.teacher], mask)
                terms.append(settings.hidden_weight * hidden)
            if settings.attention_weight:
                attention = losses.attention_loss(
                    _scores(pair.student_attention, ours[pair.student - 1], mask),
                    ops.stop_gradient(
                        _scores(pair.teacher_attention, theirs[pair.teacher - 1], mask)
                    ),
                    mask,
                )
                terms.append(settings.attention_weight * attention)
        return sum(terms[1:], terms[0])

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Returns the compiled loss, which takes both outputs together (Keras' own step)."""
        return self.loss(y, y_pred)

    def compute_metrics(
        self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None
    ) -> dict[str, Any]:
        """Returns the metrics, which are of the logits (Keras' own step)."""
        metrics: dict[str, Any] = super().compute_metrics(x, y, y_pred[LOGITS], sample_weight)
        return metrics


def load_teacher(files: TeacherFiles) -> TextClassifier:
    """Reads a teacher's classifier.

    Args:
        files: From `find_teacher`.

    Raises:
        InputError: If its weights cannot be read.
    """
    if files.is_exported:
        from bert_tfx.modeling.export import load_exported_classifier

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
    num_layers = settings.student_layers or source.num_layers
    layers = settings.teacher_layers(num_layers, source.num_layers)
    config = {**source.get_config(), "num_layers": num_layers, **overrides}
    if ours != theirs:
        del config["name"], config["num_segments"]
        head_dropout = 0.2 if head_dropout is None else head_dropout
    student = TextClassifier(
        ENCODERS[ours](**config),
        teacher.num_labels,
        teacher.dropout_rate if head_dropout is None else head_dropout,
    )
    encoder = student.encoder
    for layer in embedding_layers(student):
        _copy(getattr(source, layer.name), layer)
    for block, number in zip(encoder.blocks, layers, strict=False):
        _copy(source.blocks[(number - 1) % len(source.blocks)], block)
    if ours != theirs:
        positions = ops.convert_to_numpy(source.position_embedding.embeddings)
        first = ops.convert_to_numpy(source.segment_embedding.embeddings)[0]
        encoder.position_embedding.embeddings.assign(positions + first)
        logger.info("the head is new: a DistilBERT's reads something else than a BERT's")
        return student
    for layer, copied in zip(head_layers(student), head_layers(teacher), strict=True):
        _copy(copied, layer)
    return student


def head_layers(model: TextClassifier) -> list[keras.layers.Layer]:
    """Returns the layers above the blocks that have weights."""
    layers = [getattr(model.encoder, "pooler", None), model.pre_classifier, model.logits]
    return [layer for layer in layers if layer is not None]


def _pairs(student: Encoder, teacher: Encoder, settings: Distillation) -> tuple[_Pair, ...]:
    if not (settings.hidden_weight or settings.attention_weight):
        return ()
    layers = settings.teacher_layers(student.num_layers, teacher.num_layers)
    return tuple(
        _Pair(number, layer, _attention(student, number), _attention(teacher, layer))
        for number, layer in enumerate(layers, start=1)
    )


def _attention(encoder: Encoder, number: int) -> SelfAttention:
    # ALBERT has one block for all of its layers.
    return encoder.blocks[(number - 1) % len(encoder.blocks)].attention


def _scores(attention: SelfAttention, state: Tensor, mask: Tensor) -> Tensor:
    """Computes a layer's attention scores from its input, as `attention_maps` does."""
    return attention.scores(ops.reshape(state, (-1, attention.hidden_dim)), mask)


def _projected(projection: keras.layers.Dense | None, state: Tensor) -> Tensor:
    return state if projection is None else projection(state)


def _copy(source: keras.layers.Layer, target: keras.layers.Layer) -> None:
    for ours, theirs in zip(target.weights, source.weights, strict=True):
        ours.assign(ops.convert_to_numpy(theirs))
