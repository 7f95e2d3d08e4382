"""Where a run's records are: ML Metadata's SQLite file, a MySQL database, or a gRPC server.

The one place that knows it. A run keeps the address in its output folder, so that whoever reads the
run's records later need not be told. Loads neither ML Metadata nor gRPC before a store is opened.
"""

import contextlib
import dataclasses
import datetime
import json
import logging
import os
import random
import re
import socket
import time
import urllib.parse
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from bert_tfx.schema import files
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.paths import absolute

if TYPE_CHECKING:
    from ml_metadata import metadata_store
    from ml_metadata.proto import metadata_store_pb2

    Connection: TypeAlias = (
        metadata_store_pb2.ConnectionConfig | metadata_store_pb2.MetadataStoreClientConfig
    )

logger = logging.getLogger(__name__)

METADATA_FILE = "metadata.sqlite"
"""The default store, in the output folder."""

ADDRESS_FILE = "metadata.json"
"""Names another store, in the output folder."""

_FORMS = (
    "sqlite:PATH, mysql://USER@HOST:PORT/DATABASE, grpc://HOST:PORT, or grpcs://HOST:PORT with TLS"
)
_PORTS = {"mysql": 3306, "grpc": 8080, "grpcs": 8080}
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
# Of a probe, and of a question over gRPC.
_PROBE_SECONDS = 10.0
_ANSWER_SECONDS = 120.0
# gRPC's default of 4 MiB is less than the records of some hundred runs.
_MAX_ANSWER = 256 << 20
# Seconds to wait, and up to twice as long, before a store is opened again that others make ready.
_PAUSES = (0.2, 0.5, 1.0, 2.0, 4.0)
# What ML Metadata leaves of an error of MySQL's, and what that means.
_MYSQL_ERRORS = {
    "Unknown database": "there is no such database; make it there first",
    "to database": "the user may not use this database, or there is none of this name",
    "mysql_real_connect failed": "the server refuses the user or the password "
    "(--metadata-password-file names its file), or wants TLS (--metadata-tls-ca) or another way to "
    "log in: ML Metadata knows mysql_native_password",
}


@dataclasses.dataclass(frozen=True)
class Address:
    """A metadata store.

    Attributes:
        url: `sqlite:PATH` with an absolute path, `mysql://USER@HOST:PORT/DATABASE`,
            `grpc://HOST:PORT` or `grpcs://HOST:PORT`.
        password_file: File of the password of MySQL's user, or None.
        tls_ca: File of the authorities that the server's certificate is checked by, PEM, or None.
            Of MySQL it only encrypts.
        tls_cert: File of the own certificate, PEM, or None.
        tls_key: File of its private key, PEM, or None.
        pipelines: The names under which an output folder has kept its runs there; empty where all
            that is there is the folder's.
    """

    url: str
    password_file: str | None = None
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    pipelines: Sequence[str] = ()

    @property
    def scheme(self) -> str:
        """`sqlite`, `mysql`, `grpc` or `grpcs`."""
        return self.url.partition(":")[0]

    def check(self) -> None:
        """Checks what can be said without asking the server.

        Raises:
            InputError: If options do not go together, or a file cannot be read.
        """
        if self.password_file and self.scheme != "mysql":
            raise InputError("--metadata-password-file is for a store of mysql://")
        files = {"ca": self.tls_ca, "cert": self.tls_cert, "key": self.tls_key}
        for name, path in files.items():
            if path and self.scheme not in ("mysql", "grpcs"):
                raise InputError(f"--metadata-tls-{name} is for a store of mysql:// or grpcs://")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise InputError("--metadata-tls-cert and --metadata-tls-key go together")
        for name, path in files.items():
            if path:
                _read(path, f"--metadata-tls-{name}")
        if self.password_file:
            _read(self.password_file, "--metadata-password-file")
        if self.scheme == "mysql" and (self.tls_ca or self.tls_cert):
            logger.warning(
                "%s: is encrypted, but ML Metadata does not check the server's certificate",
                self.url,
            )


