"""Compressor: takes layers, heads, neurons, tokens or bits out of a trained model."""

import json
from collections.abc import Mapping
from typing import Any

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import component_spec, standard_artifacts

from bert_tfx.components.compressor import executor
from bert_tfx.schema.fingerprint import source_fingerprint
from bert_tfx.schema.tasks import Task


class CompressorSpec(component_spec.ComponentSpec):
    """Inputs, outputs and parameters of `Compressor`."""

    PARAMETERS = {
        "compress_fn": component_spec.ExecutionParameter(type=str),
        "task": component_spec.ExecutionParameter(type=str),
        "settings": component_spec.ExecutionParameter(type=str),
        "eval_fraction": component_spec.ExecutionParameter(type=float),
        "fingerprint": component_spec.ExecutionParameter(type=str),
    }
    INPUTS = {
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
        "model": component_spec.ChannelParameter(type=standard_artifacts.Model),
    }
    OUTPUTS = {
        "smaller_model": component_spec.ChannelParameter(type=standard_artifacts.Model),
        "model_run": component_spec.ChannelParameter(type=standard_artifacts.ModelRun),
    }


class Compressor(base_component.BaseComponent):
    """Makes a trained model smaller, as `bert-tfx compress` does.

    Args:
        examples: Train's rows choose what goes, and are learned from after that where it was asked
            for; eval's choose the best of these epochs.
        model: The model, exported.
        compress_fn: Dotted name of the function that does it, as the Trainer's `run_fn`;
            `bert_tfx.modeling.tfx.compressor` has it.
        task: What the rows mean.
        settings: What to take out, as that function takes it.
        eval_fraction: Share of the rows that was held out, for whoever trains on from the result.
    """

    SPEC_CLASS = CompressorSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        *,
        examples: types.BaseChannel,
        model: types.BaseChannel,
        compress_fn: str,
        task: Task,
        settings: Mapping[str, Any],
        eval_fraction: float,
    ) -> None:
        super().__init__(
            CompressorSpec(
                examples=examples,
                model=model,
                compress_fn=compress_fn,
                task=task.to_json(),
                settings=json.dumps(settings, sort_keys=True),
                eval_fraction=eval_fraction,
                fingerprint=source_fingerprint(executor.__name__, compress_fn.rpartition(".")[0]),
                smaller_model=types.Channel(type=standard_artifacts.Model),
                model_run=types.Channel(type=standard_artifacts.ModelRun),
            )
        )
