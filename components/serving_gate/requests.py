"""What the gates ask a server, and how: TensorFlow Serving's own stubs, both signatures."""

import dataclasses
import random
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from bert_tfx.components.predictor.predictions import CANDIDATE, probabilities_feature
from bert_tfx.schema.tasks import TEXT_A, TEXT_B
from bert_tfx.serving import DEFAULT_MODEL
from bert_tfx.serving.protocol.errors import BadAnswer
from bert_tfx.serving.protocol.model_api import SERVE_TEXT

SERVING_DEFAULT = "serving_default"

_SECONDS = 60.0
_MAX_MESSAGE_BYTES = 64 * 1024 * 1024
_SUMS_TO_ONE = 1e-3


@dataclasses.dataclass(frozen=True)
class GoldenRow:
    """An eval row, and the answer that the evaluation counted.

    Attributes:
        texts: By feature.
        probabilities: float32 `[classes]`.
    """

    texts: Mapping[str, bytes]
    probabilities: np.ndarray


def golden_row(example: tf.train.Example, model: str) -> GoldenRow:
    """Returns a row, and what a model answered to it.

    Args:
        example: Of what Predictor wrote.
        model: One of the models that were asked.
    """
    feature = example.features.feature
    answer = feature[probabilities_feature(model)].float_list.value
    return GoldenRow(
        {name: feature[name].bytes_list.value[0] for name in (TEXT_A, TEXT_B) if name in feature},
        np.array(answer, np.float32),
    )


def golden_rows(examples: Iterable[tf.train.Example], number: int) -> list[GoldenRow]:
    """Draws rows, each with the same chance, and the same ones each time.

    Args:
        examples: What Predictor wrote.
        number: How many, where there are as many.

    Returns:
        The rows.
    """
    rng = random.Random(0)
    drawn: list[tf.train.Example] = []
    for index, example in enumerate(examples):
        if index < number:
            drawn.append(example)
        elif (place := rng.randrange(index + 1)) < number:
            drawn[place] = example
    return [golden_row(example, CANDIDATE) for example in drawn]


class Refused(Exception):
    """The server's answer is an error.

    Attributes:
        code: gRPC's name of it.
        details: What the server says.
    """

    def __init__(self, code: str, details: str) -> None:
        super().__init__(f"{code}: {details}")
        self.code = code
        self.details = details


class Asker:
    """A connection over which requests of any form can be sent; a context manager.

    Args:
        target: The server's gRPC address.
    """

    def __init__(self, target: str) -> None:
        options = [
            ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
            ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
        ]
        self._channel = grpc.insecure_channel(target, options)
        self._predict = prediction_service_pb2_grpc.PredictionServiceStub(self._channel).Predict

    def __enter__(self) -> "Asker":
        """Returns the connection."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes it."""
        self._channel.close()

    def ask(
        self, signature: str, inputs: Mapping[str, tensor_pb2.TensorProto]
    ) -> dict[str, np.ndarray]:
        """Sends a request.

        Args:
            signature: Which one is called.
            inputs: What it is given.

        Returns:
            What it answers.

        Raises:
            Refused: If the server answers with an error, or not at all.
        """
        request = predict_pb2.PredictRequest()
        request.model_spec.name = DEFAULT_MODEL
        request.model_spec.signature_name = signature
        for name, tensor in inputs.items():
            request.inputs[name].CopyFrom(tensor)
        try:
            response = self._predict(request, timeout=_SECONDS)
        except grpc.RpcError as error:
            raise Refused(error.code().name, error.details() or "") from error
        return {name: tf.make_ndarray(tensor) for name, tensor in response.outputs.items()}


def text_inputs(rows: Sequence[Mapping[str, bytes]]) -> dict[str, tensor_pb2.TensorProto]:
    """Returns what `serve_text` is given for rows of texts."""
    return {name: _strings([row[name] for row in rows]) for name in rows[0]}


def example_inputs(rows: Sequence[Mapping[str, bytes]]) -> dict[str, tensor_pb2.TensorProto]:
    """Returns what `serving_default` is given for rows of texts."""
    examples = []
    for row in rows:
        example = tf.train.Example()
        for name, text in row.items():
            example.features.feature[name].bytes_list.value.append(text)
        examples.append(example.SerializeToString())
    return {"examples": _strings(examples)}


def _strings(values: Sequence[bytes]) -> tensor_pb2.TensorProto:
    return tf.make_tensor_proto(values, tf.string, shape=[len(values)])


INPUTS = {SERVE_TEXT: text_inputs, SERVING_DEFAULT: example_inputs}
"""For each signature, how rows of texts become its inputs."""


def largest_difference(
    asker: Asker, signature: str, rows: Sequence[GoldenRow], labels: Sequence[str], batch: int
) -> float:
    """Asks for rows, and holds the answers against the evaluation's.

    Args:
        asker: The connection.
        signature: Which one is called.
        rows: The rows.
        labels: The label of each class.
        batch: Rows in a request.

    Returns:
        By how much a probability differs at most.

    Raises:
        Refused: If the server answers with an error.
        BadAnswer: If an answer has not the right form.
    """
    largest = 0.0
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        outputs = asker.ask(signature, INPUTS[signature]([row.texts for row in part]))
        probabilities = checked_probabilities(outputs, len(part), labels)
        expected = np.stack([row.probabilities for row in part])
        largest = max(largest, float(np.abs(probabilities - expected).max()))
    return largest


