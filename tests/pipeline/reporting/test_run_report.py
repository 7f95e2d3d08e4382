import dataclasses
import hashlib
import importlib.util
import json
import pathlib
import sys

import pytest
from markupsafe import Markup

from bert_tfx.components.report import page
from bert_tfx.pipeline.configuration.config import make_config
from bert_tfx.pipeline.reporting.run_report import (
    config_json,
    load_content,
    run_content,
    write_report,
)
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.fingerprint import file_fingerprint

_PATH = pathlib.Path(__file__).parents[2] / "components" / "made_up_run.py"
_SPEC = importlib.util.spec_from_file_location("made_up_run", _PATH)
made_up_run = importlib.util.module_from_spec(_SPEC)
sys.modules["made_up_run"] = made_up_run
_SPEC.loader.exec_module(made_up_run)


@pytest.fixture(autouse=True)
def stub_plotly(monkeypatch):
    monkeypatch.setattr(page, "_plotly", lambda: Markup("const stub = 1;"))


@pytest.fixture
def output(tmp_path):
    """Makes up a run `one` in an output folder; returns the folder."""

    def output(*, run: dict | None = None, **records) -> pathlib.Path:
        sources = made_up_run.MadeUpRun(tmp_path / "artifacts", **(run or {})).write()
        made_up_run.Records(tmp_path).add_run("one", sources, **records)
        return tmp_path

    return output


def test_report_lies_in_the_output_folder(output):
    folder = output()
    path = write_report(str(folder))
    assert path == str(folder / "report" / "index.html")
    assert sorted(file.name for file in (folder / "report").iterdir()) == [
        "index.html",
        "model_card.md",
        "report.json",
    ]
    text = pathlib.Path(path).read_text()
    assert "Pushed as version 17" in text
    assert 'href="../artifacts/Evaluator/evaluation"' in text


def test_times_and_lineage_come_from_the_records(output):
    fingerprints = {"PromotionGate": {"fingerprint": "abc"}}
    run = run_content(str(output(parameters=fingerprints)))["run"]
    assert run["id"] == "one"
    assert run["begun"].endswith("+00:00")
    nodes = {node["name"]: node for node in run["nodes"]}
    assert nodes["PromotionGate"]["fingerprint"] == "abc"
    assert nodes["Trainer"]["fingerprint"] is None
    assert nodes["Trainer"]["state"] == "complete"
    uris = {(entry["node"], entry["output"]): entry["uri"] for entry in run["artifacts"]}
    assert uris["Trainer", "model"].endswith("Trainer/model")


def test_options_come_from_the_run_itself(output, tmp_path, glue_dir, vocab_file):
    folder = output()
    assert run_content(str(folder))["config"] == {"task": {}}
    config = make_config(
        {"task": "sst2", "data": str(glue_dir), "output": str(tmp_path), "vocab": str(vocab_file)}
    )
    found = run_content(str(folder), config=config)["config"]
    assert found["task"]["name"] == "sst2"
    assert found["recipe"] == dataclasses.asdict(config.recipe)
    assert config_json(config) == config_json(dataclasses.replace(config))


def test_options_of_a_run_without_report_come_from_its_components(output):
    told = {"model": "bert", "size": "tiny", "recipe": {"epochs": 2}, "state_dir": "/x"}
    found = run_content(str(output(parameters={"Trainer": {"custom_config": json.dumps(told)}})))
    assert found["config"] == {
        "task": {},
        "model": "bert",
        "size": "tiny",
        "recipe": {"epochs": 2},
    }


def test_why_a_run_was_stopped_is_kept(output):
    folder = output(states={"DataGate": "FAILED"}, until="DataGate")
    write_report(str(folder), run_id="one", error="DataGate: 3 rows leak")
    assert run_content(str(folder))["verdict"]["why"] == ["DataGate: 3 rows leak"]
    # Made anew without it, it still says why.
    text = pathlib.Path(write_report(str(folder))).read_text()
    assert "Stopped at DataGate" in text
    assert "DataGate: 3 rows leak" in text


def test_why_a_run_was_stopped_is_not_told_of_the_next(output):
    folder = output(states={"DataGate": "FAILED"}, until="DataGate")
    write_report(str(folder), error="DataGate: 3 rows leak")
    sources = made_up_run.MadeUpRun(folder / "second").write()
    made_up_run.Records(folder).add_run("two", sources)
    assert run_content(str(folder))["verdict"]["kind"] == "pushed"
    assert run_content(str(folder), run_id="one")["verdict"]["kind"] == "stopped"


