"""`submit kubeflow` and `compile kubeflow`, with a server that answers as Kubeflow's API does."""

import http.server
import importlib.util
import json
import socket
import threading
import urllib.parse

import pytest

from bert_tfx.pipeline.commands import cli
from bert_tfx.pipeline.orchestrators.kubeflow import client as kubeflow_client

PIPELINE = {
    "pipelineInfo": {"name": "bert-tfx-sample"},
    "root": {
        "dag": {"tasks": {"trainer": {}, "model-pusher": {}}},
        "inputDefinitions": {
            "parameters": {
                "epochs": {"parameterType": "NUMBER_INTEGER", "defaultValue": 4},
                "min_accuracy": {"parameterType": "NUMBER_DOUBLE", "defaultValue": 0.9},
                "data": {"parameterType": "STRING", "defaultValue": ""},
            }
        },
    },
    "deploymentSpec": {"executors": {}},
}
PLATFORM = {"platforms": {"kubernetes": {}}}
RUN_ID = "2b6a7f0e-run"


class Api:
    """A server of one user's runs, and what it was asked."""

    def __init__(self):
        self.asked = []
        self.multi_user = False
        self.token = None
        self.experiments = []
        self.refuse = {}
        self.states = ["RUNNING", "SUCCEEDED"]
        self.body = None

    def answer(self, method, path, query, body, headers):
        self.asked.append((method, path))
        if self.token is not None and headers.get("Authorization") != f"Bearer {self.token}":
            return 401, {"error": "no session"}
        if path in self.refuse:
            return self.refuse[path], {"message": f"{path} is not for you"}
        if path == "/healthz":
            return 200, {"multi_user": self.multi_user}
        if (method, path) == ("GET", "/experiments"):
            (wanted,) = json.loads(query["filter"][0])["predicates"]
            assert wanted["key"] == "display_name"
            assert query.get("namespace", [None])[0] in (None, "team")
            found = [e for e in self.experiments if e["display_name"] == wanted["stringValue"]]
            # An empty list is left out, as protobuf does.
            return 200, {"experiments": found} if found else {}
        if (method, path) == ("POST", "/experiments"):
            self.experiments.append({**body, "experiment_id": "e1"})
            return 200, self.experiments[-1]
        if (method, path) == ("POST", "/runs"):
            self.body = body
            return 200, {"run_id": RUN_ID}
        if (method, path) == ("GET", f"/runs/{RUN_ID}"):
            state = self.states.pop(0)
            tasks = [{"display_name": "trainer", "state": state}, {"state": "RUNNING"}]
            return 200, {"state": state, "run_details": {"task_details": tasks}}
        return 404, {"message": "no such page"}


@pytest.fixture
def api(monkeypatch):
    api = Api()

    class Handler(http.server.BaseHTTPRequestHandler):
        def handle_any(self):
            parts = urllib.parse.urlsplit(self.path)
            assert parts.path.startswith("/apis/v2beta1")
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            code, said = api.answer(
                self.command,
                parts.path.removeprefix("/apis/v2beta1"),
                urllib.parse.parse_qs(parts.query),
                body,
                self.headers,
            )
            data = said if isinstance(said, bytes) else json.dumps(said).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = handle_any

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    api.host = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr(kubeflow_client.time, "sleep", lambda seconds: None)
    yield api
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def pipeline(tmp_path):
    path = tmp_path / "pipeline.yaml"
    path.write_text(f"{json.dumps(PIPELINE)}\n---\n{json.dumps(PLATFORM)}\n", encoding="utf-8")
    return path


@pytest.fixture
def submit(api, pipeline, capsys):
    """Returns exit code, standard output and the complaint."""

    def submit(*arguments, host=None):
        code = cli.main(
            [
                *("submit", "kubeflow", "--host", host or api.host, "--pipeline", str(pipeline)),
                *map(str, arguments),
            ]
        )
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        assert err.count("\n") <= 1, "one sentence"
        return code, out, err

    return submit


