import fcntl
import json
import os
import re
import shutil

import pytest

from bert_tfx.modeling import training_run
from bert_tfx.modeling.export.teacher_files import find_teacher
from bert_tfx.modeling.export.trained_model import load_trained_model
from bert_tfx.pipeline.commands import cli, train
from bert_tfx.pipeline.configuration import options
from bert_tfx.pipeline.configuration.config import make_config

FRAMEWORKS = r"\b(tensorflow|keras|apache_beam|tfx|numpy)\b"


@pytest.fixture
def place(tmp_path, monkeypatch, glue_dir, toy_dir):
    """A folder in which the command runs."""
    monkeypatch.setenv("BERT_TFX_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "glue").symlink_to(glue_dir)
    (tmp_path / "toy").symlink_to(toy_dir)
    return tmp_path


TOY = "--pretrained toy --max_seq_len 16 --batch_size 8 --epochs 1 --max-steps 2"
SST2 = f"train --task sst2 --data glue --save_dir model {TOY}"


def test_model_is_trained_and_can_be_read(bert_tfx, place, toy_dir):
    done = bert_tfx(*SST2.split()).check(0)
    assert done.stderr == ""
    (accuracy, loss) = re.search(
        r"^sst2: eval accuracy (0\.\d{4}), loss (\d\.\d{4}) \(epoch 1\)$", done.stdout, re.MULTILINE
    ).groups()
    assert "300 rows to learn from" in done.stdout
    assert f"bert from {place}/toy with " in done.stdout
    assert "held out" not in done.stdout
    assert "80 to choose the best epoch by" in done.stdout
    assert done.stdout.endswith(f"model: {place}/model\n")
    assert sorted(os.listdir(place / "model")) == [
        ".lock",
        "classifier.keras",
        "history.json",
        "logs",
        "model.json",
        "vocab.txt",
    ]
    model = load_trained_model(str(place / "model"))
    measured = model.training["eval"]
    assert f"{measured['eval_accuracy']:.4f} {measured['eval_loss']:.4f}" == f"{accuracy} {loss}"
    assert model.training["pretrained"] == f"{place}/toy"
    assert model.task.name == "sst2"
    history = json.loads((place / "model" / "history.json").read_text(encoding="utf-8"))
    assert len(history["seeds"]["1"]["step_losses"]) == 2
    assert len(os.listdir(place / "model" / "logs")) == 1


def test_second_command_is_kept_from_the_model(bert_tfx, place):
    (place / "model").mkdir()
    (place / "model" / "model.json").touch()
    done = bert_tfx(*SST2.split()).check(2)
    assert done.stderr == (
        f"bert-tfx: {place}/model: holds a trained model already; --save_dir names another folder, "
        "or remove this one first\n"
    )


def test_logs_go_where_they_are_wanted(bert_tfx, place):
    bert_tfx(*SST2.split(), "--log_dir", "elsewhere/logs").check(0)
    assert len(os.listdir(place / "elsewhere" / "logs")) == 1
    assert not (place / "model" / "logs").exists()


@pytest.fixture
def own(place):
    """Pairs in a file of one's own, of which two rows do not fit."""
    rows = [f"{('no', 'yes')[i % 2]}\tthe film {i}\ta meal\n" for i in range(60)]
    rows.insert(3, "maybe\tgood\tbad\n")
    rows.insert(9, "no\t \tbad\n")
    (place / "pairs.tsv").write_text("same\tone\tother\n" + "".join(rows), encoding="utf-8")
    return (
        "--task own --data . --labels no,yes --train pairs.tsv --label same --text_a one "
        f"--text_b other --eval_fraction 0.3 {TOY}"
    ).split()


def test_own_pairs_without_eval_file(bert_tfx, place, own):
    done = bert_tfx("train", "--save_dir", "model", *own, "--max_rejects", 2).check(0)
    counts = re.search(r"(\d+) rows to learn from .*, (\d+) to choose", done.stdout).groups()
    assert sum(map(int, counts)) == 60
    assert "a share of 0.3 of all texts is held out" in done.stdout
    assert 8 <= int(counts[1]) <= 28
    assert f"{place}/pairs.tsv, line 5, same: unknown label 'maybe'" in done.stdout
    assert f"{place}/pairs.tsv, line 11, one: the text is empty" in done.stdout
    assert load_trained_model("model").task.is_pair

    for name in ((), ("--task", "own")):
        told = bert_tfx("test", "--save_dir", "model", *name, "--data", ".", "--max_rejects", 2)
        # As many as were held out by default, and those are among them.
        assert re.search(r"^own, eval: \d+ rows, ", told.check(0).stdout, re.MULTILINE)


def test_rows_that_do_not_fit_stop_it(bert_tfx, place, own):
    done = bert_tfx("train", "--save_dir", "model", *own, "--max_rejects", 1).check(2)
    assert done.stderr.splitlines() == [
        "bert-tfx: 2 train rows do not fit task own (--max-rejects allows 1). The first:",
        f"  {place}/pairs.tsv, line 5, same: unknown label 'maybe', known are 'no', 'yes'",
        f"  {place}/pairs.tsv, line 11, one: the text is empty",
    ]
    assert os.listdir(place / "model") == [".lock"]


def test_vocabulary_is_learned_where_none_is_given(bert_tfx, place):
    arguments = "--task sst2 --data glue --save_dir model --size tiny --max-steps 1 --epochs 1"
    done = bert_tfx("train", *arguments.split()).check(0)
    assert "learning a vocabulary from the training rows" in done.stdout
    assert "lovely" in (place / "model" / "vocab.txt").read_text(encoding="utf-8").split()
    assert load_trained_model("model").classifier.encoder.config.vocab_size == len(
        (place / "model" / "vocab.txt").read_text(encoding="utf-8").splitlines()
    )


def test_crash_is_gone_on_from(bert_tfx, place, monkeypatch):
    def crash(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training_run.TrainedModel, "save", crash)
        done = bert_tfx(*SST2.split()).check(130)
    assert done.stderr == "\nbert-tfx: stopped; the same command goes on where it was\n"
    assert not (place / "model" / "model.json").exists()
    assert "An unfinished training is finished" in (
        bert_tfx("test", "--save_dir", "model", "--task", "sst2", "--data", "glue").check(2).stderr
    )
    done = bert_tfx(*SST2.split()).check(0)
    assert "going on from the saved state" in done.stdout
    assert not (place / "model" / "training_state").exists()


STUDENT = (
    "train --task sst2 --data glue --save_dir student --teacher toy --student_layers 1 "
    "--temperature 3 --alpha 0.8 --max_seq_len 16 --batch_size 8 --epochs 1 --max-steps 2"
)


def test_student_learns_from_a_teacher(bert_tfx, place):
    """Vocabulary, casing and architecture are the teacher's."""
    done = bert_tfx(*STUDENT.split()).check(0)
    assert f"bert from layers 2 of {place}/toy with " in done.stdout
    student = load_trained_model(str(place / "student"))
    assert student.classifier.encoder.config.num_layers == 1
    about = student.training["distillation"]
    assert (about["teachers"], about["temperature"], about["alpha"]) == ([f"{place}/toy"], 3.0, 0.8)
    told = bert_tfx("test", "--save_dir", "student", "--data", "glue").check(0)
    assert "sst2, eval: " in told.stdout


# Mistakes.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--task sst2 --save_dir x", "'data' is missing: --data names"),
        ("--task sst2 --data glue", "'output' is missing"),
        ("--task sst2 --data nowhere --save_dir x", "{}/nowhere: no such folder; --data names"),
        ("--task lcqmc --data glue --save_dir x", "{}/glue/train.tsv, line 1: expected"),
        ("--task imdb --data glue --save_dir x", "unknown task 'imdb'"),
        ("--task sst2 --data glue --save_dir file", "{}/file: cannot be written: File exists"),
        ("--task sst2 --data glue --save_dir file/x", "{}/file/x: cannot be written: Not a dir"),
        (
            "--task sst2 --data glue --save_dir x --log_dir file/logs",
            "{}/file/logs: cannot be written: Not a directory; --log-dir names a folder",
        ),
        ("--task sst2 --data glue --save_dir x --vocab none", "{}/none: no such file; --vocab"),
        ("--task sst2 --data glue --save_dir x --pretrained none", "none: no such file or folder"),
        (
            "--task sst2 --data glue --save_dir x --pretrained bert-base-chines",
            "did you mean bert-base-chinese",
        ),
        (
            "--task sst2 --data glue --save_dir x --pretrained bert-base-chinese",
            "bert-base-chinese: not fetched yet: bert-tfx fetch bert-base-chinese",
        ),
        (
            "--task sst2 --data glue --save_dir x --pretrained empty.zip --pretrained_sha256 0a",
            "{}/empty.zip: ",
        ),
        (
            "--task sst2 --data glue --save_dir x --pretrained toy --pretrained_sha256 0a",
            "toy: is no archive, so it has no SHA-256 to check",
        ),
        ("--task sst2 --data glue --save_dir x --pretrained toy --size tiny", "--size and --pre"),
        ("--task sst2 --data glue --save_dir x --recipe other", "unknown recipe 'other'; known"),
        ("--task sst2 --data glue --save_dir x --epochs 0", "epochs must be at least 1"),
        ("--task sst2 --data glue --save_dir x --metric f2", "--metric: invalid choice: 'f2'"),
        ("--task sst2 --data glue --save_dir x --max_rejects -1", "must not be negative"),
        ("--task sst2 --data glue --save_dir x --eval_fraction 1", "must be in (0, 1)"),
        ("--task sst2 --data glue --save_dir x --alpha 1", "--alpha: there is no --teacher to"),
        ("--task sst2 --data glue --save_dir x --teacher none", "{}/none: no such folder; --teach"),
        ("--task sst2 --data glue --save_dir x --teacher glue", "{}/glue: there is no classifier."),
        (
            "--task sst2 --data glue --save_dir x --teacher toy --alpha 2",
            "alpha must be in [0, 1]. Received: 2.0",
        ),
        (
            "--task sst2 --data glue --save_dir x --teacher toy --layer-map 3,1",
            'layer_map must be "uniform", "last" or layer numbers',
        ),
        (
            "--task sst2 --data glue --save_dir x --teacher toy --student-layers 1 --size tiny",
            "--student-layers and --size: the student starts as a copy",
        ),
        (
            "--task sst2 --data glue --save_dir x --teacher toy --no-lowercase",
            "{}/toy: this teacher is uncased and the student cased",
        ),
        (
            "--task sst2 --data glue --save_dir x --teacher toy --vocab words",
            "{}/toy: this teacher has another vocabulary than {}/words",
        ),
    ],
)
def test_mistake_is_told_before_a_framework_loads(command, place, monkeypatch, arguments, message):
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    (place / "file").touch()
    (place / "empty.zip").touch()
    (place / "words").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
    before = sorted(place.rglob("*"))
    done = command("train", *arguments.split())
    told, loaded = [], []
    for line in done.stderr.splitlines():
        (loaded if line.startswith("import time:") else told).append(line)
    assert done.returncode == 2, told
    assert done.stdout == ""
    assert message.format(place, place) in "\n".join(told)
    assert "Traceback" not in done.stderr
    assert sorted(place.rglob("*")) == before
    assert not re.findall(FRAMEWORKS, "\n".join(loaded))


