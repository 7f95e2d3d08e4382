"""Holds reading what a teacher answered against asking it again.

For teachers of several sizes, with new weights, and rows of one length: what a row takes to be
asked, and what its answer and its hidden states take on disk and to be read again, as gzipped
TFRecords. Prints Markdown.
"""

import argparse
import functools
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import keras
import numpy as np
import tensorflow as tf

from bert_tfx.modeling.encoders.bert import BertEncoder
from bert_tfx.modeling.encoders.classifier import TextClassifier
from bert_tfx.modeling.encoders.sizes import BERT_SIZES
from bert_tfx.modeling.text.batching import Rows
from bert_tfx.modeling.training.fine_tuning import predict_rows
from bert_tfx.modeling.training.train_step import predictor

_BATCH = 32
_Result = TypeVar("_Result")


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", default=["mini", "base"], choices=tuple(BERT_SIZES))
    parser.add_argument("--rows", type=int, default=256, help="rows that are timed")
    parser.add_argument("--tokens", type=int, default=32, help="tokens of each")
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {arguments.tokens} tokens a row")
    print()
    print("| teacher | what | kB a row | written, ms a row | read, ms | asked, ms |")
    print("| --- | --- | --- | --- | --- | --- |")
    for size in arguments.sizes:
        for line in _lines(size, arguments.rows, arguments.tokens):
            print(line, flush=True)


def _lines(size: str, count: int, tokens: int) -> Iterable[str]:
    keras.utils.set_random_seed(1)
    shape: Mapping[str, Any] = BERT_SIZES[size]
    encoder = BertEncoder(vocab_size=30_000, max_length=tokens, **shape)
    teacher = TextClassifier(encoder, num_labels=2)
    ids = np.random.default_rng(1).integers(5, 30_000, count * tokens, dtype=np.int32)
    rows = Rows(ids, None, np.full(count, tokens), np.zeros(count, np.int32))
    predict = predictor(teacher)
    predict_rows(predict, rows)  # Traces the graph.
    asked, answers = _timed(lambda: predict_rows(predict, rows))
    inside = tf.function(lambda batch: tf.stack(encoder(batch)["hidden_states"], axis=1))
    batches = np.split(np.arange(count), range(_BATCH, count, _BATCH))
    states = np.concatenate([inside(rows.batch(indices)).numpy() for indices in batches])
    with tempfile.TemporaryDirectory() as folder:
        for what, values in (
            ("answers", answers),
            ("hidden states", states),
            ("hidden states, float16", states.astype(np.float16)),
        ):
            path = pathlib.Path(folder) / "records.gz"
            written, _ = _timed(functools.partial(_write, path, values))
            read, again = _timed(functools.partial(_read, path, values))
            np.testing.assert_array_equal(again, values)
            cells = (
                *(f"{path.stat().st_size / count / 1000:.2f}", f"{1000 * written / count:.2f}"),
                *(f"{1000 * read / count:.3f}", f"{1000 * asked / count:.2f}"),
            )
            yield f"| {size} | {what} | {' | '.join(cells)} |"


def _timed(work: Callable[[], _Result]) -> tuple[float, _Result]:
    """Returns the seconds of the faster of two runs, and what that returned."""
    runs = []
    for _ in range(2):
        start = time.perf_counter()
        result = work()
        runs.append((time.perf_counter() - start, result))
    return min(runs, key=lambda run: run[0])


def _write(path: pathlib.Path, values: np.ndarray) -> None:
    with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
        for row in values:
            example = tf.train.Example()
            example.features.feature["values"].bytes_list.value.append(row.tobytes())
            writer.write(example.SerializeToString())


def _read(path: pathlib.Path, like: np.ndarray) -> np.ndarray:
    spec = {"values": tf.io.FixedLenFeature([], tf.string)}
    dataset = (
        tf.data.TFRecordDataset(str(path), "GZIP")
        .batch(_BATCH)
        .map(lambda records: tf.io.parse_example(records, spec)["values"], num_parallel_calls=2)
        .map(lambda values: tf.io.decode_raw(values, like.dtype))
        .prefetch(2)
    )
    return np.concatenate([batch.numpy() for batch in dataset]).reshape(like.shape)


if __name__ == "__main__":
    main()
