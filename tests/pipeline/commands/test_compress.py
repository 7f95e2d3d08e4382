import dataclasses
import os
import pathlib
import re

import numpy as np
import pytest

from bert_tfx.modeling.encoders.reshaping import reshaped
from bert_tfx.modeling.export import trained_model
from bert_tfx.modeling.export.trained_model import load_trained_model
from bert_tfx.modeling.text.text_rows import rows_of_texts
from bert_tfx.modeling.text.vocab_file import read_vocabulary
from bert_tfx.schema.labelled_texts import read_split
from bert_tfx.schema.tasks import TASKS, resolve_layout
from bert_tfx.serving import int8_products


@pytest.fixture
def place(tmp_path, monkeypatch, glue_dir, toy_dir):
    """A folder in which the command runs."""
    monkeypatch.setenv("BERT_TFX_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "glue").symlink_to(glue_dir)
    (tmp_path / "toy").symlink_to(toy_dir)
    return tmp_path


TOY = ("compress", "--model", "toy", "--data", "glue")


def texts_of(split):
    task = TASKS["sst2"]
    return read_split(task, resolve_layout(task, "glue"), split, "glue", eval_fraction=0.1)


def logits(folder, texts):
    model = load_trained_model(folder)
    rows = rows_of_texts(model.transform(), {"text_a": texts}, [0] * len(texts))
    return np.asarray(model.classifier(rows.batch(np.arange(len(rows))), training=False))


def table(stdout):
    """Returns what stands before and after each name."""
    lines = (line.rsplit(maxsplit=2) for line in stdout.splitlines())
    return {line[0]: line[1:] for line in lines if len(line) == 3}


@pytest.mark.slow
def test_everything_at_once_is_a_model_that_the_others_take(bert_tfx, place):
    done = bert_tfx(
        *TOY,
        *("--output", "small", "--layers", "1", "--heads", "0.5", "--ffn", "0.25"),
        *("--prune-vocab", "--store", "float16", "--importance-rows", "20"),
        *("--recovery-steps", 2, "--recovery-learning-rate", "1e-4"),
    ).check(0)
    assert done.stderr == ""
    for line in (
        "layers: 1 of 2 stay: 1",
        "importance: what the loss of 20 train rows depends on",
        "heads: 1 of 2 stay in each layer",
        "neurons: 24 of 32 stay in each layer",
        "recovery: 2 steps on 64 train rows, by their labels and the answers of the model before",
        "weights: matrices rounded to float16",
    ):
        assert f"{line}\n" in done.stdout
    assert done.stdout.endswith(f"model: {place}/small\n")
    small, toy = load_trained_model("small"), load_trained_model("toy")
    config = small.classifier.encoder.config
    assert (config.num_layers, config.num_heads, config.head_dim) == (1, 1, 8)
    assert (config.intermediate_dim, config.hidden_dim) == (24, 16)
    assert config.vocab_size == len(read_vocabulary("small/vocab.txt"))
    assert small.storage == "float16"

    read = texts_of("eval")
    before, after = (logits(name, read.texts["text_a"]).argmax(axis=1) for name in ("toy", "small"))
    labels = np.array(read.labels)
    told = table(done.stdout)
    assert told["parameters"] == [
        f"{toy.classifier.count_params():,}",
        f"{small.classifier.count_params():,}",
    ]
    assert told["accuracy (sst2, 80 eval rows)"] == [
        f"{(before == labels).mean():.4f}",
        f"{(after == labels).mean():.4f}",
    ]
    assert told["the same answer as before"] == ["100.00%", f"{(before == after).mean():.2%}"]
    assert {"exported, MB", "1 row, ms", "batches of 32, rows/s"} < {*told}
    (compression,) = small.training["compressions"]
    assert compression["of"] == f"{place}/toy"
    assert compression["asked"]["layers"] == "1"
    assert compression["asked"]["recovery_learning_rate"] == 1e-4
    assert compression["recovery"]["epoch"] == 1
    assert compression["measured"]["after"]["parameters"] == small.classifier.count_params()

    tested = bert_tfx("test", "--model_path", "small", "--data", "glue", "--split", "eval").check(0)
    assert f"accuracy {(after == labels).mean():.4f}, " in tested.stdout
    bert_tfx("export", "--model_path", "small", "--export_model_dir", "served").check(0)
    recovered = bert_tfx(
        *("train", "--task", "sst2", "--data", "glue", "--save_dir", "recovered"),
        *("--pretrained", "small", "--max_seq_len", 16, "--batch_size", 8, "--max-steps", 2),
    ).check(0)
    assert f"{small.classifier.count_params():,} parameters" in recovered.stdout
    model = load_trained_model("recovered")
    assert model.classifier.encoder.config == config
    assert read_vocabulary("recovered/vocab.txt") == read_vocabulary("small/vocab.txt")
    told = bert_tfx("convert", "--model_path", "small", "--output", "hf").check(2)
    assert "as heads were pruned: Hugging Face's configuration cannot say that" in told.stderr
    assert not os.path.exists("hf")


def write_plump():
    """Writes the toy with three more tokens, which no row holds."""
    toy = load_trained_model("toy")
    tokens = [*read_vocabulary("toy/vocab.txt"), "okapi", "quagga", "##ing"]
    pathlib.Path("vocab.txt").write_text("".join(f"{t}\n" for t in tokens), encoding="utf-8")
    table = toy.classifier.encoder.token_embedding.embeddings
    values = {table.path: np.vstack([table, np.ones((3, 16))])}
    classifier = reshaped(toy.classifier, {"vocab_size": len(tokens)}, values)
    dataclasses.replace(toy, classifier=classifier, vocab_file="vocab.txt").save("plump")


@pytest.mark.slow
def test_vocabulary_of_the_train_rows_answers_them_as_before(bert_tfx, place):
    write_plump()
    arguments = ("compress", "--save_dir", "plump", "--data", "glue", "--output", "small")
    done = bert_tfx(*arguments, "--prune-vocab", "--characters", "").check(0)
    for split in ("train", "eval"):
        texts = texts_of(split).texts["text_a"]
        np.testing.assert_array_equal(logits("small", texts), logits("plump", texts))
    assert read_vocabulary("small/vocab.txt") == read_vocabulary("toy/vocab.txt")
    assert (
        "vocabulary: 25 of 28 tokens stay, 0.0 of 0.0 MB; 0.00% of the eval rows have other "
        "tokens now\n"
    ) in done.stdout
    assert table(done.stdout)["the same answer as before"] == ["100.00%", "100.00%"]


@pytest.mark.slow
def test_corpus_chooses_the_tokens(bert_tfx, place):
    (place / "corpus.tsv").write_text("1\tgood good\n0\tgood bad\n")
    arguments = ("--prune-vocab", "--corpus", "corpus.tsv", "--min-count", 3)
    done = bert_tfx(*TOY, "--output", "small", *arguments).check(0)
    # "a" as a character of the corpus.
    kept = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "a"}
    assert {*read_vocabulary("small/vocab.txt")} == kept
    assert re.search(r"; [1-9]\d*\.\d\d% of the eval rows have other tokens", done.stdout)
    (compression,) = load_trained_model("small").training["compressions"]
    assert compression["asked"]["corpus"] == f"{place}/corpus.tsv"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "nothing to do: name at least one of layers, heads, ffn, prune_vocab, store"),
        ("--heads 0", "nothing to do"),
        ("--heads 1", "heads is the share that goes, at least 0 and below 1. Received: 1"),
        ("--ffn -0.1", "ffn is the share that goes, at least 0 and below 1. Received: -0.1"),
        ("--ffn nan", "ffn is the share that goes"),
        ("--layers one", "layers must be numbers with commas between them, or alternate. Received"),
        ("--ffn 0.5 --importance-rows 0", "importance_rows must be at least 1. Received: 0"),
        ("--ffn 0.5 --corpus corpus", "corpus says how to choose tokens: it goes with prune_vocab"),
        ("--prune-vocab --corpus nowhere", "nowhere: no such file; --corpus names a file of texts"),
        ("--prune-vocab --min-count 0", "must be at least 1. Received: 0"),
        ("--prune-vocab --characters klingon", "'klingon': no such range of characters"),
        ("--store int4", "invalid choice: 'int4'"),
        ("--store float16 --int8", "argument --int8: not allowed with argument --store"),
        ("--store float16 --recovery-steps 2", "recovery_steps: there is nothing to recover from"),
        ("--ffn 0.5 --recovery-steps -2", "recovery_steps must not be negative. Received: -2"),
        ("--ffn 0.5 --recovery-learning-rate 1e-4", "says how to recover: it goes with recovery_"),
        ("--ffn 0.5 --output taken", "taken: exists already; --output names a new folder"),
        ("--ffn 0.5 --data nowhere", "nowhere: no such folder; --data_dir names the task's"),
        ("--ffn 0.5 --max-rejects -1", "max_rejects must not be negative"),
        ("--ffn 0.5 --model nowhere", "nowhere: no such model; expected a folder"),
        ("--ffn 0.5 --task lcqmc --data {}/pairs", "it cannot answer lcqmc"),
        ("--layers 0,2", "layer 2: no such layer; the model has 2, numbered 0 to 1"),
        ("--layers 1,0", "must be numbers that ascend"),
        ("--heads 0.4", "a share of 0.4 of 2 heads is less than one of them: name at least 0.5"),
        ("--ffn 0.01", "a share of 0.01 of 32 neurons is less than one of them"),
        ("--prune-vocab --corpus latin1", "latin1, line 2: not UTF-8: "),
    ],
)
def test_mistake_is_told_and_nothing_is_written(bert_tfx, place, arguments, message):
    (place / "taken").mkdir()
    (place / "pairs").mkdir()
    for name in ("train", "dev"):
        (place / "pairs" / f"{name}.tsv").write_text("text_a\ttext_b\tlabel\na\tb\t1\n")
    (place / "corpus").write_text("good\n")
    (place / "latin1").write_bytes(b"good\n\xe9t\xe9\n")
    before = sorted(place.rglob("*"))
    arguments = arguments.format(place).split()
    done = bert_tfx(*TOY, "--output", "small", *arguments).check(2)
    assert message in done.stderr
    assert sorted(place.rglob("*")) == before


def test_int8_is_refused_at_once_where_it_is_not_computed(bert_tfx, place, monkeypatch):
    monkeypatch.setattr(int8_products, "_are_computed", lambda: False)
    monkeypatch.setattr(trained_model, "load_trained_model", None)
    done = bert_tfx(*TOY, "--output", "small", "--int8").check(2)
    assert "TensorFlow cannot multiply in 8 bits here, as oneDNN is off: set TF_" in done.stderr
    assert not (place / "small").exists()


def test_full_disk_leaves_nothing(bert_tfx, place, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(trained_model.os, "replace", full)
    done = bert_tfx(*TOY, "--output", "small", "--store", "bfloat16").check(2)
    assert "small: cannot be written: No space left on device; --output names" in done.stderr
    assert not [path for path in place.iterdir() if "small" in path.name]
