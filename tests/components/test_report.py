import dataclasses
import gzip
import importlib.util
import json
import pathlib
import sys

import plotly.graph_objects as go
import pytest
from sklearn import metrics
from tfx import types
from tfx.types import channel_utils, standard_artifacts

from bert_tfx.components import variant_findings
from bert_tfx.components.promotion_gate import executor as promotion_gate
from bert_tfx.components.report import artifacts, component, executor, page
from bert_tfx.components.report.component import Report, RunReport
from bert_tfx.components.report.content import RunFacts, read_content
from bert_tfx.components.report.figures import comparison_figures, report_figures
from bert_tfx.components.serving_gate import executor as serving_gate
from bert_tfx.components.variant_findings import VariantFindings
from bert_tfx.modeling import training_run
from bert_tfx.modeling.checkpoints import files
from bert_tfx.schema.errors import InputError

_PATH = pathlib.Path(__file__).with_name("made_up_run.py")
_SPEC = importlib.util.spec_from_file_location("made_up_run", _PATH)
made_up_run = importlib.util.module_from_spec(_SPEC)
sys.modules["made_up_run"] = made_up_run
_SPEC.loader.exec_module(made_up_run)
CONFIG, MadeUpRun = made_up_run.CONFIG, made_up_run.MadeUpRun
STEPS = (made_up_run.STUDENT, made_up_run.COMPRESSED, made_up_run.TOO_MUCH, made_up_run.BROKEN)

FACTS = RunFacts(
    id="2026-01-01", pipeline="p", begun="2026-01-01T10:00:00+00:00", seconds=1.0, nodes=[]
)


@pytest.fixture
def content(tmp_path):
    def content(*, report_text: bool = False, **options) -> dict:
        sources = MadeUpRun(tmp_path / "run", **options).write()
        return read_content(sources, config=CONFIG, report_text=report_text)

    return content


def test_names_of_files_are_those_that_the_components_write():
    assert artifacts.DECISION_FILE == promotion_gate.DECISION_FILE
    assert artifacts.FINDINGS_FILE == serving_gate.FINDINGS_FILE
    assert artifacts.FINDINGS_FILE == variant_findings.FINDINGS_FILE
    assert artifacts.HISTORY_FILE == training_run.HISTORY_FILE
    assert artifacts.MODEL_FILE == files.MODEL_FILE


def test_figures_are_those_of_the_decision(content):
    found = content(wrong=range(20), baseline_wrong=range(10, 40))
    assert found["decision"]["candidate"]["overall"]["accuracy"]["value"] == 0.9
    assert found["decision"]["baseline"]["overall"]["accuracy"]["value"] == 0.85
    assert found["answers"]["rows"] == 200
    assert found["answers"]["mistakes"]["count"] == 20
    json.dumps(found, allow_nan=False)


def test_curves_hold_the_areas_that_the_decision_has(content):
    found = content(wrong=range(5, 90, 3), baseline_wrong=range(0, 60, 2))
    curves = found["answers"]["curves"]
    assert [(curve["model"], curve["label"]) for curve in curves] == [
        ("candidate", "1"),
        ("baseline", "1"),
    ]
    for curve in curves:
        roc = curve["roc"]
        area = metrics.auc(roc["false_positive_rate"], roc["recall"])
        expected = found["decision"][curve["model"]]["classes"][1]["roc_auc"]
        assert area == pytest.approx(expected, abs=1e-3)
        assert roc["recall"][0] == roc["false_positive_rate"][0] == 0
        assert roc["recall"][-1] == roc["false_positive_rate"][-1] == 1


def test_curves_of_many_rows_are_thin(content):
    found = content(rows=1500, wrong=range(0, 1500, 4))
    assert len(found["answers"]["curves"][0]["roc"]["recall"]) < 250


def test_many_labels_have_a_curve_each_and_the_baseline_none(content):
    found = content(labels=("a", "b", "c"), baseline_wrong=(1,))
    assert [(curve["model"], curve["label"]) for curve in found["answers"]["curves"]] == [
        ("candidate", "a"),
        ("candidate", "b"),
        ("candidate", "c"),
    ]


def test_bins_hold_every_row_once(content):
    bins = content(wrong=range(30))["answers"]["calibration"]["candidate"]
    assert sum(found["rows"] for found in bins) == 200
    right = sum(found["rows"] * found["accuracy"] for found in bins)
    assert right == pytest.approx(170)
    for found in bins:
        assert found["low"] <= found["accuracy"] <= found["high"]


