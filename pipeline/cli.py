"""The `bert-tfx` command.

Loads nothing heavy before it is needed: help and argument errors answer at once.
"""

import argparse
import logging
import os
import pathlib
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from bert_tfx.pipeline.config import BEAM_RUNNERS, MODELS, OPTIONS, SIZES, load_options, make_config
from bert_tfx.pipeline.output_lock import exclusive
from bert_tfx.schema.errors import InputError
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

EXIT_INPUT_ERROR = 2
EXIT_NOT_BLESSED = 3

# What describes the user's own files on the command line.
_OWN_TASK = (
    *("labels", "columns", "test_columns", "no_header"),
    *(TEXT_A, TEXT_B, LABEL),
    *(TRAIN, EVAL, TEST),
)

_SAMPLE = pathlib.Path(__file__).parent.parent / "sample"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: The arguments; by default the process's.

    Returns:
        The exit code: 0 where all went well, 2 for a mistake in the input, 3 where the model was
        trained but does not reach what it must, so that it was not pushed.
    """
    arguments = _parser().parse_args(argv)
    try:
        return arguments.command(arguments)
    except InputError as error:
        print(f"bert-tfx: {error}", file=sys.stderr)
        return EXIT_INPUT_ERROR
    except KeyboardInterrupt:
        print("\nbert-tfx: stopped; the same command goes on from here", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bert-tfx",
        description="From TSV files to a served BERT classifier, as a TFX pipeline.",
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    run = commands.add_parser(
        "run",
        help="run the pipeline on this machine",
        description="Runs the pipeline on this machine: TSV rows become TFRecords, statistics, "
        "WordPiece ids, a trained model, an evaluation and, where the model is good enough, a "
        "pushed SavedModel. What an earlier run finished is not done again; a run that was stopped "
        "goes on.",
        epilog="Exit codes: 0 all went well; 2 a mistake in the input; 3 the model does not reach "
        "what it must and was not pushed.",
    )
    run.set_defaults(command=_run)
    _add_run_options(run)
    return parser


def _add_run_options(run: argparse.ArgumentParser) -> None:
    run.add_argument("--config", metavar="FILE", help="JSON file of options; flags take precedence")
    run.add_argument(
        "--verbose", action="store_true", help="show the logs of TFX, Beam and TensorFlow, too"
    )
    what = run.add_argument_group("what to learn")
    what.add_argument("--task", metavar="NAME", help=f"{', '.join(TASKS)}, or a name for your own")
    what.add_argument("--data", metavar="DIR", help="folder of the task's TSV files")
    what.add_argument("--output", metavar="DIR", help="folder for all that the run makes")

    own = run.add_argument_group("your own TSV files, as a task")
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

    model = run.add_argument_group("the model")
    model.add_argument("--model", choices=MODELS, help="architecture (default: bert)")
    model.add_argument(
        "--size", choices=SIZES, help="size of new weights (default: mini; of the sample: tiny)"
    )
    model.add_argument("--pretrained", metavar="FILE", help="classifier.keras to start from")
    model.add_argument("--vocab", metavar="FILE", help="WordPiece vocabulary (vocab.txt)")
    model.add_argument(
        "--lowercase",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="whether the vocabulary is uncased (default: yes)",
    )

    recipe = run.add_argument_group("recipe (defaults: the task's)")
    for name, metavar, text in (
        ("max_length", "N", "tokens a row at most, special ones included"),
        ("batch_size", "N", "rows a step"),
        ("epochs", "N", "passes over the rows at most"),
        ("learning_rate", "X", "the highest learning rate"),
        ("warmup_fraction", "X", "share of the steps in which the rate grows"),
        ("weight_decay", "X", "AdamW's weight decay"),
        ("clip_norm", "X", "global norm to which gradients are clipped"),
        ("patience", "N", "epochs without progress after which training stops"),
        ("max_steps", "N", "steps at most"),
        ("seed", "N", "of new weights, dropout and order"),
    ):
        recipe.add_argument(_flag(name), type=OPTIONS[name], metavar=metavar, help=text)

    gates = run.add_argument_group("gates")
    for name, metavar, text in (
        ("max_rejects", "N", "rows that may be left out because they do not fit (default: 0)"),
        ("min_accuracy", "X", "eval accuracy a model must reach (default: the task's)"),
        ("max_regression", "X", "how far it may lie below the last good model (default: 0.01)"),
        ("eval_fraction", "X", "share of rows held out where there is no eval file (default: 0.1)"),
    ):
        gates.add_argument(_flag(name), type=OPTIONS[name], metavar=metavar, help=text)

    gates.add_argument("--slice-by", metavar="A,B", help="extra columns to slice the evaluation by")

    engine = run.add_argument_group("engine")
    engine.add_argument("--beam-runner", choices=BEAM_RUNNERS, help="(default: in_memory)")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _run(arguments: argparse.Namespace) -> int:
    config = make_config(_options(arguments))
    # The task's files are looked at before the frameworks load: a wrong path answers at once.
    config.slice_columns  # noqa: B018
    with exclusive(config.output_dir):
        _quieten(arguments.verbose)

        from bert_tfx.pipeline import local_runner
        from bert_tfx.pipeline.summary import summarize

        summary = summarize(config, local_runner.run(config))
    print(summary.text)
    return 0 if summary.blessed else EXIT_NOT_BLESSED


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Merges the configuration file, the flags and the embedded sample's defaults."""
    given = {name: value for name, value in vars(arguments).items() if value is not None}
    options = load_options(given["config"]) if "config" in given else {}
    options |= {name: given[name] for name in OPTIONS if name in given}
    own = [name for name in _OWN_TASK if name in given]
    if "task_file" in given:
        if clash := [name for name in ("task", *own) if name in given]:
            raise InputError(
                f"--task-file and {_flag(clash[0])}: the file describes the whole task; give one "
                "or the other"
            )
        options["task"] = load_task(given["task_file"])
    elif own:
        options["task"] = _own_task_fields(given, options.get("data"))
    if options.get("task") == "sample":
        options = {"data": str(_SAMPLE), "vocab": str(_SAMPLE / "vocab.txt"), **options}
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
    header = read_first_line(files[0])
    if not header:
        raise InputError(
            f"{files[0]}: its first line is empty, but must name the columns; where it is a row, "
            "give --no-header and --columns"
        )
    return header.decode("utf-8", "replace").split("\t")


def _quieten(verbose: bool) -> None:
    """Leaves the console to our own lines, unless all are wanted."""
    if verbose:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.simplefilter("ignore")
    # For the worker processes of `multi_processing`.
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    from absl import logging as absl_logging

    # TFX's errors only announce an exception, and that one speaks for itself.
    absl_logging.set_verbosity(absl_logging.FATAL)
    for name in ("tensorflow", "apache_beam"):
        logging.getLogger(name).setLevel(logging.ERROR)


if __name__ == "__main__":
    sys.exit(main())
