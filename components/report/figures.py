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
from bert_tfx.components.report.variants import (
    ACCEPTED,
    CONTROL,
    HEAD,
    REFUSED,
    batch_sizes,
    load_of,
)
from bert_tfx.schema.tasks import TRAIN

Figure = dict[str, Any]
_Box = tuple[float, float, float, float]

_COLOURS = {"candidate": "var(--candidate)", "baseline": "var(--baseline)"}
_SERIES = tuple(f"var(--series-{number})" for number in range(1, 9))
_NAME_CHARS = 28
_STATES = {
    HEAD: ("var(--baseline)", "circle"),
    ACCEPTED: ("var(--candidate)", "circle"),
    REFUSED: ("var(--bad)", "circle-open"),
    CONTROL: ("var(--series-4)", "diamond-open"),
}
# Of the smallest figure of models, in pixels: labels that have place there have it in others.
_PLOT_SIZE = (300, 270)
_LABEL_SIZE = (6.2, 15)
_LABEL_CHARS = 17
_LABEL_LINES = 2
_LABEL_ROUNDS = 5
_LABEL_PLACES = {
    "middle right": (1, 0),
    "middle left": (-1, 0),
    "top right": (1, 1),
    "bottom right": (1, -1),
    "top left": (-1, 1),
    "bottom left": (-1, -1),
    "top center": (0, 1),
    "bottom center": (0, -1),
}
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
    if variants := content.get("variants"):
        for rows in batch_sizes(variants["models"]):
            if figure := _variants(variants["models"], rows):
                figures[f"variants_{rows}"] = figure
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


def _variants(models: Sequence[Mapping[str, Any]], rows: int) -> Figure | None:
    """Draws how much faster smaller models are against what they have right, and the Pareto front.

    Returns None where there are not two models to draw.
    """
    drawn = [
        model
        for model in models
        if str(rows) in model["times_as_fast"] and model["accuracy"]["value"] is not None
    ]
    if len(drawn) < 2:
        return None
    points = [(model["times_as_fast"][str(rows)], model["accuracy"]["value"]) for model in drawn]
    front = _front(points)
    x_range = _widened([x for x, _ in points], 0.16)
    bars = [_bar(model["accuracy"]) for model in drawn]
    y_range = _widened([end for bar in bars for end in bar], 0.08)
    most = max(model["bytes"] for model in drawn)
    # The area says how large a model is.
    sizes = [7 + 15 * math.sqrt(model["bytes"] / most) for model in drawn]
    labels = [_model_label(model) for model in drawn]
    places = _label_places(points, bars, sizes, labels, x_range, y_range)
    traces: list[Figure] = [
        _line([x for x, _ in front], [y for _, y in front], "")
        | {
            "name": "Pareto front",
            "line": {"color": "var(--faint)", "width": 1.25, "dash": "dot", "shape": "vh"},
            "hoverinfo": "skip",
        }
    ]
    for state, (colour, symbol) in _STATES.items():
        own = [i for i, model in enumerate(drawn) if model["state"] == state]
        if not own:
            continue
        traces.append(
            {
                "type": "scatter",
                "mode": "markers+text",
                "name": state,
                "x": [points[i][0] for i in own],
                "y": [points[i][1] for i in own],
                "error_y": {
                    "type": "data",
                    "symmetric": False,
                    "array": [bars[i][1] - points[i][1] for i in own],
                    "arrayminus": [points[i][1] - bars[i][0] for i in own],
                    "color": colour,
                    "thickness": 1,
                    "width": 0,
                },
                "marker": {
                    "color": colour,
                    "symbol": symbol,
                    "size": [sizes[i] for i in own],
                    "line": {"width": 2 if symbol.endswith("open") else 0},
                },
                "text": [labels[i] for i in own],
                "textposition": [places[i] for i in own],
                "textfont": {"color": "var(--text)", "size": 11},
                "cliponaxis": False,
                "customdata": [
                    [_plain(drawn[i]["name"]), _milliseconds(drawn[i], rows)] for i in own
                ],
                "hovertemplate": "%{customdata[0]}: accuracy %{y:.4f}<br>%{x:.2f} times as fast, "
                "p50 %{customdata[1]} ms<extra></extra>",
            }
        )
    return {
        "data": traces,
        "layout": _layout(
            x=_axis("times as fast", range=x_range),
            y=_axis("accuracy", range=y_range),
            showlegend=False,
        ),
    }


