"""A whole run on Beam's portable job service and a worker pool, in two processes of their own.

The stand-in for a cluster: what the workers need reaches them through the job alone, and what they
make is the same as in the process of the run.
"""

import dataclasses
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest
import tensorflow as tf
import tensorflow_text  # noqa: F401, registers the ops of the transform graph
from google.protobuf import json_format
from tensorflow_metadata.proto.v0 import statistics_pb2
from tensorflow_model_analysis.proto import metrics_for_slice_pb2

pytestmark = [pytest.mark.real, pytest.mark.timeout(1800)]

# What each worker's process says at its end. Python imports it at the start of all processes that
# have its folder in PYTHONPATH: of the pool's.
WITNESS = """\
import atexit, json, os, sys

def tell():
    ours = sorted(name for name in sys.modules if name.startswith("bert_tfx.components."))
    note = {"argv": sys.argv, "parent": os.getppid(), "cpu": os.times().user, "ours": ours}
    with open(os.path.join(os.environ["WITNESS_DIR"], str(os.getpid())), "w") as file:
        json.dump(note, file)

atexit.register(tell)
"""
BEAM_NODES = 7


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The two processes.

    Attributes:
        job_service: The job service.
        pool: The worker pool.
        flags: How `bert-tfx` is told of them.
        witnesses: The folder of the workers' notes.
    """

    job_service: subprocess.Popen
    pool: subprocess.Popen
    flags: tuple[object, ...]
    witnesses: pathlib.Path

    def workers(self) -> list[dict]:
        notes = [json.loads(path.read_text()) for path in self.witnesses.iterdir()]
        return [note for note in notes if note["parent"] == self.pool.pid]


def free_port() -> int:
    with socket.create_server(("localhost", 0)) as server:
        return server.getsockname()[1]


def wait_for(port: int) -> None:
    end = time.monotonic() + 120
    while True:
        try:
            socket.create_connection(("localhost", port), timeout=1).close()
        except OSError:
            assert time.monotonic() < end, f"nothing answers on port {port}"
            time.sleep(0.2)
        else:
            return


@pytest.fixture
def cluster(tmp_path):
    """Starts the job service and the pool, which are gone at the end with all workers."""
    witnesses = tmp_path / "witnesses"
    witnesses.mkdir()
    (tmp_path / "sitecustomize.py").write_text(WITNESS)
    job_port, pool_port = free_port(), free_port()
    # The pool starts its workers as `python`.
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"}
    witness = {"PYTHONPATH": str(tmp_path), "WITNESS_DIR": str(witnesses)}
    processes = []
    with (tmp_path / "log").open("w") as log:
        for module, flag, port, more in (
            ("portability.local_job_service_main", "--port", job_port, {}),
            ("worker.worker_pool_main", "--service_port", pool_port, witness),
        ):
            process = subprocess.Popen(
                [sys.executable, "-m", f"apache_beam.runners.{module}", flag, str(port)],
                env=environment | more,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            processes.append(process)
    try:
        wait_for(job_port)
        wait_for(pool_port)
        flags = (
            *("--beam-runner", "portable", "--beam-job-endpoint", f"localhost:{job_port}"),
            *("--beam-environment", f"external=localhost:{pool_port}"),
        )
        yield Cluster(*processes, flags, witnesses)
    finally:
        for process in processes:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def files(output: pathlib.Path, pattern: str) -> dict[str, pathlib.Path]:
    """Returns what a run made, by where it lies."""
    artifacts = output / "artifacts"
    found = {str(path.relative_to(artifacts)): path for path in artifacts.glob(pattern)}
    assert found
    return found


def records(path: pathlib.Path, kind) -> list:
    compression = "GZIP" if path.suffix == ".gz" else ""
    dataset = tf.data.TFRecordDataset(str(path), compression_type=compression)
    return [kind.FromString(record) for record in dataset.as_numpy_iterator()]


def rounded(value):
    """Sums of floats depend on their order in the last digits."""
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return float(f"{value:.12g}") if isinstance(value, float) else value


def statistics(path: pathlib.Path):
    made = statistics_pb2.DatasetFeatureStatisticsList.FromString(path.read_bytes())
    return rounded(json_format.MessageToDict(made))


def by_text(messages: list) -> list[str]:
    return sorted(map(str, messages))


@pytest.fixture
def beside(run, tmp_path, cluster):
    """The sample's run on the pool, and the one in the process itself."""
    outputs = []
    for name, flags in (("pool", cluster.flags), ("here", ())):
        outputs.append(tmp_path / name)
        run(outputs[-1], "--task", "sample", *flags).check(0)
    return outputs


def test_a_run_on_a_worker_pool_makes_what_a_run_in_one_process_makes(beside, cluster):
    pool, here = beside
    # It was the pool's processes that did the work: each job had one, that loaded what it needed.
    workers = cluster.workers()
    assert len(workers) == BEAM_NODES
    loaded = {name for worker in workers for name in worker["ours"]}
    for module in ("tsv_example_gen.executor", "data_gate.repeats", "predictor.executor"):
        assert f"bert_tfx.components.{module}" in loaded
    assert sum(worker["cpu"] for worker in workers) > 10
    check_same(here, pool)


