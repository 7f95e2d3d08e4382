import os
import re

import numpy as np
import pytest
import tensorflow as tf

from bert_tfx.modeling.export import saved_model
from bert_tfx.modeling.export.trained_model import load_trained_model
from bert_tfx.modeling.text.text_rows import rows_of_texts

TEXTS = [b"a lovely room", b"the meal was awful", b"", "好 good".encode()]


@pytest.fixture
def place(tmp_path, monkeypatch, toy_dir):
    """A folder in which the command runs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy").symlink_to(toy_dir)
    return tmp_path


def test_versions_stand_beside_each_other_and_answer_as_the_model(bert_tfx, place):
    done = bert_tfx("export", "--model_path", "toy", "--export_model_dir", "served/sst2").check(0)
    assert done.stdout == f"exported: {place}/served/sst2/1\n"
    assert done.stderr == ""
    arguments = ("--export_model_dir", "served/sst2", "--model_version", 12)
    bert_tfx("export", "--model_path", "toy/classifier.keras", *arguments).check(0)
    assert sorted(os.listdir("served/sst2")) == ["1", "12"]

    model = load_trained_model("toy")
    rows = rows_of_texts(model.transform(), {"text_a": TEXTS}, [0] * 4)
    logits = np.asarray(model.classifier(rows.batch(np.arange(4)), training=False))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for version in ("1", "12"):
        served = tf.saved_model.load(f"served/sst2/{version}").signatures
        answer = served["serve_text"](text_a=tf.constant(TEXTS))
        np.testing.assert_allclose(answer["probabilities"], probabilities, atol=1e-6)
        best = probabilities.argmax(axis=1)
        assert answer["label"].numpy().tolist() == [(b"0", b"1")[i] for i in best]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--model_path nowhere --export_model_dir x", "nowhere: no such model; expected a folder"),
        ("--model_path unfinished --export_model_dir x", "An unfinished training is finished by"),
        ("--model_path file --export_model_dir x", "file: no such model; expected a folder"),
        (
            "--model_path toy --export_model_dir served",
            "{}/served/1: exists already; --model_version names another version",
        ),
        (
            "--model_path toy --export_model_dir served --model_version 0",
            "--model_version must be at least 1. Received: 0",
        ),
        ("--model_path toy --export_model_dir x --model_version a", "invalid int value: 'a'"),
        ("--model_path toy --export_model_dir file", "{}/file: cannot be written: File exists"),
        ("--model_path toy --export_model_dir file/x", "{}/file/x: cannot be written: Not a dir"),
        ("--model_path toy", "the following arguments are required: --export-model-dir"),
    ],
)
def test_mistake_is_told_and_nothing_is_written(bert_tfx, place, arguments, message):
    (place / "unfinished").mkdir()
    for name in ("classifier.keras", "vocab.txt"):
        (place / "unfinished" / name).symlink_to(place / "toy" / name)
    (place / "file").touch()
    (place / "served" / "1").mkdir(parents=True)
    before = sorted(place.rglob("*"))
    done = bert_tfx("export", *arguments.split()).check(2)
    assert message.format(place) in done.stderr
    assert done.stdout == ""
    assert sorted(place.rglob("*")) == before


def test_model_server_never_sees_a_part(bert_tfx, place, monkeypatch):
    """A folder with a number for a name comes by a rename, and a crash leaves nothing."""
    seen = []

    def save(model, directory):
        os.makedirs(directory)
        seen.append((os.listdir("served"), os.stat(directory).st_ino))
        if len(seen) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(saved_model, "save_for_serving", save)
    arguments = ("export", "--model_path", "toy", "--export_model_dir", "served")
    bert_tfx(*arguments).check(130)
    assert os.listdir("served") == []
    bert_tfx(*arguments).check(0)
    assert os.listdir("served") == ["1"]
    assert all(re.fullmatch(r"\.1\.[0-9a-f]{32}\.partial", name) for (name,), _ in seen)
    assert os.stat("served/1").st_ino == seen[1][1]
