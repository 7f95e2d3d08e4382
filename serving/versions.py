"""Which versions of a model are served: the folder is watched, versions come and go.

A version is announced when it is loaded and warmed up. The one before it is unloaded after that,
when the last request that uses it is answered.
"""

import asyncio
import contextlib
import dataclasses
import enum
import logging
import os
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Executor
from typing import Generic, TypeVar

from bert_tfx.schema.errors import InputError

_logger = logging.getLogger(__name__)
_Model = TypeVar("_Model")
_Result = TypeVar("_Result")

# As many versions that are not served any more are told of.
_ENDED = 8
_MAX_VERSION = 2**63 - 1


class State(enum.IntEnum):
    """`tensorflow.serving.ModelVersionStatus.State`."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclasses.dataclass(frozen=True)
class VersionPolicy:
    """Which of the versions in a folder are served.

    Attributes:
        latest: So many of the highest ones that can be loaded.
        specific: These; then `latest` counts for nothing.
    """

    latest: int = 1
    specific: frozenset[int] = frozenset()

    @classmethod
    def parse(cls, text: str) -> "VersionPolicy":
        """Reads `latest`, `latest:N` or `specific:N[,M...]`.

        Raises:
            InputError: If it is none of these.
        """
        if match := re.fullmatch(r"latest(?::([0-9]{1,4}))?", text):
            latest = int(match[1] or 1)
            if latest:
                return cls(latest)
        elif re.fullmatch(r"specific:[0-9]{1,19}(,[0-9]{1,19})*", text):
            return cls(specific=frozenset(map(int, text.partition(":")[2].split(","))))
        raise InputError(
            f"{text!r}: no choice of versions; expected latest, latest:N (N from 1) or "
            "specific:N,M (--versions)"
        )

    def choose(self, versions: set[int]) -> list[int]:
        """Returns those to serve, the highest first."""
        if self.specific:
            return sorted(versions & self.specific, reverse=True)
        return sorted(versions, reverse=True)[: self.latest]


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


class Version(Generic[_Model]):
    """A version and how far the server is with it.

    Attributes:
        number: Its number.
        state: How far it is.
        error: Why it could not be loaded, empty where nothing is wrong.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.state = State.START
        self.error = ""
        self.model: _Model | None = None
        # What the files were like when they could not be loaded.
        self.failed_files: tuple[object, ...] | None = None
        self._users = 0
        self._unused = asyncio.Event()
        self._unused.set()

    @contextlib.contextmanager
    def use(self) -> Iterator[_Model]:
        """Gives the model, which is not unloaded while the context lasts.

        Raises:
            LookupError: If it is not available.
        """
        if self.model is None or self.state is not State.AVAILABLE:
            raise LookupError(f"version {self.number} is not available")
        self._users += 1
        self._unused.clear()
        try:
            yield self.model
        finally:
            self._users -= 1
            if not self._users:
                self._unused.set()

    async def unused(self) -> None:
        """Waits until nobody uses the model."""
        await self._unused.wait()


