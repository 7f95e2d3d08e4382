"""Executor of Predictor."""

import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow as tf
from tfx import types
from tfx.components.util import examples_utils
from tfx.dsl.components.base import base_beam_executor
from tfx.dsl.io import fileio
from tfx.proto import example_gen_pb2
from tfx.types import artifact_utils

from bert_tfx.components.data_gate.repeats import read_leaked_eval_rows
from bert_tfx.components.exported_model import ExportedModel, exported_model
from bert_tfx.components.predictor.predictions import (
    BASELINE,
    CANDIDATE,
    LEAKED,
    MODEL_SLICES,
    probabilities_feature,
)
from bert_tfx.schema import files
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.tasks import EVAL, SOURCE_ROW
from bert_tfx.serving.int8_products import check_export

_SIGNATURE = "serving_default"
_SLICE_SIGNATURE = "slice_features"
_COMPRESSION = "GZIP"
# The exported graph works a batch off in parts, so this bounds the rows in memory only.
_BATCH_ROWS = 512


class Executor(base_beam_executor.BaseBeamExecutor):
    """Asks the models as they will be served: raw rows through `serving_default`."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Predicts the eval split; each file of it becomes a file.

        Args:
            input_dict: `examples`, `data_report`, `model` and perhaps `baseline_model`.
            output_dict: `predictions`.
            exec_properties: None counts.

        Raises:
            InputError: If the models do not know the same labels.
        """
        models = {CANDIDATE: exported_model(input_dict["model"])}
        if input_dict.get("baseline_model"):
            models[BASELINE] = exported_model(input_dict["baseline_model"])
            _check_comparable(models[CANDIDATE], models[BASELINE])

        leaked = read_leaked_eval_rows(artifact_utils.get_single_uri(input_dict["data_report"]))
        predictions = artifact_utils.get_single_instance(output_dict["predictions"])
        predictions.split_names = artifact_utils.encode_split_names([EVAL])
        examples_utils.set_payload_format(predictions, example_gen_pb2.FORMAT_TF_EXAMPLE)
        source = artifact_utils.get_split_uri(input_dict["examples"], EVAL)
        target = artifact_utils.get_split_uri([predictions], EVAL)
        fileio.makedirs(target)
        scratch = os.path.join(predictions.uri, "unfinished")
        fileio.makedirs(scratch)
        names = sorted(fileio.listdir(source))
        with self._make_beam_pipeline() as pipeline:
            _ = (
                pipeline
                | "Files" >> beam.Create(names, reshuffle=True)
                | "Predict"
                >> beam.ParDo(
                    _PredictFile(
                        {name: model.path for name, model in models.items()},
                        source,
                        target,
                        scratch,
                        leaked,
                    )
                )
            )
        fileio.rmtree(scratch)


def _check_comparable(candidate: ExportedModel, baseline: ExportedModel) -> None:
    for what, new, old in (
        ("labels", candidate.labels, baseline.labels),
        ("texts", candidate.text_features, baseline.text_features),
    ):
        if new != old:
            raise InputError(
                f"the last blessed model has the {what} {', '.join(old)}, this one has "
                f"{', '.join(new)}, so that they cannot be compared: give the task another name, "
                "or the run another --output"
            )


class _PredictFile(beam.DoFn):
    """Writes one file of rows with their answers: a whole file or none, the same in every run."""

    def __init__(
        self,
        models: Mapping[str, str],
        source: str,
        target: str,
        scratch: str,
        leaked: frozenset[bytes],
    ) -> None:
        self._paths = models
        self._source = source
        self._target = target
        self._scratch = scratch
        self._leaked = leaked
        self._models: dict[str, Any] = {}

    def setup(self) -> None:
        """Loads the models, once a worker, whose processor may be another than this one.

        Raises:
            InputError: If a model cannot be computed on it.
        """
        import tensorflow_text  # noqa: F401, registers the ops of the tokenizer

        for path in self._paths.values():
            check_export(path)
        self._models = {name: tf.saved_model.load(path) for name, path in self._paths.items()}

    def process(self, element: str) -> None:
        """Predicts the file `element`."""
        elsewhere = os.path.join(self._scratch, uuid.uuid4().hex)
        records = tf.data.TFRecordDataset(os.path.join(self._source, element), _COMPRESSION)
        with (
            files.appearing(os.path.join(self._target, element), elsewhere) as partial,
            tf.io.TFRecordWriter(partial, _COMPRESSION) as writer,
        ):
            for batch in records.batch(_BATCH_ROWS):
                for record in self._answered(batch):
                    writer.write(record)

    def _answered(self, records: tf.Tensor) -> Iterator[bytes]:
        added: dict[str, np.ndarray] = {}
        for name, model in self._models.items():
            answer = model.signatures[_SIGNATURE](examples=records)
            added[probabilities_feature(name)] = answer["probabilities"].numpy()
        slices = self._models[CANDIDATE].signatures[_SLICE_SIGNATURE](examples=records)
        added |= {name: slices[name].numpy() for name in MODEL_SLICES}
        for row, record in enumerate(records.numpy()):
            example = tf.train.Example.FromString(record)
            feature = example.features.feature
            for name, values in added.items():
                _set(feature[name], values[row])
            (source_row,) = feature[SOURCE_ROW].bytes_list.value
            _set(feature[LEAKED], b"yes" if source_row in self._leaked else b"no")
            yield example.SerializeToString()


def _set(feature: tf.train.Feature, value: bytes | Iterable[float]) -> None:
    if isinstance(value, bytes):
        feature.bytes_list.value.append(value)
    else:
        feature.float_list.value.extend(value)
