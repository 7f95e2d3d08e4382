import argparse
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import grpc
import pytest

from bert_tfx.pipeline.commands import predict
from bert_tfx.schema.errors import InputError


@pytest.fixture
def bert_tfx(capsys):
    """Runs `bert-tfx predict ARGUMENTS` here; returns exit code, stdout and stderr."""

    def bert_tfx(*arguments):
        parser = argparse.ArgumentParser(prog="bert-tfx")
        predict.add(parser.add_subparsers())
        try:
            parsed = parser.parse_args(["predict", *map(str, arguments)])
            code = parsed.command(parsed)
        except InputError as error:
            return 2, *capsys.readouterr()[:1], str(error)
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return bert_tfx


def test_a_text(server, bert_tfx):
    assert bert_tfx("--server", server.target, "93 of 100") == (0, "good\t0.930000\n", "")


def test_a_pair(server, bert_tfx):
    server.pairs = True
    assert bert_tfx("--server", server.target, "bad", "二")[:2] == (0, "bad\t1.000000\n")
    assert server.requests[0].inputs["text_b"].string_val == ["二".encode()]


def test_json_tells_all(server, bert_tfx):
    code, out, _ = bert_tfx("--server", server.target, "--json", "good")
    assert code == 0
    assert json.loads(out) == {
        "label": "good",
        "probability": 1.0,
        "probabilities": {"bad": 0.0, "good": 1.0},
        "model_version": 7,
        "truncated": False,
    }


def test_a_version(server, bert_tfx):
    assert bert_tfx("--server", server.target, "--version", 7, "good")[0] == 0
    assert server.requests[0].model_spec.version.value == 7
    code, _, err = bert_tfx("--server", server.target, "--version", 8, "good")
    assert code == 2
    assert "model 'model' version 8: the server does not have it" in err
    assert bert_tfx("--server", server.target, "--version-label", "canary", "good")[0] == 0
    assert server.requests[-1].model_spec.version_label == "canary"


def test_the_server_is_at_fault(server, bert_tfx):
    server.script = [server.abort(grpc.StatusCode.INTERNAL, "out of luck")]
    code, out, err = bert_tfx("--server", server.target, "good")
    assert (code, out) == (5, "")
    assert err.startswith(f"bert-tfx: {server.target}, model 'model': the server failed (INTERNAL)")


def test_the_server_is_away(bert_tfx):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        code, _, err = bert_tfx(
            "--server", f"127.0.0.1:{free.getsockname()[1]}", "--timeout", "0.5", "good"
        )
    assert code == 5
    assert "the server is not available" in err


