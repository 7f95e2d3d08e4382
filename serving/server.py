"""A model server for this machine that speaks TensorFlow Serving's gRPC and REST APIs.

    model folder -> Versions -> Served (SavedModel, a Batcher for each signature)
                                  ^
    gRPC: rpc.py, prediction_service.py -+-> Service
    REST: rest.py ----------------------'

One event loop does everything but computing (`Compute`'s threads) and loading (one thread more).
TensorFlow is imported in the latter, so that mistakes in the options are told before.
"""

import asyncio
import contextlib
import dataclasses
import functools
import importlib
import logging
import os
import signal
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from bert_tfx.schema import files
from bert_tfx.schema.errors import InputError
from bert_tfx.serving import DEFAULT_MODEL
from bert_tfx.serving.backends import TENSORFLOW, check_backend
from bert_tfx.serving.batching import BatchLimits, Compute
from bert_tfx.serving.connection import is_loopback
from bert_tfx.serving.metrics import Metrics
from bert_tfx.serving.reflection import Reflection
from bert_tfx.serving.rpc import Health, Methods
from bert_tfx.serving.versions import State, VersionPolicy, Versions, check_labels

if TYPE_CHECKING:
    from bert_tfx.serving.service import Served, Service

_SERVICES = ("tensorflow.serving.PredictionService", "tensorflow.serving.ModelService")
_KEEPALIVE_TIMEOUT_MS = 20_000
# A client may test its connection as often.
_MIN_PING_MS = 5_000
_MAX_PORT = 65_535

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ServerTls:
    """Files for encrypted connections, PEM.

    Attributes:
        cert: The server's certificate chain.
        key: Its private key, without a passphrase.
        client_ca: The authorities of clients' certificates; with them each client must show one.

    Raises:
        InputError: If a file cannot be read or is not what it should be.
    """

    cert: str
    key: str
    client_ca: str | None = None

    def __post_init__(self) -> None:
        """Tries the files, so that a mistake shows at once."""
        for name, path in (("cert", self.cert), ("key", self.key), ("client-ca", self.client_ca)):
            if path is not None:
                self._read(path, f"--tls-{name}")
        self.context()

    def context(self) -> ssl.SSLContext:
        """Returns what the REST server needs."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            # A key with a passphrase would ask for it on the terminal.
            context.load_cert_chain(self.cert, self.key, password=lambda: "")
        except (ssl.SSLError, ValueError) as error:
            raise InputError(
                f"{self.cert}, {self.key}: are no certificate and its private key without a "
                f"passphrase, both PEM (--tls-cert, --tls-key): {error}"
            ) from error
        if self.client_ca is not None:
            try:
                context.load_verify_locations(self.client_ca)
            except ssl.SSLError as error:
                raise InputError(
                    f"{self.client_ca}: holds no certificates, PEM (--tls-client-ca): {error}"
                ) from error
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def credentials(self) -> grpc.ServerCredentials:
        """Returns what gRPC needs."""
        ca = None if self.client_ca is None else self._read(self.client_ca, "--tls-client-ca")
        pair = self._read(self.key, "--tls-key"), self._read(self.cert, "--tls-cert")
        return grpc.ssl_server_credentials([pair], ca, require_client_auth=ca is not None)

    @staticmethod
    def _read(path: str, option: str) -> bytes:
        try:
            with open(path, "rb") as file:
                return file.read()
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({option}): {error.strerror}") from error


@dataclasses.dataclass(frozen=True)
class ServerOptions:
    """What is served, where and how.

    Attributes:
        directory: The folder whose numbered folders are the model's versions.
        model: The name by which the model is asked for.
        host: The address to listen on.
        port: Port for gRPC; 0 takes a free one.
        rest_port: Port for REST and metrics; 0 takes a free one, None offers neither.
        policy: Which versions are served.
        labels: The version of each label.
        poll_seconds: How often the folder is looked at.
        limits: How requests are joined.
        batch_threads: Batches that are computed at the same time.
        max_message_bytes: Size of a request at most.
        max_requests: Requests under way at most, for each of gRPC and REST.
        keepalive: Seconds of silence after which a connection is tested.
        tls: How connections are encrypted; None leaves them in the clear.
        drain_seconds: How long requests under way may take when the server ends.
        port_file: Where the ports are written, a line each, when a version is available.
        backend: What runs the models, one of `BACKENDS`.

    Raises:
        InputError: If a value makes no sense.
    """

    directory: str
    model: str = DEFAULT_MODEL
    host: str = "127.0.0.1"
    port: int = 8500
    rest_port: int | None = None
    policy: VersionPolicy = dataclasses.field(default_factory=VersionPolicy)
    labels: Mapping[str, int] = dataclasses.field(default_factory=dict)
    poll_seconds: float = 1.0
    limits: BatchLimits = dataclasses.field(default_factory=BatchLimits)
    batch_threads: int = 1
    max_message_bytes: int = 16 * 1024 * 1024
    max_requests: int = 1024
    keepalive: float = 60.0
    tls: ServerTls | None = None
    drain_seconds: float = 30.0
    port_file: str | None = None
    backend: str = TENSORFLOW

    def __post_init__(self) -> None:
        """Checks all that can be checked without opening a port."""
        check_backend(self.backend)
        check_labels(self.labels)
        if not self.model or set(self.model) & set("/:") or not self.model.isprintable():
            raise InputError(f"--name: {self.model!r} is no name; it must not hold / and :")
        for option, port in (("port", self.port), ("rest-port", self.rest_port)):
            if port is not None and not 0 <= port <= _MAX_PORT:
                raise InputError(f"--{option} must be 0 to {_MAX_PORT}. Received: {port}")
        if self.port and self.port == self.rest_port:
            raise InputError("--port and --rest-port must be different")
        for option, number in (
            ("poll-seconds", self.poll_seconds),
            ("max-batch-size", self.limits.max_rows),
            ("max-queue", self.limits.max_waiting),
            ("batch-threads", self.batch_threads),
            ("max-message-bytes", self.max_message_bytes),
            ("max-requests", self.max_requests),
            ("keepalive", self.keepalive),
        ):
            if not 0 < number < float("inf"):
                raise InputError(f"--{option} must be a positive number. Received: {number}")
        for option, number in (
            ("batch-timeout-ms", self.limits.timeout),
            ("drain-seconds", self.drain_seconds),
        ):
            if not 0 <= number < float("inf"):
                raise InputError(f"--{option} must not be negative. Received: {number}")
        self._check_directory()
        folder = os.path.dirname(os.path.abspath(self.port_file or ""))
        if not os.path.isdir(folder):
            raise InputError(f"{folder}: there is no such folder (--port-file)")

    def _check_directory(self) -> None:
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
        Whether all threads have come to rest; where not, the process would not end by itself.

    Raises:
        InputError: If a port cannot be had.
    """
    return asyncio.run(_Server(options, announce).run())


