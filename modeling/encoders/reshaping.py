"""The same model with other arguments: its weights are copied."""

import types
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from bert_tfx.modeling.encoders.classifier import TextClassifier
from bert_tfx.modeling.encoders.encoder import Encoder
from bert_tfx.schema.errors import InputError

_NO_VALUES: Mapping[str, np.ndarray] = types.MappingProxyType({})


def reshaped(
    classifier: TextClassifier,
    changes: Mapping[str, Any],
    values: Mapping[str, np.ndarray] = _NO_VALUES,
) -> TextClassifier:
    """Makes a classifier whose encoder has other arguments.

    Args:
        classifier: Where it begins; it stays as it is.
        changes: Arguments of the encoder that differ.
        values: Weights that differ, by their path in the new classifier. All others are those of
            the same path in the first, and must be of the same shape.
    """
    other = TextClassifier(
        _remade(classifier.encoder, changes),
        classifier.num_labels,
        classifier.dropout_rate,
        name=classifier.name,
    )
    before = {weight.path: weight for weight in classifier.weights}
    for weight in other.weights:
        value = values.get(weight.path)
        weight.assign(as_array(before[weight.path]) if value is None else value)
    return other


def rebuilt(encoder: Encoder, changes: Mapping[str, Any]) -> Encoder:
    """Makes an encoder with other arguments and the same weights.

    Args:
        encoder: Where it begins; it stays as it is.
        changes: Arguments that differ.

    Raises:
        InputError: If they ask for other layers, or for another shape of one.
    """
    other = _remade(encoder, changes)
    copy_weights(encoder, other)
    return other


def copy_weights(source: keras.Model, target: keras.Model) -> None:
    """Gives a model all the weights of another one.

    Raises:
        InputError: If one of them has layers that the other has not, or a shape differs.
    """
    theirs, ours = ({weight.path: weight for weight in m.weights} for m in (source, target))
    if unlike := theirs.keys() ^ ours.keys():
        raise InputError(
            "the checkpoint and what was asked for have not the same layers: only one of them has "
            + ", ".join(sorted({path.rpartition("/")[0] for path in unlike}))
        )
    for path, weight in ours.items():
        if weight.shape != theirs[path].shape:
            raise InputError(
                f"{path}: shape {list(theirs[path].shape)} in the checkpoint, "
                f"{list(weight.shape)} as asked for"
            )
        weight.assign(as_array(theirs[path]))


def _remade(encoder: Encoder, changes: Mapping[str, Any]) -> Encoder:
    return type(encoder).without_values(**{**encoder.get_config(), **changes})


def as_array(variable: keras.Variable) -> np.ndarray:
    """Returns a variable's value."""
    return np.asarray(ops.convert_to_numpy(variable))
