"""Who may work in an output folder at the same time.

A whole run has the folder for itself. Where each node is a process of its own, those of different
nodes work side by side, also for two runs: SQLite lets one of them write to ML Metadata and the
others wait. A node's own folders and files are for one process at a time.

Loads no framework: a folder that cannot be used is refused at once.
"""

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator
from typing import TextIO

from bert_tfx.schema.errors import InputError

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def exclusive(output_dir: str) -> Iterator[None]:
    """Makes the output folder and keeps other runs out of it.

    The system gives the folder free when the process ends, however it ends.

    Args:
        output_dir: The folder.

    Raises:
        InputError: If it cannot be written, or another run is using it.
    """
    with _opened(output_dir, ".lock") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                f"{output_dir}: another run is using this folder; wait for its end, or name "
                "another folder by --output"
            ) from error
        yield


@contextlib.contextmanager
def for_node(output_dir: str, name: str) -> Iterator[None]:
    """Makes the output folder and keeps whole runs out of it, and others from running the node.

    Waits for those that are there: a scheduler may take a process for dead that still works.

    Args:
        output_dir: The folder.
        name: The node.

    Raises:
        InputError: If it cannot be written.
    """
    with _opened(output_dir, ".lock") as lock, _opened(output_dir, f".lock-{name}") as own:
        _wait(lock, fcntl.LOCK_SH, f"the run that is using {output_dir}")
        _wait(own, fcntl.LOCK_EX, f"another process that runs {name}")
        yield


def _opened(output_dir: str, name: str) -> TextIO:
    try:
        os.makedirs(output_dir, exist_ok=True)
        return open(os.path.join(output_dir, name), "w")
    except OSError as error:
        raise InputError(
            f"{output_dir}: cannot be written: {error.strerror}; --output names a folder for the "
            "run's artifacts"
        ) from error


def _wait(lock: TextIO, operation: int, holder: str) -> None:
    try:
        fcntl.flock(lock, operation | fcntl.LOCK_NB)
    except OSError:
        logger.info("waiting for %s", holder)
        fcntl.flock(lock, operation)
