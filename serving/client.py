"""The gRPC client of a served model: texts in, labels and probabilities out.

It talks to TensorFlow Serving, and to `bert-tfx serve`, and needs neither TensorFlow nor numpy:

    with Client("localhost:8500", "model", timeout=10) as client:
        for prediction in client.predict(["很好，下次还来", "服务太差"]):
            print(prediction.label, prediction.probability)
"""

import asyncio
import collections
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

import grpc
import grpc.aio

from bert_tfx.schema.errors import InputError
from bert_tfx.serving import DEFAULT_MODEL
from bert_tfx.serving.protocol import connection
from bert_tfx.serving.protocol.connection import Tls
from bert_tfx.serving.protocol.errors import ServingError
from bert_tfx.serving.protocol.messages import METHODS, Method
from bert_tfx.serving.protocol.model_api import (
    ModelApi,
    ModelMetadata,
    Pause,
    Prediction,
    Question,
    Try,
    VersionStatus,
    paired_rows,
)

__all__ = [
    "AsyncClient",
    "Client",
    "ModelMetadata",
    "Prediction",
    "ServingError",
    "Tls",
    "VersionStatus",
]

_T = TypeVar("_T")
Row = str | tuple[str, str]


class _Base:
    """What both clients are made of; the arguments are documented at `Client`."""

    def __init__(
        self,
        target: str,
        model: str = DEFAULT_MODEL,
        *,
        timeout: float = 30.0,
        request_timeout: float | None = None,
        tls: Tls | None = None,
        token: str | None = None,
        version: int | None = None,
        version_label: str | None = None,
        batch_size: int = 32,
        in_flight: int = 4,
        tries: int = 5,
        keepalive: float | None = None,
        max_message_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        connection.check_address(target)
        for name, value in (("in_flight", in_flight), ("max_message_bytes", max_message_bytes)):
            if value < 1:
                raise InputError(f"{name} must be at least 1. Received: {value}")
        if keepalive is not None and keepalive <= 0:
            raise InputError(f"keepalive must be a positive number. Received: {keepalive}")
        self._api = ModelApi(
            target,
            model,
            timeout=timeout,
            request_timeout=request_timeout,
            version=version,
            version_label=version_label,
            batch_size=batch_size,
            tries=tries,
        )
        self._target = target
        self._tls = tls
        self._in_flight = in_flight
        self._metadata = connection.bearer_metadata(token, target, tls)
        self._options = connection.channel_options(
            target, tls, keepalive=keepalive, max_message_bytes=max_message_bytes
        )
        self._prepare()

    def _prepare(self) -> None:
        """Opens the channel, where that needs no event loop."""

    def _open(self, library: Any) -> tuple[Any, dict[Method, Any]]:
        """Opens a channel of `grpc` or `grpc.aio`; returns it and its methods."""
        if self._tls is None:
            channel = library.insecure_channel(self._target, self._options)
        else:
            channel = library.secure_channel(
                self._target, connection.credentials(self._tls), self._options
            )
        methods = {
            method: channel.unary_unary(
                method.path,
                request_serializer=method.request.SerializeToString,
                response_deserializer=method.response.FromString,
            )
            for method in METHODS
        }
        return channel, methods


class _Begun(NamedTuple):
    """A question whose first try is on its way."""

    question: Question[Any]
    call: Any


class Client(_Base):
    """A client that waits for its answers. It may be shared by threads.

    Args:
        target: The server: `HOST:PORT`, or another form of address that gRPC takes.
        model: The model's name on the server.
        timeout: Seconds that a call may take in all, tries and pauses included.
        request_timeout: Seconds that one try of one request may take; by default what is left of
            `timeout`.
        tls: How the connection is encrypted; None leaves it in the clear.
        token: Shown as `authorization: Bearer`. Without TLS only to this machine itself.
        version: The version to ask; by default the server's choice, its latest one.
        version_label: The label of the version to ask, such as `canary`.
        batch_size: Texts in a request at most.
        in_flight: Requests on their way at the same time at most.
        tries: How often a request is sent at most while the server is `UNAVAILABLE`.
        keepalive: Seconds of silence after which a connection with a call under way is tested.
            Servers close connections that are tested more often than they allow (by default every
            300 s).
        max_message_bytes: Size of a request or answer at most.

    Raises:
        InputError: If an argument makes no sense.
    """

    def _prepare(self) -> None:
        self._channel, self._methods = self._open(grpc)

    def __enter__(self) -> "Client":
        """Returns the client."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes the connection."""
        self.close()

    def close(self) -> None:
        """Closes the connection; calls that are under way fail."""
        self._channel.close()

    def predict(
        self, texts: Iterable[str], texts_b: Iterable[str] | None = None
    ) -> list[Prediction]:
        """Returns the model's answers.

        Args:
            texts: The texts, or the first ones of pairs.
            texts_b: The second texts, for models of pairs.

        Returns:
            A prediction for each text, in their order.

        Raises:
            InputError: If `texts` and `texts_b` do not hold strings, and equally many.
            ServingError: If there is no answer; the subclass says of which kind the failure is.
        """
        return list(self._stream(paired_rows(texts, texts_b), self._api.deadline()))

    def stream(self, rows: Iterable[Row]) -> Iterator[Prediction]:
        """Yields the model's answers one after the other, for any number of rows.

        Only the rows of the requests under way are held in memory. `timeout` counts for each
        request, not for all together.

        Args:
            rows: Texts, or pairs of texts as tuples. They are drawn as they are needed.

        Yields:
            A prediction for each row, in their order.

        Raises:
            InputError: If a row is no text, or no pair where the first one was.
            ServingError: If there is no answer.
        """
        return self._stream(rows, None)

    def metadata(self) -> ModelMetadata:
        """Returns which signatures the model has.

        Raises:
            ServingError: If there is no answer.
        """
        return self._answer(self._api.metadata(self._api.deadline()))

    def model_status(self) -> tuple[VersionStatus, ...]:
        """Returns how far the server is with the versions of the model, in their order.

        With `version` that of this one alone.

        Raises:
            ServingError: If there is no answer.
        """
        return self._answer(self._api.status(self._api.deadline()))

    def is_healthy(self) -> bool:
        """Whether the server says that it can answer.

        Asks the standard health service (`grpc.health.v1`); where the server has none, whether a
        version of the model is available. Asks once, and raises nothing where the server fails.
        """
        return self._answer(self._api.health(self._api.deadline()))

    def wait_until_ready(self, timeout: float) -> None:
        """Returns as soon as the model, in the version asked for, can be asked.

        Args:
            timeout: Seconds to wait at most.

        Raises:
            DeadlineExceeded: If it is not ready by then; the message says how far it is.
            ServingError: If waiting does not help.
        """
        self._answer(self._api.ready(timeout))

    def _answer(self, question: Question[_T]) -> _T:
        return self._finish(self._begin(question))

    def _start(self, step: Try) -> Any:
        return self._methods[step.method].future(
            step.request, timeout=step.timeout, metadata=self._metadata
        )

    def _begin(self, question: Question[Any]) -> _Begun:
        step = next(question)
        if isinstance(step, Pause):
            raise TypeError("a question begins with a try")
        return _Begun(question, self._start(step))

    def _finish(self, begun: _Begun) -> Any:
        question, call = begun
        try:
            while True:
                try:
                    answer = call.result()
                except grpc.RpcError as error:
                    step = question.throw(error)
                except grpc.FutureCancelledError:
                    # The call is the error, too, with what the server said.
                    step = question.throw(call)
                else:
                    step = question.send(answer)
                while isinstance(step, Pause):
                    time.sleep(step.seconds)
                    step = next(question)
                call = self._start(step)
        except StopIteration as stop:
            return stop.value
        finally:
            call.cancel()

    def _stream(self, rows: Iterable[Row], deadline: float | None) -> Iterator[Prediction]:
        batches = self._api.batches(rows)
        under_way: collections.deque[_Begun] = collections.deque()
        try:
            while True:
                while len(under_way) < self._in_flight and (batch := next(batches, None)):
                    until = self._api.deadline() if deadline is None else deadline
                    under_way.append(self._begin(self._api.predict(batch, until)))
                if not under_way:
                    return
                yield from self._finish(under_way.popleft())
        finally:
            for begun in under_way:
                begun.call.cancel()


class AsyncClient(_Base):
    """The same client for asyncio: `async with AsyncClient(...) as client`.

    Takes the arguments of `Client`. It belongs to the event loop in which it is first used.
    """

    _opened: tuple[Any, dict[Method, Any]] | None = None

    async def __aenter__(self) -> "AsyncClient":
        """Returns the client."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes the connection."""
        await self.close()

    async def close(self) -> None:
        """Closes the connection; calls that are under way are cancelled."""
        if self._opened is not None:
            await self._opened[0].close()

    async def predict(
        self, texts: Iterable[str], texts_b: Iterable[str] | None = None
    ) -> list[Prediction]:
        """Returns the model's answers; as `Client.predict`."""
        rows = paired_rows(texts, texts_b)
        return [answer async for answer in self._stream(rows, self._api.deadline())]

    def stream(self, rows: Iterable[Row]) -> AsyncIterator[Prediction]:
        """Yields the model's answers one after the other; as `Client.stream`."""
        return self._stream(rows, None)

    async def metadata(self) -> ModelMetadata:
        """Returns which signatures the model has; as `Client.metadata`."""
        return await self._answer(self._api.metadata(self._api.deadline()))

    async def model_status(self) -> tuple[VersionStatus, ...]:
        """Returns how far the server is with the model; as `Client.model_status`."""
        return await self._answer(self._api.status(self._api.deadline()))

    async def is_healthy(self) -> bool:
        """Whether the server says that it can answer; as `Client.is_healthy`."""
        return await self._answer(self._api.health(self._api.deadline()))

    async def wait_until_ready(self, timeout: float) -> None:
        """Returns as soon as the model can be asked; as `Client.wait_until_ready`."""
        await self._answer(self._api.ready(timeout))

    async def _answer(self, question: Question[_T]) -> _T:
        # Not before: a channel of asyncio binds itself to the loop that runs.
        if self._opened is None:
            self._opened = self._open(grpc.aio)
        _, methods = self._opened
        try:
            step = next(question)
            while True:
                if isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                    step = next(question)
                    continue
                try:
                    answer = await methods[step.method](
                        step.request, timeout=step.timeout, metadata=self._metadata
                    )
                except grpc.RpcError as error:
                    step = question.throw(error)
                else:
                    step = question.send(answer)
        except StopIteration as stop:
            return stop.value

    async def _stream(
        self, rows: Iterable[Row], deadline: float | None
    ) -> AsyncIterator[Prediction]:
        batches = self._api.batches(rows)
        under_way: collections.deque[asyncio.Task[list[Prediction]]] = collections.deque()
        try:
            while True:
                while len(under_way) < self._in_flight and (batch := next(batches, None)):
                    until = self._api.deadline() if deadline is None else deadline
                    question = self._api.predict(batch, until)
                    under_way.append(asyncio.create_task(self._answer(question)))
                if not under_way:
                    return
                for prediction in await under_way[0]:
                    yield prediction
                under_way.popleft()
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)
