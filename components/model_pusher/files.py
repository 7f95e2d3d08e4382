"""Files of model versions, brought to disk before anything counts on them."""

import hashlib
import os
import shutil

_BLOCK = 1 << 20


def sizes(folder: str) -> dict[str, int]:
    """Returns the size in bytes of each file below a folder, by its path there, sorted."""
    return {
        os.path.relpath(path, folder): os.path.getsize(path)
        for path in sorted(
            os.path.join(parent, name) for parent, _, names in os.walk(folder) for name in names
        )
    }


def copy_folder(source: str, target: str) -> None:
    """Copies the files of a folder; the first one that cannot be copied ends it."""
    for name in sizes(source):
        copied = os.path.join(target, name)
        os.makedirs(os.path.dirname(copied), exist_ok=True)
        shutil.copyfile(os.path.join(source, name), copied)


def sha256(path: str) -> str:
    """Returns the hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def write(path: str, content: bytes) -> None:
    """Writes a file, and brings it to disk."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def rename_folder(source: str, target: str) -> None:
    """Renames a folder in one step, and brings that to disk."""
    os.rename(source, target)
    _sync(os.path.dirname(target))


def sync(folder: str) -> None:
    """Brings a folder's files to disk: a rename must not get there before them."""
    for parent, _, names in os.walk(folder):
        for path in [*(os.path.join(parent, name) for name in names), parent]:
            _sync(path)


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
