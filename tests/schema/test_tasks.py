import dataclasses
import gzip
import json
import pathlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bert_tfx.schema.errors import InputError
from bert_tfx.schema.tasks import (
    EVAL,
    SPLITS,
    TASKS,
    TEST,
    TRAIN,
    Layout,
    Task,
    TsvFiles,
    load_task,
    own_task,
    read_first_line,
    resolve_layout,
)

OWN = {
    "name": "own",
    "labels": ["no", "yes"],
    "columns": ["review", "stars", "source"],
    "text_a": "review",
    "label": "stars",
    "train": "train.tsv",
}


def write(folder: pathlib.Path, files: dict[str, str | bytes]) -> str:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(folder)


def row(files: TsvFiles) -> str:
    return "\t".join("1" if name == "label" else "some text" for name in files.columns)


def content(files: TsvFiles) -> str:
    lines = ["\t".join(files.header)] if files.header else []
    return "".join(f"{line}\n" for line in [*lines, row(files)])


LAYOUTS = [
    pytest.param(task, layout, id=f"{task.name}-{index}")
    for task in TASKS.values()
    for index, layout in enumerate(task.layouts)
]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize(("task", "layout"), LAYOUTS)
def test_every_declared_layout_is_found(task, layout, bom, end, tmp_path):
    data = write(
        tmp_path,
        {f.pattern: bom + content(f).replace("\n", end) for f in layout.splits.values()},
    )
    assert resolve_layout(task, data) == layout


@pytest.mark.parametrize(("task", "layout"), LAYOUTS)
def test_a_layout_needs_no_test_file(task, layout, tmp_path):
    data = write(
        tmp_path,
        {f.pattern: content(f) for split, f in layout.splits.items() if split != TEST},
    )
    found = resolve_layout(task, data)
    assert found.output_splits == (TRAIN, EVAL)
    assert found.splits[TRAIN] == layout.splits[TRAIN]
    assert not found.hash_split


@pytest.mark.parametrize("only", [TRAIN, EVAL])
@pytest.mark.parametrize(("task", "layout"), LAYOUTS)
def test_a_single_labelled_file_is_divided_by_hash(task, layout, only, tmp_path):
    files = layout.splits[only]
    data = write(tmp_path, {files.pattern: content(files)})
    found = resolve_layout(task, data)
    assert found.hash_split
    assert found.splits == {TRAIN: files}
    assert found.output_splits == (TRAIN, EVAL)


def test_a_test_file_stays_a_test_file_beside_a_hash_split(tmp_path):
    glue = TASKS["sst2"].layouts[0]
    data = write(
        tmp_path, {f.pattern: content(f) for s, f in glue.splits.items() if s in (EVAL, TEST)}
    )
    found = resolve_layout(TASKS["sst2"], data)
    assert found.output_splits == SPLITS
    assert found.splits == {TRAIN: glue.splits[EVAL], TEST: glue.splits[TEST]}
    assert not found.splits[TEST].labelled


def test_the_glue_test_file_without_labels_is_told_from_one_with_labels(tmp_path):
    task = TASKS["sst2"]
    unlabelled, labelled = task.layouts[:2]
    shared = {f.pattern: content(f) for s, f in unlabelled.splits.items() if s != TEST}
    for layout in (unlabelled, labelled):
        data = write(tmp_path / "x", shared | {"test.tsv": content(layout.splits[TEST])})
        assert resolve_layout(task, data) == layout


def test_the_preferred_layout_wins(tmp_path):
    task = TASKS["lcqmc"]
    data = write(
        tmp_path, {f.pattern: content(f) for lay in task.layouts for f in lay.splits.values()}
    )
    assert resolve_layout(task, data).name == "official"


def test_class_index_is_the_position_and_pairs_have_two_texts():
    assert {name: task.labels for name, task in TASKS.items()} == dict.fromkeys(TASKS, ("0", "1"))
    assert TASKS["lcqmc"].text_features == ("text_a", "text_b")
    assert TASKS["sst2"].text_features == ("text_a",)
    assert [name for name, task in TASKS.items() if task.is_pair] == ["lcqmc"]


