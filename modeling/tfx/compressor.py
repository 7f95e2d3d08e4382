"""Compressor adapter: what the pipeline's Compressor calls around `compress` and the export."""

import tempfile
from collections.abc import Mapping
from typing import Any

from bert_tfx.modeling.compression.chain import compress
from bert_tfx.modeling.compression.settings import Compression
from bert_tfx.modeling.export.saved_model import load_exported_model, save_for_serving
from bert_tfx.schema.labelled_texts import LabelledTexts
from bert_tfx.schema.tasks import Task


def compress_fn(
    *,
    model: str,
    settings: Mapping[str, Any],
    task: Task,
    eval_fraction: float,
    train: LabelledTexts,
    evaluate: LabelledTexts,
    serving_model_dir: str,
    model_run_dir: str,
) -> None:
    """Makes an exported model smaller.

    Args:
        model: The SavedModel.
        settings: Fields of `Compression`.
        task: What its rows mean.
        eval_fraction: Share of the rows that was held out, where there was no eval file.
        train: Rows that choose what goes, and are learned from after that.
        evaluate: Rows that choose the best epoch of that.
        serving_model_dir: Where the smaller SavedModel goes.
        model_run_dir: Where the trained model goes (`TrainedModel.save`).

    Raises:
        InputError: If the model cannot be read, or has not what is to be taken out.
    """
    before = load_exported_model(model, task, eval_fraction)
    with tempfile.TemporaryDirectory() as scratch:
        smaller = compress(before, Compression(**settings), train, evaluate, work_dir=scratch)
        smaller.save(model_run_dir)
        save_for_serving(smaller, serving_model_dir)
