"""TensorFlow Serving's gRPC services, and gRPC's own ones for health and reflection.

Messages are read here and not by gRPC, which would answer a damaged one with INTERNAL.

Sources: `tensorflow_serving/apis/{prediction_service,model_service}.proto`,
`grpc/health/v1/health.proto` and grpc/doc/health-checking.md.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from bert_tfx.serving import messages
from bert_tfx.serving.refused import Refused, invalid

_logger = logging.getLogger(__name__)

Answer = Callable[[Any, "Call"], Awaitable[Any]]
"""Answers a message with a message."""

# gRPC sends details as a header, and headers are limited.
_MAX_DETAILS = 1000
_HEALTH = "grpc.health.v1.Health"
_NOT_SERVING = 2
_SERVICE_UNKNOWN = 3


class Call:
    """What a method may know of its call, and says of it.

    Attributes:
        seconds: How long the caller waits, None for ever.
        signature: The signature that was asked, for the metrics.
    """

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self.signature = ""


Observer = Callable[[str, str, str, float], None]
"""Told method, signature, gRPC's name of the status, seconds."""


def method(answer: Answer, request: Any, name: str, observe: Observer) -> grpc.RpcMethodHandler:
    """Returns gRPC's handler of a method with one request and one answer.

    Args:
        answer: Answers it; raises `Refused`.
        request: The class of its request.
        name: Its name for metrics and log.
        observe: Told of each call.
    """

    async def handle(content: bytes, context: "grpc.aio.ServicerContext") -> bytes:
        begun = time.monotonic()
        call = Call(context.time_remaining())
        code, details = grpc.StatusCode.OK, ""
        try:
            try:
                message = request.FromString(content)
            except DecodeError as error:
                raise invalid(f"the request is no {request.DESCRIPTOR.full_name}") from error
            return (await answer(message, call)).SerializeToString()
        except Refused as refused:
            code, details = refused.code, refused.message
        except asyncio.CancelledError:
            code = grpc.StatusCode.CANCELLED
            raise
        except Exception:
            _logger.exception("%s failed", name)
            code, details = grpc.StatusCode.INTERNAL, "the server failed; its log says more"
        finally:
            observe(name, call.signature, code.name, time.monotonic() - begun)
        return await context.abort(code, details[:_MAX_DETAILS])

    return grpc.unary_unary_rpc_method_handler(handle)


class Methods(grpc.GenericRpcHandler):
    """The methods of a server; most come when TensorFlow is loaded.

    Attributes:
        handlers: The methods by path.
        starting: Whether others may follow.
    """

    def __init__(self) -> None:
        self.handlers: dict[str, grpc.RpcMethodHandler] = {}
        self.starting = True

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler | None:
        """Returns the handler of a call; without one gRPC answers UNIMPLEMENTED."""
        handler = self.handlers.get(handler_call_details.method)
        if handler is None and self.starting:
            return grpc.unary_unary_rpc_method_handler(_starting)
        return handler


async def _starting(content: bytes, context: "grpc.aio.ServicerContext") -> bytes:
    return await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is starting")


class Health:
    """gRPC's health service, for the server as a whole and for each of its services.

    Args:
        services: The services' names.

    Attributes:
        handlers: The methods by path.
    """

    def __init__(self, services: Iterable[str]) -> None:
        self._services = {"", *services}
        self._serving = False
        self._closed = False
        self._changed = asyncio.Event()
        self.handlers = {
            f"/{_HEALTH}/Check": method(
                self._check, messages.HealthCheckRequest, "Check", lambda *call: None
            ),
            f"/{_HEALTH}/Watch": grpc.unary_stream_rpc_method_handler(self._watch),
        }

    def set(self, serving: bool) -> None:
        """Tells whether the server can answer."""
        self._serving = serving and not self._closed
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def close(self) -> None:
        """Tells that the server ends, and ends the calls that watch; they would hold it up."""
        self._closed = True
        self.set(False)

    def _status(self, service: str) -> int:
        if service not in self._services:
            return _SERVICE_UNKNOWN
        return messages.SERVING if self._serving else _NOT_SERVING

    async def _check(self, request: Any, call: Call) -> Any:
        status = self._status(request.service)
        if status == _SERVICE_UNKNOWN:
            raise Refused(grpc.StatusCode.NOT_FOUND, f"unknown service {request.service[:100]!r}")
        return messages.HealthCheckResponse(status=status)

    async def _watch(
        self, content: bytes, context: "grpc.aio.ServicerContext"
    ) -> AsyncIterator[bytes]:
        try:
            service = messages.HealthCheckRequest.FromString(content).service
        except DecodeError:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, "the request is no HealthCheckRequest"
            )
        said = None
        while True:
            changed = self._changed
            status = self._status(service)
            if status != said:
                said = status
                yield messages.HealthCheckResponse(status=status).SerializeToString()
            if self._closed:
                return
            await changed.wait()
