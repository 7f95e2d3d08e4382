"""A trained model made smaller: what command line and pipeline share."""

import dataclasses
import logging
import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from bert_tfx.modeling.checkpoints.files import VOCAB_FILE
from bert_tfx.modeling.compression.settings import Compression
from bert_tfx.modeling.compression.structured_pruning import (
    importance,
    keep_layers,
    prune_heads,
    prune_neurons,
    removed,
)
from bert_tfx.modeling.compression.vocabulary_pruning import prune_vocabulary, touched_share
from bert_tfx.modeling.distillation.distil import distilling
from bert_tfx.modeling.distillation.learner import Teaching, taught_rows
from bert_tfx.modeling.distillation.settings import Distillation
from bert_tfx.modeling.encoders.reshaping import reshaped
from bert_tfx.modeling.export.storages import FLOAT32
from bert_tfx.modeling.export.trained_model import TrainedModel
from bert_tfx.modeling.export.weight_storage import rounded
from bert_tfx.modeling.text.text_rows import rows_of_texts
from bert_tfx.modeling.training.fine_tuning import fine_tune_seeds, predict_rows
from bert_tfx.modeling.training.recipes import Recipe
from bert_tfx.modeling.training.train_step import predictor
from bert_tfx.schema.labelled_texts import LabelledTexts

logger = logging.getLogger(__name__)

_STATE_DIR = "recovery_state"


def compress(
    model: TrainedModel,
    settings: Compression,
    train: LabelledTexts,
    evaluate: LabelledTexts,
    *,
    work_dir: str,
    corpus: Iterable[str] | None = None,
) -> TrainedModel:
    """Makes a smaller model: layers, heads and neurons, vocabulary, recovery, storage.

    Args:
        model: The model; it stays as it is.
        settings: What to do.
        train: Labelled rows that choose what goes, and that the recovery learns from.
        evaluate: Labelled rows that choose the recovery's best epoch.
        work_dir: Where the new vocabulary goes, which the new model refers to, and the state of an
            unfinished recovery; the caller names one that nothing else uses. It may exist.
        corpus: Texts that choose the tokens, instead of the train rows.

    Returns:
        The new model. The last entry of `compressions` in its `training` says what was `asked`
        besides the defaults, and how the `recovery` went.

    Raises:
        InputError: If the model has not what is to go or to stay, or the texts choose nothing.
    """
    _check_shares(settings, model)
    after = _without_layers(settings, model)
    after = _without_parts(settings, after, train)
    os.makedirs(work_dir, exist_ok=True)
    after = _without_tokens(settings, after, train, evaluate, corpus, work_dir)
    asked = {k: v for k, v in vars(settings).items() if v != getattr(Compression, k)}
    about: dict[str, Any] = {"asked": asked}
    if settings.recovery_steps:
        after, about["recovery"] = _recovered(settings, after, model, train, evaluate, work_dir)
    after = _stored(settings, after)
    earlier = model.training.get("compressions", [])
    training = {**model.training, "compressions": [*earlier, about]}
    return dataclasses.replace(after, training=training)


def _check_shares(settings: Compression, model: TrainedModel) -> None:
    config = model.classifier.encoder.config
    if settings.heads:
        removed(config.num_heads, settings.heads, "heads")
    if settings.ffn:
        removed(config.intermediate_dim, settings.ffn, "neurons")


def _without_layers(settings: Compression, model: TrainedModel) -> TrainedModel:
    if settings.layers is None:
        return model
    count = model.classifier.encoder.config.num_layers
    layers = settings.layers_of(count)
    classifier = keep_layers(model.classifier, layers)
    logger.info("layers: %d of %d stay: %s", len(layers), count, ",".join(map(str, layers)))
    return dataclasses.replace(model, classifier=classifier)


def _without_parts(
    settings: Compression, model: TrainedModel, train: LabelledTexts
) -> TrainedModel:
    if not (settings.heads or settings.ffn):
        return model
    chosen = _some(train, settings.importance_rows, seed=0)
    logger.info("importance: what the loss of %s train rows depends on", f"{len(chosen):,}")
    classifier = model.classifier
    rows = rows_of_texts(model.transform(), chosen.texts, chosen.labels or [])
    scores = importance(classifier, rows)
    before = classifier.encoder.config
    if settings.heads:
        classifier = prune_heads(classifier, scores.heads, settings.heads)
        left = classifier.encoder.config.num_heads
        logger.info("heads: %d of %d stay in each layer", left, before.num_heads)
    if settings.ffn:
        classifier = prune_neurons(classifier, scores.neurons, settings.ffn)
        left = classifier.encoder.config.intermediate_dim
        logger.info("neurons: %d of %d stay in each layer", left, before.intermediate_dim)
    return dataclasses.replace(model, classifier=classifier)


