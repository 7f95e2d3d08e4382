import os
import re

import numpy as np
import pytest

from bert_tfx.modeling.export.trained_model import load_trained_model
from bert_tfx.modeling.text.text_rows import rows_of_texts
from bert_tfx.modeling.training import fine_tuning
from bert_tfx.schema import files


@pytest.fixture
def place(tmp_path, monkeypatch, glue_dir, toy_dir):
    """A folder in which the command runs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "glue").symlink_to(glue_dir)
    (tmp_path / "toy").symlink_to(toy_dir)
    return tmp_path


TOY = ("test", "--save_dir", "toy", "--data", "glue")


def expected(place, texts):
    """Returns the toy's probabilities."""
    model = load_trained_model("toy")
    rows = rows_of_texts(model.transform(), {"text_a": texts}, [0] * len(texts))
    batch = rows.batch(np.arange(len(rows)))
    logits = np.asarray(model.classifier(batch, training=False)).astype(np.float64)
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def result(path):
    header, *lines = path.read_bytes().split(b"\n")
    assert lines.pop() == b""
    return header.decode().split("\t"), [line.split(b"\t") for line in lines]


def test_answers_are_written_and_measured(bert_tfx, place, glue_dir):
    done = bert_tfx(*TOY, "--write_test_result", "answers.tsv").check(0)
    assert done.stderr == ""
    header, lines = result(place / "answers.tsv")
    assert header == ["prediction", "label", "probability", "text_a"]
    rows = [line.split(b"\t") for line in (glue_dir / "dev.tsv").read_bytes().splitlines()[1:]]
    assert [[line[3], line[1]] for line in lines] == rows
    assert len(lines) == 80

    probabilities = expected(place, [text for text, _ in rows])
    answers = probabilities.argmax(axis=1)
    assert {*answers} == {0, 1}
    assert [int(line[0]) for line in lines] == answers.tolist()
    written = [float(line[2]) for line in lines]
    np.testing.assert_allclose(written, probabilities.max(axis=1), atol=1e-5)
    assert all(0.5 <= probability <= 1 for probability in written)

    labels = np.array([int(label) for _, label in rows])
    accuracy = (answers == labels).mean()
    loss = -np.log(probabilities[np.arange(80), labels]).mean()
    assert re.search(r"^sst2, eval: 80 rows, [\d,]+ rows/s, text to answer$", done.stdout, re.M)
    told = re.search(r"^accuracy (0\.\d+), loss (\d\.\d+)$", done.stdout, re.MULTILINE).groups()
    assert [*map(float, told)] == pytest.approx([accuracy, loss], abs=1e-4)
    counts = [[((labels == i) & (answers == j)).sum() for j in (0, 1)] for i in (0, 1)]
    matrix = done.stdout[done.stdout.index("confusion matrix") :].splitlines()[1:4]
    assert [line.split() for line in matrix] == [
        ["0", "1"],
        ["0", *map(str, counts[0])],
        ["1", *map(str, counts[1])],
    ]
    # Each label's precision, recall, F1 and rows.
    for label in (0, 1):
        (line,) = re.findall(rf"^ +{label}((?: +0\.\d{{4}}){{3}} +\d+)$", done.stdout, re.MULTILINE)
        precision = counts[label][label] / (counts[0][label] + counts[1][label])
        recall = counts[label][label] / sum(counts[label])
        assert [*map(float, line.split())] == pytest.approx(
            [precision, recall, 2 * precision * recall / (precision + recall), 40], abs=1e-4
        )
    assert done.stdout.endswith("answers: answers.tsv\n")
    assert not list(place.glob("*answers.tsv*.partial"))


def test_rows_without_labels_are_answered(bert_tfx, place, glue_dir):
    arguments = ("--split", "test", "--write_test_result", "answers.tsv")
    done = bert_tfx(*TOY, *arguments).check(0)
    assert "sst2, test: 40 rows, " in done.stdout
    assert "no labels, so there is nothing to compare" in done.stdout
    assert "accuracy" not in done.stdout
    _, lines = result(place / "answers.tsv")
    texts = [line.split(b"\t")[1] for line in (glue_dir / "test.tsv").read_bytes().splitlines()[1:]]
    assert [line[3] for line in lines] == texts
    assert {line[1] for line in lines} == {b""}
    answers = expected(place, texts).argmax(axis=1).tolist()
    assert [int(line[0]) for line in lines] == answers


def write_seed_layout(folder, *, test):
    folder.mkdir()
    rows = "label\ttext_a\n" + "1\tgood\n0\tbad\n" * 3
    for name in ("train", "dev", *(["test"] if test else [])):
        (folder / f"{name}.tsv").write_text(rows + ("1\tfine\n" if name == "test" else ""))


@pytest.mark.parametrize(
    ("test", "split", "told"),
    [
        (True, None, "test: 7 rows"),
        (False, None, "eval: 6 rows"),
        (True, "eval", "eval: 6 rows"),
        (True, "train", "train: 6 rows"),
    ],
)
def test_labelled_test_rows_are_the_default(bert_tfx, place, test, split, told):
    write_seed_layout(place / "seed", test=test)
    arguments = ("--split", split) if split else ()
    done = bert_tfx("test", "--model_path", "toy", "--data", "seed", *arguments).check(0)
    assert f"sst2, {told}, " in done.stdout


