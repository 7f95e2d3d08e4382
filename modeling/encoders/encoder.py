"""What the encoders share besides their blocks: how they are described, made and asked."""

import dataclasses
from typing import Any, ClassVar

import keras

from bert_tfx.modeling.encoders.config import EncoderConfig
from bert_tfx.modeling.encoders.transformer import (
    Configured,
    Tensor,
    TransformerBlock,
    kernel_initializer,
)
from bert_tfx.schema.errors import InputError


class Encoder(Configured, keras.Model):
    """A model that reads token ids.

    Its arguments are those of its config: `BertEncoder(vocab_size=30522, **BERT_SIZES["base"])`.
    All variables exist, with stable names (`bert/block_0/attention/query/kernel`) and in the order
    of the computation, as soon as the constructor returns.

    Args:
        name: str. The first part of its variables' names.
        dtype: The dtype policy of `keras.Model`.
        trainable: bool. Of `keras.Model`.
        **config: The fields of the class's `Config`.

    Attributes:
        config: `Config` of these arguments.
        blocks: The Transformer blocks that there are.
        segment_embedding, embeddings_projection, pooler: Layers, or None where an encoder has none.

    Call arguments:
        inputs: dict of int32 [B, T]: `token_ids`; `segment_ids`, 0 for the first text and 1 for
            the second (DistilBERT ignores them); `padding_mask`, 1 for a token and 0 for padding.
        training: bool. Whether there is dropout.

    Returns:
        dict in the model's compute dtype: `sequence_output` [B, T, hidden_dim], the last layer's
        output; `hidden_states`, a list of `num_layers` + 1 [B, T, hidden_dim], the embeddings
        first; `pooled_output` [B, hidden_dim], where there is a pooler. Positions whose mask is 0
        hold numbers without a meaning.

    Raises:
        InputError: The config says what cannot be, or (when called) there are more tokens than
            `max_length`.
    """

    Config: ClassVar[type[EncoderConfig]] = EncoderConfig

    config: EncoderConfig
    segment_embedding: keras.layers.Embedding | None = None
    embeddings_projection: keras.layers.Dense | None = None
    pooler: keras.layers.Dense | None = None

    def __init__(
        self, *, name: str, dtype: Any = None, trainable: bool = True, **config: Any
    ) -> None:
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        self.config = self.Config(**config)

    @classmethod
    def without_values(cls, **arguments: Any) -> "Encoder":
        """Makes an encoder of zeros, for weights that are taken from elsewhere.

        Drawing them would take longer than loading. What is made for it later, such as a head, is
        drawn as its config says.
        """
        default = cls.Config.initializer_range
        encoder = cls(**{**arguments, "initializer_range": 0.0})
        encoder.config = dataclasses.replace(
            encoder.config, initializer_range=arguments.get("initializer_range", default)
        )
        return encoder

    def layer(self, number: int) -> TransformerBlock:
        """Returns the block of a layer; the lowest layer is number 1."""
        return self.blocks[number - 1]

    def embedding_layers(self) -> list[keras.layers.Layer]:
        """Returns the layers with weights below the blocks: embeddings and what is done to them."""
        layers = (
            self.token_embedding,
            self.position_embedding,
            self.segment_embedding,
            self.embeddings_norm,
            self.embeddings_projection,
        )
        return [layer for layer in layers if layer is not None]

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), **dataclasses.asdict(self.config)}

    def _embedding(self, rows: int, width: int, name: str) -> keras.layers.Embedding:
        return keras.layers.Embedding(
            rows,
            width,
            embeddings_initializer=kernel_initializer(self.config.initializer_range),
            dtype=self.dtype_policy,
            name=name,
        )

    def _block(self, name: str) -> TransformerBlock:
        return TransformerBlock(self.config, dtype=self.dtype_policy, name=name)

    def _check_length(self, tokens: int | Tensor) -> None:
        """Raises if a sequence is longer than the table of positions.

        Where T is not known before the graph runs, the lookup of the positions fails by itself.
        """
        longest = self.config.max_length
        if isinstance(tokens, int) and tokens > longest:
            raise InputError(
                f"the texts are {tokens} tokens long, but the encoder has positions for only "
                f"{longest} (its max_length): truncate them to {longest} tokens"
            )
