"""A model as this project exports it, on the server."""

import os
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from bert_tfx.modeling.encoders.bert import BertEncoder
from bert_tfx.modeling.encoders.classifier import TextClassifier
from bert_tfx.modeling.export import saved_model
from bert_tfx.modeling.export.trained_model import TrainedModel
from bert_tfx.schema.tasks import TASKS
from bert_tfx.serving.client import Client
from bert_tfx.serving.protocol.errors import BadRequest
from bert_tfx.serving.server.saved_model import SavedModel

TEXTS = ["a good film", "the room was dreadful", "", "好", "good " * 30]


def exported(folder, vocab_file, task) -> str:
    keras.utils.set_random_seed(1)
    encoder = BertEncoder(
        vocab_size=len(vocab_file.read_text(encoding="utf-8").splitlines()),
        hidden_dim=8,
        num_layers=2,
        num_heads=2,
        intermediate_dim=16,
        max_length=16,
        initializer_range=0.5,
    )
    model = TrainedModel(
        TextClassifier(encoder, num_labels=2), TASKS[task], str(vocab_file), True, 16, 0.0, {}
    )
    saved_model.save_for_serving(model, str(folder))
    return str(folder)


@pytest.fixture(scope="module")
def single(tmp_path_factory, vocab_file):
    base = tmp_path_factory.mktemp("single")
    exported(base / "1", vocab_file, "sst2")
    return base


@pytest.fixture(scope="module")
def direct(single):
    """What TensorFlow's own loader answers for `TEXTS`."""
    loaded = tf.saved_model.load(str(single / "1"))
    answers = loaded.signatures["serve_text"](text_a=tf.constant(TEXTS))
    return {name: value.numpy() for name, value in answers.items()}


def test_the_graph_alone_has_all_it_needs(single, direct):
    """TF Serving restores by the graph, not by the objects that TensorFlow's loader goes by."""
    model = SavedModel(str(single / "1"))
    assert model.warm_up(str(single / "1")) == 6
    found = model.run("serve_text", {"text_a": np.array([t.encode() for t in TEXTS], object)})
    for name, values in direct.items():
        np.testing.assert_array_equal(found[name], values)
    assert all(map(model.joins_rows, ("serve_text", "serving_default", "slice_features")))
    model.close()


@pytest.mark.slow
def test_pairs(tmp_path, vocab_file):
    model = SavedModel(exported(tmp_path / "1", vocab_file, "lcqmc"))
    assert model.warm_up(str(tmp_path / "1")) == 6
    # Without a file of requests, some are made up.
    os.remove(tmp_path / "1" / "assets.extra" / "tf_serving_warmup_requests")
    assert model.warm_up(str(tmp_path / "1")) == 4
    model.close()


def test_served(single, direct):
    program = (
        "import argparse, sys\n"
        "from bert_tfx.pipeline.commands import serve\n"
        "parser = argparse.ArgumentParser()\n"
        "serve.add(parser.add_subparsers())\n"
        "arguments = parser.parse_args(['serve', *sys.argv[1:]])\n"
        "sys.exit(arguments.command(arguments))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, "--model", str(single), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
    ) as process:
        try:
            line = process.stdout.readline()
            found = re.fullmatch(r"serving model 'model' version 1: gRPC on (.*)\n", line)
            assert found, process.communicate()[1]
            with Client(found[1], timeout=30) as client:
                for text, label, probabilities in zip(
                    TEXTS, direct["label"], direct["probabilities"], strict=True
                ):
                    (answer,) = client.predict([text])
                    assert answer.label == label.decode()
                    assert list(answer.probabilities.values()) == pytest.approx(
                        probabilities.tolist(), abs=1e-6
                    )
                assert [a.label.encode() for a in client.predict(TEXTS)] == direct["label"].tolist()
                with pytest.raises(BadRequest, match=r"takes the inputs 'text_a'\. Received: 'te"):
                    client.predict(["a"], ["b"])
        finally:
            process.terminate()
        assert process.wait(30) == 0