@pytest.mark.parametrize("task", ["sst2", "sst-2", None])
def test_task_may_be_named_or_be_the_models(bert_tfx, place, task):
    arguments = () if task is None else ("--task_name", task)
    assert "sst2, eval: 80 rows" in bert_tfx(*TOY, *arguments).check(0).stdout


def test_other_task_with_the_same_labels_is_answered(bert_tfx, place):
    write_seed_layout(place / "seed", test=False)
    arguments = ("--save_dir", "toy/classifier.keras", "--task", "chnsenticorp", "--data", "seed")
    assert "chnsenticorp, eval: 6 rows" in bert_tfx("test", *arguments).check(0).stdout


def test_rows_that_do_not_fit_are_told_or_left_out(bert_tfx, place):
    write_seed_layout(place / "seed", test=False)
    (place / "seed" / "dev.tsv").write_text("label\ttext_a\n2\tgood\n1\t\n0\tbad\n")
    arguments = ("test", "--save_dir", "toy", "--data", "seed", "--write_test_result", "r.tsv")
    done = bert_tfx(*arguments, "--max-rejects", 1).check(2)
    assert done.stderr.splitlines() == [
        "bert-tfx: 2 eval rows do not fit task sst2 (--max-rejects allows 1). The first:",
        f"  {place}/seed/dev.tsv, line 2, label: unknown label '2', known are '0', '1'",
        f"  {place}/seed/dev.tsv, line 3, text_a: the text is empty",
    ]
    assert not (place / "r.tsv").exists()
    done = bert_tfx(*arguments, "--max-rejects", 2).check(0)
    assert "2 eval rows do not fit, and are left out" in done.stdout
    assert len(result(place / "r.tsv")[1]) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--save_dir toy", "--data_dir is missing: it names the folder"),
        ("--save_dir toy --data nowhere", "{}/nowhere: no such folder; --data_dir names"),
        ("--save_dir toy --data empty", "{}/empty: the files of task sst2 are missing"),
        ("--save_dir toy --data glue --task imdb", "unknown task 'imdb'"),
        (
            "--save_dir toy --data pairs --task lcqmc",
            "toy: was trained for task sst2 (single texts, labels 0, 1); it cannot answer lcqmc "
            "(pairs, labels 0, 1)",
        ),
        ("--save_dir toy --data seed --split test", "there are no test files; there are those of"),
        ("--save_dir toy --data glue --split tset", "--split: invalid choice: 'tset'"),
        ("--save_dir toy --data glue --max_rejects -1", "must not be negative. Received: -1"),
        ("--save_dir nowhere --data glue", "nowhere: no such model; expected a folder with"),
        ("--save_dir empty --data glue", "empty/classifier.keras: missing; a trained model has"),
        ("--save_dir unfinished --data glue", "An unfinished training is finished by the command"),
        ("--save_dir no_vocab --data glue", "no_vocab/vocab.txt: missing; a trained model has"),
        (
            "--save_dir toy --data glue --write_test_result nowhere/r.tsv",
            "nowhere/r.tsv: its folder does not exist; --write_test_result names a file",
        ),
        (
            "--save_dir toy --data glue --write_test_result empty",
            "empty: is a folder; --write_test_result names a file",
        ),
        ("--data glue", "the following arguments are required: --save-dir/--model-path"),
    ],
)
def test_mistake_is_told_and_nothing_is_written(bert_tfx, place, toy_dir, arguments, message):
    (place / "empty").mkdir()
    write_seed_layout(place / "seed", test=False)
    (place / "pairs").mkdir()
    for name in ("train", "dev"):
        (place / "pairs" / f"{name}.txt").write_text("a\tb\t1\n")
    for name, left_out in (("unfinished", "model.json"), ("no_vocab", "vocab.txt")):
        (place / name).mkdir()
        for file in {"classifier.keras", "model.json", "vocab.txt"} - {left_out}:
            (place / name / file).symlink_to(os.path.join(toy_dir, file))
    before = sorted(place.rglob("*"))
    done = bert_tfx("test", *arguments.split()).check(2)
    assert message.format(place) in done.stderr
    assert done.stdout == ""
    assert sorted(place.rglob("*")) == before


def test_result_that_cannot_be_written_is_told(bert_tfx, place, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "move", full)
    before = sorted(place.rglob("*"))
    done = bert_tfx(*TOY, "--write_test_result", "r.tsv").check(2)
    assert done.stderr == "bert-tfx: r.tsv: cannot be written: No space left on device\n"
    assert sorted(place.rglob("*")) == before


def test_crash_leaves_the_last_result_as_it_was(bert_tfx, place, monkeypatch):
    (place / "r.tsv").write_text("of the last time")

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(fine_tuning, "predict_rows", crash)
    bert_tfx(*TOY, "--write_test_result", "r.tsv").check(130)
    assert (place / "r.tsv").read_text() == "of the last time"


def test_sample_needs_no_folder(bert_tfx, place):
    done = bert_tfx("test", "--save_dir", "toy", "--task", "sample").check(0)
    assert "sample, test: 800 rows" in done.stdout
