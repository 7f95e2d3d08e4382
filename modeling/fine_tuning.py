"""Fine-tuning: the loop over batches, with evaluation, early stopping and exact resumption.

Knows neither TFX nor TensorFlow: rows come in as arrays, steps go through Keras, on any backend.
"""

import dataclasses
import json
import logging
import os
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from bert_tfx.modeling import batching, optimization
from bert_tfx.modeling.recipes import Recipe

logger = logging.getLogger(__name__)

_EVAL_BATCH_SIZE = 64
# A line of progress comes after 5 seconds, later less often: a long run is no wall of text.
_SECONDS_BETWEEN_PROGRESS = (5.0, 60.0)
_PROGRESS_GROWTH = 0.1
# The state is saved after so many seconds, or after so many times what saving takes, whichever is
# longer: a crash costs little and saving costs less than a twentieth of the time.
_SECONDS_BETWEEN_SAVES = 20.0
_SAVE_COST_FACTOR = 20.0

Batch = Mapping[str, np.ndarray]
Predict = Callable[[Batch], np.ndarray]
TrainStep = Callable[[Batch, np.ndarray], tuple[float, int]]

_STATE_FILE = "state.npz"
_BEST_FILE = "best.npz"


@dataclasses.dataclass
class Progress:
    """Where a fine-tuning stands.

    Attributes:
        epoch: Epochs finished.
        step_in_epoch: Steps taken in the epoch after those.
        best_epoch: The epoch (from 1) with the best eval accuracy so far, 0 before the first.
        best_accuracy: Its eval accuracy.
        best_loss: Its eval loss.
        history: For each finished epoch the `loss`, `accuracy`, `eval_loss`, `eval_accuracy`.
        rows: Rows seen in the current epoch.
        loss_sum: The sum of their losses, nats.
        correct: How many of them were classified correctly.
    """

    epoch: int = 0
    step_in_epoch: int = 0
    rows: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    best_epoch: int = 0
    best_accuracy: float = -1.0
    best_loss: float = float("inf")
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)


