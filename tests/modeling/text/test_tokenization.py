import unicodedata

import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from bert_tfx.modeling.text import tokenization
from bert_tfx.modeling.text.tokenization import WordPieceTokenizer, read_vocabulary
from bert_tfx.schema.errors import InputError

TOKENS = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *("want", "##want", "##ed", "wa", "un", "runn", "##ing", ",", "low", "lowest", "##er"),
    *("好", "很", "，", "。", "é", "e", "É", "a", "b", "##b", "[", "]", "cl", "##s", "x", "##x"),
]


@pytest.fixture(scope="module")
def vocab_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    path.write_text("".join(f"{token}\n" for token in TOKENS), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def uncased(vocab_file):
    return WordPieceTokenizer(vocab_file)


@pytest.fixture(scope="module")
def cased(vocab_file):
    return WordPieceTokenizer(vocab_file, lowercase=False)


def tokens_of(tokenizer, text):
    (ids,) = tokenizer.tokenize([text]).to_list()
    return [TOKENS[i] for i in ids]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("UNwant\u00e9d,running", ["un", "##want", "##ed", ",", "runn", "##ing"]),
        ("很好，好。", ["很", "好", "，", "好", "。"]),
        ("a很b", ["a", "很", "b"]),
        ("a\u200bb", ["a", "##b"]),  # a format character is deleted, it does not split
        ("a\u3000b\u00a0a\u2028b", ["a", "b", "a", "b"]),
        ("a\x00b\ufffdb\x07b", ["a", "##b", "##b", "##b"]),
        ("a\x85b", ["a", "##b"]),  # a control character, though Python's split cuts there
        ("[CLS]", ["[", "cl", "##s", "]"]),  # nobody injects a special token
        ("lower zz", ["low", "##er", "[UNK]"]),
        ("", []),
        (" \t\n ", []),
    ],
)
def test_uncased(uncased, text, tokens):
    assert tokens_of(uncased, text) == tokens


def test_cased_keeps_case_and_accents(cased):
    assert tokens_of(cased, "é É e") == ["é", "É", "e"]
    assert tokens_of(cased, "LOW low") == ["[UNK]", "low"]


@pytest.mark.parametrize("char", ["y", "\u0416", "\U0001f600"])
def test_words_over_200_characters_are_unknown(tmp_path, char):
    path = tmp_path / "vocab.txt"
    path.write_text(f"[UNK]\n[CLS]\n[SEP]\n{char}\n##{char}\nx\n,\n", encoding="utf-8")
    tokenizer = WordPieceTokenizer(str(path), lowercase=False)
    texts = [char * 200, f"x {char * 201} x,", f"{char * 150},{char * 150}"]
    assert tokenizer.tokenize(texts).to_list() == [
        [3] + [4] * 199,
        [5, 0, 5, 6],
        [3] + [4] * 149 + [6, 3] + [4] * 149,
    ]


def test_pack_single(uncased):
    packed = uncased.pack(["want low", "low low low low", ""], max_length=5)
    want, low, cls, sep = (TOKENS.index(t) for t in ("want", "low", "[CLS]", "[SEP]"))
    assert packed["token_ids"].to_list() == [
        [cls, want, low, sep],
        [cls, low, low, low, sep],
        [cls, sep],
    ]
    assert packed["segment_ids"].to_list() == [[0] * 4, [0] * 5, [0] * 2]
    assert packed["token_ids"].dtype == packed["segment_ids"].dtype == tf.int32


def truncate_one_by_one(a, b, room):
    """Google's `_truncate_seq_pair`, in words: the longer text loses its last token."""
    a, b = list(a), list(b)
    while len(a) + len(b) > room:
        (a if len(a) > len(b) else b).pop()
    return a, b


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 12), st.integers(0, 12), st.integers(5, 20))
def test_pack_pair_cuts_the_longer_text(uncased, len_a, len_b, max_length):
    text_a, text_b = " ".join("a" * len_a), " ".join("b" * len_b)
    packed = uncased.pack([text_a], [text_b], max_length=max_length)
    a, b = truncate_one_by_one("a" * len_a, "b" * len_b, max_length - 3)
    (ids,) = packed["token_ids"].to_list()
    assert [TOKENS[i] for i in ids] == ["[CLS]", *a, "[SEP]", *b, "[SEP]"]
    assert packed["segment_ids"].to_list() == [[0] * (len(a) + 2) + [1] * (len(b) + 1)]


def test_pack_without_room(uncased):
    with pytest.raises(ValueError, match="max_length=2"):
        uncased.pack(["a"], max_length=2)
    with pytest.raises(ValueError, match="max_length=4"):
        uncased.pack(["a"], ["b"], max_length=4)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=30), min_size=1, max_size=4))
def test_any_text_has_tokens_of_the_vocabulary_only(uncased, texts):
    texts = [t.encode("utf-8", "ignore").decode() for t in texts]
    ids = uncased.tokenize(texts)
    assert ids.nrows() == len(texts)
    special = {TOKENS.index(t) for t in ("[PAD]", "[CLS]", "[SEP]", "[MASK]")}
    for text, row in zip(texts, ids.to_list(), strict=True):
        assert not special & set(row)
        if all(unicodedata.category(c) in ("Zs", "Zl", "Zp", "Cc", "Cf") for c in text):
            assert row == []


def test_saved_model_carries_the_vocabulary(uncased, tmp_path):
    module = tf.Module()
    module.tokenizer = uncased
    module.tokenize = tf.function(
        lambda texts: uncased.tokenize(texts).to_tensor(),
        input_signature=[tf.TensorSpec([None], tf.string)],
    )
    tf.saved_model.save(module, str(tmp_path / "saved"))
    assert (tmp_path / "saved/assets/vocab.txt").read_text(encoding="utf-8").split() == TOKENS
    (tmp_path / "saved").rename(tmp_path / "moved")
    loaded = tf.saved_model.load(str(tmp_path / "moved"))
    assert loaded.tokenize(tf.constant(["很好"])).numpy().tolist() == [
        [TOKENS.index("很"), TOKENS.index("好")]
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[UNK]\n[CLS]\nx\n", r"\[SEP\] not found in 3 lines"),
        (b"", r"\[UNK\], \[CLS\], \[SEP\] not found"),
        (b"[UNK]\n[CLS]\n[SEP]\nx\ny\nx\n", r"line 6: token 'x' stands already in line 4"),
        (b"[UNK]\n[CLS]\n\n[SEP]\n", r"line 3: the line is empty"),
        (b"[UNK]\n[CLS]\n[SEP]\n\xff\n", r"line 4: not UTF-8"),
    ],
)
def test_malformed_vocabulary(tmp_path, content, message):
    path = tmp_path / "vocab.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        read_vocabulary(str(path))
    assert str(path) in str(error.value)


def test_missing_vocabulary(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.txt"):
        read_vocabulary(str(tmp_path / "nothing.txt"))


def test_vocabulary_with_windows_line_ends_and_no_last_one(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_bytes("[UNK]\r\n[CLS]\r\n[SEP]\r\n\u2028\r\nx".encode())
    assert read_vocabulary(str(path)) == ["[UNK]", "[CLS]", "[SEP]", "\u2028", "x"]


def test_split_words():
    words = tokenization.split_words(tf.constant(["It's 很好!", ""]), lowercase=True)
    assert [[w.decode() for w in row] for row in words.to_list()] == [
        ["it", "'", "s", "很", "好", "!"],
        [],
    ]
