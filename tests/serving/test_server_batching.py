import asyncio
import threading
import time

import grpc
import numpy as np
import pytest

from bert_tfx.serving.batching import Batcher, BatchLimits, Compute
from bert_tfx.serving.refused import Refused, invalid


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
            raise invalid("-1 is refused")
        return {"y": 2 * inputs["x"]}


def run(scenario, *, joins=True, threads=1, **limits):
    """Runs a scenario of `(doubler, submit)`; returns the doubler and what it gave."""

    async def main():
        doubler = Doubler()
        observed = []
        batcher = Batcher(
            doubler,
            Compute(threads),
            BatchLimits(**limits),
            joins=joins,
            observe=lambda rows, waited: observed.append(rows),
        )

        async def submit(*rows, seconds=None, inputs=None):
            deadline = None if seconds is None else time.monotonic() + seconds
            given = {"x": np.array(rows)} if inputs is None else inputs
            return (await batcher.submit(given, len(rows), deadline))["y"].ravel().tolist()

        result = await scenario(doubler, submit)
        return doubler, observed, result

    return asyncio.run(main())


async def first_under_way(doubler, submit):
    task = asyncio.create_task(submit(0))
    await asyncio.to_thread(doubler.begun.wait, 20)
    return task


def test_what_waits_is_joined_and_answered_apart():
    async def scenario(doubler, submit):
        first = await first_under_way(doubler, submit)
        others = [asyncio.create_task(submit(*rows)) for rows in ((1, 2), (3,), (), (4, 5))]
        await asyncio.sleep(0)
        doubler.go_on.set()
        return await asyncio.gather(first, *others)

    doubler, observed, answers = run(scenario, max_rows=4)
    assert answers == [[0], [2, 4], [6], [], [8, 10]]
    assert doubler.batches == [[0], [1, 2, 3], [4, 5]]
    assert observed == [1, 3, 2]


def test_a_lone_request_waits_for_nobody():
    async def scenario(doubler, submit):
        doubler.go_on.set()
        begun = time.monotonic()
        await submit(1)
        return time.monotonic() - begun

    assert run(scenario)[2] < 1


def test_a_timeout_gathers_until_the_batch_is_full():
    async def scenario(doubler, submit):
        doubler.go_on.set()
        begun = time.monotonic()
        await asyncio.gather(*(submit(number) for number in range(4)))
        full = time.monotonic() - begun
        await submit(9)
        return full, time.monotonic() - begun - full

    doubler, _, (full, alone) = run(scenario, max_rows=4, timeout=1.5)
    assert doubler.batches == [[0, 1, 2, 3], [9]]
    assert full < 1.4
    assert alone >= 1.4


def test_other_shapes_are_not_joined():
    async def scenario(doubler, submit):
        first = await first_under_way(doubler, submit)
        others = [
            asyncio.create_task(submit(1, inputs={"x": np.full([1, width], width)}))
            for width in (2, 2, 3)
        ]
        await asyncio.sleep(0)
        doubler.go_on.set()
        return await asyncio.gather(first, *others)

    doubler, _, answers = run(scenario)
    assert answers == [[0], [4, 4], [4, 4], [6, 6, 6]]
    assert doubler.batches == [[0], [2, 2, 2, 2], [3, 3, 3]]


def test_functions_without_rows_are_computed_one_by_one():
    async def scenario(doubler, submit):
        doubler.go_on.set()
        return await asyncio.gather(submit(1), submit(2))

    doubler, _, answers = run(scenario, joins=False)
    assert (doubler.batches, answers) == ([[1], [2]], [[2], [4]])


def test_a_bad_request_spoils_no_other():
    async def scenario(doubler, submit):
        first = await first_under_way(doubler, submit)
        others = [asyncio.create_task(submit(number)) for number in (1, -1, 2)]
        await asyncio.sleep(0)
        doubler.go_on.set()
        return await asyncio.gather(first, *others, return_exceptions=True)

    doubler, _, (zero, one, bad, two) = run(scenario)
    assert (zero, one, two) == ([0], [2], [4])
    assert (bad.code, str(bad)) == (grpc.StatusCode.INVALID_ARGUMENT, "-1 is refused")
    assert doubler.batches == [[0], [1, -1, 2], [1], [-1], [2]]


def test_who_has_given_up_is_not_computed():
    async def scenario(doubler, submit):
        first = await first_under_way(doubler, submit)
        late = asyncio.create_task(submit(1, seconds=0.05))
        gone = asyncio.create_task(submit(2))
        patient = asyncio.create_task(submit(3, seconds=60))
        await asyncio.sleep(0.1)
        gone.cancel()
        doubler.go_on.set()
        return await asyncio.gather(first, late, gone, patient, return_exceptions=True)

    doubler, _, (_, late, gone, patient) = run(scenario)
    assert late.code == grpc.StatusCode.DEADLINE_EXCEEDED
    assert isinstance(gone, asyncio.CancelledError)
    assert patient == [6]
    assert doubler.batches == [[0], [3]]


def test_the_queue_is_bounded():
    async def scenario(doubler, submit):
        first = await first_under_way(doubler, submit)
        waiting = [asyncio.create_task(submit(number)) for number in (1, 2)]
        await asyncio.sleep(0)
        with pytest.raises(Refused) as caught:
            await submit(3)
        waiting.pop().cancel()
        await asyncio.sleep(0)
        # There is room again.
        waiting.append(asyncio.create_task(submit(4)))
        await asyncio.sleep(0)
        doubler.go_on.set()
        return caught.value, await asyncio.gather(first, *waiting)

    _, _, (refused, answers) = run(scenario, max_waiting=2)
    assert refused.code == grpc.StatusCode.UNAVAILABLE
    assert answers == [[0], [2], [8]]


def test_outputs_without_the_rows_are_not_split():
    async def main():
        compute, sizes = Compute(1), []

        def total(inputs):
            sizes.append(len(inputs["x"]))
            time.sleep(0.1)
            return {"total": np.array([inputs["x"].sum()])}

        batcher = Batcher(total, compute, BatchLimits(), joins=True, observe=lambda *_: None)
        answers = await asyncio.gather(
            *(batcher.submit({"x": np.full(2, n)}, 2, None) for n in (1, 2, 3))
        )
        return sizes, [answer["total"].tolist() for answer in answers]

    sizes, answers = asyncio.run(main())
    assert answers == [[2], [4], [6]]
    assert sizes[-3:] == [2, 2, 2]


def test_batches_in_parallel():
    async def scenario(doubler, submit):
        tasks = [asyncio.create_task(submit(number)) for number in (1, 2)]
        while len(doubler.batches) < 2:
            await asyncio.sleep(0.01)
        doubler.go_on.set()
        return await asyncio.gather(*tasks)

    assert run(scenario, threads=2, max_rows=1)[2] == [[2], [4]]
