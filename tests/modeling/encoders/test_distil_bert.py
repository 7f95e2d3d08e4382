from pathlib import Path

import keras
import numpy as np
import pytest

from bert_tfx.modeling.checkpoints.loading import load_encoder
from bert_tfx.modeling.encoders.bert import BertEncoder
from bert_tfx.modeling.encoders.distil_bert import DistilBertEncoder
from bert_tfx.modeling.encoders.sizes import BERT_SIZES, DISTIL_BERT_SIZES
from bert_tfx.schema.errors import InputError

GOLDEN = Path(__file__).parents[3] / ".." / "shared" / "golden" / "models"

TOY = {
    "vocab_size": 50,
    "hidden_dim": 12,
    "num_layers": 2,
    "num_heads": 3,
    "intermediate_dim": 20,
    "max_length": 16,
}


def make_encoder(seed=0, **kwargs):
    keras.utils.set_random_seed(seed)
    return DistilBertEncoder(**{**TOY, "initializer_range": 0.5, **kwargs})


def make_inputs(lengths=(9, 5, 2), width=9, seed=0):
    mask = np.array([[1] * n + [0] * (width - n) for n in lengths], "int32")
    token_ids = np.random.default_rng(seed).integers(1, 50, mask.shape).astype("int32") * mask
    return {"token_ids": token_ids, "padding_mask": mask}


@pytest.mark.skipif(
    not GOLDEN.is_dir(), reason="the reference models (../shared/golden/models) are not here"
)
def test_equals_hugging_faces_distilbert():
    folder = GOLDEN / "hf_distilbert_base"
    encoder = load_encoder(str(folder))
    assert type(encoder) is DistilBertEncoder
    expected = np.load(folder / "expected.npz")
    mask = expected["attention_mask"]
    outputs = encoder({"token_ids": expected["input_ids"], "padding_mask": mask})
    assert len(outputs["hidden_states"]) == 4
    for layer, ours in enumerate(outputs["hidden_states"]):
        difference = np.abs(np.asarray(ours) - expected[f"hidden_{layer}"])[mask == 1].max()
        assert difference < 1e-5, f"hidden state {layer} is {difference:.1e} away"


def test_is_bert_without_segments_and_pooler():
    ours, bert = make_encoder(), BertEncoder(**TOY)
    weights = {weight.path.removeprefix("bert/"): weight for weight in bert.weights}
    for weight in ours.weights:
        weights.pop(weight.path.removeprefix("distil_bert/")).assign(weight)
    assert set(weights) == {"segment_embedding/embeddings", "pooler/kernel", "pooler/bias"}
    weights["segment_embedding/embeddings"].assign(np.zeros((2, 12)))

    inputs = make_inputs()
    theirs = bert({**inputs, "segment_ids": np.ones((3, 9), "int32")})["hidden_states"]
    for a, b in zip(ours(inputs)["hidden_states"], theirs, strict=True):
        np.testing.assert_array_equal(a, b)


def test_outputs_have_the_promised_shapes():
    outputs = make_encoder()(make_inputs())
    assert set(outputs) == {"sequence_output", "hidden_states"}
    assert [state.shape for state in outputs["hidden_states"]] == [(3, 9, 12)] * 3
    np.testing.assert_array_equal(outputs["sequence_output"], outputs["hidden_states"][-1])


def test_segments_are_ignored():
    encoder, inputs = make_encoder(), make_inputs()
    with_segments = {**inputs, "segment_ids": np.full((3, 9), 7, "int32")}
    np.testing.assert_array_equal(
        encoder(with_segments)["sequence_output"], encoder(inputs)["sequence_output"]
    )


def test_base_has_half_the_layers():
    assert DISTIL_BERT_SIZES["base"] == {**BERT_SIZES["base"], "num_layers": 6}
    assert BERT_SIZES["base"]["num_layers"] == 12
    assert set(DISTIL_BERT_SIZES) == set(BERT_SIZES)


def test_padding_changes_nothing():
    encoder, inputs = make_encoder(), make_inputs()
    mask = inputs["padding_mask"]
    wider = {name: np.pad(value, ((0, 0), (0, 7))) for name, value in inputs.items()}
    wider["token_ids"] = np.where(wider["padding_mask"] == 1, wider["token_ids"], 49).astype(
        "int32"
    )
    before, after = encoder(inputs), encoder(wider)
    for ours, theirs in zip(before["hidden_states"], after["hidden_states"], strict=True):
        np.testing.assert_allclose(
            np.asarray(ours)[mask == 1], np.asarray(theirs)[:, :9][mask == 1], rtol=0, atol=5e-6
        )


def test_dropout_is_active_only_in_training():
    encoder, inputs = make_encoder(), make_inputs()
    quiet = np.asarray(encoder(inputs)["sequence_output"])
    np.testing.assert_array_equal(quiet, encoder(inputs, training=False)["sequence_output"])
    loud = encoder(inputs, training=True)
    assert np.abs(quiet - np.asarray(loud["sequence_output"])).max() > 1e-2
    # The embeddings have a dropout of their own.
    assert 0.02 < (np.asarray(loud["hidden_states"][0]) == 0.0).mean() < 0.3


def test_variables_exist_at_once_under_stable_names():
    paths = [weight.path for weight in make_encoder(num_layers=1).weights]
    assert paths == [weight.path for weight in make_encoder(num_layers=1).weights]
    assert paths[:4] == [
        "distil_bert/token_embedding/embeddings",
        "distil_bert/position_embedding/embeddings",
        "distil_bert/embeddings_norm/gamma",
        "distil_bert/embeddings_norm/beta",
    ]
    assert len(paths) == len(set(paths)) == 4 + 16


def test_config_round_trip():
    encoder = make_encoder(
        activation="gelu_tanh",
        hidden_dropout=0.2,
        attention_dropout=0.3,
        layer_norm_epsilon=1e-6,
        name="student",
        dtype="mixed_bfloat16",
    )
    again = DistilBertEncoder.from_config(encoder.get_config())
    assert again.get_config() == encoder.get_config()


def test_saved_file_gives_the_same_numbers(tmp_path):
    encoder, inputs = make_encoder(), make_inputs()
    encoder.save(tmp_path / "encoder.keras")
    again = keras.saving.load_model(tmp_path / "encoder.keras")
    assert type(again) is DistilBertEncoder
    np.testing.assert_array_equal(
        again(inputs)["sequence_output"], encoder(inputs)["sequence_output"]
    )


def test_errors_name_what_is_wrong():
    with pytest.raises(InputError, match=r"17 tokens long.*only 16 .*max_length"):
        make_encoder()(make_inputs((17,), 17))
    with pytest.raises(InputError, match="multiple of num_heads"):
        make_encoder(num_heads=5)
