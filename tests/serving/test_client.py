import asyncio
import contextlib
import pickle
import socket
import subprocess
import sys
import threading
import time

import grpc
import pytest

from bert_tfx.schema.errors import InputError
from bert_tfx.serving.client import AsyncClient, Client, Prediction, Tls
from bert_tfx.serving.protocol import connection, errors, messages, model_api


class AwaitedClient:
    """`AsyncClient` with the methods of `Client`, so that one test shows both."""

    def __init__(self, *args, **options) -> None:
        self._loop = asyncio.new_event_loop()
        self._client = AsyncClient(*args, **options)

    def __getattr__(self, name):
        def call(*args):
            return self._loop.run_until_complete(getattr(self._client, name)(*args))

        return call

    def stream(self, rows):
        async def collect():
            return [answer async for answer in self._client.stream(rows)]

        return self._loop.run_until_complete(collect())

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()
        self._loop.close()


UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@pytest.fixture(params=[Client, AwaitedClient], ids=["blocking", "asyncio"])
def make(request):
    """Makes a client of either kind, with short times."""

    def make(target, model="model", **options):
        return request.param(target, model, **({"timeout": 10.0} | options))

    return make


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


# Answers.


def test_predictions_tell_what_was_cut(server, make):
    flags = messages.TensorProto(dtype=messages.DT_BOOL, bool_val=[True, False])
    flags.tensor_shape.dim.add(size=2)
    server.script = [server.changed("truncated", flags)]
    with make(server.target) as client:
        assert [answer.truncated for answer in client.predict(["good", "good"])] == [True, False]
        # Other exporters' models do not tell.
        assert [answer.truncated for answer in client.predict(["good"])] == [False]
        server.script = [server.changed("truncated", flags)]
        with pytest.raises(errors.BadAnswer, match=r"output truncated is not of shape \[1\]"):
            client.predict(["good"])


def test_predictions_tell_label_probabilities_and_version(server, make):
    with make(server.target) as client:
        sure, unsure = client.predict(["很 good", "40 of 100"])
    assert sure == Prediction("good", 1.0, {"bad": 0.0, "good": 1.0}, 7)
    assert unsure.label == "bad"
    assert unsure.probability == pytest.approx(0.6)
    assert list(unsure.probabilities) == ["bad", "good"]
    (request,) = server.requests
    assert request.model_spec.signature_name == "serve_text"
    assert not request.model_spec.WhichOneof("version_choice")
    assert [text.decode() for text in request.inputs["text_a"].string_val] == [
        "很 good",
        "40 of 100",
    ]
    assert "text_b" not in request.inputs


def test_pairs_are_sent_as_two_inputs(server, make):
    server.pairs = True
    with make(server.target) as client:
        assert [p.label for p in client.predict(["good", "x"], ["一", "二"])] == ["good", "bad"]
    (request,) = server.requests
    assert [text.decode() for text in request.inputs["text_b"].string_val] == ["一", "二"]


def test_a_prediction_is_frozen_hashable_and_can_be_pickled(server):
    with Client(server.target, "model", timeout=10) as client:
        (prediction,) = client.predict(["good"])
    assert pickle.loads(pickle.dumps(prediction)) == prediction
    assert len({prediction, prediction}) == 1
    with pytest.raises(AttributeError):
        prediction.label = "bad"


def test_no_texts_need_no_server(make):
    with make("127.0.0.1:1") as client:
        assert client.predict([]) == []
        assert client.predict([], []) == []


def test_long_lists_are_asked_in_batches_and_answered_in_order(server, make):
    # The later a batch is sent, the sooner it is answered.
    server.delay = lambda text: 0.2 - 0.002 * int(text)
    texts = [str(number) for number in range(99)]
    with make(server.target, batch_size=10, in_flight=4) as client:
        answers = client.predict(texts)
    assert [round(100 * a.probabilities["good"]) for a in answers] == list(range(99))
    sizes = sorted(len(request.inputs["text_a"].string_val) for request in server.requests)
    assert sizes == [9] + [10] * 9
    assert 2 <= server.most <= 4


def test_a_stream_draws_rows_as_it_needs_them(server):
    drawn = []

    def rows():
        for number in range(100):
            drawn.append(number)
            yield str(number)

    with Client(server.target, "model", timeout=10, batch_size=5, in_flight=2) as client:
        answers = client.stream(rows())
        assert drawn == []
        next(answers)
        assert len(drawn) == 10
        answers.close()
        assert len(list(client.stream(rows()))) == 100


