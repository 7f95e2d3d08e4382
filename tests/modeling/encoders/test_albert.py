from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from bert_tfx.modeling.checkpoints.loading import load_classifier
from bert_tfx.modeling.encoders.albert import AlbertEncoder
from bert_tfx.modeling.encoders.bert import BertEncoder
from bert_tfx.modeling.encoders.classifier import TextClassifier
from bert_tfx.modeling.encoders.transformer import padding_scores
from bert_tfx.schema.errors import InputError

REFERENCE = Path(__file__).parents[2] / "testdata" / "hf_albert_classifier"

TOY = {
    "vocab_size": 50,
    "embedding_dim": 8,
    "hidden_dim": 12,
    "num_layers": 3,
    "num_heads": 3,
    "intermediate_dim": 20,
    "max_length": 16,
}


def make_encoder(seed=0, **kwargs):
    keras.utils.set_random_seed(seed)
    return AlbertEncoder(**{**TOY, "initializer_range": 0.5, **kwargs})


def make_inputs(lengths=(9, 5, 2), width=9, seed=0):
    random = np.random.default_rng(seed)
    mask = np.array([[1] * n + [0] * (width - n) for n in lengths], "int32")
    return {
        "token_ids": random.integers(1, 50, mask.shape).astype("int32") * mask,
        "segment_ids": random.integers(0, 2, mask.shape).astype("int32") * mask,
        "padding_mask": mask,
    }


