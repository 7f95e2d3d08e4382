"""Launches the pipeline's nodes by name, all in one process or each in its own."""

import contextlib
import dataclasses
import os
import shutil
import time
from collections.abc import Mapping
from typing import Any

from ml_metadata.proto import metadata_store_pb2
from tfx.dsl.compiler import compiler, compiler_utils, constants
from tfx.orchestration import data_types_utils, metadata
from tfx.orchestration.local import runner_utils
from tfx.orchestration.portable import (
    beam_executor_operator,
    inputs_utils,
    launcher,
    runtime_parameter_utils,
)
from tfx.orchestration.portable.mlmd import execution_lib
from tfx.proto.orchestration import executable_spec_pb2, pipeline_pb2

from bert_tfx.components.model_pusher.version_folder import pushed_versions, rolled_back_versions
from bert_tfx.pipeline.configuration.config import Config
from bert_tfx.pipeline.configuration.variants import STUDENT
from bert_tfx.pipeline.configuration.vocabulary import learned_vocabulary
from bert_tfx.pipeline.metadata.store import new_run_id
from bert_tfx.pipeline.pipeline import create_pipeline
from bert_tfx.schema.errors import InputError

MODEL_PUSHER = "ModelPusher"

_SUCCEEDED = (metadata_store_pb2.Execution.COMPLETE, metadata_store_pb2.Execution.CACHED)


@dataclasses.dataclass(frozen=True)
class NodeRun:
    """One component's part in a run.

    Attributes:
        name: The component.
        execution_id: Its execution in ML Metadata.
        cached: Whether an earlier run's outputs were taken.
        seconds: Wall time.
        before: Whether it had finished in this run before, so that nothing was to be done.
    """

    name: str
    execution_id: int
    cached: bool
    seconds: float
    before: bool = False


def compile_pipeline(config: Config) -> pipeline_pb2.Pipeline:
    """Compiles the pipeline, with a vocabulary that is learned where none is named.

    Raises:
        InputError: If the task's files are missing or do not fit it.
    """
    if config.vocab_file is None:
        config = dataclasses.replace(config, vocab_file=learned_vocabulary(config))
    return compiler.Compiler().compile(create_pipeline(config))


def nodes_of(ir: pipeline_pb2.Pipeline) -> dict[str, list[str]]:
    """Returns the nodes in an order in which they can run, each with those upstream of it."""
    return {
        node.pipeline_node.node_info.id: sorted(node.pipeline_node.upstream_nodes)
        for node in ir.nodes
    }


