"""Executor of TeacherAnswers."""

import importlib
import logging
import os
from typing import Any

import tensorflow as tf
from tfx import types
from tfx.components.util import examples_utils
from tfx.dsl.components.base import base_beam_executor
from tfx.dsl.io import fileio
from tfx.proto import example_gen_pb2
from tfx.types import artifact_utils
from tfx.utils import path_utils

from bert_tfx.components.predictor.asking import AskModels
from bert_tfx.schema.tasks import EVAL, TRAIN, Task

logger = logging.getLogger(__name__)

_COMPRESSION = "GZIP"


class Executor(base_beam_executor.BaseBeamExecutor):
    """Asks the teacher that the named function loads about train, and copies the rows of eval."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Answers the rows; each file of them becomes a file.

        Args:
            input_dict: `transformed_examples`, `transform_graph` and perhaps `model`.
            output_dict: `examples`.
            exec_properties: `answers_fn`, `task` (JSON), `lowercase` (0 or 1) and perhaps
                `rows_seen`.

        Raises:
            InputError: If there is no teacher, or it does not fit the rows.
        """
        examples = artifact_utils.get_single_instance(output_dict["examples"])
        examples.split_names = artifact_utils.encode_split_names([TRAIN, EVAL])
        examples_utils.set_payload_format(examples, example_gen_pb2.FORMAT_TF_EXAMPLE)
        source, target = (
            {split: artifact_utils.get_split_uri(artifacts, split) for split in (TRAIN, EVAL)}
            for artifacts in (input_dict["transformed_examples"], [examples])
        )
        rows_seen = exec_properties.get("rows_seen")
        if rows_seen is not None and rows_seen < (rows := _count(source[TRAIN])):
            logger.info(
                "the steps see %s rows and there are %s: the teacher is asked in each step",
                f"{rows_seen:,}",
                f"{rows:,}",
            )
            _copy(source[TRAIN], target[TRAIN])
        else:
            models = input_dict.get("model")
            module, _, function = exec_properties["answers_fn"].rpartition(".")
            load = getattr(importlib.import_module(module), function)(
                model=path_utils.serving_model_path(artifact_utils.get_single_uri(models))
                if models
                else None,
                task=Task.from_json(exec_properties["task"]),
                lowercase=bool(exec_properties["lowercase"]),
                transform_graph=artifact_utils.get_single_uri(input_dict["transform_graph"]),
            )
            scratch = os.path.join(examples.uri, "unfinished")
            with self._make_beam_pipeline() as pipeline:
                _ = pipeline | "Answer" >> AskModels([load], source[TRAIN], target[TRAIN], scratch)
            fileio.rmtree(scratch)
        _copy(source[EVAL], target[EVAL])


def _copy(source: str, target: str) -> None:
    fileio.makedirs(target)
    for name in fileio.listdir(source):
        fileio.copy(os.path.join(source, name), os.path.join(target, name))


def _count(folder: str) -> int:
    files = [os.path.join(folder, name) for name in fileio.listdir(folder)]
    records = tf.data.TFRecordDataset(files, _COMPRESSION)
    return int(records.reduce(0, lambda count, _: count + 1))
