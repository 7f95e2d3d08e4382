"""Files that arrive day by day: each run reads the last days and goes on from the last good model.

Each run goes on from the one before, so these tests belong on one worker.
"""

import json
import re

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

DAYS = ("2026-01-30", "2026-01-31", "2026-02-01")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("days")


@pytest.fixture(scope="module")
def runs(run, reviews, folder):
    """A run after each day's delivery."""
    task = {
        "name": "reviews",
        "labels": ["0", "1"],
        "columns": ["label", "text_a"],
        "train": "{YYYY}-{MM}-{DD}/train.tsv",
        "eval": "{YYYY}-{MM}-{DD}/eval.tsv",
    }
    options = {"task": task, "data": str(folder), "size": "tiny", "window": 2, "warm_start": True}
    options |= {"max_length": 16, "batch_size": 16, "epochs": 4, "learning_rate": 2e-3}
    options |= {"max_regression": 1}
    (folder / "run.json").write_text(json.dumps(options))
    done = []
    for number, day in enumerate(DAYS):
        (folder / day).mkdir()
        for split, count in (("train", 300), ("eval", 60)):
            rows = reviews(count, seed=10 * number + count)
            lines = "".join(f"{label}\t{text}\n" for label, text in rows)
            (folder / day / f"{split}.tsv").write_text(f"label\ttext_a\n{lines}")
        # The last one with components side by side.
        parallel = 1 + (day == DAYS[-1])
        arguments = ("--config", folder / "run.json", "--parallel", parallel)
        done.append(run(folder / "output", *arguments).check(0))
    return done


def trainings(folder):
    """What each run's model says of its training, in order."""
    models = (folder / "output" / "artifacts" / "Trainer" / "model").iterdir()
    return [
        json.loads((path / "Format-Serving/assets.extra/bert_tfx.json").read_text())["training"]
        for path in sorted(models, key=lambda path: int(path.name))
    ]


def test_each_run_reads_the_window(runs):
    spans = [re.search(r"^Spans +(.*)$", run.stdout, re.MULTILINE)[1] for run in runs]
    assert spans == [DAYS[0], ", ".join(DAYS[:2]), ", ".join(DAYS[1:])]
    rows = [re.search(r"train: (\d+) read", run.stdout)[1] for run in runs]
    assert rows == ["300", "600", "600"]


def test_each_run_goes_on_from_the_last_good_model(runs, folder):
    first, *later = trainings(folder)
    assert first["warm_start"] is None
    assert "Started     with new weights of size tiny" in runs[0].stdout
    models = sorted(
        (folder / "output/artifacts/Trainer/model").iterdir(), key=lambda p: int(p.name)
    )
    for training, before in zip(later, models, strict=False):
        assert training["warm_start"]["why_not"] is None
        assert training["warm_start"]["model"].startswith(str(before))
    assert all("Started     from the last good model" in run.stdout for run in runs[1:])


def test_each_model_is_compared_with_the_last_one(runs):
    assert "there is no baseline" in runs[0].stdout
    assert all("the last promoted model has" in run.stdout for run in runs[1:])
    assert [len(run.versions) for run in runs] == [1, 2, 3]


def test_the_same_day_again_changes_nothing(run, runs, folder):
    arguments = ("--config", folder / "run.json", "--parallel", 2)
    again = run(folder / "output", *arguments).check(0)
    done = {name for name, how in again.components.items() if how == "done"}
    assert done == {"WarmStart", "AcceptedData", "AcceptedTokens", "Baseline"}
    assert again.versions == runs[-1].versions


def test_an_earlier_day_again_goes_on_from_what_it_went_on_from(run, runs, folder):
    again = run(folder / "output", "--config", folder / "run.json", "--span", DAYS[1]).check(0)
    assert again.components["Trainer"] == "cached"


def test_a_day_that_is_not_there_is_said(run, runs, folder):
    missing = run(folder / "output", "--config", folder / "run.json", "--span", "2026-02-02")
    assert missing.check(2).stderr.startswith(
        f"bert-tfx: {folder}: span 2026-02-02 is not there, or not for each of "
    )
