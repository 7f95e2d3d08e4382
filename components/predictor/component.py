"""Predictor: runs the eval rows through the models that are to be compared.

TFX's BulkInferrer takes one model and drops a pair's second one; TFX's Evaluator keeps no answers.
What is asked once here is measured by the Evaluator, compared by PromotionGate, and held against a
server by ServingGate; of a model that was made smaller VariantGate does all of it.
"""

from collections.abc import Mapping

from tfx import types
from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import component_spec, standard_artifacts

from bert_tfx.components.data_gate.component import DataGateReport
from bert_tfx.components.predictor import executor
from bert_tfx.components.predictor.predictions import CANDIDATE, MODELS
from bert_tfx.schema.fingerprint import source_fingerprint


class PredictorSpec(component_spec.ComponentSpec):
    """Inputs, outputs and parameters of `Predictor`."""

    PARAMETERS = {"fingerprint": component_spec.ExecutionParameter(type=str)}
    INPUTS = {
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
        "data_report": component_spec.ChannelParameter(type=DataGateReport),
        **{
            key: component_spec.ChannelParameter(
                type=standard_artifacts.Model, optional=key != CANDIDATE
            )
            for key in MODELS
        },
    }
    OUTPUTS = {"predictions": component_spec.ChannelParameter(type=standard_artifacts.Examples)}


class Predictor(base_beam_component.BaseBeamComponent):
    """Adds the models' answers to the eval rows; `predictions.py` says in which form.

    Args:
        examples: The raw rows, with a split `eval`.
        data_report: Says which of them leaked, of `DataGate`.
        models: What is asked, by their keys in `MODELS`; there may be none but the candidate. The
            candidate says how long rows are, and whether they are cut. Where there is a model
            `before`, that says it, as the candidate, which was made of it, may have fewer tokens;
            and a model that cannot be loaded or asked stops no run: the rows hold why.
    """

    SPEC_CLASS = PredictorSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)

    def __init__(
        self,
        *,
        examples: types.BaseChannel,
        data_report: types.BaseChannel,
        models: Mapping[str, types.BaseChannel | None],
    ) -> None:
        predictions = types.Channel(type=standard_artifacts.Examples)
        super().__init__(
            PredictorSpec(
                examples=examples,
                data_report=data_report,
                **models,
                fingerprint=source_fingerprint(executor.__name__),
                predictions=predictions,
            )
        )
