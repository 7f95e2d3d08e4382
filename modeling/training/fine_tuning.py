"""Fine-tuning: the loop over batches, with evaluation, early stopping and exact resumption.

Knows no TFX: rows come in as arrays. What is learned is a model and a loss: distillation hands in
its own.
"""

import contextlib
import dataclasses
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import keras
import numpy as np

from bert_tfx.modeling.encoders.classifier import TextClassifier
from bert_tfx.modeling.text import batching
from bert_tfx.modeling.training import distribution, metrics, optimization
from bert_tfx.modeling.training.cross_entropy import CrossEntropy
from bert_tfx.modeling.training.recipes import BALANCED, Recipe
from bert_tfx.modeling.training.train_step import Predict, TrainStep, predictor, train_step
from bert_tfx.modeling.training.training_state import Progress, TrainingState
from bert_tfx.schema.errors import InputError

logger = logging.getLogger(__name__)

_EVAL_BATCH_SIZE = 64
# A line of progress comes after 5 seconds, later less often: a long run is no wall of text.
_SECONDS_BETWEEN_PROGRESS = (5.0, 60.0)
_PROGRESS_GROWTH = 0.1

OnMetrics: TypeAlias = Callable[[int, Mapping[str, float]], None]
"""Is told a step number and what was measured there."""


@dataclasses.dataclass
class SeedsResult:
    """What a fine-tuning with several seeds gave.

    Attributes:
        model: The model of the best seed, with the weights of its best epoch.
        best_seed: That seed.
        progress: What happened, for each seed.
        metric: The recipe's; the values of the best epochs are compared by it.
        mean: Mean of the seeds' best values.
        standard_deviation: Of one seed, estimated from these (divided by their number less 1); 0
            where there is one.
    """

    model: TextClassifier
    best_seed: int
    progress: dict[int, Progress]
    metric: str
    mean: float
    standard_deviation: float


def fine_tune_seeds(
    make_model: Callable[[int], TextClassifier],
    train_rows: batching.Rows,
    eval_rows: batching.Rows,
    recipe: Recipe,
    *,
    state_dir: str,
    on_metrics: Callable[[int, int, Mapping[str, float]], None] | None = None,
    train: Callable[..., Progress] | None = None,
) -> SeedsResult:
    """Trains `recipe.num_seeds` models, with the seeds `recipe.seed` and on, and keeps the best.

    Each seed's state is saved in a folder of its own in `state_dir`: a run that was stopped goes on
    with the seed it was at. One model is in memory at a time.

    Args:
        make_model: Makes the model for a seed, as `fine_tune` wants it. It is called with Keras'
            global seed set to that seed, within `distribution.scope(recipe)`.
        train_rows: Rows to learn from.
        eval_rows: Rows that choose the best epoch and the best seed.
        recipe: The hyper-parameters.
        state_dir: Folder of the states.
        on_metrics: Is told the seed, the step number and the metrics, as by `fine_tune`.
        train: Trains one model; is called as `fine_tune`, which it is if it is not given.

    Returns:
        What happened, and the model of the best seed.
    """
    train = train or fine_tune

    def train_seed(seed: int) -> tuple[TextClassifier, Progress]:
        keras.utils.set_random_seed(seed)
        with distribution.scope(recipe):
            model = make_model(seed)
        progress = train(
            model,
            train_rows,
            eval_rows,
            dataclasses.replace(recipe, seed=seed, num_seeds=1),
            state_dir=os.path.join(state_dir, f"seed-{seed}"),
            on_metrics=None
            if on_metrics is None
            else lambda step, measured: on_metrics(seed, step, measured),
        )
        return model, progress

    progress: dict[int, Progress] = {}
    for seed in range(recipe.seed, recipe.seed + recipe.num_seeds):
        if recipe.num_seeds > 1:
            logger.info("seed %d: %d of %d", seed, len(progress) + 1, recipe.num_seeds)
        model, progress[seed] = train_seed(seed)
    best_seed = max(
        progress,
        key=lambda seed: _rank(recipe, progress[seed].best_value, progress[seed].best_loss),
    )
    if best_seed != seed:
        del model
        # Its training is finished: what lies in its folder is only loaded.
        model, _ = train_seed(best_seed)
    values = [p.best_value for p in progress.values() if p.best_value is not None]
    result = SeedsResult(
        model=model,
        best_seed=best_seed,
        progress=progress,
        metric=recipe.metric,
        mean=float(np.mean(values)),
        standard_deviation=float(np.std(values, ddof=1)) if len(values) > 1 else 0.0,
    )
    if len(values) > 1:
        logger.info(
            "kept seed %d: eval %s %.4f; all %d seeds: mean %.4f, standard deviation %.4f",
            best_seed,
            recipe.metric,
            progress[best_seed].best_value,
            len(values),
            result.mean,
            result.standard_deviation,
        )
    return result


