"""VariantGate: holds a smaller model against the one that it was made of, before it may go on.

The PromotionGate asks whether a model may take the place of the last one that was served. This asks
first whether it was worth making: what it lost, and what was gained for it.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import component_spec, standard_artifacts

from bert_tfx.components.variant_findings import VariantFindings
from bert_tfx.components.variant_gate import executor
from bert_tfx.components.variant_gate.limits import VariantLimits
from bert_tfx.schema.fingerprint import source_fingerprint
from bert_tfx.schema.tasks import Task


class VariantGateSpec(component_spec.ComponentSpec):
    """Inputs, outputs and parameters of `VariantGate`."""

    PARAMETERS = {
        "task": component_spec.ExecutionParameter(type=str),
        "step": component_spec.ExecutionParameter(type=str),
        "head": component_spec.ExecutionParameter(type=str),
        "settings": component_spec.ExecutionParameter(type=str),
        "limits": component_spec.ExecutionParameter(type=str),
        "slice_columns": component_spec.ExecutionParameter(type=str),
        "timeout": component_spec.ExecutionParameter(type=float),
        "tolerance": component_spec.ExecutionParameter(type=float, optional=True),
        "goes_back": component_spec.ExecutionParameter(type=int),
        "fingerprint": component_spec.ExecutionParameter(type=str),
    }
    INPUTS = {
        "predictions": component_spec.ChannelParameter(type=standard_artifacts.Examples),
        "variant": component_spec.ChannelParameter(type=standard_artifacts.Model),
        "before": component_spec.ChannelParameter(type=standard_artifacts.Model),
        "reference": component_spec.ChannelParameter(type=standard_artifacts.Model, optional=True),
        "control": component_spec.ChannelParameter(type=standard_artifacts.Model, optional=True),
    }
    OUTPUTS = {
        "findings": component_spec.ChannelParameter(type=VariantFindings),
        "model": component_spec.ChannelParameter(type=standard_artifacts.Model),
    }


class VariantGate(base_component.BaseComponent):
    """Judges a smaller model beside the one that it was made of, and lets the better go on.

    Model servers must answer as the models did, and are measured in turns. A model that is not
    accepted fails nothing: the findings say why.

    Args:
        predictions: The eval rows with all models' answers, of a `Predictor` whose candidate is the
            variant.
        variant: The smaller model.
        before: The model that it was made of.
        reference: The model at the head of the chain, which all are shown beside.
        control: The same as the variant without what made it better, to be shown beside it.
        task: Names the labels.
        step: What the variant is called.
        head: What the model at the head of the chain is called.
        settings: What was asked for, for readers of the findings.
        limits: What the variant may lose and must gain.
        slice_columns: Columns to slice by, besides length, leaked and label.
        timeout: Seconds that a server has to load a model.
        tolerance: By how much a served probability may differ from the model's own; None is
            `tolerance_of` its storage.
        goes_back: Whether the model before goes on where the variant is refused.
    """

    SPEC_CLASS = VariantGateSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        *,
        predictions: types.BaseChannel,
        variant: types.BaseChannel,
        before: types.BaseChannel,
        reference: types.BaseChannel | None = None,
        control: types.BaseChannel | None = None,
        task: Task,
        step: str,
        head: str,
        settings: Mapping[str, Any],
        limits: VariantLimits,
        slice_columns: Sequence[str],
        timeout: float,
        tolerance: float | None = None,
        goes_back: bool,
    ) -> None:
        super().__init__(
            VariantGateSpec(
                predictions=predictions,
                variant=variant,
                before=before,
                reference=reference,
                control=control,
                task=task.to_json(),
                step=step,
                head=head,
                settings=json.dumps(settings, sort_keys=True),
                limits=limits.to_json(),
                slice_columns=json.dumps(list(slice_columns)),
                timeout=timeout,
                tolerance=tolerance,
                goes_back=int(goes_back),
                fingerprint=source_fingerprint(executor.__name__),
                findings=types.Channel(type=VariantFindings),
                model=types.Channel(type=standard_artifacts.Model),
            )
        )