def test_a_stream_of_pairs(server, make):
    server.pairs = True
    with make(server.target, batch_size=2) as client:
        labels = [p.label for p in client.stream(iter([("good", "x"), ("y", "x"), ("good", "")]))]
    assert labels == ["good", "bad", "good"]


def test_threads_may_share_a_client(server):
    results = {}
    with Client(server.target, "model", timeout=10, batch_size=3) as client:

        def ask(first):
            texts = [str(first + number) for number in range(10)]
            answers = client.predict(texts)
            results[first] = [round(100 * p.probabilities["good"]) for p in answers]

        threads = [threading.Thread(target=ask, args=(first,)) for first in (0, 20, 40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == {first: list(range(first, first + 10)) for first in (0, 20, 40)}


def test_async_calls_run_at_the_same_time(server):
    server.delay = 0.5

    async def ask():
        async with AsyncClient(server.target, "model", timeout=10) as client:
            return await asyncio.gather(*(client.predict([str(n)]) for n in range(4)))

    start = time.monotonic()
    answers = asyncio.run(ask())
    assert time.monotonic() - start < 1.6
    assert [round(100 * a[0].probabilities["good"]) for a in answers] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("chosen", "field", "value"),
    [({"version": 7}, "version", 7), ({"version_label": "canary"}, "version_label", "canary")],
)
def test_a_version_can_be_chosen(server, make, chosen, field, value):
    with make(server.target, **chosen) as client:
        assert client.predict(["good"])[0].model_version == 7
    spec = server.requests[0].model_spec
    assert spec.WhichOneof("version_choice") == field
    assert (spec.version.value if field == "version" else spec.version_label) == value


# Mistakes of the caller, found before anything is sent.


@pytest.mark.parametrize(
    ("texts", "texts_b", "message"),
    [
        ("good", None, "texts: expected a list of strings, received one text; write"),
        (["x"], "y", "texts_b: expected a list of strings, received one text"),
        (["x", b"y"], None, r"texts\[1\]: expected a string. Received: bytes"),
        (["x"], [None], r"texts_b\[0\]: expected a string. Received: NoneType"),
        (["x"], [], "equally long. Received: 1 and 0"),
        (
            ["x", "ab\ud83d"],
            None,
            r"\[1\]: half of a surrogate pair \(U\+D83D\) at position 2",
        ),
    ],
)
def test_what_is_no_text_is_refused(server, make, texts, texts_b, message):
    with make(server.target) as client, pytest.raises(InputError, match=message):
        client.predict(texts, texts_b)
    assert server.requests == []


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["x", ("y", "z")], "row 1: expected one text"),
        ([("y", "z"), "x"], "row 1: expected a pair"),
        ([("y", "z", "x")], "row 0: expected a pair"),
        ([7], "row 0, text_a: expected a string"),
        ([("x", "\udc80")], "row 0, text_b: half of a surrogate pair"),
    ],
)
def test_what_is_no_row_is_refused(server, make, rows, message):
    with make(server.target) as client, pytest.raises(InputError, match=message):
        list(client.stream(rows))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "localhost"}, "'localhost' is no server's address; expected HOST:PORT"),
        ({"target": "http://localhost:8500"}, "without the scheme"),
        ({"target": "localhost:0"}, "no server's address"),
        ({"target": "localhost:65536"}, "no server's address"),
        ({"target": "a b:8500"}, "no server's address"),
        ({"model": ""}, "the model's name is empty"),
        ({"timeout": 0}, "timeout must be a positive number"),
        ({"timeout": float("nan")}, "timeout must be a positive number"),
        ({"request_timeout": -1}, "request_timeout must be a positive number"),
        ({"version": 1, "version_label": "x"}, "only one of the two"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"in_flight": 0}, "in_flight must be at least 1"),
        ({"tries": 0}, "tries must be at least 1"),
        ({"keepalive": 0}, "keepalive must be a positive number"),
        ({"max_message_bytes": 0}, "max_message_bytes must be at least 1"),
        ({"token": "two words"}, "the token must be printable ASCII"),
        ({"token": "line\n"}, "the token must be printable ASCII"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(options, message):
    options = {"target": "localhost:8500", "model": "model", "timeout": 1.0} | options
    for kind in (Client, AsyncClient):
        with pytest.raises(InputError, match=message):
            kind(options["target"], options["model"], **dict(list(options.items())[2:]))


# What is tried again, and what is not.


def test_an_unavailable_server_is_asked_again(server, make):
    server.script = [server.abort(UNAVAILABLE)] * 2
    with make(server.target) as client:
        assert client.predict(["good"])[0].label == "good"
    assert len(server.requests) == 3


def test_tries_come_to_an_end(server, make):
    server.script = [server.abort(UNAVAILABLE)] * 9
    start = time.monotonic()
    with make(server.target, tries=3) as client, pytest.raises(errors.Unavailable) as caught:
        client.predict(["good"])
    # Pauses of 0.1 to 0.2 and 0.2 to 0.4 s.
    assert 0.3 <= time.monotonic() - start < 3
    assert len(server.requests) == 3
    assert f"{server.target}, model 'model': the server is not available (3 tries)" in str(
        caught.value
    )


def test_pauses_grow_and_are_scattered(monkeypatch):
    error = grpc.RpcError()
    error.code = lambda: grpc.StatusCode.UNAVAILABLE
    error.details = lambda: "away"
    seen = []
    for _ in range(20):
        api = model_api.ModelApi(
            "localhost:1", "model", timeout=1000, request_timeout=None, version=None,
            version_label=None, batch_size=1, tries=8,
        )  # fmt: skip
        question = api.predict(model_api.Batch(["x"], None), api.deadline())
        step, pauses = next(question), []
        with pytest.raises(errors.Unavailable, match="8 tries"):
            while True:
                step = question.throw(error)
                pauses.append(step.seconds)
                step = next(question)
        seen.append(pauses)
    for number, pauses in enumerate(zip(*seen, strict=True)):
        longest = min(5.0, 0.2 * 2**number)
        assert longest / 2 <= min(pauses) < max(pauses) <= longest
    assert len(seen[0]) == 7


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("INVALID_ARGUMENT", errors.BadRequest),
        ("FAILED_PRECONDITION", errors.BadRequest),
        ("NOT_FOUND", errors.ModelNotFound),
        ("UNAUTHENTICATED", errors.NotAllowed),
        ("PERMISSION_DENIED", errors.NotAllowed),
        ("RESOURCE_EXHAUSTED", errors.ResourceExhausted),
        ("DEADLINE_EXCEEDED", errors.DeadlineExceeded),
        ("UNIMPLEMENTED", errors.ServerFailed),
        ("INTERNAL", errors.ServerFailed),
        ("CANCELLED", errors.ServerFailed),
        ("UNKNOWN", errors.ServerFailed),
    ],
)
def test_other_errors_are_not_tried_again(server, make, code, kind):
    server.script = [server.abort(grpc.StatusCode[code], "the\n reason.")]
    with make(server.target, version=7) as client, pytest.raises(kind) as caught:
        client.predict(["good"])
    assert len(server.requests) == 1
    message = str(caught.value)
    assert message.startswith(f"{server.target}, model 'model' version 7: ")
    assert "; " in message
    if code != "DEADLINE_EXCEEDED":
        assert "the reason; " in message