def test_checkpoint_of_which_the_rows_are_too_long_is_told(bert_tfx, place):
    arguments = "--task sst2 --data glue --save_dir model --pretrained toy --max_seq_len 17"
    done = bert_tfx("train", *arguments.split()).check(2)
    assert f"{place}/toy: has embeddings for 25 tokens and 16 positions" in done.stderr
    assert "rows of up to 17 tokens" in done.stderr
    assert not (place / "model" / "model.json").exists()


def test_second_training_is_kept_out_of_the_folder(bert_tfx, place):
    (place / "model").mkdir()
    with (place / "model" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = bert_tfx(*SST2.split()).check(2)
    assert f"{place}/model: another run is using this folder" in done.stderr
    assert os.listdir(place / "model") == [".lock"]


# What a training that was stopped is known by.


def state_key(*changes):
    argv = [*SST2.split(), *changes]
    arguments = cli._parser().parse_args(cli._hyphenated(argv))
    given = options.collect(arguments)
    config = make_config(given)
    teachers = [find_teacher(path) for path in arguments.teachers or ()]
    return train._state_key(
        config, config.vocab_file, options.distillation(arguments), teachers, given.get("model")
    )


def test_state_is_known_by_all_that_the_result_depends_on(place):
    usual = state_key()
    assert usual == state_key("--verbose") == state_key("--log_dir", "x", "--save_dir", "y")
    other = [
        state_key(*change.split())
        for change in (
            "--seed 2",
            "--lr 1e-5",
            "--epochs 2",
            "--num_seeds 2",
            "--no-lowercase",
            "--max_rejects 1",
            "--teacher toy",
            "--teacher toy --teacher toy",
            "--teacher toy --alpha 0.4",
        )
    ]
    assert len({usual, *other}) == 10


def test_state_is_known_by_the_rows_and_the_checkpoint(place, glue_dir, toy_dir):
    usual = state_key()
    for name, source in (("glue", glue_dir), ("toy", toy_dir)):
        (place / name).unlink()
        (place / name).mkdir()
        for file in os.listdir(source):
            shutil.copyfile(os.path.join(source, file), place / name / file)
    assert state_key() == usual
    with (place / "glue" / "test.tsv").open("a") as file:
        file.write("40\tone more\n")
    assert state_key() == usual
    with (place / "glue" / "dev.tsv").open("a") as file:
        file.write("one more\t1\n")
    edited = state_key()
    (place / "toy" / "classifier.keras").write_bytes(b"another")
    assert len({usual, edited, state_key()}) == 3