class NodeLauncher:
    """The nodes of one run, each launched as TFX's LocalDagRunner does.

    What a node takes from those before it is found in ML Metadata by the run's id. So processes
    that are given the same id make one run.

    Attributes:
        run_id: The run's name in ML Metadata.
        nodes: As `nodes_of` returns them.
    """

    def __init__(self, config: Config, run_id: str | None = None) -> None:
        """Compiles the pipeline.

        Args:
            config: What to run.
            run_id: The run to belong to; by default the pipeline's latest one, or a new one where
                there is none.

        Raises:
            InputError: If the task's files are missing or do not fit it.
        """
        self._config = config
        self._ir = compile_pipeline(config)
        self._by_name = {n.pipeline_node.node_info.id: n.pipeline_node for n in self._ir.nodes}
        self.nodes = nodes_of(self._ir)
        self._deployment = runner_utils.extract_local_deployment_config(self._ir)
        kept = self._deployment.metadata_connection_config
        self._connection = getattr(kept, kept.WhichOneof("connection_config"))
        self.run_id = run_id or self._latest_run() or new_run_id()
        runtime_parameter_utils.substitute_runtime_parameter(
            self._ir, {constants.PIPELINE_RUN_ID_PARAMETER_NAME: self.run_id}
        )

    def launch(self, name: str) -> NodeRun:
        """Runs a node; one that has finished in this run is left as it is.

        The caller keeps other processes from launching the same node (`output_lock`).

        Args:
            name: One of `nodes`.

        Returns:
            What it did.

        Raises:
            InputError: If a node upstream of it has not finished in this run, or it refuses its
                input.
            RuntimeError: If it fails.
        """
        node = self._by_name[name]
        start = time.monotonic()
        with metadata.Metadata(self._connection) as handle:
            earlier = self._execution(handle, name)
            if earlier and earlier.last_known_state in _SUCCEEDED:
                return NodeRun(name, earlier.id, _is_cached(earlier), 0.0, before=True)
            self._check_upstream(handle, node)
            if earlier:
                self._begin_anew(handle, node, earlier)
        if not may_be_cached(self._config, name):
            node.execution_options.caching_options.enable_cache = False
        executor = runner_utils.extract_executor_spec(self._deployment, name)
        operators = None
        job: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if isinstance(executor, executable_spec_pb2.BeamExecutableSpec):
            executor, operators = _apart(executor)
            job = self._config.beam.job_of(name)
        with job:
            info = launcher.Launcher(
                pipeline_node=node,
                mlmd_connection=metadata.Metadata(self._connection),
                pipeline_info=self._ir.pipeline_info,
                pipeline_runtime_spec=self._ir.runtime_spec,
                executor_spec=executor,
                custom_driver_spec=runner_utils.extract_custom_driver_spec(self._deployment, name),
                custom_executor_operators=operators,
            ).launch()
        # The launcher raises where a component fails, but not where its inputs cannot be found.
        if info is None or info.execution_id is None:
            raise RuntimeError(f"{name} did not run: its inputs are not there")
        with metadata.Metadata(self._connection) as handle:
            (execution,) = handle.store.get_executions_by_id([info.execution_id])
        if execution.last_known_state not in _SUCCEEDED:
            raise RuntimeError(f"{name} failed; --verbose shows the log")
        if name == STUDENT:
            # What a training that was stopped left for the next one; all of them are done now.
            shutil.rmtree(self._config.state_dir, ignore_errors=True)
        return NodeRun(name, execution.id, _is_cached(execution), time.monotonic() - start)

    def has_pushed(self, run: NodeRun) -> bool:
        """Returns whether the model that ModelPusher was given was good enough to be pushed.

        Args:
            run: What `launch` returned for ModelPusher.
        """
        with metadata.Metadata(self._connection) as handle:
            events = handle.store.get_events_by_execution_ids([run.execution_id])
            outputs = [e.artifact_id for e in events if e.type == metadata_store_pb2.Event.OUTPUT]
            artifacts = handle.store.get_artifacts_by_id(outputs)
        return any(artifact.custom_properties["pushed"].int_value for artifact in artifacts)

    def _latest_run(self) -> str | None:
        with metadata.Metadata(self._connection) as handle:
            pipeline = handle.store.get_context_by_type_and_name(
                constants.PIPELINE_CONTEXT_TYPE_NAME, self._ir.pipeline_info.id
            )
            if pipeline is None:
                return None
            kind = handle.store.get_context_type(constants.PIPELINE_RUN_CONTEXT_TYPE_NAME).id
            contexts = handle.store.get_children_contexts_by_context(pipeline.id)
        runs = [context for context in contexts if context.type_id == kind]
        return max(runs, key=lambda run: run.create_time_since_epoch).name if runs else None

    def _execution(
        self, handle: metadata.Metadata, name: str
    ) -> metadata_store_pb2.Execution | None:
        """Returns a node's execution in this run, the last one of several, if there is one."""
        node_name = compiler_utils.node_context_name(self._ir.pipeline_info.id, name)
        executions = []
        for kind, context_name in (
            (constants.PIPELINE_RUN_CONTEXT_TYPE_NAME, self.run_id),
            (constants.NODE_CONTEXT_TYPE_NAME, node_name),
        ):
            context = handle.store.get_context_by_type_and_name(kind, context_name)
            if context is None:
                return None
            executions.append({e.id: e for e in handle.store.get_executions_by_context(context.id)})
        of_run, of_node = executions
        both = of_run.keys() & of_node.keys()
        return of_node[max(both)] if both else None

    def _check_upstream(self, handle: metadata.Metadata, node: pipeline_pb2.PipelineNode) -> None:
        """Refuses to pass a gate that has not let the run through: TFX looks at inputs only."""
        for name in node.upstream_nodes:
            execution = self._execution(handle, name)
            if execution is None or execution.last_known_state not in _SUCCEEDED:
                raise InputError(
                    f"{node.node_info.id} follows {name}, which has not finished in run "
                    f"{self.run_id!r}; run that first"
                )

    def _begin_anew(
        self,
        handle: metadata.Metadata,
        node: pipeline_pb2.PipelineNode,
        execution: metadata_store_pb2.Execution,
    ) -> None:
        """Takes back what is left of an execution of this run that did not finish.

        TFX goes on with it as it is: in its folders, and under the parameters that it had then.
        """
        root = os.path.join(self._config.artifacts_dir, node.node_info.id)
        for key in node.outputs.outputs:
            shutil.rmtree(os.path.join(root, key, str(execution.id)), ignore_errors=True)
        parameters = data_types_utils.build_parsed_value_dict(
            inputs_utils.resolve_parameters_with_schema(node_parameters=node.parameters)
        )
        anew = execution_lib.prepare_execution(
            handle,
            node.node_info.type,
            metadata_store_pb2.Execution.RUNNING,
            parameters,
            execution_name=execution.name,
        )
        anew.id = execution.id
        handle.store.put_executions([anew])


def _apart(
    executor: executable_spec_pb2.BeamExecutableSpec,
) -> tuple[executable_spec_pb2.BeamExecutableSpec, Mapping[type, Any]]:
    """Takes Beam's flags out of an executor's specification, which is part of the cache key.

    Where a job runs, and on how many workers, changes nothing in what it makes.

    Returns:
        The specification without flags, and the operator that still runs it with them.
    """
    bare = executable_spec_pb2.BeamExecutableSpec(
        python_executor_spec=executor.python_executor_spec
    )

    def operator(
        executor_spec: executable_spec_pb2.BeamExecutableSpec, platform_config: Any = None
    ) -> beam_executor_operator.BeamExecutorOperator:
        del executor_spec
        return beam_executor_operator.BeamExecutorOperator(executor, platform_config)

    return bare, {executable_spec_pb2.BeamExecutableSpec: operator}


def may_be_cached(config: Config, name: str) -> bool:
    """Returns whether what an earlier run recorded of a node may be taken for what is there.

    The cache sees what was recorded, not what is there: a deleted model is pushed anew, and one
    that was taken back is not.
    """
    serving = config.serving_dir
    return name != MODEL_PUSHER or bool(
        pushed_versions(serving) and not rolled_back_versions(serving)
    )


def _is_cached(execution: metadata_store_pb2.Execution) -> bool:
    return execution.last_known_state == metadata_store_pb2.Execution.CACHED
