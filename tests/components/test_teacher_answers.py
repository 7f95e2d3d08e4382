"""TeacherAnswers: answers the rows of train, or copies them where few are seen."""

import functools
import os
import pathlib
import sys
import types

import numpy as np
import pytest
import tensorflow as tf
from tfx.types import artifact_utils, standard_artifacts

from bert_tfx.components.predictor.predictions import read_examples
from bert_tfx.components.teacher_answers.executor import Executor
from bert_tfx.schema.tasks import TASKS


@pytest.fixture
def transformed(tmp_path, write_examples):
    """Five rows of train in two files, and the same as eval."""
    artifact = write_examples(tmp_path / "transformed", [{"label": i} for i in range(5)], files=2)
    os.symlink("Split-eval", tmp_path / "transformed" / "Split-train")
    artifact.split_names = artifact_utils.encode_split_names(["train", "eval"])
    return artifact


def load_made_up(name):
    """What it answers to a row is its label."""

    def answer(records):
        parsed = tf.io.parse_example(records, {"label": tf.io.FixedLenFeature([1], tf.int64)})
        return {name: parsed["label"].numpy().astype(np.float32)}

    return answer


@pytest.fixture
def answer(tmp_path, transformed, monkeypatch):
    """Runs the executor with a made-up teacher; returns how that was named, and the examples."""

    def answer(*, model="model", **properties):
        calls = []

        def answers_fn(**given):
            calls.append(given)
            return functools.partial(load_made_up, "answer")

        module = types.ModuleType("made_up_answers")
        module.answers_fn = answers_fn
        monkeypatch.setitem(sys.modules, "made_up_answers", module)
        graph, teacher = standard_artifacts.TransformGraph(), standard_artifacts.Model()
        graph.uri, teacher.uri = str(tmp_path / "graph"), str(tmp_path / "model")
        examples = standard_artifacts.Examples()
        examples.uri = str(tmp_path / "answered")
        (tmp_path / "model" / "Format-Serving").mkdir(parents=True)
        (tmp_path / "model" / "Format-Serving" / "saved_model.pb").touch()
        context = Executor.Context(
            beam_pipeline_args=["--runner=FnApiRunner", "--direct_running_mode=in_memory"],
            tmp_dir=str(tmp_path / "tmp"),
            unique_id="1",
        )
        Executor(context).Do(
            {
                "transformed_examples": [transformed],
                "transform_graph": [graph],
                "model": [teacher] if model else [],
            },
            {"examples": [examples]},
            {
                "answers_fn": "made_up_answers.answers_fn",
                "task": TASKS["sst2"].to_json(),
                "lowercase": 1,
                **properties,
            },
        )
        return calls, examples

    return answer


def content(artifact, split):
    folder = pathlib.Path(artifact_utils.get_split_uri([artifact], split))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_train_is_answered_and_eval_copied(answer, transformed, tmp_path):
    ((call,), examples) = answer()
    assert artifact_utils.decode_split_names(examples.split_names) == ["train", "eval"]
    assert content(examples, "eval") == content(transformed, "eval")
    assert content(examples, "train").keys() == content(transformed, "train").keys()
    split = artifact_utils.get_split_uri([examples], "train")
    answered = [example.features.feature for example in read_examples(split)]
    assert [feature["label"].int64_list.value[0] for feature in answered] == [0, 2, 4, 1, 3]
    for feature in answered:
        assert feature["answer"].float_list.value == feature["label"].int64_list.value
    assert sorted(path.name for path in (tmp_path / "answered").iterdir()) == [
        *("Split-eval", "Split-train"),
    ]
    assert call["model"] == str(tmp_path / "model" / "Format-Serving")
    assert call["transform_graph"] == str(tmp_path / "graph")
    assert call["task"] == TASKS["sst2"]
    assert call["lowercase"] is True


@pytest.mark.parametrize(("rows_seen", "asked"), [(4, 0), (5, 1), (6, 1)])
def test_teacher_is_asked_where_all_rows_are_seen(answer, transformed, rows_seen, asked):
    calls, examples = answer(rows_seen=rows_seen)
    assert len(calls) == asked
    assert (content(examples, "train") == content(transformed, "train")) == (not asked)


def test_there_may_be_no_teacher(answer):
    ((call,), _) = answer(model=None)
    assert call["model"] is None
