"""Executor of Predictor."""

import functools
import os
import textwrap
from typing import Any

import numpy as np
import tensorflow as tf
from tfx import types
from tfx.components.util import examples_utils
from tfx.dsl.components.base import base_beam_executor
from tfx.dsl.io import fileio
from tfx.proto import example_gen_pb2
from tfx.types import artifact_utils

from bert_tfx.components.exported_model import ExportedModel, exported_model
from bert_tfx.components.predictor.asking import Answer, AskModels
from bert_tfx.components.predictor.predictions import (
    BASELINE,
    BEFORE,
    CANDIDATE,
    MODEL_SLICES,
    MODELS,
    probabilities_feature,
    unanswered_feature,
)
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.tasks import EVAL
from bert_tfx.serving.int8_products import check_export

_SIGNATURE = "serving_default"
_SLICE_SIGNATURE = "slice_features"
# Of what an error says; TensorFlow's may hold a trace.
_MAX_CHARS = 500


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
            input_dict: `examples`, `data_report`, `candidate` and perhaps others of `MODELS`.
            output_dict: `predictions`.
            exec_properties: None counts.

        Raises:
            InputError: If candidate and baseline do not know the same labels.
        """
        models = {key: exported_model(input_dict[key]) for key in MODELS if input_dict.get(key)}
        if BASELINE in models:
            _check_comparable(models[CANDIDATE], models[BASELINE])
        predictions = artifact_utils.get_single_instance(output_dict["predictions"])
        predictions.split_names = artifact_utils.encode_split_names([EVAL])
        examples_utils.set_payload_format(predictions, example_gen_pb2.FORMAT_TF_EXAMPLE)
        scratch = os.path.join(predictions.uri, "unfinished")
        describes = BEFORE if BEFORE in models else CANDIDATE
        with self._make_beam_pipeline() as pipeline:
            _ = pipeline | "Predict" >> AskModels(
                [
                    functools.partial(
                        _load,
                        name,
                        model.path,
                        describes=name == describes,
                        may_fail=BEFORE in models,
                    )
                    for name, model in models.items()
                ],
                artifact_utils.get_split_uri(input_dict["examples"], EVAL),
                artifact_utils.get_split_uri([predictions], EVAL),
                scratch,
                data_report=artifact_utils.get_single_uri(input_dict["data_report"]),
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


def _load(name: str, path: str, *, describes: bool, may_fail: bool) -> Answer:
    """Loads an exported model.

    Args:
        name: Which one of `MODELS` it is.
        path: Its folder.
        describes: Whether it says the rows' `MODEL_SLICES`, too.
        may_fail: Whether to answer why it cannot be loaded or asked, in place of raising.

    Raises:
        InputError: If it cannot be computed on this processor.
    """
    import tensorflow_text  # noqa: F401, registers the ops of the tokenizer

    # A broken file may raise anything, an IndexError for one.
    failures = (Exception,) if may_fail else ()
    try:
        check_export(path)
        model = tf.saved_model.load(path)
    except failures as error:
        return functools.partial(_unanswered, name, error)

    def answer(records: tf.Tensor) -> dict[str, np.ndarray]:
        try:
            probabilities = model.signatures[_SIGNATURE](examples=records)["probabilities"]
            slices = model.signatures[_SLICE_SIGNATURE](examples=records) if describes else {}
        except failures as error:
            return _unanswered(name, error, records)
        return {
            probabilities_feature(name): probabilities.numpy(),
            **{key: slices[key].numpy() for key in MODEL_SLICES if describes},
        }

    return answer


def _unanswered(name: str, error: Exception, records: tf.Tensor) -> dict[str, np.ndarray]:
    said = textwrap.shorten(f"{type(error).__name__}: {error}", _MAX_CHARS)
    why = f"its export cannot be asked: {said}"
    return {unanswered_feature(name): np.full(len(records), why.encode(), object)}
