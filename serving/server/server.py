"""A model server for this machine that speaks TensorFlow Serving's gRPC API.

    model folder -> Versions -> SavedModel (a session)
                                    ^
    gRPC -> services.py -> Compute -'

It stands in for TensorFlow Serving where that is not at hand: a developer asks it, and the gates of
the pipeline. What a server among others needs (REST, TLS, metrics, labels) TensorFlow Serving has.
"""

import contextlib
import dataclasses
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc

from bert_tfx.schema.errors import InputError
from bert_tfx.serving import DEFAULT_MODEL
from bert_tfx.serving.backends import TENSORFLOW, check_backend
from bert_tfx.serving.protocol.connection import is_loopback

_MAX_PORT = 65_535
_MAX_MESSAGE_BYTES = 64 * 1024 * 1024
# Requests that are read or wait; those beyond wait unread.
_THREADS = 64
_POLL_SECONDS = 0.5
_DRAIN_SECONDS = 10.0
# A client may test its connection as often.
_MIN_PING_MS = 5_000

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ServerOptions:
    """What is served, where and how.

    Attributes:
        directory: The folder whose numbered folders are the model's versions.
        model: The name by which the model is asked for.
        host: The address to listen on.
        port: Port for gRPC; 0 takes a free one.
        max_rows: Rows that are computed together at most, and rows of a request.
        backend: What runs the models, one of `BACKENDS`.

    Raises:
        InputError: If a value makes no sense.
    """

    directory: str
    model: str = DEFAULT_MODEL
    host: str = "127.0.0.1"
    port: int = 8500
    max_rows: int = 128
    backend: str = TENSORFLOW

    def __post_init__(self) -> None:
        """Checks all that can be checked without opening a port."""
        check_backend(self.backend)
        if not self.model or set(self.model) & set("/:") or not self.model.isprintable():
            raise InputError(f"--name: {self.model!r} is no name; it must not hold / and :")
        if not 0 <= self.port <= _MAX_PORT:
            raise InputError(f"--port must be 0 to {_MAX_PORT}. Received: {self.port}")
        if self.max_rows < 1:
            raise InputError(
                f"--max-batch-size must be a positive number. Received: {self.max_rows}"
            )
        try:
            names = os.listdir(self.directory)
        except OSError as error:
            raise InputError(
                f"{self.directory}: cannot be read (--model): {error.strerror}; expected the "
                "folder that holds a model's numbered versions, such as OUTPUT/serving of a run"
            ) from error
        if "saved_model.pb" in names:
            raise InputError(
                f"{self.directory}: is a SavedModel itself (--model); expected the folder above, "
                "whose numbered folders are the versions"
            )


def serve(options: ServerOptions, announce: Callable[[str], None]) -> bool:
    """Serves until SIGTERM or SIGINT.

    Args:
        options: What is served, where and how.
        announce: Told once, in a line, that the first version can be asked, and where.

    Returns:
        Whether the thread that computes has come to rest; where not, the process would not end well
        by itself.

    Raises:
        InputError: If the port cannot be had.
    """
    with _signals() as stopped:
        server = grpc.server(
            ThreadPoolExecutor(_THREADS),
            options=[
                # Two servers on one port would each get some of the requests.
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", -1),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", _MIN_PING_MS),
            ],
        )
        port = _bind(server, options)
        target = _address(options.host, port)
        if not is_loopback(target):
            _logger.warning(
                "%s can be reached from other machines, and everybody there can ask the model",
                target,
            )

        # TensorFlow, which takes a while: mistakes in the options have been told before.
        from grpc_health.v1 import health, health_pb2, health_pb2_grpc
        from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

        from bert_tfx.serving.server import services
        from bert_tfx.serving.server.compute import Compute
        from bert_tfx.serving.server.loading import load_model
        from bert_tfx.serving.server.saved_model import SavedModel
        from bert_tfx.serving.server.versions import Version, Versions

        is_healthy = health.HealthServicer(experimental_non_blocking=True)
        serving = health_pb2.HealthCheckResponse.SERVING
        not_serving = health_pb2.HealthCheckResponse.NOT_SERVING
        announced = False

        def load(path: str) -> SavedModel:
            model = load_model(path, options.backend)
            try:
                model.warm_up(path)
            except BaseException:
                model.close()
                raise
            return model

        def unload(model: SavedModel) -> None:
            # After all requests that it was given.
            compute.submit(lambda inputs: model.close(), {}, 0)

        def changed(version: Version[SavedModel]) -> None:
            nonlocal announced
            state = serving if versions.find() else not_serving
            for name in ("", services.PREDICTION_SERVICE, services.MODEL_SERVICE):
                is_healthy.set(name, state)
            if state == serving and not announced:
                announced = True
                announce(
                    f"serving model {options.model!r} version {version.number}: gRPC on {target}"
                )

        compute = Compute(options.max_rows)
        versions: Versions[SavedModel] = Versions(options.directory, load, unload, changed)
        models = services.Models(options.model, versions, compute, options.max_rows)
        is_healthy.set("", not_serving)
        health_pb2_grpc.add_HealthServicer_to_server(is_healthy, server)
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            services.PredictionService(models), server
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(
            services.ModelService(models), server
        )
        server.start()
        while True:
            try:
                versions.poll()
            except Exception:
                # Whatever it is, what is loaded can still be served.
                _logger.exception("%s: looking for versions failed", options.directory)
            if stopped.wait(_POLL_SECONDS):
                break
        _logger.info("ending; requests under way are answered")
        is_healthy.enter_graceful_shutdown()
        server.stop(_DRAIN_SECONDS).wait()
        return compute.end(timeout=0.5)


def _bind(server: grpc.Server, options: ServerOptions) -> int:
    address = _address(options.host, options.port)
    try:
        return int(server.add_insecure_port(address))
    except RuntimeError as error:
        raise InputError(
            f"{address}: cannot listen there (--host, --port): the port is in use, or the host is "
            "not this machine"
        ) from error


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@contextlib.contextmanager
def _signals() -> Iterator[threading.Event]:
    """Gives an event that SIGTERM or SIGINT set; a second one ends the process at once."""
    stopped = threading.Event()

    def stop(number: int, frame: object) -> None:
        if stopped.is_set():
            os._exit(1)
        stopped.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