def _milliseconds(model: Mapping[str, Any], rows: int) -> str:
    load = load_of(model, rows)
    return f"{load['p50']:.1f}" if load else ""


def _model_label(model: Mapping[str, Any]) -> str:
    parts = model["name"].replace(", ", ",\n").split("\n")
    lines = [line for part in parts for line in textwrap.wrap(part, _LABEL_CHARS)]
    if len(lines) > _LABEL_LINES:
        lines = [*lines[: _LABEL_LINES - 1], lines[_LABEL_LINES - 1].rstrip(",") + "…"]
    lines.append(f"{model['bytes'] / 1e6:,.1f} MB")
    return "<br>".join(html.escape(line, quote=False) for line in lines)


def _front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Returns the points that no other is both faster and better than, the slowest first."""
    front: list[tuple[float, float]] = []
    for point in sorted(set(points), reverse=True):
        if not front or point[1] > front[-1][1]:
            front.append(point)
    return front[::-1]


def _bar(accuracy: Mapping[str, float | None]) -> tuple[float, float]:
    value, low, high = (accuracy.get(name) for name in ("value", "low", "high"))
    return (low if low is not None else value or 0.0, high if high is not None else value or 0.0)


def _widened(values: Sequence[float], share: float) -> list[float]:
    lowest, highest = min(values), max(values)
    edge = (highest - lowest) * share or 0.05
    return [lowest - edge, highest + edge]


def _label_places(
    points: Sequence[tuple[float, float]],
    bars: Sequence[tuple[float, float]],
    sizes: Sequence[float],
    labels: Sequence[str],
    x_range: Sequence[float],
    y_range: Sequence[float],
) -> list[str]:
    """Chooses for each label the side of its point where it hides least and is hidden least.

    Each in turn, a few times, given where the others are. Boxes are left, bottom, right and top in
    pixels of `_PLOT_SIZE`.
    """
    width, height = _PLOT_SIZE

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            (x - x_range[0]) / (x_range[1] - x_range[0]) * width,
            (y - y_range[0]) / (y_range[1] - y_range[0]) * height,
        )

    centres = [place(x, y) for x, y in points]
    marks = []
    for (left, middle), (x, _), (low, high), size in zip(centres, points, bars, sizes, strict=True):
        half = size / 2
        marks.append((left - half, middle - half, left + half, middle + half))
        marks.append((left - 1, place(x, low)[1], left + 1, place(x, high)[1]))
    boxes: list[list[_Box]] = []
    costs: list[list[float]] = []
    for (left, middle), size, label in zip(centres, sizes, labels, strict=True):
        lines = html.unescape(label).split("<br>")
        w, h = max(map(len, lines)) * _LABEL_SIZE[0], len(lines) * _LABEL_SIZE[1]
        boxes.append([])
        costs.append([])
        for across, up in _LABEL_PLACES.values():
            # Beside the point, or over it: plotly moves a label by the marker's half.
            near = left + across * (size / 2 + 2) - w * (1 - across) / 2
            under = middle + up * (size / 2 + 2) - h * (1 - up) / 2
            box = (near, under, near + w, under + h)
            cost = sum(_overlap(box, mark) for mark in marks)
            cost += 2 * (w * h - _overlap(box, (0, 0, width, height)))
            # It would be taken for the label of a point that lies nearer to it.
            own = _distance(box, (left, middle))
            if any(_distance(box, centre) < own for centre in centres):
                cost += w * h
            boxes[-1].append(box)
            costs[-1].append(cost)
    chosen = [found.index(min(found)) for found in costs]
    for _ in range(_LABEL_ROUNDS):
        for i, found in enumerate(boxes):
            others = [boxes[j][k] for j, k in enumerate(chosen) if j != i]
            total = [
                cost + 3 * sum(_overlap(box, other) for other in others)
                for box, cost in zip(found, costs[i], strict=True)
            ]
            chosen[i] = total.index(min(total))
    return [tuple(_LABEL_PLACES)[i] for i in chosen]


def _distance(box: _Box, point: tuple[float, float]) -> float:
    across = max(box[0] - point[0], 0.0, point[0] - box[2])
    up = max(box[1] - point[1], 0.0, point[1] - box[3])
    return math.hypot(across, up)


def _overlap(one: _Box, other: _Box) -> float:
    across = min(one[2], other[2]) - max(one[0], other[0])
    up = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, across) * max(0.0, up)


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
