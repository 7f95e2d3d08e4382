"""Transform adapter: raw text to token ids, in the graph that training and serving share.

TFX reloads this module by its dotted name, so it holds functions only.
"""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf
import tensorflow_transform as tft

from bert_tfx.modeling.text import tokenization
from bert_tfx.modeling.text.features import text_features
from bert_tfx.schema.tasks import LABEL, TEXT_A, TEXT_B

VOCAB_ASSET = "vocab"


def tokenizer_of(custom_config: Mapping[str, Any]) -> tokenization.WordPieceTokenizer:
    """Makes the tokenizer that a configuration names (`vocab_file`, `lowercase`)."""
    return tokenization.WordPieceTokenizer(
        custom_config["vocab_file"], lowercase=custom_config["lowercase"]
    )


def preprocessing_fn(
    inputs: Mapping[str, tf.Tensor], custom_config: Mapping[str, Any]
) -> dict[str, Any]:
    """Tokenizes and packs texts (TFX's `preprocessing_fn`).

    Args:
        inputs: `text_a` and, for pairs, `text_b`: string `[B]`; `label`: int64 `[B]`.
        custom_config: `vocab_file` (path), `lowercase` (bool), `max_length` (tokens a row at most,
            special ones included).

    Returns:
        What `text_features` makes of the texts, and `label`: int64 `[B]`.
    """
    tokenizer = tft.make_and_track_object(lambda: tokenizer_of(custom_config), name="tokenizer")
    tft.annotate_asset(VOCAB_ASSET, custom_config["vocab_file"])
    features = text_features(
        {name: inputs[name] for name in (TEXT_A, TEXT_B) if name in inputs},
        tokenizer,
        max_length=custom_config["max_length"],
    )
    return {**features, LABEL: inputs[LABEL]}
