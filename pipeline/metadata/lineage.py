"""What ML Metadata knows of the runs in an output folder.

Reads the records only, without TFX: a list of runs answers at once, also while one is going on.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ml_metadata.proto import metadata_store_pb2

from bert_tfx.components.report.artifacts import StoredArtifact, stored_artifact, value_of
from bert_tfx.pipeline.metadata.store import address_of, open_store
from bert_tfx.schema.errors import InputError

COMPLETE = "complete"
CACHED = "cached"
FAILED = "failed"
RUNNING = "running"

_STATES = {
    metadata_store_pb2.Execution.COMPLETE: COMPLETE,
    metadata_store_pb2.Execution.CACHED: CACHED,
    metadata_store_pb2.Execution.FAILED: FAILED,
    metadata_store_pb2.Execution.CANCELED: FAILED,
}
_OUTPUTS = (
    metadata_store_pb2.Event.OUTPUT,
    metadata_store_pb2.Event.INTERNAL_OUTPUT,
    metadata_store_pb2.Event.DECLARED_OUTPUT,
)


@dataclasses.dataclass(frozen=True)
class Node:
    """A component's part in a run.

    Attributes:
        name: The component.
        execution_id: Its execution in ML Metadata.
        state: `complete`, `cached`, `failed`, or `running` (also where it was killed).
        begun: When, in seconds since 1970.
        ended: When its record changed last, in seconds since 1970.
        properties: Its parameters.
        inputs: Artifacts by the key of the input.
        outputs: Artifacts by the key of the output.
    """

    name: str
    execution_id: int
    state: str
    begun: float
    ended: float
    properties: Mapping[str, Any]
    inputs: Mapping[str, Sequence[StoredArtifact]]
    outputs: Mapping[str, Sequence[StoredArtifact]]

    @property
    def cached(self) -> bool:
        """Whether an earlier run's outputs were taken."""
        return self.state == CACHED

    @property
    def seconds(self) -> float:
        """Wall time; that of the record where it was killed."""
        return max(0.0, self.ended - self.begun)

    @property
    def parameters(self) -> dict[str, Any]:
        """Its parameters, with those that TFX packs into `custom_config`."""
        parameters = dict(self.properties)
        packed = parameters.get("custom_config")
        if isinstance(packed, str) and packed:
            inner = json.loads(packed)
            # An ExampleGen's is a protocol buffer in another.
            inner = inner.get("custom_config", inner)
            parameters |= inner.get("value", inner)
        return parameters


@dataclasses.dataclass(frozen=True)
class Run:
    """A run of a pipeline.

    Attributes:
        id: Its name in ML Metadata.
        pipeline: The pipeline's name.
        begun: When, in seconds since 1970.
        nodes: The components that have begun, in that order; of a component that was tried again
            the last trial.
    """

    id: str
    pipeline: str
    begun: float
    nodes: Sequence[Node]

    @property
    def seconds(self) -> float:
        """From its begin to the end of its last component."""
        return max((node.ended for node in self.nodes), default=self.begun) - self.begun

    @property
    def failed(self) -> Node | None:
        """The component that stopped the run, if one has."""
        return next((node for node in self.nodes if node.state == FAILED), None)

    @property
    def task(self) -> dict[str, Any]:
        """The task, as JSON holds it; empty where no component says it."""
        for node in self.nodes:
            task = node.parameters.get("task")
            if isinstance(task, str):
                return json.loads(task)
        return {}

    def node(self, name: str) -> Node | None:
        """Returns a component's part, or None where it has not begun."""
        return next((node for node in self.nodes if node.name == name), None)

    def output(self, name: str, key: str) -> StoredArtifact | None:
        """Returns an output of a component, or None where there is none."""
        node = self.node(name)
        found = node.outputs.get(key) if node and node.state in (COMPLETE, CACHED) else None
        return found[0] if found else None


def read_runs(output_dir: str) -> list[Run]:
    """Reads all runs of an output folder.

    Args:
        output_dir: The folder that `bert-tfx run --output` names.

    Returns:
        The runs, the latest first.

    Raises:
        InputError: If there are no records.
    """
    address = address_of(output_dir)
    store = open_store(address, read_only=True)
    names: dict[int, str] = {}
    pipelines: dict[int, str] = {}
    for context in store.get_contexts_by_type("node"):
        # `pipeline.node`; a pipeline's name may hold a dot, that of a node does not.
        pipeline, _, name = context.name.rpartition(".")
        if address.pipelines and pipeline not in address.pipelines:
            continue
        for execution in store.get_executions_by_context(context.id):
            pipelines[execution.id], names[execution.id] = pipeline, name
    events: dict[int, list[metadata_store_pb2.Event]] = {number: [] for number in names}
    for event in store.get_events_by_execution_ids(list(names)) if names else ():
        events[event.execution_id].append(event)
    types = {kind.id: kind.name for kind in store.get_artifact_types()}
    numbers = {event.artifact_id for found in events.values() for event in found}
    artifacts = {
        artifact.id: stored_artifact(artifact, types[artifact.type_id])
        for artifact in store.get_artifacts_by_id(sorted(numbers))
    }
    runs = []
    for context in store.get_contexts_by_type("pipeline_run"):
        # In a store of several pipelines a scheduler may have given two of them the same run's id.
        of_pipelines: dict[str, dict[str, Node]] = {} if address.pipelines else {"": {}}
        executions = store.get_executions_by_context(context.id)
        for execution in sorted(executions, key=lambda execution: execution.id):
            if execution.id not in names:
                continue
            of_pipelines.pop("", None)
            nodes = of_pipelines.setdefault(pipelines[execution.id], {})
            name = names[execution.id]
            nodes.pop(name, None)
            nodes[name] = _node(name, execution, events[execution.id], artifacts)
        begun = context.create_time_since_epoch / 1000
        for pipeline, nodes in of_pipelines.items():
            runs.append(Run(context.name, pipeline, begun, list(nodes.values())))
    return sorted(runs, key=lambda run: run.begun, reverse=True)


def find_run(output_dir: str, run_id: str | None = None) -> Run:
    """Returns the latest run of an output folder, or the one of a name.

    Raises:
        InputError: If there is none.
    """
    runs = read_runs(output_dir)
    if not runs:
        raise InputError(f"{output_dir}: holds no run yet; `bert-tfx run --output` makes one")
    if run_id is None:
        return runs[0]
    for run in runs:
        if run.id == run_id:
            return run
    raise InputError(
        f"{output_dir}: holds no run {run_id!r}; `bert-tfx runs --output {output_dir}` lists them"
    )


def _node(
    name: str,
    execution: metadata_store_pb2.Execution,
    events: Sequence[metadata_store_pb2.Event],
    artifacts: Mapping[int, StoredArtifact],
) -> Node:
    inputs: dict[str, list[StoredArtifact]] = {}
    outputs: dict[str, list[StoredArtifact]] = {}
    for event in events:
        keys = [step.key for step in event.path.steps if step.HasField("key")]
        if keys and event.artifact_id in artifacts:
            of_kind = outputs if event.type in _OUTPUTS else inputs
            of_kind.setdefault(keys[0], []).append(artifacts[event.artifact_id])
    return Node(
        name=name,
        execution_id=execution.id,
        state=_STATES.get(execution.last_known_state, RUNNING),
        begun=execution.create_time_since_epoch / 1000,
        ended=execution.last_update_time_since_epoch / 1000,
        properties={
            key: value_of(value)
            for values in (execution.properties, execution.custom_properties)
            for key, value in values.items()
        },
        inputs=inputs,
        outputs=outputs,
    )
