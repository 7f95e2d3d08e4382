import keras
import numpy as np
import pytest

from bert_tfx.modeling.checkpoints.loading import load_saved_classifier
from bert_tfx.modeling.compression.structured_pruning import (
    importance,
    keep_layers,
    most_important,
    prune_heads,
    prune_neurons,
    removed,
)
from bert_tfx.modeling.encoders.albert import AlbertEncoder
from bert_tfx.modeling.encoders.bert import BertEncoder
from bert_tfx.modeling.encoders.classifier import TextClassifier
from bert_tfx.modeling.encoders.distil_bert import DistilBertEncoder
from bert_tfx.modeling.text.batching import Rows
from bert_tfx.schema.errors import InputError

ENCODERS = {
    "bert": BertEncoder,
    "distilbert": DistilBertEncoder,
    "albert": lambda **arguments: AlbertEncoder(embedding_dim=4, **arguments),
}
HEADS, NEURONS, HIDDEN, LAYERS = 4, 24, 16, 3


def make_classifier(kind="bert"):
    keras.utils.set_random_seed(1)
    encoder = ENCODERS[kind](
        vocab_size=20,
        num_layers=LAYERS,
        hidden_dim=HIDDEN,
        num_heads=HEADS,
        intermediate_dim=NEURONS,
        initializer_range=0.3,
        max_length=10,
    )
    classifier = TextClassifier(encoder, 3)
    # Zeros, as biases begin, would hide a bias that stays behind.
    random = np.random.default_rng(2)
    for weight in classifier.weights:
        weight.assign(weight + 0.1 * random.standard_normal(weight.shape))
    return classifier


@pytest.fixture(params=ENCODERS)
def classifier(request):
    return make_classifier(request.param)


@pytest.fixture(scope="module")
def rows():
    random = np.random.default_rng(3)
    lengths = random.integers(3, 10, 20)
    return Rows(
        token_ids=random.integers(0, 20, lengths.sum()).astype(np.int32),
        segment_ids=None,
        lengths=lengths,
        labels=random.integers(0, 3, 20).astype(np.int32),
    )


def logits(classifier, rows):
    return np.asarray(classifier(rows.batch(np.arange(len(rows))), training=False))


def losses(classifier, rows):
    scores = logits(classifier, rows).astype(np.float64)
    log = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    return -log[np.arange(len(rows)), rows.labels]


def silence(classifier, block, part, numbers):
    """Takes heads or neurons out by zeros, as seen from the next kernel."""
    block = classifier.encoder.blocks[block]
    dense = block.attention.output_dense if part == "heads" else block.output_dense
    width = HIDDEN // HEADS if part == "heads" else 1
    kernel = np.array(dense.kernel)
    for number in numbers:
        kernel[number * width : (number + 1) * width] = 0
    dense.kernel.assign(kernel)


@pytest.mark.parametrize("part", ["heads", "neurons"])
def test_importance_is_the_slope_of_each_rows_loss(classifier, rows, part):
    scores = getattr(importance(classifier, rows), part)
    blocks = classifier.encoder.blocks
    assert scores.shape == (len(blocks), {"heads": HEADS, "neurons": NEURONS}[part])
    step = 1e-2
    for block, number in ((0, 1), (len(blocks) - 1, 3)):
        layer = blocks[block]
        dense = layer.attention.output_dense if part == "heads" else layer.output_dense
        width = HIDDEN // HEADS if part == "heads" else 1
        before = np.array(dense.kernel)
        sides = []
        for gate in (1 + step, 1 - step):
            kernel = before.copy()
            kernel[number * width : (number + 1) * width] *= gate
            dense.kernel.assign(kernel)
            sides.append(losses(classifier, rows))
        dense.kernel.assign(before)
        slope = np.abs((sides[0] - sides[1]) / (2 * step)).mean()
        assert scores[block, number] == pytest.approx(slope, rel=0.02, abs=1e-4)