def parse_url(text: str) -> str:
    """Returns a store's URL in full: with the port, and with an absolute path.

    Raises:
        InputError: If it is none, or holds a password.
    """
    scheme, colon, rest = text.partition(":")
    if scheme == "sqlite" and colon and rest:
        # `sqlite:///PATH`, and SQLAlchemy's spelling of it with one more.
        path = re.sub("^///+", "/", rest)
        if not path.startswith("//"):
            return f"sqlite:{absolute(path)}"
    if scheme not in _PORTS or not rest.startswith("//"):
        raise InputError(f"--metadata {_shown(text)!r}: expected {_FORMS}")
    try:
        parts = urllib.parse.urlsplit(text)
        host, port = parts.hostname, parts.port or _PORTS[scheme]
    except ValueError as error:
        raise InputError(f"--metadata {_shown(text)!r}: expected {_FORMS}") from error
    if parts.password is not None:
        raise InputError(
            f"--metadata {_shown(text)!r}: must not hold the password, as others can read a "
            "command line and a report; --metadata-password-file names its file"
        )
    database = parts.path.strip("/")
    fits = bool(parts.username and database) and "/" not in database
    if scheme != "mysql":
        fits = not (parts.username or database)
    if not (host and fits) or parts.query or parts.fragment:
        raise InputError(f"--metadata {_shown(text)!r}: expected {_FORMS}")
    host = f"[{host}]" if ":" in host else host
    if scheme == "mysql":
        return f"mysql://{parts.username}@{host}:{port}/{database}"
    return f"{scheme}://{host}:{port}"


def check_name(name: str) -> None:
    """Checks the name of a lineage.

    Raises:
        InputError: If not every store would keep it as it is.
    """
    if not _NAME.fullmatch(name):
        raise InputError(
            f"--lineage {name!r}: must be 1 to 63 of a-z, 0-9, . _ -, a letter or digit first"
        )


def new_run_id() -> str:
    """Returns a name for a run that has none: the time."""
    return datetime.datetime.now().isoformat()


def address_of(output_dir: str) -> Address:
    """Returns where the records of an output folder's runs are.

    Raises:
        InputError: If the folder does not say it in a way that can be understood.
    """
    path = os.path.join(output_dir, ADDRESS_FILE)
    try:
        with open(path, encoding="utf-8") as file:
            return Address(**json.load(file))
    except FileNotFoundError:
        return Address(f"sqlite:{os.path.join(os.path.abspath(output_dir), METADATA_FILE)}")
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{path}: cannot be understood: {error}; the next run with --metadata writes it anew"
        ) from error


def keep_address(output_dir: str, address: Address, pipeline: str) -> None:
    """Notes in an output folder where its runs' records are.

    Args:
        output_dir: The folder.
        address: The store.
        pipeline: The name under which the next run is kept.
    """
    path = os.path.join(output_dir, ADDRESS_FILE)
    own = Address(f"sqlite:{os.path.join(os.path.abspath(output_dir), METADATA_FILE)}")
    if address == own:
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)
        return
    try:
        before = address_of(output_dir)
    except InputError:
        before = own
    known = before.pipelines if before.url == address.url else ()
    address = dataclasses.replace(address, pipelines=sorted({*known, pipeline}))
    if address == before:
        return
    files.write(path, json.dumps(dataclasses.asdict(address), indent=1))


def connection_config(address: Address) -> "Connection":
    """Returns how ML Metadata is to connect to a store.

    Args:
        address: The store.

    Returns:
        A database's connection, or a gRPC client's.

    Raises:
        InputError: If a file of the password or of TLS cannot be read.
    """
    from ml_metadata.proto import metadata_store_pb2

    if address.scheme == "sqlite":
        connection = metadata_store_pb2.ConnectionConfig()
        connection.sqlite.filename_uri = address.url.partition(":")[2]
        connection.sqlite.connection_mode = (
            metadata_store_pb2.SqliteMetadataSourceConfig.READWRITE_OPENCREATE
        )
        return connection
    parts = urllib.parse.urlsplit(address.url)
    if address.scheme == "mysql":
        connection = metadata_store_pb2.ConnectionConfig()
        mysql = connection.mysql
        # By the name `localhost` MySQL's library means a socket of its own, not this port.
        mysql.host = "127.0.0.1" if parts.hostname == "localhost" else parts.hostname
        mysql.port = parts.port
        mysql.user = urllib.parse.unquote(parts.username or "")
        mysql.database = urllib.parse.unquote(parts.path.strip("/"))
        if address.password_file:
            mysql.password = _read(address.password_file, "--metadata-password-file")
        # A slip in the name must not make another database.
        mysql.skip_db_creation = True
        # With `verify_server_cert` ML Metadata's client refuses good certificates, too.
        if address.tls_ca:
            mysql.ssl_options.ca = address.tls_ca
        if address.tls_cert:
            mysql.ssl_options.cert = address.tls_cert
            mysql.ssl_options.key = address.tls_key
        return connection
    client = metadata_store_pb2.MetadataStoreClientConfig(
        host=parts.hostname, port=parts.port, client_timeout_sec=_ANSWER_SECONDS
    )
    if ":" in (parts.hostname or ""):
        client.host = f"[{parts.hostname}]"
    client.channel_arguments.max_receive_message_length = _MAX_ANSWER
    if address.scheme == "grpcs":
        client.ssl_config.SetInParent()
        if address.tls_ca:
            client.ssl_config.custom_ca = _read(address.tls_ca, "--metadata-tls-ca")
        if address.tls_cert and address.tls_key:
            # MLMD's name for the client's own certificate.
            client.ssl_config.server_cert = _read(address.tls_cert, "--metadata-tls-cert")
            client.ssl_config.client_key = _read(address.tls_key, "--metadata-tls-key")
    return client


