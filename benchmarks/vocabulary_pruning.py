"""Takes the tokens that the train rows do not need out of a trained model, and measures that.

Once with the tokens of the train rows, and once with all CJK characters of the vocabulary besides.
Prints as Markdown the exports' sizes, the share of dev rows that get other tokens, and of the
others whether both models answer the same logits to the last bit. Then what the same vocabulary
would take off a BERT-base: arithmetic from its shape, not measured.
"""

import argparse
import json
import pathlib
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from bert_tfx.modeling.compression.vocabulary_pruning import prune_vocabulary, touched_share
from bert_tfx.modeling.encoders.bert import BertEncoder
from bert_tfx.modeling.encoders.classifier import TextClassifier
from bert_tfx.modeling.encoders.sizes import BERT_SIZES
from bert_tfx.modeling.export.saved_model import save_for_serving
from bert_tfx.modeling.export.trained_model import TrainedModel, load_trained_model
from bert_tfx.modeling.text.batching import Rows
from bert_tfx.modeling.text.text_rows import rows_of_texts
from bert_tfx.modeling.text.vocab_file import read_vocabulary
from bert_tfx.modeling.training.fine_tuning import predict_rows
from bert_tfx.modeling.training.train_step import predictor
from bert_tfx.schema.labelled_texts import LabelledTexts, read_split
from bert_tfx.schema.rows import normalize_text
from bert_tfx.schema.tasks import EVAL, TRAIN, resolve_layout

_HERE = pathlib.Path(__file__).resolve().parent
_BUILD = _HERE.parent / "build"
_SHARED = _HERE.parents[1] / "shared" / "data" / "chnsenticorp"
_BEFORE = "whole"
# What stays besides the tokens of the train rows.
_CHARACTERS = {"train's tokens": ("ascii",), "and all CJK characters": ("ascii", "cjk")}


