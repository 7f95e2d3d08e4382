"""Turns the content of a report into a page: one file that asks nothing of the network."""

import datetime
import json
import os
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import markupsafe

from bert_tfx.components.promotion_gate.metrics import ACCURACY
from bert_tfx.components.report.figures import comparison_figures, report_figures
from bert_tfx.components.report.model_card import card_markdown
from bert_tfx.components.report.variants import (
    batch_sizes,
    change_sentence,
    compressions,
    is_student,
    limits_text,
    load_of,
    settings_text,
    taught_difference,
)
from bert_tfx.schema.tasks import EVAL

TEMPLATES = ("base.html", "macros.html", "page.html", "comparison.html", "page.css", "page.js")
"""The files beside this one that pages are made of."""
INDEX_FILE = "index.html"
CARD_FILE = "model_card.md"
CONTENT_FILE = "report.json"

_METRIC_NAMES = (
    ("accuracy", "Accuracy"),
    ("balanced_accuracy", "Balanced accuracy"),
    ("macro_f1", "Macro F1"),
    ("macro_precision", "Macro precision"),
    ("macro_recall", "Macro recall"),
    ("mcc", "Matthews' correlation"),
    ("macro_roc_auc", "Macro ROC AUC"),
    ("macro_pr_auc", "Macro PR AUC"),
    ("log_loss", "Log loss"),
    ("brier_score", "Brier score"),
    ("expected_calibration_error", "Calibration error (ECE)"),
)
_SECTIONS = (
    ("quality", "Quality"),
    ("slices", "Slices"),
    ("variants", "Smaller models"),
    ("curves", "Curves"),
    ("mistakes", "Worst mistakes"),
    ("training", "Training"),
    ("data", "Data"),
    ("serving", "Serving"),
    ("components", "Components"),
    ("lineage", "Lineage"),
    ("files", "Files"),
    ("card", "Model card"),
)
# A serving gate that has stopped early has not found all of it.
_FINDINGS = (
    *("program", "seconds_to_available", "first_request_ms", "model_bytes", "server_peak_bytes"),
    *("golden", "hostile", "problems", "load"),
)
# A matrix of more labels is too large to read, and to store.
_MATRIX_LABELS = 20
_NONE = "–"
_KB = 1000

Interval = Mapping[str, float | None]


def report_documents(content: Mapping[str, Any], folder: str) -> dict[str, str]:
    """Returns the report's files.

    Args:
        content: What `content.read_content` returned.
        folder: Where they will lie; links to artifacts are relative to it.

    Returns:
        The text of each file by its name.
    """
    return {
        INDEX_FILE: report_page(content, folder),
        CARD_FILE: card_markdown(content),
        CONTENT_FILE: json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False),
    }


def report_page(content: Mapping[str, Any], folder: str) -> str:
    """Returns the report of a run as HTML; the arguments are those of `report_documents`."""
    figures = report_figures(content)
    decision, run, data = content["decision"], content["run"], content["data"]
    measured = bool(decision and decision["candidate"])
    slices = _marked_slices(decision["slices"]) if decision else []
    present = {
        "quality": measured,
        "slices": measured and slices,
        "variants": content.get("variants"),
        "curves": {"roc", "calibration"} & set(figures),
        "mistakes": content["answers"],
        "training": content["training"],
        "data": data["splits"] or data["checks"] or data["rejects"] or data["anomalies"],
        "serving": content["serving"],
        "components": run,
        "files": content["files"],
        "lineage": True,
        "card": True,
    }
    nodes = run["nodes"] if run else []
    labels = content["task"]["labels"]
    view = {
        "contents": [("verdict", "Verdict")] + [s for s in _SECTIONS if present[s[0]]],
        "has_figure": dict.fromkeys(figures, True),
        "measured": measured,
        "headline": _headline(content) if measured else None,
        "decision": decision,
        "confusions": _confusions(decision) if measured else [],
        "serving": content["serving"] and dict.fromkeys(_FINDINGS) | content["serving"],
        "slices": _by_feature(slices),
        "variants": content.get("variants"),
        **_learned_from(content),
        "smaller": _smaller(content.get("variants"), figures),
        "slice_domain": _domain(
            [found["candidate"]["low"] for found in slices]
            + [found["baseline"]["value"] for found in slices if found["baseline"]]
        ),
        "metric_names": _METRIC_NAMES,
        "rejected": sum(split["rejected"] or 0 for split in data["splits"]),
        "cached": sum(node["cached"] for node in nodes),
        # Where all is cached, no bar should look long.
        "slowest": max((1.0, *(node["seconds"] for node in nodes))),
        "fingerprints": [node for node in nodes if node.get("fingerprint")],
        "options": _options(content["config"]),
        "output_dir": content["config"].get("output_dir"),
        "evaluation": next(
            (file["path"] for file in content["files"] if file["name"].startswith("TFMA")), None
        ),
        "curve_note": f"Of label {labels[1]}."
        if len(labels) == 2
        else "Each label against the others.",
    }
    return _render("page.html", {**content, **view}, figures, folder)


