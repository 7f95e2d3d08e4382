"""ModelPusher: hands a blessed model to the server, whole or not at all."""

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.proto import pusher_pb2
from tfx.types import component_spec, standard_artifacts, standard_component_specs

from bert_tfx.components.model_pusher import executor
from bert_tfx.components.model_pusher.verification import Server
from bert_tfx.schema.errors import InputError
from bert_tfx.serving import DEFAULT_MODEL


class ModelPusherSpec(standard_component_specs.PusherSpec):
    """Inputs, outputs and parameters of `ModelPusher`: those of TFX's Pusher, and the server's."""

    PARAMETERS = {
        **standard_component_specs.PusherSpec.PARAMETERS,
        "server": component_spec.ExecutionParameter(type=str, optional=True),
        "model_name": component_spec.ExecutionParameter(type=str, optional=True),
        "server_timeout": component_spec.ExecutionParameter(type=float, optional=True),
        # Paths: what the files hold is no business of ML Metadata.
        "server_tls_ca": component_spec.ExecutionParameter(type=str, optional=True),
        "server_tls_cert": component_spec.ExecutionParameter(type=str, optional=True),
        "server_tls_key": component_spec.ExecutionParameter(type=str, optional=True),
        "server_token_file": component_spec.ExecutionParameter(type=str, optional=True),
    }


class ModelPusher(base_component.BaseComponent):
    """TFX's Pusher with an atomic push that is held against the server.

    TFX's own copies file by file into the folder that the server watches, under a version that it
    takes from the clock: a crash leaves half a model there, and two pushes within a second count as
    one. Here a version is complete when it appears, its number is above all others, and what the
    server does not serve is taken back.

    Args:
        model: The candidate.
        model_blessing: PromotionGate's verdict; without a blessing nothing is pushed.
        infra_blessing: ServingGate's verdict, likewise.
        base_directory: The folder that the server watches; the model becomes
            `<base_directory>/<version>/`.
        server: The gRPC address (`HOST:PORT`) of a server that watches it; it is asked for the new
            version. By default none is.
        model_name: The model's name there.
        server_timeout: Seconds that the server has to load the version.
        server_tls_ca: File of the authorities to trust, PEM. With it, or with `server_tls_cert`,
            the server is asked over TLS.
        server_tls_cert: File of the own certificate chain, PEM, for a server that asks for one.
        server_tls_key: File of its private key, PEM.
        server_token_file: File of the token to show; it is read when the server is asked.

    Raises:
        InputError: If the server's address makes no sense, a file cannot be read or is not what it
            should be, the token would leave the machine unencrypted, or there is no server that the
            files are for.
    """

    SPEC_CLASS = ModelPusherSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        *,
        model: types.BaseChannel,
        model_blessing: types.BaseChannel,
        infra_blessing: types.BaseChannel | None = None,
        base_directory: str,
        server: str | None = None,
        model_name: str = DEFAULT_MODEL,
        server_timeout: float = 120.0,
        server_tls_ca: str | None = None,
        server_tls_cert: str | None = None,
        server_tls_key: str | None = None,
        server_token_file: str | None = None,
    ) -> None:
        files = {
            name: path
            for name, path in {
                "tls_ca": server_tls_ca,
                "tls_cert": server_tls_cert,
                "tls_key": server_tls_key,
                "token_file": server_token_file,
            }.items()
            if path is not None
        }
        asked: dict[str, object] = {}
        if server:
            # A slip shows now, and not when a model is trained and pushed.
            Server(server, model_name, **files).check()
            asked = {
                "server": server,
                "model_name": model_name,
                "server_timeout": float(server_timeout),
                **{f"server_{name}": path for name, path in files.items()},
            }
        elif files:
            name, path = next(iter(files.items()))
            raise InputError(
                f"{path}: there is no server that it is for (server_{name}); name the server, or "
                "leave the file out"
            )
        super().__init__(
            ModelPusherSpec(
                model=model,
                model_blessing=model_blessing,
                infra_blessing=infra_blessing,
                push_destination=pusher_pb2.PushDestination(
                    filesystem=pusher_pb2.PushDestination.Filesystem(base_directory=base_directory)
                ),
                pushed_model=types.Channel(type=standard_artifacts.PushedModel),
                **asked,
            )
        )
