"""Exact WordPiece as a TensorFlow graph: text in, BERT's token ids out.

The reference is google-research/bert, `tokenization.py` (`FullTokenizer`) and, for the packing of
one or two texts, `run_classifier.py` (`convert_single_example`, `_truncate_seq_pair`). Published
checkpoints were trained on the ids those produce, so they are reproduced id for id. TF-Text's own
lower-casing is not used: it folds with NFKC, which turns full-width punctuation into ASCII and with
it the ids of nearly every Chinese sentence.
"""

from collections.abc import Sequence

import tensorflow as tf
import tensorflow_text as tf_text

from bert_tfx.modeling.text.vocab_file import CLS, SEP, UNK, read_vocabulary

# The reference deletes these (`_clean_text`: NUL, U+FFFD, and `_is_control`: categories Cc and Cf
# without tab, line feed and carriage return). RE2 cannot subtract within a class, so the C0 range
# is spelled out.
_DELETED = r"[\x{0}-\x{8}\x{B}\x{C}\x{E}-\x{1F}\x{7F}-\x{9F}\x{FFFD}\p{Cf}]"
# `_is_whitespace` plus what Python's `str.split` takes for a separator after that.
_SPACE = r"[\t\n\r\p{Zs}\p{Zl}\p{Zp}]"
# `_is_chinese_char`: the CJK ideograph blocks. Each of their characters is a word of its own.
_CJK = (
    r"[\x{4E00}-\x{9FFF}\x{3400}-\x{4DBF}\x{20000}-\x{2A6DF}\x{2A700}-\x{2B73F}"
    r"\x{2B740}-\x{2B81F}\x{2B820}-\x{2CEAF}\x{F900}-\x{FAFF}\x{2F800}-\x{2FA1F}]"
)
# `_is_punctuation`: Unicode punctuation and every ASCII symbol.
_PUNCTUATION = r"[\p{P}$+<=>^`|~]"

# `WordpieceTokenizer.max_input_chars_per_word`: longer words become [UNK].
_MAX_WORD_CHARS = 200
# The op's limit is in bytes. This one lets every word of 200 characters pass; `_cap_words` then
# makes what is longer than 200 characters longer than this.
_MAX_WORD_BYTES = 4 * _MAX_WORD_CHARS
_TOO_LONG = "x" * (_MAX_WORD_BYTES + 1)


class WordPieceTokenizer(tf.Module):
    """BERT's tokenizer in TensorFlow ops.

    Works eagerly, in `tf.function`, in a TFT `preprocessing_fn` and inside a SavedModel; the
    vocabulary is a constant of the graph. Text must be valid UTF-8. `[CLS]` within a text is text,
    not a special token, as in the reference: nobody can inject one.

    Args:
        vocab_file: Path of the vocabulary (see `read_vocabulary`).
        lowercase: Whether the checkpoint is uncased: text is lower-cased and its accents are
            stripped.

    Raises:
        InputError: If the vocabulary is malformed (see `read_vocabulary`).
    """

    def __init__(self, vocab_file: str, lowercase: bool = True) -> None:
        super().__init__()
        vocabulary = read_vocabulary(vocab_file)
        self.lowercase = lowercase
        self.vocab_size = len(vocabulary)
        self.unk_id = vocabulary.index(UNK)
        self.cls_id = vocabulary.index(CLS)
        self.sep_id = vocabulary.index(SEP)
        # A SavedModel that holds the tokenizer carries the file it was made from.
        self.vocab_asset = tf.saved_model.Asset(vocab_file)
        self._wordpiece = tf_text.FastWordpieceTokenizer(
            vocabulary,
            unknown_token=UNK,
            max_bytes_per_word=_MAX_WORD_BYTES,
            token_out_type=tf.int32,
        )

    def tokenize(self, texts: tf.Tensor | Sequence[str]) -> tf.RaggedTensor:
        """Splits texts into WordPieces.

        Args:
            texts: string `[B]`, UTF-8.

        Returns:
            int32 `[B, (tokens)]`: ids, without special tokens.
        """
        texts = _normalize(tf.convert_to_tensor(texts, tf.string), self.lowercase)
        # Words so long are rare: only a batch that holds one pays for counting characters.
        suspect = tf.strings.regex_full_match(texts, rf"(?s).*[^ ]{{{_MAX_WORD_CHARS + 1}}}.*")
        texts = tf.cond(tf.reduce_any(suspect), lambda: _cap_words(texts), lambda: texts)
        return self._wordpiece.tokenize(texts)

    def pack(
        self,
        text_a: tf.Tensor | Sequence[str],
        text_b: tf.Tensor | Sequence[str] | None = None,
        *,
        max_length: int,
    ) -> dict[str, tf.RaggedTensor]:
        """Makes model input of texts: `[CLS] a [SEP]`, or `[CLS] a [SEP] b [SEP]`.

        Args:
            text_a: string `[B]`.
            text_b: string `[B]`, the second texts, or None.
            max_length: Tokens at most, special ones included. A single text is cut at its end; of
                a pair the longer text loses its last token until both fit, the second where both
                are equally long.

        Returns:
            `token_ids` and `segment_ids`, both int32 `[B, (T)]`. Segment 0 is `[CLS] a [SEP]`,
            segment 1 is `b [SEP]`.

        Raises:
            ValueError: If `max_length` leaves no room for a token of each text.
        """
        a = self.tokenize(text_a)
        b = None if text_b is None else self.tokenize(text_b)
        return self.combine(a, b, max_length=max_length)

    def combine(
        self, a: tf.RaggedTensor, b: tf.RaggedTensor | None, *, max_length: int
    ) -> dict[str, tf.RaggedTensor]:
        """Does what `pack` does, with texts that are tokenized already.

        Args:
            a: int32 `[B, (tokens)]`, from `tokenize`.
            b: The same of the second texts, or None.
            max_length: See `pack`.

        Returns:
            See `pack`.

        Raises:
            ValueError: See `pack`.
        """
        room = max_length - (2 if b is None else 3)
        if room < (1 if b is None else 2):
            raise ValueError(
                "`max_length` must leave room for the special tokens and a token of each text. "
                f"Received: max_length={max_length}"
            )
        ones = tf.ones([a.nrows(), 1], tf.int32)
        cls, sep = self.cls_id * ones, self.sep_id * ones
        if b is None:
            first = tf.concat([cls, a[:, :room], sep], axis=1)
            return {"token_ids": first, "segment_ids": tf.zeros_like(first)}
        keep_a, keep_b = _longest_first(a.row_lengths(), b.row_lengths(), room)
        first = tf.concat([cls, _head(a, keep_a), sep], axis=1)
        second = tf.concat([_head(b, keep_b), sep], axis=1)
        return {
            "token_ids": tf.concat([first, second], axis=1),
            "segment_ids": tf.concat([tf.zeros_like(first), tf.ones_like(second)], axis=1),
        }


