import fcntl
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import threading
import time

import grpc
import pytest
from tfx.dsl.components.base import base_executor
from tfx.proto import pusher_pb2
from tfx.types import standard_artifacts
from tfx.types.channel_utils import as_channel
from tfx.utils import proto_utils

from bert_tfx.components.model_pusher import verification
from bert_tfx.components.model_pusher.component import ModelPusher
from bert_tfx.components.model_pusher.executor import Executor
from bert_tfx.components.model_pusher.lock import exclusive
from bert_tfx.components.model_pusher.version_folder import (
    MARKER_FILE,
    Origin,
    Pushed,
    State,
    VersionFolder,
    pushed_versions,
    rolled_back_versions,
)
from bert_tfx.schema import locks
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.files import move
from bert_tfx.serving.client import Client
from bert_tfx.serving.server.process import free_port


def module_of(path: pathlib.Path):
    """Imports a file of the tests, which are no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HERE = pathlib.Path(__file__).parent
KILLS = HERE / "model_pusher_kills.py"
kills = module_of(KILLS)
serving_tests = module_of(HERE.parent / "serving" / "conftest.py")

ABOUT = {"task": "sst2", "training": {"eval": {"eval_accuracy": 0.9}}}


def saved_model(folder: pathlib.Path, name: str) -> str:
    """Writes what stands for a SavedModel; no two of them hold the same."""
    path = folder / name / "Format-Serving"
    (path / "variables").mkdir(parents=True)
    (path / "assets.extra").mkdir()
    (path / "saved_model.pb").write_bytes(b"graph")
    (path / "variables" / "variables.index").write_bytes(b"index")
    (path / "assets.extra" / "bert_tfx.json").write_text(json.dumps(ABOUT), encoding="utf-8")
    (path / "fingerprint.pb").write_bytes(name.encode())
    return str(path)


def files(folder: pathlib.Path) -> dict[str, bytes]:
    """Returns what a model's folder holds, without the records of the pusher."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
        and path.name not in (MARKER_FILE, "served.json", "rolled_back.json", "taken_back.json")
    }


def push(model: str, serving: object, **options) -> Pushed:
    with exclusive(str(serving)):
        return VersionFolder(str(serving)).push(model, Origin(**options))


def names(serving: pathlib.Path) -> set[str]:
    return {child.name for child in serving.iterdir()}


@pytest.fixture
def serving(tmp_path):
    return tmp_path / "serving"


@pytest.fixture
def three(tmp_path, serving):
    """A folder with three versions."""
    numbers = [push(saved_model(tmp_path, name), serving).number for name in "abc"]
    assert pushed_versions(str(serving)) == numbers
    return VersionFolder(str(serving)), numbers


# A push.


def test_pushed_version_is_the_model_and_its_marker(tmp_path, serving):
    model = saved_model(tmp_path, "model")
    before = int(time.time())
    pushed = push(model, serving, model_uri="Trainer/model/5", run_id="monday")
    assert before <= pushed.number <= time.time()
    assert pushed.is_new
    assert pushed.folder == str(serving / str(pushed.number))
    assert names(serving) == {str(pushed.number)}
    assert files(pathlib.Path(pushed.folder)) == files(pathlib.Path(model))
    marker = json.loads((serving / str(pushed.number) / MARKER_FILE).read_text(encoding="utf-8"))
    assert marker == pushed.marker
    assert marker["version"] == pushed.number
    assert (marker["model_uri"], marker["run_id"]) == ("Trainer/model/5", "monday")
    assert marker["blessing_uri"] is None
    assert {*marker["files"]} == {*files(pathlib.Path(model))}
    assert len(marker["sha256"]) == 64


def test_versions_grow_even_within_a_second_or_behind_a_fast_clock(tmp_path, serving):
    first = push(saved_model(tmp_path, "a"), serving).number
    second = push(saved_model(tmp_path, "b"), serving).number
    assert second > first
    future = int(time.time()) + 10**6
    (serving / str(second)).rename(serving / str(future))
    assert push(saved_model(tmp_path, "c"), serving).number == future + 1
    assert pushed_versions(str(serving)) == [first, future, future + 1]


