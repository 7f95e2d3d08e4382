from pathlib import Path

import keras
import numpy as np
import pytest

from bert_tfx.modeling.checkpoints.loading import load_encoder
from bert_tfx.modeling.encoders.bert import BertEncoder
from bert_tfx.modeling.encoders.sizes import BERT_SIZES
from bert_tfx.schema.errors import InputError

GOLDEN = Path(__file__).parents[3] / ".." / "shared" / "golden" / "models"
needs_golden = pytest.mark.skipif(
    not GOLDEN.is_dir(), reason="the reference models (../shared/golden/models) are not here"
)

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
    return BertEncoder(**{**TOY, "initializer_range": 0.5, **kwargs})


def make_inputs(lengths=(9, 5, 2), width=9, seed=0):
    random = np.random.default_rng(seed)
    mask = np.array([[1] * n + [0] * (width - n) for n in lengths], "int32")
    return {
        "token_ids": random.integers(1, 50, mask.shape).astype("int32") * mask,
        "segment_ids": random.integers(0, 2, mask.shape).astype("int32") * mask,
        "padding_mask": mask,
    }


# --- published checkpoints ---


def assert_same_states(actual, expected, mask):
    """Compares all hidden states where the mask is 1."""
    assert len(actual) == len(expected)
    for layer, (ours, theirs) in enumerate(zip(actual, expected, strict=True)):
        difference = np.abs(np.asarray(ours) - theirs)[mask == 1].max()
        assert difference < 1e-5, f"hidden state {layer} is {difference:.1e} away"


@needs_golden
def test_equals_googles_bert():
    folder = GOLDEN / "google_bert"
    expected = np.load(folder / "expected.npz")
    encoder = load_encoder(str(folder))
    assert encoder.config.activation == "gelu_tanh"

    mask = expected["input_mask"]
    outputs = encoder(
        {
            "token_ids": expected["input_ids"],
            "segment_ids": expected["segment_ids"],
            "padding_mask": mask,
        }
    )
    states = [expected[name] for name in ("embedding", "layer_0", "layer_1", "layer_2")]
    assert_same_states(outputs["hidden_states"], states, mask)
    assert_same_states([outputs["sequence_output"]], [expected["sequence"]], mask)
    np.testing.assert_allclose(outputs["pooled_output"], expected["pooled"], rtol=0, atol=1e-5)


@needs_golden
def test_equals_hugging_faces_bert():
    folder = GOLDEN / "hf_bert_base"
    expected = np.load(folder / "expected.npz")
    encoder = load_encoder(str(folder))
    assert encoder.config.activation == "gelu"

    mask = expected["attention_mask"]
    outputs = encoder(
        {
            "token_ids": expected["input_ids"],
            "segment_ids": expected["token_type_ids"],
            "padding_mask": mask,
        }
    )
    assert_same_states(outputs["hidden_states"], [expected[f"hidden_{i}"] for i in range(4)], mask)
    np.testing.assert_allclose(outputs["pooled_output"], expected["pooled"], rtol=0, atol=1e-5)


# --- by itself ---


def test_outputs_have_the_promised_shapes_and_types():
    outputs = make_encoder()(make_inputs())
    assert set(outputs) == {"sequence_output", "pooled_output", "hidden_states"}
    assert outputs["pooled_output"].shape == (3, 12)
    assert [state.shape for state in outputs["hidden_states"]] == [(3, 9, 12)] * 3
    np.testing.assert_array_equal(outputs["sequence_output"], outputs["hidden_states"][-1])
    assert {np.asarray(x).dtype for x in outputs["hidden_states"]} == {np.dtype("float32")}


def test_works_in_a_graph_that_knows_no_shape():
    import tensorflow as tf

    encoder, inputs = make_encoder(), make_inputs()
    spec = {name: tf.TensorSpec((None, None), tf.int32) for name in inputs}
    graph = tf.function(encoder, input_signature=[spec])
    for batch in (inputs, make_inputs((3, 1), 4)):
        np.testing.assert_allclose(
            graph(batch)["pooled_output"], encoder(batch)["pooled_output"], atol=1e-5
        )
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"not in \[0, 16\)"):
        graph(make_inputs((17,), 17))


def test_variables_exist_at_once_in_order_under_stable_names():
    first, second = make_encoder(num_layers=1), make_encoder(num_layers=1)
    paths = [weight.path for weight in first.weights]
    assert paths == [weight.path for weight in second.weights]
    assert paths[:6] == [
        "bert/token_embedding/embeddings",
        "bert/position_embedding/embeddings",
        "bert/segment_embedding/embeddings",
        "bert/embeddings_norm/gamma",
        "bert/embeddings_norm/beta",
        "bert/block_0/attention/query/kernel",
    ]
    assert paths[-4:] == [
        "bert/block_0/output_norm/gamma",
        "bert/block_0/output_norm/beta",
        "bert/pooler/kernel",
        "bert/pooler/bias",
    ]
    assert len(paths) == len(set(paths)) == 5 + 16 + 2


