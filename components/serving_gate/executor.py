"""Executor of ServingGate."""

import contextlib
import dataclasses
import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tfx import types
from tfx.components.util import model_utils
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils
from tfx.utils import io_utils

from bert_tfx.components.exported_model import ExportedModel, exported_model
from bert_tfx.components.model_pusher.files import sizes
from bert_tfx.components.model_pusher.version_folder import VersionFolder
from bert_tfx.components.predictor.predictions import read_examples
from bert_tfx.components.serving_gate.limits import ServingLimits, tolerance_of
from bert_tfx.components.serving_gate.requests import (
    INPUTS,
    Asker,
    GoldenRow,
    Refused,
    golden_rows,
    hostile_outcome,
    hostile_requests,
    largest_difference,
)
from bert_tfx.components.serving_gate.served import as_row, measure_in_turns
from bert_tfx.schema.tasks import EVAL
from bert_tfx.serving.protocol.errors import BadAnswer, ServingError
from bert_tfx.serving.protocol.model_api import SERVE_TEXT
from bert_tfx.serving.server.process import (
    ServerProcess,
    installed_program,
    one_model_server,
)

_logger = logging.getLogger(__name__)

FINDINGS_FILE = "findings.json"

_MARKER_FILES = {True: "INFRA_BLESSED", False: "INFRA_NOT_BLESSED"}
_GOLDEN_ROWS = 64
# Each signature is asked for the golden rows in requests of one row, and of as many.
_GOLDEN_BATCHES = (1, 32)
_MB = 1_000_000
# So many problems stand in the verdict.
_NAMED = 3


class Executor(base_executor.BaseExecutor):
    """Starts the server, asks it, writes what it found, blesses or not."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Asks the candidate where it is blessed.

        Args:
            input_dict: `model`, `model_blessing`, `predictions`.
            output_dict: `findings`, `blessing`.
            exec_properties: `limits` (JSON of `ServingLimits`), `base_directory`.
        """
        blessing = artifact_utils.get_single_instance(output_dict["blessing"])
        if model_utils.is_model_blessed(
            artifact_utils.get_single_instance(input_dict["model_blessing"])
        ):
            findings = _findings(
                input_dict,
                ServingLimits.from_json(exec_properties["limits"]),
                exec_properties["base_directory"],
            )
        else:
            findings = {
                "passed": False,
                "verdict": "The server was not asked, because the model is not good enough.",
            }
        if findings["passed"]:
            _logger.info("%s", findings["verdict"])
        else:
            _logger.warning("%s", findings["verdict"])
        # As TFX's InfraValidator marks it, and its Pusher reads it.
        io_utils.write_string_file(
            os.path.join(blessing.uri, _MARKER_FILES[findings["passed"]]), ""
        )
        blessing.set_int_custom_property("blessed", int(findings["passed"]))
        uri = artifact_utils.get_single_uri(output_dict["findings"])
        io_utils.write_string_file(
            os.path.join(uri, FINDINGS_FILE), json.dumps(findings, ensure_ascii=False, indent=1)
        )


def _findings(
    input_dict: dict[str, list[types.Artifact]], limits: ServingLimits, base_directory: str
) -> dict[str, Any]:
    """Asks the candidate; returns what `findings.json` holds."""
    model = exported_model(input_dict["model"])
    examples = read_examples(artifact_utils.get_split_uri(input_dict["predictions"], EVAL))
    golden = golden_rows(examples, _GOLDEN_ROWS)
    tolerance = tolerance_of(model.storage, limits.serving_tolerance)
    findings: dict[str, Any] = {
        "program": installed_program(),
        "model_bytes": sum(sizes(model.path).values()),
        "limits": dataclasses.asdict(limits) | {"serving_tolerance": tolerance},
    }
    problems: list[str] = []
    try:
        with one_model_server(model.path, timeout=limits.serving_timeout) as server:
            findings["seconds_to_available"] = server.seconds
            problems += _answers(server, model, golden, tolerance, findings)
            if not problems:
                last = None if limits.max_slowdown is None else _last_pushed(base_directory)
                findings["compared_with"] = last
                problems += _speed(server, golden, last, limits, findings)
            findings["server_peak_bytes"] = server.peak_memory()
    except ServingError as error:
        problems.append(str(error))
    problems += _sizes(findings, limits)
    passed = not problems
    if passed:
        verdict = f"{findings['program']} loads the model and answers as it was evaluated."
    else:
        verdict = "Not to be served: " + "; ".join(problems[:_NAMED])
        if len(problems) > _NAMED:
            verdict += f"; and {len(problems) - _NAMED} more in {FINDINGS_FILE}"
    return {"passed": passed, "verdict": verdict, "problems": problems, **findings}


