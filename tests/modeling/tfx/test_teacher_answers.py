"""A teacher's answers beside the rows are those that it gives when it is asked."""

import dataclasses
import glob
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from bert_tfx.modeling.encoders.bert import BertEncoder
from bert_tfx.modeling.encoders.classifier import TextClassifier
from bert_tfx.modeling.export.trained_model import TrainedModel
from bert_tfx.modeling.tfx.teacher_answers import answers_fn
from bert_tfx.modeling.tfx.transformed_rows import TEACHER_LOGITS, read_rows, read_teacher_logits
from bert_tfx.modeling.training.fine_tuning import predict_rows
from bert_tfx.modeling.training.train_step import predictor
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.tasks import TASKS


def make_teacher(folder, vocab_file, max_length):
    keras.utils.set_random_seed(1)
    encoder = BertEncoder(
        vocab_size=15,
        hidden_dim=8,
        num_layers=1,
        num_heads=2,
        intermediate_dim=16,
        max_length=max_length,
    )
    model = TrainedModel(
        classifier=TextClassifier(encoder, num_labels=2),
        task=TASKS["sst2"],
        vocab_file=vocab_file,
        lowercase=True,
        max_length=max_length,
        eval_fraction=0.0,
        training={},
    )
    model.save(str(folder))
    return folder, model.classifier


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, vocab_file):
    return make_teacher(tmp_path_factory.mktemp("teacher"), vocab_file, 8)


@pytest.fixture
def ask(single, teacher, tmp_path):
    """Asks the teacher about the rows of `single`; returns where the copy is."""
    transform_output, pattern = single

    def ask(**changes):
        (source,) = glob.glob(pattern)
        target = tmp_path / pathlib.Path(source).name
        given = {"model": str(teacher[0]), "task": TASKS["sst2"], "lowercase": True}
        graph = pathlib.Path(transform_output.transform_savedmodel_dir).parent
        files = {source: str(target)}
        answers_fn(**given | {"transform_graph": str(graph), "files": files} | changes)
        return source, target

    return ask


def examples(path):
    for record in tf.data.TFRecordDataset(str(path), "GZIP"):
        yield tf.train.Example.FromString(record.numpy())


def test_answers_are_those_of_the_teacher(ask, single, teacher):
    _, target = ask()
    rows = read_rows([single[1]], single[0])
    answers = read_teacher_logits([str(target)], 2)
    assert answers.dtype == np.float32
    np.testing.assert_array_equal(answers, predict_rows(predictor(teacher[1]), rows))


def test_nothing_else_is_changed(ask):
    source, target = ask()
    answered = list(examples(target))
    assert len(answered) == 4
    for example in answered:
        del example.features.feature[TEACHER_LOGITS]
    assert answered == list(examples(source))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": None}, "distill: there is no teacher"),
        ({"lowercase": False}, "this teacher is uncased and the student cased"),
        (
            {"task": dataclasses.replace(TASKS["sst2"], labels=("bad", "good"))},
            "this teacher answers '0', '1', and sst2 has the labels 'bad', 'good'",
        ),
    ],
)
def test_teacher_that_does_not_fit(ask, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        ask(**changes)
    assert not list(tmp_path.iterdir())


def test_teacher_with_too_few_positions(ask, tmp_path_factory, tmp_path, vocab_file):
    folder, _ = make_teacher(tmp_path_factory.mktemp("short"), vocab_file, 7)
    message = r"the teacher has positions for 7 tokens, and the student reads rows of up to 8: set"
    with pytest.raises(InputError, match=message):
        ask(model=str(folder))
    assert not list(tmp_path.iterdir())
