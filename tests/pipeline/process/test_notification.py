import contextlib
import http.server
import json
import logging
import socket
import ssl
import sys
import threading
import time

import pytest

from bert_tfx.pipeline.process import notification
from bert_tfx.pipeline.process.exit_codes import ExitCode
from bert_tfx.pipeline.process.notification import STATUSES, Hooks, Outcome
from bert_tfx.schema.errors import InputError


@pytest.fixture
def outcome():
    return Outcome(
        code=ExitCode.DONE,
        run="2026-11-22T22:11:06",
        task="sst2",
        pipeline="bert-tfx-sst2-1234",
        output="/srv/reviews",
        started="2026-11-22T22:11:06+00:00",
        ended="2026-11-22T22:14:06+00:00",
        pushed_version="1700000001",
        pushed_now=True,
        previous_version="1700000000",
        report="/srv/reviews/report/index.html",
        sentences=("Promoted: 好.", "Served."),
        metrics={"accuracy": 0.9},
    )


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(notification, "_PAUSES_S", 0.1)


class _Server:
    """Answers with the codes in turn, the last one for ever; None hangs."""

    def __init__(self, *codes, tls=None):
        self.requests = []
        self.ended = threading.Event()
        waiting = list(codes)
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def handle(self):
                # Who does not trust the certificate goes away before asking.
                with contextlib.suppress(ssl.SSLError):
                    super().handle()

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                server.requests.append((dict(self.headers), json.loads(body)))
                code = waiting.pop(0) if len(waiting) > 1 else waiting[0]
                if code is None:
                    server.ended.wait(30)
                    return
                self.send_response(code)
                if code == 302:
                    self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_GET(self):
                server.requests.append((dict(self.headers), "GET"))

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        if tls is not None:
            self.url = f"https://localhost:{self._server.server_port}/hook"
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server():
    servers = []

    def make(*codes, **options):
        servers.append(_Server(*codes, **options))
        return servers[-1]

    yield make
    for one in servers:
        one.close()


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_message_says_all_by_documented_names(outcome):
    message = outcome.message()
    assert message == {
        "format": 1,
        "status": "pushed",
        "exit_code": 0,
        "run": "2026-11-22T22:11:06",
        "task": "sst2",
        "pipeline": "bert-tfx-sst2-1234",
        "output": "/srv/reviews",
        "started": "2026-11-22T22:11:06+00:00",
        "ended": "2026-11-22T22:14:06+00:00",
        "pushed_version": "1700000001",
        "pushed_now": True,
        "previous_version": "1700000000",
        "report": "/srv/reviews/report/index.html",
        "error": None,
        "sentences": ["Promoted: 好.", "Served."],
        "metrics": {"accuracy": 0.9},
        "host": socket.gethostname(),
    }
    assert json.loads(json.dumps(message)) == message


def test_every_end_of_a_run_has_a_status():
    assert set(STATUSES) == set(ExitCode) - {ExitCode.UNAVAILABLE}
    assert len(set(STATUSES.values())) == len(STATUSES)


def test_url_is_told_once(server, outcome, caplog, tmp_path):
    token = tmp_path / "token"
    token.write_text("hush\n", encoding="utf-8")
    answering = server(200)
    Hooks(notify_url=answering.url, notify_token_file=str(token)).tell(outcome.message())
    ((headers, body),) = answering.requests
    assert body == outcome.message()
    assert headers["Content-Type"] == "application/json"
    assert headers["Authorization"] == "Bearer hush"
    assert warnings(caplog) == []


