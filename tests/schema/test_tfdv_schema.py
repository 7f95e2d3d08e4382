import pathlib

import pytest
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from bert_tfx import schema as schema_room
from bert_tfx.schema.tasks import TASKS, TEST, own_task
from bert_tfx.schema.tfdv_schema import SERVING, TRAINING, task_schema, write_task_schema

OWN = {
    "name": "own",
    "labels": ["a", "b", "c"],
    "columns": ["text_a", "label", "source"],
    "train": "train.tsv",
    "test": "test.tsv",
    "test_columns": ["text_a", "site"],
}
CURATED = sorted(
    path.parent.name for path in pathlib.Path(schema_room.__file__).parent.glob("*/*.pbtxt")
)


def features(schema: schema_pb2.Schema) -> dict[str, schema_pb2.Feature]:
    return {feature.name: feature for feature in schema.feature}


def is_required(feature: schema_pb2.Feature) -> bool:
    return (
        feature.presence.min_fraction == 1.0
        and feature.presence.min_count == 1
        and feature.HasField("shape")
        and not feature.shape.dim
    )


def test_every_task_has_a_curated_schema():
    assert sorted(TASKS) == CURATED


@pytest.mark.parametrize("name", CURATED)
def test_a_curated_schema_fits_its_task(name):
    task = TASKS[name]
    found = features(task_schema(task, task.layouts[0]))
    labelled = [f for lay in task.layouts for f in lay.splits.values() if f.labelled]
    assert {column for files in labelled for column in files.columns} == set(found) - {
        "index",
        "source_row",
    }
    for text in task.text_features:
        assert found[text].type == schema_pb2.BYTES
        assert is_required(found[text])
        assert not found[text].not_in_environment
    label = found["label"]
    assert label.type == schema_pb2.INT
    assert is_required(label)
    assert (label.int_domain.min, label.int_domain.max) == (0, len(task.labels) - 1)
    assert label.int_domain.is_categorical
    assert list(label.not_in_environment) == [SERVING]
    assert list(task_schema(task, task.layouts[0]).default_environment) == [TRAINING, SERVING]


@pytest.mark.parametrize("name", CURATED)
def test_a_curated_schema_says_what_one_made_from_the_task_would(name):
    task = TASKS[name]
    layout = task.layouts[0]
    curated = task_schema(task, layout)
    fields = {
        "name": "other",
        "labels": task.labels,
        "columns": layout.splits["train"].columns,
        "train": "x",
    }
    made = task_schema(own_task(fields, where="here"), layout)
    for feature in (*curated.feature, *made.feature):
        # The one thing a curated file knows more: which values an extra column takes.
        feature.ClearField("string_domain")
    assert features(curated) == features(made)
    assert curated.default_environment == made.default_environment


def test_a_schema_is_made_from_an_own_task():
    task = own_task(OWN, where="here")
    found = features(task_schema(task, task.layouts[0]))
    assert list(found) == ["text_a", "label", "source", "site", "source_row"]
    assert is_required(found["text_a"])
    assert is_required(found["label"])
    assert (found["label"].int_domain.min, found["label"].int_domain.max) == (0, 2)
    assert list(found["label"].not_in_environment) == [SERVING]
    # Columns that not every split has are strings where they are.
    for name in ("source", "site"):
        assert found[name].type == schema_pb2.BYTES
        assert not found[name].HasField("presence")


def test_an_extra_column_of_every_split_is_required():
    task = own_task(OWN | {"test_columns": ["text_a", "source"]}, where="here")
    assert is_required(features(task_schema(task, task.layouts[0]))["source"])


def test_a_pair_has_both_texts():
    task = own_task(
        OWN | {"columns": ["text_a", "text_b", "label"], "test": None, "test_columns": None},
        where="here",
    )
    found = features(task_schema(task, task.layouts[0]))
    assert list(found) == ["text_a", "text_b", "label", "source_row"]
    assert is_required(found["text_b"])


def test_the_index_of_a_glue_test_file_is_known():
    task = TASKS["sst2"]
    glue = task.layouts[0]
    assert "index" in glue.splits[TEST].columns
    assert not features(task_schema(task, glue))["index"].HasField("presence")


@pytest.mark.parametrize("name", CURATED)
def test_statistics_may_leave_out_where_a_row_stands(name):
    task = TASKS[name]
    row = features(task_schema(task, task.layouts[0]))["source_row"]
    assert row.type == schema_pb2.BYTES
    assert not row.HasField("presence")


def test_an_own_task_does_not_get_the_curated_schema_of_its_namesake():
    task = own_task(OWN | {"name": "sst2"}, where="here")
    assert features(task_schema(task, task.layouts[0]))["label"].int_domain.max == 2
    other = own_task(OWN | {"name": "sample"}, where="here")
    assert "language" not in features(task_schema(other, other.layouts[0]))


def test_the_path_changes_with_the_content_alone(tmp_path):
    task = own_task(OWN, where="here")
    path = pathlib.Path(write_task_schema(task, task.layouts[0], str(tmp_path / "new")))
    written = path.stat()
    assert str(path) == write_task_schema(task, task.layouts[0], str(tmp_path / "new"))
    assert path.stat() == written
    assert text_format.Parse(path.read_text(), schema_pb2.Schema()) == task_schema(
        task, task.layouts[0]
    )

    more = own_task(OWN | {"labels": ["a", "b", "c", "d"]}, where="here")
    other = pathlib.Path(write_task_schema(more, more.layouts[0], str(tmp_path / "new")))
    assert other != path
    assert other.name == path.name == "schema.pbtxt"
    assert sorted(p.name for p in (tmp_path / "new").rglob("*") if p.is_file()) == [
        "schema.pbtxt",
        "schema.pbtxt",
    ]
