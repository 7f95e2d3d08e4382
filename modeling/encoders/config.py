"""What describes an encoder: its sizes, its rates, its kind of GELU. Plain Python."""

import dataclasses

from bert_tfx.schema.errors import InputError

GELU_KINDS = ("gelu", "gelu_tanh")
"""GELU as x * Phi(x) by erf, and its tanh approximation (arXiv:1606.08415, section 2)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """What all encoders have, and all that DistilBERT's has.

    Attributes:
        vocab_size: Number of token ids.
        hidden_dim: Width of the hidden states; a multiple of `num_heads`, unless there is a
            `head_dim`.
        num_layers: Number of Transformer layers.
        num_heads: Number of attention heads in each.
        intermediate_dim: Width of the feed-forward nets' inner layer.
        max_length: Number of positions: the longest sequence, in tokens.
        activation: "gelu" (exact, by erf) or "gelu_tanh" (the approximation in
            google-research/bert).
        hidden_dropout: Dropout rate of embeddings and of the blocks' parts.
        attention_dropout: Dropout rate of the attention probabilities (arXiv:1810.04805,
            appendix A.2).
        layer_norm_epsilon: Added to the variance in LayerNorm.
        initializer_range: Standard deviation of the truncated normal initial values.
        head_dim: Size of an attention head, where heads were pruned; None is an equal share of
            `hidden_dim`.

    Raises:
        InputError: `hidden_dim` is no multiple of `num_heads`, or `activation` is not known.
    """

    vocab_size: int
    hidden_dim: int
    num_layers: int
    num_heads: int
    intermediate_dim: int
    max_length: int = 512
    activation: str = "gelu"
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    layer_norm_epsilon: float = 1e-12
    initializer_range: float = 0.02
    head_dim: int | None = None

    def __post_init__(self) -> None:
        """Checks what no layer could be made of."""
        if self.head_dim is None and self.hidden_dim % self.num_heads:
            raise InputError(
                "hidden_dim must be a multiple of num_heads, as every head takes an equal share "
                f"of it: got hidden_dim={self.hidden_dim} and num_heads={self.num_heads}"
            )
        if self.activation not in GELU_KINDS:
            raise InputError(
                'activation must be "gelu" (exact, by erf) or "gelu_tanh" (its approximation): '
                f"got {self.activation!r}"
            )

    @property
    def head_size(self) -> int:
        """D, the size of an attention head."""
        return self.head_dim or self.hidden_dim // self.num_heads


@dataclasses.dataclass(frozen=True, kw_only=True)
class BertConfig(EncoderConfig):
    """What BERT's encoder has besides.

    Attributes:
        num_segments: Number of segment ids.
    """

    num_segments: int = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlbertConfig(BertConfig):
    """What ALBERT's encoder has besides; as published it has no dropout, and the other GELU.

    Attributes:
        embedding_dim: Width of the embeddings.
    """

    embedding_dim: int
    activation: str = "gelu_tanh"
    hidden_dropout: float = 0.0
    attention_dropout: float = 0.0
