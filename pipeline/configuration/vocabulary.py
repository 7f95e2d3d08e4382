"""The vocabulary of a run that names none: learned from the rows to train on."""

import hashlib
import logging
import os
import pathlib
from collections.abc import Iterator

from bert_tfx.modeling.text.vocabulary import learn_vocabulary
from bert_tfx.pipeline.configuration.config import Config
from bert_tfx.schema import files
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.fingerprint import file_fingerprint, source_fingerprint
from bert_tfx.schema.rows import Misfit, falls_into_eval, parse_files
from bert_tfx.schema.tasks import TRAIN

logger = logging.getLogger(__name__)

_SIZE = 8000


def learned_vocabulary(config: Config) -> str:
    """Learns a WordPiece vocabulary from a run's training rows.

    Args:
        config: The run; rows that do not fit its task are passed over here.

    Returns:
        The path of the vocabulary, below the run's output folder. The same rows have the same path,
        and what lies there already is not learned again. With a warm start the first run's rows
        count for all that follow: to another vocabulary its models would not fit.

    Raises:
        InputError: If the training files cannot be read or hold no text.
    """
    paths = config.layout.splits[TRAIN].find(config.data_dir)
    rows = ["warm start"] if config.warm_start else map(file_fingerprint, paths)
    parts = [source_fingerprint(__name__), str(config.lowercase), *rows]
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
    path = pathlib.Path(config.output_dir) / "vocabulary" / key / "vocab.txt"
    if not path.exists():
        logger.info("no --vocab and no checkpoint: learning a vocabulary from the training rows")
        tokens = learn_vocabulary(_texts(config), lowercase=config.lowercase, size=_SIZE)
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, "".join(f"{token}\n" for token in tokens))
        logger.info("%d tokens in %s", len(tokens), path)
    return os.fspath(path)


def _texts(config: Config) -> Iterator[str]:
    """Yields the texts to train on."""
    task, layout = config.task, config.layout
    files = layout.splits[TRAIN]
    empty = True
    misfit = None
    for path, line, features in parse_files(files, task.labels, config.data_dir):
        if isinstance(features, Misfit):
            misfit = misfit or (path, line, features)
            continue
        texts = [bytes(features[name]).decode() for name in task.text_features]
        if not (layout.hash_split and falls_into_eval(texts, config.eval_fraction)):
            empty = False
            yield from texts
    if empty and misfit:
        path, line, (column, reason) = misfit
        raise InputError(
            f"no row to learn from fits task {task.name}. The first:\n"
            f"  {path}, line {line}{', ' * bool(column)}{column}: {reason}\n"
            "Mend the rows, or the task's labels and columns"
        )
    if empty:
        raise InputError(f"{', '.join(files.find(config.data_dir))}: there is no row to learn from")