def fine_tune(
    model: TextClassifier,
    train_rows: batching.Rows,
    eval_rows: batching.Rows | None,
    recipe: Recipe,
    *,
    state_dir: str,
    on_metrics: OnMetrics | None = None,
    learner: keras.Model | None = None,
    loss: CrossEntropy | None = None,
    frozen: Sequence[keras.layers.Layer] = (),
) -> Progress:
    """Trains a classifier and leaves it with the weights of its best epoch.

    The state (weights, optimizer, dropout seeds, position in the data) is saved in `state_dir`
    from time to time; where a state lies there already, training goes on from it, to the same
    result as if it had never stopped. A training that was finished is not taken further. The caller
    names a folder that no other model, data or recipe uses, and removes it when the result is safe.

    With several workers every one calls this, with the same arguments and with a `state_dir` that
    all of them can read; the chief alone writes there and calls `on_metrics`.

    Args:
        model: Made with the dtype policy `recipe.precision`, with the rates `recipe.dropout` and
            within `distribution.scope(recipe)`.
        train_rows: Rows to learn from.
        eval_rows: Rows that choose the best epoch; with None all epochs are taken and the weights
            of the last one stay.
        recipe: The hyper-parameters; `num_seeds` is for `fine_tune_seeds`.
        state_dir: Folder of the state.
        on_metrics: Is told the step number and metrics after each report and each epoch: the
            entries of `Progress.history` as far as they are known, and `learning_rate`.
        learner: What takes the steps: a model around `model`, made within the strategy's scope;
            None is `model` itself.
        loss: What the learner's outputs are worth; None is the recipe's cross-entropy.
        frozen: Layers that keep their weights, besides those that the recipe freezes.

    Returns:
        What happened.

    Raises:
        InputError: If the recipe does not fit the model or the rows.
    """
    _check(model, recipe)
    loss = loss or CrossEntropy(
        class_weights(recipe, train_rows.labels, model.num_labels), recipe.label_smoothing
    )
    strategy = distribution.strategy_of(model, recipe)
    steps_per_epoch, total_steps = steps_of(train_rows, recipe)
    is_chief = distribution.is_chief(strategy)
    report = on_metrics if on_metrics and is_chief else lambda step, measured: None
    with _frozen([*_frozen_by(model, recipe), *frozen]):
        take_step, state, progress = _begin(
            learner or model, recipe, loss, total_steps, state_dir, strategy
        )
        predict = predictor(model)
        while not _is_finished(progress, recipe, total_steps, steps_per_epoch):
            padding = _train_epoch(
                take_step, train_rows, recipe, progress, total_steps, state, report
            )
            evaluation = None
            if eval_rows is not None:
                evaluation = evaluate(predict, eval_rows)
                values = distribution.from_chief(strategy, list(evaluation.values()))
                evaluation = dict(zip(evaluation, values, strict=True))
            _end_epoch(progress, recipe, evaluation, padding, state)
            step = min(progress.epoch * steps_per_epoch, total_steps)
            rate = progress.learning_rates[-1]
            report(step, {**progress.history[-1], "learning_rate": rate})
        # All workers wait here until the chief has written what they are about to read.
        distribution.sum_over_workers(strategy, [0.0])
        if eval_rows is not None:
            state.restore_best()
        elif strategy:
            # As after a restart: the replicas' dropouts are parted again from equal seeds.
            state.restore()
        # And here until all have read it: the chief's caller may remove it then.
        distribution.sum_over_workers(strategy, [0.0])
    if eval_rows is not None:
        logger.info(
            "kept epoch %d of %d: eval %s %.4f",
            progress.best_epoch,
            progress.epoch,
            recipe.metric,
            progress.best_value,
        )
    return progress


