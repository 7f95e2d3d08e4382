import fcntl
import gzip
import json

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bert_tfx.schema.errors import InputError
from bert_tfx.serving.client import Client
from bert_tfx.serving.files.batch_files import Written, predict_file
from bert_tfx.serving.protocol import errors


@pytest.fixture
def client(server):
    with Client(server.target, "model", timeout=10, batch_size=4, in_flight=3) as client:
        yield client


@pytest.fixture
def source(tmp_path):
    """A function that writes the input; returns its path."""

    def source(content: bytes, name: str = "rows.tsv") -> str:
        path = tmp_path / name
        path.write_bytes(content)
        return str(path)

    return source


def numbered(count: int) -> bytes:
    return b"id\ttext_a\n" + b"".join(b"r%d\t%d of 100\n" % (n, n) for n in range(count))


def predicted(count: int) -> list[str]:
    """The lines that belong to `numbered`."""
    lines = ["id\ttext_a\tprediction\tprobability\tmodel_version"]
    for n in range(count):
        p = n % 100 / 100
        label, p = ("good", p) if p > 0.5 else ("bad", 1 - p)
        lines.append(f"r{n}\t{n} of 100\t{label}\t{p:.6f}\t7")
    return lines


def lines_of(path) -> list[str]:
    content = path.read_bytes()
    assert content.endswith(b"\n")
    return content.decode().removesuffix("\n").split("\n")


@pytest.fixture
def target(tmp_path):
    return tmp_path / "answers.tsv"


def left(target) -> set[str]:
    return {p.name for p in target.parent.iterdir() if p.name.startswith(target.name)}


def test_each_line_gets_three_columns(client, source, target):
    seen = []
    written = predict_file(
        client, source(numbered(300)), str(target), progress=lambda *at: seen.append(at)
    )
    assert written == Written(rows=300, resumed=0, rejects=0, first_rejects=())
    assert lines_of(target) == predicted(300)
    assert left(target) == {target.name}
    assert seen[0] == (0, 300)
    assert seen[-1] == (300, 300)
    assert len(seen) > 4


def test_lines_stay_as_they_are(client, source, target):
    rows = ['\u2028 good\t"x\t  spaced ', "很 good\t\t\u0085'", 'bad "\t"\t']
    content = "\ufeff" + "".join(f"{line}\r\n" for line in ["text_a\ta\tb", *rows]) + "\n\n"
    predict_file(client, source(content.encode()), str(target))
    assert [line.rpartition("\t")[0].rpartition("\t")[0] for line in lines_of(target)] == [
        "text_a\ta\tb\tprediction",
        rows[0] + "\tgood",
        rows[1] + "\tgood",
        rows[2] + "\tbad",
    ]


def test_pairs_where_the_model_takes_pairs(server, client, source, target):
    server.pairs = True
    path = source(b"q2\tlabel\tq1\nzwei\t1\tgood\n")
    predict_file(client, path, str(target), text_a="q1", text_b="q2")
    assert lines_of(target)[1] == "zwei\t1\tgood\tgood\t1.000000\t7"
    (request,) = server.requests
    assert request.inputs["text_b"].string_val == [b"zwei"]


def test_a_second_text_is_not_sent_where_the_model_takes_one(server, client, source, target):
    predict_file(client, source(b"text_a\ttext_b\ngood\tzwei\n"), str(target))
    assert "text_b" not in server.requests[0].inputs


def test_files_without_a_header(server, client, source, target):
    predict_file(client, source(b"good\t1\nbad\t0\n"), str(target), has_header=False)
    assert lines_of(target) == ["good\t1\tgood\t1.000000\t7", "bad\t0\tbad\t1.000000\t7"]
    target.unlink()
    predict_file(client, source(b"1\tgood\n"), str(target), has_header=False, text_a="2")
    assert server.requests[-1].inputs["text_a"].string_val == [b"good"]


def test_a_gzipped_file(client, source, target):
    predict_file(client, source(gzip.compress(numbered(10)), "rows.tsv.gz"), str(target))
    assert lines_of(target) == predicted(10)


# Rows that do not fit.

MISFITS = b"text_a\tx\ngood\t1\nno tab\n \t2\n\xff\t3\nbad\t4\n"


def test_rows_that_do_not_fit_stop_before_anything_is_asked(server, client, source, target):
    path = source(MISFITS)
    with pytest.raises(InputError) as caught:
        predict_file(client, path, str(target), max_rejects=2)
    assert str(caught.value).split("\n") == [
        "3 rows do not fit (--max-rejects allows 2). The first:",
        f"  {path}, line 3: expected 2 columns (text_a, x), found 1",
        f"  {path}, line 4, text_a: the text is empty",
        f"  {path}, line 5, text_a: not UTF-8: byte 0xff at position 0",
    ]
    assert server.requests == []
    assert left(target) == set()


def test_rows_that_do_not_fit_may_be_left_out(client, source, target):
    written = predict_file(client, source(MISFITS), str(target), max_rejects=3)
    assert (written.rows, written.rejects, len(written.first_rejects)) == (2, 3, 3)
    assert [line[:6] for line in lines_of(target)] == ["text_a", "good\t1", "bad\t4\t"]


# Going on.


def fail_after(server, requests: int) -> None:
    """Lets the server fail for good after some requests."""
    failure = server.abort(grpc.StatusCode.INTERNAL)
    server.script = [lambda request, _: server.answer(request)] * requests + [failure] * 10


def stopped(server, client, path, target, requests: int = 40) -> None:
    """Leaves a partial output behind."""
    fail_after(server, requests)
    with pytest.raises(errors.ServerFailed):
        predict_file(client, path, str(target))
    server.script = []


