import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from bert_tfx.modeling.checkpoints.variable_names import SEED_STATE
from bert_tfx.modeling.encoders.albert import AlbertEncoder
from bert_tfx.modeling.encoders.bert import BertEncoder
from bert_tfx.modeling.encoders.classifier import TextClassifier
from bert_tfx.modeling.encoders.distil_bert import DistilBertEncoder
from bert_tfx.modeling.training import optimization, train_step
from bert_tfx.modeling.training.cross_entropy import CrossEntropy
from bert_tfx.modeling.training.recomputation import recomputed

LABELS = np.array([0, 2, 1, 1, 0], np.int32)
WEIGHTS = np.array([0.5, 1.0, 3.0])


def make_model(encoder_class=BertEncoder, *, dropout=0.0, dtype=None):
    keras.utils.set_random_seed(3)
    narrow = {"embedding_dim": 8} if encoder_class is AlbertEncoder else {}
    encoder = encoder_class(
        vocab_size=20,
        hidden_dim=16,
        num_layers=2,
        num_heads=2,
        intermediate_dim=32,
        initializer_range=0.1,
        max_length=12,
        hidden_dropout=dropout,
        attention_dropout=dropout,
        dtype=dtype,
        **narrow,
    )
    return TextClassifier(encoder, num_labels=3, dropout=dropout)


def make_batch(rows=5):
    rng = np.random.default_rng(1)
    ids = rng.integers(1, 20, (rows, 9)).astype(np.int32)
    mask = (np.arange(9) < rng.integers(3, 10, (rows, 1))).astype(np.int32)
    return {"token_ids": ids * mask, "segment_ids": 0 * mask, "padding_mask": mask}


def make_optimizer(model, **options):
    defaults = {"learning_rate": 0.01, "warmup_steps": 0, "total_steps": 10}
    optimizer = optimization.adamw(**defaults | {"weight_decay": 0.01, "clip_norm": 0.5} | options)
    optimizer.build(model.trainable_variables)
    return optimizer


def take_steps(model, loss=None, *, steps=3, clip_norm=0.5, **options):
    """Returns what each step reports, and the weights after them."""
    optimizer = make_optimizer(model, clip_norm=clip_norm)
    step = train_step.train_step(model, optimizer, loss, **options)
    taken = [step(make_batch(), LABELS) for _ in range(steps)]
    return taken, [np.asarray(variable) for variable in model.variables]


def assert_close(first, second, tolerance):
    """Compares what steps report; a weight without a real gradient is left to Adam's whim."""
    assert np.allclose([s.loss for s in first], [s.loss for s in second], rtol=0, atol=tolerance)
    assert [s.correct for s in first] == [s.correct for s in second]
    assert [s.learning_rate for s in first] == pytest.approx([s.learning_rate for s in second])


def test_step_reports_the_loss_it_minimizes():
    model = make_model()
    loss = CrossEntropy(WEIGHTS, 0.1)
    logits = np.asarray(model(make_batch()))
    taken, _ = take_steps(model, loss)
    assert taken[0].loss == pytest.approx(float(loss(LABELS, logits)), rel=1e-5)
    assert taken[0].correct == (logits.argmax(axis=1) == LABELS).sum()
    assert taken[-1].loss < taken[0].loss
    assert [step.learning_rate for step in taken] == pytest.approx([0.01, 0.009, 0.008])


@pytest.mark.parametrize(
    ("pieces", "weights"),
    [
        (3, None),
        (2, WEIGHTS),
        pytest.param(2, None, marks=pytest.mark.slow),
        pytest.param(3, WEIGHTS, marks=pytest.mark.slow),
        pytest.param(5, None, marks=pytest.mark.slow),
        pytest.param(5, WEIGHTS, marks=pytest.mark.slow),
    ],
)
def test_pieces_give_the_step_of_the_whole(pieces, weights):
    """Five rows in two, three and five pieces, clipped; the weights differ from row to row."""
    loss = CrossEntropy(weights)
    whole, _ = take_steps(make_model(), loss)
    assert_close(take_steps(make_model(), loss, pieces=pieces)[0], whole, 2e-6)