def test_authorities_and_token_are_those_that_were_named(
    server, outcome, caplog, tmp_path, tls, monkeypatch
):
    token = tmp_path / "token"
    token.write_text("hush\n", encoding="utf-8")
    (tmp_path / ".netrc").write_text("machine localhost login me password mine\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    answering = server(200, tls=tls)
    hooks = Hooks(notify_url=answering.url, notify_token_file=str(token))
    hooks.tell(outcome.message())
    (warning,) = warnings(caplog)
    assert "cannot be reached" in warning and "CERTIFICATE_VERIFY_FAILED" in warning
    assert "hook" not in warning

    monkeypatch.setenv("SSL_CERT_FILE", str(tls[0]))
    hooks.tell(outcome.message())
    ((headers, _),) = answering.requests
    assert headers["Authorization"] == "Bearer hush"


def test_url_is_tried_again_where_that_may_help(server, outcome, caplog):
    answering = server(500, 503, 200)
    Hooks(notify_url=answering.url).tell(outcome.message())
    assert len(answering.requests) == 3
    assert warnings(caplog) == []


@pytest.mark.parametrize(
    ("code", "tries"),
    [(500, 3), (404, 1), (302, 1)],
)
def test_url_that_answers_no_is_a_warning(server, outcome, caplog, code, tries):
    answering = server(code)
    Hooks(notify_url=answering.url).tell(outcome.message())
    assert [body for _, body in answering.requests] == [outcome.message()] * tries
    (warning,) = warnings(caplog)
    assert warning.startswith(f"--notify-url: the server answers {code} ")
    # The address of a hook may be a secret.
    assert "hook" not in warning


def test_url_that_hangs_is_given_up(server, outcome, caplog):
    answering = server(None)
    begun = time.monotonic()
    Hooks(notify_url=answering.url, notify_timeout=0.3).tell(outcome.message())
    assert time.monotonic() - begun < 5
    assert len(answering.requests) == 3
    (warning,) = warnings(caplog)
    assert "hook" not in warning


def test_url_that_drips_is_given_up(outcome, caplog):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        ended = threading.Event()

        def drip():
            connections = []
            while not ended.is_set():
                listener.settimeout(0.05)
                try:
                    connections.append(listener.accept()[0])
                    connections[-1].sendall(b"HTTP/1.1 200 OK\r\n")
                except TimeoutError:
                    pass
                for connection in connections:
                    try:
                        connection.sendall(b"X-Drip: 1\r\n")
                    except OSError:
                        continue
            for connection in connections:
                connection.close()

        thread = threading.Thread(target=drip)
        thread.start()
        begun = time.monotonic()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        Hooks(notify_url=url, notify_timeout=0.3).tell(outcome.message())
        assert time.monotonic() - begun < 5
        ended.set()
        thread.join()
    (warning,) = warnings(caplog)
    assert warning.startswith("--notify-url: ")


def test_url_that_refuses_is_a_warning(outcome, caplog):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    Hooks(notify_url=f"http://127.0.0.1:{port}/hook").tell(outcome.message())
    (warning,) = warnings(caplog)
    assert "--notify-url: cannot be reached" in warning
    assert "Connection refused" in warning
    assert "hook" not in warning


def test_command_gets_json_and_facts(tmp_path, outcome, caplog):
    caplog.set_level(logging.INFO)
    script = tmp_path / "my hook.py"
    script.write_text(
        "import json, os, sys\n"
        "told = json.load(sys.stdin)\n"
        "print(told['sentences'][0], sys.argv[1:])\n"
        "print(os.environ['BERT_TFX_STATUS'], os.environ['BERT_TFX_EXIT_CODE'])\n",
        encoding="utf-8",
    )
    Hooks(notify_command=f"{sys.executable} '{script}' '$HOME; ls'").tell(outcome.message())
    said = [record.getMessage() for record in caplog.records]
    # There is no shell between.
    assert said == [
        "--notify-command: Promoted: 好. ['$HOME; ls']",
        "--notify-command: pushed 0",
    ]


def test_command_that_fails_is_a_warning(outcome, caplog):
    Hooks(notify_command="sh -c 'exit 7'").tell(outcome.message())
    assert warnings(caplog) == ["--notify-command: ended with exit code 7"]


def test_command_that_hangs_is_ended_with_what_it_started(tmp_path, outcome, caplog):
    pid = tmp_path / "pid"
    command = f"sh -c 'sleep 60 & echo $! > {pid}; wait'"
    begun = time.monotonic()
    Hooks(notify_command=command, notify_timeout=0.5).tell(outcome.message())
    assert time.monotonic() - begun < 10
    assert warnings(caplog) == ["--notify-command: was ended after 0.5 s"]
    stat = f"/proc/{pid.read_text(encoding='utf-8').strip()}/stat"
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            with open(stat, encoding="utf-8") as file:
                if file.read().split()[2] == "Z":
                    return
        except FileNotFoundError:
            return
        time.sleep(0.05)
    raise AssertionError("what the command has started lives on")


def test_command_that_leaves_something_running_is_not_waited_for(outcome, caplog):
    begun = time.monotonic()
    Hooks(notify_command="sh -c 'sleep 8 &'").tell(outcome.message())
    assert time.monotonic() - begun < 5
    assert warnings(caplog) == []


def test_both_are_told_where_one_fails(server, outcome, caplog):
    answering = server(200)
    Hooks(notify_command="false", notify_url=answering.url).tell(outcome.message())
    assert len(answering.requests) == 1
    assert warnings(caplog) == ["--notify-command: ended with exit code 1"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"notify_command": "no-such-command --x"}, "there is no such command"),
        ({"notify_command": "sh 'open"}, "No closing quotation"),
        ({"notify_url": "ftp://host/"}, "expected http://HOST/PATH or https://HOST/PATH"),
        ({"notify_url": "http://host/", "notify_token_file": "/dev/null"}, "begin with https"),
        ({"notify_url": "https://host/", "notify_token_file": "/no"}, "/no: cannot be read"),
        ({"notify_token_file": "/dev/null"}, "is for the URL that --notify-url names"),
        ({"notify_timeout": 0.0}, "notify_timeout must be positive"),
    ],
)
def test_mistakes_are_found_before_the_run(options, message):
    with pytest.raises(InputError, match=message):
        Hooks(**options)
