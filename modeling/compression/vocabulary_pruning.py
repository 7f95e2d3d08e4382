"""A smaller vocabulary for a trained model: the tokens that its texts need, and no others.

A multilingual or general vocabulary is a large part of a small model, and a task uses a part of it.
Tokens are left out, and with them their rows of the embedding table; those that stay keep their
order, so that every other weight stays as it is.

WordPiece takes the longest token that fits at each place of a word. Among fewer tokens it takes the
same one wherever that one is left, so a text whose tokens are all left keeps them, and its answer
to the last bit. The exceptions are words that become [UNK]: WordPiece takes pieces of them before
it finds no next one. With another first piece the word might come out. These pieces are therefore
counted like tokens (`pieces`).
"""

import dataclasses
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf

from bert_tfx.modeling.encoders.reshaping import as_array, reshaped
from bert_tfx.modeling.export.trained_model import TrainedModel
from bert_tfx.modeling.text.character_ranges import CHARACTER_RANGES, check_pruning
from bert_tfx.modeling.text.features import TOKEN_IDS, TextTransform
from bert_tfx.modeling.text.tokenization import WordPieceTokenizer, split_words
from bert_tfx.modeling.text.vocab_file import CLS, SEP, UNK, read_vocabulary
from bert_tfx.schema.errors import InputError

_SPECIAL = ("[PAD]", UNK, CLS, SEP, "[MASK]")
_PREFIX = "##"
# Texts tokenized at a time.
_BATCH = 1024
# Longer words are [UNK] with any vocabulary.
_MAX_WORD_CHARS = 200


@dataclasses.dataclass(frozen=True)
class VocabularyReport:
    """What became of a vocabulary.

    Attributes:
        tokens_before: Tokens of the vocabulary.
        tokens_after: Tokens that are left.
        bytes_before: Size of the token embeddings.
        bytes_after: The same of those that are left.
    """

    tokens_before: int
    tokens_after: int
    bytes_before: int
    bytes_after: int


