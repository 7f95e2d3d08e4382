"""Executor of TsvExampleGen: files to rows, rows to tf.Example, the rest to a list of rejects."""

import collections
import contextlib
import dataclasses
import gzip
import json
import os
import uuid
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, cast

import apache_beam as beam
import tensorflow as tf
from absl import logging
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from google.protobuf import json_format, struct_pb2
from tfx import types
from tfx.components.example_gen import write_split
from tfx.components.util import examples_utils
from tfx.dsl.components.base import base_beam_executor
from tfx.dsl.io import fileio
from tfx.proto import example_gen_pb2
from tfx.types import artifact_utils, standard_component_specs
from tfx.utils import proto_utils

from bert_tfx.schema import files
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.rows import Misfit, RowParser, falls_into_eval, read_lines, read_rows
from bert_tfx.schema.tasks import (
    EVAL,
    LABEL,
    SOURCE_ROW,
    SPLITS,
    TEST,
    TEXT_A,
    TEXT_B,
    TRAIN,
    Layout,
    Task,
    TsvFiles,
)

# The lists are for people who mend files; the driver sorts them in memory.
MAX_LISTED_REJECTS = 100_000
MAX_LISTED_ROW_BYTES = 8 * 1024

# A worker sorts a shard in memory.
SHARD_BYTES = 32 * 1024 * 1024

_REPORT = "report-"

# So many rows or files are named in a message.
_NAMED = 5

_ESCAPES = str.maketrans(
    {chr(code): f"\\x{code:02x}" for code in (*range(32), 127)}
    | {"\t": "\\t", "\n": "\\n", "\r": "\\r"}
)


def escape(row: bytes) -> str:
    r"""Returns bytes as one printable TSV field.

    Controls become `\t`, `\n`, `\r` or `\x00`, bytes that are not UTF-8 become `\xff`, and a
    backslash becomes two.
    """
    text = row.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")
    return text.translate(_ESCAPES)


class _WriteShard(beam.DoFn):
    """Writes one shard of an output split: a whole file or none, and the same in every run.

    Beam's own sink costs three times as much a record and, on the local runner, Reshuffle leaves
    rows in the order of the file: sorted by label where the file is.
    """

    def __init__(self, directory: str, scratch_dir: str, num_shards: int) -> None:
        self._directory = directory
        self._scratch_dir = scratch_dir
        self._num_shards = num_shards

    def process(self, element: tuple[int, Iterable[bytes]]) -> None:
        """Writes the shard `element`."""
        shard, ordered = element
        path = os.path.join(
            self._directory,
            f"{write_split.DEFAULT_TF_RECORD_FILE_NAME}-{shard:05d}-of-{self._num_shards:05d}.gz",
        )
        # Elsewhere, because every file of the directory is read as records.
        elsewhere = os.path.join(self._scratch_dir, uuid.uuid4().hex)
        with (
            files.appearing(path, elsewhere) as partial,
            tf.io.TFRecordWriter(partial, "GZIP") as writer,
        ):
            for record in sorted(ordered):
                writer.write(record[4:])


