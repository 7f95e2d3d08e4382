"""Predictor: what the models answer, row by row, and nothing half written."""

import gzip
import os
import pathlib
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_text  # noqa: F401, registers the ops of the tokenizer
from tfx.types import standard_artifacts

from bert_tfx.components.data_gate import checks
from bert_tfx.components.data_gate.component import DataGateReport
from bert_tfx.components.predictor.executor import Executor
from bert_tfx.components.predictor.predictions import read_examples, read_predictions
from bert_tfx.schema.errors import InputError
from bert_tfx.serving import int8_products

BEAM_ARGS = ["--runner=FnApiRunner", "--direct_running_mode=in_memory"]


@pytest.fixture(scope="module")
def rows(reviews):
    return [
        {
            "text_a": text,
            "label": label,
            "genre": ("drama", "comedy")[index % 3 == 0],
            "source_row": f"dev.tsv:{index + 2}",
        }
        for index, (label, text) in enumerate(reviews(45, seed=5))
    ] + [{"text_a": "the film " * 30, "label": 0, "source_row": "dev.tsv:47"}]


@pytest.fixture(scope="module")
def models(tmp_path_factory, model_artifact):
    folder = tmp_path_factory.mktemp("models")
    return [model_artifact(folder / str(seed), seed=seed) for seed in (1, 2)]


@pytest.fixture
def predict(tmp_path):
    def predict(examples, **models):
        predictions = standard_artifacts.Examples()
        predictions.uri = str(tmp_path / "predictions")
        context = Executor.Context(
            beam_pipeline_args=BEAM_ARGS, tmp_dir=str(tmp_path / "tmp"), unique_id="1"
        )
        report = DataGateReport()
        report.uri = str(tmp_path / "report")
        os.makedirs(report.uri)
        leaked = os.path.join(report.uri, checks.LEAKED_EVAL_ROWS_FILE)
        with gzip.open(leaked, "wt", encoding="utf-8") as file:
            file.write("dev.tsv:4\ndev.tsv:47\n")
        inputs = {
            "examples": [examples],
            "data_report": [report],
            **{key: [model] for key, model in models.items()},
        }
        Executor(context).Do(inputs, {"predictions": [predictions]}, {})
        return predictions

    return predict


def asked(model, texts) -> np.ndarray:
    loaded = tf.saved_model.load(f"{model.uri}/Format-Serving")
    return loaded.signatures["serve_text"](text_a=tf.constant(texts))["probabilities"].numpy()


def test_each_row_has_both_models_answers(tmp_path, rows, models, write_examples, predict):
    examples = write_examples(tmp_path / "examples", rows, files=3)
    predictions = predict(examples, candidate=models[0], baseline=models[1])
    assert predictions.split_names == '["eval"]'
    split = tmp_path / "predictions" / "Split-eval"
    assert sorted(path.name for path in split.iterdir()) == sorted(
        path.name for path in (tmp_path / "examples" / "Split-eval").iterdir()
    )
    assert not (tmp_path / "predictions" / "unfinished").exists()

    in_order = rows[0::3] + rows[1::3] + rows[2::3]
    found = list(read_examples(str(split)))
    texts = [example.features.feature["text_a"].bytes_list.value[0].decode() for example in found]
    assert texts == [row["text_a"] for row in in_order]
    read = read_predictions(str(split), ("genre", "truncated", "length_bucket", "leaked"))
    np.testing.assert_array_equal(read.labels, [row["label"] for row in in_order])
    np.testing.assert_allclose(read.candidate, asked(models[0], texts), atol=1e-6)
    np.testing.assert_allclose(read.baseline, asked(models[1], texts), atol=1e-6)
    assert np.abs(read.candidate - read.baseline).max() > 0.01
    assert list(read.slices["genre"]) == [row.get("genre", "") for row in in_order]
    assert list(read.slices["truncated"]) == [
        "yes" if len(row["text_a"]) > 200 else "no" for row in in_order
    ]
    assert list(read.slices["leaked"]) == [
        "yes" if row["source_row"] in ("dev.tsv:4", "dev.tsv:47") else "no" for row in in_order
    ]
    assert set(read.slices["length_bucket"]) == {"000-015", "016-031"}


