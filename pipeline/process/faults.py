"""Faults: what goes wrong without being a mistake of the user's."""

import contextlib
import datetime
import os
import tempfile

from bert_tfx.pipeline.process.exit_codes import ExitCode
from bert_tfx.schema.errors import DataRefused, InputError

FAULT_FILE = "fault.log"
"""Holds the traces of faults, in a run's output folder."""


def exit_code_of(error: BaseException) -> ExitCode:
    """Returns the exit code of a command that an exception ends."""
    if isinstance(error, DataRefused):
        return ExitCode.DATA_REFUSED
    if isinstance(error, InputError) or missing_package(error):
        return ExitCode.INPUT_ERROR
    return ExitCode.INTERRUPTED if isinstance(error, KeyboardInterrupt) else ExitCode.FAULT


def missing_package(error: BaseException) -> str | None:
    """Returns the package of others that an exception says is not installed, if it does."""
    if not isinstance(error, ModuleNotFoundError) or error.name is None:
        return None
    return None if error.name.startswith("bert_tfx") else error.name


def fault_sentence(error: BaseException) -> str:
    """Returns a fault in a line."""
    first = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def keep_trace(trace: str, command: str, folder: str | None) -> str | None:
    """Keeps the trace of a fault.

    Args:
        trace: The trace.
        command: What was called.
        folder: The run's output folder, where it is added to `FAULT_FILE`. Without one, or where
            that cannot be written, it gets a file of its own in the system's temporary folder.

    Returns:
        The file, or None where none could be written.
    """
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    text = f"{now} bert-tfx {command}, process {os.getpid()}\n{trace}\n"
    if folder is not None:
        with contextlib.suppress(OSError):
            path = os.path.join(folder, FAULT_FILE)
            with open(path, "a", encoding="utf-8") as file:
                file.write(text)
            return path
    with contextlib.suppress(OSError):
        number, path = tempfile.mkstemp(prefix="bert-tfx-", suffix=f"-{FAULT_FILE}")
        with open(number, "w", encoding="utf-8") as file:
            file.write(text)
        return path
    return None
