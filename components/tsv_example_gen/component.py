"""TsvExampleGen: the door through which a dataset enters the pipeline."""

import dataclasses
import glob
import hashlib
import os
from typing import Any

from google.protobuf import any_pb2, struct_pb2
from tfx.components.example_gen import component as base
from tfx.components.example_gen import driver, utils
from tfx.dsl.components.base import executor_spec
from tfx.orchestration import data_types
from tfx.proto import example_gen_pb2

from bert_tfx.components.tsv_example_gen import executor
from bert_tfx.schema.digests import sha256_of
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.fingerprint import source_fingerprint
from bert_tfx.schema.spans import Span
from bert_tfx.schema.tasks import SPLITS, Layout, Task


class Driver(driver.FileBasedDriver):
    """Says which files there are, and what they hold, for the cache and for lineage."""

    def resolve_exec_properties(
        self,
        exec_properties: dict[str, Any],
        pipeline_info: data_types.PipelineInfo,
        component_info: data_types.ComponentInfo,
    ) -> dict[str, Any]:
        """Adds a hash of the files' contents, and the newest span and its version.

        TFX's own looks at sizes and at times of change: a file that was copied anew would be read
        anew, and one that changed twice in a second would not.

        Raises:
            InputError: If a split has no file.
        """
        parameters = executor.unpack(exec_properties)
        (layout,) = Task.from_json(parameters["task"]).layouts
        found = executor.find_files(layout, parameters["data_dir"])
        digest = hashlib.sha256()
        for split, paths in found.items():
            for path in paths:
                name = os.path.relpath(path, parameters["data_dir"])
                digest.update(
                    f"{split}\n{name}\n{_content_hash(path)}\n".encode("utf-8", "replace")
                )
        spans = [span for files in layout.splits.values() for span in files.spans]
        newest = max(spans, default=Span(0))
        return {
            **exec_properties,
            utils.FINGERPRINT_PROPERTY_NAME: digest.hexdigest(),
            utils.SPAN_PROPERTY_NAME: newest.number,
            utils.VERSION_PROPERTY_NAME: newest.version,
        }


def _content_hash(path: str) -> str:
    try:
        return sha256_of(path)
    except InputError:
        # The executor says so, of all such files at once.
        return "unreadable"


class TsvExampleGen(base.FileBasedExampleGen):
    r"""Reads a task's TSV files into tf.Example records.

    A file is bytes cut at `\n` and `\t`: no quoting, no escapes. Gzip (`.gz`), a byte order mark
    and `\r\n` are understood. For a task with the labels `("negative", "positive")` and the columns
    `label, text_a, source`, of which the file calls the second one `review`:

    ```
    label     review             source        # the header, compared exactly
    positive  A "quiet" room.    web           # tabs between the fields

    features {
      feature { key: "text_a" value { bytes_list { value: 'A "quiet" room.' } } }
      feature { key: "label"  value { int64_list { value: 1 } } }
      feature { key: "source" value { bytes_list { value: "web" } } }
      feature { key: "source_row" value { bytes_list { value: "train.tsv:2" } } }
    }
    ```

    `source_row` says where the row stands: the file, relative to `data_dir`, and the line, from 1.
    Text reaches the record byte for byte. A row is rejected where it has another number of columns,
    an unknown label, an empty text, a NUL byte, bytes that are not UTF-8, or more than
    `executor.MAX_ROW_BYTES` bytes. Rejected rows are listed in `<rejects_dir>/<split>.tsv` (`file`,
    `line`, `column`, `reason`, `row`); that folder is not there where no row was rejected.

    With `layout.hash_split`, the rows of the train files are divided into train and eval by a hash
    of their text, such that rows with the same text (for pairs: in either order) fall on one side.

    Outputs:
        `examples`: Gzipped TFRecords, one folder for each of `layout.output_splits`. Its custom
        properties count the rows: `rows_read_<split>` = `rows_written_<split>` +
        `rows_rejected_<split>`, and `rows_written_<split>_<label>`. Rejected rows of files that are
        divided by hash count to train.

    The run stops with an `InputError`, and leaves no records, where more than `max_rejects` rows
    were rejected, a file cannot be read or has another header, or a split has no row left.
    """

    DRIVER_CLASS = Driver
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)

    def __init__(
        self,
        task: Task,
        layout: Layout,
        data_dir: str,
        *,
        rejects_dir: str,
        max_rejects: int = 0,
        eval_fraction: float = 0.1,
    ) -> None:
        """Makes the node.

        Args:
            task: What the rows mean.
            layout: Which files to read, as `resolve_layout` found it.
            data_dir: The folder that the layout's patterns are relative to.
            rejects_dir: The folder for rejected rows.
            max_rejects: So many rows, of all splits together, may be rejected.
            eval_fraction: The share of distinct texts that a hash split gives to eval, in (0, 1).

        Raises:
            InputError: If `max_rejects` or `eval_fraction` is out of range.
        """
        if max_rejects < 0:
            raise InputError(f"max_rejects must be 0 or more. Received: {max_rejects}")
        if not 0 < eval_fraction < 1:
            raise InputError(f"eval_fraction must lie between 0 and 1. Received: {eval_fraction}")
        parameters = struct_pb2.Struct()
        parameters.update(
            {
                # Only the layout in use, so that a new one elsewhere in the task changes no key.
                "task": dataclasses.replace(task, layouts=(layout,)).to_json(),
                "data_dir": data_dir,
                "rejects_dir": rejects_dir,
                "max_rejects": max_rejects,
                "eval_fraction": eval_fraction,
                "fingerprint": source_fingerprint(executor.__name__),
            }
        )
        custom_config = example_gen_pb2.CustomConfig(custom_config=any_pb2.Any())
        custom_config.custom_config.Pack(parameters)
        splits = [
            example_gen_pb2.Input.Split(name=split, pattern=layout.splits[split].pattern)
            for split in SPLITS
            if split in layout.splits
        ]
        super().__init__(
            # TFX joins it to the patterns and globs the whole.
            input_base=glob.escape(data_dir),
            input_config=example_gen_pb2.Input(splits=splits),
            output_config=example_gen_pb2.Output(),
            custom_config=custom_config,
        )
