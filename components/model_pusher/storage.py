"""Folders and files of model versions, on this machine's file systems and on remote ones.

A path with a scheme (`gs://`, `s3://`, `hdfs://`) is TensorFlow's to read and write, by
`tf.io.gfile`; TensorFlow is imported for these only.
"""

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from typing import IO, Any, cast

_BLOCK = 1 << 20


class Storage:
    """The local file systems.

    Attributes:
        is_local: Whether a folder can be renamed in one step, and files be locked.
    """

    is_local = True

    def names(self, folder: str) -> list[str]:
        """Returns what lies in a folder; nothing where there is no such folder."""
        try:
            return sorted(os.listdir(folder))
        except FileNotFoundError:
            return []

    def sizes(self, folder: str) -> dict[str, int]:
        """Returns the size in bytes of each file below a folder, by its path there, sorted."""
        return {
            os.path.relpath(path, folder): os.path.getsize(path)
            for path in sorted(
                os.path.join(parent, name) for parent, _, names in os.walk(folder) for name in names
            )
        }

    def exists(self, path: str) -> bool:
        """Whether there is such a file or folder."""
        return os.path.exists(path)

    def is_folder(self, path: str) -> bool:
        """Whether there is such a folder."""
        return os.path.isdir(path)

    def open(self, path: str, mode: str) -> IO[bytes]:
        """Opens a file as bytes."""
        return cast(IO[bytes], open(path, mode))

    def make_folder(self, folder: str) -> None:
        """Makes a folder and those above it, where they are missing."""
        os.makedirs(folder, exist_ok=True)

    def remove_file(self, path: str) -> None:
        """Removes a file."""
        os.remove(path)

    def remove_folder(self, folder: str) -> None:
        """Removes a folder with all that is in it."""
        shutil.rmtree(folder)

    def rename_folder(self, source: str, target: str) -> None:
        """Renames a folder in one step, and brings that to disk."""
        os.rename(source, target)
        _sync(os.path.dirname(target))

    def sync(self, folder: str) -> None:
        """Brings a folder's files to disk: a rename must not get there before them."""
        for parent, _, names in os.walk(folder):
            for path in [*(os.path.join(parent, name) for name in names), parent]:
                _sync(path)

    def read(self, path: str) -> bytes:
        """Returns a file's content (raises FileNotFoundError)."""
        with self.open(path, "rb") as file:
            return file.read()

    def write(self, path: str, content: bytes) -> None:
        """Writes a file, and brings it to disk."""
        with self.open(path, "wb") as file:
            file.write(content)
            file.flush()
            if self.is_local:
                os.fsync(file.fileno())

    def sha256(self, path: str) -> str:
        """Returns the hexadecimal SHA-256 of a file."""
        digest = hashlib.sha256()
        with self.open(path, "rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
        return digest.hexdigest()


class RemoteStorage(Storage):
    """What `tf.io.gfile` can reach. A folder is renamed file by file there, if at all."""

    is_local = False

    def __init__(self) -> None:
        import tensorflow as tf

        self._gfile = tf.io.gfile
        self._not_found = tf.errors.NotFoundError
        self._any_error = tf.errors.OpError

    def names(self, folder: str) -> list[str]:
        """Returns what lies in a folder; nothing where there is no such folder."""
        try:
            return sorted(name.rstrip("/") for name in self._gfile.listdir(folder))
        except self._not_found:
            return []

    def sizes(self, folder: str) -> dict[str, int]:
        """Returns the size in bytes of each file below a folder, by its path there, sorted."""
        prefix = len(folder) + 1
        return {
            path[prefix:]: self._gfile.stat(path).length
            for path in sorted(
                os.path.join(parent, name)
                for parent, _, names in self._gfile.walk(folder)
                for name in names
            )
        }

    def exists(self, path: str) -> bool:
        """Whether there is such a file or folder."""
        return bool(self._gfile.exists(path))

    def is_folder(self, path: str) -> bool:
        """Whether there is such a folder."""
        return bool(self._gfile.isdir(path))

    def open(self, path: str, mode: str) -> Any:
        """Opens a file as bytes."""
        return self._gfile.GFile(path, mode)

    def make_folder(self, folder: str) -> None:
        """Makes a folder and those above it, where they are missing."""
        try:
            self._gfile.makedirs(folder)
        except self._any_error as error:
            # Nobody outside knows TensorFlow's errors; most often a scheme has no file system.
            raise OSError(errno.EIO, error.message) from error

    def remove_file(self, path: str) -> None:
        """Removes a file; one that is not there is removed already."""
        with contextlib.suppress(self._not_found):
            self._gfile.remove(path)

    def remove_folder(self, folder: str) -> None:
        """Removes a folder with all that is in it."""
        with contextlib.suppress(self._not_found):
            self._gfile.rmtree(folder)

    def read(self, path: str) -> bytes:
        """Returns a file's content (raises FileNotFoundError)."""
        try:
            return super().read(path)
        except self._not_found as error:
            raise FileNotFoundError(errno.ENOENT, "no such file", path) from error

    def rename_folder(self, source: str, target: str) -> None:
        """Raises: it would take many steps."""
        raise NotImplementedError(f"{source}: cannot be renamed in one step")

    def sync(self, folder: str) -> None:
        """Does nothing: a file is there when it is closed."""


def storage_of(path: str) -> Storage:
    """Returns what reads and writes a path."""
    return RemoteStorage() if "://" in path else Storage()


def copy_file(source: Storage, source_path: str, target: Storage, target_path: str) -> None:
    """Copies a file, from any storage to any other; makes the folder it goes to."""
    target.make_folder(os.path.dirname(target_path))
    with source.open(source_path, "rb") as read, target.open(target_path, "wb") as written:
        for block in _blocks(read):
            written.write(block)


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    while block := file.read(_BLOCK):
        yield block


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
