"""PromotionGate: blesses a model on evidence.

TFX's Evaluator holds figures against thresholds, as if those of a few hundred rows were exact. Here
a loss counts where the rows show it, over all and on each slice, and sentences say so.
"""

import json
from collections.abc import Sequence

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import component_spec, standard_artifacts

from bert_tfx.components.promotion_gate import executor
from bert_tfx.components.promotion_gate.limits import PromotionLimits
from bert_tfx.components.variant_findings import VariantFindings
from bert_tfx.schema.fingerprint import source_fingerprint
from bert_tfx.schema.tasks import Task


class PromotionDecision(types.Artifact):
    """Whether a model is promoted, why, and all the figures, as `decision.json`."""

    TYPE_NAME = "PromotionDecision"


class PromotionGateSpec(component_spec.ComponentSpec):
    """Inputs, outputs and parameters of `PromotionGate`."""

    PARAMETERS = {
        "task": component_spec.ExecutionParameter(type=str),
        "slice_features": component_spec.ExecutionParameter(type=str),
        "limits": component_spec.ExecutionParameter(type=str),
        "fingerprint": component_spec.ExecutionParameter(type=str),
    }
    INPUTS = {
        "predictions": component_spec.ChannelParameter(type=standard_artifacts.Examples),
        "model": component_spec.ChannelParameter(type=standard_artifacts.Model),
        "baseline_model": component_spec.ChannelParameter(
            type=standard_artifacts.Model, optional=True
        ),
        "student_findings": component_spec.ChannelParameter(type=VariantFindings, optional=True),
    }
    OUTPUTS = {
        "decision": component_spec.ChannelParameter(type=PromotionDecision),
        "blessing": component_spec.ChannelParameter(type=standard_artifacts.ModelBlessing),
    }


class PromotionGate(base_component.BaseComponent):
    """Decides whether the candidate may take the baseline's place.

    A model that may not fails nothing: it is recorded as not blessed, and is not pushed.

    Args:
        predictions: The eval rows with the answers of both models, as Predictor writes them.
        model: The candidate.
        baseline_model: The model that it would replace, if there is one.
        student_findings: What VariantGate found of the student that it is, or was made of. One
            that lost too much to its teacher is not blessed.
        task: Names the labels.
        limits: What the candidate must reach.
        slice_features: The rows' features to slice by, besides the label.
    """

    SPEC_CLASS = PromotionGateSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        *,
        predictions: types.BaseChannel,
        model: types.BaseChannel,
        baseline_model: types.BaseChannel | None = None,
        student_findings: types.BaseChannel | None = None,
        task: Task,
        limits: PromotionLimits,
        slice_features: Sequence[str],
    ) -> None:
        super().__init__(
            PromotionGateSpec(
                predictions=predictions,
                model=model,
                baseline_model=baseline_model,
                student_findings=student_findings,
                task=task.to_json(),
                slice_features=json.dumps(list(slice_features)),
                limits=limits.to_json(),
                fingerprint=source_fingerprint(executor.__name__),
                decision=types.Channel(type=PromotionDecision),
                blessing=types.Channel(type=standard_artifacts.ModelBlessing),
            )
        )
