"""DistilBERT's encoder (Sanh et al. 2019, arXiv:1910.01108).

BERT without segments and pooler and, at the base size, with half the layers (section 3,
"Student architecture").

Shapes: B batch, T tokens.
"""

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from bert_tfx.modeling.encoders.encoder import Encoder
from bert_tfx.modeling.encoders.transformer import Tensor, padding_scores


@keras.saving.register_keras_serializable(package="bert_tfx")
class DistilBertEncoder(Encoder):
    """DistilBERT: token and position embeddings, Transformer blocks; see `Encoder`."""

    def __init__(self, *, name: str = "distil_bert", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        config = self.config
        # Embeddings: arXiv:1810.04805, section 3, without the segments.
        self.token_embedding = self._embedding(
            config.vocab_size, config.hidden_dim, "token_embedding"
        )
        self.position_embedding = self._embedding(
            config.max_length, config.hidden_dim, "position_embedding"
        )
        self.embeddings_norm = self._norm("embeddings_norm")
        self.embeddings_dropout = self._dropout("embeddings_dropout")
        # Blocks: section 3, "Student architecture".
        self.blocks = [self._block(f"block_{layer}") for layer in range(config.num_layers)]
        self.build()

    def build(self, input_shape: Any = None) -> None:
        """Creates the variables; the constructor has called it."""
        self.token_embedding.build()
        self.position_embedding.build()
        self.embeddings_norm.build((None, self.config.hidden_dim))
        for block in self.blocks:
            block.build()

    def call(self, inputs: Mapping[str, Tensor], training: bool = False) -> dict[str, Any]:
        """Encodes a batch; see the class."""
        token_ids = inputs["token_ids"]  # [B, T]
        tokens, width = ops.shape(token_ids)[1], self.config.hidden_dim
        self._check_length(tokens)

        # [B, T, hidden_dim] + [T, hidden_dim]
        hidden = self.token_embedding(token_ids) + self.position_embedding(ops.arange(tokens))
        hidden = self.embeddings_norm(ops.reshape(hidden, (-1, width)))  # [B*T, hidden_dim]
        rows = [self.embeddings_dropout(hidden, training=training)]

        padding = padding_scores(inputs["padding_mask"])  # [B, 1, 1, T]
        for block in self.blocks:
            rows.append(block(rows[-1], padding, training=training))
        hidden_states = [ops.reshape(x, (-1, tokens, width)) for x in rows]  # [B, T, hidden_dim]

        return {"sequence_output": hidden_states[-1], "hidden_states": hidden_states}
