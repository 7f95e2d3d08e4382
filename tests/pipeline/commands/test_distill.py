import os
import re

import pytest

from bert_tfx.modeling.export.saved_model import save_for_serving
from bert_tfx.modeling.export.trained_model import load_trained_model

FRAMEWORKS = r"\b(tensorflow|keras|apache_beam|tfx|numpy)\b"


@pytest.fixture
def place(tmp_path, monkeypatch, glue_dir, toy_dir):
    """A folder in which the command runs."""
    monkeypatch.setenv("BERT_TFX_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "glue").symlink_to(glue_dir)
    (tmp_path / "toy").symlink_to(toy_dir)
    return tmp_path


SHORT = "--max_seq_len 16 --batch_size 8 --epochs 1 --max-steps 2"
SST2 = f"distill --task sst2 --data_dir glue --output student {SHORT}"


def table(stdout):
    """Returns what stands in the two columns after each name."""
    lines = (re.split(r"  +", line.strip()) for line in stdout.splitlines())
    return {line[0]: line[1:] for line in lines if len(line) == 3}


def test_student_stands_beside_its_teacher(bert_tfx, place):
    done = bert_tfx(*SST2.split(), "--teacher", "toy", "--student-layers", 1).check(0)
    assert done.stderr == ""
    assert f"bert from layers 2 of {place}/toy with " in done.stdout
    student, teacher = load_trained_model("student"), load_trained_model("toy")
    assert student.training["distillation"]["student_layers"] == 1
    told = table(done.stdout)
    counts = [f"{model.classifier.count_params():,}" for model in (teacher, student)]
    assert told["parameters"] == counts
    assert f"\nmodel: {place}/student\nmeasuring: 80 rows, the teacher\n" in done.stdout
    measured = student.training["eval"]["eval_accuracy"]
    accuracies = told["accuracy (sst2, 80 eval rows)"]
    assert accuracies[1] == f"{measured:.4f}"
    assert f"sst2: eval accuracy {measured:.4f}, " in done.stdout
    tested = bert_tfx("test", "--model_path", "toy", "--data", "glue", "--split", "eval").check(0)
    assert f"accuracy {accuracies[0]}, " in tested.stdout
    assert told["the same answer as the teacher"][0] == "100.00%"
    assert {"exported, MB", "1 row, ms", "batches of 32, rows/s"} < {*told}
    assert re.search(r"^ +the teacher  the student$", done.stdout, re.MULTILINE)


@pytest.mark.slow
def test_exported_teacher_of_several_stands_in_the_table(bert_tfx, place):
    """The others are not measured."""
    save_for_serving(load_trained_model("toy"), "served")
    teachers = ("--teacher", "served", "--teacher", "toy")
    student = ("--model_name", "distilbert", "--size", "tiny")
    done = bert_tfx(*SST2.split(), *teachers, *student).check(0)
    parameters = load_trained_model("toy").classifier.count_params()
    told = table(done.stdout)
    assert told["parameters"][0] == f"{parameters:,}"
    assert "the student has" in done.stdout
    assert f"more than its teacher {place}/served" in done.stdout
    about = load_trained_model("student").training["distillation"]
    assert about["teachers"] == [f"{place}/served", f"{place}/toy"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "the following arguments are required: --teacher"),
        ("--teacher none", "{}/none: no such folder; --teacher names a trained model"),
        ("--teacher glue", "{}/glue: there is no classifier.keras"),
        ("--teacher toy --alpha 2", "alpha must be in [0, 1]. Received: 2.0"),
        ("--teacher toy --tempreature 2", "unrecognized arguments: --tempreature 2"),
        ("--teacher toy --student_layers 1 --pretrained toy", "--student-layers and --pretrained"),
        ("--teacher toy --output taken", "{}/taken: holds a trained model already"),
        ("--teacher toy --vocab words", "another vocabulary than {}/words"),
        (
            "--teacher toy --task own --labels yes,no --train train.tsv --text-a sentence",
            "{}/toy: this teacher answers '0', '1', and own has the labels 'yes', 'no'",
        ),
    ],
)
def test_mistake_is_told_before_a_framework_loads(command, place, monkeypatch, arguments, message):
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    (place / "taken").mkdir()
    (place / "taken" / "model.json").touch()
    (place / "words").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
    before = sorted(place.rglob("*"))
    done = command(*SST2.split(), *arguments.split())
    told, loaded = [], []
    for line in done.stderr.splitlines():
        (loaded if line.startswith("import time:") else told).append(line)
    assert done.returncode == 2, told
    assert message.format(place) in "\n".join(told)
    assert sorted(place.rglob("*")) == before
    assert not re.findall(FRAMEWORKS, "\n".join(loaded))


def test_layers_that_the_teacher_has_not_are_told(bert_tfx, place):
    layers = ("--student-layers", 1, "--layer-map", 3)
    done = bert_tfx(*SST2.split(), "--teacher", "toy", *layers).check(2)
    assert "layer_map names layer 3, and the teacher has 2: 3" in done.stderr
    assert os.listdir("student") == [".lock"]
