import ast
import dataclasses
import importlib.util
import json
import os
import pathlib
import shutil

import pytest

from bert_tfx.pipeline.configuration.config import make_config
from bert_tfx.pipeline.execution.last_run import (
    LAST_RUN_FILE,
    SOURCES,
    changes,
    dependencies,
    forget_last_run,
    keep_last_run,
    read_last_run,
)
from bert_tfx.pipeline.process.exit_codes import ExitCode
from bert_tfx.pipeline.process.notification import Outcome
from bert_tfx.schema.fingerprint import imported_modules


@pytest.fixture
def options(tmp_path, glue_dir, vocab_file):
    data = tmp_path / "data"
    shutil.copytree(glue_dir, data)
    shutil.copy(vocab_file, tmp_path / "vocab.txt")
    (tmp_path / "output" / "serving" / "7").mkdir(parents=True)
    return {
        "task": "sst2",
        "data": str(data),
        "output": str(tmp_path / "output"),
        "vocab": str(tmp_path / "vocab.txt"),
    }


def outcome(output, *, code=ExitCode.DONE, version="7", **fields):
    return Outcome(
        code=code, run="monday", task="sst2", pipeline="p", output=output, started="", ended="",
        pushed_version=version, **fields,
    )  # fmt: skip


@pytest.fixture
def found(options, tmp_path, monkeypatch):
    """What has changed since a run of these options, once they are changed by these."""
    monkeypatch.chdir(tmp_path)
    config = make_config(options)
    keep_last_run(outcome(config.output_dir), dependencies(config))

    def found(**others):
        config = make_config(options | others)
        last = read_last_run(config.output_dir)
        return changes(config, last, dependencies(config))

    return found


def test_nothing_has_changed(found, options):
    assert found() == []
    last = read_last_run(options["output"])
    assert (last.code, last.text) == (ExitCode.DONE, "monday (pushed version 7)")


def test_what_has_changed_is_named(found, tmp_path):
    with (tmp_path / "data" / "train.tsv").open("a", encoding="utf-8") as file:
        file.write("a lovely room\t1\n")
    assert found() == ["data/train.tsv has changed"]
    assert found(epochs=7) == ["option epochs has changed (recipe)", "data/train.tsv has changed"]


def test_other_content_in_the_same_time_and_size_is_seen(found, tmp_path):
    path = tmp_path / "data" / "dev.tsv"
    before = path.stat()
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("the", "THE"), encoding="utf-8")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert found() == ["data/dev.tsv has changed"]
    path.write_text(text, encoding="utf-8")
    assert found() == []


def test_files_that_come_and_go(found, tmp_path):
    (tmp_path / "data" / "test.tsv").unlink()
    assert "data/test.tsv is gone" in found()
    shutil.move(tmp_path / "vocab.txt", tmp_path / "other.txt")
    assert {"other.txt is new", "vocab.txt is gone"} <= {*found(vocab=str(tmp_path / "other.txt"))}


def test_model_that_is_served_is_still_this_one(found, tmp_path):
    serving = tmp_path / "output" / "serving"
    (serving / "8").mkdir()
    assert found() == ["version 8 was pushed since"]
    shutil.rmtree(serving)
    assert found() == ["version 7 is not served any more"]


def test_source_that_has_changed(found, monkeypatch):
    monkeypatch.setattr("bert_tfx.pipeline.execution.last_run.SOURCES", SOURCES[:1])
    assert found() == ["the source has changed"]


def test_who_is_told_changes_nothing_and_is_not_kept(found, options, tmp_path):
    assert found(notify_url="https://hooks.example/secret", parallel=3) == []
    config = make_config(options | {"notify_url": "https://hooks.example/secret"})
    keep_last_run(outcome(config.output_dir), dependencies(config))
    assert "secret" not in (tmp_path / "output" / LAST_RUN_FILE).read_text(encoding="utf-8")


def test_run_that_pushed_nothing_says_why(found, options):
    config = make_config(options)
    told = outcome(
        config.output_dir, code=ExitCode.DATA_REFUSED, version=None, error="DataGate\nstopped it"
    )
    keep_last_run(told, dependencies(config))
    last = read_last_run(config.output_dir)
    assert (last.code, last.text) == (4, "monday (nothing pushed: DataGate stopped it)")
    assert found() == []


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"format": 0}', '{"format": 1, "run": "a"}'])
def test_what_is_not_understood_makes_the_run_run(options, content):
    path = pathlib.Path(options["output"], LAST_RUN_FILE)
    path.write_text(content, encoding="utf-8")
    assert read_last_run(options["output"]) is None
    forget_last_run(options["output"])
    forget_last_run(options["output"])
    assert not path.exists()


def test_every_source_that_the_pipeline_fingerprints_counts():
    (room,) = importlib.util.find_spec("bert_tfx.pipeline").submodule_search_locations
    tree = ast.parse(pathlib.Path(room, "pipeline.py").read_text(encoding="utf-8"))
    modules = {
        node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Constant)
        and str(node.value.value).startswith("bert_tfx.")
    }
    assert len(modules) >= 4
    # Components hash their executors by themselves.
    rooms = pathlib.Path(room).parent.glob("components/*/executor.py")
    executors = {f"bert_tfx.components.{path.parent.name}.executor" for path in rooms}
    assert len(executors) >= 8
    assert modules | executors <= set().union(*map(imported_modules, SOURCES))


def test_dependencies_are_json(options):
    fields = dataclasses.asdict(dependencies(make_config(options)))
    assert json.loads(json.dumps(fields)) == fields