def test_the_server_is_slow(server, bert_tfx):
    server.delay = 2
    code, _, err = bert_tfx("--server", server.target, "--timeout", "0.3", "good")
    assert code == 5
    # Some of the time was taken to connect.
    assert re.search(r"no answer within 0\.[23]\d* s; give it a longer timeout", err)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected either a TEXT"),
        (["x", "--input", "f"], "expected either a TEXT"),
        (["--input", "f"], "--input and --output go together"),
        (["x", "--output", "f"], "--input and --output go together"),
        (["x", "--text-a", "f"], "--text-a belongs to --input"),
        (["x", "--no-header"], "--no-header belongs to --input"),
        (["--input", "f", "--output", "g", "--json"], "--json is for a single TEXT"),
        (["--input", "f", "--output", "g", "--max-rejects", "-1"], "must not be negative"),
        (["x", "--version", "1", "--version-label", "a"], "not allowed with argument"),
        (["x", "--timeout", "0"], "timeout must be a positive number"),
        (["x", "--tls-cert", "f"], "one of the two is missing"),
        (["x", "--tls-ca", "nothing.pem"], "nothing.pem: cannot be read"),
        (["x", "--token-file", "nothing.txt"], "nothing.txt: cannot be read (--token-file)"),
        (["\udcff"], "half of a surrogate pair"),
    ],
)
def test_mistakes(server, bert_tfx, arguments, message):
    code, out, err = bert_tfx("--server", server.target, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert server.requests == []


def test_a_token_is_read_from_its_file(server, bert_tfx, tmp_path):
    server.token = "secret"
    (tmp_path / "token").write_text("secret\n")
    server_and_token = ["--server", server.target, "--token-file", tmp_path / "token"]
    assert bert_tfx(*server_and_token, "good")[0] == 0
    (tmp_path / "token").write_text("wrong\n")
    code, _, err = bert_tfx(*server_and_token, "good")
    assert code == 2
    assert "check the token" in err
    assert "wrong" not in err
    code, _, err = bert_tfx("--server", "10.0.0.1:8500", *server_and_token[2:], "good")
    assert code == 2
    assert "unencrypted" in err


def test_tls(server, certificates, bert_tfx, tmp_path):
    server.stop()
    pair = (certificates.server_key, certificates.server_cert)
    target = server.start(
        credentials=grpc.ssl_server_credentials([pair], certificates.ca, require_client_auth=True)
    )
    for name in ("ca", "client_cert", "client_key"):
        (tmp_path / name).write_bytes(getattr(certificates, name))
    options = [
        *("--tls-ca", tmp_path / "ca"),
        *("--tls-cert", tmp_path / "client_cert"),
        *("--tls-key", tmp_path / "client_key"),
    ]
    assert bert_tfx("--server", target, *options, "good")[:2] == (0, "good\t1.000000\n")
    code, _, err = bert_tfx("--server", target, *options[:2], "--timeout", "1", "good")
    assert code == 5
    assert "the server is not available" in err


# Many rows.


def write_rows(path, count: int) -> None:
    path.write_text("text_a\n" + "".join(f"{n} of 100\n" for n in range(count)), encoding="utf-8")


def test_a_file(server, bert_tfx, tmp_path):
    write_rows(tmp_path / "rows.tsv", 70)
    code, out, err = bert_tfx(
        *("--server", server.target, "--input", tmp_path / "rows.tsv"),
        *("--output", tmp_path / "answers.tsv", "--batch-size", 7),
    )
    assert (code, out) == (0, "")
    assert err == f"70 rows: {tmp_path / 'answers.tsv'}\n"
    lines = (tmp_path / "answers.tsv").read_text().splitlines()
    assert lines[0] == "text_a\tprediction\tprobability\tmodel_version"
    assert lines[61] == "60 of 100\tgood\t0.600000\t7"
    assert len(server.requests) == 10


def test_rows_that_do_not_fit_are_named(server, bert_tfx, tmp_path):
    (tmp_path / "rows.tsv").write_text("text_a\tx\ngood\t1\nbad\n")
    arguments = (
        *("--server", server.target, "--input", tmp_path / "rows.tsv"),
        *("--output", tmp_path / "answers.tsv"),
    )
    code, _, err = bert_tfx(*arguments)
    assert code == 2
    assert f"{tmp_path / 'rows.tsv'}, line 3: expected 2 columns" in err
    code, _, err = bert_tfx(*arguments, "--max-rejects", 1)
    assert code == 0
    assert "1 rows do not fit, and are left out:" in err
    assert "line 3: expected 2 columns" in err


COMMAND = """
import argparse, sys
from bert_tfx.pipeline.commands import predict
parser = argparse.ArgumentParser()
predict.add(parser.add_subparsers())
arguments = parser.parse_args(sys.argv[1:])
sys.exit(arguments.command(arguments))
"""


def test_an_error_is_one_line(server, certificates, tmp_path):
    server.stop()
    pair = (certificates.server_key, certificates.server_cert)
    target = server.start(credentials=grpc.ssl_server_credentials([pair]))
    (tmp_path / "ca").write_bytes(certificates.other_ca)
    arguments = ["--server", target, "--tls-ca", tmp_path / "ca", "--timeout", "1", "good"]
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "predict", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 5
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"bert-tfx: {target}, model 'model': the server is not available (")
    assert "CERTIFICATE_VERIFY_FAILED" in line


def test_a_killed_command_goes_on(server, bert_tfx, tmp_path):
    write_rows(tmp_path / "rows.tsv", 1000)
    server.delay = 0.02
    answers = tmp_path / "answers.tsv"
    arguments = (
        *("--server", server.target, "--input", str(tmp_path / "rows.tsv")),
        *("--output", str(answers), "--batch-size", "10", "--in-flight", "2"),
    )
    partial = tmp_path / "answers.tsv.partial"
    for rows in (200, 500):
        with subprocess.Popen(
            [sys.executable, "-c", COMMAND, "predict", *arguments], stderr=subprocess.PIPE
        ) as process:
            until = time.monotonic() + 30
            while not (partial.exists() and partial.read_bytes().count(b"\n") > rows):
                assert process.poll() is None
                assert time.monotonic() < until
                time.sleep(0.01)
            os.kill(process.pid, signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        assert not answers.exists()
    server.delay = 0
    asked = len(server.requests)
    code, _, err = bert_tfx(*arguments)
    assert code == 0
    there = int(re.match(r"going on: ([0-9,]+) of 1,000 rows are there\n", err)[1])
    assert there >= 500
    assert len(server.requests) - asked == -(-(1000 - there) // 10)
    lines = answers.read_text().splitlines()
    assert len(lines) == 1001
    assert [line.split(" ")[0] for line in lines[1:]] == [str(n) for n in range(1000)]
    assert not partial.exists()


def test_a_failing_server_leaves_what_is_there(server, bert_tfx, tmp_path):
    write_rows(tmp_path / "rows.tsv", 100)
    server.script = [server.abort(grpc.StatusCode.INTERNAL)]
    code, _, err = bert_tfx(
        *("--server", server.target, "--input", tmp_path / "rows.tsv"),
        *("--output", tmp_path / "answers.tsv"),
    )
    assert code == 5
    assert "bert-tfx: the same command goes on from here" in err
    assert (tmp_path / "answers.tsv.partial").exists()


def test_the_command_loads_no_framework():
    code = (
        "import sys, argparse\nfrom bert_tfx.pipeline.commands import predict\n"
        "predict.add(argparse.ArgumentParser().add_subparsers())\nprint(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {"grpc", "google.protobuf", "numpy", "tensorflow", "keras", "tfx", "absl"}
    assert not loaded & set(done.stdout.split())
