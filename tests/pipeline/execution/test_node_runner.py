"""Nodes that run from records. Whole runs of them: tests/kubeflow."""

import pytest

from bert_tfx.components.data_gate.checks import STATISTICS_ID
from bert_tfx.components.data_gate.component import DataGateReport
from bert_tfx.pipeline.configuration.config import make_config
from bert_tfx.pipeline.execution.node_runner import run_node
from bert_tfx.pipeline.metadata.execution_records import Record, Records
from bert_tfx.schema.errors import InputError


@pytest.fixture
def write(tmp_path, reviews):
    """Writes rows of the task sst2 to `tmp_path/data`."""

    def write(count):
        (tmp_path / "data").mkdir(exist_ok=True)
        for name in ("train", "dev"):
            lines = [f"{text}\t{label}" for label, text in reviews(count, seed=1)]
            path = tmp_path / "data" / f"{name}.tsv"
            path.write_text("\n".join(["sentence\tlabel", *lines, ""]), encoding="utf-8")

    write(20)
    return write


@pytest.fixture
def config(tmp_path, write):
    return make_config(
        {"task": "sst2", "data": str(tmp_path / "data"), "output": str(tmp_path / "output")}
    )


def ids(record):
    return {key: [one.id for one in artifacts] for key, artifacts in record.outputs.items()}


def test_driver_and_cache_look_at_the_rows(config, write):
    first = run_node(config, "TsvExampleGen", "first", {})
    (examples,) = first.outputs["examples"]
    assert examples.get_int_custom_property("rows_written_train") == 20
    again = run_node(config, "TsvExampleGen", "second", {})
    assert again.cached
    assert ids(again) == ids(first)
    write(22)
    changed = run_node(config, "TsvExampleGen", "third", {})
    assert not changed.cached
    assert changed.outputs["examples"][0].id > examples.id


def test_inputs_decide_what_is_taken_from_the_cache(config):
    given = {}
    for name, key in (("TsvExampleGen", "examples"), ("ImportSchemaGen", "schema")):
        given[key] = run_node(config, name, "first", {}).outputs[key]
    first = run_node(config, "StatisticsGen", "first", given)
    assert run_node(config, "StatisticsGen", "second", given).cached
    given["examples"][0].id += 1
    assert not run_node(config, "StatisticsGen", "third", given).cached
    assert not first.cached


def test_resolver_finds_what_an_earlier_run_accepted(config, tmp_path):
    made = {}
    for number in (100, 200):
        statistics, report = standard("ExampleStatistics"), DataGateReport()
        for offset, artifact in enumerate((statistics, report)):
            artifact.id = number + offset
            artifact.uri = str(tmp_path / str(artifact.id))
            (tmp_path / str(artifact.id)).mkdir()
        report.set_int_custom_property(STATISTICS_ID, number)
        made[number] = statistics, report
    name = config.pipeline_name
    records = Records(tmp_path / "output" / "records", name)
    given = {"_StatisticsGen.statistics": [made[200][0]]}
    # The report of one that another pipeline has made does not count.
    for pipeline in ("another", name):
        nothing = run_node(config, "AcceptedData", "second", given)
        assert nothing.outputs["statistics"] == []
        for number, (statistics, report) in made.items():
            outputs = {"statistics": [statistics], "report": [report]}
            record = Record(pipeline, "first", "DataGate", number, "", False, [], outputs)
            Records(tmp_path / "output" / "records", pipeline).add(record)
    found = run_node(config, "AcceptedData", "second", given)
    assert ids(found) == {"statistics": [100], "report": [101], "candidate": [200]}
    assert len(records.all()) == 2, "what was found is recorded where it was made"


def standard(name):
    from tfx.types import standard_artifacts

    return getattr(standard_artifacts, name)()


def test_refusal_leaves_nothing(config, tmp_path):
    with (tmp_path / "data" / "train.tsv").open("a", encoding="utf-8") as file:
        file.write("no label at all\n")
    with pytest.raises(InputError, match=r"train\.tsv"):
        run_node(config, "TsvExampleGen", "first", {})
    assert not (tmp_path / "output" / "records").exists()
    left = [path for path in (tmp_path / "output" / "artifacts").rglob("*") if path.is_file()]
    assert left == []
