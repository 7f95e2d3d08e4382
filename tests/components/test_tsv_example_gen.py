import dataclasses
import gzip
import itertools
import os
import pathlib
import re

import apache_beam as beam
import pytest
import tensorflow as tf
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ml_metadata.proto import metadata_store_pb2
from tfx.dsl.components.base import base_beam_executor
from tfx.orchestration import metadata
from tfx.orchestration import pipeline as tfx_pipeline
from tfx.orchestration.local.local_dag_runner import LocalDagRunner
from tfx.types import artifact_utils, standard_artifacts

from bert_tfx.components.tsv_example_gen import component, executor
from bert_tfx.components.tsv_example_gen.component import TsvExampleGen
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.tasks import TASKS, Layout, Task, own_task, resolve_layout

SHARED_DATA = pathlib.Path(__file__).parents[3] / "shared" / "data"

REVIEWS = own_task(
    {
        "name": "reviews",
        "labels": ["bad", "good"],
        "columns": ["label", "review", "source"],
        "text_a": "review",
        "train": "train*.tsv*",
        "eval": "dev.tsv",
        "test": "test.tsv",
        "test_columns": ["source", "review"],
    },
    where="here",
)
HEADER = b"label\treview\tsource\n"
PAIRS = own_task(
    {
        "name": "pairs",
        "labels": ["0", "1"],
        "columns": ["text_a", "text_b", "label"],
        "header": False,
        "train": "pairs.tsv",
    },
    where="here",
)


# A machine may be busy with other things.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def write(folder: pathlib.Path, **files: bytes) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_bytes(content)
    return str(folder)


def resolved(node: TsvExampleGen) -> dict:
    """Returns the execution properties as the driver hands them on."""
    return TsvExampleGen.DRIVER_CLASS(None).resolve_exec_properties(
        dict(node.exec_properties), None, None
    )


def layout_of(task: Task, data_dir: str) -> Layout:
    """Returns the task's layout with those of its files that the test wrote."""
    (layout,) = task.layouts
    splits = {split: files for split, files in layout.splits.items() if files.find(data_dir)}
    written = dataclasses.replace(task, layouts=(dataclasses.replace(layout, splits=splits),))
    return resolve_layout(written, data_dir)


def ingest(task: Task, data_dir: str, output: pathlib.Path, *, layout: Layout | None = None, **kw):
    """Runs the node's driver and executor and returns the artifact."""
    node = TsvExampleGen(
        task,
        layout
        or (layout_of(task, data_dir) if task == REVIEWS else resolve_layout(task, data_dir)),
        data_dir,
        rejects_dir=str(output / "rejects"),
        **kw,
    )
    examples = standard_artifacts.Examples()
    examples.uri = str(output / "examples")
    os.makedirs(examples.uri)
    context = base_beam_executor.BaseBeamExecutor.Context(
        make_beam_pipeline_fn=lambda: beam.Pipeline(runner=FnApiRunner())
    )
    executor.Executor(context).Do({}, {"examples": [examples]}, resolved(node))
    return examples


def dataset(examples: standard_artifacts.Examples, split: str) -> tf.data.TFRecordDataset:
    paths = sorted(pathlib.Path(artifact_utils.get_split_uri([examples], split)).iterdir())
    return tf.data.TFRecordDataset([str(path) for path in paths], compression_type="GZIP")


def records(examples: standard_artifacts.Examples, split: str) -> list[dict]:
    """Returns a split's examples as dicts, in the order of the files, without where they stood."""
    return [
        {name: value for name, value in row.items() if name != "source_row"}
        for row in whole_records(examples, split)
    ]


def whole_records(examples: standard_artifacts.Examples, split: str) -> list[dict]:
    rows = []
    for raw in dataset(examples, split):
        features = tf.train.Example.FromString(raw.numpy()).features.feature
        row = {}
        for name, feature in features.items():
            (row[name],) = feature.int64_list.value or feature.bytes_list.value
        rows.append(row)
    return rows


