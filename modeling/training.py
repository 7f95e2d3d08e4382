"""Trainer adapter: TFX's `run_fn` around the fine-tuning loop and the export.

TFX reloads this module by its dotted name, so it holds functions only.
"""

import dataclasses
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_transform as tft
from tfx.components.trainer.fn_args_utils import FnArgs

from bert_tfx.modeling import batching, export, fine_tuning, preprocessing
from bert_tfx.modeling.bert import BERT_SIZES, BertEncoder
from bert_tfx.modeling.classifier import TextClassifier
from bert_tfx.modeling.distil_bert import DISTIL_BERT_SIZES, DistilBertEncoder
from bert_tfx.modeling.recipes import Recipe
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.tasks import LABEL, Task

logger = logging.getLogger(__name__)

CLASSIFIER_FILE = "classifier.keras"

_PARSE_BATCH = 1024


def run_fn(fn_args: FnArgs) -> None:
    """Fine-tunes a classifier and writes the SavedModel (TFX's `run_fn`).

    Args:
        fn_args: From TFX. `custom_config` holds `task` (JSON of the `Task`), `recipe` (fields of
            the `Recipe`), `model` (`bert` or `distilbert`), `size` (a name of `BERT_SIZES`),
            `pretrained` (path of a `.keras` classifier to start from, or None), `state_dir` (a
            folder in which an unfinished training waits for the next run).

    Raises:
        InputError: If the classifier to start from does not fit the vocabulary or the labels.
    """
    config = fn_args.custom_config
    task = Task.from_json(config["task"])
    recipe = Recipe(**config["recipe"])
    transform_output = tft.TFTransformOutput(fn_args.transform_output)
    train_rows = read_rows(fn_args.train_files, transform_output)
    eval_rows = read_rows(fn_args.eval_files, transform_output)
    logger.info(
        "%d rows to learn from (%.0f tokens each), %d to choose the best epoch by",
        len(train_rows),
        train_rows.lengths.mean(),
        len(eval_rows),
    )

    keras.utils.set_random_seed(recipe.seed)
    vocab_size = transform_output.vocabulary_size_by_name(preprocessing.VOCAB_ASSET)
    classifier = _make_classifier(config, recipe, vocab_size, len(task.labels))
    logger.info(
        "%s %s with %s parameters",
        config["model"],
        config["size"] if config["pretrained"] is None else config["pretrained"],
        f"{classifier.count_params():,}",
    )

    state_dir = os.path.join(config["state_dir"], _state_key(fn_args))
    with tf.summary.create_file_writer(fn_args.model_run_dir).as_default():

        def write_summary(step: int, metrics: Mapping[str, float]) -> None:
            for name, value in metrics.items():
                tf.summary.scalar(name, value, step=step)

        progress = fine_tuning.fine_tune(
            classifier,
            train_rows,
            eval_rows,
            recipe,
            state_dir=state_dir,
            on_metrics=write_summary,
        )
    with tf.io.gfile.GFile(os.path.join(fn_args.model_run_dir, "history.json"), "w") as file:
        file.write(json.dumps(dataclasses.asdict(progress), indent=1))

    classifier.save(os.path.join(fn_args.model_run_dir, CLASSIFIER_FILE))
    export.ServedClassifier(
        classifier,
        transform_output.transform_features_layer(),
        labels=task.labels,
        is_pair=task.is_pair,
    ).save(fn_args.serving_model_dir)
    shutil.rmtree(state_dir)


def read_rows(file_patterns: list[str], transform_output: tft.TFTransformOutput) -> batching.Rows:
    """Reads transformed examples into memory.

    Args:
        file_patterns: Globs of gzipped TFRecord files.
        transform_output: Says how to parse them.

    Returns:
        The rows, in the order of the sorted file names.
    """
    spec = transform_output.transformed_feature_spec()
    files = sorted(path for pattern in file_patterns for path in tf.io.gfile.glob(pattern))
    dataset = (
        tf.data.TFRecordDataset(files, compression_type="GZIP")
        .batch(_PARSE_BATCH)
        .map(lambda records: tf.io.parse_example(records, spec), num_parallel_calls=2)
        .prefetch(2)
    )
    tokens, segments, lengths, labels = [], [], [], []
    for parsed in dataset:
        ragged = parsed[preprocessing.TOKEN_IDS]
        tokens.append(ragged.values.numpy().astype(np.int32))
        lengths.append(ragged.row_lengths().numpy())
        labels.append(parsed[LABEL].numpy().astype(np.int32))
        if preprocessing.SEGMENT_IDS in spec:
            segments.append(parsed[preprocessing.SEGMENT_IDS].values.numpy().astype(np.int32))
    return batching.Rows(
        token_ids=np.concatenate(tokens),
        segment_ids=np.concatenate(segments) if segments else None,
        lengths=np.concatenate(lengths),
        labels=np.concatenate(labels),
    )


def _make_classifier(
    config: Mapping[str, Any], recipe: Recipe, vocab_size: int, num_labels: int
) -> TextClassifier:
    """Makes a classifier with new weights, or loads the one to start from."""
    path = config["pretrained"]
    if path is None:
        encoder_class, sizes = {
            "bert": (BertEncoder, BERT_SIZES),
            "distilbert": (DistilBertEncoder, DISTIL_BERT_SIZES),
        }[config["model"]]
        size: Mapping[str, Any] = sizes[config["size"]]
        encoder = encoder_class(vocab_size=vocab_size, max_length=recipe.max_length, **size)
        return TextClassifier(encoder, num_labels=num_labels)
    try:
        classifier = keras.models.load_model(path, compile=False)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path}: cannot be loaded as a Keras model: {error}") from error
    if not isinstance(classifier, TextClassifier):
        raise InputError(f"{path}: holds a {type(classifier).__name__}, not a TextClassifier")
    encoder = classifier.encoder
    for what, has, fits in (
        ("tokens in its vocabulary", encoder.vocab_size, encoder.vocab_size == vocab_size),
        ("labels", classifier.num_labels, classifier.num_labels == num_labels),
        ("positions", encoder.max_length, encoder.max_length >= recipe.max_length),
    ):
        if not fits:
            raise InputError(
                f"{path}: the classifier has {has:,} {what}; this run has {vocab_size:,} tokens in "
                f"its vocabulary, {num_labels} labels and rows of up to {recipe.max_length} tokens"
            )
    return classifier


def _state_key(fn_args: FnArgs) -> str:
    """Names a training by all that its result depends on."""
    config = {k: v for k, v in fn_args.custom_config.items() if k != "state_dir"}
    parts = [fn_args.transform_output, fn_args.train_files, fn_args.eval_files, config]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
