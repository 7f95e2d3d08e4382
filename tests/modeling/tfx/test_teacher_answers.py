"""A teacher's answers beside the rows are those that it gives when it is asked."""

import dataclasses
import glob
import pathlib
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf

from bert_tfx.modeling.encoders.bert import BertEncoder
from bert_tfx.modeling.encoders.classifier import TextClassifier
from bert_tfx.modeling.export.trained_model import TrainedModel
from bert_tfx.modeling.tfx.teacher_answers import answers_fn
from bert_tfx.modeling.tfx.transformed_rows import TEACHER_LOGITS, read_rows
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
def records(single):
    """The examples of `single`, serialized."""
    (path,) = glob.glob(single[1])
    (batch,) = tf.data.TFRecordDataset(path, "GZIP").batch(100)
    return batch


@pytest.fixture
def check(single, teacher):
    """Checks the teacher; returns what loads it."""

    def check(**changes):
        graph = pathlib.Path(single[0].transform_savedmodel_dir).parent
        given = {"model": str(teacher[0]), "task": TASKS["sst2"], "lowercase": True}
        return answers_fn(**given | {"transform_graph": str(graph)} | changes)

    return check


@pytest.fixture
def load(check):
    """Loads the teacher as on a worker, which is sent how to."""
    return lambda **changes: pickle.loads(pickle.dumps(check(**changes)))()


def test_answers_are_those_of_the_teacher(load, records, single, teacher):
    answers = load()(records)
    assert list(answers) == [TEACHER_LOGITS]
    assert answers[TEACHER_LOGITS].dtype == np.float32
    rows = read_rows([single[1]], single[0])
    expected = predict_rows(predictor(teacher[1]), rows)
    np.testing.assert_array_equal(answers[TEACHER_LOGITS], expected)


def test_answers_do_not_depend_on_the_batch(load, records):
    answer = load()
    parts = [answer(records[start : start + 1])[TEACHER_LOGITS] for start in range(len(records))]
    np.testing.assert_allclose(np.concatenate(parts), answer(records)[TEACHER_LOGITS], atol=1e-6)


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
def test_teacher_that_does_not_fit(check, changes, message):
    with pytest.raises(InputError, match=message):
        check(**changes)


def test_teacher_with_too_few_positions(load, records, tmp_path, vocab_file):
    folder, _ = make_teacher(tmp_path, vocab_file, 7)
    answer = load(model=str(folder))
    message = r"the teacher has positions for 7 tokens, and the student reads rows of up to 8: set"
    with pytest.raises(InputError, match=message):
        answer(records)