def test_versions_grow_beyond_those_that_are_hidden(tmp_path, serving, three, monkeypatch):
    folder, numbers = three
    monkeypatch.setattr(time, "time", lambda: 5.0)
    folder.roll_back(folder.to_roll_back())
    fourth = push(saved_model(tmp_path, "d"), serving).number
    assert fourth == numbers[-1] + 1
    folder.take_back(fourth, "no answer")
    assert push(saved_model(tmp_path, "e"), serving).number == fourth + 1


def test_same_model_is_never_pushed_twice(tmp_path, serving):
    old, new = saved_model(tmp_path, "old"), saved_model(tmp_path, "new")
    first, second = push(old, serving), push(new, serving)
    again = push(old, serving)
    assert (again.number, again.folder, again.is_new) == (first.number, first.folder, False)
    assert push(new, serving).number == second.number
    assert pushed_versions(str(serving)) == [first.number, second.number]


def test_model_that_another_tool_put_there_is_not_pushed_twice(tmp_path, serving):
    model, other = saved_model(tmp_path, "model"), saved_model(tmp_path, "other")
    pushed = push(model, serving)
    (pathlib.Path(pushed.folder) / MARKER_FILE).unlink()
    again = push(model, serving)
    assert (again.number, again.is_new, again.marker) == (pushed.number, False, {})
    # Of the same sizes, but not the same.
    (tmp_path / "other" / "Format-Serving" / "fingerprint.pb").write_bytes(b"ledom")
    assert push(other, serving).is_new


def test_what_is_no_saved_model_is_refused(tmp_path, serving):
    (tmp_path / "model").mkdir()
    with pytest.raises(InputError, match=r"model: no SavedModel; saved_model\.pb is missing"):
        push(str(tmp_path / "model"), serving)
    assert names(serving) == set()


def test_copy_that_fails_leaves_no_version_and_the_next_push_cleans_up(
    tmp_path, serving, monkeypatch
):
    old, new = saved_model(tmp_path, "old"), saved_model(tmp_path, "new")
    version = push(old, serving).number

    def fail(source, target):
        os.makedirs(target)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as context:
        context.setattr("bert_tfx.components.model_pusher.version_folder.copy_folder", fail)
        with pytest.raises(OSError, match="No space left"):
            push(new, serving)
    assert pushed_versions(str(serving)) == [version]
    (left,) = (child for child in serving.iterdir() if child.name != str(version))
    assert left.name.startswith(".staging-")
    # As if it were of another second.
    left.rename(serving / ".staging-1")

    later = push(new, serving)
    assert names(serving) == {str(version), str(later.number)}
    assert files(pathlib.Path(later.folder)) == files(pathlib.Path(new))


def test_everything_is_on_disk_before_the_rename_and_the_rename_after_it(
    tmp_path, serving, monkeypatch
):
    model = saved_model(tmp_path, "model")
    steps = []
    fsync, rename = os.fsync, os.replace

    def watched_fsync(descriptor):
        steps.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def watched_rename(source, target):
        if os.path.isdir(source):
            steps.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_rename)
    pushed = push(model, serving)
    staging = serving / f".staging-{pushed.number}"
    before = steps[: steps.index("rename")]
    expected = {str(staging / name) for name in (*files(pathlib.Path(model)), MARKER_FILE)}
    assert expected | {str(staging), str(staging / "variables")} <= set(before)
    assert steps[steps.index("rename") :] == ["rename", str(serving)]


def test_versions_are_the_numbers_only(serving):
    assert pushed_versions(str(serving)) == []
    for name in ("10", "9", ".staging-11", ".rolled-back-12", "notes", "12.tmp", "²", "9" * 30):
        (serving / name).mkdir(parents=True)
    assert pushed_versions(str(serving)) == [9, 10]
    assert rolled_back_versions(str(serving)) == [12]


# One at a time.


def test_pushes_at_the_same_time_take_turns(tmp_path, serving):
    models = [kills.make_model(tmp_path / str(seed), seed) for seed in range(3)]
    serving.mkdir()
    poller = kills.Poller(serving)
    poller.whole = [kills.contents(model) for model in models]
    poller.start()
    # The last two push the same model.
    processes = [kills.start_push(model, serving) for model in (*models, models[-1])]
    for process in processes:
        process.communicate()
    poller.stop()
    assert [process.returncode for process in processes] == [0] * 4
    assert len(pushed_versions(str(serving))) == 3
    assert names(serving) == {str(number) for number in pushed_versions(str(serving))}
    assert poller.wrong == []


