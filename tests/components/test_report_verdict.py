import pytest

from bert_tfx.components.report.verdict import verdict, warnings

DECISION = {
    "blessed": True,
    "verdict": "Promoted: good.",
    "reasons": [],
    "warnings": [],
    "rows": 100,
    "limits": {"min_accuracy": 0.8, "min_eval_rows": 30},
    "candidate": {"overall": {"accuracy": {"value": 0.9}}},
    "baseline": None,
    "comparison": None,
}
PUSHED = {"pushed": True, "version": "17", "folder": "/out/serving/17", "sha256": "ab"}


def compared(difference: float) -> dict:
    return {"difference": {"estimate": {"value": difference}}}


def content(**options) -> dict:
    return {
        "run": None,
        "decision": DECISION,
        "serving": {"passed": True, "verdict": "It answers."},
        "pushed": PUSHED,
        "data": {"checks": [], "splits": []},
    } | options


def refused(**options) -> dict:
    return DECISION | {"blessed": False, "reasons": ["First.", "Second."]} | options


def test_pushed():
    found = verdict(content())
    assert found["kind"] == "pushed"
    assert found["title"] == "Pushed as version 17"
    assert found["why"] == ["Promoted: good."]
    assert "bert-tfx serve --model /out/serving" in found["what_to_do"][1]


def test_pushed_after_another():
    found = verdict(content(decision=DECISION | {"baseline": DECISION["candidate"]}))
    assert "bert-tfx rollback --serving /out/serving" in found["what_to_do"][1]


@pytest.mark.parametrize(
    ("changed", "advice"),
    [
        ({"candidate": {"overall": {"accuracy": {"value": 0.7}}}}, "--min-accuracy"),
        ({"comparison": compared(-0.1), "rows": 10}, "at least 30 rows"),
        ({"comparison": compared(-0.1)}, "bert-tfx report --compare"),
        ({"comparison": compared(0.1)}, "Over all rows it is not worse than the baseline"),
        ({"candidate": None}, "See to what is named here"),
    ],
)
def test_refused_says_what_may_help(changed, advice):
    found = verdict(content(decision=refused(**changed), pushed={"pushed": False}))
    assert found["kind"] == "refused"
    assert found["why"] == ["First.", "Second."]
    assert advice in " ".join(found["what_to_do"])
    assert found["what_to_do"][-1] == "What was served before is served still."


def test_refused_for_its_student_says_what_may_help_a_student():
    student = gate("StudentGate", accepted=False)
    better = {"comparison": compared(0.1), "reasons": ["Too slow.", "Too large."]}
    found = verdict(content(decision=refused(**better), variants={"gates": [student]}))
    assert "move the limits in --distill" in found["what_to_do"][0]
    both = better | {"reasons": ["Too slow.", "Too large.", "Worse on a slice."]}
    found = verdict(content(decision=refused(**both), variants={"gates": [student]}))
    assert "--distill" not in " ".join(found["what_to_do"])


def test_unserved():
    serving = {"passed": False, "verdict": "Not to be served: slow"}
    found = verdict(content(serving=serving, pushed={"pushed": False}))
    assert (found["kind"], found["why"]) == ("unserved", ["Not to be served: slow"])


def test_a_model_that_is_not_good_enough_is_refused_and_not_unserved():
    serving = {"passed": False, "verdict": "The server was not asked."}
    assert verdict(content(decision=refused(), serving=serving))["kind"] == "refused"


def test_stopped_comes_before_all_else():
    found = verdict(content(run={"error": "no rows", "stopped_at": "ModelPusher"}))
    assert (found["kind"], found["title"]) == ("stopped", "Stopped at ModelPusher")
    assert found["why"] == ["no rows"]
    found = verdict(content(run={"error": None, "stopped_at": "Trainer"}))
    assert found["why"] == ["Trainer failed; why was not recorded."]
    assert "--verbose" in found["what_to_do"][0]


def test_unfinished():
    assert verdict(content(decision=None, serving=None, pushed=None))["kind"] == "unfinished"


def test_not_pushed_without_a_decision():
    found = verdict(content(decision=None, serving=None, pushed={"pushed": False}))
    assert (found["kind"], found["title"]) == ("refused", "Not pushed")


def check(name: str, passed: bool = False) -> dict:
    return {"name": name, "gate": "DataGate", "passed": passed, "message": f"{name} found"}


def test_warnings_come_in_the_order_of_their_weight():
    splits = [
        {"split": "train", "read": 10, "rejected": 2},
        {"split": "eval", "read": 10, "rejected": 0},
    ]
    checks = [check(n) for n in ("duplicates", "label_drift", "contradictions", "leakage")]
    told = ["The accuracies of 3 seeds.", "The interval is wide."]
    found = warnings(
        content(
            data={"checks": [*checks, check("truncated", passed=True)], "splits": splits},
            decision=DECISION | {"warnings": told},
        )
    )
    assert [warning["text"] for warning in found] == [
        "Leakage found.",
        "The interval is wide.",
        "Contradictions found.",
        "Duplicates found.",
        "Label_drift found.",
        "2 of 10 train rows did not fit and were left out.",
        "The accuracies of 3 seeds.",
    ]
    assert found[0]["source"] == "DataGate"


def gate(node: str, accepted: bool, warnings: tuple[str, ...] = ()) -> dict:
    reasons = () if accepted else ("Too slow.", "Too large.")
    return {"node": node, "step": node.lower(), "accepted": accepted} | {
        "reasons": reasons,
        "warnings": warnings,
    }


def test_steps_that_were_left_out_are_warned_of_and_a_refused_student_is_not():
    gates = [
        gate("StudentGate", accepted=False),
        gate("CompressGate1", accepted=True, warnings=("The interval is wide.",)),
        gate("CompressGate2", accepted=False),
    ]
    assert warnings(content(variants={"gates": gates})) == [
        {"source": "CompressGate1", "text": "compressgate1: The interval is wide."},
        {
            "source": "CompressGate2",
            "text": "The step compressgate2 was left out. Too slow. Too large.",
        },
    ]


def test_sentences_of_the_promotion_gate_that_inform_are_known_by_their_beginning():
    """Where its words change, they must change here, too."""
    import numpy as np

    from bert_tfx.components.predictor.predictions import Predictions
    from bert_tfx.components.promotion_gate.decision import decide
    from bert_tfx.components.promotion_gate.limits import PromotionLimits
    from bert_tfx.components.report.verdict import _INFORMING

    labels = np.arange(100) % 2
    answers = np.eye(2, dtype=np.float32)[labels]
    decision = decide(
        Predictions(labels=labels, candidate=answers, baseline=None, slices={}),
        ("0", "1"),
        PromotionLimits(min_accuracy=0.8, max_regression=0.01),
        seed_accuracies=(0.9, 1.0),
        resamples=10,
    )
    for beginning in _INFORMING:
        assert any(text.startswith(beginning) for text in decision.warnings), beginning