def test_worst_mistakes_are_the_surest(content):
    found = content(report_text=True, wrong=range(0, 60, 2), baseline_wrong=(58,))
    worst = found["answers"]["mistakes"]["worst"]
    assert len(worst) == 20
    assert worst[0] == {
        "source_row": "dev.tsv:60",
        "label": "0",
        "answer": "1",
        "probability": pytest.approx(0.7725),
        "baseline_answer": "1",
        "texts": ["secret text of row 58"],
    }
    probabilities = [row["probability"] for row in worst]
    assert probabilities == sorted(probabilities, reverse=True)


def test_without_report_text_there_is_no_text_anywhere(content):
    found = content(leaked=0.1, report_text=False)
    assert "secret text" not in json.dumps(found)
    assert [row["source_row"] for row in found["answers"]["mistakes"]["worst"]] == [
        "dev.tsv:122",
        "dev.tsv:52",
        "dev.tsv:5",
    ]


def test_with_report_text_the_checks_show_theirs_too(content):
    found = content(leaked=0.1, report_text=True)
    examples = [row["text"] for check in found["data"]["checks"] for row in check["examples"]]
    assert examples == ["secret text of row 3"]


def test_training_is_thinned_by_means(content):
    steps = content()["training"]["steps"]
    assert steps["steps"] == 600
    assert steps["steps_a_point"] == 3
    assert len(steps["step"]) == len(steps["loss"]) == len(steps["learning_rate"]) == 200
    assert steps["step"][-1] == 600
    assert steps["loss"][0] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3, rel=1e-5)


def test_padding_is_what_the_training_noted(tmp_path, content):
    assert content()["padding"] == {"measured": None, "at_max_length": 0.75}
    sources = MadeUpRun(tmp_path / "other", padding=0.125).write()
    found = read_content(sources, config=CONFIG, report_text=False)
    assert found["padding"]["measured"] == 0.125


def test_splits_have_rows_labels_and_fingerprints(content):
    train, evaluated = content(rejected=7)["data"]["splits"]
    assert (train["read"], train["written"], train["rejected"]) == (1007, 1000, 7)
    assert evaluated["labels"] == {"0": 100, "1": 100}
    assert train["sha256"] != evaluated["sha256"]
    assert train["bytes"] == len("records of train")


def test_lengths_are_quantiles(content):
    lengths = content()["data"]["lengths"]
    assert [found["split"] for found in lengths] == ["train", "eval"]
    assert lengths[0]["quantiles"] == [4, 20, 30, 128]


def test_rejected_rows_are_listed_and_their_text_is_not(tmp_path):
    rejects = tmp_path / "rejects"
    rejects.mkdir()
    rows = "".join(
        f"train.tsv\t{i}\tlabel\tunknown label 'secret', known are '0'\tsecret {i}\n"
        for i in range(2, 40)
    )
    (rejects / "train.tsv").write_text(f"file\tline\tcolumn\treason\trow\n{rows}")
    for report_text in (False, True):
        found = read_content({}, config={}, report_text=report_text, rejects_dir=str(rejects))[
            "data"
        ]["rejects"]
        assert len(found) == 20
        assert found[0]["line"] == "2"
        assert found[0].get("row") == ("secret 2" if report_text else None)
        reason = found[0]["reason"]
        assert reason == (
            "unknown label 'secret', known are '0'" if report_text else "unknown label"
        )


def test_smaller_models_are_read_with_their_teacher(content):
    found = content(steps=STEPS)
    assert [gate["step"] for gate in found["variants"]["gates"]] == [step.name for step in STEPS]
    assert found["variants"]["teacher"]["pretrained"] == "/checkpoints/teacher"
    assert found["training"]["about"]["distillation"]["student_layers"] == 3
    linked = [file["name"] for file in found["files"]]
    assert {"StudentGate", "CompressGate1", "CompressGate2", "CompressGate3"} <= set(linked)
    json.dumps(found, allow_nan=False)


def test_a_run_without_smaller_models_says_nothing_of_them(tmp_path):
    sources = MadeUpRun(tmp_path / "run").write()
    found = read_content(sources, config=CONFIG, report_text=False, facts=FACTS)
    assert "variants" not in found
    assert "teacher_checkpoint" not in found["run"]
    facts = dataclasses.replace(FACTS, teacher_checkpoint={"path": "/c"})
    found = read_content(sources, config=CONFIG, report_text=False, facts=facts)
    assert found["run"]["teacher_checkpoint"] == {"path": "/c"}


