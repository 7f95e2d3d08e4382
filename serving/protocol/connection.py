"""How a server is reached: its address, TLS, the token, gRPC's options."""

import dataclasses
import ipaddress
import os
import re

import grpc

from bert_tfx.schema.errors import InputError

Pem = str | os.PathLike[str] | bytes
"""A PEM file, or its content as bytes."""

_HOST_PORT = re.compile(r"(\[[0-9A-Fa-f:.%\w]+\]|[^\[\]:/\s,]+):([0-9]{1,5})")
_SCHEME = re.compile(r"(dns|ipv4|ipv6|unix|unix-abstract|vsock|xds):(.+)", re.DOTALL)

# A client that tries again after fractions of a second must not find gRPC waiting for whole ones.
_FIRST_RECONNECT_MS = 200
_LAST_RECONNECT_MS = 5_000
_KEEPALIVE_TIMEOUT_MS = 20_000


@dataclasses.dataclass(frozen=True)
class Tls:
    """An encrypted connection: `Tls()` trusts the authorities that gRPC brings along.

    Attributes:
        ca: Certificates of the authorities to trust in their place, PEM.
        cert: The client's own certificate chain, PEM, for servers that ask for one (mutual TLS).
        key: Its private key, PEM.
        server_name: The name that the server's certificate must bear, where it is not that of the
            address (through a tunnel, for example).

    Raises:
        InputError: If a file cannot be read or is not PEM, or of `cert` and `key` there is only
            one.
    """

    ca: Pem | None = None
    cert: Pem | None = None
    key: Pem | None = dataclasses.field(default=None, repr=False)
    server_name: str | None = None

    def __post_init__(self) -> None:
        """Reads the files, so that a slip shows before a server is asked."""
        if (self.cert is None) != (self.key is None):
            raise InputError(
                "mutual TLS needs the client's certificate and its key; one of the two is missing"
            )
        for name in ("ca", "cert", "key"):
            # Held as bytes: the file may be replaced while a client lives.
            object.__setattr__(self, name, _pem(getattr(self, name), name))


def _pem(source: Pem | None, what: str) -> bytes | None:
    if source is None:
        return None
    if isinstance(source, bytes):
        content, name = source, f"the content given as {what}"
    else:
        name = os.fspath(source)
        try:
            with open(os.path.expanduser(name), "rb") as file:
                content = file.read()
        except OSError as error:
            raise InputError(f"{name}: cannot be read ({what} of TLS): {error.strerror}") from error
    if b"-----BEGIN " not in content:
        raise InputError(f"{name}: is not PEM ({what} of TLS); it has no -----BEGIN line")
    return content


def check_address(target: str) -> None:
    """Raises if a target is no address.

    Raises:
        InputError: If it is neither `HOST:PORT` nor one of gRPC's other forms (`dns:///...`,
            `unix:...`).
    """
    match = _HOST_PORT.fullmatch(target)
    if match and 0 < int(match[2]) < 65536:
        return
    if not match and _SCHEME.fullmatch(target):
        return
    hint = "without the scheme" if re.match(r"(https?|grpcs?)://", target) else "localhost:8500"
    raise InputError(f"{target!r} is no server's address; expected HOST:PORT, such as {hint}")


def is_loopback(target: str) -> bool:
    """Whether everything sent to this address stays on the machine."""
    scheme = None if _HOST_PORT.fullmatch(target) else _SCHEME.fullmatch(target)
    if scheme and scheme[1].startswith("unix"):
        return True
    # dns:[//authority/]host:port
    rest = scheme[2].rpartition("/")[2] if scheme else target
    return all(_is_loopback_host(address) for address in rest.split(","))


def _is_loopback_host(address: str) -> bool:
    match = _HOST_PORT.fullmatch(address)
    host = (match[1] if match else address).strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def read_token(path: str, option: str) -> str:
    """Returns the token in a file.

    Args:
        path: The file.
        option: What names it, for the message.

    Raises:
        InputError: If it cannot be read.
    """
    try:
        with open(os.path.expanduser(path), encoding="utf-8") as file:
            return file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise InputError(f"{path}: cannot be read ({option}): {reason}") from error


def bearer_metadata(token: str | None, target: str, tls: Tls | None) -> tuple[tuple[str, str], ...]:
    """Returns the metadata that shows a token to the server.

    Raises:
        InputError: If the token could not stand in a header, or would leave the machine in the
            clear.
    """
    if token is None:
        return ()
    if not re.fullmatch(r"[!-~]+", token):
        raise InputError("the token must be printable ASCII without spaces and line ends")
    if tls is None and not is_loopback(target):
        raise InputError(
            f"{target}: the token would travel there unencrypted; use TLS (tls=Tls(...), on the "
            "command line --tls or --tls-ca)"
        )
    return (("authorization", f"Bearer {token}"),)


def channel_options(
    target: str, tls: Tls | None, *, keepalive: float | None, max_message_bytes: int
) -> list[tuple[str, int | str]]:
    """Returns gRPC's options for a channel; the arguments are those of the client."""
    options: list[tuple[str, int | str]] = [
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.initial_reconnect_backoff_ms", _FIRST_RECONNECT_MS),
        ("grpc.max_reconnect_backoff_ms", _LAST_RECONNECT_MS),
    ]
    if keepalive is not None:
        options += [
            ("grpc.keepalive_time_ms", int(keepalive * 1000)),
            ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
        ]
    if is_loopback(target):
        # A proxy of the environment neither reaches this machine nor may see the token.
        options.append(("grpc.enable_http_proxy", 0))
    if tls is not None and tls.server_name:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    return options


def credentials(tls: Tls) -> grpc.ChannelCredentials:
    """Returns what gRPC makes of a `Tls`."""
    return grpc.ssl_channel_credentials(tls.ca, tls.key, tls.cert)
