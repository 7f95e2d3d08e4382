"""BERT's encoder (Devlin et al. 2018, arXiv:1810.04805).

Shapes: B batch, T tokens.
"""

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from bert_tfx.modeling.encoders.config import BertConfig
from bert_tfx.modeling.encoders.encoder import Encoder
from bert_tfx.modeling.encoders.transformer import Tensor, padding_scores


@keras.saving.register_keras_serializable(package="bert_tfx")
class BertEncoder(Encoder):
    """BERT: token, position and segment embeddings, Transformer blocks, pooler; see `Encoder`."""

    Config = BertConfig

    config: BertConfig
    segment_embedding: keras.layers.Embedding
    pooler: keras.layers.Dense

    def __init__(self, *, name: str = "bert", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        config = self.config
        # Embeddings: section 3, "Input/Output Representations".
        self.token_embedding = self._embedding(
            config.vocab_size, config.hidden_dim, "token_embedding"
        )
        self.position_embedding = self._embedding(
            config.max_length, config.hidden_dim, "position_embedding"
        )
        self.segment_embedding = self._embedding(
            config.num_segments, config.hidden_dim, "segment_embedding"
        )
        self.embeddings_norm = self._norm("embeddings_norm")
        self.embeddings_dropout = self._dropout("embeddings_dropout")
        # Blocks: section 3, "Model Architecture".
        self.blocks = [self._block(f"block_{layer}") for layer in range(config.num_layers)]
        # Pooler: section 3.1, Task #2, the vector C that next-sentence prediction reads.
        self.pooler = self._dense(config.hidden_dim, "pooler", activation="tanh")
        self.build()

    def build(self, input_shape: Any = None) -> None:
        """Creates the variables; the constructor has called it."""
        self.token_embedding.build()
        self.position_embedding.build()
        self.segment_embedding.build()
        self.embeddings_norm.build((None, self.config.hidden_dim))
        for block in self.blocks:
            block.build()
        self.pooler.build((None, self.config.hidden_dim))

    def call(self, inputs: Mapping[str, Tensor], training: bool = False) -> dict[str, Any]:
        """Encodes a batch; see the class."""
        token_ids = inputs["token_ids"]  # [B, T]
        tokens, width = ops.shape(token_ids)[1], self.config.hidden_dim
        self._check_length(tokens)

        hidden = (
            self.token_embedding(token_ids)  # [B, T, hidden_dim]
            + self.position_embedding(ops.arange(tokens))  # [T, hidden_dim]
            + self.segment_embedding(inputs["segment_ids"])  # [B, T, hidden_dim]
        )
        hidden = self.embeddings_norm(ops.reshape(hidden, (-1, width)))  # [B*T, hidden_dim]
        rows = [self.embeddings_dropout(hidden, training=training)]

        padding = padding_scores(inputs["padding_mask"])  # [B, 1, 1, T]
        for block in self.blocks:
            rows.append(block(rows[-1], padding, training=training))
        hidden_states = [ops.reshape(x, (-1, tokens, width)) for x in rows]  # [B, T, hidden_dim]

        return {
            "sequence_output": hidden_states[-1],
            "pooled_output": self.pooler(hidden_states[-1][:, 0]),  # the token [CLS]
            "hidden_states": hidden_states,
        }
