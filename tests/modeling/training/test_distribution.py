"""The strategies must be set up before TensorFlow computes anything: each test has processes."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from bert_tfx.modeling.training import distribution
from bert_tfx.modeling.training.recipes import Recipe
from bert_tfx.schema.errors import InputError

# 61 rows in batches of 4: the last one has one row, and leaves a replica without any.
PROGRAM = """
import dataclasses, json, sys
import numpy as np
import tensorflow as tf

kind, replicas, dropout, folder, options = json.loads(sys.argv[1])
if replicas > 1:
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * replicas,
    )

from bert_tfx.modeling.checkpoints.variable_names import SEED_STATE
from bert_tfx.modeling.text import batching
from bert_tfx.modeling.training import distribution
from bert_tfx.modeling.training import fine_tuning
from bert_tfx.modeling.training import training_state
from bert_tfx.modeling.encoders.bert import BertEncoder
from bert_tfx.modeling.encoders.classifier import TextClassifier
from bert_tfx.modeling.training.recipes import Recipe

recipe = Recipe(
    max_length=12, batch_size=4, epochs=2, learning_rate=1e-2, seed=3, distribution=kind, **options
)

teaching = None

def make_model(seed):
    encoder = BertEncoder(
        vocab_size=20, hidden_dim=16, num_layers=1, num_heads=2, intermediate_dim=32,
        initializer_range=0.1, max_length=12, hidden_dropout=dropout, attention_dropout=dropout,
        dtype=recipe.precision,
    )
    return TextClassifier(encoder, num_labels=2, dropout=dropout)

def make_rows(count, seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 12, count)
    tokens = rng.integers(8, 20, lengths.sum()).astype(np.int32)
    labels = rng.integers(0, 2, count).astype(np.int32)
    tokens[(np.cumsum(lengths) - lengths)[labels == 1] + 1] = 7
    return batching.Rows(tokens, None, lengths, labels)

def train(folder):
    reports = []
    result = fine_tuning.fine_tune_seeds(
        make_model, make_rows(61, 0), make_rows(20, 1), recipe, state_dir=folder,
        on_metrics=lambda seed, step, metrics: reports.append(step),
        train=teaching and distilling(teaching),
    )
    return result, reports

def weights(model):
    return [np.asarray(v) for v in model.trainable_variables]
"""

REPORT = """
result, reports = train(folder)
progress = result.progress[3]
strategy = distribution.strategy_of(result.model, recipe)
print(json.dumps({
    "losses": progress.step_losses,
    "history": progress.history,
    "reports": reports,
    "chief": distribution.is_chief(strategy),
    "sum": float(sum(np.abs(w).sum() for w in weights(result.model))),
}))
"""

# Of the stages the first asks the teacher in each step; the second has its answers beforehand.
TAUGHT = """
from bert_tfx.modeling.distillation.distil import distilling
from bert_tfx.modeling.distillation.learner import Teaching
from bert_tfx.modeling.distillation.settings import Distillation

fine_tuning.keras.utils.set_random_seed(0)
with distribution.scope(recipe):
    teachers = (make_model(0),)
settings = Distillation(embedding_weight=1.0, hidden_weight=1.0, intermediate_epochs=1)
teaching = Teaching(settings, teachers)
"""

STOP_FIRST = """
class Stopped(BaseException):
    pass

train_step = fine_tuning.train_step

def stopping(*arguments, **options):
    step = train_step(*arguments, **options)
    taken = []

    def take(*batch):
        if len(taken) == 19:
            raise Stopped
        taken.append(1)
        return step(*batch)

    return take

training_state._SECONDS_BETWEEN_SAVES = training_state._SAVE_COST_FACTOR = 0.0
fine_tuning.train_step = stopping
try:
    train(folder)
except Stopped:
    fine_tuning.train_step = train_step
with distribution.scope(recipe):
    distribution.sum_over_workers(tf.distribute.get_strategy(), [0.0])
"""

RESUME = """
class Killed(BaseException):
    pass

whole, _ = train(folder + "/whole")
strategy = distribution.strategy_of(whole.model, recipe)
seeds = [v for v in whole.model.variables if v.name == SEED_STATE]
replicas_seeds = [
    [value.numpy().tolist() for value in strategy.experimental_local_results(seed.value)]
    for seed in seeds
]
replicas_weights = [
    [value.numpy() for value in strategy.experimental_local_results(variable.value)]
    for variable in whole.model.trainable_variables
]
save = training_state.TrainingState.save
saves = []

def save_and_die(self, progress):
    save(self, progress)
    saves.append(1)
    if len(saves) == (25 if teaching else 7):
        raise Killed

