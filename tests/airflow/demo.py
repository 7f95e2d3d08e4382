"""The sample's pipeline under a real Airflow scheduler, with its web page: `make airflow-demo`.

This file runs where TFX is, and starts Airflow's services out of Airflow's own environment. The
tasks' command is the one beside this Python. Everything lies below one folder, listens on the
loopback address, and is stopped at the end. The web page lets everybody in: it is for this
demonstration only.
"""

import argparse
import collections
import contextlib
import functools
import json
import os
import pathlib
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ml_metadata import metadata_store
from ml_metadata.proto import metadata_store_pb2

from bert_tfx.pipeline.configuration.stages import STAGES, stage_of

_COMMAND = pathlib.Path(sys.executable).with_name("bert-tfx")
_ROOT = pathlib.Path(__file__).resolve().parents[2]
_DAG_FILE = _ROOT / "pipeline" / "orchestrators" / "airflow_dag.py"
_DAG = "bert_tfx_sample"
_SERVICES = {
    # The web server reads the logs of the tasks from the disk: no server of logs is needed.
    "scheduler": ("--skip-serve-logs",),
    "dag-processor": (),
    "api-server": (),
}
_START_SECONDS = 120
_RUN_SECONDS = 1800
# After it is recorded as running: long enough to be at work, and short enough to be so still.
_KILL_AFTER_SECONDS = 3.0
# They look anew in each run.
_RESOLVERS = {"AcceptedData", "AcceptedTokens", "Baseline"}


class DemoError(Exception):
    """Something went another way than it should; the message says what."""


