"""The smaller models of a run: what each step of making one smaller cost and brought.

A step is the student, or one of the compressions after it. Its gate has measured the model before
and the variant in turns, on one machine; steps were measured at different times. Across steps only
ratios to the head of the chain are therefore told: the teacher, or the model that was trained.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from bert_tfx.components.report import artifacts

HEAD = "head"
CONTROL = "control"
ACCEPTED = "accepted"
REFUSED = "refused"

_MAX_SLICES = 8
# Settings of a compression that say nothing unless one of these was asked for.
_HOW = {
    "importance_rows": ("heads", "ffn"),
    "min_count": ("prune_vocab",),
    "characters": ("prune_vocab",),
    "recovery_learning_rate": ("recovery_steps",),
    "recovery_seed": ("recovery_steps",),
}

Section = dict[str, Any]


def variants_section(
    findings: Mapping[str, Mapping[str, Any]], teacher: Mapping[str, Any] | None
) -> Section | None:
    """Returns what a report tells of the smaller models, or None where none was made.

    Args:
        findings: What each gate has found, by its input's key in `artifacts.VARIANT_GATES`, in the
            order of the steps.
        teacher: How the teacher was trained, or None where there is none.

    Returns:
        `gates` (the findings with the `node` they are from), `models` (the chain, the head first),
        `kept` (the index there of the run's model), `slices` (those that lost most) and `teacher`.
    """
    if not findings:
        return None
    gates = [{"node": artifacts.VARIANT_GATES[key], **found} for key, found in findings.items()]
    models, kept = _chain(gates)
    return {
        "gates": gates,
        "models": models,
        "kept": kept,
        "slices": _most_lost(gates),
        "teacher": teacher,
    }


def is_student(gate: Mapping[str, Any]) -> bool:
    """Whether findings are those on the student, which goes on in any case.

    Where it is refused, the run's model is not promoted.
    """
    return gate["node"] == artifacts.VARIANT_GATES[artifacts.STUDENT_FINDINGS]


def batch_sizes(models: Sequence[Mapping[str, Any]]) -> list[int]:
    """Returns the rows a request that the models of a chain were timed with, ascending."""
    return sorted({load["rows"] for model in models for load in model["load"]})


def load_of(model: Mapping[str, Any], rows: int) -> Mapping[str, Any] | None:
    """Returns how a model answers requests of so many rows, or None where it was not asked."""
    return next((load for load in model["load"] if load["rows"] == rows), None)


def change_sentence(section: Mapping[str, Any]) -> str | None:
    """Says what the chain came to in one sentence, or None where nothing was accepted."""
    head, kept = section["models"][0], section["models"][section["kept"]]
    if kept is head:
        return None
    parts = [f"{kept['bytes'] / 1e6:,.1f} MB instead of {head['bytes'] / 1e6:,.1f}"]
    parts += _times(kept["times_as_fast"])
    values = kept["accuracy"]["value"], head["accuracy"]["value"]
    if None not in values:
        parts.append(f"accuracy {values[0]:.4f} instead of {values[1]:.4f}")
    return ", ".join(parts) + "."


def cost_clause(gate: Mapping[str, Any]) -> str:
    """Says what a step cost and brought, against the model before."""
    before, variant = gate["models"]["before"], gate["models"]["variant"]
    parts = []
    if comparison := gate["comparison"]:
        found = comparison["difference"]
        value, low, high = (_figure(found["estimate"][n], "+") for n in ("value", "low", "high"))
        parts.append(
            f"accuracy {_figure(found['candidate'])} instead of {_figure(found['baseline'])} "
            f"({value}, 95% interval {low} to {high})"
        )
    parts.append(f"{variant['bytes'] / 1e6:,.1f} MB instead of {before['bytes'] / 1e6:,.1f}")
    parts += _times(gate["speedup"])
    return ", ".join(parts)


def _times(times_as_fast: Mapping[str, float]) -> list[str]:
    return [
        f"{times:.2f} with {rows}"
        if number
        else f"{times:.2f} times as fast with {rows} row{'' if rows == '1' else 's'} a request"
        for number, (rows, times) in enumerate(times_as_fast.items())
    ]


def _figure(value: float | None, sign: str = "") -> str:
    return "undefined" if value is None else f"{value:{sign}.4f}"


def compressions(section: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Returns the findings on all steps but the student's."""
    return [gate for gate in section["gates"] if not is_student(gate)]


def taught_difference(section: Mapping[str, Any]) -> float | None:
    """Returns how much better a student is than the same without a teacher; None if not known."""
    control = next((model for model in section["models"] if model["state"] == CONTROL), None)
    for model in section["models"]:
        if control and model is not control and model["step"] == control["step"]:
            values = model["accuracy"]["value"], control["accuracy"]["value"]
            return None if None in values else values[0] - values[1]
    return None


def limits_text(limits: Mapping[str, float | None]) -> str:
    """Returns in words what a step may cost and must bring; empty where nothing was asked."""
    words = (
        ("max_accuracy_drop", "{:g} less accuracy at most"),
        ("min_speedup", "{:g} times as fast at least"),
        ("max_size", "{:g} MB at most"),
    )
    return ", ".join(
        text.format(limits[name]) for name, text in words if limits.get(name) is not None
    )


def settings_text(settings: Mapping[str, Any]) -> str:
    """Returns what was asked of a step in one line, without what is none, off or 0."""
    asked = {
        name.replace("_", " "): f"{value:g}" if isinstance(value, float) else value
        for name, value in settings.items()
        if value and (name not in _HOW or any(settings.get(what) for what in _HOW[name]))
    }
    return ", ".join(name if value is True else f"{name} {value}" for name, value in asked.items())


def _chain(gates: Sequence[Mapping[str, Any]]) -> tuple[list[Section], int]:
    """Returns the models in the order of the steps, and the index of the one that went on last."""
    rows: list[Section] = []
    kept = 0
    for gate in gates:
        models = gate["models"]
        head = models.get("reference") or models["before"]
        if not rows or rows[0]["accuracy"]["value"] is None:
            # Where a variant could not be asked, nothing was.
            rows[:1] = [_row(head, HEAD, head)]
        if "control" in models:
            rows.append(_row(models["control"], CONTROL, head, gate))
        if gate["accepted"] or is_student(gate):
            kept = len(rows)
        rows.append(_row(models["variant"], ACCEPTED if gate["accepted"] else REFUSED, head, gate))
    return rows, kept


def _row(
    model: Mapping[str, Any],
    state: str,
    head: Mapping[str, Any],
    gate: Mapping[str, Any] | None = None,
) -> Section:
    """Returns a model of the chain; what a gate that has stopped early did not find is None."""
    load = model.get("load", [])
    in_turns = {found["rows"]: found["p50"] for found in head.get("load", [])}
    comparison = gate["comparison"] if gate and state != CONTROL else None
    return {
        "name": model["name"],
        "state": state,
        "step": gate["step"] if gate else None,
        "node": gate["node"] if gate else None,
        "accuracy": model.get("accuracy", {"value": None, "low": None, "high": None}),
        "difference": comparison and comparison["difference"]["estimate"],
        "only_this": comparison and comparison["counts"]["only_candidate"],
        "only_before": comparison and comparison["counts"]["only_baseline"],
        "bytes": model["bytes"],
        "parameters": model["parameters"],
        "load": load,
        "times_as_fast": {
            str(found["rows"]): in_turns[found["rows"]] / found["p50"]
            for found in load
            if found["rows"] in in_turns
        },
    }


def _most_lost(gates: Sequence[Mapping[str, Any]]) -> list[Section]:
    """Returns the slices that lost most in a step, the greatest loss first."""
    found = [
        {"step": gate["step"], "state": ACCEPTED if gate["accepted"] else REFUSED, **one}
        for gate in gates
        for one in gate["slices"]
        if one["difference"] and (one["difference"]["estimate"]["value"] or 0) < 0
    ]
    found.sort(key=lambda one: one["difference"]["estimate"]["value"])
    return found[:_MAX_SLICES]
