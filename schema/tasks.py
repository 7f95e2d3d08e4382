"""Tasks: what a dataset's rows mean and how its files lie on disk.

A task is declared once, here, and every component reads it: the ingestion renames a file's columns
to the feature names below, and nothing behind that door knows what a file called them.
"""

import codecs
import dataclasses
import gzip
import json
import os
import re
import zlib
from collections.abc import Mapping
from typing import Any

from bert_tfx.schema.errors import InputError
from bert_tfx.schema.spans import Span, check_pattern, choose_spans, has_spans, match_files

TEXT_A = "text_a"
TEXT_B = "text_b"
LABEL = "label"
# Where a row stands in the files, as the ingestion writes it: `dev.tsv:17`.
SOURCE_ROW = "source_row"
# Facts about a row's tokens, which the transform adds: TFDV turns them into the length quantiles,
# the unknown rate and the truncation rate, and the evaluation slices by them.
NUM_TOKENS = "num_tokens"
NUM_UNKNOWN = "num_unknown"
NUM_TRUNCATED = "num_truncated"

TRAIN = "train"
EVAL = "eval"
TEST = "test"
SPLITS = (TRAIN, EVAL, TEST)

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


@dataclasses.dataclass(frozen=True)
class TsvFiles:
    """The files of one split.

    Attributes:
        pattern: Glob relative to the data folder; of files that arrive over time it names the span
            (see `bert_tfx.schema.spans`). A name that ends in `.gz` is read as gzip.
        columns: The feature of each column in file order: `text_a`, `text_b`, `label`, or the name
            under which an extra column is kept (for slicing).
        header: What the first line of each file holds, or None where the first line is a row.
        spans: The spans to read where the pattern names them, oldest first; empty for all.

    Raises:
        InputError: If the pattern names a span in part.
    """

    pattern: str
    columns: tuple[str, ...]
    header: tuple[str, ...] | None
    spans: tuple[Span, ...] = ()

    def __post_init__(self) -> None:
        """Checks the pattern."""
        check_pattern(self.pattern)

    @property
    def labelled(self) -> bool:
        """Whether the files have a label column."""
        return LABEL in self.columns

    def find(self, data_dir: str) -> list[str]:
        """Returns the paths below `data_dir` that fit the pattern, sorted."""
        wanted = dict(self.spans)
        return [
            path
            for path, span in match_files(self.pattern, data_dir)
            if span is None
            or not wanted
            or (span.number in wanted and span.version in (None, wanted[span.number]))
        ]

    def header_problem(self, path: str, first_line: bytes) -> str | None:
        """Says why a file's first line is not the declared header, or returns None.

        Args:
            path: The file, for the message.
            first_line: Its first line without byte order mark and line end.

        Returns:
            A message that stands alone, or None where the line fits or no header is declared.
        """
        if self.header is None or first_line == "\t".join(self.header).encode():
            return None
        found = first_line[:1000].decode("utf-8", "backslashreplace").split("\t")
        shown = [name if len(name) <= 40 else name[:37] + "..." for name in found[:8]]
        # Quoted, because a space at a name's end or a NUL byte (UTF-16) must be seen.
        return (
            f"{path}, line 1: expected the header {' <tab> '.join(map(repr, self.header))}, "
            f"found {' <tab> '.join(map(repr, shown))}{', ...' if len(found) > 8 else ''}"
        )


@dataclasses.dataclass(frozen=True)
class Layout:
    """One way in which a task's files lie on disk.

    Attributes:
        name: How messages call the layout.
        splits: Files of each split; `train` and `eval` are both there unless `hash_split`.
        hash_split: True where the rows of train and eval lie in the same files (under `train`) and
            the ingestion divides them by a hash of their text.
    """

    name: str
    splits: Mapping[str, TsvFiles]
    hash_split: bool = False

    @property
    def output_splits(self) -> tuple[str, ...]:
        """The splits that the ingestion writes, in the order of `SPLITS`."""
        written = {*self.splits, EVAL} if self.hash_split else set(self.splits)
        return tuple(split for split in SPLITS if split in written)


