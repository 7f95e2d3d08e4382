import json
import re
import shutil

import pytest
from ml_metadata import metadata_store
from ml_metadata.proto import metadata_store_pb2

from bert_tfx.pipeline.configuration.config import OPTIONS
from bert_tfx.pipeline.configuration.stages import STAGES


@pytest.fixture
def sst2(tmp_path, glue_dir):
    return (
        "--task", "sst2", "--data", glue_dir, "--output", tmp_path / "output",
        "--size", "tiny", "--max-length", 16,
    )  # fmt: skip


DISTILL = json.dumps({"student_layers": 1, "teacher": {"size": "tiny"}, "control": True})
COMPRESS = json.dumps([{"prune_vocab": True}, {"store": "float16"}])


@pytest.mark.parametrize(
    "options", [(), ("--warm-start",), ("--distill", DISTILL, "--compress", COMPRESS)]
)
def test_nodes_follow_those_upstream_of_them(bert_tfx, sst2, options):
    listed = json.loads(bert_tfx("component", "list", "--json", *sst2, *options).check(0).stdout)
    names, stages = list(listed), list(STAGES)
    assert {name for nodes in STAGES.values() for name in nodes} <= set(names)
    for name, node in listed.items():
        assert all(names.index(before) < names.index(name) for before in node["follows"])
        # A stage needs no later one.
        own = stages.index(node["stage"])
        assert all(stages.index(listed[b]["stage"]) <= own for b in node["follows"])
    assert listed["Trainer"]["stage"] == "train"
    # Of inputs, and of gates that hand nothing on.
    assert listed["Transform"] == {
        "stage": "tokenize",
        "follows": ["DataGate", "ImportSchemaGen", "TsvExampleGen"],
    }
    assert listed["TsvExampleGen"] == {"stage": "ingest", "follows": []}


def test_list_for_readers(bert_tfx, sst2):
    lines = bert_tfx("component", "list", *sst2).check(0).stdout.splitlines()
    assert "tokenize  Transform         DataGate, ImportSchemaGen, TsvExampleGen" in lines
    assert "ingest    TsvExampleGen" in lines


def test_run_takes_the_options_of_a_whole_run(bert_tfx):
    for action in ("run", "list"):
        stdout = bert_tfx("component", action, "--help").check(0).stdout
        for option in OPTIONS:
            assert f"--{option.replace('_', '-')}" in stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "one of the arguments --stage --node is required"),
        (("--stage", "traim"), "argument --stage: invalid choice: 'traim' (choose from"),
        (("--stage", "train", "--node", "Trainer"), "not allowed with argument --stage"),
        (("--node", "../x"), "there is no node '../x'"),
        (
            ("--stage", "check", "--run-id", "r"),
            "which has not finished in run 'r'; run that first",
        ),
        (("--node", "Trainr", "--run-id", "r"), "there is no node 'Trainr'; the nodes are Import"),
        (("--node", "Trainer", "--run-id", "a/b"), "--run-id 'a/b': must be 1 to 200 letters"),
        (("--node", "Trainer", "--run-id", ""), "--run-id ''"),
        (
            ("--node", "Trainer", "--resources", '{"Trainr": {"gpus": 1}}'),
            "resources: there is no node 'Trainr'; the nodes are TsvExampleGen, ",
        ),
        (
            (
                *("--node", "Trainer", "--beam-runner", "multi_processing"),
                *("--resources", '{"Trainer": {"workers": 2}}'),
            ),
            "resources, Trainer: workers are for nodes with a Beam pipeline on the engine, which a",
        ),
        (
            ("--node", "Transform", "--run-id", "r"),
            "Transform follows DataGate, which has not finished in run 'r'; run that first",
        ),
    ],
)
def test_mistakes_are_said_in_a_sentence(bert_tfx, sst2, arguments, message):
    done = bert_tfx("component", "run", *arguments, *sst2).check(2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_node_joins_the_latest_run_and_is_done_once(bert_tfx, sst2):
    node = ("component", "run", "--node", "ImportSchemaGen")
    first = bert_tfx(*node, "--run-id", "scheduled__2026-01-01T00:00:00+00:00", *sst2).check(0)
    assert re.search(r"^\[ 1/\d+\] ImportSchemaGen \.\.\. \d+\.\d s$", first.stdout, re.M)
    again = bert_tfx(*node, *sst2).check(0)
    assert again.stdout.startswith("run scheduled__2026-01-01T00:00:00+00:00\n")
    assert "ImportSchemaGen ... has finished in this run already" in again.stdout
    other = bert_tfx(*node, "--run-id", "other", *sst2).check(0)
    assert "ImportSchemaGen ... cached" in other.stdout


def test_stage_is_several_nodes_of_which_what_is_done_is_not_done_again(bert_tfx, sst2, tmp_path):
    node = ("component", "run", "--run-id", "r", *sst2)
    bert_tfx(*node, "--node", "ImportSchemaGen").check(0)
    done = bert_tfx(*node, "--stage", "ingest").check(0).stdout
    assert "ImportSchemaGen ... has finished in this run already" in done
    assert re.search(r"TsvExampleGen \.\.\. \d+\.\d s$", done, re.M)
    # Each is recorded by itself.
    found = executions(tmp_path / "output")
    assert [one.last_known_state for one in found] == [metadata_store_pb2.Execution.COMPLETE] * 2
    # In the pipeline's order, whatever the order in which they are named.
    done = bert_tfx(*node, "--node", "ExampleValidator", "--node", "StatisticsGen").check(0).stdout
    assert done.index("StatisticsGen") < done.index("ExampleValidator")


def test_node_that_failed_is_recorded_anew(bert_tfx, sst2, glue_dir, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(glue_dir, data)
    with (data / "train.tsv").open("a", encoding="utf-8") as file:
        file.write("no label\n")
    node = ("component", "run", "--node", "TsvExampleGen", "--run-id", "r", *sst2, "--data", data)
    done = bert_tfx(*node).check(2)
    assert "1 of 421 rows do not fit, 0 are allowed" in done.stderr
    (failed,) = executions(tmp_path / "output")
    assert failed.last_known_state == metadata_store_pb2.Execution.FAILED

    bert_tfx(*node, "--max-rejects", 1).check(0)
    (mended,) = executions(tmp_path / "output")
    assert mended.id == failed.id
    assert mended.last_known_state == metadata_store_pb2.Execution.COMPLETE
    # What stands there is what was done.
    was, now = (one.custom_properties["custom_config"].string_value for one in (failed, mended))
    assert (was.count('"max_rejects": 0.0'), now.count('"max_rejects": 1.0')) == (1, 1)


def executions(output):
    connection = metadata_store_pb2.ConnectionConfig()
    connection.sqlite.filename_uri = str(output / "metadata.sqlite")
    connection.sqlite.connection_mode = metadata_store_pb2.SqliteMetadataSourceConfig.READONLY
    return metadata_store.MetadataStore(connection).get_executions()
