"""Trainer adapter: TFX's `run_fn` around the fine-tuning loop and the export.

TFX reloads this module by its dotted name, so it holds functions only.
"""

import glob
import hashlib
import json
import logging
import os
import shutil

import tensorflow_transform as tft
from tfx.components.trainer.fn_args_utils import FnArgs

from bert_tfx.modeling.distillation.learner import taught_rows
from bert_tfx.modeling.distillation.settings import Distillation
from bert_tfx.modeling.export import saved_model
from bert_tfx.modeling.export.saved_model import about_exported
from bert_tfx.modeling.export.teacher_files import NO_TEACHER
from bert_tfx.modeling.export.trained_model import TrainedModel, load_trained_model
from bert_tfx.modeling.text.batching import Rows
from bert_tfx.modeling.tfx.transformed_rows import (
    read_rows,
    read_teacher_logits,
    vocabulary_file,
)
from bert_tfx.modeling.training.recipes import Recipe
from bert_tfx.modeling.training_run import TrainingRun
from bert_tfx.schema import files
from bert_tfx.schema.digests import sha256_of
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.tasks import Task

logger = logging.getLogger(__name__)

# In the folder of a training: what it depended on.
_KEY_FILE = "training_key"
_OF_THE_EXPORT = ("state_dir", "fingerprint")


def run_fn(fn_args: FnArgs) -> None:
    """Fine-tunes a classifier and writes the SavedModel (TFX's `run_fn`).

    Args:
        fn_args: From TFX. `custom_config` holds `task` (JSON of the `Task`), `recipe` (fields of
            the `Recipe`), `model`, `size`, `pretrained`, `lowercase` and `eval_fraction` (see
            `TrainingRun`), `state_dir` (a folder in which an unfinished training waits for the next
            run), `distillation` (fields of `Distillation`, or None), `is_taught`, and two
            fingerprints of the source: `training_fingerprint` of what trains, and `fingerprint` of
            that and the export. The
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

    def train_rows() -> Rows:
        rows = read_rows(fn_args.train_files, transform_output)
        if config["is_taught"] and run.distillation:
            logits = read_teacher_logits(fn_args.train_files, len(run.task.labels))
            if logits is not None:
                return taught_rows(rows, [logits], run.distillation)
        return rows

    key = _training_key(fn_args, run)
    state_dir = os.path.join(config["state_dir"], key)
    trained = _trained_before(fn_args.model_run_dir, key)
    if trained is None:
        trained = run.train(
            train_rows(),
            read_rows(fn_args.eval_files, transform_output),
            model_dir=fn_args.model_run_dir,
            log_dir=fn_args.model_run_dir,
            state_dir=state_dir,
        )
        files.write(os.path.join(fn_args.model_run_dir, _KEY_FILE), key)
    saved_model.save_for_serving(
        trained, fn_args.serving_model_dir, transform_output.transform_features_layer()
    )
    shutil.rmtree(state_dir, ignore_errors=True)


def _trained_before(model_run_dir: str, key: str) -> TrainedModel | None:
    """Takes over the model of an earlier run of the node that trained the same, if there is one.

    So an edit of the export alone exports anew, and does not train.

    Args:
        model_run_dir: Where the node's training goes; those of its earlier runs lie beside it.
        key: The training's.
    """
    beside = os.path.dirname(os.path.abspath(model_run_dir))
    for name in sorted(os.listdir(beside)) if os.path.isdir(beside) else ():
        earlier = os.path.join(beside, name)
        try:
            with open(os.path.join(earlier, _KEY_FILE), encoding="utf-8") as file:
                if file.read() != key:
                    continue
            trained = load_trained_model(earlier)
        except (OSError, InputError):
            # What is no training, or was cleared away in part.
            continue
        logger.info("trained already: %s; it is exported anew", earlier)
        shutil.copytree(earlier, model_run_dir, dirs_exist_ok=True)
        return trained
    return None


def _training_key(fn_args: FnArgs, run: TrainingRun) -> str:
    """Names a training by all that its result depends on, wherever that lies."""
    config = {k: v for k, v in fn_args.custom_config.items() if k not in _OF_THE_EXPORT}
    base = fn_args.base_model and about_exported(fn_args.base_model)["sha256"]
    parts = [
        *(sha256_of(path) for path in _found(fn_args.train_files)),
        *(sha256_of(path) for path in _found(fn_args.eval_files)),
        *(sha256_of(run.vocab_file), base and [base["weights"], base["vocabulary"]], config),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _found(patterns: list[str]) -> list[str]:
    return sorted(path for pattern in patterns for path in glob.glob(pattern))
