import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from bert_tfx.modeling.compression.vocabulary_pruning import pieces, prune_vocabulary, touched_share
from bert_tfx.modeling.encoders.albert import AlbertEncoder
from bert_tfx.modeling.encoders.bert import BertEncoder
from bert_tfx.modeling.encoders.classifier import TextClassifier
from bert_tfx.modeling.encoders.distil_bert import DistilBertEncoder
from bert_tfx.modeling.export.saved_model import save_for_serving
from bert_tfx.modeling.export.trained_model import TrainedModel, load_trained_model
from bert_tfx.modeling.text.text_rows import rows_of_texts
from bert_tfx.modeling.text.tokenization import WordPieceTokenizer
from bert_tfx.modeling.text.vocab_file import read_vocabulary
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.tasks import TASKS

TOKENS = [
    *("[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *("a", "b", "c", "ab", "abc", "##a", "##b", "##c", "##bc", "##ca", "##abc", "bc", "ca"),
    *("好", "很", "##好", ",", "。", "é"),
]
TEXTS = [b"ab abc", "很好".encode(), b"a, b c", b"cab"]

ENCODERS = {
    "bert": BertEncoder,
    "distilbert": DistilBertEncoder,
    "albert": lambda **arguments: AlbertEncoder(embedding_dim=4, **arguments),
}


def write_vocabulary(tokens, path):
    path.write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def vocab_file(tmp_path_factory):
    return write_vocabulary(TOKENS, tmp_path_factory.mktemp("old") / "vocab.txt")


def make_model(vocab_file, *, kind="bert", task="sst2", rows_left_over=3):
    keras.utils.set_random_seed(1)
    encoder = ENCODERS[kind](
        vocab_size=len(TOKENS) + rows_left_over,
        num_layers=2,
        hidden_dim=16,
        num_heads=2,
        intermediate_dim=32,
        initializer_range=0.5,
        max_length=12,
    )
    return TrainedModel(
        classifier=TextClassifier(encoder, 2),
        task=TASKS[task],
        vocab_file=vocab_file,
        lowercase=False,
        max_length=12,
        eval_fraction=0.1,
        training={},
    )


@pytest.fixture(scope="module")
def model(vocab_file):
    return make_model(vocab_file)


@pytest.fixture(scope="module")
def roomy_model(vocab_file):
    return make_model(vocab_file, rows_left_over=20)


@pytest.fixture(scope="module")
def prune(model, tmp_path_factory):
    def prune(texts, **options):
        new_file = str(tmp_path_factory.mktemp("new") / "vocab.txt")
        return prune_vocabulary(model, texts, vocab_file=new_file, **options)

    return prune


def logits(model, texts):
    rows = rows_of_texts(model.transform(), {"text_a": texts}, [0] * len(texts))
    return np.asarray(model.classifier(rows.batch(np.arange(len(texts))), training=False))


def tokens_of(vocab_file, texts):
    ids = WordPieceTokenizer(vocab_file, lowercase=False).tokenize(texts).to_list()
    vocabulary = read_vocabulary(vocab_file)
    return [[vocabulary[i] for i in row] for row in ids]


@pytest.mark.parametrize("kind", ENCODERS)
def test_texts_are_answered_to_the_last_bit(vocab_file, tmp_path, kind):
    model = make_model(vocab_file, kind=kind)
    pruned, report = prune_vocabulary(model, TEXTS, vocab_file=str(tmp_path / "new.txt"))
    assert pruned.classifier.encoder.config.vocab_size == report.tokens_after < len(TOKENS)
    np.testing.assert_array_equal(logits(pruned, TEXTS), logits(model, TEXTS))
    assert touched_share(model, pruned, {"text_a": TEXTS}) == 0
    pruned.save(str(tmp_path / "model"))
    loaded = load_trained_model(str(tmp_path / "model"))
    np.testing.assert_array_equal(logits(loaded, TEXTS), logits(model, TEXTS))


def test_exports_answer_to_the_last_bit(model, prune, tmp_path):
    pruned, _ = prune(TEXTS)
    answers = []
    for name, one in (("before", model), ("after", pruned)):
        save_for_serving(one, str(tmp_path / name))
        served = tf.saved_model.load(str(tmp_path / name)).signatures["serve_text"]
        answers.append(served(text_a=tf.constant(TEXTS))["probabilities"].numpy())
    np.testing.assert_array_equal(*answers)


def test_what_is_needed_is_left_in_its_order(prune):
    pruned, report = prune([b"ab abc", "很".encode()])
    assert read_vocabulary(pruned.vocab_file) == [
        *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
        *("a", "b", "c", "ab", "abc", "##a", "##b", "##c", "很"),
    ]
    assert dataclasses.astuple(report) == (
        len(TOKENS),
        14,
        (len(TOKENS) + 3) * 16 * 4,
        14 * 16 * 4,
    )


def test_rare_tokens_go_and_their_words_fall_to_pieces(model, prune):
    texts = [b"abc ab", b"ab"]
    pruned, _ = prune(texts, min_count=2)
    assert tokens_of(pruned.vocab_file, [b"abc", b"ab"]) == [["ab", "##c"], ["ab"]]
    assert touched_share(model, pruned, {"text_a": texts}) == 0.5


def test_ranges_of_characters_are_kept(prune):
    kept = {
        name: read_vocabulary(prune([b"a"], characters=[name])[0].vocab_file)
        for name in ("ascii", "cjk", "latin")
    }
    assert {",", "b", "##b"} < {*kept["ascii"]}
    assert "é" not in kept["ascii"] and "é" in kept["latin"]
    assert {"好", "很", "##好", "。"} < {*kept["cjk"]}
    assert not {"ab", "##bc"} & {*kept["ascii"], *kept["cjk"]}


def test_row_of_id_0_stays_whatever_it_is(tmp_path):
    tokens = ["x", *TOKENS]
    model = make_model(write_vocabulary(tokens, tmp_path / "old.txt"))
    pruned, _ = prune_vocabulary(model, [b"a"], vocab_file=str(tmp_path / "new.txt"))
    assert read_vocabulary(pruned.vocab_file)[0] == "x"


def test_word_that_is_unknown_stays_unknown(vocab_file, model, prune, tmp_path):
    """Its pieces are kept: with another first piece it could be spelled to its end."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "ab", "##bc"]
    model = make_model(write_vocabulary(tokens, tmp_path / "old.txt"))
    assert tokens_of(model.vocab_file, [b"abc"]) == [["[UNK]"]]
    pruned, _ = prune_vocabulary(model, [b"abc", b"bbc"], vocab_file=str(tmp_path / "new.txt"))
    assert tokens_of(pruned.vocab_file, [b"abc"]) == [["[UNK]"]]
    without = write_vocabulary([t for t in tokens if t != "ab"], tmp_path / "without.txt")
    assert tokens_of(without, [b"abc"]) == [["a", "##bc"]]


def test_pairs_are_compared_in_both_texts(vocab_file, tmp_path):
    model = make_model(vocab_file, task="lcqmc")
    pruned, _ = prune_vocabulary(model, [b"a b"], vocab_file=str(tmp_path / "new.txt"))
    texts = {"text_a": [b"a", b"a", b"ab", b""], "text_b": [b"b", b"ab", b"a", b""]}
    assert touched_share(model, pruned, texts) == 0.5


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([], {}, "there is no text by which to choose"),
        ([b"", b" "], {}, "no token of the vocabulary is in the texts"),
        (["中".encode()], {}, "no token of the vocabulary is in the texts"),
        ([b"a"], {"min_count": 0}, "must be at least 1. Received: 0"),
        ([b"a"], {"characters": ["klingon"]}, "'klingon': no such range of characters; known are"),
    ],
)
def test_mistake_is_told(prune, texts, options, message):
    with pytest.raises(InputError, match=message):
        prune(texts, **options)


words = st.text("abcd", min_size=1, max_size=6)
texts = st.lists(words, max_size=4).map(" ".join)
sub_words = st.text("abc", min_size=1, max_size=4)


@settings(deadline=None, max_examples=30)
@given(
    vocabulary=st.sets(st.one_of(sub_words, sub_words.map("##{}".format)), max_size=25),
    corpus=st.lists(texts, min_size=1, max_size=4),
    others=st.lists(texts, min_size=1, max_size=8),
    min_count=st.integers(1, 3),
)
@pytest.mark.slow
def test_tokens_that_are_left_are_taken(
    roomy_model, tmp_path_factory, vocabulary, corpus, others, min_count
):
    """For any vocabulary: who loses no token, nor a piece of an unknown word, keeps them all."""
    folder = tmp_path_factory.mktemp("any")
    corpus = ["a", *corpus]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted({"a", *vocabulary})]
    vocab_file = write_vocabulary(tokens, folder / "old.txt")
    model = dataclasses.replace(roomy_model, vocab_file=vocab_file)
    pruned, _ = prune_vocabulary(
        model,
        [text.encode() for text in corpus],
        vocab_file=str(folder / "new.txt"),
        min_count=min_count,
    )
    left = {*read_vocabulary(pruned.vocab_file)}
    assert left <= {*tokens}
    everything = [*corpus, *others]
    before = tokens_of(model.vocab_file, everything)
    after = tokens_of(pruned.vocab_file, everything)
    for number, text in enumerate(everything):
        taken = {piece for word in text.split() for piece in pieces(word, {*tokens})}
        if taken <= left:
            assert after[number] == before[number]
        elif not {*before[number]} <= left:
            assert after[number] != before[number]
        if min_count == 1 and number < len(corpus):
            assert after[number] == before[number]


@settings(deadline=None, max_examples=30)
@given(vocabulary=st.sets(st.one_of(sub_words, sub_words.map("##{}".format))), word=words)
def test_pieces_are_those_of_the_tokenizer(tmp_path_factory, vocabulary, word):
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted({"a", *vocabulary})]
    path = write_vocabulary(tokens, tmp_path_factory.mktemp("any") / "vocab.txt")
    found = pieces(word, {*tokens})
    spelled = "".join(piece.removeprefix("##") for piece in found) == word
    assert tokens_of(path, [word]) == [found if spelled else ["[UNK]"]]
