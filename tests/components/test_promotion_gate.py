import json
import os

import pytest
import tensorflow as tf
from tfx import types
from tfx.components.pusher import executor as pusher
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils, standard_artifacts

from bert_tfx.components.promotion_gate import executor
from bert_tfx.components.promotion_gate.component import PromotionDecision, PromotionGate
from bert_tfx.components.promotion_gate.decision import Decision
from bert_tfx.components.promotion_gate.limits import PromotionLimits
from bert_tfx.components.variant_findings import VariantFindings
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.tasks import TASKS

LIMITS = PromotionLimits(min_accuracy=0.8, max_regression=0.01)
FEATURES = ("truncated", "language")
ROWS = 200


def artifact(kind: type[types.Artifact], folder, number: int = 0) -> types.Artifact:
    made = kind()
    made.uri = str(folder)
    made.id = number
    folder.mkdir(parents=True, exist_ok=True)
    return made


def answer(label: int) -> list[float]:
    return [0.1, 0.9] if label else [0.9, 0.1]


@pytest.fixture
def gate(tmp_path):
    """Writes rows of predictions, runs the executor over them, and returns its two outputs."""

    def gate(
        *,
        wrong=(),
        baseline_wrong=None,
        count: int = ROWS,
        give_baseline: bool | None = None,
        seed_accuracies=(0.9,),
        student_reasons: list[str] | None = None,
    ):
        split = tmp_path / "predictions" / "Split-eval"
        split.mkdir(parents=True)
        # In two files, as Beam may write them.
        writers = [tf.io.TFRecordWriter(str(split / f"data-{i}.gz"), "GZIP") for i in range(2)]
        for i in range(count):
            example = tf.train.Example()
            feature = example.features.feature
            feature["text_a"].bytes_list.value.append("很好".encode())
            feature["label"].int64_list.value.append(i % 2)
            feature["source_row"].bytes_list.value.append(f"dev.tsv:{i + 2}".encode())
            feature["truncated"].bytes_list.value.append(b"no")
            feature["language"].bytes_list.value.append(b"zh" if i < 80 else b"en")
            answers = answer(i % 2 != (i in wrong))
            if i == 150 and "nan" in wrong:
                answers = [float("nan")] * 2
            feature["candidate_probabilities"].float_list.value.extend(answers)
            if baseline_wrong is not None:
                answers = answer(i % 2 != (i in baseline_wrong))
                feature["baseline_probabilities"].float_list.value.extend(answers)
            writers[i % 2].write(example.SerializeToString())
        for writer in writers:
            writer.close()
        predictions = artifact(standard_artifacts.Examples, tmp_path / "predictions")
        predictions.split_names = artifact_utils.encode_split_names(["eval"])
        model = artifact(standard_artifacts.Model, tmp_path / "model", 7)
        extra = tmp_path / "model" / "Format-Serving" / "assets.extra"
        extra.mkdir(parents=True)
        about = {
            "labels": ["0", "1"],
            "text_features": ["text_a"],
            "training": {"seed_accuracies": seed_accuracies},
        }
        (extra / "bert_tfx.json").write_text(json.dumps(about), encoding="utf-8")
        inputs = {"predictions": [predictions], "model": [model]}
        if baseline_wrong is not None if give_baseline is None else give_baseline:
            inputs["baseline_model"] = [artifact(standard_artifacts.Model, tmp_path / "old", 3)]
        if student_reasons is not None:
            findings = artifact(VariantFindings, tmp_path / "findings")
            content = json.dumps({"reasons": student_reasons})
            (tmp_path / "findings" / "findings.json").write_text(content, encoding="utf-8")
            inputs["student_findings"] = [findings]
        outputs = {
            "decision": [artifact(PromotionDecision, tmp_path / "decision")],
            "blessing": [artifact(standard_artifacts.ModelBlessing, tmp_path / "blessing")],
        }
        executor.Executor(base_executor.BaseExecutor.Context()).Do(
            inputs,
            outputs,
            {
                "task": TASKS["sample"].to_json(),
                "limits": LIMITS.to_json(),
                "slice_features": json.dumps(FEATURES),
                "fingerprint": "",
                "current_component_id": "PromotionGate",
            },
        )
        text = (tmp_path / "decision" / "decision.json").read_text(encoding="utf-8")
        return Decision.from_json(text), outputs["blessing"][0]

    return gate


def is_pushed(blessing: types.Artifact) -> bool:
    """Asks TFX's Pusher."""
    return pusher.Executor().CheckBlessing({"model_blessing": [blessing]})


