"""ONNX Runtime in TensorFlow's place: the same questions, the same answers."""

import json
import shutil

import grpc
import numpy as np
import pytest
import tensorflow as tf

from bert_tfx.schema.errors import InputError
from bert_tfx.serving import backends
from bert_tfx.serving.backends import ONNX, ONNX_FILE, TENSORFLOW, check_model, has_onnx
from bert_tfx.serving.client import Client
from bert_tfx.serving.server import onnx_model
from bert_tfx.serving.server.loading import load_model
from bert_tfx.serving.server.process import LOCAL_SERVER, one_model_server
from bert_tfx.serving.server.refused import Refused

TEXTS = ["a good film", "the room was dreadful", "", "好", "good " * 30]


@pytest.fixture(scope="module")
def single(tmp_path_factory, export_model):
    return str(export_model(tmp_path_factory.mktemp("single") / "1", storage="int8"))


@pytest.fixture(scope="module")
def models(single):
    loaded = {backend: load_model(single, backend) for backend in (TENSORFLOW, ONNX)}
    yield loaded
    for model in loaded.values():
        model.close()


def column(values):
    array = np.empty(len(values), object)
    array[:] = [value if isinstance(value, bytes) else value.encode() for value in values]
    return array


def example(**texts):
    features = {
        name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[text.encode()]))
        for name, text in texts.items()
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def check_same(found, expected):
    assert found.keys() == expected.keys()
    np.testing.assert_allclose(found["probabilities"], expected["probabilities"], atol=5e-3)
    for name in ("label", "classes", "truncated"):
        np.testing.assert_array_equal(found[name], expected[name])
        assert found[name].dtype == expected[name].dtype


def test_both_doors_answer_as_tensorflow_does(models):
    asked = {
        "serve_text": {"text_a": column(TEXTS)},
        "serving_default": {"examples": column([example(text_a=text) for text in TEXTS])},
    }
    for name, inputs in asked.items():
        check_same(models[ONNX].run(name, inputs), models[TENSORFLOW].run(name, inputs))
    assert models[ONNX].signatures == models[TENSORFLOW].signatures
    sliced = models[ONNX].run("slice_features", asked["serving_default"])
    assert sliced["length_bucket"].tolist()[0] == b"000-015"


def test_no_answer_depends_on_the_other_rows(models, monkeypatch):
    together = models[ONNX].run("serve_text", {"text_a": column(TEXTS)})["probabilities"]
    monkeypatch.setattr(onnx_model, "_TOKENS_PER_MICRO_BATCH", 8)
    parts = models[ONNX].run("serve_text", {"text_a": column(TEXTS)})["probabilities"]
    np.testing.assert_allclose(parts, together, atol=1e-5)
    none = models[ONNX].run("serve_text", {"text_a": column([])})
    assert none["probabilities"].shape == (0, 2)


def test_a_text_that_is_not_utf8_is_refused_alike(models):
    for model in models.values():
        with pytest.raises(Refused) as caught:
            model.run("serve_text", {"text_a": column([b"\xff"])})
        assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT


def test_what_onnx_runtime_says_is_told(models, monkeypatch):
    def tokens(self, name, inputs):
        return {"token_ids": np.full((1, 3), 99_999, np.int32), "num_tokens": np.array([3])}

    monkeypatch.setattr(onnx_model.SavedModel, "run", tokens)
    with pytest.raises(Refused, match=r"ONNX Runtime: .*out of") as caught:
        models[ONNX].run("serve_text", {"text_a": column(["a"])})
    assert caught.value.code is grpc.StatusCode.INTERNAL


@pytest.mark.slow
def test_pairs(tmp_path, export_model):
    path = str(export_model(tmp_path / "1", "lcqmc", storage="int8"))
    inputs = {"text_a": column(TEXTS), "text_b": column(TEXTS[::-1])}
    answers = []
    for backend in (ONNX, TENSORFLOW):
        model = load_model(path, backend)
        assert model.warm_up(path) == 6
        answers.append(model.run("serve_text", inputs))
        model.close()
    check_same(*answers)


def test_an_export_without_the_file_is_refused(single, tmp_path, export_model):
    plain = str(export_model(tmp_path / "plain"))
    assert has_onnx(single)
    assert not has_onnx(plain)
    check_model(plain, TENSORFLOW)
    with pytest.raises(InputError, match=r"plain: holds no assets.extra/int8.onnx.*bert-tfx\[onnx"):
        load_model(plain, ONNX)


def test_another_file_than_the_export_names_is_refused(single, tmp_path):
    copied = tmp_path / "1"
    shutil.copytree(single, copied)
    (copied / ONNX_FILE).write_bytes(b"another")
    with pytest.raises(InputError, match=r"is not the file that .*bert_tfx.json names"):
        load_model(str(copied), ONNX)
    about = copied / "assets.extra" / "bert_tfx.json"
    about.write_text(json.dumps({"labels": ["a", "b"]}))
    with pytest.raises(InputError, match="cannot be read as an export in 8 bits: KeyError"):
        load_model(str(copied), ONNX)


def test_missing_runtime_is_told(single, monkeypatch):
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'onnxruntime.*pip install "bert-tfx\[onnx\]"'):
        check_model(single, ONNX)
    check_model(single, TENSORFLOW)


def test_served(single, models):
    expected = models[ONNX].run("serve_text", {"text_a": column(TEXTS)})
    with one_model_server(single, backend=ONNX) as server:
        assert server.program == LOCAL_SERVER
        with Client(server.target, timeout=30) as client:
            answers = client.predict(TEXTS)
    found = [list(answer.probabilities.values()) for answer in answers]
    np.testing.assert_allclose(found, expected["probabilities"], atol=1e-5)
