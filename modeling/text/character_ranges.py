"""Characters that a pruned vocabulary keeps, by name.

Plain Python, so that the command line can refuse a wrong name without loading a framework.
"""

from collections.abc import Collection, Mapping
from typing import Final

from bert_tfx.schema.errors import InputError

CHARACTER_RANGES: Final[Mapping[str, tuple[tuple[int, int], ...]]] = {
    "ascii": ((0x21, 0x7E),),
    "cjk": ((0x3000, 0x303F), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF)),
    "kana": ((0x3040, 0x30FF),),
    "hangul": ((0x1100, 0x11FF), (0xAC00, 0xD7AF)),
    "latin": ((0x21, 0x7E), (0xA1, 0x24F)),
    "greek": ((0x370, 0x3FF),),
    "cyrillic": ((0x400, 0x4FF),),
}
"""Names of characters to keep: first and last code point of each range."""


def check_pruning(min_count: int, characters: Collection[str]) -> None:
    """Refuses what `vocabulary_pruning.prune_vocabulary` cannot do.

    Args:
        min_count: How often a token must be in the texts.
        characters: Names of `CHARACTER_RANGES`.

    Raises:
        InputError: If `min_count` is below 1 or a range is not known.
    """
    if min_count < 1:
        raise InputError(
            f"the count from which a token is kept must be at least 1. Received: {min_count}"
        )
    if unknown := [name for name in characters if name not in CHARACTER_RANGES]:
        raise InputError(
            f"{unknown[0]!r}: no such range of characters; known are {', '.join(CHARACTER_RANGES)}"
        )