class _WriteReports(beam.DoFn):
    """Writes one split's reports, by way of files the only thing every runner hands back."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def process(self, element: tuple[str, Iterable[str]]) -> None:
        """Writes the split and its reports `element`."""
        split, reports = element
        text = "".join(f"{report}\n" for report in reports)
        files.write(os.path.join(self._directory, _REPORT + split), text)


@contextlib.contextmanager
def open_file(path: str) -> Iterator[BinaryIO]:
    """Opens a plain or gzipped file for reading bytes."""
    # Beam's own gzip reader takes a truncated file for a short one.
    with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
        if path.endswith(".gz"):
            with gzip.GzipFile(fileobj=file) as unzipped:
                yield cast(BinaryIO, unzipped)
        else:
            yield file


class _ReadTsv(beam.DoFn):
    """Reads the files of one split.

    Yields `(shard, order + record)` tagged with the output split, where `order` is four bytes to
    sort a shard by and `record` a serialized tf.Example. Yields `(split, report)` untagged, in
    JSON: one for each rejected row and one for each file, with its counts and the fault that ended
    it.
    """

    def __init__(
        self,
        split: str,
        files: TsvFiles,
        labels: Sequence[str],
        *,
        data_dir: str,
        eval_fraction: float | None,
        num_shards: int,
    ) -> None:
        self._split = split
        self._files = files
        self._labels = labels
        self._data_dir = data_dir
        self._eval_fraction = eval_fraction
        self._num_shards = num_shards

    def process(self, element: str) -> Iterator[Any]:
        """Yields what the file `element` holds."""
        parse = RowParser(self._files, self._labels)
        example = tf.train.Example()
        slots = example.features.feature
        texts = [name for name in self._files.columns if name in (TEXT_A, TEXT_B)]
        # Printable, so that a line of a list can hold it.
        source = escape(os.fsencode(os.path.relpath(element, self._data_dir)))
        split = self._split
        written: collections.Counter[tuple[str, Any]] = collections.Counter()
        rejected = 0
        fault = None
        try:
            with open_file(element) as file:
                for line, row in read_rows(read_lines(file), self._files, element):
                    features = parse(row)
                    if isinstance(features, Misfit):
                        rejected += 1
                        if rejected <= MAX_LISTED_REJECTS:
                            cut = row[:MAX_LISTED_ROW_BYTES]
                            yield self._report(
                                file=element,
                                line=line,
                                column=features.column,
                                reason=features.reason,
                                row=escape(cut) + "..." * (len(cut) < len(row)),
                            )
                        continue
                    if self._eval_fraction is not None:
                        row_texts = [cast(bytes, features[name]).decode() for name in texts]
                        held_out = falls_into_eval(row_texts, self._eval_fraction)
                        split = EVAL if held_out else TRAIN
                    # Filled anew, not made anew: twice as fast.
                    for name, value in features.items():
                        if name == LABEL:
                            slots[name].int64_list.value[:] = [value]
                        else:
                            slots[name].bytes_list.value[:] = [value]
                    slots[SOURCE_ROW].bytes_list.value[:] = [f"{source}:{line}".encode()]
                    written[split, features.get(LABEL)] += 1
                    # The same in every run; the line number keeps equal rows apart.
                    order = zlib.crc32(row, line)
                    record = order.to_bytes(4, "big") + example.SerializeToString(
                        deterministic=True
                    )
                    yield beam.pvalue.TaggedOutput(split, (order % self._num_shards, record))
        except InputError as error:
            fault = str(error)
        except (OSError, EOFError, zlib.error) as error:
            fault = f"{element}: cannot be read: {getattr(error, 'strerror', None) or error}"
        yield self._report(
            written=[[*key, count] for key, count in written.items()],
            rejected=rejected,
            fault=fault,
        )

    def _report(self, **fields: Any) -> tuple[str, str]:
        return self._split, json.dumps(fields)


class Executor(base_beam_executor.BaseBeamExecutor):
    """See `component.TsvExampleGen`."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Ingests the files.

        Args:
            input_dict: Empty.
            output_dict: `examples`: the artifact to fill.
            exec_properties: `custom_config` holds the component's parameters.

        Raises:
            InputError: See `component.TsvExampleGen`.
        """
        self._log_startup(input_dict, output_dict, exec_properties)
        examples = artifact_utils.get_single_instance(
            output_dict[standard_component_specs.EXAMPLES_KEY]
        )
        parameters = unpack(exec_properties)
        task = Task.from_json(parameters["task"])
        layout = task.layouts[0]
        examples.split_names = artifact_utils.encode_split_names(list(layout.output_splits))
        paths = find_files(layout, parameters["data_dir"])
        scratch_dir = os.path.join(examples.uri, "scratch")
        fileio.makedirs(scratch_dir)

        with self._make_beam_pipeline() as pipeline:
            for split, files in layout.splits.items():
                hashed = layout.hash_split and split == TRAIN
                targets = (TRAIN, EVAL) if hashed else (split,)
                num_shards = _num_shards(paths[split])
                read = _ReadTsv(
                    split,
                    files,
                    task.labels,
                    data_dir=parameters["data_dir"],
                    eval_fraction=parameters["eval_fraction"] if hashed else None,
                    num_shards=num_shards,
                )
                found = (
                    pipeline
                    | f"Files[{split}]" >> beam.Create(paths[split])
                    | f"Read[{split}]" >> beam.ParDo(read).with_outputs(*targets, main="reports")
                )
                _ = (
                    found.reports
                    | f"Reports[{split}]" >> beam.GroupByKey()
                    | f"WriteReports[{split}]" >> beam.ParDo(_WriteReports(scratch_dir))
                )
                for target in targets:
                    directory = artifact_utils.get_split_uri([examples], target)
                    fileio.makedirs(directory)
                    _ = (
                        found[target]
                        | f"Shard[{target}]" >> beam.GroupByKey()
                        | f"Write[{target}]"
                        >> beam.ParDo(_WriteShard(directory, scratch_dir, num_shards))
                    )

        ingested = _collect(scratch_dir, paths)
        fileio.rmtree(scratch_dir)
        _write_rejects(ingested, parameters["rejects_dir"])
        if problem := _problem(ingested, layout, parameters):
            # The folder itself stays: the launcher removes it and fails where it is missing.
            fileio.rmtree(examples.uri)
            fileio.makedirs(examples.uri)
            raise InputError(problem)

        examples_utils.set_payload_format(examples, example_gen_pb2.FORMAT_TF_EXAMPLE)
        examples_utils.set_file_format(
            examples, write_split.to_file_format_str(example_gen_pb2.FORMAT_TFRECORDS_GZIP)
        )
        for split in layout.output_splits:
            _count(examples, split, ingested, task)


@dataclasses.dataclass(frozen=True)
class _Ingested:
    """What the reports say.

    Attributes:
        paths: The files of each input split.
        written: The number of rows by output split and class index (None without label).
        rejected: The number of rows by input split.
        rejects: The listed rows by input split, in the order of files and lines.
        faults: Messages about files that could not be read to their end.
    """

    paths: Mapping[str, Sequence[str]]
    written: collections.Counter[tuple[str, int | None]]
    rejected: collections.Counter[str]
    rejects: Mapping[str, Sequence[Mapping[str, Any]]]
    faults: Sequence[str]

    def rows(self, split: str) -> int:
        """Returns the number of rows written to an output split."""
        return sum(count for (name, _), count in self.written.items() if name == split)


def unpack(exec_properties: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the parameters that the component packed into its custom config."""
    config = example_gen_pb2.CustomConfig()
    proto_utils.json_to_proto(exec_properties[standard_component_specs.CUSTOM_CONFIG_KEY], config)
    parameters = struct_pb2.Struct()
    config.custom_config.Unpack(parameters)
    return json_format.MessageToDict(parameters)


