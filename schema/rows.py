"""Rows: from a TSV file's bytes to features, by the declaration of its columns.

Ingestion, and the commands that do without a pipeline, read rows here and nowhere else.
"""

import codecs
import gzip
import hashlib
import re
import unicodedata
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO, NamedTuple, cast

from bert_tfx.schema.errors import InputError
from bert_tfx.schema.tasks import LABEL, TEXT_A, TEXT_B, TsvFiles

# A hundred times what an encoder can see. A longer row is a file with other line ends, and holding
# it whole could take the worker's memory.
MAX_ROW_BYTES = 256 * 1024

# So many labels are named in a message.
_NAMED = 5

# Each ideograph is a word of its own to the tokenizer, so a space beside one changes nothing. The
# blocks are those of google-research/bert, `tokenization.py`, `_is_chinese_char`.
_CJK = (
    "[\u4e00-\u9fff\u3400-\u4dbf\U00020000-\U0002a6df\U0002a700-\U0002ceaf"
    "\uf900-\ufaff\U0002f800-\U0002fa1f]"
)
_SPACE_BESIDE_CJK = re.compile(f" (?={_CJK})|(?<={_CJK}) ")

Features = dict[str, bytes | int]


class Misfit(NamedTuple):
    """Why a row does not fit.

    Attributes:
        column: What the file calls the column, empty where the whole row is at fault.
        reason: What is wrong with it.
    """

    column: str
    reason: str


class RowParser:
    """Turns rows of one split's files into features.

    Args:
        files: The declaration of the columns.
        labels: The task's labels, in the order of their class indices.
    """

    def __init__(self, files: TsvFiles, labels: Sequence[str]) -> None:
        self._features = files.columns
        self._columns = files.header or files.columns
        self._labels = {label.encode(): index for index, label in enumerate(labels)}
        self._known = ", ".join(map(repr, labels[:_NAMED])) + ", ..." * (len(labels) > _NAMED)

    def __call__(self, row: bytes) -> Features | Misfit:
        r"""Returns a row's features, or why it does not fit.

        Args:
            row: A line without its line end.

        Returns:
            Features by name, in the order of the columns: the label as its class index, everything
            else as the bytes that stand in the file.
        """
        if len(row) > MAX_ROW_BYTES:
            return Misfit("", f"longer than {MAX_ROW_BYTES:,} bytes")
        fields = row.split(b"\t")
        if len(fields) != len(self._features):
            return Misfit(
                "",
                f"expected {len(self._features)} columns ({', '.join(self._columns)}), "
                f"found {len(fields)}",
            )
        features: Features = {}
        for feature, column, field in zip(self._features, self._columns, fields, strict=True):
            if b"\0" in field:
                return Misfit(column, "holds a NUL byte")
            try:
                text = field.decode("utf-8")
            except UnicodeDecodeError as error:
                return Misfit(
                    column, f"not UTF-8: byte 0x{field[error.start]:02x} at position {error.start}"
                )
            if feature == LABEL:
                index = self._labels.get(field)
                if index is None:
                    shown = text if len(text) <= 40 else text[:37] + "..."
                    return Misfit(column, f"unknown label {shown!r}, known are {self._known}")
                features[LABEL] = index
                continue
            if feature in (TEXT_A, TEXT_B) and not text.strip():
                return Misfit(column, "the text is empty")
            features[feature] = field
        return features


def read_lines(file: BinaryIO) -> Iterator[bytes]:
    r"""Yields the lines of a file, cut at `\n` only, without their line ends (`\n` or `\r\n`).

    A line of more than `MAX_ROW_BYTES` bytes is cut off somewhere behind that length: the rest is
    read and dropped piece by piece.

    Args:
        file: The file, at its start; a byte order mark is left out.
    """
    first = True
    # Room for a line end behind the longest row.
    while line := file.readline(MAX_ROW_BYTES + 2):
        piece = line
        while piece and not piece.endswith(b"\n"):
            piece = file.readline(MAX_ROW_BYTES)
        line = line.removesuffix(b"\n").removesuffix(b"\r")
        yield line.removeprefix(codecs.BOM_UTF8) if first else line
        first = False


def read_rows(lines: Iterable[bytes], files: TsvFiles, path: str) -> Iterator[tuple[int, bytes]]:
    """Yields line numbers (from 1) and rows: what is left of a file without header and blank end.

    Args:
        lines: The file's lines.
        files: Declares the header.
        path: The file, for messages.

    Raises:
        InputError: If the file is empty or its first line is not the declared header.
    """
    number, blank = 0, 0
    for number, line in enumerate(lines, start=1):
        if number == 1 and files.header is not None:
            if problem := files.header_problem(path, line):
                raise InputError(problem)
        elif not line:
            blank += 1
        else:
            # Not at the file's end after all, so they are rows.
            yield from ((blank_number, b"") for blank_number in range(number - blank, number))
            blank = 0
            yield number, line
    if number == 0:
        raise InputError(f"{path}: the file is empty")


def normalize_text(text: str) -> str:
    """Returns what is left of a text where case, width and space do not count.

    Compatibility forms become plain ones (NFKC: full width, ligatures), case is folded, white space
    becomes one space, and none where it starts or ends the text or stands beside an ideograph.

    Args:
        text: Any text.

    Returns:
        A text to compare with others; normalizing it again changes nothing.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return _SPACE_BESIDE_CJK.sub("", " ".join(folded.split()))


def falls_into_eval(texts: Sequence[str], eval_fraction: float) -> bool:
    """Decides by a hash of its text whether a row of a hash split belongs to eval.

    Texts that are one to `normalize_text` are one text, and the order of a pair does not matter, so
    that no text to evaluate on was trained on.

    Args:
        texts: The row's texts.
        eval_fraction: The share of the hash space that is eval's.
    """
    keys = sorted(map(normalize_text, texts))
    digest = hashlib.sha256("\n".join(keys).encode()).digest()
    return int.from_bytes(digest[:8], "big") < eval_fraction * 2**64


def parse_files(
    files: TsvFiles, labels: Sequence[str], data_dir: str
) -> Iterator[tuple[str, int, Features | Misfit]]:
    """Yields all rows of one split's files on this machine.

    Args:
        files: The split's files, plain or gzipped.
        labels: The task's labels, in the order of their class indices.
        data_dir: The folder that holds them.

    Yields:
        The file, the line (from 1), and the row's features or why it does not fit.

    Raises:
        InputError: If a file cannot be read, is empty or lacks the declared header.
    """
    parse = RowParser(files, labels)
    for path in files.find(data_dir):
        opener = gzip.open if path.endswith(".gz") else open
        try:
            with opener(path, "rb") as file:
                for line, row in read_rows(read_lines(cast(BinaryIO, file)), files, path):
                    yield path, line, parse(row)
        except (OSError, EOFError, zlib.error) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"{path}: cannot be read: {reason}") from error