def _begin(
    learner: keras.Model,
    recipe: Recipe,
    loss: CrossEntropy,
    total_steps: int,
    state_dir: str,
    strategy: Any,
) -> tuple[TrainStep, TrainingState, Progress]:
    """Makes the step and goes on from the saved state, if there is one."""
    with strategy.scope() if strategy else contextlib.nullcontext():
        optimizer = _optimizer(learner, recipe, total_steps)
    take_step = train_step(
        learner,
        optimizer,
        loss,
        pieces=recipe.accumulation_steps,
        gradient_checkpointing=recipe.gradient_checkpointing,
        strategy=strategy,
    )
    state = TrainingState(learner, optimizer, state_dir, is_writer=distribution.is_chief(strategy))
    progress = state.restore() or Progress()
    if strategy:
        _check_workers(strategy, progress, state_dir)
        distribution.part_seeds(learner, strategy)
    if progress.step_losses:
        logger.info(
            "going on from the saved state: epoch %d, step %d",
            progress.epoch + 1,
            progress.step_in_epoch,
        )
    return take_step, state, progress


def evaluate(predict: Predict, rows: batching.Rows) -> dict[str, float]:
    """Returns the metrics of a classifier over some rows: see `metrics.evaluation_metrics`."""
    return metrics.evaluation_metrics(rows.labels, predict_rows(predict, rows))


def predict_rows(predict: Predict, rows: batching.Rows, what: str | None = None) -> np.ndarray:
    """Returns the logits of some rows, float32 `[rows, classes]`, in their order.

    Args:
        predict: The model.
        rows: The rows.
        what: What the lines of progress call the logits; None is no such line.
    """
    batches = batching.evaluation_batches(rows.lengths, _EVAL_BATCH_SIZE)
    start = reported = time.monotonic()
    parts = []
    done = 0
    for indices in batches:
        parts.append(predict(rows.batch(indices)))
        done += len(indices)
        now = time.monotonic()
        if what is not None and now - reported >= _pause(now - start):
            rate = done / (now - start)
            logger.info(
                "%s: %s of %s rows, %.0f rows/s, %s left",
                what,
                f"{done:,}",
                f"{len(rows):,}",
                rate,
                clock((len(rows) - done) / rate),
            )
            reported = now
    logits = np.concatenate(parts)
    in_order = np.empty_like(logits)
    in_order[np.concatenate(batches)] = logits
    return in_order


def class_weights(recipe: Recipe, labels: np.ndarray, num_labels: int) -> np.ndarray | None:
    """Returns what a row of each class counts in the training loss.

    Args:
        recipe: Its `class_weights` is what counts.
        labels: int `[rows]`, class indices of the rows to learn from.
        num_labels: Number of classes.

    Returns:
        float64 `[num_labels]`, or None where all count alike. "balanced" is rows / (num_labels *
        rows of the class).

    Raises:
        InputError: If there is not one number for each label, or no row of one.
    """
    if not recipe.class_weights:
        return None
    if recipe.class_weights != BALANCED:
        weights = np.array([float(number) for number in recipe.class_weights.split(",")])
        if len(weights) != num_labels:
            raise InputError(
                f"class_weights must have one number for each of the {num_labels} labels. "
                f"Received: {recipe.class_weights}"
            )
        return weights
    counts = np.bincount(labels, minlength=num_labels)
    if not counts.all():
        raise InputError(
            f"class_weights={BALANCED} needs training rows of each label; there is none of label "
            f"number {counts.argmin() + 1}: give the weights as numbers"
        )
    return len(labels) / (num_labels * counts)


