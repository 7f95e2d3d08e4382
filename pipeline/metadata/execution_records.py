"""What executions of the pipeline's nodes have made: a small JSON file each, below a folder.

This stands in for ML Metadata where nodes run on several machines. SQLite does not bear them on a
network file system, and a file that is written whole and never changed needs no locks.
"""

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ml_metadata.proto import metadata_store_pb2
from tfx.types import Artifact

from bert_tfx.schema import files

Outputs = Mapping[str, Sequence[Artifact]]


@dataclasses.dataclass(frozen=True)
class Record:
    """One execution that has succeeded.

    Attributes:
        pipeline: The pipeline's name.
        run_id: The run that it belongs to.
        node: The node.
        execution_id: A number that grows from one execution to the next.
        key: A hash of all that the outputs depend on.
        cached: Whether the outputs are those of an earlier execution.
        inputs: The numbers of the artifacts that it was given.
        outputs: What it made, by output.
    """

    pipeline: str
    run_id: str
    node: str
    execution_id: int
    key: str
    cached: bool
    inputs: Sequence[int]
    outputs: Outputs


class Records:
    """The records of a pipeline.

    Args:
        folder: Where they lie; it is made with the first one.
        pipeline: The pipeline's name; those of others in the folder do not count.
    """

    def __init__(self, folder: str, pipeline: str) -> None:
        self._folder = folder
        self._pipeline = pipeline

    def add(self, record: Record) -> None:
        """Keeps a record."""
        os.makedirs(self._folder, exist_ok=True)
        path = os.path.join(self._folder, f"{record.execution_id}-{record.node}.json")
        fields = {
            field.name: getattr(record, field.name)
            for field in dataclasses.fields(record)
            if field.name != "outputs"
        }
        value = {**fields, "outputs": outputs_to_json(record.outputs)}
        files.write(path, json.dumps(value, ensure_ascii=False, indent=1))

    def all(self) -> list[Record]:
        """Returns the pipeline's records, oldest first."""
        try:
            names = [name for name in os.listdir(self._folder) if name.endswith(".json")]
        except FileNotFoundError:
            return []
        records = []
        for name in names:
            with open(os.path.join(self._folder, name), encoding="utf-8") as file:
                fields = json.load(file)
            if fields["pipeline"] == self._pipeline:
                outputs = outputs_from_json(fields.pop("outputs"))
                records.append(Record(**fields, outputs=outputs))
        return sorted(records, key=lambda record: record.execution_id)

    def artifacts(self, type_name: str) -> list[Artifact]:
        """Returns all artifacts of a type that are still there, oldest first.

        Args:
            type_name: The type's name in ML Metadata, such as `Model`.
        """
        found = {
            artifact.id: artifact
            for record in self.all()
            for artifacts in record.outputs.values()
            for artifact in artifacts
            if artifact.type_name == type_name and os.path.exists(artifact.uri)
        }
        return [found[key] for key in sorted(found)]

    def get_events_by_artifact_ids(
        self, artifact_ids: Iterable[int]
    ) -> list[metadata_store_pb2.Event]:
        """Returns which executions have made or taken artifacts, as ML Metadata's store does."""
        wanted = set(artifact_ids)
        return [event for event in self._events() if event.artifact_id in wanted]

    def get_events_by_execution_ids(
        self, execution_ids: Iterable[int]
    ) -> list[metadata_store_pb2.Event]:
        """Returns what executions have made and taken, as ML Metadata's store does."""
        wanted = set(execution_ids)
        return [event for event in self._events() if event.execution_id in wanted]

    def _events(self) -> Iterator[metadata_store_pb2.Event]:
        for record in self.all():
            # What was taken from the cache was made by another execution, of the same inputs.
            made = [one.id for artifacts in record.outputs.values() for one in artifacts]
            for numbers, kind in (
                (record.inputs, metadata_store_pb2.Event.INPUT),
                ([] if record.cached else made, metadata_store_pb2.Event.OUTPUT),
            ):
                for number in numbers:
                    yield metadata_store_pb2.Event(
                        artifact_id=number, execution_id=record.execution_id, type=kind
                    )

    def cached(self, key: str) -> Record | None:
        """Returns the latest record of a key whose outputs are still there, or None."""
        for record in reversed(self.all()):
            if record.key == key and all(
                os.path.exists(artifact.uri)
                for artifacts in record.outputs.values()
                for artifact in artifacts
            ):
                return record
        return None


def outputs_to_json(outputs: Outputs) -> dict[str, Any]:
    """Returns artifacts by output as JSON values."""
    return {key: [one.to_json_dict() for one in artifacts] for key, artifacts in outputs.items()}


def outputs_from_json(value: Mapping[str, Any]) -> dict[str, list[Artifact]]:
    """Returns artifacts by output from what `outputs_to_json` returned."""
    return {
        key: [Artifact.from_json_dict(one) for one in artifacts] for key, artifacts in value.items()
    }