def check_same(here: pathlib.Path, pool: pathlib.Path) -> None:
    def same(pattern, read):
        ours, theirs = files(here, pattern), files(pool, pattern)
        assert ours.keys() == theirs.keys()
        for name, path in ours.items():
            assert read(path) == read(theirs[name]), name

    same("TsvExampleGen/examples/*/*/*", pathlib.Path.read_bytes)
    same("DataGate/report/*/*", pathlib.Path.read_bytes)
    same("ExampleValidator/anomalies/*/*/*", pathlib.Path.read_bytes)
    same("StatisticsGen/statistics/*/*/*", statistics)
    same("TokenStatistics/statistics/*/*/*", statistics)
    same("TokenGate/report/*/*", pathlib.Path.read_bytes)
    for pattern in (
        "Transform/transformed_examples/*/*/*",
        "Predictor/predictions/*/*/*",
    ):
        # Byte for byte they need not be, as an Example is a map.
        same(pattern, lambda path: records(path, tf.train.Example))
    same("Transform/transform_graph/*/transform_fn/assets/*", pathlib.Path.read_bytes)
    same("Transform/transform_graph/*/*/schema.pbtxt", pathlib.Path.read_bytes)
    assert tokens(here) == tokens(pool)
    # Learned from the same records in the same order.
    same("Trainer/model/*/Format-Serving/variables/*", pathlib.Path.read_bytes)
    for name, kind in (
        ("metrics", metrics_for_slice_pb2.MetricsForSlice),
        ("plots", metrics_for_slice_pb2.PlotsForSlice),
    ):
        same(f"Evaluator/evaluation/*/{name}-*", lambda path, k=kind: by_text(records(path, k)))
    same("PromotionGate/decision/*/*", pathlib.Path.read_bytes)


def tokens(output: pathlib.Path) -> list[list[int]]:
    """Returns what the transform graph makes of the sample's test rows."""
    import tensorflow_transform as tft

    (graph,) = files(output, "Transform/transform_graph/*").values()
    layer = tft.TFTransformOutput(str(graph)).transform_features_layer()
    (path,) = files(output, "TsvExampleGen/examples/*/Split-test/*").values()
    texts = [
        example.features.feature["text_a"].bytes_list.value[0]
        for example in records(path, tf.train.Example)
    ]
    made = layer({"text_a": tf.constant(texts)})
    return made["token_ids"].to_list()


# What goes wrong in a cluster.


def node(start, cluster, output, *flags):
    return start(
        *("component", "run", "--node", "StatisticsGen", "--run-id", "one", "--task", "sample"),
        *("--output", output, *cluster.flags, *flags),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.fixture
def ingested(command, tmp_path, cluster):
    """An output folder with the nodes before StatisticsGen done, in the process itself."""
    output = tmp_path / "output"
    for name in ("ImportSchemaGen", "TsvExampleGen"):
        done = command(
            *("component", "run", "--node", name, "--run-id", "one", "--task", "sample"),
            *("--output", output),
        )
        assert done.returncode == 0, done.stderr
    return output


def wait_for_worker(cluster: Cluster) -> int:
    """Returns the process of the worker that the pool starts next."""
    end = time.monotonic() + 180
    while time.monotonic() < end:
        threads = pathlib.Path(f"/proc/{cluster.pool.pid}/task").glob("*/children")
        for pid in [int(pid) for path in threads for pid in path.read_text().split()]:
            if "SdkHarness" in pathlib.Path(f"/proc/{pid}/cmdline").read_text():
                return pid
        time.sleep(0.1)
    raise AssertionError("the pool has started no worker")


def test_a_worker_that_is_killed_ends_the_wait_and_the_node_can_be_run_again(
    start, cluster, ingested
):
    with node(start, cluster, ingested, "--beam-job-timeout", 60) as process:
        worker = wait_for_worker(cluster)
        time.sleep(2)
        os.kill(worker, signal.SIGKILL)
        _, stderr = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "StatisticsGen: the Beam job has not ended within 60 s: a worker was lost" in stderr
    with node(start, cluster, ingested) as process:
        assert process.wait(timeout=600) == 0


def test_a_job_service_that_is_killed_is_told_at_once(start, cluster, ingested):
    with node(start, cluster, ingested) as process:
        wait_for_worker(cluster)
        os.killpg(cluster.job_service.pid, signal.SIGKILL)
        _, stderr = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "StatisticsGen: the Beam job was lost, as its job service has gone (UNAVA" in stderr


def test_a_pool_that_is_not_there_is_told(start, cluster, ingested):
    os.killpg(cluster.pool.pid, signal.SIGKILL)
    with node(start, cluster, ingested) as process:
        _, stderr = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "failed to connect to all addresses" in stderr
