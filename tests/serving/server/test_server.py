"""The server as a process, asked with the official stubs and this project's clients."""

import asyncio
import contextlib
import dataclasses
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import typing

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from bert_tfx.serving.client import AsyncClient, Client
from bert_tfx.serving.protocol import messages
from bert_tfx.serving.protocol.errors import (
    BadRequest,
    DeadlineExceeded,
    ModelNotFound,
    Unavailable,
)

MAIN = """
import argparse, sys
from bert_tfx.pipeline.commands import serve
from bert_tfx.schema.errors import InputError

parser = argparse.ArgumentParser(prog="bert-tfx")
serve.add(parser.add_subparsers())
arguments = parser.parse_args(["serve", *sys.argv[1:]])
try:
    sys.exit(arguments.command(arguments))
except InputError as error:
    print(f"bert-tfx: {error}", file=sys.stderr)
    sys.exit(2)
"""
STATUS = grpc.StatusCode


class Toy(tf.Module):
    """Signatures as those of an exported classifier, and some of other kinds.

    The probability of `good` is the first number in a text, in hundredths. `work N` takes about as
    many milliseconds, and `poison` makes the graph fail.
    """

    def __init__(self, version: int) -> None:
        super().__init__()
        self.version = tf.Variable(version, dtype=tf.int64)

    def classify(self, texts):
        numbers = tf.strings.regex_replace(texts, "(?s)^[^0-9]*([0-9]{0,6}).*$", "0\\1")
        number = tf.strings.to_number(numbers)
        work = tf.cast(
            tf.reduce_max(
                tf.where(tf.strings.regex_full_match(texts, "work .*"), number, 0.0), axis=None
            ),
            tf.int32,
        )
        spin = tf.while_loop(
            lambda i, m: i < work,
            lambda i, m: (i + 1, tf.linalg.matmul(m, m) * 0.001),
            (0, tf.ones([320, 320])),
        )[1]
        healthy = tf.debugging.Assert(
            tf.reduce_all(texts != "poison"), ["poison is refused"], name="healthy"
        )
        with tf.control_dependencies([healthy]):
            good = number % 100 / 100 + 0.0 * spin[0, 0]
        return {
            "probabilities": tf.stack([1 - good, good], axis=1),
            "label": tf.where(good > 0.5, "good", "bad"),
            "classes": tf.repeat(tf.constant([["bad", "good"]]), tf.size(texts), axis=0),
            "made_by": tf.fill(tf.shape(texts), self.version),
        }

    def save(self, folder: pathlib.Path) -> None:
        def strings(name):
            return tf.TensorSpec([None], tf.string, name=name)

        def by_example(examples):
            spec = {"text_a": tf.io.FixedLenFeature([], tf.string)}
            return self.classify(tf.io.parse_example(examples, spec)["text_a"])

        def numbers(x, k):
            return {"sum": tf.reduce_sum(x, axis=1) + tf.cast(k, tf.float32), "k": k + 1}

        functions = {
            "serve_text": (lambda text_a: self.classify(text_a), [strings("text_a")]),
            "serving_default": (by_example, [strings("examples")]),
            "pair": (
                lambda text_a, text_b: {"both": tf.strings.join([text_a, text_b], "|")},
                [strings("text_a"), strings("text_b")],
            ),
            "numbers": (
                numbers,
                [tf.TensorSpec([None, 3], name="x"), tf.TensorSpec([None], tf.int32, name="k")],
            ),
            "scalar": (lambda x: {"twice": 2 * x}, [tf.TensorSpec([], name="x")]),
            "raw": (lambda data: {"data_bytes": data}, [strings("data")]),
        }
        signatures = {
            name: tf.function(function).get_concrete_function(*specs)
            for name, (function, specs) in functions.items()
        }
        tf.saved_model.save(self, str(folder), signatures=signatures)


@pytest.fixture(scope="module")
def push(tmp_path_factory):
    """Puts version N of the toy model into a folder, by a rename."""
    made = tmp_path_factory.mktemp("made")

    def push(base: pathlib.Path, version: int, change=lambda folder: None) -> None:
        source = made / str(version)
        if not source.exists():
            Toy(version).save(source)
        staging = base / f".staging-{version}"
        shutil.copytree(source, staging)
        change(staging)
        staging.rename(base / str(version))

    return push