training_state._SECONDS_BETWEEN_SAVES = training_state._SAVE_COST_FACTOR = 0.0
training_state.TrainingState.save = save_and_die
try:
    train(folder + "/killed")
except Killed:
    pass
training_state.TrainingState.save = save
resumed, _ = train(folder + "/killed")
print(json.dumps({
    "killed": len(saves),
    "seeds": replicas_seeds,
    "replicas_equal": all(np.array_equal(a, b) for a, b in replicas_weights),
    "equal": all(map(np.array_equal, weights(whole.model), weights(resumed.model))),
    "same_losses": whole.progress[3].step_losses == resumed.progress[3].step_losses,
}))
"""


def start(program, kind, folder, *, replicas=1, dropout=0.0, config=None, **options):
    arguments = json.dumps([kind, replicas, dropout, str(folder), options])
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    if config:
        environment["TF_CONFIG"] = json.dumps(config)
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(PROGRAM + program), arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def results(*processes):
    """Returns what each process printed last."""
    try:
        found = []
        for process in processes:
            # Less than pytest allows, which would not end them.
            stdout, stderr = process.communicate(timeout=500)
            assert process.returncode == 0, stderr[-3000:]
            found.append(json.loads(stdout.strip().splitlines()[-1]))
        return found
    finally:
        for process in processes:
            # And closes the pipes, too.
            with process:
                process.kill()


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("localhost", 0))
        return [each.getsockname()[1] for each in sockets]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    (result,) = results(start(REPORT, "none", folder))
    return result


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(alone, tmp_path):
    """Also when both are stopped in the second epoch and go on from the shared state."""
    workers = [f"localhost:{port}" for port in free_ports(2)]
    first, second = results(
        *(
            start(
                STOP_FIRST + REPORT,
                "multi_worker",
                tmp_path,
                accumulation_steps=2,
                config={
                    "cluster": {"worker": workers},
                    "task": {"type": "worker", "index": index},
                },
            )
            for index in range(2)
        )
    )
    assert len(first["losses"]) == 32
    assert np.allclose(first["losses"], alone["losses"], rtol=0, atol=2e-6)
    assert first["losses"] == second["losses"]
    assert first["history"] == second["history"]
    assert first["sum"] == second["sum"]
    assert (first["chief"], second["chief"]) == (True, False)
    assert first["reports"][-1] == 32
    assert second["reports"] == []


@pytest.mark.slow
def test_two_devices_take_the_steps_of_one(alone, tmp_path):
    (result,) = results(start(REPORT, "mirrored", tmp_path, replicas=2))
    assert np.allclose(result["losses"], alone["losses"], rtol=0, atol=2e-6)
    assert result["chief"]


@pytest.mark.slow
def test_two_devices_take_the_steps_of_one_student(tmp_path):
    alone, both = results(
        start(TAUGHT + REPORT, "none", tmp_path / "alone"),
        start(TAUGHT + REPORT, "mirrored", tmp_path / "both", replicas=2),
    )
    assert len(both["losses"]) == 32
    assert np.allclose(both["losses"], alone["losses"], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_two_devices_go_on_as_students(tmp_path):
    """Killed in the second stage: the first one has 17 saves."""
    (result,) = results(start(TAUGHT + RESUME, "mirrored", tmp_path, replicas=2, dropout=0.1))
    assert result["equal"] and result["same_losses"]


@pytest.mark.slow
def test_two_devices_go_on_as_if_never_stopped(tmp_path):
    (result,) = results(
        start(
            RESUME,
            "mirrored",
            tmp_path,
            replicas=2,
            dropout=0.1,
            layer_decay=0.8,
            precision="mixed_float16",
        )
    )
    assert result["killed"] == 7
    assert result["equal"] and result["same_losses"]
    assert result["replicas_equal"]
    # The replicas drew as many numbers, from different seeds.
    for (seed_a, count_a), (seed_b, count_b) in result["seeds"]:
        assert seed_a != seed_b
        assert count_a == count_b > 0


def test_one_process_has_nothing_to_set_up():
    recipe = Recipe()
    with distribution.scope(recipe):
        pass
    assert distribution.is_chief(None)
    assert distribution.sum_over_workers(None, [1, 2.5]) == [1.0, 2.5]
    assert distribution.from_chief(None, [0.5]) == [0.5]


@pytest.mark.parametrize("config", [None, "", "{", "[]", '{"cluster": {"worker": ["a:1"]}}'])
def test_workers_must_be_named(monkeypatch, config):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if config is not None:
        monkeypatch.setenv("TF_CONFIG", config)
    recipe = Recipe(distribution="multi_worker")
    with pytest.raises(InputError, match="TF_CONFIG"), distribution.scope(recipe):
        pass
