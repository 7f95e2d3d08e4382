"""DataGate: stops the run on data that would spoil a model, and warns of what flatters one.

TFX's ExampleValidator finds anomalies and lets the run go on; nothing in TFX reads what it found.
No component of TFX looks for rows that repeat, leak or contradict each other.
"""

import json
from collections.abc import Sequence

from tfx import types
from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import component_spec, standard_artifacts

from bert_tfx.components.data_gate import executor
from bert_tfx.components.data_gate.checks import DATA, Limits, limits_json
from bert_tfx.schema.fingerprint import source_fingerprint
from bert_tfx.schema.tasks import Task


class DataGateReport(types.Artifact):
    """What DataGate found in data that it accepted.

    `report.json` holds `splits` (rows and labels of each) and `checks` (a list of
    `checks.Result`), `leaked_eval_rows.txt.gz` the `source_row` of each eval row whose text stands
    in train, one a line, in the order of files and lines. The custom property `statistics_id` names
    the statistics that were accepted.
    """

    TYPE_NAME = "DataGateReport"


class DataGateSpec(component_spec.ComponentSpec):
    """Inputs, outputs and parameters of `DataGate`."""

    PARAMETERS = {
        "task": component_spec.ExecutionParameter(type=str),
        "unlabelled_splits": component_spec.ExecutionParameter(type=str),
        "limits": component_spec.ExecutionParameter(type=str),
        "report_text": component_spec.ExecutionParameter(type=int),
        "fingerprint": component_spec.ExecutionParameter(type=str),
    }
    INPUTS = {
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
        "statistics": component_spec.ChannelParameter(type=standard_artifacts.ExampleStatistics),
        "schema": component_spec.ChannelParameter(type=standard_artifacts.Schema),
        "anomalies": component_spec.ChannelParameter(type=standard_artifacts.ExampleAnomalies),
        "baseline_statistics": component_spec.ChannelParameter(
            type=standard_artifacts.ExampleStatistics, optional=True
        ),
    }
    OUTPUTS = {"report": component_spec.ChannelParameter(type=DataGateReport)}


class DataGate(base_beam_component.BaseBeamComponent):
    """Fails, and with it stops the run, where the data cannot make a good model.

    A check that passes its limit to warn is logged and stands in the report; one that passes its
    limit to stop fails the component, as do anomalies and splits without rows or labels.

    Args:
        examples: As TsvExampleGen writes them.
        statistics: Of these examples, made with the schema (labels are categories there).
        schema: What the examples must fit.
        anomalies: What ExampleValidator found in the labelled splits.
        baseline_statistics: Of the examples of the last accepted run, as
            `LatestOtherAcceptedStatisticsStrategy` finds them; there may be none.
        task: Names the texts and the labels.
        unlabelled_splits: Splits without labels; they are checked in the environment `SERVING`.
        limits: What `checks.parse_limits` returned.
        report_text: Whether the report may hold text of rows.
    """

    SPEC_CLASS = DataGateSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)

    def __init__(
        self,
        *,
        examples: types.BaseChannel,
        statistics: types.BaseChannel,
        schema: types.BaseChannel,
        anomalies: types.BaseChannel,
        baseline_statistics: types.BaseChannel,
        task: Task,
        unlabelled_splits: Sequence[str],
        limits: Limits,
        report_text: bool,
    ) -> None:
        super().__init__(
            DataGateSpec(
                examples=examples,
                statistics=statistics,
                schema=schema,
                anomalies=anomalies,
                baseline_statistics=baseline_statistics,
                task=task.to_json(),
                unlabelled_splits=json.dumps(list(unlabelled_splits)),
                limits=limits_json(limits, DATA),
                report_text=int(report_text),
                fingerprint=source_fingerprint(executor.__name__),
                report=types.Channel(type=DataGateReport),
            )
        )