def test_more_pieces_than_rows():
    model = make_model()
    step = train_step.train_step(model, make_optimizer(model), pieces=4)
    few = {name: array[:1] for name, array in make_batch().items()}
    taken = step(few, LABELS[:1])
    loss = CrossEntropy()(LABELS[:1], np.asarray(make_model()(few)))
    assert taken.loss == pytest.approx(float(loss), rel=1e-5)
    assert all(np.isfinite(np.asarray(v)).all() for v in model.trainable_variables)


def test_clipping_sees_the_gradient_of_a_token_as_one():
    """A token's slices, one for each place where it stands, add up before the norm is taken."""
    model = make_model()
    optimizer = make_optimizer(model, clip_norm=1e-3)
    train_step.train_step(model, optimizer)(make_batch(), LABELS)
    norm = np.sqrt(sum((np.asarray(m) ** 2).sum() for m in optimizer._momentums)) / (1 - 0.9)
    assert norm == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize(
    "encoder_class",
    [
        BertEncoder,
        *(pytest.param(c, marks=pytest.mark.slow) for c in (DistilBertEncoder, AlbertEncoder)),
    ],
)
def test_gradient_checkpointing_changes_nothing(encoder_class):
    """Dropout draws the same numbers in both passes, and as without it.

    Other numbers would move the losses by a hundredth. Equal to the last bit they need not be: the
    graphs differ, and with them the order in which the gradients of ALBERT's one block are added.
    """
    plain, _ = take_steps(make_model(encoder_class, dropout=0.2))
    taken, _ = take_steps(make_model(encoder_class, dropout=0.2), gradient_checkpointing=True)
    assert_close(taken, plain, 2e-6)
    # What else is drawn, in place of what is drawn again.
    other, _ = take_steps(make_model(encoder_class, dropout=0.21), gradient_checkpointing=True)
    assert abs(other[-1].loss - plain[-1].loss) > 1e-3


def test_dropout_draws_new_numbers_for_each_step_and_piece():
    model = make_model(dropout=0.2)
    seeds = [v for v in model.variables if v.name == SEED_STATE]
    before = [np.asarray(seed)[1] for seed in seeds]
    take_steps(model, steps=3, pieces=2, gradient_checkpointing=True)
    draws = {int(np.asarray(seed)[1] - start) for seed, start in zip(seeds, before, strict=True)}
    # A block's hidden dropout draws twice a call.
    assert draws == {6, 12}


def random_draws(recompute):
    """Returns how many random tensors the graph of forward and backward pass draws."""
    model = make_model(dropout=0.1)
    batch = {name: tf.tile(array, [20, 1]) for name, array in make_batch().items()}
    variables = [variable.value for variable in model.trainable_variables]

    @tf.function
    def forward():
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            with recomputed(model.encoder) if recompute else contextlib.nullcontext():
                logits = model(batch, training=True)
        return tape.gradient(logits, variables)

    graph = forward.get_concrete_function().graph
    return len([op for op in graph.get_operations() if op.type == "StatelessRandomUniformV2"])


def test_gradient_checkpointing_computes_the_blocks_twice():
    once, twice = random_draws(False), random_draws(True)
    # Three dropouts in each of two blocks are drawn again; embeddings' and head's are not.
    assert (once, twice) == (8, 14)


def test_float16_learns_with_a_scaled_loss():
    model = make_model(dtype="mixed_float16")
    optimizer = keras.optimizers.LossScaleOptimizer(make_optimizer(model))
    optimizer.build(model.trainable_variables)
    step = train_step.train_step(model, optimizer)
    taken = [step(make_batch(), LABELS) for _ in range(5)]
    full, _ = take_steps(make_model(), steps=5)
    assert taken[0].loss == pytest.approx(full[0].loss, abs=0.01)
    assert taken[-1].loss < taken[0].loss
    assert all(v.dtype == "float32" for v in model.trainable_variables)


def test_float16_leaves_out_a_step_that_overflows():
    model = make_model(dtype="mixed_float16")
    inner = make_optimizer(model)
    optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=2.0**40)
    optimizer.build(model.trainable_variables)
    before = [np.asarray(v) for v in model.trainable_variables]
    train_step.train_step(model, optimizer)(make_batch(), LABELS)
    after = [np.asarray(v) for v in model.trainable_variables]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert float(optimizer.dynamic_scale) == 2.0**39
    assert int(inner.iterations) == 0
