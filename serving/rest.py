"""TensorFlow Serving's REST API, and the metrics' page.

Source: TensorFlow Serving's `g3doc/api_rest.md`, `model_servers/http_rest_api_handler.cc` (paths)
and `model_servers/http_server.cc` (codes).
"""

import asyncio
import json
import logging
import re
import socket
import ssl
import time
from collections.abc import Mapping
from typing import Any

import grpc
import numpy as np
from aiohttp import web

from bert_tfx.serving.arrays import is_base64, read_json, type_name, write_json
from bert_tfx.serving.batching import Arrays
from bert_tfx.serving.inputs import check_names
from bert_tfx.serving.metrics import CONTENT_TYPE, Metrics
from bert_tfx.serving.model_api import Signature
from bert_tfx.serving.refused import Refused, invalid
from bert_tfx.serving.saved_model import SERVING_DEFAULT
from bert_tfx.serving.service import Service

METRICS_PATH = "/monitoring/prometheus/metrics"

_MODEL = r"/v1/models/([^/:]+)(?:/versions/([0-9]{1,19})|/labels/([^/:]+))?"
_PREDICT = re.compile(_MODEL + r":(predict|classify|regress)")
_STATUS = re.compile(_MODEL)
_METADATA = re.compile(_MODEL + "/metadata")

_HTTP_CODES = {
    grpc.StatusCode.OK: 200,
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
# A body must have come by then; a connection that sends a byte a minute holds none up.
_BODY_SECONDS = 60.0

_logger = logging.getLogger(__name__)


class Rest:
    """The REST API.

    Args:
        service: Answers.
        metrics: What the metrics' page shows.
        max_bytes: Size of a body at most.
        max_requests: Requests that are worked on at the same time at most.

    Attributes:
        app: What aiohttp runs.
    """

    def __init__(
        self, service: Service, metrics: Metrics, *, max_bytes: int, max_requests: int
    ) -> None:
        self._service = service
        self._metrics = metrics
        self._max_requests = max_requests
        self._under_way = 0
        self.app = web.Application(client_max_size=max_bytes)
        self.app.router.add_get(METRICS_PATH, self._page)
        self.app.router.add_route("*", "/{path:.*}", self._handle)

    async def _page(self, request: web.Request) -> web.Response:
        return web.Response(body=self._metrics.page(), headers={"Content-Type": CONTENT_TYPE})

    async def _handle(self, request: web.Request) -> web.Response:
        begun = time.monotonic()
        call = _Call()
        code = grpc.StatusCode.OK
        try:
            if self._under_way >= self._max_requests:
                raise Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many requests at a time")
            self._under_way += 1
            try:
                return _json(await self._answer(request, call))
            finally:
                self._under_way -= 1
        except Refused as refused:
            code = refused.code
            return _json({"error": refused.message}, call.status or _HTTP_CODES.get(code, 500))
        except asyncio.CancelledError:
            code = grpc.StatusCode.CANCELLED
            raise
        except web.HTTPException as error:
            code = grpc.StatusCode.INVALID_ARGUMENT
            return _json({"error": error.text or error.reason}, error.status)
        except Exception:
            _logger.exception("%s %s failed", request.method, request.path)
            code = grpc.StatusCode.INTERNAL
            return _json({"error": "the server failed; its log says more"}, 500)
        finally:
            seconds = time.monotonic() - begun
            self._metrics.answered("rest", call.method, call.signature, code.name, seconds)

    async def _answer(self, request: web.Request, call: "_Call") -> object:
        service, path = self._service, request.path
        if request.method == "POST" and (match := _PREDICT.fullmatch(path)):
            if match[4] != "predict":
                raise Refused(
                    grpc.StatusCode.UNIMPLEMENTED,
                    f":{match[4]} is not offered by this server; it answers :predict",
                )
            call.method = "Predict"
            try:
                body = await asyncio.wait_for(request.read(), _BODY_SECONDS)
            except asyncio.TimeoutError:
                call.status = 408
                raise invalid("the request's body did not come in time") from None
            return await _predict(service, match, body, call)
        if request.method in ("GET", "HEAD"):
            if match := _METADATA.fullmatch(path):
                call.method = "GetModelMetadata"
                return _metadata(service, match)
            if match := _STATUS.fullmatch(path):
                call.method = "GetModelStatus"
                return _statuses(service, match)
        if not path.startswith("/v1/"):
            raise Refused(grpc.StatusCode.NOT_FOUND, f"there is nothing at {path[:200]}")
        raise invalid(f"Malformed request: {request.method} {path[:200]}")


class _Call:
    """What is noted of a request: method and signature for the metrics, a code of its own."""

    def __init__(self) -> None:
        self.method = self.signature = ""
        self.status = 0


def _json(answer: object, status: int = 200) -> web.Response:
    text = json.dumps(answer, ensure_ascii=False)
    return web.Response(text=text, status=status, content_type="application/json")


def _choice(match: "re.Match[str]") -> tuple[str, int | None, str | None]:
    return match[1], None if match[2] is None else int(match[2]), match[3]


async def _predict(
    service: Service, match: "re.Match[str]", content: bytes, call: _Call
) -> dict[str, object]:
    with service.use(*_choice(match)) as (_, served):
        body = _body(content)
        name = body.get("signature_name") or SERVING_DEFAULT
        if not isinstance(name, str):
            raise invalid("'signature_name' must be a string")
        signature = served.model.signature(name)
        call.signature = name
        by_row = "instances" in body
        if by_row == ("inputs" in body):
            raise invalid("expected either 'instances' (rows) or 'inputs' (columns)")
        columns = (
            _columns_of_rows(body["instances"], signature, name)
            if by_row
            else _columns(body["inputs"], signature)
        )
        check_names(columns, signature, name)
        inputs = {}
        for alias, spec in signature.inputs.items():
            try:
                inputs[alias] = read_json(columns[alias], spec)
            except ValueError as error:
                raise invalid(f"input {alias!r} of signature {name!r}: {error}") from error
        served.model.check(inputs, signature)
        outputs = await service.run(served, name, inputs, None)
        if by_row:
            return {"predictions": _rows_of(outputs, len(body["instances"]))}
        values = {alias: write_json(array, alias) for alias, array in outputs.items()}
        return {"outputs": values if len(values) > 1 else next(iter(values.values()))}


def _body(content: bytes) -> dict[str, Any]:
    try:
        body = json.loads(content)
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, ValueError) else "nested too deeply"
        raise invalid(f"the body is no JSON: {reason[:200]}") from error
    if not isinstance(body, dict):
        raise invalid("the body must be a JSON object with 'instances' or 'inputs'")
    return body


