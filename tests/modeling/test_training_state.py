import keras
import numpy as np
import pytest

from bert_tfx.modeling import optimization, training_state
from bert_tfx.modeling.training_state import Progress, TrainingState


def make_state(folder, **options):
    dense = keras.layers.Dense(2)
    model = keras.Sequential([keras.Input((3,)), dense, keras.layers.Dropout(0.5)])
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