# What does not fit.


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no such folder; --data names.*task sst2") as wrong:
        resolve_layout(TASKS["sst2"], str(tmp_path / "nowhere"))
    assert str(wrong.value).startswith(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("there", "shown"),
    [
        ([], "the folder holds nothing"),
        (["b.csv", "a.csv"], "the folder holds a.csv, b.csv"),
        (list("jihgfedcba"), "the folder holds a, b, c, d, e, f, g, h, ..."),
    ],
)
def test_missing_files_are_named_with_what_is_there(there, shown, tmp_path):
    data = write(tmp_path, dict.fromkeys(there, "x"))
    with pytest.raises(InputError) as wrong:
        resolve_layout(TASKS["lcqmc"], data)
    assert str(wrong.value) == (
        f"{data}: the files of task lcqmc are missing: expected train.txt, dev.txt or train.tsv, "
        f"dev.tsv; {shown}"
    )


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("text_a\tlabel\n", "'text_a' <tab> 'label'"),
        ("label \ttext_a\n", "'label ' <tab> 'text_a'"),
        ("label\ttext_a\tmore\n", "'label' <tab> 'text_a' <tab> 'more'"),
        ("label,text_a\n", "'label,text_a'"),
        ("1\tsome text\n", "'1' <tab> 'some text'"),
        ("\n", "''"),
        ("x" * 50, f"'{'x' * 37}...'"),
        ("a\tb\tc\td\te\tf\tg\th\ti", " <tab> ".join(map(repr, "abcdefgh")) + ", ..."),
        (b"l\0a\0", "'l\\x00a\\x00'"),
        (b"\xfflabel\ttext_a", "'\\\\xfflabel' <tab> 'text_a'"),
    ],
)
def test_another_header_is_shown_beside_the_expected_one(line, found, tmp_path):
    data = write(tmp_path, {"train.tsv": line, "dev.tsv": "label\ttext_a\n1\tx\n"})
    with pytest.raises(InputError) as wrong:
        resolve_layout(TASKS["chnsenticorp"], data)
    assert str(wrong.value) == (
        f"{data}/train.tsv, line 1: expected the header 'label' <tab> 'text_a', found {found}"
    )


def test_every_file_of_a_pattern_is_checked(tmp_path):
    task = own_task(OWN | {"train": "train-*.tsv"}, where="here")
    good = "review\tstars\tsource\n"
    data = write(tmp_path, {"train-1.tsv": good, "train-2.tsv": "other\n", "train-3.tsv": good})
    with pytest.raises(InputError, match=r"train-2\.tsv, line 1: expected the header 'review'"):
        resolve_layout(task, data)


def test_a_file_without_header_must_have_the_declared_columns(tmp_path):
    data = write(tmp_path, {"train.txt": "a\tb\t1\n", "dev.txt": "a\tb\n"})
    with pytest.raises(InputError) as wrong:
        resolve_layout(TASKS["lcqmc"], data)
    assert str(wrong.value) == (
        f"{data}/dev.txt, line 1: expected 3 columns (text_a, text_b, label), found 2"
    )


@pytest.mark.parametrize("others", [{"dev.tsv": "label\ttext_a\n"}, {}])
def test_an_empty_file_is_named(others, tmp_path):
    data = write(tmp_path, {"train.tsv": ""} | others)
    with pytest.raises(InputError) as wrong:
        resolve_layout(TASKS["chnsenticorp"], data)
    assert str(wrong.value) == f"{data}/train.tsv: the file is empty"