def test_who_comes_second_waits(serving, monkeypatch):
    """Also where the file was removed and made anew meanwhile."""
    said = threading.Event()
    monkeypatch.setattr(locks._logger, "info", lambda *_: said.set())
    order = []

    def second():
        with exclusive(str(serving)):
            order.append("second")

    with exclusive(str(serving)):
        thread = threading.Thread(target=second)
        thread.start()
        assert said.wait(10)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
    assert names(serving) == set()


def test_lock_of_a_killed_process_is_free(serving):
    serving.mkdir()
    with (serving / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
    with exclusive(str(serving)):
        assert names(serving) == {".lock"}
    assert names(serving) == set()


def test_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").touch()
    message = "file/serving: cannot be written: Not a directory"
    with pytest.raises(InputError, match=message), exclusive(str(tmp_path / "file" / "serving")):
        pass


# Kills.


def test_killed_pushes_show_no_part_and_the_next_one_completes(tmp_path):
    print(kills.prove(tmp_path, 10))


@pytest.mark.real
def test_fifty_killed_pushes_show_no_part_and_the_next_one_completes(tmp_path):
    print(subprocess.check_output([sys.executable, KILLS, "prove", "50"], text=True))


# Back and forth.


def test_rollback_hides_what_is_above_and_undo_brings_it_back(three, serving):
    folder, (first, second, third) = three
    before = {number: files(serving / str(number)) for number in (first, second, third)}
    assert folder.to_roll_back() == [third]
    assert folder.to_roll_back(first) == [second, third]
    folder.roll_back([second, third])
    assert folder.numbers() == [first]
    assert rolled_back_versions(str(serving)) == [second, third]
    assert {version.number: version.state for version in folder.versions()} == {
        first: State.PUSHED,
        second: State.ROLLED_BACK,
        third: State.ROLLED_BACK,
    }
    assert {version.change.get("to") for version in folder.versions()} == {None, first}
    assert folder.to_restore() == [second, third]
    folder.restore([second, third])
    assert {number: files(serving / str(number)) for number in folder.numbers()} == before
    assert names(serving) == {str(number) for number in (first, second, third)}
    assert not list(serving.rglob("rolled_back.json"))


def test_rollbacks_are_undone_one_by_one_the_last_one_first(three):
    folder, (first, second, third) = three
    folder.roll_back(folder.to_roll_back())
    folder.roll_back(folder.to_roll_back())
    assert folder.numbers() == [first]
    assert folder.to_restore() == [second]
    folder.restore([second])
    assert folder.to_restore() == [third]
    folder.restore([third])
    with pytest.raises(InputError, match="no version is rolled back"):
        folder.to_restore()


def test_server_that_looks_meanwhile_takes_no_version_in_between(three, monkeypatch):
    folder, (first, second, third) = three
    latest = []

    def watched(source, target):
        is_version = os.path.isdir(source)
        move(source, target)
        if is_version:
            latest.append(folder.numbers()[-1])

    monkeypatch.setattr("bert_tfx.schema.files.move", watched)
    folder.roll_back([second, third])
    assert latest == [third, first]
    folder.restore([second, third])
    assert latest == [third, first, third, third]


def test_model_that_was_rolled_back_is_refused_until_undo(tmp_path, serving, three):
    folder, (_, second, third) = three
    folder.roll_back([second, third])
    model = str(tmp_path / "c" / "Format-Serving")
    message = rf"rolled back as version {third}.*rollback --serving {serving} --undo"
    with pytest.raises(InputError, match=message):
        push(model, serving)
    assert push(saved_model(tmp_path, "d"), serving).number > third
    folder.restore(folder.to_restore())
    assert push(model, serving).number == third


def test_model_of_another_tool_is_refused_after_its_rollback(tmp_path, serving, three):
    folder, (_, _, third) = three
    (serving / str(third) / MARKER_FILE).unlink()
    folder.roll_back([third])
    with pytest.raises(InputError, match=f"rolled back as version {third}"):
        push(str(tmp_path / "c" / "Format-Serving"), serving)


@pytest.mark.parametrize(
    ("to", "message"),
    [
        (5, r"there is no version 5; there are \d+, \d+$"),
        ("latest", "is the latest already"),
        ("hidden", "was itself rolled back; --undo brings it back"),
    ],
)
def test_version_that_cannot_be_gone_back_to_is_told(three, to, message):
    folder, (_, second, third) = three
    folder.roll_back([third])
    with pytest.raises(InputError, match=message):
        folder.to_roll_back({"latest": second, "hidden": third}.get(to, to))


def test_only_version_cannot_be_rolled_back(tmp_path, serving):
    with pytest.raises(InputError, match="there is no version, so"):
        VersionFolder(str(serving)).to_roll_back()
    number = push(saved_model(tmp_path, "a"), serving).number
    with pytest.raises(InputError, match=f"there is only version {number}, so"):
        VersionFolder(str(serving)).to_roll_back()


def test_old_versions_are_pruned(tmp_path, serving, three):
    folder, (first, second, third) = three
    assert folder.to_prune(3) == folder.to_prune(9) == []
    assert folder.to_prune(1) == [first, second]
    assert folder.to_prune(1, served=[first, 8]) == [second]
    for keep in (0, -1):
        with pytest.raises(InputError, match=f"--keep must be at least 1. Received: {keep}"):
            folder.to_prune(keep)
    folder.roll_back([third])
    folder.prune(folder.to_prune(1))
    assert names(serving) == {str(second), f".rolled-back-{third}"}


def test_deletion_that_was_killed_is_finished_by_the_next_push(tmp_path, serving, three):
    _, (first, second, third) = three
    (serving / str(first)).rename(serving / f".pruned-{first}")
    (serving / str(third)).rename(serving / f".taken-back-{third}")
    push(saved_model(tmp_path, "d"), serving)
    assert pushed_versions(str(serving))[0] == second
    assert f".pruned-{first}" not in names(serving)
    assert names(serving / f".taken-back-{third}") == {MARKER_FILE}


class Killed(BaseException):
    """Stands for a kill: nothing may catch it."""


@pytest.fixture
def execute(tmp_path, serving):
    """Runs the executor on a model; returns the artifact that it has marked."""

    def execute(name: str = "model", *, blessed: bool = True, **properties):
        if not (tmp_path / name).exists():
            saved_model(tmp_path, name)
        model = standard_artifacts.Model()
        model.uri, model.id = str(tmp_path / name), 5
        blessing = standard_artifacts.ModelBlessing()
        blessing.uri, blessing.id = str(tmp_path / "blessing"), 6
        blessing.set_int_custom_property("blessed", int(blessed))
        pushed = standard_artifacts.PushedModel()
        pushed.uri = str(tmp_path / "pushed")
        destination = pusher_pb2.PushDestination(
            filesystem=pusher_pb2.PushDestination.Filesystem(base_directory=str(serving))
        )
        Executor(base_executor.BaseExecutor.Context(pipeline_run_id="monday")).Do(
            {"model": [model], "model_blessing": [blessing]},
            {"pushed_model": [pushed]},
            {"push_destination": proto_utils.proto_to_json(destination), **properties},
        )
        return pushed

    return execute


@pytest.mark.parametrize("blessed", [True, False])
def test_executor_pushes_what_is_blessed(tmp_path, serving, execute, blessed):
    pushed = execute(blessed=blessed)
    versions = pushed_versions(str(serving))
    assert pushed.get_int_custom_property("pushed") == blessed
    assert len(versions) == blessed
    if blessed:
        place = serving / str(versions[0])
        assert pushed.get_string_custom_property("pushed_version") == str(versions[0])
        assert pushed.get_string_custom_property("pushed_destination") == str(place)
        marker = json.loads((place / MARKER_FILE).read_text(encoding="utf-8"))
        assert json.loads((tmp_path / "pushed" / MARKER_FILE).read_text("utf-8")) == marker
        assert pushed.get_string_custom_property("pushed_sha256") == marker["sha256"]
        assert (marker["model_uri"], marker["model_id"]) == (str(tmp_path / "model"), 5)
        assert (marker["blessing_uri"], marker["blessing_id"]) == (str(tmp_path / "blessing"), 6)
        assert marker["run_id"] == "monday"


@pytest.fixture
def server():
    """A server as the client's tests know it; it serves what a test says."""
    server = serving_tests.FakeServer()
    server.start()
    yield server
    server.stop()


def served(server, *, pairs: bool = False):
    """Lets a server load the next version that it is asked for."""
    server.pairs = pairs
    check = server._check

    def loading(request, context, loaded: bool = True):
        server.version = request.model_spec.version.value
        server.states = {server.version: 30}
        check(request, context, loaded)

    server._check = loading


@pytest.mark.parametrize("pairs", [False, True])
def test_server_is_asked_for_the_new_version(serving, execute, server, pairs):
    served(server, pairs=pairs)
    execute(server=server.target, model_name="model", server_timeout=10.0)
    (version,) = pushed_versions(str(serving))
    (request,) = server.requests
    assert request.model_spec.version.value == version
    assert set(request.inputs) == ({"text_a", "text_b"} if pairs else {"text_a"})
    record = json.loads((serving / str(version) / "served.json").read_text(encoding="utf-8"))
    assert record["server"] == server.target


def test_version_that_the_server_does_not_load_is_taken_back(serving, execute, server):
    execute("old")
    (old,) = pushed_versions(str(serving))
    with pytest.raises(InputError) as caught:
        execute(server=server.target, model_name="model", server_timeout=0.5)
    assert pushed_versions(str(serving)) == [old]
    taken = VersionFolder(str(serving)).versions()[-1]
    assert taken.state is State.TAKEN_BACK
    assert names(serving / f".taken-back-{taken.number}") == {MARKER_FILE, "taken_back.json"}
    assert taken.change["reason"] == (
        f"{server.target}, model 'model' version {taken.number}: not loaded within 0.5 s; the "
        "server has only 7 AVAILABLE; does it watch this folder?"
    )
    message = str(caught.value)
    assert message.startswith(f"version {taken.number} was taken back from {serving}, because")
    assert f"{server.target}, model 'model' version {taken.number}: not loaded" in message
    # It is no bad model, until somebody says so: the next run may push it.
    served(server)
    execute(server=server.target, model_name="model", server_timeout=10.0)
    assert pushed_versions(str(serving))[-1] > taken.number


def test_version_that_cannot_be_loaded_is_not_waited_for(serving, execute, server, monkeypatch):
    monkeypatch.setattr(verification, "_ROUND_SECONDS", 0.3)
    served(server)
    answer = server._metadata

    def failing(request, context):
        server.states[request.model_spec.version.value] = 50
        server._check = type(server)._check.__get__(server)
        return answer(request, context)

    server._server.stop(None).wait()
    server._metadata = failing
    target = server.start()
    begun = time.monotonic()
    with pytest.raises(InputError, match="the server cannot load it: NOT_FOUND: no variables"):
        execute(server=target, model_name="model", server_timeout=60.0)
    assert time.monotonic() - begun < 10
    assert pushed_versions(str(serving)) == []


def test_version_that_gives_no_answer_is_taken_back(serving, execute, server):
    served(server)
    server.script = [server.changed("probabilities", None)]
    with pytest.raises(InputError, match=r"taken back.*without output probabilities"):
        execute(server=server.target, model_name="model", server_timeout=10.0)
    assert pushed_versions(str(serving)) == []


def test_push_that_was_killed_before_the_answer_is_verified_by_the_next_run(
    serving, execute, server, monkeypatch
):
    asked = {"server": server.target, "model_name": "model", "server_timeout": 0.5}
    with monkeypatch.context() as context:
        context.setattr(VersionFolder, "take_back", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            execute(**asked)
    assert len(pushed_versions(str(serving))) == 1
    with pytest.raises(InputError, match="was taken back"):
        execute(**asked)
    assert pushed_versions(str(serving)) == []


@pytest.mark.parametrize("asked_before", [True, False])
def test_version_that_was_good_is_not_taken_back_when_the_server_is_away(
    serving, execute, server, asked_before
):
    asked = {"server": server.target, "model_name": "model", "server_timeout": 0.5}
    served(server)
    execute(**(asked if asked_before else {}))
    versions = pushed_versions(str(serving))
    server.stop()
    with pytest.raises(InputError, match=r"earlier run and stays in .*not available"):
        execute(**asked)
    assert pushed_versions(str(serving)) == versions


def test_older_version_that_is_there_is_not_asked_for(serving, execute, server, caplog):
    execute("old")
    execute("new")
    pushed = execute("old", server=server.target, model_name="model", server_timeout=0.5)
    old, new = pushed_versions(str(serving))
    assert pushed.get_string_custom_property("pushed_version") == str(old)
    assert f"version {new} is newer, so that one is served" in caplog.text


# A server that wants to know who asks.


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """The paths of the certificates that the client's tests use."""
    return serving_tests.make_certificates().write(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def secure_server(server, certificates):
    """A server that wants certificate and token of who asks; and what it is asked with."""
    server.stop()
    content = {name: pathlib.Path(path).read_bytes() for name, path in certificates.items()}
    server.start(
        credentials=grpc.ssl_server_credentials(
            [(content["server_key"], content["server_cert"])],
            content["ca"],
            require_client_auth=True,
        )
    )
    server.token = "secret"
    served(server)
    return server


@pytest.fixture
def asked(secure_server, certificates, tmp_path):
    token_file = tmp_path / "token"
    token_file.write_text("secret\n")
    return {
        "server": secure_server.target,
        "model_name": "model",
        "server_timeout": 5.0,
        "server_tls_ca": certificates["ca"],
        "server_tls_cert": certificates["client_cert"],
        "server_tls_key": certificates["client_key"],
        "server_token_file": str(token_file),
    }


def test_server_is_asked_with_certificate_and_token(serving, execute, secure_server, asked):
    execute(**asked)
    (version,) = pushed_versions(str(serving))
    (request,) = secure_server.requests
    assert request.model_spec.version.value == version
    record = json.loads((serving / str(version) / "served.json").read_text(encoding="utf-8"))
    assert record["server"] == secure_server.target


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"server_tls_ca": "other_ca"}, "CERTIFICATE_VERIFY_FAILED.*check the certificates"),
        ({"server_tls_cert": "other_cert", "server_tls_key": "other_key"}, "not available"),
        ({"server_tls_cert": None, "server_tls_key": None}, "not available"),
        ({"server_tls_ca": None, "server_tls_cert": None, "server_tls_key": None}, "TLS"),
        ({"server_token_file": None}, "no valid token; check the token"),
    ],
)
def test_version_of_which_the_server_does_not_tell_us_is_taken_back(
    serving, execute, asked, certificates, changed, words
):
    changed = {name: value and certificates[value] for name, value in changed.items()}
    with pytest.raises(InputError, match=rf"was taken back from (?s:.*){words}") as caught:
        execute(**asked | changed | {"server_timeout": 1.0})
    assert pushed_versions(str(serving)) == []
    (version,) = VersionFolder(str(serving)).versions()
    assert version.change["reason"] in str(caught.value)
    assert "secret" not in str(caught.value)


