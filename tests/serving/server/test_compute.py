import threading
import time
from concurrent.futures import CancelledError

import numpy as np
import pytest

from bert_tfx.serving.server.compute import Compute


class Doubler:
    """Doubles rows; notes the batches it gets; waits before the first one until it may go on."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go_on = threading.Event()
        self.begun = threading.Event()

    def __call__(self, inputs):
        rows = inputs["x"].ravel().tolist()
        self.batches.append(rows)
        self.begun.set()
        if not self.go_on.wait(20):
            raise TimeoutError
        if -1 in rows:
            raise ValueError("-1 is refused")
        return {"y": 2 * inputs["x"]}


@pytest.fixture
def doubler():
    return Doubler()


@pytest.fixture
def computing(doubler):
    """Queues requests; the first one is under way, and the others wait for it."""

    def computing(*requests, max_rows=128, key="x"):
        compute = Compute(max_rows)
        answers = [compute.submit(doubler, {"x": np.array([0])}, 1, key=key)]
        assert doubler.begun.wait(20)
        for rows in requests:
            array = rows if isinstance(rows, np.ndarray) else np.array(rows)
            answers.append(compute.submit(doubler, {"x": array}, len(array), key=key))
        return answers

    return computing


def values(answers):
    return [answer.result(20)["y"].ravel().tolist() for answer in answers]


def test_what_waits_is_joined_and_answered_apart(doubler, computing):
    answers = computing([1, 2], [3], [], [4, 5], max_rows=4)
    doubler.go_on.set()
    assert values(answers) == [[0], [2, 4], [6], [], [8, 10]]
    assert doubler.batches == [[0], [1, 2, 3], [4, 5]]


def test_other_shapes_are_not_joined(doubler, computing):
    answers = computing(*(np.full([1, width], width) for width in (2, 2, 3)))
    doubler.go_on.set()
    assert values(answers) == [[0], [4, 4], [4, 4], [6, 6, 6]]
    assert doubler.batches == [[0], [2, 2, 2, 2], [3, 3, 3]]


def test_without_a_key_each_is_computed_by_itself(doubler, computing):
    answers = computing([1], [2], key=None)
    doubler.go_on.set()
    assert values(answers) == [[0], [2], [4]]
    assert doubler.batches == [[0], [1], [2]]


def test_other_keys_are_not_joined(doubler):
    compute = Compute(8)
    first = compute.submit(doubler, {"x": np.array([0])}, 1, key="a")
    assert doubler.begun.wait(20)
    others = [
        compute.submit(doubler, {"x": np.array([number])}, 1, key=key)
        for number, key in ((1, "a"), (2, "b"), (3, "b"))
    ]
    doubler.go_on.set()
    assert values([first, *others]) == [[0], [2], [4], [6]]
    assert doubler.batches == [[0], [1], [2, 3]]


def test_a_bad_request_spoils_no_other(doubler, computing):
    zero, one, bad, two = computing([1], [-1], [2])
    doubler.go_on.set()
    assert values([zero, one, two]) == [[0], [2], [4]]
    with pytest.raises(ValueError, match="-1 is refused"):
        bad.result(20)
    assert doubler.batches == [[0], [1, -1, 2], [1], [-1], [2]]


def test_who_has_given_up_is_not_computed(doubler, computing):
    zero, gone, patient = computing([1], [2])
    assert gone.cancel()
    # It is under way.
    assert not zero.cancel()
    doubler.go_on.set()
    assert values([zero, patient]) == [[0], [4]]
    with pytest.raises(CancelledError):
        gone.result(20)
    assert doubler.batches == [[0], [2]]


def test_outputs_without_the_rows_are_not_split():
    sizes = []

    def total(inputs):
        sizes.append(len(inputs["x"]))
        time.sleep(0.1)
        return {"total": np.array([inputs["x"].sum()])}

    compute = Compute(128)
    answers = [compute.submit(total, {"x": np.full(2, n)}, 2, key="x") for n in (1, 2, 3)]
    assert [answer.result(20)["total"].tolist() for answer in answers] == [[2], [4], [6]]
    assert sizes[-3:] == [2, 2, 2]


def test_the_end_comes_after_what_was_given(doubler, computing):
    compute = Compute(128)
    answer = compute.submit(doubler, {"x": np.array([1])}, 1)
    assert not compute.end(0.1)
    doubler.go_on.set()
    assert compute.end(20)
    assert values([answer]) == [[2]]