def test_nothing_at_all_makes_a_content():
    found = read_content({}, config={}, report_text=False)
    assert found["verdict"]["kind"] == "unfinished"
    assert report_figures(found) == {}


def test_missing_files_are_left_out(tmp_path):
    sources = MadeUpRun(tmp_path / "run").write()
    for path in (tmp_path / "run").rglob("*"):
        if path.is_file():
            path.unlink()
    found = read_content(sources, config={}, report_text=False)
    assert found["decision"] is found["serving"] is found["training"] is None
    assert found["data"]["checks"] == []


@pytest.mark.parametrize("labels", [("0", "1"), ("a", "b", "<a href='x'>c</a>")])
def test_figures_are_ones_that_plotly_knows(content, labels):
    found = content(labels=labels, baseline_wrong=(1, 2))
    figures = report_figures(found)
    assert set(figures) == {
        *("roc", "precision_recall", "calibration", "loss", "learning_rate", "epochs", "lengths"),
    }
    figures |= comparison_figures({"A": found, "B": found})
    for figure in figures.values():
        # Colours are put in by the page.
        text = json.dumps(figure).replace("var(--", "").replace(')"', '"')
        plain = json.loads(text, object_hook=_without_colours)
        go.Figure(plain)
        # A label is text, and plotly would take it for a link.
        assert "<a href" not in text


def test_smaller_models_are_drawn_by_rows_of_a_request(content):
    hostile = dataclasses.replace(made_up_run.COMPRESSED, name="<a href='x'>c</a>")
    found = content(steps=(made_up_run.STUDENT, hostile, *STEPS[2:]))
    figures = report_figures(found)
    front, *traces = figures["variants_1"]["data"]
    assert [trace["name"] for trace in traces] == ["head", "accepted", "refused", "control"]
    assert [len(trace["x"]) for trace in traces] == [1, 2, 1, 1]
    assert "open" in traces[2]["marker"]["symbol"]
    # The student that was not taught is as fast as the one that was, and has less right.
    assert front["y"] == [0.99, 0.98, 0.975, 0.8]
    assert front["x"] == pytest.approx([1, 1.93, 1.96, 2.0])
    assert traces[0]["text"] == ["teacher<br>94.1 MB"]
    for name in ("variants_1", "variants_32"):
        text = json.dumps(figures[name]).replace("var(--", "").replace(')"', '"')
        go.Figure(json.loads(text, object_hook=_without_colours))
        assert "<a href" not in text


def test_one_model_alone_is_not_drawn(content):
    found = content(steps=(made_up_run.BROKEN,))
    assert not [name for name in report_figures(found) if name.startswith("variants")]


def test_labels_of_models_in_the_same_place_stand_on_different_sides(content):
    steps = [made_up_run.Step(f"step {n}", size=60 - n) for n in range(3)]
    traces = report_figures(content(steps=steps))["variants_1"]["data"]
    (accepted,) = [trace for trace in traces if trace["name"] == "accepted"]
    assert len(set(accepted["x"])) == len(set(accepted["y"])) == 1
    assert len(set(accepted["textposition"])) == 3


def _without_colours(fields: dict) -> dict:
    return {name: value for name, value in fields.items() if "color" not in name}


# === The component ===


def tfx_artifacts(sources) -> dict[str, list[types.Artifact]]:
    found = {}
    for key, source in sources.items():
        kind = _KINDS.get(key, standard_artifacts.Model)
        artifact = kind()
        artifact.uri = source.uri
        for name, value in source.properties.items():
            if name == "split_names":
                artifact.split_names = value
            elif isinstance(value, int):
                artifact.set_int_custom_property(name, value)
            else:
                artifact.set_string_custom_property(name, value)
        found[key] = [artifact]
    return found


_KINDS = {
    "examples": standard_artifacts.Examples,
    "anomalies": standard_artifacts.ExampleAnomalies,
    "token_statistics": standard_artifacts.ExampleStatistics,
    "pushed_model": standard_artifacts.PushedModel,
    "teacher_run": standard_artifacts.ModelRun,
    **dict.fromkeys(artifacts.VARIANT_GATES, VariantFindings),
}