def comparison_page(
    first: Mapping[str, Any], second: Mapping[str, Any], folder: str, *, names: Sequence[str]
) -> str:
    """Returns a page that sets two runs side by side.

    Args:
        first: The content of one run.
        second: That of the other.
        folder: Where the page will lie.
        names: What was given for them, for the heads.

    Returns:
        HTML.
    """
    runs = {"A": first, "B": second}
    figures = comparison_figures(runs)
    measured = {
        name: content["decision"]["candidate"]
        for name, content in runs.items()
        if content["decision"] and content["decision"]["candidate"]
    }
    metrics = [
        (title, name, *(measured.get(run, {}).get("overall", {}).get(name) for run in runs))
        for name, title in _METRIC_NAMES
        if any(name in found["overall"] for found in measured.values())
    ]
    accuracies = [
        {"kind": kind, **measured[run]["overall"][ACCURACY]}
        for run, kind in (("A", "candidate"), ("B", "baseline"))
        if run in measured
    ]
    chains = [(name, run["variants"]) for name, run in runs.items() if run.get("variants")]
    view = {
        "contents": [
            ("verdict", "Verdicts"),
            *([("quality", "Quality")] if metrics else []),
            *([("slices", "Slices")] if measured else []),
            *([("variants", "Smaller models")] if chains else []),
            *([("curves", "Curves")] if figures else []),
            ("data", "Data"),
            ("config", "Configuration"),
        ],
        "runs": [
            {"name": name, "given": given, **content}
            for (name, content), given in zip(runs.items(), names, strict=True)
        ],
        "metrics": metrics,
        "chains": chains,
        "accuracies": accuracies,
        "domain": _domain([found["low"] for found in accuracies]),
        "same_rows": _same_rows(first, second),
        "slices": _by_feature(_paired_slices(first, second)),
        "splits": _paired_splits(first, second),
        "token_rows": _paired_tokens(first, second),
        "options": _differing_options(first["config"], second["config"]),
        "versions": _differing(first["machine"]["versions"], second["machine"]["versions"]),
        "has_figure": dict.fromkeys(figures, True),
    }
    return _render("comparison.html", view, figures, folder)


# === What the pages show ===


