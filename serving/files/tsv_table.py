"""The rows of a TSV file that a model is asked for, and the columns that its answers become."""

import dataclasses
import gzip
import hashlib
import os
import zlib
from collections.abc import Iterator
from typing import BinaryIO, cast

from bert_tfx.schema.errors import InputError
from bert_tfx.schema.rows import Features, Misfit, RowParser, read_lines, read_rows
from bert_tfx.schema.tasks import TEXT_A, TEXT_B, TsvFiles, read_first_line
from bert_tfx.serving.protocol.model_api import Prediction

PREDICTION = "prediction"
PROBABILITY = "probability"
MODEL_VERSION = "model_version"
ADDED_COLUMNS = (PREDICTION, PROBABILITY, MODEL_VERSION)

# So many rows that do not fit are named in a message.
_NAMED = 5


def check_target(target: str) -> None:
    """Refuses an output that cannot be written, or is there already.

    Raises:
        InputError: If so.
    """
    if os.path.exists(target):
        raise InputError(f"{target}: exists already; remove it, or name another output")
    if not os.path.isdir(os.path.dirname(os.path.abspath(target))):
        raise InputError(f"{target}: its folder does not exist")


@dataclasses.dataclass(frozen=True)
class Scan:
    """What a first reading of the input found.

    Attributes:
        rows: Rows that fit.
        rejects: Rows that do not.
        first_rejects: Where the first ones of these stand, and what is wrong with them.
        sha256: Of the lines.
    """

    rows: int
    rejects: int
    first_rejects: tuple[str, ...]
    sha256: str


class Table:
    """A TSV file with the texts that a model reads, and perhaps other columns.

    Args:
        path: The file: UTF-8, quoting off, plain or gzipped.
        pairs: Whether the model takes pairs.
        text_a: The column of the text; by default `text_a`, or the first one without a header.
            Columns of a file without a header are numbered from 1.
        text_b: The column of the pair's second text; by default `text_b`, or the second one.
        has_header: Whether the first line names the columns.

    Raises:
        InputError: If the file cannot be read, or a column is not there.
    """

    def __init__(
        self,
        path: str,
        *,
        pairs: bool,
        text_a: str | None = None,
        text_b: str | None = None,
        has_header: bool = True,
    ) -> None:
        first_line = _decoded(read_first_line(path), f"{path}, line 1")
        files = _files(path, first_line, text_a, text_b, has_header, pairs=pairs)
        self.path = path
        self.files = files
        self.texts = tuple(name for name in (TEXT_A, TEXT_B) if name in files.columns)
        self._parse = RowParser(files, ())

    def rows(self, digest: "hashlib._Hash | None" = None) -> Iterator[tuple[int, bytes, object]]:
        """Yields line number, line, and the texts or why the row does not fit.

        Args:
            digest: Is given each line.

        Raises:
            InputError: If the file cannot be read.
        """
        try:
            with _opened(self.path) as file:
                lines = read_lines(file)
                if digest is not None:
                    lines = _hashed(lines, digest)
                for number, line in read_rows(lines, self.files, self.path):
                    features = self._parse(line)
                    if isinstance(features, Misfit):
                        yield number, line, features
                        continue
                    yield number, line, self._row(features)
        except (OSError, EOFError, zlib.error) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"{self.path}: cannot be read: {reason}") from error

    def texts_of(self, line: bytes) -> str | tuple[str, str]:
        """Returns the text, or pair, of a line that fits."""
        return self._row(cast(Features, self._parse(line)))

    def _row(self, features: Features) -> str | tuple[str, str]:
        texts = [cast(bytes, features[name]).decode() for name in self.texts]
        return texts[0] if len(texts) == 1 else (texts[0], texts[1])

    def output_header(self) -> bytes:
        """Returns the first line of the output; nothing where the input has no header."""
        if self.files.header is None:
            return b""
        return "\t".join((*self.files.header, *ADDED_COLUMNS)).encode() + b"\n"

    def begun_for(self, scan: Scan, asked_of: str) -> dict[str, object]:
        """Says what an output depends on; one that was begun for another is not gone on with."""
        return {
            "input": scan.sha256,
            "columns": [self.files.columns.index(name) + 1 for name in self.texts],
            "header": self.files.header is not None,
            "asked_of": asked_of,
        }

    def scan(self, max_rejects: int) -> Scan:
        """Reads the whole file.

        Args:
            max_rejects: Rows that need not fit.

        Raises:
            InputError: If more do not, or there is none.
        """
        digest = hashlib.sha256()
        rows = rejects = 0
        named: list[str] = []
        for number, _, row in self.rows(digest):
            if not isinstance(row, Misfit):
                rows += 1
                continue
            rejects += 1
            if len(named) < _NAMED:
                column = f", {row.column}" if row.column else ""
                named.append(f"{self.path}, line {number}{column}: {row.reason}")
        if rejects > max_rejects:
            raise InputError(
                f"{rejects:,} rows do not fit (--max-rejects allows {max_rejects:,}). The first:"
                "\n  " + "\n  ".join(named)
            )
        if not rows:
            raise InputError(f"{self.path}: there is no row to predict")
        return Scan(rows, rejects, tuple(named), digest.hexdigest())


def answered_line(line: bytes, prediction: Prediction) -> bytes:
    """Returns a row of the output, line feed included."""
    probability = f"{prediction.probability:.6f}"
    fields = "\t".join([prediction.label, probability, str(prediction.model_version)])
    return b"%b\t%b\n" % (line, fields.encode())


def _opened(path: str) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb") if path.endswith(".gz") else open(path, "rb"))


def _hashed(lines: Iterator[bytes], digest: "hashlib._Hash") -> Iterator[bytes]:
    for line in lines:
        digest.update(line + b"\n")
        yield line


def _decoded(line: bytes, where: str) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 at byte {error.start}") from error


def _files(
    path: str,
    first_line: str,
    text_a: str | None,
    text_b: str | None,
    has_header: bool,
    *,
    pairs: bool,
) -> TsvFiles:
    """Finds the columns of the texts.

    Raises:
        InputError: If there is none of that name or number, or more than one.
    """
    found = first_line.split("\t")
    if not first_line:
        raise InputError(f"{path}, line 1: is empty; expected a header, or a row (--no-header)")
    if text_b is not None and not pairs:
        raise InputError("--text-b: the model takes single texts, no pairs")
    wanted = {TEXT_A: text_a or (TEXT_A if has_header else "1")}
    if pairs:
        wanted[TEXT_B] = text_b or (TEXT_B if has_header else "2")
    names = found if has_header else [str(number) for number in range(1, len(found) + 1)]
    columns = [f"column {number}" for number in range(1, len(found) + 1)]
    for feature, name in wanted.items():
        option = f"--{feature.replace('_', '-')}"
        if names.count(name) != 1:
            there = f"there is {'none' if name not in names else 'more than one'}"
            raise InputError(
                f"{path}, line 1: {there} of the column {name!r} for the model's {feature}; "
                f"{option} names one of {', '.join(map(repr, names))}"
            )
        index = names.index(name)
        if columns[index] in wanted:
            raise InputError(f"{option}: column {name!r} is the other text already")
        columns[index] = feature
    if has_header and (twice := set(found) & set(ADDED_COLUMNS)):
        raise InputError(
            f"{path}, line 1: has a column {', '.join(sorted(twice))} already; the output would "
            "have it twice"
        )
    return TsvFiles(path, tuple(columns), tuple(found) if has_header else None)
