"""One run at a time in an output folder.

Loads no framework: a folder that cannot be used is refused at once.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator

from bert_tfx.schema.errors import InputError


@contextlib.contextmanager
def exclusive(output_dir: str) -> Iterator[None]:
    """Makes the output folder and keeps other runs out of it.

    The system gives the folder free when the process ends, however it ends.

    Args:
        output_dir: The folder.

    Raises:
        InputError: If it cannot be written, or another run is using it.
    """
    try:
        os.makedirs(output_dir, exist_ok=True)
        lock = open(os.path.join(output_dir, ".lock"), "w")  # noqa: SIM115, closed below
    except OSError as error:
        raise InputError(
            f"{output_dir}: cannot be written: {error.strerror}; --output names a folder for the "
            "run's artifacts"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                f"{output_dir}: another run is using this folder; wait for its end, or name "
                "another folder by --output"
            ) from error
        yield
