import json
import pathlib

import apache_beam as beam
import pandas as pd
import pytest
import tensorflow as tf
import tensorflow_data_validation as tfdv
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import anomalies_pb2, statistics_pb2
from tfx.dsl.components.base import base_beam_executor
from tfx.types import artifact_utils, standard_artifacts

from bert_tfx.components.data_gate import checks, executor
from bert_tfx.components.data_gate.checks import parse_limits
from bert_tfx.components.data_gate.component import DataGateReport
from bert_tfx.components.data_gate.repeats import Found, read_leaked_eval_rows
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


def failed(results: list[checks.Result]) -> list[str]:
    return [result.message for result in results if not result.passed]


def test_split_with_every_label_is_fine():
    results = executor.check_rows("train", 3, {"a": 1, "b": 2})
    assert [(result.name, result.passed) for result in results] == [
        ("rows", True),
        ("labels", True),
    ]


def test_empty_split_is_one_problem():
    (problem,) = failed(executor.check_rows("eval", 0, {"a": 0, "b": 0}))
    assert problem.startswith("split 'eval' has no rows. Give it a file with rows, or")


def test_labels_that_are_missing_are_named():
    (problem,) = failed(executor.check_rows("train", 1200, {"a": 0, "b": 1200, "c": 0}))
    assert (
        "split 'train': of its 1,200 rows none has label 'a', 'c' (there is 'b' 1,200)" in problem
    )
    assert "check that the file is whole and shuffled" in problem


def test_anomalies_become_sentences_that_name_split_and_field():
    anomalies = anomalies_pb2.Anomalies()
    anomalies.anomaly_info["text_b"].description = "Column dropped."
    anomalies.anomaly_info["label"].description = "Unexpected value 7."
    assert failed(executor.check_schema("eval", 1000, anomalies)) == [
        "split 'eval' (1,000 rows), field 'label': Unexpected value 7. Mend the file, or the "
        "task's schema where the data is right",
        "split 'eval' (1,000 rows), field 'text_b': Column dropped. Mend the file, or the task's "
        "schema where the data is right",
    ]
    assert failed(executor.check_schema("eval", 1000, anomalies_pb2.Anomalies())) == []


def test_repeats_are_shares_of_the_split_they_are_in():
    found = {
        ("leakage", ("train", "eval")): Found(3, 2, [{"row": "d:1", "other_row": "t:1"}]),
        ("contradictions", ("train", "eval")): Found(1),
    }
    rows = {"train": 50, "eval": 10, "test": 4}
    results = executor.check_repeats(rows, ["train", "eval"], found, parse_limits())
    by_check = {(result.name, result.splits): result for result in results}
    assert [*by_check] == [
        ("duplicates", ("train",)),
        ("duplicates", ("eval",)),
        ("duplicates", ("test",)),
        ("leakage", ("train", "eval")),
        ("leakage", ("train", "test")),
        ("contradictions", ("train",)),
        ("contradictions", ("eval",)),
        ("contradictions", ("train", "eval")),
    ]
    leak = by_check["leakage", ("train", "eval")]
    assert (leak.value, leak.count, leak.exact, leak.rows) == (0.3, 3, 2, 10)
    assert (leak.passed, leak.severity) == (False, "warn")
    assert leak.message.startswith(
        "3 of 10 eval rows (30.00%) have a text that stands in train too, 2 of them word for word "
        "(limit: at most 0.01), first d:1 and t:1. A model is measured"
    )
    assert by_check["contradictions", ("train", "eval")].exact is None
    assert by_check["duplicates", ("train",)].passed


def test_a_split_without_rows_has_no_shares():
    assert executor.check_repeats({"train": 0}, ["train"], {}, parse_limits()) == []


def test_balance_is_of_the_rarest_label_against_an_even_share():
    (found,) = executor.check_balance("train", {"a": 90, "b": 2, "c": 8}, parse_limits())
    assert found.value == pytest.approx(0.06)
    assert (found.passed, found.count, found.rows) == (False, 2, 100)
    assert "label 'b' is the rarest in train: 2 of 100 rows (2.0%)" in found.message
    (found,) = executor.check_balance("train", {"a": 90, "b": 10}, parse_limits())
    assert found.passed
    # That a label is missing is told already.
    assert executor.check_balance("train", {"a": 90, "b": 0}, parse_limits()) == []


def label_statistics(**labels: int) -> statistics_pb2.DatasetFeatureStatisticsList:
    """Statistics as StatisticsGen makes them with the schema."""
    rows = [int(name.removeprefix("class_")) for name, n in labels.items() for _ in range(n)]
    return tfdv.generate_statistics_from_dataframe(
        pd.DataFrame({"label": rows, "text_a": "x"}),
        stats_options=tfdv.StatsOptions(schema=task_schema(THREE, THREE.layouts[0])),
        n_jobs=1,
    )


