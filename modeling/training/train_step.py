"""The steps of a fine-tuning: one batch to learn from, one batch to predict.

They are TensorFlow's, traced once for all numbers of rows and tokens.
"""

import contextlib
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from bert_tfx.modeling.checkpoints.variable_names import SEED_STATE
from bert_tfx.modeling.encoders.albert import AlbertEncoder
from bert_tfx.modeling.encoders.altering import altered
from bert_tfx.modeling.encoders.encoder import Encoder
from bert_tfx.modeling.encoders.transformer import TransformerBlock

Batch: TypeAlias = Mapping[str, np.ndarray]
"""`token_ids`, `segment_ids`, `padding_mask`: int32 `[B, T]`; where a student learns from answers
that are known beforehand, `soft_targets`: float32 `[B, C]`."""

FEATURES = ("token_ids", "segment_ids", "padding_mask")
LOGITS = "logits"
DISTANCE = "distance"
"""What a model that learns from teachers (`distillation.learner.Distilled`) returns."""
SOFT_TARGETS = "soft_targets"


class Step(NamedTuple):
    """What a step reports.

    Attributes:
        loss: The training loss of its rows before the step, as `CrossEntropy` has it.
        correct: How many of them were classified correctly.
        learning_rate: Of the head.
    """

    loss: float
    correct: int
    learning_rate: float


TrainStep: TypeAlias = Callable[[Batch, np.ndarray], Step]
Predict: TypeAlias = Callable[[Batch], np.ndarray]


class CrossEntropy(keras.losses.Loss):
    """Softmax cross-entropy with class weights and label smoothing, in nats.

    With w the class weights, s the smoothing and C the number of classes, a row of class y has
    the target t = (1 - s) * onehot(y) + s / C and the loss -sum_c w_c * t_c * log p_c. The loss of
    a batch is the sum over its rows, divided by the sum of their w_y: PyTorch's
    `CrossEntropyLoss(weight=w, label_smoothing=s, reduction="mean")`.

    Args:
        class_weights: float `[C]`, or None for all 1.
        label_smoothing: s.
    """

    def __init__(
        self, class_weights: np.ndarray | None = None, label_smoothing: float = 0.0
    ) -> None:
        super().__init__(name="cross_entropy")
        self.class_weights = None if class_weights is None else class_weights.astype(np.float32)
        self.label_smoothing = label_smoothing

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Returns the loss of a batch.

        Args:
            y_true: int32 `[B]`, class indices.
            y_pred: float32 `[B, C]`, logits.
            sample_weight: Keras' and not used.

        Returns:
            float32 `[]`.
        """
        labels = ops.cast(ops.reshape(y_true, (-1,)), "int32")
        return ops.sum(self.call(labels, y_pred)) / self.total_weight(labels)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Returns each row's loss, float32 `[B]`."""
        if self.class_weights is None and not self.label_smoothing:
            return ops.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)
        classes = y_pred.shape[-1]
        targets = ops.one_hot(y_true, classes) * (1.0 - self.label_smoothing)
        targets += self.label_smoothing / classes
        if self.class_weights is not None:
            targets *= self.class_weights
        return -ops.sum(targets * ops.log_softmax(y_pred, axis=-1), axis=-1)

    def total_weight(self, labels: Any) -> Any:
        """Returns what the rows of a batch count together, float32 `[]`."""
        if self.class_weights is None:
            return ops.cast(ops.size(labels), "float32")
        return ops.sum(ops.take(self.class_weights, labels))


def predictor(model: keras.Model) -> Predict:
    """Makes the function that maps a batch to its logits, float32 `[B, classes]`."""

    @tf.function(input_signature=[dict.fromkeys(FEATURES, tf.TensorSpec([None, None], tf.int32))])
    def logits(batch: Batch) -> Any:
        return model(batch, training=False)

    return lambda batch: logits(batch).numpy()


