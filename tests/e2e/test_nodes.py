"""A pipeline whose nodes are processes of their own, beside one that is run as a whole.

Each part goes on from the one before, so these tests belong on one worker.
"""

import collections
import json
import os
import re
import signal
import subprocess
import time

import pytest
from ml_metadata import metadata_store
from ml_metadata.proto import metadata_store_pb2

from bert_tfx.components.promotion_gate.executor import DECISION_FILE

# Fifty processes that each import TFX: minutes for what test_component.py has seconds for.
pytestmark = [pytest.mark.slow, pytest.mark.real, pytest.mark.timeout(1800)]

RESOLVERS = {"AcceptedData", "AcceptedTokens", "Baseline"}
KILLED = "Trainer"
LEARN = (
    "--size", "tiny", "--max-length", 16, "--batch-size", 16, "--epochs", 4,
    "--learning-rate", 2e-3, "--seed", 1, "--max-regression", 1,
)  # fmt: skip


def records(output, run_id=None):
    """Returns what ML Metadata says of a run: by node, what it is given, made of and makes."""
    connection = metadata_store_pb2.ConnectionConfig()
    connection.sqlite.filename_uri = str(output / "metadata.sqlite")
    connection.sqlite.connection_mode = metadata_store_pb2.SqliteMetadataSourceConfig.READONLY
    store = metadata_store.MetadataStore(connection)
    runs = sorted(store.get_contexts_by_type("pipeline_run"), key=lambda run: run.id)
    (run,) = [run for run in runs if run.name == run_id] if run_id else runs[-1:]
    of_node = {
        execution.id: context.name.rpartition(".")[2]
        for context in store.get_contexts_by_type("node")
        for execution in store.get_executions_by_context(context.id)
    }
    found = collections.defaultdict(list)
    for execution in store.get_executions_by_context(run.id):
        artifacts = []
        for event in store.get_events_by_execution_ids([execution.id]):
            (artifact,) = store.get_artifacts_by_id([event.artifact_id])
            keys = tuple(step.key for step in event.path.steps if step.HasField("key"))
            kind = metadata_store_pb2.Event.Type.Name(event.type)
            names = (*artifact.properties, *artifact.custom_properties)
            artifacts.append((kind, keys, artifact.type, tuple(sorted(names))))
        kinds = [
            store.get_context_types_by_id([context.type_id])[0].name
            for context in store.get_contexts_by_execution(execution.id)
        ]
        parameters = {
            name: str(value).replace(str(output), "OUTPUT")
            for name, value in execution.custom_properties.items()
        }
        found[of_node[execution.id]].append(
            {
                "state": metadata_store_pb2.Execution.State.Name(execution.last_known_state),
                "parameters": parameters,
                "artifacts": sorted(artifacts),
                "contexts": sorted(kinds),
            }
        )
    return dict(found)


def states(found):
    return {name: [execution["state"] for execution in one] for name, one in found.items()}


@pytest.fixture(scope="module")
def arguments(glue_dir):
    """Of both; the vocabulary is learned."""
    return "--task", "sst2", "--data", glue_dir, *LEARN


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("nodes")


@pytest.fixture(scope="module")
def whole(run, arguments, folder):
    return run(folder / "whole", *arguments).check(0)


@pytest.fixture(scope="module")
def node(command, arguments, folder):
    """Runs a node in a process of its own."""

    def node(name, run_id):
        return command(
            "component", "run", "--node", name, "--run-id", run_id, *arguments,
            "--output", folder / "nodes",
        )  # fmt: skip

    return node


