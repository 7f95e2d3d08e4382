"""The steps of a fine-tuning: one batch to learn from, one batch to predict.

They are TensorFlow's, traced once for all numbers of rows and tokens.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from bert_tfx.modeling.training.cross_entropy import CrossEntropy
from bert_tfx.modeling.training.parts import Batch, RowSums, Work, in_parts
from bert_tfx.modeling.training.recomputation import recomputed

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
    replicas = strategy.num_replicas_in_sync if strategy else 1

    def work(batch: Batch, labels: Any, total_weight: Any) -> RowSums:
        """Works rows that may be a part of the batch whose weight is given."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            with recomputed(model.encoder) if gradient_checkpointing else contextlib.nullcontext():
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
        return RowSums(share, correct, gradients)

    work_batch: Work = work
    if replicas * pieces > 1:
        work_batch = in_parts(work, variables, pieces=pieces, replicas=replicas)

    def replica_step(batch: Batch, labels: Any) -> tuple[Any, Any]:
        share, correct, gradients = work_batch(batch, labels, loss.total_weight(labels))
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