def test_token_that_is_wrong_is_not_told(serving, execute, asked):
    pathlib.Path(asked["server_token_file"]).write_text("guessed")
    with pytest.raises(InputError, match=r"was taken back.*check the token") as caught:
        execute(**asked)
    assert "guessed" not in str(caught.value)
    assert pushed_versions(str(serving)) == []


def test_files_that_are_gone_when_the_server_is_asked_are_told(serving, execute, asked):
    os.remove(asked["server_token_file"])
    message = "was taken back.*/token: cannot be read .token of the server.: No such file"
    with pytest.raises(InputError, match=message):
        execute(**asked)
    assert pushed_versions(str(serving)) == []


@pytest.mark.slow
def test_local_server_is_asked(tmp_path, serving, execute, start):
    """A model that is one, on the server that comes with the project."""
    from bert_tfx.modeling.export import saved_model

    version_changes = module_of(HERE.parent / "serving" / "version_changes.py")
    for seed, name in enumerate(("old", "new", "third")):
        saved_model.save_for_serving(
            version_changes.make_model(seed), str(tmp_path / name / "Format-Serving")
        )
    execute("old")
    (old,) = pushed_versions(str(serving))
    target, log = f"127.0.0.1:{free_port()}", tmp_path / "log"
    with log.open("w") as written:
        process = start(
            *("serve", "--model", serving, "--port", target.partition(":")[2]),
            stdout=written,
            stderr=written,
        )
    try:
        with Client(target, timeout=60) as client:
            client.wait_until_ready(60)
        asked = {"server": target, "model_name": "model", "server_timeout": 60.0}
        execute("new", **asked)
        _, new = pushed_versions(str(serving))
        record = json.loads((serving / str(new) / "served.json").read_text(encoding="utf-8"))
        assert record["server"] == asked["server"]
        wrong = {"model_name": "other", "server_timeout": 2.0}
        with pytest.raises(InputError, match=r"was taken back.*there is no model 'other'"):
            execute("third", **asked | wrong)
        assert pushed_versions(str(serving)) == [old, new]
    finally:
        process.terminate()
        assert process.wait(30) == 0, log.read_text()


