"""Texts that stand more than once: duplicates, leakage, contradictory labels.

Rows meet by a hash of their normalized text, so no worker holds more than the rows of one text, and
of those only what tells them apart.
"""

import bisect
import dataclasses
import gzip
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import tensorflow as tf
from tfx.dsl.io import fileio

from bert_tfx.components.data_gate.checks import (
    CONTRADICTIONS,
    DUPLICATES,
    LEAKAGE,
    LEAKED_EVAL_ROWS_FILE,
)
from bert_tfx.schema import files
from bert_tfx.schema.rows import normalize_text
from bert_tfx.schema.tasks import EVAL, LABEL, SOURCE_ROW, TRAIN

MAX_EXAMPLES = 10
# So much of a text is enough to recognize it.
_MAX_CHARS = 200
# A class index, so no other number will do.
_NO_LABEL = -1
_LEAKED = "leaked"
_FOUND = "found"
_SCRATCH = "scratch"
_READ_ROWS = 1024

# A row's file and line, which sort as a person would sort them.
Place = tuple[bytes, int]
# Split, label, source_row, hash of the exact text, whether a pair was turned round to normalize it,
# and the text where the report may hold text.
Row = tuple[str, int, bytes, bytes, bool, str | None]
# A check and the splits it compares.
Where = tuple[str, tuple[str, ...]]
# A row, whether it is the same byte for byte as the other, the other row, the text.
Finding = tuple[Place, bool, Place, str | None]


@dataclasses.dataclass(frozen=True)
class Found:
    """What was found of one check in one split, or between two.

    Attributes:
        count: Rows.
        exact: Those of them that are the same as another byte for byte.
        examples: The first ten, by file and line, as `Result.examples` has them.
    """

    count: int = 0
    exact: int = 0
    examples: Sequence[Mapping[str, str]] = ()


def find_repeats(
    pipeline: beam.Pipeline,
    files: Mapping[str, Sequence[str]],
    text_features: Sequence[str],
    directory: str,
    *,
    with_text: bool,
) -> None:
    """Adds the search to a Beam pipeline; `read_repeats` reads what it found once that has run.

    Args:
        pipeline: What the search runs in.
        files: The records of each split (gzipped TFRecords of tf.Example).
        text_features: The features that make up a row's text.
        directory: Where results go: a folder that every worker can write to.
        with_text: Whether examples hold text.
    """
    fileio.makedirs(os.path.join(directory, _SCRATCH))
    judged = (
        pipeline
        | beam.Create([(split, path) for split, paths in files.items() for path in paths])
        # Reading is the work: files must not stay on one worker because they were listed there.
        | beam.Reshuffle()
        | "Read" >> beam.ParDo(_ReadRows(text_features, with_text=with_text))
        | "MeetByText" >> beam.GroupByKey()
        | "Judge" >> beam.ParDo(JudgeText()).with_outputs(_LEAKED, main=_FOUND)
    )
    found = judged[_FOUND] | "First" >> beam.CombinePerKey(FirstFindings())
    _ = (
        (
            found | "KeyFound" >> beam.Map(lambda element: (_FOUND, element)),
            judged[_LEAKED] | "KeyLeaked" >> beam.Map(lambda source_row: (_LEAKED, source_row)),
        )
        | beam.Flatten()
        | "Gather" >> beam.GroupByKey()
        | "Write" >> beam.ParDo(_Write(directory))
    )


def read_repeats(directory: str) -> dict[Where, Found]:
    """Returns what `find_repeats` found, and removes its notes; the leaked rows stay.

    Args:
        directory: The folder that was given to it.

    Returns:
        For each check and split, or pair of splits (`train` first), that has any.
    """
    scratch = os.path.join(directory, _SCRATCH)
    notes = os.path.join(scratch, _FOUND)
    found = {}
    if fileio.exists(notes):
        with fileio.open(notes) as file:
            for check, splits, *facts in json.load(file):
                found[check, tuple(splits)] = Found(*facts)
    if not fileio.exists(os.path.join(directory, LEAKED_EVAL_ROWS_FILE)):
        _write_leaked(directory, [])
    fileio.rmtree(scratch)
    return found


