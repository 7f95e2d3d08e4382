"""What tests of several components share."""

import os
import pathlib
from collections.abc import Callable, Sequence

import pytest
import tensorflow as tf
from tfx.types import artifact_utils, standard_artifacts


@pytest.fixture(scope="session")
def model_artifact(export_model) -> Callable[..., standard_artifacts.Model]:
    """Exports a model as Trainer does; takes what `export_model` takes."""

    def model_artifact(folder: pathlib.Path, *args, **options) -> standard_artifacts.Model:
        export_model(folder / "Format-Serving", *args, **options)
        artifact = standard_artifacts.Model()
        artifact.uri = str(folder)
        return artifact

    return model_artifact


@pytest.fixture(scope="session")
def write_examples() -> Callable[..., standard_artifacts.Examples]:
    """Writes rows of features as the split `eval`, divided among files."""

    def write_examples(
        folder: pathlib.Path, rows: Sequence[dict[str, object]], *, files: int = 1
    ) -> standard_artifacts.Examples:
        artifact = standard_artifacts.Examples()
        artifact.uri = str(folder)
        artifact.split_names = artifact_utils.encode_split_names(["eval"])
        split = artifact_utils.get_split_uri([artifact], "eval")
        os.makedirs(split)
        for number in range(files):
            name = f"data_tfrecord-{number:05d}-of-{files:05d}.gz"
            with tf.io.TFRecordWriter(os.path.join(split, name), "GZIP") as writer:
                for row in rows[number::files]:
                    writer.write(_example(row).SerializeToString())
        return artifact

    return write_examples


def _example(row: dict[str, object]) -> tf.train.Example:
    example = tf.train.Example()
    for name, value in row.items():
        feature = example.features.feature[name]
        if isinstance(value, int):
            feature.int64_list.value.append(value)
        elif isinstance(value, str):
            feature.bytes_list.value.append(value.encode())
        else:
            feature.float_list.value.extend(value)
    return example
