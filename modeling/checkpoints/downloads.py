"""Downloading one file: resumed where it was cut, checked, there whole or not at all.

Plain Python; `requests`, which takes a while to import, is imported by the download itself.
"""

import contextlib
import dataclasses
import ipaddress
import json
import os
import urllib.parse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bert_tfx.modeling.checkpoints.archives import is_full, remedy
from bert_tfx.schema import files
from bert_tfx.schema.digests import sha256_of
from bert_tfx.schema.errors import InputError

if TYPE_CHECKING:
    import requests
    from urllib3.util import Retry

ATTEMPTS = 5
"""How many times in a row a request, or a broken body, may bring nothing new."""
BACKOFF_S = 1.0
"""Half of the seconds before the third attempt, as the second one comes at once; each further one
waits twice as long."""
TIMEOUT_S = 30.0
"""Seconds to connect, and without a byte, after which an attempt has failed."""

_MAX_WAIT_S = 60.0
_MAX_REDIRECTS = 10
_CHUNK_BYTES = 2**18
_PASSING = (408, 425, 429, 500, 502, 503, 504)

Progress = Callable[[int, int | None], None]
"""Called with the bytes that are there and the bytes in all, or None where that is not known."""


@dataclasses.dataclass(frozen=True)
class Downloaded:
    """A file that is there whole.

    Attributes:
        path: The file.
        size: Its size in bytes.
        sha256: Its SHA-256, in hexadecimal.
    """

    path: str
    size: int
    sha256: str


def download(
    url: str,
    path: str,
    *,
    sha256: str | None = None,
    size: int | None = None,
    on_progress: Progress | None = None,
) -> Downloaded:
    """Downloads a file, unless it is there already.

    The bytes go to `path.part`, and what the server calls this version of the file (its ETag or
    date) to `path.part.json`: a call that finds these goes on from there if the server still has
    that version, and starts over if not. Dropped connections and passing errors of the server are
    tried again, with growing pauses. Proxies and certificates come from the environment
    (`HTTPS_PROXY`, `REQUESTS_CA_BUNDLE`).

    Args:
        url: `https://...`; `http://` is taken for this machine's own addresses only.
        path: The file to write; its folder must be there.
        sha256: Its expected SHA-256, in hexadecimal, or None where it is not known.
        size: Its expected size in bytes, or None where it is not known.
        on_progress: Called after every few bytes.

    Returns:
        The file. Where `path` was there with the expected SHA-256 and size, nothing was requested.

    Raises:
        InputError: If the URL is no https, is not there, cannot be reached, sends another size or
            SHA-256 than expected (which deletes what was downloaded), or the disk is full.
    """
    _check_url(url, url)
    if os.path.isfile(path):
        there = Downloaded(path, os.path.getsize(path), sha256_of(path))
        if sha256 in (None, there.sha256) and size in (None, there.size):
            return there
    try:
        _Transfer(url, path, size, on_progress).run()
        found = Downloaded(path, os.path.getsize(_part(path)), sha256_of(_part(path)))
        if sha256 is not None and found.sha256 != sha256.lower():
            _forget(path)
            raise InputError(
                f"{url}: its SHA-256 is {found.sha256}, expected {sha256.lower()}: it was damaged "
                "or replaced on its way here, and is deleted; try again, from another network if "
                "it stays so"
            )
        files.move(_part(path), path)
        _forget(path)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written: {error.strerror or error}; {remedy(error)} or name "
            f"another one and start again{', which goes on from here' if is_full(error) else ''}"
        ) from error
    return found


class _Broken(Exception):
    """The body did not come, or not to its end: the next request may bring the rest."""