def counts(examples: standard_artifacts.Examples) -> dict[str, int]:
    return {
        name: value.int_value
        for name, value in examples.mlmd_artifact.custom_properties.items()
        if name.startswith("rows_")
    }


def files_below(folder: pathlib.Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


LETTERS = {b"\\": b"\\", b"t": b"\t", b"n": b"\n", b"r": b"\r"}
ESCAPE = re.compile(rb"\\(?:x([0-9a-f]{2})|(.))")


@unhurried
@given(st.text(st.characters(exclude_categories=["Cs"])).map(str.encode) | st.binary())
def test_escaped_bytes_are_one_printable_field(row):
    field = executor.escape(row)
    assert not set(field) & {chr(code) for code in (*range(32), 127)}

    def unescaped(match):
        code, letter = match.groups()
        return bytes.fromhex(code.decode()) if code else LETTERS[letter]

    # Nothing is lost.
    assert ESCAPE.sub(unescaped, field.encode()) == row


def test_escapes_are_those_of_python():
    assert executor.escape(b"a\\n\tb\r\n\0\xff") == "a\\\\n\\tb\\r\\n\\x00\\xff"


# The node, end to end. One run answers many questions.

TRAIN_A = [f"bad\tfirst {n}\tweb" for n in range(40)]
TRAIN_B = [f'good\t"second" {n} 好 \tshop' for n in range(30)]
TRAIN_C = [f"good\tthird\u2028 {n}\tweb" for n in range(30)]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    root = tmp_path_factory.mktemp("good [1]*")
    data = write(
        root / "data",
        train_a__tsv=HEADER + "\n".join(TRAIN_A).encode(),
        train_b__tsv=HEADER + ("\n".join(TRAIN_B) + "\n\n").encode(),
        train_c__tsv__gz=gzip.compress(HEADER + ("\n".join(TRAIN_C) + "\n").encode()),
        dev__tsv=b"\xef\xbb\xbf" + HEADER.replace(b"\n", b"\r\n") + b"good\tyes\tweb\r\n" * 3,
        test__tsv=b"source\treview\nweb\tnobody knows\n",
    )
    write(root / "rejects", train__tsv=b"of an earlier run\n")
    return data, root, ingest(REVIEWS, data, root)


def test_every_row_of_every_file_is_written(good):
    _, _, examples = good

    def key(row):
        return row["text_a"], row["label"], row["source"]

    expected = []
    for line in TRAIN_A + TRAIN_B + TRAIN_C:
        label, text, source = line.split("\t")
        expected.append(
            {
                "text_a": text.encode(),
                "label": int(label == "good"),
                "source": source.encode(),
            }
        )
    written = records(examples, "train")
    assert sorted(map(key, written)) == sorted(map(key, expected))
    assert records(examples, "eval") == [{"text_a": b"yes", "label": 1, "source": b"web"}] * 3
    assert records(examples, "test") == [{"text_a": b"nobody knows", "source": b"web"}]


def test_every_record_says_where_its_row_stands(good):
    data, _, examples = good
    for split in ("train", "eval", "test"):
        written = whole_records(examples, split)
        places = [row["source_row"].decode() for row in written]
        assert len({*places}) == len(places)
        for place, row in zip(places, written, strict=True):
            name, line = place.rsplit(":", 1)
            path = pathlib.Path(data, name)
            content = path.read_bytes()
            lines = (gzip.decompress(content) if name.endswith(".gz") else content).split(b"\n")
            assert row["text_a"] in lines[int(line) - 1].rstrip(b"\r").split(b"\t")
    assert {row["source_row"] for row in whole_records(examples, "eval")} == {
        b"dev.tsv:2",
        b"dev.tsv:3",
        b"dev.tsv:4",
    }


def test_an_odd_file_name_is_one_printable_field(tmp_path):
    folder = tmp_path / "data" / "a\tb"
    write(folder, train__tsv=HEADER + b"good\tfine\tweb\n", dev__tsv=HEADER + b"bad\tno\tweb\n")
    (folder / "dev.tsv").rename(folder / "dev 评.tsv")
    layout = REVIEWS.layouts[0]
    splits = {
        "train": dataclasses.replace(layout.splits["train"], pattern="*/train.tsv"),
        "eval": dataclasses.replace(layout.splits["eval"], pattern="*/dev*.tsv"),
    }
    examples = ingest(REVIEWS, str(tmp_path / "data"), tmp_path, layout=Layout("own", splits))
    (row,) = whole_records(examples, "train")
    assert row["source_row"] == rb"a\tb/train.tsv:2"
    (row,) = whole_records(examples, "eval")
    assert row["source_row"] == r"a\tb/dev 评.tsv:2".encode()


def test_records_are_shuffled(good):
    _, _, examples = good
    labels = [row["label"] for row in records(examples, "train")]
    changes = sum(a != b for a, b in itertools.pairwise(labels))
    # The files' order changes once; a fair shuffle changes about 48 times.
    assert 30 < changes < 66


def test_the_artifact_tells_what_it_holds(good):
    _, root, examples = good
    assert artifact_utils.decode_split_names(examples.split_names) == ["train", "eval", "test"]
    assert examples.get_string_custom_property("payload_format") == "FORMAT_TF_EXAMPLE"
    assert examples.get_string_custom_property("file_format") == "tfrecords_gzip"
    assert counts(examples) == {
        "rows_read_train": 100,
        "rows_written_train": 100,
        "rows_rejected_train": 0,
        "rows_written_train_bad": 40,
        "rows_written_train_good": 60,
        "rows_read_eval": 3,
        "rows_written_eval": 3,
        "rows_rejected_eval": 0,
        "rows_written_eval_bad": 0,
        "rows_written_eval_good": 3,
        "rows_read_test": 1,
        "rows_written_test": 1,
        "rows_rejected_test": 0,
    }
    assert files_below(root / "examples") == [
        f"Split-{split}/data_tfrecord-00000-of-00001.gz" for split in ("eval", "test", "train")
    ]


def test_rejects_of_an_earlier_run_are_removed(good):
    _, root, _ = good
    assert not (root / "rejects").exists()


def test_a_second_run_writes_the_same_bytes(good, tmp_path):
    data, root, _ = good
    ingest(REVIEWS, data, tmp_path)
    for name in files_below(root / "examples"):
        assert (root / "examples" / name).read_bytes() == (
            tmp_path / "examples" / name
        ).read_bytes()


BAD_TRAIN = HEADER + (
    b"good\tfine\tweb\n"
    b"good\tno source\n"
    b"\n"
    b"good\ta\tb\tc\n"
    b"great\tlabel\tweb\n"
    b"good\tby\xffte\tweb\n"
    b"good\tn\0ul\tw\\eb\n"
    b"good\t \tweb\n" + b"good\t" + b"x" * 1_000_000 + b"\tweb\n"
    b"bad\tfine too\tweb\n"
)
BAD_EVAL = HEADER + b"good\tfine\tweb\ngood\r\nbad\tfine\tweb\n"
BAD_LINES = [
    ("3", "", "expected 3 columns (label, review, source), found 2", "good\\tno source"),
    ("4", "", "expected 3 columns (label, review, source), found 1", ""),
    ("5", "", "expected 3 columns (label, review, source), found 4", "good\\ta\\tb\\tc"),
    ("6", "label", "unknown label 'great', known are 'bad', 'good'", "great\\tlabel\\tweb"),
    ("7", "review", "not UTF-8: byte 0xff at position 2", "good\\tby\\xffte\\tweb"),
    ("8", "review", "holds a NUL byte", "good\\tn\\x00ul\\tw\\\\eb"),
    ("9", "review", "the text is empty", "good\\t \\tweb"),
    ("10", "", "longer than 262,144 bytes", "good\\t" + "x" * (8 * 1024 - 5) + "..."),
]


@pytest.fixture
def bad_data(tmp_path):
    return write(tmp_path / "data", train__tsv=BAD_TRAIN, dev__tsv=BAD_EVAL)


def test_as_many_rejects_as_allowed_are_listed_and_left_out(bad_data, tmp_path):
    examples = ingest(REVIEWS, bad_data, tmp_path, max_rejects=9)
    assert sorted(row["text_a"] for row in records(examples, "train")) == [b"fine", b"fine too"]
    assert len(records(examples, "eval")) == 2
    got = counts(examples)
    assert (got["rows_read_train"], got["rows_rejected_train"], got["rows_written_train"]) == (
        10,
        8,
        2,
    )
    assert (got["rows_read_eval"], got["rows_rejected_eval"], got["rows_written_eval"]) == (3, 1, 2)

    assert files_below(tmp_path / "rejects") == ["eval.tsv", "train.tsv"]
    lines = (tmp_path / "rejects" / "train.tsv").read_text(encoding="utf-8").split("\n")
    assert lines.pop() == ""
    assert lines[0].split("\t") == ["file", "line", "column", "reason", "row"]
    assert [tuple(line.split("\t")) for line in lines[1:]] == [
        (f"{bad_data}/train.tsv", *fields) for fields in BAD_LINES
    ]
    assert (tmp_path / "rejects" / "eval.tsv").read_text().split("\n")[1] == (
        f"{bad_data}/dev.tsv\t3\t\texpected 3 columns (label, review, source), found 1\tgood"
    )


def test_one_reject_more_than_allowed_stops_the_run(bad_data, tmp_path, monkeypatch):
    monkeypatch.setattr(executor, "MAX_LISTED_REJECTS", 6)
    with pytest.raises(InputError) as stopped:
        ingest(REVIEWS, bad_data, tmp_path, max_rejects=8)
    train = f"  {bad_data}/train.tsv, line"
    columns = "expected 3 columns (label, review, source), found"
    rejects = tmp_path / "rejects"
    assert str(stopped.value) == "\n".join(
        [
            "9 of 13 rows do not fit, 8 are allowed:",
            f"{train} 3: {columns} 2",
            f"{train} 4: {columns} 1",
            f"{train} 5: {columns} 4",
            f"{train} 6, label: unknown label 'great', known are 'bad', 'good'",
            f"{train} 7, review: not UTF-8: byte 0xff at position 2",
            "  ...",
            f"7 are listed in {rejects}/train.tsv and {rejects}/eval.tsv. Mend these rows, or go "
            "on without them: --max-rejects 9",
        ]
    )
    assert files_below(tmp_path / "examples") == []
    lines = (rejects / "train.tsv").read_text(encoding="utf-8").split("\n")
    assert len(lines) == 1 + 6 + 1 + 1
    assert lines[-2] == "\t\t\t2 more rows were rejected and are not listed\t"


def test_files_that_cannot_be_read_stop_the_run(tmp_path):
    data = write(
        tmp_path / "data",
        train_a__tsv=HEADER + b"good\tfine\tweb\n",
        train_b__tsv=b"label\ttext\tsource\ngood\tfine\tweb\n",
        train_c__tsv=b"",
        train_d__tsv__gz=gzip.compress(HEADER + os.urandom(9999).hex().encode())[:-900],
        train_e__tsv__gz=b"no gzip\n",
        dev__tsv=HEADER + b"good\tfine\tweb\nbad\n",
    )
    (tmp_path / "data" / "train_f.tsv").mkdir()
    layout = REVIEWS.layouts[0]
    layout = Layout(layout.name, {name: layout.splits[name] for name in ("train", "eval")})
    with pytest.raises(InputError) as stopped:
        ingest(REVIEWS, data, tmp_path, layout=layout)
    messages = str(stopped.value).split("\n")
    assert messages[0] == (
        f"{data}/train_b.tsv, line 1: expected the header 'label' <tab> 'review' <tab> 'source', "
        "found 'label' <tab> 'text' <tab> 'source'"
    )
    assert messages[1] == f"{data}/train_c.tsv: the file is empty"
    assert messages[2].startswith(f"{data}/train_d.tsv.gz: cannot be read: Compressed file ended")
    assert messages[3].startswith(f"{data}/train_e.tsv.gz: cannot be read: Not a gzipped file")
    assert messages[4] == f"{data}/train_f.tsv: cannot be read: Is a directory"
    assert len(messages) == 5
    assert files_below(tmp_path / "examples") == []


def test_a_file_that_vanished_is_named(tmp_path):
    data = write(tmp_path / "data", train__tsv=HEADER + b"good\tfine\tweb\n", dev__tsv=HEADER)
    layout = layout_of(REVIEWS, data)
    (tmp_path / "data" / "train.tsv").unlink()
    with pytest.raises(InputError, match=r"data/train\*\.tsv\*: no such file.*'train'"):
        ingest(REVIEWS, data, tmp_path, layout=layout)
    (tmp_path / "data" / "train.tsv").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"data/train\.tsv: cannot be read: No such file"):
        ingest(REVIEWS, data, tmp_path / "other", layout=layout)


