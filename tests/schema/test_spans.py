import datetime
import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_tfx.schema.errors import InputError
from bert_tfx.schema.spans import (
    Span,
    check_pattern,
    choose_spans,
    format_span,
    match_files,
    parse_span,
)

DAY = "{YYYY}-{MM}-{DD}"


def touch(folder: pathlib.Path, *names: str) -> str:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x\t1\n")
    return str(folder)


def day(text: str) -> int:
    return (datetime.date.fromisoformat(text) - datetime.date(1970, 1, 1)).days


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("{SPAN}/{SPAN}.tsv", "twice"),
        ("{YYYY}/train.tsv", "all three"),
        ("{YYYY}-{MM}-{DD}/{SPAN}.tsv", "not both"),
        ("{VERSION}/train.tsv", "one of a"),
    ],
)
def test_a_pattern_names_a_span_in_full(pattern, problem):
    with pytest.raises(InputError, match=problem):
        check_pattern(pattern)


@pytest.mark.parametrize(
    "pattern", ["train.tsv", "{SPAN}.tsv", DAY, "{SPAN:4}/{VERSION:2}.tsv", "{x}/*.tsv"]
)
def test_whole_patterns_are_taken(pattern):
    check_pattern(pattern)


def test_files_know_their_span(tmp_path):
    folder = touch(
        tmp_path / "a [b]", "s-7/v1/x1.tsv", "s-7/v10/x.tsv", "s-012/v2/x.tsv", "s-/v1/x.tsv"
    )
    found = match_files("s-{SPAN}/v{VERSION}/x*.tsv", folder)
    assert [(pathlib.Path(path).parts[-3], span) for path, span in found] == [
        ("s-012", Span(12, 2)),
        ("s-7", Span(7, 1)),
        ("s-7", Span(7, 10)),
    ]


def test_digits_are_counted_where_the_pattern_says_how_many(tmp_path):
    folder = touch(tmp_path, "0012.tsv", "12.tsv", "12345.tsv")
    assert [span for _, span in match_files("{SPAN:4}.tsv", folder)] == [Span(12)]


def test_a_day_that_is_none_is_no_span(tmp_path):
    folder = touch(tmp_path, "2026-02-30.tsv", "2026-02-28.tsv", "2026-2-1.tsv")
    found = match_files(f"{DAY}.tsv", folder)
    assert [span for _, span in found] == [Span(day("2026-02-28"))]


@pytest.mark.parametrize("pattern", ["[ab]-{SPAN}.tsv", "[!c]-{SPAN}.tsv", "?-{SPAN}.tsv"])
def test_globs_keep_their_meaning(tmp_path, pattern):
    folder = touch(tmp_path, "a-1.tsv", "c-2.tsv")
    expected = [Span(1), Span(2)] if pattern.startswith("?") else [Span(1)]
    assert [span for _, span in match_files(pattern, folder)] == expected


def test_the_newest_spans_are_chosen(tmp_path):
    folder = touch(tmp_path, *(f"{number}/x.tsv" for number in (1, 2, 9, 10)))
    assert choose_spans(["{SPAN}/x.tsv"], folder) == (Span(10),)
    assert choose_spans(["{SPAN}/x.tsv"], folder, window=3) == (Span(2), Span(9), Span(10))
    assert choose_spans(["{SPAN}/x.tsv"], folder, window=9, last="2") == (Span(1), Span(2))


def test_a_span_that_has_not_arrived_in_full_waits(tmp_path):
    folder = touch(tmp_path, "1/a.tsv", "1/b.tsv", "2/a.tsv")
    assert choose_spans(["{SPAN}/a.tsv", "{SPAN}/b.tsv"], folder) == (Span(1),)
    with pytest.raises(InputError, match=r"span 2 is not there, or not for each .* there are 1$"):
        choose_spans(["{SPAN}/a.tsv", "{SPAN}/b.tsv"], folder, last="2")


def test_each_span_is_read_in_its_newest_version(tmp_path):
    folder = touch(tmp_path, "1/v1.tsv", "1/v2.tsv", "2/v1.tsv", "1/b.tsv", "2/b.tsv")
    patterns = ["{SPAN}/v{VERSION}.tsv", "{SPAN}/b.tsv"]
    assert choose_spans(patterns, folder, window=2) == (Span(1, 2), Span(2, 1))


def test_a_version_counts_where_all_have_it(tmp_path):
    folder = touch(tmp_path, "1/a1.tsv", "1/a2.tsv", "1/b1.tsv", "2/a1.tsv", "2/b2.tsv")
    patterns = ["{SPAN}/a{VERSION}.tsv", "{SPAN}/b{VERSION}.tsv"]
    assert choose_spans(patterns, folder, window=2) == (Span(1, 1),)


def test_no_span_and_mixed_spans_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"no span has files for each of \{SPAN\}\.tsv"):
        choose_spans(["{SPAN}.tsv"], str(tmp_path))
    with pytest.raises(InputError, match="days in all of them, or numbers in all"):
        choose_spans(["{SPAN}.tsv", f"{DAY}.tsv"], str(tmp_path))


@pytest.mark.parametrize(
    ("text", "daily", "wanted"),
    [("7", True, "a day, such as"), ("2026-01-31", False, "a number"), ("²", False, "a number")],
)
def test_a_span_is_named_as_the_pattern_says(text, daily, wanted):
    with pytest.raises(InputError, match=f"must be {wanted}"):
        parse_span(text, daily=daily)


@given(st.integers(0, 50_000), st.booleans())
def test_spans_are_read_as_they_are_written(number, daily):
    assert parse_span(format_span(number, daily=daily), daily=daily) == number


@given(st.dates(datetime.date(1970, 1, 1), datetime.date(2199, 12, 31)))
def test_days_are_counted_as_tfx_counts_them(date):
    utils = pytest.importorskip("tfx.components.example_gen.utils")
    expected = utils.date_to_span_number(date.year, date.month, date.day)
    assert parse_span(date.isoformat(), daily=True) == expected
