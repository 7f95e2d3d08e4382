from bert_tfx.modeling.text.tokenization import WordPieceTokenizer
from bert_tfx.modeling.text.vocabulary import learn_vocabulary

TEXTS = ["walking talking walked talked", "very good, very bad!", "很好 很差", "Café"] * 20


def test_learns_pieces_that_cover_the_texts(tmp_path):
    vocabulary = learn_vocabulary(TEXTS, lowercase=True, size=200)
    assert vocabulary[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert len(set(vocabulary)) == len(vocabulary)
    assert {"很", "差", ",", "!"} < set(vocabulary)
    assert not any(token != token.lower() for token in vocabulary[5:])

    path = tmp_path / "vocab.txt"
    path.write_text("".join(f"{token}\n" for token in vocabulary), encoding="utf-8")
    tokenizer = WordPieceTokenizer(str(path))
    ids = tokenizer.tokenize(TEXTS)
    assert tokenizer.unk_id not in ids.values.numpy()


def test_same_texts_same_vocabulary():
    again = learn_vocabulary(list(reversed(TEXTS)), lowercase=True, size=200)
    assert again == learn_vocabulary(TEXTS, lowercase=True, size=200)


def test_cased():
    assert "C" in {token[:1] for token in learn_vocabulary(TEXTS, lowercase=False, size=200)}
