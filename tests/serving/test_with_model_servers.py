"""The client on model servers as they are: the local one, and TensorFlow Serving where it is."""

import asyncio
import importlib.util
import os
import pathlib
import sys
import time

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from bert_tfx.modeling.export import saved_model
from bert_tfx.serving.client import AsyncClient, Client
from bert_tfx.serving.protocol.errors import BadRequest, DeadlineExceeded, ModelNotFound
from bert_tfx.serving.protocol.model_api import TensorSpec
from bert_tfx.serving.server import process as server_process
from bert_tfx.serving.server.process import LOCAL_SERVER, TF_SERVING

_SPEC = importlib.util.spec_from_file_location(
    "version_changes", pathlib.Path(__file__).parent / "version_changes.py"
)
version_changes = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(version_changes)

LABELS = version_changes.TASK.labels
LONG = "房间很干净，" * 40
TEXTS = ["the room was lovely", "客服很傲慢！", "", " ", LONG, "😀", "the food was cold. " * 30]
TRUNCATED = [text in (LONG, TEXTS[-1]) for text in TEXTS]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two exported models: the paths, and what they say of `TEXTS` in this process."""
    folder = tmp_path_factory.mktemp("models")
    found = []
    for seed in (1, 2):
        model = version_changes.make_model(seed)
        saved_model.save_for_serving(model, str(folder / str(seed)))
        found.append((str(folder / str(seed)), version_changes.answers_of(model, TEXTS)))
    return found


@pytest.fixture(scope="module")
def version(models, tmp_path_factory):
    """A folder, and its version."""
    base = tmp_path_factory.mktemp("serving")
    return base, version_changes.push(models[0][0], base)


@pytest.fixture(scope="module")
def served(program, version, start_model_server):
    with start_model_server(program, version[0]) as server:
        yield server


@pytest.fixture(scope="module")
def client(served):
    with Client(served.target, timeout=30) as client:
        yield client


def check(answers, expected, number) -> None:
    """Holds predictions against probabilities."""
    assert [answer.model_version for answer in answers] == [number] * len(expected)
    assert [answer.label for answer in answers] == [LABELS[i] for i in expected.argmax(axis=1)]
    found = [list(answer.probabilities.values()) for answer in answers]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert all(list(answer.probabilities) == list(LABELS) for answer in answers)


def predict(served, signature, **inputs) -> dict[str, np.ndarray]:
    """Asks with the official stubs, which show all outputs."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "model"
    request.model_spec.signature_name = signature
    for name, values in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(values))
    with grpc.insecure_channel(served.target) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        response = stub.Predict(request, timeout=30)
    return {name: tf.make_ndarray(tensor) for name, tensor in response.outputs.items()}


def test_texts_are_answered_as_by_the_model_itself(client, models, version):
    answers = client.predict(TEXTS)
    check(answers, models[0][1], version[1])
    assert [answer.truncated for answer in answers] == TRUNCATED
    for text, expected in zip(TEXTS, models[0][1], strict=True):
        check(client.predict([text]), expected[None], version[1])
    assert client.predict([]) == []


def test_batches(served, models, version):
    texts, expected = TEXTS * 20, np.tile(models[0][1], (20, 1))
    for options in ({"batch_size": 3, "in_flight": 8}, {"batch_size": 64}):
        with Client(served.target, timeout=30, **options) as client:
            check(client.predict(texts), expected, version[1])
            check(list(client.stream(iter(texts))), expected, version[1])


def test_both_signatures_answer_alike_and_flag_what_is_cut(served, models):
    examples = [version_changes._example(text) for text in TEXTS]
    by_text = predict(served, "serve_text", text_a=TEXTS)
    by_example = predict(served, "serving_default", examples=examples)
    by_default = predict(served, "", examples=examples)
    for outputs in (by_text, by_example, by_default):
        np.testing.assert_allclose(outputs["probabilities"], models[0][1], rtol=0, atol=1e-5)
        assert outputs["truncated"].tolist() == TRUNCATED
        assert outputs["classes"].tolist() == [[label.encode() for label in LABELS]] * len(TEXTS)


class Latin1(str):
    """A text that travels as no text may: a client that is careless with encodings."""

    __slots__ = ()

    def encode(self, *_) -> bytes:
        return super().encode("latin-1")


def test_what_is_not_utf_8_is_refused(client):
    with pytest.raises(BadRequest, match="not UTF-8"):
        client.predict(["good", Latin1("caf\xe9")])
    assert len(client.predict(["good", "caf\xe9"])) == 2


def test_what_the_server_does_not_have(served):
    for options, kind in (
        ({"model": "other"}, ModelNotFound),
        ({"version": 4}, ModelNotFound),
        ({"version_label": "canary"}, BadRequest),
    ):
        with Client(served.target, timeout=30, **options) as client:
            with pytest.raises(kind):
                client.predict(["good"])
            with pytest.raises(kind):
                client.metadata()
    with Client(served.target, "other", timeout=30) as client:
        with pytest.raises(ModelNotFound):
            client.model_status()
        with pytest.raises(DeadlineExceeded, match="not ready within 1 s"):
            client.wait_until_ready(1)
    with Client(served.target, timeout=30) as client, pytest.raises(BadRequest, match="pairs"):
        client.predict(["good"], ["bad"])


def test_what_the_server_says_of_itself(served, client, version):
    client.wait_until_ready(10)
    assert client.is_healthy()
    assert [(s.version, s.state, s.error) for s in client.model_status()] == [
        (version[1], "AVAILABLE", "")
    ]
    metadata = client.metadata()
    assert metadata.model_version == version[1]
    assert {"serve_text", "serving_default"} <= set(metadata.signatures)
    signature = metadata.signatures["serve_text"]
    assert signature.inputs == {"text_a": TensorSpec("DT_STRING", (None,))}
    assert signature.outputs["probabilities"].dtype == "DT_FLOAT"
    assert set(signature.outputs) == {"probabilities", "label", "classes", "truncated"}
    with Client(served.target, timeout=30, version=version[1]) as asked:
        asked.wait_until_ready(10)
        assert asked.predict(["good"])[0].model_version == version[1]


