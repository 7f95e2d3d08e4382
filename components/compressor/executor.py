"""Executor of Compressor."""

import json
import tempfile
from typing import Any

from tfx import types
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils
from tfx.utils import path_utils

from bert_tfx.components.predictor.predictions import read_examples
from bert_tfx.modeling.compression import compress
from bert_tfx.modeling.compression_settings import Compression
from bert_tfx.modeling.export import load_exported_model, save_for_serving
from bert_tfx.schema.labelled_texts import LabelledTexts
from bert_tfx.schema.tasks import EVAL, LABEL, TRAIN, Task


class Executor(base_executor.BaseExecutor):
    """Reads the model back, takes out what was asked for, exports what is left."""

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
            exec_properties: `task`, `settings` (JSON of `Compression`), `eval_fraction`.

        Raises:
            InputError: If the model has not what is to be taken out.
        """
        task = Task.from_json(exec_properties["task"])
        model = load_exported_model(
            path_utils.serving_model_path(artifact_utils.get_single_uri(input_dict["model"])),
            task,
            exec_properties["eval_fraction"],
        )
        train, evaluate = (
            _read_split(artifact_utils.get_split_uri(input_dict["examples"], split), task)
            for split in (TRAIN, EVAL)
        )
        with tempfile.TemporaryDirectory() as scratch:
            smaller = compress(
                model,
                Compression(**json.loads(exec_properties["settings"])),
                train,
                evaluate,
                work_dir=scratch,
            )
            smaller.save(artifact_utils.get_single_uri(output_dict["model_run"]))
            save_for_serving(
                smaller,
                path_utils.serving_model_dir(
                    artifact_utils.get_single_uri(output_dict["smaller_model"])
                ),
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
