import pathlib


def test_single_texts(single, records):
    output, pattern = single
    by_ids = {tuple(row["token_ids"]): row for row in records(output, pattern)}
    assert set(by_ids) == {
        (2, 5, 6, 7, 3),
        (2, 13, 1, 5, 3),
        (2, 5, 6, 7, 8, 9, 10, 3),
        (2, 5, 14, 1, 1, 1, 3),
    }
    long = by_ids[(2, 5, 6, 7, 8, 9, 10, 3)]
    assert (long["num_tokens"], long["num_truncated"], long["num_unknown"]) == (8, 2, 0)
    assert by_ids[(2, 5, 14, 1, 1, 1, 3)]["num_unknown"] == 3
    assert [by_ids[ids]["label"] for ids in sorted(by_ids)] == [1, 1, 0, 0]


def test_pairs(pair, records):
    output, pattern = pair
    rows = {tuple(row["token_ids"]): row for row in records(output, pattern)}
    assert rows[(2, 5, 6, 3, 7, 3)]["segment_ids"] == [0, 0, 0, 0, 1, 1]
    cut = rows[(2, 5, 5, 5, 3, 6, 6, 3)]
    assert cut["segment_ids"] == [0, 0, 0, 0, 0, 1, 1, 1]
    assert cut["num_truncated"] == 7


def test_vocabulary_is_an_asset(single, vocab_file):
    output, _ = single
    assert output.vocabulary_size_by_name("vocab") == 15
    asset = pathlib.Path(output.vocabulary_file_by_name("vocab"))
    assert asset.read_text(encoding="utf-8") == pathlib.Path(vocab_file).read_text(encoding="utf-8")
    assert "transform_fn/assets" in str(asset)
