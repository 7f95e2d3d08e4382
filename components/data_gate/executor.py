"""Executor of DataGate."""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2, statistics_pb2
from tfx import types
from tfx.dsl.components.base import base_beam_executor
from tfx.dsl.io import fileio
from tfx.types import artifact_utils
from tfx.utils import io_utils

from bert_tfx.components.data_gate import checks
from bert_tfx.components.data_gate.checks import Limits, Result, judge
from bert_tfx.components.data_gate.repeats import Found, Where, find_repeats, read_repeats
from bert_tfx.components.data_gate.statistics import (
    Statistics,
    label_distance,
    load_statistics,
    num_rows,
)
from bert_tfx.schema.errors import DataRefused
from bert_tfx.schema.tasks import EVAL, LABEL, TRAIN, Task
from bert_tfx.schema.tfdv_schema import SERVING

# ExampleValidator writes one file for each split.
_ANOMALIES_FILE = "SchemaDiff.pb"

logger = logging.getLogger(__name__)


def label_counts(statistics: statistics_pb2.DatasetFeatureStatistics, task: Task) -> dict[str, int]:
    """Returns the rows of each label, zeros included, in the order of the classes."""
    counts = dict.fromkeys(task.labels, 0)
    for feature in statistics.features:
        if feature.path.step[:] == [LABEL]:
            for bucket in feature.string_stats.rank_histogram.buckets:
                counts[task.labels[int(bucket.label)]] = int(bucket.sample_count)
    return counts


def check_rows(split: str, rows: int, labels: Mapping[str, int]) -> list[Result]:
    """Checks that a split to train or evaluate on has rows, and rows of every label."""
    if not rows:
        message = (
            f"split {split!r} has no rows. Give it a file with rows, or leave its file out so that "
            "the rows of the other are divided"
        )
        return [_always(checks.ROWS, split, rows, message, count=0, passed=False)]
    has_rows = _always(checks.ROWS, split, rows, f"split {split!r} has {rows:,} rows", count=rows)
    missing = [repr(label) for label, count in labels.items() if not count]
    there = ", ".join(f"{label!r} {count:,}" for label, count in labels.items() if count)
    message = f"split {split!r} has rows of every label ({there})"
    if missing:
        message = (
            f"split {split!r}: of its {rows:,} rows none has label {', '.join(missing)} "
            f"(there is {there}). A classifier needs rows of every label: check that the file is "
            "whole and shuffled, and that the task names the right labels"
        )
    return [
        has_rows,
        _always(checks.LABELS, split, rows, message, count=len(missing), passed=not missing),
    ]


def check_schema(split: str, rows: int, anomalies: anomalies_pb2.Anomalies) -> list[Result]:
    """Puts the anomalies of a split into words, a result for each."""
    return [
        _always(
            checks.SCHEMA,
            split,
            rows,
            f"split {split!r} ({rows:,} rows), field {name!r}: {info.description} Mend the file, "
            "or the task's schema where the data is right",
            count=1,
            passed=False,
        )
        for name, info in sorted(anomalies.anomaly_info.items())
    ] or [_always(checks.SCHEMA, split, rows, f"split {split!r} fits the schema", count=0)]


def _always(
    name: str, split: str, rows: int, message: str, *, count: int, passed: bool = True
) -> Result:
    """Returns the result of a check that no limit moves: where it fails, it stops the run."""
    return Result(
        name=name,
        splits=(split,),
        value=count,
        limit=None,
        severity=checks.STOP,
        passed=passed,
        count=count,
        rows=rows,
        message=message,
    )