def _check(model: TextClassifier, recipe: Recipe) -> None:
    """Raises where recipe and model do not fit together."""
    if recipe.metric == "f1" and model.num_labels != 2:
        raise InputError(
            f"metric=f1 is for two labels, and there are {model.num_labels}: take macro_f1"
        )
    if model.dtype_policy.name != recipe.precision:
        raise InputError(
            f"precision is {recipe.precision}, but the model was made with the dtype policy "
            f"{model.dtype_policy.name}"
        )
    if recipe.freeze_layers > len(model.encoder.blocks):
        raise InputError(
            f"freeze_layers must be at most {len(model.encoder.blocks)}, the blocks of this "
            f"encoder. Received: {recipe.freeze_layers}"
        )


def _check_workers(strategy: Any, progress: Progress, state_dir: str) -> None:
    mine = len(progress.step_losses)
    steps, workers = distribution.sum_over_workers(strategy, [mine, 1])
    if steps != mine * workers:
        raise InputError(
            f"{state_dir}: the workers do not read the same state here; give all of them a folder "
            "that they share, or an empty one"
        )


def _frozen_by(model: TextClassifier, recipe: Recipe) -> list[keras.layers.Layer]:
    """Returns the layers that the recipe freezes."""
    layers: list[keras.layers.Layer] = [*model.encoder.blocks[: recipe.freeze_layers]]
    if recipe.freeze_embeddings or recipe.freeze_layers:
        layers += model.encoder.embedding_layers()
    return layers


@contextlib.contextmanager
def _frozen(layers: Sequence[keras.layers.Layer]) -> Iterator[None]:
    """Makes layers untrainable for a while."""
    layers = [layer for layer in layers if layer.trainable]
    for layer in layers:
        layer.trainable = False
    try:
        yield
    finally:
        for layer in layers:
            layer.trainable = True


def steps_of(rows: batching.Rows, recipe: Recipe) -> tuple[int, int]:
    """Returns the steps of an epoch and of the whole training."""
    steps_per_epoch = -(-len(rows) // recipe.batch_size)
    total_steps = recipe.epochs * steps_per_epoch
    return steps_per_epoch, min(total_steps, recipe.max_steps or total_steps)


def _optimizer(model: keras.Model, recipe: Recipe, total_steps: int) -> keras.optimizers.Optimizer:
    factors = None
    if recipe.layer_decay != 1.0:
        factors = optimization.layer_rate_factors(model, recipe.layer_decay)
    optimizer = optimization.adamw(
        learning_rate=recipe.learning_rate,
        warmup_steps=int(total_steps * recipe.warmup_fraction),
        total_steps=total_steps,
        weight_decay=recipe.weight_decay,
        clip_norm=recipe.clip_norm,
        rate_factors=factors,
    )
    if recipe.precision == "mixed_float16":
        # Gradients below float16's smallest number would be lost; their loss is scaled up.
        # Its name is part of its variables' names, and Keras would number it.
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, name="loss_scale")
    optimizer.build(model.trainable_variables)
    return optimizer


def _is_finished(
    progress: Progress, recipe: Recipe, total_steps: int, steps_per_epoch: int
) -> bool:
    if progress.epoch * steps_per_epoch >= total_steps:
        return True
    return bool(progress.best_epoch) and progress.epoch - progress.best_epoch >= recipe.patience


