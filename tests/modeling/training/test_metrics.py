import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from bert_tfx.modeling.training import metrics, recipes

LABELS = np.array([0, 0, 0, 1, 1, 1, 1, 1])
# Answers 0, 0, 1, 1, 1, 1, 0, 0: two of three of class 0 are right, three of five of class 1.
LOGITS = np.array([[2, 1], [1, 0], [0, 1], [0, 2], [1, 3], [0, 1], [3, 1], [1, 0]], np.float32)


def test_two_classes():
    result = metrics.evaluation_metrics(LABELS, LOGITS)
    assert result["accuracy"] == 5 / 8
    assert result["balanced_accuracy"] == pytest.approx((2 / 3 + 3 / 5) / 2)
    f1_of_0, f1_of_1 = 2 * 2 / (2 * 2 + 2 + 1), 2 * 3 / (2 * 3 + 1 + 2)
    assert result["f1"] == pytest.approx(f1_of_1)
    assert result["macro_f1"] == pytest.approx((f1_of_0 + f1_of_1) / 2)
    assert result["mcc"] == pytest.approx((2 * 3 - 2 * 1) / np.sqrt(4 * 3 * 4 * 5))
    margins = np.array([1, 1, -1, 2, 2, 1, -2, -1])
    assert result["loss"] == pytest.approx(np.log1p(np.exp(-margins)).mean())


def test_all_that_a_recipe_may_name_is_there():
    assert set(metrics.evaluation_metrics(LABELS, LOGITS)) == set(recipes.METRICS)


def test_more_classes_have_no_f1_of_one():
    rng = np.random.default_rng(0)
    labels, logits = rng.integers(0, 4, 200), rng.normal(size=(200, 4))
    result = metrics.evaluation_metrics(labels, logits)
    assert set(result) == set(recipes.METRICS) - {"f1"}
    answers = logits.argmax(axis=1)
    assert result["balanced_accuracy"] == pytest.approx(
        sklearn_metrics.balanced_accuracy_score(labels, answers)
    )
    assert result["mcc"] == pytest.approx(sklearn_metrics.matthews_corrcoef(labels, answers))


def test_one_class_for_all():
    """Without warnings: they are errors here."""
    logits = np.array([[0.0, 9.0], [0.0, 9.0]])
    result = metrics.evaluation_metrics(np.array([0, 0]), logits)
    assert result["loss"] == pytest.approx(9.0, rel=1e-4)
    others = set(result) - {"loss"}
    assert {result[name] for name in others} == {0.0}


def test_the_loss_of_a_sure_answer_is_finite():
    result = metrics.evaluation_metrics(np.array([1]), np.array([[1e4, 0.0]], np.float32))
    assert result["loss"] == 1e4


def test_probabilities_may_come_as_logarithms():
    probabilities = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
    given = metrics.evaluation_metrics(LABELS, np.log(probabilities))
    assert given == pytest.approx(metrics.evaluation_metrics(LABELS, LOGITS), rel=1e-6)


def test_confusion_matrix_counts_answers_by_label():
    assert metrics.confusion_matrix(LABELS, LOGITS).tolist() == [[2, 1], [2, 3]]
    # A class that nobody named has its row and column.
    logits = np.array([[5.0, 0.0, 0.0], [0.0, 5.0, 0.0]])
    counts = metrics.confusion_matrix(np.array([0, 0]), logits)
    assert counts.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 0]]