def check_repeats(
    rows: Mapping[str, int], labelled: Sequence[str], found: Mapping[Where, Found], limits: Limits
) -> list[Result]:
    """Holds what was found of repeated texts against the limits.

    Args:
        rows: Of each split.
        labelled: The splits whose rows have labels.
        found: What `read_repeats` returned.
        limits: What `parse_limits` returned.
    """
    results = []

    def add(name: str, splits: tuple[str, ...], what: str, advice: str) -> None:
        total = rows[splits[-1]]
        if not total:
            return
        repeats = found.get((name, splits), Found())
        told_apart = name != checks.CONTRADICTIONS
        value = repeats.count / total
        of_rows = f"{repeats.count:,} of {total:,} {splits[-1]} rows ({value:.2%})"
        exact = f", {repeats.exact:,} of them word for word" if told_apart else ""
        results.append(
            judge(
                name,
                splits,
                value,
                limits,
                rows=total,
                count=repeats.count,
                exact=repeats.exact if told_apart else None,
                examples=repeats.examples,
                found=f"{of_rows} {what}{exact}",
                advice=advice,
            )
        )

    for split in rows:
        add(
            checks.DUPLICATES,
            (split,),
            "repeat an earlier row's text",
            "They weigh more than other rows: remove them where that is not wanted",
        )
    for split in rows:
        if split != TRAIN and TRAIN in rows:
            add(
                checks.LEAKAGE,
                (TRAIN, split),
                f"have a text that stands in {TRAIN} too",
                "A model is measured on what it learned by heart there, and its score flatters it: "
                f"remove these rows from {split} or from {TRAIN}",
            )
    for split in labelled:
        mend = "One of the two labels is wrong, or the text does not tell: correct or remove them"
        what = "have a text that carries another label"
        add(checks.CONTRADICTIONS, (split,), f"{what} elsewhere in {split}", mend)
        if split != TRAIN and TRAIN in labelled:
            add(checks.CONTRADICTIONS, (TRAIN, split), f"{what} in {TRAIN}", mend)
    return results


def check_balance(split: str, labels: Mapping[str, int], limits: Limits) -> list[Result]:
    """Holds the rarest label of a split against the limit, where every label has rows."""
    rows = sum(labels.values())
    rarest = min(labels, key=lambda label: labels[label])
    if not labels[rarest]:
        return []
    return [
        judge(
            checks.CLASS_BALANCE,
            (split,),
            labels[rarest] / rows * len(labels),
            limits,
            rows=rows,
            count=labels[rarest],
            found=f"label {rarest!r} is the rarest in {split}: {labels[rarest]:,} of {rows:,} rows "
            f"({labels[rarest] / rows:.1%})",
            advice="A model that never answers it has a good accuracy: give more rows of it, and "
            "look at its own precision and recall",
        )
    ]


def check_label_distances(
    statistics: Statistics, baseline: Statistics, task: Task, limits: Limits
) -> list[Result]:
    """Compares the labels of train and eval, and of both with those of the last accepted run."""
    pairs = [(checks.LABEL_SKEW, EVAL, TRAIN, statistics.get(TRAIN))]
    pairs += [(checks.LABEL_DRIFT, s, checks.BASELINE, baseline.get(s)) for s in (TRAIN, EVAL)]
    results: list[Result] = []
    for name, split, other_name, other in pairs:
        current = statistics.get(split)
        if current is None or other is None:
            continue
        distance = label_distance(LABEL, current, other)
        if distance is None:
            continue
        now, then = (_shares(label_counts(s.datasets[0], task)) for s in (current, other))
        label = max(task.labels, key=lambda label: round(abs(now[label] - then[label]), 9))
        skew = name == checks.LABEL_SKEW
        results.append(
            judge(
                name,
                (TRAIN, EVAL) if skew else (split,),
                distance,
                limits,
                rows=num_rows(current),
                found=f"label {label!r} has a share of {now[label]:.1%} in {split} and of "
                f"{then[label]:.1%} in {other_name}",
                advice="What the model learns of how frequent labels are does not hold there: "
                "check that both files were drawn alike"
                if skew
                else "Check that the new files are what you mean to train on",
            )
        )
    return results


def _shares(counts: Mapping[str, int]) -> dict[str, float]:
    total = max(1, sum(counts.values()))
    return {label: count / total for label, count in counts.items()}


