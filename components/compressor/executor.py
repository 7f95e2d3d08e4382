"""Executor of Compressor."""

import importlib
import json
from typing import Any

from tfx import types
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils
from tfx.utils import path_utils

from bert_tfx.components.predictor.predictions import read_examples
from bert_tfx.schema.labelled_texts import LabelledTexts
from bert_tfx.schema.tasks import EVAL, LABEL, TRAIN, Task


class Executor(base_executor.BaseExecutor):
    """Reads the rows and has the function that was named do the rest."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Makes the model smaller.

        Args:
            input_dict: `examples`, `model`.
            output_dict: `smaller_model`, the SavedModel; `model_run`, the trained model.
            exec_properties: `compress_fn`, `task` and `settings` (JSON), `eval_fraction`.

        Raises:
            InputError: If the model has not what is to be taken out.
        """
        task = Task.from_json(exec_properties["task"])
        train, evaluate = (
            _read_split(artifact_utils.get_split_uri(input_dict["examples"], split), task)
            for split in (TRAIN, EVAL)
        )
        module, _, function = exec_properties["compress_fn"].rpartition(".")
        getattr(importlib.import_module(module), function)(
            model=path_utils.serving_model_path(artifact_utils.get_single_uri(input_dict["model"])),
            settings=json.loads(exec_properties["settings"]),
            task=task,
            eval_fraction=exec_properties["eval_fraction"],
            train=train,
            evaluate=evaluate,
            serving_model_dir=path_utils.serving_model_dir(
                artifact_utils.get_single_uri(output_dict["smaller_model"])
            ),
            model_run_dir=artifact_utils.get_single_uri(output_dict["model_run"]),
        )


def _read_split(split_uri: str, task: Task) -> LabelledTexts:
    texts: dict[str, list[bytes]] = {name: [] for name in task.text_features}
    labels = []
    for example in read_examples(split_uri):
        feature = example.features.feature
        for name, values in texts.items():
            values.append(feature[name].bytes_list.value[0])
        labels.append(feature[LABEL].int64_list.value[0])
    return LabelledTexts(texts, labels)