def find_files(layout: Layout, data_dir: str) -> dict[str, list[str]]:
    """Returns the files of each input split, sorted.

    Raises:
        InputError: If a split has none.
    """
    paths = {
        split: layout.splits[split].find(data_dir) for split in SPLITS if split in layout.splits
    }
    for split, found in paths.items():
        if not found:
            pattern = os.path.join(data_dir, layout.splits[split].pattern)
            raise InputError(f"{pattern}: no such file, although split {split!r} needs one")
    return paths


def _num_shards(paths: Sequence[str]) -> int:
    """Returns into how many files the rows of some files go."""
    size = 0
    for path in paths:
        # A file that vanished is reported by the worker that cannot read it.
        with contextlib.suppress(OSError):
            size += FileSystems.get_filesystem(path).size(path)
    return 1 + size // SHARD_BYTES


def _collect(directory: str, paths: Mapping[str, Sequence[str]]) -> _Ingested:
    """Reads what the workers reported."""
    written: collections.Counter[tuple[str, int | None]] = collections.Counter()
    rejected: collections.Counter[str] = collections.Counter()
    rejects: dict[str, list[dict[str, Any]]] = {split: [] for split in paths}
    faults = []
    for split in paths:
        with fileio.open(os.path.join(directory, _REPORT + split)) as file:
            for line in file:
                report = json.loads(line)
                if "row" in report:
                    rejects[split].append(report)
                    continue
                for target, label, count in report["written"]:
                    written[target, label] += count
                rejected[split] += report["rejected"]
                if report["fault"]:
                    faults.append(report["fault"])
    for rows in rejects.values():
        rows.sort(key=lambda row: (row["file"], row["line"]))
        del rows[MAX_LISTED_REJECTS:]
    return _Ingested(paths, written, rejected, rejects, sorted(faults))


