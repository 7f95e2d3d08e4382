"""`train`, `test`, `export` and `convert`, one after another, as users start them.

All work on one training on the embedded sample, so these tests belong on one worker.
"""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest

from bert_tfx.pipeline.configuration.options import SAMPLE

# Two cores that others use as well may take long.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

# What a client of the exported model needs: no line of this project.
ASK = """
import sys
import numpy as np, tensorflow as tf, tensorflow_text
model, texts, answers = sys.argv[1:]
with open(texts, "rb") as file:
    texts = file.read().split(b"\\n")
examples = [
    tf.train.Example(features=tf.train.Features(feature={
        "text_a": tf.train.Feature(bytes_list=tf.train.BytesList(value=[text]))
    })).SerializeToString()
    for text in texts
]
signatures = tf.saved_model.load(model).signatures
by_text = signatures["serve_text"](text_a=tf.constant(texts))
by_example = signatures["serving_default"](examples=tf.constant(examples))
np.savez(
    answers,
    **{f"text_{name}": value.numpy() for name, value in by_text.items()},
    **{f"example_{name}": value.numpy() for name, value in by_example.items()},
)
"""


@pytest.fixture(scope="module")
def bert_tfx(command):
    """Runs a command to its end; it must end well and complain of nothing."""

    def bert_tfx(*arguments):
        done = command(*arguments)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        assert done.stderr == ""
        return done.stdout

    return bert_tfx


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("commands")


@pytest.fixture(scope="module")
def trained(bert_tfx, folder):
    """Trains; returns what was said."""
    return bert_tfx(
        "train", "--model_name", "bert", "--task_name", "sample", "--epochs", 2,
        "--save_dir", folder / "model", "--max_seq_len", 64,
    )  # fmt: skip


@pytest.fixture(scope="module")
def tested(bert_tfx, folder, trained):
    """Tests; returns what was said."""
    return bert_tfx(
        "test", "--save_dir", folder / "model", "--task_name", "sample",
        "--write_test_result", folder / "answers.tsv",
    )  # fmt: skip


@pytest.fixture(scope="module")
def answers(folder, tested):
    """The answers that `test` wrote."""
    header, *lines = (folder / "answers.tsv").read_bytes().removesuffix(b"\n").split(b"\n")
    assert header == b"prediction\tlabel\tprobability\ttext_a"
    return [line.split(b"\t") for line in lines]


def rows(name):
    """The sample's rows: label, text."""
    lines = (SAMPLE / f"{name}.tsv").read_bytes().splitlines()[1:]
    return [line.split(b"\t")[:2] for line in lines]


def test_training_says_what_it_does(trained, folder):
    lines = [line.strip() for line in trained.splitlines()]
    assert lines[0] == "4,000 rows to learn from (24 tokens each), 800 to choose the best epoch by"
    assert re.fullmatch(r"new bert tiny with [\d,]+ parameters", lines[1])
    assert any(line.startswith("epoch 1/2: loss ") for line in lines)
    assert re.fullmatch(r"sample: eval accuracy 0\.\d{4}, loss \d\.\d{4} \(epoch 2\)", lines[-2])
    assert lines[-1] == f"model: {folder / 'model'}"
    assert not (folder / "model" / "training_state").exists()


def test_every_test_row_is_answered(answers):
    assert [[label, text] for _, label, _, text in answers] == rows("test")
    assert {prediction for prediction, *_ in answers} == {b"0", b"1"}
    assert all(0.5 <= float(probability) <= 1 for _, _, probability, _ in answers)


def test_report_is_of_the_answers(tested, answers):
    assert re.search(r"^sample, test: 800 rows, [\d,]+ rows/s, text to answer$", tested, re.M)
    right = sum(prediction == label for prediction, label, *_ in answers)
    assert f"accuracy {right / 800:.4f}, loss " in tested
    counts = [
        [sum(row[:2] == [prediction, label] for row in answers) for prediction in (b"0", b"1")]
        for label in (b"0", b"1")
    ]
    matrix = [line.split() for line in tested.splitlines() if re.fullmatch(r"[ \d]+", line)]
    assert matrix == [["0", "1"], *([str(i), *map(str, c)] for i, c in enumerate(counts))]
    assert "precision    recall  f1-score   support" in tested


@pytest.fixture(scope="module")
def exported(bert_tfx, folder, trained):
    """Exports; returns the SavedModel's folder."""
    stdout = bert_tfx(
        "export", "--model_path", folder / "model", "--export_model_dir", folder / "served",
        "--model_version", 3,
    )  # fmt: skip
    assert stdout == f"exported: {folder / 'served' / '3'}\n"
    assert os.listdir(folder / "served") == ["3"]
    return folder / "served" / "3"


def test_exported_model_answers_as_test_did(exported, answers, folder):
    (folder / "texts").write_bytes(b"\n".join(text for *_, text in answers))
    arguments = [exported, folder / "texts", folder / "served.npz"]
    environment = {**os.environ, "PYTHONPATH": ""}
    subprocess.run([sys.executable, "-I", "-c", ASK, *arguments], check=True, env=environment)
    served = np.load(folder / "served.npz", allow_pickle=True)
    for way in ("text", "example"):
        assert [*served[f"{way}_label"]] == [prediction for prediction, *_ in answers]
        np.testing.assert_allclose(
            served[f"{way}_probabilities"].max(axis=1),
            [float(probability) for _, _, probability, _ in answers],
            rtol=0,
            atol=2e-6,
        )
        assert {tuple(classes) for classes in served[f"{way}_classes"]} == {(b"0", b"1")}