def test_async_client(served, models, version):
    async def ask():
        async with AsyncClient(served.target, timeout=30) as client:
            await client.wait_until_ready(10)
            assert await client.is_healthy()
            metadata, (status,) = await client.metadata(), await client.model_status()
            assert (metadata.model_version, status.available) == (version[1], True)
            with pytest.raises(BadRequest, match="not UTF-8"):
                await client.predict([Latin1("caf\xe9")])
            streamed = [answer async for answer in client.stream(iter(TEXTS))]
            alone = await asyncio.gather(*(client.predict([text]) for text in TEXTS * 5))
            return streamed, [answer for (answer,) in alone]

    streamed, alone = asyncio.run(ask())
    check(streamed, models[0][1], version[1])
    check(alone, np.tile(models[0][1], (5, 1)), version[1])


def test_the_command(served, command, models, version, tmp_path):
    asked = command("predict", "--server", served.target, TEXTS[0])
    label = LABELS[models[0][1][0].argmax()]
    assert (asked.returncode, asked.stderr) == (0, "")
    assert asked.stdout == f"{label}\t{models[0][1][0].max():.6f}\n"
    rows, answers = tmp_path / "rows.tsv", tmp_path / "answers.tsv"
    kept = [index for index, text in enumerate(TEXTS) if text.strip()]
    lines = "".join(f"{TEXTS[index].strip()}\n" for index in kept)
    rows.write_text(f"text_a\n{lines}", encoding="utf-8")
    files = ("--input", rows, "--output", answers, "--batch-size", 2)
    asked = command("predict", "--server", served.target, *files)
    assert asked.returncode == 0, asked.stderr
    found = [line.split("\t") for line in answers.read_text(encoding="utf-8").splitlines()]
    assert found[0] == ["text_a", "prediction", "probability", "model_version"]
    assert [line[3] for line in found[1:]] == [str(version[1])] * len(kept)
    expected = models[0][1][kept].max(axis=1)
    assert [float(line[2]) for line in found[1:]] == pytest.approx(expected, abs=1e-5)
    wrong = command("predict", "--server", served.target, "--model", "other", "good")
    assert wrong.returncode == 2
    assert "the server does not have it" in wrong.stderr


def change(start_model_server, program, models, base) -> None:
    """Changes the version of a server, and asks it all the while."""
    first = version_changes.push(models[0][0], base)
    with (
        start_model_server(program, base) as server,
        Client(server.target, timeout=30) as client,
    ):
        check(client.predict(TEXTS), models[0][1], first)
        second = version_changes.push(models[1][0], base)
        with Client(server.target, timeout=30, version=second) as asked:
            asked.wait_until_ready(60)
        expected = {first: models[0][1], second: models[1][1]}
        until = time.monotonic() + 60
        while True:
            answers = client.predict(TEXTS)
            check(answers, expected[answers[0].model_version], answers[0].model_version)
            states = {status.version: status.state for status in client.model_status()}
            if states[second] == "AVAILABLE" and states.get(first, "END") == "END":
                break
            assert time.monotonic() < until, states
            time.sleep(0.05)
        check(client.predict(TEXTS), models[1][1], second)
    assert not server.process.is_running()


@pytest.mark.slow
def test_a_version_change(program, start_model_server, models, tmp_path):
    change(start_model_server, program, models, tmp_path)


STAND_IN = f"""#!{sys.executable}
# A stand-in for TensorFlow Serving: `bert-tfx serve` under its name and with its flags.
import os, pathlib, sys

MEANS = {{
    "--port": "--port",
    "--model_name": "--name",
    "--model_base_path": "--model",
    "--file_system_poll_wait_seconds": None,
    "--enable_batching": None,
    "--enable_per_model_batching_parameters": None,
    "--max_num_load_retries": None,
}}
given = dict(argument.split("=", 1) for argument in sys.argv[1:])
pathlib.Path(__file__).with_suffix(".flags").write_text("\\n".join(sys.argv[1:]))
options = [f"{{MEANS[flag]}}={{value}}" for flag, value in given.items() if MEANS[flag]]
command = [sys.executable, "-m", "bert_tfx.pipeline.commands.cli", "serve", *options]
os.execv(sys.executable, command)
"""


def test_tensorflow_serving_is_started_by_its_flags(
    start_model_server, models, tmp_path, monkeypatch
):
    """On a stand-in for it, so that this way is gone where there is no TensorFlow Serving, too."""
    (tmp_path / "bin").mkdir()
    stand_in = tmp_path / "bin" / TF_SERVING
    stand_in.write_text(STAND_IN, encoding="utf-8")
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    assert server_process.installed_program() == TF_SERVING
    (tmp_path / "base").mkdir()
    change(start_model_server, TF_SERVING, models, tmp_path / "base")
    flags = dict(line.split("=", 1) for line in stand_in.with_suffix(".flags").read_text().split())
    assert flags.pop("--port")
    assert flags == {
        "--model_name": "model",
        "--model_base_path": str(tmp_path / "base"),
        "--file_system_poll_wait_seconds": "1",
        "--enable_batching": "true",
        "--enable_per_model_batching_parameters": "true",
        "--max_num_load_retries": "0",
    }


def test_the_local_server_is_what_there_is_without_tensorflow_serving(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert server_process.installed_program() == LOCAL_SERVER
