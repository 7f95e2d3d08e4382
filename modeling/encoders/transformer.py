"""Self-attention and the Transformer block that all encoders share.

Shapes: B batch, T tokens, H heads, D head size; H * D = hidden_dim, unless heads were pruned.

Between the layers the hidden states are a matrix [B*T, hidden_dim], one row a token, because
every step but attention treats each token alone. A kernel then meets a matrix, and its gradient
is one matrix product instead of one per example and a sum over them (measured for BERT base on
CPU: 17% off a training step, 26% off inference).

Sources: Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762; Devlin et al. 2018,
"BERT", arXiv:1810.04805; Hendrycks & Gimpel 2016, "Gaussian Error Linear Units",
arXiv:1606.08415.
"""

from typing import Any, TypeAlias

import keras
from keras import ops

from bert_tfx.modeling.encoders.config import EncoderConfig

Tensor: TypeAlias = Any
"""A tensor of whichever Keras backend runs."""

# Added to the float32 score of a padded key: exp() of the sum is exactly 0 beside any real key.
# Finite, unlike -inf, so that a row of nothing but padding gives numbers and not NaN; and within
# float16's range, as Keras casts it on its way into a layer.
PADDING_SCORE = -30_000.0


def kernel_initializer(stddev: float) -> keras.initializers.Initializer:
    """Returns a new truncated normal initializer (arXiv:1810.04805, appendix A.2).

    Make one for each variable: one Keras initializer called twice for the same shape gives the
    same values twice, and query, key and value would start equal.

    Args:
        stddev: Standard deviation before the truncation at two of it. With 0 no numbers are drawn:
            for weights that are loaded, drawing takes longer and more memory than loading.
    """
    if stddev == 0:
        return keras.initializers.Zeros()
    return keras.initializers.TruncatedNormal(stddev=stddev)


def padding_scores(padding_mask: Tensor) -> Tensor:
    """Returns what the scores of padded keys lose, float32 [B, 1, 1, T].

    Args:
        padding_mask: int or bool [B, T], 1 for a token, 0 for padding.
    """
    padding = 1.0 - ops.cast(padding_mask, "float32")
    return PADDING_SCORE * padding[:, None, None, :]


class Configured:
    """A layer that makes its parts as its `config` says, in its own dtype."""

    config: EncoderConfig
    dtype_policy: Any

    def _dense(self, units: int, name: str, activation: str | None = None) -> keras.layers.Dense:
        return keras.layers.Dense(
            units,
            activation=activation,
            kernel_initializer=kernel_initializer(self.config.initializer_range),
            dtype=self.dtype_policy,
            name=name,
        )

    def _norm(self, name: str) -> keras.layers.LayerNormalization:
        return keras.layers.LayerNormalization(
            epsilon=self.config.layer_norm_epsilon, dtype=self.dtype_policy, name=name
        )

    def _dropout(self, name: str) -> keras.layers.Dropout:
        return keras.layers.Dropout(self.config.hidden_dropout, dtype=self.dtype_policy, name=name)


class SelfAttention(Configured, keras.layers.Layer):
    """Multi-head self-attention (arXiv:1706.03762, section 3.2).

    Query, key, value and output are dense layers of their own, as in the published checkpoints.

    Args:
        config: The encoder's.
        **kwargs: `name`, `dtype` and `trainable` of `keras.layers.Layer`.

    Call arguments:
        hidden: float [B*T, hidden_dim].
        padding: float32 [B, 1, 1, T], `padding_scores`.
        training: bool. Whether probabilities are dropped out.

    Returns:
        float [B*T, hidden_dim], in the layer's compute dtype.
    """

    def __init__(self, config: EncoderConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.config = config
        self.inner_dim = config.num_heads * config.head_size
        self.query_dense = self._dense(self.inner_dim, "query")
        self.key_dense = self._dense(self.inner_dim, "key")
        self.value_dense = self._dense(self.inner_dim, "value")
        self.output_dense = self._dense(config.hidden_dim, "output")
        self.probabilities_dropout = keras.layers.Dropout(
            config.attention_dropout, dtype=self.dtype_policy, name="dropout"
        )

    def build(self, input_shape: Any = None) -> None:
        """Creates the variables; `input_shape` is Keras' and not needed for it."""
        for dense in (self.query_dense, self.key_dense, self.value_dense):
            dense.build((None, self.config.hidden_dim))
        self.output_dense.build((None, self.inner_dim))

    def call(self, hidden: Tensor, padding: Tensor, training: bool = False) -> Tensor:
        """Computes Concat(head_1, ..., head_H) W_O; see the class."""
        heads = (-1, ops.shape(padding)[3], self.config.num_heads, self.config.head_size)
        query = ops.reshape(self.query_dense(hidden), heads)  # [B, T, H, D]
        key = ops.reshape(self.key_dense(hidden), heads)
        value = ops.reshape(self.value_dense(hidden), heads)

        scores = ops.einsum("bthd,bshd->bhts", query * self.config.head_size**-0.5, key)
        # In float32 also under mixed precision, for the sum in softmax.
        scores = ops.cast(scores, "float32") + ops.cast(padding, "float32")
        probabilities = ops.softmax(scores, axis=-1)
        probabilities = self.probabilities_dropout(
            ops.cast(probabilities, self.compute_dtype), training=training
        )  # [B, H, T, T]

        context = ops.einsum("bhts,bshd->bthd", probabilities, value)
        return self.output_dense(ops.reshape(context, (-1, self.inner_dim)))


class TransformerBlock(Configured, keras.layers.Layer):
    """One encoder layer: attention, then a feed-forward net (arXiv:1706.03762, section 3.1).

    Post-LN: each of the two parts is LayerNorm(x + Dropout(part(x))), as in the paper.

    Args:
        config: The encoder's.
        **kwargs: `name`, `dtype` and `trainable` of `keras.layers.Layer`.

    Call arguments:
        hidden: float [B*T, hidden_dim].
        padding: float32 [B, 1, 1, T], `padding_scores`.
        training: bool. Whether there is dropout.

    Returns:
        float [B*T, hidden_dim], in the layer's compute dtype.
    """

    def __init__(self, config: EncoderConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.config = config
        self.attention = SelfAttention(config, dtype=self.dtype_policy, name="attention")
        self.attention_norm = self._norm("attention_norm")
        self.intermediate_dense = self._dense(config.intermediate_dim, "intermediate")
        self.output_dense = self._dense(config.hidden_dim, "output")
        self.output_norm = self._norm("output_norm")
        self.dropout = self._dropout("dropout")

    def build(self, input_shape: Any = None) -> None:
        """Creates the variables; `input_shape` is Keras' and not needed for it."""
        self.attention.build()
        self.attention_norm.build((None, self.config.hidden_dim))
        self.intermediate_dense.build((None, self.config.hidden_dim))
        self.output_dense.build((None, self.config.intermediate_dim))
        self.output_norm.build((None, self.config.hidden_dim))

    def call(self, hidden: Tensor, padding: Tensor, training: bool = False) -> Tensor:
        """Applies the two parts; see the class."""
        attended = self.attention(hidden, padding, training=training)  # section 3.2
        hidden = self.attention_norm(hidden + self.dropout(attended, training=training))

        inner = self.intermediate_dense(hidden)  # [B*T, intermediate_dim], section 3.3
        inner = ops.gelu(inner, approximate=self.config.activation == "gelu_tanh")
        outer = self.output_dense(inner)
        return self.output_norm(hidden + self.dropout(outer, training=training))
