"""`bert-tfx train`: fine-tunes a model without a pipeline around it."""

import argparse
import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bert_tfx.modeling.checkpoints.files import MODEL_FILE, find_checkpoint
from bert_tfx.modeling.distillation.settings import Distillation
from bert_tfx.modeling.export.teacher_files import TeacherFiles, find_teacher
from bert_tfx.modeling.training.recipes import Recipe
from bert_tfx.pipeline.configuration import options
from bert_tfx.pipeline.configuration.config import Config, make_config
from bert_tfx.pipeline.process.console import Console, logged, quieten
from bert_tfx.pipeline.process.output_lock import exclusive
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.fingerprint import file_fingerprint
from bert_tfx.schema.options import declare
from bert_tfx.schema.paths import absolute
from bert_tfx.schema.tasks import EVAL, TRAIN

if TYPE_CHECKING:
    from bert_tfx.modeling.export.trained_model import TrainedModel
    from bert_tfx.schema.labelled_texts import LabelledTexts

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Training:
    """A training that is finished.

    Attributes:
        model: The model.
        config: What was asked for.
        teachers: What it learned from.
        evaluate: The eval rows.
        is_chief: Whether this process is the one that writes and tells; of several workers one is.
    """

    model: "TrainedModel"
    config: Config
    teachers: Sequence[TeacherFiles]
    evaluate: "LabelledTexts"
    is_chief: bool

    def told(self) -> str:
        """Returns how good the model is and where it lies, for a person."""
        measured = self.model.training["eval"]
        return (
            f"\n{self.config.task.name}: eval accuracy {measured['eval_accuracy']:.4f}, "
            f"loss {measured['eval_loss']:.4f} (epoch {self.model.training['epoch']})\n"
            f"model: {self.config.output_dir}"
        )


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declares the command."""
    parser = commands.add_parser(
        "train",
        help="fine-tune a model on TSV files, without a pipeline",
        description="Fine-tunes a BERT, DistilBERT or ALBERT classifier on the rows of a task, "
        "with the tokenizer, the model and the loop of the pipeline. A training that was "
        "stopped goes on where it was.",
        epilog="Then: bert-tfx test --save_dir DIR ..., bert-tfx export --model_path DIR ...",
    )
    parser.set_defaults(command=run)
    add_options(parser)


def add_options(parser: argparse.ArgumentParser, *, needs_teacher: bool = False) -> None:
    """Adds all that a training can be told.

    Args:
        parser: Of the command.
        needs_teacher: Whether it must be told a teacher.
    """
    options.add_config(parser)
    what = parser.add_argument_group("what to learn")
    options.add_task(what)
    what.add_argument("--output", "--save-dir", metavar="DIR", help="folder for the trained model")
    what.add_argument(
        "--log-dir", metavar="DIR", help="folder for TensorBoard's logs (default: DIR/logs)"
    )
    declare(what, Config, "rows")
    options.add_own_task(parser)
    options.add_model(parser)
    options.add_distillation(parser, required=needs_teacher)
    options.add_recipe(parser)
    parser.add_argument(
        "--use-token-type",
        action="store_true",
        help="understood for compatibility: pairs always have their segment ids",
    )


def run(arguments: argparse.Namespace) -> int:
    """Trains; returns the exit code."""
    print(train(arguments).told())
    return 0


def train(arguments: argparse.Namespace) -> Training:
    """Trains, and writes the model.

    Args:
        arguments: Of a parser with `add_options`.

    Raises:
        InputError: If what was asked for cannot be. Mistakes that can be told without a framework
            are told before one is loaded.
    """
    distillation = options.distillation(arguments)
    teachers = [find_teacher(path) for path in arguments.teachers or ()]
    given = options.collect(arguments)
    copies = distillation is not None and distillation.student_layers is not None
    for name in ("size", "pretrained"):
        if copies and name in given:
            raise InputError(
                f"--student-layers and --{name}: the student starts as a copy of its teacher's "
                "layers; give one or the other"
            )
    config = make_config({**_of_teacher(teachers, given), **given})
    for files in teachers:
        vocab_file = config.vocab_file or files.vocab_file
        files.check(config.task, vocab_file, lowercase=config.lowercase)
    layout = config.layout
    if os.path.exists(os.path.join(config.output_dir, MODEL_FILE)):
        raise InputError(
            f"{config.output_dir}: holds a trained model already; --save_dir names another folder, "
            "or remove this one first"
        )
    log_dir = os.path.join(config.output_dir, "logs")
    if arguments.log_dir:
        log_dir = absolute(arguments.log_dir)
        try:
            os.makedirs(log_dir, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{log_dir}: cannot be written: {error.strerror}; --log-dir names a folder"
            ) from error
    is_chief = _is_chief(config.recipe)
    # The others of several workers share the chief's folder.
    hold = exclusive(config.output_dir) if is_chief else contextlib.nullcontext()
    with hold, logged(Console(sys.stdout, indent=0)):
        quieten(arguments.verbose)

        from bert_tfx.modeling.training import distribution

        distribution.connect(config.recipe)

        from bert_tfx.modeling.text.features import TextTransform
        from bert_tfx.modeling.text.text_rows import rows_of_texts
        from bert_tfx.modeling.text.tokenization import WordPieceTokenizer
        from bert_tfx.modeling.training_run import TrainingRun
        from bert_tfx.pipeline.configuration.vocabulary import learned_vocabulary
        from bert_tfx.schema.labelled_texts import read_split

        if layout.hash_split:
            logger.info(
                "no file to evaluate on: a share of %g of all texts is held out, by their hash",
                config.eval_fraction,
            )
        vocab_file = config.vocab_file or learned_vocabulary(config)
        transform = TextTransform(
            WordPieceTokenizer(vocab_file, lowercase=config.lowercase),
            max_length=config.recipe.max_length,
        )
        rows = {}
        for split in (TRAIN, EVAL):
            read = read_split(
                config.task,
                layout,
                split,
                config.data_dir,
                eval_fraction=config.eval_fraction,
                max_rejects=config.max_rejects,
            )
            rows[split] = rows_of_texts(transform, read.texts, read.labels or [])
        key = _state_key(config, vocab_file, distillation, teachers, given.get("model"))
        trained = TrainingRun(
            task=config.task,
            recipe=config.recipe,
            model=given.get("model") if copies else config.model,
            size=config.size,
            pretrained=config.pretrained,
            vocab_file=vocab_file,
            lowercase=config.lowercase,
            eval_fraction=config.eval_fraction,
            teachers=tuple(files.path for files in teachers),
            distillation=distillation,
        ).train(
            rows[TRAIN],
            rows[EVAL],
            model_dir=config.output_dir,
            log_dir=log_dir,
            state_dir=os.path.join(config.state_dir, key),
        )
        if is_chief:
            shutil.rmtree(config.state_dir, ignore_errors=True)
    # Eval's rows were read last; train's texts were let go of before the training.
    return Training(trained, config, teachers, evaluate=read, is_chief=is_chief)


def _of_teacher(teachers: Sequence[TeacherFiles], given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options that a student has from its teacher, where no checkpoint says them."""
    if not teachers or "pretrained" in given:
        return {}
    return {"vocab": teachers[0].vocab_file, "lowercase": teachers[0].lowercase}