def test_run_is_started_with_its_parameters(api, submit):
    code, out, _ = submit(
        *("--parameter", "epochs=2", "--parameter", "min_accuracy=0.5"),
        *("--parameter", "data=/work/a=b", "--experiment", "mine", "--run-name", "first"),
        *("--service-account", "runner"),
    )
    assert code == 0
    assert out == f"run {RUN_ID}\n{api.host}/#/runs/details/{RUN_ID}\n"
    assert api.body == {
        "display_name": "first",
        "experiment_id": "e1",
        "pipeline_spec": {"pipeline_spec": PIPELINE, "platform_spec": PLATFORM},
        "runtime_config": {"parameters": {"epochs": 2, "min_accuracy": 0.5, "data": "/work/a=b"}},
        "service_account": "runner",
    }
    assert api.experiments == [{"display_name": "mine", "experiment_id": "e1"}]


@pytest.mark.skipif(
    importlib.util.find_spec("kfp") is None, reason="kfp is not installed: make test-kubeflow"
)
@pytest.mark.filterwarnings("ignore")
def test_request_is_that_of_kubeflows_own_client(api, submit, pipeline, monkeypatch, tmp_path):
    from kfp.client import Client

    assert submit("--parameter", "epochs=2", "--run-name", "first", "--experiment", "mine")[0] == 0
    ours, asked, made = api.body, set(api.asked), api.experiments[:]
    api.body, api.asked, api.experiments = None, [], []
    # Where it looks for a cluster of its own.
    monkeypatch.setenv("HOME", str(tmp_path))
    Client(host=api.host).create_run_from_pipeline_package(
        str(pipeline), arguments={"epochs": 2}, run_name="first", experiment_name="mine"
    )
    assert api.body == ours
    assert asked <= set(api.asked)
    assert [one["display_name"] for one in api.experiments] == [e["display_name"] for e in made]


def test_experiment_that_is_there_is_taken(api, submit):
    api.experiments.append({"display_name": "bert-tfx", "experiment_id": "e7"})
    assert submit()[0] == 0
    assert api.body["experiment_id"] == "e7"
    assert ("POST", "/experiments") not in api.asked
    assert api.body["display_name"].startswith("bert-tfx-sample 20")


def test_token_and_namespace_are_sent(api, submit, tmp_path):
    api.token, api.multi_user = "s3cret", True
    path = tmp_path / "token"
    path.write_text("s3cret\n", encoding="utf-8")
    assert submit("--token-file", path, "--namespace", "team")[0] == 0
    assert api.experiments[0]["namespace"] == "team"


def test_wait_shows_how_it_goes(api, submit):
    code, out, _ = submit("--wait")
    assert code == 0
    assert "trainer            running\ntrainer            succeeded\n" in out
    assert "the run has ended: succeeded" in out


@pytest.mark.parametrize("state", ("FAILED", "CANCELED"))
def test_wait_ends_as_a_run_that_fails(api, submit, state):
    api.states = ["PENDING", "RUNNING", state]
    code, out, _ = submit("--wait")
    assert code == 1
    assert f"the run has ended: {state.lower()}" in out


def test_server_that_is_not_there():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    client = kubeflow_client.KubeflowClient(f"http://127.0.0.1:{port}")
    with pytest.raises(kubeflow_client.ServerError, match=r"cannot be reached: .*refused"):
        client.check(None)


def test_server_that_is_not_there_has_its_exit_code(submit):
    code, _, err = submit(host="http://127.0.0.1:1")
    assert code == 5
    assert "http://127.0.0.1:1: cannot be reached" in err


@pytest.mark.parametrize(
    ("page", "answer", "code", "message"),
    (
        ("/healthz", 401, 2, "does not know who asks (401): /healthz is not for you; --token-file"),
        ("/experiments", 403, 2, "does not allow it (403): /experiments is not for you"),
        ("/healthz", 404, 2, "is no API server of Kubeflow Pipelines 2 (404)"),
        ("/runs", 400, 2, "does not take it (400): /runs is not for you"),
        ("/runs", 500, 5, "fails (500): /runs is not for you"),
    ),
)
def test_refusals_are_told(api, submit, page, answer, code, message):
    api.refuse[page] = answer
    found, out, err = submit()
    assert found == code
    assert message in err
    assert out == ""


def test_wrong_token(api, submit):
    api.token = "another"
    code, _, err = submit()
    assert code == 2
    assert "does not know who asks (401): no session" in err