@pytest.mark.parametrize(
    ("dev", "max_rejects", "message"),
    [
        (HEADER, 0, "{data}/dev.tsv: there is no row for eval"),
        (
            HEADER + b"good\n",
            1,
            "{data}/dev.tsv: no row is left for eval: all were rejected, see "
            "{root}/rejects/eval.tsv",
        ),
    ],
)
def test_a_split_without_rows_stops_the_run(dev, max_rejects, message, tmp_path):
    data = write(tmp_path / "data", train__tsv=HEADER + b"good\tfine\tweb\n", dev__tsv=dev)
    with pytest.raises(InputError) as stopped:
        ingest(REVIEWS, data, tmp_path, max_rejects=max_rejects)
    assert str(stopped.value) == message.format(data=data, root=tmp_path)
    assert files_below(tmp_path / "examples") == []


def test_hash_split_keeps_equal_and_swapped_pairs_together(tmp_path, monkeypatch):
    monkeypatch.setattr(executor, "SHARD_BYTES", 2000)
    rows = [f"question {n}\tanswer {n}\t{n % 2}" for n in range(100)]
    rows += [f"answer {n}\tQuestion  {n}\t{n % 2}" for n in range(100)] + rows[:50] + ["no pair"]
    data = write(tmp_path / "data", pairs__tsv="\n".join(rows).encode())
    examples = ingest(PAIRS, data, tmp_path, eval_fraction=0.3, max_rejects=1)
    assert artifact_utils.decode_split_names(examples.split_names) == ["train", "eval"]

    def keys(split):
        written = records(examples, split)
        return written, {
            " ".join(sorted((row["text_a"] + b" " + row["text_b"]).lower().decode().split()))
            for row in written
        }

    (train, train_keys), (held_out, eval_keys) = keys("train"), keys("eval")
    assert not train_keys & eval_keys
    assert len(train) + len(held_out) == 250
    assert len(train_keys) + len(eval_keys) == 100
    assert 15 < len(eval_keys) < 45
    got = counts(examples)
    assert (got["rows_read_train"], got["rows_rejected_train"]) == (len(train) + 1, 1)
    assert (got["rows_read_eval"], got["rows_rejected_eval"]) == (len(held_out), 0)
    assert len(files_below(tmp_path / "examples" / "Split-train")) > 1


