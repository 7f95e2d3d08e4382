"""VariantGate: what goes on is the smaller model where it is good enough, else the one before."""

import contextlib
import gzip
import json
import os
import pathlib
import re
import shutil
import threading

import pytest
import tensorflow as tf
import tensorflow_text  # noqa: F401, registers the ops of the tokenizer
from tfx.types import standard_artifacts

from bert_tfx.components.data_gate import checks
from bert_tfx.components.data_gate.component import DataGateReport
from bert_tfx.components.predictor import executor as predictor
from bert_tfx.components.serving_gate import served
from bert_tfx.components.variant_findings import FINDINGS_FILE, VariantFindings
from bert_tfx.components.variant_gate import executor
from bert_tfx.components.variant_gate.limits import VARIANT_NAME, VariantLimits
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.tasks import TASKS


@pytest.fixture(scope="module")
def models(tmp_path_factory, model_artifact):
    """Three models of which the third is a larger one."""
    folder = tmp_path_factory.mktemp("models")
    made = {seed: model_artifact(folder / str(seed), seed=seed) for seed in (1, 2)}
    made["large"] = model_artifact(folder / "large", seed=3, num_layers=3)
    return made


@pytest.fixture(scope="module")
def examples(tmp_path_factory, models, reviews, write_examples):
    """Rows whose labels are what the first model answers: its accuracy is 1."""
    texts = [text for _, text in reviews(60, seed=5)]
    loaded = tf.saved_model.load(f"{models[1].uri}/Format-Serving")
    answers = loaded.signatures["serve_text"](text_a=tf.constant(texts))["label"].numpy()
    rows = [
        {"text_a": text, "label": int(label), "genre": "drama", "source_row": f"dev.tsv:{i + 2}"}
        for i, (text, label) in enumerate(zip(texts, answers, strict=True))
    ]
    return write_examples(tmp_path_factory.mktemp("examples") / "rows", rows)


@pytest.fixture(scope="module")
def running():
    """Serves models as the gate does, each from when it is asked for to the end of the tests."""
    with contextlib.ExitStack() as stack:
        servers = {}
        start, one_at_a_time = served.one_model_server, threading.Lock()

        @contextlib.contextmanager
        def running(path, *, timeout):
            with one_at_a_time:
                if path not in servers:
                    servers[path] = stack.enter_context(start(path, timeout=timeout))
            yield servers[path]

        yield running


@pytest.fixture
def predict(tmp_path, examples):
    """Asks the models about the rows."""

    def predict(variant, **others):
        report, predictions = DataGateReport(), standard_artifacts.Examples()
        report.uri, predictions.uri = str(tmp_path / "report"), str(tmp_path / "predictions")
        os.makedirs(report.uri)
        leaked = os.path.join(report.uri, checks.LEAKED_EVAL_ROWS_FILE)
        with gzip.open(leaked, "wt", encoding="utf-8") as file:
            file.write("dev.tsv:4\n")
        context = predictor.Executor.Context(
            beam_pipeline_args=["--runner=FnApiRunner", "--direct_running_mode=in_memory"],
            tmp_dir=str(tmp_path / "tmp"),
            unique_id="1",
        )
        inputs = {"examples": examples, "data_report": report, "candidate": variant, **others}
        predictor.Executor(context).Do(
            {key: [artifact] for key, artifact in inputs.items()},
            {"predictions": [predictions]},
            {},
        )
        return predictions

    return predict


@pytest.fixture
def gate(tmp_path, predict, running, monkeypatch):
    """Asks the models and runs the gate; returns the findings and the model that goes on."""
    monkeypatch.setattr(served, "one_model_server", running)
    monkeypatch.setattr(served, "_TURN_SECONDS", 0.1)
    monkeypatch.setattr(served, "_TURNS", 1)

    def gate(variant, before, *, goes_back=True, limits=None, tolerance=None, **others):
        findings, model = VariantFindings(), standard_artifacts.Model()
        findings.uri, model.uri = str(tmp_path / "findings"), str(tmp_path / "model")
        executor.Executor().Do(
            {
                "predictions": [predict(variant, before=before, **others)],
                "variant": [variant],
                "before": [before],
                **{name: [other] for name, other in others.items()},
            },
            {"findings": [findings], "model": [model]},
            {
                "task": TASKS["sst2"].to_json(),
                "step": "student",
                "head": "teacher",
                "settings": '{"alpha": 0.5}',
                "limits": VariantLimits(**(limits or {})).to_json(),
                "slice_columns": '["genre"]',
                "timeout": 120.0,
                "tolerance": tolerance,
                "goes_back": int(goes_back),
            },
        )
        text = pathlib.Path(findings.uri, FINDINGS_FILE).read_text(encoding="utf-8")
        return json.loads(text), model

    return gate