def test_the_first_failure_ends_a_long_call(server, make):
    server.script = [server.abort(grpc.StatusCode.INVALID_ARGUMENT)]
    server.delay = 0.05
    with make(server.target, batch_size=1, in_flight=2) as client:
        with pytest.raises(errors.BadRequest):
            client.predict([str(number) for number in range(50)])
        time.sleep(0.3)
        assert len(server.requests) <= 3
        assert client.predict(["good"])[0].label == "good"


def test_requests_under_way_are_cancelled_with_the_call(server, make):
    cancelled = threading.Event()

    def answer(request, context):
        if request.inputs["text_a"].string_val[0] == b"0":
            # The other one is on its way by now.
            time.sleep(0.2)
            context.abort(grpc.StatusCode.INTERNAL, "failed")
        context.add_callback(cancelled.set)
        cancelled.wait(5)
        return server.answer(request)

    server.script = [answer, answer]
    with make(server.target, batch_size=1, in_flight=2) as client:
        start = time.monotonic()
        with pytest.raises(errors.ServerFailed):
            client.predict(["0", "1"])
        assert cancelled.wait(5)
        assert time.monotonic() - start < 2


def test_a_server_that_comes_up_late_is_found(server, make, closed_port):
    server.stop()
    timer = threading.Timer(0.6, server.start, [closed_port])
    timer.start()
    with make(f"127.0.0.1:{closed_port}") as client:
        assert client.predict(["good"])[0].label == "good"
    timer.join()