def test_importance_leaves_the_classifier_as_it_is(classifier, rows):
    before, weights = logits(classifier, rows), [np.array(w) for w in classifier.weights]
    told = []
    importance(classifier, rows, told.append)
    assert told == [16, 20]
    np.testing.assert_array_equal(logits(classifier, rows), before)
    for weight, value in zip(classifier.weights, weights, strict=True):
        np.testing.assert_array_equal(weight, value)


@pytest.mark.parametrize("part", ["heads", "neurons"])
def test_what_goes_is_as_if_it_were_zero(classifier, rows, part, tmp_path):
    """The smaller classifier, also from its file, computes what the masked one does."""
    count, share = {"heads": (HEADS, 0.5), "neurons": (NEURONS, 0.3)}[part]
    blocks = len(classifier.encoder.blocks)
    scores = np.random.default_rng(4).random((blocks, count))
    prune = {"heads": prune_heads, "neurons": prune_neurons}[part]
    pruned = prune(classifier, scores, share)
    for block in range(blocks):
        silence(classifier, block, part, np.argsort(scores[block])[: int(count * share)])
    np.testing.assert_allclose(logits(pruned, rows), logits(classifier, rows), atol=2e-5)
    assert pruned.count_params() < classifier.count_params()
    kernel = pruned.encoder.blocks[0].attention.query_dense.kernel
    assert kernel.shape == (HIDDEN, HIDDEN // 2 if part == "heads" else HIDDEN)
    pruned.save(str(tmp_path / "classifier.keras"))
    loaded = load_saved_classifier(str(tmp_path / "classifier.keras"))
    assert loaded.encoder.get_config() == pruned.encoder.get_config()
    np.testing.assert_array_equal(logits(loaded, rows), logits(pruned, rows))


def test_heads_can_go_twice(classifier, rows):
    scores = np.arange(HEADS)[None].repeat(len(classifier.encoder.blocks), axis=0)
    once = prune_heads(classifier, scores, 0.25)
    twice = prune_heads(once, scores[:, 1:], 0.67)
    directly = prune_heads(classifier, scores, 0.75)
    config = twice.encoder.config
    assert config.num_heads == 1
    assert (config.head_dim, config.hidden_dim) == (
        HIDDEN // HEADS,
        HIDDEN,
    )
    np.testing.assert_array_equal(logits(twice, rows), logits(directly, rows))


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_layers_that_stay_keep_their_weights_and_order(kind, rows):
    classifier = make_classifier(kind)
    assert keep_layers(classifier, [0, 2]).encoder.config.num_layers == 2
    everything = keep_layers(classifier, range(LAYERS))
    np.testing.assert_array_equal(logits(everything, rows), logits(classifier, rows))
    smaller = keep_layers(classifier, [1, 2])
    blocks = classifier.encoder.blocks
    classifier.encoder.__dict__["blocks"] = blocks[1:]
    np.testing.assert_array_equal(logits(smaller, rows), logits(classifier, rows))


@pytest.mark.parametrize(
    ("kind", "layers", "message"),
    [
        ("bert", [0, 3], "layer 3: no such layer; the model has 3, numbered 0 to 2"),
        ("bert", [-1], "layer -1: no such layer"),
        ("bert", [1, 0], "must be numbers that ascend, at least one. Received: 1,0"),
        ("distilbert", [1, 1], "must be numbers that ascend"),
        ("distilbert", [], "must be numbers that ascend"),
        ("albert", [0], "ALBERT's layers are one block"),
    ],
)
def test_wrong_layers_are_told(kind, layers, message):
    with pytest.raises(InputError, match=message):
        keep_layers(make_classifier(kind), layers)


def test_share_is_rounded_down_and_must_be_one():
    assert removed(12, 0.25, "heads") == 3
    assert removed(12, 0.99, "heads") == 11
    assert removed(100, 0.29, "neurons") == 29
    with pytest.raises(InputError, match=r"0.1 of 4 heads is less than one of them: .* 0.25"):
        removed(4, 0.1, "heads")


def test_equals_are_kept_from_the_first():
    scores = np.array([[1.0, 1.0, 1.0, 2.0], [0.0, 3.0, 0.0, 3.0]])
    assert most_important(scores, 0.5).tolist() == [[0, 3], [1, 3]]
