"""Predictions for the rows of a TSV file, in constant memory, resumable.

The output holds the input's lines as they stand, with three columns more. It is written to
`OUTPUT.partial`, beside which `OUTPUT.partial.json` says what it was begun for, and gets its name
when it is whole.
"""

import contextlib
import dataclasses
import io
import itertools
import json
import os
from collections import deque
from collections.abc import Callable, Iterator
from typing import BinaryIO, cast

from bert_tfx.schema import files
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.locks import lock
from bert_tfx.schema.rows import Misfit
from bert_tfx.schema.tasks import TEXT_A, TEXT_B
from bert_tfx.serving.client import Client
from bert_tfx.serving.files.tsv_table import Table, answered_line, check_target
from bert_tfx.serving.protocol.errors import BadAnswer
from bert_tfx.serving.protocol.model_api import SERVE_TEXT, Prediction

# Rows that a kill may lose, to be asked for again.
_ROWS_PER_FLUSH = 64


@dataclasses.dataclass(frozen=True)
class Written:
    """What was done.

    Attributes:
        rows: Rows of the output.
        resumed: How many of them an earlier start had written.
        rejects: Rows of the input that do not fit, and are not in the output.
        first_rejects: Where the first ones of these stand, and what is wrong with them.
    """

    rows: int
    resumed: int
    rejects: int
    first_rejects: tuple[str, ...]


def predict_file(
    client: Client,
    source: str,
    target: str,
    *,
    text_a: str | None = None,
    text_b: str | None = None,
    has_header: bool = True,
    max_rejects: int = 0,
    asked_of: str = "",
    progress: Callable[[int, int], None] = lambda done, rows: None,
) -> Written:
    """Writes the predictions for a TSV file; goes on where an earlier start was stopped.

    The whole input is read and checked before the server gets the first row. Whether rows are texts
    or pairs is what the model says.

    Args:
        client: Asks the model.
        source: The input: UTF-8, quoting off, plain or gzipped.
        target: The output. Its columns are those of the input, then `prediction`, `probability`
            and `model_version`.
        text_a: The column of the text; by default `text_a`, or the first one without a header.
            Columns of a file without a header are numbered from 1.
        text_b: The column of the pair's second text; by default `text_b`, or the second one.
        has_header: Whether the first line names the columns.
        max_rejects: Rows that may be left out because they do not fit.
        asked_of: What the predictions depend on besides the input, such as the model's name; a
            partial output that was begun for another is not gone on with.
        progress: Called with the rows written and all rows to write, after each few of them.

    Raises:
        InputError: If a file or column cannot be used, rows do not fit, the output is there
            already, or a partial one belongs to another input.
        ServingError: If the server fails; what was written until then is kept.
    """
    check_target(target)
    table = Table(
        source, pairs=_takes_pairs(client), text_a=text_a, text_b=text_b, has_header=has_header
    )
    scan = table.scan(max_rejects)
    begun_for = table.begun_for(scan, asked_of)
    with _partial(target, begun_for, table.output_header()) as (file, resumed):
        if resumed > scan.rows:
            raise InputError(f"{file.name}: has more rows than {source}; remove it to begin anew")
        done = resumed
        progress(done, scan.rows)
        for line, prediction in _answered(client, table, skip=resumed):
            file.write(answered_line(line, prediction))
            done += 1
            if done % _ROWS_PER_FLUSH == 0:
                file.flush()
                progress(done, scan.rows)
        if done != scan.rows:
            raise InputError(f"{source}: was changed while it was read; remove {file.name}")
        file.flush()
        files.move(file.name, target)
        os.remove(f"{file.name}.json")
        progress(done, scan.rows)
    return Written(done, resumed, scan.rejects, scan.first_rejects)


def _takes_pairs(client: Client) -> bool:
    signature = client.metadata().signatures.get(SERVE_TEXT)
    if signature is None or TEXT_A not in signature.inputs:
        raise BadAnswer(
            f"the model has no signature {SERVE_TEXT} that takes {TEXT_A}; it was not exported by "
            "bert-tfx"
        )
    return TEXT_B in signature.inputs


def _answered(client: Client, table: Table, skip: int) -> Iterator[tuple[bytes, Prediction]]:
    """Yields the lines and their predictions, after the first `skip` rows that fit."""
    lines: deque[bytes] = deque()

    def texts() -> Iterator[str | tuple[str, str]]:
        fitting = ((line, row) for _, line, row in table.rows() if not isinstance(row, Misfit))
        for line, row in itertools.islice(fitting, skip, None):
            lines.append(line)
            yield cast("str | tuple[str, str]", row)

    for prediction in client.stream(texts()):
        yield lines.popleft(), prediction


@contextlib.contextmanager
def _partial(
    target: str, begun_for: dict[str, object], header: bytes
) -> Iterator[tuple[BinaryIO, int]]:
    """Opens the partial output behind its last complete line.

    Yields:
        The file, and how many rows it holds.

    Raises:
        InputError: If it cannot be written, another process writes it, or it belongs to another
            input.
    """
    path = f"{target}.partial"
    busy = InputError(f"{path}: another process writes it")
    try:
        with lock(path, refusal=busy), open(path, "a+b") as file:
            # The other process may have been done between the first look and the lock.
            if os.path.exists(target):
                raise InputError(f"{target}: exists already; remove it, or name another output")
            if file.tell():
                rows = _resume(file, path, begun_for, header)
            else:
                with open(f"{path}.json", "w", encoding="utf-8") as note:
                    json.dump(begun_for, note)
                file.write(header)
                rows = 0
            yield file, rows
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error


def _resume(file: BinaryIO, path: str, begun_for: dict[str, object], header: bytes) -> int:
    """Cuts off what stands behind the last complete line; returns how many rows there are."""
    try:
        with open(f"{path}.json", encoding="utf-8") as note:
            found = json.load(note)
    except (OSError, ValueError):
        found = None
    if found != begun_for:
        raise InputError(
            f"{path}: was begun for another input, other columns or another model; remove it to "
            "begin anew, or name another output"
        )
    lines = end = position = 0
    file.seek(0)
    while piece := file.read(io.DEFAULT_BUFFER_SIZE * 16):
        lines += piece.count(b"\n")
        if b"\n" in piece:
            end = position + piece.rindex(b"\n") + 1
        position += len(piece)
    file.truncate(end)
    file.seek(end)
    if header and not lines:
        file.write(header)
        return 0
    return lines - bool(header)
