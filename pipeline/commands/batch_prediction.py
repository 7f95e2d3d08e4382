"""Predictions for the rows of a TSV file by an exported model, without a server: on Beam.

The input is checked and cut into parts of so many rows under `OUTPUT.partial/`; each part is
answered by itself and its answers appear at once, so that a start after a kill answers only the
parts that are left.
"""

import contextlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from bert_tfx.components.exported_model import ExportedModel
from bert_tfx.schema import files
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.locks import lock
from bert_tfx.schema.rows import Misfit
from bert_tfx.schema.tasks import TEXT_B
from bert_tfx.serving.backends import TENSORFLOW, check_model
from bert_tfx.serving.files.batch_files import Written
from bert_tfx.serving.files.tsv_table import Table, answered_line, check_target

# The export works a batch off in parts, so this bounds the rows in memory only.
_BATCH_ROWS = 512
# Rows that a kill may lose, to be answered again.
_PART_ROWS = 4096
_POLL_SECONDS = 1.0

_NOTE = "begun_for.json"
_INPUTS = "input"
_OUTPUTS = "output"


def predict_file(
    model: ExportedModel,
    version: int,
    source: str,
    target: str,
    *,
    beam_args: Sequence[str],
    backend: str = TENSORFLOW,
    text_a: str | None = None,
    text_b: str | None = None,
    has_header: bool = True,
    max_rejects: int = 0,
    progress: Callable[[int, int], None] = lambda done, rows: None,
) -> Written:
    """Writes the predictions for a TSV file; goes on where an earlier start was stopped.

    Args:
        model: The model.
        version: Its version, for the column of that name.
        source: The input: UTF-8, quoting off, plain or gzipped.
        target: The output: the input's columns, then `prediction`, `probability` and
            `model_version`.
        beam_args: Flags that name the Beam engine. Its workers must see the same files.
        backend: What runs the model, one of `BACKENDS`; installed on the workers, too.
        text_a: See `Table`.
        text_b: See `Table`.
        has_header: See `Table`.
        max_rejects: Rows that may be left out because they do not fit.
        progress: Called with the rows answered and all rows, now and then.

    Raises:
        InputError: If a file or column cannot be used, rows do not fit, the output is there
            already, or a partial one belongs to another input or model.
    """
    check_target(target)
    check_model(model.path, backend)
    table = Table(
        source,
        pairs=TEXT_B in model.text_features,
        text_a=text_a,
        text_b=text_b,
        has_header=has_header,
    )
    scan = table.scan(max_rejects)
    partial = f"{target}.partial"
    asked_of = [os.path.abspath(model.path), version]
    if backend != TENSORFLOW:
        asked_of.append(backend)
    begun_for = table.begun_for(scan, json.dumps(asked_of))
    busy = InputError(f"{partial}: another process writes it")
    try:
        with lock(os.path.join(partial, ".lock"), refusal=busy):
            parts = _begin(partial, begun_for, table, scan.rows)
            resumed = min(len(_done(partial)) * _PART_ROWS, scan.rows)
            progress(resumed, scan.rows)
            with _watched(partial, scan.rows, progress):
                _answer(model, version, backend, table, partial, parts, beam_args)
            _join(partial, parts, table.output_header(), target)
    except OSError as error:
        raise InputError(f"{partial}: cannot be written: {error.strerror}") from error
    shutil.rmtree(partial, ignore_errors=True)
    progress(scan.rows, scan.rows)
    return Written(scan.rows, resumed, scan.rejects, scan.first_rejects)


def _begin(partial: str, begun_for: dict[str, object], table: Table, rows: int) -> list[str]:
    """Cuts the input into parts, unless an earlier start has; returns their names."""
    note, inputs = os.path.join(partial, _NOTE), os.path.join(partial, _INPUTS)
    parts = [f"{number:06d}" for number in range(-(-rows // _PART_ROWS))]
    if os.path.exists(note):
        with open(note, encoding="utf-8") as file:
            if json.load(file) != begun_for:
                raise InputError(
                    f"{partial}: was begun for another input, other columns or another model; "
                    "remove it to begin anew, or name another output"
                )
        return parts
    shutil.rmtree(inputs, ignore_errors=True)
    os.makedirs(inputs)
    os.makedirs(os.path.join(partial, _OUTPUTS), exist_ok=True)
    lines = (line for _, line, row in table.rows() if not isinstance(row, Misfit))
    for part in parts:
        with open(os.path.join(inputs, part), "wb") as file:
            file.writelines(line + b"\n" for line in islice(lines, _PART_ROWS))
    # Last: it says that the parts are whole.
    files.write(note, json.dumps(begun_for))
    return parts


def _done(partial: str) -> set[str]:
    return {name for name in os.listdir(os.path.join(partial, _OUTPUTS)) if "." not in name}


def _answer(
    model: ExportedModel,
    version: int,
    backend: str,
    table: Table,
    partial: str,
    parts: Sequence[str],
    beam_args: Sequence[str],
) -> None:
    left = sorted(set(parts) - _done(partial))
    if not left:
        return
    with beam.Pipeline(options=PipelineOptions([*beam_args])) as pipeline:
        _ = (
            pipeline
            | beam.Create(left, reshuffle=True)
            | beam.ParDo(_AnswerPart(model, version, backend, table, partial))
        )


class _AnswerPart(beam.DoFn):
    """Writes the answers of one part: all of them or none."""

    def __init__(
        self, model: ExportedModel, version: int, backend: str, table: Table, partial: str
    ) -> None:
        self._model = model
        self._backend = backend
        self._version = version
        self._table = table
        self._partial = os.path.abspath(partial)
        self._loaded: Any = None

    def setup(self) -> None:
        """Loads the model, once a worker."""
        from bert_tfx.serving.server.loading import load_model

        self._loaded = load_model(self._model.path, self._backend)

    def teardown(self) -> None:
        """Gives its memory back."""
        if self._loaded is not None:
            self._loaded.close()

    def process(self, element: str) -> None:
        """Answers the part `element`."""
        with open(os.path.join(self._partial, _INPUTS, element), "rb") as file:
            lines = (line.removesuffix(b"\n") for line in file)
            answered = b"".join(self._answered(lines))
        files.write(os.path.join(self._partial, _OUTPUTS, element), answered)

    def _answered(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        from bert_tfx.serving.server.answers import predict

        rest = iter(lines)
        while batch := list(islice(rest, _BATCH_ROWS)):
            rows = [self._table.texts_of(line) for line in batch]
            answers = predict(self._loaded, rows, self._version)
            yield from map(answered_line, batch, answers)


@contextlib.contextmanager
def _watched(partial: str, rows: int, progress: Callable[[int, int], None]) -> Iterator[None]:
    """Tells how many parts are done while Beam, which does not tell, is at work."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(_POLL_SECONDS):
            progress(min(len(_done(partial)) * _PART_ROWS, rows), rows)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def _join(partial: str, parts: Sequence[str], header: bytes, target: str) -> None:
    """Makes one file of the parts' answers."""
    elsewhere = os.path.join(partial, "whole.tsv")
    with files.appearing(target, elsewhere) as whole, open(whole, "wb") as file:
        file.write(header)
        for part in parts:
            with open(os.path.join(partial, _OUTPUTS, part), "rb") as answers:
                shutil.copyfileobj(answers, file)