def read_leaked_eval_rows(directory: str) -> frozenset[bytes]:
    """Returns `source_row` of every eval row whose text stands in train.

    Args:
        directory: The folder of a `DataGateReport`.
    """
    with fileio.open(os.path.join(directory, LEAKED_EVAL_ROWS_FILE), "rb") as file:
        return frozenset(gzip.decompress(file.read()).splitlines())


class _ReadRows(beam.DoFn):
    """Yields a row's key and what is known of it for each row of a file."""

    def __init__(self, text_features: Sequence[str], *, with_text: bool) -> None:
        self._text_features = text_features
        self._with_text = with_text

    def process(self, element: tuple[str, str]) -> Iterator[tuple[bytes, Row]]:
        """Reads the records of `element`: a split and a file."""
        split, path = element
        records = tf.data.TFRecordDataset(path, "GZIP").batch(_READ_ROWS)
        for batch in records.as_numpy_iterator():
            for record in batch:
                features = tf.train.Example.FromString(record).features.feature
                yield keyed_row(
                    split,
                    # A text that is missing is the schema's business.
                    [b"".join(features[name].bytes_list.value) for name in self._text_features],
                    (*features[LABEL].int64_list.value, _NO_LABEL)[0],
                    features[SOURCE_ROW].bytes_list.value[0],
                    with_text=self._with_text,
                )


def keyed_row(
    split: str, texts: Sequence[bytes], label: int, source_row: bytes, *, with_text: bool
) -> tuple[bytes, Row]:
    """Returns the key by which rows of the same normalized text meet, and the row.

    Args:
        split: The row's split.
        texts: Its text or pair, UTF-8. Pairs meet in either order.
        label: Class index, or -1.
        source_row: Where it stands.
        with_text: Whether the row carries its text along.
    """
    decoded = [text.decode() for text in texts]
    normal = [normalize_text(text) for text in decoded]
    ordered = sorted(normal)
    # No text holds a tab or a line end: files are cut there.
    key = hashlib.blake2b("\n".join(ordered).encode(), digest_size=16).digest()
    exact = hashlib.blake2b(b"\t".join(texts), digest_size=8).digest()
    text = "\t".join(text[:_MAX_CHARS] for text in decoded) if with_text else None
    return key, (split, label, source_row, exact, ordered != normal, text)


class JudgeText(beam.DoFn):
    """Says what is wrong with the rows of one normalized text.

    Yields `(where, finding)`, and tagged `leaked` the `source_row` of eval rows that leak. The rows
    are read twice and never held: the same text may stand in millions of them.
    """

    def process(self, element: tuple[bytes, Iterable[Row]]) -> Iterator[Any]:
        """Judges the text `element`: its key and its rows."""
        _, rows = element
        firsts = _Firsts(rows)
        if firsts.single:
            return
        for split, label, source_row, exact, turned, text in rows:
            place = _place(source_row)

            first = firsts.text[split, turned]
            same = firsts.exact[split, exact]
            if place != first:
                repeated = place != same
                yield (
                    (DUPLICATES, (split,)),
                    (place, repeated, same if repeated else first, text),
                )

            if split != TRAIN and firsts.train:
                in_train = firsts.exact.get((TRAIN, exact))
                other = in_train or firsts.train
                yield (LEAKAGE, (TRAIN, split)), (place, bool(in_train), other, text)
                if split == EVAL:
                    yield beam.pvalue.TaggedOutput(_LEAKED, source_row)

            # A pair the other way round may well have another label.
            for against in dict.fromkeys((split, TRAIN)) if label != _NO_LABEL else ():
                labels = firsts.labels.get((against, turned), {})
                others = [first for other, first in labels.items() if other != label]
                if others:
                    where = (split,) if against == split else (against, split)
                    yield (CONTRADICTIONS, where), (place, False, min(others), text)


