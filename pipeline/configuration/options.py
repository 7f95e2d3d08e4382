"""The options that commands share, and what they mean together."""

import argparse
import dataclasses
import os
import pathlib
from typing import Any

from bert_tfx.modeling.distillation.settings import Distillation
from bert_tfx.modeling.training.recipes import RECIPES, Recipe
from bert_tfx.pipeline.configuration.config import OPTIONS, Config, load_options
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.options import declare
from bert_tfx.schema.tasks import (
    EVAL,
    LABEL,
    TASKS,
    TEST,
    TEXT_A,
    TEXT_B,
    TRAIN,
    TsvFiles,
    load_task,
    read_first_line,
)

# What describes the user's own files on the command line.
_OWN_TASK = (
    *("labels", "columns", "test_columns", "no_header"),
    *(TEXT_A, TEXT_B, LABEL),
    *(TRAIN, EVAL, TEST),
)

SAMPLE = pathlib.Path(__file__).parents[2] / "sample"
"""The embedded sample's folder."""


def add_config(parser: argparse.ArgumentParser) -> None:
    """Adds the options that are no options of the configuration."""
    parser.add_argument(
        "--config", metavar="FILE", help="JSON file of options; flags take precedence"
    )
    parser.add_argument(
        "--verbose", action="store_true", help="show the logs of TFX, Beam and TensorFlow, too"
    )


def add_trained_model(
    parser: argparse.ArgumentParser,
    *,
    metavar: str = "DIR",
    text: str = "the trained model: its folder, or the classifier.keras in it",
) -> None:
    """Adds the option that names a model that was trained, and the one for more logs."""
    parser.add_argument(
        "--save-dir", "--model-path", dest="model_path", required=True, metavar=metavar, help=text
    )
    parser.add_argument("--verbose", action="store_true", help="show TensorFlow's logs, too")


def add_task(group: argparse._ArgumentGroup) -> None:
    """Adds the options that name a task and its files."""
    group.add_argument(
        "--task", "--task-name", metavar="NAME", help=f"{', '.join(TASKS)}, or a name for your own"
    )
    group.add_argument("--data", "--data-dir", metavar="DIR", help="folder of the task's TSV files")


def add_own_task(parser: argparse.ArgumentParser) -> None:
    """Adds the options that make a user's own files a task."""
    own = parser.add_argument_group("your own TSV files, as a task")
    own.add_argument("--task-file", metavar="FILE", help="JSON file of the values below")
    own.add_argument("--labels", metavar="A,B", help="the labels as they stand in the files")
    own.add_argument("--columns", metavar="A,B", help="what the columns hold, in order")
    own.add_argument(
        "--no-header", action="store_true", default=None, help="the first line is a row"
    )
    for feature, what_it_is in (
        ("text_a", "the text"),
        ("text_b", "the second text of pairs"),
        ("label", "the label"),
    ):
        own.add_argument(
            f"--{feature.replace('_', '-')}",
            metavar="COLUMN",
            help=f"column that holds {what_it_is}, where it is not called {feature}",
        )
    own.add_argument("--train", metavar="PATTERN", help="files to learn from, relative to --data")
    own.add_argument(
        "--eval", metavar="PATTERN", help="files to evaluate on; else some rows are held out"
    )
    own.add_argument("--test-columns", metavar="A,B", help="its columns, where they are others")
    own.add_argument("--test", metavar="PATTERN", help="further files, ingested and checked only")
    declare(own, Config, "spans")


