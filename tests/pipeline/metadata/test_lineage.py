import importlib.util
import json
import pathlib
import subprocess
import sys

import pytest

from bert_tfx.pipeline.metadata.lineage import find_run, read_runs
from bert_tfx.schema.errors import InputError

_PATH = pathlib.Path(__file__).parents[2] / "components" / "made_up_run.py"
_SPEC = importlib.util.spec_from_file_location("made_up_run", _PATH)
made_up_run = importlib.util.module_from_spec(_SPEC)
sys.modules["made_up_run"] = made_up_run
_SPEC.loader.exec_module(made_up_run)


@pytest.fixture
def sources(tmp_path):
    return made_up_run.MadeUpRun(tmp_path / "artifacts").write()


@pytest.fixture
def records(tmp_path):
    return made_up_run.Records(tmp_path)


def test_runs_come_the_latest_first_with_their_nodes(tmp_path, records, sources):
    records.add_run("one", sources)
    records.add_run("two", sources, states={"TsvExampleGen": "CACHED"})
    runs = read_runs(str(tmp_path))
    assert [run.id for run in runs] == ["two", "one"]
    for run in runs:
        assert run.pipeline == "bert-tfx-sst2-1234"
        assert [node.name for node in run.nodes][:3] == [
            "TsvExampleGen",
            "StatisticsGen",
            "ExampleValidator",
        ]
        assert run.failed is None
        assert run.seconds >= 0
    assert [run.node("TsvExampleGen").cached for run in runs] == [True, False]
    assert runs[0].node("Trainer").state == "complete"
    assert runs[0].node("Nowhere") is None


def test_outputs_have_their_places_and_properties(tmp_path, records, sources):
    records.add_run("one", sources, states={"TsvExampleGen": "CACHED"})
    (run,) = read_runs(str(tmp_path))
    examples = run.output("TsvExampleGen", "examples")
    assert examples.uri == sources["examples"].uri
    assert examples.properties["rows_written_train"] == 1000
    assert examples.type == "Made"
    assert run.output("TsvExampleGen", "other") is None
    # The resolver found no baseline.
    assert run.output("Baseline", "model") is None


def test_a_run_that_was_stopped(tmp_path, records, sources):
    records.add_run("one", sources, states={"DataGate": "FAILED"}, until="DataGate")
    (run,) = read_runs(str(tmp_path))
    assert run.failed.name == "DataGate"
    assert run.output("DataGate", "report") is None
    assert run.output("StatisticsGen", "statistics") is not None


def test_a_component_that_was_tried_again_counts_once(tmp_path, records, sources):
    records.add_run("one", sources, states={"TsvExampleGen": "FAILED"}, until="TsvExampleGen")
    records.add_run("one", sources)
    (run,) = read_runs(str(tmp_path))
    assert run.failed is None
    assert [node.name for node in run.nodes].count("TsvExampleGen") == 1


def test_parameters_are_unpacked(tmp_path, records, sources):
    task = json.dumps({"name": "mine"})
    struct = {"custom_config": {"@type": "Struct", "value": {"task": task, "fingerprint": "1"}}}
    records.add_run(
        "one",
        sources,
        parameters={
            "TsvExampleGen": {"custom_config": json.dumps(struct), "output_data_format": 6},
            "Trainer": {"custom_config": json.dumps({"model": "bert", "fingerprint": "2"})},
        },
    )
    (run,) = read_runs(str(tmp_path))
    assert run.node("TsvExampleGen").parameters["fingerprint"] == "1"
    assert run.node("Trainer").parameters["model"] == "bert"
    assert run.node("StatisticsGen").parameters == {}
    assert run.task == {"name": "mine"}


def test_runs_of_several_pipelines_are_told_apart(tmp_path, records, sources):
    records.add_run("one", sources, pipeline="bert-tfx-a.b-1")
    records.add_run("two", sources, pipeline="bert-tfx-c-1")
    assert [run.pipeline for run in read_runs(str(tmp_path))] == ["bert-tfx-c-1", "bert-tfx-a.b-1"]


def test_find_run(tmp_path, records, sources):
    with pytest.raises(InputError, match="holds no run yet"):
        find_run(str(tmp_path))
    records.add_run("one", sources)
    records.add_run("two", sources)
    assert find_run(str(tmp_path)).id == "two"
    assert find_run(str(tmp_path), "one").id == "one"
    with pytest.raises(
        InputError, match=r"holds no run 'three'; `bert-tfx runs --output .*` lists"
    ):
        find_run(str(tmp_path), "three")


def test_a_folder_without_records_is_told(tmp_path):
    with pytest.raises(InputError, match=r"metadata\.sqlite: no such file; --output names the"):
        read_runs(str(tmp_path))
    assert not (tmp_path / "metadata.sqlite").exists()


def test_a_file_that_is_no_database_is_told(tmp_path):
    (tmp_path / "metadata.sqlite").write_text("not a database, but long enough to be read as one")
    with pytest.raises(InputError, match=r"metadata\.sqlite: cannot be read"):
        read_runs(str(tmp_path))


def test_records_are_read_without_the_frameworks():
    code = "import sys, bert_tfx.pipeline.metadata.lineage; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"tensorflow", "tfx", "apache_beam", "keras"} & set(done.stdout.split())
