"""What is asked of a served model and how its answers are read, without any input or output.

Each question is a generator that yields what is to be done next, a `Try` or a `Pause`, and is sent
the answer, or thrown the `grpc.RpcError`; what it returns is the result. So the blocking and the
asynchronous client share retries, deadlines and messages, and differ only in how they wait.
"""

import dataclasses
import itertools
import math
import random
import re
import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar, cast

import grpc

from bert_tfx.schema.errors import InputError
from bert_tfx.schema.tasks import TEXT_A, TEXT_B
from bert_tfx.serving.protocol import messages
from bert_tfx.serving.protocol.errors import (
    BadAnswer,
    BadRequest,
    DeadlineExceeded,
    ModelNotFound,
    NotAllowed,
    ResourceExhausted,
    ServerFailed,
    ServingError,
    Unavailable,
)
from bert_tfx.serving.protocol.messages import Method
from bert_tfx.serving.protocol.tensors import (
    bools_of,
    floats_of,
    shape_of,
    string_tensor,
    strings_of,
)

SERVE_TEXT = "serve_text"
PROBABILITIES = "probabilities"
LABEL = "label"
CLASSES = "classes"
TRUNCATED = "truncated"

# Seconds before the second try, doubled for each further one, and at most.
_FIRST_WAIT = 0.2
_LAST_WAIT = 5.0
# While it waits for a server, a client asks it so often.
_FIRST_POLL = 0.1
_LAST_POLL = 1.0
_POLL_TIMEOUT = 5.0

_MAX_DETAILS = 500

_T = TypeVar("_T")


class Try(NamedTuple):
    """One request to send, and the seconds it may take."""

    method: Method
    request: Any
    timeout: float


class Pause(NamedTuple):
    """So many seconds to wait."""

    seconds: float


