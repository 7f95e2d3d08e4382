"""One training, from rows to a model on disk: what pipeline and command line share."""

import dataclasses
import functools
import json
import logging
import os
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from bert_tfx.modeling.checkpoints.loading import ENCODERS, architecture_of, load_classifier
from bert_tfx.modeling.distillation.distil import distilling
from bert_tfx.modeling.distillation.learner import Teaching
from bert_tfx.modeling.distillation.settings import Distillation
from bert_tfx.modeling.distillation.students import load_teacher, student_from_teacher
from bert_tfx.modeling.encoders.classifier import TextClassifier
from bert_tfx.modeling.encoders.reshaping import reshaped
from bert_tfx.modeling.encoders.sizes import SIZES
from bert_tfx.modeling.export.saved_model import about_exported, load_exported_classifier, shapes_of
from bert_tfx.modeling.export.teacher_files import find_teacher
from bert_tfx.modeling.export.trained_model import TrainedModel
from bert_tfx.modeling.text.batching import Rows
from bert_tfx.modeling.text.vocab_file import read_vocabulary
from bert_tfx.modeling.training import distribution
from bert_tfx.modeling.training.fine_tuning import SeedsResult, fine_tune_seeds
from bert_tfx.modeling.training.recipes import Recipe
from bert_tfx.schema.digests import sha256_of
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.tasks import Task

logger = logging.getLogger(__name__)

HISTORY_FILE = "history.json"


