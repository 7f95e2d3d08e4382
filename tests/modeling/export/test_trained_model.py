import json
import os
import pathlib
import shutil

import keras
import numpy as np
import pytest

from bert_tfx.modeling.encoders.bert import BertEncoder
from bert_tfx.modeling.encoders.classifier import TextClassifier
from bert_tfx.modeling.export import trained_model
from bert_tfx.modeling.export.trained_model import TrainedModel, load_trained_model
from bert_tfx.modeling.text.text_rows import rows_of_texts
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.tasks import TASKS, own_task

# Test layouts, labels that are no ASCII, columns without header: all of it must come back.
TASK = own_task(
    {
        "name": "own",
        "labels": ["差评", "好评", "?"],
        "columns": ["label", "text_a"],
        "header": False,
        "train": "a.tsv",
        "test": "b.tsv",
        "test_columns": ["id", "text_a"],
    },
    where="here",
)
TEXTS = {"text_a": [b"a b c", "好 d".encode(), b"", b"h g f e d c b a"]}


def make_model(vocab_file, *, task=TASK, seed=1):
    keras.utils.set_random_seed(seed)
    encoder = BertEncoder(
        vocab_size=16,
        num_layers=2,
        hidden_dim=16,
        num_heads=2,
        intermediate_dim=32,
        initializer_range=0.5,
        max_length=8,
    )
    return TrainedModel(
        classifier=TextClassifier(encoder, len(task.labels), dropout=0.3),
        task=task,
        vocab_file=vocab_file,
        lowercase=False,
        max_length=7,
        eval_fraction=0.25,
        training={"recipe": {"epochs": 3}, "eval": {"eval_accuracy": 0.5}},
    )


def logits(model):
    rows = rows_of_texts(model.transform(), TEXTS, [0] * 4)
    return np.asarray(model.classifier(rows.batch(np.arange(4)), training=False))


@pytest.fixture(scope="module")
def model(vocab_file):
    return make_model(vocab_file)


@pytest.fixture
def folder(model, tmp_path):
    model.save(str(tmp_path / "model"))
    return tmp_path / "model"


@pytest.mark.parametrize("name", ["", "classifier.keras"])
def test_model_comes_back_as_it_was(model, folder, name):
    loaded = load_trained_model(str(folder / name))
    np.testing.assert_array_equal(logits(loaded), logits(model))
    assert loaded.task == TASK
    assert loaded.vocab_file == str(folder / "vocab.txt")
    assert (loaded.lowercase, loaded.max_length) == (False, 7)
    assert loaded.eval_fraction == 0.25
    assert loaded.training == model.training
    assert loaded.classifier.dropout_rate == 0.3


def test_folder_is_all_it_takes(model, folder, tmp_path):
    """It may move, and the vocabulary that it was made with may go."""
    shutil.move(folder, tmp_path / "elsewhere")
    loaded = load_trained_model(str(tmp_path / "elsewhere"))
    again = tmp_path / "elsewhere"
    loaded.save(str(again))
    np.testing.assert_array_equal(logits(load_trained_model(str(again))), logits(model))
    assert sorted(path.name for path in again.iterdir()) == [
        "classifier.keras",
        "model.json",
        "vocab.txt",
    ]


def test_description_is_readable(folder):
    text = (folder / "model.json").read_text(encoding="utf-8")
    assert "差评" in text
    content = json.loads(text)
    assert content["task"]["name"] == "own"
    assert {*content["versions"]} == {"bert-tfx", "keras", "tensorflow", "tensorflow-text"}
    assert content["versions"]["keras"] == keras.__version__


@pytest.mark.parametrize("published", TASKS)
def test_published_tasks_come_back(vocab_file, tmp_path, published):
    make_model(vocab_file, task=TASKS[published]).save(str(tmp_path))
    assert load_trained_model(str(tmp_path)).task == TASKS[published]


