"""ModelPusher: hands a blessed model to the server, whole or not at all."""

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.proto import pusher_pb2
from tfx.types import component_spec, standard_artifacts, standard_component_specs

from bert_tfx.components.model_pusher import executor
from bert_tfx.serving import DEFAULT_MODEL
from bert_tfx.serving.connection import check_address


class ModelPusherSpec(standard_component_specs.PusherSpec):
    """Inputs, outputs and parameters of `ModelPusher`: those of TFX's Pusher, and the server's."""

    PARAMETERS = {
        **standard_component_specs.PusherSpec.PARAMETERS,
        "server": component_spec.ExecutionParameter(type=str, optional=True),
        "model_name": component_spec.ExecutionParameter(type=str, optional=True),
        "server_timeout": component_spec.ExecutionParameter(type=float, optional=True),
    }


class ModelPusher(base_component.BaseComponent):
    """TFX's Pusher with an atomic push that is held against the server.

    TFX's own copies file by file into the folder that the server watches, under a version that it
    takes from the clock: a crash leaves half a model there, and two pushes within a second count as
    one. Here a version is complete when it appears, its number is above all others, and what the
    server does not serve is taken back.

    Args:
        model: The candidate.
        model_blessing: The Evaluator's verdict; without a blessing nothing is pushed.
        base_directory: The folder that the server watches; the model becomes
            `<base_directory>/<version>/`.
        server: The gRPC address (`HOST:PORT`) of a server that watches it; it is asked for the new
            version. By default none is.
        model_name: The model's name there.
        server_timeout: Seconds that the server has to load the version.

    Raises:
        InputError: If the server's address makes no sense.
    """

    SPEC_CLASS = ModelPusherSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        *,
        model: types.BaseChannel,
        model_blessing: types.BaseChannel,
        base_directory: str,
        server: str | None = None,
        model_name: str = DEFAULT_MODEL,
        server_timeout: float = 120.0,
    ) -> None:
        if server:
            check_address(server)
        asked = {
            "server": server,
            "model_name": model_name,
            "server_timeout": float(server_timeout),
        }
        super().__init__(
            ModelPusherSpec(
                model=model,
                model_blessing=model_blessing,
                push_destination=pusher_pb2.PushDestination(
                    filesystem=pusher_pb2.PushDestination.Filesystem(base_directory=base_directory)
                ),
                pushed_model=types.Channel(type=standard_artifacts.PushedModel),
                **(asked if server else {}),
            )
        )