def test_labels_are_compared_between_splits_and_with_the_last_accepted_run():
    now = {
        "train": label_statistics(class_0=50, class_1=50),
        "eval": label_statistics(class_0=20, class_1=15, class_2=15),
    }
    then = {"train": label_statistics(class_0=45, class_1=55), "eval": now["eval"]}
    skew, *drift = executor.check_label_distances(now, then, THREE, parse_limits())
    assert (skew.name, skew.splits, skew.passed) == ("label_skew", ("train", "eval"), False)
    assert skew.value == pytest.approx(0.3)
    assert skew.message.startswith(
        "label 'c' has a share of 30.0% in eval and of 0.0% in train (limit: at most 0.1). What"
    )
    assert [(d.name, d.splits, d.passed, round(d.value, 6)) for d in drift] == [
        ("label_drift", ("train",), True, 0.05),
        ("label_drift", ("eval",), True, 0.0),
    ]
    strict = parse_limits("label_drift=0.04:stop")
    _, train, _ = executor.check_label_distances(now, then, THREE, strict)
    assert (train.passed, train.severity) == (False, "stop")
    assert "50.0% in train and of 45.0% in the last accepted run" in train.message


def test_without_rows_or_an_earlier_run_nothing_is_compared():
    nothing = statistics_pb2.DatasetFeatureStatisticsList()
    nothing.datasets.add()
    now = {"train": label_statistics(class_0=5), "eval": nothing}
    assert executor.check_label_distances(now, {}, THREE, parse_limits()) == []


# The executor, on artifacts as the components before it write them.


class Gate:
    """Artifacts of splits that a test adds, and the executor that reads them."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self._splits: list[str] = []
        self._unlabelled: list[str] = []
        self._baseline: list[str] = []
        self._schema = task_schema(SST2, SST2.layouts[0])
        (folder / "schema").mkdir()
        (folder / "schema" / "schema.pbtxt").write_text(text_format.MessageToString(self._schema))

    def add(self, split: str, rows: dict[str, list], *, labelled: bool = True) -> None:
        """Adds a split's statistics and, where its rows have labels, its anomalies."""
        statistics = self._statistics(rows)
        self._write(f"statistics/Split-{split}/FeatureStats.pb", statistics)
        self._write_examples(split, rows)
        self._splits.append(split)
        if labelled:
            anomalies = tfdv.validate_statistics(statistics, self._schema, environment=TRAINING)
            self._write(f"anomalies/Split-{split}/SchemaDiff.pb", anomalies)
        else:
            self._unlabelled.append(split)

    def add_baseline(self, split: str, rows: dict[str, list]) -> None:
        """Adds a split's statistics in the last accepted run."""
        self._write(f"baseline_statistics/Split-{split}/FeatureStats.pb", self._statistics(rows))
        self._baseline.append(split)

    def _statistics(self, rows: dict[str, list]) -> statistics_pb2.DatasetFeatureStatisticsList:
        # As StatisticsGen has it: with the schema, labels are categories.
        return tfdv.generate_statistics_from_dataframe(
            pd.DataFrame(rows), stats_options=tfdv.StatsOptions(schema=self._schema), n_jobs=1
        )

    def _write_examples(self, split: str, rows: dict[str, list]) -> None:
        folder = self._folder / "examples" / f"Split-{split}"
        folder.mkdir(parents=True)
        with tf.io.TFRecordWriter(str(folder / "data.gz"), "GZIP") as writer:
            for line, row in enumerate(pd.DataFrame(rows).to_dict("records"), start=2):
                features = tf.train.Example()
                slots = features.features.feature
                slots["source_row"].bytes_list.value.append(f"{split}.tsv:{line}".encode())
                for name, value in row.items():
                    if isinstance(value, bytes):
                        slots[name].bytes_list.value.append(value)
                    elif value is not None:
                        slots[name].int64_list.value.append(value)
                writer.write(features.SerializeToString())

    def _write(self, name: str, message) -> None:
        path = self._folder / name
        path.parent.mkdir(parents=True)
        path.write_bytes(message.SerializeToString())

    def run(self, limits: str = "", *, report_text: bool = False) -> dict:
        """Runs the executor and returns its report."""
        artifacts = {
            "examples": standard_artifacts.Examples(),
            "statistics": standard_artifacts.ExampleStatistics(),
            "schema": standard_artifacts.Schema(),
            "anomalies": standard_artifacts.ExampleAnomalies(),
            "baseline_statistics": standard_artifacts.ExampleStatistics(),
        }
        for key, artifact in artifacts.items():
            artifact.uri = str(self._folder / key)
        labelled = [split for split in self._splits if split not in self._unlabelled]
        for key, splits in (
            ("examples", self._splits),
            ("statistics", self._splits),
            ("anomalies", labelled),
            ("baseline_statistics", self._baseline),
        ):
            artifacts[key].split_names = artifact_utils.encode_split_names(splits)
        artifacts["statistics"].id = 17
        inputs = {key: [artifact] for key, artifact in artifacts.items()}
        if not self._baseline:
            # As the Resolver has it.
            inputs["baseline_statistics"] = []
        self.report = DataGateReport()
        self.report.uri = str(self._folder / "report")
        context = base_beam_executor.BaseBeamExecutor.Context(
            make_beam_pipeline_fn=lambda: beam.Pipeline(runner=FnApiRunner())
        )
        executor.Executor(context).Do(
            inputs,
            {"report": [self.report]},
            {
                "task": SST2.to_json(),
                "unlabelled_splits": json.dumps(self._unlabelled),
                "limits": checks.limits_json(parse_limits(limits), checks.DATA),
                "report_text": int(report_text),
            },
        )
        return json.loads((self._folder / "report" / checks.REPORT_FILE).read_text())


