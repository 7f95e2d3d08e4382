"""Runs into one folder, each killed in another component, until one may finish.

They learn from pairs of one's own: columns named by flags, no file to evaluate on, one row that
does not fit, DistilBERT. Each run goes on from the one before, so these tests belong on one worker.
"""

import dataclasses
import json
import os
import pathlib
import re
import signal
import subprocess
import time

import pytest

# Two cores that others use as well may take long.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


# They look anew each time.
RESOLVERS = {"AcceptedData", "AcceptedTokens", "Baseline"}


@dataclasses.dataclass
class Killed:
    """A command that is killed again and again.

    Attributes:
        finished: The components that a run has brought to their end.
        expected: What the next run must say.
        said: What all of them have printed.
    """

    output: pathlib.Path
    arguments: tuple[object, ...]
    finished: set[str] = dataclasses.field(default_factory=set)
    expected: str = ""
    said: str = ""

    def check(self, stdout: str) -> None:
        """Checks that a run went on from where those before it were killed."""
        states = begun(stdout)
        assert self.finished <= {name for name, cached in states.items() if cached} | RESOLVERS
        assert self.expected in stdout
        self.said += stdout
        *finished, _ = states
        self.finished |= set(finished)


@pytest.fixture(scope="module")
def killed(tmp_path_factory, reviews, vocab_file):
    # Names that a glob, a shell, a format or an ASCII codec would stumble over.
    folder = tmp_path_factory.mktemp("pairs")
    lines = ["same\tquestion\tanswer\tsource"]
    rows = zip(reviews(400, seed=4), reviews(400, seed=5), strict=True)
    for number, ((label, question), (_, answer)) in enumerate(rows):
        source = "web" if number % 3 else "mail"
        lines.append(f"{('no', '是')[label]}\t{question}\t{answer}\t{source}")
    lines.insert(7, "maybe\tis it?\tthat depends\tweb")
    data, output = folder / "data [1] of *", folder / "{output} 100% 评论's"
    data.mkdir()
    (data / "pairs.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    options = {"max_length": 24, "epochs": 3, "learning_rate": 1e-3, "min_accuracy": 0}
    (folder / "options.json").write_text(json.dumps(options), encoding="utf-8")
    arguments = (
        "--config", folder / "options.json", "--data", data, "--vocab", vocab_file,
        "--task", "pairs", "--labels", "no,是", "--train", "pairs.tsv",
        "--text-a", "question", "--text-b", "answer", "--label", "same",
        "--model", "distilbert", "--size", "tiny", "--max-rejects", 1, "--eval-fraction", 0.2,
        "--slice-by", "source",
    )  # fmt: skip
    return Killed(output, arguments)


def wait_for(pattern: str, log: pathlib.Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 600
    while not re.search(pattern, log.read_text(encoding="utf-8")):
        assert process.poll() is None, f"it ended:\n{log.read_text(encoding='utf-8')}"
        assert time.monotonic() < deadline, f"no {pattern}:\n{log.read_text(encoding='utf-8')}"
        time.sleep(0.02)


def begun(stdout: str) -> dict[str, bool]:
    """Returns the components that a run has begun, in order: whether each came from the cache."""
    lines = re.findall(r"^\[ ?\d+/\d+\] (\w+) \.\.\.(.*)$", stdout, re.MULTILINE)
    return {name: rest == " cached" for name, rest in lines}


@pytest.mark.parametrize(
    ("component", "pattern", "seconds"),
    [
        ("TsvExampleGen", r"TsvExampleGen \.\.\. ", 0.2),
        ("StatisticsGen", r"StatisticsGen \.\.\. ", 1),
        ("Transform", r"Transform \.\.\. ", 2),
        # Its state is saved after each epoch, before the line.
        ("Trainer", r"epoch 1/3: loss", 0),
        ("Predictor", r"Predictor \.\.\. ", 1),
        ("ServingGate", r"ServingGate \.\.\. ", 4),
        ("ModelPusher", r"ModelPusher \.\.\. ", 0.05),
    ],
)
def test_killed_run_leaves_what_the_next_one_goes_on_from(
    start, command, killed, tmp_path, component, pattern, seconds
):
    log, errors = tmp_path / "stdout", tmp_path / "stderr"
    with log.open("w") as stdout, errors.open("w") as stderr:
        process = start(
            "run", "--output", killed.output, *killed.arguments,
            stdout=stdout, stderr=stderr, start_new_session=True,
        )  # fmt: skip
    try:
        wait_for(pattern, log, process)
        if component == "TsvExampleGen":
            second = command("run", "--output", killed.output, *killed.arguments)
            assert second.returncode == 2
            assert "another run is using this folder" in second.stderr
        time.sleep(seconds)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL

    assert errors.read_text(encoding="utf-8") == ""
    killed.check(log.read_text(encoding="utf-8"))
    killed.expected = "going on from the saved state: epoch " if component == "Trainer" else ""


@pytest.fixture(scope="module")
def resumed(run, killed):
    """The same command, not killed."""
    return run(killed.output, *killed.arguments).check(0)


def test_run_after_the_killed_ones_finishes_what_is_left(resumed, killed):
    killed.check(resumed.stdout)
    assert "failed" not in resumed.components.values()
    assert list(resumed.components)[-1] == "Report"


def test_killed_runs_push_one_model(resumed):
    # Names that are no versions, such as a staging folder's, would not even be counted.
    assert len(resumed.versions) == 1
    assert resumed.artifacts["PushedModel"] == 1


def test_killed_runs_leave_no_training_state(resumed, killed):
    assert "distilbert tiny with " in killed.said
    assert not (killed.output / "training_state").exists()


def test_pairs_without_eval_file_are_divided(resumed):
    written = dict(re.findall(r"(train|eval): \d+ read, (\d+) written", resumed.stdout))
    assert sum(map(int, written.values())) == 400
    assert 40 <= int(written["eval"]) <= 120


def test_row_that_does_not_fit_is_kept_with_its_reason(resumed, killed):
    assert f"Rejects     {killed.output / 'rejects'}" in resumed.stdout
    (rejects,) = (killed.output / "rejects").iterdir()
    (_, row) = rejects.read_text(encoding="utf-8").splitlines()
    assert "\t8\tsame\tunknown label 'maybe'" in row


def test_extra_column_is_a_slice(resumed):
    line = r"^ +by source: mail [\d.]+ \(\d+\), web [\d.]+ \(\d+\)$"
    assert re.search(line, resumed.stdout, re.MULTILINE)


def test_pushed_model_answers_by_both_signatures_alike(ask, resumed, killed):
    (version,) = resumed.versions
    rows = [
        {"text_a": "the good film", "text_b": "a dull story"},
        {"text_a": "a dull story", "text_b": "the good film"},
        {"text_a": "poor", "text_b": "very " * 50},
    ]
    ask(killed.output / "serving" / str(version), rows, classes=["no", "是"])


def test_start_model_that_is_none_stops_the_run(run, resumed, killed, tmp_path):
    start = tmp_path / "classifier.keras"
    start.write_bytes(b"not a model")
    arguments = list(killed.arguments)
    size = arguments.index("--size")
    del arguments[size : size + 2]
    result = run(killed.output, *arguments, "--pretrained", start).check(2)
    assert f"{start}: cannot be loaded as a Keras model" in result.stderr
    assert result.versions == resumed.versions
    assert result.artifacts["Model"] == resumed.artifacts["Model"]
