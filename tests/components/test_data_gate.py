import json
import pathlib

import pandas as pd
import pytest
import tensorflow_data_validation as tfdv
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import anomalies_pb2, statistics_pb2
from tfx.types import artifact_utils, standard_artifacts

from bert_tfx.components.data_gate import executor
from bert_tfx.components.data_gate.component import DataGateReport
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.tasks import TASKS, own_task
from bert_tfx.schema.tfdv_schema import TRAINING, task_schema

SST2 = TASKS["sst2"]
THREE = own_task(
    {"name": "own", "labels": ["a", "b", "c"], "columns": ["text_a", "label"], "train": "x"},
    where="here",
)


def dataset(**labels: int) -> statistics_pb2.DatasetFeatureStatistics:
    """Statistics as TFDV makes them of rows with these class indices."""
    made = statistics_pb2.DatasetFeatureStatistics(num_examples=sum(labels.values()))
    made.features.add(path={"step": ["text_a"]})
    feature = made.features.add(path={"step": ["label"]})
    for label, count in labels.items():
        feature.string_stats.rank_histogram.buckets.add(
            label=label.removeprefix("class_"), sample_count=count
        )
    return made


def test_label_counts_name_every_label_in_the_order_of_the_classes():
    counts = executor.label_counts(dataset(class_2=7, class_0=5), THREE)
    assert list(counts.items()) == [("a", 5), ("b", 0), ("c", 7)]


def test_label_counts_of_no_rows():
    assert executor.label_counts(dataset(), THREE) == {"a": 0, "b": 0, "c": 0}


def test_split_with_every_label_has_no_problem():
    assert executor.split_problems("train", 3, {"a": 1, "b": 2}) == []


def test_empty_split_is_one_problem():
    (problem,) = executor.split_problems("eval", 0, {"a": 0, "b": 0})
    assert problem.startswith("split 'eval' has no rows. Give it a file with rows, or")


def test_labels_that_are_missing_are_named():
    (problem,) = executor.split_problems("train", 1200, {"a": 0, "b": 1200, "c": 0})
    assert (
        "split 'train': of its 1,200 rows none has label 'a', 'c' (there is 'b' 1,200)" in problem
    )
    assert "check that the file is whole and shuffled" in problem


def test_anomalies_become_sentences_that_name_split_and_field():
    anomalies = anomalies_pb2.Anomalies()
    anomalies.anomaly_info["text_b"].description = "Column dropped."
    anomalies.anomaly_info["label"].description = "Unexpected value 7."
    assert executor.anomaly_problems("eval", 1000, anomalies) == [
        "split 'eval' (1,000 rows), field 'label': Unexpected value 7. Mend the file, or the "
        "task's schema where the data is right",
        "split 'eval' (1,000 rows), field 'text_b': Column dropped. Mend the file, or the task's "
        "schema where the data is right",
    ]
    assert executor.anomaly_problems("eval", 1000, anomalies_pb2.Anomalies()) == []


# The executor, on artifacts as the components before it write them.


