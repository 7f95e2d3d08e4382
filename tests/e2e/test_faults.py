"""Rows that stop a run."""

import pytest

# Two cores that others use as well may take long.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

GOOD_ROW = b"good\ta lovely room\tweb\n"
BAD_ROW = b"bad\tan awful meal\tmail\n"


@pytest.fixture
def own_rows(tmp_path, run, vocab_file):
    """Runs the pipeline on the rows given, as files of one's own."""

    def run_on(train: bytes):
        data = tmp_path / "data"
        data.mkdir()
        (data / "train.tsv").write_bytes(b"label\ttext_a\tsource\n" + train)
        (data / "dev.tsv").write_bytes(b"label\ttext_a\tsource\n" + (GOOD_ROW + BAD_ROW) * 20)
        return run(
            tmp_path / "output", "--task", "own", "--data", data, "--labels", "bad,good",
            "--train", "train.tsv", "--eval", "dev.tsv", "--vocab", vocab_file, "--size", "tiny",
        )  # fmt: skip

    return run_on


def test_rows_that_do_not_fit_stop_the_run_and_are_listed(own_rows, tmp_path):
    rows = [GOOD_ROW, BAD_ROW] * 50
    rows[3] = b"good\ttwo columns\n"
    rows[8] = b"good\tfour\tcolumns\tare too many\n"
    rows[13] = b"fine\tan unknown label\tweb\n"
    rows[21] = b"good\tLatin-1: caf\xe9\tweb\n"
    rows[34] = b"good\ta NUL: \0\tweb\n"
    rows[55] = b"good\t" + b"long " * 200_000 + b"\tweb\n"
    result = own_rows(b"".join(rows)).check(2)

    train = tmp_path / "data" / "train.tsv"
    rejects = tmp_path / "output" / "rejects" / "train.tsv"
    # Lines count from 1, and the first one is the header.
    assert result.stderr.splitlines() == [
        "bert-tfx: 6 of 140 rows do not fit, 0 are allowed:",
        f"  {train}, line 5: expected 3 columns (label, text_a, source), found 2",
        f"  {train}, line 10: expected 3 columns (label, text_a, source), found 4",
        f"  {train}, line 15, label: unknown label 'fine', known are 'bad', 'good'",
        f"  {train}, line 23, text_a: not UTF-8: byte 0xe9 at position 12",
        f"  {train}, line 36, text_a: holds a NUL byte",
        "  ...",
        f"All are listed in {rejects}. Mend these rows, or go on without them: --max-rejects 6",
        f"Report: {tmp_path / 'output' / 'report' / 'index.html'}",
    ]
    listed = rejects.read_text(encoding="utf-8").splitlines()
    assert len(listed) == 1 + 6
    assert listed[-1].startswith(f"{train}\t57\t\tlonger than 262,144 bytes\tgood\\tlong long")
    assert len(listed[-1]) < 10_000
    assert result.artifacts["Examples"] == 0
    assert result.versions == ()


def test_rows_of_one_class_stop_the_run_before_training(own_rows):
    result = own_rows(GOOD_ROW * 60).check(4)
    assert (
        "split 'train': of its 60 rows none has label 'bad' (there is 'good' 60)" in result.stderr
    )
    assert "check that the file is whole and shuffled" in result.stderr
    assert result.artifacts["Examples"] == 1
    assert result.artifacts["DataGateReport"] == result.artifacts["TransformGraph"] == 0
