"""One at a time: pushes, rollbacks and clean-ups of a folder of model versions."""

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator

from bert_tfx.schema.errors import InputError

_logger = logging.getLogger(__name__)

LOCK_FILE = ".lock"


@contextlib.contextmanager
def exclusive(base_directory: str) -> Iterator[None]:
    """Makes the folder and keeps others out while it changes.

    The second one waits, and the system gives the lock free however the first one ends.

    Args:
        base_directory: The folder.

    Raises:
        InputError: If it cannot be written.
    """
    try:
        os.makedirs(base_directory, exist_ok=True)
    except OSError as error:
        raise _unusable(base_directory, error) from error
    path = os.path.join(base_directory, LOCK_FILE)
    while True:
        try:
            lock = open(path, "w")  # noqa: SIM115, closed below
        except OSError as error:
            raise _unusable(base_directory, error) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _logger.info(
                "%s: another push or command is at work there; waiting for it", base_directory
            )
            fcntl.flock(lock, fcntl.LOCK_EX)
        # Whoever had it has removed the file: then this is no lock that others would see.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock.fileno()), os.stat(path)):
                break
        lock.close()
    try:
        yield
    finally:
        os.remove(path)
        lock.close()


def _unusable(folder: str, error: OSError) -> InputError:
    return InputError(f"{folder}: cannot be written: {error.strerror}; expected a folder of models")