def test_good_model_is_blessed_as_the_evaluator_does_it(gate, tmp_path):
    decision, blessing = gate(wrong=range(5), baseline_wrong=range(10))
    assert decision.blessed
    assert os.listdir(blessing.uri) == ["BLESSED"]
    assert {name: value for name, value in properties(blessing).items() if value} == {
        "blessed": 1,
        "current_model": str(tmp_path / "model"),
        "current_model_id": 7,
        "baseline_model": str(tmp_path / "old"),
        "baseline_model_id": 3,
        "component_id": "PromotionGate",
    }
    assert is_pushed(blessing)
    assert decision.labels == ["0", "1"]
    assert decision.comparison.counts.only_candidate == 5
    slices = {found.name: found.rows for found in decision.slices}
    assert slices == {
        "label=0": 100,
        "label=1": 100,
        "truncated=no": 200,
        "language=en": 120,
        "language=zh": 80,
    }


def properties(blessing: types.Artifact) -> dict[str, object]:
    return {
        name: value.int_value or value.string_value
        for name, value in blessing.mlmd_artifact.custom_properties.items()
    }


def test_bad_model_is_recorded_and_not_blessed(gate, caplog):
    decision, blessing = gate(wrong=range(60), baseline_wrong=range(10))
    assert not decision.blessed
    assert os.listdir(blessing.uri) == ["NOT_BLESSED"]
    assert blessing.get_int_custom_property("blessed") == 0
    assert blessing.has_custom_property("blessed")
    assert blessing.get_int_custom_property("current_model_id") == 7
    assert not is_pushed(blessing)
    assert decision.verdict in caplog.text


def test_model_that_answers_with_nan_is_not_blessed_and_its_row_is_named(gate):
    decision, blessing = gate(wrong=("nan",), baseline_wrong=range(10))
    assert not is_pushed(blessing)
    assert "on 1 of 200 rows" in decision.verdict and "dev.tsv:152;" in decision.verdict


def test_first_model_needs_no_baseline(gate):
    decision, blessing = gate(wrong=range(5))
    assert decision.blessed and decision.baseline is None
    assert is_pushed(blessing)
    assert set(properties(blessing)) == {
        "blessed",
        "current_model",
        "current_model_id",
        "component_id",
    }


@pytest.mark.parametrize("baseline_wrong", [None, range(10)])
def test_no_rows_are_no_reason_to_promote(gate, baseline_wrong):
    decision, blessing = gate(count=0, baseline_wrong=baseline_wrong)
    assert decision.verdict.startswith("Not promoted: the eval split has no rows")
    assert not is_pushed(blessing)


def test_the_model_tells_what_other_seeds_reached(gate):
    decision, _ = gate(wrong=range(10), seed_accuracies=(0.95, 0.93, 0.97))
    assert decision.seeds.mean == pytest.approx(0.95)
    assert decision.warnings == [
        "The accuracies of 3 seeds have mean 0.9500 and standard deviation 0.0200."
    ]


@pytest.mark.parametrize(
    ("baseline_wrong", "given", "message"),
    [
        (None, True, "a baseline is given, but the predictions hold none of its answers"),
        (range(10), False, "no baseline is given, but the predictions hold some of its answers"),
    ],
)
def test_baseline_without_answers_is_no_missing_baseline(gate, baseline_wrong, given, message):
    with pytest.raises(InputError, match=message):
        gate(baseline_wrong=baseline_wrong, give_baseline=given)


def test_component():
    def channel(kind: type[types.Artifact]) -> types.Channel:
        return types.Channel(type=kind)

    model = channel(standard_artifacts.Model)
    gate = PromotionGate(
        predictions=channel(standard_artifacts.Examples),
        model=model,
        task=TASKS["sample"],
        limits=LIMITS,
        slice_features=FEATURES,
    )
    assert gate.outputs["decision"].type is PromotionDecision
    assert gate.outputs["blessing"].type is standard_artifacts.ModelBlessing
    assert "baseline_model" not in gate.inputs
    assert PromotionLimits.from_json(gate.exec_properties["limits"]) == LIMITS
    with_baseline = PromotionGate(
        predictions=channel(standard_artifacts.Examples),
        model=model,
        baseline_model=channel(standard_artifacts.Model),
        task=TASKS["sample"],
        limits=LIMITS,
        slice_features=FEATURES,
    )
    assert "baseline_model" in with_baseline.inputs


def test_student_that_its_teacher_is_too_good_for_is_not_promoted(gate):
    decision, blessing = gate(student_reasons=["Student has 0.2 less accuracy."])
    assert decision.verdict == "Not promoted: Student has 0.2 less accuracy."
    assert decision.candidate.overall["accuracy"].value == 1
    assert blessing.get_int_custom_property("blessed") == 0


def test_student_that_its_gate_accepted_is_judged_like_any(gate):
    decision, _ = gate(student_reasons=[])
    assert decision.blessed
