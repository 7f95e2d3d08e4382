"""Recognising a teacher: what it answers, of which tokens.

Plain Python, so that the command line can refuse a wrong teacher without loading a framework.
`bert_tfx.modeling.distillation.learner` reads the weights.
"""

import dataclasses
import json
import os
from typing import Any

from bert_tfx.modeling.checkpoints.files import CLASSIFIER_FILE, MODEL_FILE, VOCAB_FILE
from bert_tfx.schema.digests import sha256_of
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.paths import absolute
from bert_tfx.schema.tasks import Task

NO_TEACHER = (
    "distill: there is no teacher, as no model of this lineage was good enough yet: run without "
    "distill first, or let the run train a teacher"
)
"""What is wrong where a pipeline's teacher is an earlier model and there is none."""

_EXPORTED_FILE = os.path.join("assets.extra", "bert_tfx.json")


@dataclasses.dataclass(frozen=True)
class TeacherFiles:
    """A model to learn from.

    Attributes:
        path: Its folder.
        is_exported: Whether that is a SavedModel, else what `TrainedModel.save` wrote.
        labels: Its labels, by class index.
        text_features: `("text_a",)` or `("text_a", "text_b")`.
        lowercase: Whether its vocabulary is uncased.
        vocab_file: The vocabulary.
        vocabulary_sha256: Of the vocabulary's file.
    """

    path: str
    is_exported: bool
    labels: tuple[str, ...]
    text_features: tuple[str, ...]
    lowercase: bool
    vocab_file: str
    vocabulary_sha256: str

    @property
    def files(self) -> tuple[str, ...]:
        """The files that tell this teacher from others."""
        names = (_EXPORTED_FILE,) if self.is_exported else (CLASSIFIER_FILE, VOCAB_FILE, MODEL_FILE)
        return tuple(os.path.join(self.path, name) for name in names)

    def check(self, task: Task, vocab_file: str, *, lowercase: bool) -> None:
        """Raises where a student could not learn from this teacher.

        Args:
            task: The student's.
            vocab_file: The student's vocabulary.
            lowercase: Whether that is uncased.

        Raises:
            InputError: If labels, texts, vocabulary or casing differ.
        """
        if self.labels != tuple(task.labels):
            raise InputError(
                f"{self.path}: this teacher answers {_listed(self.labels)}, and {task.name} has "
                f"the labels {_listed(task.labels)}: a teacher has the same, in the same order"
            )
        if self.text_features != task.text_features:
            kinds = ("single texts", "pairs of texts")
            raise InputError(
                f"{self.path}: this teacher reads {kinds[len(self.text_features) - 1]}, and "
                f"{task.name} has {kinds[task.is_pair]}"
            )
        if self.vocabulary_sha256 != sha256_of(vocab_file):
            raise InputError(
                f"{self.path}: this teacher has another vocabulary than {vocab_file}, so its ids "
                "mean other tokens: a student reads with its teacher's vocabulary"
            )
        if self.lowercase != lowercase:
            raise InputError(
                f"{self.path}: this teacher is {'un' if self.lowercase else ''}cased and the "
                f"student {'un' if lowercase else ''}cased: leave --lowercase out"
            )


def find_teacher(path: str) -> TeacherFiles:
    """Finds out about a teacher.

    Args:
        path: A folder that `bert-tfx train` wrote, or an exported SavedModel.

    Raises:
        InputError: If it is neither, or what it says of itself is malformed.
    """
    folder = absolute(path)
    if not os.path.isdir(folder):
        raise InputError(f"{folder}: no such folder; --teacher names a trained model")
    exported = os.path.join(folder, _EXPORTED_FILE)
    if os.path.isfile(exported):
        return _exported(folder, exported)
    for name in (CLASSIFIER_FILE, VOCAB_FILE, MODEL_FILE):
        if not os.path.isfile(os.path.join(folder, name)):
            raise InputError(
                f"{folder}: there is no {name}; a teacher is a folder with {CLASSIFIER_FILE}, "
                f"{VOCAB_FILE} and {MODEL_FILE}, as `bert-tfx train` writes it, or a SavedModel "
                f"with {_EXPORTED_FILE}, as a pipeline or `bert-tfx export` does"
            )
    about_file = os.path.join(folder, MODEL_FILE)
    try:
        about = _read(about_file)
        task = Task.from_json(json.dumps(about["task"]))
        lowercase = bool(about["lowercase"])
    except (ValueError, KeyError, TypeError, AttributeError, InputError) as error:
        raise InputError(f"{about_file}: does not describe a model: {error!r}") from error
    vocab_file = os.path.join(folder, VOCAB_FILE)
    return TeacherFiles(
        path=folder,
        is_exported=False,
        labels=tuple(task.labels),
        text_features=task.text_features,
        lowercase=lowercase,
        vocab_file=vocab_file,
        vocabulary_sha256=sha256_of(vocab_file),
    )


def _exported(folder: str, about_file: str) -> TeacherFiles:
    try:
        about = _read(about_file)
        sha256 = about["sha256"]["vocabulary"]
        labels, text_features = tuple(about["labels"]), tuple(about["text_features"])
        lowercase = bool(about["lowercase"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{about_file}: does not describe a model: {error!r}; export the model anew"
        ) from error
    assets = os.path.join(folder, "assets")
    names = sorted(os.listdir(assets)) if os.path.isdir(assets) else []
    paths = [os.path.join(assets, name) for name in names]
    vocab_file = next((path for path in paths if sha256_of(path) == sha256), None)
    if vocab_file is None:
        raise InputError(f"{assets}: the vocabulary that {about_file} tells of is not there")
    return TeacherFiles(
        path=folder,
        is_exported=True,
        labels=labels,
        text_features=text_features,
        lowercase=lowercase,
        vocab_file=vocab_file,
        vocabulary_sha256=sha256,
    )


def _read(path: str) -> Any:
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def _listed(labels: tuple[str, ...]) -> str:
    return ", ".join(repr(label) for label in labels)
