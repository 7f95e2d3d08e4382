import functools

import apache_beam as beam
import pytest
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from tensorflow_transform.tf_metadata import dataset_metadata, schema_utils

from bert_tfx.modeling.tfx import preprocessing

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh", "好", "##b"]


@pytest.fixture(scope="session")
def vocab_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("".join(f"{token}\n" for token in VOCABULARY), encoding="utf-8")
    return str(path)


def run_transform(rows, directory, **custom_config):
    """Runs preprocessing_fn over rows in Beam, as TFX does; returns what it wrote."""
    spec = {
        name: tf.io.FixedLenFeature([], tf.int64 if name == "label" else tf.string)
        for name in rows[0]
    }
    metadata = dataset_metadata.DatasetMetadata(schema_utils.schema_from_feature_spec(spec))
    preprocessing_fn = functools.partial(
        preprocessing.preprocessing_fn, custom_config=custom_config
    )
    output = str(directory / "transform")
    examples = str(directory / "examples")
    with (
        beam.Pipeline("FnApiRunner") as pipeline,
        tft_beam.Context(temp_dir=str(directory / "tmp")),
    ):
        transformed, transform_fn = (
            pipeline | beam.Create(rows),
            metadata,
        ) | tft_beam.AnalyzeAndTransformDataset(preprocessing_fn)
        data, transformed_metadata = transformed
        coder = tft.coders.ExampleProtoCoder(transformed_metadata.schema)
        _ = (
            data
            | beam.Map(coder.encode)
            | beam.io.WriteToTFRecord(examples, file_name_suffix=".gz")
        )
        _ = transform_fn | tft_beam.WriteTransformFn(output)
    return tft.TFTransformOutput(output), examples + "*"


@pytest.fixture(scope="session")
def single(tmp_path_factory, vocab_file):
    """The transform of single texts: its output, the pattern of the examples."""
    rows = [
        {"text_a": "a b c", "label": 1},
        {"text_a": "好x a", "label": 0},
        {"text_a": "a b c d e f g h", "label": 1},
        {"text_a": "ab [CLS]", "label": 0},
    ]
    directory = tmp_path_factory.mktemp("single")
    return run_transform(rows, directory, vocab_file=vocab_file, lowercase=True, max_length=8)


@pytest.fixture(scope="session")
def pair(tmp_path_factory, vocab_file):
    """The same for pairs."""
    rows = [
        {"text_a": "a b", "text_b": "c", "label": 1},
        {"text_a": "a a a a a a", "text_b": "b b b b b b", "label": 0},
    ]
    directory = tmp_path_factory.mktemp("pair")
    return run_transform(rows, directory, vocab_file=vocab_file, lowercase=True, max_length=8)


@pytest.fixture(scope="session")
def records():
    """Yields the transformed examples of `single` or `pair`, each as its features."""

    def records(output, pattern):
        spec = output.transformed_feature_spec()
        files = tf.io.gfile.glob(pattern)
        for record in tf.data.TFRecordDataset(files, compression_type="GZIP"):
            parsed = tf.io.parse_single_example(record, spec)
            yield {name: value.numpy().tolist() for name, value in parsed.items()}

    return records
