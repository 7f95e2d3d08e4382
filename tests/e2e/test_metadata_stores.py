"""Whole runs whose records are kept by a MySQL server, also two at once, and by a gRPC server."""

import importlib.util
import json
import os
import pathlib
import pwd
import shutil
import socket
import subprocess
import time

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.real, pytest.mark.timeout(1800)]

_PATH = pathlib.Path(__file__).parents[1] / "pipeline" / "metadata" / "metadata_server.py"
_SPEC = importlib.util.spec_from_file_location("metadata_server", _PATH)
metadata_server = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(metadata_server)

_SERVER = next(filter(None, map(shutil.which, ("mariadbd", "mysqld"))), None) or next(
    (path for path in ("/usr/sbin/mariadbd", "/usr/sbin/mysqld") if os.path.exists(path)), None
)
_INSTALL, _CLIENT = shutil.which("mariadb-install-db"), shutil.which("mariadb")
_START_SECONDS = 60
_PASSWORD = "hu sh"
LEARN = (
    "--size", "tiny", "--max-length", 16, "--batch-size", 16, "--epochs", 4,
    "--learning-rate", 2e-3, "--seed", 1, "--min-accuracy", 0,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("stores")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server of its own with an empty database `records` of the user `tfx`; yields its port."""
    if not (_SERVER and _INSTALL and _CLIENT):
        pytest.skip("there is no MariaDB server: apt install mariadb-server")
    # The server must not be root; pytest's folders are for their owner only.
    place = pathlib.Path("/tmp" if os.getuid() == 0 else tmp_path_factory.mktemp("mysql"))
    place = place / f"bert-tfx-mysql-{os.getpid()}"
    place.mkdir()
    user = {}
    if os.getuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(place, nobody.pw_uid, nobody.pw_gid)
        user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    subprocess.run(
        [
            *(_INSTALL, "--no-defaults", f"--datadir={place}/data", "--skip-test-db"),
            "--auth-root-authentication-method=normal",
        ],
        check=True,
        capture_output=True,
        **user,
    )
    running = subprocess.Popen(
        [
            *(_SERVER, "--no-defaults", f"--datadir={place}/data", f"--socket={place}/socket"),
            *("--bind-address=127.0.0.1", f"--port={port}", f"--log-error={place}/log"),
        ],
        stderr=subprocess.DEVNULL,
        **user,
    )
    try:
        for statement in (
            "CREATE DATABASE records",
            f"CREATE USER tfx@'127.0.0.1' IDENTIFIED BY '{_PASSWORD}'",
            "GRANT ALL ON records.* TO tfx@'127.0.0.1'",
        ):
            execute(port, statement)
        yield port
    finally:
        running.terminate()
        running.wait(60)
        shutil.rmtree(place)


def execute(port, statement):
    """Runs a statement as root, as soon as the server answers; returns what it prints."""
    deadline = time.monotonic() + _START_SECONDS
    command = [_CLIENT, "--no-defaults", "-h127.0.0.1", f"-P{port}", "-uroot", "-N", "-e"]
    while True:
        done = subprocess.run([*command, statement], capture_output=True, text=True)
        if done.returncode == 0:
            return done.stdout
        if time.monotonic() > deadline or "connect" not in done.stderr:
            raise AssertionError(done.stderr)
        time.sleep(0.2)


@pytest.fixture(scope="module")
def store(server, folder):
    password = folder / "password"
    password.write_text(f"{_PASSWORD}\n", encoding="utf-8")
    return (
        "--metadata", f"mysql://tfx@127.0.0.1:{server}/records",
        "--metadata-password-file", password,
    )  # fmt: skip


@pytest.fixture(scope="module")
def arguments(glue_dir, store):
    return "--task", "sst2", "--data", glue_dir, *LEARN, *store


@pytest.fixture(scope="module")
def both(start, arguments, folder):
    """Two whole runs at the same time into an empty database, each in a folder of its own."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    running = [
        start("run", *arguments, "--output", folder / name, **options) for name in ("a", "b")
    ]
    ended = []
    for process in running:
        stdout, stderr = process.communicate()
        assert process.returncode == 0, f"{stdout}\n{stderr}"
        ended.append(stdout)
    return ended


def test_two_runs_at_once_push_each_its_model(both, folder, server):
    for name in ("a", "b"):
        (version,) = (folder / name / "serving").iterdir()
        assert version.name.isdigit()
        assert not (folder / name / "metadata.sqlite").exists()
    kept = execute(
        server, "SELECT name FROM records.Context WHERE name LIKE 'bert-tfx-sst2%' AND "
        "type_id = (SELECT id FROM records.Type WHERE name = 'pipeline')",
    )  # fmt: skip
    assert len(kept.split()) == 2


def test_nothing_is_recorded_twice_or_lost(both, command, folder):
    for name in ("a", "b"):
        done = command("runs", "--json", "--output", folder / name)
        (run,) = json.loads(done.stdout)
        assert (run["promoted"], run["served"], run["stopped_at"]) == (True, True, None)
        assert run["baseline_accuracy"] is None


def test_second_run_is_all_cached(both, run, arguments, folder):
    again = run(folder / "a", *arguments).check(0)
    assert {name for name, state in again.components.items() if state == "done"} == {
        *("AcceptedData", "AcceptedTokens", "Baseline"),
    }
    assert len(again.versions) == 1


def test_page_is_made_from_the_records(both, command, folder):
    done = command("report", "--output", folder / "b")
    assert done.returncode == 0, done.stderr
    content = json.loads((folder / "b" / "report" / "report.json").read_text(encoding="utf-8"))
    assert content["run"]["stopped_at"] is None
    assert _PASSWORD not in json.dumps(content)


def test_two_folders_of_one_lineage_are_compared(both, run, arguments, folder):
    first = run(folder / "c", *arguments, "--lineage", "reviews").check(0)
    second = run(folder / "d", *arguments, "--lineage", "reviews", "--epochs", 3).check(0)
    assert "the last promoted model has" not in first.stdout
    assert "the last promoted model has" in second.stdout


@pytest.mark.parametrize(
    ("url", "password", "message"),
    [
        ("mysql://tfx@127.0.0.1:{}/records", "wrong", "refuses the user or the password"),
        ("mysql://tfx@127.0.0.1:{}/record", _PASSWORD, "may not use this database, or there is"),
        ("mysql://root@127.0.0.1:{}/record", "", "there is no such database"),
    ],
)
def test_refusals_are_said_in_a_sentence(
    server, command, tmp_path, glue_dir, url, password, message
):
    file = tmp_path / "password"
    file.write_text(password, encoding="utf-8")
    done = command(
        "run", "--task", "sst2", "--data", glue_dir, "--output", tmp_path / "output",
        "--metadata", url.format(server), "--metadata-password-file", file,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"bert-tfx: {url.format(server)}: the metadata store cannot be used: ")
    assert message in line
    assert "wrong" not in line


def test_whole_run_over_grpc(run, command, glue_dir, tmp_path):
    output = tmp_path / "output"
    with metadata_server.MetadataServer(tmp_path) as server:
        store = ("--metadata", f"grpc://localhost:{server.port}")
        done = run(output, "--task", "sst2", "--data", glue_dir, *LEARN, *store).check(0)
        assert len(done.versions) == 1
        print(f"{server.calls} calls")
        (listed,) = json.loads(command("runs", "--json", "--output", output).stdout)
        assert listed["version"] == str(done.versions[0])
    assert not (output / "metadata.sqlite").exists()
