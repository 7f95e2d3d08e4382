"""What a client's tests ask: a server of our own messages, and model servers as processes."""

import contextlib
import dataclasses
import datetime
import ipaddress
import pathlib
import re
import shutil
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures

import grpc
import pytest

from bert_tfx.serving.protocol import messages
from bert_tfx.serving.protocol.tensors import string_tensor
from bert_tfx.serving.server import process as server_process
from bert_tfx.serving.server.process import LOCAL_SERVER, TF_SERVING

CLASSES = ("bad", "good")


def good_in_hundredths(text: str) -> int:
    """Returns what the server takes for the probability of `good`: the first number in a text."""
    number = re.search(r"[0-9]+", text)
    return int(number[0]) % 100 if number else 100 if "good" in text else 0


class FakeServer:
    """Serves model `model` in version 7; a test may put other answers in place of its own.

    Attributes:
        requests: The requests for predictions, in the order in which they came.
        script: Functions of request and context that answer the next requests.
        delay: Seconds before each answer.
        version: The version that answers, None where the answer shall not say.
        states: State of each version.
        health: What the health service says; None where there is none.
        token: The token that callers must show.
        pairs: Whether the model takes pairs.
        most: The most requests that were worked on at the same time.
    """

    def __init__(self) -> None:
        self.requests: list = []
        self.script: list[Callable] = []
        self.delay: float | Callable[[str], float] = 0.0
        self.version: int | None = 7
        self.states: dict[int, int] = {7: messages.AVAILABLE}
        self.health: int | None = None
        self.token: str | None = None
        self.pairs = False
        self.polls = 0
        self.most = self._working = 0
        self._lock = threading.Lock()
        self._server: grpc.Server | None = None

    @staticmethod
    def floats(values: list[list[float]]) -> messages.TensorProto:
        """Returns a float32 matrix, packed as numpy's tensors are."""
        flat = [value for row in values for value in row]
        tensor = messages.TensorProto(
            dtype=messages.DT_FLOAT, tensor_content=struct.pack(f"<{len(flat)}f", *flat)
        )
        for size in (len(values), len(values[0])):
            tensor.tensor_shape.dim.add(size=size)
        return tensor

    @staticmethod
    def strings(values: list[str], *shape: int) -> messages.TensorProto:
        tensor = string_tensor(values)
        del tensor.tensor_shape.dim[:]
        for size in shape:
            tensor.tensor_shape.dim.add(size=size)
        return tensor

    @staticmethod
    def abort(code: grpc.StatusCode, details: str = "as the test wants it") -> Callable:
        """Returns an entry of the script that fails."""
        return lambda request, context: context.abort(code, details)

    def changed(self, name: str, tensor: messages.TensorProto | None) -> Callable:
        """Returns an entry of the script that puts another tensor in place of an output's."""

        def answer(request, context):
            response = self.answer(request)
            if tensor is None:
                del response.outputs[name]
            else:
                response.outputs[name].CopyFrom(tensor)
            return response

        return answer

    def start(self, port: int = 0, credentials: grpc.ServerCredentials | None = None) -> str:
        self._server = grpc.server(futures.ThreadPoolExecutor(8))
        handlers = {
            messages.PREDICT: self._predict,
            messages.GET_MODEL_METADATA: self._metadata,
            messages.GET_MODEL_STATUS: self._status,
            messages.CHECK_HEALTH: self._health,
        }
        for method, handler in handlers.items():
            _, service, name = method.path.split("/")
            rpc = grpc.unary_unary_rpc_method_handler(
                handler, method.request.FromString, method.response.SerializeToString
            )
            self._server.add_generic_rpc_handlers(
                [grpc.method_handlers_generic_handler(service, {name: rpc})]
            )
        address = f"127.0.0.1:{port}"
        if credentials is None:
            bound = self._server.add_insecure_port(address)
        else:
            bound = self._server.add_secure_port(address, credentials)
        self._server.start()
        self.target = f"127.0.0.1:{bound}"
        return self.target

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop(None).wait()

    def answer(self, request) -> messages.PredictResponse:
        texts = [value.decode() for value in request.inputs["text_a"].string_val]
        probabilities = [
            [1 - good_in_hundredths(t) / 100, good_in_hundredths(t) / 100] for t in texts
        ]
        response = messages.PredictResponse()
        response.model_spec.name = request.model_spec.name
        if self.version is not None:
            response.model_spec.version.value = self.version
        response.outputs["probabilities"].CopyFrom(self.floats(probabilities))
        labels = [CLASSES[bad < good] for bad, good in probabilities]
        response.outputs["label"].CopyFrom(self.strings(labels, len(texts)))
        response.outputs["classes"].CopyFrom(
            self.strings([*CLASSES] * len(texts), len(texts), len(CLASSES))
        )
        return response

    def _predict(self, request, context):
        self._check(request, context)
        with self._lock:
            self.requests.append(request)
            self._working += 1
            self.most = max(self.most, self._working)
            scripted = self.script.pop(0) if self.script else None
        try:
            text = request.inputs["text_a"].string_val[0].decode()
            time.sleep(self.delay(text) if callable(self.delay) else self.delay)
            if scripted is not None:
                return scripted(request, context)
            if self.pairs != ("text_b" in request.inputs):
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "input size does not match")
            return self.answer(request)
        finally:
            with self._lock:
                self._working -= 1

    def _metadata(self, request, context):
        self.polls += 1
        self._check(request, context)
        signatures = messages.SignatureDefMap()
        signature = signatures.signature_def["serve_text"]
        for name in ("text_a", "text_b")[: 1 + self.pairs]:
            signature.inputs[name].dtype = messages.DT_STRING
            signature.inputs[name].tensor_shape.dim.add(size=-1)
        signature.outputs["probabilities"].dtype = messages.DT_FLOAT
        signature.outputs["probabilities"].tensor_shape.unknown_rank = True
        response = messages.GetModelMetadataResponse()
        response.model_spec.version.value = self.version
        response.metadata["signature_def"].Pack(signatures)
        return response

    def _status(self, request, context):
        self._check(request, context, loaded=False)
        response = messages.GetModelStatusResponse()
        asked = request.model_spec
        for version, state in self.states.items():
            if not asked.HasField("version") or asked.version.value == version:
                status = response.model_version_status.add(version=version, state=state)
                if state == 50:
                    status.status.error_code = 5
                    status.status.error_message = "no variables"
        return response

    def _health(self, request, context):
        if self.health is None:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "unknown service")
        return messages.HealthCheckResponse(status=self.health)

    def _check(self, request, context, loaded: bool = True) -> None:
        shown = dict(context.invocation_metadata()).get("authorization")
        if self.token is not None and shown != f"Bearer {self.token}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "no valid token")
        spec = request.model_spec
        if spec.name != "model":
            context.abort(grpc.StatusCode.NOT_FOUND, f"Servable not found: Latest({spec.name})")
        version = spec.version.value if spec.HasField("version") else self.version
        if loaded and version is not None and self.states.get(version) != messages.AVAILABLE:
            context.abort(grpc.StatusCode.NOT_FOUND, "Servable not found: Latest(model)")


