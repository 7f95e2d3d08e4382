"""Executor of TeacherAnswers."""

import importlib
import logging
import os
from typing import Any

import tensorflow as tf
from tfx import types
from tfx.components.util import examples_utils
from tfx.dsl.components.base import base_executor
from tfx.dsl.io import fileio
from tfx.proto import example_gen_pb2
from tfx.types import artifact_utils
from tfx.utils import path_utils

from bert_tfx.schema.tasks import EVAL, TRAIN, Task

logger = logging.getLogger(__name__)

_COMPRESSION = "GZIP"


class Executor(base_executor.BaseExecutor):
    """Has the function that was named answer the rows of train, and copies those of eval."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Writes the examples, file by file, each under the name that it has.

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
        files: dict[str, dict[str, str]] = {}
        for split in (TRAIN, EVAL):
            source = artifact_utils.get_split_uri(input_dict["transformed_examples"], split)
            target = artifact_utils.get_split_uri([examples], split)
            fileio.makedirs(target)
            files[split] = {
                os.path.join(source, name): os.path.join(target, name)
                for name in sorted(fileio.listdir(source))
            }
        copied = dict(files[EVAL])
        rows_seen = exec_properties.get("rows_seen")
        if rows_seen is not None and rows_seen < (rows := _count(list(files[TRAIN]))):
            logger.info(
                "the steps see %s rows and there are %s: the teacher is asked in each step",
                f"{rows_seen:,}",
                f"{rows:,}",
            )
            copied |= files[TRAIN]
        else:
            models = input_dict.get("model")
            graph = artifact_utils.get_single_uri(input_dict["transform_graph"])
            module, _, function = exec_properties["answers_fn"].rpartition(".")
            getattr(importlib.import_module(module), function)(
                model=path_utils.serving_model_path(artifact_utils.get_single_uri(models))
                if models
                else None,
                task=Task.from_json(exec_properties["task"]),
                lowercase=bool(exec_properties["lowercase"]),
                transform_graph=graph,
                files=files[TRAIN],
            )
        for source, target in copied.items():
            fileio.copy(source, target)


def _count(files: list[str]) -> int:
    records = tf.data.TFRecordDataset(files, _COMPRESSION)
    return int(records.reduce(0, lambda count, _: count + 1))
