"""The folder of model versions that a server watches: what is there, and how it changes.

TF Serving takes every child with a number for a name as a version, serves the highest one and
passes over all other names. So what a child's name says is all the state there is:

    <number>                a version; pushed.json in it says where it comes from
    .staging-<number>       a version that is being copied
    .rolled-back-<number>   hidden by a rollback, whole; its model is not pushed again
    .taken-back-<number>    the server did not serve it; only the records are left
    .pruned-<number>        being deleted

Loads no framework.
"""

import dataclasses
import datetime
import enum
import hashlib
import importlib.metadata
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Iterable, Mapping
from typing import Any

from bert_tfx.components.model_pusher.files import copy_folder, sizes
from bert_tfx.schema import files
from bert_tfx.schema.digests import sha256_of
from bert_tfx.schema.errors import InputError

_logger = logging.getLogger(__name__)

MARKER_FILE = "pushed.json"
SERVED_FILE = "served.json"
ROLLED_BACK_FILE = "rolled_back.json"
TAKEN_BACK_FILE = "taken_back.json"
_RECORDS = (MARKER_FILE, SERVED_FILE, ROLLED_BACK_FILE, TAKEN_BACK_FILE)

_STAGING = ".staging-"
_ROLLED_BACK = ".rolled-back-"
_TAKEN_BACK = ".taken-back-"
_PRUNED = ".pruned-"
_PREFIXES = (_STAGING, _ROLLED_BACK, _TAKEN_BACK, _PRUNED)
_NAME = re.compile(f"({'|'.join(map(re.escape, _PREFIXES))}|)([0-9]+)")
_MAX_VERSION = 2**63 - 1

_SAVED_MODEL_FILE = "saved_model.pb"
ABOUT_FILE = os.path.join("assets.extra", "bert_tfx.json")


class State(enum.Enum):
    """What has become of a version."""

    PUSHED = "pushed"
    ROLLED_BACK = "rolled back"
    TAKEN_BACK = "taken back"


