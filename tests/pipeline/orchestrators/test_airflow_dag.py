"""The DAG file. What needs Airflow runs where it is installed: `make test-airflow`."""

import ast
import datetime
import importlib.util
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
from unittest import mock

import pytest

from bert_tfx.pipeline.configuration.stages import STAGES
from bert_tfx.pipeline.process.exit_codes import ExitCode

ROOT = pathlib.Path(__file__).resolve().parents[3]
FILE = ROOT / "pipeline" / "orchestrators" / "airflow_dag.py"

airflow = pytest.mark.skipif(
    importlib.util.find_spec("airflow") is None,
    reason="Airflow is not installed: make test-airflow",
)

PARSE = """
import json, runpy, sys
from airflow.sdk import DAG
values = runpy.run_path(sys.argv[1]).values()
print(json.dumps({dag.dag_id: sorted(dag.task_ids) for dag in values if isinstance(dag, DAG)}))
"""


def test_dag_file_imports_airflow_and_the_standard_library_only():
    names = set()
    for node in ast.walk(ast.parse(FILE.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.split(".")[0])
    assert names - sys.stdlib_module_names == {"airflow"}


def test_exit_codes_are_those_of_the_command():
    (codes,) = re.findall(r"^(_DONE, .*) = (.*)$", FILE.read_text(encoding="utf-8"), re.M)
    names, values = (part.split(", ") for part in codes)
    named = {"_DONE": 0, "_INPUT_ERROR": 2, "_NOT_PUSHED": 3, "_DATA_REFUSED": 4}
    assert dict(zip(names, map(int, values), strict=True)) == named
    assert (ExitCode.DONE, ExitCode.INPUT_ERROR) == (0, 2)
    assert (ExitCode.NOT_BLESSED, ExitCode.DATA_REFUSED) == (3, 4)


def test_stages_are_those_of_the_command():
    (named,) = re.findall(r"^STAGES = (.*)$", FILE.read_text(encoding="utf-8"), re.M)
    assert ast.literal_eval(named) == tuple(STAGES)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """An AIRFLOW_HOME with a database, and the DAG file in its dags folder."""
    home = tmp_path_factory.mktemp("airflow")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        }.items():
            patch.setenv(name, value)
        subprocess.run(
            [sys.executable, "-m", "airflow", "db", "migrate"], capture_output=True, check=True
        )
        (home / "dags").mkdir()
        (home / "dags" / "bert_tfx_dag.py").symlink_to(FILE)
        yield home


@pytest.fixture
def parse(home):
    """Runs the DAG file in a process of its own; returns the tasks of its DAGs, or the error."""

    def parse(**environment):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", PARSE, str(home / "dags" / "bert_tfx_dag.py")],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stderr if done.returncode else json.loads(done.stdout.splitlines()[-1])

    return parse


@pytest.fixture
def command(tmp_path):
    """Makes a command that ends as told."""

    def command(code="exit 0"):
        path = tmp_path / "bert-tfx"
        path.write_text(f"#!/bin/sh\n{code}\n", encoding="utf-8")
        path.chmod(0o755)
        return str(path)

    return command


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "my reviews.json"
    path.write_text('{"output": "out put"}', encoding="utf-8")
    return str(path)


@pytest.fixture
def airflow_dag(home):
    # Once a process, and with the environment of `home`.
    from bert_tfx.pipeline.orchestrators import airflow_dag

    return airflow_dag


