import json
import os

import numpy as np
import pytest

from bert_tfx.modeling.checkpoints import loading
from bert_tfx.modeling.checkpoints.loading import (
    load_classifier,
    load_encoder,
    save_hugging_face,
)
from bert_tfx.modeling.export.trained_model import load_trained_model

BATCH = {
    "token_ids": np.array([[2, 5, 6, 3], [2, 7, 3, 0]], np.int32),
    "segment_ids": np.zeros((2, 4), np.int32),
    "padding_mask": np.array([[1, 1, 1, 1], [1, 1, 1, 0]], np.int32),
}
FILES = ["config.json", "model.safetensors", "tokenizer_config.json", "vocab.txt"]


@pytest.fixture
def place(tmp_path, monkeypatch, toy_dir):
    """A folder in which the command runs."""
    monkeypatch.setenv("BERT_TFX_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy").symlink_to(toy_dir)
    return tmp_path


def test_classifier_keeps_head_labels_and_vocabulary(bert_tfx, place, vocab_file):
    done = bert_tfx("convert", "--model_path", "toy", "--output", "new/hf").check(0)
    assert done == (0, f"converted the classifier of sst2: {place}/new/hf\n", "")
    folder = place / "new" / "hf"
    assert sorted(os.listdir(folder)) == FILES
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert config["id2label"] == {"0": "0", "1": "1"}
    assert (folder / "vocab.txt").read_bytes() == vocab_file.read_bytes()
    ours = load_trained_model("toy").classifier(BATCH, training=False)
    theirs = load_classifier(str(folder), 2)(BATCH, training=False)
    np.testing.assert_allclose(np.asarray(theirs), np.asarray(ours), rtol=0, atol=1e-6)


def test_checkpoint_keeps_its_head_or_stays_an_encoder(bert_tfx, place):
    bert_tfx("convert", "--save_dir", "toy/classifier.keras", "--output", "hf").check(0)
    done = bert_tfx("convert", "--model_path", "hf", "--output", "again").check(0)
    assert done.stdout == f"converted the classifier: {place}/again\n"
    for name in FILES:
        assert (place / "again" / name).read_bytes() == (place / "hf" / name).read_bytes()

    save_hugging_face(
        load_encoder("hf"), "bare", vocab_file=str(place / "toy" / "vocab.txt"), lowercase=True
    )
    done = bert_tfx("convert", "--model_path", "bare", "--output", "encoder").check(0)
    assert done.stdout == f"converted the encoder: {place}/encoder\n"
    assert sorted(os.listdir("encoder")) == FILES
    ours = load_encoder("hf")(BATCH, training=False)
    theirs = load_encoder("encoder")(BATCH, training=False)
    for name in ("sequence_output", "pooled_output"):
        np.testing.assert_array_equal(np.asarray(theirs[name]), np.asarray(ours[name]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--model_path nowhere --output x", "nowhere: no such file or folder, and no preset"),
        ("--model_path bert-base-chines --output x", "did you mean bert-base-chinese"),
        ("--model_path bert-base-chinese --output x", "not fetched yet: bert-tfx fetch bert-base"),
        ("--model_path empty --output x", "{}/empty: not a checkpoint; expected a folder with"),
        ("--model_path file --output x", "{}/file: not a checkpoint; expected a folder with"),
        ("--model_path unfinished --output x", "unfinished/model.json: missing; a trained model"),
        ("--model_path no_vocab --output x", "no_vocab: there is no vocab.txt beside the weights"),
        ("--model_path toy --output empty", "{}/empty: exists already; --output names a new"),
        ("--model_path toy --output file", "{}/file: exists already; --output names a new"),
        ("--model_path toy --output file/x", "{}/file/x: cannot be written: File exists"),
        ("--model_path toy", "the following arguments are required: --output"),
    ],
)
def test_mistake_is_told_and_nothing_is_written(bert_tfx, place, arguments, message):
    (place / "empty").mkdir()
    (place / "file").touch()
    (place / "unfinished").mkdir()
    for name in ("classifier.keras", "vocab.txt"):
        (place / "unfinished" / name).symlink_to(place / "toy" / name)
    toy = load_trained_model("toy")
    loading.save_hugging_face(
        toy.classifier, str(place / "no_vocab"), vocab_file=toy.vocab_file, lowercase=True
    )
    (place / "no_vocab" / "vocab.txt").unlink()
    before = sorted(place.rglob("*"))
    done = bert_tfx("convert", *arguments.split()).check(2)
    assert message.format(place) in done.stderr
    assert done.stdout == ""
    assert sorted(place.rglob("*")) == before
