import keras
import numpy as np
import pytest

from bert_tfx.modeling import optimization


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
    dense = keras.layers.Dense(3)
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