class _Firsts:
    """The first rows of one text, by file and line.

    Attributes:
        text: In a split, by whether a pair is turned round.
        exact: In a split, by the hash of the exact text.
        labels: In a split, by whether a pair is turned round, of each label.
        train: In train, or None.
        single: Whether the text has one row only.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        self.text: dict[tuple[str, bool], Place] = {}
        self.exact: dict[tuple[str, bytes], Place] = {}
        self.labels: dict[tuple[str, bool], dict[int, Place]] = {}
        count = 0
        for split, label, source_row, exact, turned, _ in rows:
            count += 1
            place = _place(source_row)
            _keep_first(self.text, (split, turned), place)
            _keep_first(self.exact, (split, exact), place)
            if label != _NO_LABEL:
                _keep_first(self.labels.setdefault((split, turned), {}), label, place)
        self.single = count == 1
        self.train = min((p for (s, _), p in self.text.items() if s == TRAIN), default=None)


def _keep_first(firsts: dict[Any, Place], key: Any, place: Place) -> None:
    firsts[key] = min(firsts.get(key, place), place)


class FirstFindings(beam.CombineFn):
    """Counts findings and keeps the first ten, by file and line: the same on every runner."""

    def create_accumulator(self) -> tuple[int, int, list[Finding]]:
        """Returns `(count, exact, findings)` of nothing."""
        return 0, 0, []

    def add_input(
        self, accumulator: tuple[int, int, list[Finding]], finding: Finding
    ) -> tuple[int, int, list[Finding]]:
        """Counts a finding."""
        count, exact, findings = accumulator
        if len(findings) < MAX_EXAMPLES or finding[0] < findings[-1][0]:
            bisect.insort(findings, finding, key=lambda other: other[0])
            del findings[MAX_EXAMPLES:]
        return count + 1, exact + finding[1], findings

    def merge_accumulators(
        self, accumulators: Iterable[tuple[int, int, list[Finding]]]
    ) -> tuple[int, int, list[Finding]]:
        """Adds up what workers counted."""
        counts, exacts = 0, 0
        findings: list[Finding] = []
        for count, exact, some in accumulators:
            counts += count
            exacts += exact
            findings = sorted([*findings, *some], key=lambda finding: finding[0])[:MAX_EXAMPLES]
        return counts, exacts, findings

    def extract_output(
        self, accumulator: tuple[int, int, list[Finding]]
    ) -> tuple[int, int, list[Finding]]:
        """Returns `(count, exact, findings)`."""
        return accumulator


class _Write(beam.DoFn):
    """Writes what was found, by way of files the only thing every runner hands back."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def process(self, element: tuple[str, Iterable[Any]]) -> None:
        """Writes the findings or the leaked rows of `element`."""
        kind, values = element
        if kind == _LEAKED:
            _write_leaked(self._directory, sorted(values, key=_place))
            return
        notes = [
            (check, splits, count, exact, [_example(finding) for finding in findings])
            for (check, splits), (count, exact, findings) in values
        ]
        files.write(os.path.join(self._directory, _SCRATCH, _FOUND), json.dumps(notes))


def _write_leaked(directory: str, source_rows: Iterable[bytes]) -> None:
    content = b"".join(source_row + b"\n" for source_row in source_rows)
    # Without a time, so that the same rows are the same bytes.
    files.write(os.path.join(directory, LEAKED_EVAL_ROWS_FILE), gzip.compress(content, mtime=0))


def _place(source_row: bytes) -> Place:
    file, _, line = source_row.rpartition(b":")
    return file, int(line)


def _source_row(place: Place) -> str:
    return f"{place[0].decode()}:{place[1]}"


def _example(finding: Finding) -> dict[str, str]:
    row, _, other, text = finding
    example = {"row": _source_row(row), "other_row": _source_row(other)}
    return example if text is None else example | {"text": text}