@pytest.mark.parametrize("step", ["classifier", "vocabulary", "description"])
def test_crash_leaves_no_description(model, vocab_file, tmp_path, monkeypatch, step):
    """Neither in a new folder, nor in one that held another model."""

    def crash(*_, **__):
        raise OSError(28, "No space left on device")

    make_model(vocab_file, seed=2).save(str(tmp_path / "other"))
    target, name = {
        "classifier": (type(model.classifier), "save"),
        "vocabulary": (trained_model.shutil, "copyfile"),
        "description": (trained_model.os, "replace"),
    }[step]
    for folder in (tmp_path / "new", tmp_path / "other"):
        if step == "vocabulary" and folder.exists():
            (folder / "vocab.txt").unlink()
        with monkeypatch.context() as patch:
            patch.setattr(target, name, crash)
            with pytest.raises(OSError, match="No space left"):
                model.save(str(folder))
        assert not (folder / "model.json").exists()
        with pytest.raises(InputError, match="An unfinished training is finished by the command"):
            load_trained_model(str(folder))
        model.save(str(folder))
        np.testing.assert_array_equal(logits(load_trained_model(str(folder))), logits(model))


def test_missing_folder_is_told(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "nothing", tmp_path / "file", tmp_path / "nothing/classifier.keras"):
        with pytest.raises(InputError, match=r"no such model; expected a folder with classifier"):
            load_trained_model(str(path))


@pytest.mark.parametrize("name", ["classifier.keras", "vocab.txt", "model.json"])
def test_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(InputError, match=rf"^{folder / name}: missing; a trained model has"):
        load_trained_model(str(folder))


def edited(**changes):
    def edit(content):
        return {**content, **changes}

    return edit


def without(name):
    return lambda content: {k: v for k, v in content.items() if k != name}


def other_task(**changes):
    return lambda content: {**content, "task": {**content["task"], **changes}}


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(lambda content: [], id="no object"),
        pytest.param(lambda content: None, id="null"),
        *map(without, ("task", "lowercase", "max_length", "eval_fraction", "training")),
        edited(lowercase="no"),
        edited(eval_fraction="0.1"),
        edited(max_length="7"),
        edited(max_length=True),
        edited(training=None),
        edited(storage="int4"),
        edited(storage=None),
        edited(task="own"),
        other_task(labels=["a"]),
        other_task(labels=["a", 1]),
        other_task(layouts=[]),
        other_task(layouts=[{"name": "x", "splits": [], "hash_split": False}]),
        other_task(layouts=[{"name": "x", "splits": {"train": {}}, "hash_split": False}]),
    ],
)
def test_malformed_description_is_told(folder, edit):
    about = folder / "model.json"
    about.write_text(json.dumps(edit(json.loads(about.read_text(encoding="utf-8")))))
    with pytest.raises(InputError, match=rf"^{about}: does not describe a model: "):
        load_trained_model(str(folder))


def test_model_of_before_there_was_a_choice_of_storage_is_read(folder):
    about = folder / "model.json"
    content = json.loads(about.read_text(encoding="utf-8"))
    assert content.pop("storage") == "float32"
    about.write_text(json.dumps(content))
    assert load_trained_model(str(folder)).storage == "float32"


def test_description_that_is_no_json_is_told(folder):
    for content in (b"{", b"", b"\xff\xfe"):
        (folder / "model.json").write_bytes(content)
        with pytest.raises(InputError, match=r"model\.json: "):
            load_trained_model(str(folder))


def test_parts_of_different_models_are_told(folder, vocab_file):
    tokens = pathlib.Path(vocab_file).read_text(encoding="utf-8")
    (folder / "vocab.txt").write_text(tokens + "one\ntwo\nthree\nfour\n", encoding="utf-8")
    message = r"embeddings for 16 tokens and 8 positions; vocab.txt holds 19 tokens"
    with pytest.raises(InputError, match=message):
        load_trained_model(str(folder))
    shutil.copyfile(vocab_file, folder / "vocab.txt")
    content = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    (folder / "model.json").write_text(json.dumps({**content, "max_length": 9}))
    with pytest.raises(InputError, match=r"model.json says rows of up to 9 tokens"):
        load_trained_model(str(folder))


def test_weights_that_are_none_are_told(folder):
    (folder / "classifier.keras").write_bytes(os.urandom(100))
    with pytest.raises(InputError, match=r"classifier\.keras: cannot be loaded as a Keras model"):
        load_trained_model(str(folder))