@dataclasses.dataclass(frozen=True)
class TrainingRun:
    """What is trained.

    Attributes:
        task: What the rows mean.
        recipe: The hyper-parameters.
        model: Of new weights, or of a student that starts from its teacher's: `bert`, `distilbert`
            or `albert`. None is the teacher's, or `bert`.
        size: Of new weights, a name of `BERT_SIZES`.
        pretrained: The checkpoint to start from instead, or None.
        vocab_file: The vocabulary.
        lowercase: Whether it is uncased.
        eval_fraction: Share of the rows that is held out, where there is no eval file.
        base_model: The exported model whose weights to go on from, or None. One of another shape
            or vocabulary is not taken.
        teachers: Trained or exported models to learn from, as `find_teacher` takes them.
        distillation: How to learn from them; None where there are none. With `student_layers` and
            no teacher, what is trained starts as a copy of layers of what the teacher would have
            started from, to compare a student with.
    """

    task: Task
    recipe: Recipe
    model: str | None
    size: str
    pretrained: str | None
    vocab_file: str
    lowercase: bool
    eval_fraction: float
    base_model: str | None = None
    teachers: tuple[str, ...] = ()
    distillation: Distillation | None = None

    @functools.cached_property
    def teaching(self) -> Teaching | None:
        """The teachers, read once (raises InputError where one does not fit)."""
        if self.distillation is None or not self.teachers:
            return None
        found = [find_teacher(path) for path in self.teachers]
        for files in found:
            files.check(self.task, self.vocab_file, lowercase=self.lowercase)
        with distribution.scope(self.recipe):
            return Teaching(self.distillation, tuple(load_teacher(files) for files in found))

    def make_classifier(self) -> TextClassifier:
        """Makes the classifier that is to be trained.

        Its weights are those of `base_model`, if that fits; else those of the teacher's layers or
        of the checkpoint, or new ones.

        Raises:
            InputError: If the checkpoint cannot be loaded, or does not fit the vocabulary or the
                longest row.
        """
        classifier = self._cold_classifier()
        if self.base_model is not None and self.why_cold(classifier) is None:
            base = load_exported_classifier(self.base_model)
            for ours, theirs in zip(classifier.weights, base.weights, strict=True):
                ours.assign(keras.ops.convert_to_numpy(theirs))
        return classifier

    def why_cold(self, classifier: TextClassifier) -> str | None:
        """Says why the weights of `base_model` are not taken, or returns None where they are.

        Args:
            classifier: What is to be trained.
        """
        if self.base_model is None:
            return "there is no earlier model"
        about = about_exported(self.base_model)
        if about["sha256"]["vocabulary"] != sha256_of(self.vocab_file):
            return "it has another vocabulary"
        if about["lowercase"] != self.lowercase:
            return f"it is {'un' if about['lowercase'] else ''}cased"
        if about["weights"] != shapes_of(classifier):
            return "it is of another shape"
        return None

    def _cold_classifier(self) -> TextClassifier:
        recipe, settings = self.recipe, self.distillation
        if settings is None or settings.student_layers is None:
            return self._untaught_classifier()
        source = self.teaching.teachers[0] if self.teaching else self._untaught_classifier()
        with distribution.scope(recipe):
            return student_from_teacher(
                source,
                settings,
                architecture=self.model,
                head_dropout=recipe.dropout,
                dtype=recipe.precision,
                **self._dropouts,
            )

    @property
    def _dropouts(self) -> dict[str, Any]:
        """The encoder's rates that are not its own."""
        rate = self.recipe.dropout
        return {} if rate is None else {"hidden_dropout": rate, "attention_dropout": rate}

    def _untaught_classifier(self) -> TextClassifier:
        recipe, num_labels = self.recipe, len(self.task.labels)
        dropouts = self._dropouts
        vocab_size = len(read_vocabulary(self.vocab_file))
        with distribution.scope(recipe):
            if self.pretrained is None:
                model = self.model or "bert"
                arguments: dict[str, Any] = {**SIZES[model][self.size], **dropouts}
                encoder = ENCODERS[model](
                    vocab_size=vocab_size,
                    max_length=recipe.max_length,
                    dtype=recipe.precision,
                    **arguments,
                )
                return TextClassifier(encoder, num_labels, recipe.dropout)
            if recipe.precision != "float32":
                dropouts["dtype"] = recipe.precision
            classifier = load_classifier(
                self.pretrained, num_labels, head_dropout=recipe.dropout, **dropouts
            )
        config = classifier.encoder.config
        if vocab_size > config.vocab_size or recipe.max_length > config.max_length:
            raise InputError(
                f"{self.pretrained}: has embeddings for {config.vocab_size:,} tokens and "
                f"{config.max_length} positions; this run has {vocab_size:,} tokens in its "
                f"vocabulary and rows of up to {recipe.max_length} tokens"
            )
        return classifier

    def train(
        self, train_rows: Rows, eval_rows: Rows, *, model_dir: str, log_dir: str, state_dir: str
    ) -> TrainedModel:
        """Trains, and writes the model, its `history.json` and its TensorBoard logs.

        Args:
            train_rows: Rows to learn from.
            eval_rows: Rows that choose the best epoch and seed.
            model_dir: Where the model goes (`TrainedModel.save`).
            log_dir: Where the TensorBoard logs go.
            state_dir: Where an unfinished training waits for the next call. The caller names one
                that no other training uses, and removes it when it has what it wants.

        Returns:
            The model.

        Raises:
            InputError: If the checkpoint, the rows and the recipe do not fit each other.
        """
        logger.info(
            "%s rows to learn from (%.0f tokens each), %s to choose the best epoch by",
            f"{len(train_rows):,}",
            train_rows.lengths.mean(),
            f"{len(eval_rows):,}",
        )

        # Read before a seed is set, as reading may draw numbers.
        teaching = self.teaching

        def make_model(seed: int) -> TextClassifier:
            classifier = self.make_classifier()
            if seed == self.recipe.seed:
                name = architecture_of(classifier.encoder)
                origin = (
                    f"{name} from {self.pretrained}"
                    if self.pretrained
                    else f"new {name} {self.size}"
                )
                if teaching is not None:
                    origin = self._of_student(classifier, teaching, origin)
                cold = self.why_cold(classifier)
                if cold is None:
                    origin = f"{name} from the last good model"
                elif self.base_model is not None:
                    logger.warning("training does not go on from the last good model: %s", cold)
                logger.info("%s with %s parameters", origin, f"{classifier.count_params():,}")
            return classifier

        writers: dict[int, Any] = {}

        def write_summary(seed: int, step: int, measured: Mapping[str, float]) -> None:
            if seed not in writers:
                one = self.recipe.num_seeds == 1
                folder = log_dir if one else os.path.join(log_dir, f"seed-{seed}")
                writers[seed] = tf.summary.create_file_writer(folder)
            with writers[seed].as_default(step=step):
                for name, value in measured.items():
                    tf.summary.scalar(name, value)

        result = fine_tune_seeds(
            make_model,
            train_rows,
            eval_rows,
            self.recipe,
            state_dir=state_dir,
            on_metrics=write_summary,
            train=None if teaching is None else distilling(teaching),
        )
        for writer in writers.values():
            writer.close()
        strategy = distribution.strategy_of(result.model, self.recipe)
        trained = TrainedModel(
            classifier=self._plain(result.model),
            task=self.task,
            vocab_file=self.vocab_file,
            lowercase=self.lowercase,
            max_length=self.recipe.max_length,
            eval_fraction=self.eval_fraction,
            training=self._about(result),
        )
        if distribution.is_chief(strategy):
            os.makedirs(model_dir, exist_ok=True)
            with open(os.path.join(model_dir, HISTORY_FILE), "w", encoding="utf-8") as file:
                json.dump(_history(result), file, indent=1)
            trained.save(model_dir)
        return trained

    def _of_student(self, student: TextClassifier, teaching: Teaching, origin: str) -> str:
        """Says where a student's weights come from; warns where it is larger than a teacher."""
        for path, teacher in zip(self.teachers, teaching.teachers, strict=True):
            if student.count_params() > teacher.count_params():
                logger.warning(
                    "the student has %s parameters, more than its teacher %s, which has %s",
                    f"{student.count_params():,}",
                    path,
                    f"{teacher.count_params():,}",
                )
        if teaching.settings.student_layers is None:
            return origin
        ours, theirs = student.encoder.config, teaching.teachers[0].encoder.config
        layers = teaching.settings.teacher_layers(ours.num_layers, theirs.num_layers)
        name = architecture_of(student.encoder)
        return f"{name} from layers {', '.join(map(str, layers))} of {self.teachers[0]}"

    def _plain(self, classifier: TextClassifier) -> TextClassifier:
        """Returns a float32 classifier of this process alone, as it is evaluated and served."""
        if self.recipe.precision == "float32" and self.recipe.distribution == "none":
            return classifier
        return reshaped(classifier, {"dtype": "float32"})

    @property
    def _has_size(self) -> bool:
        """Whether the weights were new ones, of a named size."""
        settings = self.distillation if self.teachers else None
        return not (self.pretrained or (settings and settings.student_layers))

    def _about(self, result: SeedsResult) -> dict[str, Any]:
        best = result.progress[result.best_seed]
        return {
            "model": architecture_of(result.model.encoder),
            "size": self.size if self._has_size else None,
            "pretrained": self.pretrained,
            "warm_start": self.base_model
            and {"model": self.base_model, "why_not": self.why_cold(result.model)},
            "distillation": {"teachers": self.teachers, **dataclasses.asdict(self.distillation)}
            if self.distillation and self.teachers
            else None,
            "recipe": dataclasses.asdict(self.recipe),
            "seed": result.best_seed,
            "epoch": best.best_epoch,
            "eval": best.history[best.best_epoch - 1],
            "seed_accuracies": [
                progress.history[progress.best_epoch - 1]["eval_accuracy"]
                for progress in result.progress.values()
            ],
        }


def _history(result: SeedsResult) -> dict[str, Any]:
    return {
        "metric": result.metric,
        "best_seed": result.best_seed,
        "mean": result.mean,
        "standard_deviation": result.standard_deviation,
        "seeds": {seed: dataclasses.asdict(p) for seed, p in result.progress.items()},
    }