# The component.


def channels():
    return {
        "model": as_channel([standard_artifacts.Model()]),
        "model_blessing": as_channel([standard_artifacts.ModelBlessing()]),
    }


def test_component_passes_the_server_on():
    asked = {"server": "localhost:8500", "server_timeout": 7}
    properties = ModelPusher(**channels(), base_directory="x", **asked).exec_properties
    assert {name: properties[name] for name in asked} == asked
    assert properties["model_name"] == "model"
    without = ModelPusher(**channels(), base_directory="x").exec_properties
    assert without.get("server") is without.get("model_name") is None


def test_component_refuses_what_is_no_address():
    with pytest.raises(InputError, match="8500"):
        ModelPusher(**channels(), base_directory="x", server="http://localhost:8500/x")


def test_component_passes_files_on_as_paths(tmp_path, certificates):
    (tmp_path / "token").write_text("secret")
    files = {
        "server_tls_ca": certificates["ca"],
        "server_tls_cert": certificates["client_cert"],
        "server_tls_key": certificates["client_key"],
        "server_token_file": str(tmp_path / "token"),
    }
    pusher = ModelPusher(
        **channels(), base_directory="x", server="models.example.org:8500", **files
    )
    assert {name: pusher.exec_properties[name] for name in files} == files
    everything = repr(pusher.exec_properties)
    assert "secret" not in everything
    assert "PRIVATE KEY" not in everything
    one = ModelPusher(
        **channels(),
        base_directory="x",
        server="localhost:8500",
        server_token_file=files["server_token_file"],
    )
    assert one.exec_properties["server_token_file"] == files["server_token_file"]
    assert one.exec_properties.get("server_tls_ca") is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"server_tls_ca": "gone.pem"}, "gone.pem: cannot be read .ca of TLS.: No such file"),
        ({"server_tls_cert": "cert", "server_tls_key": "gone"}, "gone: cannot be read .key of TLS"),
        ({"server_tls_cert": "cert"}, "certificate and its key; one of the two is missing"),
        ({"server_tls_ca": "token"}, "token: is not PEM"),
        ({"server_token_file": "gone"}, "gone: cannot be read .token of the server.: No such file"),
        ({"server_token_file": "."}, r"\.: cannot be read .token of the server.: Is a directory"),
        ({"server_token_file": "token"}, "10.0.0.1:8500: the token would travel there unencrypted"),
        ({"server_token_file": "two"}, "the token must be printable ASCII"),
        ({"server_token_file": "latin"}, "latin: cannot be read .token of the server.: not UTF-8"),
        ({"server": None, "server_tls_ca": "cert"}, "cert: there is no server that it is for"),
        ({"server": None, "server_token_file": "token"}, "is for .server_token_file.; name the"),
    ],
)
def test_component_tries_the_files(tmp_path, monkeypatch, certificates, given, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cert").write_bytes(pathlib.Path(certificates["client_cert"]).read_bytes())
    (tmp_path / "token").write_text("secret")
    (tmp_path / "two").write_text("two words")
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    server = {"server": "10.0.0.1:8500"}
    with pytest.raises(InputError, match=message) as caught:
        ModelPusher(**channels(), base_directory="x", **server | given)
    assert "secret" not in str(caught.value)
