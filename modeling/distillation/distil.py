"""Fine-tuning of a student: the loop's epochs with what teachers answer and hold inside."""

import contextlib
import dataclasses
import logging
import os
import time
from collections.abc import Callable, Mapping

from bert_tfx.modeling.distillation.learner import (
    DistillationLoss,
    Distilled,
    TaughtRows,
    Teaching,
    taught_rows,
)
from bert_tfx.modeling.encoders.classifier import TextClassifier
from bert_tfx.modeling.text.batching import Rows
from bert_tfx.modeling.training import distribution
from bert_tfx.modeling.training.fine_tuning import (
    OnMetrics,
    class_weights,
    clock,
    fine_tune,
    predict_rows,
    steps_of,
)
from bert_tfx.modeling.training.recipes import Recipe
from bert_tfx.modeling.training.train_step import predictor
from bert_tfx.modeling.training.training_state import Progress

logger = logging.getLogger(__name__)


def distilling(teaching: Teaching) -> Callable[..., Progress]:
    """Makes what is called in place of `fine_tune`, with the same arguments, to teach students.

    The intermediate epochs come first, each with the recipe's schedule and `max_steps` of its own.
    What is measured in them is reported with `intermediate_` before its name. The teachers' answers
    are kept for the next student.

    Args:
        teaching: What is learned from.

    Returns:
        A function that returns what happened in the recipe's epochs. It raises InputError where the
        student cannot learn so, or as `fine_tune` does.
    """
    taught: Rows | None = None

    def distil(
        student: TextClassifier,
        train_rows: Rows,
        eval_rows: Rows,
        recipe: Recipe,
        *,
        state_dir: str,
        on_metrics: OnMetrics | None = None,
    ) -> Progress:
        nonlocal taught
        settings = teaching.settings
        teaching.check(student, recipe.max_length)
        if taught is None:
            taught = with_soft_targets(train_rows, teaching, recipe)
        weights = class_weights(recipe, taught.labels, student.num_labels)
        if settings.intermediate_epochs:
            logger.info("epochs of the teacher's layers first: %d", settings.intermediate_epochs)
            fine_tune(
                student,
                taught,
                None,
                dataclasses.replace(recipe, epochs=settings.intermediate_epochs),
                state_dir=os.path.join(state_dir, "intermediate"),
                on_metrics=on_metrics and _intermediate(on_metrics),
                learner=_learner(student, teaching, recipe, layers=True, answers=False),
                loss=DistillationLoss(weights, label_weight=0.0),
                # No layer teaches these.
                frozen=student.head_layers(),
            )
        together = settings.learns_layers and not settings.intermediate_epochs
        return fine_tune(
            student,
            taught,
            eval_rows,
            recipe,
            state_dir=state_dir,
            on_metrics=on_metrics,
            learner=_learner(student, teaching, recipe, layers=together, answers=True),
            loss=DistillationLoss(weights, recipe.label_smoothing, label_weight=1 - settings.alpha),
        )

    return distil


def with_soft_targets(rows: Rows, teaching: Teaching, recipe: Recipe) -> Rows:
    """Returns the training rows with what the teachers answer to them, where that is worth it.

    It is where nothing else is asked of the teachers in the recipe's epochs, and all rows are seen.

    Args:
        rows: The training rows; rows that have soft targets are returned as they are.
        teaching: What is learned from.
        recipe: The hyper-parameters.
    """
    steps_per_epoch, total_steps = steps_of(rows, recipe)
    settings = teaching.settings
    seen = total_steps >= steps_per_epoch
    if isinstance(rows, TaughtRows) or not (settings.learns_answers_alone and seen):
        return rows
    start = time.monotonic()
    answers = [
        predict_rows(predictor(teacher), rows, "teacher's answers") for teacher in teaching.teachers
    ]
    logger.info("the teachers' answers to all rows took %s", clock(time.monotonic() - start))
    return taught_rows(rows, answers, settings)


def _learner(
    student: TextClassifier, teaching: Teaching, recipe: Recipe, *, layers: bool, answers: bool
) -> Distilled:
    strategy = distribution.strategy_of(student, recipe)
    with strategy.scope() if strategy else contextlib.nullcontext():
        return Distilled(student, teaching, layers=layers, answers=answers)


def _intermediate(on_metrics: OnMetrics) -> OnMetrics:
    def report(step: int, measured: Mapping[str, float]) -> None:
        names = ("loss", "learning_rate")
        on_metrics(step, {f"intermediate_{name}": measured[name] for name in names})

    return report
