"""What runs in a Kubeflow task's container: one node of the pipeline, or one of its resolvers.

The container is given the run's options and its ExecutorInput, and makes the pipeline anew: so all
paths are those of the container, and a parameter that was changed at the submission goes wherever
the option goes. An artifact is passed between tasks as a small file that says where it lies.
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from bert_tfx.pipeline.configuration.config import OPTIONS, make_config
from bert_tfx.pipeline.configuration.options import with_sample
from bert_tfx.pipeline.process.console import Console, logged, quieten
from bert_tfx.pipeline.process.exit_codes import ExitCode
from bert_tfx.pipeline.process.faults import exit_code_of
from bert_tfx.pipeline.process.output_lock import for_part
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.tasks import Task

RUN_ID = "run_id"
"""The parameter that names the run; all others are options."""
PUSHED = "pushed"
"""ModelPusher's output parameter: whether the model was good enough to be pushed."""
PAGE = "page"
"""Report's further output: the page, for Kubeflow's web page to show."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a node.

    Args:
        argv: The arguments; by default the process's.

    Returns:
        0 where the node has finished, 2 or 4 where it refuses its input (`ExitCode`).
    """
    parser = argparse.ArgumentParser(description="Runs one node of the pipeline, under Kubeflow.")
    parser.add_argument("--node", required=True)
    parser.add_argument("--options", required=True, type=json.loads)
    parser.add_argument("--executor-input", required=True, type=json.loads)
    parser.add_argument("--input", action="append", default=[], metavar="KEY=PATH")
    parser.add_argument("--output", action="append", default=[], metavar="KEY=PATH")
    arguments = parser.parse_args(argv)
    try:
        _run(
            arguments.node,
            arguments.options,
            arguments.executor_input,
            inputs=dict(pair.split("=", 1) for pair in arguments.input),
            outputs=dict(pair.split("=", 1) for pair in arguments.output),
        )
    except InputError as error:
        print(f"{arguments.node} refuses its input: {error}", file=sys.stderr)
        return exit_code_of(error)
    return ExitCode.DONE


def effective_options(options: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options of a run, for `make_config`.

    Args:
        options: As the pipeline was compiled.
        parameters: Values of the submission by option; empty text leaves an option out. JSON knows
            one kind of number, and text may stand for one.

    Raises:
        InputError: If a value is of another kind.
    """
    merged = dict(options)
    for name, value in parameters.items():
        merged.pop(name, None)
        if value == "":
            continue
        kind = OPTIONS[name]
        try:
            number = kind(value) if kind in (int, float) else value
        except ValueError:
            number = None
        if number is None or (kind is int and not isinstance(value, str) and number != value):
            raise InputError(f"parameter {name!r} must be {kind.__name__}. Received: {value!r}")
        merged[name] = number
    return with_sample(read_options(merged))


def read_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns options as `make_config` takes them from JSON values; a task may be one in full."""
    task = options.get("task")
    if isinstance(task, Mapping) and "layouts" in task:
        return {**options, "task": Task.from_json(json.dumps(task))}
    return dict(options)


def _run(
    name: str,
    options: Mapping[str, Any],
    executor_input: Mapping[str, Any],
    *,
    inputs: Mapping[str, str],
    outputs: Mapping[str, str],
) -> None:
    """Runs a node, from the files of its inputs to those of its outputs."""
    parameters = dict(executor_input.get("inputs", {}).get("parameterValues", {}))
    run_id = parameters.pop(RUN_ID)
    config = make_config(effective_options(options, parameters))
    config.slice_columns  # noqa: B018, a wrong path answers before the frameworks load
    console = Console(sys.stdout)
    with logged(console), for_part(config.output_dir, name):
        quieten(verbose=False)

        from bert_tfx.pipeline.execution.node_runner import run_node
        from bert_tfx.pipeline.metadata.execution_records import outputs_from_json, outputs_to_json

        given = {}
        for key, path in inputs.items():
            with open(path, encoding="utf-8") as file:
                given.update(outputs_from_json({key: json.load(file)}))
        console.begin(name)
        start = time.monotonic()
        record = run_node(config, name, run_id, given)
        console.end("cached" if record.cached else f"{time.monotonic() - start:.1f} s")

    for key, artifacts in outputs_to_json(record.outputs).items():
        if key in outputs:
            _write(outputs[key], json.dumps(artifacts, ensure_ascii=False, indent=1))
    result: dict[str, Any] = {
        "artifacts": {
            key: {"artifacts": [{"metadata": _shown(record.outputs[key])}]}
            for key in outputs
            if key in record.outputs
        }
    }
    if PAGE in outputs:
        _show_page(record.outputs["report"][0].uri, outputs[PAGE])
    declared = executor_input.get("outputs", {})
    if PUSHED in declared.get("parameters", {}):
        (pushed_model,) = record.outputs["pushed_model"]
        pushed = bool(pushed_model.get_int_custom_property("pushed"))
        if not pushed:
            print("the model does not reach what it must: it is not pushed")
        result["parameterValues"] = {PUSHED: pushed}
    _write(declared["outputFile"], json.dumps(result, ensure_ascii=False))


def _shown(artifacts: Sequence[Any]) -> dict[str, Any]:
    """Returns what Kubeflow's web page is to say of an output."""
    if not artifacts:
        return {"found": "nothing"}
    (artifact,) = artifacts
    proto = artifact.mlmd_artifact
    shown = {"location": artifact.uri, "id": str(artifact.id)}
    for name, value in (*proto.properties.items(), *proto.custom_properties.items()):
        shown[name] = str(getattr(value, value.WhichOneof("value")))
    return shown


def _show_page(folder: str, target: str) -> None:
    from bert_tfx.components.report.page import INDEX_FILE

    os.makedirs(os.path.dirname(target), exist_ok=True)
    shutil.copyfile(os.path.join(folder, INDEX_FILE), target)


def _write(path: str, text: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


if __name__ == "__main__":
    # TFX would hand the process's arguments on to executors.
    given = sys.argv[1:]
    del sys.argv[1:]
    sys.exit(main(given))
