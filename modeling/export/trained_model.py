"""A trained classifier on disk, with all that it takes to ask it.

A folder that holds `classifier.keras`, its `vocab.txt`, and `model.json`: the task it answers, the
casing, the longest row, how it was trained. Both the pipeline's Trainer and `bert-tfx train` write
it; `test`, `export` and `convert` read it, and so does a further training as its checkpoint.
"""

import dataclasses
import importlib.metadata
import json
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

from bert_tfx.modeling.checkpoints.files import CLASSIFIER_FILE, MODEL_FILE, VOCAB_FILE
from bert_tfx.modeling.checkpoints.loading import load_saved_classifier
from bert_tfx.modeling.encoders.classifier import TextClassifier
from bert_tfx.modeling.export.storages import FLOAT32, STORAGES
from bert_tfx.modeling.text.features import TextTransform
from bert_tfx.modeling.text.tokenization import WordPieceTokenizer
from bert_tfx.modeling.text.vocab_file import read_vocabulary
from bert_tfx.schema import files
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.tasks import Task

_LIBRARIES = ("bert-tfx", "keras", "tensorflow", "tensorflow-text")


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A classifier and what it answers.

    Attributes:
        classifier: The classifier.
        task: What its rows and labels mean.
        vocab_file: Its vocabulary.
        lowercase: Whether that is uncased.
        max_length: Tokens a row at most, special ones included, as it was trained.
        eval_fraction: Share of the rows that was held out, where there was no eval file.
        training: How it was trained: recipe, checkpoint, metrics. For people, not for programs.
        storage: What an export holds its matrices in, one of `STORAGES`.
    """

    classifier: TextClassifier
    task: Task
    vocab_file: str
    lowercase: bool
    max_length: int
    eval_fraction: float
    training: Mapping[str, Any]
    storage: str = FLOAT32

    def transform(self) -> TextTransform:
        """Returns what makes its features of texts."""
        tokenizer = WordPieceTokenizer(self.vocab_file, lowercase=self.lowercase)
        return TextTransform(tokenizer, max_length=self.max_length)

    def save(self, folder: str) -> None:
        """Writes the model.

        Args:
            folder: Where; it may exist. `model.json` comes last, and by a rename: where it lies,
                the rest is whole.
        """
        os.makedirs(folder, exist_ok=True)
        about = os.path.join(folder, MODEL_FILE)
        if os.path.exists(about):
            os.remove(about)
        self.classifier.save(os.path.join(folder, CLASSIFIER_FILE))
        vocab_file = os.path.join(folder, VOCAB_FILE)
        if not (os.path.exists(vocab_file) and os.path.samefile(vocab_file, self.vocab_file)):
            shutil.copyfile(self.vocab_file, vocab_file)
        content = {
            "task": json.loads(self.task.to_json()),
            "lowercase": self.lowercase,
            "max_length": self.max_length,
            "eval_fraction": self.eval_fraction,
            "training": dict(self.training),
            "storage": self.storage,
            "versions": library_versions(),
        }
        files.write(about, json.dumps(content, ensure_ascii=False, indent=1))


def library_versions() -> dict[str, str]:
    """Returns the versions of what decides a model's answers."""
    return {name: importlib.metadata.version(name) for name in _LIBRARIES}


def load_trained_model(path: str) -> TrainedModel:
    """Reads a model that `TrainedModel.save` wrote.

    Args:
        path: The folder, or the `classifier.keras` in it.

    Returns:
        The model.

    Raises:
        InputError: If it is not there, or a file of it is missing or malformed.
    """
    folder = pathlib.Path(path)
    if folder.name == CLASSIFIER_FILE:
        folder = folder.parent
    if not folder.is_dir():
        raise InputError(
            f"{path}: no such model; expected a folder with {CLASSIFIER_FILE}, {VOCAB_FILE} and "
            f"{MODEL_FILE}, as `bert-tfx train` writes it"
        )
    for name in (CLASSIFIER_FILE, VOCAB_FILE, MODEL_FILE):
        if not (folder / name).is_file():
            raise InputError(
                f"{folder / name}: missing; a trained model has {CLASSIFIER_FILE}, {VOCAB_FILE} "
                f"and {MODEL_FILE}. An unfinished training is finished by the command that began it"
            )
    about = folder / MODEL_FILE
    try:
        content = json.loads(about.read_text(encoding="utf-8"))
        task = Task.from_json(json.dumps(content["task"]))
        lowercase, max_length = content["lowercase"], content["max_length"]
        eval_fraction, training = content["eval_fraction"], content["training"]
        kinds = (type(lowercase), type(max_length), type(eval_fraction), type(training))
        if kinds != (bool, int, float, dict):
            raise TypeError(f"lowercase, max_length, eval_fraction or training is none of {kinds}")
        # Models of before there was a choice do not say it.
        storage = content.get("storage", FLOAT32)
        if storage not in STORAGES:
            raise ValueError(f"storage is none of {STORAGES}: {storage!r}")
    except (ValueError, KeyError, TypeError, AttributeError, InputError) as error:
        raise InputError(f"{about}: does not describe a model: {error!r}") from error
    vocab_file = os.fspath(folder / VOCAB_FILE)
    tokens = len(read_vocabulary(vocab_file))
    classifier = load_saved_classifier(os.fspath(folder / CLASSIFIER_FILE))
    if classifier.num_labels != len(task.labels):
        raise InputError(
            f"{folder}: {CLASSIFIER_FILE} answers {classifier.num_labels} labels, {MODEL_FILE} "
            f"names {len(task.labels)}: take both from one training"
        )
    config = classifier.encoder.config
    if tokens > config.vocab_size or max_length > config.max_length:
        raise InputError(
            f"{folder}: {CLASSIFIER_FILE} has embeddings for {config.vocab_size:,} tokens and "
            f"{config.max_length} positions; {VOCAB_FILE} holds {tokens:,} tokens, and "
            f"{MODEL_FILE} says rows of up to {max_length} tokens: take all three from one training"
        )
    return TrainedModel(
        classifier=classifier,
        task=task,
        vocab_file=vocab_file,
        lowercase=lowercase,
        max_length=max_length,
        eval_fraction=eval_fraction,
        training=training,
        storage=storage,
    )
