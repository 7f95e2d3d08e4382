"""What the models' answers to the eval rows look like: curves, calibration, the worst mistakes."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bert_tfx.components.predictor.predictions import (
    BASELINE,
    CANDIDATE,
    Predictions,
    read_examples,
    read_predictions,
)
from bert_tfx.components.promotion_gate.metrics import (
    CALIBRATION_BINS,
    accuracy_estimate,
    calibration_bin,
    invalid_rows,
)
from bert_tfx.schema.tasks import SOURCE_ROW, TEXT_A, TEXT_B

MAX_MISTAKES = 20
# So many classes have a curve of their own.
MAX_CURVES = 8
_CURVE_POINTS = 200
# Of a text; a mistake is recognized by its beginning.
_MAX_CHARS = 2000


def read_answers(split_uri: str, labels: Sequence[str], *, with_text: bool) -> dict[str, Any]:
    """Reads what Predictor wrote.

    Args:
        split_uri: The folder of the eval split.
        labels: The labels, by class index.
        with_text: Whether the mistakes may hold text.

    Returns:
        `rows`, `curves` (a list of `model`, `label`, `roc`, `precision_recall`), `calibration` (by
        model, a list of bins) and `mistakes` (`count`, and the `worst` ones).
    """
    predictions = read_predictions(split_uri, [SOURCE_ROW])
    worst = _worst(predictions, labels) if len(predictions.labels) else []
    if with_text:
        _add_texts(split_uri, worst)
    return {
        "rows": len(predictions.labels),
        "curves": _curves(predictions, labels),
        "calibration": {
            model: _calibration(valid.labels, valid.probabilities)
            for model, valid in _valid(predictions, labels).items()
        },
        "mistakes": {
            "count": int((predictions.candidate.argmax(axis=1) != predictions.labels).sum())
            if len(predictions.labels)
            else 0,
            "worst": [{k: v for k, v in row.items() if k != "position"} for row in worst],
        },
    }


@dataclasses.dataclass(frozen=True)
class _Answered:
    """Rows that a model answers with probabilities: int64 `[N]` and float32 `[N, classes]`."""

    labels: np.ndarray
    probabilities: np.ndarray


def _valid(predictions: Predictions, labels: Sequence[str]) -> dict[str, _Answered]:
    """Returns the rows with valid answers of each model that has any."""
    found = {}
    for model, answers in ((CANDIDATE, predictions.candidate), (BASELINE, predictions.baseline)):
        if answers is None or not len(answers):
            continue
        valid = ~invalid_rows(answers, len(labels))
        if valid.any():
            found[model] = _Answered(predictions.labels[valid], answers[valid])
    return found


def _curves(predictions: Predictions, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Returns the curves: of two labels those of the second, of more those of the most frequent.

    With more than two labels the baseline's are left out, because nobody could read the figure.
    """
    found = []
    for model, answered in _valid(predictions, labels).items():
        counts = np.bincount(answered.labels, minlength=len(labels))
        if len(labels) == 2:
            classes = [1]
        elif model == CANDIDATE:
            classes = np.argsort(-counts, kind="stable")[:MAX_CURVES].tolist()
        else:
            continue
        for index in classes:
            own = answered.labels == index
            if own.any() and not own.all():
                found.append(
                    {"model": model, "label": labels[index]}
                    | _curve(own, answered.probabilities[:, index])
                )
    return found


def _curve(own: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    """Returns the points of both curves of a class, thinned."""
    order = np.argsort(-scores, kind="stable")
    ranked, own = scores[order], own[order]
    # Rows of the same score come in at once.
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    found, wrong = np.cumsum(own)[ends], np.cumsum(~own)[ends]
    recall = found / found[-1]
    precision = found / (found + wrong)
    # Evenly along the curve, not along the rows: most of these may lie at one end.
    length = np.cumsum(np.diff(recall, prepend=0) + np.diff(wrong / wrong[-1], prepend=0))
    keep = np.unique(np.searchsorted(length, np.linspace(0, length[-1], _CURVE_POINTS)))
    keep = np.unique(np.append(keep.clip(max=len(ends) - 1), [0, len(ends) - 1]))
    return {
        "roc": {
            "false_positive_rate": _rounded(np.append(0, (wrong / wrong[-1])[keep])),
            "recall": _rounded(np.append(0, recall[keep])),
        },
        "precision_recall": {
            "recall": _rounded(np.append(0, recall[keep])),
            "precision": _rounded(np.append(precision[keep[0]], precision[keep])),
        },
    }


def _calibration(labels: np.ndarray, probabilities: np.ndarray) -> list[dict[str, Any]]:
    """Returns for each bin with rows how sure the model is and how often it is right."""
    answers, top = probabilities.argmax(axis=1), probabilities.max(axis=1).astype(np.float64)
    bins = calibration_bin(top)
    found: list[dict[str, Any]] = []
    for index in range(CALIBRATION_BINS):
        of_bin = bins == index
        if rows := int(of_bin.sum()):
            right = accuracy_estimate(int((answers[of_bin] == labels[of_bin]).sum()), rows)
            found.append(
                {
                    "rows": rows,
                    "probability": round(float(top[of_bin].mean()), 5),
                    "accuracy": right.value,
                    "low": right.low,
                    "high": right.high,
                }
            )
    return found


def _worst(predictions: Predictions, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Returns the wrong answers that the candidate is surest of."""
    valid = ~invalid_rows(predictions.candidate, len(labels))
    answers = predictions.candidate.argmax(axis=1)
    wrong = np.flatnonzero(valid & (answers != predictions.labels))
    names = predictions.slices[SOURCE_ROW]
    top = predictions.candidate[wrong, answers[wrong]]
    order = sorted(range(len(wrong)), key=lambda i: (-float(top[i]), names[wrong[i]]))
    rows = []
    for i in order[:MAX_MISTAKES]:
        position = int(wrong[i])
        baseline = predictions.baseline
        rows.append(
            {
                "position": position,
                "source_row": str(names[position]),
                "label": labels[predictions.labels[position]],
                "answer": labels[answers[position]],
                "probability": round(float(top[i]), 5),
                "baseline_answer": None
                if baseline is None
                else labels[int(baseline[position].argmax())],
            }
        )
    return rows


def _add_texts(split_uri: str, rows: Sequence[dict[str, Any]]) -> None:
    wanted = {row["position"]: row for row in rows}
    for position, example in enumerate(read_examples(split_uri)):
        if (row := wanted.get(position)) is None:
            continue
        feature: Mapping[str, Any] = example.features.feature
        row["texts"] = [
            feature[name].bytes_list.value[0].decode("utf-8", "replace")[:_MAX_CHARS]
            for name in (TEXT_A, TEXT_B)
            if name in feature and feature[name].bytes_list.value
        ]


def _rounded(values: np.ndarray) -> list[float]:
    return np.round(values.astype(np.float64), 5).tolist()
