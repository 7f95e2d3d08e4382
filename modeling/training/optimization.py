"""AdamW as BERT uses it: linear warm-up and decay, what does not decay, rates by layer.

Reference: google-research/bert, `optimization.py`; Loshchilov and Hutter 2019 (arXiv:1711.05101).
"""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops

# In the reference, LayerNorm's scale and shift and every bias keep their weights.
_NO_WEIGHT_DECAY = ["bias", "beta", "gamma"]


@keras.saving.register_keras_serializable(package="bert_tfx")
class WarmupLinearDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Grows linearly from 0 to the peak, then falls linearly to 0.

    Step k of n steps, the first being 0, has during the w steps of warm-up the rate
    `peak * (k + 1) / w` and after them `peak * (n - k) / (n - w)`. Two others differ:

    - google-research/bert, `optimization.py`: `peak * k / w` (so that the first step is at rate 0),
      then `peak * (n - k) / n`, which jumps down at the end of the warm-up.
    - huggingface/transformers, `get_linear_schedule_with_warmup`: `peak * k / w`, then
      `peak * (n - k) / (n - w)`.

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


@keras.saving.register_keras_serializable(package="bert_tfx")
class LayerwiseAdamW(keras.optimizers.AdamW):
    """AdamW with a factor for each variable's learning rate.

    The factor scales the whole update, weight decay included: scaling gradients would change
    nothing, as Adam divides by their size.

    A variable is updated by one kernel of TensorFlow, `ResourceApplyAdam`, in place of a dozen
    passes over its elements and of as many nodes in the graph. The numbers are Keras' own, up to
    rounding.

    Under a `tf.distribute` strategy `apply` takes gradients that are summed over all replicas
    already, so that clipping sees their true norm.

    Args:
        rate_factors: One for each variable, in the order that the optimizer is built with; None
            stands for 1 everywhere.
        **kwargs: Those of `keras.optimizers.AdamW`.
    """

    def __init__(self, *, rate_factors: Sequence[float] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rate_factors = None if rate_factors is None else tuple(rate_factors)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Lets a variable decay, then updates it, both at its own rate.

        Args:
            gradient: float, of the variable's shape.
            variable: The `tf.Variable`.
            learning_rate: What `_backend_update_step` makes of it.
        """
        index = self._get_variable_index(variable)
        rate = learning_rate["lr"]
        if self.rate_factors is not None:
            rate = rate * self.rate_factors[index]
        if self.weight_decay and self._use_weight_decay(variable):
            variable.assign_sub(variable * (rate * self.weight_decay))
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            grad=tf.cast(gradient, tf.float32),
            **learning_rate | {"lr": rate},
        )

    def _backend_update_step(
        self, grads: Sequence[Any], trainable_variables: Sequence[Any], learning_rate: Any
    ) -> None:
        """Computes once what the kernel is given for each variable."""
        step = tf.cast(self.iterations.value + 1, tf.float32)
        beta_1, beta_2, epsilon = tf.unstack(tf.constant([self.beta_1, self.beta_2, self.epsilon]))
        numbers = {
            "lr": tf.cast(learning_rate, tf.float32),
            "beta1": beta_1,
            "beta2": beta_2,
            "beta1_power": beta_1**step,
            "beta2_power": beta_2**step,
            "epsilon": epsilon,
        }
        super()._backend_update_step(grads, trainable_variables, numbers)

    def _apply_weight_decay(self, variables: Sequence[Any]) -> None:
        """Does nothing: `update_step` knows each variable's rate."""

    def _clip_gradients(self, grads: Sequence[Any]) -> Sequence[Any]:
        """Clips by the global norm, with one pass for it and one for the product."""
        if not self.global_clipnorm:
            return super()._clip_gradients(grads)
        return tf.clip_by_global_norm(grads, self.global_clipnorm)[0]

    def _all_reduce_sum_gradients(self, grads_and_vars: Sequence[Any]) -> Sequence[Any]:
        """Changes nothing: Keras would sum over replicas here, after clipping."""
        return grads_and_vars

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "rate_factors": self.rate_factors}


def adamw(
    *,
    learning_rate: float,
    warmup_steps: int,
    total_steps: int,
    weight_decay: float,
    clip_norm: float,
    rate_factors: Sequence[float] | None = None,
) -> LayerwiseAdamW:
    """Makes BERT's optimizer.

    Args:
        learning_rate: The highest rate of the schedule.
        warmup_steps: Steps of linear warm-up.
        total_steps: All steps; the rate is 0 after them.
        weight_decay: Decoupled weight decay, scaled by the rate; biases and LayerNorms are spared.
        clip_norm: Global norm to which gradients are clipped.
        rate_factors: See `LayerwiseAdamW` and `layer_rate_factors`.

    Returns:
        AdamW with beta 0.9 and 0.999 and epsilon 1e-6.
    """
    optimizer = LayerwiseAdamW(
        # Part of its variables' names in a saved state; Keras would number it.
        name="adamw",
        learning_rate=WarmupLinearDecay(learning_rate, warmup_steps, total_steps),
        weight_decay=weight_decay,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-6,
        global_clipnorm=clip_norm,
        rate_factors=rate_factors,
    )
    optimizer.exclude_from_weight_decay(var_names=_NO_WEIGHT_DECAY)
    return optimizer


def layer_rate_factors(model: keras.Model, layer_decay: float) -> list[float]:
    """Returns the factor of each trainable variable's rate under layer-wise decay.

    With L blocks: 1 for the head and BERT's pooler, `layer_decay ** (L - i)` for block i (the
    lowest is 0), `layer_decay ** (L + 1)` for the embeddings. ALBERT's one block counts as one.

    Reference: Clark et al. 2020 (arXiv:2003.10555), section 3.1. google-research/electra,
    `model/optimization.py`, leaves one more power between the head and the topmost block.

    Args:
        model: A classifier, or one that learns from teachers; its `trainable_variables` give the
            order.
        layer_decay: The factor from a layer to the one below it.
    """
    blocks = model.encoder.blocks
    powers = dict.fromkeys(_ids(model.encoder.embedding_layers()), len(blocks) + 1)
    for i, block in enumerate(blocks):
        powers |= dict.fromkeys(_ids([block]), len(blocks) - i)
    return [layer_decay ** powers.get(id(v), 0) for v in model.trainable_variables]


def _ids(layers: Sequence[keras.layers.Layer]) -> list[int]:
    return [id(variable) for layer in layers for variable in layer.variables]