def _rejects_path(rejects_dir: str, split: str) -> str:
    return os.path.join(rejects_dir, f"{split}.tsv")


def _write_rejects(ingested: _Ingested, rejects_dir: str) -> None:
    """Writes the lists of rejected rows, each as a whole, and removes those of earlier runs."""
    for split in SPLITS:
        path = _rejects_path(rejects_dir, split)
        rows = ingested.rejects.get(split)
        if not rows:
            if fileio.exists(path):
                fileio.remove(path)
            continue
        lines = ["file\tline\tcolumn\treason\trow"]
        for row in rows:
            file_field = escape(os.fsencode(row["file"]))
            lines.append(
                f"{file_field}\t{row['line']}\t{row['column']}\t{row['reason']}\t{row['row']}"
            )
        if unlisted := ingested.rejected[split] - len(rows):
            lines.append(f"\t\t\t{unlisted:,} more rows were rejected and are not listed\t")
        fileio.makedirs(rejects_dir)
        files.write(path, "".join(f"{line}\n" for line in lines))
    if fileio.exists(rejects_dir) and not fileio.listdir(rejects_dir):
        fileio.rmtree(rejects_dir)


def _problem(ingested: _Ingested, layout: Layout, parameters: Mapping[str, Any]) -> str | None:
    """Says why the run must stop, or returns None."""
    if ingested.faults:
        more = len(ingested.faults) - _NAMED
        return "\n".join(
            [*ingested.faults[:_NAMED], *([f"and {more} more files"] if more > 0 else [])]
        )

    rejected = ingested.rejected.total()
    read = ingested.written.total() + rejected
    listed = sum(map(len, ingested.rejects.values()))
    lists = " and ".join(
        _rejects_path(parameters["rejects_dir"], split)
        for split, rows in ingested.rejects.items()
        if rows
    )
    if rejected > parameters["max_rejects"]:
        named = [row for rows in ingested.rejects.values() for row in rows][:_NAMED]
        return "\n".join(
            [
                f"{rejected:,} of {read:,} rows do not fit, "
                f"{int(parameters['max_rejects']):,} are allowed:",
                *(
                    f"  {row['file']}, line {row['line']}"
                    f"{', ' * bool(row['column'])}{row['column']}: {row['reason']}"
                    for row in named
                ),
                *(["  ..."] if rejected > len(named) else []),
                f"{'All' if listed == rejected else f'{listed:,}'} are listed in {lists}. Mend "
                f"these rows, or go on without them: --max-rejects {rejected}",
            ]
        )

    for split in layout.output_splits:
        if ingested.rows(split):
            continue
        source = split if split in ingested.paths else TRAIN
        files = ", ".join(ingested.paths[source])
        divided = ingested.rows(TRAIN) + ingested.rows(EVAL) if layout.hash_split else 0
        if split != TEST and divided:
            return (
                f"{files}: none of {divided:,} rows fell into {split}: a hash of their text gives "
                f"{parameters['eval_fraction']:g} of all texts to {EVAL}. Give more rows, or "
                f"{TRAIN} and {EVAL} a file each"
            )
        if ingested.rejected[source]:
            return f"{files}: no row is left for {split}: all were rejected, see {lists}"
        return f"{files}: there is no row for {split}"
    return None


def _count(examples: types.Artifact, split: str, ingested: _Ingested, task: Task) -> None:
    """Logs one split's counts and sets them as the artifact's properties."""
    rejected = ingested.rejected[split]
    of_label = {
        label: ingested.written[split, index]
        for index, label in enumerate(task.labels)
        if (split, None) not in ingested.written
    }
    written = ingested.rows(split)
    counts = {
        f"rows_read_{split}": written + rejected,
        f"rows_written_{split}": written,
        f"rows_rejected_{split}": rejected,
        **{f"rows_written_{split}_{label}": count for label, count in of_label.items()},
    }
    for name, count in counts.items():
        examples.set_int_custom_property(name, count)
    logging.info(
        "%s: %s rows read, %s written (%s), %s rejected",
        split,
        f"{written + rejected:,}",
        f"{written:,}",
        ", ".join(f"{label}: {count:,}" for label, count in of_label.items()) or "no labels",
        f"{rejected:,}",
    )