def main() -> int:
    """Runs the demonstration; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--airflow", required=True, help="Airflow's command")
    parser.add_argument("--folder", default="build/airflow", help="is made anew (%(default)s)")
    parser.add_argument(
        "--database",
        choices=("sqlite", "postgresql"),
        default="sqlite",
        help="Airflow's own: a file, or a PostgreSQL server that is started for the purpose "
        "(%(default)s)",
    )
    parser.add_argument("--kill", choices=STAGES, help="kill this stage's process while it runs")
    parser.add_argument("--screenshot", metavar="FILE", help="of the web page's grid, by Chromium")
    arguments = parser.parse_args()
    # Ended from outside, too, it stops what it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        with contextlib.ExitStack() as started:
            _demonstrate(arguments, started)
    except DemoError as error:
        print(f"airflow-demo: {error}", file=sys.stderr)
        return 1
    return 0


def _demonstrate(arguments: argparse.Namespace, started: contextlib.ExitStack) -> None:
    folder = pathlib.Path(arguments.folder).resolve()
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "dags").mkdir(parents=True)
    (folder / "dags" / "bert_tfx_dag.py").symlink_to(_DAG_FILE)
    config = folder / "sample.json"
    config.write_text(json.dumps({"task": "sample", "output": "output"}), encoding="utf-8")
    if arguments.database == "postgresql":
        database = started.enter_context(_postgresql(folder / "postgresql"))
    else:
        database = f"sqlite:///{folder / 'airflow.db'}"
    web = _Web(f"http://127.0.0.1:{_free_port()}")
    environment = _environment(folder, config, web.url, database)
    airflow = os.path.abspath(arguments.airflow)
    version = _call(environment, airflow, "version").splitlines()[-1]
    print(f"Airflow {version} in {folder}: {arguments.database}, LocalExecutor")
    _call(environment, airflow, "db", "migrate")
    report = _call(environment, airflow, "dags", "report", "--output", "json")
    (parsed,) = json.loads(report.splitlines()[-1])
    # As `0:00:01.500000`; Airflow gives up after half a minute.
    seconds = float(parsed["duration"].rpartition(":")[2])
    print(f"DAG file parsed in {seconds:.3f} s; the tasks' command: {_COMMAND}")

    for service, options in _SERVICES.items():
        log = folder / f"{service}.log"
        started.enter_context(_service([airflow, service, *options], log, env=environment))
    web.wait()
    print(f"{', '.join(_SERVICES)} run: {web.url}")
    first = _trigger(web, folder, kill=arguments.kill)
    # With the process that it starts for it, and until it looks whether that has ended.
    print(f"the DAG processor took {web.dag()['last_parse_duration']:.3f} s for the DAG file")
    versions = sorted((folder / "output" / "serving").iterdir())
    print(f"pushed: {', '.join(map(str, versions))}\n")
    if len(versions) != 1:
        raise DemoError(f"one version should have been pushed, not {len(versions)}")
    if arguments.kill and first[arguments.kill]["try_number"] != 2:
        raise DemoError(f"{arguments.kill} should have been tried twice")
    again = _trigger(web, folder)
    if arguments.screenshot:
        _screenshot(f"{web.url}/dags/{_DAG}", folder, arguments.screenshot)
    anew = [name for task in again.values() for name in task["anew"]]
    if set(anew) - _RESOLVERS:
        raise DemoError(f"the second run should have been cached, but not so {anew}")
    if sorted((folder / "output" / "serving").iterdir()) != versions:
        raise DemoError("the second run has pushed again")
    print("the second run took everything from the cache, and pushed nothing again")


def _environment(
    folder: pathlib.Path, config: pathlib.Path, url: str, database: str
) -> dict[str, str]:
    settings = {
        "CORE__EXECUTOR": "LocalExecutor",
        "CORE__LOAD_EXAMPLES": "False",
        "CORE__DAGS_FOLDER": str(folder / "dags"),
        "CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        # A component computes with all cores by itself.
        "CORE__PARALLELISM": "2",
        "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        # Tasks tell the API server how they are.
        "CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "DATABASE__SQL_ALCHEMY_CONN": database,
        "API__BASE_URL": url,
        "API__HOST": "127.0.0.1",
        "API__PORT": url.rpartition(":")[2],
        "API__SECRET_KEY": secrets.token_hex(),
        "API_AUTH__JWT_SECRET": secrets.token_hex(),
        "USAGE_DATA_COLLECTION__ENABLED": "False",
    }
    return os.environ | {
        "AIRFLOW_HOME": str(folder),
        "BERT_TFX_CONFIG": str(config),
        "BERT_TFX_COMMAND": str(_COMMAND),
        **{f"AIRFLOW__{name}": value for name, value in settings.items()},
    }


def _call(environment: Mapping[str, str], *command: str) -> str:
    """Runs a command to its end; returns what it says."""
    done = subprocess.run(
        command,
        cwd=environment["AIRFLOW_HOME"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise DemoError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


@contextlib.contextmanager
def _service(
    command: Sequence[str], log_file: pathlib.Path, stop: int = signal.SIGTERM, **options: Any
) -> Iterator[None]:
    """Starts a service, and stops it with all that it has started in its process group."""
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, **options
        )
    try:
        yield
        if process.poll() is not None:
            raise DemoError(f"{log_file.stem} has ended by itself: see {log_file}")
    finally:
        for number in (stop, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)


@contextlib.contextmanager
def _postgresql(folder: pathlib.Path) -> Iterator[str]:
    """Starts a PostgreSQL server on a socket of its own; yields the URL of its database."""
    places = [os.environ["PATH"], *map(str, pathlib.Path("/usr/lib/postgresql").glob("*/bin"))]
    programs = [shutil.which(name, path=os.pathsep.join(places)) for name in ("initdb", "postgres")]
    initdb, postgres = programs
    if initdb is None or postgres is None:
        raise DemoError("PostgreSQL is not installed: apt install postgresql, or --database sqlite")
    folder.mkdir()
    options: dict[str, Any] = {"cwd": folder}
    if os.geteuid() == 0:
        # It refuses to be root; Debian's package makes it a user.
        options["user"] = "postgres"
        shutil.chown(folder, "postgres")
    made = subprocess.run(
        [initdb, "--pgdata=data", "--username=airflow", "--auth=trust"],
        capture_output=True,
        text=True,
        check=False,
        **options,
    )
    if made.returncode:
        raise DemoError(f"initdb failed: {made.stderr}")
    command = [postgres, "-D", "data", "-k", str(folder), "-c", "listen_addresses="]
    # At SIGINT it does not wait for its clients.
    with _service(command, folder.with_suffix(".log"), stop=signal.SIGINT, **options):
        deadline = time.monotonic() + _START_SECONDS
        while not (folder / ".s.PGSQL.5432").exists():
            if time.monotonic() > deadline:
                raise DemoError(f"PostgreSQL has not started: see {folder.with_suffix('.log')}")
            time.sleep(0.1)
        yield f"postgresql+psycopg2://airflow@/postgres?host={folder}"


class _Web:
    """Airflow's API server, which has the web page, too."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        request = urllib.request.Request(
            f"{self.url}{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def dag(self) -> Any:
        return self.get(f"/api/v2/dags/{_DAG}")

    def runs(self, path: str = "", body: Mapping[str, Any] | None = None) -> Any:
        return self.get(f"/api/v2/dags/{_DAG}/dagRuns{path}", body)

    def wait(self) -> None:
        """Waits until all services work and the DAG is there."""
        deadline = time.monotonic() + _START_SECONDS
        reason: object = None
        while time.monotonic() < deadline:
            try:
                health = self.get("/api/v2/monitor/health")
                states = {name: health[name]["status"] for name in ("scheduler", "dag_processor")}
                for error in self.get("/api/v2/importErrors")["import_errors"]:
                    raise DemoError(error["stack_trace"])
                if set(states.values()) == {"healthy"}:
                    self.dag()
                    return
                reason = states
            except OSError as error:
                reason = error
            time.sleep(1)
        raise DemoError(f"Airflow has not started within {_START_SECONDS} s: {reason}")


