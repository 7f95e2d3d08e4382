"""An output folder that was begun on one stack goes on on the other.

HANDED_ON names a folder that both stacks see. Where it is empty a run is begun in it, else that run
is gone on from.
"""

import json
import os
import pathlib
import re

import pytest

HANDED_ON = os.environ.get("HANDED_ON")

pytestmark = [
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not HANDED_ON, reason="HANDED_ON names no folder that both stacks see"),
]

OPTIONS = {
    **{"task": "sst2", "size": "tiny", "max_length": 16, "batch_size": 16, "epochs": 4},
    **{"learning_rate": 2e-3, "min_accuracy": 0.8, "max_regression": 1, "warm_start": True},
}


@pytest.fixture(scope="module")
def folder() -> pathlib.Path:
    return pathlib.Path(HANDED_ON)


@pytest.fixture(scope="module")
def begun(folder):
    """What the other stack has noted, or None where this one begins."""
    noted = folder / "noted.json"
    return json.loads(noted.read_text()) if noted.exists() else None


@pytest.fixture(scope="module")
def done(run, reviews, folder, begun):
    (folder / "data").mkdir(exist_ok=True)
    # The other stack learns from other rows: those of a warm start may not be its baseline's.
    for name, count, seed in (("train", 300, 1 if begun is None else 4), ("dev", 80, 2)):
        rows = "".join(f"{text}\t{label}\n" for label, text in reviews(count, seed=seed))
        (folder / "data" / f"{name}.tsv").write_text(f"sentence\tlabel\n{rows}")
    (folder / "run.json").write_text(json.dumps({**OPTIONS, "data": str(folder / "data")}))
    found = run(folder / "output", "--config", folder / "run.json").check(0)
    accuracy = re.search(r"^Evaluation +accuracy ([\d.]+)", found.stdout, re.MULTILINE)[1]
    if begun is None:
        noted = {"accuracy": accuracy, "versions": found.versions}
        (folder / "noted.json").write_text(json.dumps(noted))
    return found


def test_run_is_begun_or_gone_on_from(done, begun, folder):
    assert "Promoted: accuracy " in done.stdout
    if begun is None:
        assert len(done.versions) == 1
        assert "there is no baseline" in done.stdout
        return
    assert f"the last promoted model has {begun['accuracy']}" in done.stdout
    assert "Started     from the last good model" in done.stdout
    assert list(done.versions[:-1]) == begun["versions"]


def test_records_are_those_of_both(command, done, begun, folder):
    listed = command("runs", "--output", folder / "output")
    assert (listed.returncode, listed.stderr) == (0, "")
    # A heading, and a line for each run.
    assert len(listed.stdout.splitlines()) == 2 + (begun is not None)


def test_models_of_both_answer(ask, done, folder):
    for version in done.versions:
        served = folder / "output" / "serving" / str(version)
        answer = ask(served, [{"text_a": "a great film"}], classes=["0", "1"])
        assert answer["label"].tolist() == [b"1"]
