"""TokenGate: stops the run where the vocabulary or the length does not fit the text.

What DataGate cannot see, since it looks at text: what of it reaches the model as tokens.
"""

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import component_spec, standard_artifacts

from bert_tfx.components.data_gate.checks import TOKENS, Limits, limits_json
from bert_tfx.components.token_gate import executor
from bert_tfx.schema.fingerprint import source_fingerprint
from bert_tfx.schema.tasks import Task


class TokenGateReport(types.Artifact):
    """What TokenGate found in data that it accepted.

    `report.json` holds `splits` (rows, tokens a row, cut rows, unknown tokens of each) and `checks`
    (a list of `checks.Result`). The custom property `statistics_id` names the statistics that were
    accepted.
    """

    TYPE_NAME = "TokenGateReport"


class TokenGateSpec(component_spec.ComponentSpec):
    """Inputs, outputs and parameters of `TokenGate`."""

    PARAMETERS = {
        "task": component_spec.ExecutionParameter(type=str),
        "limits": component_spec.ExecutionParameter(type=str),
        "fingerprint": component_spec.ExecutionParameter(type=str),
    }
    INPUTS = {
        "statistics": component_spec.ChannelParameter(type=standard_artifacts.ExampleStatistics),
        "baseline_statistics": component_spec.ChannelParameter(
            type=standard_artifacts.ExampleStatistics, optional=True
        ),
    }
    OUTPUTS = {"report": component_spec.ChannelParameter(type=TokenGateReport)}


class TokenGate(base_component.BaseComponent):
    """Fails, and with it stops the run, where the model could not read the text.

    Args:
        statistics: Of the transformed examples, each split on its own, made with
            `executor.statistics_options`.
        baseline_statistics: Those of the last accepted run, as
            `LatestOtherAcceptedStatisticsStrategy` finds them; there may be none.
        task: Says whether rows are pairs.
        limits: What `checks.parse_limits` returned.
    """

    SPEC_CLASS = TokenGateSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        *,
        statistics: types.BaseChannel,
        baseline_statistics: types.BaseChannel,
        task: Task,
        limits: Limits,
    ) -> None:
        super().__init__(
            TokenGateSpec(
                statistics=statistics,
                baseline_statistics=baseline_statistics,
                task=task.to_json(),
                limits=limits_json(limits, TOKENS),
                fingerprint=source_fingerprint(executor.__name__),
                report=types.Channel(type=TokenGateReport),
            )
        )