def test_hash_split_without_a_row_for_eval_stops_the_run(tmp_path):
    data = write(tmp_path / "data", pairs__tsv=b"a\tb\t0\nc\td\t1\n")
    with pytest.raises(InputError) as stopped:
        ingest(PAIRS, data, tmp_path, eval_fraction=1e-9)
    assert str(stopped.value).startswith(
        f"{data}/pairs.tsv: none of 2 rows fell into eval: a hash of their text gives 1e-09 of all"
    )


def test_a_test_split_beside_a_hash_split_is_read_as_it_is(tmp_path):
    task = own_task(
        {
            "name": "own",
            "labels": ["0", "1"],
            "columns": ["label", "text_a"],
            "train": "all.tsv",
            "test": "test.tsv",
            "test_columns": ["text_a"],
        },
        where="here",
    )
    rows = "".join(f"{n % 2}\ttext {n}\n" for n in range(60))
    data = write(
        tmp_path / "data",
        all__tsv=b"label\ttext_a\n" + rows.encode(),
        test__tsv=b"text_a\ntext 1\n",
    )
    examples = ingest(task, data, tmp_path, eval_fraction=0.5)
    assert artifact_utils.decode_split_names(examples.split_names) == ["train", "eval", "test"]
    assert records(examples, "test") == [{"text_a": b"text 1"}]
    assert len(records(examples, "train")) + len(records(examples, "eval")) == 60


