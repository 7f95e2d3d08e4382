"""A training step does what it did: with each stack, on each machine."""

import importlib.util
import pathlib

import numpy as np
import pytest

DATA = pathlib.Path(__file__).parents[1] / "testdata"


@pytest.fixture(scope="module")
def maker():
    spec = importlib.util.spec_from_file_location(
        "make_training_step", DATA / "make_training_step.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("architecture", ["bert", "distilbert", "albert"])
def test_a_training_step_is_as_it_was(maker, architecture):
    with np.load(DATA / "training_step.npz") as file:
        expected = {
            name.removeprefix(f"{architecture}:"): file[name]
            for name in file
            if name.startswith(f"{architecture}:")
        }
    weights = maker.make_classifier(architecture).weights
    before = {weight.path: np.array(weight.value) for weight in weights}
    actual = maker.take_two_steps(architecture)
    assert set(actual) == set(expected) == {*before, "losses", "logits"}
    for name, value in actual.items():
        np.testing.assert_allclose(value, expected[name], rtol=0, atol=2e-5, err_msg=name)
    # It was a step: else all of this would hold of models that learn nothing.
    assert actual["losses"][1] < actual["losses"][0] - 1e-3
    moved = {name: np.abs(actual[name] - before[name]).max() for name in before}
    assert all(distance > 1e-3 for name, distance in moved.items() if "key/bias" not in name), moved
