"""One training, from rows to a model on disk: what pipeline and command line share."""

import dataclasses
import json
import logging
import os
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from bert_tfx.modeling import distribution
from bert_tfx.modeling.albert import ALBERT_SIZES
from bert_tfx.modeling.archives import sha256_of
from bert_tfx.modeling.batching import Rows
from bert_tfx.modeling.bert import BERT_SIZES
from bert_tfx.modeling.checkpoints import ENCODERS, architecture_of, load_classifier
from bert_tfx.modeling.classifier import TextClassifier
from bert_tfx.modeling.distil_bert import DISTIL_BERT_SIZES
from bert_tfx.modeling.export import about_exported, load_exported_classifier, shapes_of
from bert_tfx.modeling.fine_tuning import SeedsResult, fine_tune_seeds
from bert_tfx.modeling.recipes import Recipe
from bert_tfx.modeling.trained_model import TrainedModel
from bert_tfx.modeling.vocab_file import read_vocabulary
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.tasks import Task

logger = logging.getLogger(__name__)

HISTORY_FILE = "history.json"

_SIZES: Mapping[str, Mapping[str, Mapping[str, int]]] = {
    "bert": BERT_SIZES,
    "distilbert": DISTIL_BERT_SIZES,
    "albert": ALBERT_SIZES,
}


@dataclasses.dataclass(frozen=True)
class TrainingRun:
    """What is trained.

    Attributes:
        task: What the rows mean.
        recipe: The hyper-parameters.
        model: Of new weights: `bert`, `distilbert` or `albert`.
        size: Of new weights, a name of `BERT_SIZES`.
        pretrained: The checkpoint to start from instead, or None.
        vocab_file: The vocabulary.
        lowercase: Whether it is uncased.
        eval_fraction: Share of the rows that is held out, where there is no eval file.
        base_model: The exported model whose weights to go on from, or None. One of another shape
            or vocabulary is not taken.
    """

    task: Task
    recipe: Recipe
    model: str
    size: str
    pretrained: str | None
    vocab_file: str
    lowercase: bool
    eval_fraction: float
    base_model: str | None = None

    def make_classifier(self) -> TextClassifier:
        """Makes the classifier that is to be trained.

        Its weights are those of `base_model`, if that fits; else those of the checkpoint, or new
        ones.

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
        recipe, num_labels = self.recipe, len(self.task.labels)
        dropouts: dict[str, Any] = {}
        if recipe.dropout is not None:
            dropouts = {"hidden_dropout": recipe.dropout, "attention_dropout": recipe.dropout}
        vocab_size = len(read_vocabulary(self.vocab_file))
        with distribution.scope(recipe):
            if self.pretrained is None:
                encoder = ENCODERS[self.model](
                    vocab_size=vocab_size,
                    max_length=recipe.max_length,
                    dtype=recipe.precision,
                    **_SIZES[self.model][self.size],
                    **dropouts,
                )
                return TextClassifier(encoder, num_labels, recipe.dropout)
            if recipe.precision != "float32":
                dropouts["dtype"] = recipe.precision
            classifier = load_classifier(
                self.pretrained, num_labels, head_dropout=recipe.dropout, **dropouts
            )
        encoder = classifier.encoder
        if vocab_size > encoder.vocab_size or recipe.max_length > encoder.max_length:
            raise InputError(
                f"{self.pretrained}: has embeddings for {encoder.vocab_size:,} tokens and "
                f"{encoder.max_length} positions; this run has {vocab_size:,} tokens in its "
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

        def make_model(seed: int) -> TextClassifier:
            classifier = self.make_classifier()
            if seed == self.recipe.seed:
                name = architecture_of(classifier.encoder)
                origin = f"from {self.pretrained}" if self.pretrained else f"of size {self.size}"
                cold = self.why_cold(classifier)
                if cold is None:
                    origin = "from the last good model"
                elif self.base_model is not None:
                    logger.warning("training does not go on from the last good model: %s", cold)
                logger.info("%s %s, %s parameters", name, origin, f"{classifier.count_params():,}")
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

    def _plain(self, classifier: TextClassifier) -> TextClassifier:
        """Returns a float32 classifier of this process alone, as it is evaluated and served."""
        if self.recipe.precision == "float32" and self.recipe.distribution == "none":
            return classifier
        encoder = classifier.encoder
        plain = TextClassifier(
            type(encoder)(**{**encoder.get_config(), "dtype": "float32"}),
            classifier.num_labels,
            classifier.dropout_rate,
        )
        for ours, theirs in zip(plain.weights, classifier.weights, strict=True):
            ours.assign(keras.ops.convert_to_numpy(theirs))
        return plain

    def _about(self, result: SeedsResult) -> dict[str, Any]:
        best = result.progress[result.best_seed]
        return {
            "model": architecture_of(result.model.encoder),
            "size": None if self.pretrained else self.size,
            "pretrained": self.pretrained,
            "warm_start": self.base_model
            and {"model": self.base_model, "why_not": self.why_cold(result.model)},
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
