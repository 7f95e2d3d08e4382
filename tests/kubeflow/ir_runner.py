"""Runs a compiled pipeline on this machine as Kubeflow Pipelines 2 would, node by node.

What a cluster does is done here by reading the same specification: the driver's part (parameters,
artifacts of the tasks before), the launcher's (object store, placeholders, output file) and a
container's (a process of its own, with the image's command, arguments and environment). The object
store is a folder; a task sees a copy of its inputs there, as it would in its pod.
"""

import dataclasses
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

STORE = "minio://mlpipeline/v2/artifacts"


@dataclasses.dataclass(frozen=True)
class TaskRun:
    """What a task did.

    Attributes:
        code: The exit code of its container.
        log: What it printed.
        artifacts: Its output artifacts by name, with `uri`, `name`, `type` and `metadata`.
        parameters: Its output parameters.
    """

    code: int
    log: str
    artifacts: Mapping[str, Mapping[str, Any]]
    parameters: Mapping[str, Any]


class IrRunner:
    """Runs of one pipeline.

    Args:
        spec: The PipelineSpec as JSON values.
        folder: Where the object store and the pods' files are.
        interpreter: What stands for the image's `python`.
    """

    def __init__(
        self, spec: Mapping[str, Any], folder: pathlib.Path, interpreter: str = sys.executable
    ) -> None:
        self._spec = spec
        self._folder = folder
        self._interpreter = interpreter

    def run(
        self,
        run_id: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        after: Callable[[str, TaskRun], None] = lambda name, task: None,
    ) -> dict[str, TaskRun]:
        """Runs all tasks; those that follow one that failed are left out.

        Args:
            run_id: The run's id.
            parameters: Values of the submission.
            after: Called after each task.

        Returns:
            The tasks that ran.
        """
        values = self._parameters(parameters or {})
        done: dict[str, TaskRun] = {}
        for name in self._order():
            task = self._spec["root"]["dag"]["tasks"][name]
            before = task.get("dependentTasks", [])
            if all(one in done and done[one].code == 0 for one in before):
                done[name] = self._run_task(name, task, run_id, values, done)
                after(name, done[name])
        return done

    def _parameters(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Checks values as Kubeflow's API server does; adds the defaults."""
        declared = self._spec["root"]["inputDefinitions"]["parameters"]
        assert given.keys() <= declared.keys(), given.keys() - declared.keys()
        values = {}
        for name, parameter in declared.items():
            values[name] = given.get(name, parameter["defaultValue"])
            kind = {"STRING": str, "BOOLEAN": bool}.get(parameter["parameterType"], (int, float))
            assert isinstance(values[name], kind), name
        return values

    def _order(self) -> list[str]:
        tasks = self._spec["root"]["dag"]["tasks"]
        order: list[str] = []
        while len(order) < len(tasks):
            ready = [
                name
                for name, task in tasks.items()
                if name not in order
                and all(before in order for before in task.get("dependentTasks", []))
            ]
            assert ready, "the tasks go in a circle"
            order.append(ready[0])
        return order

    def _run_task(
        self,
        name: str,
        task: Mapping[str, Any],
        run_id: str,
        values: Mapping[str, Any],
        done: Mapping[str, TaskRun],
    ) -> TaskRun:
        component = self._spec["components"][task["componentRef"]["name"]]
        executor = self._spec["deploymentSpec"]["executors"][component["executorLabel"]]
        pod = self._folder / "pods" / run_id / name
        executor_input = {
            "inputs": {
                "parameterValues": {
                    key: self._value(key, given, run_id, values)
                    for key, given in task["inputs"]["parameters"].items()
                },
                "artifacts": {
                    key: {"artifacts": [self._produced(given["taskOutputArtifact"], task, done)]}
                    for key, given in task["inputs"].get("artifacts", {}).items()
                },
            },
            "outputs": {
                "artifacts": {
                    key: {
                        "artifacts": [
                            {
                                "name": key,
                                "type": declared["artifactType"],
                                "uri": f"{STORE}/{run_id}/{name}/{key}",
                                "metadata": {},
                            }
                        ]
                    }
                    for key, declared in component["outputDefinitions"]["artifacts"].items()
                },
                "parameters": {
                    key: {"outputFile": str(pod / "outputs" / key)}
                    for key in component["outputDefinitions"].get("parameters", {})
                },
                "outputFile": str(pod / "kfp_outputs" / "output_metadata.json"),
            },
        }
        assert set(task["inputs"]["parameters"]) == set(component["inputDefinitions"]["parameters"])
        outputs = executor_input["outputs"]
        paths = {}
        for kind in ("inputs", "outputs"):
            for key, artifacts in executor_input[kind]["artifacts"].items():
                (artifact,) = artifacts["artifacts"]
                local = pod / artifact["uri"].replace("://", "/")
                local.parent.mkdir(parents=True, exist_ok=True)
                paths[f"{{{{$.{kind}.artifacts['{key}'].path}}}}"] = str(local)
                if kind == "inputs":
                    self._copy(self._stored(artifact["uri"]), local)
        container = executor["container"]
        command = [*container["command"], *container["args"]]
        paths["{{$}}"] = json.dumps(executor_input)
        filled = [_fill(argument, paths) for argument in command]
        assert filled[0] == "python"
        # A pod's own environment: nothing of this process but what finds programs and libraries.
        env = {
            key: os.environ[key] for key in ("PATH", "HOME", "LANG", "TMPDIR") if key in os.environ
        }
        env |= {one["name"]: one["value"] for one in container.get("env", [])}
        process = subprocess.run(
            [self._interpreter, *filled[1:]],
            cwd=pod,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
        if process.returncode:
            return TaskRun(process.returncode, process.stdout, {}, {})
        written = json.loads(pathlib.Path(outputs["outputFile"]).read_text(encoding="utf-8"))
        artifacts = {}
        for key, declared in outputs["artifacts"].items():
            (artifact,) = declared["artifacts"]
            for merged in written.get("artifacts", {}).get(key, {}).get("artifacts", []):
                artifact.update({k: v for k, v in merged.items() if k in ("uri", "metadata")})
            self._copy(pod / artifact["uri"].replace("://", "/"), self._stored(artifact["uri"]))
            artifacts[key] = artifact
        parameters = {key: written["parameterValues"][key] for key in outputs["parameters"]}
        # What a pod leaves behind is gone with it.
        shutil.rmtree(pod)
        return TaskRun(0, process.stdout, artifacts, parameters)

    def _value(
        self, key: str, given: Mapping[str, Any], run_id: str, values: Mapping[str, Any]
    ) -> Any:
        if "componentInputParameter" in given:
            return values[given["componentInputParameter"]]
        constant = given["runtimeValue"]["constant"]
        return run_id if constant == "{{$.pipeline_job_uuid}}" else constant

    def _produced(
        self, given: Mapping[str, Any], task: Mapping[str, Any], done: Mapping[str, TaskRun]
    ) -> Mapping[str, Any]:
        assert given["producerTask"] in task["dependentTasks"], "Kubeflow would not wait for it"
        return done[given["producerTask"]].artifacts[given["outputArtifactKey"]]

    def _stored(self, uri: str) -> pathlib.Path:
        return self._folder / "store" / uri.replace("://", "/")

    def _copy(self, source: pathlib.Path, target: pathlib.Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copyfile(source, target)


def _fill(argument: str, values: Mapping[str, str]) -> str:
    for placeholder, value in values.items():
        argument = argument.replace(placeholder, value)
    assert not re.search(r"\{\{\$", argument), argument
    return argument