def _columns_of_rows(instances: Any, signature: Signature, name: str) -> dict[str, list[Any]]:
    """Returns the inputs of rows, each an object with all of them or a bare value of the only one.

    Raises:
        Refused: If they are neither.
    """
    if not isinstance(instances, list) or not instances:
        raise invalid("'instances' must be a list with a value for each row")
    if not any(isinstance(row, dict) and not is_base64(row) for row in instances):
        if len(signature.inputs) != 1:
            raise invalid(
                f"instances[0]: expected an object with {', '.join(signature.inputs) or 'nothing'}"
            )
        return {next(iter(signature.inputs)): instances}
    for index, row in enumerate(instances):
        if not isinstance(row, dict):
            raise invalid(f"instances[{index}]: expected an object, as the others are")
        try:
            check_names(row, signature, name)
        except Refused as refused:
            raise invalid(f"instances[{index}]: {refused}") from refused
    return {alias: [row[alias] for row in instances] for alias in signature.inputs}


def _columns(inputs: Any, signature: Signature) -> Mapping[str, Any]:
    if isinstance(inputs, dict) and not is_base64(inputs):
        return inputs
    if len(signature.inputs) != 1:
        raise invalid(f"'inputs': expected an object with {', '.join(signature.inputs)}")
    return {next(iter(signature.inputs)): inputs}


def _rows_of(outputs: Arrays, rows: int) -> list[object]:
    """Returns the outputs row by row.

    Raises:
        Refused: If they do not have a value for each.
    """
    for alias, array in outputs.items():
        if array.shape[:1] != (rows,):
            raise invalid(
                f"output {alias!r} has not a value for each row; ask with 'inputs' (columns)"
            )
    columns = {alias: write_json(np.asarray(array), alias) for alias, array in outputs.items()}
    if len(columns) == 1:
        return list(next(iter(columns.values())))
    return [{alias: values[row] for alias, values in columns.items()} for row in range(rows)]


def _statuses(service: Service, match: "re.Match[str]") -> dict[str, object]:
    model, version, label = _choice(match)
    if label is not None:
        with service.use(model, None, label) as (version, _):
            pass
    return {
        "model_version_status": [
            {
                "version": str(known.number),
                "state": known.state.name,
                "status": {
                    "error_code": "UNKNOWN" if known.error else "OK",
                    "error_message": known.error,
                },
            }
            for known in service.statuses(model, version)
        ]
    }


def _metadata(service: Service, match: "re.Match[str]") -> dict[str, object]:
    with service.use(*_choice(match)) as (version, served):
        signatures = {
            name: {
                "inputs": _tensors(signature.inputs),
                "outputs": _tensors(signature.outputs),
                "method_name": signature.method_name,
            }
            for name, signature in served.model.signature_defs.items()
        }
        return {
            "model_spec": {
                "name": service.model,
                "signature_name": "",
                "version": str(version),
            },
            "metadata": {"signature_def": {"signature_def": signatures}},
        }


def _tensors(infos: Mapping[str, Any]) -> dict[str, object]:
    return {
        name: {
            "dtype": type_name(info.dtype),
            "tensor_shape": {
                "dim": [{"size": str(d.size), "name": d.name} for d in info.tensor_shape.dim],
                "unknown_rank": info.tensor_shape.unknown_rank,
            },
            "name": info.name,
        }
        for name, info in sorted(infos.items())
    }


async def start(
    app: web.Application, bound: socket.socket, tls: ssl.SSLContext | None, drain_seconds: float
) -> web.AppRunner:
    """Starts to answer.

    Args:
        app: What answers.
        bound: The socket to listen on.
        tls: How connections are encrypted.
        drain_seconds: How long requests under way may take when the runner is cleaned up.
    """
    runner = web.AppRunner(
        app, access_log=None, handler_cancellation=True, shutdown_timeout=drain_seconds
    )
    await runner.setup()
    await web.SockSite(runner, bound, ssl_context=tls).start()
    return runner
