import argparse
import os
import signal
import socket
import subprocess
import sys

import grpc
import pytest

from bert_tfx.pipeline.commands import serve
from bert_tfx.schema.errors import InputError
from bert_tfx.serving import backends
from bert_tfx.serving.client import Client
from bert_tfx.serving.protocol import messages
from bert_tfx.serving.protocol.errors import ModelNotFound


@pytest.fixture
def bert_tfx():
    """Runs `bert-tfx serve ARGUMENTS` here, which must fail; returns why."""

    def bert_tfx(*arguments) -> str:
        parser = argparse.ArgumentParser(prog="bert-tfx")
        serve.add(parser.add_subparsers())
        parsed = parser.parse_args(["serve", *map(str, arguments)])
        with pytest.raises(InputError) as caught:
            parsed.command(parsed)
        return str(caught.value)

    return bert_tfx


def test_a_wrong_folder(bert_tfx, tmp_path):
    missing = tmp_path / "missing"
    assert bert_tfx("--model", missing) == (
        f"{missing}: cannot be read (--model): No such file or directory; expected the folder that "
        "holds a model's numbered versions, such as OUTPUT/serving of a run"
    )
    file = tmp_path / "file"
    file.write_text("")
    assert "Not a directory" in bert_tfx("--model", file)
    version = tmp_path / "7"
    version.mkdir()
    (version / "saved_model.pb").write_bytes(b"")
    assert "is a SavedModel itself (--model); expected the folder above" in bert_tfx(
        "--model", version
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--name", "a/b"), "'a/b' is no name"),
        (("--port", -1), "--port must be 0 to 65535. Received: -1"),
        (("--max-batch-size", 0), "--max-batch-size must be a positive number. Received: 0"),
        (("--host", "203.0.113.1"), "203.0.113.1:8500: cannot listen there (--host, --port)"),
    ],
)
def test_wrong_options(bert_tfx, tmp_path, options, words):
    assert words in bert_tfx("--model", tmp_path, *options)


def test_a_backend_that_is_not_installed(bert_tfx, tmp_path, monkeypatch):
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: None)
    assert bert_tfx("--model", tmp_path, "--backend", "onnx") == (
        "--backend onnx needs the package onnxruntime, which is not installed: "
        'pip install "bert-tfx[onnx]"'
    )


def test_a_port_in_use(bert_tfx, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"127.0.0.1:{port}: cannot listen there (--host, --port): " in bert_tfx(
            "--model", tmp_path, "--port", port
        )


def test_mistakes_are_told_before_tensorflow_is_loaded(tmp_path):
    program = (
        "import sys\n"
        "from bert_tfx.serving.server.server import ServerOptions\n"
        "ServerOptions(sys.argv[1])\n"
        "print([name for name in ('tensorflow', 'keras', 'apache_beam', 'tfx') "
        "if name in sys.modules])\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True
    )
    assert ran.stdout == "[]\n", ran.stderr


def test_nothing_of_the_pipeline_is_loaded():
    program = (
        "import sys\n"
        "from bert_tfx.serving.server import server, services\n"
        "print([name for name in ('apache_beam', 'tfx', 'tensorflow_text', 'bert_tfx.modeling') "
        "if name in sys.modules])\n"
    )
    ran = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True)
    assert ran.stdout == b"[]\n", ran.stderr


def test_waiting_for_the_first_version(tmp_path):
    """Answers before there is a version, warns of an open door, and ends at any time."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", _MAIN, "--model", tmp_path, "--port", port]
    process = subprocess.Popen(
        [*map(str, command), "--host", "0.0.0.0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    try:
        with (
            grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
            Client(f"127.0.0.1:{port}", timeout=30) as client,
        ):
            grpc.channel_ready_future(channel).result(60)
            check = channel.unary_unary(messages.CHECK_HEALTH.path)
            # Not serving.
            assert check(b"", timeout=60) == b"\x08\x02"
            status = channel.unary_unary(messages.GET_MODEL_STATUS.path)
            request = messages.GetModelStatusRequest()
            request.model_spec.name = "model"
            with pytest.raises(grpc.RpcError) as caught:
                status(request.SerializeToString(), timeout=30)
            assert caught.value.code() == grpc.StatusCode.NOT_FOUND
            with pytest.raises(ModelNotFound, match="no version available"):
                client.predict(["x"])
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0
    assert out == ""
    assert f"0.0.0.0:{port} can be reached from other machines" in err
    assert f"{tmp_path}: no version to serve; waiting for one" in err


_MAIN = """
import argparse, sys
from bert_tfx.pipeline.commands import serve

parser = argparse.ArgumentParser(prog="bert-tfx")
serve.add(parser.add_subparsers())
arguments = parser.parse_args(["serve", *sys.argv[1:]])
sys.exit(arguments.command(arguments))
"""
