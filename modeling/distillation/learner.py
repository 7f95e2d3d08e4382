"""A student together with its teachers: what it is to come near to, and how far it is from it.

`settings.py` says what is asked for, `losses.py` has the formulas, `distil.py` the epochs.

Shapes: B batch, T tokens, C classes.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from bert_tfx.modeling.distillation import losses
from bert_tfx.modeling.distillation.settings import Distillation
from bert_tfx.modeling.encoders.classifier import TextClassifier
from bert_tfx.modeling.encoders.encoder import Encoder
from bert_tfx.modeling.encoders.transformer import SelfAttention, Tensor, kernel_initializer
from bert_tfx.modeling.text.batching import Rows
from bert_tfx.modeling.training.cross_entropy import CrossEntropy
from bert_tfx.modeling.training.train_step import DISTANCE, FEATURES, LOGITS, SOFT_TARGETS
from bert_tfx.schema.errors import InputError

_SHAPE = ("num_layers", "hidden_dim", "num_heads")


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
            {name: getattr(model.encoder.config, name) for name in _SHAPE}
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
    positions = teacher.encoder.config.max_length
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
        ours, theirs = student.encoder.config, teacher.config
        wider = layers and ours.hidden_dim != theirs.hidden_dim

        def projection(name: str) -> keras.layers.Dense:
            return keras.layers.Dense(
                theirs.hidden_dim,
                use_bias=False,
                kernel_initializer=kernel_initializer(ours.initializer_range),
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
                projection.build((None, None, self.encoder.config.hidden_dim))

    @property
    def encoder(self) -> Encoder:
        """The student's."""
        return self.student.encoder

    def call(self, inputs: Mapping[str, Tensor], training: bool = False) -> dict[str, Tensor]:
        """Computes the student's logits and its distance; see the class."""
        lesson = self._lesson
        teaching, settings = lesson.teaching, lesson.teaching.settings
        features = {name: inputs[name] for name in FEATURES}
        mask = features["padding_mask"]
        ours = self.student.encoder(features, training=training)
        logits = self.student.head(ours, training=training)

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
                    attention_scores(pair.student_attention, ours[pair.student - 1]),
                    ops.stop_gradient(
                        attention_scores(pair.teacher_attention, theirs[pair.teacher - 1])
                    ),
                    mask,
                )
                terms.append(settings.attention_weight * attention)
        return sum(terms[1:], terms[0])


def _pairs(student: Encoder, teacher: Encoder, settings: Distillation) -> tuple[_Pair, ...]:
    if not (settings.hidden_weight or settings.attention_weight):
        return ()
    layers = settings.teacher_layers(student.config.num_layers, teacher.config.num_layers)
    return tuple(
        _Pair(number, layer, student.layer(number).attention, teacher.layer(layer).attention)
        for number, layer in enumerate(layers, start=1)
    )


def attention_scores(attention: SelfAttention, state: Tensor) -> Tensor:
    """Computes what a layer takes the softmax of, from its input: Q K^T / sqrt(D).

    Args:
        attention: The layer's.
        state: float [B, T, hidden_dim].

    Returns:
        float32 [B, H, T, T]; where either token is padding, numbers without a meaning.
    """
    config = attention.config
    heads = (-1, ops.shape(state)[1], config.num_heads, config.head_size)
    rows = ops.reshape(state, (-1, config.hidden_dim))
    query = ops.reshape(attention.query_dense(rows), heads) * config.head_size**-0.5
    key = ops.reshape(attention.key_dense(rows), heads)
    return ops.cast(ops.einsum("bthd,bshd->bhts", query, key), "float32")


def _projected(projection: keras.layers.Dense | None, state: Tensor) -> Tensor:
    return state if projection is None else projection(state)