@dataclasses.dataclass(frozen=True)
class Task:
    """A text classification dataset: what its rows mean.

    Attributes:
        name: Letters, digits, `_` and `-`.
        labels: The labels as they stand in the files; a label's class index is its position.
        layouts: The ways in which its files may lie on disk, the preferred one first.

    Raises:
        InputError: If a part contradicts another (for example a layout without text).
    """

    name: str
    labels: tuple[str, ...]
    layouts: tuple[Layout, ...]

    def __post_init__(self) -> None:
        """Checks that the parts fit each other."""
        where = f"task {self.name!r}"
        if not _NAME.fullmatch(self.name):
            raise InputError(
                f"{where}: a task's name starts with a letter and holds letters, digits, _ and - "
                "only"
            )
        if len(self.labels) < 2 or len(set(self.labels)) < len(self.labels):
            raise InputError(
                f"{where}: labels must be two or more different strings. Received: "
                f"{', '.join(map(repr, self.labels)) or 'none'}"
            )
        if bad := [s for s in self.labels if not s or s != s.strip() or "\t" in s or "\n" in s]:
            raise InputError(
                f"{where}: label {bad[0]!r} is empty, or has space around it or a tab or line end "
                "in it"
            )
        for layout in self.layouts:
            for split, files in layout.splits.items():
                self._check_files(f"{where}, split {split!r}", split, files)
        splits = [files for layout in self.layouts for files in layout.splits.values()]
        if len({TEXT_B in files.columns for files in splits}) != 1:
            raise InputError(f"{where}: all splits must have {TEXT_B}, or none")

    @staticmethod
    def _check_files(where: str, split: str, files: TsvFiles) -> None:
        if split not in SPLITS:
            raise InputError(f"{where}: a split is one of {', '.join(SPLITS)}")
        if TEXT_A not in files.columns:
            raise InputError(
                f"{where}: no column holds the text ({TEXT_A}). Received columns: "
                f"{', '.join(files.columns)}"
            )
        if len(set(files.columns)) < len(files.columns):
            raise InputError(f"{where}: a column is named twice: {', '.join(files.columns)}")
        if SOURCE_ROW in files.columns:
            raise InputError(
                f"{where}: a column cannot become the feature {SOURCE_ROW!r}, which says where a "
                "row stands in the files. Give the column another name"
            )
        if bad := [c for c in files.columns if not _NAME.fullmatch(c)]:
            raise InputError(
                f"{where}: column {bad[0]!r} cannot become a feature: its name must start with a "
                "letter and hold letters, digits, _ and - only"
            )
        if files.header is not None and len(files.header) != len(files.columns):
            raise InputError(
                f"{where}: {len(files.columns)} columns are declared, the header has "
                f"{len(files.header)}"
            )
        if split != TEST and not files.labelled:
            raise InputError(f"{where}: no column holds the {LABEL}; only {TEST!r} may lack it")

    @property
    def is_pair(self) -> bool:
        """Whether rows hold two texts."""
        return TEXT_B in self.layouts[0].splits[TRAIN].columns

    @property
    def has_spans(self) -> bool:
        """Whether files of it arrive over time."""
        return any(
            has_spans(files.pattern) for layout in self.layouts for files in layout.splits.values()
        )

    @property
    def text_features(self) -> tuple[str, ...]:
        """`("text_a",)` or `("text_a", "text_b")`."""
        return (TEXT_A, TEXT_B) if self.is_pair else (TEXT_A,)

    def to_json(self) -> str:
        """Returns the task as JSON, equal for equal tasks (it takes part in cache keys)."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Task":
        """Returns the task that `to_json` wrote."""
        fields = json.loads(text)
        layouts = tuple(
            Layout(
                name=layout["name"],
                splits={
                    split: TsvFiles(
                        pattern=files["pattern"],
                        columns=tuple(files["columns"]),
                        header=None if files["header"] is None else tuple(files["header"]),
                        spans=tuple(Span(*span) for span in files["spans"]),
                    )
                    for split, files in layout["splits"].items()
                },
                hash_split=layout["hash_split"],
            )
            for layout in fields["layouts"]
        )
        return cls(name=fields["name"], labels=tuple(fields["labels"]), layouts=layouts)


def _layout(
    name: str,
    columns: str,
    *,
    header: str | None,
    files: Mapping[str, str],
    test: TsvFiles | None = None,
) -> Layout:
    """Declares a layout whose splits share their columns (names separated by spaces)."""
    names = tuple(header.split()) if header else None
    splits = {split: TsvFiles(f, tuple(columns.split()), names) for split, f in files.items()}
    return Layout(name, splits | ({TEST: test} if test else {}))


_TSV = {TRAIN: "train.tsv", EVAL: "dev.tsv", TEST: "test.tsv"}
_TXT = {TRAIN: "train.txt", EVAL: "dev.txt", TEST: "test.txt"}
_BINARY = ("0", "1")

TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        # Chinese hotel, laptop and book reviews; 0 negative, 1 positive.
        Task(
            "chnsenticorp",
            _BINARY,
            (_layout("tsv", "label text_a", header="label text_a", files=_TSV),),
        ),
        # Chinese question pairs (Liu et al., COLING 2018); 1 where both ask the same.
        Task(
            "lcqmc",
            _BINARY,
            (
                _layout("official", "text_a text_b label", header=None, files=_TXT),
                _layout("tsv", "text_a text_b label", header="text_a text_b label", files=_TSV),
                _layout("tsv without header", "text_a text_b label", header=None, files=_TSV),
            ),
        ),
        # English film review phrases (Socher et al., EMNLP 2013); 0 negative, 1 positive.
        Task(
            "sst2",
            _BINARY,
            (
                _layout(
                    "GLUE",
                    "text_a label",
                    header="sentence label",
                    files={TRAIN: "train.tsv", EVAL: "dev.tsv"},
                    test=TsvFiles("test.tsv", ("index", TEXT_A), ("index", "sentence")),
                ),
                _layout(
                    "GLUE with test labels", "text_a label", header="sentence label", files=_TSV
                ),
                _layout("label first", "label text_a", header="label text_a", files=_TSV),
                _layout("label first", "label text_a", header="label sentence", files=_TSV),
            ),
        ),
        # The project's own bilingual reviews, in the folder `sample`.
        Task(
            "sample",
            _BINARY,
            (
                _layout(
                    "sample", "label text_a language", header="label text_a language", files=_TSV
                ),
            ),
        ),
    )
}


def own_task(
    fields: Mapping[str, Any],
    *,
    where: str,
) -> Task:
    """Makes a user's own TSV files into a task.

    Args:
        fields: From a JSON file or from flags: `name`; `labels` (list of strings); `columns` (list:
            what each column of the files is called, in order); `text_a`, `label` and, for pairs,
            `text_b` (which of those columns hold them; by default the columns of that name);
            `header` (whether the first line names the columns; default true); `train`, and
            optionally `eval` and `test` (file patterns; without `eval` the rows of `train` are
            divided by a hash of their text); `test_columns` (where the test files have others, for
            example no label). None is as if the key were not there.
        where: What a message calls the source of `fields`.

    Returns:
        The task.

    Raises:
        InputError: If a key is unknown, missing or of another kind than described.
    """
    fields = {key: value for key, value in fields.items() if value is not None}
    required = ("name", "labels", "columns", "train")
    optional = (TEXT_A, TEXT_B, LABEL, "header", EVAL, TEST, "test_columns")
    if unknown := sorted(set(fields) - {*required, *optional}):
        raise InputError(
            f"{where}: unknown key {unknown[0]!r}; known are {', '.join((*required, *optional))}"
        )
    if missing := [key for key in required if not fields.get(key)]:
        raise InputError(f"{where}: {missing[0]!r} is missing")
    for key in ("labels", "columns", "test_columns"):
        value = fields.get(key, [])
        # Labels are often written as JSON numbers; True would become the label "True".
        if not isinstance(value, list | tuple) or not {*map(type, value)} <= {str, int}:
            raise InputError(f"{where}: {key!r} must be a list of strings. Received: {value!r}")
    for key in ("name", TEXT_A, TEXT_B, LABEL, TRAIN, EVAL, TEST):
        if not isinstance(fields.get(key, ""), str):
            raise InputError(f"{where}: {key!r} must be a string. Received: {fields[key]!r}")
    if not isinstance(fields.get("header", True), bool):
        raise InputError(f"{where}: 'header' must be true or false. Received: {fields['header']!r}")

    renamed = {fields.get(feature, feature): feature for feature in (TEXT_A, TEXT_B, LABEL)}
    columns = tuple(map(str, fields["columns"]))
    for feature in (TEXT_A, TEXT_B, LABEL):
        if feature in fields and fields[feature] not in columns:
            raise InputError(
                f"{where}: {feature} is said to be column {fields[feature]!r}, but the columns are "
                f"{', '.join(columns)}"
            )

    def files(pattern: str, names: tuple[str, ...]) -> TsvFiles:
        return TsvFiles(
            pattern,
            tuple(renamed.get(name, name) for name in names),
            names if fields.get("header", True) else None,
        )

    splits = {TRAIN: files(fields[TRAIN], columns)}
    if fields.get(EVAL):
        splits[EVAL] = files(fields[EVAL], columns)
    if fields.get(TEST):
        splits[TEST] = files(fields[TEST], tuple(map(str, fields.get("test_columns", columns))))
    return Task(
        name=fields["name"],
        labels=tuple(map(str, fields["labels"])),
        layouts=(Layout("own", splits, hash_split=EVAL not in splits),),
    )


def load_task(path: str) -> Task:
    """Reads a user's own task from a JSON file (see `own_task` for its keys).

    Raises:
        InputError: If the file cannot be read or does not describe a task.
    """
    try:
        with open(path, encoding="utf-8") as file:
            fields = json.load(file)
    except OSError as error:
        raise InputError(f"{path}: cannot read the task: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise InputError(f"{path}: a task is a JSON object. Received: {type(fields).__name__}")
    return own_task(fields, where=path)


def read_first_line(path: str) -> bytes:
    """Returns a file's first line as bytes, without byte order mark and line end.

    Raises:
        InputError: If the file cannot be read.
    """
    opener = gzip.open if path.endswith(".gz") else open
    try:
        with opener(path, "rb") as file:
            line = file.readline(1 << 20)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read: {reason}") from error
    return line.removeprefix(codecs.BOM_UTF8).rstrip(b"\n").removesuffix(b"\r")


def _misfit(path: str, files: TsvFiles) -> str | None:
    """Says why the first line of a file does not fit its declaration, or returns None."""
    first_line = read_first_line(path)
    if not first_line and not os.path.getsize(path):
        return f"{path}: the file is empty"
    found = first_line.count(b"\t") + 1
    if files.header is None and found != len(files.columns):
        return (
            f"{path}, line 1: expected {len(files.columns)} columns "
            f"({', '.join(files.columns)}), found {found}"
        )
    return files.header_problem(path, first_line)


def resolve_layout(
    task: Task, data_dir: str, *, span: str | None = None, window: int = 1
) -> Layout:
    """Finds the layout in which a task's files lie in a folder.

    Of a published dataset, the first layout whose training and evaluation files are there, with the
    declared first lines, is taken; test files are taken where they are present. Where a folder
    holds only one of its labelled files, that file is divided into train and eval by a hash of its
    text. Of a user's own task, all files that it names must be there. Where they arrive in spans,
    those of the newest spans are taken.

    Args:
        task: The task.
        data_dir: The folder that the patterns are relative to.
        span: The newest span to take (see `choose_spans`); by default the newest there is.
        window: So many spans are taken.

    Returns:
        The layout, with the splits that are present.

    Raises:
        InputError: If no layout fits; the message names what was found and expected.
    """
    if not os.path.isdir(data_dir):
        raise InputError(
            f"{data_dir}: no such folder; --data names the folder that holds the files of task "
            f"{task.name}"
        )
    published = TASKS.get(task.name) == task
    problems: list[str] = []
    for candidate in task.layouts:
        present = _present(candidate, data_dir, span, window)
        wanted = [split for split in candidate.splits if not (published and split == TEST)]
        if not all(split in present for split in wanted):
            continue
        misfits = _misfits(data_dir, present)
        if not misfits:
            return dataclasses.replace(candidate, splits=present)
        problems.append(misfits[0])
    if problems:
        raise InputError("\n".join(dict.fromkeys(problems)))

    for candidate in task.layouts if published else ():
        present = {s: f for s, f in candidate.splits.items() if f.find(data_dir)}
        if (TRAIN in present) == (EVAL in present):
            continue
        if EVAL in present:
            present[TRAIN] = present.pop(EVAL)
        misfits = _misfits(data_dir, present)
        if not misfits:
            return Layout(candidate.name, present, hash_split=True)
        problems.append(misfits[0])
    if problems:
        raise InputError("\n".join(dict.fromkeys(problems)))

    expected = " or ".join(
        dict.fromkeys(
            ", ".join(
                files.pattern
                for split, files in layout.splits.items()
                if not (published and split == TEST)
            )
            for layout in task.layouts
        )
    )
    there = sorted(os.listdir(data_dir))
    raise InputError(
        f"{data_dir}: the files of task {task.name} are missing: expected {expected}; the folder "
        f"holds {', '.join(there[:8]) or 'nothing'}{', ...' if len(there) > 8 else ''}"
    )


def _present(layout: Layout, data_dir: str, span: str | None, window: int) -> dict[str, TsvFiles]:
    """Returns the splits of which there are files; of those in spans, the spans to read."""
    present = {split: files for split, files in layout.splits.items() if files.find(data_dir)}
    patterns = [files.pattern for files in layout.splits.values() if has_spans(files.pattern)]
    if not patterns:
        if span is not None or window != 1:
            raise InputError(
                "--span and --window are for files that arrive over time, whose patterns hold "
                "{SPAN} or {YYYY}, {MM} and {DD}"
            )
        return present
    if not present:
        return {}
    spans = choose_spans(patterns, data_dir, last=span, window=window)
    return {
        split: dataclasses.replace(files, spans=spans if has_spans(files.pattern) else ())
        for split, files in present.items()
    }


def _misfits(data_dir: str, splits: Mapping[str, TsvFiles]) -> list[str]:
    reasons = (_misfit(path, files) for files in splits.values() for path in files.find(data_dir))
    return [reason for reason in reasons if reason]
