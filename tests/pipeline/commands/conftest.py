"""The commands in this process."""

import logging
import warnings
from collections.abc import Callable
from typing import NamedTuple

import absl.logging
import pytest

from bert_tfx.pipeline.commands import cli


class Done(NamedTuple):
    """A command that has ended."""

    code: int
    stdout: str
    stderr: str

    def check(self, code: int) -> "Done":
        assert self.code == code, f"exit code {self.code}\n{self.stdout}\n{self.stderr}"
        return self


@pytest.fixture
def bert_tfx(capsys, monkeypatch) -> Callable[..., Done]:
    """Runs `bert-tfx ARGUMENTS` in this process, and leaves the process as it was."""
    # What a command sets for its process.
    monkeypatch.setenv("PYTHONWARNINGS", "")
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    verbosity = absl.logging.get_verbosity()
    loggers = [logging.getLogger(name) for name in ("bert_tfx", "tensorflow", "apache_beam")]
    before = [(logger.level, logger.propagate) for logger in loggers]

    def bert_tfx(*arguments: object) -> Done:
        try:
            with warnings.catch_warnings():
                code = cli.main([str(argument) for argument in arguments])
        except SystemExit as error:
            code = error.code
        return Done(code, *capsys.readouterr())

    yield bert_tfx
    absl.logging.set_verbosity(verbosity)
    for logger, (level, propagate) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.propagate = propagate
