import pathlib

import tensorflow as tf

from bert_tfx.modeling import training


def records(output, pattern):
    spec = output.transformed_feature_spec()
    files = tf.io.gfile.glob(pattern)
    for record in tf.data.TFRecordDataset(files, compression_type="GZIP"):
        parsed = tf.io.parse_single_example(record, spec)
        yield {name: value.numpy().tolist() for name, value in parsed.items()}


def test_single_texts(single):
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


def test_pairs(pair):
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


def test_read_rows(single, pair):
    rows = training.read_rows([single[1]], single[0])
    assert sorted(rows.lengths.tolist()) == [5, 5, 7, 8]
    assert rows.segment_ids is None
    assert rows.token_ids.sum() == sum(sum(row["token_ids"]) for row in records(*single))
    assert rows.labels.tolist() == [row["label"] for row in records(*single)]
    pairs = training.read_rows([pair[1]], pair[0])
    assert len(pairs.segment_ids) == len(pairs.token_ids) == 14