@pytest.fixture(scope="module")
def upstream(command, arguments, folder):
    done = command("component", "list", "--json", *arguments, "--output", folder / "nodes")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def killed(start, node, upstream, arguments, folder):
    """All nodes before the one that is killed, two at a time where they may be, and that one."""
    names = list(upstream)
    before = names[: names.index(KILLED)]
    together = [name for name in before if not upstream[name]]
    assert len(together) == 2
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    begin = ("component", "run", "--run-id", "first", *arguments, "--output", folder / "nodes")
    for process in [start(*begin, "--node", name, **options) for name in together]:
        stdout, stderr = process.communicate()
        assert process.returncode == 0, stdout + stderr
    for name in before:
        if name not in together:
            done = node(name, "first")
            assert done.returncode == 0, done.stdout + done.stderr
    log = folder / "killed.log"
    with log.open("w") as stdout:
        process = start(*begin, "--node", KILLED, stdout=stdout, start_new_session=True)
    while "epoch 1/4: loss" not in log.read_text(encoding="utf-8"):
        assert process.poll() is None, log.read_text(encoding="utf-8")
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    left = records(folder / "nodes")
    (stray,) = (folder / "nodes" / "artifacts" / KILLED / "model").iterdir()
    (stray / "stray").touch()
    return left


@pytest.fixture(scope="module")
def first(node, killed, upstream):
    """What the killed one and those after it said."""
    names = list(upstream)
    said = {name: node(name, "first") for name in names[names.index(KILLED) :]}
    assert {name: done.returncode for name, done in said.items()} == dict.fromkeys(said, 0), said
    return said


def test_killed_node_is_recorded_as_running(killed):
    assert states(killed)[KILLED] == ["RUNNING"]


def test_killed_node_goes_on_and_leaves_one_record(first, folder):
    assert re.search("going on from the saved state: epoch [12], ", first[KILLED].stdout)
    assert states(records(folder / "nodes"))[KILLED] == ["COMPLETE"]
    assert not list((folder / "nodes" / "artifacts" / KILLED).rglob("stray"))
    assert not (folder / "nodes" / "training_state").exists()


def test_nodes_record_what_a_whole_run_records(whole, first, folder):
    by_node, by_run = records(folder / "nodes"), records(folder / "whole")
    assert list(by_node) == list(by_run)
    for name, one in by_run.items():
        assert by_node[name] == one, name


def test_nodes_make_what_a_whole_run_makes(whole, first, folder):
    def made(output):
        (decision,) = (output / "artifacts").glob(f"PromotionGate/decision/*/{DECISION_FILE}")
        (examples,) = (output / "artifacts").glob("TsvExampleGen/examples/*/Split-train/*")
        (vocabulary,) = output.glob("vocabulary/*/vocab.txt")
        files = collections.Counter(
            re.sub(r"/\d+/", "/ID/", str(path.parent.relative_to(output / "artifacts")))
            for path in (output / "artifacts").rglob("*")
            if path.is_file() and "model_run" not in path.parts
        )
        return (
            json.loads(decision.read_text(encoding="utf-8")),
            vocabulary.read_bytes(),
            examples.read_bytes(),
            files,
            len(list((output / "serving").iterdir())),
        )

    assert made(folder / "nodes") == made(folder / "whole")


def test_whole_run_takes_from_the_cache_what_nodes_made(run, whole, first, arguments, folder):
    again = run(folder / "nodes", *arguments).check(0)
    assert {name for name, state in again.components.items() if state == "done"} == RESOLVERS
    assert len(again.versions) == 1


def test_nodes_take_from_the_cache_what_nodes_made(node, first, upstream):
    for name in ("ImportSchemaGen", "TsvExampleGen", "StatisticsGen", "AcceptedData"):
        done = node(name, "second")
        assert done.returncode == 0, done.stderr
        assert (f"{name} ... cached" in done.stdout) == (name not in RESOLVERS)


def test_model_that_is_held_back_has_an_exit_code(run, command, first, arguments, folder):
    strict = (*arguments, "--min-eval-rows", 1000)
    run(folder / "nodes", *strict).check(3)
    done = command(
        "component", "run", "--node", "ModelPusher", *strict, "--output", folder / "nodes"
    )
    assert done.returncode == 3, done.stderr
    assert "has finished in this run already" in done.stdout
