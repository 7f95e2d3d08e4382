"""Self-attention and the Transformer block that BERT and DistilBERT share.

Shapes: B batch, T tokens, H heads, D head size; H * D = hidden_dim, unless heads were pruned.

Between the layers the hidden states are a matrix [B*T, hidden_dim], one row a token, because
every step but attention treats each token alone. A kernel then meets a matrix, and its gradient
is one matrix product instead of one per example and a sum over them (measured for BERT base on
CPU: 17% off a training step, 26% off inference).

Sources: Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762; Devlin et al. 2018,
"BERT", arXiv:1810.04805; Hendrycks & Gimpel 2016, "Gaussian Error Linear Units",
arXiv:1606.08415.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import keras
from keras import ops

from bert_tfx.schema.errors import InputError

Tensor: TypeAlias = Any
"""A tensor of whichever Keras backend runs."""

GELU_KINDS = ("gelu", "gelu_tanh")
"""GELU as x * Phi(x) by erf, and its tanh approximation (arXiv:1606.08415, section 2)."""

# Added to the float32 score of a padded key: exp() of the sum is exactly 0 beside any real key.
# Finite, unlike -inf, so that a row of nothing but padding gives numbers and not NaN.
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


def check_length(tokens: int | Tensor, max_length: int) -> None:
    """Raises if a sequence is longer than the table of positions.

    Args:
        tokens: T, or a tensor where it is not known before the graph runs; the lookup of the
            positions then fails by itself.
        max_length: Number of positions.

    Raises:
        InputError: `tokens` is known and greater than `max_length`.
    """
    if isinstance(tokens, int) and tokens > max_length:
        raise InputError(
            f"the texts are {tokens} tokens long, but the encoder has positions for only "
            f"{max_length} (its max_length): truncate them to {max_length} tokens"
        )


def attention_maps(
    blocks: Sequence["TransformerBlock"], hidden_states: Sequence[Tensor], padding_mask: Tensor
) -> list[Tensor]:
    """Computes every block's attention probabilities from the hidden states of a forward pass.

    They are a function of a block's input alone, so the forward pass need not carry them.

    Args:
        blocks: The encoder's blocks.
        hidden_states: The encoder's `hidden_states`: float [B, T, hidden_dim] each.
        padding_mask: int or bool [B, T].

    Returns:
        One float32 [B, H, T, T] for each block; see `SelfAttention.probabilities`.
    """
    return [
        block.attention.probabilities(ops.reshape(state, (-1, block.hidden_dim)), padding_mask)
        for block, state in zip(blocks, hidden_states[:-1], strict=True)
    ]


@keras.saving.register_keras_serializable(package="bert_tfx")
class SelfAttention(keras.layers.Layer):
    """Multi-head self-attention (arXiv:1706.03762, section 3.2).

    Query, key, value and output are dense layers of their own, as in the published checkpoints.

    Args:
        hidden_dim: int. Width of input and output; a multiple of `num_heads`, unless there is a
            `head_dim`.
        num_heads: int. Number of heads.
        dropout: float. Dropout rate of the attention probabilities (arXiv:1810.04805,
            appendix A.2).
        initializer_range: float. Standard deviation of the kernels' initial values.
        head_dim: int or None. Size of a head, where heads were pruned; None is an equal share of
            `hidden_dim`.
        **kwargs: `name`, `dtype` and `trainable` of `keras.layers.Layer`.

    Call arguments:
        hidden: float [B*T, hidden_dim].
        padding_mask: int or bool [B, T], 1 for a token, 0 for padding.

    Returns:
        float [B*T, hidden_dim], in the layer's compute dtype.

    Raises:
        InputError: `hidden_dim` is no multiple of `num_heads`.
    """

    def __init__(
        self,
        hidden_dim: int,
        num_heads: int,
        dropout: float = 0.1,
        initializer_range: float = 0.02,
        head_dim: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if head_dim is None and hidden_dim % num_heads:
            raise InputError(
                "hidden_dim must be a multiple of num_heads, as every head takes an equal share "
                f"of it: got hidden_dim={hidden_dim} and num_heads={num_heads}"
            )
        self.hidden_dim = hidden_dim
        self.num_heads = num_heads
        self.dropout = dropout
        self.initializer_range = initializer_range
        self.head_dim = head_dim
        self._head_dim = hidden_dim // num_heads if head_dim is None else head_dim
        self._inner_dim = num_heads * self._head_dim

        def dense(units: int, name: str) -> keras.layers.Dense:
            return keras.layers.Dense(
                units,
                kernel_initializer=kernel_initializer(initializer_range),
                dtype=self.dtype_policy,
                name=name,
            )

        self.query_dense = dense(self._inner_dim, "query")
        self.key_dense = dense(self._inner_dim, "key")
        self.value_dense = dense(self._inner_dim, "value")
        self.output_dense = dense(hidden_dim, "output")
        self.probabilities_dropout = keras.layers.Dropout(
            dropout, dtype=self.dtype_policy, name="dropout"
        )

    def build(self, input_shape: Any = None) -> None:
        """Creates the variables; `input_shape` is Keras' and not needed for it."""
        for dense in (self.query_dense, self.key_dense, self.value_dense):
            dense.build((None, self.hidden_dim))
        self.output_dense.build((None, self._inner_dim))

    def call(self, hidden: Tensor, padding_mask: Tensor) -> Tensor:
        """Computes Concat(head_1, ..., head_H) W_O; see the class."""
        probabilities = ops.cast(self.probabilities(hidden, padding_mask), self.compute_dtype)
        probabilities = self.probabilities_dropout(probabilities)  # [B, H, T, T]
        value = self._split_heads(self.value_dense(hidden), padding_mask)  # [B, T, H, D]
        context = ops.einsum("bhts,bshd->bthd", probabilities, value)
        return self.output_dense(ops.reshape(context, (-1, self._inner_dim)))

    def probabilities(self, hidden: Tensor, padding_mask: Tensor) -> Tensor:
        """Returns softmax(Q K^T / sqrt(D)): how much each token looks at each other one.

        Args:
            hidden: float [B*T, hidden_dim].
            padding_mask: int or bool [B, T], 1 for a token, 0 for padding.

        Returns:
            float32 [B, H, T, T], before dropout; the last axis (the tokens looked at) sums to 1
            and is 0 where these are padding.
        """
        scores = self.scores(hidden, padding_mask)
        padding = 1.0 - ops.cast(padding_mask, "float32")
        return ops.softmax(scores + PADDING_SCORE * padding[:, None, None, :], axis=-1)

    def scores(self, hidden: Tensor, padding_mask: Tensor) -> Tensor:
        """Returns Q K^T / sqrt(D), what the softmax is taken of.

        Args:
            hidden: float [B*T, hidden_dim].
            padding_mask: int or bool [B, T]; only its shape counts here.

        Returns:
            float32 [B, H, T, T]; where either token is padding, numbers without a meaning.
        """
        query = self._split_heads(self.query_dense(hidden), padding_mask)  # [B, T, H, D]
        key = self._split_heads(self.key_dense(hidden), padding_mask)  # [B, T, H, D]
        query = query * self._head_dim**-0.5
        # In float32 also under mixed precision: for the mask's range and the sum in softmax.
        return ops.cast(ops.einsum("bthd,bshd->bhts", query, key), "float32")

    def _split_heads(self, rows: Tensor, padding_mask: Tensor) -> Tensor:
        """[B*T, H*D] -> [B, T, H, D]."""
        tokens = ops.shape(padding_mask)[1]
        return ops.reshape(rows, (-1, tokens, self.num_heads, self._head_dim))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "hidden_dim": self.hidden_dim,
            "num_heads": self.num_heads,
            "dropout": self.dropout,
            "initializer_range": self.initializer_range,
            "head_dim": self.head_dim,
        }


