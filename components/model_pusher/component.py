"""ModelPusher: hands a blessed model to the server, whole or not at all."""

from tfx import types
from tfx.components import Pusher
from tfx.dsl.components.base import executor_spec
from tfx.proto import pusher_pb2

from bert_tfx.components.model_pusher import executor


class ModelPusher(Pusher):
    """TFX's Pusher with an atomic push.

    TFX's own copies file by file into the folder that the server watches, under a version that it
    takes from the clock: a crash leaves half a model there, and two pushes within a second count as
    one. Here a version is complete when it appears, and its number is above all others.

    Args:
        model: The candidate.
        model_blessing: The Evaluator's verdict; without a blessing nothing is pushed.
        base_directory: The folder that the server watches; the model becomes
            `<base_directory>/<version>/`.
    """

    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self, *, model: types.BaseChannel, model_blessing: types.BaseChannel, base_directory: str
    ) -> None:
        super().__init__(
            model=model,
            model_blessing=model_blessing,
            push_destination=pusher_pb2.PushDestination(
                filesystem=pusher_pb2.PushDestination.Filesystem(base_directory=base_directory)
            ),
        )
