"""What a run depended on and came to, kept for the next: has anything changed since?

Loads no framework, so that the answer is there in a second.
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from bert_tfx.components.model_pusher.version_folder import pushed_versions
from bert_tfx.modeling.checkpoints.files import find_checkpoint
from bert_tfx.pipeline.configuration.config import Config
from bert_tfx.pipeline.process.exit_codes import ExitCode
from bert_tfx.pipeline.process.notification import Outcome
from bert_tfx.schema import files
from bert_tfx.schema.fingerprint import file_fingerprint, source_fingerprint

LAST_RUN_FILE = "last_run.json"
"""In the output folder."""

VERDICTS = (ExitCode.DONE, ExitCode.NOT_BLESSED, ExitCode.DATA_REFUSED)
"""What a run ends with that has told all there is to tell."""

SOURCES = (
    "bert_tfx.pipeline.pipeline",
    # Named there by their dotted paths.
    "bert_tfx.modeling.tfx.preprocessing",
    "bert_tfx.modeling.tfx.trainer",
    "bert_tfx.modeling.tfx.teacher_answers",
    "bert_tfx.modeling.tfx.compressor",
    "bert_tfx.pipeline.configuration.vocabulary",
)
"""All that makes the result, with what these modules import."""

_FORMAT = 2


@dataclasses.dataclass(frozen=True)
class Dependencies:
    """What the result of a run depends on.

    Attributes:
        options: The configuration, by name, as JSON holds it.
        files: A hash of each file's content, by its path.
        source: A hash of the source and of the libraries.
    """

    options: Mapping[str, Any]
    files: Mapping[str, str]
    source: str


@dataclasses.dataclass(frozen=True)
class LastRun:
    """The last run of an output folder that came to a verdict.

    Attributes:
        run: Its id.
        code: One of `VERDICTS`.
        pushed_version: The version that serves its model, or None.
        verdict: In a sentence.
        dependencies: What its result depends on.
    """

    run: str
    code: ExitCode
    pushed_version: str | None
    verdict: str
    dependencies: Dependencies

    @property
    def text(self) -> str:
        """The run in words."""
        if self.pushed_version is not None:
            return f"{self.run} (pushed version {self.pushed_version})"
        return f"{self.run} (nothing pushed: {self.verdict})"


def dependencies(config: Config) -> Dependencies:
    """Finds what the result of a run depends on now.

    Args:
        config: The run.

    Returns:
        All of it.

    Raises:
        InputError: If the task's files are missing.
    """
    fields = json.loads(json.dumps(dataclasses.asdict(config)))
    for name in ("hooks", "parallel"):
        del fields[name]
    fingerprints = {path: file_fingerprint(path) for path in sorted({*_paths(config)})}
    sources = "-".join(map(source_fingerprint, SOURCES))
    return Dependencies(options=fields, files=fingerprints, source=sources)


def read_last_run(output_dir: str) -> LastRun | None:
    """Returns the last run of an output folder that came to a verdict, if there is one."""
    try:
        with open(os.path.join(output_dir, LAST_RUN_FILE), encoding="utf-8") as file:
            kept = json.load(file)
        if kept.pop("format") != _FORMAT:
            return None
        kept["dependencies"] = Dependencies(**kept["dependencies"])
        kept["code"] = ExitCode(kept["code"])
        return LastRun(**kept)
    # Whatever is not understood makes the run run.
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def keep_last_run(outcome: Outcome, found: Dependencies) -> None:
    """Keeps a run that has come to a verdict; whoever reads meanwhile sees the one before.

    Args:
        outcome: The run.
        found: What its result depends on, as it was when the run began.
    """
    first = (outcome.sentences or (outcome.error or "",))[0]
    last = LastRun(
        run=outcome.run,
        code=outcome.code,
        pushed_version=outcome.pushed_version,
        verdict=" ".join(first.split()),
        dependencies=found,
    )
    path = os.path.join(outcome.output, LAST_RUN_FILE)
    content = {"format": _FORMAT, **dataclasses.asdict(last)}
    files.write(path, json.dumps(content, ensure_ascii=False))


def forget_last_run(output_dir: str) -> None:
    """Makes the next run run: what was kept does not tell of what is done now."""
    with contextlib.suppress(FileNotFoundError):
        os.remove(os.path.join(output_dir, LAST_RUN_FILE))


def changes(config: Config, last: LastRun, now: Dependencies) -> list[str]:
    """Returns what has changed since a run, a sentence each; nothing where nothing has."""
    return [*_changes(config, last, now)]


def _changes(config: Config, last: LastRun, now: Dependencies) -> Iterator[str]:
    then = last.dependencies
    for name in sorted({*then.options} | {*now.options}):
        was, is_now = then.options.get(name), now.options.get(name)
        if was == is_now:
            continue
        if isinstance(was, dict) and isinstance(is_now, dict):
            for inner in sorted({*was} | {*is_now}):
                if was.get(inner) != is_now.get(inner):
                    yield f"option {inner} has changed ({name})"
        else:
            yield f"option {name} has changed"
    for path in sorted({*then.files} | {*now.files}):
        if path not in now.files:
            yield f"{_shown(path)} is gone"
        elif path not in then.files:
            yield f"{_shown(path)} is new"
        elif then.files[path] != now.files[path]:
            yield f"{_shown(path)} has changed"
    if then.source != now.source:
        yield "the source has changed"
    if last.pushed_version is not None:
        there = pushed_versions(config.serving_dir)
        if int(last.pushed_version) not in there:
            yield f"version {last.pushed_version} is not served any more"
        elif int(last.pushed_version) != there[-1]:
            yield f"version {there[-1]} was pushed since"


def _paths(config: Config) -> Iterator[str]:
    """Yields the files that the result depends on."""
    for split in config.layout.splits.values():
        yield from split.find(config.data_dir)
    if config.vocab_file is not None:
        yield config.vocab_file
    for of in (config, config.teacher):
        if of is not None and of.pretrained is not None:
            yield from find_checkpoint(of.pretrained).files


def _shown(path: str) -> str:
    relative = os.path.relpath(path)
    return path if relative.startswith(os.pardir) else relative