def test_what_does_not_fit_any_layout_is_told_once_for_each(tmp_path):
    data = write(tmp_path, {"train.tsv": "a\tb\n", "dev.tsv": "sentence\tlabel\n"})
    with pytest.raises(InputError) as wrong:
        resolve_layout(TASKS["sst2"], data)
    messages = str(wrong.value).split("\n")
    assert [m.split("header ")[1].split(",")[0] for m in messages] == [
        "'sentence' <tab> 'label'",
        "'label' <tab> 'text_a'",
        "'label' <tab> 'sentence'",
    ]
    assert all(m.startswith(f"{data}/train.tsv, line 1") for m in messages)


def test_files_that_cannot_be_read_are_named(tmp_path):
    packed = gzip.compress(b"some line\n")
    data = write(
        tmp_path,
        {"plain.gz": b"text", "cut.gz": packed[:-12], "torn.gz": packed[:10] + b"\xff" * 90},
    )
    for name in ("plain.gz", "cut.gz", "torn.gz", "missing.tsv", "."):
        path = f"{data}/{name}"
        with pytest.raises(InputError) as wrong:
            read_first_line(path)
        assert str(wrong.value).startswith(f"{path}: cannot be read: ")


def test_a_dangling_link_is_named(tmp_path):
    (tmp_path / "train.tsv").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"train\.tsv: cannot be read: No such file"):
        resolve_layout(TASKS["chnsenticorp"], str(tmp_path))


def test_gzip_is_read_by_its_name(tmp_path):
    header = "\ufeffreview\tstars\tsource\r\nx\tyes\tweb\r\n".encode()
    data = write(tmp_path, {"train.tsv.gz": gzip.compress(header)})
    assert read_first_line(f"{data}/train.tsv.gz") == b"review\tstars\tsource"
    layout = resolve_layout(own_task(OWN | {"train": "train.tsv.gz"}, where="here"), data)
    assert layout.hash_split


# A user's own task.


def test_own_columns_are_renamed_and_extra_ones_kept():
    task = own_task(OWN | {"eval": "dev.tsv"}, where="here")
    assert task.labels == ("no", "yes")
    (layout,) = task.layouts
    header = ("review", "stars", "source")
    assert layout.splits == {
        TRAIN: TsvFiles("train.tsv", ("text_a", "label", "source"), header),
        EVAL: TsvFiles("dev.tsv", ("text_a", "label", "source"), header),
    }
    assert not layout.hash_split


def test_an_own_task_without_eval_is_divided_by_hash(tmp_path):
    task = own_task(OWN | {"test": "test.tsv", "test_columns": ["source", "review"]}, where="here")
    assert task.layouts[0].hash_split
    data = write(
        tmp_path,
        {"train.tsv": "review\tstars\tsource\n", "test.tsv": "source\treview\n"},
    )
    layout = resolve_layout(task, data)
    assert layout == task.layouts[0]
    assert layout.output_splits == SPLITS
    assert layout.splits[TEST] == TsvFiles("test.tsv", ("source", "text_a"), ("source", "review"))


def test_an_own_pair_task_without_header():
    task = own_task(
        {
            "name": "own",
            "labels": [0, 1, 2],
            "columns": ["text_a", "text_b", "label"],
            "header": False,
            "train": "train.tsv",
            "test": "test.tsv",
            "text_a": None,
        },
        where="here",
    )
    assert task.is_pair
    assert task.labels == ("0", "1", "2")
    assert task.layouts[0].splits[TEST].header is None
    assert task.layouts[0].splits[TEST].columns == ("text_a", "text_b", "label")


