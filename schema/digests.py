"""The SHA-256 of files. That of a large one is kept in the cache, for other processes, too."""

import contextlib
import hashlib
import json
import os
import time
from typing import IO, Final

from bert_tfx.schema import files
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.paths import cache_folder

CACHE_FILE: Final = "digests.json"
"""In the cache: the last digests by what tells that a file has not been touched."""

_CHUNK_BYTES = 2**20
_LARGE_BYTES = 2**24
_MAX_KEPT = 200
# Two changes within one tick of a file system's clock look like one.
_SETTLED_S = 2.0


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Returns a file's SHA-256, in hexadecimal.

    A large file that was not touched since it was read last is not read again.

    Raises:
        InputError: If the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            found = os.fstat(file.fileno())
            is_settled = time.time() - found.st_ctime > _SETTLED_S
            if found.st_size < _LARGE_BYTES or not is_settled:
                return _computed(file)
            touched = _touched(found)
            if (kept := _kept().get(touched)) is not None:
                return kept
            digest = _computed(file)
            if _touched(os.fstat(file.fileno())) == touched:
                _keep(touched, digest)
            return digest
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def _computed(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()


def _touched(found: os.stat_result) -> str:
    """Returns what changes with a file."""
    # Whoever writes to a file changes its time of change, which cannot be set.
    times = f"{found.st_mtime_ns} {found.st_ctime_ns}"
    return f"{found.st_dev} {found.st_ino} {found.st_size} {times}"


def _kept() -> dict[str, str]:
    try:
        with open(cache_folder(CACHE_FILE), encoding="utf-8") as file:
            kept = json.load(file)
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def _keep(touched: str, digest: str) -> None:
    """Adds a digest. What another process adds at the same moment may be lost: it is found anew."""
    kept = [*_kept().items(), (touched, digest)]
    # A cache that cannot be written to costs time only.
    with contextlib.suppress(OSError):
        os.makedirs(cache_folder(), exist_ok=True)
        files.write(cache_folder(CACHE_FILE), json.dumps(dict(kept[-_MAX_KEPT:]), indent=1))