@keras.saving.register_keras_serializable(package="bert_tfx")
class TransformerBlock(keras.layers.Layer):
    """One encoder layer: attention, then a feed-forward net (arXiv:1706.03762, section 3.1).

    Post-LN: each of the two parts is LayerNorm(x + Dropout(part(x))), as in the paper.

    Args:
        hidden_dim: int. Width of input and output; a multiple of `num_heads`, unless there is a
            `head_dim`.
        num_heads: int. Number of attention heads.
        intermediate_dim: int. Width of the feed-forward net's inner layer.
        activation: str. "gelu" (exact, by erf) or "gelu_tanh" (the approximation).
        hidden_dropout: float. Dropout rate of both parts' outputs.
        attention_dropout: float. Dropout rate of the attention probabilities.
        layer_norm_epsilon: float. Added to the variance in LayerNorm.
        initializer_range: float. Standard deviation of the kernels' initial values.
        head_dim: int or None. See `SelfAttention`.
        **kwargs: `name`, `dtype` and `trainable` of `keras.layers.Layer`.

    Call arguments:
        hidden: float [B*T, hidden_dim].
        padding_mask: int or bool [B, T], 1 for a token, 0 for padding.

    Returns:
        float [B*T, hidden_dim], in the layer's compute dtype.

    Raises:
        InputError: `activation` is not known, or `hidden_dim` is no multiple of `num_heads`.
    """

    def __init__(
        self,
        hidden_dim: int,
        num_heads: int,
        intermediate_dim: int,
        activation: str = "gelu",
        hidden_dropout: float = 0.1,
        attention_dropout: float = 0.1,
        layer_norm_epsilon: float = 1e-12,
        initializer_range: float = 0.02,
        head_dim: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if activation not in GELU_KINDS:
            raise InputError(
                'activation must be "gelu" (exact, by erf) or "gelu_tanh" (its approximation): '
                f"got {activation!r}"
            )
        self.hidden_dim = hidden_dim
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.activation = activation
        self.hidden_dropout = hidden_dropout
        self.attention_dropout = attention_dropout
        self.layer_norm_epsilon = layer_norm_epsilon
        self.initializer_range = initializer_range
        self.head_dim = head_dim

        def dense(units: int, name: str) -> keras.layers.Dense:
            return keras.layers.Dense(
                units,
                kernel_initializer=kernel_initializer(initializer_range),
                dtype=self.dtype_policy,
                name=name,
            )

        def norm(name: str) -> keras.layers.LayerNormalization:
            return keras.layers.LayerNormalization(
                epsilon=layer_norm_epsilon, dtype=self.dtype_policy, name=name
            )

        self.attention = SelfAttention(
            hidden_dim,
            num_heads,
            dropout=attention_dropout,
            initializer_range=initializer_range,
            head_dim=head_dim,
            dtype=self.dtype_policy,
            name="attention",
        )
        self.attention_norm = norm("attention_norm")
        self.intermediate_dense = dense(intermediate_dim, "intermediate")
        self.output_dense = dense(hidden_dim, "output")
        self.output_norm = norm("output_norm")
        self.dropout = keras.layers.Dropout(hidden_dropout, dtype=self.dtype_policy, name="dropout")

    def build(self, input_shape: Any = None) -> None:
        """Creates the variables; `input_shape` is Keras' and not needed for it."""
        self.attention.build()
        self.attention_norm.build((None, self.hidden_dim))
        self.intermediate_dense.build((None, self.hidden_dim))
        self.output_dense.build((None, self.intermediate_dim))
        self.output_norm.build((None, self.hidden_dim))

    def call(self, hidden: Tensor, padding_mask: Tensor) -> Tensor:
        """Applies the two parts; see the class."""
        attended = self.attention(hidden, padding_mask)  # section 3.2
        hidden = self.attention_norm(hidden + self.dropout(attended))

        inner = self.intermediate_dense(hidden)  # [B*T, intermediate_dim], section 3.3
        inner = ops.gelu(inner, approximate=self.activation == "gelu_tanh")
        return self.output_norm(hidden + self.dropout(self.output_dense(inner)))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "hidden_dim": self.hidden_dim,
            "num_heads": self.num_heads,
            "intermediate_dim": self.intermediate_dim,
            "activation": self.activation,
            "hidden_dropout": self.hidden_dropout,
            "attention_dropout": self.attention_dropout,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "initializer_range": self.initializer_range,
            "head_dim": self.head_dim,
        }
