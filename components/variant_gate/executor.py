"""Executor of VariantGate."""

import dataclasses
import itertools
import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
from tfx import types
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils
from tfx.utils import io_utils

from bert_tfx.components.exported_model import ExportedModel, exported_model
from bert_tfx.components.model_pusher.files import copy_folder, sizes
from bert_tfx.components.model_pusher.version_folder import ABOUT_FILE
from bert_tfx.components.predictor.predictions import (
    CANDIDATE,
    CONTROL,
    LEAKED,
    MODEL_SLICES,
    REFERENCE,
    Predictions,
    read_examples,
    read_predictions,
)
from bert_tfx.components.promotion_gate.metrics import accuracy_estimate
from bert_tfx.components.serving_gate.limits import tolerance_of
from bert_tfx.components.serving_gate.requests import (
    SERVING_DEFAULT,
    Asker,
    Refused,
    golden_row,
    largest_difference,
)
from bert_tfx.components.serving_gate.served import all_served, as_row, measure_in_turns
from bert_tfx.components.variant_findings import FINDINGS_FILE
from bert_tfx.components.variant_gate.judgement import (
    BEFORE,
    VARIANT,
    Judgement,
    judge,
    unusable,
)
from bert_tfx.components.variant_gate.limits import VARIANT_NAME, VariantLimits
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.tasks import EVAL, SOURCE_ROW, Task
from bert_tfx.serving.protocol.errors import BadAnswer, ServingError
from bert_tfx.serving.server.process import ServerProcess

_logger = logging.getLogger(__name__)

# So many rows are asked for when a server's answers are checked, and when its speed is measured.
_SERVED_ROWS = 64
# What Predictor has asked the models as, by what they are called here.
_ASKED_AS = {VARIANT: CANDIDATE, BEFORE: BEFORE, REFERENCE: REFERENCE, CONTROL: CONTROL}


class Executor(base_executor.BaseExecutor):
    """Compares the answers, measures servers, writes the findings and the model that goes on."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Judges the variant.

        Args:
            input_dict: `predictions`, `variant`, `before`, and perhaps `reference` and `control`.
            output_dict: `findings`; `model`, a copy of the model that goes on.
            exec_properties: `task`, `settings`, `limits`, `slice_columns` (JSON), `step` and `head`
                (names), `timeout` (seconds that a server has to load), perhaps `tolerance` (of a
                served probability), `goes_back` (0 or 1).

        Raises:
            InputError: If the model before cannot be loaded or served, or the models do not answer
                the same question.
        """
        task = Task.from_json(exec_properties["task"])
        before = artifact_utils.get_single_instance(input_dict[BEFORE])
        step, head = exec_properties["step"], exec_properties["head"]
        names = {VARIANT: step, BEFORE: before.get_string_custom_property(VARIANT_NAME) or head}
        models = {key: exported_model(input_dict[key]) for key in (BEFORE, VARIANT)}
        if input_dict.get(REFERENCE) and names[BEFORE] != head:
            models[REFERENCE], names[REFERENCE] = exported_model(input_dict[REFERENCE]), head
        if input_dict.get(CONTROL):
            models[CONTROL] = exported_model(input_dict[CONTROL])
            names[CONTROL] = f"{step}, not taught"
        _check_comparable(models, names)
        split_uri = artifact_utils.get_split_uri(input_dict["predictions"], EVAL)
        features = (LEAKED, *json.loads(exec_properties["slice_columns"]), *MODEL_SLICES)
        predictions = read_predictions(split_uri, (*features, SOURCE_ROW))
        limits = VariantLimits.from_json(exec_properties["limits"])
        measured: dict[str, dict[str, Any]] = {
            key: {"name": names[key], **_about(model.path)} for key, model in models.items()
        }
        problems = {
            key: predictions.unanswered[_ASKED_AS[key]]
            for key in models
            if _ASKED_AS[key] in predictions.unanswered
        }
        if not problems:
            rows = list(itertools.islice(read_examples(split_uri), _SERVED_ROWS))
            problems = _serve(models, rows, task, measured, exec_properties)
        for key, problem in problems.items():
            if key != VARIANT:
                raise InputError(f"{names[key]} cannot be compared with: {problem}")
        if problems:
            judgement = unusable(names[VARIANT], problems[VARIANT])
        else:
            judgement = _judge(predictions, features, names, task, limits, measured)
        _logger.log(
            logging.INFO if judgement.accepted else logging.WARNING, "%s", judgement.verdict
        )
        findings = {
            "step": step,
            "settings": json.loads(exec_properties["settings"]),
            "accepted": judgement.accepted,
            "verdict": judgement.verdict,
            "reasons": judgement.reasons,
            "warnings": judgement.warnings,
            "limits": dataclasses.asdict(limits),
            "rows": len(predictions.labels),
            "models": measured,
            "speedup": judgement.speedup,
            "comparison": judgement.comparison and dataclasses.asdict(judgement.comparison),
            "slices": [dataclasses.asdict(found) for found in judgement.slices],
        }
        io_utils.write_string_file(
            os.path.join(artifact_utils.get_single_uri(output_dict["findings"]), FINDINGS_FILE),
            json.dumps(findings, ensure_ascii=False, indent=1, allow_nan=False),
        )
        goes_on = BEFORE if exec_properties["goes_back"] and not judgement.accepted else VARIANT
        model = artifact_utils.get_single_instance(output_dict["model"])
        copy_folder(artifact_utils.get_single_uri(input_dict[goes_on]), model.uri)
        model.set_string_custom_property(VARIANT_NAME, names[goes_on])