class _Server:
    """A server's parts, from the first port to the last request."""

    def __init__(self, options: ServerOptions, announce: Callable[[str], None]) -> None:
        self._options = options
        self._announce = announce
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="loader")
        self._announced = False

    async def run(self) -> bool:
        options = self._options
        stopped = asyncio.Event()
        self._compute = Compute(options.batch_threads)
        self._metrics = Metrics(options.model, lambda: self._compute.waiting)
        self._health = Health(_SERVICES)
        self._reflection = Reflection(_SERVICES)
        self._methods = Methods()
        self._methods.handlers |= self._health.handlers | self._reflection.handlers
        rpc_server = grpc.aio.server(
            handlers=(self._methods,),
            options=_grpc_options(options),
            maximum_concurrent_rpcs=options.max_requests,
        )
        self._port = _bind_grpc(rpc_server, options)
        with contextlib.ExitStack() as files:
            self._rest_socket = None
            if options.rest_port is not None:
                self._rest_socket = files.enter_context(_bind_rest(options))
            if options.tls is None and not is_loopback(_address(options.host, 1)):
                _logger.warning(
                    "%s can be reached from other machines, and everybody there can ask the model; "
                    "--tls-cert, --tls-key and --tls-client-ca let in whom you know",
                    _address(options.host, self._port),
                )
            await rpc_server.start()
            files.callback(self._remove_port_file)
            work = asyncio.create_task(self._work())
            with _signals(stopped):
                await asyncio.wait(
                    {work, asyncio.ensure_future(stopped.wait())},
                    return_when=asyncio.FIRST_COMPLETED,
                )
                _logger.info("ending; requests under way are answered")
                self._health.close()
                self._reflection.close()
                work.cancel()
                rest = self._rest.cleanup() if self._rest else asyncio.sleep(0)
                await asyncio.gather(rpc_server.stop(options.drain_seconds), rest)
                with contextlib.suppress(asyncio.CancelledError):
                    await work
        return self._at_rest()

    _rest: Any = None
    _rest_port: int | None = None
    _versions: "Versions[Served] | None" = None

    async def _work(self) -> None:
        """Loads TensorFlow, offers the services, and follows the versions until cancelled."""
        loop = asyncio.get_running_loop()
        parts = ("service", "prediction_service", "rest")
        service_module, prediction_service, rest = [
            await loop.run_in_executor(
                self._loader, importlib.import_module, f"bert_tfx.serving.{part}"
            )
            for part in parts
        ]
        options = self._options
        service: Service = service_module.Service(
            options.model, options.labels, self._compute, options.limits, self._metrics
        )
        self._versions = service.versions = Versions(
            options.directory,
            options.policy,
            functools.partial(service_module.load, backend=options.backend),
            lambda served: service_module.unload(served, self._loader),
            self._loader,
            self._changed,
        )
        self._methods.handlers |= prediction_service.handlers(
            service,
            lambda method, signature, code, seconds: self._metrics.answered(
                "grpc", method, signature, code, seconds
            ),
        )
        self._methods.starting = False
        if self._rest_socket is not None:
            self._rest_port = self._rest_socket.getsockname()[1]
            app = rest.Rest(
                service,
                self._metrics,
                max_bytes=options.max_message_bytes,
                max_requests=options.max_requests,
            ).app
            self._rest = await rest.start(
                app, self._rest_socket, options.tls and options.tls.context(), options.drain_seconds
            )
        await self._versions.watch(options.poll_seconds)

    def _changed(self) -> None:
        """Tells health, metrics and, the first time, the user what can be asked."""
        if self._versions is None:
            return
        versions = self._versions.all()
        self._metrics.set_versions((v.number, v.state.name) for v in versions)
        available = [v.number for v in versions if v.state is State.AVAILABLE]
        self._health.set(bool(available))
        if available and not self._announced:
            self._announced = True
            self._write_port_file()
            host = self._options.host
            text = f"serving model {self._options.model!r} version {available[0]}: gRPC on "
            text += _address(host, self._port)
            if self._rest_port is not None:
                scheme = "https" if self._options.tls else "http"
                text += f", REST on {scheme}://{_address(host, self._rest_port)}"
            self._announce(text)

    def _write_port_file(self) -> None:
        path = self._options.port_file
        if path is None:
            return
        ports = [self._port] + ([] if self._rest_port is None else [self._rest_port])
        try:
            files.write(path, "".join(f"{port}\n" for port in ports))
        except OSError as error:
            _logger.error("%s: cannot be written (--port-file): %s", path, error.strerror)

    def _remove_port_file(self) -> None:
        if self._options.port_file is not None and self._announced:
            with contextlib.suppress(OSError):
                os.remove(self._options.port_file)

    def _at_rest(self) -> bool:
        """Whether no thread computes or loads."""
        try:
            for pool in (self._loader, self._compute.pool):
                pool.submit(int).result(timeout=0.5)
                pool.shutdown(wait=False)
        except FutureTimeoutError:
            return False
        return True


def _grpc_options(options: ServerOptions) -> list[tuple[str, int]]:
    return [
        # Two servers on one port would each get some of the requests.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", options.max_message_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.keepalive_time_ms", int(options.keepalive * 1000)),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", _MIN_PING_MS),
    ]


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _bind_grpc(server: Any, options: ServerOptions) -> int:
    address = _address(options.host, options.port)
    try:
        if options.tls is None:
            return int(server.add_insecure_port(address))
        return int(server.add_secure_port(address, options.tls.credentials()))
    except RuntimeError as error:
        raise _port_error(
            address, "--port", "the port is in use, or the host is not this machine"
        ) from error


def _bind_rest(options: ServerOptions) -> socket.socket:
    port = options.rest_port or 0
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            options.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except OSError:
            bound.close()
            raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise _port_error(_address(options.host, port), "--rest-port", reason) from error
    return bound


def _port_error(address: str, option: str, reason: str) -> InputError:
    return InputError(f"{address}: cannot listen there (--host, {option}): {reason}")


@contextlib.contextmanager
def _signals(stopped: asyncio.Event) -> Iterator[None]:
    """Sets the event at SIGTERM or SIGINT; a second one ends the process at once."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if stopped.is_set():
            os._exit(1)
        stopped.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