def _headline(content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the accuracy with all that it is held against, and where to draw it."""
    decision = content["decision"]
    candidate = decision["candidate"]["overall"][ACCURACY]
    baseline = decision["baseline"] and decision["baseline"]["overall"][ACCURACY]
    rows = [found["rows"] for found in decision["candidate"]["classes"]]
    guess = max(rows) / sum(rows) if sum(rows) else None
    marks = [
        {"kind": "guess", "value": guess},
        {"kind": "needed", "value": decision["limits"]["min_accuracy"]},
        {"kind": "baseline", "value": baseline and baseline["value"]},
        {"kind": "candidate", **candidate},
    ]
    return {
        "candidate": candidate,
        "baseline": baseline,
        "guess": guess,
        "marks": marks,
        "domain": _domain([mark.get("low") or mark["value"] for mark in marks]),
    }


def _confusions(decision: Mapping[str, Any]) -> list[tuple[str, str, int, int]]:
    """Returns the most frequent mistakes, where a matrix of all labels would be too large.

    Each is the label, the answer, how often, and the rows of the label.
    """
    labels, confusion = decision["labels"], decision["candidate"]["confusion"]
    if len(labels) <= _MATRIX_LABELS:
        return []
    found = [
        (labels[i], labels[j], rows, sum(of_label))
        for i, of_label in enumerate(confusion)
        for j, rows in enumerate(of_label)
        if rows and i != j
    ]
    return sorted(found, key=lambda mistake: -mistake[2])[:_MATRIX_LABELS]


def _smaller(variants: Mapping[str, Any] | None, figures: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what is shown of smaller models besides what the content has."""
    if variants is None:
        return {"change": None, "compressed": []}
    models = variants["models"]
    sizes = batch_sizes(models)
    drawn = [(rows, f"variants_{rows}") for rows in sizes if f"variants_{rows}" in figures]
    return {
        "batch_sizes": sizes,
        "loads": [[load_of(model, rows) for rows in sizes] for model in models],
        "change": change_sentence(variants),
        "refused": [
            gate for gate in variants["gates"][:1] if is_student(gate) and not gate["accepted"]
        ],
        "compressed": [gate for gate in compressions(variants) if gate["accepted"]],
        # One row and many; what lies between would fill the page.
        "figures": drawn[:1] + drawn[1:][-1:],
        "taught": taught_difference(variants),
    }


def _learned_from(content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what is shown of the models that the run's model learned from."""
    about = content["training"]["about"] if content["training"] else {}
    distillation = about.get("distillation") or {}
    return {
        "teachers": distillation.get("teachers", ()),
        "from_teacher": bool(distillation.get("student_layers")),
        "teacher_checkpoint": (content["run"] or {}).get("teacher_checkpoint"),
    }


def _marked_slices(slices: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            **found,
            "marks": [
                {"kind": "baseline", "value": found["baseline"] and found["baseline"]["value"]},
                {"kind": "candidate", **found["candidate"]},
            ],
        }
        for found in slices
    ]


def _by_feature(slices: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Puts slices of the same feature together, in their order."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for one in slices:
        found.setdefault(one["feature"], []).append(one)
    return found


def _domain(values: Sequence[float | None]) -> tuple[float, float]:
    """Returns what a scale spans: a round tenth below the lowest value, and 1."""
    lowest = min((value for value in values if value is not None), default=0.0)
    return max(0.0, int(lowest * 10 - 0.2) / 10), 1.0


def _options(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns the configuration as names and values; the task stands elsewhere."""
    flat = {name: value for name, value in config.items() if name not in ("task", "recipe")}
    flat |= {f"recipe.{name}": value for name, value in config.get("recipe", {}).items()}
    return [(name, _shown(value)) for name, value in flat.items()]


def _shown(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def _differing_options(
    first: Mapping[str, Any], second: Mapping[str, Any]
) -> list[tuple[str, str, str]]:
    return _differing(dict(_options(first)), dict(_options(second)))


def _differing(first: Mapping[str, str], second: Mapping[str, str]) -> list[tuple[str, str, str]]:
    names = [*first, *(name for name in second if name not in first)]
    return [
        (name, first.get(name, _NONE), second.get(name, _NONE))
        for name in names
        if first.get(name) != second.get(name)
    ]


def _by_split(content: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {split["split"]: split for split in content["data"]["splits"]}


def _same_rows(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether both were measured on the very same records."""
    hashes = [_by_split(content).get(EVAL, {}).get("sha256") for content in (first, second)]
    return hashes[0] is not None and hashes[0] == hashes[1]


def _paired_slices(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[dict[str, Any]]:
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for name, content in (("A", first), ("B", second)):
        for one in (content["decision"] or {}).get("slices", []):
            key = (one["feature"], one["value"])
            found.setdefault(key, {"feature": key[0], "value": key[1], "A": None, "B": None})
            found[key][name] = one
    return list(found.values())


def _paired_splits(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[dict[str, Any]]:
    splits = [_by_split(content) for content in (first, second)]
    return [
        {"split": name, "A": splits[0].get(name), "B": splits[1].get(name)}
        for name in dict.fromkeys([*splits[0], *splits[1]])
    ]


def _paired_tokens(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[dict[str, Any]]:
    tokens = [content["data"]["tokens"] for content in (first, second)]
    return [
        {"split": name, "A": tokens[0].get(name), "B": tokens[1].get(name)}
        for name in dict.fromkeys([*tokens[0], *tokens[1]])
    ]


# === Figures in words ===


def _figure(value: float | None, digits: int = 4) -> str:
    return _NONE if value is None else f"{value:.{digits}f}"


def _signed(value: float | None) -> str:
    # The minus sign is as wide as the plus.
    return _NONE if value is None else f"{value:+.4f}".replace("-", "−")


def _minus(value: float | None, other: float | None) -> str:
    return _NONE if value is None or other is None else _signed(value - other)


def _interval(found: Interval, form: str = "") -> str:
    if found["low"] is None or found["high"] is None:
        return _NONE
    shown = _signed if form == "signed" else _figure
    return f"{shown(found['low'])} to {shown(found['high'])}"


def _count(value: float | None) -> str:
    return _NONE if value is None else f"{value:,.0f}"


def _percent(value: float | None, digits: int = 1) -> str:
    return _NONE if value is None else f"{100 * value:.{digits}f}%"


def _share(value: float | None, total: float | None) -> float:
    return (value or 0) / total if total else 0.0


def _short(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) and abs(value) >= 1 else f"{value:.4g}"


def _bytes(value: float | None) -> str:
    if value is None:
        return _NONE
    return f"{value / _KB**2:,.1f} MB" if value >= _KB**2 / 10 else f"{value / _KB:,.1f} kB"


def _gigabytes(value: float | None) -> str:
    return _NONE if value is None else f"{value / 2**30:,.0f} GiB"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def _moment(text: str) -> str:
    moment = datetime.datetime.fromisoformat(text).astimezone(datetime.timezone.utc)
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _place(value: float, domain: tuple[float, float]) -> float:
    """Returns where a value lies in a domain, in per cent."""
    low, high = domain
    return round(100 * min(1.0, max(0.0, (value - low) / (high - low))), 2)


def _words(name: str) -> str:
    return name.replace("_", " ")


# === Rendering ===


def _render(template: str, view: Mapping[str, Any], figures: Mapping[str, Any], folder: str) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(os.path.dirname(__file__)),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "figure": _figure,
        "signed": _signed,
        "minus": _minus,
        "interval": _interval,
        "count": _count,
        "percent": _percent,
        "share": _share,
        "short": _short,
        "megabytes": _bytes,
        "gigabytes": _gigabytes,
        "duration": _duration,
        "settings": settings_text,
        "limits": limits_text,
        "moment": _moment,
        "place": _place,
        "words": _words,
        "basename": lambda path: os.path.basename(path.rstrip("/")),
        "repr": repr,
        "href": lambda path: _href(path, folder),
    }
    return environment.get_template(template).render(
        **view,
        css=_read("page.css"),
        script=_read("page.js"),
        figures=_json_in_html(figures) if figures else None,
        plotly=_plotly() if figures else None,
    )


def _href(path: str | None, folder: str) -> str | None:
    """Returns a relative link, or None where one of the two does not lie on this machine."""
    if not path or "://" in path or "://" in folder or not os.path.isabs(path):
        return None
    return urllib.parse.quote(os.path.relpath(path, os.path.abspath(folder)))


def _json_in_html(value: Any) -> markupsafe.Markup:
    """Returns JSON that can stand in a script element: nothing in it ends one or begins another."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return markupsafe.Markup(text)


def _plotly() -> markupsafe.Markup:
    # Plotly's Python takes half a second to import; it is here for this one file.
    from plotly.offline import get_plotlyjs

    return markupsafe.Markup(get_plotlyjs())


def _read(name: str) -> markupsafe.Markup:
    """Returns a file beside this one, of our own writing, as it is."""
    with open(os.path.join(os.path.dirname(__file__), name), encoding="utf-8") as file:
        return markupsafe.Markup(file.read())