def open_store(address: Address, *, read_only: bool = False) -> "metadata_store.MetadataStore":
    """Opens a store, and asks it something.

    Args:
        address: The store.
        read_only: Whether a SQLite file is opened for reading; it must be there then.

    Returns:
        The store.

    Raises:
        InputError: If it cannot be reached, refuses, or cannot be understood.
    """
    _probe(address, read_only=read_only)
    # What MLMD's core and gRPC's log stands in the error, too.
    os.environ.setdefault("GLOG_minloglevel", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")

    from ml_metadata import metadata_store
    from ml_metadata.proto import metadata_store_pb2

    connection = connection_config(address)
    if read_only and address.scheme == "sqlite":
        connection.sqlite.connection_mode = metadata_store_pb2.SqliteMetadataSourceConfig.READONLY
    pauses = iter(_PAUSES)
    while True:
        try:
            store = metadata_store.MetadataStore(connection)
            if not read_only or address.scheme != "sqlite":
                store.get_context_types()
            return store
        # MLMD has an error class of its own for each of SQLite's, MySQL's and gRPC's.
        except Exception as error:
            pause = next(pauses, None)
            # Of two that come to an empty database at once, and make its tables, one may fail.
            if pause is None or not re.search("concurrent|locked", str(error)):
                raise InputError(_refusal(address, error)) from error
            time.sleep(pause * random.uniform(1, 2))


def check_store(address: Address) -> None:
    """Checks that a store answers, before a run that needs it (raises InputError)."""
    open_store(address)


def _probe(address: Address, *, read_only: bool) -> None:
    """Answers at once where nothing can be there: MLMD would try for minutes."""
    if address.scheme == "sqlite":
        path = address.url.partition(":")[2]
        if read_only and not os.path.isfile(path):
            raise InputError(
                f"{path}: no such file; --output names the folder that `bert-tfx run` has written "
                "to"
            )
        if not read_only:
            try:
                os.makedirs(os.path.dirname(path), exist_ok=True)
            except OSError as error:
                raise InputError(f"{address.url}: cannot be written: {error.strerror}") from error
        return
    parts = urllib.parse.urlsplit(address.url)
    try:
        place = parts.hostname, parts.port or _PORTS[address.scheme]
        with socket.create_connection(place, timeout=_PROBE_SECONDS):
            pass
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise InputError(
            f"{address.url}: the metadata store cannot be reached: {reason}; --metadata names it"
        ) from error


def _refusal(address: Address, error: Exception) -> str:
    """Says in a sentence why a store cannot be used; it holds no password."""
    told = " ".join(str(error).split())
    if address.scheme == "sqlite":
        path = address.url.partition(":")[2]
        return f"{path}: cannot be read as ML Metadata's records: {told}"
    known = _MYSQL_ERRORS if address.scheme == "mysql" else {}
    reason = next((reason for part, reason in known.items() if part in told), told)
    return f"{address.url}: the metadata store cannot be used: {reason}"


def _read(path: str, option: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise InputError(f"{path}: cannot be read ({option}): {reason}") from error


def _shown(text: str) -> str:
    """Returns a URL without the password that may stand in it."""
    return re.sub(r"(//[^/@:]*):.*@", r"\1:...@", text)