def split_words(texts: tf.Tensor, *, lowercase: bool) -> tf.RaggedTensor:
    """Splits texts into the words that WordPiece divides further (`BasicTokenizer.tokenize`).

    Args:
        texts: string `[B]`, UTF-8.
        lowercase: See `WordPieceTokenizer`.

    Returns:
        string `[B, (words)]`.
    """
    spaced = tf.strings.regex_replace(_normalize(texts, lowercase), _PUNCTUATION, r" \0 ")
    return tf.strings.split(spaced)


def _normalize(texts: tf.Tensor, lowercase: bool) -> tf.Tensor:
    """Does `BasicTokenizer.tokenize` up to its split at white space and punctuation."""
    texts = tf.strings.regex_replace(texts, _DELETED, "")
    texts = tf.strings.regex_replace(texts, _SPACE, " ")
    texts = tf.strings.regex_replace(texts, _CJK, r" \0 ")
    if lowercase:
        texts = tf.strings.lower(texts, encoding="utf-8")
        texts = tf_text.normalize_utf8(texts, "NFD")
        texts = tf.strings.regex_replace(texts, r"\p{Mn}", "")
    return texts


def _cap_words(texts: tf.Tensor) -> tf.Tensor:
    """Replaces words over the reference's limit by one that is over the op's limit, too."""
    spaced = tf.strings.regex_replace(texts, _PUNCTUATION, r" \0 ")
    words = tf.strings.split(spaced, " ")
    too_long = tf.strings.length(words.values, unit="UTF8_CHAR") > _MAX_WORD_CHARS
    words = words.with_values(tf.where(too_long, _TOO_LONG, words.values))
    return tf.strings.reduce_join(words, axis=1, separator=" ")


def _longest_first(len_a: tf.Tensor, len_b: tf.Tensor, room: int) -> tuple[tf.Tensor, tf.Tensor]:
    """How many tokens of each text stay: the closed form of `_truncate_seq_pair`.

    Cutting one token at a time from the longer text (from the second where both are equal) ends
    with the shorter text whole where it fits into half the room, else with two halves, the first
    one rounded up.
    """
    half_a, half_b = (room + 1) // 2, room // 2
    keep_a = tf.minimum(len_a, tf.maximum(tf.cast(half_a, len_a.dtype), room - len_b))
    keep_b = tf.minimum(len_b, tf.maximum(tf.cast(half_b, len_b.dtype), room - len_a))
    return keep_a, keep_b


def _head(ragged: tf.RaggedTensor, counts: tf.Tensor) -> tf.RaggedTensor:
    """Returns the first `counts` values of each row."""
    positions = tf.ragged.range(ragged.row_lengths())
    kept = positions.values < tf.repeat(counts, ragged.row_lengths())
    return tf.ragged.boolean_mask(ragged, ragged.with_values(kept))
