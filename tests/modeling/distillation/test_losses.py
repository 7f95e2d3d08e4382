import numpy as np
import pytest

from bert_tfx.modeling.distillation import losses

B, T, H, D, C = 3, 6, 2, 4, 3
LENGTHS = (6, 4, 1)
MASK = np.array([[1] * n + [0] * (T - n) for n in LENGTHS], "int32")


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def softmax(x):
    powers = np.exp(x.astype("float64"))
    return powers / powers.sum(axis=-1, keepdims=True)


def test_soft_targets_are_the_mean_of_softened_probabilities():
    first, second = normal(0, B, C), 5 * normal(1, B, C)
    np.testing.assert_allclose(
        losses.soft_targets([first, second], 2.5),
        (softmax(first / 2.5) + softmax(second / 2.5)) / 2,
        atol=1e-6,
    )
    np.testing.assert_allclose(losses.soft_targets([first], 1.0), softmax(first), atol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_soft_target_loss_is_the_scaled_divergence(temperature):
    targets, logits = softmax(normal(0, B, C)), normal(1, B, C)
    student = softmax(logits / temperature)
    expected = temperature**2 * (targets * np.log(targets / student)).sum(axis=-1)
    loss = losses.soft_target_loss(targets.astype("float32"), logits, temperature)
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


def test_the_same_answers_are_no_loss_and_sure_ones_are_finite():
    logits = normal(0, B, C)
    same = losses.soft_target_loss(losses.soft_targets([logits], 2.0), logits, 2.0)
    np.testing.assert_allclose(same, 0, atol=1e-6)
    sure = losses.soft_target_loss(losses.soft_targets([500 * logits], 1.0), logits, 1.0)
    assert np.isfinite(np.asarray(sure)).all()


def test_cosine_loss():
    student, teacher = normal(0, B, T, D), normal(1, B, T, D)
    expected = [
        np.mean(
            [
                1 - s @ t / np.linalg.norm(s) / np.linalg.norm(t)
                for s, t in zip(student[i, :n], teacher[i, :n], strict=True)
            ]
        )
        for i, n in enumerate(LENGTHS)
    ]
    np.testing.assert_allclose(losses.cosine_loss(student, teacher, MASK), expected, rtol=1e-5)
    np.testing.assert_allclose(losses.cosine_loss(student, 3 * student, MASK), 0, atol=1e-6)


def test_hidden_loss():
    student, teacher = normal(0, B, T, D), normal(1, B, T, D)
    expected = [((student[i, :n] - teacher[i, :n]) ** 2).mean() for i, n in enumerate(LENGTHS)]
    np.testing.assert_allclose(losses.hidden_loss(student, teacher, MASK), expected, rtol=1e-5)


def test_attention_loss():
    student, teacher = normal(0, B, H, T, T), normal(1, B, H, T, T)
    expected = [
        ((student[i, :, :n, :n] - teacher[i, :, :n, :n]) ** 2).mean() for i, n in enumerate(LENGTHS)
    ]
    np.testing.assert_allclose(losses.attention_loss(student, teacher, MASK), expected, rtol=1e-5)


SHAPES = {"cosine_loss": (B, T, D), "hidden_loss": (B, T, D), "attention_loss": (B, H, T, T)}


@pytest.mark.parametrize("name", SHAPES)
def test_padding_counts_nowhere(name):
    """Neither what stands there nor how much of it there is; a row of nothing else is 0."""
    loss, shape = getattr(losses, name), SHAPES[name]
    student, teacher = normal(0, *shape), normal(1, *shape)
    expected = np.asarray(loss(student, teacher, MASK))

    places = MASK[:, :, None] * np.ones((1, 1, D))
    if name == "attention_loss":
        places = (MASK[:, None, :, None] * MASK[:, None, None, :]) * np.ones((1, H, 1, 1))
    other = np.where(places == 1, student, 1e3 * normal(2, *shape)).astype("float32")
    np.testing.assert_allclose(loss(other, teacher, MASK), expected, rtol=1e-5)

    tokens = [(0, 3) if size == T else (0, 0) for size in shape]
    wider = [np.pad(x, tokens, constant_values=7.0) for x in (student, teacher)]
    wider[0] += 5 * (wider[0] == 7.0)
    mask = np.pad(MASK, ((0, 0), (0, 3)))
    np.testing.assert_allclose(loss(*wider, mask), expected, rtol=1e-5)
    np.testing.assert_array_equal(loss(student, teacher, 0 * MASK), 0)