def test_nobody_at_the_address(make, closed_port):
    target = f"127.0.0.1:{closed_port}"
    with make(target, tries=2) as client, pytest.raises(errors.Unavailable) as caught:
        client.predict(["good"])
    message = str(caught.value)
    assert f"{target}, model 'model': the server is not available (2 tries): " in message
    assert "Connection refused" in message
    assert "8501 is REST" in message


def test_an_http_server_is_no_model_server(make):
    answer = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"

    def serve(listener):
        # Closed when the client has its answer, which it may have from the first connection.
        with contextlib.suppress(OSError):
            while True:
                peer, _ = listener.accept()
                with peer:
                    peer.recv(1000)
                    peer.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        target = f"127.0.0.1:{listener.getsockname()[1]}"
        with make(target, tries=1) as client, pytest.raises(errors.Unavailable) as caught:
            client.predict(["good"])
    assert "port for gRPC" in str(caught.value)


# Time.


def test_a_call_ends_at_its_deadline(server, make):
    server.delay = 3.0
    start = time.monotonic()
    with make(server.target, timeout=0.4) as client:
        with pytest.raises(errors.DeadlineExceeded, match=r"no answer within 0\.[34]\d* s"):
            client.predict(["good"])
        assert 0.3 < time.monotonic() - start < 2.0
    assert len(server.requests) == 1


def test_a_request_may_have_less_time_than_the_call(server, make):
    server.delay = 2.0
    client = make(server.target, timeout=20, request_timeout=0.3)
    with client, pytest.raises(errors.DeadlineExceeded, match=r"no answer within 0\.3 s"):
        client.predict(["good"])
    assert len(server.requests) == 1


def test_the_deadline_holds_for_all_batches_together(server, make):
    server.delay = 0.1
    texts = [str(number) for number in range(50)]
    with make(server.target, timeout=1.0, batch_size=1, in_flight=1) as client:
        start = time.monotonic()
        with pytest.raises(errors.DeadlineExceeded):
            client.predict(texts)
        assert time.monotonic() - start < 2.5
        assert 2 <= len(server.requests) <= 11
        # In a stream each request has the time for itself.
        assert len(list(client.stream(texts[:15]))) == 15


def test_no_try_begins_after_the_deadline(server, make):
    server.script = [server.abort(UNAVAILABLE)] * 20
    start = time.monotonic()
    with make(server.target, timeout=0.7, tries=20) as client, pytest.raises(errors.Unavailable):
        client.predict(["good"])
    assert time.monotonic() - start < 2


# Answers that no model of this project gives.


@pytest.mark.parametrize(
    ("name", "make_tensor", "message"),
    [
        ("label", None, r"without output label \(it has: classes, probabilities\)"),
        ("label", lambda t: t.strings(["good"], 1), r"label \[1\], .* expected for 2 rows"),
        ("label", lambda t: t.strings(["good"] * 2, 2, 1), r"label \[2, 1\], "),
        ("label", lambda t: t.strings(["odd", "bad"], 2), "row 0 has label 'odd'"),
        ("classes", lambda t: t.strings(["bad", "good"], 2), r"classes \[2\]; expected"),
        ("classes", lambda t: t.strings(["bad"] * 4, 2, 2), "expected different classes"),
        ("probabilities", lambda t: t.floats([[1.0, 0.0]]), r"probabilities \[1, 2\], "),
        ("probabilities", lambda t: t.floats([[1.0], [1.0]]), r"classes \[2, 2\]"),
        ("probabilities", lambda t: t.strings(["x"] * 4, 2, 2), "type is DT_STRING, expected"),
        ("probabilities", lambda t: t.floats([[0.5, float("nan")]] * 2), "row 0 has prob.*nan"),
    ],
)
def test_answers_of_another_kind_are_refused(server, make, name, make_tensor, message):
    tensor = make_tensor and make_tensor(server)
    server.script = [server.changed(name, tensor)]
    with make(server.target) as client, pytest.raises(errors.BadAnswer, match=message) as caught:
        client.predict(["good", "bad"])
    assert "version 7 answered, but " in str(caught.value)