@dataclasses.dataclass
class Served:
    """A server process that is ready."""

    process: subprocess.Popen
    line: str
    port: int
    log: typing.TextIO

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def end(self, number=signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


@contextlib.contextmanager
def running(base: pathlib.Path, *options):
    """Starts a server; ends it if the test did not."""
    command = [sys.executable, "-c", MAIN, "--model", base, "--port", 0]
    with contextlib.ExitStack() as stack:
        # protobuf complains there of each text that is not UTF-8, and would fill an unread pipe.
        log = stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8"))
        process = subprocess.Popen(
            [*map(str, command), *map(str, options)],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        )
        stack.callback(process.communicate)
        stack.callback(process.kill)
        line = process.stdout.readline()
        match = re.search(r"gRPC on [^ ]*:([0-9]+)$", line)
        if not match:
            process.wait(30)
            log.seek(0)
            pytest.fail(f"the server did not start: {line}{log.read()}")
        yield Served(process, line.strip(), int(match[1]), log)


@pytest.fixture(scope="module")
def served(tmp_path_factory, push):
    """Versions 3 and 5 of the toy model, of which the latter is served."""
    base = tmp_path_factory.mktemp("served")
    push(base, 3)
    push(base, 5)
    (base / "notes").mkdir()
    with running(base, "--max-batch-size", 64) as it:
        yield it


@pytest.fixture(scope="module")
def channel(served):
    with grpc.insecure_channel(served.target) as channel:
        yield channel


@pytest.fixture(scope="module")
def stub(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


def request_for(signature="serve_text", model="model", version=None, label=None, **inputs):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    if version is not None:
        request.model_spec.version.value = version
    if label is not None:
        request.model_spec.version_label = label
    for name, value in inputs.items():
        proto = value if isinstance(value, tf.compat.v1.make_tensor_proto("").__class__) else None
        request.inputs[name].CopyFrom(proto or tf.make_tensor_proto(value))
    return request


def example(**features) -> bytes:
    built = tf.train.Example()
    for name, value in features.items():
        built.features.feature[name].bytes_list.value.append(value)
    return built.SerializeToString()


def refusal(call, *args, **options) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call(*args, **({"timeout": 20} | options))
    return caught.value.code(), caught.value.details()


# Predict.


def test_the_line_says_what_is_served_and_where(served):
    assert served.line == (f"serving model 'model' version 5: gRPC on 127.0.0.1:{served.port}")


def test_both_signatures_answer_alike(stub):
    texts = stub.Predict(request_for(text_a=["30 很好", "80"]), timeout=20)
    examples = [example(text_a="30 很好".encode()), example(text_a=b"80")]
    defaults = stub.Predict(request_for("", examples=examples), timeout=20)
    for response, signature in ((texts, "serve_text"), (defaults, "serving_default")):
        assert response.model_spec.name == "model"
        assert response.model_spec.version.value == 5
        assert response.model_spec.signature_name == signature
        assert list(response.outputs["label"].string_val) == [b"bad", b"good"]
        # As TF Serving, in the field of the type.
        values = list(response.outputs["probabilities"].float_val)
        assert values == pytest.approx([0.7, 0.3, 0.2, 0.8])
        assert tf.make_ndarray(response.outputs["classes"]).tolist() == [[b"bad", b"good"]] * 2
        assert list(response.outputs["made_by"].int64_val) == [5, 5]


@pytest.mark.parametrize("asked", [{}, {"version": 5}])
def test_the_version_that_is_asked_for(stub, asked):
    response = stub.Predict(request_for(text_a=["1"], **asked), timeout=20)
    assert response.model_spec.version.value == 5
    assert response.outputs["made_by"].int64_val == [5]


def test_output_filter(stub):
    request = request_for(text_a=["1"])
    request.output_filter.append("label")
    assert set(stub.Predict(request, timeout=20).outputs) == {"label"}
    request.output_filter.append("label")
    assert refusal(stub.Predict, request) == (
        STATUS.INVALID_ARGUMENT,
        "output_filter names an output twice",
    )
    request.output_filter[1] = "labels"
    code, details = refusal(stub.Predict, request)
    assert code == STATUS.INVALID_ARGUMENT
    assert "unknown 'labels'; the outputs are: 'classes', 'label'" in details


def test_numbers_packed_or_one_by_one(stub):
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    k = np.array([10, -20], np.int32)
    packed = stub.Predict(request_for("numbers", x=x, k=k), timeout=20)
    single = request_for("numbers")
    single.inputs["x"].CopyFrom(tf.make_tensor_proto(x))
    single.inputs["x"].tensor_content = b""
    single.inputs["x"].float_val.extend(x.ravel().tolist())
    single.inputs["k"].CopyFrom(tf.make_tensor_proto(k))
    single.inputs["k"].tensor_content = b""
    single.inputs["k"].int_val.extend(k.tolist())
    one_by_one = stub.Predict(single, timeout=20)
    assert list(packed.outputs["sum"].float_val) == [13, -8]
    assert list(packed.outputs["k"].int_val) == [11, -19]
    assert packed == one_by_one


def test_a_function_without_rows(stub):
    response = stub.Predict(request_for("scalar", x=np.float32(4)), timeout=20)
    assert list(response.outputs["twice"].float_val) == [8]
    assert not response.outputs["twice"].tensor_shape.dim


def test_no_rows_are_answered_by_no_rows(stub):
    response = stub.Predict(request_for(text_a=np.array([], object)), timeout=20)
    assert tf.make_ndarray(response.outputs["classes"]).shape == (0, 2)


# What is refused before the graph runs.


def tensor(**fields):
    built = tf.make_tensor_proto([b"x"])
    for name, value in fields.items():
        if name == "shape":
            del built.tensor_shape.dim[:]
            for size in value:
                built.tensor_shape.dim.add(size=size)
        else:
            setattr(built, name, value)
    return built


@pytest.mark.parametrize(
    ("request_", "code", "words"),
    [
        (request_for(model="other", text_a=["x"]), "NOT_FOUND", "there is no model 'other'"),
        (request_for(model="", text_a=["x"]), "INVALID_ARGUMENT", "does not name a model"),
        (request_for(version=4, text_a=["x"]), "NOT_FOUND", "version 4 is not available"),
        (request_for(version=3, text_a=["x"]), "NOT_FOUND", "there are: 5 AVAILABLE"),
        (request_for(label="none", text_a=["x"]), "INVALID_ARGUMENT", "knows no version labels"),
        (request_for("nope", text_a=["x"]), "INVALID_ARGUMENT", "there is no signature 'nope'"),
        (request_for("serve_text"), "INVALID_ARGUMENT", "'text_a'. Received: none"),
        (request_for(text_a=["x"], z=["x"]), "INVALID_ARGUMENT", "Received: 'text_a', 'z'"),
        (request_for(text_a=[1.0]), "INVALID_ARGUMENT", "DT_FLOAT, expected DT_STRING"),
        (request_for(text_a="x"), "INVALID_ARGUMENT", "its shape is [], expected [-1]"),
        (request_for(text_a=[["x"]]), "INVALID_ARGUMENT", "its shape is [1, 1], expected [-1]"),
        (request_for(text_a=["x"] * 65), "INVALID_ARGUMENT", "65 rows, at most 64"),
        (request_for("pair", text_a=["x"], text_b=["x", "y"]), "INVALID_ARGUMENT", "equally many"),
        (request_for("", examples=["no"]), "INVALID_ARGUMENT", "Could not parse example input"),
        (request_for("", examples=[b""]), "INVALID_ARGUMENT", "text_a"),
        (request_for("numbers", x=[[1.0]], k=[1]), "INVALID_ARGUMENT", "[1, 1], expected [-1, 3]"),
        (
            request_for(text_a=tensor(shape=[10**12])),
            "INVALID_ARGUMENT",
            "its shape is [1000000000000]; at most",
        ),
        (request_for(text_a=tensor(shape=[-1])), "INVALID_ARGUMENT", "its shape is [-1]"),
        (request_for(text_a=tensor(shape=[3, 5])), "INVALID_ARGUMENT", "expected [-1]"),
        (request_for(text_a=tensor(dtype=77)), "INVALID_ARGUMENT", "its type is 77"),
        (request_for("__saved_model_init_op"), "INVALID_ARGUMENT", "there is no signature"),
        (request_for(text_a=["poison"]), "INVALID_ARGUMENT", "poison is refused"),
    ],
)
def test_refusals(stub, request_, code, words):
    found, details = refusal(stub.Predict, request_)
    assert (found.name, words in details) == (code, True), details


UNREADABLE = (STATUS.INTERNAL, "Exception deserializing request!")


def test_damaged_messages(channel):
    raw = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    assert refusal(raw, b"\xff\xff\xff") == UNREADABLE
    # A name that is not UTF-8.
    assert refusal(raw, b"\x0a\x03\x0a\x01\xff") == UNREADABLE


def fuzz(channel, served, rounds: int, seed: int) -> None:
    """Sends changed requests and wild texts; nothing but an answer or a client's fault follows."""
    rng = random.Random(seed)
    raw = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    seeds = [
        request_for(text_a=["30 很好", "80"]).SerializeToString(),
        request_for("", examples=[example(text_a=b"30")]).SerializeToString(),
        request_for("numbers", x=[[1.0, 2.0, 3.0]], k=[1]).SerializeToString(),
        request_for("pair", text_a=["x"], text_b=["y"]).SerializeToString(),
    ]
    codes = {}
    for _ in range(rounds):
        content = bytearray(rng.choice(seeds))
        for _ in range(rng.randint(1, 4)):
            kind, place = rng.randrange(4), rng.randrange(len(content))
            if kind == 0:
                content[place] = rng.randrange(256)
            elif kind == 1:
                del content[place : place + rng.randint(1, 8)]
            elif kind == 2:
                content[place:place] = rng.randbytes(rng.randint(1, 8))
            else:
                content[place:place] = content[place : place + 16]
            if not content:
                break
        try:
            raw(bytes(content), timeout=20)
        except grpc.RpcError as error:
            if (error.code(), error.details()) != UNREADABLE:
                codes[error.code()] = error.details()
    assert codes.keys() <= {STATUS.INVALID_ARGUMENT, STATUS.NOT_FOUND}, codes
    with Client(served.target, timeout=30) as client:
        for _ in range(max(1, rounds // 50)):
            texts = [
                "".join(
                    chr(rng.choice((0, 9, 10, 13, 32, 48, 0x200B, 0x4E00, 0x1F600, 0xFFFF)))
                    for _ in range(rng.randint(0, 40))
                )
                for _ in range(rng.randint(1, 20))
            ]
            assert len(client.predict(texts)) == len(texts)


def test_fuzzed_requests(channel, served):
    fuzz(channel, served, 400, seed=1)


@pytest.mark.real
def test_many_fuzzed_requests(channel, served):
    fuzz(channel, served, 20_000, seed=2)


def test_a_message_over_the_limit(stub):
    code, _ = refusal(stub.Predict, request_for(text_a=["x" * (65 * 2**20)]))
    assert code == STATUS.RESOURCE_EXHAUSTED


# Metadata and status.


def test_metadata(stub):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "model"
    response = stub.GetModelMetadata(request, timeout=20)
    assert response.model_spec.version.value == 5
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    text_a = signatures.signature_def["serve_text"].inputs["text_a"]
    assert (text_a.dtype, [d.size for d in text_a.tensor_shape.dim]) == (
        tf.string.as_datatype_enum,
        [-1],
    )
    request.metadata_field[0] = "other"
    assert refusal(stub.GetModelMetadata, request)[0] == STATUS.INVALID_ARGUMENT


def test_status(channel, served):
    stub = model_service_pb2_grpc.ModelServiceStub(channel)
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "model"
    found = stub.GetModelStatus(request, timeout=20).model_version_status
    assert [(s.version, s.state) for s in found] == [(5, 30)]
    request.model_spec.version.value = 4
    assert refusal(stub.GetModelStatus, request)[0] == STATUS.NOT_FOUND
    request.model_spec.name = "other"
    assert refusal(stub.GetModelStatus, request)[0] == STATUS.NOT_FOUND


def test_what_is_not_offered(channel, stub):
    for call, request in (
        (stub.Regress, regression_pb2.RegressionRequest()),
        (
            model_service_pb2_grpc.ModelServiceStub(channel).HandleReloadConfigRequest,
            model_management_pb2.ReloadConfigRequest(),
        ),
    ):
        assert refusal(call, request)[0] == STATUS.UNIMPLEMENTED
    assert refusal(channel.unary_unary("/a.B/C"), b"")[0] == STATUS.UNIMPLEMENTED


# Health.


def test_health(channel):
    check = channel.unary_unary(
        messages.CHECK_HEALTH.path,
        request_serializer=messages.HealthCheckRequest.SerializeToString,
        response_deserializer=messages.HealthCheckResponse.FromString,
    )
    for service in ("", "tensorflow.serving.PredictionService"):
        request = messages.HealthCheckRequest(service=service)
        assert check(request, timeout=20).status == messages.SERVING
    code, _ = refusal(check, messages.HealthCheckRequest(service="other"))
    assert code == STATUS.NOT_FOUND
    watch = channel.unary_stream(
        "/grpc.health.v1.Health/Watch",
        request_serializer=messages.HealthCheckRequest.SerializeToString,
        response_deserializer=messages.HealthCheckResponse.FromString,
    )
    for service, status in (("", 1), ("other", 3)):
        call = watch(messages.HealthCheckRequest(service=service), timeout=20)
        assert next(iter(call)).status == status
        call.cancel()


# This project's clients.


def test_client(served):
    with Client(served.target, timeout=30) as client:
        bad, good = client.predict(["30", "80 很好"])
        assert (bad.label, good.label, good.model_version) == ("bad", "good", 5)
        assert good.probabilities == pytest.approx({"bad": 0.2, "good": 0.8})
        assert client.is_healthy()
        assert client.metadata().model_version == 5
        assert [(s.version, s.state) for s in client.model_status()] == [(5, "AVAILABLE")]
    with (
        Client(served.target, timeout=30, batch_size=65) as client,
        pytest.raises(BadRequest, match="65 rows, at most 64"),
    ):
        client.predict(["1"] * 65)
    with Client(served.target, "other", timeout=30) as client, pytest.raises(ModelNotFound):
        client.predict(["1"])


def test_async_client_and_joined_batches(served):
    async def ask():
        async with AsyncClient(served.target, timeout=60) as client:
            texts = [str(number) for number in range(100)]
            # While this one is computed, the others gather.
            slow = asyncio.create_task(client.predict(["work 400"]))
            await asyncio.sleep(0.1)
            answers = await asyncio.gather(*(client.predict([text]) for text in texts))
            await slow
            return [round(100 * answer.probabilities["good"]) for (answer,) in answers]

    assert asyncio.run(ask()) == list(range(100))


def test_a_bad_request_spoils_no_other(served):
    async def ask():
        async with AsyncClient(served.target, timeout=60) as client:
            slow = asyncio.create_task(client.predict(["work 400"]))
            await asyncio.sleep(0.1)
            texts = ["10", "poison", "20", "30"]
            answers = await asyncio.gather(
                *(client.predict([text]) for text in texts), return_exceptions=True
            )
            await slow
            return answers

    ten, poison, *others = asyncio.run(ask())
    assert isinstance(poison, BadRequest)
    assert [round(100 * a.probabilities["good"]) for (a,) in (ten, *others)] == [10, 20, 30]


# Versions come and go.


def wait_for(condition, seconds=30.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.05)


def states(client) -> dict[int, str]:
    return {status.version: status.state for status in client.model_status()}


def test_hot_reload_and_drain(tmp_path, push):
    push(tmp_path, 1)
    with running(tmp_path) as served, Client(served.target, timeout=30) as client:
        seen, failures, ended = [], [], threading.Event()

        def ask():
            with Client(served.target, timeout=30) as mine:
                while not ended.is_set():
                    try:
                        response = mine.predict(["work 5", "30"])
                    except Exception as error:
                        failures.append(error)
                    else:
                        seen.append({answer.model_version for answer in response})

        askers = [threading.Thread(target=ask) for _ in range(4)]
        for asker in askers:
            asker.start()
        try:
            # Names that are no versions.
            (tmp_path / ".staging-9").mkdir()
            (tmp_path / "v9").mkdir()
            push(tmp_path, 2)
            wait_for(lambda: states(client) == {1: "END", 2: "AVAILABLE"})

            # What cannot be loaded is told of, and the old version stays.
            (tmp_path / "3").mkdir()
            (tmp_path / "3" / "saved_model.pb").write_bytes(b"damaged")
            wait_for(lambda: states(client).get(3) == "END")
            (error,) = (s.error for s in client.model_status() if s.version == 3)
            assert error
            assert states(client)[2] == "AVAILABLE"
            assert client.predict(["1"])[0].model_version == 2

            # Repaired, it is tried again.
            shutil.rmtree(tmp_path / "3")
            push(tmp_path, 3)
            wait_for(lambda: states(client).get(3) == "AVAILABLE")
            wait_for(lambda: states(client)[2] == "END")

            # A warm-up that fails keeps a version from being announced.
            push(tmp_path, 4, with_warm_up("no such signature"))
            wait_for(lambda: states(client).get(4) == "END")
            (error,) = (s.error for s in client.model_status() if s.version == 4)
            assert "there is no signature 'no such signature'" in error
            push(tmp_path, 5, with_warm_up("serve_text"))
            wait_for(lambda: states(client).get(5) == "AVAILABLE")

            # Rolled back.
            for version in (5, 4):
                shutil.rmtree(tmp_path / str(version))
            wait_for(lambda: states(client)[5] == "END" and states(client)[3] == "AVAILABLE")
        finally:
            ended.set()
            for asker in askers:
                asker.join()
        assert not failures
        # Never two versions in an answer, and never an older one but for the rollback.
        assert all(len(versions) == 1 for versions in seen)
        assert set().union(*seen) == {1, 2, 3, 5}

        # All gone: the server lives on, and says so.
        for version in (1, 2, 3):
            shutil.rmtree(tmp_path / str(version))
        wait_for(lambda: states(client)[3] == "END")
        with pytest.raises(ModelNotFound, match="no version available"):
            client.predict(["1"])
        assert not client.is_healthy()
        push(tmp_path, 6)
        client.wait_until_ready(30)

        # What is under way at the end is answered, what comes later is not.
        watch = grpc.insecure_channel(served.target)
        health = watch.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=60)
        assert next(health) == b"\x08\x01"
        slow = []
        asker = threading.Thread(target=lambda: slow.extend(client.predict(["work 1500"])))
        asker.start()
        time.sleep(0.4)
        served.process.send_signal(signal.SIGTERM)
        assert next(health) == b"\x08\x02"
        # One that watches on would hold up the end for some seconds.
        watch.close()
        wait_for(lambda: served.process.poll() is not None or not asker.is_alive())
        asker.join()
        assert [answer.model_version for answer in slow] == [6]
        assert served.process.wait(30) == 0
        with pytest.raises(Unavailable), Client(served.target, timeout=5, tries=1) as late:
            late.predict(["1"])
        served.log.seek(0)
        log = served.log.read()
        assert "version 2 is available" in log
        assert "version 3 cannot be loaded: " in log
        assert "Traceback" not in log


def with_warm_up(signature):
    """Returns what writes warm-up requests into a SavedModel."""

    def change(folder):
        (folder / "assets.extra").mkdir()
        log = prediction_log_pb2.PredictionLog(
            predict_log=prediction_log_pb2.PredictLog(request=request_for(signature, text_a=["1"]))
        )
        with tf.io.TFRecordWriter(
            str(folder / "assets.extra" / "tf_serving_warmup_requests")
        ) as writer:
            writer.write(log.SerializeToString())

    return change


def test_deadline_and_an_impatient_end(tmp_path, push):
    push(tmp_path, 1)
    with running(tmp_path, "--name", "other") as served:
        client = Client(served.target, "other", timeout=30, tries=1)
        assert "serving model 'other' version 1" in served.line
        slow = threading.Thread(target=lambda: client.predict(["work 1000"]))
        slow.start()
        time.sleep(0.3)
        # Waiting, and given up before its turn: it is never computed, or the next would wait.
        with pytest.raises(DeadlineExceeded):
            Client(served.target, "other", timeout=0.2, tries=1).predict(["work 60000"])
        assert client.predict(["80"])[0].label == "good"
        slow.join()

        failed = []

        def ask():
            try:
                client.predict(["work 60000"])
            except Exception as error:
                failed.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        time.sleep(0.5)
        served.process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        begun = time.monotonic()
        assert served.end(signal.SIGINT) == 1
        assert time.monotonic() - begun < 8
        thread.join()
        assert failed
        client.close()
