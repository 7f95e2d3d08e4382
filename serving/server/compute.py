"""One thread that runs models: requests that wait for the same function are computed together."""

import dataclasses
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np

Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(eq=False)
class _Waiting:
    """A request in the queue; where `key` is None it is computed by itself."""

    key: object
    function: Callable[[Arrays], Any]
    inputs: Arrays
    rows: int
    answer: "Future[Any]" = dataclasses.field(default_factory=Future)

    def joins(self, other: "_Waiting") -> bool:
        """Whether both can be computed together."""
        return self.key is not None and self.key == other.key and self._form == other._form

    @property
    def _form(self) -> dict[str, tuple[int, ...]]:
        return {name: array.shape[1:] for name, array in self.inputs.items()}


class Compute:
    """Computes what it is given, in the order in which it comes.

    A batch is formed when the thread is free for it, so that whatever waits anyway is joined. Each
    is on all cores: two at a time would only be in each other's way.

    Args:
        max_rows: Rows of a batch at most.
    """

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._queue: deque[_Waiting | None] = deque()
        self._changed = threading.Condition()
        # A thread that still computes must not keep the process from ending.
        self._thread = threading.Thread(target=self._work, name="compute", daemon=True)
        self._thread.start()

    def submit(
        self, function: Callable[[Arrays], Any], inputs: Arrays, rows: int, key: object = None
    ) -> "Future[Any]":
        """Queues a request.

        Args:
            function: Computes outputs of inputs.
            inputs: Arrays; with a key, all with `rows` rows.
            rows: How many.
            key: Requests of the same key may be joined; None joins none.

        Returns:
            Its outputs, or what the function raised. It may be cancelled until it is its turn.
        """
        waiting = _Waiting(key, function, inputs, rows)
        self._put(waiting)
        return waiting.answer

    def end(self, timeout: float) -> bool:
        """Ends the thread when all is computed; returns whether it did within so many seconds."""
        self._put(None)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _put(self, waiting: _Waiting | None) -> None:
        with self._changed:
            self._queue.append(waiting)
            self._changed.notify()

    def _work(self) -> None:
        while (batch := self._take()) is not None:
            batch = [one for one in batch if one.answer.set_running_or_notify_cancel()]
            if len(batch) < 2 or not self._join(batch):
                for one in batch:
                    _answer(one)

    def _take(self) -> list[_Waiting] | None:
        """Waits for the next batch and takes it from the queue; None is the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue)
            first = self._queue.popleft()
            if first is None:
                return None
            batch, rows = [first], first.rows
            while self._queue and (one := self._queue[0]) is not None and one.joins(first):
                rows += one.rows
                if rows > self._max_rows:
                    break
                batch.append(one)
                self._queue.popleft()
            return batch

    def _join(self, batch: Sequence[_Waiting]) -> bool:
        """Computes requests together; False is that one of them spoils the others."""
        names = batch[0].inputs
        try:
            outputs = batch[0].function(
                {name: np.concatenate([one.inputs[name] for one in batch]) for name in names}
            )
        except Exception:
            return False
        rows = sum(one.rows for one in batch)
        if any(array.shape[:1] != (rows,) for array in outputs.values()):
            return False
        end = 0
        for one in batch:
            start, end = end, end + one.rows
            one.answer.set_result({name: array[start:end] for name, array in outputs.items()})
        return True


def _answer(one: _Waiting) -> None:
    try:
        one.answer.set_result(one.function(one.inputs))
    except BaseException as error:
        one.answer.set_exception(error)
