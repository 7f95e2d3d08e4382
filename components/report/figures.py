"""The figures of a report, as plotly's JSON.

Colours are names of the page's CSS variables (`var(--candidate)`); the page puts in what they stand
for, light, dark or on paper.
"""

import html
import itertools
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from bert_tfx.components.predictor.predictions import CANDIDATE
from bert_tfx.schema.tasks import TRAIN

Figure = dict[str, Any]

_COLOURS = {"candidate": "var(--candidate)", "baseline": "var(--baseline)"}
_SERIES = tuple(f"var(--series-{number})" for number in range(1, 9))
_NAME_CHARS = 28
_FAINT = {"color": "var(--faint)", "width": 1, "dash": "dot"}


def report_figures(content: Mapping[str, Any]) -> dict[str, Figure]:
    """Returns the figures of a run's report by name; those that there is nothing to draw of miss.

    Args:
        content: What `content.read_content` returned.
    """
    figures: dict[str, Figure] = {}
    answers, training = content["answers"], content["training"]
    if answers and answers["curves"]:
        figures["roc"] = _roc(answers["curves"])
        figures["precision_recall"] = _precision_recall(answers["curves"])
    if answers and answers["calibration"]:
        figures["calibration"] = _calibration(answers["calibration"])
    if training and training["steps"]["steps"]:
        figures["loss"] = _loss({"": training})
        figures["learning_rate"] = _learning_rate(training["steps"])
        figures["epochs"] = _epochs(training)
    if content["data"]["lengths"]:
        longest = training and training["max_length"]
        figures["lengths"] = _lengths(content["data"]["lengths"], longest)
    return figures


def comparison_figures(contents: Mapping[str, Mapping[str, Any]]) -> dict[str, Figure]:
    """Returns the figures that compare two runs, by name.

    Args:
        contents: The two contents, by what the page calls them.
    """
    figures: dict[str, Figure] = {}
    trained = {
        name: content["training"]
        for name, content in contents.items()
        if content["training"] and content["training"]["steps"]["steps"]
    }
    if trained:
        figures["loss"] = _loss(trained)
    curves = [
        curve | {"run": name}
        for name, content in contents.items()
        for curve in (content["answers"] or {}).get("curves", [])
        if curve["model"] == CANDIDATE
    ]
    if curves and len({curve["label"] for curve in curves}) == 1:
        figures["roc"] = _roc(curves)
    bins = {
        name: content["answers"]["calibration"][CANDIDATE]
        for name, content in contents.items()
        if content["answers"] and CANDIDATE in content["answers"]["calibration"]
    }
    if bins:
        figures["calibration"] = _calibration(bins)
    return figures


def _roc(curves: Sequence[Mapping[str, Any]]) -> Figure:
    traces = [_diagonal()]
    for curve, style in _styled(curves):
        points = curve["roc"]
        traces.append(
            style
            | _line(
                points["false_positive_rate"],
                points["recall"],
                "%{fullData.name}: %{y:.3f} of its rows found,<br>%{x:.3f} of the others taken for "
                "it<extra></extra>",
            )
        )
    return {
        "data": traces,
        "layout": _layout(
            x=_axis("false positive rate", range=[-0.01, 1.01]),
            y=_axis("recall", range=[-0.01, 1.02]),
            showlegend=len(curves) > 1,
        ),
    }


def _precision_recall(curves: Sequence[Mapping[str, Any]]) -> Figure:
    traces = []
    for curve, style in _styled(curves):
        points = curve["precision_recall"]
        traces.append(
            style
            | _line(
                points["recall"],
                points["precision"],
                "%{fullData.name}: precision %{y:.3f}<br>at recall %{x:.3f}<extra></extra>",
            )
        )
    lowest = min((min(trace["y"]) for trace in traces), default=0)
    return {
        "data": traces,
        "layout": _layout(
            x=_axis("recall", range=[-0.01, 1.01]),
            y=_axis("precision", range=[max(0, lowest - 0.05), 1.02]),
            showlegend=len(curves) > 1,
        ),
    }


def _calibration(bins_by_name: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    traces = [_diagonal()]
    colours = itertools.cycle(_SERIES)
    # The answer is the highest of C probabilities, so 1 / C at least.
    lowest = min(bins[0]["probability"] for bins in bins_by_name.values())
    for name, bins in bins_by_name.items():
        colour = _COLOURS.get(name) or next(colours)
        right = [found["accuracy"] for found in bins]
        most = max(found["rows"] for found in bins)
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": _plain(name),
                "x": [found["probability"] for found in bins],
                "y": right,
                "error_y": {
                    "type": "data",
                    "symmetric": False,
                    "array": [found["high"] - found["accuracy"] for found in bins],
                    "arrayminus": [found["accuracy"] - found["low"] for found in bins],
                    "color": colour,
                    "thickness": 1,
                    "width": 0,
                },
                "customdata": [found["rows"] for found in bins],
                "line": {"color": colour, "width": 1.5},
                # The area says how many rows stand behind a point.
                "marker": {
                    "color": colour,
                    "size": [4 + 10 * math.sqrt(found["rows"] / most) for found in bins],
                    "line": {"width": 0},
                },
                "hovertemplate": "%{fullData.name}: answers with %{x:.3f} on average<br>are right "
                "in %{y:.3f} of %{customdata:,} rows<extra></extra>",
            }
        )
    return {
        "data": traces,
        "layout": _layout(
            x=_axis("probability of the answer", range=[lowest - 0.04, 1.02]),
            y=_axis("share that is right", range=[-0.02, 1.04]),
            showlegend=len(bins_by_name) > 1,
        ),
    }


