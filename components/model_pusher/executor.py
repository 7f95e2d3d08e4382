"""Executor of ModelPusher."""

import os
import time
from typing import Any

from absl import logging
from tfx import types
from tfx.components.pusher import executor as tfx_pusher
from tfx.dsl.io import fileio
from tfx.proto import pusher_pb2
from tfx.types import artifact_utils
from tfx.utils import io_utils, proto_utils

# TF Serving takes every child with a number for a name as a version, and passes over the rest.
_STAGING_PREFIX = ".staging-"
# TensorFlow writes it with an id of its own into each SavedModel it saves.
_FINGERPRINT_FILE = "fingerprint.pb"


def pushed_versions(base_directory: str) -> list[int]:
    """Returns the versions in a folder that a server watches, the latest last."""
    if not fileio.exists(base_directory):
        return []
    names = (name.rstrip("/") for name in fileio.listdir(base_directory))
    return sorted(int(name) for name in names if name.isdigit())


def push(model_path: str, base_directory: str) -> tuple[int, str]:
    """Puts a SavedModel into the folder that a server watches, whole or not at all.

    Args:
        model_path: The SavedModel.
        base_directory: The folder; it is made where it does not exist.

    Returns:
        The version (seconds since 1970, or one more than the latest where that is higher) and its
        folder. Where the latest version is this very model, that version.
    """
    fileio.makedirs(base_directory)
    for name in fileio.listdir(base_directory):
        if name.startswith(_STAGING_PREFIX):
            fileio.rmtree(os.path.join(base_directory, name))
    latest = max(pushed_versions(base_directory), default=0)
    destination = os.path.join(base_directory, str(latest))
    fingerprint = _fingerprint(model_path)
    if latest and fingerprint and _fingerprint(destination) == fingerprint:
        # A run that was stopped after the push and before it was recorded comes here again.
        logging.info("version %d is this model already", latest)
        return latest, destination

    version = max(int(time.time()), latest + 1)
    destination = os.path.join(base_directory, str(version))
    staging = os.path.join(base_directory, f"{_STAGING_PREFIX}{version}")
    io_utils.copy_dir(model_path, staging)
    _sync(staging)
    fileio.rename(staging, destination)
    return version, destination


def _fingerprint(saved_model: str) -> bytes | None:
    path = os.path.join(saved_model, _FINGERPRINT_FILE)
    return io_utils.read_bytes_file(path) if fileio.exists(path) else None


def _sync(folder: str) -> None:
    """Brings a local folder's files to disk: the rename must not get there before them."""
    if "://" in folder:
        return
    for parent, _, names in os.walk(folder):
        for path in [parent, *(os.path.join(parent, name) for name in names)]:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


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
            output_dict: `pushed_model`; its custom properties `pushed`, `pushed_version` and
                `pushed_destination` say what happened.
            exec_properties: `push_destination`.
        """
        pushed_model = artifact_utils.get_single_instance(output_dict["pushed_model"])
        if not self.CheckBlessing(input_dict):
            self._MarkNotPushed(pushed_model)
            return
        destination = pusher_pb2.PushDestination()
        proto_utils.json_to_proto(exec_properties["push_destination"], destination)
        version, path = push(self.GetModelPath(input_dict), destination.filesystem.base_directory)
        self._MarkPushed(pushed_model, pushed_destination=path, pushed_version=str(version))
        logging.info("pushed version %d to %s", version, path)
