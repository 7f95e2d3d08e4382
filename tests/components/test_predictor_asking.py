"""Asking: files of rows become files of answered rows, whole ones or none."""

import functools
import gzip

import apache_beam as beam
import numpy as np
import pytest
import tensorflow as tf
from apache_beam.options.pipeline_options import PipelineOptions

from bert_tfx.components.data_gate import checks
from bert_tfx.components.predictor import asking
from bert_tfx.components.predictor.asking import AskModels
from bert_tfx.components.predictor.predictions import read_examples

ROWS = [{"label": i, "source_row": f"dev.tsv:{i + 2}"} for i in range(7)]


def load_made_up(name, fails_at=None):
    """What it answers to a row is its label, and how many rows there are in the batch."""

    def answer(records):
        examples = map(tf.train.Example.FromString, records.numpy())
        labels = [example.features.feature["label"].int64_list.value[0] for example in examples]
        if fails_at in labels:
            raise ValueError(f"no answer to {fails_at}")
        floats = np.array([(label, len(labels)) for label in labels], np.float32)
        return {name: floats, f"{name}_text": np.array([b"%d" % x for x in labels], object)}

    return answer


@pytest.fixture
def ask(tmp_path, write_examples, monkeypatch):
    """Asks made-up models in batches of 2 rows; returns the folder of the answers."""
    monkeypatch.setattr(asking, "_BATCH_ROWS", 2)
    write_examples(tmp_path / "rows", ROWS, files=2)

    def ask(name, *loads, **options):
        target = tmp_path / name
        flags = PipelineOptions(["--runner=FnApiRunner", "--direct_running_mode=in_memory"])
        with beam.Pipeline(options=flags) as pipeline:
            source = str(tmp_path / "rows" / "Split-eval")
            scratch = str(tmp_path / "scratch")
            _ = pipeline | AskModels(loads, source, str(target), scratch, **options)
        assert not list((tmp_path / "scratch").iterdir())
        return target

    return ask


def test_each_file_is_answered_by_all_models(tmp_path, ask):
    loads = [functools.partial(load_made_up, name) for name in ("a", "b")]
    target = ask("answered", *loads)
    names = sorted(path.name for path in target.iterdir())
    assert names == sorted(path.name for path in (tmp_path / "rows/Split-eval").iterdir())
    in_order = ROWS[0::2] + ROWS[1::2]
    # Batches do not go beyond a file, of which the second has three rows.
    batches = [2, 2, 2, 2, 2, 2, 1]
    for example, row, batch in zip(read_examples(str(target)), in_order, batches, strict=True):
        feature = example.features.feature
        for name in ("a", "b"):
            assert feature[name].float_list.value == [row["label"], batch]
            assert feature[f"{name}_text"].bytes_list.value == [b"%d" % row["label"]]
        assert feature["source_row"].bytes_list.value == [row["source_row"].encode()]
        assert "leaked" not in feature


def test_nothing_else_is_changed(tmp_path, ask):
    target = ask("answered", functools.partial(load_made_up, "a"))
    answered = list(read_examples(str(target)))
    for example in answered:
        del example.features.feature["a"]
        del example.features.feature["a_text"]
    assert answered == list(read_examples(str(tmp_path / "rows" / "Split-eval")))


def test_it_is_the_same_in_every_run(ask):
    load = functools.partial(load_made_up, "a")
    first, second = (ask(name, load) for name in ("first", "second"))
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes()


def test_rows_that_leaked_say_so(tmp_path, ask):
    report = tmp_path / "report"
    report.mkdir()
    with gzip.open(report / checks.LEAKED_EVAL_ROWS_FILE, "wt", encoding="utf-8") as file:
        file.write("dev.tsv:4\ndev.tsv:8\n")
    target = ask("answered", data_report=str(report))
    said = {
        feature["source_row"].bytes_list.value[0]: feature["leaked"].bytes_list.value[0]
        for feature in (example.features.feature for example in read_examples(str(target)))
    }
    assert {row for row, leaked in said.items() if leaked == b"yes"} == {b"dev.tsv:4", b"dev.tsv:8"}
    assert set(said.values()) == {b"yes", b"no"}
    assert len(said) == len(ROWS)


def test_a_file_that_cannot_be_answered_is_not_written(tmp_path, ask):
    # Of the first file; its first batch could be answered.
    with pytest.raises(ValueError, match="no answer to 6"):
        ask("answered", functools.partial(load_made_up, "a", fails_at=6))
    (first, _) = sorted(path.name for path in (tmp_path / "rows/Split-eval").iterdir())
    assert first not in [path.name for path in (tmp_path / "answered").iterdir()]