@pytest.fixture
def gate(tmp_path):
    return Gate(tmp_path)


def texts(count: int, kind: str = "text") -> list[bytes]:
    return [f"{kind} {i}".encode() for i in range(count)]


def labelled(negative: int, positive: int, kind: str = "text") -> dict[str, list]:
    return {
        "text_a": texts(negative + positive, kind),
        "label": [0] * negative + [1] * positive,
    }


def outcomes(report: dict) -> set[tuple[str, str]]:
    """Returns the checks that did not pass, and how severe that is."""
    return {(c["name"], c["severity"]) for c in report["checks"] if not c["passed"]}


def stop(gate: Gate, limits: str = "") -> list[str]:
    """Returns the problems for which the gate stops the run."""
    with pytest.raises(InputError) as caught:
        gate.run(limits)
    first, *problems = str(caught.value).splitlines()
    assert first == "DataGate stopped the run before training:"
    return problems


def test_good_data_passes_with_a_report(gate):
    gate.add("train", labelled(30, 50))
    gate.add("eval", labelled(20, 30, "other"))
    report = gate.run()
    assert report["splits"] == {
        "train": {"rows": 80, "labels": {"0": 30, "1": 50}},
        "eval": {"rows": 50, "labels": {"0": 20, "1": 30}},
    }
    assert outcomes(report) == set()
    assert [(check["name"], check["splits"]) for check in report["checks"]] == [
        ("rows", ["train"]),
        ("labels", ["train"]),
        ("schema", ["train"]),
        ("rows", ["eval"]),
        ("labels", ["eval"]),
        ("schema", ["eval"]),
        ("duplicates", ["train"]),
        ("duplicates", ["eval"]),
        ("leakage", ["train", "eval"]),
        ("contradictions", ["train"]),
        ("contradictions", ["eval"]),
        ("contradictions", ["train", "eval"]),
        ("class_balance", ["train"]),
        ("class_balance", ["eval"]),
        ("label_skew", ["train", "eval"]),
    ]
    # What later runs are compared with.
    assert gate.report.get_int_custom_property(checks.STATISTICS_ID) == 17
    assert read_leaked_eval_rows(gate.report.uri) == frozenset()


def test_what_is_odd_but_no_ruin_is_warned_of(gate, caplog):
    train = labelled(30, 50)
    train["text_a"][1:6] = [b"text 0"] * 4 + [b" TEXT  0"]
    gate.add("train", train)
    held_out = labelled(5, 5, "other")
    held_out["text_a"][0] = "Ｔext 79".encode()
    gate.add("eval", held_out)
    gate.add_baseline("train", labelled(60, 20))
    report = gate.run()
    assert outcomes(report) == {
        ("duplicates", "warn"),
        ("leakage", "warn"),
        ("contradictions", "warn"),
        ("label_skew", "warn"),
        ("label_drift", "warn"),
    }
    by_name = {tuple([check["name"], *check["splits"]]): check for check in report["checks"]}
    repeated = by_name["duplicates", "train"]
    assert (repeated["count"], repeated["exact"], repeated["rows"]) == (5, 4, 80)
    assert repeated["examples"][0] == {"row": "train.tsv:3", "other_row": "train.tsv:2"}
    assert len(repeated["examples"]) == 5
    leak = by_name["leakage", "train", "eval"]
    assert (leak["count"], leak["exact"], leak["value"]) == (1, 0, 0.1)
    assert leak["examples"] == [{"row": "eval.tsv:2", "other_row": "train.tsv:81"}]
    assert by_name["contradictions", "train", "eval"]["count"] == 1
    assert by_name["label_drift", "train"]["value"] == 0.375
    assert read_leaked_eval_rows(gate.report.uri) == {b"eval.tsv:2"}

    lines = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(lines) == 5
    assert not any("\n" in line or "TEXT" in line for line in lines)
    assert lines[1].startswith("DataGate warns, leakage: 1 of 10 eval rows (10.00%) have a text")


