import fcntl
import json
import pathlib
import re
import tempfile
import time

import pytest

from bert_tfx.pipeline.commands import cli
from bert_tfx.pipeline.configuration.config import OPTIONS, make_config
from bert_tfx.pipeline.configuration.options import collect
from bert_tfx.pipeline.process.exit_codes import MEANINGS, OF_A_RUN, ExitCode, explain
from bert_tfx.pipeline.process.faults import FAULT_FILE
from bert_tfx.schema.errors import DataRefused, InputError
from bert_tfx.schema.tasks import TASKS

FRAMEWORKS = r"\b(tensorflow|keras|apache_beam|tfx|numpy|absl)\b"


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["train", "--help"]])
def test_help_answers_at_once(command, arguments):
    seconds = []
    for _ in range(3):
        start = time.monotonic()
        done = command(*arguments)
        seconds.append(time.monotonic() - start)
        assert done.returncode == 0
        assert done.stderr == ""
    assert min(seconds) < 1.5
    assert "usage: bert-tfx" in done.stdout


def test_help_loads_no_framework(command, monkeypatch):
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    done = command("run", "--help")
    assert "bert_tfx.pipeline.configuration.config" in done.stderr
    assert not re.findall(FRAMEWORKS, done.stderr)


def test_help_names_every_option(command):
    stdout = command("run", "--help").stdout
    for option in OPTIONS:
        assert f"--{option.replace('_', '-')}" in stdout
    for task in TASKS:
        assert task in stdout


# Mistakes. Each is found before a framework loads and before anything is written.


@pytest.fixture
def place(tmp_path, glue_dir, vocab_file):
    """A folder of files, right and wrong, in which the command runs."""
    (tmp_path / "glue").symlink_to(glue_dir)
    for name, content in {
        "empty/train.tsv": b"",
        "empty/dev.tsv": b"sentence\tlabel\nfine\t1\n",
        "headless/train.tsv": b"a lovely room\t1\n",
        "headless/dev.tsv": b"an awful meal\t0\n",
        "alone/notes.txt": b"",
        "own/rows.tsv": b"label\treview\nbad\tan awful meal\n",
        "own/blank.tsv": b"\nbad\tan awful meal\n",
        "no_cls.txt": b"[PAD]\n[UNK]\n[SEP]\nx\n",
        "twice.txt": b"[PAD]\n[UNK]\n[CLS]\n[SEP]\nx\ny\nx\n",
        "task.json": b'{"name": "own", "labels": ["bad", "good"], "columns": ["label", "review"]}',
        "broken.json": b"{",
        "options.json": b'{"epoch": 3}',
        "file": b"",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return tmp_path


SST2 = "--task sst2 --data glue"
OWN = "--task own --labels bad,good --data own --text-a review"


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (f"{SST2} --epoks 3", ["unrecognized arguments: --epoks 3"]),
        (f"{SST2} --epochs many", ["--epochs", "invalid int value: 'many'"]),
        (f"{SST2} --epochs 0", ["epochs must be at least 1. Received: 0"]),
        (f"{SST2} --learning-rate nan", ["'learning_rate' must not be nan"]),
        (f"{SST2} --size huge", ["--size", "invalid choice: 'huge'", "tiny"]),
        ("--task imdb --data glue", ["unknown task 'imdb'", "sst2", "--task-file"]),
        ("--data glue", ["'task' is missing: --task names"]),
        ("--task sst2", ["'data' is missing: --data names"]),
        ("--task sst2 --data nowhere", ["{}/nowhere: no such folder; --data names"]),
        ("--task sst2 --data alone", ["{}/alone: ", "expected train.tsv, dev.tsv", "notes.txt"]),
        ("--task sst2 --data empty", ["{}/empty/train.tsv: the file is empty"]),
        (
            "--task sst2 --data headless",
            ["{}/headless/train.tsv, line 1: expected the header 'sentence' <tab> 'label'"],
        ),
        (f"{SST2} --vocab nothing.txt", ["{}/nothing.txt: no such file; --vocab names"]),
        (f"{SST2} --vocab no_cls.txt", ["{}/no_cls.txt: [CLS] not found", "with the checkpoint"]),
        (f"{SST2} --vocab twice.txt", ["{}/twice.txt, line 7: token 'x' stands already in line 5"]),
        (
            f"{SST2} --pretrained file",
            ["{}/file: not a checkpoint; expected a folder"],
        ),
        (
            f"{SST2} --slice-by source",
            ["'source' is no extra column of the eval rows; there is none"],
        ),
        (f"{SST2} --test-columns text_a", ["--labels is missing: your own task needs"]),
        (f"{SST2} --config nothing.json", ["nothing.json: cannot be read: No such file"]),
        (f"{SST2} --config options.json", ["options.json: unknown option 'epoch'", "epochs"]),
        ("--task-file nothing.json --data own", ["nothing.json: cannot read the task: No such"]),
        ("--task-file broken.json --data own", ["broken.json: not JSON"]),
        ("--task-file task.json --data own", ["task.json: 'train' is missing"]),
        ("--task-file task.json --task own", ["--task-file and --task: ", "one or the other"]),
        ("--task-file task.json --train x.tsv", ["--task-file and --train: "]),
        (f"{SST2} --train rows.tsv", ["--labels is missing: your own task needs"]),
        (f"{OWN}", ["--train is missing: your own task needs"]),
        (f"{OWN} --train x.tsv", ["own: no file fits --train 'x.tsv'"]),
        (f"{OWN} --train blank.tsv", ["own/blank.tsv: its first line is empty", "--no-header"]),
        (f"{OWN} --train rows.tsv --no-header", ["--columns is missing"]),
        (f"{OWN} --train rows.tsv --text-b x", ["text_b is said to be column 'x'", "review"]),
        ("--task own --labels a,b --data nowhere --train x", ["nowhere: no such folder; --data"]),
        ("--task own --labels a,b --train x", ["--data is missing"]),
    ],
)
def test_mistake_is_told_and_nothing_is_written(command, place, arguments, messages):
    before = sorted(place.rglob("*"))
    done = command("run", *arguments.split(), "--output", "output", cwd=place)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    for message in messages:
        assert message.format(place) in done.stderr
    assert sorted(place.rglob("*")) == before


