"""DistilBERT's encoder (Sanh et al. 2019, arXiv:1910.01108).

BERT without segments and pooler and, at the base size, with half the layers (section 3,
"Student architecture").

Shapes: B batch, T tokens, H heads.
"""

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from bert_tfx.modeling.transformer import (
    Tensor,
    TransformerBlock,
    attention_maps,
    check_length,
    kernel_initializer,
)


@keras.saving.register_keras_serializable(package="bert_tfx")
class DistilBertEncoder(keras.Model):
    """DistilBERT: token and position embeddings, Transformer blocks.

    The arguments are the config: `DistilBertEncoder(vocab_size=30522,
    **DISTIL_BERT_SIZES["base"])`. All variables exist, with stable names
    (`distil_bert/block_0/attention/query/kernel`) and in the order of the computation, as soon as
    the constructor returns.

    Args:
        vocab_size: int. Number of token ids.
        hidden_dim: int. Width of the hidden states; a multiple of `num_heads`, unless there is a
            `head_dim`.
        num_layers: int. Number of Transformer blocks.
        num_heads: int. Number of attention heads in each.
        intermediate_dim: int. Width of the feed-forward nets' inner layer.
        max_length: int. Number of positions: the longest sequence, in tokens.
        activation: str. "gelu" (exact, by erf) or "gelu_tanh" (the approximation).
        hidden_dropout: float. Dropout rate of embeddings and of the blocks' parts.
        attention_dropout: float. Dropout rate of the attention probabilities.
        layer_norm_epsilon: float. Added to the variance in LayerNorm.
        initializer_range: float. Standard deviation of the truncated normal initial values.
        head_dim: int or None. Size of an attention head, where heads were pruned; None is an equal
            share of `hidden_dim`.
        **kwargs: `name`, `dtype` and `trainable` of `keras.Model`.

    Call arguments:
        inputs: dict of int32 [B, T]: `token_ids`; `padding_mask`, 1 for a token and 0 for
            padding. `segment_ids` may be there and is ignored.

    Returns:
        dict in the model's compute dtype: `sequence_output` [B, T, hidden_dim], the last block's
        output; `hidden_states`, a list of `num_layers` + 1 [B, T, hidden_dim], the embeddings
        first. Positions whose mask is 0 hold numbers without a meaning.

    Raises:
        InputError: `hidden_dim` is no multiple of `num_heads`, `activation` is not known, or
            (when called) there are more tokens than `max_length`.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        hidden_dim: int,
        num_layers: int,
        num_heads: int,
        intermediate_dim: int,
        max_length: int = 512,
        activation: str = "gelu",
        hidden_dropout: float = 0.1,
        attention_dropout: float = 0.1,
        layer_norm_epsilon: float = 1e-12,
        initializer_range: float = 0.02,
        head_dim: int | None = None,
        name: str = "distil_bert",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.vocab_size = vocab_size
        self.hidden_dim = hidden_dim
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.max_length = max_length
        self.activation = activation
        self.hidden_dropout = hidden_dropout
        self.attention_dropout = attention_dropout
        self.layer_norm_epsilon = layer_norm_epsilon
        self.initializer_range = initializer_range
        self.head_dim = head_dim

        def embedding(rows: int, name: str) -> keras.layers.Embedding:
            return keras.layers.Embedding(
                rows,
                hidden_dim,
                embeddings_initializer=kernel_initializer(initializer_range),
                dtype=self.dtype_policy,
                name=name,
            )

        # Embeddings: arXiv:1810.04805, section 3, without the segments.
        self.token_embedding = embedding(vocab_size, "token_embedding")
        self.position_embedding = embedding(max_length, "position_embedding")
        self.embeddings_norm = keras.layers.LayerNormalization(
            epsilon=layer_norm_epsilon, dtype=self.dtype_policy, name="embeddings_norm"
        )
        self.embeddings_dropout = keras.layers.Dropout(
            hidden_dropout, dtype=self.dtype_policy, name="embeddings_dropout"
        )
        # Blocks: section 3, "Student architecture".
        self.blocks = [
            TransformerBlock(
                hidden_dim,
                num_heads,
                intermediate_dim,
                activation=activation,
                hidden_dropout=hidden_dropout,
                attention_dropout=attention_dropout,
                layer_norm_epsilon=layer_norm_epsilon,
                initializer_range=initializer_range,
                head_dim=head_dim,
                dtype=self.dtype_policy,
                name=f"block_{layer}",
            )
            for layer in range(num_layers)
        ]
        self.build()

    def build(self, input_shape: Any = None) -> None:
        """Creates the variables; the constructor has called it."""
        self.token_embedding.build()
        self.position_embedding.build()
        self.embeddings_norm.build((None, self.hidden_dim))
        for block in self.blocks:
            block.build()

    def call(self, inputs: Mapping[str, Tensor], training: bool | None = None) -> dict[str, Any]:
        """Encodes a batch; see the class. `training` reaches the dropouts through Keras."""
        token_ids, padding_mask = inputs["token_ids"], inputs["padding_mask"]  # [B, T]
        tokens = ops.shape(token_ids)[1]
        check_length(tokens, self.max_length)

        # [B, T, hidden_dim] + [T, hidden_dim]
        hidden = self.token_embedding(token_ids) + self.position_embedding(ops.arange(tokens))
        hidden = ops.reshape(hidden, (-1, self.hidden_dim))  # [B*T, hidden_dim]
        hidden = self.embeddings_dropout(self.embeddings_norm(hidden))

        rows = [hidden]
        for block in self.blocks:
            rows.append(block(rows[-1], padding_mask))
        hidden_states = [ops.reshape(x, (-1, tokens, self.hidden_dim)) for x in rows]

        return {"sequence_output": hidden_states[-1], "hidden_states": hidden_states}

    def attention_maps(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Returns how much each token looks at each other one, block by block.

        Args:
            inputs: dict of int32 [B, T], as the model is called with.

        Returns:
            `num_layers` float32 [B, H, T, T], dropout off; the last axis (the tokens looked at)
            sums to 1 and is 0 where these are padding.
        """
        hidden_states = self(inputs, training=False)["hidden_states"]
        return attention_maps(self.blocks, hidden_states, inputs["padding_mask"])

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "vocab_size": self.vocab_size,
            "hidden_dim": self.hidden_dim,
            "num_layers": self.num_layers,
            "num_heads": self.num_heads,
            "intermediate_dim": self.intermediate_dim,
            "max_length": self.max_length,
            "activation": self.activation,
            "hidden_dropout": self.hidden_dropout,
            "attention_dropout": self.attention_dropout,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "initializer_range": self.initializer_range,
            "head_dim": self.head_dim,
        }
