"""The rows that a trained model is to be asked about: which folder, which task."""

import argparse
import os
from typing import TYPE_CHECKING

from bert_tfx.pipeline.configuration import options
from bert_tfx.pipeline.configuration.config import task_of
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.paths import absolute
from bert_tfx.schema.tasks import TASKS, Task, resolve_layout

if TYPE_CHECKING:
    from bert_tfx.modeling.export.trained_model import TrainedModel


def data_folder(arguments: argparse.Namespace) -> str:
    """Returns the folder of `--data_dir`, or the sample's for `--task sample`.

    Raises:
        InputError: If there is no such folder, or not the files of a published task in it.
    """
    data = arguments.data or (str(options.SAMPLE) if arguments.task == "sample" else None)
    if data is None:
        raise InputError("--data_dir is missing: it names the folder of the task's TSV files")
    data_dir = absolute(data)
    if not os.path.isdir(data_dir):
        raise InputError(f"{data_dir}: no such folder; --data_dir names the task's TSV files")
    if arguments.max_rejects < 0:
        raise InputError(f"max_rejects must not be negative. Received: {arguments.max_rejects}")
    # A name that is not published may be that of the model's own task.
    if asked := TASKS.get(arguments.task):
        resolve_layout(asked, data_dir)
    return data_dir


def task_to_ask(arguments: argparse.Namespace, model: "TrainedModel") -> Task:
    """Returns the task of `--task`, or the model's own.

    Raises:
        InputError: If the model cannot answer it.
    """
    own = arguments.task in (None, model.task.name)
    asked = TASKS.get(arguments.task)
    task = asked or (model.task if own else task_of(arguments.task))
    if (task.labels, task.is_pair) != (model.task.labels, model.task.is_pair):
        raise InputError(
            f"{arguments.model_path}: was trained for task {model.task.name} "
            f"({_answers(model.task)}); it cannot answer {task.name} ({_answers(task)})"
        )
    return task


def _answers(task: Task) -> str:
    return f"{'pairs' if task.is_pair else 'single texts'}, labels {', '.join(task.labels)}"
