import pytest

from bert_tfx.modeling.compression.settings import Compression
from bert_tfx.schema.errors import InputError


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "nothing to do: name at least one of layers, heads, ffn, prune_vocab, store"),
        ({"recovery_steps": 3}, "nothing to do"),
        ({"heads": 1.0}, r"heads is the share that goes, at least 0 and below 1\. Received: 1$"),
        ({"ffn": float("nan")}, "ffn is the share that goes"),
        ({"layers": "0,one"}, r"layers must be numbers .*, or alternate\. Received: 0,one"),
        ({"layers": ""}, "layers must be numbers"),
        ({"ffn": 0.5, "importance_rows": 0}, r"importance_rows must be at least 1\. Received: 0"),
        ({"prune_vocab": True, "min_count": 0}, r"must be at least 1\. Received: 0"),
        ({"prune_vocab": True, "characters": "ascii,elvish"}, "'elvish': no such range"),
        (
            {"store": "int4"},
            r"store must be one of float16, bfloat16, bfloat16_compute, int8\. Received: int4",
        ),
        ({"ffn": 0.5, "recovery_steps": -1}, r"recovery_steps must not be negative\. Received: -1"),
        ({"ffn": 0.5, "recovery_steps": 1, "recovery_learning_rate": 1.0}, "lie between 0 and 1"),
        ({"ffn": 0.5, "recovery_steps": 1, "recovery_seed": 2**32}, "recovery_seed must be in"),
        ({"store": "float16", "recovery_steps": 1}, "there is nothing to recover from"),
        ({"ffn": 0.5, "min_count": 2}, "min_count says how to choose tokens: it goes with prune_"),
        ({"ffn": 0.5, "characters": ""}, "characters says how to choose tokens"),
        ({"ffn": 0.5, "recovery_learning_rate": 1e-4}, "recovery_learning_rate says how to recov"),
    ],
)
def test_what_cannot_be_is_refused(values, message):
    with pytest.raises(InputError, match=message):
        Compression(**values)


@pytest.mark.parametrize(
    ("layers", "kept"),
    [(None, [0, 1, 2, 3, 4]), ("alternate", [0, 2, 4]), ("3", [3]), ("0,1,4", [0, 1, 4])],
)
def test_layers_are_numbers(layers, kept):
    assert [*Compression(layers=layers, store="float16").layers_of(5)] == kept


def test_ranges_of_characters_are_names():
    assert Compression(prune_vocab=True).character_names == ["ascii"]
    assert Compression(prune_vocab=True, characters="").character_names == []
    assert Compression(prune_vocab=True, characters="cjk,kana").character_names == ["cjk", "kana"]
