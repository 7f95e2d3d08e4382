"""Measures tokenizing and training beside what one would do without the project."""

import os
import pathlib
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_text as tf_text

from bert_tfx import sample
from bert_tfx.modeling.encoders.bert import BertEncoder
from bert_tfx.modeling.encoders.classifier import TextClassifier
from bert_tfx.modeling.encoders.sizes import BERT_SIZES
from bert_tfx.modeling.text import batching
from bert_tfx.modeling.text.tokenization import WordPieceTokenizer
from bert_tfx.modeling.training import optimization
from bert_tfx.modeling.training.train_step import train_step

_SAMPLE = pathlib.Path(sample.__file__).parent
_MAX_LENGTH = 128
_BATCH_SIZE = 32
_STEPS = 20


def rows_per_second(ways: Mapping[str, Callable[[], int]], rounds: int) -> dict[str, float]:
    """Returns the median speed of each way; the ways take turns, after a first round for warmth.

    Args:
        ways: Functions that do some work and return the rows they did.
        rounds: How often each is timed.
    """
    for work in ways.values():
        work()
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, work in ways.items():
            start = time.perf_counter()
            rows = work()
            speeds[name].append(rows / (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in speeds.items()}


def tokenizing(texts: list[str]) -> dict[str, Callable[[], int]]:
    """Ways to make token ids of texts."""
    vocab_file = str(_SAMPLE / "vocab.txt")
    ours = WordPieceTokenizer(vocab_file)
    theirs = tf_text.BertTokenizer(vocab_file, lower_case=True)
    batch = tf.constant(texts)
    signature = [tf.TensorSpec([None], tf.string)]
    functions = {
        "WordPieceTokenizer": tf.function(ours.tokenize, input_signature=signature),
        "TF-Text BertTokenizer": tf.function(theirs.tokenize, input_signature=signature),
    }

    def way(function: Callable[[tf.Tensor], tf.RaggedTensor]) -> Callable[[], int]:
        return lambda: int(function(batch).nrows())

    return {name: way(function) for name, function in functions.items()}


def training(texts: list[str], labels: list[int]) -> dict[str, Callable[[], int]]:
    """Ways to take training steps over rows."""
    packed = WordPieceTokenizer(str(_SAMPLE / "vocab.txt")).pack(texts, max_length=_MAX_LENGTH)
    ids = packed["token_ids"]
    rows = batching.Rows(
        ids.values.numpy(), None, ids.row_lengths().numpy(), np.array(labels, np.int32)
    )
    padded = batching.Rows(
        ids.to_tensor(shape=[None, _MAX_LENGTH]).numpy().ravel(),
        None,
        np.full(len(rows), _MAX_LENGTH),
        rows.labels,
    )

    def way(chosen: batching.Rows) -> Callable[[], int]:
        keras.utils.set_random_seed(1)
        shape: Mapping[str, Any] = BERT_SIZES["mini"]
        encoder = BertEncoder(vocab_size=2000, max_length=_MAX_LENGTH, **shape)
        model = TextClassifier(encoder, num_labels=2)
        optimizer = optimization.adamw(
            learning_rate=1e-4, warmup_steps=0, total_steps=10**6, weight_decay=0.01, clip_norm=1.0
        )
        optimizer.build(model.trainable_variables)
        step = train_step(model, optimizer)
        batches = batching.training_batches(chosen.lengths, _BATCH_SIZE, seed=1, epoch=0)[:_STEPS]

        def work() -> int:
            for indices in batches:
                step(chosen.batch(indices), chosen.labels[indices])
            return sum(map(len, batches))

        return work

    return {"batches of like length": way(rows), "padded to 128": way(padded)}


def main() -> None:
    """Prints a table."""
    print(f"load {', '.join(f'{value:.1f}' for value in os.getloadavg())}, {os.cpu_count()} cores")
    lines = (_SAMPLE / "train.tsv").read_text(encoding="utf-8").split("\n")[1:-1]
    labels, texts, _ = zip(*(line.split("\t") for line in lines), strict=True)
    for title, ways, rounds in (
        ("tokenizing", tokenizing(list(texts) * 5), 7),
        ("training, size mini", training(list(texts), list(map(int, labels))), 3),
    ):
        speeds = rows_per_second(ways, rounds)
        (ours, our_speed), (theirs, their_speed) = speeds.items()
        print(f"{title}: {ours} {our_speed:,.0f} rows/s, {theirs} {their_speed:,.0f} rows/s")
        print(f"    ratio {our_speed / their_speed:.2f}")


if __name__ == "__main__":
    main()