class _Transfer:
    """The requests that bring one file."""

    def __init__(self, url: str, path: str, size: int | None, on_progress: Progress | None) -> None:
        self._url = url
        self._path = path
        self._size = size
        self._on_progress = on_progress

    def run(self) -> None:
        """Fills the part to its end, in as many attempts as bring something new."""
        import requests
        from requests.adapters import HTTPAdapter
        from urllib3.exceptions import MaxRetryError

        # What fails before the body is there is tried again below `requests`.
        retries = failures = _retries()
        furthest = self._offset()
        with requests.Session() as session:
            session.max_redirects = _MAX_REDIRECTS
            session.hooks["response"].append(self._check_redirect)
            session.mount("https://", HTTPAdapter(max_retries=retries))
            session.mount("http://", HTTPAdapter(max_retries=retries))
            while True:
                try:
                    return self._attempt(session)
                except _Broken as error:
                    if self._offset() > furthest:
                        furthest, failures = self._offset(), retries
                    try:
                        failures = failures.increment()
                    except MaxRetryError:
                        raise self._given_up(str(error)) from error
                    failures.sleep()

    def _given_up(self, reason: str) -> InputError:
        return InputError(
            f"{self._url}: {reason}, {ATTEMPTS} times in a row; look at the network and the proxy "
            f"settings (HTTPS_PROXY) and start again, which goes on from here, "
            f"{_by_hand(self._url)}"
        )

    def _offset(self) -> int:
        try:
            return os.path.getsize(_part(self._path))
        except FileNotFoundError:
            return 0

    def _attempt(self, session: "requests.Session") -> None:
        offset, version = self._offset(), _read_version(self._path, self._url)
        if offset and version is None:
            _forget(self._path)
            offset = 0
        # The file as it lies there: no encoding for the way, whose bytes could not be counted.
        headers = {"Accept-Encoding": "identity"}
        if offset and version is not None:
            headers |= {"Range": f"bytes={offset}-", "If-Range": version}
        with contextlib.closing(self._get(session, headers)) as response:
            total = self._check(response, offset)
            if response.status_code == 416:
                if total == offset:
                    return
                _forget(self._path)
                raise _Broken("the server has a shorter file than before")
            if response.status_code == 200:
                offset = 0
                _write_version(self._path, self._url, response.headers)
            self._receive(response, offset, total)

    def _get(self, session: "requests.Session", headers: dict[str, str]) -> "requests.Response":
        import requests

        try:
            return session.get(self._url, headers=headers, stream=True, timeout=TIMEOUT_S)
        except requests.exceptions.SSLError as error:
            if _is_distrust(error):
                raise InputError(
                    f"{self._url}: the server's certificate is not trusted ({error}); where a "
                    "proxy of your own network signs it, name its CA file in "
                    f"REQUESTS_CA_BUNDLE, {_by_hand(self._url)}"
                ) from error
            raise self._given_up(f"the connection failed ({error})") from error
        except (requests.exceptions.ConnectionError, requests.exceptions.Timeout) as error:
            raise self._given_up(f"no connection ({error})") from error
        except requests.exceptions.TooManyRedirects as error:
            raise InputError(
                f"{self._url}: more than {_MAX_REDIRECTS} redirections, {_by_hand(self._url)}"
            ) from error
        except requests.exceptions.RequestException as error:
            raise InputError(f"{self._url}: {error}") from error

    def _check_redirect(self, response: "requests.Response", **_: object) -> None:
        """Lets `requests` follow a server only where that is https, too."""
        if response.is_redirect:
            target = urllib.parse.urljoin(response.url, response.headers["location"])
            _check_url(target, self._url)

    def _check(self, response: "requests.Response", offset: int) -> int | None:
        """Refuses an answer that does not bring the file; returns the file's size in bytes."""
        status = response.status_code
        if status in _PASSING:
            raise self._given_up(f"the server answered {status} {response.reason}")
        if status in (404, 410):
            raise InputError(
                f"{self._url}: not there any more ({status} {response.reason}); look for where its "
                f"publisher keeps it now, {_by_hand(self._url)}"
            )
        total: int | None = None
        if status in (206, 416):
            unit, _, place = response.headers.get("Content-Range", "").partition(" ")
            start, _, whole = place.partition("/")
            total = int(whole) if whole.isdecimal() else None
            if status == 206 and (unit != "bytes" or start.partition("-")[0] != str(offset)):
                _forget(self._path)
                raise _Broken("the server sent another part than it was asked for")
        elif status == 200:
            length = response.headers.get("Content-Length", "")
            total = int(length) if length.isdecimal() else None
        else:
            raise InputError(
                f"{self._url}: the server answered {status} {response.reason}, "
                f"{_by_hand(self._url)}"
            )
        if self._size is not None and total is not None and total != self._size:
            _forget(self._path)
            raise InputError(
                f"{self._url}: has {total:,} bytes, expected {self._size:,}: it is another file "
                f"than before; look at what its publisher says, {_by_hand(self._url)}"
            )
        return total

    def _receive(self, response: "requests.Response", offset: int, total: int | None) -> None:
        """Writes the body behind `offset`."""
        import urllib3

        if total is None:
            total = self._size
        with open(_part(self._path), "ab") as file:
            file.truncate(offset)
            while True:
                try:
                    chunk = response.raw.read(_CHUNK_BYTES, decode_content=False)
                except (urllib3.exceptions.HTTPError, ConnectionError, TimeoutError) as error:
                    file.flush()
                    raise _Broken(f"the connection broke ({error})") from error
                if not chunk:
                    break
                file.write(chunk)
                offset += len(chunk)
                if self._on_progress is not None:
                    self._on_progress(offset, total)
        if total is not None and offset < total:
            raise _Broken(f"the connection ended after {offset:,} of {total:,} bytes")
        if total is not None and offset > total:
            _forget(self._path)
            raise _Broken(f"the server sent more than {total:,} bytes")