def test_an_own_task_is_read_from_json(tmp_path):
    path = tmp_path / "task.json"
    path.write_text(json.dumps(OWN | {"labels": ["差", "好"]}), encoding="utf-8")
    assert load_task(str(path)) == own_task(OWN | {"labels": ["差", "好"]}, where="here")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "cannot read the task: No such file"),
        (b"{", "not JSON: "),
        (b'{"name": "\xff"}', "not JSON: "),
        (b"[1]", "a task is a JSON object. Received: list"),
        (b"{}", "'name' is missing"),
    ],
)
def test_a_json_file_that_is_no_task_is_named(text, reason, tmp_path):
    path = tmp_path / "task.json"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(InputError) as wrong:
        load_task(str(path))
    assert str(wrong.value).startswith(f"{path}: {reason}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lables": ["a"]}, "here: unknown key 'lables'; known are name, labels, columns, train,"),
        ({"train": None}, "here: 'train' is missing"),
        ({"labels": []}, "here: 'labels' is missing"),
        ({"labels": "ab"}, "here: 'labels' must be a list of strings. Received: 'ab'"),
        ({"labels": [True, False]}, "here: 'labels' must be a list of strings. Received: [True"),
        ({"columns": [["a"]]}, "here: 'columns' must be a list of strings. Received: [['a']]"),
        ({"test_columns": 3}, "here: 'test_columns' must be a list of strings. Received: 3"),
        ({"train": ["a.tsv"]}, "here: 'train' must be a string. Received: ['a.tsv']"),
        ({"label": 1}, "here: 'label' must be a string. Received: 1"),
        ({"header": "yes"}, "here: 'header' must be true or false. Received: 'yes'"),
        (
            {"text_a": "text"},
            "here: text_a is said to be column 'text', but the columns are review, stars, source",
        ),
        ({"text_a": None}, "task 'own', split 'train': no column holds the text (text_a). Rec"),
        ({"label": None}, "task 'own', split 'train': no column holds the label; only 'test' may"),
        (
            {"columns": ["review", "stars", "stars"]},
            "task 'own', split 'train': a column is named twice: text_a, label, label",
        ),
        (
            {"columns": ["review", "stars", "source_row"]},
            "task 'own', split 'train': a column cannot become the feature 'source_row', which",
        ),
        (
            {"columns": ["review", "stars", "a b"]},
            "task 'own', split 'train': column 'a b' cannot become a feature: its name must",
        ),
        (
            {"columns": ["review", "stars", "来源"]},
            "task 'own', split 'train': column '来源' cannot become a feature: its name must",
        ),
        ({"name": "my task"}, "task 'my task': a task's name starts with a letter and holds"),
        ({"name": "../x"}, "task '../x': a task's name starts with a letter and holds"),
        ({"labels": ["yes"]}, "task 'own': labels must be two or more different strings. Rec"),
        ({"labels": [1, "1"]}, "task 'own': labels must be two or more different strings. Rec"),
        ({"labels": ["yes", " no"]}, "task 'own': label ' no' is empty, or has space around it"),
        ({"labels": ["yes", ""]}, "task 'own': label '' is empty"),
        ({"labels": ["yes", "n\to"]}, "task 'own': label 'n\\to' is empty, or has space around it"),
        (
            {"columns": ["review", "stars", "text_b"], "test": "t", "test_columns": ["review"]},
            "task 'own': all splits must have text_b, or none",
        ),
    ],
)
def test_mistakes_in_an_own_task_are_named(change, message):
    with pytest.raises(InputError) as wrong:
        own_task(OWN | change, where="here")
    assert str(wrong.value).startswith(message)


def test_a_task_declared_in_code_is_checked_too():
    files = TsvFiles("x.tsv", ("text_a", "label"), ("a",))
    with pytest.raises(InputError, match="2 columns are declared, the header has 1"):
        Task("own", ("0", "1"), (Layout("own", {TRAIN: files}),))
    files = TsvFiles("x.tsv", ("text_a", "label"), None)
    with pytest.raises(InputError, match="split 'dev': a split is one of train, eval, test"):
        Task("own", ("0", "1"), (Layout("own", {"dev": files}),))
    pair = TsvFiles("x.tsv", ("text_a", "text_b", "label"), None)
    for layouts in (
        (Layout("both", {TRAIN: files, EVAL: pair}),),
        (Layout("one", {TRAIN: files}), Layout("other", {TRAIN: pair})),
    ):
        with pytest.raises(InputError, match="all splits must have text_b, or none"):
            Task("own", ("0", "1"), layouts)


