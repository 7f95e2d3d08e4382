"""What Predictor writes: each eval row with the answers of the models, as a `tf.Example`.

Beside the row's own features stand

    candidate_probabilities   float32 [classes]
    baseline_probabilities    float32 [classes], where there is a baseline; and so on for `MODELS`
    candidate_unanswered      bytes, in place of probabilities: why the model could not answer
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
BEFORE = "before"
REFERENCE = "reference"
CONTROL = "control"
MODELS = (CANDIDATE, BASELINE, BEFORE, REFERENCE, CONTROL)
"""What models are asked as: inputs of Predictor, and prefixes of what it adds to the rows."""
LEAKED = "leaked"
"""Whether the row's text stands in train, too: `yes` or `no`."""
MODEL_SLICES = ("length_bucket", "truncated")
"""What the model's own signature says of a row."""
SLICE_FEATURES = (*MODEL_SLICES, LEAKED)


def probabilities_feature(model: str) -> str:
    """Returns the feature that holds a model's answers."""
    return f"{model}_probabilities"


def unanswered_feature(model: str) -> str:
    """Returns the feature that holds why a model could not answer."""
    return f"{model}_unanswered"


@dataclasses.dataclass(frozen=True)
class Predictions:
    """The rows of a split, in one order, and what the models answer.

    Attributes:
        labels: int64 `[N]`, the class indices that are right.
        candidate: float32 `[N, classes]`, probabilities.
        baseline: The same of the baseline, or None where there is none.
        slices: For each feature to slice by, a string for each row; object `[N]`. A row without
            the feature has "".
        others: The same as `candidate` of each of the other `MODELS` that has answered.
        unanswered: Why a model could not answer, of each of `MODELS` that could not.
    """

    labels: np.ndarray
    candidate: np.ndarray
    baseline: np.ndarray | None
    slices: Mapping[str, np.ndarray]
    others: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    unanswered: Mapping[str, str] = dataclasses.field(default_factory=dict)


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
    probabilities: dict[str, list[Sequence[float]]] = {model: [] for model in MODELS}
    unanswered: dict[str, str] = {}
    slices: dict[str, list[str]] = {name: [] for name in slice_features}
    for example in read_examples(split_uri):
        feature = example.features.feature
        labels.append(feature[LABEL].int64_list.value[0])
        for model, answers in probabilities.items():
            if (name := probabilities_feature(model)) in feature:
                answers.append(feature[name].float_list.value)
            elif (name := unanswered_feature(model)) in feature:
                unanswered[model] = feature[name].bytes_list.value[0].decode()
        for name, values in slices.items():
            value = feature[name].bytes_list.value if name in feature else ()
            values.append(value[0].decode() if value else "")
    found = {
        model: np.array(answers, np.float32)
        for model, answers in probabilities.items()
        if answers or model == CANDIDATE
    }
    return Predictions(
        labels=np.array(labels, np.int64),
        candidate=found.pop(CANDIDATE),
        baseline=found.pop(BASELINE, None),
        slices={name: np.array(values, object) for name, values in slices.items()},
        others=found,
        unanswered=unanswered,
    )
