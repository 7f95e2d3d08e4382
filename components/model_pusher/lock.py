"""One at a time: pushes, rollbacks and clean-ups of a folder of model versions."""

import contextlib
import fcntl
import json
import logging
import os
import socket
import time
import uuid
from collections.abc import Iterator

from bert_tfx.components.model_pusher.storage import Storage, storage_of
from bert_tfx.schema.errors import InputError

_logger = logging.getLogger(__name__)

LOCK_FILE = ".lock"
CLAIM_PREFIX = ".claim-"
# A claim that a killed process left on a remote file system is passed over after as many seconds.
_CLAIM_SECONDS = 3600


@contextlib.contextmanager
def exclusive(base_directory: str) -> Iterator[None]:
    """Makes the folder and keeps others out while it changes.

    On this machine's file systems the second one waits, and the system gives the lock free however
    the first one ends. Remote file systems have no locks: each writes a claim there, and who finds
    another's claim gives way.

    Args:
        base_directory: The folder.

    Raises:
        InputError: If it cannot be written, or is remote and another one is at work there.
    """
    storage = storage_of(base_directory)
    try:
        storage.make_folder(base_directory)
    except OSError as error:
        raise _unusable(base_directory, error) from error
    with _locked(base_directory) if storage.is_local else _claimed(storage, base_directory):
        yield


@contextlib.contextmanager
def _locked(folder: str) -> Iterator[None]:
    path = os.path.join(folder, LOCK_FILE)
    while True:
        try:
            lock = open(path, "w")  # noqa: SIM115, closed below
        except OSError as error:
            raise _unusable(folder, error) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _logger.info("%s: another push or command is at work there; waiting for it", folder)
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


@contextlib.contextmanager
def _claimed(storage: Storage, folder: str) -> Iterator[None]:
    path = os.path.join(folder, CLAIM_PREFIX + uuid.uuid4().hex)
    claim = {"host": socket.gethostname(), "pid": os.getpid(), "time": time.time()}
    storage.write(path, json.dumps(claim).encode())
    try:
        # Written first and looked for afterwards: of two, at least one sees the other.
        for name in storage.names(folder):
            other = os.path.join(folder, name)
            if not name.startswith(CLAIM_PREFIX) or other == path:
                continue
            if _is_over(storage, other):
                storage.remove_file(other)
            else:
                raise InputError(
                    f"{folder}: another push or command is at work there; run again after it, or "
                    f"delete {other} where it was killed"
                )
        yield
    finally:
        storage.remove_file(path)


def _is_over(storage: Storage, path: str) -> bool:
    """Whether a claim's process cannot be at work any more."""
    try:
        claim = json.loads(storage.read(path))
        since = time.time() - claim["time"]
        if since > _CLAIM_SECONDS:
            return True
        if claim["host"] == socket.gethostname():
            os.kill(claim["pid"], 0)
    except (FileNotFoundError, ProcessLookupError):
        return True
    except (ValueError, KeyError, TypeError, PermissionError):
        return False
    return False


def _unusable(folder: str, error: OSError) -> InputError:
    return InputError(f"{folder}: cannot be written: {error.strerror}; expected a folder of models")
