"""What a student is held against its teacher by, row by row.

Each function returns one number for each row, float32 `[B]`, so that batches can be divided and
rows weighted. Positions where the mask is 0 count nowhere: neither what they hold nor how many
they are changes a loss.

Shapes: B batch, T tokens, H heads.
"""

from collections.abc import Sequence

from keras import ops

from bert_tfx.modeling.encoders.transformer import Tensor

_SMALLEST_PROBABILITY = 1e-30
_SMALLEST_SQUARE = 1e-24


def soft_targets(logits: Sequence[Tensor], temperature: float) -> Tensor:
    """Returns the mean of what several teachers answer, softened.

    Probabilities are averaged, not logits: their mean is a distribution that each teacher has the
    same share of, whereas a mean of logits is that of the teacher with the largest ones. Hinton et
    al. 2015 (arXiv:1503.02531), section 1, name the arithmetic mean of the distributions, too.

    Args:
        logits: float [B, C] of each teacher.
        temperature: What they are divided by.

    Returns:
        float32 [B, C], rows that sum to 1.
    """
    answers = [ops.softmax(ops.cast(x, "float32") / temperature, axis=-1) for x in logits]
    return sum(answers[1:], answers[0]) / len(answers)


def soft_target_loss(targets: Tensor, logits: Tensor, temperature: float) -> Tensor:
    """Returns T^2 sum_c p_c (log p_c - log q_c), p the targets and q = softmax(logits / T).

    Hinton et al. 2015 (arXiv:1503.02531), section 2 with equation 1: the cross-entropy with soft
    targets, times T^2, as its gradient shrinks with 1/T^2. Less the targets' own entropy, which is
    no function of the student: the least value is then 0.

    Args:
        targets: float32 [B, C], from `soft_targets` at the same temperature.
        logits: float32 [B, C], the student's.
        temperature: T.
    """
    log_student = ops.log_softmax(logits / temperature, axis=-1)
    log_targets = ops.log(ops.maximum(targets, _SMALLEST_PROBABILITY))
    return temperature**2 * ops.sum(targets * (log_targets - log_student), axis=-1)


def cosine_loss(student: Tensor, teacher: Tensor, padding_mask: Tensor) -> Tensor:
    """Returns the mean over a row's tokens of 1 - cos(student, teacher).

    Sanh et al. 2019 (arXiv:1910.01108), section 2, L_cos.

    Args:
        student: float [B, T, hidden_dim].
        teacher: The same shape.
        padding_mask: int or bool [B, T].
    """
    student, teacher = ops.cast(student, "float32"), ops.cast(teacher, "float32")
    squares = ops.sum(student**2, axis=-1) * ops.sum(teacher**2, axis=-1)
    cosines = ops.sum(student * teacher, axis=-1) / ops.sqrt(ops.maximum(squares, _SMALLEST_SQUARE))
    return _mean_over_tokens(1.0 - cosines, padding_mask)


def hidden_loss(student: Tensor, teacher: Tensor, padding_mask: Tensor) -> Tensor:
    """Returns the mean squared error over a row's tokens and the width.

    Jiao et al. 2020 (arXiv:1909.10351), equation 8 for hidden states and 9 for embeddings. A
    student of another width is projected before.

    Args:
        student: float [B, T, hidden_dim].
        teacher: The same shape.
        padding_mask: int or bool [B, T].
    """
    difference = ops.cast(student, "float32") - ops.cast(teacher, "float32")
    return _mean_over_tokens(ops.mean(difference**2, axis=-1), padding_mask)


def attention_loss(student: Tensor, teacher: Tensor, padding_mask: Tensor) -> Tensor:
    """Returns the mean squared error over heads and a row's pairs of tokens.

    Jiao et al. 2020 (arXiv:1909.10351), equation 7: on the scores before the softmax.

    Args:
        student: float32 [B, H, T, T], `SelfAttention.scores`.
        teacher: The same shape.
        padding_mask: int or bool [B, T].
    """
    mask = ops.cast(padding_mask, "float32")
    squares = ops.mean((student - teacher) ** 2, axis=1)  # [B, T, T]
    over_keys = ops.sum(squares * mask[:, None, :], axis=-1)  # [B, T]
    return _mean_over_tokens(over_keys, mask) / _number_of_tokens(mask)


def _mean_over_tokens(values: Tensor, padding_mask: Tensor) -> Tensor:
    """[B, T] -> [B]."""
    mask = ops.cast(padding_mask, "float32")
    return ops.sum(values * mask, axis=-1) / _number_of_tokens(mask)


def _number_of_tokens(mask: Tensor) -> Tensor:
    return ops.maximum(ops.sum(mask, axis=-1), 1.0)