# The driver: spans and cache keys.


@pytest.fixture
def spans(tmp_path):
    task = own_task(
        {
            "name": "spans",
            "labels": ["0", "1"],
            "columns": ["label", "text_a"],
            "train": "span-{SPAN}/train.tsv",
            "eval": "span-{SPAN}/dev.tsv",
        },
        where="here",
    )
    for span in (1, 2, 10):
        write(
            tmp_path / f"span-{span}",
            train__tsv=f"label\ttext_a\n0\ttrain {span}\n".encode(),
            dev__tsv=f"label\ttext_a\n1\tdev {span}\n".encode(),
        )
    return task, tmp_path


def test_the_newest_span_is_read(spans):
    task, root = spans
    examples = ingest(task, str(root), root / "out")
    assert records(examples, "train") == [{"label": 0, "text_a": b"train 10"}]
    assert records(examples, "eval") == [{"label": 1, "text_a": b"dev 10"}]


def test_a_window_of_spans_is_read(spans):
    task, root = spans
    layout = resolve_layout(task, str(root), span="2", window=5)
    examples = ingest(task, str(root), root / "out", layout=layout)
    texts = {row["text_a"] for row in records(examples, "train")}
    assert texts == {b"train 1", b"train 2"}
    sources = {row["source_row"] for row in whole_records(examples, "eval")}
    assert sources == {b"span-1/dev.tsv:2", b"span-2/dev.tsv:2"}


