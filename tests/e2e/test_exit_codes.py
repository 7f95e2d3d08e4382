"""Each exit code of a run, with what the hook is told and what `--if-changed` answers.

Each run goes on from the one before, so these tests belong on one worker. 5 is of `predict`:
tests/serving/test_predict_command.py.
"""

import json
import re
import shutil
import signal
import subprocess
import time

import pytest

from bert_tfx.pipeline.execution.last_run import LAST_RUN_FILE
from bert_tfx.pipeline.process.faults import FAULT_FILE

# Two cores that others use as well may take long.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

FRAMEWORKS = r"\b(tensorflow|keras|apache_beam|tfx|numpy|ml_metadata|grpc)\b"
TINY = ("--size", "tiny", "--max-length", 16, "--max-steps", 1, "--learning-rate", 1e-6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("codes")


@pytest.fixture(scope="module")
def output(folder):
    return folder / "output"


@pytest.fixture(scope="module")
def data(folder, glue_dir):
    return shutil.copytree(glue_dir, folder / "data")


@pytest.fixture(scope="module")
def arguments(data, folder, vocab_file):
    return (
        "run", "--task", "sst2", "--data", data, "--vocab", vocab_file, *TINY,
        "--notify-command", f"sh -c 'cat > {folder}/told.json'",
    )  # fmt: skip


@pytest.fixture
def told(folder):
    """What the hook was told in this test; None where it was not called."""
    path = folder / "told.json"
    path.unlink(missing_ok=True)

    def told():
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    return told


def test_2_is_a_mistake_in_the_input(command, arguments, output, data, told):
    train = data / "train.tsv"
    text = train.read_text(encoding="utf-8")
    train.write_text(text + "a room without a label\n", encoding="utf-8")
    done = command(*arguments, "--output", output)
    train.write_text(text, encoding="utf-8")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    message = told()
    assert (message["status"], message["exit_code"]) == ("input_error", 2)
    # What the rows hold stands in the report, and in the log.
    assert message["error"] == "1 of 421 rows do not fit, 0 are allowed:"
    assert message["report"] == str(output / "report" / "index.html")
    assert not (output / LAST_RUN_FILE).exists()


def test_4_is_a_gate_of_the_data(command, arguments, output, told):
    stopped = (*arguments, "--output", output, "--limits", "duplicates=0:stop")
    done = command(*stopped)
    assert done.returncode == 4
    assert done.stderr.startswith("bert-tfx: DataGate stopped the run before training:\n")
    message = told()
    assert (message["status"], message["exit_code"]) == ("data_refused", 4)
    assert message["error"].startswith("DataGate stopped the run before training:\n  - ")
    assert message["pushed_version"] is None

    again = command(*stopped, "--if-changed")
    assert again.returncode == 4
    assert again.stdout == (
        f"nothing has changed since run {message['run']} (nothing pushed: "
        f"{' '.join(message['error'].split())})\n"
    )


def test_1_is_a_fault(command, arguments, folder, told):
    # Where a folder is needed is a file.
    output = folder / "fault"
    output.mkdir()
    (output / "artifacts").write_text("", encoding="utf-8")
    done = command(*arguments, "--output", output)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    trace = output / FAULT_FILE
    assert re.match(r"bert-tfx: a fault: \w+Error: ", line)
    assert line.endswith(f"; the trace is in {trace}")
    assert "Traceback (most recent call last)" in trace.read_text(encoding="utf-8")
    message = told()
    assert (message["status"], message["exit_code"]) == ("fault", 1)
    assert message["error"] in line


def test_130_is_an_interrupt(start, arguments, folder, told):
    log = folder / "interrupted.log"
    with log.open("w", encoding="utf-8") as stdout:
        process = start(
            *arguments, "--output", folder / "interrupted", stdout=stdout, stderr=subprocess.PIPE
        )
        deadline = time.monotonic() + 300
        while "TsvExampleGen ..." not in log.read_text(encoding="utf-8"):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=300)
    assert process.returncode == 130
    assert stderr == "\nbert-tfx: stopped; the same command goes on where it was\n"
    message = told()
    assert (message["status"], message["exit_code"]) == ("interrupted", 130)
    assert message["error"] is None


def test_3_is_a_model_that_does_not_reach_what_it_must(command, arguments, output, told):
    done = command(*arguments, "--output", output, "--min-accuracy", 1)
    assert done.returncode == 3, done.stderr
    message = told()
    assert (message["status"], message["exit_code"]) == ("not_blessed", 3)
    assert message["sentences"][0].startswith("Not promoted: accuracy ")
    assert message["pushed_version"] is None
    again = command(*arguments, "--output", output, "--min-accuracy", 1, "--if-changed")
    assert again.returncode == 3
    assert "(nothing pushed: Not promoted: accuracy " in again.stdout


def test_0_is_a_model_that_is_served(command, arguments, output, told, monkeypatch):
    arguments = (*arguments, "--output", output, "--min-accuracy", 0, "--if-changed")
    done = command(*arguments)
    assert done.returncode == 0, done.stderr
    assert re.match(r"since run \S+: option min_accuracy has changed \(promotion\)\n", done.stdout)
    message = told()
    assert (message["status"], message["exit_code"]) == ("pushed", 0)
    (version,) = (output / "serving").iterdir()
    assert (message["pushed_version"], message["pushed_now"]) == (version.name, True)
    assert 0 <= message["metrics"]["accuracy"] <= 1
    assert message["started"] < message["ended"]

    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    begun = time.monotonic()
    again = command(*arguments)
    seconds = time.monotonic() - begun
    monkeypatch.delenv("PYTHONPROFILEIMPORTTIME")
    assert again.returncode == 0
    assert again.stdout == (
        f"nothing has changed since run {message['run']} (pushed version {version.name})\n"
    )
    assert not re.findall(FRAMEWORKS, again.stderr)
    assert seconds < 10
    print(f"--if-changed answered in {seconds:.1f} s")