@pytest.fixture(scope="module")
def converted(bert_tfx, folder, trained):
    """Converts; returns the folder."""
    stdout = bert_tfx("convert", "--model_path", folder / "model", "--output", folder / "hf")
    assert stdout == f"converted the classifier of sample: {folder / 'hf'}\n"
    return folder / "hf"


def test_converted_model_is_where_another_training_starts(bert_tfx, converted, folder):
    stdout = bert_tfx(
        "train", "--task", "sample", "--pretrained", converted, "--max_seq_len", 64,
        "--epochs", 1, "--max_steps", 1, "--lr", 1e-9, "--save_dir", folder / "more",
    )  # fmt: skip
    assert f"bert from {converted} with " in stdout
    assert "the head is new" not in stdout
    # After one tiny step it is as good as it was, head and all.
    before, after = (
        json.loads((folder / name / "model.json").read_text(encoding="utf-8"))["training"]["eval"]
        for name in ("model", "more")
    )
    assert after["eval_accuracy"] == before["eval_accuracy"]
    assert after["eval_loss"] == pytest.approx(before["eval_loss"], rel=1e-3)


# A training that is killed.


def weights(model):
    """The bytes of the weights in a Keras file."""
    with zipfile.ZipFile(model / "classifier.keras") as file:
        return file.read("model.weights.h5")


def test_killed_training_reaches_the_same_weights(start, bert_tfx, folder, glue_dir, vocab_file):
    arguments = (
        "train", "--task", "sst2", "--data", glue_dir, "--vocab", vocab_file, "--size", "tiny",
        "--max_seq_len", 16, "--batch_size", 4, "--epochs", 3, "--lr", 1e-3,
    )  # fmt: skip
    killed, whole = folder / "killed", folder / "whole"
    with start(
        *arguments, "--save_dir", killed, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        said = ""
        # The state is saved before the line.
        while "epoch 1/3: loss" not in said:
            line = process.stdout.readline()
            assert line, f"it ended:\n{said}"
            said += line
        time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert (killed / "training_state").exists()
    assert not (killed / "model.json").exists()

    again = bert_tfx(*arguments, "--save_dir", killed)
    assert "going on from the saved state: epoch 2, step 0" in again
    assert "epoch 1/3" not in again
    assert not (killed / "training_state").exists()
    bert_tfx(*arguments, "--save_dir", whole)
    assert weights(killed) == weights(whole)
    histories = [
        json.loads((model / "history.json").read_text(encoding="utf-8"))
        for model in (killed, whole)
    ]
    assert histories[0] == histories[1]


# The published datasets, where they are at hand.

SHARED_DATA = pathlib.Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.real
@pytest.mark.parametrize(
    ("task", "rows", "columns"),
    [("chnsenticorp", 1200, 1), ("sst2", 872, 1), ("lcqmc", 899, 2)],
)
def test_published_rows_are_trained_on_and_answered(bert_tfx, tmp_path, task, rows, columns):
    if not (SHARED_DATA / task).is_dir():
        pytest.skip(f"no {SHARED_DATA / task}")
    data = ("--task_name", task, "--data_dir", SHARED_DATA / task)
    model, answers = tmp_path / "model", tmp_path / "answers.tsv"
    recipe = ("--size", "tiny", "--max_seq_len", 64, "--max-steps", 3)
    bert_tfx("train", *data, "--save_dir", model, *recipe)
    stdout = bert_tfx("test", *data, "--save_dir", model, "--write_test_result", answers)
    assert re.search(rf"^{task}, eval: {rows:,} rows, ", stdout, re.MULTILINE)
    lines = answers.read_bytes().removesuffix(b"\n").split(b"\n")
    assert len(lines) == 1 + rows
    assert {line.count(b"\t") for line in lines} == {2 + columns}


def test_two_workers_take_the_steps_of_one(command, folder):
    """The global batch is the same, so are the losses; dropout would differ."""
    arguments = [
        "train", "--task", "sample", "--max-steps", 6, "--max_seq_len", 32, "--dropout", 0,
    ]  # fmt: skip
    done = command(*arguments, "--save_dir", folder / "alone")
    assert done.returncode == 0, done.stderr
    with socket.socket() as first, socket.socket() as second:
        ports = []
        for place in (first, second):
            place.bind(("localhost", 0))
            ports.append(place.getsockname()[1])
    cluster = {"worker": [f"localhost:{port}" for port in ports]}
    workers = []
    for index in range(2):
        environment = {"TF_CONFIG": json.dumps({"cluster": cluster, "task": worker(index)})}
        program = [sys.executable, "-m", "bert_tfx.pipeline.commands.cli", *map(str, arguments)]
        program += ["--distribution", "multi_worker", "--save_dir", str(folder / "together")]
        workers.append(
            subprocess.Popen(
                program,
                env=os.environ | environment,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        )
    said = [process.communicate()[0] for process in workers]
    assert [process.returncode for process in workers] == [0, 0], "\n\n".join(said)
    assert not (folder / "together" / "training_state").exists()

    def losses(name):
        history = json.loads((folder / name / "history.json").read_text())
        return history["seeds"]["1"]["step_losses"]

    assert len(losses("alone")) == 6
    np.testing.assert_allclose(losses("together"), losses("alone"), rtol=0, atol=2e-5)


def worker(index):
    return {"type": "worker", "index": index}
