"""What is taken out of a trained model, as it is asked for.

Plain Python, so that the command line can refuse what cannot be without loading a framework.
`bert_tfx.modeling.compression.chain` does it.
"""

import dataclasses
from collections.abc import Sequence
from typing import Final

from bert_tfx.modeling.export.storages import NARROW_STORAGES
from bert_tfx.modeling.text.character_ranges import CHARACTER_RANGES, check_pruning
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.options import option

ALTERNATE: Final = "alternate"

# NumPy's generators take no larger ones.
_LAST_SEED = 2**32 - 1


@dataclasses.dataclass(frozen=True)
class Compression:
    """What to do with a trained model, in this order.

    Attributes:
        layers: Numbers of the layers to keep, from 0, with commas between them; "alternate" is
            every second one, from the first; None is all.
        heads: Share of each layer's attention heads that goes.
        ffn: Share of each layer's feed-forward neurons that goes.
        importance_rows: Train rows by which heads and neurons are chosen, at most.
        prune_vocab: Whether only the tokens that the texts need stay.
        min_count: How often a token must be in them.
        characters: Names of `CHARACTER_RANGES` with commas between them: single characters that
            stay in any case.
        recovery_steps: Steps of a further training with what is left.
        recovery_learning_rate: Its highest learning rate.
        recovery_seed: Of its dropout, its rows and their order.
        store: What an export holds the matrices in, one of `NARROW_STORAGES`; None is as it was.

    Raises:
        InputError: If there is nothing to do, a value is out of range, or it says how to do what
            was not asked for.
    """

    layers: str | None = option(
        f"layers to keep, numbered from 0, or {ALTERNATE}: every second one", None, metavar="0,2,4"
    )
    heads: float = option("share of each layer's attention heads that goes", 0.0)
    ffn: float = option("share of each layer's feed-forward neurons that goes", 0.0)
    importance_rows: int = option(
        "rows by which heads and neurons are chosen, at most (default: 1024)", 1024
    )
    prune_vocab: bool = option("keep only the tokens that the texts need", False)
    min_count: int = option("how often a token must be there (default: 1)", 1)
    characters: str = option(
        f"single characters that stay in any case: {', '.join(CHARACTER_RANGES)} (default: ascii)",
        "ascii",
        metavar="A,B",
    )
    store: str | None = option(
        "what the export holds its matrices in. In bfloat16_compute (for processors with AMX) "
        "and int8 it multiplies, too; else in float32",
        None,
        choices=NARROW_STORAGES,
        group="storage",
    )
    recovery_steps: int = option(
        "steps of 32 train rows in which what is left learns from labels and the model before", 0
    )
    recovery_learning_rate: float = option(
        "the highest learning rate of these (default: 3e-5)", 3e-5
    )
    recovery_seed: int = 1

    def __post_init__(self) -> None:
        """Checks what can be checked without a model."""
        if not (self.takes_out or self.store):
            raise InputError(
                "nothing to do: name at least one of layers, heads, ffn, prune_vocab, store"
            )
        for name in ("heads", "ffn"):
            share = getattr(self, name)
            if not 0 <= share < 1:
                raise InputError(
                    f"{name} is the share that goes, at least 0 and below 1. Received: {share:g}"
                )
        if self.layers not in (None, ALTERNATE):
            self.layers_of(0)
        if self.importance_rows < 1:
            raise InputError(
                f"importance_rows must be at least 1. Received: {self.importance_rows}"
            )
        check_pruning(self.min_count, self.character_names)
        if self.store not in (None, *NARROW_STORAGES):
            raise InputError(
                f"store must be one of {', '.join(NARROW_STORAGES)}. Received: {self.store}"
            )
        if self.recovery_steps < 0:
            raise InputError(
                f"recovery_steps must not be negative. Received: {self.recovery_steps}"
            )
        if not 0 < self.recovery_learning_rate < 1:
            raise InputError(
                "recovery_learning_rate must lie between 0 and 1. "
                f"Received: {self.recovery_learning_rate:g}"
            )
        if not 0 <= self.recovery_seed <= _LAST_SEED:
            raise InputError(
                f"recovery_seed must be in [0, {_LAST_SEED}]. Received: {self.recovery_seed}"
            )
        if self.recovery_steps and not self.takes_out:
            raise InputError(
                "recovery_steps: there is nothing to recover from; it goes with layers, heads, ffn "
                "or prune_vocab"
            )
        for names, needed, what in (
            (("min_count", "characters"), "prune_vocab", "choose tokens"),
            (("recovery_learning_rate", "recovery_seed"), "recovery_steps", "recover"),
        ):
            for name in names:
                if getattr(self, name) != getattr(Compression, name) and not getattr(self, needed):
                    raise InputError(f"{name} says how to {what}: it goes with {needed}")

    @property
    def takes_out(self) -> bool:
        """Whether weights go."""
        return bool(self.layers is not None or self.heads or self.ffn or self.prune_vocab)

    @property
    def character_names(self) -> list[str]:
        """The names in `characters`."""
        return [name for name in self.characters.split(",") if name]

    def layers_of(self, count: int) -> Sequence[int]:
        """Returns the numbers of the layers to keep.

        Args:
            count: Layers of the model. That those that are named are among them is for
                `structured_pruning.keep_layers` to check.

        Raises:
            InputError: If `layers` holds something else than numbers.
        """
        if self.layers is None:
            return range(count)
        if self.layers == ALTERNATE:
            return range(0, count, 2)
        try:
            return [int(number) for number in self.layers.split(",")]
        except ValueError:
            raise InputError(
                f"layers must be numbers with commas between them, or {ALTERNATE}. "
                f"Received: {self.layers}"
            ) from None
