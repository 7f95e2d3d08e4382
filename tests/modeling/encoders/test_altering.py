import keras
import numpy as np
import pytest

from bert_tfx.modeling.encoders.altering import altered


class Doubled(keras.layers.Layer):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(3)

    def call(self, inputs):
        return 2 * self.dense(inputs)


@pytest.fixture
def layer():
    layer = Doubled()
    layer.dense.build((None, 2))
    layer.built = True
    return layer


def test_layer_computes_otherwise_for_a_while(layer):
    rows = np.ones((1, 2), np.float32)
    before = np.asarray(layer(rows))
    with altered(layer, dense=lambda inputs: inputs):
        np.testing.assert_array_equal(layer(rows), 2 * rows)
        with altered(layer, call=lambda inputs, training=None: inputs):
            np.testing.assert_array_equal(layer(rows), rows)
        np.testing.assert_array_equal(layer(rows), 2 * rows)
    np.testing.assert_array_equal(layer(rows), before)


def test_layer_is_afterwards_as_it_was(layer):
    attributes, weights = list(layer.__dict__), [weight.path for weight in layer.weights]
    other = keras.layers.Dense(5)
    other.build((None, 2))
    with pytest.raises(KeyError), altered(layer, dense=other, call=other):
        # Keras does not take it for one of the layer's own.
        assert [weight.path for weight in layer.weights] == weights
        raise KeyError
    assert list(layer.__dict__) == attributes
    assert [weight.path for weight in layer.weights] == weights
