"""The pipeline as an Airflow DAG: put a link to this file into the dags folder.

Which run it is says the configuration file that the Airflow Variable `bert_tfx_config` names, or
the environment's BERT_TFX_CONFIG, and `bert_tfx_command` or BERT_TFX_COMMAND names the command of
the environment that holds TFX; docs/airflow.md tells the rest. A file of one's own in the dags
folder does for more than one pipeline, or for other settings than the defaults:

    from bert_tfx.pipeline.orchestrators.airflow_dag import make_dag

    daily = make_dag(
        "/srv/reviews.json", "/srv/bert-tfx/bin/bert-tfx", schedule="@daily", tags=["reviews"]
    )

Each stage of the pipeline is a task that runs `bert-tfx component run` in a process of its own. So
Airflow, 3.2 or newer, has an environment of its own, without TFX: nothing but Airflow and the
standard library is imported here. Airflow reads this file every half a minute, and again for each
task.
"""

import datetime
import itertools
import json
import os
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk import DAG, BaseOperator, Variable
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

# Of `bert_tfx.pipeline.configuration.stages`, which is not imported: this file may be a link to one
# that lies beside no package.
STAGES = ("ingest", "check", "tokenize", "train", "judge", "release")
# Of `bert_tfx.pipeline.process.exit_codes`, for the same reason.
_DONE, _INPUT_ERROR, _NOT_PUSHED, _DATA_REFUSED = 0, 2, 3, 4

TIMEOUT = datetime.timedelta(hours=2)
"""How long a task may take that `TIMEOUTS` does not name."""

TIMEOUTS: Mapping[str, datetime.timedelta] = {"train": datetime.timedelta(days=2)}
"""How long tasks may take, by stage."""

_DOC = """\
Rows of TSV files become a served BERT classifier. Each task is one stage of the TFX
pipeline, whose log names its nodes:

| | |
| --- | --- |
| configuration | `{config}` |
| command | `{command}` |
| by hand | `{command} component run --config {config} --stage NAME --run-id RUN` |

- A task that **failed** at once was refused its input: its log ends with a sentence that says what
  to mend. Then clear it. It is not retried, as trying again would not help.
- A task that was killed, or took too long, is retried, and goes on where it was.
- **release** is *skipped* where the model does not reach what it must: the run went well, its
  report is written, and what was served before is served still.
- What an earlier run made of the same rows and options is taken from its records; the log says
  `cached` of such nodes.
"""


