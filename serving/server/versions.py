"""Which version of a model is served: the folder is watched, and its latest version followed."""

import contextlib
import dataclasses
import enum
import logging
import os
import re
import threading
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

_logger = logging.getLogger(__name__)
_Model = TypeVar("_Model")

# So many versions that are not served any more are told of.
_ENDED = 8
_MAX_VERSION = 2**63 - 1


class State(enum.IntEnum):
    """`tensorflow.serving.ModelVersionStatus.State`, as far as a version is told of."""

    LOADING = 20
    AVAILABLE = 30
    END = 50


@dataclasses.dataclass(eq=False)
class Version(Generic[_Model]):
    """A version and how far the server is with it.

    Attributes:
        number: Its number.
        state: How far it is.
        error: Why it could not be loaded, empty where nothing is wrong.
        model: What answers, while it is available.
        files: What its files were like when it was loaded.
    """

    number: int
    files: tuple[object, ...]
    state: State = State.LOADING
    error: str = ""
    model: _Model | None = None


class Versions(Generic[_Model]):
    """The versions of the model in a folder, of which the latest that can be loaded is served.

    A version is available when it is loaded. The one before it is given back after that.

    Args:
        directory: The folder.
        load: Loads the model of a version's folder and warms it up. What it raises is told as the
            version's error.
        unload: Gives back what a model holds that is asked no more.
        changed: Called when it has become another whether there is a version available.
    """

    def __init__(
        self,
        directory: str,
        load: Callable[[str], _Model],
        unload: Callable[[_Model], None],
        changed: Callable[[Version[_Model]], None],
    ) -> None:
        self._directory = directory
        self._load_model = load
        self._unload_model = unload
        self._changed = changed
        self._versions: dict[int, Version[_Model]] = {}
        self._said = ""
        self.lock = threading.Lock()
        """Whoever holds it keeps the model that is available from being given back."""

    def all(self) -> list[Version[_Model]]:
        """Returns all versions that there is something to say of, the highest first."""
        # A list at once: another thread may look while this one changes them.
        known = list(self._versions.values())
        return sorted(known, key=lambda version: version.number, reverse=True)

    def find(self, number: int | None = None) -> Version[_Model] | None:
        """Returns the version that is available, if that is the one of this number."""
        available = (v for v in self.all() if v.state is State.AVAILABLE)
        return next((v for v in available if number in (None, v.number)), None)

    def poll(self) -> None:
        """Looks once: loads a new version, and gives back the one before."""
        try:
            found = scan(self._directory)
        except OSError as error:
            # A share that is away for a moment; its model is in memory.
            self._say_once(f"{self._directory}: cannot be read: {error.strerror}")
            return
        self._say_once("" if found else f"{self._directory}: no version to serve; waiting for one")
        latest = self._latest(found)
        # Where nothing of what is there can be loaded, the old version is better than none.
        if latest is not None or not found:
            for version in self.all():
                if version.state is State.AVAILABLE and version.number != latest:
                    self._unload(version)
        ended = [v for v in self.all() if v.state is State.END and v.number not in found]
        for version in ended[_ENDED:]:
            del self._versions[version.number]

    def _latest(self, found: Mapping[int, str]) -> int | None:
        """Returns the latest version that is available, or can be made so."""
        for number, path in sorted(found.items(), reverse=True):
            known, files = self._versions.get(number), fingerprint(path)
            if known is not None and known.state is State.AVAILABLE:
                return number
            # What could not be loaded is tried again when its files have changed.
            failed = known is not None and known.error and known.files == files
            if not failed and self._load(number, path, files):
                return number
        return None

    def _load(self, number: int, path: str, files: tuple[object, ...]) -> bool:
        version = self._versions[number] = Version(number, files)
        try:
            version.model = self._load_model(path)
        except Exception as error:
            version.error, version.state = _first_line(error), State.END
            _logger.error("version %d cannot be loaded: %s", number, version.error)
            return False
        version.state = State.AVAILABLE
        _logger.info("version %d is available", number)
        self._changed(version)
        return True

    def _unload(self, version: Version[_Model]) -> None:
        with self.lock:
            model, version.model, version.state = version.model, None, State.END
        self._changed(version)
        if model is not None:
            self._unload_model(model)
        _logger.info("version %d is unloaded", version.number)

    def _say_once(self, text: str) -> None:
        if text and text != self._said:
            _logger.warning("%s", text)
        self._said = text


def scan(directory: str) -> dict[int, str]:
    """Returns the folders of the versions in a folder.

    Names that are no numbers, such as those of staging folders, are passed over.

    Raises:
        OSError: If the folder cannot be read.
    """
    found = {}
    with os.scandir(directory) as entries:
        for entry in sorted(entries, key=lambda entry: (-len(entry.name), entry.name)):
            if re.fullmatch(r"[0-9]+", entry.name) and int(entry.name) <= _MAX_VERSION:
                with contextlib.suppress(OSError):
                    if entry.is_dir():
                        found[int(entry.name)] = entry.path
    return found


def fingerprint(path: str) -> tuple[object, ...]:
    """Returns what changes whenever a file below `path` does: names, sizes and times."""
    files = []
    for parent, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                status = os.stat(os.path.join(parent, name))
                files.append((parent, name, status.st_size, status.st_mtime_ns))
    return tuple(sorted(files))


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:500] if lines else type(error).__name__
