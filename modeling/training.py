"""Trainer adapter: TFX's `run_fn` around the fine-tuning loop and the export.

TFX reloads this module by its dotted name, so it holds functions only.
"""

import hashlib
import json
import os
import shutil

import numpy as np
import tensorflow as tf
import tensorflow_transform as tft
from tfx.components.trainer.fn_args_utils import FnArgs

from bert_tfx.modeling import batching, export, features, preprocessing
from bert_tfx.modeling.recipes import Distillation, Recipe
from bert_tfx.modeling.training_run import TrainingRun
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.tasks import LABEL, Task

_PARSE_BATCH = 1024


def run_fn(fn_args: FnArgs) -> None:
    """Fine-tunes a classifier and writes the SavedModel (TFX's `run_fn`).

    Args:
        fn_args: From TFX. `custom_config` holds `task` (JSON of the `Task`), `recipe` (fields of
            the `Recipe`), `model`, `size`, `pretrained`, `lowercase` and `eval_fraction` (see
            `TrainingRun`), `state_dir` (a folder in which an unfinished training waits for the next
            run), `distillation` (fields of `Distillation`, or None) and `is_taught`. The
            vocabulary comes with the transform graph; `base_model`, where it is given, is the
            SavedModel to learn from where `is_taught`, else the one to go on from.

    Raises:
        InputError: If the checkpoint to start from does not fit the vocabulary or the rows, or
            there is no teacher.
    """
    config = fn_args.custom_config
    if config["is_taught"] and fn_args.base_model is None:
        raise InputError(
            "distill: there is no teacher, as no model of this lineage was good enough yet: run "
            "without distill first, or let the run train a teacher"
        )
    transform_output = tft.TFTransformOutput(fn_args.transform_output)
    vocab_file = transform_output.vocabulary_file_by_name(preprocessing.VOCAB_ASSET)
    if vocab_file is None:
        raise RuntimeError(f"{fn_args.transform_output}: the transform graph has no vocabulary")
    run = TrainingRun(
        task=Task.from_json(config["task"]),
        recipe=Recipe(**config["recipe"]),
        model=config["model"],
        size=config["size"],
        pretrained=config["pretrained"],
        vocab_file=vocab_file,
        lowercase=config["lowercase"],
        eval_fraction=config["eval_fraction"],
        base_model=None if config["is_taught"] else fn_args.base_model,
        teachers=(fn_args.base_model,) if config["is_taught"] else (),
        distillation=config["distillation"] and Distillation(**config["distillation"]),
    )
    state_dir = os.path.join(config["state_dir"], _state_key(fn_args))
    trained = run.train(
        read_rows(fn_args.train_files, transform_output),
        read_rows(fn_args.eval_files, transform_output),
        model_dir=fn_args.model_run_dir,
        log_dir=fn_args.model_run_dir,
        state_dir=state_dir,
    )
    export.save_for_serving(
        trained, fn_args.serving_model_dir, transform_output.transform_features_layer()
    )
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
        ragged = parsed[features.TOKEN_IDS]
        tokens.append(ragged.values.numpy().astype(np.int32))
        lengths.append(ragged.row_lengths().numpy())
        labels.append(parsed[LABEL].numpy().astype(np.int32))
        if features.SEGMENT_IDS in spec:
            segments.append(parsed[features.SEGMENT_IDS].values.numpy().astype(np.int32))
    return batching.Rows(
        token_ids=np.concatenate(tokens),
        segment_ids=np.concatenate(segments) if segments else None,
        lengths=np.concatenate(lengths),
        labels=np.concatenate(labels),
    )


def _state_key(fn_args: FnArgs) -> str:
    """Names a training by all that its result depends on."""
    config = {k: v for k, v in fn_args.custom_config.items() if k != "state_dir"}
    parts = [
        *(fn_args.transform_output, fn_args.train_files, fn_args.eval_files),
        *(fn_args.base_model, config),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
