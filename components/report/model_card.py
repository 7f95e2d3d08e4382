"""The model card: what the model is for, what it learned from, what it reaches, where it ends.

After Mitchell et al., Model Cards for Model Reporting, FAT* 2019. It says what the run knows; what
only people know (who uses it, for what) it asks for.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from bert_tfx.components.promotion_gate.metrics import ACCURACY
from bert_tfx.components.report.variants import (
    change_sentence,
    compressions,
    cost_clause,
    is_student,
    settings_text,
)
from bert_tfx.schema.tasks import EVAL, TRAIN

_MARKDOWN = re.compile(r"([\\`*_\[\]#|~])")
# The figures of a card; the report has all.
_METRICS = (
    (ACCURACY, "Accuracy"),
    ("macro_f1", "Macro F1"),
    ("mcc", "Matthews' correlation"),
    ("log_loss", "Log loss"),
    ("expected_calibration_error", "Expected calibration error"),
)
_MAX_SLICES = 12
_MAX_COLUMNS = 8

Section = dict[str, Any]


def card_sections(content: Mapping[str, Any]) -> list[Section]:
    """Returns the card.

    Args:
        content: What `content.read_content` has read, with its warnings.

    Returns:
        For each section its `title`, its `texts` (paragraphs), its `items` (a list) and its
        `table` (rows of strings, the first one the head), the last three perhaps empty.
    """
    return [
        _model(content),
        _intended_use(content),
        _data(content),
        _metrics(content),
        _limits(content),
    ]


def card_markdown(content: Mapping[str, Any]) -> str:
    """Returns the card as Markdown; nothing in it is taken for markup or HTML."""
    name = content["task"]["name"] or "classifier"
    lines = [f"# Model card: {_escaped(name)}", ""]
    for section in content["card"]:
        lines += [f"## {section['title']}", ""]
        for text in section["texts"]:
            lines += [_escaped(text), ""]
        lines += [f"- {_escaped(item)}" for item in section["items"]]
        lines += [""] * bool(section["items"])
        if section["table"]:
            head, *rows = section["table"]
            rule = ["---", *["---:"] * (len(head) - 1)]
            cells = [[_escaped(cell) for cell in row] for row in (head, *rows)]
            table = [cells[0], rule, *cells[1:]]
            lines += [f"| {' | '.join(row)} |" for row in table]
            lines.append("")
    return "\n".join(lines)


def _section(
    title: str,
    texts: Sequence[str] = (),
    items: Sequence[str] = (),
    table: Sequence[Sequence[str]] = (),
) -> Section:
    return {
        "title": title,
        "texts": list(texts),
        "items": list(items),
        "table": [list(row) for row in table],
    }


def _model(content: Mapping[str, Any]) -> Section:
    training = content["training"]
    if training is None:
        return _section("Model", ["No model was trained."])
    about = training["about"]
    warm_start = about.get("warm_start")
    distillation = about.get("distillation") or {}
    layers = distillation.get("student_layers")
    origin = (
        "fine-tuned from the model before it"
        if warm_start and warm_start["why_not"] is None
        else f"a student of {layers} layer{'s' if layers > 1 else ''} of its teacher"
        if layers
        else f"fine-tuned from {about['pretrained']}"
        if about.get("pretrained")
        else f"with new weights of size {about.get('size')}"
    )
    items = [
        f"Architecture: {about.get('model')}, {origin}.",
        *_distilled(content, distillation),
        *_compressed(content.get("variants")),
        f"Reads up to {training['max_length']} tokens; the rest of a text is cut off.",
        "Upper and lower case are "
        + ("the same to it." if training["lowercase"] else "told apart."),
        f"Kept: epoch {training['best_epoch']} of seed {training['best_seed']}, the best one by "
        f"{training['metric']} on the eval rows.",
    ]
    pushed = content["pushed"] or {}
    if pushed.get("pushed"):
        items.append(f"Version: {pushed['version']}, SHA-256 {pushed['sha256']}.")
    versions = ", ".join(f"{name} {version}" for name, version in training["versions"].items())
    return _section("Model", [], [*items, f"Made with {versions}."])


def _distilled(content: Mapping[str, Any], distillation: Mapping[str, Any]) -> list[str]:
    """Says what the model learned from besides its labels, and what that cost."""
    variants = content.get("variants") or {}
    if not distillation:
        return []
    teacher = variants.get("teacher")
    whom = " and ".join(distillation["teachers"])
    if teacher is not None:
        pretrained = teacher.get("pretrained")
        origin = f"from {pretrained}" if pretrained else f"of size {teacher.get('size')}"
        whom = f"a {teacher.get('model')} {origin}, trained in the same run"
    settings = {k: v for k, v in distillation.items() if k not in ("teachers", "student_layers")}
    found = [
        f"Distilled: besides the labels it learned from a teacher, {whom} "
        f"({settings_text(settings)})."
    ]
    found += [
        f"Against its teacher: {cost_clause(gate)}."
        + ("" if gate["accepted"] else " That was not accepted.")
        for gate in variants.get("gates", [])
        if is_student(gate)
    ]
    return found


def _compressed(variants: Mapping[str, Any] | None) -> list[str]:
    """Says what made the trained model smaller, and what that cost."""
    if variants is None:
        return []
    found, refused = [], []
    for gate in compressions(variants):
        if not gate["accepted"]:
            refused.append(gate["step"])
            continue
        found.append(f"Made smaller after training ({gate['step']}): {cost_clause(gate)}.")
    if refused:
        found.append(f"Tried and left out: {'; '.join(refused)}.")
    several = sum(gate["accepted"] or is_student(gate) for gate in variants["gates"]) > 1
    if several and (change := change_sentence(variants)):
        found.append(f"All in all, against “{variants['models'][0]['name']}”: {change}")
    return found


def _intended_use(content: Mapping[str, Any]) -> Section:
    task = content["task"]
    labels = ", ".join(f"“{label}”" for label in task["labels"])
    return _section(
        "Intended use",
        [
            f"Gives {'a pair of texts' if task['is_pair'] else 'a text'} one of "
            f"{len(task['labels'])} labels ({labels}) with probabilities, as the rows of "
            f"“{task['name']}” have them.",
            "It is meant for texts of the kind, language and length of those rows. On others "
            "nothing here says what it is worth. It always answers with one of these labels, also "
            "where none fits.",
            "Who uses its answers, for which decisions, and who checks them, must be added here by "
            "those who put it to use.",
        ],
    )


def _data(content: Mapping[str, Any]) -> Section:
    splits = content["data"]["splits"]
    if not splits:
        return _section("Data", ["No data was taken in."])
    labels = content["task"]["labels"]
    labels = labels if len(labels) <= _MAX_COLUMNS else []
    head = ["Split", "Rows", *(f"label {label}" for label in labels), "Left out"]
    rows = [
        [
            split["split"],
            _count(split["written"]),
            *(_share(split["labels"], label, split["written"]) for label in labels),
            _count(split["rejected"]),
        ]
        for split in splits
    ]
    texts = [
        f"Learned from {TRAIN}, measured on {EVAL}, which also chose the best epoch: the figures "
        "below are a little better than those of rows that it has never met."
    ]
    return _section("Data", texts, [], [head, *rows])


def _metrics(content: Mapping[str, Any]) -> Section:
    decision = content["decision"]
    if not decision or not decision["candidate"]:
        return _section("Metrics", ["Nothing was measured."])
    baseline = decision["baseline"]
    interval = f"{decision['interval']:.0%} interval"
    head = ["Metric", "Value", interval, *(["Baseline"] if baseline else [])]
    rows = []
    for name, shown in _METRICS:
        found = decision["candidate"]["overall"].get(name)
        if found is None:
            continue
        row = [
            shown,
            _figure(found["value"]),
            f"{_figure(found['low'])} to {_figure(found['high'])}",
        ]
        rows.append(row + ([_figure(baseline["overall"][name]["value"])] if baseline else []))
    slices = [
        f"{found['feature']} = {found['value']}: accuracy {_figure(found['candidate']['value'])} "
        f"({_figure(found['candidate']['low'])} to {_figure(found['candidate']['high'])}) on "
        f"{found['rows']:,} rows."
        for found in decision["slices"]
        if found["rows"]
    ]
    if len(slices) > _MAX_SLICES:
        more = len(slices) - _MAX_SLICES
        slices = [*slices[:_MAX_SLICES], f"{more} more slices stand in the report."]
    return _section(
        "Metrics",
        [
            f"On {decision['rows']:,} eval rows; needed was an accuracy of "
            f"{_figure(decision['limits']['min_accuracy'])}. {decision['verdict']}"
        ],
        slices,
        [head, *rows],
    )


def _limits(content: Mapping[str, Any]) -> Section:
    items = [warning["text"] for warning in content["warnings"]]
    decision = content["decision"]
    if decision and decision["candidate"]:
        weakest = [found for found in decision["slices"] if found["candidate"]["value"] is not None]
        if weakest:
            worst = min(weakest, key=lambda found: found["candidate"]["value"])
            items.append(
                f"Weakest slice: {worst['feature']} = {worst['value']}, accuracy "
                f"{_figure(worst['candidate']['value'])} on {worst['rows']:,} rows."
            )
    return _section(
        "Limits",
        [
            "A probability is the model's own; how far it can be trusted is what the reliability "
            "diagram of the report shows.",
            "It learned what its data holds, mistakes and prejudices included. Whether it treats "
            "groups of people alike was measured only as far as the slices say so.",
        ],
        items,
    )


def _escaped(text: str) -> str:
    """Returns text that Markdown shows as it is, on one line."""
    plain = _MARKDOWN.sub(r"\\\1", " ".join(str(text).split()))
    return plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _count(value: int | None) -> str:
    return "unknown" if value is None else f"{value:,}"


def _share(counts: Mapping[str, int] | None, label: str, rows: int) -> str:
    return (
        "no labels" if counts is None else f"{counts[label]:,} ({counts[label] / max(1, rows):.1%})"
    )


def _figure(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"
