"""Executor of VariantGate."""

import dataclasses
import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tfx import types
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils
from tfx.utils import io_utils

from bert_tfx.components.data_gate.repeats import read_leaked_eval_rows
from bert_tfx.components.exported_model import ExportedModel, exported_model
from bert_tfx.components.model_pusher.files import copy_folder, sizes
from bert_tfx.components.model_pusher.version_folder import ABOUT_FILE
from bert_tfx.components.predictor.predictions import (
    LEAKED,
    MODEL_SLICES,
    Predictions,
    read_examples,
)
from bert_tfx.components.promotion_gate.metrics import accuracy_estimate
from bert_tfx.components.serving_gate.requests import (
    INPUTS,
    SERVING_DEFAULT,
    Asker,
    Refused,
    checked_probabilities,
)
from bert_tfx.components.serving_gate.served import all_served, as_row, measure_in_turns
from bert_tfx.components.variant_gate.judgement import (
    BEFORE,
    VARIANT,
    Judgement,
    judge,
    unusable,
)
from bert_tfx.components.variant_gate.limits import FINDINGS_FILE, VARIANT_NAME, VariantLimits
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.tasks import EVAL, LABEL, SOURCE_ROW, Task
from bert_tfx.serving.errors import BadAnswer, ServingError

REFERENCE = "reference"
CONTROL = "control"

_logger = logging.getLogger(__name__)

_SLICE_SIGNATURE = "slice_features"
_BATCH_ROWS = 128
# So many rows are asked for when speed is measured.
_MEASURED_ROWS = 64


@dataclasses.dataclass(frozen=True)
class _Rows:
    """The eval rows: texts by feature, class indices, and what each is sliced by and called."""

    texts: Sequence[Mapping[str, bytes]]
    labels: np.ndarray
    slices: Mapping[str, np.ndarray]
    names: Sequence[str]


class Executor(base_executor.BaseExecutor):
    """Asks servers of the models, compares, writes the findings and the model that goes on."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Judges the variant.

        Args:
            input_dict: `examples`, `data_report`, `variant`, `before`, and perhaps `reference` and
                `control`.
            output_dict: `findings`; `model`, a copy of the model that goes on.
            exec_properties: `task`, `settings`, `limits`, `slice_columns` (JSON), `step` and `head`
                (names), `timeout` (seconds that a server has to load), `goes_back` (0 or 1).

        Raises:
            InputError: If a server cannot load the model before, or the models do not answer the
                same question.
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
        rows = _read_rows(
            artifact_utils.get_split_uri(input_dict["examples"], EVAL),
            artifact_utils.get_single_uri(input_dict["data_report"]),
            task,
            json.loads(exec_properties["slice_columns"]),
        )
        limits = VariantLimits.from_json(exec_properties["limits"])
        measured, judgement = _measure(
            models, names, rows, task, limits, exec_properties["timeout"]
        )
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
            "rows": len(rows.labels),
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


def _read_rows(
    split_uri: str, data_report_uri: str, task: Task, slice_columns: Sequence[str]
) -> _Rows:
    leaked = read_leaked_eval_rows(data_report_uri)
    texts: list[Mapping[str, bytes]] = []
    labels: list[int] = []
    slices: dict[str, list[str]] = {LEAKED: [], **{name: [] for name in slice_columns}}
    names = []
    for example in read_examples(split_uri):
        feature = example.features.feature
        texts.append({name: feature[name].bytes_list.value[0] for name in task.text_features})
        labels.append(feature[LABEL].int64_list.value[0])
        source_row = feature[SOURCE_ROW].bytes_list.value[0]
        names.append(source_row.decode())
        slices[LEAKED].append("yes" if source_row in leaked else "no")
        for name in slice_columns:
            value = feature[name].bytes_list.value if name in feature else ()
            slices[name].append(value[0].decode() if value else "")
    return _Rows(
        texts,
        np.array(labels, np.int64),
        {name: np.array(values, object) for name, values in slices.items()},
        names,
    )


def _measure(
    models: Mapping[str, ExportedModel],
    names: Mapping[str, str],
    rows: _Rows,
    task: Task,
    limits: VariantLimits,
    timeout: float,
) -> tuple[dict[str, Any], Judgement]:
    """Serves all models at a time, asks each for all rows, and measures them in turns."""
    measured: dict[str, dict[str, Any]] = {
        key: {"name": names[key], **_about(model.path)} for key, model in models.items()
    }
    answers: dict[str, np.ndarray] = {}
    slices = dict(rows.slices)
    with all_served({key: model.path for key, model in models.items()}, timeout) as servers:
        targets = {}
        for key, server in servers.items():
            try:
                if isinstance(server, ServingError):
                    raise server
                with Asker(server.target) as asker:
                    answers[key] = _ask(asker, rows.texts, task.labels)
                    if key == BEFORE:
                        slices |= _ask_slices(asker, rows.texts)
            except (ServingError, Refused, BadAnswer) as error:
                if key == VARIANT:
                    return measured, unusable(names[VARIANT], str(error))
                raise InputError(f"{names[key]} cannot be compared with: {error}") from error
            targets[key] = server.target
        load = measure_in_turns(targets, [as_row(texts) for texts in rows.texts[:_MEASURED_ROWS]])
    for key, found in measured.items():
        right = int((answers[key].argmax(axis=1) == rows.labels).sum())
        found["accuracy"] = dataclasses.asdict(accuracy_estimate(right, len(rows.labels)))
        found["load"] = load[key]
    return measured, judge(
        Predictions(rows.labels, answers[VARIANT], answers[BEFORE], slices),
        task.labels,
        measured,
        limits,
        name=names[VARIANT],
        of=names[BEFORE],
        row_names=rows.names,
    )


def _ask(asker: Asker, texts: Sequence[Mapping[str, bytes]], labels: Sequence[str]) -> np.ndarray:
    parts = []
    for start in range(0, len(texts), _BATCH_ROWS):
        part = texts[start : start + _BATCH_ROWS]
        outputs = asker.ask(SERVING_DEFAULT, INPUTS[SERVING_DEFAULT](part))
        parts.append(checked_probabilities(outputs, len(part), labels))
    return np.concatenate(parts) if parts else np.zeros((0, len(labels)), np.float32)


def _ask_slices(asker: Asker, texts: Sequence[Mapping[str, bytes]]) -> dict[str, np.ndarray]:
    """Returns what the model says of the rows' lengths."""
    parts: dict[str, list[str]] = {name: [] for name in MODEL_SLICES}
    for start in range(0, len(texts), _BATCH_ROWS):
        part = texts[start : start + _BATCH_ROWS]
        outputs = asker.ask(_SLICE_SIGNATURE, INPUTS[SERVING_DEFAULT](part))
        for name, values in parts.items():
            values += [value.decode() for value in outputs[name]]
    return {name: np.array(values, object) for name, values in parts.items()}


def _about(path: str) -> dict[str, int]:
    """Returns a model's number of parameters and the size of its export."""
    with open(os.path.join(path, ABOUT_FILE), encoding="utf-8") as file:
        shapes = json.load(file)["weights"]
    return {
        "parameters": sum(math.prod(shape) for shape in shapes.values()),
        "bytes": sum(sizes(path).values()),
    }
