r"""Files that arrive over time: which day or number each belongs to.

A pattern names a *span* by `{SPAN}` (a number) or by `{YYYY}`, `{MM}` and `{DD}` (a day), and
within it, where files are delivered anew, a `{VERSION}`. `{SPAN:4}` and `{VERSION:4}` have four
digits. TFX writes them in the same way, and counts days from 1970-01-01.
"""

import datetime
import glob
import os
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from bert_tfx.schema.errors import InputError

_SPEC = re.compile(r"\{(YYYY|MM|DD|SPAN|VERSION)(?:(?<=N):([1-9]))?\}")
_DATE = ("YYYY", "MM", "DD")
_DIGITS = {"YYYY": "4", "MM": "2", "DD": "2"}
_EPOCH = datetime.date(1970, 1, 1)


class Span(NamedTuple):
    """A span and, where there are several deliveries of it, which one.

    Attributes:
        number: From 0; of a day, the days since 1970-01-01.
        version: From 0, or None where the pattern has no `{VERSION}`.
    """

    number: int
    version: int | None = None


def check_pattern(pattern: str) -> None:
    """Checks what a pattern says of spans.

    Raises:
        InputError: If it names one in part, twice or in two ways, or a version without a span.
    """
    names = [name for name, _ in _SPEC.findall(pattern)]
    date = [name for name in names if name in _DATE]
    if len(set(names)) < len(names):
        problem = "a part of it stands there twice"
    elif date and len(date) < len(_DATE):
        problem = "a day is {YYYY}, {MM} and {DD}, all three"
    elif date and "SPAN" in names:
        problem = "a span is a number or a day, not both"
    elif names == ["VERSION"]:
        problem = "{VERSION} is one of a {SPAN} or of a day"
    else:
        return
    raise InputError(f"file pattern {pattern!r}: {problem}")


def has_spans(pattern: str) -> bool:
    """Returns whether a pattern names a span."""
    return _SPEC.search(pattern) is not None


def is_daily(pattern: str) -> bool:
    """Returns whether a pattern's spans are days."""
    return "{DD}" in pattern


def match_files(pattern: str, data_dir: str) -> list[tuple[str, Span | None]]:
    """Finds the files that fit a pattern.

    Args:
        pattern: A glob relative to `data_dir`.
        data_dir: The folder.

    Returns:
        The files, sorted, each with its span; None where the pattern names none.
    """
    stars = _SPEC.sub("*", pattern)
    paths = sorted(glob.glob(os.path.join(glob.escape(data_dir), stars)))
    if not has_spans(pattern):
        return [(path, None) for path in paths]
    regex = re.compile(_regex(pattern))
    found: list[tuple[str, Span | None]] = []
    for path in paths:
        # As the glob made it: relative, or, for a pattern that is absolute, as it stands.
        fits = regex.fullmatch(path.removeprefix(os.path.join(data_dir, "")))
        span = _span_of(fits.groupdict()) if fits else None
        if span is not None:
            found.append((path, span))
    return found


def choose_spans(
    patterns: Sequence[str], data_dir: str, *, last: str | None = None, window: int = 1
) -> tuple[Span, ...]:
    """Chooses the spans to read: the newest ones that have arrived in full.

    Args:
        patterns: One for each split whose files arrive in spans. A span of which one of them has no
            file has not arrived.
        data_dir: The folder.
        last: The newest span to read, a number or a day (2026-01-31); by default the newest there
            is.
        window: So many spans are read, or fewer where there are not so many.

    Returns:
        The spans, oldest first, each in its newest version.

    Raises:
        InputError: If there is none, `last` is not there, or some patterns name days and others
            numbers.
    """
    if len({is_daily(pattern) for pattern in patterns}) > 1:
        raise InputError(
            f"file patterns {', '.join(map(repr, patterns))}: spans are days in all of them, or "
            "numbers in all"
        )
    daily = is_daily(patterns[0])
    arrived = _in_full(
        [
            {span for _, span in match_files(pattern, data_dir) if span is not None}
            for pattern in patterns
        ]
    )
    if not arrived:
        raise InputError(f"{data_dir}: no span has files for each of {', '.join(patterns)}")
    there = sorted(arrived)
    newest = there[-1] if last is None else parse_span(last, daily=daily)
    if newest not in arrived:
        raise InputError(
            f"{data_dir}: span {last} is not there, or not for each of {', '.join(patterns)}; "
            f"there are {_some(there, daily=daily)}"
        )
    chosen = [number for number in there if number <= newest][-window:]
    return tuple(arrived[number] for number in chosen)


def parse_span(text: str, *, daily: bool) -> int:
    """Reads a span's number or day.

    Args:
        text: Digits, or `YYYY-MM-DD`.
        daily: Whether it must be a day.

    Returns:
        The number.

    Raises:
        InputError: If it is malformed.
    """
    try:
        if daily:
            return (datetime.date.fromisoformat(text) - _EPOCH).days
        if text.isascii() and text.isdigit():
            return int(text)
    except ValueError:
        pass
    wanted = "a day, such as 2026-01-31" if daily else "a number"
    raise InputError(f"span {text!r}: must be {wanted}, as the file pattern says")


def format_span(number: int, *, daily: bool) -> str:
    """Writes a span's number as `parse_span` reads it."""
    return (_EPOCH + datetime.timedelta(number)).isoformat() if daily else str(number)


def _in_full(arrived: Sequence[set[Span]]) -> dict[int, Span]:
    """Returns the spans that each pattern has, each in the newest version that they all have."""
    full = {}
    for number in set.intersection(*({span.number for span in spans} for spans in arrived)):
        versions = [{s.version for s in spans if s.number == number} for spans in arrived]
        # A pattern that names no version has the same files for all of them.
        counted = [found for found in versions if found != {None}]
        common = set.intersection(*counted) if counted else {None}
        if common:
            full[number] = Span(number, max(common, key=lambda version: version or 0))
    return full


def _some(numbers: Iterable[int], *, daily: bool) -> str:
    names = [format_span(number, daily=daily) for number in numbers]
    return ", ".join(names if len(names) <= 6 else [*names[:3], "...", *names[-2:]])


def _regex(pattern: str) -> str:
    """Translates a glob; the parts of a span become groups."""
    parts, start = [], 0
    for spec in _SPEC.finditer(pattern):
        name, digits = spec.groups()
        parts.append(_glob_regex(pattern[start : spec.start()]))
        count = digits or _DIGITS.get(name)
        parts.append(f"(?P<{name}>[0-9]{{{count}}})" if count else f"(?P<{name}>[0-9]+)")
        start = spec.end()
    return "".join([*parts, _glob_regex(pattern[start:])])


def _glob_regex(text: str) -> str:
    pieces = re.split(r"(\*|\?|\[!?[^]]+\])", text)
    return "".join(map(_piece_regex, pieces))


def _piece_regex(piece: str) -> str:
    if piece in ("*", "?"):
        return "[^/]*" if piece == "*" else "[^/]"
    if piece.startswith("[") and piece.endswith("]"):
        inner = piece[1:-1].replace("\\", r"\\").replace("[", r"\[")
        return f"[{'^' + inner[1:] if inner.startswith('!') else inner}]"
    return re.escape(piece)


def _span_of(groups: dict[str, str]) -> Span | None:
    """Returns the span that a name's digits say, or None where there is no such day."""
    version = int(groups["VERSION"]) if "VERSION" in groups else None
    if "SPAN" in groups:
        return Span(int(groups["SPAN"]), version)
    try:
        day = datetime.date(*(int(groups[name]) for name in _DATE))
    except ValueError:
        return None
    return Span((day - _EPOCH).days, version)
