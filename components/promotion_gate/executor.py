"""Executor of PromotionGate."""

import dataclasses
import json
import logging
import os
from typing import Any

from tfx import types
from tfx.components.evaluator import constants
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils
from tfx.utils import io_utils

from bert_tfx.components.exported_model import exported_model
from bert_tfx.components.predictor.predictions import read_predictions
from bert_tfx.components.promotion_gate.decision import decide
from bert_tfx.components.promotion_gate.limits import PromotionLimits
from bert_tfx.components.variant_findings import FINDINGS_FILE
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.tasks import EVAL, SOURCE_ROW, Task

DECISION_FILE = "decision.json"

_logger = logging.getLogger(__name__)


class Executor(base_executor.BaseExecutor):
    """Reads the answers, decides, writes the decision and the blessing."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Decides on the candidate.

        Args:
            input_dict: `predictions`, `model`, and, where there is one, `baseline_model` and
                `student_findings`.
            output_dict: `decision`; `blessing`, written as TFX's Evaluator writes it, so that its
                readers (Pusher, resolvers) find what they know.
            exec_properties: `task` and `limits` (JSON), `slice_features` (JSON list).

        Raises:
            InputError: If the answers of a baseline are there and it is not, or the other way
                round: without them nothing would keep a worse model from taking its place.
        """
        baselines = input_dict.get("baseline_model")
        features = json.loads(exec_properties["slice_features"])
        predictions = read_predictions(
            artifact_utils.get_split_uri(input_dict["predictions"], EVAL), [*features, SOURCE_ROW]
        )
        if len(predictions.labels) and (predictions.baseline is None) == bool(baselines):
            raise InputError(
                "PromotionGate: "
                + ("a" if baselines else "no")
                + " baseline is given, but the predictions hold "
                + ("none" if baselines else "some")
                + " of its answers. Predictor and PromotionGate must get the same baseline"
            )
        decision = decide(
            dataclasses.replace(
                predictions, slices={name: predictions.slices[name] for name in features}
            ),
            Task.from_json(exec_properties["task"]).labels,
            PromotionLimits.from_json(exec_properties["limits"]),
            row_names=predictions.slices[SOURCE_ROW].tolist(),
            seed_accuracies=exported_model(input_dict["model"]).seed_accuracies,
            refusals=_refusals(input_dict.get("student_findings")),
        )
        for warning in decision.warnings:
            _logger.warning("%s", warning)
        _logger.log(logging.INFO if decision.blessed else logging.WARNING, "%s", decision.verdict)

        io_utils.write_string_file(
            os.path.join(artifact_utils.get_single_uri(output_dict["decision"]), DECISION_FILE),
            decision.to_json(),
        )
        blessing = artifact_utils.get_single_instance(output_dict["blessing"])
        model = artifact_utils.get_single_instance(input_dict["model"])
        blessing.set_string_custom_property(
            constants.ARTIFACT_PROPERTY_CURRENT_MODEL_URI_KEY, model.uri
        )
        blessing.set_int_custom_property(constants.ARTIFACT_PROPERTY_CURRENT_MODEL_ID_KEY, model.id)
        if baselines:
            blessing.set_string_custom_property(
                constants.ARTIFACT_PROPERTY_BASELINE_MODEL_URI_KEY, baselines[0].uri
            )
            blessing.set_int_custom_property(
                constants.ARTIFACT_PROPERTY_BASELINE_MODEL_ID_KEY, baselines[0].id
            )
        if "current_component_id" in exec_properties:
            blessing.set_string_custom_property(
                "component_id", exec_properties["current_component_id"]
            )
        file, value = (
            (constants.BLESSED_FILE_NAME, constants.BLESSED_VALUE)
            if decision.blessed
            else (constants.NOT_BLESSED_FILE_NAME, constants.NOT_BLESSED_VALUE)
        )
        io_utils.write_string_file(os.path.join(blessing.uri, file), "")
        blessing.set_int_custom_property(constants.ARTIFACT_PROPERTY_BLESSED_KEY, value)


def _refusals(findings: list[types.Artifact] | None) -> list[str]:
    """Returns why the student may not go on, if it may not."""
    if not findings:
        return []
    path = os.path.join(artifact_utils.get_single_uri(findings), FINDINGS_FILE)
    found = json.loads(io_utils.read_string_file(path))
    return [reason.removesuffix(".") for reason in found["reasons"]]
