"""Predictor: runs the eval rows through the models that are to be compared.

TFX's BulkInferrer takes one model and drops a pair's second one; TFX's Evaluator keeps no answers.
What is asked once here is measured by the Evaluator, compared by PromotionGate, and held against a
server by ServingGate.
"""

from tfx import types
from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import component_spec, standard_artifacts

from bert_tfx.components.data_gate.component import DataGateReport
from bert_tfx.components.predictor import executor
from bert_tfx.schema.fingerprint import source_fingerprint


class PredictorSpec(component_spec.ComponentSpec):
    """Inputs, outputs and parameters of `Predictor`."""

    PARAMETERS = {"fingerprint": component_spec.ExecutionParameter(type=str)}
    INPUTS = {
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
        "data_report": component_spec.ChannelParameter(type=DataGateReport),
        "model": component_spec.ChannelParameter(type=standard_artifacts.Model),
        "baseline_model": component_spec.ChannelParameter(
            type=standard_artifacts.Model, optional=True
        ),
    }
    OUTPUTS = {"predictions": component_spec.ChannelParameter(type=standard_artifacts.Examples)}


class Predictor(base_beam_component.BaseBeamComponent):
    """Adds the models' answers to the eval rows; `predictions.py` says in which form.

    Args:
        examples: The raw rows, with a split `eval`.
        data_report: Says which of them leaked, of `DataGate`.
        model: The candidate.
        baseline_model: The model it is compared with; there may be none.
    """

    SPEC_CLASS = PredictorSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)

    def __init__(
        self,
        *,
        examples: types.BaseChannel,
        data_report: types.BaseChannel,
        model: types.BaseChannel,
        baseline_model: types.BaseChannel | None = None,
    ) -> None:
        predictions = types.Channel(type=standard_artifacts.Examples)
        super().__init__(
            PredictorSpec(
                examples=examples,
                data_report=data_report,
                model=model,
                baseline_model=baseline_model,
                fingerprint=source_fingerprint(executor.__name__),
                predictions=predictions,
            )
        )
