"""Runs a node of the pipeline from records of what others have made, without ML Metadata."""

import contextlib
import hashlib
import json
import os
import shutil
import time
import types
from collections.abc import Mapping, Sequence
from typing import Any

from tfx.dsl.compiler import constants
from tfx.dsl.components.common.resolver import Resolver
from tfx.orchestration import data_types_utils
from tfx.orchestration.local import runner_utils
from tfx.orchestration.portable import (
    beam_executor_operator,
    inputs_utils,
    merge_utils,
    outputs_utils,
    python_driver_operator,
    python_executor_operator,
    runtime_parameter_utils,
)
from tfx.orchestration.portable.data_types import ExecutionInfo
from tfx.orchestration.portable.input_resolution import input_graph_resolver
from tfx.proto.orchestration import executable_spec_pb2, pipeline_pb2
from tfx.types import Artifact
from tfx.utils import name_utils

from bert_tfx.pipeline.configuration.config import Config
from bert_tfx.pipeline.configuration.variants import STUDENT
from bert_tfx.pipeline.execution.node_launcher import compile_pipeline, may_be_cached
from bert_tfx.pipeline.metadata.execution_records import Outputs, Record, Records

RECORDS_FOLDER = "records"
"""Where the records lie, below the run's output folder."""

_Inputs = Mapping[str, Sequence[Artifact]]
_RESOLVER = name_utils.get_full_name(Resolver)
_OPERATORS: Mapping[type, Any] = {
    executable_spec_pb2.PythonClassExecutableSpec: python_executor_operator.PythonExecutorOperator,
    executable_spec_pb2.BeamExecutableSpec: beam_executor_operator.BeamExecutorOperator,
}


def producers_of(node: pipeline_pb2.PipelineNode) -> dict[str, tuple[str, str]]:
    """Returns the inputs that other nodes of the run make: node and output of each."""
    return {
        key: (channel.producer_node_query.id, channel.output_key)
        for key, value in node.inputs.inputs.items()
        for channel in value.channels
        if channel.producer_node_query.id
    }


def outputs_of(node: pipeline_pb2.PipelineNode) -> list[str]:
    """Returns the names of a node's outputs; those of a resolver are what it resolves."""
    if not is_resolver(node):
        return sorted(node.outputs.outputs)
    return sorted(key for key, value in node.inputs.inputs.items() if not value.hidden)


def is_resolver(node: pipeline_pb2.PipelineNode) -> bool:
    """Returns whether a node looks for artifacts of earlier runs."""
    return node.node_info.type.name == _RESOLVER


def run_node(config: Config, name: str, run_id: str, given: _Inputs) -> Record:
    """Runs a node; what an earlier run made of the same is taken from there.

    The caller keeps other processes from running the same node (`output_lock`).

    Args:
        config: What to run.
        name: The node.
        run_id: The run's name.
        given: The artifacts of each input that `producers_of` names; of one that a resolver did not
            find there is none.

    Returns:
        What was kept of it.

    Raises:
        InputError: If the node refuses its input.
        RuntimeError: If it fails.
    """
    ir = compile_pipeline(config)
    runtime_parameter_utils.substitute_runtime_parameter(
        ir, {constants.PIPELINE_RUN_ID_PARAMETER_NAME: run_id}
    )
    (node,) = (n.pipeline_node for n in ir.nodes if n.pipeline_node.node_info.id == name)
    records = Records(os.path.join(config.output_dir, RECORDS_FOLDER), ir.pipeline_info.id)
    execution_id = _now()
    if is_resolver(node):
        cached, key = False, ""
        outputs: Outputs = _resolve(node, given, records)
    else:
        execution = _Execution(ir, node, execution_id, run_id, given)
        key = execution.key
        earlier = records.cached(key) if may_be_cached(config, name) else None
        cached = earlier is not None
        if earlier:
            outputs = earlier.outputs
        else:
            with config.beam.job_of(name) if execution.is_beam_job else contextlib.nullcontext():
                outputs = execution.run()
    taken = [artifact.id for artifacts in given.values() for artifact in artifacts]
    record = Record(ir.pipeline_info.id, run_id, name, execution_id, key, cached, taken, outputs)
    # What a resolver found is recorded where it was made.
    if not is_resolver(node):
        records.add(record)
    if name == STUDENT:
        shutil.rmtree(config.state_dir, ignore_errors=True)
    return record


def _now() -> int:
    """Returns microseconds: larger than before, on whichever machine, and exact as a double."""
    return time.time_ns() // 1000