def files_of(model):
    folder = pathlib.Path(model.uri)
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_good_variant_goes_on(gate, models):
    found, model = gate(models[1], models[1], control=models[2])
    assert found["accepted"], found["verdict"]
    assert (found["step"], found["settings"], found["rows"]) == ("student", {"alpha": 0.5}, 60)
    assert list(found["models"]) == ["before", "variant", "control"]
    names = [about["name"] for about in found["models"].values()]
    assert names == ["teacher", "student", "student, not taught"]
    of_variant = found["models"]["variant"]
    assert of_variant["accuracy"]["value"] == 1
    assert of_variant["parameters"] == found["models"]["before"]["parameters"] > 1000
    assert of_variant["bytes"] == sum(map(len, files_of(models[1]).values()))
    assert [load["rows"] for load in of_variant["load"]] == [1, 32]
    assert found["speedup"].keys() == {"1", "32"}
    counts = found["comparison"]["counts"]
    assert (counts["both_right"], counts["only_baseline"]) == (60, 0)
    sliced = {(found["feature"], found["value"]): found["rows"] for found in found["slices"]}
    assert sliced["genre", "drama"] == 60
    assert sliced["leaked", "yes"] == 1
    assert sum(rows for (name, _), rows in sliced.items() if name == "length_bucket") == 60
    assert files_of(model) == files_of(models[1])
    assert model.get_string_custom_property(VARIANT_NAME) == "student"


def test_after_a_bad_variant_the_model_before_goes_on(gate, models):
    found, model = gate(models[2], models[1], reference=models["large"])
    assert not found["accepted"]
    assert found["verdict"].startswith("Refused: Student has ")
    assert files_of(model) == files_of(models[1])
    # It is at the head of the chain itself, and is shown once.
    assert list(found["models"]) == ["before", "variant"]
    assert model.get_string_custom_property(VARIANT_NAME) == "teacher"


def test_a_bad_student_goes_on_for_the_report(gate, models):
    found, model = gate(models[2], models[1], goes_back=False)
    assert not found["accepted"]
    assert files_of(model) == files_of(models[2])
    assert model.get_string_custom_property(VARIANT_NAME) == "student"


@pytest.mark.slow
def test_size_is_of_the_export_and_the_head_is_shown_beside(gate, models):
    before = standard_artifacts.Model()
    before.uri = models[1].uri
    before.set_string_custom_property(VARIANT_NAME, "half")
    found, _ = gate(models[1], before, reference=models["large"], limits={"max_size": 0.001})
    assert not found["accepted"]
    assert found["reasons"][0].endswith("MB, where 0.001 MB are allowed.")
    names = {key: about["name"] for key, about in found["models"].items()}
    assert names == {"before": "half", "variant": "student", "reference": "teacher"}
    assert found["models"]["reference"]["parameters"] > found["models"]["variant"]["parameters"]


@pytest.fixture
def broken(models, tmp_path):
    """A model whose weights are cut off."""
    broken = standard_artifacts.Model()
    broken.uri = str(tmp_path / "broken")
    shutil.copytree(models[1].uri, broken.uri)
    (weights,) = pathlib.Path(broken.uri).rglob("variables.data-*")
    weights.write_bytes(weights.read_bytes()[:100])
    return broken


def test_variant_that_cannot_be_asked_is_refused(gate, models, broken):
    found, model = gate(broken, models[1])
    assert not found["accepted"]
    assert found["reasons"][0].startswith("Student cannot be used: its export cannot be asked: ")
    assert found["comparison"] is None
    assert found["rows"] == 60
    assert list(found["models"]) == ["before", "variant"]
    assert files_of(model) == files_of(models[1])


def test_model_before_that_cannot_be_asked_is_an_error(gate, models, broken):
    message = r"^teacher cannot be compared with: its export cannot be asked: "
    with pytest.raises(InputError, match=message):
        gate(models[1], broken)


@pytest.fixture
def serve_instead(running, monkeypatch):
    """Has a server load another model in place of one."""

    def serve_instead(of, other):
        paths = {f"{of.uri}/Format-Serving": f"{other.uri}/Format-Serving"}

        def serve(path, *, timeout):
            return running(paths.get(path, path), timeout=timeout)

        monkeypatch.setattr(served, "one_model_server", serve)

    return serve_instead


def test_variant_that_no_server_can_load_is_refused(gate, models, broken, serve_instead):
    serve_instead(models[2], broken)
    found, model = gate(models[2], models[1])
    assert not found["accepted"]
    assert found["reasons"][0].startswith("Student cannot be used: ")
    assert "its export" not in found["reasons"][0]
    assert found["comparison"] is None
    assert files_of(model) == files_of(models[1])


@pytest.mark.slow
def test_model_before_that_no_server_can_load_is_an_error(gate, models, broken, serve_instead):
    serve_instead(models[2], broken)
    with pytest.raises(InputError, match=r"^teacher cannot be compared with: "):
        gate(models[1], models[2])


def test_variant_that_a_server_answers_for_otherwise_is_refused(gate, models, serve_instead):
    serve_instead(models[1], models[2])
    found, _ = gate(models[1], models[2])
    assert not found["accepted"]
    assert re.fullmatch(
        r"Student cannot be used: a server answers an eval row with a probability that is 0\.\d+ "
        r"off the model's own \(1e-05 is allowed\)\.",
        found["reasons"][0],
    )


def test_tolerance_can_be_asked_for(gate, models, serve_instead):
    serve_instead(models[1], models[2])
    found, _ = gate(models[1], models[2], tolerance=1.0)
    assert found["accepted"], found["verdict"]
    assert found["models"]["variant"]["accuracy"]["value"] == 1


def test_models_of_other_questions_are_refused(gate, models, model_artifact, tmp_path):
    pairs = model_artifact(tmp_path / "pairs", "lcqmc")
    with pytest.raises(InputError, match=r"^student has text_features text_a, text_b, teacher "):
        gate(pairs, models[1])
