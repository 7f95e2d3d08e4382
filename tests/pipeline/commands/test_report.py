import argparse
import importlib.util
import pathlib
import sys

import pytest
from markupsafe import Markup

from bert_tfx.components.report import page
from bert_tfx.pipeline.commands import report
from bert_tfx.schema.errors import InputError

_PATH = pathlib.Path(__file__).parents[2] / "components" / "made_up_run.py"
_SPEC = importlib.util.spec_from_file_location("made_up_run", _PATH)
made_up_run = importlib.util.module_from_spec(_SPEC)
sys.modules["made_up_run"] = made_up_run
_SPEC.loader.exec_module(made_up_run)


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setattr(page, "_plotly", lambda: Markup("const stub = 1;"))
    # It sets what a process of its own needs.
    monkeypatch.setattr(report, "quieten", lambda verbose: None)


@pytest.fixture
def command():
    parser = argparse.ArgumentParser()
    report.add(parser.add_subparsers())

    def command(*arguments: object) -> int:
        parsed = parser.parse_args(["report", *map(str, arguments)])
        return parsed.command(parsed)

    return command


@pytest.fixture
def output(tmp_path):
    def output(name: str, run_id: str, **run) -> pathlib.Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        sources = made_up_run.MadeUpRun(folder / f"artifacts-{run_id}", **run).write()
        made_up_run.Records(folder).add_run(run_id, sources)
        return folder

    return output


def test_report_of_the_latest_run_or_of_another(command, output, capsys):
    folder = output("out", "one", wrong=range(90))
    output("out", "two")
    path = folder / "report" / "index.html"
    assert command("--output", folder) == 0
    assert capsys.readouterr().out == f"report: {path}\n"
    assert "Pushed as version 17" in path.read_text()
    assert "secret text" not in path.read_text()
    assert command("--output", folder, "--run", "one", "--report-text") == 0
    assert "Not pushed: the model is not good enough" in path.read_text()
    assert "secret text" in path.read_text()


def test_compare_takes_folders_files_and_ids(command, output, tmp_path, capsys):
    first = output("first", "one", wrong=range(4))
    output("first", "two", wrong=range(10))
    second = output("second", "three", wrong=range(90))
    command("--output", second)
    target = tmp_path / "compared.html"
    capsys.readouterr()
    for pair, options in (
        ((first, second), ()),
        (("two", "one"), ("--output", first)),
        ((first, second / "report" / "report.json"), ()),
    ):
        assert command("--compare", *pair, "--to", target, *options) == 0
        assert capsys.readouterr().out == f"comparison: {target}\n"
        text = target.read_text()
        assert "A: Pushed as version 17" in text
        assert str(pair[0]) in text and str(pair[1]) in text
        # Of the latest run of the first folder.
        assert "0.9500" in text
        target.unlink()


def test_a_comparison_holds_no_text(command, output, tmp_path):
    folder = output("out", "one", leaked=0.1)
    target = tmp_path / "compared.html"
    assert command("--compare", folder, folder, "--to", target) == 0
    assert "secret text" not in target.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--output is missing"),
        (("--output", "/nowhere"), "/nowhere/metadata.sqlite: no such file"),
        (("--output", "/nowhere", "--to", "x"), "--to is for --compare"),
        (("--compare", "a", "b"), "a: no such file or folder; for the id of a run --output"),
        (("--compare", "a", "b", "--run", "c"), "--run and --compare"),
        (("--compare", "a", "b", "--report-text"), "--report-text and --compare"),
    ],
)
def test_mistakes_are_told(command, arguments, message):
    with pytest.raises(InputError, match=message):
        command(*arguments)


def test_target_that_cannot_be_written_is_told(command, output, tmp_path):
    folder = output("out", "one")
    with pytest.raises(InputError, match="cannot be written: No such file or directory"):
        command("--compare", folder, folder, "--to", tmp_path / "nowhere" / "a.html")
