"""Trainer adapter: TFX's `run_fn` around the fine-tuning loop and the export.

TFX reloads this module by its dotted name, so it holds functions only.
"""

import hashlib
import json
import os
import shutil

import tensorflow_transform as tft
from tfx.components.trainer.fn_args_utils import FnArgs

from bert_tfx.modeling.distillation.learner import taught_rows
from bert_tfx.modeling.distillation.settings import Distillation
from bert_tfx.modeling.export import saved_model
from bert_tfx.modeling.export.teacher_files import NO_TEACHER
from bert_tfx.modeling.tfx.transformed_rows import (
    read_rows,
    read_teacher_logits,
    vocabulary_file,
)
from bert_tfx.modeling.training.recipes import Recipe
from bert_tfx.modeling.training_run import TrainingRun
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.tasks import Task


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
        raise InputError(NO_TEACHER)
    transform_output = tft.TFTransformOutput(fn_args.transform_output)
    run = TrainingRun(
        task=Task.from_json(config["task"]),
        recipe=Recipe(**config["recipe"]),
        model=config["model"],
        size=config["size"],
        pretrained=config["pretrained"],
        vocab_file=vocabulary_file(transform_output),
        lowercase=config["lowercase"],
        eval_fraction=config["eval_fraction"],
        base_model=None if config["is_taught"] else fn_args.base_model,
        teachers=(fn_args.base_model,) if config["is_taught"] else (),
        distillation=config["distillation"] and Distillation(**config["distillation"]),
    )
    train_rows = read_rows(fn_args.train_files, transform_output)
    if config["is_taught"] and run.distillation:
        logits = read_teacher_logits(fn_args.train_files, len(run.task.labels))
        if logits is not None:
            train_rows = taught_rows(train_rows, [logits], run.distillation)
    state_dir = os.path.join(config["state_dir"], _state_key(fn_args))
    trained = run.train(
        train_rows,
        read_rows(fn_args.eval_files, transform_output),
        model_dir=fn_args.model_run_dir,
        log_dir=fn_args.model_run_dir,
        state_dir=state_dir,
    )
    saved_model.save_for_serving(
        trained, fn_args.serving_model_dir, transform_output.transform_features_layer()
    )
    shutil.rmtree(state_dir)


def _state_key(fn_args: FnArgs) -> str:
    """Names a training by all that its result depends on."""
    config = {k: v for k, v in fn_args.custom_config.items() if k != "state_dir"}
    parts = [
        *(fn_args.transform_output, fn_args.train_files, fn_args.eval_files),
        *(fn_args.base_model, config),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
