import gzip
import io

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bert_tfx.schema.errors import InputError
from bert_tfx.schema.rows import (
    MAX_ROW_BYTES,
    Misfit,
    RowParser,
    falls_into_eval,
    normalize_text,
    parse_files,
    read_lines,
    read_rows,
)
from bert_tfx.schema.tasks import TsvFiles

# A machine may be busy with other things.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

FILES = TsvFiles("x.tsv", ("text_a", "label", "source"), ("Sentence", "Y", "From"))
parse = RowParser(FILES, ("bad", "good"))


def test_a_row_becomes_features_byte_for_byte():
    assert parse('a "b" 好 \u2028\u0085 \tgood\t'.encode()) == {
        "text_a": 'a "b" 好 \u2028\u0085 '.encode(),
        "label": 1,
        "source": b"",
    }


@pytest.mark.parametrize(
    ("row", "column", "reason"),
    [
        (b"text\tgood", "", "expected 3 columns (Sentence, Y, From), found 2"),
        (b"text\tgood\tweb\t", "", "expected 3 columns (Sentence, Y, From), found 4"),
        (b"", "", "expected 3 columns (Sentence, Y, From), found 1"),
        (b"text\tfine\tweb", "Y", "unknown label 'fine', known are 'bad', 'good'"),
        (b"text\tgood \tweb", "Y", "unknown label 'good ', known are 'bad', 'good'"),
        (b"text\tGOOD\tweb", "Y", "unknown label 'GOOD', known are 'bad', 'good'"),
        (b"text\t\tweb", "Y", "unknown label '', known are 'bad', 'good'"),
        (b"text\t" + b"x" * 99 + b"\tweb", "Y", f"unknown label '{'x' * 37}...', known are"),
        (b"te\xffxt\tgood\tweb", "Sentence", "not UTF-8: byte 0xff at position 2"),
        (b"\xed\xa0\x80\tgood\tweb", "Sentence", "not UTF-8: byte 0xed at position 0"),
        (b"text\t\xfe\tweb", "Y", "not UTF-8: byte 0xfe at position 0"),
        (b"text\tgood\t\xc3", "From", "not UTF-8: byte 0xc3 at position 0"),
        (b"te\0xt\tgood\tweb", "Sentence", "holds a NUL byte"),
        (b"text\tgood\t\0", "From", "holds a NUL byte"),
        (b"\tgood\tweb", "Sentence", "the text is empty"),
        (" \u3000\u2028".encode() + b"\tgood\tweb", "Sentence", "the text is empty"),
        (b"x" * (MAX_ROW_BYTES - 8) + b"\tgood\tweb", "", "longer than 262,144 bytes"),
    ],
)
def test_a_row_that_does_not_fit_says_why(row, column, reason):
    misfit = parse(row)
    assert isinstance(misfit, Misfit)
    assert misfit.column == column
    assert misfit.reason.startswith(reason)


def test_the_longest_row_fits():
    row = b"x" * (MAX_ROW_BYTES - 9) + b"\tgood\tweb"
    assert len(row) == MAX_ROW_BYTES
    assert parse(row)["label"] == 1


def test_many_labels_are_not_all_named():
    parser = RowParser(FILES, tuple("abcdefgh"))
    assert parser(b"text\tz\tweb").reason.endswith("known are 'a', 'b', 'c', 'd', 'e', ...")


def test_without_header_features_name_the_columns():
    parser = RowParser(TsvFiles("x.tsv", ("text_a", "label"), None), ("0", "1"))
    assert parser(b"text\t7").column == "label"


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\n\r\0")).filter(
    str.strip
)


@unhurried
@given(rows=st.lists(st.tuples(texts, st.sampled_from(["bad", "good"]), texts)), crlf=st.booleans())
def test_any_text_survives_the_file(rows, crlf):
    end = "\r\n" if crlf else "\n"
    content = "".join("\t".join(row) + end for row in [FILES.header, *rows]).encode()
    read = [parse(row) for _, row in read_rows(read_lines(io.BytesIO(content)), FILES, "x")]
    assert read == [
        {"text_a": text.encode(), "label": ("bad", "good").index(label), "source": source.encode()}
        for text, label, source in rows
    ]


@unhurried
@given(st.binary().filter(lambda content: not content.startswith(b"\xef\xbb\xbf")))
def test_lines_end_at_line_feeds_only(content):
    lines = content.split(b"\n")
    if not lines[-1]:
        lines.pop()
    expected = [line.removesuffix(b"\r") for line in lines]
    assert list(read_lines(io.BytesIO(content))) == expected


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (b"a\nb\n", [(1, b"a"), (2, b"b")]),
        (b"a\nb", [(1, b"a"), (2, b"b")]),
        (b"a\nb\r", [(1, b"a"), (2, b"b")]),
        (b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n", [(1, b"a"), (2, b"\xef\xbb\xbfb")]),
        (b"a\n\n", [(1, b"a")]),
        (b"a\r\n\r\n\n", [(1, b"a")]),
        (b"a\n\n\nb\n\n", [(1, b"a"), (2, b""), (3, b""), (4, b"b")]),
        (b"a\r\rb\n", [(1, b"a\r\rb")]),
        (b"\n", []),
    ],
)
def test_rows_are_lines_but_for_a_blank_end(content, rows):
    files = TsvFiles("x.tsv", ("text_a", "label"), None)
    assert list(read_rows(read_lines(io.BytesIO(content)), files, "x")) == rows


