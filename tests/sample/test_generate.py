import re
import unicodedata
from collections import Counter
from pathlib import Path

import pytest

from bert_tfx.sample import generate

SAMPLE = Path(generate.__file__).parent
FILES = ("train.tsv", "dev.tsv", "test.tsv", "vocab.txt")
SIZES = {"train.tsv": 4000, "dev.tsv": 800, "test.tsv": 800}

# What real reviews hold and a careless reader or tokenizer stumbles over.
FEATURES = {
    "double quote": lambda text: '"' in text,
    "full-width punctuation": lambda text: any(c in text for c in "，。！？；：（）"),
    "emoji": lambda text: any(unicodedata.category(c) == "So" for c in text),
    "digit": lambda text: any(c.isdigit() for c in text),
    "upper and lower case": lambda text: bool(
        re.search("[a-z]", text) and re.search("[A-Z]", text)
    ),
    "long": lambda text: len(generate.pretokenize(text)) > 100,
}


@pytest.fixture(scope="module")
def rows():
    return {name: read(SAMPLE / name) for name in SIZES}


def read(path):
    header, *lines, end = path.read_bytes().decode("utf-8").split("\n")
    assert header == "label\ttext_a\tlanguage"
    assert end == ""
    return [line.split("\t") for line in lines]


def test_generates_the_same_bytes(tmp_path):
    generate.write_sample(tmp_path)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (SAMPLE / name).read_bytes(), (
            f"{name}: run python -m bert_tfx.sample.generate after a change of the generator"
        )


@pytest.mark.parametrize("name", SIZES)
def test_rows(rows, name):
    assert len(rows[name]) == SIZES[name]
    assert all(len(row) == 3 and row[1].strip() for row in rows[name])
    for column, values in ((0, "01"), (2, ("en", "zh"))):
        counts = Counter(row[column] for row in rows[name])
        assert set(counts) == set(values)
        assert all(0.48 <= count / SIZES[name] <= 0.52 for count in counts.values())


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("name", SIZES)
def test_texts_are_as_untidy_as_real_ones(rows, name, feature):
    share = sum(FEATURES[feature](row[1]) for row in rows[name]) / SIZES[name]
    assert share >= 0.03


def test_some_fields_start_with_a_quote(rows):
    assert all(any(row[1].startswith('"') for row in part) for part in rows.values())


def test_no_text_is_in_two_splits(rows):
    keys = [{generate.leakage_key(row[1]) for row in part} for part in rows.values()]
    assert sum(map(len, keys)) == len(set().union(*keys))


def test_no_text_has_both_labels(rows):
    for part in rows.values():
        labels = {}
        for label, text, _ in part:
            labels.setdefault(text, set()).add(label)
        assert all(len(found) == 1 for found in labels.values())
        assert len(labels) > 0.99 * len(part)


def test_vocabulary():
    tokens = (SAMPLE / "vocab.txt").read_text(encoding="utf-8").split("\n")
    assert tokens.pop() == ""
    assert tokens[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert all(tokens) and len(set(tokens)) == len(tokens)
    assert 1000 < len(tokens) < 3000


def test_some_tokens_of_dev_are_unknown_but_few(rows):
    known = set((SAMPLE / "vocab.txt").read_text(encoding="utf-8").split("\n"))
    characters = [
        c for row in rows["dev.tsv"] for word in generate.pretokenize(row[1]) for c in word
    ]
    unknown = sum(c not in known and f"##{c}" not in known for c in characters)
    assert 0 < unknown / len(characters) < 0.02
