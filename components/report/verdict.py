"""What became of a run, why, and what to do: in sentences for whoever has to act."""

from collections.abc import Mapping
from typing import Any

from bert_tfx.components.data_gate import checks
from bert_tfx.components.promotion_gate.metrics import ACCURACY
from bert_tfx.components.report.variants import is_student

PUSHED = "pushed"
REFUSED = "refused"
UNSERVED = "unserved"
STOPPED = "stopped"
UNFINISHED = "unfinished"

# What flatters or spoils a model most comes first.
_ORDER = (
    checks.LEAKAGE,
    checks.CONTRADICTIONS,
    checks.UNKNOWN,
    checks.LABEL_SKEW,
    checks.CLASS_BALANCE,
    checks.TRUNCATED,
    checks.DUPLICATES,
)
_AFTER_LEAKAGE = 1
_REJECTS = len(_ORDER) + 1
_LAST = _REJECTS + 1
# How sentences of the promotion gate begin that inform more than they warn.
_INFORMING = ("The accuracies of",)


def verdict(content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the verdict on a run.

    Args:
        content: What `content.read_content` has read so far.

    Returns:
        `kind` (one of the constants above), `title`, `why` and `what_to_do` (sentences).
    """
    run, decision, serving = content["run"] or {}, content["decision"], content["serving"]
    pushed = content["pushed"] or {}
    again = "Then run the same command again: what is finished is not done again."
    if run.get("error") or run.get("stopped_at"):
        where = f" at {run['stopped_at']}" if run.get("stopped_at") else ""
        return _verdict(
            STOPPED,
            f"Stopped{where}",
            [run.get("error") or f"{run['stopped_at']} failed; why was not recorded."],
            [
                f"Mend what is named here. {again}"
                if run.get("error")
                else f"See why with the same command and --verbose. {again}",
                "Nothing was pushed: what was served before is served still.",
            ],
        )
    if decision and not decision["blessed"]:
        return _verdict(
            REFUSED,
            "Not pushed: the model is not good enough",
            decision["reasons"] or [decision["verdict"]],
            [*_after_refusal(decision, content), "What was served before is served still."],
        )
    if serving and not serving["passed"]:
        return _verdict(
            UNSERVED,
            "Not pushed: the server does not answer as it should",
            [serving["verdict"]],
            [
                "The model itself is good enough. Mend what is named here, or move the limit that "
                f"it passes. {again}",
                "What was served before is served still.",
            ],
        )
    if pushed.get("pushed"):
        serving_dir = _parent(pushed["folder"])
        return _verdict(
            PUSHED,
            f"Pushed as version {pushed['version']}",
            [decision["verdict"] if decision else "The model was blessed and pushed."],
            [
                "Nothing has to be done: a server that watches the folder loads the version by "
                "itself.",
                f"To go back to the version before: bert-tfx rollback --serving {serving_dir}"
                if decision and decision["baseline"]
                else f"To serve it on this machine: bert-tfx serve --model {serving_dir}",
            ],
        )
    if content["pushed"] is not None:
        return _verdict(
            REFUSED,
            "Not pushed",
            ["The model was not blessed."],
            ["What was served before is served still."],
        )
    return _verdict(
        UNFINISHED,
        "Not finished",
        ["The run has not come to its end."],
        ["Run the same command again: it goes on where it was."],
    )


def warnings(content: Mapping[str, Any]) -> list[dict[str, str]]:
    """Returns what does not block and should be known (`source`, `text`), the gravest first."""
    ranked: list[tuple[int, str, str]] = []
    for check in content["data"]["checks"]:
        if not check["passed"]:
            rank = _ORDER.index(check["name"]) if check["name"] in _ORDER else len(_ORDER)
            rank += rank >= _AFTER_LEAKAGE
            ranked.append((rank, check["gate"], _sentence(check["message"])))
    for text in (content["decision"] or {}).get("warnings", []):
        rank = _LAST if text.startswith(_INFORMING) else _AFTER_LEAKAGE
        ranked.append((rank, "PromotionGate", text))
    for gate in content.get("variants", {}).get("gates", []):
        # That of the student stands among the reasons of the PromotionGate.
        if not gate["accepted"] and not is_student(gate):
            text = f"The step {gate['step']} was left out. {' '.join(gate['reasons'])}"
            ranked.append((_LAST, gate["node"], text))
        ranked += [(_LAST, gate["node"], f"{gate['step']}: {text}") for text in gate["warnings"]]
    for split in content["data"]["splits"]:
        if split["rejected"]:
            ranked.append(
                (
                    _REJECTS,
                    "TsvExampleGen",
                    f"{split['rejected']:,} of {split['read']:,} {split['split']} rows did not fit "
                    "and were left out.",
                )
            )
    ranked.sort(key=lambda entry: entry[0])
    return [{"source": source, "text": text} for _, source, text in ranked]


def _verdict(kind: str, title: str, why: list[str], what_to_do: list[str]) -> dict[str, Any]:
    return {"kind": kind, "title": title, "why": why, "what_to_do": what_to_do}


def _after_refusal(decision: Mapping[str, Any], content: Mapping[str, Any]) -> list[str]:
    """Returns what may help a model that was not promoted."""
    limits, candidate = decision["limits"], decision["candidate"]
    of_student = [
        reason
        for gate in content.get("variants", {}).get("gates", [])
        if is_student(gate)
        for reason in gate["reasons"]
    ]
    if of_student and set(decision["reasons"]) <= set(of_student):
        return [
            "The student is not worth its teacher. Train it longer (--epochs), give it more layers "
            "(student_layers) or more of the teacher (alpha, hidden_weight); where such a loss is "
            "acceptable, move the limits in --distill."
        ]
    advice = []
    if decision["rows"] < limits["min_eval_rows"]:
        advice.append(
            f"Give at least {limits['min_eval_rows']:,} rows to evaluate on; a few hundred tell "
            "more."
        )
    accuracy = candidate and candidate["overall"][ACCURACY]["value"]
    if accuracy is not None and accuracy < limits["min_accuracy"]:
        advice.append(
            "Look at the worst mistakes and at the slices for what it gets wrong; then give more "
            "rows, train longer or start from another checkpoint (--pretrained). Where the limit "
            "asks too much of this task, move it: --min-accuracy."
        )
    difference = decision["comparison"] and decision["comparison"]["difference"]["estimate"]
    if difference and not advice and (difference["value"] or 0) >= 0:
        advice.append(
            "Over all rows it is not worse than the baseline: only the slices named here hold it "
            "back. Look at them: a baseline that always gives one answer has all of its label "
            "right. Where their loss is acceptable, move the limit: --max-regression, or "
            "--min-slice-rows."
        )
    elif difference and not advice:
        advice.append(
            "Compare it with the run that is served (bert-tfx report --compare): what differs in "
            "the data or the configuration is the first suspect. Where such a loss is acceptable, "
            "move the limit: --max-regression."
        )
    return advice or ["See to what is named here, and run the same command again."]


def _parent(folder: str) -> str:
    return folder.rstrip("/").rpartition("/")[0]


def _sentence(text: str) -> str:
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?", "!")) else ".")
