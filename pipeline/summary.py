"""What a run did, in words and figures."""

import dataclasses
import os
import resource
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow_data_validation as tfdv
import tensorflow_model_analysis as tfma
from ml_metadata import metadata_store
from ml_metadata.proto import metadata_store_pb2
from tensorflow_metadata.proto.v0 import statistics_pb2
from tfx.orchestration.metadata import sqlite_metadata_connection_config

from bert_tfx.modeling.features import NUM_TOKENS, NUM_TRUNCATED, TOKEN_IDS
from bert_tfx.modeling.tokenization import CLS
from bert_tfx.pipeline.config import Config
from bert_tfx.pipeline.evaluation import ACCURACY
from bert_tfx.pipeline.local_runner import NodeRun
from bert_tfx.schema.tasks import LABEL


@dataclasses.dataclass(frozen=True)
class Summary:
    """The outcome of a run.

    Attributes:
        blessed: Whether the model reached what it must.
        pushed_to: The folder of the pushed version, or None.
        text: All of it, for a person.
    """

    blessed: bool
    pushed_to: str | None
    text: str


def summarize(config: Config, runs: Sequence[NodeRun]) -> Summary:
    """Reads a run's outcome from its lineage.

    Args:
        config: What was run.
        runs: What each component did.

    Returns:
        The outcome.
    """
    store = metadata_store.MetadataStore(sqlite_metadata_connection_config(config.metadata_file))
    outputs = {run.name: _outputs(store, run.execution_id) for run in runs}
    examples = outputs["TsvExampleGen"]["examples"].custom_properties
    pushed = outputs["ModelPusher"]["pushed_model"].custom_properties
    blessing = outputs["Evaluator"]["blessing"].custom_properties
    blessed = blessing["blessed"].int_value == 1
    pushed_to = pushed["pushed_destination"].string_value if pushed["pushed"].int_value else None

    lines = ["", *_table(runs), ""]
    for split in config.layout.output_splits:
        counts = {
            what: examples[f"rows_{what}_{split}"].int_value
            for what in ("read", "written", "rejected")
        }
        lines.append(
            f"Rows        {split}: {counts['read']:,} read, {counts['written']:,} written, "
            f"{counts['rejected']:,} rejected"
        )
    lines += _token_lines(outputs["Transform"]["post_transform_stats"].uri)
    lines += _evaluation_lines(
        config, outputs["Evaluator"]["evaluation"].uri, majority=_majority(config, examples)
    )
    if pushed_to:
        lines.append(f"Model       {pushed_to}")
    else:
        lines.append("Model       not pushed: it does not reach what it must")
    lines += [
        f"Artifacts   {config.artifacts_dir}",
        f"Lineage     {config.metadata_file}",
    ]
    if os.path.isdir(config.rejects_dir):
        lines.append(f"Rejects     {config.rejects_dir}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    lines.append(f"Memory      {peak:.1f} GB at most")
    return Summary(blessed, pushed_to, "\n".join(lines))


def _table(runs: Sequence[NodeRun]) -> list[str]:
    width = max(len(run.name) for run in runs)
    rows = [
        f"{run.name:{width}}  {'cached' if run.cached else 'done':7}{run.seconds:8.1f} s"
        for run in runs
    ]
    total = sum(run.seconds for run in runs)
    return [*rows, f"{'all':{width}}  {'':7}{total:8.1f} s"]


def _token_lines(statistics_uri: str) -> list[str]:
    """Says what TFDV counted after the transform, over the rows to train and evaluate on."""
    statistics = tfdv.load_stats_binary(os.path.join(statistics_uri, "FeatureStats.pb"))
    features = {feature.path.step[0]: feature for feature in statistics.datasets[0].features}
    rows = statistics.datasets[0].num_examples

    lengths = features[NUM_TOKENS].num_stats
    deciles = next(h for h in lengths.histograms if h.type == h.QUANTILES).buckets
    cut = 1 - features[NUM_TRUNCATED].num_stats.num_zeros / rows
    language = statistics_pb2.NaturalLanguageStatistics()
    features[TOKEN_IDS].custom_stats[0].any.Unpack(language)
    cls = next(t for t in language.token_statistics if t.string_token == CLS)
    exactly_one = cls.per_sequence_min_frequency == cls.per_sequence_max_frequency == 1
    return [
        f"Tokens      {lengths.mean:.1f} a row, median {lengths.median:.0f}, 90% up to "
        f"{deciles[-1].low_value:.0f}, longest {lengths.max:.0f}; {cut:.1%} of the rows cut",
        f"            {1 - language.feature_coverage:.2%} unknown; "
        + ("one [CLS] in every row" if exactly_one else "NOT one [CLS] in every row"),
    ]


def _evaluation_lines(config: Config, evaluation: str, *, majority: float) -> list[str]:
    metrics, by_slice, baseline_accuracy = _metrics(evaluation)
    accuracy = metrics[ACCURACY]
    needed = f"{config.min_accuracy:.4f} needed"
    if baseline_accuracy is not None:
        needed += (
            f"; the last blessed model has {baseline_accuracy:.4f}, "
            f"{config.max_regression:.4f} less would do"
        )
    lines = [
        f"Evaluation  accuracy {accuracy:.4f} ({needed}; the larger class alone gives "
        f"{majority:.4f})",
        f"            log loss {metrics['sparse_categorical_crossentropy']:.4f}",
    ]
    for class_id, label in enumerate(config.task.labels):
        values = ", ".join(
            f"{name} {metrics[f'{metric}.{class_id}']:.4f}"
            for name, metric in (
                ("precision", "precision"),
                ("recall", "recall"),
                ("F1", "f1_score"),
                ("AUC", "auc"),
            )
        )
        lines.append(f"            label {label}: {values}")
    for key, rows in by_slice.items():
        if key == LABEL:
            rows = [(config.task.labels[int(value)], acc, n) for value, acc, n in rows]
        values = ", ".join(f"{value} {acc:.4f} ({n:,})" for value, acc, n in rows)
        lines.append(f"            by {key}: {values}")
    lines.append(f"            {evaluation}")
    return lines


def _metrics(
    evaluation: str,
) -> tuple[dict[str, float], dict[str, list[tuple[str, float, int]]], float | None]:
    """Returns the candidate's metrics, accuracy and rows by slice, the baseline's accuracy."""
    result = tfma.load_eval_result(evaluation)
    has_baseline = any(spec.is_baseline for spec in result.config.model_specs)
    if has_baseline:
        result = tfma.load_eval_result(evaluation, model_name=tfma.CANDIDATE_KEY)
    overall: dict[str, float] = {}
    by_slice: dict[str, list[tuple[str, float, int]]] = {}
    for slice_key, metrics in result.slicing_metrics:
        values = _flat(metrics)
        if not slice_key:
            overall = values
        else:
            ((key, value),) = slice_key
            row = (str(value), values[ACCURACY], int(values["example_count"]))
            by_slice.setdefault(key, []).append(row)
    baseline_accuracy = None
    if has_baseline:
        baseline = tfma.load_eval_result(evaluation, model_name=tfma.BASELINE_KEY)
        baseline_accuracy = next(
            _flat(metrics)[ACCURACY]
            for slice_key, metrics in baseline.slicing_metrics
            if not slice_key
        )
    return overall, {key: sorted(rows) for key, rows in sorted(by_slice.items())}, baseline_accuracy


def _flat(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Flattens TFMA's output name, class and metric name into `metric` or `metric.class`."""
    flat = {}
    for by_class in metrics.values():
        for class_key, by_name in by_class.items():
            suffix = f".{class_key.split(':')[1]}" if class_key else ""
            for name, value in by_name.items():
                if "doubleValue" in value:
                    flat[name + suffix] = float(value["doubleValue"])
    return flat


def _majority(config: Config, examples: Mapping[str, metadata_store_pb2.Value]) -> float:
    counts = [examples[f"rows_written_eval_{label}"].int_value for label in config.task.labels]
    return max(counts) / max(1, sum(counts))


def _outputs(
    store: metadata_store.MetadataStore, execution_id: int
) -> dict[str, metadata_store_pb2.Artifact]:
    """Returns an execution's output artifacts by their key."""
    keys = {}
    for event in store.get_events_by_execution_ids([execution_id]):
        if event.type in (
            metadata_store_pb2.Event.OUTPUT,
            metadata_store_pb2.Event.INTERNAL_OUTPUT,
        ):
            key = next(step.key for step in event.path.steps if step.HasField("key"))
            keys[event.artifact_id] = key
    return {keys[artifact.id]: artifact for artifact in store.get_artifacts_by_id(list(keys))}
