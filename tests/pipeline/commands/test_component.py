import json
import re
import shutil

import pytest
from ml_metadata import metadata_store
from ml_metadata.proto import metadata_store_pb2

from bert_tfx.pipeline.commands.component import NODES_FILE
from bert_tfx.pipeline.configuration.config import OPTIONS

FRAMEWORKS = r"\b(tensorflow|keras|apache_beam|tfx|numpy)\b"


@pytest.fixture
def sst2(tmp_path, glue_dir):
    return (
        "--task", "sst2", "--data", glue_dir, "--output", tmp_path / "output",
        "--size", "tiny", "--max-length", 16,
    )  # fmt: skip


def test_nodes_follow_those_upstream_of_them(bert_tfx, sst2):
    nodes = json.loads(bert_tfx("component", "list", "--json", *sst2).check(0).stdout)
    names = list(nodes)
    assert {"TsvExampleGen", "Baseline", "AcceptedTokens", "ModelPusher"} <= set(names)
    for name, upstream in nodes.items():
        assert all(names.index(before) < names.index(name) for before in upstream)
    # Of inputs, and of gates that hand nothing on.
    assert nodes["Transform"] == ["DataGate", "ImportSchemaGen", "TsvExampleGen"]
    assert nodes["TsvExampleGen"] == []

    lines = bert_tfx("component", "list", *sst2).check(0).stdout.splitlines()
    assert [line.split()[0] for line in lines] == names
    assert re.search(
        r"^Transform +DataGate, ImportSchemaGen, TsvExampleGen$", "\n".join(lines), re.M
    )


def test_nodes_are_kept_until_something_changes(bert_tfx, command, sst2, tmp_path, monkeypatch):
    bert_tfx("component", "list", *sst2).check(0)
    kept = tmp_path / "output" / NODES_FILE
    content = json.loads(kept.read_text(encoding="utf-8"))
    content["nodes"] = {"Kept": []}
    kept.write_text(json.dumps(content), encoding="utf-8")

    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    done = command("component", "list", *sst2)
    assert done.stdout == "Kept\n"
    assert not re.findall(FRAMEWORKS, done.stderr)
    monkeypatch.delenv("PYTHONPROFILEIMPORTTIME")

    assert "Trainer" in bert_tfx("component", "list", *sst2, "--epochs", 1).check(0).stdout
    kept.write_text("cut sho", encoding="utf-8")
    assert "Trainer" in bert_tfx("component", "list", *sst2).check(0).stdout


def test_run_takes_the_options_of_a_whole_run(bert_tfx):
    for action in ("run", "list"):
        stdout = bert_tfx("component", action, "--help").check(0).stdout
        for option in OPTIONS:
            assert f"--{option.replace('_', '-')}" in stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--node", "../x"), "there is no node '../x'"),
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
