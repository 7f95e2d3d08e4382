import keras
import numpy as np
import pytest

from bert_tfx.modeling.encoders.albert import AlbertEncoder
from bert_tfx.modeling.encoders.bert import BertEncoder
from bert_tfx.modeling.encoders.classifier import TextClassifier
from bert_tfx.modeling.encoders.distil_bert import DistilBertEncoder
from bert_tfx.modeling.training import optimization


def test_schedule_grows_to_the_peak_and_falls_to_zero():
    schedule = optimization.WarmupLinearDecay(peak=2.0, warmup_steps=4, total_steps=10)
    rates = [float(schedule(step)) for step in range(12)]
    assert rates[:4] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert rates[4:] == pytest.approx([2.0, 5 / 3, 4 / 3, 1.0, 2 / 3, 1 / 3, 0.0, 0.0])


def test_schedule_without_warmup_starts_at_the_peak():
    schedule = optimization.WarmupLinearDecay(peak=1.0, warmup_steps=0, total_steps=2)
    assert [float(schedule(step)) for step in range(3)] == pytest.approx([1.0, 0.5, 0.0])


def test_schedule_survives_serialization():
    schedule = optimization.WarmupLinearDecay(peak=1.0, warmup_steps=3, total_steps=7)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert copy.get_config() == schedule.get_config()


def make_layers():
    dense = keras.layers.Dense(3, kernel_initializer=keras.initializers.RandomNormal(seed=1))
    dense.build((None, 3))
    norm = keras.layers.LayerNormalization()
    norm.build((None, 3))
    return dense, norm


def test_biases_and_layer_norms_do_not_decay():
    dense, norm = make_layers()
    variables = [*dense.trainable_variables, *norm.trainable_variables]
    for variable in variables:
        variable.assign(np.ones(variable.shape))
    optimizer = optimization.adamw(
        learning_rate=0.5, warmup_steps=0, total_steps=10, weight_decay=0.1, clip_norm=1.0
    )
    optimizer.apply([keras.ops.zeros(v.shape) for v in variables], variables)
    assert np.allclose(dense.kernel, 1 - 0.5 * 0.1)
    for variable in (dense.bias, norm.gamma, norm.beta):
        assert np.array_equal(variable, np.ones(variable.shape))


def test_gradients_are_clipped_by_their_global_norm():
    dense, _ = make_layers()
    optimizer = optimization.adamw(
        learning_rate=0.1, warmup_steps=0, total_steps=10, weight_decay=0.0, clip_norm=1.0
    )
    optimizer.build(dense.trainable_variables)
    gradients = [keras.ops.full(v.shape, 100.0) for v in dense.trainable_variables]
    optimizer.apply(gradients, dense.trainable_variables)
    momentum = [np.asarray(m) for m in optimizer._momentums]
    norm = np.sqrt(sum((m**2).sum() for m in momentum)) / (1 - 0.9)
    assert norm == pytest.approx(1.0, rel=1e-4)


def make_classifier(encoder_class=BertEncoder):
    encoder = encoder_class(
        vocab_size=10, hidden_dim=4, num_layers=3, num_heads=2, intermediate_dim=8, max_length=8
    )
    return TextClassifier(encoder, num_labels=2)


def test_rates_by_layer():
    model = make_classifier()
    factors = optimization.layer_rate_factors(model, 0.5)
    names = [variable.path.split("/") for variable in model.trainable_variables]
    by_layer = {[*path, ""][1]: factor for path, factor in zip(names, factors, strict=True)}
    assert by_layer == {
        "token_embedding": 0.5**4,
        "position_embedding": 0.5**4,
        "segment_embedding": 0.5**4,
        "embeddings_norm": 0.5**4,
        "block_0": 0.5**3,
        "block_1": 0.5**2,
        "block_2": 0.5**1,
        "pooler": 1.0,
        "logits": 1.0,
    }


def test_rates_by_layer_of_distil_bert():
    model = make_classifier(DistilBertEncoder)
    factors = optimization.layer_rate_factors(model, 0.5)
    assert len(factors) == len(model.trainable_variables)
    assert factors[:4] == [0.5**4] * 4
    assert factors[-4:] == [1.0] * 4


