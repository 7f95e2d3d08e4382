from bert_tfx.modeling.tfx.transformed_rows import read_rows, read_teacher_logits, vocabulary_file


def test_read_rows(single, pair, records):
    rows = read_rows([single[1]], single[0])
    assert sorted(rows.lengths.tolist()) == [5, 5, 7, 8]
    assert rows.segment_ids is None
    assert rows.token_ids.sum() == sum(sum(row["token_ids"]) for row in records(*single))
    assert rows.labels.tolist() == [row["label"] for row in records(*single)]
    pairs = read_rows([pair[1]], pair[0])
    assert len(pairs.segment_ids) == len(pairs.token_ids) == 14


def test_examples_without_answers(single):
    assert read_teacher_logits([single[1]], 2) is None


def test_vocabulary_file(single, vocab_file):
    with open(vocabulary_file(single[0]), "rb") as ours, open(vocab_file, "rb") as given:
        assert ours.read() == given.read()
