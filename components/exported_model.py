"""What an exported model says of itself, in `assets.extra/bert_tfx.json`."""

import dataclasses
import json
import os

from tfx import types
from tfx.types import artifact_utils
from tfx.utils import path_utils

from bert_tfx.components.model_pusher.version_folder import ABOUT_FILE
from bert_tfx.schema.errors import InputError


@dataclasses.dataclass(frozen=True)
class ExportedModel:
    """A SavedModel made by this package.

    Attributes:
        path: Its folder.
        labels: The label of each class.
        text_features: The features that it reads.
        seed_accuracies: Eval accuracy of the model of each seed that was trained, its own included;
            none of a model that was compressed.
        storage: What its matrices are held in, such as `float32` or `int8`.
    """

    path: str
    labels: list[str]
    text_features: list[str]
    seed_accuracies: list[float]
    storage: str


def read_exported_model(path: str) -> ExportedModel:
    """Reads what a SavedModel says of itself.

    Args:
        path: Its folder.

    Raises:
        InputError: If it does not.
    """
    about_file = os.path.join(path, ABOUT_FILE)
    try:
        with open(about_file, encoding="utf-8") as file:
            about = json.load(file)
        training = about["training"]
        # Those of the model before a compression tell nothing of this one.
        accuracies = [] if "compressions" in training else training.get("seed_accuracies", [])
        # Exports of before there was a choice do not say it.
        storage = about.get("storage", "float32")
        return ExportedModel(path, about["labels"], about["text_features"], accuracies, storage)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{about_file}: cannot be read, so {path} is no model that this package has exported"
        ) from error


def exported_model(artifacts: list[types.Artifact]) -> ExportedModel:
    """Returns the one model of a component's input.

    Args:
        artifacts: The input.
    """
    model = artifact_utils.get_single_instance(artifacts)
    return read_exported_model(str(path_utils.serving_model_path(model.uri)))