def _answers(
    server: ServerProcess,
    model: ExportedModel,
    golden: Sequence[GoldenRow],
    tolerance: float,
    findings: dict[str, Any],
) -> list[str]:
    """Holds the server's answers against the evaluation's, before and after hostile requests."""
    problems = []
    differences: dict[str, float] = {}
    hostile: list[dict[str, Any]] = []
    findings["golden"] = {"rows": len(golden), "differences": differences}
    findings["hostile"] = hostile
    with Asker(server.target) as asker:

        def ask_golden(when: str) -> None:
            for signature in INPUTS:
                for batch in _GOLDEN_BATCHES:
                    try:
                        differs = largest_difference(asker, signature, golden, model.labels, batch)
                    except (Refused, BadAnswer) as error:
                        problems.append(
                            f"{signature}{when}, eval rows in requests of {batch}: {error}"
                        )
                        continue
                    differences[signature] = max(differs, differences.get(signature, 0.0))
                    if differs > tolerance:
                        problems.append(
                            f"{signature}{when} answers an eval row with a probability that is "
                            f"{differs:.2g} off the evaluated one ({tolerance:g} is allowed)"
                        )

        if not golden:
            problems.append("there is no eval row to ask for")
            return problems
        try:
            begun = time.monotonic()
            asker.ask(SERVE_TEXT, INPUTS[SERVE_TEXT]([golden[0].texts]))
            findings["first_request_ms"] = 1000 * (time.monotonic() - begun)
        except Refused as error:
            problems.append(f"{SERVE_TEXT}, the first request: {error}")
        ask_golden("")
        for request in hostile_requests(model.text_features):
            problem = hostile_outcome(asker, request, model.labels)
            hostile.append(
                {"name": request.name, "signature": request.signature, "problem": problem}
            )
            if problem is not None:
                problems.append(f"{request.signature}, {request.name}: {problem}")
                if not server.is_running():
                    problems.append(f"{server.program} did not survive it")
                    break
        if hostile and not problems:
            ask_golden(" after hostile requests")
    return problems


def _last_pushed(base_directory: str) -> str | None:
    """Returns the folder of the latest version, if there is one."""
    folder = VersionFolder(base_directory)
    numbers = folder.numbers()
    return next((v.folder for v in folder.versions() if numbers and v.number == numbers[-1]), None)


def _speed(
    server: ServerProcess,
    golden: Sequence[GoldenRow],
    last: str | None,
    limits: ServingLimits,
    findings: dict[str, Any],
) -> list[str]:
    """Measures latency and throughput, beside those of the last pushed model."""
    texts = [as_row(row.texts) for row in golden]
    problems = []
    with contextlib.ExitStack() as stack:
        targets = {"candidate": server.target}
        if last is not None:
            targets["last_pushed"] = stack.enter_context(
                one_model_server(last, timeout=limits.serving_timeout)
            ).target
        measured = measure_in_turns(targets, texts)
    findings["load"] = measured
    for new, old in zip(measured["candidate"], measured.get("last_pushed", ()), strict=False):
        slowdown = new["p50"] / old["p50"]
        if limits.max_slowdown is not None and slowdown > limits.max_slowdown:
            problems.append(
                f"requests of {new['rows']} rows take {new['p50']:.1f} ms (p50), {slowdown:.2f} "
                f"times the {old['p50']:.1f} ms of the last pushed model, where "
                f"{limits.max_slowdown:g} times is allowed"
            )
    return problems


def _sizes(findings: Mapping[str, Any], limits: ServingLimits) -> list[str]:
    problems = []
    for most, figure, what in (
        (limits.max_model_mb, "model_bytes", "the exported model has"),
        (limits.max_server_mb, "server_peak_bytes", "the server held"),
    ):
        found = findings.get(figure)
        if most is not None and found is not None and found / _MB > most:
            problems.append(f"{what} {found / _MB:,.0f} MB, where {most:,g} MB are allowed")
    return problems
