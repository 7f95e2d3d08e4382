"""ALBERT's encoder (Lan et al. 2020, arXiv:1909.11942).

BERT with embeddings narrower than the hidden states, and with one block that is applied
`num_layers` times. Only vocabularies of WordPiece are tokenized here, as the Chinese checkpoints
have them; the English ones come with SentencePiece.

Shapes: B batch, T tokens.
"""

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from bert_tfx.modeling.encoders.config import AlbertConfig
from bert_tfx.modeling.encoders.encoder import Encoder
from bert_tfx.modeling.encoders.transformer import Tensor, TransformerBlock, padding_scores


@keras.saving.register_keras_serializable(package="bert_tfx")
class AlbertEncoder(Encoder):
    """ALBERT: narrow embeddings, a projection, one block many times, pooler; see `Encoder`."""

    Config = AlbertConfig

    config: AlbertConfig
    segment_embedding: keras.layers.Embedding
    embeddings_projection: keras.layers.Dense
    pooler: keras.layers.Dense

    def __init__(self, *, name: str = "albert", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        config = self.config
        # Embeddings: section 3.1, "Factorized embedding parameterization".
        self.token_embedding = self._embedding(
            config.vocab_size, config.embedding_dim, "token_embedding"
        )
        self.position_embedding = self._embedding(
            config.max_length, config.embedding_dim, "position_embedding"
        )
        self.segment_embedding = self._embedding(
            config.num_segments, config.embedding_dim, "segment_embedding"
        )
        self.embeddings_norm = self._norm("embeddings_norm")
        self.embeddings_dropout = self._dropout("embeddings_dropout")
        self.embeddings_projection = self._dense(config.hidden_dim, "embeddings_projection")
        # The block: section 3.1, "Cross-layer parameter sharing".
        self.block = self._block("block")
        # Pooler: as in BERT; section 3.1, "Inter-sentence coherence loss", reads it.
        self.pooler = self._dense(config.hidden_dim, "pooler", activation="tanh")
        self.build()

    def build(self, input_shape: Any = None) -> None:
        """Creates the variables; the constructor has called it."""
        self.token_embedding.build()
        self.position_embedding.build()
        self.segment_embedding.build()
        self.embeddings_norm.build((None, self.config.embedding_dim))
        self.embeddings_projection.build((None, self.config.embedding_dim))
        self.block.build()
        self.pooler.build((None, self.config.hidden_dim))

    def call(self, inputs: Mapping[str, Tensor], training: bool = False) -> dict[str, Any]:
        """Encodes a batch; see the class."""
        token_ids = inputs["token_ids"]  # [B, T]
        tokens, width = ops.shape(token_ids)[1], self.config.hidden_dim
        self._check_length(tokens)

        hidden = (
            self.token_embedding(token_ids)  # [B, T, embedding_dim]
            + self.position_embedding(ops.arange(tokens))  # [T, embedding_dim]
            + self.segment_embedding(inputs["segment_ids"])  # [B, T, embedding_dim]
        )
        hidden = ops.reshape(hidden, (-1, self.config.embedding_dim))  # [B*T, embedding_dim]
        hidden = self.embeddings_dropout(self.embeddings_norm(hidden), training=training)
        rows = [self.embeddings_projection(hidden)]  # [B*T, hidden_dim]

        padding = padding_scores(inputs["padding_mask"])  # [B, 1, 1, T]
        for _ in range(self.config.num_layers):
            rows.append(self.block(rows[-1], padding, training=training))
        hidden_states = [ops.reshape(x, (-1, tokens, width)) for x in rows]  # [B, T, hidden_dim]

        return {
            "sequence_output": hidden_states[-1],
            "pooled_output": self.pooler(hidden_states[-1][:, 0]),  # the token [CLS]
            "hidden_states": hidden_states,
        }

    @property
    def blocks(self) -> list[TransformerBlock]:
        """The blocks that there are: one."""
        return [self.block]

    def layer(self, number: int) -> TransformerBlock:
        """Returns the block of a layer, which is always the same."""
        return self.block
