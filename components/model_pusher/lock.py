"""One at a time: pushes, rollbacks and clean-ups of a folder of model versions."""

import contextlib
import os
from collections.abc import Iterator

from bert_tfx.schema.errors import InputError
from bert_tfx.schema.locks import lock

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
    path = os.path.join(base_directory, LOCK_FILE)
    waiting = f"{base_directory}: another push or command is at work there; waiting for it"
    try:
        held = lock(path, waiting=waiting)
    except OSError as error:
        raise InputError(
            f"{base_directory}: cannot be written: {error.strerror}; expected a folder of models"
        ) from error
    with held:
        try:
            yield
        finally:
            os.remove(path)
