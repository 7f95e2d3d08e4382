"""Executor of ModelPusher."""

import json
import logging
import os
from collections.abc import Mapping
from typing import Any

from tfx import types
from tfx.components.pusher import executor as tfx_pusher
from tfx.dsl.io import fileio
from tfx.proto import pusher_pb2
from tfx.types import artifact_utils
from tfx.utils import io_utils, proto_utils

from bert_tfx.components.model_pusher.lock import exclusive
from bert_tfx.components.model_pusher.version_folder import (
    MARKER_FILE,
    Origin,
    Pushed,
    VersionFolder,
)
from bert_tfx.schema.errors import InputError

_logger = logging.getLogger(__name__)


class Executor(tfx_pusher.Executor):
    """Pushes atomically; how it reads the blessing and marks its output is TFX's."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Pushes the model where it is blessed.

        Args:
            input_dict: `model`, `model_blessing`.
            output_dict: `pushed_model`; its custom properties `pushed`, `pushed_version`,
                `pushed_destination` and `pushed_sha256` say what happened, and a copy of the
                version's marker lies there.
            exec_properties: `push_destination`; where a server is to be asked `server`,
                `model_name`, `server_timeout` and, as it wants them, `server_tls_ca`,
                `server_tls_cert`, `server_tls_key` and `server_token_file`.

        Raises:
            InputError: If the folder cannot be written, the model was rolled back there, or the
                server does not serve it, so that it was taken back.
        """
        pushed_model = artifact_utils.get_single_instance(output_dict["pushed_model"])
        if not self.CheckBlessing(input_dict):
            self._MarkNotPushed(pushed_model)
            return
        destination = pusher_pb2.PushDestination()
        proto_utils.json_to_proto(exec_properties["push_destination"], destination)
        base_directory = destination.filesystem.base_directory
        server = exec_properties.get("server")
        with exclusive(base_directory):
            folder = VersionFolder(base_directory)
            pushed = folder.push(self.GetModelPath(input_dict), self._origin(input_dict), server)
            if pushed.is_new:
                _logger.info("pushed version %d to %s", pushed.number, pushed.folder)
            else:
                # A run that was stopped after the push and before it was recorded comes here again.
                _logger.info("version %d is this very model already", pushed.number)
            latest = folder.numbers()[-1]
            if latest != pushed.number:
                _logger.warning(
                    "version %d is newer, so that one is served; bert-tfx rollback --to %d goes "
                    "back to this model",
                    latest,
                    pushed.number,
                )
            elif server:
                _verify(folder, pushed, exec_properties)
        self._MarkPushed(
            pushed_model, pushed_destination=pushed.folder, pushed_version=str(pushed.number)
        )
        pushed_model.set_string_custom_property("pushed_sha256", pushed.marker.get("sha256", ""))
        fileio.makedirs(pushed_model.uri)
        io_utils.write_string_file(
            os.path.join(pushed_model.uri, MARKER_FILE),
            json.dumps(pushed.marker, ensure_ascii=False, indent=1),
        )

    def _origin(self, input_dict: dict[str, list[types.Artifact]]) -> Origin:
        (model,) = input_dict["model"]
        blessing = next(iter(input_dict.get("model_blessing") or ()), None)
        return Origin(
            model_uri=model.uri,
            model_id=model.id or None,
            run_id=self._context.pipeline_run_id if self._context else None,
            blessing_uri=blessing and blessing.uri,
            blessing_id=(blessing and blessing.id) or None,
        )


def _verify(folder: VersionFolder, pushed: Pushed, exec_properties: Mapping[str, Any]) -> None:
    """Asks the server for the version; takes one back that has never been served.

    Raises:
        InputError: If the server does not serve it.
    """
    from bert_tfx.components.model_pusher.verification import Server, ask_for_version
    from bert_tfx.serving.protocol.errors import ServingError

    server = Server(
        exec_properties["server"],
        exec_properties["model_name"],
        *(
            exec_properties.get(f"server_{name}")
            for name in ("tls_ca", "tls_cert", "tls_key", "token_file")
        ),
    )
    accepted = not pushed.is_new and folder.is_accepted(pushed.number)
    try:
        ask_for_version(server, pushed.number, exec_properties["server_timeout"])
    except (ServingError, InputError) as error:
        if accepted:
            raise InputError(
                f"version {pushed.number} was pushed by an earlier run and stays in {folder.path}, "
                f"but the server does not answer for it: {error}"
            ) from error
        folder.take_back(pushed.number, str(error))
        raise InputError(
            f"version {pushed.number} was taken back from {folder.path}, because the server does "
            f"not answer for it: {error} (the same command pushes it again)"
        ) from error
    folder.accept(pushed.number, server.address)
    _logger.info("%s serves version %d", server.address, pushed.number)