def test_a_giant_line_is_never_held_whole():
    class Measured(io.BytesIO):
        longest = 0

        def readline(self, size):
            line = super().readline(size)
            self.longest = max(self.longest, len(line))
            return line

    giant = Measured(b"a\n" + b"x" * 5_000_000 + b"\nb\n")
    lines = list(read_lines(giant))
    assert (lines[0], lines[2], len(lines)) == (b"a", b"b", 3)
    assert MAX_ROW_BYTES < len(lines[1]) <= giant.longest < MAX_ROW_BYTES + 10


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
@pytest.mark.parametrize("excess", [-1, 0, 1, 2, 3])
def test_row_length_does_not_count_the_line_end(end, excess):
    line = b"x" * (MAX_ROW_BYTES + excess)
    (read, *rest) = read_lines(io.BytesIO(line + end + (b"y\n" if end else b"")))
    assert (len(read) > MAX_ROW_BYTES) == (excess > 0)
    assert rest == ([b"y"] if end else [])


# Which texts are the same.


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("Good  film", " good\u3000FILM\t"),
        ("Ｇｏｏｄ，１２％", "good,12%"),
        ("STRASSE", "straße"),
        ("ﬁne", "FINE"),
        ("房间 很 好", "房间很好"),
        ("用 USB 3.0 接口", "用USB 3.0接口"),
        ("ガス", "ｶﾞｽ"),
        ("İ", "i\u0307"),
    ],
)
def test_case_width_and_space_do_not_count(text, same):
    assert normalize_text(text) == normalize_text(same)


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("now here", "nowhere"),
        ("good", "good."),
        ("USB 3 0", "USB 30"),
        ("résumé", "resume"),
        ("好不", "不好"),
        ("カス", "ガス"),
    ],
)
def test_what_makes_another_text(text, other):
    assert normalize_text(text) != normalize_text(other)


@unhurried
@given(texts)
def test_a_normalized_text_is_its_own_normal_form(text):
    normal = normalize_text(text)
    assert normalize_text(normal) == normal
    assert normalize_text(f"\u3000{text} \t") == normal
    assert normal == normal.strip() and "  " not in normal


@unhurried
@given(texts, texts)
def test_a_space_beside_an_ideograph_does_not_count(a, b):
    assert normalize_text(f"{a} 好 {b}") == normalize_text(f"{a}好{b}")


# The hash split.


@unhurried
@given(texts, texts, st.floats(0.01, 0.99))
def test_equal_texts_fall_on_one_side(a, b, fraction):
    side = falls_into_eval([a, b], fraction)
    assert falls_into_eval([b, a], fraction) == side
    assert falls_into_eval([f" {a}  ", b], fraction) == side


def test_case_width_and_space_do_not_make_another_text():
    variants = ["Ｇｏｏｄ  film", "good film ", "GOOD\u3000FILM"]
    for number in range(50):
        sides = {falls_into_eval([f"{v} {number}"], 0.5) for v in variants}
        assert len(sides) == 1


def test_eval_gets_its_share():
    held_out = sum(falls_into_eval([f"text {n}"], 0.2) for n in range(5000))
    assert 900 < held_out < 1100
    # A larger share only adds.
    for n in range(500):
        if falls_into_eval([f"text {n}"], 0.2):
            assert falls_into_eval([f"text {n}"], 0.3)


# Files.


def test_files_are_read_in_order_plain_and_gzipped(tmp_path):
    content = b"Sentence\tY\tFrom\nfine\tgood\tweb\nodd row\n"
    (tmp_path / "b.tsv").write_bytes(content)
    (tmp_path / "a.tsv.gz").write_bytes(gzip.compress(content))
    files = TsvFiles("*.tsv*", FILES.columns, FILES.header)
    fine = {"text_a": b"fine", "label": 1, "source": b"web"}
    odd = Misfit("", "expected 3 columns (Sentence, Y, From), found 1")
    assert list(parse_files(files, ("bad", "good"), str(tmp_path))) == [
        (str(tmp_path / name), line, row)
        for name in ("a.tsv.gz", "b.tsv")
        for line, row in ((2, fine), (3, odd))
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.tsv", b"", "the file is empty"),
        ("x.tsv", b"a\tb\n", "line 1: expected the header"),
        ("x.tsv.gz", b"no gzip", "cannot be read: Not a gzipped file"),
        ("x.tsv.gz", gzip.compress(b"Sentence\tY\tFrom\n" * 99, mtime=0)[:-9], "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    files = TsvFiles(name, FILES.columns, FILES.header)
    with pytest.raises(InputError, match=message) as error:
        list(parse_files(files, ("bad", "good"), str(tmp_path)))
    assert str(error.value).startswith(str(tmp_path / name))