def _trigger(web: _Web, folder: pathlib.Path, kill: str | None = None) -> dict[str, dict[str, Any]]:
    """Runs the DAG to its end; returns what became of each task, and shows it."""
    run_id = web.runs(body={"logical_date": None})["dag_run_id"]
    begun = time.monotonic()
    print(f"triggered {run_id}")
    path = f"/{urllib.parse.quote(run_id)}"
    recorded = functools.partial(_recorded, folder / "output" / "metadata.sqlite", run_id)
    while (state := web.runs(path)["state"]) not in ("success", "failed"):
        if time.monotonic() > begun + _RUN_SECONDS:
            raise DemoError(f"the run has not ended within {_RUN_SECONDS} s")
        if kill and (pid := _process_of(kill, run_id)) and _is_running(kill, recorded()):
            time.sleep(_KILL_AFTER_SECONDS)
            os.kill(pid, signal.SIGKILL)
            print(f"killed process {pid} of {kill} (SIGKILL)")
            kill = None
        time.sleep(0.5)
    answer = web.runs(f"{path}/taskInstances")["task_instances"]
    tasks = {task["task_id"]: task for task in answer}
    states = recorded()
    print(f"{'task':9} {'state':8} tries  {'begun':8} {'seconds':>7}  nodes in ML Metadata")
    for name, task in sorted(tasks.items(), key=lambda item: item[1]["start_date"]):
        of_stage = {node: found for node, found in states.items() if stage_of(node) == name}
        task["anew"] = [node for node, found in of_stage.items() if found != ["cached"]]
        counts = collections.Counter(state for found in of_stage.values() for state in found)
        print(
            f"{name:9} {task['state']:8} {task['try_number']:5}  {task['start_date'][11:19]} "
            f"{task['duration']:7.1f}  "
            + ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
        )
    print(f"run: {state} after {time.monotonic() - begun:.0f} s")
    if state != "success":
        raise DemoError(f"the run failed: see {folder / 'logs'}")
    return tasks


def _is_running(stage: str, states: Mapping[str, list[str]]) -> bool:
    return any("running" in found for node, found in states.items() if stage_of(node) == stage)


def _process_of(stage: str, run_id: str) -> int | None:
    """Returns the process that runs a stage of a run, if there is one."""
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().decode(errors="replace").split("\0")
            if {"component", "--stage", stage, run_id} <= set(words):
                return int(path.parent.name)
    return None


def _recorded(metadata: pathlib.Path, run_id: str) -> dict[str, list[str]]:
    """Returns the states of each node's executions in a run; of none where it has not begun."""
    states: dict[str, list[str]] = collections.defaultdict(list)
    if not metadata.exists():
        return states
    connection = metadata_store_pb2.ConnectionConfig()
    connection.sqlite.filename_uri = str(metadata)
    connection.sqlite.connection_mode = metadata_store_pb2.SqliteMetadataSourceConfig.READONLY
    store = metadata_store.MetadataStore(connection)
    run = store.get_context_by_type_and_name("pipeline_run", run_id)
    for execution in store.get_executions_by_context(run.id) if run else ():
        for context in store.get_contexts_by_execution(execution.id):
            if store.get_context_types_by_id([context.type_id])[0].name == "node":
                state = metadata_store_pb2.Execution.State.Name(execution.last_known_state)
                states[context.name.rpartition(".")[2]].append(state.lower())
    return states


def _screenshot(page: str, folder: pathlib.Path, file: str) -> None:
    """Lets Chromium draw a page."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise DemoError("--screenshot needs Chromium: there is no chromium on PATH")
    subprocess.run(
        [
            *(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
            *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
            *("--disable-sync", "--window-size=1600,1200", "--hide-scrollbars"),
            *("--timeout=20000", "--virtual-time-budget=20000"),
            *(f"--user-data-dir={folder / 'chromium'}", f"--screenshot={os.path.abspath(file)}"),
            page,
        ],
        capture_output=True,
        check=True,
        timeout=120,
    )
    print(f"the web page's grid: {file}")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


if __name__ == "__main__":
    sys.exit(main())
