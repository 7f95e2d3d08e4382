"""AdamW as BERT uses it: linear warm-up and decay, and what does not decay.

Reference: google-research/bert, `optimization.py`; Loshchilov and Hutter 2019 (arXiv:1711.05101).
"""

from typing import Any

import keras
from keras import ops

# In the reference, LayerNorm's scale and shift and every bias keep their weights.
_NO_WEIGHT_DECAY = ["bias", "beta", "gamma"]


@keras.saving.register_keras_serializable(package="bert_tfx")
class WarmupLinearDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Grows linearly from 0 to the peak, then falls linearly to 0.

    Args:
        peak: The highest rate.
        warmup_steps: Steps until the peak.
        total_steps: Steps until 0.
    """

    def __init__(self, peak: float, warmup_steps: int, total_steps: int) -> None:
        super().__init__()
        self.peak = peak
        self.warmup_steps = warmup_steps
        self.total_steps = total_steps

    def __call__(self, step: Any) -> Any:
        """Returns the rate of a step, float32 `[]`, where the first step is number 0."""
        step = ops.cast(step, "float32")
        # With the step about to be taken counted in: at rate 0 the first one would be for nothing.
        warmup = (step + 1.0) / max(1.0, float(self.warmup_steps))
        decay = (self.total_steps - step) / max(1.0, float(self.total_steps - self.warmup_steps))
        return self.peak * ops.maximum(0.0, ops.minimum(1.0, ops.minimum(warmup, decay)))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            "peak": self.peak,
            "warmup_steps": self.warmup_steps,
            "total_steps": self.total_steps,
        }


def adamw(
    *,
    learning_rate: float,
    warmup_steps: int,
    total_steps: int,
    weight_decay: float,
    clip_norm: float,
) -> keras.optimizers.Optimizer:
    """Makes BERT's optimizer.

    Args:
        learning_rate: The highest rate of the schedule.
        warmup_steps: Steps of linear warm-up.
        total_steps: All steps; the rate is 0 after them.
        weight_decay: Decoupled weight decay, scaled by the rate; biases and LayerNorms are spared.
        clip_norm: Global norm to which gradients are clipped.

    Returns:
        AdamW with beta 0.9 and 0.999 and epsilon 1e-6.
    """
    optimizer = keras.optimizers.AdamW(
        learning_rate=WarmupLinearDecay(learning_rate, warmup_steps, total_steps),
        weight_decay=weight_decay,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-6,
        global_clipnorm=clip_norm,
    )
    optimizer.exclude_from_weight_decay(var_names=_NO_WEIGHT_DECAY)
    return optimizer