def _retries() -> "Retry":
    """Returns the attempts for one request, and the pauses between them."""
    from urllib3.exceptions import InvalidHeader, SSLError
    from urllib3.util import Retry

    class Bounded(Retry):
        """Tries nothing again that will not change, and waits no longer than bearable."""

        def increment(self, *place: Any, **failure: Any) -> Any:
            """Counts a failure."""
            error = failure.get("error")
            if isinstance(error, SSLError) and _is_distrust(error):
                raise error
            return super().increment(*place, **failure)

        def get_retry_after(self, response: Any) -> float | None:
            """Returns the seconds that the server asks to wait, or None."""
            try:
                seconds = super().get_retry_after(response)
            except InvalidHeader:
                return None
            return None if seconds is None else min(seconds, _MAX_WAIT_S)

    # The last answer of a server says more than that it was the last.
    return Bounded(
        ATTEMPTS - 1,
        status_forcelist=_PASSING,
        backoff_factor=BACKOFF_S,
        raise_on_status=False,
    )


def _is_distrust(error: Exception) -> bool:
    return "certificate" in str(error).lower()


def _check_url(url: str, asked: str) -> None:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme == "http" and parts.hostname and _is_loopback(parts.hostname):
        return
    raise InputError(
        f"{asked}: expected a URL that begins with https://, so that nobody on the way can change "
        f"the file (http:// only for this machine itself). Received: {url!r}"
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _by_hand(url: str) -> str:
    return f"or download {url} by hand and name the file, or its folder, with --pretrained"


def _part(path: str) -> str:
    return f"{path}.part"


def _version_file(path: str) -> str:
    return f"{path}.part.json"


def _read_version(path: str, url: str) -> str | None:
    """Returns what the server called the version of the file that a part is of."""
    try:
        with open(_version_file(path), encoding="utf-8") as file:
            content: Any = json.load(file)
    except (OSError, ValueError):
        return None
    version = content.get("version") if isinstance(content, dict) else None
    return version if isinstance(version, str) and content.get("url") == url else None


def _write_version(path: str, url: str, headers: Any) -> None:
    """Remembers the version, if the server names one that a range can be asked of (RFC 9110)."""
    etag = headers.get("ETag", "")
    version = etag if etag.startswith('"') else headers.get("Last-Modified")
    # Not beside another version's bytes, not even for a moment.
    _forget(path)
    if version:
        with open(_version_file(path), "w", encoding="utf-8") as file:
            json.dump({"url": url, "version": version}, file)


def _forget(path: str) -> None:
    """Removes the part and what is known of it."""
    for name in (_part(path), _version_file(path)):
        with contextlib.suppress(FileNotFoundError):
            os.remove(name)
