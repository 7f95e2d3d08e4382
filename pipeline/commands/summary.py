"""What a run did, in words and figures."""

import dataclasses
import json
import math
import os
import resource
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow_model_analysis as tfma
from ml_metadata import metadata_store
from ml_metadata.proto import metadata_store_pb2
from tfx.utils import path_utils

from bert_tfx.components.data_gate import checks
from bert_tfx.components.model_pusher.version_folder import ABOUT_FILE
from bert_tfx.components.predictor.predictions import BASELINE, CANDIDATE
from bert_tfx.components.promotion_gate import executor as promotion_gate
from bert_tfx.components.promotion_gate.decision import Decision
from bert_tfx.components.report import artifacts
from bert_tfx.components.report.variants import settings_text
from bert_tfx.components.serving_gate import executor as serving_gate
from bert_tfx.pipeline.configuration.config import Config
from bert_tfx.pipeline.evaluation import ACCURACY
from bert_tfx.pipeline.execution.local_runner import NodeRun
from bert_tfx.pipeline.metadata.store import open_store
from bert_tfx.schema.tasks import LABEL, TRAIN

_WIDTH = 100
_OVERALL = {
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "mcc": "MCC",
    "macro_roc_auc": "ROC AUC",
    "log_loss": "log loss",
    "expected_calibration_error": "calibration error",
}
_Measured = tuple[dict[str, float], dict[str, list[tuple[str, float, int]]], float | None]
_BY_LABEL = {"precision": "precision", "recall": "recall", "f1": "F1", "roc_auc": "ROC AUC"}


@dataclasses.dataclass(frozen=True)
class Summary:
    """The outcome of a run.

    Attributes:
        blessed: Whether the model reached what it must, and was served as it should be.
        pushed_to: The folder of the pushed version, or None.
        sentences: What the gates of the model have decided.
        metrics: Figures of the evaluation, by name; those of a label end with its index.
        text: All of it, for a person.
    """

    blessed: bool
    pushed_to: str | None
    sentences: Sequence[str]
    metrics: Mapping[str, float]
    text: str


