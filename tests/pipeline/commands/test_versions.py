import argparse
import json
import os
import re
import subprocess
import sys

import pytest

from bert_tfx.components.model_pusher.lock import exclusive
from bert_tfx.components.model_pusher.version_folder import Origin, VersionFolder
from bert_tfx.pipeline.commands import cli, versions
from bert_tfx.serving import client


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """The commands, whether the command line has them or not."""
    others = tuple(command for command in cli._COMMANDS if command is not versions)
    monkeypatch.setattr(cli, "_COMMANDS", (*others, versions))


@pytest.fixture
def output(tmp_path):
    """A run's output with three versions."""
    for number, name in enumerate("abc"):
        model = tmp_path / name
        (model / "assets.extra").mkdir(parents=True)
        (model / "saved_model.pb").write_text(name)
        about = {"task": "sst2", "training": {"eval": {"eval_accuracy": 0.9 + number / 100}}}
        if name != "a":
            (model / "assets.extra" / "bert_tfx.json").write_text(json.dumps(about))
        serving = str(tmp_path / "output" / "serving")
        with exclusive(serving):
            origin = Origin(model_uri=f"/x/artifacts/Trainer/model/{number}")
            VersionFolder(serving).push(str(model), origin)
    return tmp_path / "output"


@pytest.fixture
def serving(output):
    return output / "serving"


@pytest.fixture
def numbers(serving):
    return VersionFolder(str(serving)).numbers()


def names(serving) -> list[str]:
    return sorted(os.listdir(serving))


def test_versions_are_listed_the_latest_first(bert_tfx, output, serving, numbers):
    done = bert_tfx("versions", "--output", output).check(0)
    assert done.stderr == ""
    heading, *lines = done.stdout.splitlines()
    columns = ["version", "pushed (UTC)", "task", "accuracy", "model", "state"]
    assert re.split(r"  +", heading) == columns
    time = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
    expected = [
        rf"{numbers[2]}  {time}  sst2  0\.9200    Trainer/model/2  latest",
        rf"{numbers[1]}  {time}  sst2  0\.9100    Trainer/model/1  pushed",
        rf"{numbers[0]}  {time}  -     -         Trainer/model/0  pushed",
    ]
    for line, pattern in zip(lines, expected, strict=True):
        assert re.fullmatch(pattern, line)
    assert bert_tfx("versions", "--serving", serving).check(0).stdout == done.stdout


def test_versions_tell_what_became_of_them(bert_tfx, serving, numbers):
    folder = VersionFolder(str(serving))
    folder.take_back(numbers[2], "localhost:8500: no answer" + " at all" * 20)
    bert_tfx("rollback", "--serving", serving).check(0)
    (serving / "5").mkdir()
    lines = bert_tfx("versions", "--serving", serving).check(0).stdout.splitlines()[1:]
    assert re.search(r"taken back [\d: -]{19}: localhost:8500: no answer.* \[\.\.\.\]$", lines[0])
    assert re.search(rf"rolled back [\d: -]{{19}} to {numbers[0]}$", lines[1])
    assert lines[2].endswith("  latest")
    assert re.fullmatch(r"5 +- +- +- +- +pushed", lines[3])


def test_empty_folder_is_told(bert_tfx, tmp_path):
    done = bert_tfx("versions", "--serving", tmp_path).check(0)
    assert done.stdout == f"{tmp_path}: no versions\n"
    assert os.listdir(tmp_path) == []


def test_rollback_and_undo(bert_tfx, serving, numbers):
    first, second, third = numbers
    before = names(serving)
    done = bert_tfx("rollback", "--serving", serving).check(0)
    assert done.stdout == (
        f"{serving}: hidden: {third}; the latest is {second}\n"
        f"`bert-tfx rollback --serving {serving} --undo` brings that back\n"
    )
    assert names(serving) == sorted([f".rolled-back-{third}", str(first), str(second)])
    done = bert_tfx("rollback", "--serving", serving, "--undo").check(0)
    assert done.stdout == f"{serving}: brought back: {third}; the latest is {third}\n"
    assert names(serving) == before
    done = bert_tfx("rollback", "--serving", serving, "--to", first).check(0)
    assert done.stdout.startswith(f"{serving}: hidden: {second}, {third}; the latest is {first}\n")
    assert done.stderr == ""


def test_prune(bert_tfx, output, serving, numbers):
    done = bert_tfx("prune", "--output", output, "--keep", 2).check(0)
    assert done.stdout == f"{serving}: deleted: {numbers[0]}; 2 left\n"
    assert names(serving) == [str(number) for number in numbers[1:]]
    done = bert_tfx("prune", "--output", output, "--keep", 2).check(0)
    assert done.stdout == f"{serving}: deleted: nothing; 2 left\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rollback"], "would be hidden: {2}; the latest is {1}\n"),
        (["rollback", "--to", "{0}"], "would be hidden: {1}, {2}; the latest is {0}\n"),
        (["prune", "--keep", "1"], "would be deleted: {0}, {1}; 1 left\n"),
    ],
)
def test_dry_run_changes_nothing(bert_tfx, serving, numbers, arguments, said):
    (serving / ".staging-7").mkdir()
    before = names(serving)
    command, *rest = (argument.format(*numbers) for argument in arguments)
    done = bert_tfx(command, "--serving", serving, "--dry-run", *rest).check(0)
    assert done.stdout == f"{serving}: {said.format(*numbers)}"
    assert names(serving) == before


