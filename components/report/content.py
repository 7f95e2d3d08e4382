"""Reads a run's artifacts into the content of its report: plain values, as in `report.json`.

Every section can be missing: a run that was stopped is reported from what there is.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from typing import Any

from tensorflow_metadata.proto.v0 import anomalies_pb2, statistics_pb2
from tfx.dsl.io import fileio

from bert_tfx.components.data_gate import checks
from bert_tfx.components.report import artifacts, verdict
from bert_tfx.components.report.answers import read_answers
from bert_tfx.components.report.artifacts import StoredArtifact
from bert_tfx.components.report.model_card import card_sections
from bert_tfx.components.report.variants import variants_section
from bert_tfx.schema.tasks import EVAL, NUM_TOKENS, TEXT_B, TRAIN

FORMAT = 1
"""Of `report.json`; another number says that other fields mean other things."""

MAX_REJECTS = 20
_STATISTICS_FILE = "FeatureStats.pb"
_ANOMALIES_FILE = "SchemaDiff.pb"
_STEP_POINTS = 250
_BLOCK = 1 << 20
_LIBRARIES = (
    *("bert-tfx", "tfx", "tensorflow", "keras", "tensorflow-text", "tensorflow-transform"),
    *("tensorflow-data-validation", "tensorflow-model-analysis", "apache-beam", "ml-metadata"),
)

Section = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class RunFacts:
    """What no artifact says of a run: what ML Metadata and the caller know.

    Attributes:
        id: The run's.
        pipeline: The name of its pipeline.
        begun: When it began, in ISO format with the time zone.
        seconds: From there to the end of its last component.
        nodes: For each component, in the order in which they began: `name`, `state`, `cached`,
            `begun`, `seconds`, `execution_id`, `fingerprint` (of its code, or None).
        stopped_at: The component that failed, or None.
        error: Why the run was stopped, or None where that is not known or it was not.
        checkpoint: What the training began with: `path`, `fingerprint`, and `files` (`name`,
            `sha256`, `bytes`) where they are still what they were.
        vocabulary: The vocabulary's `path` and `fingerprint`, or None.
        teacher_checkpoint: As `checkpoint`, of a teacher that was trained in the run; or None.
        artifacts: `node`, `output`, `id`, `type`, `uri` of each output.
    """

    id: str
    pipeline: str
    begun: str
    seconds: float
    nodes: Sequence[Mapping[str, Any]]
    stopped_at: str | None = None
    error: str | None = None
    checkpoint: Mapping[str, Any] | None = None
    vocabulary: Mapping[str, Any] | None = None
    teacher_checkpoint: Mapping[str, Any] | None = None
    artifacts: Sequence[Mapping[str, Any]] = ()


def read_content(
    sources: Mapping[str, StoredArtifact],
    *,
    config: Mapping[str, Any],
    report_text: bool,
    rejects_dir: str | None = None,
    facts: RunFacts | None = None,
) -> Section:
    """Reads all that a report tells.

    Args:
        sources: The run's artifacts, by the keys of `artifacts.PRODUCERS`; some may be missing.
        config: The run's configuration, as JSON holds it; `task` and `recipe` are objects in it.
        report_text: Whether texts of rows may stand in the report.
        rejects_dir: Where this run's rejected rows are listed, or None.
        facts: What else is known of the run, once it has ended.

    Returns:
        The content; it can be written as JSON.
    """
    model_run = _read_model_run(sources.get(artifacts.MODEL_RUN))
    task = config.get("task") or model_run["about"].get("task") or {}
    decision = _read_json(sources.get(artifacts.DECISION), artifacts.DECISION_FILE)
    labels = (decision or {}).get("labels") or task.get("labels", [])
    content: Section = {
        "format": FORMAT,
        "report_text": report_text,
        "run": _run(facts),
        "task": {
            "name": task.get("name"),
            "labels": labels,
            "is_pair": _is_pair(task),
        },
        "config": dict(config),
        "data": _data(sources, labels, report_text, rejects_dir),
        "training": _training(model_run),
        "decision": decision,
        "answers": _answers(sources.get(artifacts.PREDICTIONS), labels, report_text),
        "serving": _read_json(sources.get(artifacts.FINDINGS), artifacts.FINDINGS_FILE),
        "pushed": _pushed(sources.get(artifacts.PUSHED_MODEL)),
        "baseline": _baseline(sources.get(artifacts.BASELINE_MODEL)),
        "machine": machine(),
        "files": _files(sources, rejects_dir),
    }
    teacher = _read_json(sources.get(artifacts.TEACHER_RUN), artifacts.MODEL_FILE) or {}
    smaller = variants_section(_variant_findings(sources), teacher.get("training"))
    if smaller is not None:
        content["variants"] = smaller
    content["padding"] = _padding(content)
    content["verdict"] = verdict.verdict(content)
    content["warnings"] = verdict.warnings(content)
    content["card"] = card_sections(content)
    return content


def _run(facts: RunFacts | None) -> Section | None:
    if facts is None:
        return None
    run = dataclasses.asdict(facts)
    if facts.teacher_checkpoint is None:
        # Few runs have a teacher; what is written of the others says nothing of one.
        del run["teacher_checkpoint"]
    return run


def machine() -> Section:
    """Returns what this process runs on, and with which libraries."""
    try:
        cpus = len(os.sched_getaffinity(0))
    except AttributeError:
        cpus = os.cpu_count() or 0
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "cpus": cpus,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "platform": platform.platform(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "versions": versions,
    }


def _is_pair(task: Mapping[str, Any]) -> bool:
    return any(
        TEXT_B in files.get("columns", ())
        for layout in task.get("layouts", ())
        for files in layout.get("splits", {}).values()
    )


# === Data ===


def _data(
    sources: Mapping[str, StoredArtifact],
    labels: Sequence[str],
    report_text: bool,
    rejects_dir: str | None,
) -> Section:
    gates = {
        gate: _read_json(sources.get(key), checks.REPORT_FILE) or {}
        for gate, key in (
            (checks.DATA, artifacts.DATA_REPORT),
            (checks.TOKENS, artifacts.TOKEN_REPORT),
        )
    }
    return {
        "splits": _splits(sources.get(artifacts.EXAMPLES), labels),
        "checks": [
            {"gate": gate} | _check(found, report_text)
            for gate, report in gates.items()
            for found in report.get("checks", [])
        ],
        "tokens": gates[checks.TOKENS].get("splits", {}),
        "lengths": _lengths(sources.get(artifacts.TOKEN_STATISTICS)),
        "anomalies": _anomalies(sources.get(artifacts.ANOMALIES)),
        "rejects": _rejects(rejects_dir, report_text),
    }


def _check(found: Mapping[str, Any], report_text: bool) -> Section:
    examples = [
        {"row": None, "other_row": None, "text": None, **example}
        | ({} if report_text else {"text": None})
        for example in found.get("examples") or []
    ]
    return dict(found) | {"examples": examples}


def _splits(examples: StoredArtifact | None, labels: Sequence[str]) -> list[Section]:
    """Returns rows, labels and the fingerprint of each split."""
    if examples is None:
        return []
    found = []
    for split in _split_names(examples):

        def rows(what: str, split: str = split) -> int | None:
            return examples.properties.get(f"rows_{what}_{split}")

        of_label = {label: rows("written", f"{split}_{label}") for label in labels}
        found.append(
            {
                "split": split,
                "read": rows("read"),
                "written": rows("written"),
                "rejected": rows("rejected"),
                "labels": None if None in of_label.values() else of_label,
            }
            | _records(os.path.join(examples.uri, f"Split-{split}"))
        )
    return found


def _split_names(artifact: StoredArtifact) -> list[str]:
    names = artifact.properties.get("split_names")
    return json.loads(names) if names else []


def _records(folder: str) -> Section:
    """Returns size and SHA-256 of a split's files, one after another by name."""
    digest, size = hashlib.sha256(), 0
    if not fileio.exists(folder):
        return {"bytes": None, "sha256": None}
    for name in sorted(fileio.listdir(folder)):
        with fileio.open(os.path.join(folder, name), "rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
                size += len(block)
    return {"bytes": size, "sha256": digest.hexdigest()}


def _lengths(statistics: StoredArtifact | None) -> list[Section]:
    """Returns the quantiles of the rows' numbers of tokens, by split."""
    if statistics is None:
        return []
    found = []
    for split in _split_names(statistics):
        path = os.path.join(statistics.uri, f"Split-{split}", _STATISTICS_FILE)
        if not fileio.exists(path):
            continue
        datasets = statistics_pb2.DatasetFeatureStatisticsList()
        datasets.ParseFromString(_read(path))
        for feature in datasets.datasets[0].features:
            if feature.path.step[:] != [NUM_TOKENS]:
                continue
            for histogram in feature.num_stats.histograms:
                if histogram.type == histogram.QUANTILES and histogram.buckets:
                    values = [b.low_value for b in histogram.buckets]
                    found.append(
                        {
                            "split": split,
                            "rows": int(datasets.datasets[0].num_examples),
                            "quantiles": [*values, histogram.buckets[-1].high_value],
                        }
                    )
    return found


def _anomalies(anomalies: StoredArtifact | None) -> list[Section]:
    """Returns what does not fit the schema."""
    if anomalies is None:
        return []
    found = []
    for split in _split_names(anomalies):
        path = os.path.join(anomalies.uri, f"Split-{split}", _ANOMALIES_FILE)
        if not fileio.exists(path):
            continue
        message = anomalies_pb2.Anomalies()
        message.ParseFromString(_read(path))
        found += [
            {"split": split, "feature": name, "description": info.description}
            for name, info in sorted(message.anomaly_info.items())
        ]
    return found


def _rejects(rejects_dir: str | None, report_text: bool) -> list[Section]:
    """Returns the first rejected rows of each split, without their text unless it may be shown."""
    found: list[Section] = []
    if rejects_dir is None or not fileio.exists(rejects_dir):
        return found
    for name in sorted(fileio.listdir(rejects_dir)):
        split, extension = os.path.splitext(name)
        if extension != ".tsv":
            continue
        lines = _read(os.path.join(rejects_dir, name)).decode().rstrip("\n").split("\n")
        columns = lines[0].split("\t")
        for line in lines[1:]:
            if len(found) == MAX_REJECTS:
                return found
            row = dict(zip(columns, line.split("\t"), strict=True))
            if not report_text:
                del row["row"]
                # What it quotes stands in the row: where columns are mixed up, a text.
                row["reason"] = row["reason"].partition(" '")[0].partition(' "')[0]
            found.append({"split": split} | row)
    return found


# === Model ===


def _read_model_run(model_run: StoredArtifact | None) -> Section:
    return {
        "about": _read_json(model_run, artifacts.MODEL_FILE) or {},
        "history": _read_json(model_run, artifacts.HISTORY_FILE),
    }


def _variant_findings(sources: Mapping[str, StoredArtifact]) -> dict[str, Section]:
    """Returns what the gates of smaller models have found, by their keys, in their order."""
    read = {
        key: _read_json(sources.get(key), artifacts.FINDINGS_FILE)
        for key in artifacts.VARIANT_GATES
    }
    return {key: found for key, found in read.items() if found is not None}


def _training(model_run: Section) -> Section | None:
    """Returns how the model was trained, the curves thinned."""
    about, history = model_run["about"], model_run["history"]
    if history is None:
        return None
    best = history["seeds"][str(history["best_seed"])]
    return {
        "about": about.get("training", {}),
        "lowercase": about.get("lowercase"),
        "max_length": about.get("max_length"),
        "versions": about.get("versions", {}),
        "metric": history["metric"],
        "best_seed": history["best_seed"],
        "best_epoch": best["best_epoch"],
        "mean": history["mean"],
        "standard_deviation": history["standard_deviation"],
        "epochs": best["history"],
        "seeds": [
            {
                "seed": int(seed),
                "epochs": progress["epoch"],
                **{k: progress[k] for k in ("best_epoch", "best_value", "best_accuracy")},
            }
            for seed, progress in history["seeds"].items()
        ],
        "steps": _thinned(best["step_losses"], best["learning_rates"]),
    }


def _thinned(losses: Sequence[float | None], rates: Sequence[float | None]) -> Section:
    """Returns means of so many steps that a few hundred points are left."""
    size = max(1, math.ceil(len(losses) / _STEP_POINTS))
    starts = range(0, len(losses), size)
    return {
        "steps": len(losses),
        "steps_a_point": size,
        "step": [min(start + size, len(losses)) for start in starts],
        "loss": [_mean(losses[start : start + size]) for start in starts],
        "learning_rate": [_mean(rates[start : start + size]) for start in starts],
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(f"{math.fsum(known) / len(known):.6g}") if known else None


def _padding(content: Mapping[str, Any]) -> Section | None:
    """Returns the share of the computed token places that hold no token.

    `measured` is what the training noted, `at_max_length` what it would be were every row padded to
    the longest that the model reads; None where that is not known.
    """
    training = content["training"]
    tokens = content["data"]["tokens"].get(TRAIN)
    if training is None:
        return None
    measured = [epoch.get("padding") for epoch in training["epochs"]]
    known = [share for share in measured if share is not None]
    longest = training["max_length"]
    return {
        "measured": sum(known) / len(known) if known and len(known) == len(measured) else None,
        "at_max_length": 1 - tokens["mean_tokens"] / longest if tokens and longest else None,
    }


def _answers(
    predictions: StoredArtifact | None, labels: Sequence[str], report_text: bool
) -> Section | None:
    if predictions is None or not labels:
        return None
    folder = os.path.join(predictions.uri, f"Split-{EVAL}")
    if not fileio.exists(folder):
        return None
    return read_answers(folder, labels, with_text=report_text)


def _pushed(pushed: StoredArtifact | None) -> Section | None:
    if pushed is None:
        return None
    about = pushed.properties
    return {
        "pushed": bool(about.get("pushed")),
        "version": about.get("pushed_version"),
        "folder": about.get("pushed_destination"),
        "sha256": about.get("pushed_sha256"),
    }


def _baseline(model: StoredArtifact | None) -> Section | None:
    return None if model is None else {"id": model.id, "uri": model.uri}


def _files(sources: Mapping[str, StoredArtifact], rejects_dir: str | None) -> list[Section]:
    """Returns the files and folders that the report links to, where they are there."""
    wanted = (
        ("TFMA's results", "load them with tfma.load_eval_result", artifacts.EVALUATION, ""),
        (
            "Decision",
            "all figures of the promotion gate",
            artifacts.DECISION,
            artifacts.DECISION_FILE,
        ),
        ("Serving gate", "what the server answered", artifacts.FINDINGS, artifacts.FINDINGS_FILE),
        *(
            (gate, "what a smaller model costs and brings", key, artifacts.FINDINGS_FILE)
            for key, gate in artifacts.VARIANT_GATES.items()
        ),
        ("Data gate", "all checks", artifacts.DATA_REPORT, checks.REPORT_FILE),
        (
            "Leaked rows",
            "eval rows that stand in train",
            artifacts.DATA_REPORT,
            checks.LEAKED_EVAL_ROWS_FILE,
        ),
        ("Token gate", "all checks", artifacts.TOKEN_REPORT, checks.REPORT_FILE),
        ("Statistics", "TFDV's, before the transform", artifacts.STATISTICS, ""),
        ("Predictions", "each eval row with its answers", artifacts.PREDICTIONS, ""),
        ("Trained model", "weights, history, TensorBoard logs", artifacts.MODEL_RUN, ""),
        ("Exported model", "the SavedModel", artifacts.MODEL, ""),
    )
    found = [
        {"name": name, "about": about, "path": os.path.join(sources[key].uri, file).rstrip("/")}
        for name, about, key, file in wanted
        if key in sources
    ]
    if rejects_dir is not None:
        found.append({"name": "Rejected rows", "about": "with their reasons", "path": rejects_dir})
    return [entry for entry in found if fileio.exists(entry["path"])]


def _read_json(artifact: StoredArtifact | None, name: str) -> Any:
    """Returns what a file of an artifact holds, or None where it is not there."""
    if artifact is None:
        return None
    path = os.path.join(artifact.uri, name)
    if not fileio.exists(path):
        return None
    # A training that has diverged wrote NaN, which no page could read.
    return json.loads(_read(path), parse_constant=lambda name: None)


def _read(path: str) -> bytes:
    with fileio.open(path, "rb") as file:
        return file.read()