def test_labels_must_be_utf_8(server, make):
    broken = messages.TensorProto(dtype=messages.DT_STRING, string_val=[b"\xff"])
    broken.tensor_shape.dim.add(size=1)
    server.script = [server.changed("label", broken)]
    with make(server.target) as client, pytest.raises(errors.BadAnswer, match="is not UTF-8"):
        client.predict(["good"])


def test_an_answer_must_say_its_version(server, make):
    server.version = None
    with make(server.target) as client, pytest.raises(errors.BadAnswer, match="which version"):
        client.predict(["good"])


def test_version_0_is_a_version(server, make):
    server.version = 0
    server.states = {0: messages.AVAILABLE}
    with make(server.target) as client:
        assert client.predict(["good"])[0].model_version == 0


def test_messages_have_a_limit(server, make):
    with make(server.target, max_message_bytes=2000) as client:
        with pytest.raises(errors.ResourceExhausted, match="max_message_bytes"):
            client.predict(["x" * 3000])
        assert client.predict(["good"])[0].label == "good"
    assert len(server.requests) == 1


# What the server says about the model.


def test_metadata_name_the_signatures(server, make):
    server.pairs = True
    with make(server.target) as client:
        metadata = client.metadata()
    assert metadata.model_version == 7
    signature = metadata.signatures["serve_text"]
    assert list(signature.inputs) == ["text_a", "text_b"]
    assert signature.inputs["text_a"] == model_api.TensorSpec("DT_STRING", (None,))
    assert signature.outputs["probabilities"] == model_api.TensorSpec("DT_FLOAT", None)


def test_status_lists_the_versions(server, make):
    server.states = {8: 20, 7: messages.AVAILABLE, 6: 50}
    with make(server.target) as client:
        six, seven, eight = client.model_status()
    assert (seven.version, seven.state, seven.error, seven.available) == (7, "AVAILABLE", "", True)
    assert (eight.version, eight.state, eight.available) == (8, "LOADING", False)
    assert (six.state, six.error) == ("END", "NOT_FOUND: no variables")
    with make(server.target, version=8) as client:
        assert [status.version for status in client.model_status()] == [8]


def test_a_model_that_is_not_there(server, make):
    with make(server.target, "other") as client:
        with pytest.raises(errors.ModelNotFound, match="model 'other': the server does not have"):
            client.predict(["good"])
        with pytest.raises(errors.ModelNotFound):
            client.model_status()
        assert client.is_healthy() is False


@pytest.mark.parametrize(
    ("health", "state", "healthy"),
    [(None, 30, True), (None, 20, False), (1, 20, True), (2, 30, False)],
)
def test_health_is_the_health_services_or_the_models(server, make, health, state, healthy):
    server.health = health
    server.states = {7: state}
    with make(server.target) as client:
        assert client.is_healthy() is healthy


def test_nobody_is_not_healthy(make, closed_port):
    with make(f"127.0.0.1:{closed_port}") as client:
        assert client.is_healthy() is False


def test_waiting_for_a_model_that_loads(server, make):
    server.states = {7: 20}
    timer = threading.Timer(0.5, server.states.update, [{7: messages.AVAILABLE}])
    timer.start()
    with make(server.target) as client:
        client.wait_until_ready(10)
        assert client.predict(["good"])[0].label == "good"
    timer.join()
    assert 3 <= server.polls <= 10


def test_waiting_for_a_server_that_starts(server, make, closed_port):
    server.stop()
    timer = threading.Timer(0.5, server.start, [closed_port])
    timer.start()
    with make(f"127.0.0.1:{closed_port}") as client:
        client.wait_until_ready(10)
    timer.join()


def test_waiting_in_vain_tells_how_far_the_model_is(server, make):
    server.states = {7: 50}
    with make(server.target) as client, pytest.raises(errors.DeadlineExceeded) as caught:
        client.wait_until_ready(0.4)
    message = str(caught.value)
    assert "not ready within 0.4 s; versions there: 7 END (NOT_FOUND: no variables). The" in message


def test_waiting_does_not_help_who_is_not_let_in(server, make):
    server.token = "secret"
    start = time.monotonic()
    with make(server.target) as client, pytest.raises(errors.NotAllowed):
        client.wait_until_ready(5)
    assert time.monotonic() - start < 2


