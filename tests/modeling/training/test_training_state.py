import json

import keras
import numpy as np
import pytest

from bert_tfx.modeling.encoders.bert import BertEncoder
from bert_tfx.modeling.encoders.classifier import TextClassifier
from bert_tfx.modeling.training import optimization, training_state
from bert_tfx.modeling.training.training_state import Progress, TrainingState
from bert_tfx.schema.errors import InputError


def make_state(folder, **options):
    dense = keras.layers.Dense(2, name="dense")
    dropout = keras.layers.Dropout(0.5, name="dropout")
    model = keras.Sequential([keras.Input((3,)), dense, dropout], name="model")
    optimizer = optimization.adamw(
        learning_rate=0.1, warmup_steps=0, total_steps=9, weight_decay=0.1, clip_norm=1.0
    )
    optimizer.build(model.trainable_variables)
    return model, optimizer, TrainingState(model, optimizer, str(folder), **options)


def values(model, optimizer):
    return [np.asarray(v).tolist() for v in (*model.variables, *optimizer.variables)]


PROGRESS = Progress(
    epoch=1,
    step_in_epoch=2,
    best_epoch=1,
    best_value=0.1,
    history=[{"loss": 1 / 3}],
    step_losses=[float(np.float32(0.1)), 1 / 3],
    learning_rates=[1e-5, 2e-5],
)


def test_restores_all_that_was_saved(tmp_path):
    model, optimizer, state = make_state(tmp_path)
    optimizer.apply([np.ones(v.shape) for v in model.trainable_variables])
    model(np.ones((1, 3)), training=True)
    state.save(PROGRESS)
    other_model, other_optimizer, other_state = make_state(tmp_path)
    assert values(other_model, other_optimizer) != values(model, optimizer)
    assert other_state.restore() == PROGRESS
    assert values(other_model, other_optimizer) == values(model, optimizer)


def test_nothing_saved_is_nothing_restored(tmp_path):
    assert make_state(tmp_path)[2].restore() is None


def test_best_weights_outlive_later_states(tmp_path):
    model, _, state = make_state(tmp_path)
    model.set_weights([np.ones(w.shape) for w in model.get_weights()])
    state.save_best()
    model.set_weights([np.zeros(w.shape) for w in model.get_weights()])
    state.save(PROGRESS)
    state.restore_best()
    assert all((weight == 1).all() for weight in model.get_weights())


def test_others_than_the_writer_write_nothing(tmp_path):
    _, _, state = make_state(tmp_path / "none", is_writer=False)
    state.save(PROGRESS)
    state.save_if_due(PROGRESS)
    state.save_best()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("seconds", "saves"), [(0.0, 3), (1000.0, 0)])
def test_saves_when_due(tmp_path, monkeypatch, seconds, saves):
    monkeypatch.setattr(training_state, "_SECONDS_BETWEEN_SAVES", seconds)
    monkeypatch.setattr(training_state, "_SAVE_COST_FACTOR", 0.0)
    written = []
    monkeypatch.setattr(TrainingState, "_write", lambda self, name, arrays: written.append(name))
    _, _, state = make_state(tmp_path)
    for _ in range(3):
        state.save_if_due(PROGRESS)
    assert len(written) == saves


def test_long_curves_are_saved_in_no_time(tmp_path):
    """100,000 steps take 1.6 MB, not their digits."""
    _, _, state = make_state(tmp_path)
    curve = np.random.default_rng(0).random(100_000).tolist()
    state.save(Progress(step_losses=curve, learning_rates=curve))
    assert (tmp_path / "state.npz").stat().st_size < 1_700_000
    assert state.restore().step_losses == curve


# By name, not by order.


def make_bert_state(folder):
    """A state of a classifier in which no two variables have the same value."""
    encoder = BertEncoder(
        vocab_size=15, hidden_dim=8, num_layers=2, num_heads=2, intermediate_dim=16, max_length=8
    )
    model = TextClassifier(encoder, num_labels=2)
    optimizer = optimization.adamw(
        learning_rate=0.1, warmup_steps=0, total_steps=9, weight_decay=0.1, clip_norm=1.0
    )
    optimizer.build(model.trainable_variables)
    state = TrainingState(model, optimizer, str(folder))
    generator = np.random.default_rng()
    for variable in (*model.variables, *optimizer.variables):
        value = generator.integers(1, 2**31 - 1, variable.shape)
        variable.assign(value.astype(variable.dtype))
    return model, optimizer, state


def attention_of(model, optimizer):
    """What a mix-up would do the most harm to, as nothing else would tell."""
    attention = model.encoder.blocks[1].attention
    layers = (attention.query_dense, attention.key_dense, attention.value_dense)
    seeds = [model.encoder.blocks[i].dropout.seed_generator.state for i in range(2)]
    weights = [v for layer in layers for v in (layer.kernel, layer.bias)]
    places = {id(v): i for i, v in enumerate(model.trainable_variables)}
    moments = [optimizer._momentums[places[id(v)]] for v in weights]
    return [np.asarray(v).tolist() for v in (*weights, *seeds, *moments)]