@pytest.mark.parametrize("requests", [0, 1, 40])
def test_a_stopped_run_goes_on(server, client, source, target, requests):
    path = source(numbered(300))
    stopped(server, client, path, target, requests)
    assert left(target) == {f"{target.name}.partial", f"{target.name}.partial.json"}
    asked = len(server.requests)
    written = predict_file(client, path, str(target))
    assert lines_of(target) == predicted(300)
    assert left(target) == {target.name}
    if requests == 40:
        assert written.resumed >= 4 * 37
        # Those that were under way when it stopped may come to the server late.
        needed = -(-(300 - written.resumed) // 4)
        assert needed <= len(server.requests) - asked <= needed + 4


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_a_partial_file_cut_anywhere_is_mended(server, client, source, target, data):
    path = source(numbered(30))
    whole = "".join(f"{line}\n" for line in predicted(30)).encode()
    stopped(server, client, path, target, 2)
    partial = target.with_name(f"{target.name}.partial")
    partial.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    predict_file(client, path, str(target))
    assert target.read_bytes() == whole
    target.unlink()


def test_rows_left_out_do_not_shift_what_goes_on(server, client, source, target):
    rows = numbered(100).split(b"\n")
    for place in (3, 40, 41, 90):
        rows.insert(place, b"broken")
    path = source(b"\n".join(rows))
    fail_after(server, 12)
    with pytest.raises(errors.ServerFailed):
        predict_file(client, path, str(target), max_rejects=4)
    server.script = []
    assert predict_file(client, path, str(target), max_rejects=4).resumed > 0
    assert lines_of(target) == predicted(100)


@pytest.mark.parametrize(
    ("content", "options"),
    [
        (numbered(301), {}),
        (numbered(300).replace(b"299 of", b"298 of"), {}),
        (numbered(300), {"text_a": "id"}),
        (numbered(300), {"asked_of": "another model"}),
    ],
)
def test_it_does_not_go_on_with_something_else(server, client, source, target, content, options):
    stopped(server, client, source(numbered(300)), target)
    partial = target.with_name(f"{target.name}.partial")
    before = partial.read_bytes()
    with pytest.raises(InputError, match="was begun for another input, other columns or another"):
        predict_file(client, source(content), str(target), **options)
    assert partial.read_bytes() == before


def test_a_partial_file_of_someone_else_is_left_alone(client, source, target):
    partial = target.with_name(f"{target.name}.partial")
    partial.write_bytes(b"mine\n")
    with pytest.raises(InputError, match="was begun for another input"):
        predict_file(client, source(numbered(3)), str(target))
    assert partial.read_bytes() == b"mine\n"


def test_two_do_not_write_the_same_file(client, source, target):
    with open(f"{target}.partial", "ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another process writes it"):
            predict_file(client, source(numbered(3)), str(target))


def test_a_finished_output_is_not_written_over(server, client, source, target):
    target.write_bytes(b"done\n")
    with pytest.raises(InputError, match="exists already; remove it"):
        predict_file(client, source(numbered(3)), str(target))
    assert target.read_bytes() == b"done\n"


def test_a_file_that_changes_meanwhile_is_noticed(server, client, source, target):
    path = source(numbered(100))

    def shorten(done, rows):
        if done == 0:
            source(numbered(50))

    with pytest.raises(InputError, match="was changed while it was read"):
        predict_file(client, path, str(target), progress=shorten)
    assert not target.exists()


# Mistakes.


@pytest.mark.parametrize(
    ("content", "options", "pairs", "message"),
    [
        (b"", {}, False, "rows.tsv, line 1: is empty"),
        (b"text_a\n", {}, False, "rows.tsv: there is no row to predict"),
        (
            b"review\nx\n",
            {},
            False,
            "none of the column 'text_a' .* --text-a names .* 'review'",
        ),
        (b"a\ta\nx\ty\n", {"text_a": "a"}, False, "more than one of the column 'a'"),
        (b"text_a\nx\n", {}, True, "none of the column 'text_b' for the model's text_b; --text-b"),
        (b"text_a\nx\n", {"text_b": "text_a"}, True, "--text-b: column 'text_a' is the other"),
        (b"text_a\tb\nx\ty\n", {"text_b": "b"}, False, "--text-b: the model takes single texts"),
        (b"x\n", {"has_header": False, "text_a": "2"}, False, "none of the column '2' .* of '1'"),
        (b"text_a\tprediction\nx\ty\n", {}, False, "has a column prediction already"),
        (b"\xff\n", {}, False, "line 1: not UTF-8 at byte 0"),
    ],
)
def test_columns_that_do_not_fit(server, client, source, target, content, options, pairs, message):
    server.pairs = pairs
    with pytest.raises(InputError, match=message):
        predict_file(client, source(content), str(target), **options)
    assert left(target) == set()


def test_paths_that_cannot_be(client, source, target, tmp_path):
    rows = source(numbered(3))
    with pytest.raises(InputError, match=r"nothing\.tsv: cannot be read: No such file"):
        predict_file(client, str(tmp_path / "nothing.tsv"), str(target))
    with pytest.raises(InputError, match="its folder does not exist"):
        predict_file(client, rows, str(tmp_path / "no" / "answers.tsv"))
    with pytest.raises(InputError, match="cannot be read"):
        predict_file(client, source(gzip.compress(numbered(99))[:60], "cut.gz"), str(target))


def test_another_kind_of_model_is_refused(server, client, source, target):
    server.token = "secret"
    with pytest.raises(errors.NotAllowed):
        predict_file(client, source(numbered(3)), str(target))


def test_what_it_was_begun_for_can_be_read(server, client, source, target):
    stopped(server, client, source(numbered(300)), target)
    note = json.loads(target.with_name(f"{target.name}.partial.json").read_text())
    assert note["columns"] == [2]
    assert len(note["input"]) == 64
