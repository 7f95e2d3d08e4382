"""Who may work in an output folder at the same time.

A whole run has the folder for itself. Where its parts are processes of their own, different parts
work side by side, also for two runs: SQLite lets one of them write to ML Metadata and the others
wait. The folders and files of a part are for one process at a time.

Loads no framework: a folder that cannot be used is refused at once.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import IO, Any

from bert_tfx.schema.errors import InputError
from bert_tfx.schema.locks import lock


@contextlib.contextmanager
def exclusive(output_dir: str) -> Iterator[None]:
    """Makes the output folder and keeps other runs out of it.

    The system gives the folder free when the process ends, however it ends.

    Args:
        output_dir: The folder.

    Raises:
        InputError: If it cannot be written, or another run is using it.
    """
    busy = InputError(
        f"{output_dir}: another run is using this folder; wait for its end, or name another folder "
        "by --output"
    )
    with _locked(output_dir, ".lock", refusal=busy):
        yield


@contextlib.contextmanager
def for_part(output_dir: str, name: str) -> Iterator[None]:
    """Makes the output folder and keeps whole runs out of it, and others from running the part.

    Waits for those that are there: a scheduler may take a process for dead that still works.

    Args:
        output_dir: The folder.
        name: Of the part: a stage, or a node where each is a process of its own.

    Raises:
        InputError: If it cannot be written.
    """
    run = f"waiting for the run that is using {output_dir}"
    other = f"waiting for another process that runs {name}"
    with (
        _locked(output_dir, ".lock", shared=True, waiting=run),
        _locked(output_dir, f".lock-{name}", waiting=other),
    ):
        yield


def _locked(output_dir: str, name: str, **how: Any) -> IO[bytes]:
    try:
        return lock(os.path.join(output_dir, name), **how)
    except OSError as error:
        raise InputError(
            f"{output_dir}: cannot be written: {error.strerror}; --output names a folder for the "
            "run's artifacts"
        ) from error
