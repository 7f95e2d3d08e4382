import math

import keras
import numpy as np
import pytest
from keras import ops

from bert_tfx.modeling.encoders.config import EncoderConfig
from bert_tfx.modeling.encoders.transformer import (
    SelfAttention,
    TransformerBlock,
    kernel_initializer,
    padding_scores,
)

B, T, H, D, INNER = 3, 7, 4, 5, 11
HIDDEN = H * D
LENGTHS = (7, 4, 1)
MASK = np.array([[1] * n + [0] * (T - n) for n in LENGTHS], "int32")
REAL = MASK.reshape(-1).astype(bool)  # [B*T]
PADDING = padding_scores(MASK)
SIZE = {
    "vocab_size": 2,
    "hidden_dim": HIDDEN,
    "num_layers": 1,
    "num_heads": H,
    "intermediate_dim": INNER,
}


def randomize(layer, seed=0):
    """Gives every weight a value that is neither 0 nor 1, so that none can be left out."""
    random = np.random.default_rng(seed)
    for weight in layer.weights:
        weight.assign(random.normal(0.3, 0.3, weight.shape))


def hidden_rows(seed=1):
    return np.random.default_rng(seed).normal(size=(B * T, HIDDEN)).astype("float32")


def make_block(dtype=None, **kwargs):
    block = TransformerBlock(EncoderConfig(**SIZE, **kwargs), dtype=dtype)
    block.build()
    randomize(block)
    return block


# --- the same by hand, in float64 and one example and head at a time ---


def dense(layer, x):
    return x @ np.asarray(layer.kernel, "float64") + np.asarray(layer.bias, "float64")


def norm(layer, x):
    gamma, beta = np.asarray(layer.gamma, "float64"), np.asarray(layer.beta, "float64")
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(
        x.var(-1, keepdims=True) + 1e-12
    ) * gamma + beta


def attend(layer, x):
    query, key, value = (
        dense(d, x) for d in (layer.query_dense, layer.key_dense, layer.value_dense)
    )
    heads = []
    for columns in np.split(np.arange(HIDDEN), H):
        scores = query[:, columns] @ key[:, columns].T / math.sqrt(D)
        weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        heads.append(weights @ value[:, columns])
    return dense(layer.output_dense, np.concatenate(heads, -1))


def gelu_erf(x):
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def gelu_tanh(x):
    return x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


def transform(block, x, gelu):
    x = norm(block.attention_norm, x + attend(block.attention, x))
    return norm(
        block.output_norm, x + dense(block.output_dense, gelu(dense(block.intermediate_dense, x)))
    )


def texts(rows):
    """The rows of each example's tokens, padding cut off."""
    return [rows[i * T : i * T + n].astype("float64") for i, n in enumerate(LENGTHS)]


def test_attention_is_the_formula():
    layer = SelfAttention(EncoderConfig(**SIZE))
    layer.build()
    randomize(layer)
    rows = hidden_rows()
    output = np.asarray(layer(rows, PADDING))
    assert output.shape == (B * T, HIDDEN)
    for i, text in enumerate(texts(rows)):
        np.testing.assert_allclose(
            output[i * T : i * T + len(text)], attend(layer, text), atol=1e-5
        )


@pytest.mark.parametrize(("activation", "gelu"), [("gelu", gelu_erf), ("gelu_tanh", gelu_tanh)])
def test_block_is_the_formula(activation, gelu):
    block, rows = make_block(activation=activation), hidden_rows()
    output = np.asarray(block(rows, PADDING))
    for i, text in enumerate(texts(rows)):
        np.testing.assert_allclose(
            output[i * T : i * T + len(text)], transform(block, text, gelu), atol=2e-5
        )


def test_the_two_gelus_differ():
    exact, tanh = make_block(activation="gelu"), make_block(activation="gelu_tanh")
    rows = hidden_rows()
    assert np.abs(np.asarray(exact(rows, PADDING)) - np.asarray(tanh(rows, PADDING))).max() > 1e-5