def test_dry_run_of_undo_changes_nothing(bert_tfx, serving, numbers):
    bert_tfx("rollback", "--serving", serving, "--to", numbers[0]).check(0)
    before = names(serving)
    done = bert_tfx("rollback", "--serving", serving, "--undo", "--dry-run").check(0)
    assert done.stdout == (
        f"{serving}: would be brought back: {numbers[1]}, {numbers[2]}; the latest is {numbers[2]}"
        "\n"
    )
    assert names(serving) == before


class Served:
    """Stands for a client of a server that serves what a test says."""

    def __init__(self, states: dict[int, str]) -> None:
        self._states = states

    def __call__(self, server: str, model: str, *, timeout: float) -> "Served":
        assert (server, model) == ("localhost:8500", "reviews")
        return self

    def __enter__(self) -> "Served":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def model_status(self) -> list[client.VersionStatus]:
        return [client.VersionStatus(v, state, "") for v, state in self._states.items()]


def test_what_a_server_serves_is_not_pruned(bert_tfx, serving, numbers, monkeypatch):
    monkeypatch.setattr(client, "Client", Served({numbers[0]: "AVAILABLE", numbers[1]: "END"}))
    options = ("--keep", 1, "--server", "localhost:8500", "--model", "reviews")
    done = bert_tfx("prune", "--serving", serving, *options).check(0)
    assert done.stdout == f"{serving}: deleted: {numbers[1]}; 2 left\n"


def test_nothing_is_pruned_where_the_server_is_away(bert_tfx, serving, monkeypatch):
    monkeypatch.setattr(versions, "_SERVER_TIMEOUT", 0.5)
    before = names(serving)
    options = ("--keep", 1, "--server", "127.0.0.1:1")
    done = bert_tfx("prune", "--serving", serving, *options).check(5)
    assert re.search(r"127\.0\.0\.1:1, model 'model': .*\. Nothing was deleted\n", done.stderr)
    assert names(serving) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("versions --serving nowhere", "{}/nowhere: no such folder; --serving names the one that"),
        ("versions --output nowhere", "{}/nowhere/serving: no such folder"),
        ("versions", "one of the arguments --serving --output is required"),
        ("versions --serving x --output x", "not allowed with argument"),
        ("rollback --serving output/serving --to 5", "there is no version 5; there are "),
        ("rollback --serving output/serving --to five", "invalid int value: 'five'"),
        ("rollback --serving output/serving --undo", "no version is rolled back, so there is"),
        ("rollback --serving output/serving --undo --to 5", "not allowed with argument"),
        ("rollback --serving a", "{}/a: there is no version, so there is none to go back to"),
        ("prune --serving output/serving", "required: --keep"),
        ("prune --serving output/serving --keep 0", "--keep must be at least 1. Received: 0"),
        ("prune --serving output/serving --keep 1 --server x", "x"),
    ],
)
def test_mistake_is_told_and_changes_nothing(
    bert_tfx, output, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    done = bert_tfx(*arguments.split()).check(2)
    assert message.format(tmp_path) in done.stderr
    assert done.stdout == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_error_of_the_file_system_is_told(bert_tfx, serving, numbers, monkeypatch):
    replace = os.replace

    def rename(source, target):
        if os.path.isdir(source):
            raise PermissionError(13, "Permission denied", source)
        replace(source, target)

    monkeypatch.setattr(os, "replace", rename)
    done = bert_tfx("rollback", "--serving", serving).check(2)
    assert done.stderr == f"bert-tfx: {serving}/{numbers[2]}: Permission denied\n"


def test_commands_load_no_framework(serving):
    """Not even where they work."""
    code = (
        "import argparse, sys\n"
        "from bert_tfx.pipeline.commands import versions\n"
        "parser = argparse.ArgumentParser()\n"
        "versions.add(parser.add_subparsers())\n"
        "for arguments in (['versions'], ['rollback'], ['rollback', '--undo'], "
        "['prune', '--keep', '1']):\n"
        f"    arguments = parser.parse_args([*arguments, '--serving', {str(serving)!r}])\n"
        "    arguments.command(arguments)\n"
        "print(*sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {*done.stdout.splitlines()[-1].split()}
    assert not loaded & {"tensorflow", "tfx", "keras", "apache_beam", "numpy", "absl", "grpc"}


def test_every_command_has_help():
    parser = argparse.ArgumentParser()
    versions.add(parser.add_subparsers())
    for command in ("versions", "rollback", "prune"):
        with pytest.raises(SystemExit, match="0"):
            parser.parse_args([command, "--help"])


def test_urls_are_refused(bert_tfx):
    done = bert_tfx("versions", "--serving", "gs://bucket/models").check(2)
    assert "gs://bucket/models: is a URL; expected a path of this machine" in done.stderr
