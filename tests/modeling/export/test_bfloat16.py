"""Products in bfloat16, against NumPy's of the same rounded numbers."""

import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from bert_tfx.modeling.encoders.albert import AlbertEncoder
from bert_tfx.modeling.encoders.bert import BertEncoder
from bert_tfx.modeling.encoders.classifier import TextClassifier
from bert_tfx.modeling.encoders.distil_bert import DistilBertEncoder
from bert_tfx.modeling.export.bfloat16 import Bfloat16Computation
from bert_tfx.modeling.export.matrix_layers import matrix_layers, matrix_of
from bert_tfx.modeling.export.weight_storage import rounded


def make(encoder_type=BertEncoder, **options):
    keras.utils.set_random_seed(1)
    encoder = encoder_type(
        vocab_size=50,
        hidden_dim=32,
        num_layers=2,
        num_heads=2,
        intermediate_dim=64,
        max_length=16,
        initializer_range=0.2,
        **options,
    )
    return TextClassifier(encoder, 2)


def narrow(values):
    return np.asarray(values, np.float32).astype(ml_dtypes.bfloat16).astype(np.float32)


def test_product_is_of_rounded_numbers():
    classifier = make()
    rng = np.random.default_rng(1)
    layer = classifier.encoder.blocks[0].intermediate_dense
    layer.bias.assign(rng.normal(size=64))
    inputs = rng.normal(size=(5, 32)).astype(np.float32)
    with Bfloat16Computation(classifier).computing():
        found = layer(tf.constant(inputs)).numpy()
    product, bias = narrow(inputs) @ narrow(layer.kernel), narrow(layer.bias)
    assert found.dtype == np.float32
    # The product is rounded to 8 bits, and its sum with the bias once more.
    np.testing.assert_array_equal(found, narrow(found))
    assert (np.abs(found - product - bias) <= 2**-7 * (np.abs(product) + np.abs(bias))).all()
    assert np.abs(found - inputs @ np.array(layer.kernel) - np.array(layer.bias)).max() > 1e-3
    # And afterwards the layer is what it was.
    np.testing.assert_allclose(
        layer(tf.constant(inputs)), inputs @ np.array(layer.kernel) + layer.bias, atol=1e-5
    )


def test_looked_up_rows_are_the_rounded_ones():
    classifier = make()
    table = classifier.encoder.token_embedding
    with Bfloat16Computation(classifier).computing():
        found = table(tf.constant([[3, 4]])).numpy()
    np.testing.assert_array_equal(found[0], narrow(table.embeddings)[[3, 4]])


def test_only_what_is_multiplied_so_is_rounded():
    classifier = make()
    held = rounded(classifier, "bfloat16_compute")
    paths = {matrix_of(layer).path for layer in matrix_layers(classifier)}
    assert set(Bfloat16Computation(classifier).matrices) == paths
    for before, after in zip(classifier.weights, held.weights, strict=True):
        expected = narrow(before) if before.path in paths else np.array(before)
        np.testing.assert_array_equal(after, expected)
    assert not {"logits/kernel", "pooler/kernel"} & {path.split("/", 1)[1] for path in paths}


@pytest.mark.parametrize(
    ("encoder", "options"),
    [(BertEncoder, {}), (DistilBertEncoder, {}), (AlbertEncoder, {"embedding_dim": 16})],
)
def test_answers_are_near_those_of_float32(encoder, options):
    classifier = make(encoder, **options)
    rng = np.random.default_rng(1)
    ids = tf.constant(rng.integers(5, 50, (6, 12)), tf.int32)
    mask = tf.sequence_mask([12, 3, 7, 1, 12, 5], 12, tf.int32)
    rows = {"token_ids": ids, "segment_ids": tf.zeros_like(ids), "padding_mask": mask}
    wide = tf.nn.softmax(classifier(rows, training=False)).numpy()
    with Bfloat16Computation(classifier).computing():
        found = tf.nn.softmax(classifier(rows, training=False)).numpy()
    np.testing.assert_allclose(found, wide, atol=0.02)
    assert np.abs(found - wide).max() > 1e-5
