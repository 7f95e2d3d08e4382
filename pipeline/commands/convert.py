"""`bert-tfx convert`: weights in Hugging Face's format."""

import argparse
import os

from bert_tfx.pipeline.configuration import options
from bert_tfx.pipeline.configuration.pretrained import checkpoint_folder
from bert_tfx.pipeline.process.console import quieten
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.paths import absolute


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declares the command."""
    parser = commands.add_parser(
        "convert",
        help="write a trained model or a checkpoint in Hugging Face's format",
        description="Writes a trained model, or any checkpoint that can be loaded, as config.json, "
        "model.safetensors and vocab.txt, for transformers and all that read its format.",
    )
    parser.set_defaults(command=run)
    options.add_trained_model(
        parser,
        metavar="PATH",
        text="a trained model's folder, or a checkpoint as `bert-tfx train --pretrained` takes it",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="the folder to write")


def run(arguments: argparse.Namespace) -> int:
    """Converts; returns the exit code."""
    folder = absolute(arguments.output)
    if os.path.exists(folder):
        raise InputError(f"{folder}: exists already; --output names a new folder")
    path = checkpoint_folder(arguments.model_path)
    quieten(arguments.verbose)

    from bert_tfx.modeling.checkpoints.files import KERAS, find_checkpoint
    from bert_tfx.modeling.checkpoints.loading import (
        load_classifier,
        load_encoder,
        save_hugging_face,
    )
    from bert_tfx.modeling.export.trained_model import load_trained_model

    found = find_checkpoint(path)
    if found.format == KERAS:
        trained = load_trained_model(path)
        model, labels = trained.classifier, trained.task.labels
        vocab_file, lowercase = trained.vocab_file, trained.lowercase
        what = f"classifier of {trained.task.name}"
    else:
        if found.vocab_file is None:
            raise InputError(f"{path}: there is no vocab.txt beside the weights to go with them")
        labels = found.labels
        model = load_classifier(path, len(labels)) if labels else load_encoder(path)
        vocab_file, lowercase = found.vocab_file, found.lowercase is not False
        what = "classifier" if labels else "encoder"
    try:
        save_hugging_face(model, folder, labels=labels, vocab_file=vocab_file, lowercase=lowercase)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written: {error.strerror}; --output names a new folder"
        ) from error
    print(f"converted the {what}: {folder}")
    return 0