def train_step(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    loss: CrossEntropy | None = None,
    *,
    pieces: int = 1,
    gradient_checkpointing: bool = False,
    strategy: Any = None,
) -> TrainStep:
    """Makes the function that learns from a batch.

    The first batch says which arrays there are, and of how many axes.

    Args:
        model: A `TextClassifier`, or a `Distilled` one with its `DistillationLoss`. Its trainable
            variables learn.
        optimizer: Built for them.
        loss: What to learn by; None is the plain cross-entropy.
        pieces: Parts in which a replica works its rows, one after another; they differ by at most
            one row.
        gradient_checkpointing: Whether to keep only the blocks' outputs for the gradient and to
            compute what is inside of them again.
        strategy: The `tf.distribute.Strategy` that model and optimizer were made for, if any. Each
            worker is to be given the same batches, and works its rows of them.
    """
    loss = loss or CrossEntropy()
    variables = [variable.value for variable in model.trainable_variables]
    recomputing = gradient_checkpointing
    replicas = strategy.num_replicas_in_sync if strategy else 1

    def work(batch: Batch, labels: Any, total_weight: Any) -> tuple[Any, Any, list[Any]]:
        """Returns the rows' share of the loss, how many are correct, the gradients."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            with recomputed(model.encoder) if recomputing else contextlib.nullcontext():
                outputs = model(batch, training=True)
            share = tf.reduce_sum(loss.call(labels, outputs)) / total_weight
            scaled = optimizer.scale_loss(share)
        # An embedding's gradient comes as slices, some of the same row: dense, or its norm and
        # with it the clipping would be wrong.
        # What lies above the layers that a student learns from alone has none: zeros.
        zero = tf.UnconnectedGradients.ZERO
        slices = tape.gradient(scaled, variables, unconnected_gradients=zero)
        gradients = [tf.convert_to_tensor(g) for g in slices]
        logits = outputs[LOGITS] if isinstance(outputs, dict) else outputs
        predicted = tf.argmax(logits, axis=1, output_type=labels.dtype)
        # A float, as `all_reduce` takes tensors of one dtype only.
        correct = tf.reduce_sum(tf.cast(predicted == labels, tf.float32))
        return share, correct, gradients

    def work_part(part: Any, batch: Batch, labels: Any) -> tuple[Any, Any, list[Any]]:
        rows, parts = tf.size(labels), replicas * pieces
        chosen = slice(rows * part // parts, rows * (part + 1) // parts)
        some = {name: array[chosen] for name, array in batch.items()}
        return work(some, labels[chosen], loss.total_weight(labels))

    def work_pieces(first: Any, batch: Batch, labels: Any) -> tuple[Any, Any, list[Any]]:
        zeros = [tf.zeros(v.shape, v.dtype) for v in variables]
        sums = (tf.constant(0.0), tf.constant(0.0), zeros)

        def add(k: Any, sums: Any) -> tuple[Any, Any]:
            part = work_part(first + k, batch, labels)
            return k + 1, tf.nest.map_structure(tf.add, sums, part)

        return tf.while_loop(
            lambda k, _: k < pieces, add, (tf.constant(0), sums), parallel_iterations=1
        )[1]

    def replica_step(batch: Batch, labels: Any) -> tuple[Any, Any]:
        if replicas * pieces == 1:
            done = work(batch, labels, loss.total_weight(labels))
        else:
            context = tf.distribute.get_replica_context()
            first = tf.cast(context.replica_id_in_sync_group, tf.int32) * pieces
            if pieces == 1:
                done = work_part(first, batch, labels)
            else:
                done = work_pieces(first, batch, labels)
        if replicas > 1:
            done = context.all_reduce(tf.distribute.ReduceOp.SUM, done)
        share, correct, gradients = done
        optimizer.apply(gradients, model.trainable_variables)
        return share, correct

    def whole_step(batch: Batch, labels: Any) -> tuple[Any, Any, Any]:
        rate = tf.identity(optimizer.learning_rate)
        if strategy is None:
            return *replica_step(batch, labels), rate
        results = strategy.run(replica_step, args=(batch, labels))
        return *(strategy.experimental_local_results(result)[0] for result in results), rate

    # Keras would trace its own step for the first width it meets, then again for all others: twice
    # the wait, and results that depend on which batch came first after a restart. No XLA: on a CPU
    # it takes a minute or more to compile each width and gains little.
    @functools.cache
    def traced_step(*arrays: tuple[str, int, np.dtype]) -> Any:
        specs = {name: tf.TensorSpec([None] * axes, dtype) for name, axes, dtype in arrays}
        signature = [specs, tf.TensorSpec([None], tf.int32)]
        return tf.function(whole_step, input_signature=signature, autograph=False)

    def step(batch: Batch, labels: np.ndarray) -> Step:
        arrays = ((name, array.ndim, array.dtype) for name, array in batch.items())
        share, correct, rate = traced_step(*arrays)(batch, labels)
        return Step(float(share), int(correct), float(rate))

    return step


def recomputed(encoder: Encoder) -> contextlib.AbstractContextManager[None]:
    """Within it, the blocks of an encoder compute inner values again for the gradient.

    Not by `keras.RematScope`: computing again, its dropouts would draw other numbers. Here the
    seeds are drawn once, outside of what is computed again.

    Args:
        encoder: Called to train.
    """
    recomputing = [functools.partial(_recompute, block) for block in encoder.blocks]
    if isinstance(encoder, AlbertEncoder):
        return altered(encoder, block=recomputing[0])
    return altered(encoder, blocks=recomputing)


def _recompute(block: TransformerBlock, hidden: Any, padding: Any, *, training: bool) -> Any:
    """Calls a block so that its gradient keeps its input only."""
    states = [v for v in block.variables if v.name == SEED_STATE]
    seeds = [tf.identity(state.value) for state in states]
    seeds_after: list[Any] = []

    def call(hidden: Any) -> Any:
        with keras.StatelessScope(zip(states, seeds, strict=True)) as scope:
            output = block(hidden, padding, training=training)
        if not seeds_after:
            seeds_after.extend(scope.get_current_value(state) for state in states)
        return output

    output = tf.recompute_grad(call)(hidden)
    for state, after in zip(states, seeds_after, strict=True):
        state.assign(after)
    return output