def fine_tune(
    model: keras.Model,
    train_rows: batching.Rows,
    eval_rows: batching.Rows,
    recipe: Recipe,
    *,
    state_dir: str,
    on_metrics: Callable[[int, Mapping[str, float]], None] | None = None,
) -> Progress:
    """Trains a classifier and leaves it with the weights of its best epoch.

    The state (weights, optimizer, dropout seeds, position in the data) is saved in `state_dir`
    from time to time; where a state lies there already, training goes on from it, to the same
    result as if it had never stopped. The caller names a folder that no other model, data or
    recipe uses, and removes it when the result is safe.

    Args:
        model: Called with a dict of `token_ids`, `segment_ids`, `padding_mask`, int32 `[B, T]`;
            returns logits, float32 `[B, classes]`. Its variables exist already.
        train_rows: Rows to learn from.
        eval_rows: Rows that choose the best epoch.
        recipe: The hyper-parameters.
        state_dir: Folder of the state.
        on_metrics: Is told the step number and metrics after each report and each epoch.

    Returns:
        What happened.
    """
    steps_per_epoch = -(-len(train_rows) // recipe.batch_size)
    total_steps = recipe.epochs * steps_per_epoch
    if recipe.max_steps is not None:
        total_steps = min(total_steps, recipe.max_steps)
    optimizer = optimization.adamw(
        learning_rate=recipe.learning_rate,
        warmup_steps=int(total_steps * recipe.warmup_fraction),
        total_steps=total_steps,
        weight_decay=recipe.weight_decay,
        clip_norm=recipe.clip_norm,
    )
    optimizer.build(model.trainable_variables)
    take_step = train_step(model, optimizer)
    predict = predictor(model)
    state = _State(model, optimizer, pathlib.Path(state_dir))
    progress = state.restore() or Progress()
    if progress.epoch or progress.step_in_epoch:
        logger.info(
            "going on from the saved state: epoch %d, step %d",
            progress.epoch + 1,
            progress.step_in_epoch,
        )

    report = on_metrics or (lambda step, metrics: None)
    while progress.epoch < recipe.epochs:
        _train_epoch(take_step, train_rows, recipe, progress, total_steps, state, report)
        evaluation = evaluate(predict, eval_rows)
        metrics = {
            **_means(progress),
            **{f"eval_{name}": value for name, value in evaluation.items()},
        }
        progress.history.append(metrics)
        progress.epoch += 1
        progress.step_in_epoch = progress.rows = progress.correct = 0
        progress.loss_sum = 0.0
        better = (evaluation["accuracy"], -evaluation["loss"]) > (
            progress.best_accuracy,
            -progress.best_loss,
        )
        if better:
            progress.best_epoch = progress.epoch
            progress.best_accuracy = evaluation["accuracy"]
            progress.best_loss = evaluation["loss"]
            state.save_best()
        state.save(progress)
        step = min(progress.epoch * steps_per_epoch, total_steps)
        report(step, metrics)
        logger.info(
            "epoch %d/%d: loss %.4f, accuracy %.4f; eval loss %.4f, accuracy %.4f%s",
            progress.epoch,
            recipe.epochs,
            metrics["loss"],
            metrics["accuracy"],
            evaluation["loss"],
            evaluation["accuracy"],
            " (best so far)" if better else "",
        )
        if step >= total_steps:
            break
        if progress.epoch - progress.best_epoch >= recipe.patience:
            logger.info("stopping early: no better eval accuracy in %d epochs", recipe.patience)
            break
    state.restore_best()
    logger.info(
        "kept epoch %d of %d: eval accuracy %.4f",
        progress.best_epoch,
        progress.epoch,
        progress.best_accuracy,
    )
    return progress


def evaluate(predict: Predict, rows: batching.Rows) -> dict[str, float]:
    """Returns the mean `loss` (cross-entropy, nats) and the `accuracy` over some rows."""
    loss = correct = 0.0
    for indices in batching.evaluation_batches(rows.lengths, _EVAL_BATCH_SIZE):
        labels = rows.labels[indices]
        logits = predict(rows.batch(indices)).astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        loss -= log_probabilities[np.arange(len(indices)), labels].sum()
        correct += (logits.argmax(axis=1) == labels).sum()
    return {"loss": float(loss / len(rows)), "accuracy": float(correct / len(rows))}


def predictor(model: keras.Model) -> Predict:
    """Makes the function that maps a batch to its logits, float32 `[B, classes]`."""
    if keras.backend.backend() != "tensorflow":
        return lambda batch: np.asarray(model.predict_on_batch(batch))
    import tensorflow as tf

    @tf.function(input_signature=[_tensorflow_signature()[0]])
    def logits(batch: Batch) -> Any:
        return model(batch, training=False)

    return lambda batch: logits(batch).numpy()


def train_step(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> TrainStep:
    """Makes the function that learns from a batch and returns its mean loss and correct rows."""
    loss_fn = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if keras.backend.backend() != "tensorflow":
        accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
        model.compile(optimizer=optimizer, loss=loss_fn, metrics=[accuracy])

        def keras_step(batch: Batch, labels: np.ndarray) -> tuple[float, int]:
            model.reset_metrics()
            logs = model.train_on_batch(batch, labels, return_dict=True)
            return float(logs["loss"]), round(float(logs["accuracy"]) * len(labels))

        return keras_step
    import tensorflow as tf

    # Keras would trace its own step for the first width it meets, then again for all others: twice
    # the wait, and results that depend on which batch came first after a restart. No XLA: on a CPU
    # it takes a minute or more to compile each width and gains little.
    @tf.function(input_signature=_tensorflow_signature())
    def traced_step(batch: Batch, labels: Any) -> tuple[Any, Any]:
        with tf.GradientTape() as tape:
            logits = model(batch, training=True)
            loss = loss_fn(labels, logits)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        predicted = tf.argmax(logits, axis=1, output_type=labels.dtype)
        return loss, tf.math.count_nonzero(predicted == labels)

    def tensorflow_step(batch: Batch, labels: np.ndarray) -> tuple[float, int]:
        loss, correct = traced_step(batch, labels)
        return float(loss), int(correct)

    return tensorflow_step


def _tensorflow_signature() -> list[Any]:
    """Any number of rows and tokens, so that one graph serves all widths."""
    import tensorflow as tf

    ids = tf.TensorSpec([None, None], tf.int32)
    names = ("token_ids", "segment_ids", "padding_mask")
    return [dict.fromkeys(names, ids), tf.TensorSpec([None], tf.int32)]


def _train_epoch(
    take_step: TrainStep,
    rows: batching.Rows,
    recipe: Recipe,
    progress: Progress,
    total_steps: int,
    state: "_State",
    report: Callable[[int, Mapping[str, float]], None],
) -> None:
    """Takes the steps of an epoch that are still to take."""
    batches = batching.training_batches(
        rows.lengths, recipe.batch_size, seed=recipe.seed, epoch=progress.epoch
    )
    first_step = progress.epoch * len(batches)
    batches = batches[: total_steps - first_step]
    started = reported = 0.0
    reported_step = 0
    for indices in batches[progress.step_in_epoch :]:
        loss, correct = take_step(rows.batch(indices), rows.labels[indices])
        progress.step_in_epoch += 1
        progress.rows += len(indices)
        progress.loss_sum += loss * len(indices)
        progress.correct += correct
        now = time.monotonic()
        if not reported:
            # The first step also traces the graph; it would spoil the rate.
            started = reported = now
            reported_step = progress.step_in_epoch
        if now - reported >= _pause(now - started):
            rate = (progress.step_in_epoch - reported_step) / (now - reported)
            step = first_step + progress.step_in_epoch
            metrics = _means(progress)
            report(step, metrics)
            logger.info(
                "epoch %d/%d, step %d/%d: loss %.4f, accuracy %.4f, %.0f rows/s, %s left",
                progress.epoch + 1,
                recipe.epochs,
                progress.step_in_epoch,
                len(batches),
                metrics["loss"],
                metrics["accuracy"],
                rate * recipe.batch_size,
                _clock((total_steps - step) / rate),
            )
            reported, reported_step = now, progress.step_in_epoch
        state.save_if_due(progress)


def _pause(elapsed: float) -> float:
    """Returns the seconds between lines of progress in an epoch that runs for `elapsed` seconds."""
    shortest, longest = _SECONDS_BETWEEN_PROGRESS
    return min(longest, max(shortest, _PROGRESS_GROWTH * elapsed))


def _means(progress: Progress) -> dict[str, float]:
    """Returns the mean loss and the accuracy over the current epoch so far."""
    return {
        "loss": progress.loss_sum / progress.rows,
        "accuracy": progress.correct / progress.rows,
    }


def _clock(seconds: float) -> str:
    """Formats a duration as h:mm:ss or m:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class _State:
    """Saves and restores all that a fine-tuning needs to go on as if it had never stopped."""

    def __init__(
        self, model: keras.Model, optimizer: keras.optimizers.Optimizer, folder: pathlib.Path
    ) -> None:
        self._model = model
        self._variables = [*model.variables, *optimizer.variables]
        self._folder = folder
        self._due = time.monotonic() + _SECONDS_BETWEEN_SAVES
        folder.mkdir(parents=True, exist_ok=True)

    def save_if_due(self, progress: Progress) -> None:
        if time.monotonic() >= self._due:
            self.save(progress)

    def save(self, progress: Progress) -> None:
        start = time.monotonic()
        arrays = {f"v{i}": np.asarray(v) for i, v in enumerate(self._variables)}
        arrays["progress"] = np.asarray(json.dumps(dataclasses.asdict(progress)))
        self._write(_STATE_FILE, arrays)
        now = time.monotonic()
        self._due = now + max(_SECONDS_BETWEEN_SAVES, _SAVE_COST_FACTOR * (now - start))

    def restore(self) -> Progress | None:
        path = self._folder / _STATE_FILE
        if not path.exists():
            return None
        with np.load(path, allow_pickle=False) as arrays:
            for i, variable in enumerate(self._variables):
                variable.assign(arrays[f"v{i}"])
            return Progress(**json.loads(str(arrays["progress"])))

    def save_best(self) -> None:
        weights = enumerate(self._model.trainable_variables)
        self._write(_BEST_FILE, {f"v{i}": np.asarray(v) for i, v in weights})

    def restore_best(self) -> None:
        with np.load(self._folder / _BEST_FILE, allow_pickle=False) as arrays:
            for i, variable in enumerate(self._model.trainable_variables):
                variable.assign(arrays[f"v{i}"])

    def _write(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Writes a file whole or not at all."""
        partial = self._folder / f".{name}"
        with partial.open("wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self._folder / name)
