"""Files that one process at a time may hold."""

import contextlib
import fcntl
import logging
import os
from typing import IO

_logger = logging.getLogger(__name__)


def lock(
    path: str,
    *,
    shared: bool = False,
    waiting: str | None = None,
    refusal: Exception | None = None,
) -> IO[bytes]:
    """Makes a lock file and its folder, and keeps other processes from holding it.

    The system gives it free when the process ends, however it ends. The file stays, unless its
    holder removes it: who waits for it looks whether it is still there.

    Args:
        path: The file.
        shared: Whether others may hold it as well, if they share it, too.
        waiting: Logged where another process holds it, before waiting for that one.
        refusal: Raised where another process holds it, instead of waiting.

    Returns:
        The file; closing it gives it free.

    Raises:
        OSError: If the file or its folder cannot be made.
    """
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    operation = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    while True:
        with contextlib.ExitStack() as closing:
            file = closing.enter_context(open(path, "ab"))
            try:
                fcntl.flock(file, operation | fcntl.LOCK_NB)
            except BlockingIOError:
                if refusal is not None:
                    raise refusal from None
                if waiting is not None:
                    _logger.info(waiting)
                fcntl.flock(file, operation)
            # Whoever had it may have removed it: then this is no lock that others would see.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                    closing.pop_all()
                    return file