def _loss(trainings: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draws the training loss and, where there is one run, the eval loss after each epoch."""
    traces = []
    for (name, training), colour in zip(trainings.items(), _SERIES, strict=False):
        steps, epochs = training["steps"], training["epochs"]
        prefix = f"{_plain(name)}, " if name else ""
        traces.append(
            {"name": f"{prefix}train", "line": {"color": colour, "width": 1.25}}
            | _line(
                steps["step"],
                steps["loss"],
                "%{fullData.name}: %{y:.4f}<br>to step %{x:,}<extra></extra>",
            )
        )
        by_epoch = [steps["steps"] * (i + 1) / len(epochs) for i in range(len(epochs))]
        other = colour if name else "var(--baseline)"
        traces.append(
            {"name": f"{prefix}eval", "line": {"color": other, "width": 1.5, "dash": "dot"}}
            | _line(
                by_epoch,
                [epoch["eval_loss"] for epoch in epochs],
                "%{fullData.name}: %{y:.4f}<br>at step %{x:,.0f}<extra></extra>",
            )
            | {"mode": "lines+markers", "marker": {"color": other, "size": 6}}
        )
    return {
        "data": traces,
        "layout": _layout(x=_axis("step"), y=_axis("loss (nats)", rangemode="tozero")),
    }


def _learning_rate(steps: Mapping[str, Any]) -> Figure:
    return {
        "data": [
            {"name": "learning rate", "line": {"color": _SERIES[0], "width": 1.5}}
            | _line(
                steps["step"], steps["learning_rate"], "%{y:.3g}<br>at step %{x:,}<extra></extra>"
            )
        ],
        "layout": _layout(
            x=_axis("step"),
            y=_axis("learning rate", rangemode="tozero", exponentformat="power"),
            showlegend=False,
        ),
    }


def _epochs(training: Mapping[str, Any]) -> Figure:
    numbers = [i + 1 for i in range(len(training["epochs"]))]
    traces = [
        {"name": name, "line": {"color": colour, "width": 1.5}}
        | _line(
            numbers,
            [epoch[key] for epoch in training["epochs"]],
            "%{fullData.name}: %{y:.4f}<br>after epoch %{x}<extra></extra>",
        )
        | {"mode": "lines+markers", "marker": {"color": colour, "size": 6}}
        for name, key, colour in (
            ("train", "accuracy", _SERIES[0]),
            ("eval", "eval_accuracy", "var(--baseline)"),
        )
    ]
    return {
        "data": traces,
        "layout": _layout(x=_axis("epoch", dtick=max(1, len(numbers) // 10)), y=_axis("accuracy")),
    }


def _lengths(lengths: Sequence[Mapping[str, Any]], longest: int | None) -> Figure:
    traces = []
    for found, colour in zip(lengths, _SERIES, strict=False):
        values = found["quantiles"]
        shares = [i / (len(values) - 1) for i in range(len(values))]
        dash = "solid" if found["split"] == TRAIN else "dash"
        traces.append(
            {
                "name": found["split"],
                "line": {"color": colour, "width": 1.75, "dash": dash, "shape": "linear"},
            }
            | _line(
                values,
                shares,
                "%{fullData.name}: %{y:.0%} of the rows<br>have up to %{x:.0f} tokens"
                "<extra></extra>",
            )
        )
    layout = _layout(
        x=_axis("tokens a row, special ones included", rangemode="tozero"),
        y=_axis("share of the rows", range=[0, 1.02], tickformat=".0%"),
    )
    if longest:
        layout["shapes"] = [
            {"type": "line", "x0": longest, "x1": longest, "y0": 0, "y1": 1, "line": _FAINT}
        ]
        layout["annotations"] = [
            {
                "x": longest,
                "y": 0.04,
                "xanchor": "right",
                "text": f"the model reads {longest} ",
                "showarrow": False,
                "font": {"color": "var(--muted)", "size": 12},
            }
        ]
    return {"data": traces, "layout": layout}


def _styled(curves: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], Figure]]:
    """Gives each curve a name and a line: by model where each has one, else by label."""
    names = [curve.get("run", curve["model"]) for curve in curves]
    if len(set(names)) < len(names):
        names = [curve["label"] for curve in curves]
    styled = []
    for curve, name, colour in zip(curves, names, itertools.cycle(_SERIES), strict=False):
        line = {"color": _COLOURS.get(name, colour), "width": 1.75}
        styled.append((curve, {"name": _plain(name), "line": line}))
    return styled


def _plain(name: str) -> str:
    """Returns a short name in which plotly finds no markup (it knows links, for one)."""
    return html.escape(textwrap.shorten(name, _NAME_CHARS, placeholder="…"), quote=False)


def _line(x: Sequence[Any], y: Sequence[Any], hover: str) -> Figure:
    return {"type": "scatter", "mode": "lines", "x": x, "y": y, "hovertemplate": hover}


def _diagonal() -> Figure:
    return _line([0, 1], [0, 1], "") | {
        "line": _FAINT,
        "hoverinfo": "skip",
        "showlegend": False,
    }


def _axis(title: str, **options: Any) -> Figure:
    return {
        "title": {"text": title, "standoff": 8},
        "gridcolor": "var(--line)",
        "linecolor": "var(--line)",
        "zeroline": False,
        "automargin": True,
        "fixedrange": True,
        **options,
    }


def _layout(*, x: Figure, y: Figure, **options: Any) -> Figure:
    return {
        "xaxis": x,
        "yaxis": y,
        "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": "var(--muted)", "size": 12},
        "hoverlabel": {
            "bgcolor": "var(--raised)",
            "bordercolor": "var(--line)",
            "font": {"color": "var(--text)", "size": 12},
        },
        "hovermode": "closest",
        "legend": {
            "orientation": "h",
            "x": 0,
            "y": 1.02,
            "yanchor": "bottom",
        },
        **options,
    }
