"""Runs the pipeline on this machine, one component after another, and says how it goes."""

import dataclasses
import datetime
import shutil
import sys
import time

from ml_metadata.proto import metadata_store_pb2
from tfx.dsl.compiler import compiler, constants
from tfx.orchestration import metadata
from tfx.orchestration.local import runner_utils
from tfx.orchestration.portable import launcher, runtime_parameter_utils
from tfx.proto.orchestration import local_deployment_config_pb2, pipeline_pb2

from bert_tfx.components.model_pusher.version_folder import pushed_versions, rolled_back_versions
from bert_tfx.pipeline.config import Config
from bert_tfx.pipeline.console import Console, logged
from bert_tfx.pipeline.pipeline import create_pipeline
from bert_tfx.pipeline.vocabulary import learned_vocabulary


@dataclasses.dataclass(frozen=True)
class NodeRun:
    """One component's part in a run.

    Attributes:
        name: The component.
        execution_id: Its execution in ML Metadata.
        cached: Whether an earlier run's outputs were taken.
        seconds: Wall time.
    """

    name: str
    execution_id: int
    cached: bool
    seconds: float


def run(config: Config) -> list[NodeRun]:
    """Runs the pipeline; finished components of earlier runs are not run again.

    The caller keeps other runs out of the output folder (`output_lock.exclusive`).

    Args:
        config: What to run.

    Returns:
        What each component did, in order.

    Raises:
        InputError: If a component refuses its input.
    """
    console = Console(sys.stdout)
    with logged(console):
        runs = _run_nodes(config, console)
    # What a training that was stopped left for the next run; all of them are done now.
    shutil.rmtree(config.state_dir, ignore_errors=True)
    return runs


def _run_nodes(config: Config, console: Console) -> list[NodeRun]:
    if config.vocab_file is None:
        config = dataclasses.replace(config, vocab_file=learned_vocabulary(config))
    ir = compiler.Compiler().compile(create_pipeline(config))
    runtime_parameter_utils.substitute_runtime_parameter(
        ir, {constants.PIPELINE_RUN_ID_PARAMETER_NAME: datetime.datetime.now().isoformat()}
    )
    deployment = runner_utils.extract_local_deployment_config(ir)
    connection = getattr(
        deployment.metadata_connection_config,
        deployment.metadata_connection_config.WhichOneof("connection_config"),
    )
    runs = []
    for number, node in enumerate(ir.nodes, start=1):
        name = node.pipeline_node.node_info.id
        serving = config.serving_dir
        if name == "ModelPusher" and (
            not pushed_versions(serving) or rolled_back_versions(serving)
        ):
            # The cache sees what was recorded, not what is there: a deleted model is pushed anew,
            # and one that was taken back is not.
            node.pipeline_node.execution_options.caching_options.enable_cache = False
        console.begin(f"[{number:2}/{len(ir.nodes)}] {name}")
        start = time.monotonic()
        try:
            execution_id = _launch(ir, node.pipeline_node, deployment, connection)
        except BaseException:
            console.end(f"failed after {time.monotonic() - start:.1f} s")
            raise
        seconds = time.monotonic() - start
        cached = _state(connection, execution_id) == metadata_store_pb2.Execution.CACHED
        console.end("cached" if cached else f"{seconds:.1f} s")
        runs.append(NodeRun(name, execution_id, cached, seconds))
    return runs


def _launch(
    ir: pipeline_pb2.Pipeline,
    node: pipeline_pb2.PipelineNode,
    deployment: local_deployment_config_pb2.LocalDeploymentConfig,
    connection: metadata_store_pb2.ConnectionConfig,
) -> int:
    """Runs a component as TFX's LocalDagRunner does; returns its execution's id."""
    info = launcher.Launcher(
        pipeline_node=node,
        mlmd_connection=metadata.Metadata(connection),
        pipeline_info=ir.pipeline_info,
        pipeline_runtime_spec=ir.runtime_spec,
        executor_spec=runner_utils.extract_executor_spec(deployment, node.node_info.id),
        custom_driver_spec=runner_utils.extract_custom_driver_spec(deployment, node.node_info.id),
    ).launch()
    # The launcher raises where a component fails, but not where its inputs cannot be found.
    if info is None or info.execution_id is None:
        raise RuntimeError(f"{node.node_info.id} did not run: its inputs are not there")
    if _state(connection, info.execution_id) not in (
        metadata_store_pb2.Execution.COMPLETE,
        metadata_store_pb2.Execution.CACHED,
    ):
        raise RuntimeError(f"{node.node_info.id} failed; --verbose shows the log")
    return info.execution_id


def _state(
    connection: metadata_store_pb2.ConnectionConfig, execution_id: int
) -> "metadata_store_pb2.Execution.State.ValueType":
    with metadata.Metadata(connection) as handle:
        (execution,) = handle.store.get_executions_by_id([execution_id])
    return execution.last_known_state