# Who asks, and whom.


@pytest.fixture
def secure(server, certificates):
    """The server, stopped, and a function that starts it with TLS."""
    server.stop()

    def start(*, mutual: bool = False) -> str:
        return server.start(
            credentials=grpc.ssl_server_credentials(
                [(certificates.server_key, certificates.server_cert)],
                root_certificates=certificates.ca if mutual else None,
                require_client_auth=mutual,
            )
        )

    return start


def test_tls_with_an_own_authority(secure, certificates, make, tmp_path):
    (tmp_path / "ca.pem").write_bytes(certificates.ca)
    target = secure()
    for ca in (certificates.ca, str(tmp_path / "ca.pem"), tmp_path / "ca.pem"):
        with make(target, tls=Tls(ca=ca)) as client:
            assert client.predict(["good"])[0].label == "good"


def test_a_certificate_of_another_authority_is_refused(secure, certificates, make):
    target = secure()
    for tls in (Tls(ca=certificates.other_ca), Tls()):
        client = make(target, tls=tls, tries=1)
        with client, pytest.raises(errors.Unavailable, match="check the certificates"):
            client.predict(["good"])


def test_a_certificate_for_another_name_is_refused(secure, certificates, make):
    target = secure()
    tls = Tls(ca=certificates.ca, server_name="model.example.org")
    with make(target, tls=tls, tries=1) as client, pytest.raises(errors.Unavailable):
        client.predict(["good"])


def test_a_tls_server_does_not_answer_in_the_clear(secure, make):
    with make(secure(), tries=1) as client, pytest.raises(errors.Unavailable, match="TLS"):
        client.predict(["good"])


def test_mutual_tls(secure, certificates, make):
    target = secure(mutual=True)
    own = Tls(certificates.ca, certificates.client_cert, certificates.client_key)
    with make(target, tls=own) as client:
        assert client.predict(["good"])[0].label == "good"
    client = make(target, tls=Tls(certificates.ca), tries=1)
    with client, pytest.raises(errors.Unavailable):
        client.predict(["good"])


def test_a_token_is_shown(server, make):
    server.token = "secret"
    with make(server.target, token="secret") as client:
        assert client.predict(["good"])[0].label == "good"
        assert client.metadata().model_version == 7
    client = make(server.target, token="wrong")
    with client, pytest.raises(errors.NotAllowed, match="check the token") as caught:
        client.predict(["good"])
    assert "wrong" not in str(caught.value)


def test_a_token_travels_over_tls(secure, server, certificates, make):
    server.token = "secret"
    with make(secure(), token="secret", tls=Tls(certificates.ca)) as client:
        assert client.predict(["good"])[0].label == "good"


@pytest.mark.parametrize(
    ("target", "stays"),
    [
        ("localhost:8500", True),
        ("127.0.0.1:8500", True),
        ("127.8.0.1:8500", True),
        ("[::1]:8500", True),
        ("unix:/run/model.sock", True),
        ("dns:///localhost:8500", True),
        ("ipv4:127.0.0.1:8500,127.0.0.2:8500", True),
        ("ipv4:127.0.0.1:8500,10.0.0.1:8500", False),
        ("dns:///model.example.org:8500", False),
        ("dns:model:8500", False),
        ("localhost.example.org:8500", False),
        ("10.0.0.1:8500", False),
        ("[2001:db8::1]:8500", False),
    ],
)
def test_a_token_leaves_the_machine_encrypted_only(target, stays):
    connection.check_address(target)
    assert connection.is_loopback(target) is stays
    if stays:
        Client(target, "model", timeout=1, token="secret").close()
        return
    with pytest.raises(InputError, match="unencrypted"):
        Client(target, "model", timeout=1, token="secret")
    Client(target, "model", timeout=1, token="secret", tls=Tls()).close()


def test_a_proxy_is_not_asked_for_this_machine(server, make, monkeypatch, closed_port):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{closed_port}")
    monkeypatch.setenv("grpc_proxy", f"http://127.0.0.1:{closed_port}")
    with make(server.target, token="secret", tries=1) as client:
        assert client.predict(["good"])[0].label == "good"


