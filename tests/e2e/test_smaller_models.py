"""A teacher, its student, and what is taken out of that: one run of the pipeline to a pushed model.

Each run goes on from the one before, so these tests belong on one worker.
"""

import json
import re

import pytest
import tensorflow as tf

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

DISTILL = {
    "student_layers": 1,
    "alpha": 0.5,
    "hidden_weight": 0.1,
    "intermediate_epochs": 1,
    "max_accuracy_drop": 1,
    "teacher": {"learning_rate": 1e-3},
}
# The first asks for what cannot be.
COMPRESS = [
    {"heads": 0.5, "ffn": 0.5, "max_size": 0.001},
    {"prune_vocab": True, "store": "float16"},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("smaller")


@pytest.fixture(scope="module")
def runs(run, glue_dir, vocab_file, folder):
    """The same run twice, and once more with a teacher that is not there."""
    options = {"task": "sst2", "data": str(glue_dir), "vocab": str(vocab_file), "size": "tiny"}
    options |= {"max_length": 16, "batch_size": 16, "epochs": 2, "learning_rate": 2e-3}
    options |= {"min_accuracy": 0, "distill": DISTILL, "compress": COMPRESS}
    (folder / "run.json").write_text(json.dumps(options))
    (folder / "last.json").write_text(json.dumps({**DISTILL, "teacher": "last"}))
    arguments = ("--config", folder / "run.json")
    first = run(folder / "output", *arguments).check(0)
    again = run(folder / "output", *arguments).check(0)
    last = run(folder / "output", *arguments, "--distill", folder / "last.json").check(2)
    return first, again, last


def findings(folder, gate):
    (path,) = (folder / "output" / "artifacts" / gate / "findings").iterdir()
    return json.loads((path / "findings.json").read_text())


def test_student_starts_from_its_teachers_layers(folder, runs):
    (path,) = (folder / "output/artifacts/Trainer/model_run").iterdir()
    training = json.loads((path / "model.json").read_text())["training"]
    assert training["size"] is None
    (teacher,) = training["distillation"]["teachers"]
    assert "/Teacher/model/" in teacher
    assert training["recipe"]["learning_rate"] == 2e-3
    (path,) = (folder / "output/artifacts/Teacher/model_run").iterdir()
    training = json.loads((path / "model.json").read_text())["training"]
    assert (training["size"], training["distillation"]) == ("tiny", None)
    assert training["recipe"]["learning_rate"] == 1e-3
    assert re.search(r"bert from layers 2 of \S+/Teacher/model/", runs[0].stdout)


def test_teacher_is_not_asked_again_in_the_training(folder, runs):
    (learned,) = (folder / "output/artifacts/TeacherAnswers/examples").iterdir()
    (path,) = (learned / "Split-train").iterdir()
    (record,) = tf.data.TFRecordDataset(str(path), "GZIP").take(1).as_numpy_iterator()
    answer = tf.train.Example.FromString(record).features.feature["teacher_logits"]
    assert len(answer.float_list.value) == 2
    assert "epochs of the teacher's layers first: 1" in runs[0].stdout
    assert "the teachers' answers to all rows took" not in runs[0].stdout


def test_each_gate_compares_with_the_model_before(folder, runs):
    names = {
        gate: {key: model["name"] for key, model in findings(folder, gate)["models"].items()}
        for gate in ("StudentGate", "CompressGate1", "CompressGate2")
    }
    half, last = "heads 0.5, ffn 0.5", "prune vocab, store float16"
    assert names == {
        "StudentGate": {"before": "teacher", "variant": "student"},
        "CompressGate1": {"before": "student", "variant": half, "reference": "teacher"},
        "CompressGate2": {"before": "student", "variant": last, "reference": "teacher"},
    }
    student = findings(folder, "StudentGate")["models"]
    assert student["variant"]["parameters"] < student["before"]["parameters"]
    smallest = findings(folder, "CompressGate2")["models"]
    assert smallest["variant"]["bytes"] < smallest["before"]["bytes"]


def test_what_a_gate_refuses_is_left_out_of_the_pushed_model(folder, runs, ask):
    assert not findings(folder, "CompressGate1")["accepted"]
    assert findings(folder, "CompressGate2")["accepted"]
    assert "Refused: Heads 0.5, ffn 0.5 has " in runs[0].stdout
    (version,) = runs[0].versions
    served = folder / "output" / "serving" / str(version)
    about = json.loads((served / "assets.extra" / "bert_tfx.json").read_text())
    (asked,) = (done["asked"] for done in about["training"]["compressions"])
    assert asked["store"] == about["storage"] == "float16"
    ask(served, [{"text_a": "a great film"}], classes=["0", "1"])


def test_the_same_run_again_makes_nothing(runs):
    _, again, _ = runs
    resolvers = {"AcceptedData", "AcceptedTokens", "Baseline"}
    assert {name for name, what in again.components.items() if what == "done"} == resolvers
    assert again.versions == runs[0].versions
    assert again.artifacts == runs[0].artifacts


def test_no_student_is_a_teacher(runs):
    assert "distill: there is no teacher, as no model of this lineage was good" in runs[2].stderr
    assert runs[2].versions == runs[0].versions