def _without_tokens(
    settings: Compression,
    model: TrainedModel,
    train: LabelledTexts,
    evaluate: LabelledTexts,
    corpus: Iterable[str] | None,
    work_dir: str,
) -> TrainedModel:
    if not settings.prune_vocab:
        return model
    if corpus is None:
        texts = (text for column in train.texts.values() for text in column)
    else:
        texts = (text.encode("utf-8") for text in corpus)
    pruned, report = prune_vocabulary(
        model,
        texts,
        vocab_file=os.path.join(work_dir, VOCAB_FILE),
        min_count=settings.min_count,
        characters=settings.character_names,
    )
    logger.info(
        "vocabulary: %s of %s tokens stay, %.1f of %.1f MB; %.2f%% of the eval rows have other "
        "tokens now",
        f"{report.tokens_after:,}",
        f"{report.tokens_before:,}",
        report.bytes_after / 1e6,
        report.bytes_before / 1e6,
        100 * touched_share(model, pruned, evaluate.texts),
    )
    return pruned


def _recovered(
    settings: Compression,
    model: TrainedModel,
    before: TrainedModel,
    train: LabelledTexts,
    evaluate: LabelledTexts,
    work_dir: str,
) -> tuple[TrainedModel, dict[str, Any]]:
    """Trains what is left by the labels and by what the whole model answers.

    The answers are taken once, row by row, by the whole model's own vocabulary: what the smaller
    one reads may differ. Only rows that a step will see are asked about. That such answers help is
    published (arXiv:2005.07683); docs/decisions/0037-compression.md has what was measured here.
    """
    steps, distillation = settings.recovery_steps, Distillation()
    rows = _some(train, steps * Recipe.batch_size, seed=settings.recovery_seed)
    logger.info(
        "recovery: %s steps on %s train rows, by their labels and the answers of the model before",
        f"{steps:,}",
        f"{len(rows):,}",
    )
    labels = rows.labels or []
    whole = rows_of_texts(before.transform(), rows.texts, labels)
    answers = predict_rows(predictor(before.classifier), whole, "answers of the model before")
    transform = model.transform()
    ours = rows_of_texts(transform, rows.texts, labels)
    result = fine_tune_seeds(
        # Made anew after the seed is set, which its dropout then begins with.
        lambda seed: reshaped(model.classifier, {}),
        taught_rows(ours, [answers], distillation),
        rows_of_texts(transform, evaluate.texts, evaluate.labels or []),
        Recipe(
            max_length=model.max_length,
            epochs=-(-steps // -(-len(rows) // Recipe.batch_size)),
            learning_rate=settings.recovery_learning_rate,
            max_steps=steps,
            seed=settings.recovery_seed,
        ),
        state_dir=os.path.join(work_dir, _STATE_DIR),
        train=distilling(Teaching(distillation, (before.classifier,))),
    )
    progress = result.progress[result.best_seed]
    about = {"epoch": progress.best_epoch, "eval": progress.history[progress.best_epoch - 1]}
    return dataclasses.replace(model, classifier=result.model), about


def _stored(settings: Compression, model: TrainedModel) -> TrainedModel:
    storage = settings.store or model.storage
    if storage == FLOAT32:
        return model
    logger.info("weights: matrices rounded to %s", storage)
    return dataclasses.replace(
        model, classifier=rounded(model.classifier, storage), storage=storage
    )


def _some(read: LabelledTexts, number: int, *, seed: int) -> LabelledTexts:
    """Returns that many of the rows, drawn at random, in their order; or all there are."""
    chosen = np.sort(np.random.default_rng(seed).permutation(len(read))[:number])
    texts = {name: [column[row] for row in chosen] for name, column in read.texts.items()}
    return LabelledTexts(texts, [(read.labels or [])[row] for row in chosen])
