import dataclasses
import os

import keras
import numpy as np
import pytest
import tensorflow as tf

from bert_tfx.modeling.encoders.bert import BertEncoder
from bert_tfx.modeling.encoders.classifier import TextClassifier
from bert_tfx.modeling.export import saved_model
from bert_tfx.modeling.export.saved_model import (
    about_exported,
    load_exported_classifier,
    load_exported_model,
    save_for_serving,
    served_ops,
)
from bert_tfx.modeling.export.trained_model import TrainedModel, load_trained_model
from bert_tfx.modeling.export.weight_storage import rounded
from bert_tfx.schema.digests import sha256_of
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.tasks import TASKS

TEXTS = [b"a b c", b"h g f e d", b"", b"b b b b b b b b b b b b b"]


@pytest.fixture(scope="module")
def model(vocab_file):
    keras.utils.set_random_seed(1)
    encoder = BertEncoder(
        vocab_size=400,
        num_layers=2,
        hidden_dim=32,
        num_heads=2,
        intermediate_dim=64,
        initializer_range=0.2,
        max_length=16,
    )
    return TrainedModel(
        classifier=TextClassifier(encoder, 2),
        task=TASKS["sst2"],
        vocab_file=vocab_file,
        lowercase=False,
        max_length=16,
        eval_fraction=0.1,
        training={},
    )


@pytest.fixture(scope="module")
def plain(model, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("plain"))
    save_for_serving(model, folder)
    return folder


def ask(folder):
    served = tf.saved_model.load(folder).signatures["serve_text"]
    return served(text_a=tf.constant(TEXTS))["probabilities"].numpy()


def ask_as_a_server(folder):
    """As TF Serving loads it: a session, the variables restored, the initializer run."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        graph = tf.compat.v1.saved_model.load(session, ["serve"], folder)
        signature = graph.signature_def["serve_text"]
        feed = {signature.inputs["text_a"].name: TEXTS}
        # Twice: what is loaded once must last.
        answers = [
            session.run(signature.outputs["probabilities"].name, feed_dict=feed) for _ in range(2)
        ]
    np.testing.assert_array_equal(*answers)
    return answers[0]


def size_of_weights(folder):
    return os.path.getsize(os.path.join(folder, "variables", "variables.data-00000-of-00001"))


@pytest.mark.parametrize(
    ("storage", "near"),
    [("float16", 1e-3), pytest.param("bfloat16", 2e-2, marks=pytest.mark.slow)],
)
def test_export_is_half_as_large_and_answers_as_the_rounded_model(
    model, plain, tmp_path, storage, near
):
    narrow = dataclasses.replace(
        model, classifier=rounded(model.classifier, storage), storage=storage
    )
    narrow.save(str(tmp_path / "model"))
    loaded = load_trained_model(str(tmp_path / "model"))
    assert loaded.storage == storage
    folder, wide = str(tmp_path / "narrow"), str(tmp_path / "wide")
    save_for_serving(loaded, folder)
    save_for_serving(dataclasses.replace(loaded, storage="float32"), wide)

    # Of so small a model the weights' names are a good part.
    assert size_of_weights(folder) < 0.57 * size_of_weights(plain)
    assert not served_ops(folder)["other"]
    assert about_exported(folder)["storage"] == storage
    np.testing.assert_array_equal(ask(folder), ask(wide))
    np.testing.assert_array_equal(ask_as_a_server(folder), ask_as_a_server(wide))
    np.testing.assert_allclose(ask(folder), ask(plain), atol=near)
    assert np.abs(ask(folder) - ask(plain)).max() > 0
    again = load_exported_model(folder, model.task, 0.1)
    assert again.storage == storage
    for ours, theirs in zip(again.classifier.weights, narrow.classifier.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    # Of so small a model the rest, which stays, is a good part.
    ("storage", "size", "near"),
    [
        pytest.param("bfloat16_compute", 0.6, 0.02, marks=pytest.mark.slow),
        ("int8", 0.45, 0.05),
    ],
)
def test_export_that_computes_in_fewer_bits_is_near(model, plain, tmp_path, storage, size, near):
    narrow = dataclasses.replace(
        model, classifier=rounded(model.classifier, storage), storage=storage
    )
    narrow.save(str(tmp_path / "model"))
    loaded = load_trained_model(str(tmp_path / "model"))
    folder, wide = str(tmp_path / "narrow"), str(tmp_path / "wide")
    save_for_serving(loaded, folder)
    save_for_serving(dataclasses.replace(loaded, storage="float32"), wide)

    assert size_of_weights(folder) < size * size_of_weights(plain)
    assert not served_ops(folder)["other"]
    assert about_exported(folder)["storage"] == storage
    found = ask_as_a_server(folder)
    np.testing.assert_allclose(found, ask(folder), atol=1e-3)
    np.testing.assert_allclose(found, ask(plain), atol=near)
    # What is computed in float32 from the same weights is something else.
    assert np.abs(found - ask(wide)).max() > 1e-6
    for ours, theirs in zip(
        load_exported_classifier(folder).weights, narrow.classifier.weights, strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_int8_export_says_what_its_onnx_file_is(model, tmp_path, monkeypatch):
    narrow = dataclasses.replace(model, storage="int8")
    for installed in (True, False):
        folder = tmp_path / str(installed)
        monkeypatch.setattr(saved_model, "is_onnx_installed", lambda installed=installed: installed)
        save_for_serving(narrow, str(folder))
        file = folder / "assets.extra" / "int8.onnx"
        assert file.exists() == installed
        said = about_exported(str(folder))["sha256"].get("onnx")
        assert said == (sha256_of(str(file)) if installed else None)


@pytest.mark.slow
def test_two_models_in_a_process_keep_their_own_weights(model, tmp_path):
    folders = []
    for number in range(2):
        classifier = rounded(model.classifier, "float16")
        kernel = classifier.logits.kernel
        kernel.assign(kernel * (1 - 2 * number))
        folders.append(str(tmp_path / str(number)))
        one = dataclasses.replace(model, classifier=classifier, storage="float16")
        save_for_serving(one, folders[-1])
    first, second = (tf.saved_model.load(folder).signatures["serve_text"] for folder in folders)
    answers = [
        served(text_a=tf.constant(TEXTS))["probabilities"].numpy() for served in (first, second)
    ]
    np.testing.assert_allclose(answers[0], answers[1][:, ::-1], atol=1e-6)


def test_rounding_is_to_the_nearest_and_of_matrices_alone(model):
    classifier = rounded(model.classifier, "float16")
    for before, after in zip(model.classifier.weights, classifier.weights, strict=True):
        expected = np.array(before)
        if expected.ndim > 1:
            expected = expected.astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(after, expected)


def test_weight_that_does_not_fit_is_told(model):
    classifier = rounded(model.classifier, "float32")
    kernel = classifier.logits.kernel
    kernel.assign(kernel + 1e5)
    with pytest.raises(InputError, match=r"logits/kernel: holds a weight that float16 cannot say"):
        rounded(classifier, "float16")
    rounded(classifier, "bfloat16")