DAILY = "{YYYY}-{MM}-{DD}/{}.tsv"


@pytest.fixture
def daily(tmp_path):
    """A task whose files arrive each day, three days of them, and a test file for all."""
    task = own_task(
        {
            "name": "daily",
            "labels": ["0", "1"],
            "columns": ["label", "text_a"],
            "train": DAILY.replace("{}", "train"),
            "eval": DAILY.replace("{}", "eval"),
            "test": "test.tsv",
        },
        where="here",
    )
    for day in ("2026-01-30", "2026-01-31", "2026-02-01"):
        write(tmp_path / day, {f"{split}.tsv": "label\ttext_a\n0\tx\n" for split in (TRAIN, EVAL)})
    write(tmp_path, {"test.tsv": "label\ttext_a\n0\tx\n"})
    return task, tmp_path


def days(layout, root, split=TRAIN):
    return [pathlib.Path(path).parts[-2] for path in layout.splits[split].find(str(root))]


def test_files_of_the_newest_span_are_found(daily):
    task, root = daily
    layout = resolve_layout(task, str(root))
    assert task.has_spans
    assert days(layout, root) == days(layout, root, EVAL) == ["2026-02-01"]
    assert len(layout.splits["test"].find(str(root))) == 1


def test_a_window_ends_with_the_span_that_is_named(daily):
    task, root = daily
    layout = resolve_layout(task, str(root), span="2026-01-31", window=2)
    assert days(layout, root) == days(layout, root, EVAL) == ["2026-01-30", "2026-01-31"]


def test_a_header_counts_in_the_window_only(daily):
    task, root = daily
    (root / "2026-01-30" / "train.tsv").write_text("old\theader\n0\tx\n")
    resolve_layout(task, str(root), window=2)
    with pytest.raises(InputError, match=r"2026-01-30/train\.tsv, line 1: expected the header"):
        resolve_layout(task, str(root), window=3)


def test_spans_are_for_files_that_arrive_over_time(tmp_path):
    for value in ({"span": "1"}, {"window": 2}):
        with pytest.raises(InputError, match="--span and --window are for files that arrive"):
            resolve_layout(TASKS["sst2"], str(tmp_path), **value)


def test_spans_go_through_json(daily):
    task, root = daily
    layout = resolve_layout(task, str(root), window=2)
    resolved = dataclasses.replace(task, layouts=(layout,))
    assert Task.from_json(resolved.to_json()) == resolved


# JSON.


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
labels = words.filter(lambda s: s and s == s.strip() and not {"\t", "\n"} & set(s))


@st.composite
def tasks(draw):
    texts = draw(st.sampled_from([("text_a",), ("text_a", "text_b")]))

    def files(split):
        extra = draw(st.sampled_from([(), ("index",), ("language", "Source-1")]))
        label = () if split == TEST and draw(st.booleans()) else ("label",)
        columns = tuple(draw(st.permutations([*texts, *label, *extra])))
        header = draw(st.none() | st.tuples(*[words for _ in columns]))
        return TsvFiles(draw(words), columns, header)

    layouts = [
        Layout(draw(words), {split: files(split) for split in splits}, draw(st.booleans()))
        for splits in draw(st.sampled_from([[(TRAIN,)], [(TEST, EVAL, TRAIN), (EVAL,)]]))
    ]
    return Task(
        "own", tuple(draw(st.lists(labels, min_size=2, max_size=4, unique=True))), tuple(layouts)
    )


# A machine may be busy with other things.
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tasks())
def test_json_brings_a_task_back(task):
    text = task.to_json()
    again = Task.from_json(text)
    assert again == task
    assert again.to_json() == text


def test_json_does_not_depend_on_the_order_of_splits():
    task = TASKS["sst2"]
    turned = Task(
        task.name,
        task.labels,
        tuple(
            Layout(lay.name, dict(reversed(lay.splits.items())), lay.hash_split)
            for lay in task.layouts
        ),
    )
    assert turned.to_json() == task.to_json()
