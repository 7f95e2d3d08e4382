"""ServingGate: loads the candidate into a model server and asks it, before it may be pushed.

TFX's InfraValidator needs Docker or Kubernetes, and compares no answer with anything.
"""

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import component_spec, standard_artifacts

from bert_tfx.components.serving_gate import executor


class ServingFindings(types.Artifact):
    """What ServingGate found, as `findings.json`."""

    TYPE_NAME = "ServingFindings"


class ServingGateSpec(component_spec.ComponentSpec):
    """Inputs, outputs and parameters of `ServingGate`."""

    PARAMETERS = {
        "base_directory": component_spec.ExecutionParameter(type=str),
        "tolerance": component_spec.ExecutionParameter(type=float),
        "timeout": component_spec.ExecutionParameter(type=float),
        "max_slowdown": component_spec.ExecutionParameter(type=float, optional=True),
        "max_model_mb": component_spec.ExecutionParameter(type=float, optional=True),
        "max_server_mb": component_spec.ExecutionParameter(type=float, optional=True),
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
        tolerance: By how much a probability may differ from the evaluated one.
        timeout: Seconds that the server has to load the model.
        max_slowdown: How many times the latency (p50) of the last pushed model is allowed; None
            allows all.
        max_model_mb: Size of the exported model at most, in megabytes (10^6 bytes).
        max_server_mb: Memory of the server at most, likewise.
        fingerprint: Of the source code; another one makes a cached result void.
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
        tolerance: float = 1e-5,
        timeout: float = 120.0,
        max_slowdown: float | None = None,
        max_model_mb: float | None = None,
        max_server_mb: float | None = None,
        fingerprint: str,
    ) -> None:
        limits = {
            "max_slowdown": max_slowdown,
            "max_model_mb": max_model_mb,
            "max_server_mb": max_server_mb,
        }
        super().__init__(
            ServingGateSpec(
                model=model,
                model_blessing=model_blessing,
                predictions=predictions,
                base_directory=base_directory,
                tolerance=float(tolerance),
                timeout=float(timeout),
                fingerprint=fingerprint,
                findings=types.Channel(type=ServingFindings),
                blessing=types.Channel(type=standard_artifacts.InfraBlessing),
                **{name: float(value) for name, value in limits.items() if value is not None},
            )
        )
