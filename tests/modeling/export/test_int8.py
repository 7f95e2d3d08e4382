"""Products in 8 bits, against products of the same numbers."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from bert_tfx.modeling.encoders.albert import AlbertEncoder
from bert_tfx.modeling.encoders.bert import BertEncoder
from bert_tfx.modeling.encoders.classifier import TextClassifier
from bert_tfx.modeling.encoders.distil_bert import DistilBertEncoder
from bert_tfx.modeling.export.int8 import (
    KERNEL_LEVELS,
    LEVELS,
    ZERO_POINT,
    Int8Computation,
    quantized,
)
from bert_tfx.modeling.export.matrix_layers import matrix_layers, matrix_of

SIZE = {
    "vocab_size": 50,
    "hidden_dim": 32,
    "num_layers": 2,
    "num_heads": 2,
    "intermediate_dim": 64,
    "max_length": 16,
    "initializer_range": 0.2,
}


def make(encoder=BertEncoder, **options):
    keras.utils.set_random_seed(1)
    return TextClassifier(encoder(**SIZE, **options), 2)


def whole_numbers(rng, *shape, axis, largest):
    """Whole numbers of which each row or column has the largest."""
    numbers = rng.integers(1 - largest, largest, shape).astype(np.float32)
    np.put_along_axis(numbers, np.zeros_like(numbers.take([0], axis), int), largest, axis)
    return numbers


def test_whole_numbers_are_multiplied_exactly():
    classifier = make()
    rng = np.random.default_rng(1)
    layer = classifier.encoder.blocks[0].intermediate_dense
    kernel = whole_numbers(rng, 32, 64, axis=0, largest=63)
    bias = rng.integers(-9, 9, 64).astype(np.float32)
    layer.kernel.assign(kernel)
    layer.bias.assign(bias)
    inputs = whole_numbers(rng, 5, 32, axis=1, largest=127)

    computation = Int8Computation(classifier)
    compute = tf.function(lambda rows: layer(rows))
    with computation.computing():
        found = compute(tf.constant(inputs)).numpy()
        zeros = layer(tf.zeros([1, 32])).numpy()
    np.testing.assert_array_equal(found, inputs @ kernel + bias)
    np.testing.assert_array_equal(zeros[0], bias)
    # And afterwards the layer is what it was.
    assert "call" not in vars(layer)


def test_sums_of_two_products_fit_into_16_bits():
    """Processors without VNNI have no more room, and would cut off what is larger."""
    assert 2 * (ZERO_POINT + LEVELS) * KERNEL_LEVELS < 2**15


def test_each_column_of_a_kernel_and_row_of_a_table_has_its_own_scale():
    classifier = make()
    for layer in matrix_layers(classifier):
        matrix, scales = quantized(layer)
        axis, largest = (0, 63) if isinstance(layer, keras.layers.Dense) else (1, 127)
        assert np.abs(matrix).max(axis).tolist() == [largest] * matrix.shape[1 - axis]
        off = np.abs(matrix * scales - np.array(matrix_of(layer)))
        assert (off <= 0.5001 * scales).all()


@pytest.mark.parametrize(
    ("encoder", "options", "layers"),
    [
        (BertEncoder, {}, 3 + 2 * 6),
        (DistilBertEncoder, {}, 2 + 2 * 6),
        (AlbertEncoder, {"embedding_dim": 16}, 4 + 6),
    ],
)
def test_a_rows_answer_is_near_and_its_own(encoder, options, layers):
    classifier = make(encoder, **options)
    assert len(matrix_layers(classifier)) == layers
    rng = np.random.default_rng(2)
    rows = {
        "token_ids": rng.integers(1, 50, (4, 9)).astype(np.int32),
        "segment_ids": rng.integers(0, 2, (4, 9)).astype(np.int32),
        "padding_mask": np.ones((4, 9), np.int32),
    }
    expected = np.array(classifier(rows, training=False))
    computation = Int8Computation(classifier)
    with computation.computing():
        found = np.array(classifier(rows, training=False))
        first = {name: values[:1] for name, values in rows.items()}
        alone = np.array(classifier(first, training=False))
    assert 0 < np.abs(found - expected).max() < 0.1 * expected.std() + 0.02
    np.testing.assert_allclose(alone, found[:1], atol=0.01)
    np.testing.assert_array_equal(np.array(classifier(rows, training=False)), expected)