class StageOperator(BaseOperator):
    """Runs a stage of the pipeline in a process of its own.

    Args:
        stage: The stage.
        command: The `bert-tfx` command.
        config: The configuration file; paths in it may be relative to its folder.
        span: The span to read (`--span`), a template; None leaves it to the configuration.
        kwargs: What Airflow's `BaseOperator` takes.
    """

    template_fields: Sequence[str] = ("run_name", "span")
    ui_color = "#e8f0fe"

    def __init__(
        self, *, stage: str, command: str, config: str, span: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(task_id=stage, **kwargs)
        self.stage = stage
        self.command = command
        self.config = config
        # The run of the DAG, with its data interval, is the run in ML Metadata.
        self.run_name = "{{ run_id }}"
        self.span = span
        self._process: subprocess.Popen[str] | None = None

    def execute(self, context: Mapping[str, Any]) -> None:
        """Runs the stage.

        Args:
            context: Airflow's; `run_name` and `span` have been filled in from it.

        Raises:
            AirflowSkipException: If the model is not good enough to be pushed; all else is done.
            AirflowFailException: If the input must be mended; it is not tried again.
            AirflowException: If it ended in another way, by a signal, too; it is tried again.
        """
        last = ""
        with subprocess.Popen(
            [
                *(self.command, "component", "run"),
                *("--config", self.config, "--stage", self.stage, "--run-id", self.run_name),
                *(("--span", self.span) if self.span else ()),
            ],
            cwd=os.path.dirname(self.config),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        ) as self._process:
            try:
                for line in self._process.stdout or ():
                    last = line.rstrip()
                    self.log.info("%s", last)
            except BaseException:
                # A task that takes too long: `with` would wait for its process.
                self.on_kill()
                raise
            # What one that was killed has started, such as a server, goes with it; before it is
            # waited for, as its number may then be another's.
            os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
            os.killpg(self._process.pid, signal.SIGKILL)
        code = self._process.returncode
        if code == _NOT_PUSHED:
            raise AirflowSkipException("the model does not reach what it must: it is not pushed")
        if code in (_INPUT_ERROR, _DATA_REFUSED):
            raise AirflowFailException(f"{self.stage} refuses its input: {last}")
        if code != _DONE:
            raise AirflowException(f"{self.stage} ended with exit code {code}")

    def on_kill(self) -> None:
        """Ends the process where the task is to end."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)


def make_dag(
    config: str,
    command: str,
    *,
    dag_id: str | None = None,
    schedule: Any = None,
    span: str | None = None,
    start_date: datetime.datetime = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc),
    retries: int = 2,
    retry_delay: datetime.timedelta = datetime.timedelta(seconds=30),
    timeouts: Mapping[str, datetime.timedelta] = TIMEOUTS,
    pool: str = "default_pool",
    tags: Sequence[str] = ("bert-tfx",),
) -> DAG:
    """Makes the DAG of a configuration.

    Args:
        config: The configuration file, as `bert-tfx run --config` takes it. It must name `output`.
        command: The `bert-tfx` command of the environment that holds TFX.
        dag_id: The DAG's name; by default `bert_tfx_` and the file's.
        schedule: When to run, as Airflow takes it; by default when it is triggered.
        span: Of files that arrive over time the newest span to read, a template such as
            `{{ macros.ds_add(ds, -1) }}`, the day before the run's. Without it each task looks for
            the newest itself, and may find another than the one before it where files arrive
            during the run.
        start_date: Where a schedule begins; the past is not caught up.
        retries: How often a task is tried again that did not end by itself.
        retry_delay: How long to wait before; twice as long each time.
        timeouts: How long tasks may take, by stage; the others `TIMEOUT`.
        pool: Airflow's pool of the tasks.
        tags: The DAG's tags.

    Returns:
        The DAG, a task for each stage.

    Raises:
        OSError: If the configuration cannot be read.
        RuntimeError: If it names no output folder.
    """
    config = os.path.abspath(os.path.expanduser(config))
    with open(config, encoding="utf-8") as file:
        if json.load(file).get("output") is None:
            raise RuntimeError(f"{config}: must name the output folder, as `output`")
    name = re.sub(r"[^\w.-]+", "_", os.path.splitext(os.path.basename(config))[0])
    with DAG(
        dag_id or f"bert_tfx_{name}",
        description="From TSV files to a served BERT classifier",
        doc_md=_DOC.format(config=config, command=command),
        schedule=schedule,
        start_date=start_date,
        catchup=False,
        # Runs take turns in the output folder, and each is compared with the one before.
        max_active_runs=1,
        tags=list(tags),
        default_args={
            "retries": retries,
            "retry_delay": retry_delay,
            "retry_exponential_backoff": 2.0,
            "max_retry_delay": datetime.timedelta(hours=1),
            "pool": pool,
        },
    ) as dag:
        tasks = [
            StageOperator(
                stage=stage,
                command=command,
                config=config,
                span=span,
                execution_timeout=timeouts.get(stage, TIMEOUT),
            )
            for stage in STAGES
        ]
        for before, after in itertools.pairwise(tasks):
            after.set_upstream(before)
    return dag


def _setting(name: str) -> str | None:
    """Reads an Airflow Variable, or the environment's variable of the same name in capitals."""
    return Variable.get(name, default=None) or os.environ.get(name.upper())


def _named(name: str, what: str) -> str:
    """Reads a setting that must be there."""
    if value := _setting(name):
        return value
    raise RuntimeError(
        f"the Airflow Variable {name} (or the environment's {name.upper()}) must name {what}"
    )


# Imported as a module, it only gives `make_dag`.
if __name__ != "bert_tfx.pipeline.orchestrators.airflow_dag":
    dag = make_dag(
        _named("bert_tfx_config", "the configuration file of the run"),
        _named("bert_tfx_command", "the bert-tfx command of the environment that holds TFX"),
        schedule=_setting("bert_tfx_schedule"),
        span=_setting("bert_tfx_span"),
    )