def test_padding_is_not_looked_at():
    block, rows = make_block(), hidden_rows()
    others = np.where(REAL[:, None], rows, 7.0)
    np.testing.assert_array_equal(
        np.asarray(block(rows, PADDING))[REAL], np.asarray(block(others, PADDING))[REAL]
    )


def test_mask_may_be_bool():
    np.testing.assert_array_equal(padding_scores(MASK.astype(bool)), PADDING)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_mask_is_safe_in_every_float_type(policy):
    block = make_block(dtype=policy)
    rows, mask = 20.0 * hidden_rows(), MASK.copy()
    mask[2] = 0  # nothing but padding
    output = block(ops.convert_to_tensor(rows), padding_scores(mask))
    assert keras.backend.standardize_dtype(output.dtype) == block.compute_dtype
    output = np.asarray(ops.cast(output, "float32"))
    assert np.isfinite(output).all()
    others = np.where(mask.reshape(-1, 1), rows, -rows)
    changed = block(ops.convert_to_tensor(others), padding_scores(mask))
    real = mask.reshape(-1).astype(bool)
    np.testing.assert_array_equal(output[real], np.asarray(ops.cast(changed, "float32"))[real])


def test_dropout_is_active_only_in_training():
    rows = hidden_rows()
    for kwargs in (
        {"hidden_dropout": 0.5, "attention_dropout": 0.0},
        {"hidden_dropout": 0.0, "attention_dropout": 0.5},
    ):
        block = make_block(**kwargs)
        quiet = np.asarray(block(rows, PADDING))
        np.testing.assert_array_equal(quiet, block(rows, PADDING, training=False))
        assert np.abs(quiet - np.asarray(block(rows, PADDING, training=True)))[REAL].max() > 1e-2


@pytest.mark.parametrize("silenced", ["attention", "feed-forward"])
def test_hidden_dropout_acts_on_both_parts(silenced):
    block, rows = make_block(hidden_dropout=0.5, attention_dropout=0.0), hidden_rows()
    dense = block.attention.output_dense if silenced == "attention" else block.output_dense
    for weight in dense.weights:
        weight.assign(np.zeros(weight.shape))
    quiet, loud = block(rows, PADDING), block(rows, PADDING, training=True)
    assert np.abs(np.asarray(quiet) - np.asarray(loud))[REAL].max() > 1e-2


def test_no_dropout_means_training_changes_nothing():
    block, rows = make_block(hidden_dropout=0.0, attention_dropout=0.0), hidden_rows()
    np.testing.assert_array_equal(block(rows, PADDING, training=True), block(rows, PADDING))


def test_variables_exist_before_the_first_call_and_start_unequal():
    block = TransformerBlock(EncoderConfig(**SIZE), name="block_0")
    block.build()
    assert [weight.path for weight in block.weights] == [
        "block_0/attention/query/kernel",
        "block_0/attention/query/bias",
        "block_0/attention/key/kernel",
        "block_0/attention/key/bias",
        "block_0/attention/value/kernel",
        "block_0/attention/value/bias",
        "block_0/attention/output/kernel",
        "block_0/attention/output/bias",
        "block_0/attention_norm/gamma",
        "block_0/attention_norm/beta",
        "block_0/intermediate/kernel",
        "block_0/intermediate/bias",
        "block_0/output/kernel",
        "block_0/output/bias",
        "block_0/output_norm/gamma",
        "block_0/output_norm/beta",
    ]
    kernels = [np.asarray(w) for w in block.attention.weights if w.name == "kernel"]
    for i, kernel in enumerate(kernels):
        assert not any((kernel == other).any() for other in kernels[:i])


def test_kernels_start_truncated_normal():
    values = np.asarray(kernel_initializer(0.02)((400, 400)))
    assert np.abs(values).max() <= 0.04
    assert abs(values.mean()) < 2e-4
    assert abs(values.std() - 0.0176) < 2e-4  # 0.88 of 0.02: what cutting at 2 sigma leaves