def _check_comparable(models: Mapping[str, ExportedModel], names: Mapping[str, str]) -> None:
    variant = models[VARIANT]
    for key, model in models.items():
        for what in ("labels", "text_features"):
            ours, theirs = getattr(variant, what), getattr(model, what)
            if ours != theirs:
                raise InputError(
                    f"{names[VARIANT]} has {what} {', '.join(ours)}, {names[key]} has "
                    f"{', '.join(theirs)}, so that they cannot be compared"
                )


def _serve(
    models: Mapping[str, ExportedModel],
    rows: Sequence[tf.train.Example],
    task: Task,
    measured: Mapping[str, dict[str, Any]],
    exec_properties: Mapping[str, Any],
) -> dict[str, str]:
    """Serves all models at a time; measures them in turns, or returns what is wrong with which."""
    asked = exec_properties.get("tolerance")
    paths = {key: model.path for key, model in models.items()}
    problems, targets = {}, {}
    with all_served(paths, exec_properties["timeout"]) as servers:
        for key, server in servers.items():
            tolerance = tolerance_of(models[key].storage, asked)
            try:
                targets[key] = _checked(server, rows, _ASKED_AS[key], task.labels, tolerance)
            except (ServingError, Refused, BadAnswer) as error:
                problems[key] = str(error)
        if not problems:
            texts = [as_row(golden_row(row, CANDIDATE).texts) for row in rows]
            for key, load in measure_in_turns(targets, texts).items():
                measured[key]["load"] = load
    return problems


def _checked(
    server: ServerProcess | ServingError,
    rows: Sequence[tf.train.Example],
    model: str,
    labels: Sequence[str],
    tolerance: float,
) -> str:
    """Returns the address of a server that answers as the model did when it was asked."""
    if isinstance(server, ServingError):
        raise server
    golden = [golden_row(row, model) for row in rows]
    with Asker(server.target) as asker:
        differs = largest_difference(asker, SERVING_DEFAULT, golden, labels, _SERVED_ROWS)
    if differs > tolerance:
        raise BadAnswer(
            f"a server answers an eval row with a probability that is {differs:.2g} off the "
            f"model's own ({tolerance:g} is allowed)"
        )
    return server.target


def _judge(
    predictions: Predictions,
    features: Sequence[str],
    names: Mapping[str, str],
    task: Task,
    limits: VariantLimits,
    measured: Mapping[str, dict[str, Any]],
) -> Judgement:
    """Adds the accuracies to what was measured, and judges the variant."""
    answers = {CANDIDATE: predictions.candidate, **predictions.others}
    for key, found in measured.items():
        right = int((answers[_ASKED_AS[key]].argmax(axis=1) == predictions.labels).sum())
        found["accuracy"] = dataclasses.asdict(accuracy_estimate(right, len(predictions.labels)))
    return judge(
        Predictions(
            predictions.labels,
            predictions.candidate,
            predictions.others[BEFORE],
            {name: predictions.slices[name] for name in features},
        ),
        task.labels,
        measured,
        limits,
        name=names[VARIANT],
        of=names[BEFORE],
        row_names=predictions.slices[SOURCE_ROW].tolist(),
    )


def _about(path: str) -> dict[str, int]:
    """Returns a model's number of parameters and the size of its export."""
    with open(os.path.join(path, ABOUT_FILE), encoding="utf-8") as file:
        shapes = json.load(file)["weights"]
    return {
        "parameters": sum(math.prod(shape) for shape in shapes.values()),
        "bytes": sum(sizes(path).values()),
    }