def test_equals_hugging_faces_albert():
    expected = np.load(REFERENCE / "expected.npz")
    mask = expected["attention_mask"]
    inputs = {
        "token_ids": expected["input_ids"],
        "segment_ids": expected["token_type_ids"],
        "padding_mask": mask,
    }
    classifier = load_classifier(str(REFERENCE), 3)
    assert type(classifier.encoder) is AlbertEncoder
    outputs = classifier.encoder(inputs)
    assert len(outputs["hidden_states"]) == 5
    for layer, ours in enumerate(outputs["hidden_states"]):
        difference = np.abs(np.asarray(ours) - expected[f"hidden_{layer}"])[mask == 1].max()
        assert difference < 1e-5, f"hidden state {layer} is {difference:.1e} away"
    np.testing.assert_allclose(outputs["pooled_output"], expected["pooled"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(classifier(inputs), expected["logits"], rtol=0, atol=1e-5)


def test_is_bert_whose_blocks_share_their_weights():
    """With a projection that changes nothing."""
    ours = make_encoder(embedding_dim=12)
    toy = {key: value for key, value in TOY.items() if key != "embedding_dim"}
    bert = BertEncoder(**toy, activation="gelu_tanh")
    ours.embeddings_projection.set_weights([np.eye(12), np.zeros(12)])
    for name in (
        "token_embedding",
        "position_embedding",
        "segment_embedding",
        "embeddings_norm",
        "pooler",
    ):
        getattr(bert, name).set_weights(getattr(ours, name).get_weights())
    for block in bert.blocks:
        block.set_weights(ours.block.get_weights())

    inputs = make_inputs()
    actual, expected = ours(inputs), bert(inputs)
    assert len(actual["hidden_states"]) == 4
    for a, b in zip(actual["hidden_states"], expected["hidden_states"], strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
    np.testing.assert_allclose(
        actual["pooled_output"], expected["pooled_output"], rtol=0, atol=1e-5
    )


def test_outputs_have_the_promised_shapes():
    outputs = make_encoder()(make_inputs())
    assert set(outputs) == {"sequence_output", "pooled_output", "hidden_states"}
    assert outputs["pooled_output"].shape == (3, 12)
    assert [state.shape for state in outputs["hidden_states"]] == [(3, 9, 12)] * 4
    np.testing.assert_array_equal(outputs["sequence_output"], outputs["hidden_states"][-1])


def test_variables_exist_at_once_in_order_under_stable_names():
    paths = [weight.path for weight in make_encoder().weights]
    assert paths == [weight.path for weight in make_encoder(num_layers=9).weights]
    assert paths[:8] == [
        "albert/token_embedding/embeddings",
        "albert/position_embedding/embeddings",
        "albert/segment_embedding/embeddings",
        "albert/embeddings_norm/gamma",
        "albert/embeddings_norm/beta",
        "albert/embeddings_projection/kernel",
        "albert/embeddings_projection/bias",
        "albert/block/attention/query/kernel",
    ]
    assert paths[-2:] == ["albert/pooler/kernel", "albert/pooler/bias"]
    assert len(paths) == len(set(paths)) == 7 + 16 + 2


def test_base_has_the_published_number_of_parameters():
    encoder = AlbertEncoder(
        vocab_size=30000,
        embedding_dim=128,
        hidden_dim=768,
        num_layers=12,
        num_heads=12,
        intermediate_dim=3072,
        initializer_range=0.0,
    )
    assert encoder.count_params() == 11_683_584  # "12M", arXiv:1909.11942, table 1


def test_the_shared_block_gets_the_sum_of_its_layers_gradients():
    """One gradient for each variable, which is the sum over the places where it is used."""
    inputs = make_inputs()
    shared = TextClassifier(make_encoder(), num_labels=2, dropout=0.0)
    # The same network, its block written out as three.
    unrolled = BertEncoder(
        **{key: value for key, value in TOY.items() if key != "embedding_dim"},
        activation="gelu_tanh",
        hidden_dropout=0.0,
        attention_dropout=0.0,
    )
    for block in unrolled.blocks:
        block.set_weights(shared.encoder.block.get_weights())
    rows = tf.reshape(shared.encoder(inputs)["hidden_states"][0], (-1, 12))
    mask = inputs["padding_mask"]

    def gradients(blocks, variables):
        variables = [variable.value for variable in variables]
        with tf.GradientTape() as tape:
            hidden = rows
            for block in blocks:
                hidden = block(hidden, padding_scores(mask))
            loss = tf.reduce_sum(tf.reshape(hidden, (3, 9, 12))[:, 0] ** 3)
        return [np.asarray(g) for g in tape.gradient(loss, variables)]

    block = shared.encoder.block
    once = gradients([block] * 3, block.trainable_variables)
    each = gradients(unrolled.blocks, [v for b in unrolled.blocks for v in b.trainable_variables])
    assert len(once) == 16
    assert len(each) == 3 * 16
    for i, gradient in enumerate(once):
        # Of the key's bias, which softmax takes out, only rounding is left.
        np.testing.assert_allclose(
            gradient, each[i] + each[i + 16] + each[i + 32], rtol=1e-4, atol=1e-3
        )


def test_a_training_step_moves_every_weight_once():
    classifier = TextClassifier(make_encoder(), num_labels=2, dropout=0.0)
    before = {weight.path: np.array(weight) for weight in classifier.weights}
    updates = []

    class Counting(keras.optimizers.SGD):
        def update_step(self, gradient, variable, learning_rate):
            updates.append(id(variable))
            super().update_step(gradient, variable, learning_rate)

    classifier.compile(
        Counting(1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        run_eagerly=True,
    )
    classifier.train_on_batch(make_inputs(), np.array([0, 1, 1]))
    assert len(updates) == len(set(updates)) == len(before) == 27
    for weight in classifier.weights:
        moved = np.abs(np.asarray(weight) - before[weight.path]).max()
        # A key's bias adds the same to all scores of a query, and softmax takes it out again.
        assert (moved > 1e-5) == (not weight.path.endswith("attention/key/bias")), weight.path


def test_what_stands_in_padding_changes_nothing():
    encoder, inputs = make_encoder(), make_inputs()
    mask = inputs["padding_mask"]
    wider = {name: np.pad(value, ((0, 0), (0, 7))) for name, value in inputs.items()}
    wider["token_ids"] = np.where(wider["padding_mask"] == 1, wider["token_ids"], 49)
    before, after = encoder(inputs), encoder(wider)
    # Rows of another length are added up in another order: 2.4e-6 at values of 2 was seen.
    for ours, theirs in zip(before["hidden_states"], after["hidden_states"], strict=True):
        np.testing.assert_allclose(
            np.asarray(ours)[mask == 1], np.asarray(theirs)[:, :9][mask == 1], rtol=0, atol=5e-6
        )
    np.testing.assert_allclose(before["pooled_output"], after["pooled_output"], rtol=0, atol=2e-6)


def test_dropout_is_off_as_published_and_active_only_in_training():
    inputs = make_inputs()
    encoder = make_encoder()
    quiet = np.asarray(encoder(inputs)["pooled_output"])
    np.testing.assert_array_equal(quiet, encoder(inputs, training=True)["pooled_output"])
    dropping = make_encoder(hidden_dropout=0.2, attention_dropout=0.2)
    dropping.set_weights(encoder.get_weights())
    np.testing.assert_array_equal(quiet, dropping(inputs)["pooled_output"])
    loud = np.asarray(dropping(inputs, training=True)["pooled_output"])
    assert np.abs(quiet - loud).max() > 1e-3


def test_config_round_trip():
    encoder = make_encoder(
        num_segments=4,
        activation="gelu",
        hidden_dropout=0.2,
        attention_dropout=0.3,
        layer_norm_epsilon=1e-6,
        name="student",
        dtype="mixed_bfloat16",
    )
    again = AlbertEncoder.from_config(encoder.get_config())
    assert again.get_config() == encoder.get_config()
    assert [(w.path, w.shape) for w in again.weights] == [
        (w.path, w.shape) for w in encoder.weights
    ]


@pytest.mark.parametrize("as_classifier", [False, True])
def test_saved_file_gives_the_same_numbers(tmp_path, as_classifier):
    model, inputs = make_encoder(), make_inputs()
    if as_classifier:
        model = TextClassifier(model, num_labels=4)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert type(again) is type(model)
    assert [w.path for w in again.weights] == [w.path for w in model.weights]
    expected, actual = model(inputs), again(inputs)
    if not as_classifier:
        expected, actual = expected["pooled_output"], actual["pooled_output"]
    np.testing.assert_array_equal(actual, expected)


def test_works_in_a_graph_that_knows_no_shape():
    encoder, inputs = make_encoder(), make_inputs()
    spec = {name: tf.TensorSpec((None, None), tf.int32) for name in inputs}
    graph = tf.function(encoder, input_signature=[spec])
    for batch in (inputs, make_inputs((3, 1), 4)):
        np.testing.assert_allclose(
            graph(batch)["pooled_output"], encoder(batch)["pooled_output"], atol=1e-5
        )


def test_errors_name_what_is_wrong():
    with pytest.raises(InputError, match=r"17 tokens long.*only 16 .*max_length"):
        make_encoder()(make_inputs((17,), 17))
    with pytest.raises(InputError, match="multiple of num_heads"):
        make_encoder(num_heads=5)
    with pytest.raises(InputError, match="activation must be"):
        make_encoder(activation="swish")