def summarize(config: Config, runs: Sequence[NodeRun]) -> Summary:
    """Reads a run's outcome from its lineage.

    Args:
        config: What was run.
        runs: What each component did.

    Returns:
        The outcome.
    """
    store = open_store(config.metadata_address)
    outputs = {run.name: _outputs(store, run.execution_id) for run in runs}
    examples = outputs["TsvExampleGen"]["examples"].custom_properties
    pushed = outputs["ModelPusher"]["pushed_model"].custom_properties
    pushed_to = pushed["pushed_destination"].string_value if pushed["pushed"].int_value else None
    decision = Decision.from_json(
        _read(outputs["PromotionGate"]["decision"].uri, promotion_gate.DECISION_FILE)
    )
    findings = json.loads(_read(outputs["ServingGate"]["findings"].uri, serving_gate.FINDINGS_FILE))

    lines = ["", *_table(runs), ""]
    if config.spans:
        lines.append(f"Spans       {', '.join(config.spans)}")
    for split in config.layout.output_splits:
        counts = {
            what: examples[f"rows_{what}_{split}"].int_value
            for what in ("read", "written", "rejected")
        }
        lines.append(
            f"Rows        {split}: {counts['read']:,} read, {counts['written']:,} written, "
            f"{counts['rejected']:,} rejected"
        )
    lines += _warning_lines(outputs)
    lines += _token_lines(outputs[checks.TOKENS]["report"].uri)
    lines.append(f"Started     {_origin(outputs['Trainer']['model'].uri)}")
    evaluation = outputs["Evaluator"]["evaluation"].uri
    measured = _metrics(evaluation)
    lines += _evaluation_lines(config, evaluation, measured, majority=_majority(config, examples))
    lines += _smaller_lines(
        [
            json.loads(_read(outputs[gate]["findings"].uri, artifacts.FINDINGS_FILE))
            for gate in artifacts.VARIANT_GATES.values()
            if "findings" in outputs.get(gate, {})
        ]
    )
    lines += _told("Promotion", decision.verdict, *decision.reasons[1:], *decision.warnings)
    lines += _serving_lines(findings)
    lines.append(f"Model       {pushed_to or 'not pushed'}")
    lines += [
        f"Artifacts   {config.artifacts_dir}",
        f"Lineage     {config.metadata or config.metadata_file}",
    ]
    if os.path.isdir(config.rejects_dir):
        lines.append(f"Rejects     {config.rejects_dir}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    lines.append(f"Memory      {peak:.1f} GB at most")
    passed = decision.blessed and findings["passed"]
    return Summary(
        blessed=passed,
        pushed_to=pushed_to,
        sentences=(decision.verdict, findings["verdict"]),
        # JSON has no figure for what is none.
        metrics={
            "accuracy" if name == ACCURACY else name: value
            for name, value in measured[0].items()
            if math.isfinite(value)
        },
        text="\n".join(lines),
    )


def _read(uri: str, name: str) -> str:
    with open(os.path.join(uri, name), encoding="utf-8") as file:
        return file.read()


def _origin(model_uri: str) -> str:
    """Says what the training began with."""
    path = path_utils.serving_model_path(model_uri)
    training = json.loads(_read(path, ABOUT_FILE))["training"]
    warm_start = training["warm_start"]
    if warm_start and warm_start["why_not"] is None:
        return "from the last good model"
    distillation = training.get("distillation") or {}
    if layers := distillation.get("student_layers"):
        origin = f"from {layers} layer{'s' if layers > 1 else ''} of its teacher"
    elif training["pretrained"]:
        origin = f"from {training['pretrained']}"
    else:
        origin = f"with new weights of size {training['size']}"
    if warm_start:
        origin += f", not from the last good model: {warm_start['why_not']}"
    if distillation:
        origin += f", taught by {' and '.join(distillation['teachers'])}"
    for step in training.get("compressions", []):
        origin += f", then made smaller ({settings_text(step['asked'])})"
    return origin


def _smaller_lines(findings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Says of each smaller model what it is worth, beside the one before."""
    sentences = []
    for gate in findings:
        verdict = "accepted" if gate["accepted"] else "refused"
        sentences += [
            f"{gate['step']}: {', '.join(_smaller_figures(gate))}: {verdict}",
            *gate["reasons"],
            *gate["warnings"],
        ]
    return _told("Smaller", *sentences)


def _smaller_figures(gate: Mapping[str, Any]) -> list[str]:
    """Returns accuracy, size and speed of a variant, each with that of the model before."""
    variant, before = gate["models"]["variant"], gate["models"]["before"]
    parts = []
    if gate["comparison"]:
        found = gate["comparison"]["difference"]
        parts.append(
            f"{found['candidate']:.4f} ({before['name']} {found['baseline']:.4f}, "
            f"{found['estimate']['value']:+.4f})"
        )
    parts.append(f"{variant['bytes'] / 1e6:,.1f} MB ({before['bytes'] / 1e6:,.1f})")
    # A variant that could not be asked has no times.
    loads = zip(variant.get("load", ()), before.get("load", ()), strict=True)
    for ours, theirs in loads:
        rows = "1 row" if ours["rows"] == 1 else f"{ours['rows']} rows"
        parts.append(f"{rows} {ours['p50']:.1f} ms ({theirs['p50']:.1f})")
    return parts


def _told(title: str, *sentences: str) -> list[str]:
    """Puts sentences under a title, folded to the width of a terminal."""
    lines = [
        line
        for sentence in sentences
        for line in textwrap.wrap(
            sentence, _WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
        )
    ]
    return [f"{title if not i else '':12}{line}" for i, line in enumerate(lines)]


def _warning_lines(outputs: Mapping[str, Mapping[str, metadata_store_pb2.Artifact]]) -> list[str]:
    """Names what the gates of the data warn of; the sentences stood above when they did."""
    warnings = [
        f"{result['name']} ({' and '.join(result['splits'])}) {result['value']:.4g}"
        for gate in (checks.DATA, checks.TOKENS)
        for result in json.loads(_read(outputs[gate]["report"].uri, checks.REPORT_FILE))["checks"]
        if not result["passed"]
    ]
    return _told("Data", f"warns of {', '.join(warnings)}") if warnings else []


def _serving_lines(findings: Mapping[str, Any]) -> list[str]:
    lines = _told("Serving", findings["verdict"])
    for load in findings.get("load", {}).get("candidate", ()):
        lines.append(
            f"{'':12}requests of {load['rows']}: p50 {load['p50']:.1f} ms, p99 {load['p99']:.1f} "
            f"ms, {load['rows_per_second']:,.0f} rows/s"
        )
    return lines


def _table(runs: Sequence[NodeRun]) -> list[str]:
    width = max(len(run.name) for run in runs)
    rows = [
        f"{run.name:{width}}  {'cached' if run.cached else 'done':7}{run.seconds:8.1f} s"
        for run in runs
    ]
    total = sum(run.seconds for run in runs)
    return [*rows, f"{'all':{width}}  {'':7}{total:8.1f} s"]


def _token_lines(report_uri: str) -> list[str]:
    """Says what TokenGate found of the rows to train on."""
    facts = json.loads(_read(report_uri, checks.REPORT_FILE))["splits"][TRAIN]
    cut = facts["truncated_rows"] / facts["rows"]
    unknown = facts["unknown_tokens"] / max(1, facts["tokens"])
    return [
        f"Tokens      {facts['mean_tokens']:.1f} a row to train on, median "
        f"{facts['median_tokens']:.0f}, 90% up to {facts['p90_tokens']:.0f}, longest "
        f"{facts['max_tokens']}; {cut:.1%} of the rows cut, {unknown:.2%} of the tokens unknown"
    ]


def _evaluation_lines(
    config: Config, evaluation: str, measured: _Measured, *, majority: float
) -> list[str]:
    metrics, by_slice, baseline_accuracy = measured
    needed = f"{config.promotion.min_accuracy:.4f} needed"
    if baseline_accuracy is not None:
        needed += f"; the last promoted model has {baseline_accuracy:.4f}"
    lines = [
        f"Evaluation  accuracy {metrics[ACCURACY]:.4f} ({needed}; the larger class alone gives "
        f"{majority:.4f})",
        _values(metrics, _OVERALL),
    ]
    for class_id, label in enumerate(config.task.labels):
        lines.append(_values(metrics, _BY_LABEL, title=f"label {label}: ", suffix=f".{class_id}"))
    for key, rows in by_slice.items():
        if key == LABEL:
            rows = [(config.task.labels[int(value)], acc, n) for value, acc, n in rows]
        values = ", ".join(f"{value} {acc:.4f} ({n:,})" for value, acc, n in rows)
        lines.append(f"            by {key}: {values}")
    lines.append(f"            {evaluation}")
    return lines


def _values(
    metrics: Mapping[str, float], names: Mapping[str, str], *, title: str = "", suffix: str = ""
) -> str:
    values = ", ".join(f"{text} {metrics[name + suffix]:.4f}" for name, text in names.items())
    return f"{'':12}{title}{values}"


def _metrics(evaluation: str) -> _Measured:
    """Returns the candidate's metrics, accuracy and rows by slice, the baseline's accuracy."""
    result = tfma.load_eval_result(evaluation)
    # An Evaluator without a baseline gives the candidate no name.
    has_baseline = any(spec.is_baseline for spec in result.config.model_specs)
    if has_baseline:
        result = tfma.load_eval_result(evaluation, model_name=CANDIDATE)
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
        baseline = tfma.load_eval_result(evaluation, model_name=BASELINE)
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
