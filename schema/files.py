"""Files: read as JSON, and written so that they are there whole or not at all."""

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from typing import Any

from bert_tfx.schema.errors import InputError


def write(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Writes a file; whoever reads it sees all of it, or the one before.

    Args:
        path: The file; its folder must be there.
        content: What it holds; text becomes UTF-8.

    Raises:
        OSError: If it cannot be written; the one before stays.
    """
    with appearing(path) as partial, open(partial, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)


def read_json(path: str | os.PathLike[str]) -> Any:
    """Returns what a JSON file holds.

    Raises:
        InputError: If it cannot be read or is not JSON.
    """
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON: {error}") from error


@contextlib.contextmanager
def appearing(
    path: str | os.PathLike[str], partial: str | os.PathLike[str] | None = None
) -> Iterator[str]:
    """Gives what is made within it its name at the end, and removes it where that does not come.

    Args:
        path: The file or folder. A file that is there is replaced, a folder is not.
        partial: Where it is made, on the same file system. By default it has a name of its own
            beside `path`, as other processes may do the same; a name that is always the same keeps
            killed processes from leaving one each.

    Yields:
        Where to make it.

    Raises:
        OSError: If it cannot be brought to disk or get its name.
    """
    if partial is None:
        folder, name = os.path.split(path)
        partial = os.path.join(folder, f".{name}.{uuid.uuid4().hex}.partial")
    partial = os.fspath(partial)
    try:
        yield partial
        move(partial, path)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename == partial:
            # The name that is known to who reads the message.
            error.filename = os.fspath(path)
        shutil.rmtree(partial, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.remove(partial)
        raise


def move(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Renames a file or folder in one step: first it is brought to disk, then its new name.

    Raises:
        OSError: If that cannot be done.
    """
    for parent, _, names in os.walk(source):
        for name in names:
            _sync(os.path.join(parent, name))
        _sync(parent)
    if os.path.isfile(source):
        _sync(source)
    os.replace(source, target)
    _sync(os.path.dirname(target) or ".")


def _sync(path: str | os.PathLike[str]) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
