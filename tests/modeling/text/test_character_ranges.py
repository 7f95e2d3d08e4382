import pytest

from bert_tfx.modeling.text.character_ranges import CHARACTER_RANGES, check_pruning
from bert_tfx.schema.errors import InputError


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [
        ("ascii", "!aZ~", " é好"),
        ("latin", "aéÿő", "я"),
        ("greek", "αΩ", "a"),
        ("cyrillic", "яЖ", "a"),
        ("cjk", "好。鿿", "a，あ"),
        ("kana", "あア", "好"),
        ("hangul", "한", "好"),
    ],
)
def test_names_mean_these_characters(name, inside, outside):
    def holds(character):
        return any(first <= ord(character) <= last for first, last in CHARACTER_RANGES[name])

    assert all(map(holds, inside))
    assert not any(map(holds, outside))


def test_mistakes_are_told():
    check_pruning(1, CHARACTER_RANGES)
    with pytest.raises(InputError, match=r"must be at least 1\. Received: 0"):
        check_pruning(0, [])
    with pytest.raises(InputError, match=r"'klingon': no such range .* known are ascii, cjk"):
        check_pruning(1, ["ascii", "klingon"])
