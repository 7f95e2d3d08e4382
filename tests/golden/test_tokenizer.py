"""The tokenizer against the reference's ids: eagerly, traced, inside TFT and exported."""

import functools
import gzip
import json
import pathlib

import apache_beam as beam
import pytest
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from tensorflow_transform.tf_metadata import dataset_metadata, schema_utils

from bert_tfx.modeling.text.tokenization import WordPieceTokenizer
from bert_tfx.modeling.tfx import preprocessing

SHARED = pathlib.Path(__file__).parents[3] / "shared"

pytestmark = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the reference outputs (../shared) are not here"
)

# Name of the reference outputs, vocabulary, lower-casing.
CASES = {
    "chinese": ("chinese_vocab.txt", True),
    "uncased": ("uncased_vocab.txt", True),
    "cased_rules": ("chinese_vocab.txt", False),
}
LENGTHS = [8, 16, 32, 64, 128, 512]
# More tokens than any text has.
UNCUT = 4096


def read(kind, name):
    with gzip.open(SHARED / "golden" / f"{kind}_{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@functools.cache
def tokenizer(name):
    vocab_file, lowercase = CASES[name]
    return WordPieceTokenizer(str(SHARED / "vocab" / vocab_file), lowercase=lowercase)


def by_length(name):
    """Returns the packed rows by `max_length` and whether they are single texts."""
    groups = {}
    for row in read("pairs", name):
        groups.setdefault((row["max_length"], row["text_b"] is None), []).append(row)
    assert sum(map(len, groups.values())) == 750
    assert {max_length for max_length, _ in groups} == set(LENGTHS)
    return groups


@pytest.mark.parametrize("name", CASES)
def test_ids_eager_and_traced(name):
    rows = read("tokenizer", name)
    assert len(rows) == 5320
    texts, ids = [row["text"] for row in rows], [row["ids"] for row in rows]
    assert tokenizer(name).tokenize(texts).to_list() == ids
    traced = tf.function(
        tokenizer(name).tokenize, input_signature=[tf.TensorSpec([None], tf.string)]
    )
    assert traced(tf.constant(texts)).to_list() == ids


@pytest.mark.parametrize("name", CASES)
def test_packed_pairs(name):
    for (max_length, single), rows in by_length(name).items():
        texts_b = None if single else [row["text_b"] for row in rows]
        packed = tokenizer(name).pack(
            [row["text_a"] for row in rows], texts_b, max_length=max_length
        )
        assert packed["token_ids"].to_list() == [row["input_ids"] for row in rows]
        assert packed["segment_ids"].to_list() == [row["segment_ids"] for row in rows]


def transform(rows, directory, **custom_config):
    """Runs `preprocessing_fn` in Beam; returns its ids by text and the transform graph."""
    names = [name for name in ("text_a", "text_b") if name in rows[0]]
    spec = {name: tf.io.FixedLenFeature([], tf.string) for name in names}
    spec |= {name: tf.io.FixedLenFeature([], tf.int64) for name in ("label",)}
    metadata = dataset_metadata.DatasetMetadata(schema_utils.schema_from_feature_spec(spec))
    examples, output = str(directory / "examples"), str(directory / "transform")
    with (
        beam.Pipeline("FnApiRunner") as pipeline,
        tft_beam.Context(temp_dir=str(directory / "tmp")),
    ):
        (data, data_metadata), transform_fn = (
            pipeline | beam.Create(rows),
            metadata,
        ) | tft_beam.AnalyzeAndTransformDataset(
            functools.partial(preprocessing.preprocessing_fn, custom_config=custom_config)
        )
        coder = tft.coders.ExampleProtoCoder(data_metadata.schema)
        _ = (
            data
            | beam.Map(coder.encode)
            | beam.io.WriteToTFRecord(examples, file_name_suffix=".gz")
        )
        _ = transform_fn | tft_beam.WriteTransformFn(output)
    graph = tft.TFTransformOutput(output)
    files = tf.io.gfile.glob(examples + "*")
    # The label is the row's number here.
    found = {}
    for record in tf.data.TFRecordDataset(files, compression_type="GZIP").batch(1000):
        parsed = tf.io.parse_example(record, graph.transformed_feature_spec())
        segments = parsed.get("segment_ids", parsed["token_ids"])
        for number, ids, segment_ids in zip(
            parsed["label"].numpy().tolist(),
            parsed["token_ids"].to_list(),
            segments.to_list(),
            strict=True,
        ):
            found[number] = ids, segment_ids
    return [found[number] for number in range(len(rows))], graph


def exported(graph, features, directory):
    """Saves the transform graph as a SavedModel and runs what is loaded again."""
    module = tf.Module()
    module.transform = graph.transform_features_layer()
    signature = {name: tf.TensorSpec([None], tf.string, name=name) for name in features}
    module.serve = tf.function(lambda inputs: module.transform(inputs), input_signature=[signature])
    tf.saved_model.save(module, str(directory))
    loaded = tf.saved_model.load(str(directory))
    return loaded.serve({name: tf.constant(values) for name, values in features.items()})


@pytest.mark.parametrize(
    "name",
    [
        "chinese",
        *(pytest.param(name, marks=pytest.mark.slow) for name in CASES if name != "chinese"),
    ],
)
def test_ids_inside_tft_and_exported(name, tmp_path):
    rows = read("tokenizer", name)
    cls, sep = tokenizer(name).cls_id, tokenizer(name).sep_id
    expected = [[cls, *row["ids"], sep] for row in rows]
    vocab_file, lowercase = CASES[name]
    transformed, graph = transform(
        [{"text_a": row["text"], "label": i} for i, row in enumerate(rows)],
        tmp_path,
        vocab_file=str(SHARED / "vocab" / vocab_file),
        lowercase=lowercase,
        max_length=UNCUT,
    )
    assert [ids for ids, _ in transformed] == expected
    features = {"text_a": [row["text"] for row in rows]}
    outputs = exported(graph, features, tmp_path / "exported")
    assert outputs["token_ids"].to_list() == expected


@pytest.mark.parametrize(
    ("name", "max_lengths"),
    [
        pytest.param("chinese", [64], marks=pytest.mark.slow),
        *(pytest.param(name, LENGTHS, marks=pytest.mark.real) for name in CASES),
    ],
)
def test_packed_pairs_inside_tft_and_exported(name, max_lengths, tmp_path):
    vocab_file, lowercase = CASES[name]
    for (max_length, single), rows in by_length(name).items():
        if max_length not in max_lengths:
            continue
        keys = ("text_a",) if single else ("text_a", "text_b")
        directory = tmp_path / f"{max_length}{single}"
        directory.mkdir()
        transformed, graph = transform(
            [{key: row[key] for key in keys} | {"label": i} for i, row in enumerate(rows)],
            directory,
            vocab_file=str(SHARED / "vocab" / vocab_file),
            lowercase=lowercase,
            max_length=max_length,
        )
        features = {key: [row[key] for row in rows] for key in keys}
        outputs = exported(graph, features, directory / "exported")
        ids = [row["input_ids"] for row in rows]
        assert [row[0] for row in transformed] == outputs["token_ids"].to_list() == ids
        if not single:
            segments = [row["segment_ids"] for row in rows]
            assert [row[1] for row in transformed] == outputs["segment_ids"].to_list() == segments