def test_executor_writes_page_card_and_figures(tmp_path):
    inputs = tfx_artifacts(MadeUpRun(tmp_path / "run").write())
    report = RunReport()
    report.uri = str(tmp_path / "report")
    executor.Executor().Do(
        inputs, {"report": [report]}, {"config": json.dumps(CONFIG), "report_text": 0}
    )
    folder = tmp_path / "report"
    assert sorted(path.name for path in folder.iterdir()) == [
        "index.html",
        "model_card.md",
        "report.json",
    ]
    page = (folder / "index.html").read_text()
    assert "Pushed as version 17" in page
    assert 'href="../run/Evaluator/evaluation"' in page
    written = json.loads((folder / "report.json").read_text())
    assert written["decision"]["candidate"]["overall"]["accuracy"]["value"] == 0.985
    assert written["data"]["splits"][0]["written"] == 1000
    assert written["run"] is None


def test_executor_reads_findings_of_smaller_models(tmp_path):
    inputs = tfx_artifacts(MadeUpRun(tmp_path / "run", steps=STEPS).write())
    report = RunReport()
    report.uri = str(tmp_path / "report")
    executor.Executor().Do(
        inputs, {"report": [report]}, {"config": json.dumps(CONFIG), "report_text": 0}
    )
    written = json.loads((tmp_path / "report" / "report.json").read_text())
    assert [gate["accepted"] for gate in written["variants"]["gates"]] == [True, True, False, False]
    assert 'id="variants"' in (tmp_path / "report" / "index.html").read_text()


def test_component_takes_findings_of_each_step():
    found = {
        key: channel_utils.as_channel([VariantFindings()])
        for key in ("variant_findings_0", "variant_findings_1", "variant_findings_16")
    }
    report = Report(inputs=found, config="{}", report_text=False)
    assert set(report.inputs) == set(found)
    with pytest.raises(InputError, match="no input variant_findings_17"):
        Report(
            inputs={"variant_findings_17": found["variant_findings_0"]},
            config="{}",
            report_text=False,
        )


def test_component_takes_the_inputs_it_is_given():
    examples = channel_utils.as_channel([standard_artifacts.Examples()])
    report = Report(inputs={"examples": examples}, config="{}", report_text=True)
    assert set(report.inputs) == {"examples"}
    assert report.outputs["report"].type == RunReport
    assert report.exec_properties["report_text"] == 1
    with pytest.raises(InputError, match="no input exmaples; it has examples, "):
        Report(inputs={"exmaples": examples}, config="{}", report_text=False)


def test_component_names_the_outputs_of_the_components():
    """What `PRODUCERS` says of names, the components' own specifications say, too."""
    from bert_tfx.components.data_gate.component import DataGateSpec
    from bert_tfx.components.model_pusher.component import ModelPusherSpec
    from bert_tfx.components.predictor.component import PredictorSpec
    from bert_tfx.components.promotion_gate.component import PromotionGateSpec
    from bert_tfx.components.serving_gate.component import ServingGateSpec
    from bert_tfx.components.token_gate.component import TokenGateSpec

    for spec in (
        *(DataGateSpec, TokenGateSpec, PredictorSpec, PromotionGateSpec, ServingGateSpec),
        ModelPusherSpec,
    ):
        name = spec.__name__.removesuffix("Spec")
        outputs = {output for node, output in artifacts.PRODUCERS.values() if node == name}
        assert outputs, name
        assert outputs <= set(spec.OUTPUTS)
    from bert_tfx.components.variant_gate.component import VariantGateSpec

    for key, gate in artifacts.VARIANT_GATES.items():
        assert artifacts.PRODUCERS[key] == (gate, "findings")
    assert "findings" in VariantGateSpec.OUTPUTS


def test_leaked_rows_are_linked_to(tmp_path):
    sources = MadeUpRun(tmp_path / "run").write()
    found = read_content(sources, config=CONFIG, report_text=False, facts=FACTS)
    (leaked,) = [file for file in found["files"] if file["name"] == "Leaked rows"]
    assert gzip.decompress(pathlib.Path(leaked["path"]).read_bytes()) == b""


def test_fingerprint_sees_the_templates(tmp_path, monkeypatch):
    before = component.fingerprint()
    assert before == component.fingerprint()
    folder = pathlib.Path(page.__file__).parent
    for path in folder.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(page, "__file__", str(tmp_path / "page.py"))
    assert component.fingerprint() == before
    (tmp_path / "page.css").write_text("body {}")
    assert component.fingerprint() != before
    # Every template counts.
    templates = {path.name for path in folder.iterdir() if path.suffix in (".html", ".css", ".js")}
    assert templates == set(page.TEMPLATES)