def test_page_to_log_in_at_is_no_server(api, submit, monkeypatch):
    monkeypatch.setattr(api, "answer", lambda *asked: (200, b"<html>log in</html>"))
    code, _, err = submit()
    assert code == 2
    assert "does not answer in JSON" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    (
        (["--parameter", "epoch=1"], "--parameter epoch: the pipeline has no such parameter; it"),
        (["--parameter", "epochs"], "--parameter epochs: must be NAME=VALUE"),
        (["--parameter", "epochs=2.5"], "--parameter epochs=2.5: must be a number"),
        (["--image", "i"], "--pipeline and --image: the pipeline is compiled already"),
        (["--epochs", "3"], "--pipeline and --epochs: the pipeline is compiled already"),
        (["--token-file", "/nowhere"], "/nowhere: cannot be read (--token-file)"),
    ),
)
def test_mistakes_are_told_before_anything_is_sent(api, submit, arguments, message):
    code, _, err = submit(*arguments)
    assert code == 2
    assert message in err
    assert api.asked == []


def test_several_users_need_a_namespace(api, submit):
    api.multi_user = True
    code, _, err = submit()
    assert code == 2
    assert "--namespace names yours" in err
    assert api.body is None


@pytest.mark.parametrize("host", ("localhost:8080", "ftp://kubeflow", "http://"))
def test_host_must_be_a_url(submit, host):
    code, _, err = submit(host=host)
    assert code == 2
    assert "must be a URL that begins with http:// or https://" in err


def test_token_does_not_leave_the_machine_in_the_clear(submit, tmp_path):
    path = tmp_path / "token"
    path.write_text("s3cret", encoding="utf-8")
    code, _, err = submit("--token-file", path, host="http://kubeflow.example")
    assert code == 2
    assert "a token is sent over https:// only" in err
    assert "s3cret" not in err


def test_pipeline_is_compiled_where_none_is_named(api, capsys):
    code = cli.main(
        [
            *("submit", "kubeflow", "--host", api.host, "--image", "i:1"),
            *("--volume", "claim:/work", "--task", "sample", "--output-dir", "/work/out"),
            *("--epochs", "2"),
        ]
    )
    assert code == 0, capsys.readouterr().err
    sent = api.body["pipeline_spec"]["pipeline_spec"]
    assert len(sent["root"]["dag"]["tasks"]) == 18
    assert sent["root"]["inputDefinitions"]["parameters"]["epochs"]["defaultValue"] == 2


def test_neither_pipeline_nor_image(api, capsys):
    assert cli.main(["submit", "kubeflow", "--host", api.host]) == 2
    assert "--image is missing" in capsys.readouterr().err


def test_compile_writes_the_pipeline(tmp_path, capsys):
    path = tmp_path / "pipeline.yaml"
    config = tmp_path / "run.json"
    config.write_text(json.dumps({"task": "sst2", "data": "/work/d", "output": "/work/o"}))
    code = cli.main(
        [
            *("compile", "kubeflow", "--config", str(config), "--output", str(path)),
            *("--image", "registry:5000/bert-tfx:1", "--volume", "claim:/work"),
            *("--env", "A=b=c"),
        ]
    )
    out, err = capsys.readouterr()
    assert code == 0, err
    assert out == f"{path}: 18 tasks in registry:5000/bert-tfx:1\n"
    first, second = path.read_text(encoding="utf-8").split("\n---\n")
    container = json.loads(first)["deploymentSpec"]["executors"]["exec-trainer"]["container"]
    assert container["env"] == [{"name": "A", "value": "b=c"}]
    assert "claim" in second


@pytest.mark.parametrize(
    ("arguments", "message"),
    (
        (["--volume", "claim"], "--volume claim: must be NAME:PATH"),
        (["--env", "A"], "--env A: must be NAME=VALUE"),
        (["--task", "sst2", "--output-dir", "/o"], "output: /o lies on no volume"),
        (["--config", "/nowhere.json"], "/nowhere.json: cannot be read"),
    ),
)
def test_mistakes_of_compile(arguments, message, capsys, tmp_path):
    path = tmp_path / "pipeline.yaml"
    code = cli.main(["compile", "kubeflow", "--image", "i", "--output", str(path), *arguments])
    assert code == 2
    assert message in capsys.readouterr().err
    assert not path.exists()
