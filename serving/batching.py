"""Requests that wait for the same function are computed together.

A batch is formed when a thread is free to compute it, so that whatever waits anyway is joined;
`--batch-timeout-ms` makes the first request of a batch wait for company in addition.
"""

import asyncio
import dataclasses
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np

from bert_tfx.serving.refused import Refused

Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class BatchLimits:
    """How requests are joined.

    Attributes:
        max_rows: Rows of a batch at most, and of a request.
        timeout: Seconds that a request waits for others at most while a thread is free.
        max_waiting: Requests that may wait, for all versions and signatures together.
    """

    max_rows: int = 128
    timeout: float = 0.0
    max_waiting: int = 256


class Compute:
    """The threads that compute, and how many requests wait for them.

    Args:
        threads: Batches that are computed at the same time.
    """

    def __init__(self, threads: int) -> None:
        self.free = asyncio.Semaphore(threads)
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="compute")
        self.waiting = 0


@dataclasses.dataclass(eq=False)
class _Waiting:
    """A request in the queue; `deadline` is a time of `time.monotonic`."""

    inputs: Arrays
    rows: int
    deadline: float | None
    since: float
    answer: "asyncio.Future[Arrays]"

    @property
    def given_up(self) -> bool:
        return self.answer.done() or (
            self.deadline is not None and time.monotonic() >= self.deadline
        )

    @property
    def form(self) -> list[tuple[str, tuple[int, ...]]]:
        """What must be alike for arrays to be joined."""
        return sorted((name, array.shape[1:]) for name, array in self.inputs.items())


class Batcher:
    """The queue before one function.

    Args:
        function: Computes outputs of inputs, in a thread; raises `Refused` where they are wrong.
        compute: The threads.
        limits: How requests are joined.
        joins: Whether rows of different requests may be joined at all.
        observe: Told the rows of each batch, and the seconds its first request waited.
    """

    def __init__(
        self,
        function: Callable[[Arrays], Arrays],
        compute: Compute,
        limits: BatchLimits,
        *,
        joins: bool,
        observe: Callable[[int, float], None],
    ) -> None:
        self._function = function
        self._compute = compute
        self._limits = limits
        self._joins = joins
        self._observe = observe
        self._queue: deque[_Waiting] = deque()
        self._rows = 0
        self._grown = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._working = False

    async def submit(self, inputs: Arrays, rows: int, deadline: float | None) -> Arrays:
        """Returns the outputs for `inputs`.

        Args:
            inputs: Arrays; where `joins`, all with `rows` rows.
            rows: How many.
            deadline: When nobody waits any more, by `time.monotonic`.

        Raises:
            Refused: If too many wait, the time is over, or the function refuses the inputs.
        """
        if self._compute.waiting >= self._limits.max_waiting:
            raise Refused(
                grpc.StatusCode.UNAVAILABLE,
                f"{self._limits.max_waiting} requests are waiting already (--max-queue); try later",
            )
        loop = asyncio.get_running_loop()
        waiting = _Waiting(inputs, rows, deadline, time.monotonic(), loop.create_future())
        self._queue.append(waiting)
        self._rows += rows
        self._compute.waiting += 1
        self._grown.set()
        if not self._working:
            self._working = True
            self._start(self._work())
        try:
            return await waiting.answer
        except asyncio.CancelledError:
            if waiting in self._queue:
                self._queue.remove(waiting)
                self._left(waiting)
            raise

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _left(self, waiting: _Waiting) -> None:
        self._rows -= waiting.rows
        self._compute.waiting -= 1

    async def _work(self) -> None:
        """Forms batches until nobody waits."""
        try:
            while self._queue:
                await self._gather()
                await self._compute.free.acquire()
                batch = self._take()
                if batch:
                    self._start(self._answer(batch))
                else:
                    self._compute.free.release()
        finally:
            self._working = False

    async def _gather(self) -> None:
        """Waits until a batch is full or its first request has waited long enough."""
        while self._joins and self._queue and self._rows < self._limits.max_rows:
            left = self._queue[0].since + self._limits.timeout - time.monotonic()
            if left <= 0:
                return
            self._grown.clear()
            try:
                await asyncio.wait_for(self._grown.wait(), left)
            except asyncio.TimeoutError:
                return

    def _take(self) -> list[_Waiting]:
        """Takes the requests of the next batch from the queue."""
        batch: list[_Waiting] = []
        rows = 0
        while self._queue:
            first = self._queue[0]
            if not first.given_up and batch:
                if not self._joins or rows + first.rows > self._limits.max_rows:
                    break
                if first.form != batch[0].form:
                    break
            self._queue.popleft()
            self._left(first)
            if not first.given_up:
                batch.append(first)
                rows += first.rows
            elif not first.answer.done():
                first.answer.set_exception(_too_late())
        if batch:
            self._observe(rows, time.monotonic() - batch[0].since)
        return batch

    async def _answer(self, batch: list[_Waiting]) -> None:
        loop = asyncio.get_running_loop()
        try:
            answers = await loop.run_in_executor(self._compute.pool, self._computed, batch)
        except RuntimeError as error:
            # The threads have ended, and with them the server.
            answers = [error] * len(batch)
        finally:
            self._compute.free.release()
        for waiting, answer in zip(batch, answers, strict=True):
            if waiting.answer.done():
                continue
            if isinstance(answer, Exception):
                waiting.answer.set_exception(answer)
            else:
                waiting.answer.set_result(answer)

    def _computed(self, batch: Sequence[_Waiting]) -> list[Arrays | Exception]:
        if len(batch) > 1:
            try:
                return [*self._joined(batch)]
            except Exception:
                # One of them spoils the batch; by itself it spoils nothing.
                pass
        return [self._alone(waiting) for waiting in batch]

    def _alone(self, waiting: _Waiting) -> Arrays | Exception:
        if waiting.given_up:
            return _too_late()
        try:
            return self._function(waiting.inputs)
        except Exception as error:
            return error

    def _joined(self, batch: Sequence[_Waiting]) -> list[Arrays]:
        outputs = self._function(
            {
                name: np.concatenate([waiting.inputs[name] for waiting in batch])
                for name in batch[0].inputs
            }
        )
        ends = np.cumsum([waiting.rows for waiting in batch])
        for name, array in outputs.items():
            if array.shape[:1] != (ends[-1],):
                raise ValueError(f"output {name} has shape {array.shape} for {ends[-1]} rows")
        return [
            {name: array[end - waiting.rows : end] for name, array in outputs.items()}
            for waiting, end in zip(batch, ends, strict=True)
        ]


def _too_late() -> Refused:
    return Refused(
        grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline passed while the request was waiting"
    )
