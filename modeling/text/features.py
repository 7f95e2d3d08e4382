"""From texts to a model's features, in the graph that training and serving share.

Everything about text happens here and in the tokenizer, and nowhere else.
"""

from collections.abc import Mapping

import tensorflow as tf

from bert_tfx.modeling.text.tokenization import WordPieceTokenizer
from bert_tfx.schema.tasks import NUM_TOKENS, NUM_TRUNCATED, NUM_UNKNOWN, TEXT_A, TEXT_B

TOKEN_IDS = "token_ids"
SEGMENT_IDS = "segment_ids"


def text_features(
    texts: Mapping[str, tf.Tensor], tokenizer: WordPieceTokenizer, *, max_length: int
) -> dict[str, tf.Tensor | tf.RaggedTensor]:
    """Tokenizes and packs texts.

    Args:
        texts: `text_a` and, for pairs, `text_b`: string `[B]`.
        tokenizer: Makes the ids.
        max_length: Tokens a row at most, special ones included.

    Returns:
        `token_ids` and, for pairs, `segment_ids`: ragged int64 `[B, (T)]`, never padded here;
        `num_tokens`, `num_unknown` ([UNK] among the tokens), `num_truncated` (tokens that did not
        fit): int64 `[B]`.
    """
    a = tokenizer.tokenize(texts[TEXT_A])
    b = tokenizer.tokenize(texts[TEXT_B]) if TEXT_B in texts else None
    packed = tokenizer.combine(a, b, max_length=max_length)

    token_ids = packed["token_ids"]
    full_length = a.row_lengths() + 2 if b is None else a.row_lengths() + b.row_lengths() + 3
    unknown = tf.cast(token_ids == tokenizer.unk_id, tf.int64)
    features = {
        TOKEN_IDS: tf.cast(token_ids, tf.int64),
        NUM_TOKENS: token_ids.row_lengths(),
        NUM_UNKNOWN: tf.reduce_sum(unknown, axis=1),
        NUM_TRUNCATED: full_length - token_ids.row_lengths(),
    }
    if b is not None:
        features[SEGMENT_IDS] = tf.cast(packed["segment_ids"], tf.int64)
    return features


class TextTransform(tf.Module):
    """`text_features` as an object that a SavedModel can carry.

    Args:
        tokenizer: Makes the ids.
        max_length: Tokens a row at most, special ones included.
    """

    def __init__(self, tokenizer: WordPieceTokenizer, *, max_length: int) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self._max_length = max_length

    def __call__(self, texts: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor | tf.RaggedTensor]:
        """Returns the features of texts; see `text_features`."""
        return text_features(texts, self.tokenizer, max_length=self._max_length)
