"""A loaded model's answers to texts, without a server."""

from collections.abc import Sequence

import numpy as np

from bert_tfx.serving.client import Row
from bert_tfx.serving.protocol.model_api import (
    CLASSES,
    PROBABILITIES,
    SERVE_TEXT,
    TRUNCATED,
    Prediction,
)
from bert_tfx.serving.server.refused import invalid
from bert_tfx.serving.server.saved_model import SavedModel


def predict(model: SavedModel, rows: Sequence[Row], version: int) -> list[Prediction]:
    """Returns what a model answers, as a client of its server would have it.

    Args:
        model: The model.
        rows: Texts, or pairs as tuples; at least one.
        version: The model's version, for the predictions.

    Raises:
        Refused: If the model takes pairs and these are none, or the other way round.
    """
    features = model.signature(SERVE_TEXT).inputs
    columns = [*zip(*((row,) if isinstance(row, str) else row for row in rows), strict=True)]
    if len(columns) != len(features):
        raise invalid(
            f"the model takes {'a pair of texts' if len(features) > 1 else 'one text'} a row"
        )
    outputs = model.run(
        SERVE_TEXT,
        {
            name: np.array([text.encode() for text in column], object)
            for name, column in zip(features, columns, strict=True)
        },
    )
    labels = [label.decode() for label in outputs[CLASSES][0]]
    predictions = []
    for row, truncated in zip(outputs[PROBABILITIES].tolist(), outputs[TRUNCATED], strict=True):
        by_label = dict(zip(labels, row, strict=True))
        label = max(by_label, key=by_label.__getitem__)
        predictions.append(Prediction(label, by_label[label], by_label, version, bool(truncated)))
    return predictions