def _resolve(
    node: pipeline_pb2.PipelineNode, given: _Inputs, records: Records
) -> dict[str, list[Artifact]]:
    """Lets the node's own strategy choose among what was recorded."""
    inputs = {}
    for key, value in node.inputs.inputs.items():
        if key in given:
            inputs[key] = list(given[key])
        elif value.channels:
            (channel,) = value.channels
            inputs[key] = records.artifacts(channel.artifact_query.type.name)
    (graph,) = node.inputs.input_graphs.values()
    # Of a store the strategies ask what was made of what.
    handle = types.SimpleNamespace(store=records)
    function, keys = input_graph_resolver.build_graph_fn(handle, graph)
    return function({key: inputs[key] for key in keys})


class _Execution:
    """A node that is about to run."""

    def __init__(
        self,
        ir: pipeline_pb2.Pipeline,
        node: pipeline_pb2.PipelineNode,
        execution_id: int,
        run_id: str,
        given: _Inputs,
    ) -> None:
        deployment = runner_utils.extract_local_deployment_config(ir)
        name = node.node_info.id
        self._spec = runner_utils.extract_executor_spec(deployment, name)
        self._paths = outputs_utils.OutputsResolver(node, ir.pipeline_info, ir.runtime_spec)
        self._id = execution_id
        outputs = self._paths.generate_output_artifacts(execution_id)
        for number, (_, (artifact,)) in enumerate(sorted(outputs.items())):
            artifact.id = execution_id + number
        self._info = ExecutionInfo(
            execution_id=execution_id,
            input_dict={key: list(artifacts) for key, artifacts in given.items()},
            output_dict=outputs,
            exec_properties=data_types_utils.build_parsed_value_dict(
                inputs_utils.resolve_parameters_with_schema(node_parameters=node.parameters)
            ),
            pipeline_node=node,
            pipeline_info=ir.pipeline_info,
            pipeline_run_id=run_id,
        )
        driver = runner_utils.extract_custom_driver_spec(deployment, name)
        if driver is not None:
            self._drive(driver)

    def _drive(self, spec: Any) -> None:
        """Lets the node's own driver look at what is outside, such as files to read."""
        self._info.execution_output_uri = self._paths.get_driver_output_uri()
        driver = python_driver_operator.PythonDriverOperator(spec, None)
        found = driver.run_driver(self._info)
        for name, value in found.exec_properties.items():
            self._info.exec_properties[name] = getattr(value, value.WhichOneof("value"))
        for key, made in found.output_artifacts.items():
            for artifact, proto in zip(self._info.output_dict[key], made.artifacts, strict=True):
                artifact.set_mlmd_artifact(proto)

    @property
    def is_beam_job(self) -> bool:
        """Whether Beam's engine runs it."""
        return isinstance(self._spec, executable_spec_pb2.BeamExecutableSpec)

    @property
    def key(self) -> str:
        """A hash of all that the outputs depend on, as TFX's cache sees it."""
        # Not Beam's flags: where a job runs changes nothing in what it makes.
        executor = getattr(self._spec, "python_executor_spec", self._spec)
        parts = [
            self._info.pipeline_info.id,
            self._info.pipeline_node.node_info.id,
            executor.class_path,
            {name: str(value) for name, value in self._info.exec_properties.items()},
            {key: [one.id for one in given] for key, given in self._info.input_dict.items()},
            sorted(self._info.output_dict),
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def run(self) -> Outputs:
        """Runs the executor; what is left of one that failed is removed."""
        info = self._info
        info.execution_output_uri = self._paths.get_executor_output_uri(self._id)
        info.tmp_dir = self._paths.make_tmp_dir(self._id)
        info.stateful_working_dir = os.path.join(info.tmp_dir, "state")
        outputs_utils.make_output_dirs(info.output_dict)
        try:
            done = _OPERATORS[type(self._spec)](self._spec).run_executor(info)
            if done.execution_result.code:
                raise RuntimeError(done.execution_result.result_message)
        except BaseException:
            outputs_utils.remove_output_dirs(info.output_dict)
            raise
        finally:
            # Above it stands only what belongs to this execution.
            shutil.rmtree(os.path.dirname(info.tmp_dir.rstrip("/")), ignore_errors=True)
        made = {key: list(found.artifacts) for key, found in done.output_artifacts.items()}
        return merge_utils.merge_updated_output_artifacts(info.output_dict, made)