def _is_chief(recipe: Recipe) -> bool:
    """Returns whether this process is the worker that writes; a wrong TF_CONFIG is told later."""
    if recipe.distribution != "multi_worker":
        return True
    try:
        workers = json.loads(os.environ.get("TF_CONFIG", ""))
        chief = ("chief" if "chief" in workers["cluster"] else "worker", 0)
        return (workers["task"]["type"], workers["task"]["index"]) == chief
    except (ValueError, KeyError, TypeError):
        return True


def _state_key(
    config: Config,
    vocab_file: str,
    distillation: Distillation | None,
    teachers: Sequence[TeacherFiles],
    model: str | None,
) -> str:
    """Names a training by all that its result depends on."""
    paths = [
        path
        for split in (TRAIN, EVAL)
        if split in config.layout.splits
        for path in config.layout.splits[split].find(config.data_dir)
    ]
    if config.pretrained:
        paths += find_checkpoint(config.pretrained).files
    parts: list[Any] = [
        config.task.to_json(),
        dataclasses.asdict(config.recipe),
        [config.model, config.size, config.lowercase, config.eval_fraction, config.max_rejects],
        file_fingerprint(vocab_file, *paths),
    ]
    if distillation is not None:
        files = [path for teacher in teachers for path in teacher.files]
        parts += [dataclasses.asdict(distillation), file_fingerprint(*files), model]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
