"""DataGate: stops the run on data that would spoil a model.

TFX's ExampleValidator finds anomalies and lets the run go on; nothing in TFX reads what it found.
"""

import json
from collections.abc import Sequence

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import component_spec, standard_artifacts

from bert_tfx.components.data_gate import executor
from bert_tfx.schema.tasks import Task


class DataGateReport(types.Artifact):
    """What DataGate found, as `report.json`: rows and labels of each split, and the problems."""

    TYPE_NAME = "DataGateReport"


class DataGateSpec(component_spec.ComponentSpec):
    """Inputs, outputs and parameters of `DataGate`."""

    PARAMETERS = {
        "task": component_spec.ExecutionParameter(type=str),
        "unlabelled_splits": component_spec.ExecutionParameter(type=str),
        "fingerprint": component_spec.ExecutionParameter(type=str),
    }
    INPUTS = {
        "statistics": component_spec.ChannelParameter(type=standard_artifacts.ExampleStatistics),
        "schema": component_spec.ChannelParameter(type=standard_artifacts.Schema),
        "anomalies": component_spec.ChannelParameter(type=standard_artifacts.ExampleAnomalies),
    }
    OUTPUTS = {"report": component_spec.ChannelParameter(type=DataGateReport)}


class DataGate(base_component.BaseComponent):
    """Fails, and with it stops the run, where the data cannot make a good model.

    Args:
        statistics: Of the ingested examples, made with the schema (labels are categories there).
        schema: What the examples must fit.
        anomalies: What ExampleValidator found in the labelled splits.
        task: Names the labels.
        unlabelled_splits: Splits without labels; they are checked in the environment `SERVING`.
        fingerprint: Of the source code; another one makes a cached result void.
    """

    SPEC_CLASS = DataGateSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        *,
        statistics: types.BaseChannel,
        schema: types.BaseChannel,
        anomalies: types.BaseChannel,
        task: Task,
        unlabelled_splits: Sequence[str],
        fingerprint: str,
    ) -> None:
        super().__init__(
            DataGateSpec(
                statistics=statistics,
                schema=schema,
                anomalies=anomalies,
                task=task.to_json(),
                unlabelled_splits=json.dumps(list(unlabelled_splits)),
                fingerprint=fingerprint,
                report=types.Channel(type=DataGateReport),
            )
        )
