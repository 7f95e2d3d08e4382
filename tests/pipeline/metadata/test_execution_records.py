import dataclasses

import pytest
from ml_metadata.proto import metadata_store_pb2
from tfx.types import standard_artifacts

from bert_tfx.components.data_gate.component import DataGateReport
from bert_tfx.pipeline.metadata.execution_records import Record, Records


@pytest.fixture
def record(tmp_path):
    """Makes a record of a model and a report that are there."""

    def record(number, **fields):
        outputs = {}
        for key, kind in (("model", standard_artifacts.Model), ("report", DataGateReport)):
            artifact = kind()
            artifact.id = number + len(outputs)
            artifact.uri = str(tmp_path / "artifacts" / key / str(number))
            artifact.set_int_custom_property("statistics_id", 2**53 - 1)
            artifact.set_string_custom_property("said", "很干净")
            (tmp_path / "artifacts" / key / str(number)).mkdir(parents=True)
            outputs[key] = [artifact]
        values = {"pipeline": "p", "run_id": "r", "node": "N", "key": "k", "cached": False}
        values["inputs"] = []
        return Record(**{**values, **fields}, execution_id=number, outputs=outputs)

    return record


def test_record_is_read_as_it_was_written(tmp_path, record):
    written = record(1_795_386_663_000_001)
    records = Records(tmp_path / "records", "p")
    records.add(written)
    (read,) = records.all()
    assert dataclasses.replace(read, outputs={}) == dataclasses.replace(written, outputs={})
    for key, (artifact,) in written.outputs.items():
        (again,) = read.outputs[key]
        assert type(again) is type(artifact)
        assert again.mlmd_artifact == artifact.mlmd_artifact
    assert [path.suffix for path in (tmp_path / "records").iterdir()] == [".json"]


def test_no_folder_is_no_record(tmp_path):
    assert Records(tmp_path / "records", "p").all() == []


def test_artifacts_are_of_the_type_and_the_pipeline_oldest_first(tmp_path, record):
    for number, pipeline in ((300, "p"), (100, "p"), (200, "other")):
        Records(tmp_path / "records", pipeline).add(record(number, pipeline=pipeline))
    found = Records(tmp_path / "records", "p").artifacts("Model")
    assert [artifact.id for artifact in found] == [100, 300]


def test_artifact_that_a_later_run_took_from_the_cache_counts_once(tmp_path, record):
    records = Records(tmp_path / "records", "p")
    records.add(record(100))
    records.add(dataclasses.replace(records.all()[0], execution_id=200, cached=True))
    assert [artifact.id for artifact in records.artifacts("Model")] == [100]


def test_artifact_that_is_gone_does_not_count(tmp_path, record):
    records = Records(tmp_path / "records", "p")
    records.add(record(100))
    (tmp_path / "artifacts" / "model" / "100").rmdir()
    assert records.artifacts("Model") == []
    assert records.cached("k") is None


def test_cache_finds_the_latest_of_the_key(tmp_path, record):
    records = Records(tmp_path / "records", "p")
    for number, key in ((100, "k"), (200, "k"), (300, "another")):
        records.add(record(number, key=key))
    assert records.cached("k").execution_id == 200
    assert records.cached("unknown") is None


def test_records_tell_what_was_made_of_what(tmp_path, record):
    records = Records(str(tmp_path / "records"), "p")
    records.add(record(10, inputs=[1, 2]))
    # Taken from the cache: the same model was given to it, and the same was made elsewhere.
    records.add(record(20, inputs=[10], cached=True))
    kinds = metadata_store_pb2.Event
    made = records.get_events_by_artifact_ids([10])
    assert [(event.execution_id, event.type) for event in made] == [
        (10, kinds.OUTPUT),
        (20, kinds.INPUT),
    ]
    taken = records.get_events_by_execution_ids([10])
    assert {event.artifact_id for event in taken if event.type == kinds.INPUT} == {1, 2}
    assert records.get_events_by_execution_ids([99]) == []
