"""The report of a run, with the times and the lineage that only ML Metadata knows."""

import dataclasses
import datetime
import json
import os
from collections.abc import Mapping
from typing import Any

from bert_tfx.components.report.artifacts import MODEL, PRODUCERS
from bert_tfx.components.report.content import FORMAT, RunFacts, read_content
from bert_tfx.components.report.page import CONTENT_FILE, INDEX_FILE, report_documents
from bert_tfx.modeling.checkpoints.files import find_checkpoint
from bert_tfx.pipeline.configuration.config import Config
from bert_tfx.pipeline.metadata.lineage import RUNNING, Run, find_run
from bert_tfx.schema import files
from bert_tfx.schema.digests import sha256_of
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.fingerprint import file_fingerprint

REPORT_FOLDER = "report"
REPORT_NODE = "Report"
_REJECTS_FOLDER = "rejects"
_BLOCK = 1 << 20


def config_json(config: Config) -> str:
    """Returns a configuration as a report takes it, equal for equal configurations."""
    fields = dataclasses.asdict(config)
    # Who is told of a run is nobody's business who reads of it: a URL may be a secret.
    del fields["hooks"]
    return json.dumps(fields, ensure_ascii=False, sort_keys=True)


def write_report(
    output_dir: str,
    *,
    run_id: str | None = None,
    report_text: bool | None = None,
    config: Config | None = None,
    error: str | None = None,
) -> str:
    """Writes `OUTPUT/report/`: the page, the model card and `report.json`.

    Args:
        output_dir: The folder of the runs.
        run_id: Which of them; by default the latest.
        report_text: Whether texts of rows may stand in the report; by default what the run said.
        config: The run's, where the caller has it.
        error: Why the run was stopped, where the caller knows it.

    Returns:
        The path of the page.

    Raises:
        InputError: If there is no such run, or the folder cannot be written.
    """
    output_dir = os.path.abspath(output_dir)
    content = run_content(
        output_dir, run_id=run_id, report_text=report_text, config=config, error=error
    )
    folder = os.path.join(output_dir, REPORT_FOLDER)
    try:
        os.makedirs(folder, exist_ok=True)
        for name, text in report_documents(content, folder).items():
            files.write(os.path.join(folder, name), text)
    except OSError as found:
        raise InputError(f"{folder}: cannot be written: {found.strerror}") from found
    return os.path.join(folder, INDEX_FILE)


def run_content(
    output_dir: str,
    *,
    run_id: str | None = None,
    report_text: bool | None = None,
    config: Config | None = None,
    error: str | None = None,
) -> dict[str, Any]:
    """Returns the content of a run's report; the arguments are those of `write_report`."""
    run = find_run(output_dir, run_id)
    sources = {
        key: artifact
        for key, (node, output) in PRODUCERS.items()
        if (artifact := run.output(node, output)) is not None
    }
    # Of a trained model that was made smaller after, the last one that was good enough went on.
    predictor = run.node("Predictor")
    if predictor and (evaluated := predictor.inputs.get("candidate")):
        sources[MODEL] = evaluated[0]
    kept = _kept(output_dir, run)
    facts = _facts(run, error or (kept.get("run") or {}).get("error"))
    reporting = run.node(REPORT_NODE)
    if report_text is None:
        report_text = bool(reporting and reporting.properties.get("report_text"))
    if config is not None:
        options = json.loads(config_json(config))
    elif reporting:
        options = json.loads(reporting.properties["config"])
    else:
        options = kept.get("config") or _recorded_options(run)
    rejects_dir = os.path.join(output_dir, _REJECTS_FOLDER)
    # A later run has written its own there.
    is_latest = run_id is None or find_run(output_dir).id == run.id
    return read_content(
        sources,
        config=options,
        report_text=report_text,
        rejects_dir=rejects_dir if is_latest and os.path.isdir(rejects_dir) else None,
        facts=facts,
    )


def load_content(path: str) -> dict[str, Any]:
    """Reads a `report.json`.

    Raises:
        InputError: If it cannot be read or is none.
    """
    content = files.read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(
            f"{path}: is no {CONTENT_FILE} of this version; `bert-tfx report --output DIR` writes "
            "one anew"
        )
    return content


def _kept(output_dir: str, run: Run) -> Mapping[str, Any]:
    """Returns the last report where it is of this run: nothing else keeps why a run was stopped."""
    try:
        content = load_content(os.path.join(output_dir, REPORT_FOLDER, CONTENT_FILE))
    except InputError:
        return {}
    return content if (content.get("run") or {}).get("id") == run.id else {}


def _facts(run: Run, error: str | None) -> RunFacts:
    stopped_at = run.failed.name if run.failed else None
    # A component that is killed cannot say so.
    if error and stopped_at is None and run.nodes and run.nodes[-1].state == RUNNING:
        stopped_at = run.nodes[-1].name
    begun = datetime.datetime.fromtimestamp(run.begun, datetime.timezone.utc)
    return RunFacts(
        id=run.id,
        pipeline=run.pipeline,
        begun=begun.isoformat(timespec="seconds"),
        seconds=round(run.seconds, 3),
        nodes=[
            {
                "name": node.name,
                "state": node.state,
                "cached": node.cached,
                "seconds": round(node.seconds, 3),
                "execution_id": node.execution_id,
                "fingerprint": node.parameters.get("fingerprint"),
            }
            for node in run.nodes
        ],
        stopped_at=stopped_at,
        error=error,
        checkpoint=_checkpoint(run, "Trainer"),
        vocabulary=_vocabulary(run),
        teacher_checkpoint=_checkpoint(run, "Teacher"),
        artifacts=[
            {
                "node": node.name,
                "output": key,
                "id": artifact.id,
                "type": artifact.type,
                "uri": artifact.uri,
            }
            for node in run.nodes
            for key, found in node.outputs.items()
            for artifact in found
        ],
    )


def _recorded_options(run: Run) -> dict[str, Any]:
    """Returns what components were told of a run whose configuration is not recorded."""
    options: dict[str, Any] = {"task": run.task}
    if trainer := run.node("Trainer"):
        told = trainer.parameters
        names = ("model", "size", "pretrained", "lowercase", "eval_fraction", "recipe")
        options |= {name: told[name] for name in names if name in told}
    return options


def _checkpoint(run: Run, name: str) -> dict[str, Any] | None:
    """Returns what a training began with; hashes only of files that have not changed since."""
    trainer = run.node(name)
    told = trainer.parameters if trainer else {}
    if not told.get("pretrained"):
        return None
    path, fingerprint = told["pretrained"], told.get("pretrained_fingerprint")
    files: list[dict[str, Any]] = []
    try:
        paths = find_checkpoint(path).files
        if file_fingerprint(*paths) == fingerprint:
            files = [
                {
                    "name": os.path.basename(file),
                    "bytes": os.path.getsize(file),
                    "sha256": sha256_of(file),
                }
                for file in paths
            ]
    except (OSError, InputError):
        # It may be gone; what was recorded of it stays.
        files = []
    return {"path": path, "fingerprint": fingerprint, "files": files}


def _vocabulary(run: Run) -> dict[str, str] | None:
    transform = run.node("Transform")
    told = transform.parameters if transform else {}
    if "vocab_file" not in told:
        return None
    return {"path": told["vocab_file"], "fingerprint": told["vocab_fingerprint"]}