@pytest.fixture
def server() -> Iterator[FakeServer]:
    """A server on a free port; `target` is its address."""
    fake = FakeServer()
    fake.start()
    yield fake
    fake.stop()


# Beside what a server is started with anyway.
_FURTHER_FLAGS = {
    LOCAL_SERVER: (),
    TF_SERVING: (
        "--file_system_poll_wait_seconds=1",
        "--enable_batching=true",
        "--enable_per_model_batching_parameters=true",
    ),
}


@dataclasses.dataclass(frozen=True)
class ModelServer:
    """A server that runs on `base`.

    Attributes:
        program: `LOCAL_SERVER` or `TF_SERVING`.
        base: The folder of the versions.
        target: Its gRPC address.
        process: The process.
    """

    program: str
    base: pathlib.Path
    target: str
    process: server_process.ServerProcess


@pytest.fixture(scope="session")
def start_model_server(tmp_path_factory) -> Callable[..., contextlib.AbstractContextManager]:
    """Starts a model server on a folder of versions; ends it with the context."""

    @contextlib.contextmanager
    def start(program: str, base: pathlib.Path) -> Iterator[ModelServer]:
        with server_process.model_server(
            str(base),
            log_file=str(tmp_path_factory.mktemp("log") / "server.log"),
            program=program,
            flags=_FURTHER_FLAGS[program],
        ) as running:
            yield ModelServer(program, base, running.target, running)

    return start


@pytest.fixture(scope="module", params=[LOCAL_SERVER, TF_SERVING])
def program(request) -> str:
    """The model servers that a client has to get on with."""
    if request.param == TF_SERVING and shutil.which(TF_SERVING) is None:
        pytest.skip(f"{TF_SERVING} is not on PATH")
    return request.param


@dataclasses.dataclass(frozen=True)
class Certificates:
    """PEM files: an authority, what it signed for 127.0.0.1 and for a client; and another one's."""

    ca: bytes
    server_cert: bytes
    server_key: bytes
    client_cert: bytes
    client_key: bytes
    other_ca: bytes
    other_cert: bytes
    other_key: bytes

    def write(self, folder: pathlib.Path) -> dict[str, str]:
        """Writes them; returns the path of each by its name."""
        paths = {}
        for name, content in dataclasses.asdict(self).items():
            (folder / f"{name}.pem").write_bytes(content)
            paths[name] = str(folder / f"{name}.pem")
        return paths


@pytest.fixture(scope="session")
def certificates() -> Certificates:
    return make_certificates()


def make_certificates() -> Certificates:
    """Makes them; skips the test where there is nothing to make them with."""
    pytest.importorskip("cryptography", reason="makes the certificates")
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    now = datetime.datetime.now(datetime.timezone.utc)

    def name(common: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])

    # Python 3.13 asks an authority for it, and everybody for the identifiers of both keys.
    signs = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )

    def make(common: str, issuer=None, *extensions):
        key = ec.generate_private_key(ec.SECP256R1())
        issuer_key = issuer[1] if issuer else key
        builder = (
            x509.CertificateBuilder()
            .subject_name(name(common))
            .issuer_name(name(issuer[0] if issuer else common))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), False
            )
        )
        if issuer is None:
            builder = builder.add_extension(signs, True)
        for extension in extensions:
            builder = builder.add_extension(extension, False)
        cert = builder.sign(issuer_key, hashes.SHA256())
        pem = serialization.Encoding.PEM
        private = key.private_bytes(
            pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return key, cert.public_bytes(pem), private

    ca_key, ca, _ = make("test authority")
    other_ca_key, other_ca, _ = make("another authority")
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    _, server_cert, server_key = make("server", ("test authority", ca_key), names)
    _, client_cert, client_key = make("client", ("test authority", ca_key))
    _, other_cert, other_key = make("client", ("another authority", other_ca_key), names)
    return Certificates(
        ca, server_cert, server_key, client_cert, client_key, other_ca, other_cert, other_key
    )
