"""The compiled pipeline, run node by node from its specification, beside `bert-tfx run`.

Each part goes on from the one before, so these tests belong on one worker.
"""

import importlib.util
import json
import pathlib

import pytest
import tensorflow as tf

from bert_tfx.components.promotion_gate.executor import DECISION_FILE
from bert_tfx.pipeline.orchestrators.kubeflow.compiler import (
    Cluster,
    compile_documents,
    read_documents,
    write_documents,
)

# Dozens of processes that each import TFX.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.real,
    pytest.mark.timeout(3600),
    # Of Kubeflow's SDK, which announces the end of what it uses itself.
    pytest.mark.filterwarnings("ignore"),
]

RESOLVERS = {"accepted-data", "accepted-tokens", "baseline"}


def ir_runner():
    path = pathlib.Path(__file__).with_name("ir_runner.py")
    spec = importlib.util.spec_from_file_location("ir_runner", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load(path):
    """Reads the file as Kubeflow does, where its SDK is installed."""
    if importlib.util.find_spec("kfp") is None:
        return read_documents(path)[0]
    from google.protobuf import json_format
    from kfp import components

    return json_format.MessageToDict(components.load_component_from_file(path).pipeline_spec)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("kubeflow")


@pytest.fixture(scope="module")
def output(folder):
    """The output folder of all runs, on the volume."""
    return folder / "volume" / "output"


@pytest.fixture(scope="module")
def runner(folder, output):
    """Runs the pipeline under an id, and tells what it does."""
    documents = compile_documents(
        {"task": "sample", "output": str(output)},
        Cluster(image="registry/bert-tfx", volumes={str(folder / "volume"): "claim"}),
    )
    path = str(folder / "pipeline.yaml")
    write_documents(path, documents)
    (folder / "volume").mkdir()
    runs = ir_runner().IrRunner(load(path), folder / "kubeflow")

    def run(run_id, **parameters):
        done = runs.run(
            run_id, parameters, after=lambda name, task: print(run_id, name, task.code, flush=True)
        )
        assert {name: task.log for name, task in done.items() if task.code} == {}
        return done

    return run


@pytest.fixture(scope="module")
def local(command, folder):
    """The same by `bert-tfx run`."""
    done = command("run", "--task", "sample", "--output", folder / "local")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "local"


@pytest.fixture(scope="module")
def first(runner):
    return runner("first")


@pytest.fixture(scope="module")
def second(runner, first):
    """With a parameter that leaves no time to learn."""
    return runner("second", max_steps="2")


@pytest.fixture(scope="module")
def third(runner, second):
    return runner("third")


def one(folder, pattern):
    (path,) = folder.glob(pattern)
    return path


def records(folder):
    """Returns the features of all records below a folder, by file; neither has an order."""

    def features(serialized):
        example = tf.train.Example.FromString(serialized)
        return sorted(
            (name, values.SerializeToString(deterministic=True))
            for name, values in example.features.feature.items()
        )

    return {
        str(path.relative_to(folder)): sorted(
            map(features, tf.data.TFRecordDataset(str(path), "GZIP").as_numpy_iterator())
        )
        for path in folder.rglob("*.gz")
    }


def location(task, key):
    return pathlib.Path(task.artifacts[key]["metadata"]["location"])


def decision(folder):
    return json.loads((folder / DECISION_FILE).read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("task", "key", "node"),
    (
        ("tsv-example-gen", "examples", "TsvExampleGen"),
        ("transform", "transformed_examples", "Transform"),
    ),
)
def test_rows_and_tokens_are_those_of_a_local_run(first, local, task, key, node):
    theirs = records(one(local / "artifacts" / node / key, "*"))
    assert theirs
    assert records(location(first[task], key)) == theirs


def test_metrics_are_those_of_a_local_run(first, local):
    theirs = decision(one(local / "artifacts" / "PromotionGate" / "decision", "*"))
    assert decision(location(first["promotion-gate"], "decision")) == theirs


def test_first_run_has_no_baseline_and_pushes(first, output):
    assert first["baseline"].artifacts["model"]["metadata"] == {"found": "nothing"}
    assert first["model-pusher"].parameters == {"pushed": True}
    assert len(list((output / "serving").iterdir())) == 1
    assert not (output / "training_state").exists()


def test_report_is_a_page_of_kubeflow(first, folder):
    page = (
        folder / "kubeflow" / "store" / first["report"].artifacts["page"]["uri"].replace("://", "/")
    )
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert first["report"].artifacts["page"]["type"]["schemaTitle"] == "system.HTML"


def test_parameter_of_the_submission_takes_effect(first, second):
    # What the parameter does not touch is taken from the first run.
    cached = {name for name, task in second.items() if " ... cached" in task.log}
    assert {"tsv-example-gen", "transform", "data-gate", "token-gate"} <= cached
    assert not cached & {"trainer", "predictor", "evaluator", "promotion-gate", *RESOLVERS}
    assert location(second["trainer"], "model") != location(first["trainer"], "model")


def test_second_run_finds_the_model_of_the_first(first, second):
    assert location(second["baseline"], "model") == location(first["trainer"], "model")
    found = decision(location(second["promotion-gate"], "decision"))
    assert found["baseline"] is not None


def test_model_that_is_not_good_enough_is_not_pushed(second, output):
    assert second["model-pusher"].parameters == {"pushed": False}
    assert "the model does not reach what it must: it is not pushed" in second["model-pusher"].log
    assert len(list((output / "serving").iterdir())) == 1


def test_unchanged_run_does_nothing_again(third, output):
    done = {name for name, task in third.items() if " ... cached" not in task.log}
    assert done == RESOLVERS
    assert third["baseline"].artifacts["model"]["metadata"] == {"found": "nothing"}
    assert len(list((output / "serving").iterdir())) == 1
