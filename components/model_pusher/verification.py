"""Asks the server whether it serves what was pushed."""

import time

from bert_tfx.schema.tasks import TEXT_B
from bert_tfx.serving.client import Client
from bert_tfx.serving.errors import BadAnswer, DeadlineExceeded, ServerFailed, ServingError

# Invented, in the languages of the published tasks.
_TEXT = "房间很干净, and the staff were kind."
_TEXT_B = "服务也很周到, and the room was clean."
_SERVE_TEXT = "serve_text"
_ANSWER_SECONDS = 30.0
_ROUND_SECONDS = 5.0
_STATE_SECONDS = 1.0


def ask_for_version(server: str, model_name: str, version: int, timeout: float) -> None:
    """Waits until a server has a version, and asks that for an answer.

    Args:
        server: Its gRPC address, `HOST:PORT`.
        model_name: The model's name there.
        version: The version.
        timeout: Seconds to wait at most until it is loaded.

    Raises:
        InputError: If the address makes no sense.
        ServingError: If it cannot be loaded, or not by then, or does not answer a sentence; the
            message names server, model and version.
    """
    with Client(server, model_name, version=version, timeout=_ANSWER_SECONDS) as client:
        deadline = time.monotonic() + timeout
        while True:
            left = deadline - time.monotonic()
            try:
                client.wait_until_ready(min(left, _ROUND_SECONDS))
                break
            except DeadlineExceeded as error:
                # A server that has given up is not waited for.
                state = _state(server, model_name, version)
                if left <= _ROUND_SECONDS:
                    raise DeadlineExceeded(
                        f"{server}, model {model_name!r} version {version}: not loaded within "
                        f"{timeout:g} s; {state or error}"
                    ) from error
        signature = client.metadata().signatures.get(_SERVE_TEXT)
        if signature is None:
            raise BadAnswer(
                f"{server}, model {model_name!r} version {version}: there is no signature "
                f"{_SERVE_TEXT}; was it exported by bert-tfx?"
            )
        texts_b = [_TEXT_B] if TEXT_B in signature.inputs else None
        client.predict([_TEXT], texts_b)


def _state(server: str, model_name: str, version: int) -> str:
    """Says how far a server is with a version; empty where it does not tell.

    Raises:
        ServerFailed: If it has given up loading it.
    """
    try:
        with Client(server, model_name, timeout=_STATE_SECONDS) as client:
            statuses = {status.version: status for status in client.model_status()}
    except ServingError:
        return ""
    if version not in statuses:
        others = ", ".join(f"{status.version} {status.state}" for status in statuses.values())
        return f"the server has only {others or 'no version'}; does it watch this folder?"
    # While TF Serving tries again, it says LOADING.
    if statuses[version].state == "END":
        raise ServerFailed(
            f"{server}, model {model_name!r} version {version}: the server cannot load it: "
            f"{statuses[version].error or 'it does not say why'}"
        )
    return f"the server says {statuses[version].state}"