def test_without_a_baseline_there_are_only_the_candidates_answers(
    tmp_path, rows, models, write_examples, predict
):
    predict(write_examples(tmp_path / "examples", rows[:5]), candidate=models[0])
    read = read_predictions(str(tmp_path / "predictions" / "Split-eval"))
    assert read.candidate.shape == (5, 2)
    assert read.baseline is None


def test_rows_without_a_file_become_no_rows(tmp_path, rows, models, write_examples, predict):
    predict(write_examples(tmp_path / "examples", []), candidate=models[0])
    read = read_predictions(str(tmp_path / "predictions" / "Split-eval"))
    assert read.labels.shape == (0,)


def test_models_of_other_texts_are_not_compared(
    tmp_path, rows, models, write_examples, model_artifact, predict
):
    pairs = model_artifact(tmp_path / "pairs", "lcqmc")
    with pytest.raises(InputError, match="the last blessed model has the texts text_a, text_b"):
        examples = write_examples(tmp_path / "examples", rows)
        predict(examples, candidate=models[0], baseline=pairs)
    assert not (tmp_path / "predictions").exists()


def test_a_worker_that_cannot_compute_a_model_says_so(
    tmp_path, rows, model_artifact, write_examples, predict, monkeypatch
):
    monkeypatch.setattr(int8_products, "_are_computed", lambda: False)
    narrow = model_artifact(tmp_path / "narrow", storage="int8")
    with pytest.raises(InputError, match="TensorFlow cannot multiply in 8 bits here"):
        predict(write_examples(tmp_path / "examples", rows), candidate=narrow)


def test_rows_are_described_by_the_model_before(
    tmp_path, rows, models, model_artifact, write_examples, predict
):
    short = model_artifact(tmp_path / "short", max_length=8)
    examples = write_examples(tmp_path / "examples", rows)
    predict(examples, candidate=short, before=models[0], control=models[1])
    read = read_predictions(str(tmp_path / "predictions" / "Split-eval"), ("truncated",))
    assert (read.slices["truncated"] == "yes").sum() == 1
    assert read.baseline is None
    assert not read.unanswered
    texts = [row["text_a"] for row in rows]
    np.testing.assert_allclose(read.candidate, asked(short, texts), atol=1e-6)
    assert list(read.others) == ["before", "control"]
    np.testing.assert_allclose(read.others["before"], asked(models[0], texts), atol=1e-6)
    np.testing.assert_allclose(read.others["control"], asked(models[1], texts), atol=1e-6)


@pytest.fixture
def broken(tmp_path, models):
    """A model whose weights are cut off."""
    artifact = standard_artifacts.Model()
    artifact.uri = str(tmp_path / "broken")
    shutil.copytree(models[0].uri, artifact.uri)
    (weights,) = pathlib.Path(artifact.uri).rglob("variables.data-*")
    weights.write_bytes(weights.read_bytes()[:100])
    return artifact


def test_beside_the_model_before_a_broken_one_stops_nothing(
    tmp_path, rows, models, write_examples, predict, broken
):
    predict(
        write_examples(tmp_path / "examples", rows, files=2), candidate=broken, before=models[0]
    )
    read = read_predictions(str(tmp_path / "predictions" / "Split-eval"), ("truncated",))
    assert list(read.unanswered) == ["candidate"]
    assert re.match(r"its export cannot be asked: \w+: .", read.unanswered["candidate"])
    assert read.candidate.size == 0
    assert read.others["before"].shape == (len(rows), 2)
    assert (read.slices["truncated"] == "yes").sum() == 1


def test_a_broken_candidate_stops_the_run(tmp_path, rows, write_examples, predict, broken):
    # TensorFlow's own error, and its releases have several.
    with pytest.raises(Exception, match=r"(?i)bytes|data"):
        predict(write_examples(tmp_path / "examples", rows), candidate=broken)
    assert not list((tmp_path / "predictions" / "Split-eval").iterdir())


def test_a_model_of_other_texts_is_told_of(
    tmp_path, rows, models, model_artifact, write_examples, predict
):
    pairs = model_artifact(tmp_path / "pairs", "lcqmc")
    predict(write_examples(tmp_path / "examples", rows), candidate=pairs, before=models[0])
    read = read_predictions(str(tmp_path / "predictions" / "Split-eval"))
    assert "text_b" in read.unanswered["candidate"]
