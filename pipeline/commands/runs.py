"""`bert-tfx runs`: every run in an output folder, with what became of it."""

import argparse
import datetime
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bert_tfx.schema.errors import InputError
from bert_tfx.schema.paths import absolute

if TYPE_CHECKING:
    # ML Metadata is loaded where it is read: those who only ask a server do without.
    from bert_tfx.components.report.artifacts import StoredArtifact
    from bert_tfx.pipeline.metadata.lineage import Run

_HEAD = (
    *("run", "begun (UTC)", "took", "task", "model", "accuracy (95%)", "baseline"),
    *("data", "promotion", "serving", "pushed"),
)
_NONE = "-"


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declares the command."""
    parser = commands.add_parser(
        "runs",
        help="list the runs of an output folder",
        description="Lists the runs of an output folder, the latest first: what was trained, how "
        "good it is, what each gate said, what was pushed.",
    )
    parser.set_defaults(command=run)
    parser.add_argument("--output", required=True, metavar="DIR", help="the runs' output folder")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def run(arguments: argparse.Namespace) -> int:
    """Lists the runs; returns the exit code."""
    from bert_tfx.pipeline.metadata.lineage import read_runs

    folder = absolute(arguments.output)
    found = [_summary(one) for one in read_runs(folder)]
    if arguments.json:
        print(json.dumps(found, ensure_ascii=False, indent=1))
        return 0
    if not found:
        raise InputError(f"{folder}: holds no run yet; `bert-tfx run --output` makes one")
    for line in _columns([_HEAD, *map(_row, found)]):
        print(line)
    return 0


def _summary(run: "Run") -> dict[str, Any]:
    """Returns what a run has come to."""
    from bert_tfx.components.report import artifacts
    from bert_tfx.pipeline.metadata.lineage import RUNNING

    decision = _read(run.output("PromotionGate", "decision"), artifacts.DECISION_FILE) or {}
    findings = _read(run.output("ServingGate", "findings"), artifacts.FINDINGS_FILE) or {}
    pushed = run.output("ModelPusher", "pushed_model")
    about = pushed.properties if pushed else {}
    trainer = run.node("Trainer")
    told = trainer.parameters if trainer else {}
    begun = datetime.datetime.fromtimestamp(run.begun, datetime.timezone.utc)
    return {
        "run": run.id,
        "pipeline": run.pipeline,
        "begun": begun.isoformat(timespec="seconds"),
        "seconds": round(run.seconds, 1),
        "task": run.task.get("name"),
        "model": told.get("model"),
        "checkpoint": told.get("pretrained"),
        "size": None if told.get("pretrained") else told.get("size"),
        "accuracy": _accuracy(decision.get("candidate")),
        "baseline_accuracy": _accuracy(decision.get("baseline")),
        "data": _gates(run),
        "promoted": decision.get("blessed"),
        "promotion": decision.get("verdict"),
        # A server is not asked for a model that is not good enough.
        "served": findings.get("passed") if decision.get("blessed") else None,
        "serving": findings.get("verdict"),
        "version": about.get("pushed_version") if about.get("pushed") else None,
        "stopped_at": run.failed.name if run.failed else None,
        "unfinished": any(node.state == RUNNING for node in run.nodes),
    }


def _accuracy(measurement: Mapping[str, Any] | None) -> Mapping[str, float] | None:
    return measurement["overall"]["accuracy"] if measurement else None


def _gates(run: "Run") -> dict[str, Any]:
    """Returns for each gate of the data whether it let the run on, and how often it warned."""
    from bert_tfx.components.data_gate.checks import REPORT_FILE

    found = {}
    for name in ("DataGate", "TokenGate"):
        if (node := run.node(name)) is None:
            continue
        report = _read(run.output(name, "report"), REPORT_FILE) or {}
        checks = report.get("checks", [])
        found[name] = {
            "state": node.state,
            "warnings": sum(not check["passed"] for check in checks),
        }
    return found


def _read(artifact: "StoredArtifact | None", name: str) -> dict[str, Any] | None:
    """Returns a JSON file of an artifact, or None where that is not on this machine any more."""
    if artifact is None:
        return None
    try:
        with open(os.path.join(artifact.uri, name), encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


def _row(found: Mapping[str, Any]) -> tuple[str, ...]:
    accuracy, baseline = found["accuracy"], found["baseline_accuracy"]
    shown = _NONE
    if accuracy and accuracy["value"] is not None:
        shown = f"{accuracy['value']:.4f} ({accuracy['low']:.4f}-{accuracy['high']:.4f})"
    origin = found["checkpoint"] and os.path.basename(found["checkpoint"].rstrip("/"))
    model = " ".join(filter(None, (found["model"], origin or found["size"])))
    return (
        found["run"],
        found["begun"][:16].replace("T", " "),
        _duration(found["seconds"]),
        found["task"] or _NONE,
        model or _NONE,
        shown,
        f"{baseline['value']:.4f}" if baseline and baseline["value"] is not None else _NONE,
        _data(found),
        _said(found["promoted"], "promoted", "refused"),
        _said(found["served"], "passed", "refused"),
        _pushed(found),
    )


def _data(found: Mapping[str, Any]) -> str:
    gates = found["data"]
    if any(gate["state"] == "failed" for gate in gates.values()):
        return "stopped"
    if not gates:
        return _NONE
    warnings = sum(gate["warnings"] for gate in gates.values())
    return f"{warnings} warning{'s' * (warnings != 1)}" if warnings else "passed"


def _pushed(found: Mapping[str, Any]) -> str:
    if found["stopped_at"]:
        return f"stopped at {found['stopped_at']}"
    return found["version"] or ("not finished" if found["unfinished"] else _NONE)


def _said(verdict: bool | None, yes: str, no: str) -> str:
    return _NONE if verdict is None else yes if verdict else no


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def _columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()
