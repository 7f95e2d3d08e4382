"""Asks the server whether it serves what was pushed."""

import dataclasses
import time

from bert_tfx.schema.tasks import TEXT_B
from bert_tfx.serving import DEFAULT_MODEL
from bert_tfx.serving.client import Client, Tls
from bert_tfx.serving.protocol.connection import bearer_metadata, check_address, read_token
from bert_tfx.serving.protocol.errors import BadAnswer, DeadlineExceeded, ServerFailed, ServingError
from bert_tfx.serving.protocol.model_api import SERVE_TEXT

# Invented, in the languages of the published tasks.
_TEXT = "房间很干净, and the staff were kind."
_TEXT_B = "服务也很周到, and the room was clean."
_ANSWER_SECONDS = 30.0
_ROUND_SECONDS = 5.0
_STATE_SECONDS = 1.0


@dataclasses.dataclass(frozen=True)
class Server:
    """A model server, and what it wants to know of who asks.

    Files are named here, and read when the server is asked: neither keys nor tokens are kept.

    Attributes:
        address: Its gRPC address, `HOST:PORT`.
        model_name: The model's name there.
        tls_ca: File of the authorities to trust, PEM. With it, or with `tls_cert`, the connection
            is encrypted.
        tls_cert: File of the own certificate chain, PEM, for a server that asks for one.
        tls_key: File of its private key, PEM.
        token_file: File of the token to show.
    """

    address: str
    model_name: str = DEFAULT_MODEL
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    token_file: str | None = None

    def check(self) -> None:
        """Tries address and files, without opening a connection.

        Raises:
            InputError: If the address makes no sense, a file cannot be read or is not what it
                should be, or the token would leave the machine unencrypted.
        """
        check_address(self.address)
        bearer_metadata(self._token(), self.address, self._tls())

    def client(self, *, timeout: float, version: int | None = None) -> Client:
        """Returns a client.

        Args:
            timeout: Seconds that a call may take in all.
            version: The version to ask for.

        Raises:
            InputError: As `check`.
        """
        return Client(
            self.address,
            self.model_name,
            timeout=timeout,
            version=version,
            tls=self._tls(),
            token=self._token(),
        )

    def _tls(self) -> Tls | None:
        if self.tls_ca or self.tls_cert or self.tls_key:
            return Tls(self.tls_ca, self.tls_cert, self.tls_key)
        return None

    def _token(self) -> str | None:
        return self.token_file and read_token(self.token_file, "token of the server")


def ask_for_version(server: Server, version: int, timeout: float) -> None:
    """Waits until a server has a version, and asks that for an answer.

    Args:
        server: The server.
        version: The version.
        timeout: Seconds to wait at most until it is loaded.

    Raises:
        InputError: If `server` makes no sense (`Server.check`).
        ServingError: If it cannot be loaded, or not by then, or does not answer a sentence; the
            message names server, model and version.
    """
    who = f"{server.address}, model {server.model_name!r} version {version}"
    with server.client(version=version, timeout=_ANSWER_SECONDS) as client:
        deadline = time.monotonic() + timeout
        while True:
            left = deadline - time.monotonic()
            try:
                client.wait_until_ready(min(left, _ROUND_SECONDS))
                break
            except DeadlineExceeded as error:
                # A server that has given up is not waited for.
                state = _state(server, version, who)
                if left <= _ROUND_SECONDS:
                    raise DeadlineExceeded(
                        f"{who}: not loaded within {timeout:g} s; {state or error}"
                    ) from error
        signature = client.metadata().signatures.get(SERVE_TEXT)
        if signature is None:
            raise BadAnswer(
                f"{who}: there is no signature {SERVE_TEXT}; was it exported by bert-tfx?"
            )
        texts_b = [_TEXT_B] if TEXT_B in signature.inputs else None
        client.predict([_TEXT], texts_b)


def _state(server: Server, version: int, who: str) -> str:
    """Says how far a server is with a version; empty where it does not tell.

    Raises:
        ServerFailed: If it has given up loading it.
    """
    try:
        with server.client(timeout=_STATE_SECONDS) as client:
            statuses = {status.version: status for status in client.model_status()}
    except ServingError:
        return ""
    if version not in statuses:
        others = ", ".join(f"{status.version} {status.state}" for status in statuses.values())
        return f"the server has only {others or 'no version'}; does it watch this folder?"
    # While TF Serving tries again, it says LOADING.
    if statuses[version].state == "END":
        raise ServerFailed(
            f"{who}: the server cannot load it: {statuses[version].error or 'it does not say why'}"
        )
    return f"the server says {statuses[version].state}"