def checked_probabilities(
    outputs: Mapping[str, np.ndarray], rows: int, labels: Sequence[str]
) -> np.ndarray:
    """Returns the probabilities of an answer.

    Args:
        outputs: The answer.
        rows: How many it should be about.
        labels: The label of each class.

    Returns:
        float32 `[rows, classes]`.

    Raises:
        BadAnswer: If an output is missing, of another shape, no probability, or at odds with
            the others.
    """
    if missing := {"probabilities", "label", "classes"} - outputs.keys():
        raise BadAnswer(f"the answer has no {', '.join(sorted(missing))}")
    probabilities, label, classes = (
        outputs[name] for name in ("probabilities", "label", "classes")
    )
    shape = (rows, len(labels))
    if (probabilities.shape, label.shape, classes.shape) != (shape, (rows,), shape):
        raise BadAnswer(
            f"the answer has probabilities {probabilities.shape}, label {label.shape} and classes "
            f"{classes.shape} where {shape}, {(rows,)} and {shape} are expected"
        )
    names = np.array([name.encode() for name in labels], object)
    if (classes != names).any():
        raise BadAnswer("the classes of the answer are not the labels of the task")
    if not np.isfinite(probabilities).all():
        raise BadAnswer("a probability of the answer is no number")
    if rows and np.abs(probabilities.sum(axis=1) - 1).max() > _SUMS_TO_ONE:
        raise BadAnswer("the probabilities of a row do not sum to 1")
    if (label != names[probabilities.argmax(axis=1)]).any():
        raise BadAnswer("the label of a row is not its most probable class")
    return probabilities


@dataclasses.dataclass(frozen=True)
class HostileRequest:
    """A request that no well-meaning client would send.

    Attributes:
        name: What is wrong with it.
        signature: Which one is called.
        inputs: What it is given.
        rows: How many the answer should be about; None where it should be INVALID_ARGUMENT.
        may_refuse: Whether INVALID_ARGUMENT would do as well.
    """

    name: str
    signature: str
    inputs: Mapping[str, tensor_pb2.TensorProto]
    rows: int | None
    may_refuse: bool = False


_MEGABYTE = 1_000_000
_MANY_ROWS = 1000


def hostile_requests(text_features: Sequence[str]) -> list[HostileRequest]:
    """Returns requests that a server must survive.

    Args:
        text_features: The features that the model reads.
    """
    texts = {
        "an empty text": b"",
        "a blank": b" \t\n\xe3\x80\x80",
        "1 MB of words": b"word " * (_MEGABYTE // 5),
        "1 MB in a word": b"x" * _MEGABYTE,
        "1 MB of Chinese": "好".encode() * (_MEGABYTE // 3),
        "NUL and other controls": bytes(range(32)) + b"a\x00b\x7f",
        "emoji and joiners": "👩‍👩‍👧‍👦🏳️‍🌈👍🏽".encode() * 20,
        "marks without end": ("e" + "\u0301" * 5000).encode(),
        "the tokenizer's own tokens": b"[CLS] [SEP] [MASK] [PAD] [UNK] ##s",
    }
    requests = [
        HostileRequest(name, signature, inputs([dict.fromkeys(text_features, text)]), 1)
        for name, text in texts.items()
        for signature, inputs in INPUTS.items()
    ]
    many = [dict.fromkeys(text_features, f"row {row}".encode()) for row in range(_MANY_ROWS)]
    latin = dict.fromkeys(text_features, b"caf\xe9")
    number = tf.make_tensor_proto([1], tf.int64)
    for signature, inputs in INPUTS.items():
        name = next(iter(inputs(many[:1])))
        requests += [
            HostileRequest(f"{_MANY_ROWS:,} rows", signature, inputs(many), _MANY_ROWS),
            HostileRequest(
                "no rows",
                signature,
                {key: _strings([]) for key in inputs(many[:1])},
                0,
                may_refuse=True,
            ),
            HostileRequest("a text that is not UTF-8", signature, inputs([latin]), None),
            HostileRequest("nothing", signature, {}, None),
            HostileRequest(
                "a number for a text", signature, {**inputs(many[:1]), name: number}, None
            ),
            HostileRequest(
                "an input too many", signature, {**inputs(many[:1]), "other": number}, None
            ),
        ]
    broken = {"examples": _strings([b"\xffno example"])}
    requests.append(HostileRequest("no tf.Example", SERVING_DEFAULT, broken, None))
    requests.append(
        HostileRequest(
            "an example without text",
            SERVING_DEFAULT,
            {"examples": _strings([tf.train.Example().SerializeToString()])},
            None,
        )
    )
    return requests


def hostile_outcome(asker: Asker, request: HostileRequest, labels: Sequence[str]) -> str | None:
    """Sends a hostile request.

    Args:
        asker: The connection.
        request: The request.
        labels: The label of each class.

    Returns:
        What is wrong with the answer; None where nothing is.
    """
    try:
        outputs = asker.ask(request.signature, request.inputs)
    except Refused as error:
        if error.code == "INVALID_ARGUMENT" and (request.rows is None or request.may_refuse):
            return None
        return str(error)
    if request.rows is None:
        return "it was answered, where INVALID_ARGUMENT was expected"
    try:
        checked_probabilities(outputs, request.rows, labels)
    except BadAnswer as error:
        return str(error)
    return None
