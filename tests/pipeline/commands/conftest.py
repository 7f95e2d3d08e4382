"""A toy model to ask, and the commands in this process."""

import logging
import warnings
from collections.abc import Callable
from typing import NamedTuple

import absl.logging
import keras
import pytest

from bert_tfx.modeling.bert import BertEncoder
from bert_tfx.modeling.classifier import TextClassifier
from bert_tfx.modeling.trained_model import TrainedModel
from bert_tfx.pipeline import cli
from bert_tfx.schema.tasks import TASKS


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


@pytest.fixture(scope="session")
def toy_dir(tmp_path_factory, vocab_file) -> str:
    """A model of sst2, untrained and small, as `bert-tfx train` writes it."""
    keras.utils.set_random_seed(1)
    encoder = BertEncoder(
        vocab_size=len(vocab_file.read_text(encoding="utf-8").splitlines()),
        num_layers=2,
        hidden_dim=16,
        num_heads=2,
        intermediate_dim=32,
        initializer_range=0.5,
        max_length=16,
    )
    folder = tmp_path_factory.mktemp("toy") / "model"
    TrainedModel(
        classifier=TextClassifier(encoder, 2),
        task=TASKS["sst2"],
        vocab_file=str(vocab_file),
        lowercase=True,
        max_length=16,
        eval_fraction=0.1,
        training={},
    ).save(str(folder))
    return str(folder)