class Versions(Generic[_Model]):
    """The versions of the model in a folder.

    Args:
        directory: The folder.
        policy: Which versions are served.
        load: Loads the model of a version's folder and warms it up, in `loader`. What it raises is
            told as the version's error.
        unload: Gives back what the model holds; nobody uses it any more.
        loader: One thread, for everything that takes time.
        changed: Called after each change of a state.
    """

    def __init__(
        self,
        directory: str,
        policy: VersionPolicy,
        load: Callable[[str], _Model],
        unload: Callable[[_Model], Awaitable[None]],
        loader: Executor,
        changed: Callable[[], None],
    ) -> None:
        self._directory = directory
        self._policy = policy
        self._load_model = load
        self._unload_model = unload
        self._loader = loader
        self._changed = changed
        self._versions: dict[int, Version[_Model]] = {}
        self._unloading: set[asyncio.Task[None]] = set()
        self._said = ""

    def all(self) -> list[Version[_Model]]:
        """Returns all versions that there is something to say of, the highest first."""
        return [self._versions[number] for number in sorted(self._versions, reverse=True)]

    def find(self, number: int | None) -> Version[_Model]:
        """Returns a version that is available: that of this number, or the highest one.

        Raises:
            LookupError: If there is none.
        """
        for version in self.all():
            if version.state is State.AVAILABLE and number in (None, version.number):
                return version
        raise LookupError(number)

    async def watch(self, seconds: float) -> None:
        """Follows the folder, looking every so many seconds, until it is cancelled."""
        while True:
            try:
                await self.poll()
            except Exception:
                # Whatever it is, what is loaded can still be served.
                _logger.exception("%s: looking for versions failed", self._directory)
            await asyncio.sleep(seconds)

    async def poll(self) -> None:
        """Looks once, loads what is new, and unloads what is to be served no more."""
        try:
            found = await self._in_loader(scan, self._directory)
        except OSError as error:
            # A share that is away for a moment; its models are in memory.
            self._say_once(f"{self._directory}: cannot be read: {error.strerror}")
            return
        there = self._policy.choose(set(found))
        self._say_once("" if there else f"{self._directory}: no version to serve; waiting for one")
        failed = set()
        for number, path in found.items():
            version = self._versions.get(number)
            if version is not None and version.failed_files is not None:
                if await self._in_loader(fingerprint, path) == version.failed_files:
                    failed.add(number)
                else:
                    del self._versions[number]
        while True:
            wanted = self._policy.choose(set(found) - failed)
            missing = [number for number in wanted if not self._is_loaded(number)]
            if not missing:
                break
            if not await self._load(missing[0], found[missing[0]]):
                failed.add(missing[0])
        # Where nothing of what is there can be loaded, the old version is better than none.
        if wanted or not found:
            for version in self.all():
                if version.state is State.AVAILABLE and version.number not in wanted:
                    self._begin_unloading(version)
        self._forget(set(found))

    def _is_loaded(self, number: int) -> bool:
        version = self._versions.get(number)
        return version is not None and version.state is State.AVAILABLE

    async def _in_loader(self, function: Callable[..., _Result], *arguments: object) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._loader, function, *arguments)

    async def _load(self, number: int, path: str) -> bool:
        version = self._versions[number] = Version(number)
        self._set(version, State.LOADING)
        # Taken before: what changes while it is read is a reason to try again.
        files = await self._in_loader(fingerprint, path)
        try:
            version.model = await self._in_loader(self._load_model, path)
        except Exception as error:
            version.error = _first_line(error)
            version.failed_files = files
            self._set(version, State.END)
            _logger.error("version %d cannot be loaded: %s", number, version.error)
            return False
        self._set(version, State.AVAILABLE)
        _logger.info("version %d is available", number)
        return True

    def _begin_unloading(self, version: Version[_Model]) -> None:
        self._set(version, State.UNLOADING)
        task = asyncio.create_task(self._unload(version))
        self._unloading.add(task)
        task.add_done_callback(self._unloading.discard)

    async def _unload(self, version: Version[_Model]) -> None:
        await version.unused()
        model, version.model = version.model, None
        if model is not None:
            await self._unload_model(model)
        self._set(version, State.END)
        _logger.info("version %d is unloaded", version.number)

    def _set(self, version: Version[_Model], state: State) -> None:
        version.state = state
        self._changed()

    def _forget(self, found: set[int]) -> None:
        ended = [v for v in self.all() if v.state is State.END and v.number not in found]
        for version in ended[_ENDED:]:
            del self._versions[version.number]
        if ended[_ENDED:]:
            self._changed()

    def _say_once(self, text: str) -> None:
        if text and text != self._said:
            _logger.warning("%s", text)
        self._said = text


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:500] if lines else type(error).__name__


def check_labels(labels: Mapping[str, int]) -> None:
    """Raises if a version's label makes no sense.

    Raises:
        InputError: If one is empty or cannot stand in a path.
    """
    for label in labels:
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", label):
            raise InputError(
                f"--version-label: {label!r} is no label; expected letters, digits, _ . -"
            )