def test_tls_files_are_checked(tmp_path, certificates):
    (tmp_path / "empty.pem").write_bytes(b"")
    for options, message in (
        ({"ca": tmp_path / "none.pem"}, "none.pem: cannot be read .* No such file"),
        ({"ca": tmp_path}, "cannot be read"),
        ({"ca": tmp_path / "empty.pem"}, "empty.pem: is not PEM"),
        ({"cert": certificates.client_cert}, "one of the two is missing"),
        ({"key": certificates.client_key}, "one of the two is missing"),
    ):
        with pytest.raises(InputError, match=message):
            Tls(**options)


def test_a_key_is_not_shown(certificates):
    own = Tls(certificates.ca, certificates.client_cert, certificates.client_key)
    assert "PRIVATE KEY" not in repr(own)


def test_keepalive_is_taken(server, make):
    with make(server.target, keepalive=300.0) as client:
        assert client.predict(["good"])[0].label == "good"


def test_a_closed_client_gives_no_answer(server):
    server.delay = 1.0
    client = Client(server.target, "model", timeout=10)
    timer = threading.Timer(0.3, client.close)
    timer.start()
    with pytest.raises(errors.ServerFailed, match="the client was closed"):
        client.predict(["good"])
    timer.join()


# TensorFlow Serving's own stubs, in a process of their own for TensorFlow's 10 s of import.

OFFICIAL_SERVER = """
from concurrent import futures
import grpc, numpy as np, tensorflow as tf
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2
from tensorflow_serving.apis import model_service_pb2_grpc, predict_pb2
from tensorflow_serving.apis import prediction_service_pb2_grpc

class Prediction(prediction_service_pb2_grpc.PredictionServiceServicer):
    def Predict(self, request, context):
        spec = request.model_spec
        assert (spec.name, spec.signature_name, spec.version.value) == ("model", "serve_text", 3)
        texts = [text.decode() for text in tf.make_ndarray(request.inputs["text_a"])]
        good = np.array(["好" in text for text in texts], np.float32)
        response = predict_pb2.PredictResponse()
        response.model_spec.CopyFrom(spec)
        for name, value in {
            "probabilities": np.stack([1 - good, good], axis=1),
            "label": np.where(good > 0, "good", "bad"),
            "classes": np.array([["bad", "good"]] * len(texts)),
        }.items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
        return response

    def GetModelMetadata(self, request, context):
        assert list(request.metadata_field) == ["signature_def"]
        signatures = get_model_metadata_pb2.SignatureDefMap()
        text = signatures.signature_def["serve_text"].inputs["text_a"]
        text.dtype = tf.string.as_datatype_enum
        text.tensor_shape.CopyFrom(tf.TensorShape([None]).as_proto())
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.CopyFrom(request.model_spec)
        response.metadata["signature_def"].Pack(signatures)
        return response

class Model(model_service_pb2_grpc.ModelServiceServicer):
    def GetModelStatus(self, request, context):
        response = get_model_status_pb2.GetModelStatusResponse()
        status = response.model_version_status.add(version=request.model_spec.version.value)
        status.state = get_model_status_pb2.ModelVersionStatus.AVAILABLE
        return response

server = grpc.server(futures.ThreadPoolExecutor(4))
prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Prediction(), server)
model_service_pb2_grpc.add_ModelServiceServicer_to_server(Model(), server)
port = server.add_insecure_port("127.0.0.1:0")
server.start()
print(port, flush=True)
input()
"""


def test_tensorflow_servings_own_stubs_understand_the_client():
    pytest.importorskip("tensorflow_serving", reason="the official stubs are not installed")
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", OFFICIAL_SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        port = process.stdout.readline().strip()
        assert port, process.stderr.read()[-2000:]
        with Client(f"127.0.0.1:{port}", "model", timeout=30, version=3) as client:
            client.wait_until_ready(30)
            good, bad = client.predict(["很好", ""])
            metadata, status = client.metadata(), client.model_status()
            healthy = client.is_healthy()
        process.communicate("\n")
    assert good == Prediction("good", 1.0, {"bad": 0.0, "good": 1.0}, 3)
    assert (bad.label, bad.probability) == ("bad", 1.0)
    text = metadata.signatures["serve_text"].inputs["text_a"]
    assert text == model_api.TensorSpec("DT_STRING", (None,))
    assert [(s.version, s.state) for s in status] == [(3, "AVAILABLE")]
    assert healthy