Question = Generator[Try | Pause, Any, _T]


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A model's answer to one text or pair.

    Attributes:
        label: The most probable class.
        probability: Its probability.
        probabilities: The probability of each class, in the order of the task's labels.
        model_version: The version that answered.
        truncated: Whether the text is longer than the model reads, so that its end did not count;
            False where the model does not tell.
    """

    label: str
    probability: float
    probabilities: Mapping[str, float] = dataclasses.field(hash=False)
    model_version: int
    truncated: bool = False


@dataclasses.dataclass(frozen=True)
class VersionStatus:
    """How far a server is with a version of a model.

    Attributes:
        version: Its number.
        state: `START`, `LOADING`, `AVAILABLE`, `UNLOADING` or `END`.
        error: Why it could not be loaded, empty where nothing is wrong.
    """

    version: int
    state: str
    error: str

    @property
    def available(self) -> bool:
        """Whether the version can be asked."""
        return self.state == "AVAILABLE"


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """What a signature takes or gives under one name.

    Attributes:
        dtype: TensorFlow's name of the type, such as `DT_STRING`.
        shape: The sizes, None where one is open; None where not even their number is known.
    """

    dtype: str
    shape: tuple[int | None, ...] | None


@dataclasses.dataclass(frozen=True)
class Signature:
    """A function that a model offers.

    Attributes:
        inputs: What it takes, by name.
        outputs: What it gives, by name.
    """

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]


@dataclasses.dataclass(frozen=True)
class ModelMetadata:
    """What a server says about a model.

    Attributes:
        model_version: The version it speaks of.
        signatures: The functions that the model offers, by name.
    """

    model_version: int
    signatures: Mapping[str, Signature]


class Batch(NamedTuple):
    """Texts for one request; `texts_b` is None where they are no pairs."""

    texts_a: list[str]
    texts_b: list[str] | None


class ModelApi:
    """A model on a server, and the questions it can be asked.

    The arguments are those of `bert_tfx.serving.client.Client`.
    """

    def __init__(
        self,
        target: str,
        model: str,
        *,
        timeout: float,
        request_timeout: float | None,
        version: int | None,
        version_label: str | None,
        batch_size: int,
        tries: int,
    ) -> None:
        if not model:
            raise InputError("the model's name is empty")
        if version is not None and version_label is not None:
            raise InputError("version and version_label: there can be only one of the two")
        for name, value in (("timeout", timeout), ("request_timeout", request_timeout)):
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"{name} must be a positive number of seconds. Received: {value}")
        for name, count in (("batch_size", batch_size), ("tries", tries)):
            if count < 1:
                raise InputError(f"{name} must be at least 1. Received: {count}")
        self._timeout = timeout
        self._request_timeout = math.inf if request_timeout is None else request_timeout
        self._model = model
        self._version = version
        self._version_label = version_label
        self._batch_size = batch_size
        self._tries = tries
        asked = f" version {version}" if version is not None else ""
        asked += f" version {version_label!r}" if version_label is not None else ""
        self._who = f"{target}, model {model!r}{asked}"

    def deadline(self) -> float:
        """Returns when a call that begins now must be done, by `time.monotonic`."""
        return time.monotonic() + self._timeout

    def batches(self, rows: Iterable[str | tuple[str, str]]) -> Iterator[Batch]:
        """Yields the texts of `rows` in batches, in their order.

        Raises:
            InputError: If a row is neither a text nor a pair of texts, holds a lone surrogate, or
                is of the other kind than the first one.
        """
        numbered = enumerate(rows)
        paired = None
        while chunk := list(itertools.islice(numbered, self._batch_size)):
            if paired is None:
                paired = isinstance(chunk[0][1], tuple)
            for index, row in chunk:
                _check_row(row, index, paired)
            if paired:
                texts_a, texts_b = zip(*(row for _, row in chunk), strict=True)
                yield Batch(list(texts_a), list(texts_b))
            else:
                yield Batch([cast(str, row) for _, row in chunk], None)

    def predict(self, batch: Batch, deadline: float) -> Question[list[Prediction]]:
        """Asks for the predictions of a batch; see `Client.predict`."""
        request = messages.PredictRequest()
        self._select(request.model_spec)
        request.model_spec.signature_name = SERVE_TEXT
        request.inputs[TEXT_A].CopyFrom(string_tensor(batch.texts_a))
        if batch.texts_b is not None:
            request.inputs[TEXT_B].CopyFrom(string_tensor(batch.texts_b))
        response = yield from self._ask(messages.PREDICT, request, deadline)
        return self._predictions(response, len(batch.texts_a))

    def metadata(self, deadline: float, tries: int | None = None) -> Question[ModelMetadata]:
        """Asks for the signatures; see `Client.metadata`."""
        request = messages.GetModelMetadataRequest(metadata_field=["signature_def"])
        self._select(request.model_spec)
        response = yield from self._ask(messages.GET_MODEL_METADATA, request, deadline, tries)
        packed = response.metadata["signature_def"]
        content = messages.SignatureDefMap()
        if not packed.Unpack(content):
            raise BadAnswer(f"{self._who}: the answer holds no signatures; is this TF Serving?")
        return ModelMetadata(
            self._answering_version(response),
            {
                name: Signature(_specs(signature.inputs), _specs(signature.outputs))
                for name, signature in sorted(content.signature_def.items())
            },
        )

    def status(
        self, deadline: float, tries: int | None = None
    ) -> Question[tuple[VersionStatus, ...]]:
        """Asks how far the server is with each version; see `Client.model_status`."""
        request = messages.GetModelStatusRequest()
        # TF Serving looks at the version only, and answers for all where there is none.
        request.model_spec.name = self._model
        if self._version is not None:
            request.model_spec.version.value = self._version
        response = yield from self._ask(messages.GET_MODEL_STATUS, request, deadline, tries)
        return tuple(
            sorted(map(_version_status, response.model_version_status), key=lambda s: s.version)
        )

    def health(self, deadline: float) -> Question[bool]:
        """Asks whether the server can answer; see `Client.is_healthy`."""
        begun = yield from self._try_health(deadline)
        if begun is not None:
            return begun
        try:
            status = yield from self.status(deadline, tries=1)
        except ServingError:
            return False
        return any(version.available for version in status)

    def _try_health(self, deadline: float) -> Question[bool | None]:
        """Asks the health service; None where the server has none."""
        timeout = min(deadline - time.monotonic(), self._request_timeout)
        try:
            response = yield Try(messages.CHECK_HEALTH, messages.HealthCheckRequest(), timeout)
        except grpc.RpcError as error:
            return None if error.code() == grpc.StatusCode.UNIMPLEMENTED else False
        return bool(response.status == messages.SERVING)

    def ready(self, timeout: float) -> Question[None]:
        """Asks until the model can be asked; see `Client.wait_until_ready`."""
        # A label is unknown until it is assigned, which may come after the model is loaded.
        passing: tuple[type[ServingError], ...] = (Unavailable, ModelNotFound, DeadlineExceeded)
        if self._version_label is not None:
            passing += (BadRequest,)
        deadline = time.monotonic() + timeout
        pause = _FIRST_POLL
        while True:
            try:
                yield from self.metadata(min(deadline, time.monotonic() + _POLL_TIMEOUT), tries=1)
                return
            except passing as error:
                last = error
            if time.monotonic() + pause >= deadline:
                states = yield from self._states()
                raise DeadlineExceeded(
                    f"{self._who}: not ready within {timeout:g} s{states}. The last try: {last}"
                ) from last
            yield Pause(pause)
            pause = min(2 * pause, _LAST_POLL)

    def _states(self) -> Question[str]:
        """Says how far the versions are, where the server can tell."""
        try:
            status = yield from self.status(time.monotonic() + 1.0, tries=1)
        except ServingError:
            return ""
        return "; versions there: " + ", ".join(
            f"{version.version} {version.state}" + f" ({version.error})" * bool(version.error)
            for version in status
        )

    def _select(self, spec: Any) -> None:
        spec.name = self._model
        if self._version is not None:
            spec.version.value = self._version
        if self._version_label is not None:
            spec.version_label = self._version_label

    def _ask(
        self, method: Method, request: Any, deadline: float, tries: int | None = None
    ) -> Question[Any]:
        """Asks until there is an answer, or an error that trying again does not mend.

        Only `UNAVAILABLE` is tried again: the server was not reached or did not begin. Questions
        change nothing on the server, so that asking twice does no harm.
        """
        tries = self._tries if tries is None else tries
        number = 0
        while True:
            number += 1
            left = deadline - time.monotonic()
            if left <= 0:
                raise DeadlineExceeded(
                    f"{self._who}: the time for the whole call is over; give it a longer timeout "
                    "or fewer texts"
                )
            timeout = min(left, self._request_timeout)
            try:
                return (yield Try(method, request, timeout))
            except grpc.RpcError as error:
                wait = min(_LAST_WAIT, _FIRST_WAIT * 2 ** (number - 1)) * random.uniform(0.5, 1.0)
                if (
                    error.code() != grpc.StatusCode.UNAVAILABLE
                    or number >= tries
                    or time.monotonic() + wait >= deadline
                ):
                    raise self._failure(error, method, number, timeout) from error
            yield Pause(wait)

    def _failure(
        self, error: grpc.RpcError, method: Method, tries: int, timeout: float
    ) -> ServingError:
        """Returns gRPC's error in the client's words."""
        code = error.code()
        details = re.sub(r"\s+", " ", error.details() or "no details").strip().rstrip(".")
        if len(details) > _MAX_DETAILS:
            details = details[: _MAX_DETAILS - 3] + "..."
        kind, happened, advice = _explained(code, details, method, tries, timeout)
        return kind(f"{self._who}: {happened}; {advice}")

    def _answering_version(self, response: Any) -> int:
        if not response.model_spec.HasField("version"):
            raise BadAnswer(
                f"{self._who}: the answer does not say which version gave it; is this TF Serving?"
            )
        return int(response.model_spec.version.value)

    def _predictions(self, response: Any, rows: int) -> list[Prediction]:
        """Reads the outputs of `serve_text`.

        Raises:
            BadAnswer: If they are not those of a classifier for so many rows.
        """
        version = self._answering_version(response)
        try:
            return _read_outputs(response.outputs, rows, version)
        except ValueError as error:
            raise BadAnswer(
                f"{self._who}: version {version} answered, but {error}; was it exported by "
                "bert-tfx?"
            ) from error


def _explained(
    code: grpc.StatusCode, details: str, method: Method, tries: int, timeout: float
) -> tuple[type[ServingError], str, str]:
    """Returns the kind of an error, what happened, and what to do."""
    status = grpc.StatusCode
    if code == status.UNAVAILABLE:
        advice = (
            "check the certificates (ca, server_name) and whether the server speaks TLS"
            if re.search(r"SSL|TLS|certificate|handshake", details, re.IGNORECASE)
            else "does the server run there, and is this its port for gRPC (TF Serving: 8500, "
            "while 8501 is REST), with TLS where it wants TLS?"
        )
        times = f"{tries} tries" if tries > 1 else "1 try"
        return Unavailable, f"the server is not available ({times}): {details}", advice
    if code == status.DEADLINE_EXCEEDED:
        return (
            DeadlineExceeded,
            f"no answer within {timeout:.3g} s",
            "give it a longer timeout, or send fewer texts in a request",
        )
    if code == status.NOT_FOUND:
        return (
            ModelNotFound,
            f"the server does not have it: {details}",
            "check the model's name and version; a server that just started may still load it",
        )
    if code in (status.INVALID_ARGUMENT, status.FAILED_PRECONDITION, status.OUT_OF_RANGE):
        return (
            BadRequest,
            f"the server refuses the request: {details}",
            "a model of pairs takes two texts, every other model a single one; it needs the "
            f"signature {SERVE_TEXT}; the server may limit the size of a batch",
        )
    if code in (status.UNAUTHENTICATED, status.PERMISSION_DENIED):
        return (
            NotAllowed,
            f"the server does not let this client in: {details}",
            "check the token, or the client's certificate",
        )
    if code == status.RESOURCE_EXHAUSTED:
        return (
            ResourceExhausted,
            f"a limit is exceeded: {details}",
            "send fewer texts in a request (batch_size), or raise max_message_bytes where the "
            "message is larger than that",
        )
    if code == status.UNIMPLEMENTED:
        return (
            ServerFailed,
            f"the server does not know {method.path}: {details}",
            "is this TF Serving's port for gRPC?",
        )
    if code == status.CANCELLED:
        return (
            ServerFailed,
            f"the request was cancelled: {details}",
            "the client was closed meanwhile, or the server gave up",
        )
    return ServerFailed, f"the server failed ({code.name}): {details}", "its log may say more"


def _check_row(row: Any, index: int, paired: bool) -> None:
    if isinstance(row, tuple) != paired or (paired and len(row) != 2):
        raise InputError(f"row {index}: expected {'a pair of texts' if paired else 'one text'}")
    for name, text in zip((TEXT_A, TEXT_B), row if paired else (row,), strict=False):
        check_text(text, f"row {index}, {name}")


def check_text(text: Any, where: str) -> None:
    """Raises if something is no text that can be sent.

    Raises:
        InputError: If it is no string, or one with a lone surrogate.
    """
    if not isinstance(text, str):
        raise InputError(f"{where}: expected a string. Received: {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{where}: half of a surrogate pair (U+{ord(text[error.start]):04X}) at position "
            f"{error.start} is no character and cannot be sent; the text was decoded wrongly"
        ) from error


def paired_rows(
    texts: Iterable[str], texts_b: Iterable[str] | None
) -> list[str] | list[tuple[str, str]]:
    """Returns the rows that two lists of texts mean, checked.

    Raises:
        InputError: If they are no lists, differ in length, or hold something that is no text.
    """
    given = {"texts": texts} | ({} if texts_b is None else {"texts_b": texts_b})
    lists = []
    for name, values in given.items():
        if isinstance(values, str | bytes):
            raise InputError(f"{name}: expected a list of strings, received one text; write [text]")
        lists.append(list(values))
        for index, text in enumerate(lists[-1]):
            check_text(text, f"{name}[{index}]")
    if texts_b is None:
        return lists[0]
    if len(lists[0]) != len(lists[1]):
        raise InputError(
            f"texts and texts_b must be equally long. Received: {len(lists[0])} and {len(lists[1])}"
        )
    return list(zip(*lists, strict=True))


def _version_status(status: Any) -> VersionStatus:
    error = ""
    if status.status.error_code:
        code = messages.enum_name("tensorflow.error.Code", status.status.error_code)
        error = f"{code}: {status.status.error_message}"
    state = messages.enum_name("tensorflow.serving.ModelVersionStatus.State", status.state)
    return VersionStatus(status.version, state, error)


def _specs(tensors: Mapping[str, Any]) -> dict[str, TensorSpec]:
    specs = {}
    for name, info in sorted(tensors.items()):
        shape = None
        if not info.tensor_shape.unknown_rank:
            shape = tuple(d.size if d.size >= 0 else None for d in info.tensor_shape.dim)
        specs[name] = TensorSpec(messages.enum_name("tensorflow.DataType", info.dtype), shape)
    return specs


def _read_outputs(outputs: Mapping[str, Any], rows: int, version: int) -> list[Prediction]:
    """Reads the outputs of `serve_text`: what `bert_tfx.modeling.export.saved_model` declares.

    Raises:
        ValueError: If one is missing, or of another type or shape, or makes no sense.
    """
    if missing := [name for name in (PROBABILITIES, LABEL, CLASSES) if name not in outputs]:
        raise ValueError(
            f"without output {', '.join(missing)} (it has: {', '.join(sorted(outputs)) or 'none'})"
        )
    probabilities = _read(floats_of, outputs, PROBABILITIES)
    labels = [_decoded(value, LABEL) for value in _read(strings_of, outputs, LABEL)]
    classes = [_decoded(value, CLASSES) for value in _read(strings_of, outputs, CLASSES)]
    truncated = [False] * rows
    if TRUNCATED in outputs:
        truncated = _read(bools_of, outputs, TRUNCATED)
        if shape_of(outputs[TRUNCATED]) != (rows,):
            raise ValueError(f"output {TRUNCATED} is not of shape [{rows}]")
    shapes = {name: shape_of(outputs[name]) for name in (PROBABILITIES, LABEL, CLASSES)}
    shape = shapes[PROBABILITIES]
    if len(shape) != 2 or shapes != {
        PROBABILITIES: (rows, shape[1]),
        LABEL: (rows,),
        CLASSES: (rows, shape[1]),
    }:
        found = ", ".join(f"{name} {list(s)}" for name, s in shapes.items())
        raise ValueError(
            f"the shapes of its outputs are {found}; expected for {rows} rows: {PROBABILITIES} "
            f"and {CLASSES} [{rows}, classes], {LABEL} [{rows}]"
        )
    predictions = []
    for row, label in enumerate(labels):
        part = slice(row * shape[1], (row + 1) * shape[1])
        by_class = dict(zip(classes[part], probabilities[part], strict=True))
        if len(by_class) < shape[1] or label not in by_class:
            raise ValueError(
                f"row {row} has label {label!r} and classes {classes[part]}; expected different "
                "classes, and the label among them"
            )
        if not all(map(math.isfinite, by_class.values())):
            raise ValueError(f"row {row} has probabilities {probabilities[part]}")
        predictions.append(Prediction(label, by_class[label], by_class, version, truncated[row]))
    return predictions


def _read(read: Any, outputs: Mapping[str, Any], name: str) -> list[Any]:
    try:
        return cast(list[Any], read(outputs[name]))
    except ValueError as error:
        raise ValueError(f"its output {name} cannot be read: {error}") from error


def _decoded(value: bytes, name: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"its output {name} is not UTF-8: {value!r}") from error