class Gate:
    """Artifacts of splits that a test adds, and the executor that reads them."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self._splits: list[str] = []
        self._unlabelled: list[str] = []
        self._schema = task_schema(SST2, SST2.layouts[0])
        (folder / "schema").mkdir()
        (folder / "schema" / "schema.pbtxt").write_text(text_format.MessageToString(self._schema))

    def add(self, split: str, rows: dict[str, list], *, labelled: bool = True) -> None:
        """Adds a split's statistics and, where its rows have labels, its anomalies."""
        # As StatisticsGen has it: with the schema, labels are categories.
        statistics = tfdv.generate_statistics_from_dataframe(
            pd.DataFrame(rows), stats_options=tfdv.StatsOptions(schema=self._schema), n_jobs=1
        )
        self._write(f"statistics/Split-{split}/FeatureStats.pb", statistics)
        self._splits.append(split)
        if labelled:
            anomalies = tfdv.validate_statistics(statistics, self._schema, environment=TRAINING)
            self._write(f"anomalies/Split-{split}/SchemaDiff.pb", anomalies)
        else:
            self._unlabelled.append(split)

    def _write(self, name: str, message) -> None:
        path = self._folder / name
        path.parent.mkdir(parents=True)
        path.write_bytes(message.SerializeToString())

    def run(self) -> dict:
        """Runs the executor and returns its report."""
        artifacts = {
            "statistics": standard_artifacts.ExampleStatistics(),
            "schema": standard_artifacts.Schema(),
            "anomalies": standard_artifacts.ExampleAnomalies(),
            "report": DataGateReport(),
        }
        for key, artifact in artifacts.items():
            artifact.uri = str(self._folder / key)
        labelled = [split for split in self._splits if split not in self._unlabelled]
        artifacts["statistics"].split_names = artifact_utils.encode_split_names(self._splits)
        artifacts["anomalies"].split_names = artifact_utils.encode_split_names(labelled)
        report = artifacts.pop("report")
        executor.Executor().Do(
            {key: [artifact] for key, artifact in artifacts.items()},
            {"report": [report]},
            {"task": SST2.to_json(), "unlabelled_splits": json.dumps(self._unlabelled)},
        )
        return json.loads((self._folder / "report" / executor.REPORT_FILE).read_text())


@pytest.fixture
def gate(tmp_path):
    return Gate(tmp_path)


def texts(count: int) -> list[bytes]:
    return [f"text {i}".encode() for i in range(count)]


def labelled(negative: int, positive: int) -> dict[str, list]:
    return {
        "text_a": texts(negative + positive),
        "label": [0] * negative + [1] * positive,
    }


def stop(gate: Gate) -> list[str]:
    """Returns the problems for which the gate stops the run."""
    with pytest.raises(InputError) as caught:
        gate.run()
    first, *problems = str(caught.value).splitlines()
    assert first == "DataGate stopped the run before training:"
    return problems


def test_good_data_passes_with_a_report(gate):
    gate.add("train", labelled(3, 5))
    gate.add("eval", labelled(2, 1))
    assert gate.run() == {
        "splits": {
            "train": {"rows": 8, "labels": {"0": 3, "1": 5}},
            "eval": {"rows": 3, "labels": {"0": 2, "1": 1}},
        }
    }


def test_unlabelled_test_split_is_held_against_the_schema_for_serving(gate):
    gate.add("train", labelled(3, 5))
    gate.add("eval", labelled(2, 1))
    gate.add("test", {"text_a": texts(4), "index": texts(4)}, labelled=False)
    assert gate.run()["splits"]["test"] == {"rows": 4}


def test_unlabelled_test_split_without_text_stops_the_run(gate):
    gate.add("train", labelled(3, 5))
    gate.add("eval", labelled(2, 1))
    gate.add("test", {"index": texts(4)}, labelled=False)
    (problem,) = stop(gate)
    assert "split 'test' (4 rows), field 'text_a': Column is completely missing" in problem


def test_labelled_test_split_may_lack_a_label_but_fits_the_schema(gate):
    gate.add("train", labelled(3, 5))
    gate.add("eval", labelled(2, 1))
    gate.add("test", labelled(2, 0))
    assert gate.run()["splits"]["test"] == {"rows": 2, "labels": {"0": 2, "1": 0}}


def test_every_problem_is_told_and_no_report_is_written(gate, tmp_path):
    gate.add("train", labelled(0, 9))
    gate.add("eval", {"label": [0, 1]})
    one_class, no_text = stop(gate)
    assert "split 'train': of its 9 rows none has label '0' (there is '1' 9)" in one_class
    assert "split 'eval' (2 rows), field 'text_a': Column is completely missing" in no_text
    assert not (tmp_path / "report").exists()


def test_rows_without_text_stop_the_run(gate):
    gate.add("train", {"text_a": [b"text", None, b"text", b"text"], "label": [0, 1, 0, 1]})
    gate.add("eval", labelled(2, 1))
    (problem,) = stop(gate)
    assert "split 'train' (4 rows), field 'text_a': " in problem
    assert problem.endswith("Mend the file, or the task's schema where the data is right")
