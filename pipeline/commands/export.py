"""`bert-tfx export`: a trained model as a SavedModel for TF Serving."""

import argparse
import os
import pathlib

from bert_tfx.pipeline.configuration import options
from bert_tfx.pipeline.process.console import quieten
from bert_tfx.schema import files
from bert_tfx.schema.errors import InputError


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declares the command."""
    parser = commands.add_parser(
        "export",
        help="write a trained model for TF Serving",
        description="Writes a trained model as a SavedModel that TF Serving loads: text in, label "
        "and probabilities out, with the signatures of the pipeline's models.",
    )
    parser.set_defaults(command=run)
    options.add_trained_model(parser)
    parser.add_argument(
        "--export-model-dir",
        required=True,
        metavar="DIR",
        help="the folder that TF Serving watches (--model_base_path)",
    )
    parser.add_argument(
        "--model-version",
        type=int,
        default=1,
        metavar="N",
        help="the model goes to DIR/N (default: 1)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Exports; returns the exit code."""
    if arguments.model_version < 1:
        raise InputError(f"--model_version must be at least 1. Received: {arguments.model_version}")
    folder = pathlib.Path(arguments.export_model_dir).expanduser().absolute()
    model_path = os.path.expanduser(arguments.model_path)
    target = folder / str(arguments.model_version)
    if target.exists():
        raise InputError(f"{target}: exists already; --model_version names another version")
    quieten(arguments.verbose)

    from bert_tfx.modeling.export.saved_model import save_for_serving
    from bert_tfx.modeling.export.trained_model import load_trained_model

    model = load_trained_model(model_path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written: {error.strerror}; --export_model_dir names a folder"
        ) from error
    # A model server takes what has a number for a name as soon as it sees it: it must be whole.
    with files.appearing(target) as partial:
        save_for_serving(model, partial)
    print(f"exported: {target}")
    return 0
