import argparse
import importlib.util
import json
import pathlib
import sys

import pytest

from bert_tfx.pipeline.commands import runs
from bert_tfx.schema.errors import InputError

_PATH = pathlib.Path(__file__).parents[2] / "components" / "made_up_run.py"
_SPEC = importlib.util.spec_from_file_location("made_up_run", _PATH)
made_up_run = importlib.util.module_from_spec(_SPEC)
sys.modules["made_up_run"] = made_up_run
_SPEC.loader.exec_module(made_up_run)

TRAINER = {"model": "bert", "size": "tiny", "pretrained": None, "task": '{"name": "sst2"}'}


@pytest.fixture
def listed(tmp_path, capsys):
    """Lists the runs that were added to the folder."""
    parser = argparse.ArgumentParser()
    runs.add(parser.add_subparsers())

    def listed(*arguments: str) -> str:
        parsed = parser.parse_args(["runs", "--output", str(tmp_path), *arguments])
        assert parsed.command(parsed) == 0
        return capsys.readouterr().out

    return listed


@pytest.fixture
def add_run(tmp_path):
    def add_run(run_id: str, *, trainer: dict | None = None, run=None, **records) -> None:
        sources = made_up_run.MadeUpRun(tmp_path / run_id, **(run or {})).write()
        told = {"custom_config": json.dumps(trainer or TRAINER)}
        made_up_run.Records(tmp_path).add_run(
            run_id, sources, parameters={"Trainer": told}, **records
        )

    return add_run


def rows(text: str) -> list[dict[str, str]]:
    """Cuts a table at the columns of its head."""
    head, *lines = text.splitlines()
    starts = [0, *(i for i in range(2, len(head)) if head[i - 2 : i] == "  " and head[i] != " ")]
    ends = [*starts[1:], None]
    cut = [[line[a:b].strip() for a, b in zip(starts, ends, strict=True)] for line in lines]
    names = [head[a:b].strip() for a, b in zip(starts, ends, strict=True)]
    return [dict(zip(names, cells, strict=True)) for cells in cut]


def test_every_run_has_its_verdicts(add_run, listed):
    add_run("first", run={"leaked": 0.1})
    add_run("refused", run={"wrong": range(90), "baseline_wrong": (1, 2)})
    add_run("unserved", run={"passed": False})
    add_run("stopped", states={"DataGate": "FAILED"}, until="DataGate")
    add_run(
        "begun",
        trainer={**TRAINER, "pretrained": "/checkpoints/mini/"},
        states={"Trainer": "RUNNING"},
        until="Trainer",
    )
    begun, stopped, unserved, refused, first = rows(listed())
    assert first["run"] == "first"
    assert first["task"] == "sst2"
    assert first["model"] == "bert tiny"
    assert first["accuracy (95%)"] == "0.9850 (0.9650-1.0000)"
    assert (first["baseline"], first["data"]) == ("-", "1 warning")
    assert (first["promotion"], first["serving"], first["pushed"]) == ("promoted", "passed", "17")
    assert (refused["baseline"], refused["promotion"]) == ("0.9900", "refused")
    assert (refused["serving"], refused["pushed"]) == ("-", "-")
    assert (unserved["promotion"], unserved["serving"]) == ("promoted", "refused")
    assert (stopped["data"], stopped["pushed"]) == ("stopped", "stopped at DataGate")
    assert stopped["accuracy (95%)"] == "-"
    assert begun["model"] == "bert mini"
    assert (begun["data"], begun["pushed"]) == ("passed", "not finished")


def test_json_says_more(add_run, listed):
    add_run("one", run={"baseline_wrong": (1, 2)})
    (found,) = json.loads(listed("--json"))
    assert found["run"] == "one"
    assert found["begun"].endswith("+00:00")
    assert found["accuracy"]["value"] == 0.985
    assert found["baseline_accuracy"]["value"] == 0.99
    assert found["promotion"].startswith("Promoted: accuracy 0.9850")
    assert found["data"]["DataGate"] == {"state": "complete", "warnings": 0}
    assert (found["version"], found["stopped_at"]) == ("17", None)


def test_artifacts_that_are_gone_leave_gaps(add_run, listed, tmp_path):
    add_run("one")
    for path in (tmp_path / "one").rglob("*.json"):
        path.unlink()
    (found,) = rows(listed())
    assert found["accuracy (95%)"] == found["promotion"] == found["serving"] == "-"
    assert found["pushed"] == "17"


def test_no_runs(tmp_path, listed):
    with pytest.raises(InputError, match=r"metadata\.sqlite: no such file"):
        listed()
    made_up_run.Records(tmp_path)
    with pytest.raises(InputError, match="holds no run yet"):
        listed()
    assert listed("--json") == "[]\n"
