"""Executor of DataGate."""

import json
import os
from typing import Any

import tensorflow_data_validation as tfdv
from absl import logging
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2, statistics_pb2
from tfx import types
from tfx.components.statistics_gen import stats_artifact_utils
from tfx.dsl.components.base import base_executor
from tfx.dsl.io import fileio
from tfx.types import artifact_utils
from tfx.utils import io_utils

from bert_tfx.schema.errors import InputError
from bert_tfx.schema.tasks import EVAL, LABEL, TRAIN, Task
from bert_tfx.schema.tfdv_schema import SERVING

REPORT_FILE = "report.json"
# ExampleValidator writes one file for each split.
_ANOMALIES_FILE = "SchemaDiff.pb"


def label_counts(statistics: statistics_pb2.DatasetFeatureStatistics, task: Task) -> dict[str, int]:
    """Returns the rows of each label, zeros included, in the order of the classes."""
    counts = dict.fromkeys(task.labels, 0)
    for feature in statistics.features:
        if feature.path.step[:] == [LABEL]:
            for bucket in feature.string_stats.rank_histogram.buckets:
                counts[task.labels[int(bucket.label)]] = int(bucket.sample_count)
    return counts


def split_problems(split: str, rows: int, labels: dict[str, int]) -> list[str]:
    """Says what about the rows and labels of a labelled split keeps a model from learning."""
    if not rows:
        return [
            f"split {split!r} has no rows. Give it a file with rows, or leave its file out so that "
            "the rows of the other are divided"
        ]
    if missing := [repr(label) for label, count in labels.items() if not count]:
        there = ", ".join(f"{label!r} {count:,}" for label, count in labels.items() if count)
        return [
            f"split {split!r}: of its {rows:,} rows none has label {', '.join(missing)} "
            f"(there is {there}). A classifier needs rows of every label: check that the file is "
            "whole and shuffled, and that the task names the right labels"
        ]
    return []


def anomaly_problems(split: str, rows: int, anomalies: anomalies_pb2.Anomalies) -> list[str]:
    """Puts the anomalies of a split into words."""
    return [
        f"split {split!r} ({rows:,} rows), field {name!r}: {info.description} Mend the file, or "
        "the task's schema where the data is right"
        for name, info in sorted(anomalies.anomaly_info.items())
    ]


class Executor(base_executor.BaseExecutor):
    """Reads statistics and anomalies, writes the report, raises where there are problems."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Checks every split.

        Args:
            input_dict: `statistics`, `schema`, `anomalies`.
            output_dict: `report`.
            exec_properties: `task` (JSON of the `Task`), `unlabelled_splits` (JSON list).

        Raises:
            InputError: If the data would spoil a model.
        """
        task = Task.from_json(exec_properties["task"])
        unlabelled = json.loads(exec_properties["unlabelled_splits"])
        statistics_artifact = artifact_utils.get_single_instance(input_dict["statistics"])
        anomalies_artifact = artifact_utils.get_single_instance(input_dict["anomalies"])
        schema = io_utils.parse_pbtxt_file(
            io_utils.get_only_uri_in_dir(artifact_utils.get_single_uri(input_dict["schema"])),
            schema_pb2.Schema(),
        )

        splits: dict[str, Any] = {}
        problems: list[str] = []
        for split in artifact_utils.decode_split_names(statistics_artifact.split_names):
            statistics = stats_artifact_utils.load_statistics(statistics_artifact, split).proto()
            dataset = statistics.datasets[0]
            rows = int(dataset.num_examples)
            splits[split] = {"rows": rows}
            if split in unlabelled:
                found = tfdv.validate_statistics(statistics, schema, environment=SERVING)
            else:
                labels = label_counts(dataset, task)
                splits[split]["labels"] = labels
                if split in (TRAIN, EVAL):
                    problems += split_problems(split, rows, labels)
                found = anomalies_pb2.Anomalies()
                uri = artifact_utils.get_split_uri([anomalies_artifact], split)
                with fileio.open(os.path.join(uri, _ANOMALIES_FILE), "rb") as file:
                    found.ParseFromString(file.read())
            problems += anomaly_problems(split, rows, found)

        if problems:
            raise InputError(
                "DataGate stopped the run before training:\n"
                + "\n".join(f"  - {problem}" for problem in problems)
            )
        for split, facts in splits.items():
            logging.info("DataGate: split %s passed: %s", split, facts)
        report_uri = artifact_utils.get_single_uri(output_dict["report"])
        io_utils.write_string_file(
            os.path.join(report_uri, REPORT_FILE), json.dumps({"splits": splits}, indent=1)
        )
