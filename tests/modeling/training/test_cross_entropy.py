import numpy as np
import pytest

from bert_tfx.modeling.training.cross_entropy import CrossEntropy

LABELS = np.array([0, 2, 1, 1, 0], np.int32)
LOGITS = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
WEIGHTS = np.array([0.5, 1.0, 3.0])


def numpy_loss(weights, smoothing):
    """PyTorch's CrossEntropyLoss, reduction="mean", in its own two terms."""
    log_p = LOGITS - np.log(np.exp(LOGITS).sum(axis=1, keepdims=True))
    of_label = -(weights[LABELS] * log_p[np.arange(5), LABELS]).sum()
    of_all = -(weights * log_p).sum()
    return ((1 - smoothing) * of_label + smoothing / 3 * of_all) / weights[LABELS].sum()


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_is_the_weighted_mean(weights, smoothing):
    loss = CrossEntropy(weights, smoothing)(LABELS, LOGITS)
    expected = numpy_loss(np.ones(3) if weights is None else weights, smoothing)
    assert float(loss) == pytest.approx(expected, rel=1e-6)
