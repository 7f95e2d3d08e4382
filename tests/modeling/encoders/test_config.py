import dataclasses

import pytest

from bert_tfx.modeling.encoders.config import EncoderConfig
from bert_tfx.schema.errors import InputError

SIZE = {"vocab_size": 9, "hidden_dim": 8, "num_layers": 1, "num_heads": 4, "intermediate_dim": 16}


def test_errors_name_what_is_wrong():
    with pytest.raises(InputError, match=r"multiple of num_heads.*hidden_dim=10 and num_heads=4"):
        EncoderConfig(**{**SIZE, "hidden_dim": 10})
    with pytest.raises(InputError, match=r'"gelu" .*"gelu_tanh".*got \'relu\''):
        EncoderConfig(**SIZE, activation="relu")


def test_heads_have_equal_shares_unless_some_were_pruned():
    config = EncoderConfig(**SIZE)
    assert config.head_size == 2
    assert dataclasses.replace(config, num_heads=3, head_dim=2).head_size == 2
