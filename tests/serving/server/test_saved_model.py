import weakref

import grpc
import numpy as np
import pytest
import tensorflow as tf

from bert_tfx.serving.server.refused import Refused
from bert_tfx.serving.server.saved_model import SavedModel


class Classifier(tf.Module):
    def __init__(self):
        super().__init__()
        self.weight = tf.Variable([[1.0, 2.0]])

    def save(self, folder, *, pairs=False, broken=False):
        names = ("text_a", "text_b")[: 1 + pairs]

        def serve_text(**texts):
            length = tf.cast(tf.strings.length(texts["text_a"]), tf.float32)[:, None]
            if broken:
                length = tf.strings.to_number(texts["text_a"])[:, None]
            return {"probabilities": length @ self.weight}

        def serve(examples):
            spec = {name: tf.io.FixedLenFeature([], tf.string) for name in names}
            return serve_text(**tf.io.parse_example(examples, spec))

        signatures = {
            "serve_text": tf.function(serve_text).get_concrete_function(
                **{name: tf.TensorSpec([None], tf.string, name=name) for name in names}
            ),
            "serving_default": tf.function(serve).get_concrete_function(
                tf.TensorSpec([None], tf.string, name="examples")
            ),
        }
        tf.saved_model.save(self, str(folder), signatures=signatures)
        return str(folder)


TEXTS = np.array([b"abc", "很".encode()], object)


@pytest.mark.parametrize("pairs", [False, True])
def test_runs_and_makes_up_its_warm_up(tmp_path, pairs):
    path = Classifier().save(tmp_path / "1", pairs=pairs)
    model = SavedModel(path)
    # Two signatures, two sizes.
    assert model.warm_up(path) == 4
    inputs = {"text_a": TEXTS} | ({"text_b": TEXTS} if pairs else {})
    np.testing.assert_array_equal(model.run("serve_text", inputs)["probabilities"], [[3, 6]] * 2)
    assert model.joins_rows("serve_text")
    assert sorted(model.signature_defs) == [
        "__saved_model_init_op",
        "serve_text",
        "serving_default",
    ]
    model.close()


def test_memory_is_given_back(tmp_path):
    model = SavedModel(Classifier().save(tmp_path / "1"))
    model.run("serve_text", {"text_a": TEXTS})
    graph = weakref.ref(model._session.graph)
    model.close()
    assert graph() is None


def test_a_failing_graph_is_told_without_its_nodes(tmp_path):
    model = SavedModel(Classifier().save(tmp_path / "1", broken=True))
    with pytest.raises(Refused) as caught:
        model.run("serve_text", {"text_a": TEXTS})
    assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT
    assert str(caught.value) == "StringToNumberOp could not correctly convert string: abc"
    with pytest.raises(Refused, match="warm-up request of 'serve_text' failed: StringToNumberOp"):
        model.warm_up(str(tmp_path / "1"))
    model.close()


def test_a_model_without_its_variables(tmp_path):
    path = Classifier().save(tmp_path / "1")
    for file in (tmp_path / "1" / "variables").iterdir():
        file.unlink()
    with pytest.raises(ValueError, match="not a valid checkpoint"):
        SavedModel(path)


def test_what_is_no_saved_model(tmp_path):
    with pytest.raises(OSError, match="SavedModel file does not exist"):
        SavedModel(str(tmp_path))
