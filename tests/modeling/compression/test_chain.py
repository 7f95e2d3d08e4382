import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from bert_tfx.modeling.compression import chain
from bert_tfx.modeling.compression.chain import compress
from bert_tfx.modeling.compression.settings import Compression
from bert_tfx.modeling.distillation.distil import distilling
from bert_tfx.modeling.encoders.bert import BertEncoder
from bert_tfx.modeling.encoders.classifier import TextClassifier
from bert_tfx.modeling.encoders.reshaping import as_array
from bert_tfx.modeling.export.trained_model import TrainedModel
from bert_tfx.modeling.export.weight_storage import rounded
from bert_tfx.modeling.text.text_rows import rows_of_texts
from bert_tfx.modeling.text.vocab_file import read_vocabulary
from bert_tfx.modeling.training.fine_tuning import fine_tune_seeds
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.labelled_texts import LabelledTexts
from bert_tfx.schema.tasks import TASKS

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TOKENS = [*SPECIAL, *"ghabcdef", "好", "##b"]
# Of the rows below.
NEEDED = [*SPECIAL, *"abcdef", "##b"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    vocab_file = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    vocab_file.write_text("".join(f"{token}\n" for token in TOKENS), encoding="utf-8")
    keras.utils.set_random_seed(1)
    encoder = BertEncoder(
        vocab_size=len(TOKENS),
        num_layers=3,
        hidden_dim=16,
        num_heads=2,
        intermediate_dim=32,
        initializer_range=0.5,
        max_length=8,
    )
    return TrainedModel(
        classifier=TextClassifier(encoder, 2),
        task=TASKS["sst2"],
        vocab_file=str(vocab_file),
        lowercase=True,
        max_length=8,
        eval_fraction=0.1,
        training={"seed": 1},
    )


def rows(count, seed):
    """Rows of the letters a to f, one of the last two of which is the label."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, count)
    texts = [" ".join([*random.choice([*"abcd"], 3), "ef"[label]]).encode() for label in labels]
    return LabelledTexts({"text_a": texts}, labels.tolist())


TRAIN, EVAL = rows(200, 1), rows(40, 2)


def logits(model, read):
    features = rows_of_texts(model.transform(), read.texts, read.labels).batch(np.arange(len(read)))
    return np.asarray(model.classifier(features, training=False))


def test_all_parts_go_in_one_call(model, tmp_path, caplog):
    caplog.set_level("INFO")
    settings = Compression(
        layers="alternate",
        heads=0.5,
        ffn=0.25,
        importance_rows=20,
        prune_vocab=True,
        characters="",
        store="float16",
        recovery_steps=3,
    )
    before = [as_array(weight) for weight in model.classifier.weights]
    work_dir = tmp_path / "work"
    after = compress(model, settings, TRAIN, EVAL, work_dir=str(work_dir))
    config = after.classifier.encoder.config
    assert (config.num_layers, config.num_heads, config.head_dim) == (2, 1, 8)
    assert (config.intermediate_dim, config.vocab_size) == (24, 12)
    assert after.vocab_file == str(work_dir / "vocab.txt")
    assert read_vocabulary(after.vocab_file) == NEEDED
    assert after.storage == "float16"
    for weight in after.classifier.weights:
        value = as_array(weight)
        if value.ndim > 1:
            np.testing.assert_array_equal(value.astype(np.float16).astype(np.float32), value)
    assert [line for line in caplog.messages if "stay" in line or "rounded" in line] == [
        "layers: 2 of 3 stay: 0,2",
        "heads: 1 of 2 stay in each layer",
        "neurons: 24 of 32 stay in each layer",
        "vocabulary: 12 of 15 tokens stay, 0.0 of 0.0 MB; 0.00% of the eval rows have other tokens "
        "now",
        "weights: matrices rounded to float16",
    ]
    # What it was made of is as it was.
    assert "compressions" not in model.training
    for weight, value in zip(model.classifier.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)

    (about,) = after.training["compressions"]
    assert about["asked"] == {
        "layers": "alternate",
        "heads": 0.5,
        "ffn": 0.25,
        "importance_rows": 20,
        "prune_vocab": True,
        "characters": "",
        "store": "float16",
        "recovery_steps": 3,
    }
    assert about["recovery"]["epoch"] == 1
    again = compress(after, Compression(store="float16"), TRAIN, EVAL, work_dir=str(tmp_path))
    assert [*again.training["compressions"][1]] == ["asked"]
    assert again.vocab_file == after.vocab_file
    np.testing.assert_array_equal(logits(again, EVAL), logits(after, EVAL))


RECOVERY = Compression(
    layers="2",
    prune_vocab=True,
    characters="",
    recovery_steps=40,
    recovery_learning_rate=3e-3,
)


def test_recovery_learns_from_labels_and_the_whole_model(model, tmp_path, monkeypatch, caplog):
    """Its answers are those by its own vocabulary, row for row."""
    caplog.set_level("INFO")
    given = {}

    def fine_tune(make_model, taught, *arguments, **options):
        given.update(taught=taught)
        return fine_tune_seeds(make_model, taught, *arguments, **options)

    def distil(teaching):
        given.update(teaching=teaching)
        return distilling(teaching)

    monkeypatch.setattr(chain, "fine_tune_seeds", fine_tune)
    monkeypatch.setattr(chain, "distilling", distil)
    after = compress(model, RECOVERY, TRAIN, EVAL, work_dir=str(tmp_path))
    # 7 steps an epoch.
    assert "epoch 1/6: loss" in caplog.text
    soft = np.exp(logits(model, TRAIN) / 2)
    soft /= soft.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(given["taught"].soft_targets, soft, atol=1e-5)
    assert given["teaching"].settings.alpha == 0.5
    np.testing.assert_array_equal(given["taught"].labels, TRAIN.labels)
    # [CLS] a b c d e f [SEP] by the smaller vocabulary.
    assert {*given["taught"].token_ids.tolist()} == {2, 3, 5, 6, 7, 8, 9, 10}
    assert read_vocabulary(after.vocab_file) == NEEDED


def test_recovery_asks_about_rows_that_it_sees(model, tmp_path, caplog):
    caplog.set_level("INFO")
    settings = dataclasses.replace(RECOVERY, recovery_steps=2)
    compress(model, settings, TRAIN, EVAL, work_dir=str(tmp_path))
    assert any(line.startswith("recovery: 2 steps on 64 train rows") for line in caplog.messages)


@pytest.mark.slow
def test_recovery_goes_on_where_it_was_stopped(model, tmp_path, monkeypatch):
    whole = compress(model, RECOVERY, TRAIN, EVAL, work_dir=str(tmp_path / "whole"))
    stopped = str(tmp_path / "stopped")
    with monkeypatch.context() as patch:
        patch.setattr(chain, "fine_tune_seeds", stopped_after(2))
        with pytest.raises(KeyboardInterrupt):
            compress(model, RECOVERY, TRAIN, EVAL, work_dir=stopped)
    after = compress(model, RECOVERY, TRAIN, EVAL, work_dir=stopped)
    np.testing.assert_allclose(logits(after, EVAL), logits(whole, EVAL), atol=1e-5)


def stopped_after(epochs):
    def stopping(*arguments, **options):
        told = []

        def on_metrics(seed, step, measured):
            told.append(step)
            if len(told) == epochs:
                raise KeyboardInterrupt

        return fine_tune_seeds(*arguments, **options, on_metrics=on_metrics)

    return stopping


def test_corpus_chooses_tokens(model, tmp_path):
    settings = Compression(prune_vocab=True, characters="")
    after = compress(
        model, settings, TRAIN, EVAL, work_dir=str(tmp_path), corpus=iter(["a h", "好"])
    )
    assert read_vocabulary(after.vocab_file)[5:] == ["h", "a", "好"]
    assert "corpus" not in after.training["compressions"][0]["asked"]


def test_storage_stays_narrow_after_a_recovery(model, tmp_path):
    narrow = dataclasses.replace(
        model, classifier=rounded(model.classifier, "bfloat16"), storage="bfloat16"
    )
    settings = Compression(ffn=0.5, recovery_steps=2, recovery_learning_rate=1e-2)
    after = compress(narrow, settings, TRAIN, EVAL, work_dir=str(tmp_path))
    assert after.storage == "bfloat16"
    kernel = as_array(after.classifier.encoder.blocks[0].output_dense.kernel)
    np.testing.assert_array_equal(tf.cast(tf.cast(kernel, "bfloat16"), tf.float32), kernel)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Compression(heads=0.4), "a share of 0.4 of 2 heads is less than one"),
        (Compression(ffn=0.01), "a share of 0.01 of 32 neurons is less than one"),
        (Compression(layers="0,3"), "layer 3: no such layer; the model has 3"),
        (Compression(layers="1,1"), "must be numbers that ascend"),
    ],
)
def test_what_the_model_has_not_is_told_before_anything_is_written(
    model, tmp_path, settings, message
):
    with pytest.raises(InputError, match=message):
        compress(model, settings, TRAIN, EVAL, work_dir=str(tmp_path / "work"))
    assert not (tmp_path / "work").exists()