class Executor(base_beam_executor.BaseBeamExecutor):
    """Reads examples, statistics and anomalies, writes the report, raises where it must stop."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Checks every split.

        Args:
            input_dict: `examples`, `statistics`, `schema`, `anomalies`; `baseline_statistics`,
                empty where no run was accepted before.
            output_dict: `report`.
            exec_properties: `task` (JSON of the `Task`), `unlabelled_splits` (JSON list), `limits`
                (JSON that `parse_limits` reads), `report_text` (0 or 1).

        Raises:
            DataRefused: If the data would spoil a model.
        """
        self._log_startup(input_dict, output_dict, exec_properties)
        task = Task.from_json(exec_properties["task"])
        unlabelled = json.loads(exec_properties["unlabelled_splits"])
        limits = checks.parse_limits(json.loads(exec_properties["limits"]))
        statistics_artifact = artifact_utils.get_single_instance(input_dict["statistics"])
        report = artifact_utils.get_single_instance(output_dict["report"])
        statistics = load_statistics([statistics_artifact])
        rows = {split: num_rows(s) for split, s in statistics.items()}
        labelled = [split for split in statistics if split not in unlabelled]
        labels = {split: label_counts(statistics[split].datasets[0], task) for split in labelled}

        results: list[Result] = []
        anomalies = self._anomalies(input_dict, statistics, labelled)
        for split in statistics:
            if split in (TRAIN, EVAL):
                results += check_rows(split, rows[split], labels[split])
            results += check_schema(split, rows[split], anomalies[split])
        fileio.makedirs(report.uri)
        found = self._find_repeats(input_dict["examples"], report.uri, task, exec_properties)
        results += check_repeats(rows, labelled, found, limits)
        for split in (TRAIN, EVAL):
            if split in labels:
                results += check_balance(split, labels[split], limits)
        baseline = load_statistics(input_dict.get("baseline_statistics", []))
        results += check_label_distances(statistics, baseline, task, limits)

        try:
            checks.conclude(checks.DATA, logger, results)
        except DataRefused:
            # The folder itself stays: the launcher removes it and fails where it is missing.
            fileio.rmtree(report.uri)
            fileio.makedirs(report.uri)
            raise
        splits = {
            split: {"rows": rows[split]} | ({"labels": labels[split]} if split in labels else {})
            for split in statistics
        }
        io_utils.write_string_file(
            os.path.join(report.uri, checks.REPORT_FILE), checks.report_json(splits, results)
        )
        report.set_int_custom_property(checks.STATISTICS_ID, statistics_artifact.id)

    def _anomalies(
        self,
        input_dict: dict[str, list[types.Artifact]],
        statistics: Statistics,
        labelled: Sequence[str],
    ) -> dict[str, anomalies_pb2.Anomalies]:
        """Returns each split's anomalies: those found already, or found without labels."""
        schema = io_utils.parse_pbtxt_file(
            io_utils.get_only_uri_in_dir(artifact_utils.get_single_uri(input_dict["schema"])),
            schema_pb2.Schema(),
        )
        anomalies = {}
        for split, found in statistics.items():
            if split in labelled:
                anomalies[split] = anomalies_pb2.Anomalies()
                uri = artifact_utils.get_split_uri(input_dict["anomalies"], split)
                with fileio.open(os.path.join(uri, _ANOMALIES_FILE), "rb") as file:
                    anomalies[split].ParseFromString(file.read())
            else:
                anomalies[split] = tfdv.validate_statistics(found, schema, environment=SERVING)
        return anomalies

    def _find_repeats(
        self,
        examples: list[types.Artifact],
        directory: str,
        task: Task,
        exec_properties: Mapping[str, Any],
    ) -> dict[Where, Found]:
        """Runs the search for repeated texts."""
        (artifact,) = examples
        files = {
            split: sorted(
                fileio.glob(os.path.join(artifact_utils.get_split_uri([artifact], split), "*"))
            )
            for split in artifact_utils.decode_split_names(artifact.split_names)
        }
        with self._make_beam_pipeline() as pipeline:
            find_repeats(
                pipeline,
                files,
                task.text_features,
                directory,
                with_text=bool(exec_properties["report_text"]),
            )
        return read_repeats(directory)
