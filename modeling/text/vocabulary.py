"""Learning a WordPiece vocabulary, for new weights where no checkpoint brings one."""

import collections
from collections.abc import Iterable, Sequence

import tensorflow as tf
from tensorflow_text.tools.wordpiece_vocab import wordpiece_tokenizer_learner_lib as learner

from bert_tfx.modeling.text import tokenization

_RESERVED = ["[PAD]", tokenization.UNK, tokenization.CLS, tokenization.SEP, "[MASK]"]
_BATCH = 1000
# What is seen once only teaches nothing.
_MIN_COUNT = 2


def learn_vocabulary(texts: Iterable[str], *, lowercase: bool, size: int) -> list[str]:
    """Learns a vocabulary (Schuster and Nakajima 2012, as TF-Text implements it).

    Args:
        texts: What the vocabulary shall cover.
        lowercase: Whether it is uncased.
        size: Tokens at most, about.

    Returns:
        The tokens in the order of their ids: `[PAD]`, `[UNK]`, `[CLS]`, `[SEP]`, `[MASK]`, then the
        others in the order of code points.
    """
    counts: collections.Counter[str] = collections.Counter()
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == _BATCH:
            counts.update(_words(batch, lowercase))
            batch = []
    if batch:
        counts.update(_words(batch, lowercase))
    learned = learner.learn(
        list(counts.items()),
        size,
        _RESERVED,
        lower_thresh=_MIN_COUNT,
        # By default a thousand: enough for an alphabet, not for Chinese.
        max_unique_chars=size,
    )
    return [*_RESERVED, *sorted(set(learned) - set(_RESERVED))]


def _words(texts: Sequence[str], lowercase: bool) -> list[str]:
    words = tokenization.split_words(tf.constant(texts), lowercase=lowercase)
    return [word.decode() for word in words.values.numpy()]
