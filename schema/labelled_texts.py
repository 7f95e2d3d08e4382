"""The rows of one split, read from TSV files into memory, for training without a pipeline."""

import dataclasses
import logging

from bert_tfx.schema.errors import InputError
from bert_tfx.schema.rows import Misfit, falls_into_eval, parse_files
from bert_tfx.schema.tasks import EVAL, LABEL, TRAIN, Layout, Task

logger = logging.getLogger(__name__)

# So many rows that do not fit are named in a message.
_NAMED = 5


@dataclasses.dataclass(frozen=True)
class LabelledTexts:
    """Rows of text.

    Attributes:
        texts: For `text_a` and, for pairs, `text_b`: UTF-8, one for each row.
        labels: Class index of each row, or None where the files have no labels.
    """

    texts: dict[str, list[bytes]]
    labels: list[int] | None

    def __len__(self) -> int:
        """Returns the number of rows."""
        return len(next(iter(self.texts.values())))


def read_split(
    task: Task,
    layout: Layout,
    split: str,
    data_dir: str,
    *,
    eval_fraction: float,
    max_rejects: int = 0,
) -> LabelledTexts:
    """Reads a split as the pipeline's ingestion does: the same rows, the same labels.

    Args:
        task: What the rows mean.
        layout: How its files lie.
        split: `train`, `eval` or `test`, one of `layout.output_splits`.
        data_dir: The folder that holds them.
        eval_fraction: Share of the rows that is eval's where train and eval lie in the same files.
        max_rejects: Rows that may be left out because they do not fit the task.

    Returns:
        The rows, in the order of the files.

    Raises:
        InputError: If the files cannot be read, more rows than allowed do not fit, or none is left.
    """
    hashed = layout.hash_split and split in (TRAIN, EVAL)
    files = layout.splits[TRAIN if hashed else split]
    read = LabelledTexts({name: [] for name in task.text_features}, [] if files.labelled else None)
    rejects: list[str] = []
    rejected = 0
    for path, line, row in parse_files(files, task.labels, data_dir):
        if isinstance(row, Misfit):
            rejected += 1
            column = f", {row.column}" if row.column else ""
            if len(rejects) < _NAMED:
                rejects.append(f"{path}, line {line}{column}: {row.reason}")
            continue
        texts = {name: bytes(row[name]) for name in task.text_features}
        if hashed:
            held_out = falls_into_eval([t.decode() for t in texts.values()], eval_fraction)
            if held_out != (split == EVAL):
                continue
        for name, text in texts.items():
            read.texts[name].append(text)
        if read.labels is not None:
            read.labels.append(int(row[LABEL]))
    named = "\n  ".join(rejects)
    if rejected > max_rejects:
        raise InputError(
            f"{rejected:,} {split} rows do not fit task {task.name} (--max-rejects allows "
            f"{max_rejects:,}). The first:\n  {named}"
        )
    if rejected:
        logger.info("%d %s rows do not fit, and are left out:\n  %s", rejected, split, named)
    if not len(read):
        raise InputError(f"{', '.join(files.find(data_dir))}: there is no row for {split}")
    return read
