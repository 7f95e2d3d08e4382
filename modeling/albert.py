"""ALBERT's encoder (Lan et al. 2020, arXiv:1909.11942).

BERT with embeddings narrower than the hidden states, and with one block that is applied
`num_layers` times.

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
class AlbertEncoder(keras.Model):
    """ALBERT: narrow embeddings, a projection, one Transformer block many times, pooler.

    The arguments are the config. All variables exist, with stable names
    (`albert/block/attention/query/kernel`) and in the order of the computation, as soon as the
    constructor returns. Only vocabularies of WordPiece are tokenized here, as the Chinese
    checkpoints have them; the English ones come with SentencePiece.

    Args:
        vocab_size: int. Number of token ids.
        embedding_dim: int. Width of the embeddings.
        hidden_dim: int. Width of the hidden states; a multiple of `num_heads`, unless there is a
            `head_dim`.
        num_layers: int. How often the block is applied.
        num_heads: int. Number of attention heads.
        intermediate_dim: int. Width of the feed-forward net's inner layer.
        max_length: int. Number of positions: the longest sequence, in tokens.
        num_segments: int. Number of segment ids.
        activation: str. "gelu" (exact, by erf) or "gelu_tanh" (the approximation, as
            published).
        hidden_dropout: float. Dropout rate of embeddings and of the block's parts.
        attention_dropout: float. Dropout rate of the attention probabilities.
        layer_norm_epsilon: float. Added to the variance in LayerNorm.
        initializer_range: float. Standard deviation of the truncated normal initial values.
        head_dim: int or None. Size of an attention head, where heads were pruned; None is an equal
            share of `hidden_dim`.
        **kwargs: `name`, `dtype` and `trainable` of `keras.Model`.

    Call arguments:
        inputs: dict of int32 [B, T]: `token_ids`; `segment_ids`, 0 for the first text and 1 for
            the second; `padding_mask`, 1 for a token and 0 for padding.

    Returns:
        dict in the model's compute dtype: `sequence_output` [B, T, hidden_dim], the last
        output; `pooled_output` [B, hidden_dim]; `hidden_states`, a list of `num_layers` + 1
        [B, T, hidden_dim], the projected embeddings first. Positions whose mask is 0 hold numbers
        without a meaning.

    Raises:
        InputError: `hidden_dim` is no multiple of `num_heads`, `activation` is not known, or
            (when called) there are more tokens than `max_length`.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        embedding_dim: int,
        hidden_dim: int,
        num_layers: int,
        num_heads: int,
        intermediate_dim: int,
        max_length: int = 512,
        num_segments: int = 2,
        activation: str = "gelu_tanh",
        hidden_dropout: float = 0.0,
        attention_dropout: float = 0.0,
        layer_norm_epsilon: float = 1e-12,
        initializer_range: float = 0.02,
        head_dim: int | None = None,
        name: str = "albert",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.vocab_size = vocab_size
        self.embedding_dim = embedding_dim
        self.hidden_dim = hidden_dim
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.max_length = max_length
        self.num_segments = num_segments
        self.activation = activation
        self.hidden_dropout = hidden_dropout
        self.attention_dropout = attention_dropout
        self.layer_norm_epsilon = layer_norm_epsilon
        self.initializer_range = initializer_range
        self.head_dim = head_dim

        def embedding(rows: int, name: str) -> keras.layers.Embedding:
            return keras.layers.Embedding(
                rows,
                embedding_dim,
                embeddings_initializer=kernel_initializer(initializer_range),
                dtype=self.dtype_policy,
                name=name,
            )

        # Embeddings: section 3.1, "Factorized embedding parameterization".
        self.token_embedding = embedding(vocab_size, "token_embedding")
        self.position_embedding = embedding(max_length, "position_embedding")
        self.segment_embedding = embedding(num_segments, "segment_embedding")
        self.embeddings_norm = keras.layers.LayerNormalization(
            epsilon=layer_norm_epsilon, dtype=self.dtype_policy, name="embeddings_norm"
        )
        self.embeddings_dropout = keras.layers.Dropout(
            hidden_dropout, dtype=self.dtype_policy, name="embeddings_dropout"
        )
        self.embeddings_projection = keras.layers.Dense(
            hidden_dim,
            kernel_initializer=kernel_initializer(initializer_range),
            dtype=self.dtype_policy,
            name="embeddings_projection",
        )
        # The block: section 3.1, "Cross-layer parameter sharing".
        self.block = TransformerBlock(
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
            name="block",
        )
        # Pooler: as in BERT; section 3.1, "Inter-sentence coherence loss", reads it.
        self.pooler = keras.layers.Dense(
            hidden_dim,
            activation="tanh",
            kernel_initializer=kernel_initializer(initializer_range),
            dtype=self.dtype_policy,
            name="pooler",
        )
        self.build()

    def build(self, input_shape: Any = None) -> None:
        """Creates the variables; the constructor has called it."""
        self.token_embedding.build()
        self.position_embedding.build()
        self.segment_embedding.build()
        self.embeddings_norm.build((None, self.embedding_dim))
        self.embeddings_projection.build((None, self.embedding_dim))
        self.block.build()
        self.pooler.build((None, self.hidden_dim))

    def call(self, inputs: Mapping[str, Tensor], training: bool | None = None) -> dict[str, Any]:
        """Encodes a batch; see the class. `training` reaches the dropouts through Keras."""
        token_ids, padding_mask = inputs["token_ids"], inputs["padding_mask"]  # [B, T]
        tokens = ops.shape(token_ids)[1]
        check_length(tokens, self.max_length)

        hidden = (
            self.token_embedding(token_ids)  # [B, T, embedding_dim]
            + self.position_embedding(ops.arange(tokens))  # [T, embedding_dim]
            + self.segment_embedding(inputs["segment_ids"])  # [B, T, embedding_dim]
        )
        hidden = ops.reshape(hidden, (-1, self.embedding_dim))  # [B*T, embedding_dim]
        hidden = self.embeddings_dropout(self.embeddings_norm(hidden))

        rows = [self.embeddings_projection(hidden)]  # [B*T, hidden_dim]
        for _ in range(self.num_layers):
            rows.append(self.block(rows[-1], padding_mask))
        hidden_states = [ops.reshape(x, (-1, tokens, self.hidden_dim)) for x in rows]

        return {
            "sequence_output": hidden_states[-1],
            "pooled_output": self.pooler(hidden_states[-1][:, 0]),  # the token [CLS]
            "hidden_states": hidden_states,
        }

    @property
    def blocks(self) -> list[TransformerBlock]:
        """The blocks that there are: one."""
        return [self.block]

    def attention_maps(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Returns how much each token looks at each other one, block by block.

        Args:
            inputs: dict of int32 [B, T], as the model is called with.

        Returns:
            `num_layers` float32 [B, H, T, T], dropout off; the last axis (the tokens looked at)
            sums to 1 and is 0 where these are padding.
        """
        hidden_states = self(inputs, training=False)["hidden_states"]
        blocks = self.blocks * self.num_layers
        return attention_maps(blocks, hidden_states, inputs["padding_mask"])

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "vocab_size": self.vocab_size,
            "embedding_dim": self.embedding_dim,
            "hidden_dim": self.hidden_dim,
            "num_layers": self.num_layers,
            "num_heads": self.num_heads,
            "intermediate_dim": self.intermediate_dim,
            "max_length": self.max_length,
            "num_segments": self.num_segments,
            "activation": self.activation,
            "hidden_dropout": self.hidden_dropout,
            "attention_dropout": self.attention_dropout,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "initializer_range": self.initializer_range,
            "head_dim": self.head_dim,
        }
