"""Asks models about all rows of a split, on Beam: files of rows become files of answered rows."""

import logging
import os
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

import apache_beam as beam
import numpy as np
import tensorflow as tf
from tfx.dsl.io import fileio

from bert_tfx.components.data_gate.repeats import read_leaked_eval_rows
from bert_tfx.components.predictor.predictions import LEAKED
from bert_tfx.schema import files
from bert_tfx.schema.tasks import SOURCE_ROW

Answer: TypeAlias = Callable[[tf.Tensor], Mapping[str, np.ndarray]]
"""Maps serialized `tf.Example`s, string `[B]`, to features of theirs, bytes `[B]` or float32
`[B, N]`."""
Load: TypeAlias = Callable[[], Answer]
"""Loads a model on the worker. Is pickled: a module's function, or a `functools.partial` of one."""

_logger = logging.getLogger(__name__)

_COMPRESSION = "GZIP"
# Models sort a batch by length and work it off in parts: many rows, so that these are of like
# length, and few enough to be held in memory.
_BATCH_ROWS = 4096
_SECONDS_BETWEEN_PROGRESS = 60.0


class AskModels(beam.PTransform):
    """Asks models about the rows of a split; it is applied to a pipeline.

    Each file becomes a file of the same name, with the answers as features of the rows: a whole
    file or none, the same in every run.

    Args:
        loads: Loads each of the models, once a worker.
        source: The folder of the split, gzipped TFRecords of `tf.Example`.
        target: Where the answered files go.
        scratch: A folder for what is unfinished, to be removed when the pipeline has run.
        data_report: The folder of a `DataGateReport`: rows then say whether they have `leaked`.
    """

    def __init__(
        self,
        loads: Sequence[Load],
        source: str,
        target: str,
        scratch: str,
        *,
        data_report: str | None = None,
    ) -> None:
        super().__init__()
        self._do_fn = _AskFile(loads, source, target, scratch)
        self._source = source
        self._folders = (target, scratch)
        self._data_report = data_report

    def expand(self, pipeline: beam.Pipeline) -> beam.PCollection:
        """Adds the asking."""
        for folder in self._folders:
            fileio.makedirs(folder)
        names = sorted(fileio.listdir(self._source))
        leaked = {}
        if self._data_report is not None:
            leaked["leaked"] = beam.pvalue.AsSingleton(
                pipeline
                | "DataReport" >> beam.Create([self._data_report])
                | "LeakedRows" >> beam.Map(read_leaked_eval_rows)
            )
        return (
            pipeline
            | "Files" >> beam.Create(names, reshuffle=True)
            | "AskFile" >> beam.ParDo(self._do_fn, **leaked)
        )


class _AskFile(beam.DoFn):
    """Writes one file of rows with their answers."""

    def __init__(self, loads: Sequence[Load], source: str, target: str, scratch: str) -> None:
        self._loads = loads
        self._source = source
        self._target = target
        self._scratch = scratch
        self._answers: Sequence[Answer] = ()

    def setup(self) -> None:
        """Loads the models, on a worker whose processor may be another than this one."""
        self._answers = [load() for load in self._loads]

    def process(self, element: str, leaked: frozenset[bytes] | None = None) -> None:
        """Answers the file `element`."""
        elsewhere = os.path.join(self._scratch, uuid.uuid4().hex)
        records = tf.data.TFRecordDataset(os.path.join(self._source, element), _COMPRESSION)
        start = reported = time.monotonic()
        done = 0
        with (
            files.appearing(os.path.join(self._target, element), elsewhere) as partial,
            tf.io.TFRecordWriter(partial, _COMPRESSION) as writer,
        ):
            for batch in records.batch(_BATCH_ROWS):
                for example in self._answered(batch):
                    if leaked is not None:
                        feature = example.features.feature
                        (source_row,) = feature[SOURCE_ROW].bytes_list.value
                        _set(feature[LEAKED], b"yes" if source_row in leaked else b"no")
                    writer.write(example.SerializeToString(deterministic=True))
                    done += 1
                now = time.monotonic()
                if now - reported >= _SECONDS_BETWEEN_PROGRESS:
                    rate = done / (now - start)
                    _logger.info("%s: %s rows answered, %.0f rows/s", element, f"{done:,}", rate)
                    reported = now

    def _answered(self, records: tf.Tensor) -> Iterable[tf.train.Example]:
        added: dict[str, np.ndarray] = {}
        for answer in self._answers:
            added |= answer(records)
        for row, record in enumerate(records.numpy()):
            example = tf.train.Example.FromString(record)
            for name, values in added.items():
                _set(example.features.feature[name], values[row])
            yield example


def _set(feature: tf.train.Feature, value: bytes | Iterable[float]) -> None:
    if isinstance(value, bytes):
        feature.bytes_list.value.append(value)
    else:
        feature.float_list.value.extend(value)