def test_missing_output_is_told(command, place):
    done = command("run", *SST2.split(), cwd=place)
    assert done.returncode == 2
    assert done.stderr == (
        "bert-tfx: option 'output' is missing: --output names the folder for all that the run "
        "makes\n"
    )


@pytest.mark.parametrize(
    ("output", "reason"), [("file", "File exists"), ("file/below", "Not a directory")]
)
def test_output_that_cannot_be_written_is_told(command, place, output, reason):
    done = command("run", *SST2.split(), "--output", output, cwd=place)
    assert done.returncode == 2
    assert f"{place}/{output}: cannot be written: {reason}; --output names" in done.stderr
    assert "Traceback" not in done.stderr


def test_second_run_is_kept_out_of_the_folder(command, place):
    output = place / "output"
    output.mkdir()
    with (output / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = command("run", *SST2.split(), "--output", output, cwd=place)
    assert done.returncode == 2
    assert f"{output}: another run is using this folder; wait for its end" in done.stderr
    assert [path.name for path in output.iterdir()] == [".lock"]


# Options, without a run.


def options(*arguments):
    return collect(cli._parser().parse_args(["run", *map(str, arguments)]))


def test_flags_go_before_the_file(tmp_path):
    path = tmp_path / "options.json"
    path.write_text(json.dumps({"task": "sst2", "epochs": 3, "seed": 5, "lowercase": False}))
    assert options("--config", path, "--epochs", 9) == {
        "task": "sst2",
        "epochs": 9,
        "seed": 5,
        "lowercase": False,
    }
    assert options("--config", path, "--lowercase")["lowercase"] is True


def test_sample_brings_its_rows_and_vocabulary():
    given = options("--task", "sample", "--output", "x")
    config = make_config(given)
    assert config.layout.name == "sample"
    assert config.vocab_file.endswith("sample/vocab.txt")
    assert options("--task", "sample", "--data", "mine")["data"] == "mine"
    assert "vocab" not in options("--task", "sst2")


def own_task(data, *arguments):
    given = options("--task", "own", "--labels", "bad,good", "--data", data, *arguments)
    return make_config(given | {"output": "x"}).task


def test_own_task_takes_its_columns_from_the_header(place):
    task = own_task(place / "own", "--train", "rows.tsv", "--text-a", "review")
    (layout,) = task.layouts
    assert layout.splits["train"].columns == ("label", "text_a")
    assert layout.splits["train"].header == ("label", "review")
    assert layout.hash_split


def test_own_task_without_header(place):
    task = own_task(
        place / "own", "--train", "rows.tsv", "--eval", "dev.tsv", "--no-header",
        "--columns", "label,text_a", "--test", "test.tsv", "--test-columns", "text_a,id",
    )  # fmt: skip
    (layout,) = task.layouts
    assert layout.splits["test"].columns == ("text_a", "id")
    assert layout.splits["eval"].columns == ("label", "text_a")
    assert layout.splits["eval"].header is None
    assert not layout.hash_split


def test_own_task_may_lie_below_home_anywhere_or_in_spans(place, monkeypatch):
    monkeypatch.setenv("HOME", str(place))
    (place / "o6").mkdir()
    (place / "o6" / "rows.tsv").write_text("another\theader\n")
    (place / "o7").symlink_to(place / "own")
    for data, train in (
        ("~/own", "rows.tsv"),
        ("~", "own/rows*"),
        ("~", place / "own" / "rows.tsv"),
        (place, "o{SPAN}/rows.tsv"),
    ):
        task = own_task(data, "--train", train, "--text-a", "review")
        assert task.layouts[0].splits["train"].header == ("label", "review")


def test_own_task_from_a_file(place):
    fields = json.loads((place / "task.json").read_text())
    (place / "task.json").write_text(json.dumps({**fields, "text_a": "review", "train": "x"}))
    task = options("--task-file", place / "task.json")["task"]
    assert task.name == "own"
    assert task.layouts[0].splits["train"].columns == ("label", "text_a")


# Exit codes, without a run.


@pytest.mark.parametrize(
    ("outcome", "code", "message"),
    [
        (InputError("here, line 3: mend it"), 2, "bert-tfx: here, line 3: mend it\n"),
        (DataRefused("DataGate stopped it"), 4, "bert-tfx: DataGate stopped it\n"),
        (KeyboardInterrupt(), 130, "\nbert-tfx: stopped; the same command goes on where it was\n"),
    ],
)
def test_exit_code_says_how_it_went(monkeypatch, capsys, outcome, code, message):
    def run(arguments):
        raise outcome

    monkeypatch.setattr(cli.run, "run", run)
    assert cli.main(["run"]) == code
    assert capsys.readouterr() == ("", message)


@pytest.mark.parametrize("folder", ["output", "nowhere", None])
def test_fault_is_a_line_that_names_the_file_of_its_trace(monkeypatch, capsys, tmp_path, folder):
    (tmp_path / "output").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def run(arguments):
        arguments.fault_folder = folder and str(tmp_path / folder)
        raise RuntimeError("Trainer failed\nat length")

    monkeypatch.setattr(cli.run, "run", run)
    for _ in range(2):
        assert cli.main(["run"]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        found = re.fullmatch(
            "bert-tfx: a fault: RuntimeError: Trainer failed; the trace is in (.*)", line
        )
        trace = pathlib.Path(found[1]).read_text(encoding="utf-8")
        assert "in run\n    raise RuntimeError" in trace
    # Of a run's folder all are kept together.
    in_folder = found[1] == str(tmp_path / "output" / FAULT_FILE)
    assert in_folder == (folder == "output")
    assert trace.count("Traceback (most recent call last)") == 1 + in_folder


def test_fault_that_cannot_be_kept_is_told_in_full(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    monkeypatch.setattr(cli.run, "run", lambda arguments: 1 / 0)
    assert cli.main(["run"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("bert-tfx: a fault: ZeroDivisionError: division by zero; the trace:\n")
    assert told.rstrip().endswith("ZeroDivisionError: division by zero")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert cli.main(["run", "--verbose"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("Traceback (most recent call last):\n")
    assert told.endswith("; the trace stands above\n")
    assert list(tmp_path.iterdir()) == []


def test_every_code_is_explained_once():
    assert list(MEANINGS) == list(ExitCode)
    assert len(set(MEANINGS.values())) == len(MEANINGS)
    for code in OF_A_RUN:
        assert f" {code.value} {MEANINGS[code]}" in explain(*OF_A_RUN)
