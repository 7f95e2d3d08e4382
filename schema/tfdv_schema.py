"""The TFDV schema of a task: curated where the project ships one, made from the task elsewhere."""

import hashlib
import pathlib

from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from bert_tfx.schema import files
from bert_tfx.schema.tasks import LABEL, SOURCE_ROW, TASKS, Layout, Task

TRAINING = "TRAINING"
SERVING = "SERVING"


def _required(feature: schema_pb2.Feature) -> None:
    """Declares one value in every row."""
    feature.presence.min_fraction = 1.0
    feature.presence.min_count = 1
    feature.shape.SetInParent()


def _from_task(task: Task) -> schema_pb2.Schema:
    schema = schema_pb2.Schema(default_environment=[TRAINING, SERVING])
    for name in task.text_features:
        feature = schema.feature.add(name=name, type=schema_pb2.BYTES)
        _required(feature)
    label = schema.feature.add(name=LABEL, type=schema_pb2.INT, not_in_environment=[SERVING])
    _required(label)
    label.int_domain.name = LABEL
    label.int_domain.min = 0
    label.int_domain.max = len(task.labels) - 1
    label.int_domain.is_categorical = True
    return schema


def task_schema(task: Task, layout: Layout) -> schema_pb2.Schema:
    """Returns the schema that a task's ingested examples must fit.

    Text is there in every row (the ingestion lets no empty text through), the label is a class
    index within the task's labels. Unlabelled rows, such as a test split without labels, are
    checked in the environment `SERVING`, where the label is not expected. Extra columns are
    strings; one that every split has is expected in every row. Every schema knows `source_row`, and
    none demands it: it differs from row to row, so statistics may leave it out.

    Args:
        task: The task. Those in `TASKS` have a curated schema, `schema/<name>/schema.pbtxt`; a
            user's own task of the same name does not get it.
        layout: The layout whose extra columns are added.

    Returns:
        The schema.
    """
    if TASKS.get(task.name) == task:
        curated = pathlib.Path(__file__).parent / task.name / "schema.pbtxt"
        schema = text_format.Parse(curated.read_text(encoding="utf-8"), schema_pb2.Schema())
    else:
        schema = _from_task(task)
    known = {feature.name for feature in schema.feature}
    extra = dict.fromkeys(name for files in layout.splits.values() for name in files.columns)
    for name in extra:
        if name in known:
            continue
        feature = schema.feature.add(name=name, type=schema_pb2.BYTES)
        if all(name in files.columns for files in layout.splits.values()):
            _required(feature)
    schema.feature.add(name=SOURCE_ROW, type=schema_pb2.BYTES)
    return schema


def write_task_schema(task: Task, layout: Layout, directory: str) -> str:
    """Writes a task's schema to a file named by its content and returns the path.

    The pipeline's cache sees a schema by its path alone: another content must be another path.

    Args:
        task: The task.
        layout: See `task_schema`.
        directory: The folder to write to; it is made where it does not exist.

    Returns:
        The path of the text-format file.
    """
    text = text_format.MessageToString(task_schema(task, layout))
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    path = pathlib.Path(directory) / f"{task.name}-{digest}" / "schema.pbtxt"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, text)
    return str(path)
