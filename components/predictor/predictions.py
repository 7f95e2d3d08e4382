"""What Predictor writes: each eval row with the answers of the models, as a `tf.Example`.

Beside the row's own features stand

    candidate_probabilities   float32 [classes]
    baseline_probabilities    float32 [classes], where there is a baseline
    length_bucket, truncated, leaked  bytes, what evaluations slice by

TFMA evaluates the file as it is, without a model; the gates read it with `read_predictions`.
"""

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf
from tfx.dsl.io import fileio

from bert_tfx.schema.tasks import LABEL

CANDIDATE = "candidate"
BASELINE = "baseline"
LEAKED = "leaked"
"""Whether the row's text stands in train, too: `yes` or `no`."""
MODEL_SLICES = ("length_bucket", "truncated")
"""What the model's own signature says of a row."""
SLICE_FEATURES = (*MODEL_SLICES, LEAKED)


def probabilities_feature(model: str) -> str:
    """Returns the feature that holds a model's answers."""
    return f"{model}_probabilities"


@dataclasses.dataclass(frozen=True)
class Predictions:
    """The rows of a split, in one order, and what the models answer.

    Attributes:
        labels: int64 `[N]`, the class indices that are right.
        candidate: float32 `[N, classes]`, probabilities.
        baseline: The same of the baseline, or None where there is none.
        slices: For each feature to slice by, a string for each row; object `[N]`. A row without
            the feature has "".
    """

    labels: np.ndarray
    candidate: np.ndarray
    baseline: np.ndarray | None
    slices: Mapping[str, np.ndarray]


def read_examples(split_uri: str) -> Iterator[tf.train.Example]:
    """Yields the rows of a split's folder of gzipped TFRecords, in the order of the files."""
    for name in sorted(fileio.listdir(split_uri)):
        for record in tf.data.TFRecordDataset(os.path.join(split_uri, name), "GZIP"):
            yield tf.train.Example.FromString(record.numpy())


def read_predictions(split_uri: str, slice_features: Sequence[str] = ()) -> Predictions:
    """Reads what Predictor wrote; the texts are left out.

    Args:
        split_uri: The folder of the split.
        slice_features: The features to slice by.

    Returns:
        The rows.
    """
    labels: list[int] = []
    probabilities: dict[str, list[Sequence[float]]] = {CANDIDATE: [], BASELINE: []}
    slices: dict[str, list[str]] = {name: [] for name in slice_features}
    for example in read_examples(split_uri):
        feature = example.features.feature
        labels.append(feature[LABEL].int64_list.value[0])
        for model, answers in probabilities.items():
            if (name := probabilities_feature(model)) in feature:
                answers.append(feature[name].float_list.value)
        for name, values in slices.items():
            value = feature[name].bytes_list.value if name in feature else ()
            values.append(value[0].decode() if value else "")
    return Predictions(
        labels=np.array(labels, np.int64),
        candidate=np.array(probabilities[CANDIDATE], np.float32),
        baseline=np.array(probabilities[BASELINE], np.float32) if probabilities[BASELINE] else None,
        slices={name: np.array(values, object) for name, values in slices.items()},
    )
