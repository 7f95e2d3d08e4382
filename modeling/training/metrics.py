"""What a classifier's answers are worth: loss, accuracy, F1, correlation, confusion matrix."""

from typing import Any

import numpy as np
from sklearn import metrics as sklearn_metrics


def evaluation_metrics(labels: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    """Computes all metrics of some answers.

    Args:
        labels: int `[rows]`, class indices; at least one row.
        logits: float `[rows, classes]`. Logarithms of probabilities are logits, too.

    Returns:
        - `loss`: mean cross-entropy, nats.
        - `accuracy`: share of rows whose class has the highest logit (the first one of equals).
        - `macro_f1`: mean of all classes' F1, of those that occur among labels or answers.
        - `f1`: F1 of the class with index 1; only where there are two classes.
        - `mcc`: Matthews' correlation coefficient (Gorodkin 2004 for more than two classes), 0
          where all labels or all answers are alike.
        - `balanced_accuracy`: mean of the recalls of all classes that occur among the labels.

        A precision or recall of nothing counts as 0.
    """
    answers = logits.argmax(axis=1)
    result = {
        "loss": _cross_entropy(labels, logits),
        "accuracy": sklearn_metrics.accuracy_score(labels, answers),
        "macro_f1": sklearn_metrics.f1_score(labels, answers, average="macro", zero_division=0),
        "mcc": sklearn_metrics.matthews_corrcoef(labels, answers),
        # Not balanced_accuracy_score: it warns of every answer that is no label's.
        "balanced_accuracy": sklearn_metrics.recall_score(
            labels, answers, labels=np.unique(labels), average="macro", zero_division=0
        ),
    }
    if logits.shape[1] == 2:
        result["f1"] = sklearn_metrics.f1_score(labels, answers, zero_division=0)
    return {name: float(value) for name, value in result.items()}


def confusion_matrix(labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Counts the answers to each label.

    Args:
        labels: int `[rows]`, class indices.
        logits: float `[rows, classes]`, or probabilities.

    Returns:
        int64 `[classes, classes]`: at [i, j] the rows with label i that were answered by j.
    """
    counts: np.ndarray[Any, Any] = sklearn_metrics.confusion_matrix(
        labels, logits.argmax(axis=1), labels=np.arange(logits.shape[1])
    )
    return counts


def _cross_entropy(labels: np.ndarray, logits: np.ndarray) -> float:
    # Not sklearn's log_loss: it takes probabilities, and clips those near 0.
    logits = logits.astype(np.float64)
    logits = logits - logits.max(axis=1, keepdims=True)
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return float(-log_probabilities[np.arange(len(labels)), labels].mean())
