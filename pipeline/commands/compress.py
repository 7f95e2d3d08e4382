"""`bert-tfx compress`: a trained model made smaller."""

import argparse
import dataclasses
import os
import pathlib
import sys
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bert_tfx.modeling.compression.settings import Compression
from bert_tfx.modeling.export.storages import INT8
from bert_tfx.pipeline.commands.before_after import measure, table
from bert_tfx.pipeline.commands.model_data import data_folder, task_to_ask
from bert_tfx.pipeline.configuration import options
from bert_tfx.pipeline.process.console import Console, logged, quieten
from bert_tfx.schema import files
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.options import declare
from bert_tfx.schema.paths import absolute
from bert_tfx.schema.tasks import EVAL, TRAIN, resolve_layout

if TYPE_CHECKING:
    from bert_tfx.modeling.export.trained_model import TrainedModel


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declares the command."""
    parser = commands.add_parser(
        "compress",
        help="make a trained model smaller and faster",
        description="Takes layers, attention heads, neurons or tokens out of a trained model, or "
        "stores its weights in fewer bits, and shows what that costs and brings. The result is a "
        "trained model like the first: test, export and convert take it. It recovers here "
        "(--recovery-steps N), or by a whole training (train --pretrained DIR).",
    )
    parser.set_defaults(command=run)
    parser.add_argument(
        *("--model", "--save-dir", "--model-path"),
        dest="model_path",
        required=True,
        metavar="DIR",
        help="the trained model: its folder, or the classifier.keras in it",
    )
    parser.add_argument("--verbose", action="store_true", help="show TensorFlow's logs, too")
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="where the smaller model goes"
    )
    rows = parser.add_argument_group("the rows: train's choose what goes, eval's show what it cost")
    options.add_task(rows)
    rows.add_argument(
        "--max-rejects",
        type=int,
        default=0,
        metavar="N",
        help="rows of a split that may be left out as they do not fit (default: 0)",
    )
    what = parser.add_argument_group("what to do, in this order")
    declare(what, Compression)
    what.add_argument(
        "--corpus",
        metavar="FILE",
        help="texts that choose the tokens, one a line, instead of the train rows",
    )
    storage = what.add_mutually_exclusive_group()
    declare(storage, Compression, "storage")
    storage.add_argument(
        "--int8", dest="store", action="store_const", const=INT8, help="the same as --store int8"
    )


def run(arguments: argparse.Namespace) -> int:
    """Compresses; returns the exit code."""
    names = [field.name for field in dataclasses.fields(Compression)]
    given = {n: v for n, v in vars(arguments).items() if n in names and v is not None}
    settings = Compression(**given)
    corpus = _corpus(arguments)
    model_path = absolute(arguments.model_path)
    output = pathlib.Path(arguments.output).expanduser().absolute()
    if output.exists():
        raise InputError(f"{output}: exists already; --output names a new folder")
    data_dir = data_folder(arguments)
    with logged(Console(sys.stdout, indent=0)), tempfile.TemporaryDirectory() as scratch:
        quieten(arguments.verbose)

        from bert_tfx.modeling.compression.chain import compress
        from bert_tfx.modeling.export.trained_model import load_trained_model
        from bert_tfx.schema.labelled_texts import read_split
        from bert_tfx.serving.int8_products import check_products

        if settings.store == INT8:
            # Before anything is trained.
            check_products()
        before = load_trained_model(os.path.expanduser(arguments.model_path))
        task = task_to_ask(arguments, before)
        layout = resolve_layout(task, data_dir)
        train, evaluate = (
            read_split(
                task,
                layout,
                split,
                data_dir,
                eval_fraction=before.eval_fraction,
                max_rejects=arguments.max_rejects,
            )
            for split in (TRAIN, EVAL)
        )
        after = compress(
            before,
            settings,
            train,
            evaluate,
            work_dir=os.path.join(scratch, "work"),
            corpus=_lines(corpus) if corpus else None,
        )
        measured = measure({"before": before, "after": after}, evaluate, scratch)
        *earlier, last = after.training["compressions"]
        if corpus:
            last = {**last, "asked": {**last["asked"], "corpus": corpus}}
        done = {"of": model_path, **last, "measured": measured}
        training = {**after.training, "compressions": [*earlier, done]}
        _save(dataclasses.replace(after, training=training), output)
    print(table(task.name, len(evaluate), measured))
    print(f"model: {output}")
    return 0


def _corpus(arguments: argparse.Namespace) -> str | None:
    if arguments.corpus is None:
        return None
    if not arguments.prune_vocab:
        raise InputError("corpus says how to choose tokens: it goes with prune_vocab")
    corpus = absolute(arguments.corpus)
    if not os.path.isfile(corpus):
        raise InputError(f"{corpus}: no such file; --corpus names a file of texts")
    return corpus


def _lines(path: str) -> Iterator[str]:
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    yield line.decode("utf-8")
                except UnicodeDecodeError as error:
                    raise InputError(f"{path}, line {number}: not UTF-8: {error.reason}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def _save(model: "TrainedModel", output: pathlib.Path) -> None:
    try:
        with files.appearing(output) as partial:
            model.save(partial)
    except OSError as error:
        raise InputError(
            f"{output}: cannot be written: {error.strerror}; --output names a folder"
        ) from error
