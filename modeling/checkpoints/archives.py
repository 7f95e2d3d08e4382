"""Unpacking a checkpoint release: a `.zip`, `.tar`, `.tar.gz` or `.tgz` from elsewhere.

An archive is not trusted: neither its members' names, nor their kinds, nor the sizes in its
headers. Nothing in it is loaded here.

Plain Python, so that the command line can refuse a wrong archive without loading a framework.
"""

import contextlib
import dataclasses
import errno
import gzip
import os
import re
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, Final, cast

from bert_tfx.schema import files
from bert_tfx.schema.digests import sha256_of
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.locks import lock

SUFFIXES: Final = (".zip", ".tar.gz", ".tgz", ".tar")
"""The ends of the names of the archives that `extract` unpacks."""

MAX_BYTES: Final = 8 * 2**30
"""How much one archive may hold: six times the largest published BERT."""

_MAX_MEMBERS = 1000
# What may stand before a tar's member: long names, extended headers and the maps of sparse files,
# which `tarfile` reads into memory as a whole.
_MAX_HEADER_BYTES = 2**20
_CHUNK_BYTES = 2**20
_TAR_END_BYTES = 1024
_KEY_LENGTH = 16
_CONFIGS = ("bert_config.json", "albert_config.json", "config.json", "classifier.keras")
_WEIGHTS = (".index", ".safetensors", ".keras")
# The same weights for other frameworks, mostly pickles: no loader here reads them.
_UNREAD = (".bin", ".h5", ".msgpack", ".onnx", ".ot", ".pickle", ".pkl", ".pt", ".pth")
# What Python's readers raise at bytes that are not what the headers promise.
_CORRUPT = (
    EOFError,
    IndexError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    UnicodeError,
    gzip.BadGzipFile,
    struct.error,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclasses.dataclass(frozen=True)
class Extracted:
    """An unpacked archive.

    Attributes:
        folder: The folder inside that holds the checkpoint's configuration.
        sha256: The archive's SHA-256, in hexadecimal.
        skipped: Members that were left out because nothing here reads them, as named in the
            archive; empty where the folder was there already.
    """

    folder: str
    sha256: str
    skipped: tuple[str, ...] = ()


def is_archive(path: str) -> bool:
    """Whether a path is, by the end of its name, an archive that `extract` unpacks."""
    return path.lower().endswith(SUFFIXES)


def extract(
    archive: str, into: str, *, sha256: str | None = None, max_bytes: int = MAX_BYTES
) -> Extracted:
    """Unpacks an archive into a folder of its own, whole or not at all.

    The folder is named after the archive's content (`into/<first 16 digits of its SHA-256>`): a
    second call with the same content finds it again. What a killed call left is unpacked anew, and
    calls of several processes wait for each other.

    Args:
        archive: The archive's path; its name tells the format (`SUFFIXES`).
        into: The folder under which to unpack; it is made where it is missing.
        sha256: The archive's expected SHA-256, in hexadecimal, or None where it is not known.
        max_bytes: How many bytes it may unpack to, counted while they are written.

    Returns:
        Where the checkpoint lies, the archive's SHA-256, and what was left out.

    Raises:
        InputError: If the archive cannot be read, is truncated or corrupt, has another SHA-256, is
            larger than `max_bytes` or has more than 1,000 members; if a member is encrypted, no
            regular file, named twice, or named outside of the archive's own folder; if there is no
            checkpoint in it or more than one, or only weights that nothing here reads; or if the
            disk is full.
    """
    if not is_archive(archive):
        raise InputError(
            f"{archive}: no archive that is unpacked here; expected a name that ends in "
            f"{', '.join(SUFFIXES)}"
        )
    digest = sha256_of(archive)
    if sha256 is not None and digest != sha256.lower():
        raise InputError(
            f"{archive}: its SHA-256 is {digest}, expected {sha256.lower()}: the file is damaged "
            "or another one; delete it and download it again"
        )
    target = os.path.join(into, digest[:_KEY_LENGTH])
    partial = os.path.join(into, f".{digest[:_KEY_LENGTH]}.partial")
    try:
        with lock(os.path.join(into, ".lock")):
            if os.path.isdir(target):
                return Extracted(_checkpoint_folder(archive, target), digest)
            shutil.rmtree(partial, ignore_errors=True)
            with files.appearing(target, partial):
                os.mkdir(partial)
                skipped = _unpack(archive, partial, max_bytes)
                _checkpoint_folder(archive, partial, skipped)
            return Extracted(_checkpoint_folder(archive, target), digest, skipped)
    except OSError as error:
        raise InputError(
            f"{archive}: cannot be unpacked into {into}: {error.strerror or error}; "
            f"{remedy(error)} or name another one"
        ) from error


def remedy(error: OSError) -> str:
    """Returns what to do about a folder that cannot be written to."""
    return "make room there" if is_full(error) else "make it a folder that can be written to"


def is_full(error: OSError) -> bool:
    """Whether an error says that there is no room left."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class _Unpacker:
    """Writes an archive's members under a folder and refuses those that do not belong there."""

    def __init__(self, archive: str, root: str, max_bytes: int) -> None:
        self.archive = archive
        self.skipped: list[str] = []
        self._root = root
        self._max_bytes = max_bytes
        self._bytes = 0
        self._members = 0
        # Whether a path is a folder. Some file systems take upper and lower case for the same.
        self._is_folder: dict[str, bool] = {}

    def refuse(self, name: str, reason: str) -> InputError:
        return InputError(
            f"{self.archive}, member {name!r}: {reason}; no published checkpoint is packed like "
            "this: get the archive from its publisher, or unpack it yourself, look at what is in "
            "it and name the folder"
        )

    def place(self, name: str, is_folder: bool) -> str | None:
        """Returns where a member is to be written, or None where it is left out."""
        self._members += 1
        if self._members > _MAX_MEMBERS:
            raise self.refuse(name, f"more than {_MAX_MEMBERS:,} members")
        parts = self._parts(name)
        if not parts:
            return None
        if "__MACOSX" in parts or parts[-1] == ".DS_Store" or parts[-1].startswith("._"):
            return None
        for end in range(1, len(parts) + 1):
            key = "/".join(parts[:end]).casefold()
            inner = end < len(parts) or is_folder
            if key in self._is_folder and not (inner and self._is_folder[key]):
                raise self.refuse(name, "its path stands in the archive twice")
            self._is_folder[key] = inner
        if not is_folder and parts[-1].lower().endswith(_UNREAD):
            self.skipped.append(name)
            return None
        path = os.path.join(self._root, *parts)
        os.makedirs(path if is_folder else os.path.dirname(path), exist_ok=True)
        return None if is_folder else path

    def write(self, name: str, source: IO[bytes], path: str | None) -> int:
        """Writes a member's bytes, or only counts them where there is no path; returns how many."""
        before = self._bytes
        with open(path, "xb") if path else contextlib.nullcontext() as file:
            while chunk := source.read(_CHUNK_BYTES):
                self.count(name, len(chunk))
                if file:
                    file.write(chunk)
        return self._bytes - before

    def count(self, name: str, size: int) -> None:
        """Counts unpacked bytes."""
        self._bytes += size
        if self._bytes > self._max_bytes:
            raise self.refuse(name, f"the archive unpacks to more than {self._max_bytes:,} bytes")

    def _parts(self, name: str) -> list[str]:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise self.refuse(name, "its name is not UTF-8") from error
        if name.startswith("/") or re.match("[A-Za-z]:", name):
            raise self.refuse(name, "its path is absolute")
        if "\\" in name or not name.isprintable():
            raise self.refuse(name, "its name holds a backslash or a control character")
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise self.refuse(name, "its path leads out of the archive's folder (..)")
        return parts


def _unpack(archive: str, root: str, max_bytes: int) -> tuple[str, ...]:
    """Unpacks all members; returns the names of those that were left out."""
    unpacker = _Unpacker(archive, root, max_bytes)
    try:
        if archive.lower().endswith(".zip"):
            _unpack_zip(unpacker)
        else:
            _unpack_tar(unpacker)
    except InputError:
        raise
    except _CORRUPT as error:
        raise _corrupt(archive, str(error)) from error
    except OSError as error:
        # A wrong offset leads before the file's beginning.
        if error.errno != errno.EINVAL:
            raise
        raise _corrupt(archive, "a wrong offset") from error
    return tuple(unpacker.skipped)


def _corrupt(archive: str, what: str) -> InputError:
    return InputError(
        f"{archive}: truncated, corrupt or no such archive ({what}); delete it and download it "
        "again"
    )


def _unpack_zip(unpacker: _Unpacker) -> None:
    with zipfile.ZipFile(unpacker.archive) as archive:
        for info in archive.infolist():
            name = info.filename
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise unpacker.refuse(name, "a link or a device, not a regular file")
            if info.flag_bits & 0x1:
                raise unpacker.refuse(name, "encrypted")
            path = unpacker.place(name, info.is_dir() or kind == stat.S_IFDIR)
            if path is not None:
                with archive.open(info) as source:
                    unpacker.write(name, source, path)


class _HeaderLimit:
    """A stream that gives `tarfile` so many bytes of headers at a time, and no more.

    It counts what is read instead of looking into headers: it needs nothing of `tarfile` but that
    it reads from the file object it is given. A method of `TarInfo` that is overridden holds until
    a release of Python calls another one (`frombuf` was passed by with gh-141707), and each kind of
    header has its own.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._left = _MAX_HEADER_BYTES
        self._in_headers = True

    def read(self, size: int = -1) -> bytes:
        chunk = self._stream.read(size)
        if self._in_headers:
            self._left -= len(chunk)
            if self._left < 0:
                raise tarfile.ReadError(f"headers of more than {_MAX_HEADER_BYTES:,} bytes")
        return chunk

    @contextlib.contextmanager
    def lifted(self) -> Iterator[None]:
        """While it lasts, a member is read; afterwards the next headers are counted anew."""
        self._in_headers = False
        yield
        self._left = _MAX_HEADER_BYTES
        self._in_headers = True


def _unpack_tar(unpacker: _Unpacker) -> None:
    compressed = not unpacker.archive.lower().endswith(".tar")
    with contextlib.ExitStack() as stack:
        stream: IO[bytes] = stack.enter_context(open(unpacker.archive, "rb"))
        if compressed:
            stream = cast(IO[bytes], stack.enter_context(gzip.GzipFile(fileobj=stream)))
        else:
            # gzip marks its end itself. A tar that was cut between two members looks whole.
            stream.seek(-min(os.path.getsize(unpacker.archive), _TAR_END_BYTES), os.SEEK_END)
            if stream.read() != bytes(_TAR_END_BYTES):
                raise _corrupt(unpacker.archive, "its end is missing")
            stream.seek(0)
        limit = _HeaderLimit(stream)
        archive = stack.enter_context(
            tarfile.open(fileobj=cast(IO[bytes], limit), mode="r|", errorlevel=2)
        )
        for info in archive:
            name = info.name
            if not (info.isreg() or info.isdir()) or info.issparse():
                raise unpacker.refuse(name, "a link or a device, not a regular file")
            path = unpacker.place(name, info.isdir())
            with limit.lifted():
                # Of what is left out, too: `tarfile` would read on to the next headers itself.
                source = None if info.isdir() else archive.extractfile(info)
                if source is not None and unpacker.write(name, source, path) != info.size:
                    raise _corrupt(unpacker.archive, f"member {name!r} ends early")
        # To the end, where gzip keeps its checksum.
        while chunk := stream.read(_CHUNK_BYTES):
            unpacker.count("(end)", len(chunk))


def _checkpoint_folder(archive: str, root: str, skipped: tuple[str, ...] = ()) -> str:
    """Returns the one folder that holds a configuration."""
    found = [
        parent for parent, _, names in os.walk(root) if any(name in _CONFIGS for name in names)
    ]
    if not found:
        raise InputError(
            f"{archive}: no checkpoint in it: expected one of {', '.join(_CONFIGS)}; name the "
            "archive that the publisher of the weights offers"
        )
    if len(found) > 1:
        raise InputError(
            f"{archive}: {len(found)} checkpoints in it ("
            + ", ".join(sorted(os.path.relpath(folder, root) for folder in found)[:8])
            + "); unpack it yourself and name the folder of one"
        )
    if skipped and not any(name.endswith(_WEIGHTS) for name in os.listdir(found[0])):
        raise InputError(
            f"{archive}: its weights are there only as {', '.join(skipped)}, which is not read "
            "here, for a pickle can run any code when it is loaded; name a release with "
            "bert_model.ckpt.* or model.safetensors"
        )
    return found[0]