def main() -> int:
    """Prints the tables; returns 0 where all rows with the same tokens have the same logits."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model",
        type=pathlib.Path,
        default=_BUILD / "distillation" / "chnsenticorp" / "teacher",
        help="the trained model (default: the one that benchmarks/distillation.py trains)",
    )
    parser.add_argument("--data", type=pathlib.Path, default=_SHARED, help="its task's files")
    parser.add_argument(
        "--output", type=pathlib.Path, default=_BUILD / "vocabulary_pruning.json", help="figures"
    )
    arguments = parser.parse_args()
    if not (arguments.model / "model.json").is_file():
        sys.exit(f"{arguments.model}: no trained model; benchmarks/distillation.py trains one")
    before = load_trained_model(str(arguments.model))
    layout = resolve_layout(before.task, str(arguments.data))
    train, dev = (
        read_split(before.task, layout, split, str(arguments.data), eval_fraction=0.1)
        for split in (TRAIN, EVAL)
    )
    known = {normalize_text(text.decode()) for text in train.texts["text_a"]}
    fresh = np.array([normalize_text(text.decode()) not in known for text in dev.texts["text_a"]])
    with tempfile.TemporaryDirectory() as folder:
        measured = {_BEFORE: _measured(before, dev, pathlib.Path(folder) / "before")}
        for title, characters in _CHARACTERS.items():
            scratch = pathlib.Path(folder) / "-".join(characters)
            scratch.mkdir()
            after, _ = prune_vocabulary(
                before,
                (text for column in train.texts.values() for text in column),
                vocab_file=str(scratch / "vocab.txt"),
                characters=characters,
            )
            measured[title] = {
                **_measured(after, dev, scratch / "export"),
                **_compared(before, after, dev, fresh),
            }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(measured, indent=1), encoding="utf-8")
    print(f"{len(dev):,} dev rows, {fresh.sum():,} of them not in train\n\n{_table(measured)}")
    same = (found["equal"] == found["same_tokens"] for found in list(measured.values())[1:])
    return 0 if all(same) else 1


def _measured(model: TrainedModel, dev: LabelledTexts, folder: pathlib.Path) -> dict[str, float]:
    rows = rows_of_texts(model.transform(), dev.texts, dev.labels or [])
    answers = predict_rows(predictor(model.classifier), rows).argmax(axis=1)
    save_for_serving(model, str(folder))
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        "tokens": len(read_vocabulary(model.vocab_file)),
        "parameters": model.classifier.count_params(),
        "megabytes": sum(path.stat().st_size for path in files) / 1e6,
        "accuracy": float((answers == rows.labels).mean()),
        "bert_base": _base(len(read_vocabulary(model.vocab_file))),
    }


def _compared(
    before: TrainedModel, after: TrainedModel, dev: LabelledTexts, fresh: np.ndarray
) -> dict[str, float]:
    """Compares the logits of the rows that have the same tokens, in the same batches."""
    old, new = (rows_of_texts(m.transform(), dev.texts, dev.labels or []) for m in (before, after))
    number = {token: i for i, token in enumerate(read_vocabulary(before.vocab_file))}
    old_ids = np.array([number[token] for token in read_vocabulary(after.vocab_file)], np.int32)
    same = [
        row
        for row, (one, other) in enumerate(zip(_tokens(old), _tokens(new), strict=True))
        if np.array_equal(one, old_ids[other])
    ]
    logits = [
        predict_rows(predictor(model.classifier), _only(rows, same))
        for model, rows in ((before, old), (after, new))
    ]
    one, other = (values.view(np.uint32) for values in logits)
    others = np.ones(len(dev), bool)
    others[same] = False
    return {
        "touched": touched_share(before, after, dev.texts),
        "touched_not_in_train": float(others[fresh].mean()),
        "same_tokens": len(same),
        "equal": int((one == other).all(axis=1).sum()),
    }


def _tokens(rows: Rows) -> list[np.ndarray]:
    return np.split(rows.token_ids, np.cumsum(rows.lengths)[:-1])


def _only(rows: Rows, chosen: list[int]) -> Rows:
    def picked(values: np.ndarray) -> np.ndarray:
        parts = np.split(values, np.cumsum(rows.lengths)[:-1])
        return np.concatenate([parts[row] for row in chosen])

    return Rows(
        token_ids=picked(rows.token_ids),
        segment_ids=None if rows.segment_ids is None else picked(rows.segment_ids),
        lengths=rows.lengths[chosen],
        labels=rows.labels[chosen],
    )


def _base(tokens: int) -> int:
    """Returns a BERT-base's parameters with a vocabulary, by arithmetic from its shape."""
    shape: Mapping[str, Any] = BERT_SIZES["base"]
    smallest = TextClassifier(BertEncoder(vocab_size=1, max_length=512, **shape), num_labels=2)
    return int(smallest.count_params()) + (tokens - 1) * shape["hidden_dim"]


def _table(measured: Mapping[str, Mapping[str, float]]) -> str:
    lines = (
        ("tokens", "tokens", "{:,}"),
        ("parameters", "parameters", "{:,}"),
        ("exported, MB", "megabytes", "{:.1f}"),
        ("dev accuracy", "accuracy", "{:.4f}"),
        ("dev rows with other tokens", "touched", "{:.2%}"),
        ("of the rows not in train", "touched_not_in_train", "{:.2%}"),
        ("dev rows with the same tokens", "same_tokens", "{:,}"),
        ("of these, logits equal to the last bit", "equal", "{:,}"),
        ("a BERT-base's parameters (arithmetic)", "bert_base", "{:,}"),
    )
    return "\n".join(
        [
            f"| vocabulary | {' | '.join(measured)} |",
            f"| --- |{' --- |' * len(measured)}",
            *(
                f"| {title} | "
                + " | ".join(form.format(m[key]) if key in m else "" for m in measured.values())
                + " |"
                for title, key, form in lines
            ),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