def backwards(monkeypatch):
    """Makes Keras list a model's variables in another order."""
    for name in ("variables", "trainable_variables"):
        there = getattr(keras.Model, name)
        monkeypatch.setattr(
            TextClassifier, name, property(lambda self, there=there: there.fget(self)[::-1])
        )


def test_each_variable_finds_its_place_in_another_order(tmp_path, monkeypatch):
    model, optimizer, state = make_bert_state(tmp_path)
    state.save(PROGRESS)
    state.save_best()
    saved = attention_of(model, optimizer)
    first = model.variables[0].path
    backwards(monkeypatch)
    model, optimizer, state = make_bert_state(tmp_path)
    assert model.variables[-1].path == first
    assert state.restore() == PROGRESS
    assert attention_of(model, optimizer) == saved
    model.encoder.set_weights([np.zeros(w.shape) for w in model.encoder.get_weights()])
    state.restore_best()
    assert attention_of(model, optimizer) == saved


def change(file, changed):
    with np.load(file) as arrays:
        held = dict(arrays)
    changed(held)
    np.savez(file, **held)


QUERY = "variable/bert/block_0/attention/query/kernel"
CHANGES = {
    r"missing: bert/block_0/attention/query/kernel\. ": lambda held: held.pop(QUERY),
    r"unexpected: bert/block_7/output/kernel\. ": lambda held: held.update(
        {"variable/bert/block_7/output/kernel": held[QUERY]}
    ),
    r"missing: \S+/query/kernel; unexpected: bert/asking\. ": lambda held: held.update(
        {"variable/bert/asking": held.pop(QUERY)}
    ),
    r"query/kernel \(float32 \[8, 4\] there, float32 \[8, 8\] here\)\. ": lambda held: held.update(
        {QUERY: held[QUERY][:, :4]}
    ),
    r"query/kernel \(float64 \[8, 8\] there, float32 \[8, 8\] here\)\. ": lambda held: held.update(
        {QUERY: held[QUERY].astype("float64")}
    ),
}


@pytest.mark.parametrize("message", CHANGES)
def test_what_does_not_fit_is_refused_and_changes_nothing(tmp_path, message):
    _, _, state = make_bert_state(tmp_path)
    state.save(PROGRESS)
    state.save_best()
    model, optimizer, state = make_bert_state(tmp_path)
    before = values(model, optimizer)
    for name, restore in (("state.npz", state.restore), ("best.npz", state.restore_best)):
        change(tmp_path / name, CHANGES[message])
        with pytest.raises(InputError, match=message) as refused:
            restore()
        assert str(refused.value).startswith(f"{tmp_path / name}: holds other variables than ")
        assert str(refused.value).endswith(
            f". Finish this training with the release that began it, or remove {tmp_path} and "
            "start anew"
        )
    assert values(model, optimizer) == before


def test_two_variables_of_one_name_are_not_saved(tmp_path):
    layers = [keras.layers.Dense(2, name="dense") for _ in range(2)]

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = layers

    for layer in layers:
        layer.build((None, 2))
    with pytest.raises(RuntimeError, match="two variables are named dense/kernel"):
        TrainingState(Model(), keras.optimizers.SGD(), str(tmp_path))


# To be deleted with 0.3, like what reads it.


def save_by_position(folder, model, optimizer):
    """Writes the files of 0.1."""
    held = {f"v{i}": np.asarray(v) for i, v in enumerate([*model.variables, *optimizer.variables])}
    fields = dict(vars(PROGRESS))
    held |= {name: np.array(fields.pop(name)) for name in ("step_losses", "learning_rates")}
    np.savez(folder / "state.npz", progress=np.asarray(json.dumps(fields)), **held)
    best = {f"v{i}": np.asarray(v) for i, v in enumerate(model.trainable_variables)}
    np.savez(folder / "best.npz", **best)


def test_a_state_of_the_release_before_is_read(tmp_path):
    model, optimizer, _ = make_bert_state(tmp_path)
    save_by_position(tmp_path, model, optimizer)
    saved = values(model, optimizer)
    model, optimizer, state = make_bert_state(tmp_path)
    assert state.restore() == PROGRESS
    assert values(model, optimizer) == saved
    model, optimizer, state = make_bert_state(tmp_path)
    state.restore_best()
    expected = saved[: len(model.variables)]
    for variable, value in zip(model.variables, expected, strict=True):
        assert (np.asarray(variable).tolist() == value) == variable.trainable


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda held: held.pop("v24"), r"missing: bert/block_1/attention/query/kernel\. "),
        (lambda held: held.update(v999=held["v0"]), r"unexpected: v999\. "),
        (lambda held: held.update(v0=held["v1"]), r"bert/token_embedding/embeddings \(float32 "),
    ],
)
def test_a_state_of_the_release_before_that_does_not_fit_is_refused(tmp_path, changed, message):
    model, optimizer, state = make_bert_state(tmp_path)
    save_by_position(tmp_path, model, optimizer)
    change(tmp_path / "state.npz", changed)
    before = values(model, optimizer)
    with pytest.raises(InputError, match=message):
        state.restore()
    assert values(model, optimizer) == before
