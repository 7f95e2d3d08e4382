"""What a classifier's logits are worth on the rows that it learns from."""

from typing import Any

import keras
import numpy as np
from keras import ops


class CrossEntropy(keras.losses.Loss):
    """Softmax cross-entropy with class weights and label smoothing, in nats.

    With w the class weights, s the smoothing and C the number of classes, a row of class y has
    the target t = (1 - s) * onehot(y) + s / C and the loss -sum_c w_c * t_c * log p_c. The loss of
    a batch is the sum over its rows, divided by the sum of their w_y: PyTorch's
    `CrossEntropyLoss(weight=w, label_smoothing=s, reduction="mean")`.

    Args:
        class_weights: float `[C]`, or None for all 1.
        label_smoothing: s.
    """

    def __init__(
        self, class_weights: np.ndarray | None = None, label_smoothing: float = 0.0
    ) -> None:
        super().__init__(name="cross_entropy")
        self.class_weights = None if class_weights is None else class_weights.astype(np.float32)
        self.label_smoothing = label_smoothing

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Returns the loss of a batch.

        Args:
            y_true: int32 `[B]`, class indices.
            y_pred: float32 `[B, C]`, logits.
            sample_weight: Keras' and not used.

        Returns:
            float32 `[]`.
        """
        labels = ops.cast(ops.reshape(y_true, (-1,)), "int32")
        return ops.sum(self.call(labels, y_pred)) / self.total_weight(labels)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Returns each row's loss, float32 `[B]`."""
        if self.class_weights is None and not self.label_smoothing:
            return ops.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)
        classes = y_pred.shape[-1]
        targets = ops.one_hot(y_true, classes) * (1.0 - self.label_smoothing)
        targets += self.label_smoothing / classes
        if self.class_weights is not None:
            targets *= self.class_weights
        return -ops.sum(targets * ops.log_softmax(y_pred, axis=-1), axis=-1)

    def total_weight(self, labels: Any) -> Any:
        """Returns what the rows of a batch count together, float32 `[]`."""
        if self.class_weights is None:
            return ops.cast(ops.size(labels), "float32")
        return ops.sum(ops.take(self.class_weights, labels))