_PREFIX = {State.PUSHED: "", State.ROLLED_BACK: _ROLLED_BACK, State.TAKEN_BACK: _TAKEN_BACK}
_CHANGE_FILE = {State.ROLLED_BACK: ROLLED_BACK_FILE, State.TAKEN_BACK: TAKEN_BACK_FILE}


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a model comes from; all of it goes into the marker, None where it is not known.

    Attributes:
        model_uri: Where the pipeline keeps the model.
        model_id: The model's number in ML Metadata.
        run_id: The pipeline run that pushed it.
        blessing_uri: Where the verdict lies.
        blessing_id: The verdict's number in ML Metadata.
    """

    model_uri: str | None = None
    model_id: int | None = None
    run_id: str | None = None
    blessing_uri: str | None = None
    blessing_id: int | None = None


@dataclasses.dataclass(frozen=True)
class Version:
    """A version that is or was served.

    Attributes:
        number: Its number.
        state: What has become of it.
        folder: Where it lies.
        marker: What was noted at the push (`VersionFolder.push`); empty where another tool pushed.
        change: What was noted when it was rolled back or taken back: `time`, and `to`, the version
            that was gone back to, or `reason`.
        about: What the model says of itself (`assets.extra/bert_tfx.json`).
    """

    number: int
    state: State
    folder: str
    marker: Mapping[str, Any]
    change: Mapping[str, Any]
    about: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Pushed:
    """What a push has done.

    Attributes:
        number: The model's version.
        folder: Its folder.
        is_new: Whether this push made it; otherwise it was there already.
        marker: What was noted when it was made.
    """

    number: int
    folder: str
    is_new: bool
    marker: Mapping[str, Any]


def pushed_versions(base_directory: str) -> list[int]:
    """Returns the versions in a folder that a server watches, those that are whole, latest last."""
    return VersionFolder(base_directory).numbers()


def rolled_back_versions(base_directory: str) -> list[int]:
    """Returns the versions that are hidden by a rollback, the latest last."""
    return VersionFolder(base_directory).numbers(State.ROLLED_BACK)


class VersionFolder:
    """A folder of versions. Whoever changes it holds the lock (`lock.exclusive`).

    Args:
        base_directory: The folder; it may be missing where it is only looked at.
    """

    def __init__(self, base_directory: str) -> None:
        self.path = base_directory

    # === What is there ===

    def numbers(self, state: State = State.PUSHED) -> list[int]:
        """Returns the versions of a state, the latest last."""
        return sorted(self._found()[_PREFIX[state]])

    def versions(self) -> list[Version]:
        """Returns all versions that are known of, in the order of their numbers."""
        versions = [
            self._version(number, state) for state in State for number in self.numbers(state)
        ]
        return sorted(versions, key=lambda version: (version.number, version.state.value))

    def _version(self, number: int, state: State) -> Version:
        shown = state is State.PUSHED
        folder = self._folder(number) if shown else self._hidden(_PREFIX[state], number)
        return Version(
            number,
            state,
            folder,
            marker=self._read(os.path.join(folder, MARKER_FILE)),
            change={} if shown else self._change(number, state),
            about=self._read(os.path.join(folder, ABOUT_FILE)),
        )

    def _change(self, number: int, state: State) -> dict[str, Any]:
        """Returns what was noted when a version was rolled back or taken back."""
        return self._read(os.path.join(self._hidden(_PREFIX[state], number), _CHANGE_FILE[state]))

    def _found(self) -> dict[str, dict[int, str]]:
        """Returns the names by prefix and number."""
        found: dict[str, dict[int, str]] = {prefix: {} for prefix in ("", *_PREFIXES)}
        names = os.listdir(self.path) if os.path.isdir(self.path) else []
        for name in sorted(names):
            if (match := _NAME.fullmatch(name)) and int(match[2]) <= _MAX_VERSION:
                found[match[1]][int(match[2])] = name
        return found

    def _folder(self, number: int) -> str:
        # A person may have written 007.
        return os.path.join(self.path, self._found()[""].get(number, str(number)))

    def _hidden(self, prefix: str, number: int) -> str:
        return os.path.join(self.path, f"{prefix}{number}")

    def _read(self, path: str) -> dict[str, Any]:
        """Returns a record; an empty one where there is none, or none that can be understood."""
        try:
            with open(path, encoding="utf-8") as file:
                content = json.load(file)
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    # === Push ===

    def push(self, model_path: str, origin: Origin, server: str | None = None) -> Pushed:
        """Adds a SavedModel as the highest version, unless it is there already.

        What earlier calls left unfinished when they were killed is finished or removed first.

        Args:
            model_path: The SavedModel.
            origin: Where it comes from.
            server: The server that shall be asked for it; noted in the marker.

        Returns:
            The version: seconds since 1970, or one more than the highest number that was ever used
            where that is higher. Where this very model is there already, its version.

        Raises:
            InputError: If it is no SavedModel, or a rollback has hidden this very model.
        """
        found = sizes(model_path)
        if _SAVED_MODEL_FILE not in found:
            raise InputError(f"{model_path}: no SavedModel; {_SAVED_MODEL_FILE} is missing")
        self.clean_up()
        hashes = {name: sha256_of(os.path.join(model_path, name)) for name in found}
        fingerprint = _fingerprint(hashes)
        for number in reversed(self.numbers()):
            if self._is_model(number, found, fingerprint):
                folder = self._folder(number)
                marker = self._read(os.path.join(folder, MARKER_FILE))
                return Pushed(number, folder, is_new=False, marker=marker)
        for number in self.numbers(State.ROLLED_BACK):
            if self._change(number, State.ROLLED_BACK).get("sha256") == fingerprint:
                raise InputError(
                    f"{self.path}: this very model was rolled back as version {number} and is not "
                    f"pushed again; `bert-tfx rollback --serving {self.path} --undo` brings it back"
                )

        number = max(int(time.time()), self._highest() + 1)
        marker = {
            "version": number,
            "time": _now(),
            **dataclasses.asdict(origin),
            "server": server,
            "sha256": fingerprint,
            "files": hashes,
            "bert_tfx": importlib.metadata.version("bert-tfx"),
        }
        target = os.path.join(self.path, str(number))
        staging = self._hidden(_STAGING, number)
        copy_folder(model_path, staging)
        self._write(os.path.join(staging, MARKER_FILE), marker)
        files.move(staging, target)
        return Pushed(number, target, is_new=True, marker=marker)

    def is_accepted(self, number: int) -> bool:
        """Whether a version needs not prove itself: no server was to be asked, or it has answered.

        A push that was killed before the server answered leaves one that is not.
        """
        folder = self._folder(number)
        asked = self._read(os.path.join(folder, MARKER_FILE)).get("server")
        return not asked or os.path.exists(os.path.join(folder, SERVED_FILE))

    def accept(self, number: int, server: str) -> None:
        """Notes that a server has answered with a version."""
        path = os.path.join(self._folder(number), SERVED_FILE)
        self._write(path, {"server": server, "time": _now()})

    def take_back(self, number: int, reason: str) -> None:
        """Removes a version that is not served; its records stay, and its number stays taken."""
        self._hide(number, _TAKEN_BACK, TAKEN_BACK_FILE, {"time": _now(), "reason": reason})
        self._strip(self._hidden(_TAKEN_BACK, number))

    def _highest(self) -> int:
        return max((n for numbers in self._found().values() for n in numbers), default=0)

    def _is_model(self, number: int, found: Mapping[str, int], fingerprint: str) -> bool:
        """Whether a version is the model of such files."""
        if marked := self._read(os.path.join(self._folder(number), MARKER_FILE)).get("sha256"):
            return bool(marked == fingerprint)
        folder = self._folder(number)
        there = {n: s for n, s in sizes(folder).items() if n not in _RECORDS}
        return there == found and self._hashed(number) == fingerprint

    def _hashed(self, number: int) -> str:
        folder = self._folder(number)
        names = [name for name in sizes(folder) if name not in _RECORDS]
        return _fingerprint({n: sha256_of(os.path.join(folder, n)) for n in names})

    # === Rollback ===

    def to_roll_back(self, to: int | None = None) -> list[int]:
        """Returns the versions above the one to go back to, the lowest first.

        Args:
            to: Which one; by default the one before the latest.

        Raises:
            InputError: If it is not there, or there is nothing to go back from.
        """
        there = self.numbers()
        if len(there) < 2:
            raise InputError(
                f"{self.path}: there is "
                + ("no version" if not there else f"only version {there[0]}")
                + ", so there is none to go back to"
            )
        to = there[-2] if to is None else to
        if to in self.numbers(State.ROLLED_BACK) and to not in there:
            raise InputError(
                f"{self.path}: version {to} was itself rolled back; --undo brings it back"
            )
        if to not in there:
            listed = ", ".join(map(str, there))
            raise InputError(f"{self.path}: there is no version {to}; there are {listed}")
        if to == there[-1]:
            raise InputError(f"{self.path}: version {to} is the latest already")
        return [number for number in there if number > to]

    def roll_back(self, numbers: Iterable[int]) -> None:
        """Hides versions (`to_roll_back`), so that the server goes back to the one below them."""
        hidden = self.numbers(State.ROLLED_BACK)
        changes = [self._change(number, State.ROLLED_BACK) for number in hidden]
        ordinal = 1 + max((change.get("rollback", 0) for change in changes), default=0)
        numbers = sorted(numbers)
        to = max(number for number in self.numbers() if number < numbers[0])
        # The highest one goes last: a server that looks meanwhile must not take one in between.
        for number in numbers:
            marker = self._read(os.path.join(self._folder(number), MARKER_FILE))
            change = {
                "time": _now(),
                "rollback": ordinal,
                "to": to,
                "sha256": marker.get("sha256") or self._hashed(number),
            }
            self._hide(number, _ROLLED_BACK, ROLLED_BACK_FILE, change)

    def to_restore(self) -> list[int]:
        """Returns the versions that the last rollback has hidden, the lowest first.

        Raises:
            InputError: If none is hidden.
        """
        hidden = {
            number: self._change(number, State.ROLLED_BACK).get("rollback", 0)
            for number in self.numbers(State.ROLLED_BACK)
        }
        if not hidden:
            raise InputError(f"{self.path}: no version is rolled back, so there is nothing to undo")
        last = max(hidden.values())
        return sorted(number for number, ordinal in hidden.items() if ordinal == last)

    def restore(self, numbers: Iterable[int]) -> None:
        """Brings back versions that a rollback has hidden (`to_restore`)."""
        # The highest one comes first, for the same reason as it goes last.
        for number in sorted(numbers, reverse=True):
            source = self._hidden(_ROLLED_BACK, number)
            target = os.path.join(self.path, str(number))
            files.move(source, target)
            os.remove(os.path.join(target, ROLLED_BACK_FILE))

    # === Removal ===

    def to_prune(self, keep: int, served: Iterable[int] = ()) -> list[int]:
        """Returns the versions that can go, the lowest first.

        Args:
            keep: How many of the latest ones stay.
            served: Others that stay.

        Raises:
            InputError: If `keep` is less than 1.
        """
        if keep < 1:
            raise InputError(f"--keep must be at least 1. Received: {keep}")
        return [number for number in self.numbers()[:-keep] if number not in set(served)]

    def prune(self, numbers: Iterable[int]) -> None:
        """Deletes versions (`to_prune`), and the records of versions taken back before the last."""
        for number in sorted(numbers):
            files.move(self._folder(number), self._hidden(_PRUNED, number))
            shutil.rmtree(self._hidden(_PRUNED, number))
        highest = self._highest()
        for number in self.numbers(State.TAKEN_BACK):
            # The highest number of all stays known: the next one must lie above it.
            if number < highest:
                shutil.rmtree(self._hidden(_TAKEN_BACK, number))

    def clean_up(self) -> None:
        """Finishes or removes what calls that were killed have left behind."""
        found = self._found()
        for prefix in (_STAGING, _PRUNED):
            for name in found[prefix].values():
                shutil.rmtree(os.path.join(self.path, name))
        for number in found[_TAKEN_BACK]:
            self._strip(self._hidden(_TAKEN_BACK, number))

    def _hide(self, number: int, prefix: str, name: str, record: Mapping[str, Any]) -> None:
        """Puts a version where no server looks, with a record of why."""
        folder, hidden = self._folder(number), self._hidden(prefix, number)
        self._write(os.path.join(folder, name), record)
        files.move(folder, hidden)

    def _strip(self, folder: str) -> None:
        """Leaves only the records in a folder."""
        for name in os.listdir(folder):
            path = os.path.join(folder, name)
            if name in _RECORDS:
                continue
            if os.path.isdir(path):
                shutil.rmtree(path)
            else:
                os.remove(path)

    def _write(self, path: str, record: Mapping[str, Any]) -> None:
        files.write(path, json.dumps(record, ensure_ascii=False, indent=1) + "\n")


def _fingerprint(hashes: Mapping[str, str]) -> str:
    """Returns one SHA-256 for files, by their names and SHA-256."""
    return hashlib.sha256(json.dumps(sorted(hashes.items())).encode()).hexdigest()


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
