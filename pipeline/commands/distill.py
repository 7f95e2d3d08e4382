"""`bert-tfx distill`: a small model that learns from a larger one, and the two side by side."""

import argparse
import sys
import tempfile
from typing import TYPE_CHECKING

from bert_tfx.pipeline.commands import train
from bert_tfx.pipeline.commands.before_after import measure, table
from bert_tfx.pipeline.process.console import Console, logged

if TYPE_CHECKING:
    from bert_tfx.modeling.export.trained_model import TrainedModel


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declares the command."""
    parser = commands.add_parser(
        "distill",
        help="train a smaller model by a larger one's answers",
        description="Trains a student as `train --teacher` does, by the labels of a task's rows "
        "and by what a trained model answers to them, and shows what it has become beside its "
        "teacher: size, accuracy, answers, times. The student starts as a copy of some of the "
        "teacher's layers (--student-layers N), from a checkpoint (--pretrained), or from new "
        "weights (--model, --size).",
        epilog="Then: bert-tfx test --save_dir DIR ..., bert-tfx export --model_path DIR ..., "
        "bert-tfx compress --model DIR ...",
    )
    parser.set_defaults(command=run)
    train.add_options(parser, needs_teacher=True)


def run(arguments: argparse.Namespace) -> int:
    """Trains the student and measures both; returns the exit code."""
    training = train.train(arguments)
    print(training.told())
    if not training.is_chief:
        return 0
    with logged(Console(sys.stdout, indent=0)), tempfile.TemporaryDirectory() as scratch:
        models = {"the teacher": _teacher(training), "the student": training.model}
        measured = measure(models, training.evaluate, scratch)
    print(table(training.config.task.name, len(training.evaluate), measured))
    return 0


def _teacher(training: train.Training) -> "TrainedModel":
    """Reads the first teacher whole: its rows and its export need more than its classifier."""
    from bert_tfx.modeling.export.saved_model import load_exported_model
    from bert_tfx.modeling.export.trained_model import load_trained_model

    files, config = training.teachers[0], training.config
    if files.is_exported:
        return load_exported_model(files.path, config.task, config.eval_fraction)
    return load_trained_model(files.path)
