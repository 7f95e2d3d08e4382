import gzip
import json
import logging
import os
import pathlib

import apache_beam as beam
import pytest
import tensorflow as tf
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tfx.dsl.components.base import base_beam_executor
from tfx.types import artifact_utils, standard_artifacts

from bert_tfx.components.tsv_example_gen import executor
from bert_tfx.components.tsv_example_gen.component import TsvExampleGen
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.labelled_texts import read_split
from bert_tfx.schema.rows import falls_into_eval
from bert_tfx.schema.tasks import own_task, resolve_layout

HEADER = b"label\treview\tsource\n"


def write(folder: pathlib.Path, **files: bytes) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_bytes(content)
    return str(folder)


def reviews(**changes):
    fields = {
        "name": "reviews",
        "labels": ["bad", "good"],
        "columns": ["label", "review", "source"],
        "text_a": "review",
        "train": "train*.tsv*",
        "eval": "dev.tsv",
    }
    return own_task({**fields, **changes}, where="here")


def read(task, data_dir, split, *, eval_fraction=0.1, max_rejects=0):
    return read_split(
        task,
        resolve_layout(task, data_dir),
        split,
        data_dir,
        eval_fraction=eval_fraction,
        max_rejects=max_rejects,
    )


def test_rows_come_in_the_order_of_files_and_lines(tmp_path):
    data_dir = write(
        tmp_path,
        train2__tsv=HEADER + b"bad\tdull  \tmail\n",
        train1__tsv__gz=gzip.compress(HEADER + "good\t好 film\tweb\r\nbad\tpoor\tweb\n".encode()),
        dev__tsv=HEADER + b"good\tfine\tweb\n",
    )
    train = read(reviews(), data_dir, "train")
    assert train.texts == {"text_a": ["好 film".encode(), b"poor", b"dull  "]}
    assert train.labels == [1, 0, 0]
    assert len(train) == 3
    dev = read(reviews(), data_dir, "eval")
    assert (dev.texts, dev.labels) == ({"text_a": [b"fine"]}, [1])


def test_pairs_have_two_texts(tmp_path):
    pairs = reviews(columns=["text_b", "label", "text_a"], text_a=None, header=False, train="t")
    data_dir = write(tmp_path, t=b"b1\tgood\ta1\nb2\tbad\ta2\n", dev__tsv=b"b\tgood\ta\n")
    train = read(pairs, data_dir, "train")
    assert train.texts == {"text_a": [b"a1", b"a2"], "text_b": [b"b1", b"b2"]}
    assert train.labels == [1, 0]


def test_split_without_labels(tmp_path):
    task = reviews(test="test.tsv", test_columns=["source", "review"])
    data_dir = write(
        tmp_path,
        train__tsv=HEADER + b"bad\tdull\tmail\n",
        dev__tsv=HEADER + b"bad\tdull\tmail\n",
        test__tsv=b"source\treview\nweb\tfine\n",
    )
    test = read(task, data_dir, "test")
    assert (test.texts, test.labels, len(test)) == ({"text_a": [b"fine"]}, None, 1)


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\n\r\0")).filter(
    str.strip
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(texts, min_size=30, max_size=60), st.floats(0.2, 0.8))
def test_hash_split_divides_the_rows_and_loses_none(tmp_path_factory, rows, eval_fraction):
    task = reviews(columns=["label", "review"], eval=None, header=False)
    lines = "".join(f"{('bad', 'good')[i % 2]}\t{text}\n" for i, text in enumerate(rows))
    data_dir = write(tmp_path_factory.mktemp("hash"), train__tsv=lines.encode())
    expected = {"train": [], "eval": []}
    for i, text in enumerate(rows):
        split = "eval" if falls_into_eval([text], eval_fraction) else "train"
        expected[split].append((text.encode(), i % 2))
    for split, wanted in expected.items():
        if not wanted:
            with pytest.raises(InputError, match=f"there is no row for {split}"):
                read(task, data_dir, split, eval_fraction=eval_fraction)
            continue
        found = read(task, data_dir, split, eval_fraction=eval_fraction)
        assert list(zip(found.texts["text_a"], found.labels, strict=True)) == wanted


MISFITS = b"".join(
    (
        b"good\tfine\tweb\n",
        b"good\ttwo columns\n",
        b"fine\tan unknown label\tweb\n",
        b"bad\tdull\tweb\n",
        b"good\t \tweb\n",
        b"good\tcaf\xe9\tweb\n",
        b"good\ta NUL: \0\tweb\n",
        b"\n",
        b"bad\tthe end\tweb\n",
    )
)


def test_rows_that_do_not_fit_are_named(tmp_path):
    data_dir = write(tmp_path, train__tsv=HEADER + MISFITS, dev__tsv=HEADER + b"bad\tx\ty\n")
    path = f"{data_dir}/train.tsv"
    with pytest.raises(InputError) as error:
        read(reviews(), data_dir, "train", max_rejects=5)
    assert str(error.value).splitlines() == [
        "6 train rows do not fit task reviews (--max-rejects allows 5). The first:",
        f"  {path}, line 3: expected 3 columns (label, review, source), found 2",
        f"  {path}, line 4, label: unknown label 'fine', known are 'bad', 'good'",
        f"  {path}, line 6, review: the text is empty",
        f"  {path}, line 7, review: not UTF-8: byte 0xe9 at position 3",
        f"  {path}, line 8, review: holds a NUL byte",
    ]