def test_rates_by_layer_of_albert():
    encoder = AlbertEncoder(
        vocab_size=10,
        embedding_dim=2,
        hidden_dim=4,
        num_layers=3,
        num_heads=2,
        intermediate_dim=8,
        max_length=8,
    )
    model = TextClassifier(encoder, num_labels=2)
    factors = optimization.layer_rate_factors(model, 0.5)
    names = [variable.path.split("/") for variable in model.trainable_variables]
    by_layer = {[*path, ""][1]: factor for path, factor in zip(names, factors, strict=True)}
    assert by_layer.pop("block") == 0.5
    assert by_layer.pop("pooler") == by_layer.pop("logits") == 1.0
    assert set(by_layer.values()) == {0.5**2} and "embeddings_projection" in by_layer


def take_steps(variables, factors, *, weight_decay=0.1):
    optimizer = optimization.adamw(
        learning_rate=0.1,
        warmup_steps=0,
        total_steps=10,
        weight_decay=weight_decay,
        clip_norm=1e9,
        rate_factors=factors,
    )
    optimizer.build(variables)
    for gradient in (3.0, -1.0, 2.0):
        optimizer.apply([keras.ops.full(v.shape, gradient) for v in variables], variables)
    return [np.asarray(variable) for variable in variables]


def reference_steps(start, gradients, factor, *, weight_decay):
    """AdamW as in Loshchilov and Hutter, algorithm 2, with a rate that falls from 0.1 to 0."""
    weight, m, v = start, 0.0, 0.0
    for k, gradient in enumerate(gradients):
        rate = 0.1 * (10 - k) / 10 * factor
        m = 0.9 * m + 0.1 * gradient
        v = 0.999 * v + 0.001 * gradient**2
        bias = np.sqrt(1 - 0.999 ** (k + 1)) / (1 - 0.9 ** (k + 1))
        weight -= rate * weight_decay * weight
        weight -= rate * bias * m / (np.sqrt(v) + 1e-6)
    return weight


@pytest.mark.parametrize("factors", [None, (1.0, 1.0), (0.5, 0.25)])
def test_factors_scale_the_whole_update(factors):
    dense, _ = make_layers()
    dense.kernel.assign(np.full((3, 3), 2.0))
    dense.bias.assign(np.full(3, 2.0))
    kernel, bias = take_steps(dense.trainable_variables, factors)
    of_kernel, of_bias = factors or (1.0, 1.0)
    gradients = (3.0, -1.0, 2.0)
    expected = reference_steps(2.0, gradients, of_kernel, weight_decay=0.1)
    assert np.allclose(kernel, expected, rtol=1e-5)
    # The bias does not decay.
    expected = reference_steps(2.0, gradients, of_bias, weight_decay=0.0)
    assert np.allclose(bias, expected, rtol=1e-5)


def learn(optimizer, variables):
    """Fifty steps on made-up gradients; the norms of some are above 1, of others below."""
    optimizer.build(variables)
    rng = np.random.default_rng(1)
    for k in range(50):
        size = 0.01 if k % 2 else 1.0
        gradients = [rng.normal(0, size, v.shape).astype(np.float32) for v in variables]
        optimizer.apply([keras.ops.convert_to_tensor(g) for g in gradients], variables)
    return [np.asarray(variable) for variable in variables]


def test_one_kernel_computes_what_keras_computes_by_elements():
    schedule = optimization.WarmupLinearDecay(1e-3, 5, 60)
    elementwise = keras.optimizers.AdamW(
        learning_rate=schedule, weight_decay=0.01, epsilon=1e-6, global_clipnorm=1.0
    )
    elementwise.exclude_from_weight_decay(var_names=["bias", "beta", "gamma"])
    fused = optimization.adamw(
        learning_rate=1e-3, warmup_steps=5, total_steps=60, weight_decay=0.01, clip_norm=1.0
    )
    expected, learned = (
        learn(optimizer, [v for layer in make_layers() for v in layer.trainable_variables])
        for optimizer in (elementwise, fused)
    )
    for one, other in zip(learned, expected, strict=True):
        assert np.abs(other).max() > 1e-3
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


def test_optimizer_survives_serialization():
    optimizer = optimization.adamw(
        learning_rate=0.1,
        warmup_steps=0,
        total_steps=10,
        weight_decay=0.1,
        clip_norm=1.0,
        rate_factors=[0.5, 1.0],
    )
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(optimizer))
    assert isinstance(copy, optimization.LayerwiseAdamW)
    assert copy.rate_factors == (0.5, 1.0)
    assert copy.get_config() == optimizer.get_config()
