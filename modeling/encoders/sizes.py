"""Named sizes of the encoders. Plain Python, for what checks them without a framework."""

from collections.abc import Mapping
from typing import Final

BERT_SIZES: Final[Mapping[str, Mapping[str, int]]] = {
    "tiny": {"num_layers": 2, "hidden_dim": 128, "num_heads": 2, "intermediate_dim": 512},
    "mini": {"num_layers": 4, "hidden_dim": 256, "num_heads": 4, "intermediate_dim": 1024},
    "small": {"num_layers": 4, "hidden_dim": 512, "num_heads": 8, "intermediate_dim": 2048},
    "medium": {"num_layers": 8, "hidden_dim": 512, "num_heads": 8, "intermediate_dim": 2048},
    "base": {"num_layers": 12, "hidden_dim": 768, "num_heads": 12, "intermediate_dim": 3072},
}
"""Arguments of `BertEncoder` (Turc et al. 2019, arXiv:1908.08962)."""

DISTIL_BERT_SIZES: Final[Mapping[str, Mapping[str, int]]] = {
    **BERT_SIZES,
    "base": {**BERT_SIZES["base"], "num_layers": 6},
}
"""Arguments of `DistilBertEncoder`.

Only "base" was published. The smaller ones are BERT's with all of their layers, as there are few to
leave out.
"""

ALBERT_SIZES: Final[Mapping[str, Mapping[str, int]]] = {
    name: {**size, "embedding_dim": 128} for name, size in BERT_SIZES.items()
}
"""Arguments of `AlbertEncoder`: BERT's, with the embeddings of all published ones (Lan et al. 2019,
arXiv:1909.11942, table 1)."""

SIZES: Final[Mapping[str, Mapping[str, Mapping[str, int]]]] = {
    "bert": BERT_SIZES,
    "distilbert": DISTIL_BERT_SIZES,
    "albert": ALBERT_SIZES,
}
"""The sizes of each architecture."""
