"""ServingGate: loads the candidate into a model server and asks it, before it may be pushed.

TFX's InfraValidator needs Docker or Kubernetes, and compares no answer with anything.
"""

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import component_spec, standard_artifacts

from bert_tfx.components.serving_gate import executor
from bert_tfx.components.serving_gate.limits import ServingLimits
from bert_tfx.schema.fingerprint import source_fingerprint


class ServingFindings(types.Artifact):
    """What ServingGate found, as `findings.json`."""

    TYPE_NAME = "ServingFindings"


class ServingGateSpec(component_spec.ComponentSpec):
    """Inputs, outputs and parameters of `ServingGate`."""

    PARAMETERS = {
        "base_directory": component_spec.ExecutionParameter(type=str),
        "limits": component_spec.ExecutionParameter(type=str),
        "fingerprint": component_spec.ExecutionParameter(type=str),
    }
    INPUTS = {
        "model": component_spec.ChannelParameter(type=standard_artifacts.Model),
        "model_blessing": component_spec.ChannelParameter(type=standard_artifacts.ModelBlessing),
        "predictions": component_spec.ChannelParameter(type=standard_artifacts.Examples),
    }
    OUTPUTS = {
        "findings": component_spec.ChannelParameter(type=ServingFindings),
        "blessing": component_spec.ChannelParameter(type=standard_artifacts.InfraBlessing),
    }


class ServingGate(base_component.BaseComponent):
    """Blesses a model that a server loads, and that answers there as it was evaluated.

    The server is TensorFlow Serving where `tensorflow_model_server` is on the PATH, else this
    package's own. A model that was not blessed is not asked, and not blessed here either.

    Args:
        model: The candidate.
        model_blessing: Whether it is good enough.
        predictions: The eval rows with its answers, of `Predictor`.
        base_directory: The folder of the pushed versions: the latest one there is what the
            candidate's speed is compared with.
        limits: What it must keep to.
    """

    SPEC_CLASS = ServingGateSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        *,
        model: types.BaseChannel,
        model_blessing: types.BaseChannel,
        predictions: types.BaseChannel,
        base_directory: str,
        limits: ServingLimits,
    ) -> None:
        super().__init__(
            ServingGateSpec(
                model=model,
                model_blessing=model_blessing,
                predictions=predictions,
                base_directory=base_directory,
                limits=limits.to_json(),
                fingerprint=source_fingerprint(executor.__name__),
                findings=types.Channel(type=ServingFindings),
                blessing=types.Channel(type=standard_artifacts.InfraBlessing),
            )
        )
