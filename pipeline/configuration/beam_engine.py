"""The engines that can run the pipeline's Beam jobs, and their settings: the one source of flags.

docs/beam.md tells how to set each of them up.
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator, Mapping

from bert_tfx.schema.errors import InputError
from bert_tfx.schema.options import option

IN_MEMORY = "in_memory"
MULTI_PROCESSING = "multi_processing"
PORTABLE = "portable"
FLINK = "flink"
SPARK = "spark"

# The settings of each engine, as Beam's flags; `beam_environment` becomes more than one.
_FLAGS: Mapping[str, Mapping[str, str]] = {
    IN_MEMORY: {},
    MULTI_PROCESSING: {"beam_workers": "direct_num_workers"},
    PORTABLE: {
        "beam_job_endpoint": "job_endpoint",
        "beam_job_timeout": "job_server_timeout",
        "beam_environment": "",
        "beam_workers": "parallelism",
    },
    FLINK: {
        "beam_master": "flink_master",
        "beam_job_server_jar": "flink_job_server_jar",
        "beam_environment": "",
        "beam_workers": "parallelism",
    },
    SPARK: {
        "beam_master": "spark_master_url",
        "beam_job_server_jar": "spark_job_server_jar",
        "beam_environment": "",
        "beam_workers": "sdk_worker_parallelism",
    },
}
BEAM_RUNNERS = tuple(_FLAGS)
BEAM_SETTINGS = tuple(dict.fromkeys(name for flags in _FLAGS.values() for name in flags))

_CLUSTER_ENGINE = ("beam_master", "beam_job_server_jar", "beam_environment")
_REQUIRED: Mapping[str, tuple[str, ...]] = {
    PORTABLE: ("beam_job_endpoint", "beam_environment"),
    FLINK: _CLUSTER_ENGINE,
    SPARK: _CLUSTER_ENGINE,
}
_WHAT = {
    "beam_job_endpoint": "the address of the job service, such as localhost:8099",
    "beam_environment": "what the workers are: loopback, external=HOST:PORT of a worker pool, "
    "docker=IMAGE or process=COMMAND",
}
_MASTERS = {
    FLINK: "the address of Flink's job manager, such as http://localhost:8081, or [local]",
    SPARK: "the address of Spark's master, such as spark://localhost:7077, or local[*]",
}
_JARS = {
    FLINK: "org.apache.beam:beam-runners-flink-<Flink's version, such as 1.19>-job-server",
    SPARK: "org.apache.beam:beam-runners-spark-3-job-server",
}
_RUNNERS = {
    IN_MEMORY: "FnApiRunner",
    MULTI_PROCESSING: "FnApiRunner",
    PORTABLE: "PortableRunner",
    FLINK: "FlinkRunner",
    SPARK: "SparkRunner",
}

LOOPBACK = "loopback"
EXTERNAL = "external"
DOCKER = "docker"
PROCESS = "process"
# For each kind of worker what its value is, as a pattern and in words.
_ENVIRONMENTS = {
    LOOPBACK: ("", "loopback"),
    EXTERNAL: (r"\S+:\d{1,5}", "external=HOST:PORT"),
    DOCKER: (r"\S+", "docker=IMAGE"),
    PROCESS: (r"\S.*", "process=COMMAND"),
}
_ENDPOINT = r"[^\s:]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}"
_JOB_SECONDS = 60 * 60
_ANSWER_SECONDS = 5.0


@dataclasses.dataclass(frozen=True)
class BeamEngine:
    """The engine of the pipeline's Beam jobs.

    A setting is for the engines whose table in docs/beam.md has it; others refuse it.

    Attributes:
        beam_runner: A name of `BEAM_RUNNERS`.
        beam_workers: How many workers, 1 or more: processes of `multi_processing` (default: one
            for each core), the job's parallelism on Flink, worker processes on each machine of
            Spark.
        beam_job_endpoint: Address of the job service, HOST:PORT.
        beam_job_timeout: Seconds that a job may take, where the job service is Beam's own; by
            default an hour.
        beam_environment: What the workers are, and so where they have this package and its
            dependencies from: `loopback` (the process that submits the job), `external=HOST:PORT`
            (a worker pool that runs already), `docker=IMAGE`, or `process=COMMAND` (started on each
            machine of the cluster).
        beam_master: Address of Flink's or Spark's master.
        beam_job_server_jar: Beam's job server for Flink or Spark, a file.

    Raises:
        InputError: If a setting is missing, malformed, or belongs to another engine.
    """

    beam_runner: str = option("(default: in_memory)", IN_MEMORY, choices=BEAM_RUNNERS)
    beam_workers: int | None = option(
        "workers; what one is, each engine says: see docs/beam.md", None
    )
    beam_job_endpoint: str | None = option("portable: the job service", None, metavar="HOST:PORT")
    beam_job_timeout: int | None = option(
        "portable: seconds that a job may take (default: 3600)", None
    )
    beam_environment: str | None = option(
        "portable, flink, spark: what the workers are: loopback, external=HOST:PORT of a worker "
        "pool, docker=IMAGE or process=COMMAND",
        None,
        metavar="KIND=VALUE",
    )
    beam_master: str | None = option("flink, spark: the master", None, metavar="URL")
    beam_job_server_jar: str | None = option(
        "flink, spark: Beam's job server", None, metavar="FILE", is_path=True
    )

    def __post_init__(self) -> None:
        """Checks what can be said of the settings on any machine."""
        runner = self.beam_runner
        if runner not in BEAM_RUNNERS:
            raise InputError(
                f"beam_runner must be one of {', '.join(BEAM_RUNNERS)}. Received: {runner!r}"
            )
        for name in BEAM_SETTINGS:
            if getattr(self, name) is not None and name not in _FLAGS[runner]:
                owners = [owner for owner, flags in _FLAGS.items() if name in flags]
                raise InputError(
                    f"{_option(name)} is for --beam-runner {' or '.join(owners)}, not for {runner}"
                )
        for name in _REQUIRED.get(runner, ()):
            if getattr(self, name) is None:
                raise InputError(
                    f"{_option(name)} is missing: with --beam-runner {runner} it names "
                    f"{self._what(name)}"
                )
        if self.beam_job_endpoint and not re.fullmatch(_ENDPOINT, self.beam_job_endpoint):
            raise InputError(
                f"--beam-job-endpoint must be HOST:PORT. Received: {self.beam_job_endpoint!r}"
            )
        for name in ("beam_workers", "beam_job_timeout"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{_option(name)} must be 1 or more. Received: {value}")
        if self.beam_environment is not None:
            self._check_environment()

    def _what(self, name: str) -> str:
        if name == "beam_master":
            return _MASTERS[self.beam_runner]
        if name == "beam_job_server_jar":
            return f"the job server of Beam: {self._jar}"
        return _WHAT[name]

    @property
    def _jar(self) -> str:
        version = importlib.metadata.version("apache-beam")
        return f"{_JARS[self.beam_runner]}:{version}, a jar of Maven Central"

    @property
    def _environment(self) -> tuple[str, str]:
        """What the workers are, and the value that goes with it."""
        kind, _, value = (self.beam_environment or "").partition("=")
        return kind, value

    def _check_environment(self) -> None:
        kind, value = self._environment
        pattern = _ENVIRONMENTS[kind][0] if kind in _ENVIRONMENTS else None
        if pattern is None or not re.fullmatch(pattern, value):
            forms = ", ".join(words for _, words in _ENVIRONMENTS.values())
            raise InputError(
                f"--beam-environment must be {forms}. Received: {self.beam_environment!r}"
            )

    @property
    def takes_workers(self) -> bool:
        """Whether the number of workers can be said."""
        return "beam_workers" in _FLAGS[self.beam_runner]

    def arguments(self) -> list[str]:
        """Returns the flags of a Beam pipeline; without them Beam takes what it happens to find."""
        return [
            # `DirectRunner` would try another runner first, and download it where it can.
            f"--runner={_RUNNERS[self.beam_runner]}",
            *self._own_arguments(),
            # Without a package or an image named, TFX would build a source distribution of itself
            # at the start of each component. Workers that are no containers do not read it.
            f"--sdk_container_image={self._environment[1] if self._is_docker else 'unused'}",
        ]

    def worker_arguments(self, workers: int) -> list[str]:
        """Returns the flags that, after the others, say how many workers a job has.

        Args:
            workers: So many.

        Raises:
            InputError: If it cannot be said to this engine.
        """
        if not self.takes_workers:
            raise InputError(
                f"workers cannot be chosen with --beam-runner {self.beam_runner}, which has one"
            )
        return [f"--{_FLAGS[self.beam_runner]['beam_workers']}={workers}"]

    @property
    def _is_docker(self) -> bool:
        return self._environment[0] == DOCKER

    def _own_arguments(self) -> Iterator[str]:
        runner = self.beam_runner
        if runner in (IN_MEMORY, MULTI_PROCESSING):
            yield f"--direct_running_mode={runner}"
            # 0 is one for each core.
            yield f"--direct_num_workers={1 if runner == IN_MEMORY else 0}"
        if runner == PORTABLE and self.beam_job_timeout is None:
            # The stream of a job's states ends after so long, which ends the wait for a job whose
            # worker was killed, as Beam's own job service does not see that; but it ends jobs that
            # go well, too. Beam's default is 300.
            yield f"--job_server_timeout={_JOB_SECONDS}"
        if self.beam_environment is not None:
            kind, value = self._environment
            yield f"--environment_type={kind.upper()}"
            if value:
                config = json.dumps({"command": value}) if kind == PROCESS else value
                yield f"--environment_config={config}"
        for name, flag in _FLAGS[runner].items():
            value = getattr(self, name)
            if flag and value is not None:
                yield f"--{flag}={value}"

    def check_here(self) -> None:
        """Checks that this machine has what it takes to submit a job.

        Raises:
            InputError: If the job server's jar or Java is missing, or no job service answers.
        """
        if self.beam_job_server_jar is not None:
            if not os.path.isfile(self.beam_job_server_jar):
                raise InputError(
                    f"{self.beam_job_server_jar}: no such file; --beam-job-server-jar names "
                    f"{self._what('beam_job_server_jar')}"
                )
            if shutil.which("java") is None:
                raise InputError(
                    f"--beam-runner {self.beam_runner} starts a jar, but there "
                    "is no java on PATH: install a Java runtime, 11 or newer (Debian: apt install "
                    "default-jre-headless)"
                )
        if self.beam_job_endpoint is not None:
            # Beam itself would wait for it as long as for a job.
            host, _, port = self.beam_job_endpoint.rpartition(":")
            try:
                address = (host.strip("[]"), int(port))
                socket.create_connection(address, timeout=_ANSWER_SECONDS).close()
            except (OSError, OverflowError) as error:
                raise InputError(
                    f"{self.beam_job_endpoint}: no job service answers there ({error}); "
                    "--beam-job-endpoint names the address of a Beam job service that runs"
                ) from error

    @contextlib.contextmanager
    def job_of(self, node: str) -> Iterator[None]:
        """Checks the engine before a node's job, and says what became of one that was lost.

        Args:
            node: The node.

        Raises:
            InputError: See `check_here`.
            RuntimeError: If the job service does not tell how the job has ended.
        """
        self.check_here()
        # Loaded with Beam.
        import grpc

        try:
            yield
        except grpc.RpcError as error:
            if not isinstance(error, grpc.Call):
                raise
            raise RuntimeError(f"{node}: {self._lost_job(error.code().name)}") from error

    def _lost_job(self, status: str) -> str:
        """Says what became of a job; `status` is what gRPC says instead, such as `UNAVAILABLE`."""
        if status == "DEADLINE_EXCEEDED" and self.beam_runner == PORTABLE:
            seconds = self.beam_job_timeout or _JOB_SECONDS
            return (
                f"the Beam job has not ended within {seconds} s: a worker was lost, or it takes "
                "longer, which --beam-job-timeout allows"
            )
        return f"the Beam job was lost, as its job service has gone ({status})"


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