def test_a_component_that_was_killed_is_named(output):
    folder = output(states={"Trainer": "RUNNING"}, until="Trainer")
    assert run_content(str(folder))["verdict"]["kind"] == "unfinished"
    found = run_content(str(folder), error="stopped by the user")
    assert found["verdict"]["title"] == "Stopped at Trainer"


def test_texts_are_shown_where_it_is_asked_for(output):
    folder = output()
    assert "secret text" not in pathlib.Path(write_report(str(folder))).read_text()
    path = write_report(str(folder), report_text=True)
    assert "secret text" in pathlib.Path(path).read_text()
    assert "secret text" not in pathlib.Path(write_report(str(folder))).read_text()


def test_rejected_rows_are_those_of_the_latest_run(output):
    folder = output()
    (folder / "rejects").mkdir()
    (folder / "rejects" / "train.tsv").write_text(
        "file\tline\tcolumn\treason\trow\ntrain.tsv\t7\tlabel\tno such label\tsecret\n"
    )
    assert len(run_content(str(folder))["data"]["rejects"]) == 1
    sources = made_up_run.MadeUpRun(folder / "second").write()
    made_up_run.Records(folder).add_run("two", sources)
    assert run_content(str(folder), run_id="one")["data"]["rejects"] == []


def test_checkpoint_is_hashed_where_it_is_still_the_same(output, tmp_path):
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    # A folder in which no checkpoint is recognized, as one that is gone.
    (checkpoint / "weights").write_bytes(b"1")
    told = {"pretrained": str(checkpoint), "pretrained_fingerprint": "12ab"}
    folder = output(parameters={"Trainer": {"custom_config": json.dumps(told)}})
    found = run_content(str(folder))["run"]["checkpoint"]
    assert found == {"path": str(checkpoint), "fingerprint": "12ab", "files": []}


def test_checkpoint_files_have_their_sha256(output, monkeypatch, tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"weights")

    class Found:
        files = (str(file),)

    monkeypatch.setattr(
        "bert_tfx.pipeline.reporting.run_report.find_checkpoint", lambda path: Found
    )
    told = {"pretrained": "/c", "pretrained_fingerprint": file_fingerprint(str(file))}
    folder = output(parameters={"Trainer": {"custom_config": json.dumps(told)}})
    (found,) = run_content(str(folder))["run"]["checkpoint"]["files"]
    assert found == {
        "name": "model.safetensors",
        "bytes": 7,
        "sha256": hashlib.sha256(b"weights").hexdigest(),
    }
    file.write_bytes(b"others")
    assert run_content(str(folder))["run"]["checkpoint"]["files"] == []


def test_smaller_models_are_found_by_the_names_of_their_gates(output):
    steps = (made_up_run.STUDENT, made_up_run.COMPRESSED)
    told = {"pretrained": "/checkpoints/teacher", "pretrained_fingerprint": "12ab"}
    parameters = {"Teacher": {"custom_config": json.dumps(told)}}
    content = run_content(str(output(run={"steps": steps}, parameters=parameters)))
    assert [gate["node"] for gate in content["variants"]["gates"]] == [
        *("StudentGate", "CompressGate1"),
    ]
    assert content["run"]["checkpoint"] is None
    assert content["run"]["teacher_checkpoint"] == {
        **{"path": "/checkpoints/teacher", "fingerprint": "12ab", "files": []},
    }
    assert "Teacher" in [node["name"] for node in content["run"]["nodes"]]


def test_exported_model_is_the_one_that_was_evaluated(output):
    def exported(folder: pathlib.Path) -> str:
        files = {file["name"]: file["path"] for file in run_content(str(folder))["files"]}
        return files["Exported model"]

    folder = output()
    assert exported(folder).endswith("Trainer/model")
    sources = made_up_run.MadeUpRun(folder / "second").write()
    inputs = {"Predictor": {"candidate": "statistics"}}
    made_up_run.Records(folder).add_run("two", sources, inputs=inputs)
    assert exported(folder) == sources["statistics"].uri


def test_folder_that_cannot_be_written_is_told(output):
    folder = output()
    (folder / "report").write_text("a file")
    with pytest.raises(InputError, match="report: cannot be written"):
        write_report(str(folder))


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not JSON"), ("[]", "is no report.json"), ('{"format": 0}', "is no report.json")],
)
def test_what_is_no_report_is_told(tmp_path, text, message):
    path = tmp_path / "report.json"
    with pytest.raises(InputError, match="cannot be read"):
        load_content(str(path))
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        load_content(str(path))