def prune_vocabulary(
    model: TrainedModel,
    texts: Iterable[bytes],
    *,
    vocab_file: str,
    min_count: int = 1,
    characters: Collection[str] = (),
) -> tuple[TrainedModel, VocabularyReport]:
    """Makes a model that knows only the tokens that some texts need.

    Left are: the special tokens, id 0 (what padding is), the tokens of the texts, each single
    character of the texts with its "##" form, and the single characters that are asked for; each as
    far as it is in the vocabulary.

    Args:
        model: The model; it stays as it is.
        texts: UTF-8.
        vocab_file: Where the new vocabulary goes; the new model refers to it.
        min_count: How often a token must be in the texts.
        characters: Names of `CHARACTER_RANGES`.

    Returns:
        The new model, and what became of its vocabulary. With a `min_count` of 1 its answers on
        these texts are the same to the last bit.

    Raises:
        InputError: If there is no text or no token in the texts, `min_count` is below 1, or a range
            is not known.
    """
    check_pruning(min_count, characters)
    old = read_vocabulary(model.vocab_file)
    tokenizer = WordPieceTokenizer(model.vocab_file, lowercase=model.lowercase)
    keep = _needed(old, tokenizer, texts, min_count) | _characters_of(old, characters)
    special = {old.index(token) for token in _SPECIAL if token in old}
    if not keep - special:
        raise InputError("no token of the vocabulary is in the texts by which to choose them")
    kept = sorted(keep | special | {0})

    encoder = model.classifier.encoder
    table = encoder.token_embedding.embeddings
    smaller = as_array(table)[kept]
    classifier = reshaped(model.classifier, {"vocab_size": len(kept)}, {table.path: smaller})
    with open(vocab_file, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{old[i]}\n" for i in kept)
    report = VocabularyReport(
        tokens_before=len(old),
        tokens_after=len(kept),
        bytes_before=int(np.prod(table.shape)) * smaller.itemsize,
        bytes_after=smaller.nbytes,
    )
    return dataclasses.replace(model, classifier=classifier, vocab_file=vocab_file), report


def touched_share(
    before: TrainedModel, after: TrainedModel, texts: Mapping[str, Sequence[bytes]]
) -> float:
    """Returns the share of rows whose tokens are others than before.

    Args:
        before: The model with its whole vocabulary.
        after: The same with a smaller one.
        texts: `text_a` and, for pairs, `text_b`: UTF-8, one for each row. There is at least one.
    """
    number = {token: i for i, token in enumerate(read_vocabulary(before.vocab_file))}
    old_ids = tf.constant([number[token] for token in read_vocabulary(after.vocab_file)], tf.int64)
    transforms = before.transform(), after.transform()
    rows = len(next(iter(texts.values())))
    touched = 0
    for start in range(0, rows, _BATCH):
        batch = {name: column[start : start + _BATCH] for name, column in texts.items()}
        one, other = (_token_ids(transform, batch) for transform in transforms)
        other = other.with_values(tf.gather(old_ids, other.values))
        longest = tf.maximum(one.bounding_shape()[1], other.bounding_shape()[1])
        shape = [None, longest]
        differs = one.to_tensor(-1, shape=shape) != other.to_tensor(-1, shape=shape)
        touched += int(tf.math.count_nonzero(tf.reduce_any(differs, axis=1)))
    return touched / rows


def pieces(word: str, vocabulary: Collection[str]) -> list[str]:
    """Returns the tokens that WordPiece takes of a word, up to where it finds none.

    Args:
        word: One of `split_words`.
        vocabulary: The tokens.
    """
    found: list[str] = []
    start = 0
    while start < len(word):
        prefix = _PREFIX if start else ""
        ends = range(len(word), start, -1)
        end = next((e for e in ends if prefix + word[start:e] in vocabulary), None)
        if end is None:
            break
        found.append(prefix + word[start:end])
        start = end
    return found


def _token_ids(transform: TextTransform, texts: Mapping[str, Sequence[bytes]]) -> tf.RaggedTensor:
    return transform({name: tf.constant(column) for name, column in texts.items()})[TOKEN_IDS]


def _needed(
    vocabulary: Sequence[str],
    tokenizer: WordPieceTokenizer,
    texts: Iterable[bytes],
    min_count: int,
) -> set[int]:
    """Returns the ids of the tokens and the characters of some texts."""
    number = {token: i for i, token in enumerate(vocabulary)}
    counts = np.zeros(len(vocabulary), np.int64)
    characters: set[str] = set()
    unknown_words: Counter[str] = Counter()
    some = False
    for batch in _batches(texts):
        some = True
        tensor = tf.constant(batch)
        ids = tokenizer.tokenize(tensor)
        counts += np.bincount(ids.values.numpy(), minlength=len(vocabulary))
        words = split_words(tensor, lowercase=tokenizer.lowercase)
        text = tf.strings.reduce_join(words.values).numpy().decode("utf-8")
        characters.update(text)
        has_unknown = tf.reduce_any(ids == tokenizer.unk_id, axis=1)
        suspects = tf.ragged.boolean_mask(words, has_unknown).values.numpy()
        unknown_words.update(word.decode("utf-8") for word in suspects)
    if not some:
        raise InputError("there is no text by which to choose the tokens")
    for word, count in unknown_words.items():
        if len(word) > _MAX_WORD_CHARS:
            continue
        found = pieces(word, number)
        if sum(len(piece) - len(_PREFIX) * (i > 0) for i, piece in enumerate(found)) < len(word):
            for piece in found:
                counts[number[piece]] += count
    forms = (form for character in characters for form in (character, _PREFIX + character))
    return {*np.flatnonzero(counts >= min_count).tolist()} | {
        number[form] for form in forms if form in number
    }


def _batches(texts: Iterable[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    for text in texts:
        batch.append(text)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _characters_of(vocabulary: Sequence[str], names: Collection[str]) -> set[int]:
    ranges = [bounds for name in names for bounds in CHARACTER_RANGES[name]]
    singles = ((i, token.removeprefix(_PREFIX)) for i, token in enumerate(vocabulary))
    return {
        i
        for i, token in singles
        if len(token) == 1 and any(first <= ord(token) <= last for first, last in ranges)
    }