def test_rows_that_do_not_fit_may_be_left_out(tmp_path, caplog):
    data_dir = write(tmp_path, train__tsv=HEADER + MISFITS, dev__tsv=HEADER + b"bad\tx\ty\n")
    with caplog.at_level(logging.INFO, "bert_tfx"):
        train = read(reviews(), data_dir, "train", max_rejects=6)
    assert train.texts["text_a"] == [b"fine", b"dull", b"the end"]
    assert train.labels == [1, 0, 0]
    assert "6 train rows do not fit, and are left out" in caplog.text
    assert f"{data_dir}/train.tsv, line 3: expected 3 columns" in caplog.text
    assert read(reviews(), data_dir, "eval").labels == [0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HEADER, "train.tsv: there is no row for train"),
        (HEADER + b"worse\tdull\tweb\n", "train.tsv: there is no row for train"),
        (b"", "train.tsv: the file is empty"),
        (b"label\treview\tsauce\nbad\tx\ty\n", "train.tsv, line 1: expected the header"),
    ],
)
def test_split_without_rows_is_told(tmp_path, content, message):
    data_dir = write(tmp_path, train__tsv=HEADER + b"bad\tx\ty\n", dev__tsv=HEADER)
    task = reviews()
    layout = resolve_layout(task, data_dir)
    write(tmp_path, train__tsv=content)
    with pytest.raises(InputError) as error:
        read_split(task, layout, "train", data_dir, eval_fraction=0.1, max_rejects=1)
    assert f"{data_dir}/{message}" in str(error.value)


def test_damaged_gzip_is_told(tmp_path):
    whole = gzip.compress(HEADER + json.dumps([*range(1000)]).encode())
    data_dir = write(tmp_path, train__tsv__gz=whole, dev__tsv=HEADER + b"bad\tx\ty\n")
    task = reviews()
    layout = resolve_layout(task, data_dir)
    write(tmp_path, train__tsv__gz=whole[:-20])
    with pytest.raises(InputError, match=r"train\.tsv\.gz: cannot be read: "):
        read_split(task, layout, "train", data_dir, eval_fraction=0.1)


# The same rows as the pipeline's.


def ingested(task, data_dir, output, **parameters):
    """Runs TsvExampleGen; returns each split's rows, as sorted tuples of label and texts."""
    node = TsvExampleGen(
        task,
        resolve_layout(task, data_dir),
        data_dir,
        rejects_dir=str(output / "rejects"),
        **parameters,
    )
    properties = TsvExampleGen.DRIVER_CLASS(None).resolve_exec_properties(
        dict(node.exec_properties), None, None
    )
    examples = standard_artifacts.Examples()
    examples.uri = str(output / "examples")
    os.makedirs(examples.uri)
    context = base_beam_executor.BaseBeamExecutor.Context(
        make_beam_pipeline_fn=lambda: beam.Pipeline(runner=FnApiRunner())
    )
    executor.Executor(context).Do({}, {"examples": [examples]}, properties)
    found = {}
    for split in artifact_utils.decode_split_names(examples.split_names):
        paths = pathlib.Path(artifact_utils.get_split_uri([examples], split)).iterdir()
        found[split] = []
        for raw in tf.data.TFRecordDataset(sorted(map(str, paths)), compression_type="GZIP"):
            features = tf.train.Example.FromString(raw.numpy()).features.feature
            texts = [features[name].bytes_list.value[0] for name in task.text_features]
            found[split].append((features["label"].int64_list.value[0], *texts))
    return {split: sorted(rows) for split, rows in found.items()}


@pytest.mark.parametrize("has_eval", [True, False])
def test_rows_are_those_of_the_pipelines_ingestion(tmp_path, has_eval):
    # Spellings of one text that differ in case, width and space, and rows that do not fit.
    rows = [
        *(f"{('bad', 'good')[i % 2]}\ttext {i % 40}{' ' * (i % 3)}\tb{i % 7}" for i in range(120)),
        *("good\tTEXT 7\tB3", "bad\tｔｅｘｔ 7\tb3", "maybe\tx\ty", "bad\t\ty", "bad\tx"),
    ]
    task = reviews(
        columns=["label", "text_a", "text_b"],
        text_a=None,
        eval="dev.tsv" if has_eval else None,
    )
    header = "label\ttext_a\ttext_b\n"
    train = header + "".join(f"{row}\r\n" for row in rows) + "\n\n"
    data_dir = write(
        tmp_path / "data", train__tsv=train.encode(), dev__tsv=f"{header}bad\tx\ty\n".encode()
    )
    expected = ingested(task, data_dir, tmp_path, eval_fraction=0.3, max_rejects=3)
    assert {*expected} == {"train", "eval"}
    assert sum(map(len, expected.values())) == 122 + has_eval
    for split, wanted in expected.items():
        found = read(task, data_dir, split, eval_fraction=0.3, max_rejects=3)
        texts = zip(found.labels, *found.texts.values(), strict=True)
        assert sorted(texts) == wanted
        assert [*found.texts] == ["text_a", "text_b"]
