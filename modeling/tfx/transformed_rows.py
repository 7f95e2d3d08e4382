"""Transformed examples to rows in memory, for a training within the pipeline."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_transform as tft

from bert_tfx.modeling.text.batching import Rows
from bert_tfx.modeling.text.features import SEGMENT_IDS, TOKEN_IDS
from bert_tfx.modeling.tfx.preprocessing import VOCAB_ASSET
from bert_tfx.schema.tasks import LABEL

TEACHER_LOGITS = "teacher_logits"
"""The feature with what a teacher answers, float32 `[C]`, where `TeacherAnswers` has added it."""
COMPRESSION = "GZIP"

_PARSE_BATCH = 1024


def vocabulary_file(transform_output: tft.TFTransformOutput) -> str:
    """Returns the path of the vocabulary that transformed examples were made with."""
    path: str | None = transform_output.vocabulary_file_by_name(VOCAB_ASSET)
    if path is None:
        raise RuntimeError("the transform graph has no vocabulary")
    return path


def read_rows(file_patterns: Sequence[str], transform_output: tft.TFTransformOutput) -> Rows:
    """Reads transformed examples into memory.

    Args:
        file_patterns: Globs of gzipped TFRecord files.
        transform_output: Says how to parse them.

    Returns:
        The rows, in the order of the sorted file names.
    """
    return _rows(_parsed(_files(file_patterns), transform_output.transformed_feature_spec()))


def rows_of(records: tf.Tensor, transform_output: tft.TFTransformOutput) -> Rows:
    """Returns transformed examples as rows.

    Args:
        records: The serialized examples, string `[rows]`.
        transform_output: Says how to parse them.
    """
    return _rows([tf.io.parse_example(records, transform_output.transformed_feature_spec())])


def _rows(batches: Iterable[Mapping[str, Any]]) -> Rows:
    tokens, segments, lengths, labels = [], [], [], []
    for parsed in batches:
        ragged = parsed[TOKEN_IDS]
        tokens.append(ragged.values.numpy().astype(np.int32))
        lengths.append(ragged.row_lengths().numpy())
        labels.append(parsed[LABEL].numpy().astype(np.int32))
        if SEGMENT_IDS in parsed:
            segments.append(parsed[SEGMENT_IDS].values.numpy().astype(np.int32))
    return Rows(
        token_ids=np.concatenate(tokens),
        segment_ids=np.concatenate(segments) if segments else None,
        lengths=np.concatenate(lengths),
        labels=np.concatenate(labels),
    )


def read_teacher_logits(file_patterns: Sequence[str], num_labels: int) -> np.ndarray | None:
    """Reads what a teacher answers to transformed examples.

    Args:
        file_patterns: Globs of gzipped TFRecord files.
        num_labels: Its labels, C.

    Returns:
        float32 `[rows, C]`, in the order of `read_rows`; None where the examples have no answers.
    """
    files = _files(file_patterns)
    (first,) = tf.data.TFRecordDataset(files, COMPRESSION).take(1).as_numpy_iterator()
    if TEACHER_LOGITS not in tf.train.Example.FromString(first).features.feature:
        return None
    spec = {TEACHER_LOGITS: tf.io.FixedLenFeature([num_labels], tf.float32)}
    return np.concatenate([parsed[TEACHER_LOGITS].numpy() for parsed in _parsed(files, spec)])


def _files(patterns: Sequence[str]) -> list[str]:
    return sorted(path for pattern in patterns for path in tf.io.gfile.glob(pattern))


def _parsed(files: Sequence[str], spec: Any) -> Iterator[dict[str, Any]]:
    yield from (
        tf.data.TFRecordDataset(files, COMPRESSION)
        .batch(_PARSE_BATCH)
        .map(lambda records: tf.io.parse_example(records, spec), num_parallel_calls=2)
        .prefetch(2)
    )