def test_the_newest_span_is_noted(spans):
    task, root = spans
    layout = resolve_layout(task, str(root), span="2", window=2)
    properties = resolved(TsvExampleGen(task, layout, str(root), rejects_dir="rejects"))
    assert (properties["span"], properties["version"]) == (2, None)


def test_other_spans_are_other_inputs(spans):
    task, root = spans

    def key(**chosen):
        layout = resolve_layout(task, str(root), **chosen)
        return resolved(TsvExampleGen(task, layout, str(root), rejects_dir="rejects"))

    assert key() == key(span="10")
    assert key()["input_fingerprint"] != key(window=2)["input_fingerprint"]


def test_a_file_that_is_gone_is_an_input_error(spans):
    task, root = spans
    node = TsvExampleGen(task, resolve_layout(task, str(root)), str(root), rejects_dir="rejects")
    (root / "span-10" / "dev.tsv").unlink()
    with pytest.raises(InputError, match=r"span-\{SPAN\}/dev\.tsv: no such file"):
        resolved(node)


def test_what_the_node_reads_and_how_is_part_of_the_cache_key(tmp_path, monkeypatch):
    data = write(tmp_path / "data [1]", train__tsv=HEADER + b"good\tfine\tweb\n", dev__tsv=HEADER)
    layout = layout_of(REVIEWS, data)

    def key(**parameters):
        node = TsvExampleGen(REVIEWS, layout, data, rejects_dir="rejects", **parameters)
        return {k: str(v) for k, v in resolved(node).items()}

    plain = key()
    assert key() == plain
    with monkeypatch.context() as edited:
        edited.setattr(component, "source_fingerprint", lambda module: f"another of {module}")
        assert key() != plain
    assert key() == plain
    assert key(max_rejects=1) != plain
    assert key(eval_fraction=0.2) != plain
    (tmp_path / "data [1]" / "dev.tsv").write_bytes(HEADER + b"bad\tmore\tweb\n")
    assert key()["input_fingerprint"] != plain["input_fingerprint"]


