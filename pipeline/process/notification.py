"""Tells a command or a URL how a run has ended.

Whatever happens to the message, the run has ended as it has: a hook that fails or hangs is a
warning in the log.
"""

import dataclasses
import json
import logging
import os
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import IO, Any

from bert_tfx.pipeline.process.exit_codes import ExitCode
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.options import option

logger = logging.getLogger(__name__)

FORMAT = 1
"""Of the message; it changes where a field is removed or changes its meaning."""

STATUSES = {
    ExitCode.DONE: "pushed",
    ExitCode.FAULT: "fault",
    ExitCode.INPUT_ERROR: "input_error",
    ExitCode.NOT_BLESSED: "not_blessed",
    ExitCode.DATA_REFUSED: "data_refused",
    ExitCode.INTERRUPTED: "interrupted",
}

_TRIES = 3
# Seconds between them, all together.
_PAUSES_S = 4.0
_RETRIED = (429, 500, 502, 503, 504)
# Of what a command prints; the rest is cut.
_MAX_LINES = 20
_IN_ENVIRONMENT = (
    *("status", "exit_code", "task", "pipeline", "run", "output", "pushed_version", "report"),
)


@dataclasses.dataclass(frozen=True)
class Hooks:
    """Who is told how a run has ended.

    Attributes:
        notify_command: A command with its arguments, split as a shell would, or None.
        notify_url: An http or https URL, or None.
        notify_token_file: File of the token to show there, or None.
        notify_timeout: Seconds that the command, or a try to reach the URL, may take.

    Raises:
        InputError: If the command is not there, the URL is none, the token cannot be read or would
            go unencrypted, or the time is not positive.
    """

    notify_command: str | None = option(
        "called without a shell, with JSON on stdin", None, metavar="COMMAND"
    )
    notify_url: str | None = option("JSON is posted there", None, metavar="URL")
    notify_token_file: str | None = option("the bearer token to show there", None, metavar="FILE")
    notify_timeout: float = option("seconds that a try may take (default: 30)", 30.0)

    def __post_init__(self) -> None:
        """Checks everything, so that no run begins that cannot tell its end."""
        if self.notify_timeout <= 0:
            raise InputError(f"notify_timeout must be positive. Received: {self.notify_timeout}")
        if self.notify_command is not None:
            words = self._words()
            if not words or shutil.which(words[0]) is None:
                raise InputError(
                    f"--notify-command {self.notify_command!r}: there is no such command"
                )
        if self.notify_url is not None:
            parts = urllib.parse.urlsplit(self.notify_url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise InputError("--notify-url: expected http://HOST/PATH or https://HOST/PATH")
            encrypted = parts.scheme == "https" or parts.hostname in ("127.0.0.1", "localhost")
            if self.notify_token_file and not encrypted:
                raise InputError(
                    "--notify-token-file: the token would go unencrypted to another machine; the "
                    "URL must begin with https"
                )
        elif self.notify_token_file is not None:
            raise InputError("--notify-token-file is for the URL that --notify-url names")
        if self.notify_token_file is not None:
            self._token(self.notify_token_file)

    def tell(self, message: Mapping[str, Any]) -> None:
        """Tells all of them; never raises.

        Args:
            message: What `Outcome.message` returns.
        """
        body = json.dumps(message, ensure_ascii=False).encode()
        tellers = (
            (self.notify_command, "--notify-command", lambda: self._call(body, message)),
            (self.notify_url, "--notify-url", lambda: self._post(body)),
        )
        for wanted, flag, teller in tellers:
            if wanted is None:
                continue
            try:
                failure = teller()
            # The run has ended: whatever it is, it must not look like the run's.
            except (Exception, KeyboardInterrupt) as error:
                failure = f"{type(error).__name__}: {error}"
            if failure:
                logger.warning("%s: %s", flag, failure)

    def _words(self) -> list[str]:
        try:
            return shlex.split(self.notify_command or "")
        except ValueError as error:
            raise InputError(f"--notify-command {self.notify_command!r}: {error}") from error

    def _token(self, path: str) -> str:
        # Loads gRPC, which most runs need no earlier.
        from bert_tfx.serving.protocol.connection import read_token

        return read_token(path, "--notify-token-file")

    def _call(self, body: bytes, message: Mapping[str, Any]) -> str | None:
        """Calls the command; returns why that failed, if it did."""
        facts = {
            f"BERT_TFX_{name.upper()}": str(message[name])
            for name in _IN_ENVIRONMENT
            if message[name] is not None
        }
        # Files, as what the command leaves running may hold a pipe open for ever.
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as told:
            given.write(body)
            given.seek(0)
            with subprocess.Popen(
                self._words(),
                stdin=given,
                stdout=told,
                stderr=subprocess.STDOUT,
                env=os.environ | facts,
                start_new_session=True,
            ) as process:
                try:
                    code = process.wait(self.notify_timeout)
                except BaseException as error:
                    os.killpg(process.pid, signal.SIGKILL)
                    if not isinstance(error, subprocess.TimeoutExpired):
                        raise
                    return f"was ended after {self.notify_timeout:g} s"
            _show(told)
        return f"ended with exit code {code}" if code else None

    def _post(self, body: bytes) -> str | None:
        """Posts to the URL; returns why that failed, if it did."""
        failures: list[str | None] = []
        asking = threading.Thread(target=lambda: failures.append(self._ask(body)), daemon=True)
        asking.start()
        # The time-out of `requests` is one for each piece of an answer, and a server may send many.
        seconds = _TRIES * self.notify_timeout + _PAUSES_S
        asking.join(seconds)
        return failures[0] if failures else f"no answer in {seconds:g} s"

    def _ask(self, body: bytes) -> str | None:
        """Posts until that works or cannot; returns why it failed, if it did."""
        import requests
        from requests.adapters import HTTPAdapter
        from urllib3.util import Retry

        headers = {"Content-Type": "application/json", "User-Agent": "bert-tfx"}
        if self.notify_token_file is not None:
            headers["Authorization"] = f"Bearer {self._token(self.notify_token_file)}"
        retries = Retry(
            _TRIES - 1,
            allowed_methods=None,
            status_forcelist=_RETRIED,
            # No pause before the second try, and twice this one before the third.
            backoff_factor=_PAUSES_S / 2,
            respect_retry_after_header=False,
            raise_on_status=False,
        )
        authorities = ssl.get_default_verify_paths()
        # Its warnings name the whole address, which may be a secret.
        logging.getLogger("urllib3").setLevel(logging.ERROR)
        with requests.Session() as session:
            # Else it shows what ~/.netrc has for the host, in place of the token.
            session.auth = lambda request: request
            session.mount("http://", HTTPAdapter(max_retries=retries))
            session.mount("https://", HTTPAdapter(max_retries=retries))
            try:
                answer = session.post(
                    self.notify_url or "",
                    data=body,
                    headers=headers,
                    timeout=self.notify_timeout,
                    verify=authorities.cafile or authorities.capath or True,
                    # It would go on there without the message.
                    allow_redirects=False,
                )
            except requests.RequestException as error:
                cause = error.args[0] if error.args else error
                return f"cannot be reached: {getattr(cause, 'reason', cause)}"
        if answer.status_code < 300:
            return None
        return f"the server answers {answer.status_code} {answer.reason}"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run has ended.

    Attributes:
        code: The exit code.
        run: The run's id.
        task: The task's name.
        pipeline: The name under which the run's records are kept.
        output: The output folder.
        started: When, ISO 8601 in UTC.
        ended: When, ISO 8601 in UTC.
        pushed_version: The version that serves the run's model, or None.
        pushed_now: Whether this run has pushed it; else it stood there already.
        previous_version: The latest version before the run, or None.
        report: The path of the page, or None.
        error: Why the run did not come to its end, or None.
        sentences: What the gates have decided, in words.
        metrics: Figures of the evaluation, by name.
    """

    code: ExitCode
    run: str
    task: str
    pipeline: str
    output: str
    started: str
    ended: str
    pushed_version: str | None = None
    pushed_now: bool = False
    previous_version: str | None = None
    report: str | None = None
    error: str | None = None
    sentences: Sequence[str] = ()
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def message(self) -> dict[str, Any]:
        """Returns what the hooks are told: these fields, and what they make together."""
        fields = dataclasses.asdict(self)
        code = fields.pop("code")
        return {
            "format": FORMAT,
            "status": STATUSES[code],
            "exit_code": int(code),
            **fields,
            "sentences": list(self.sentences),
            "host": socket.gethostname(),
        }


def _show(told: IO[bytes]) -> None:
    """Logs what a command has printed."""
    told.seek(0)
    lines = told.read(1 << 16).decode(errors="replace").splitlines()
    for line in lines[:_MAX_LINES]:
        logger.info("--notify-command: %s", line)
    if len(lines) > _MAX_LINES:
        logger.info("--notify-command: ... %d lines more", len(lines) - _MAX_LINES)
