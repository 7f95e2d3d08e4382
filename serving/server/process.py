"""A model server in a process of its own: TensorFlow Serving where it is installed, else ours."""

import contextlib
import dataclasses
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

from bert_tfx.serving import DEFAULT_MODEL
from bert_tfx.serving.backends import TENSORFLOW, check_model
from bert_tfx.serving.client import Client
from bert_tfx.serving.protocol.errors import DeadlineExceeded, ServerFailed, ServingError

TF_SERVING = "tensorflow_model_server"
LOCAL_SERVER = "bert-tfx serve"

_POLL_SECONDS = 0.05
_STATUS_SECONDS = 5.0
_STOP_SECONDS = 20.0
_LOG_LINES = 5


@dataclasses.dataclass(frozen=True)
class ServerProcess:
    """A server that runs.

    Attributes:
        program: What it is: `TF_SERVING` or `LOCAL_SERVER`.
        target: Its gRPC address.
        process: The process itself.
        seconds: How long it took from the start until the model could be asked.
    """

    program: str
    target: str
    process: subprocess.Popen[bytes]
    seconds: float

    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def peak_memory(self) -> int | None:
        """Returns the most memory it has held (resident bytes); None where nobody keeps count."""
        try:
            with open(f"/proc/{self.process.pid}/status", encoding="ascii") as file:
                lines = dict(line.split(":", 1) for line in file)
        except OSError:
            return None
        return int(lines["VmHWM"].split()[0]) * 1024


def installed_program() -> str:
    """Returns which server `model_server` starts."""
    return TF_SERVING if shutil.which(TF_SERVING) else LOCAL_SERVER


@contextlib.contextmanager
def model_server(
    base_path: str,
    *,
    log_file: str,
    timeout: float = 120.0,
    max_rows: int = 1024,
    program: str | None = None,
    flags: Sequence[str] = (),
) -> Iterator[ServerProcess]:
    """Starts a server on a free port of this machine, and ends it.

    Args:
        base_path: The folder of the numbered versions; the model is called `DEFAULT_MODEL`.
        log_file: Gets what the server writes.
        timeout: Seconds that it has until a version can be asked.
        max_rows: Rows that a request may hold (TensorFlow Serving sets no limit of its own).
        program: `TF_SERVING` or `LOCAL_SERVER`; by default what is installed.
        flags: Further flags of this program.

    Yields:
        The server, once its model can be asked.

    Raises:
        ServingError: If it ends, cannot load the model, or not in time; with what it said last.
    """
    program = program or installed_program()
    port = free_port()
    target = f"127.0.0.1:{port}"
    begun = time.monotonic()
    # Not a pipe: a server that writes more than one holds would stop.
    with open(log_file, "wb") as log:
        process = subprocess.Popen(
            [*_command(program, base_path, port, max_rows), *flags],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait(process, program, target, timeout, log_file)
        yield ServerProcess(program, target, process, time.monotonic() - begun)
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def one_model_server(
    model_path: str, *, version: int = 1, timeout: float = 120.0, backend: str = TENSORFLOW
) -> Iterator[ServerProcess]:
    """Starts a server of one SavedModel alone; as `model_server`.

    Args:
        model_path: Its folder, on this machine.
        version: The number under which it is served.
        timeout: Seconds that it has until it can be asked.
        backend: What runs the model, one of `BACKENDS`. Another one than TensorFlow needs our own
            server.

    Yields:
        The server.

    Raises:
        InputError: If the export has nothing for the backend, or that is not installed.
        ServingError: As `model_server`.
    """
    check_model(model_path, backend)
    ours = None if backend == TENSORFLOW else LOCAL_SERVER
    flags = () if ours is None else ("--backend", backend)
    with tempfile.TemporaryDirectory() as folder:
        base_path = os.path.join(folder, "versions")
        os.mkdir(base_path)
        os.symlink(os.path.abspath(model_path), os.path.join(base_path, str(version)))
        log_file = os.path.join(folder, "server.log")
        with model_server(
            base_path, log_file=log_file, timeout=timeout, program=ours, flags=flags
        ) as server:
            yield server


def _command(program: str, base_path: str, port: int, max_rows: int) -> Sequence[str]:
    if program == TF_SERVING:
        return [
            TF_SERVING,
            f"--port={port}",
            f"--model_name={DEFAULT_MODEL}",
            f"--model_base_path={os.path.abspath(base_path)}",
            # It would try five times, with a minute in between.
            "--max_num_load_retries=0",
        ]
    return [
        *(sys.executable, "-m", "bert_tfx.pipeline.commands.cli", "serve"),
        *("--model", base_path, "--name", DEFAULT_MODEL, "--port", str(port)),
        *("--max-batch-size", str(max_rows)),
    ]


def free_port() -> int:
    """Returns a port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _wait(
    process: subprocess.Popen[bytes], program: str, target: str, timeout: float, log_file: str
) -> None:
    """Returns when a version can be asked.

    Raises:
        ServingError: If that does not come.
    """
    deadline = time.monotonic() + timeout
    with Client(target, timeout=_STATUS_SECONDS) as client:
        while True:
            if (code := process.poll()) is not None:
                raise ServerFailed(
                    f"{program} ended with exit code {code} before it had the model; it said: "
                    f"{_last_lines(log_file)}"
                )
            try:
                statuses = client.model_status()
            except ServingError:
                # It does not listen yet, or has not looked into the folder yet.
                statuses = ()
            if any(status.available for status in statuses):
                return
            if broken := [status for status in statuses if status.state == "END"]:
                raise ServerFailed(
                    f"{program} cannot load the model: {broken[-1].error or _last_lines(log_file)}"
                )
            if time.monotonic() > deadline:
                raise DeadlineExceeded(
                    f"{program} had not loaded the model after {timeout:g} s; it said: "
                    f"{_last_lines(log_file)}"
                )
            time.sleep(_POLL_SECONDS)


def _last_lines(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        lines = [line.strip() for line in file if line.strip()]
    return " | ".join(lines[-_LOG_LINES:]) or "nothing"
