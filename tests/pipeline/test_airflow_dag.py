"""The DAG file. What needs Airflow runs where it is installed: `make test-airflow`."""

import ast
import datetime
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
import threading
import time

import pytest

from bert_tfx.pipeline.exit_codes import ExitCode

FILE = pathlib.Path(__file__).resolve().parents[2] / "pipeline" / "airflow_dag.py"
NODES = {"Rows": [], "Schema": [], "Trainer": ["Rows", "Schema"], "ModelPusher": ["Trainer"]}

airflow = pytest.mark.skipif(
    importlib.util.find_spec("airflow") is None,
    reason="Airflow is not installed: make test-airflow",
)
# Airflow announces the end of much that it uses itself.
lenient = pytest.mark.filterwarnings("ignore")

PARSE = """
import json, sys
from airflow.models import DagBag
bag = DagBag(sys.argv[1], include_examples=False)
print(json.dumps({
    "errors": list(bag.import_errors.values()),
    "dags": {name: sorted(dag.task_ids) for name, dag in bag.dags.items()},
    "frameworks": sorted({"tfx", "tensorflow", "apache_beam", "keras"} & sys.modules.keys()),
    "seconds": sum(file.duration.total_seconds() for file in bag.dagbag_stats),
}))
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


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """An AIRFLOW_HOME with a database, and the DAG file in its dags folder."""
    home = tmp_path_factory.mktemp("airflow")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            "PYTHONWARNINGS": "ignore",
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
    """Parses the dags folder in a process of its own."""

    def parse(**environment):
        done = subprocess.run(
            [sys.executable, "-c", PARSE, str(home / "dags")],
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return json.loads(done.stdout.splitlines()[-1])

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
    (tmp_path / "out put").mkdir()
    (tmp_path / "out put" / "nodes.json").write_text(json.dumps({"nodes": NODES}), encoding="utf-8")
    return str(path)


@pytest.fixture
def airflow_dag(home):
    # Once a process, and with the environment of `home`.
    from bert_tfx.pipeline import airflow_dag

    return airflow_dag


@airflow
def test_linked_file_is_a_dag_and_loads_no_framework(parse, tmp_path):
    options = {"task": "sample", "output": "output"}
    config = tmp_path / "sample.json"
    config.write_text(json.dumps(options), encoding="utf-8")
    listed = subprocess.run(
        [
            *(sys.executable, "-m", "bert_tfx.pipeline.cli", "component", "list", "--json"),
            *("--config", str(config)),
        ],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        check=True,
    )
    found = parse(BERT_TFX_CONFIG=str(config))
    assert found["errors"] == []
    assert found["dags"] == {"bert_tfx_sample": sorted(json.loads(listed.stdout))}
    assert found["frameworks"] == []
    assert found["seconds"] < 5


@airflow
def test_variable_comes_before_the_environment(parse, command, config):
    variables = {
        "AIRFLOW_VAR_BERT_TFX_CONFIG": config,
        "AIRFLOW_VAR_BERT_TFX_COMMAND": command(),
        "BERT_TFX_CONFIG": "/nowhere.json",
    }
    assert parse(**variables)["dags"] == {"bert_tfx_my_reviews": sorted(NODES)}


@airflow
def test_what_is_wrong_is_an_import_error_that_says_so(parse, config):
    (error,) = parse()["errors"]
    assert "Variable bert_tfx_config (or the environment's BERT_TFX_CONFIG) must name" in error
    nodes = pathlib.Path(config).with_name("out put") / "nodes.json"
    nodes.unlink()
    (error,) = parse(BERT_TFX_CONFIG=config)["errors"]
    assert f"{nodes}: is not there yet; it is written by: bert-tfx component list" in error
    pathlib.Path(config).write_text("{}", encoding="utf-8")
    (error,) = parse(BERT_TFX_CONFIG=config)["errors"]
    assert "my reviews.json: must name the output folder, as `output`" in error


@airflow
@lenient
def test_dag_says_how_tasks_are_run(airflow_dag, command, config):
    dag = airflow_dag.make_dag(config, command=command(), schedule="@daily", tags=["reviews"])
    assert {task.task_id: sorted(task.upstream_task_ids) for task in dag.tasks} == NODES
    assert dag.max_active_runs == 1
    assert not dag.catchup
    assert dag.tags == ["reviews"] or dag.tags == {"reviews"}
    assert config in dag.doc_md
    trainer, rows = dag.get_task("Trainer"), dag.get_task("Rows")
    assert trainer.execution_timeout == airflow_dag.TIMEOUTS["Trainer"]
    assert rows.execution_timeout == airflow_dag.TIMEOUT < trainer.execution_timeout
    assert rows.retries == 2
    assert rows.retry_exponential_backoff
    # What comes after a model that was held back is done all the same.
    assert rows.trigger_rule == "none_failed"
    other = airflow_dag.make_dag(
        config,
        command=command(),
        dag_id="other",
        timeouts={"Rows": datetime.timedelta(minutes=1)},
        retries=0,
        pool="small",
    )
    assert other.get_task("Rows").execution_timeout == datetime.timedelta(minutes=1)
    assert (other.get_task("Rows").retries, other.get_task("Rows").pool) == (0, "small")


@airflow
@lenient
@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("exit 0", None),
        ("exit 3", "AirflowSkipException: the model does not reach what it must"),
        (
            "echo 'bert-tfx: mend row 5'; exit 2",
            "AirflowFailException: Rows refuses its input: b",
        ),
        (
            "echo 'bert-tfx: move the limit'; exit 4",
            "AirflowFailException: Rows refuses its input: bert-tfx: move the limit",
        ),
        ("exit 1", "AirflowException: Rows ended with exit code 1"),
        ("kill -KILL $$", "AirflowException: Rows ended with exit code -9"),
    ],
)
def test_exit_code_decides_whether_to_try_again(airflow_dag, command, config, code, error):
    dag = airflow_dag.make_dag(config, command=command(code))
    said = None
    try:
        dag.get_task("Rows").execute({})
    except Exception as exception:
        said = f"{type(exception).__name__}: {exception}"
    assert said == error if error is None else said.startswith(error)


@airflow
@lenient
def test_task_says_which_node_of_which_run(airflow_dag, command, config, tmp_path):
    dag = airflow_dag.make_dag(config, command=command('echo "$@" > said; pwd >> said'))
    task = dag.get_task("Rows")
    task.render_template_fields({"run_id": "scheduled__2026-01-01T00:00:00+00:00"})
    task.execute({})
    said, place = (tmp_path / "said").read_text(encoding="utf-8").splitlines()
    assert re.fullmatch(
        "component run --config .*/my reviews.json --node Rows "
        r"--run-id scheduled__2026-01-01T00:00:00\+00:00",
        said,
    )
    # Paths in the configuration are relative to its folder.
    assert place == str(tmp_path)


@airflow
@lenient
def test_task_says_which_span_to_read(airflow_dag, command, config, tmp_path):
    dag = airflow_dag.make_dag(
        config, command=command('echo "$@" > said'), span="{{ data_interval_start | ds }}"
    )
    task = dag.get_task("Rows")
    day = datetime.datetime(2026, 1, 31, tzinfo=datetime.timezone.utc)
    filters = {"run_id": "scheduled", "data_interval_start": day}
    task.render_template_fields(filters, task.get_template_env())
    task.execute({})
    said = (tmp_path / "said").read_text(encoding="utf-8")
    assert said.endswith("--run-id scheduled --span 2026-01-31\n")


@airflow
@lenient
def test_task_that_is_ended_ends_its_process(airflow_dag, command, config, tmp_path):
    dag = airflow_dag.make_dag(config, command=command("touch begun; sleep 60 & wait"))
    task = dag.get_task("Rows")

    def end():
        deadline = time.monotonic() + 30
        while not (tmp_path / "begun").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        task.on_kill()

    thread = threading.Thread(target=end)
    thread.start()
    with pytest.raises(Exception, match="Rows ended with exit code -15"):
        task.execute({})
    thread.join()