def test_the_seed_decides_the_initial_values():
    first, same, other = make_encoder(seed=1), make_encoder(seed=1), make_encoder(seed=2)
    for a, b in zip(first.weights, same.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (np.asarray(first.weights[0]) != np.asarray(other.weights[0])).all()


def test_sizes_are_complete_and_tiny_has_the_published_number_of_parameters():
    arguments = {"num_layers", "hidden_dim", "num_heads", "intermediate_dim"}
    assert all(set(size) == arguments for size in BERT_SIZES.values())
    encoder = BertEncoder(vocab_size=30522, **BERT_SIZES["tiny"])
    assert encoder.count_params() == 4_385_920  # "4.4" million, arXiv:1908.08962, table 1


def test_what_stands_in_padding_changes_nothing():
    encoder, inputs = make_encoder(), make_inputs()
    mask = inputs["padding_mask"]
    other = {
        "token_ids": np.where(mask == 1, inputs["token_ids"], 49).astype("int32"),
        "segment_ids": np.where(mask == 1, inputs["segment_ids"], 1).astype("int32"),
        "padding_mask": mask,
    }
    before, after = encoder(inputs), encoder(other)
    for ours, theirs in zip(before["hidden_states"], after["hidden_states"], strict=True):
        np.testing.assert_allclose(
            np.asarray(ours)[mask == 1], np.asarray(theirs)[mask == 1], rtol=0, atol=1e-6
        )
    np.testing.assert_allclose(before["pooled_output"], after["pooled_output"], rtol=0, atol=1e-6)


def test_more_padding_changes_nothing():
    encoder, inputs = make_encoder(), make_inputs()
    mask = inputs["padding_mask"]
    wider = {name: np.pad(value, ((0, 0), (0, 7))) for name, value in inputs.items()}
    before, after = encoder(inputs), encoder(wider)
    for ours, theirs in zip(before["hidden_states"], after["hidden_states"], strict=True):
        np.testing.assert_allclose(
            np.asarray(ours)[mask == 1], np.asarray(theirs)[:, :9][mask == 1], rtol=0, atol=5e-6
        )


@pytest.mark.parametrize("name", ["token_ids", "segment_ids"])
def test_every_input_matters(name):
    encoder, inputs = make_encoder(), make_inputs()
    changed = inputs[name].copy()
    changed[0, 3] = 1 - changed[0, 3] if name == "segment_ids" else changed[0, 3] % 49 + 1
    before = np.asarray(encoder(inputs)["pooled_output"])
    after = np.asarray(encoder({**inputs, name: changed})["pooled_output"])
    assert np.abs(before - after)[0].max() > 1e-3
    np.testing.assert_allclose(before[1:], after[1:], rtol=0, atol=1e-6)


def test_dropout_is_active_only_in_training():
    encoder, inputs = make_encoder(), make_inputs()
    quiet = np.asarray(encoder(inputs)["pooled_output"])
    np.testing.assert_array_equal(quiet, encoder(inputs, training=False)["pooled_output"])
    loud = encoder(inputs, training=True)
    assert np.abs(quiet - np.asarray(loud["pooled_output"])).max() > 1e-3
    # The embeddings have a dropout of their own.
    first = np.asarray(loud["hidden_states"][0])
    assert 0.02 < (first == 0.0).mean() < 0.3


def test_config_round_trip():
    encoder = make_encoder(
        num_segments=4,
        activation="gelu_tanh",
        hidden_dropout=0.2,
        attention_dropout=0.3,
        layer_norm_epsilon=1e-6,
        name="student",
        dtype="mixed_bfloat16",
    )
    again = BertEncoder.from_config(encoder.get_config())
    assert again.get_config() == encoder.get_config()
    assert [(w.path, w.shape) for w in again.weights] == [
        (w.path, w.shape) for w in encoder.weights
    ]


def test_saved_file_gives_the_same_numbers(tmp_path):
    encoder, inputs = make_encoder(), make_inputs()
    encoder.save(tmp_path / "encoder.keras")
    again = keras.saving.load_model(tmp_path / "encoder.keras")
    assert type(again) is BertEncoder
    expected, actual = encoder(inputs), again(inputs)
    np.testing.assert_array_equal(actual["pooled_output"], expected["pooled_output"])
    for ours, theirs in zip(actual["hidden_states"], expected["hidden_states"], strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_too_many_tokens_are_refused():
    with pytest.raises(InputError, match=r"17 tokens long.*only 16 .*max_length"):
        make_encoder()(make_inputs((17,), 17))
    make_encoder()(make_inputs((16,), 16))


def test_bad_config_is_refused():
    with pytest.raises(InputError, match="multiple of num_heads"):
        make_encoder(num_heads=5)
    with pytest.raises(InputError, match="activation must be"):
        make_encoder(activation="swish")
