"""What a command shows while it works."""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from typing import TextIO

from bert_tfx.pipeline.process.quiet_import import filtered, quieten_import


class Console(logging.Handler):
    """Shows which component runs, and the lines that our own modules log meanwhile."""

    def __init__(self, stream: TextIO, *, indent: int = 8) -> None:
        """Writes to `stream`, log lines with an indent."""
        super().__init__()
        self._stream = stream
        self._indent = " " * indent
        self._line_open = False

    def begin(self, text: str) -> None:
        """Opens a line."""
        self._stream.write(f"{text} ... ")
        self._stream.flush()
        self._line_open = True

    def end(self, text: str) -> None:
        """Closes the line, or adds one of its own where others came between."""
        self._stream.write(text + "\n" if self._line_open else f"{self._indent}{text}\n")
        self._stream.flush()
        self._line_open = False

    def tell(self, text: str) -> None:
        """Writes a line of its own."""
        self._stream.write(f"{text}\n")
        self._stream.flush()

    def emit(self, record: logging.LogRecord) -> None:
        """Shows a log line under the component's."""
        line_end = "\n" if self._line_open else ""
        self._stream.write(f"{line_end}{self._indent}{self.format(record)}\n")
        self._stream.flush()
        self._line_open = False


@contextlib.contextmanager
def logged(console: Console) -> Iterator[None]:
    """Shows what our own modules log, for as long as the context lasts."""
    logger = logging.getLogger("bert_tfx")
    before = logger.level, logger.propagate
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(console)
    try:
        yield
    finally:
        logger.removeHandler(console)
        logger.level, logger.propagate = before


def quieten(verbose: bool) -> None:
    """Leaves the console to our own lines, unless all are wanted.

    Call it before TensorFlow is imported.
    """
    if verbose:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    quieten_import()
    warnings.simplefilter("ignore")
    # For the worker processes of `multi_processing`.
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    from absl import logging as absl_logging

    # TFX's errors only announce an exception, and that one speaks for itself.
    absl_logging.set_verbosity(absl_logging.FATAL)
    for name in ("tensorflow", "apache_beam"):
        logging.getLogger(name).setLevel(logging.ERROR)


@contextlib.contextmanager
def quiet_workers(own_processes: bool, verbose: bool) -> Iterator[None]:
    """Keeps the console from Beam's worker processes, too, for as long as the context lasts.

    They write where the command writes, and import TensorFlow themselves.

    Args:
        own_processes: Whether the workers are processes of the command's own. Those of other
            engines have a log of their own.
        verbose: Whether all lines are wanted.
    """
    with contextlib.ExitStack() as stack:
        if own_processes and not verbose:
            stack.enter_context(filtered())
        yield