@airflow
def test_linked_file_is_a_dag(home, command, config):
    done = subprocess.run(
        [sys.executable, "-m", "airflow", "dags", "report", "--output", "json"],
        env=os.environ | {"BERT_TFX_CONFIG": config, "BERT_TFX_COMMAND": command()},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    (found,) = json.loads(done.stdout.splitlines()[-1])
    assert (found["dags"], found["task_num"]) == (["bert_tfx_my_reviews"], str(len(STAGES)))
    assert "0:00:00" <= found["duration"] < "0:00:02"


@airflow
def test_variable_comes_before_the_environment(parse, command, config):
    variables = {
        "AIRFLOW_VAR_BERT_TFX_CONFIG": config,
        "AIRFLOW_VAR_BERT_TFX_COMMAND": command(),
        "BERT_TFX_CONFIG": "/nowhere.json",
    }
    assert parse(**variables) == {"bert_tfx_my_reviews": sorted(STAGES)}


@airflow
def test_what_is_wrong_is_an_import_error_that_says_so(parse, config):
    error = parse()
    assert "Variable bert_tfx_config (or the environment's BERT_TFX_CONFIG) must name" in error
    error = parse(BERT_TFX_CONFIG=config)
    assert "Variable bert_tfx_command (or the environment's BERT_TFX_COMMAND) must name" in error
    known = {"BERT_TFX_CONFIG": config, "BERT_TFX_COMMAND": "bert-tfx"}
    pathlib.Path(config).write_text("{}", encoding="utf-8")
    assert "my reviews.json: must name the output folder, as `output`" in parse(**known)


@airflow
def test_dag_says_how_tasks_are_run(airflow_dag, command, config):
    dag = airflow_dag.make_dag(config, command(), schedule="@daily", tags=["reviews"])
    upstream = {task.task_id: list(task.upstream_task_ids) for task in dag.tasks}
    before, after = list(STAGES)[:-1], list(STAGES)[1:]
    assert upstream == {"ingest": []} | {b: [a] for a, b in zip(before, after, strict=True)}
    assert dag.max_active_runs == 1
    assert not dag.catchup
    assert dag.tags == {"reviews"}
    assert config in dag.doc_md
    train, ingest = dag.get_task("train"), dag.get_task("ingest")
    assert train.execution_timeout == airflow_dag.TIMEOUTS["train"]
    assert ingest.execution_timeout == airflow_dag.TIMEOUT < train.execution_timeout
    assert ingest.retries == 2
    assert ingest.retry_exponential_backoff == 2
    other = airflow_dag.make_dag(
        config,
        command(),
        dag_id="other",
        timeouts={"ingest": datetime.timedelta(minutes=1)},
        retries=0,
        pool="small",
    )
    assert other.get_task("ingest").execution_timeout == datetime.timedelta(minutes=1)
    assert (other.get_task("ingest").retries, other.get_task("ingest").pool) == (0, "small")


@airflow
@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("exit 0", None),
        ("exit 3", "AirflowSkipException: the model does not reach what it must"),
        (
            "echo 'bert-tfx: mend row 5'; exit 2",
            "AirflowFailException: ingest refuses its input: b",
        ),
        (
            "echo 'bert-tfx: move the limit'; exit 4",
            "AirflowFailException: ingest refuses its input: bert-tfx: move the limit",
        ),
        ("exit 1", "AirflowException: ingest ended with exit code 1"),
        ("kill -KILL $$", "AirflowException: ingest ended with exit code -9"),
    ],
)
def test_exit_code_decides_whether_to_try_again(airflow_dag, command, config, code, error):
    dag = airflow_dag.make_dag(config, command(code))
    said = None
    try:
        dag.get_task("ingest").execute({})
    except Exception as exception:
        said = f"{type(exception).__name__}: {exception}"
    assert said == error if error is None else said.startswith(error)


@airflow
def test_task_says_which_stage_of_which_run(airflow_dag, command, config, tmp_path):
    dag = airflow_dag.make_dag(config, command('echo "$@" > said; pwd >> said'))
    task = dag.get_task("ingest")
    task.render_template_fields({"run_id": "scheduled__2026-01-01T00:00:00+00:00"})
    task.execute({})
    said, place = (tmp_path / "said").read_text(encoding="utf-8").splitlines()
    assert re.fullmatch(
        "component run --config .*/my reviews.json --stage ingest "
        r"--run-id scheduled__2026-01-01T00:00:00\+00:00",
        said,
    )
    # Paths in the configuration are relative to its folder.
    assert place == str(tmp_path)


@airflow
def test_task_says_which_span_to_read(airflow_dag, command, config, tmp_path):
    from airflow.sdk.execution_time import macros

    dag = airflow_dag.make_dag(
        config, command('echo "$@" > said'), span="{{ macros.ds_add(ds, -1) }}"
    )
    task = dag.get_task("ingest")
    context = {"run_id": "scheduled", "ds": "2026-02-01", "macros": macros}
    task.render_template_fields(context, task.get_template_env())
    task.execute({})
    said = (tmp_path / "said").read_text(encoding="utf-8")
    assert said.endswith("--run-id scheduled --span 2026-01-31\n")


@airflow
def test_task_that_is_ended_ends_its_process(airflow_dag, command, config, tmp_path):
    dag = airflow_dag.make_dag(config, command("touch begun; sleep 60 & wait"))
    task = dag.get_task("ingest")

    def end():
        deadline = time.monotonic() + 30
        while not (tmp_path / "begun").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        task.on_kill()

    thread = threading.Thread(target=end)
    thread.start()
    with pytest.raises(Exception, match="ingest ended with exit code -15"):
        task.execute({})
    thread.join()


@airflow
def test_task_that_takes_too_long_ends_its_process(airflow_dag, command, config, monkeypatch):
    # Airflow raises its own wherever `execute` is; here it is where the first line is logged.
    log = mock.Mock(info=mock.Mock(side_effect=TimeoutError))
    monkeypatch.setattr(airflow_dag.StageOperator, "log", log)
    dag = airflow_dag.make_dag(config, command("echo begun; sleep 60 & wait"))
    task = dag.get_task("ingest")
    with pytest.raises(TimeoutError):
        task.execute({})
    assert task._process.returncode == -signal.SIGTERM