def _rank(recipe: Recipe, value: float | None, loss: float) -> tuple[float, float]:
    """Returns what is greater for a better model; what is no number is the worst."""
    keys = (-loss if recipe.metric == "loss" else value, -loss)
    first, second = (-np.inf if key is None or np.isnan(key) else key for key in keys)
    return first, second


def _end_epoch(
    progress: Progress,
    recipe: Recipe,
    evaluation: Mapping[str, float] | None,
    padding: float,
    state: TrainingState,
) -> None:
    """Takes an epoch's evaluation into account, where there was one, and saves the state."""
    measured = {
        **_means(progress),
        "padding": padding,
        **{f"eval_{name}": v for name, v in (evaluation or {}).items()},
    }
    progress.history.append(measured)
    progress.epoch += 1
    progress.step_in_epoch = progress.rows = progress.correct = 0
    progress.loss_sum = 0.0
    if evaluation is None:
        state.save(progress)
        logger.info("epoch %d/%d: loss %.4f", progress.epoch, recipe.epochs, measured["loss"])
        return
    value, loss = evaluation[recipe.metric], evaluation["loss"]
    better = not progress.best_epoch or _rank(recipe, value, loss) > _rank(
        recipe, progress.best_value, progress.best_loss
    )
    if better:
        progress.best_epoch = progress.epoch
        progress.best_value = value
        progress.best_accuracy = evaluation["accuracy"]
        progress.best_loss = loss
        state.save_best()
    state.save(progress)
    shown = dict.fromkeys(("loss", "accuracy", recipe.metric))
    logger.info(
        "epoch %d/%d: loss %.4f, accuracy %.4f; eval %s%s",
        progress.epoch,
        recipe.epochs,
        measured["loss"],
        measured["accuracy"],
        ", ".join(f"{name} {evaluation[name]:.4f}" for name in shown),
        " (best so far)" if better else "",
    )
    if progress.epoch - progress.best_epoch >= recipe.patience:
        logger.info(
            "stopping early: no better eval %s in %d epochs", recipe.metric, recipe.patience
        )


def _train_epoch(
    take_step: TrainStep,
    rows: batching.Rows,
    recipe: Recipe,
    progress: Progress,
    total_steps: int,
    state: TrainingState,
    report: Callable[[int, Mapping[str, float]], None],
) -> float:
    """Takes the steps of an epoch that are still to take; returns the share of padding in all."""
    batches = batching.training_batches(
        rows.lengths, recipe.batch_size, seed=recipe.seed, epoch=progress.epoch
    )
    first_step = progress.epoch * len(batches)
    batches = batches[: total_steps - first_step]
    started = reported = 0.0
    reported_step = 0
    for indices in batches[progress.step_in_epoch :]:
        taken = take_step(rows.batch(indices), rows.labels[indices])
        progress.step_in_epoch += 1
        progress.rows += len(indices)
        progress.loss_sum += taken.loss * len(indices)
        progress.correct += taken.correct
        progress.step_losses.append(taken.loss)
        progress.learning_rates.append(taken.learning_rate)
        now = time.monotonic()
        if not reported:
            # The first step also traces the graph; it would spoil the rate.
            started = reported = now
            reported_step = progress.step_in_epoch
        if now - reported >= _pause(now - started):
            rate = (progress.step_in_epoch - reported_step) / (now - reported)
            step = first_step + progress.step_in_epoch
            measured = {**_means(progress), "learning_rate": taken.learning_rate}
            report(step, measured)
            logger.info(
                "epoch %d/%d, step %d/%d: loss %.4f, accuracy %.4f, %.0f rows/s, %s left",
                progress.epoch + 1,
                recipe.epochs,
                progress.step_in_epoch,
                len(batches),
                measured["loss"],
                measured["accuracy"],
                rate * recipe.batch_size,
                clock((total_steps - step) / rate),
            )
            reported, reported_step = now, progress.step_in_epoch
        state.save_if_due(progress)
    return rows.padding(batches)


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


def clock(seconds: float) -> str:
    """Formats a duration as h:mm:ss or m:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