@pytest.mark.parametrize("report_text", [False, True])
def test_the_report_holds_text_only_where_it_may(gate, report_text):
    rows = labelled(30, 50, "secret")
    gate.add("train", rows)
    gate.add("eval", {name: values[25:35] for name, values in rows.items()})
    report = gate.run("leakage=1:stop", report_text=report_text)
    (leak,) = (check for check in report["checks"] if check["name"] == "leakage")
    assert leak["count"] == 10
    assert ("secret" in json.dumps(report)) == report_text
    assert leak["examples"][0].get("text") == ("secret 25" if report_text else None)


def test_an_eval_file_that_is_the_train_file_stops_the_run(gate, tmp_path):
    gate.add("train", labelled(30, 50))
    gate.add("eval", labelled(30, 50))
    leak, hint = stop(gate)
    assert leak.startswith(
        "  - 80 of 80 eval rows (100.00%) have a text that stands in train too, 80 of them word "
        "for word (limit: at most 0.5), first eval.tsv:2 and train.tsv:2."
    )
    assert hint.endswith("move the limit: --limits leakage=VALUE:stop")
    assert [*(tmp_path / "report").iterdir()] == []


def test_labels_that_were_swapped_in_one_file_stop_the_run(gate):
    gate.add("train", labelled(30, 50))
    rows = labelled(30, 50)
    swapped = {"text_a": rows["text_a"][:20], "label": [1] * 20}
    other = labelled(20, 10, "other")
    gate.add("eval", {name: swapped[name] + other[name] for name in swapped})
    contradiction, _ = stop(gate)
    assert "20 of 50 eval rows (40.00%) have a text that carries another label in train" in (
        contradiction
    )


def test_limits_move(gate):
    gate.add("train", labelled(30, 50))
    gate.add("eval", labelled(30, 50))
    limits = "leakage=1,leakage=1:stop"
    assert outcomes(gate.run(limits)) == set()
    balance, *_ = stop(gate, f"{limits},class_balance=0.8:stop")
    assert "label '0' is the rarest in train: 30 of 80 rows (37.5%)" in balance


def test_unlabelled_test_split_is_held_against_the_schema_for_serving(gate):
    gate.add("train", labelled(3, 5))
    gate.add("eval", labelled(2, 1, "other"))
    gate.add("test", {"text_a": texts(4), "index": texts(4)}, labelled=False)
    report = gate.run("leakage=1:stop")
    assert report["splits"]["test"] == {"rows": 4}
    by_splits = {tuple(c["splits"]): c for c in report["checks"] if c["name"] == "leakage"}
    assert by_splits["train", "test"]["count"] == 4
    assert by_splits["train", "eval"]["count"] == 0
    assert not any(
        c["name"] == "contradictions" and "test" in c["splits"] for c in report["checks"]
    )
    # The list is of eval rows.
    assert read_leaked_eval_rows(gate.report.uri) == frozenset()


def test_unlabelled_test_split_without_text_stops_the_run(gate):
    gate.add("train", labelled(3, 5))
    gate.add("eval", labelled(2, 1, "other"))
    gate.add("test", {"index": texts(4)}, labelled=False)
    (problem,) = stop(gate)
    assert "split 'test' (4 rows), field 'text_a': Column is completely missing" in problem


def test_labelled_test_split_may_lack_a_label_but_fits_the_schema(gate):
    gate.add("train", labelled(3, 5))
    gate.add("eval", labelled(2, 1, "other"))
    gate.add("test", labelled(2, 0, "third"))
    assert gate.run()["splits"]["test"] == {"rows": 2, "labels": {"0": 2, "1": 0}}


def test_every_problem_is_told_and_no_report_is_written(gate, tmp_path):
    gate.add("train", labelled(0, 9))
    gate.add("eval", {"label": [0, 1]})
    one_class, no_text, *_ = stop(gate)
    assert "split 'train': of its 9 rows none has label '0' (there is '1' 9)" in one_class
    assert "split 'eval' (2 rows), field 'text_a': Column is completely missing" in no_text
    assert [*(tmp_path / "report").iterdir()] == []


def test_rows_without_text_stop_the_run(gate):
    gate.add("train", {"text_a": [b"text", None, b"more", b"texts"], "label": [0, 1, 0, 1]})
    gate.add("eval", labelled(2, 1, "other"))
    (problem,) = stop(gate)
    assert "split 'train' (4 rows), field 'text_a': " in problem
    assert problem.endswith("Mend the file, or the task's schema where the data is right")