def test_a_file_that_was_copied_anew_is_no_other_input(tmp_path):
    data = write(tmp_path, train__tsv=HEADER + b"good\tfine\tweb\n", dev__tsv=HEADER)
    node = TsvExampleGen(REVIEWS, layout_of(REVIEWS, data), data, rejects_dir="rejects")
    before = resolved(node)
    os.utime(tmp_path / "train.tsv", (1, 1))
    assert resolved(node) == before
    # Of the same size, within the same second.
    (tmp_path / "train.tsv").write_bytes(HEADER + b"good\tfind\tweb\n")
    os.utime(tmp_path / "train.tsv", (1, 1))
    assert resolved(node) != before


@pytest.mark.parametrize(
    "parameters", [{"max_rejects": -1}, {"eval_fraction": 0.0}, {"eval_fraction": 1.0}]
)
def test_parameters_out_of_range_are_refused(parameters):
    task = TASKS["sst2"]
    with pytest.raises(InputError, match=rf"{next(iter(parameters))} must"):
        TsvExampleGen(task, task.layouts[0], "data", rejects_dir="rejects", **parameters)


# In a pipeline, as the orchestrator runs it.


def test_in_a_pipeline_counts_are_recorded_and_a_second_run_is_cached(tmp_path):
    data = write(
        tmp_path / "data",
        train__tsv=HEADER + b"good\tfine\tweb\n",
        dev__tsv=HEADER + b"bad\tnot fine\tweb\n",
    )
    layout = layout_of(REVIEWS, data)
    connection = metadata.sqlite_metadata_connection_config(str(tmp_path / "metadata.sqlite"))
    pipeline = tfx_pipeline.Pipeline(
        pipeline_name="ingest",
        pipeline_root=str(tmp_path / "artifacts"),
        metadata_connection_config=connection,
        components=[TsvExampleGen(REVIEWS, layout, data, rejects_dir=str(tmp_path / "rejects"))],
        enable_cache=True,
        # The image is never pulled; where one is named, TFX does not pack itself into an sdist.
        beam_pipeline_args=["--runner=FnApiRunner", "--sdk_container_image=none"],
    )

    def live() -> list[metadata_store_pb2.Artifact]:
        with metadata.Metadata(connection) as handle:
            artifacts = handle.store.get_artifacts_by_type("Examples")
        return [a for a in artifacts if a.state == metadata_store_pb2.Artifact.LIVE]

    LocalDagRunner().run(pipeline)
    (first,) = live()
    assert first.custom_properties["rows_written_train_good"].int_value == 1
    assert first.custom_properties["rows_read_eval"].int_value == 1
    LocalDagRunner().run(pipeline)
    assert live() == [first]

    # A mistake reaches the caller as it is, and leaves nothing behind.
    before = files_below(tmp_path / "artifacts")
    write(tmp_path / "data", train__tsv=HEADER + b"good\tfine\tweb\nbad\n")
    with pytest.raises(InputError, match="1 of 3 rows do not fit, 0 are allowed"):
        LocalDagRunner().run(pipeline)
    assert live() == [first]
    assert files_below(tmp_path / "artifacts") == before
    assert files_below(tmp_path / "rejects") == ["train.tsv"]


# Real data sets, where they lie beside the project.


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("chnsenticorp", {"train": 9600, "eval": 1200}),
        ("lcqmc", {"both": 8802}),
        ("sst2", {"train": 67349, "eval": 872}),
    ],
)
@pytest.mark.slow
def test_published_data_sets_lose_no_row(name, read, tmp_path):
    data = SHARED_DATA / name
    if not data.is_dir():
        pytest.skip(f"{data} is not there")
    examples = ingest(TASKS[name], str(data), tmp_path)
    got = counts(examples)
    assert got["rows_rejected_train"] == got["rows_rejected_eval"] == 0
    written = {
        split: dataset(examples, split).reduce(0, lambda n, _: n + 1).numpy()
        for split in ("train", "eval")
    }
    assert written == {split: got[f"rows_written_{split}"] for split in written}
    if "both" in read:
        assert sum(written.values()) == read["both"]
        assert 0.08 < written["eval"] / read["both"] < 0.12
    else:
        assert written == read
