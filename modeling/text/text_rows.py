"""Texts to tokenized rows in memory, for training and testing without a pipeline."""

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from bert_tfx.modeling.text.batching import Rows
from bert_tfx.modeling.text.features import NUM_TOKENS, SEGMENT_IDS, TOKEN_IDS, TextTransform

# Rows tokenized at a time.
_BATCH = 1024


def rows_of_texts(
    transform: TextTransform, texts: Mapping[str, Sequence[bytes]], labels: Sequence[int]
) -> Rows:
    """Tokenizes rows into memory.

    Args:
        transform: Makes the features.
        texts: `text_a` and, for pairs, `text_b`: UTF-8, one for each row.
        labels: Class index of each row.

    Returns:
        The rows in their order.
    """
    tokens, segments, lengths = [], [], []
    for start in range(0, len(labels), _BATCH):
        features = transform(
            {name: tf.constant(column[start : start + _BATCH]) for name, column in texts.items()}
        )
        tokens.append(features[TOKEN_IDS].values.numpy().astype(np.int32))
        lengths.append(features[NUM_TOKENS].numpy())
        if SEGMENT_IDS in features:
            segments.append(features[SEGMENT_IDS].values.numpy().astype(np.int32))
    return Rows(
        token_ids=np.concatenate(tokens),
        segment_ids=np.concatenate(segments) if segments else None,
        lengths=np.concatenate(lengths),
        labels=np.asarray(labels, np.int32),
    )
