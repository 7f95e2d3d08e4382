"""A classifier of another shape that takes its weights from a first one."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from bert_tfx.modeling.classifier import TextClassifier


def reshaped(
    classifier: TextClassifier, changes: Mapping[str, Any], values: Mapping[str, np.ndarray]
) -> TextClassifier:
    """Makes a classifier whose encoder has other arguments.

    Args:
        classifier: Where it begins.
        changes: Arguments of the encoder that differ.
        values: Weights that differ, by their path in the new classifier. All others are those of
            the same path in the first, and must be of the same shape.

    Returns:
        A new classifier; the first one stays as it is.
    """
    encoder = classifier.encoder
    # Its weights need no values before they are taken; a further training's new head does.
    arguments = {**encoder.get_config(), **changes, "initializer_range": 0.0}
    smaller = type(encoder)(**arguments)
    smaller.initializer_range = encoder.initializer_range
    result = TextClassifier(
        smaller,
        classifier.num_labels,
        classifier.dropout_rate,
        name=classifier.name,
        dtype=classifier.dtype_policy,
    )
    before = {weight.path: weight for weight in classifier.weights}
    for weight in result.weights:
        value = values.get(weight.path)
        weight.assign(as_array(before[weight.path]) if value is None else value)
    return result


def as_array(variable: keras.Variable) -> np.ndarray:
    """Returns a variable's value."""
    return np.asarray(ops.convert_to_numpy(variable))