def add_model(parser: argparse.ArgumentParser) -> None:
    """Adds the options that name the model to train."""
    model = parser.add_argument_group("the model")
    declare(model, Config, "model")
    model.add_argument(
        "--pretrained-sha256", metavar="HEX", help="what the archive's checksum must be"
    )


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Adds the hyper-parameters."""
    recipe = parser.add_argument_group("recipe (defaults: the task's)")
    recipe.add_argument(
        "--recipe", metavar="NAME", help=f"the defaults of another one: {', '.join(RECIPES)}"
    )
    declare(recipe, Recipe)
    recipe.add_argument(
        "--use-fp16",
        dest="precision",
        action="store_const",
        const="mixed_float16",
        help="the same as --precision mixed_float16",
    )


def add_distillation(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    """Adds the options of a student that learns from larger models.

    Args:
        parser: Of the command.
        required: Whether there must be one to learn from.
    """
    group = parser.add_argument_group("learning from larger models (distillation)")
    group.add_argument(
        "--teacher",
        action="append",
        dest="teachers",
        required=required,
        metavar="DIR",
        help="trained or exported model of the same labels and vocabulary to learn from; given "
        "several times, the mean of their answers is learned, and from the first what lies inside",
    )
    declare(group, Distillation)


def distillation(arguments: argparse.Namespace) -> Distillation | None:
    """Returns how to learn from the teachers that were named, or None.

    Raises:
        InputError: If a value is out of range, or there is no teacher.
    """
    names = [field.name for field in dataclasses.fields(Distillation)]
    given = {n: getattr(arguments, n) for n in names if getattr(arguments, n) is not None}
    if arguments.teachers:
        return Distillation(**given)
    if given:
        flag = next(iter(given)).replace("_", "-")
        raise InputError(f"--{flag}: there is no --teacher to learn from")
    return None


def collect(arguments: argparse.Namespace) -> dict[str, Any]:
    """Merges the configuration file, the flags and the embedded sample's defaults.

    Args:
        arguments: What was parsed.

    Returns:
        Options as `make_config` takes them.

    Raises:
        InputError: If options contradict each other or describe no task.
    """
    return with_sample(named(arguments))


def named(arguments: argparse.Namespace) -> dict[str, Any]:
    """Merges the configuration file and the flags.

    Args:
        arguments: What was parsed.

    Returns:
        Options as `make_config` takes them.

    Raises:
        InputError: If options contradict each other or describe no task.
    """
    given = {name: value for name, value in vars(arguments).items() if value is not None}
    options = load_options(given["config"]) if "config" in given else {}
    options |= {name: given[name] for name in OPTIONS if name in given}
    own = [name for name in _OWN_TASK if name in given]
    if "task_file" in given:
        if clash := [name for name in ("task", *own) if name in given]:
            raise InputError(
                f"--task-file and --{clash[0].replace('_', '-')}: the file describes the whole "
                "task; give one or the other"
            )
        options["task"] = load_task(given["task_file"])
    elif own:
        options["task"] = _own_task_fields(given, options.get("data"))
    return options


def with_sample(options: dict[str, Any]) -> dict[str, Any]:
    """Returns the options of a configuration, for the task `sample` with the embedded files."""
    if options.get("task") == "sample":
        options = {"data": str(SAMPLE), **options}
        if "pretrained" not in options:
            options = {"vocab": str(SAMPLE / "vocab.txt"), **options}
    return options


def _own_task_fields(given: dict[str, Any], data: str | None) -> dict[str, Any]:
    """Collects the flags that describe the user's own files."""
    missing = [name for name in ("task", "labels", "train") if name not in given]
    if missing:
        raise InputError(
            f"--{missing[0]} is missing: your own task needs --task, --labels, --train"
        )
    fields = {
        "name": given["task"],
        "labels": given["labels"].split(","),
        "train": given["train"],
        "header": "no_header" not in given,
    }
    fields |= {n: given[n] for n in ("text_a", "text_b", "label", "eval", "test") if n in given}
    if "test_columns" in given:
        fields["test_columns"] = given["test_columns"].split(",")
    if "columns" in given:
        fields["columns"] = given["columns"].split(",")
    elif "no_header" in given:
        raise InputError(
            "--columns is missing: without a header line only you can name the columns"
        )
    else:
        fields["columns"] = _columns_in_header(given["train"], data)
    return fields


def _columns_in_header(pattern: str, data: str | None) -> list[str]:
    """Reads what the first of the files to learn from calls its columns."""
    if data is None:
        raise InputError("--data is missing: it names the folder of your TSV files")
    folder = os.path.expanduser(data)
    if not os.path.isdir(folder):
        raise InputError(f"{data}: no such folder; --data names the folder of your TSV files")
    files = TsvFiles(pattern, (), None).find(folder)
    if not files:
        raise InputError(f"{data}: no file fits --train {pattern!r}")
    # Of files that arrive over time the newest are read, and older ones may have had another.
    last = files[-1]
    header = read_first_line(last)
    if not header:
        raise InputError(
            f"{last}: its first line is empty, but must name the columns; where it is a row, "
            "give --no-header and --columns"
        )
    return header.decode("utf-8", "replace").split("\t")
