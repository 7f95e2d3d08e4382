import collections
import gzip
import itertools
import json
import pathlib
import random
import time
import tracemalloc

import apache_beam as beam
import pytest
import tensorflow as tf
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bert_tfx.components.data_gate import repeats
from bert_tfx.components.data_gate.checks import WARN, parse_limits
from bert_tfx.components.data_gate.executor import check_repeats
from bert_tfx.components.data_gate.repeats import (
    FirstFindings,
    Found,
    JudgeText,
    find_repeats,
    keyed_row,
    read_leaked_eval_rows,
    read_repeats,
)
from bert_tfx.schema.rows import Misfit, falls_into_eval, normalize_text, parse_files
from bert_tfx.schema.tasks import LABEL, TASKS, resolve_layout

SHARED_DATA = pathlib.Path(__file__).parents[3] / "shared" / "data"

# A machine may be busy with other things.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

# A split, texts, a label or None, a file, a line.
Sample = tuple[str, tuple[str, ...], int | None, str, int]


def search(samples: list[Sample], *, with_text: bool = False) -> tuple[dict, list[bytes]]:
    """Does without Beam what the search does with it."""
    groups = collections.defaultdict(list)
    for split, texts, label, file, line in samples:
        key, row = keyed_row(
            split,
            [text.encode() for text in texts],
            -1 if label is None else label,
            f"{file}:{line}".encode(),
            with_text=with_text,
        )
        groups[key].append(row)
    findings, leaked = collections.defaultdict(list), []
    for group in groups.items():
        for element in JudgeText().process(group):
            if isinstance(element, beam.pvalue.TaggedOutput):
                leaked.append(element.value)
            else:
                findings[element[0]].append(element[1])
    combine = FirstFindings()
    found = {}
    for where, some in findings.items():
        accumulator = combine.create_accumulator()
        for finding in some:
            accumulator = combine.add_input(accumulator, finding)
        found[where] = combine.extract_output(accumulator)
    return found, leaked


def reference(samples: list[Sample]) -> tuple[dict, list[bytes]]:
    """Compares every row with every other."""
    findings: dict = collections.defaultdict(dict)
    leaked = []

    def same(a: Sample, b: Sample) -> bool:
        return [*map(normalize_text, a[1])] == [*map(normalize_text, b[1])]

    def same_in_any_order(a: Sample, b: Sample) -> bool:
        return sorted(map(normalize_text, a[1])) == sorted(map(normalize_text, b[1]))

    def place(sample: Sample) -> tuple[bytes, int]:
        return sample[3].encode(), sample[4]

    for row in samples:
        split = row[0]
        others = [other for other in samples if other is not row]
        earlier = [o for o in others if o[0] == split and place(o) < place(row) and same(o, row)]
        if earlier:
            alike = [other for other in earlier if other[1] == row[1]]
            findings["duplicates", (split,)][place(row)] = (
                bool(alike),
                min(map(place, alike or earlier)),
            )
        in_train = [o for o in others if o[0] == "train" and same_in_any_order(o, row)]
        if split != "train" and in_train:
            alike = [other for other in in_train if other[1] == row[1]]
            findings["leakage", ("train", split)][place(row)] = (
                bool(alike),
                min(map(place, alike or in_train)),
            )
            if split == "eval":
                leaked.append(f"{row[3]}:{row[4]}".encode())
        for against in {split, "train"}:
            contrary = [
                other
                for other in others
                if other[0] == against
                and same(other, row)
                and None not in (other[2], row[2])
                and other[2] != row[2]
            ]
            if contrary:
                splits = (split,) if against == split else (against, split)
                findings["contradictions", splits][place(row)] = (False, min(map(place, contrary)))
    found = {
        where: (
            len(rows),
            sum(exact for exact, _ in rows.values()),
            [(row, exact, other, None) for row, (exact, other) in sorted(rows.items())[:10]],
        )
        for where, rows in findings.items()
    }
    return found, leaked


# Few texts, of which some are the same but for case, width and space.
TEXTS = st.sampled_from(["a", "A", " a", "Ａ", "a b", "ab", "a  B", "好", "好 ", "好 b", "好b"])


@st.composite
def samples(draw: st.DrawFn) -> list[Sample]:
    is_pair = draw(st.booleans())
    drawn = draw(
        st.lists(
            st.tuples(
                st.sampled_from(["train", "eval", "test"]),
                st.tuples(TEXTS, TEXTS) if is_pair else st.tuples(TEXTS),
                st.sampled_from([0, 1, 2]),
                st.sampled_from(["x.tsv", "y.tsv"]),
            ),
            max_size=40,
        )
    )
    lines = draw(st.permutations(range(1, len(drawn) + 1)))
    unlabelled_test = draw(st.booleans())
    return [
        (split, texts, None if unlabelled_test and split == "test" else label, file, line)
        for (split, texts, label, file), line in zip(drawn, lines, strict=True)
    ]


@unhurried
@given(samples())
def test_the_search_finds_what_comparing_all_rows_finds(rows):
    found, leaked = search(rows)
    expected, expected_leaked = reference(rows)
    assert found == expected
    assert sorted(leaked) == sorted(expected_leaked)


@unhurried
@given(samples(), st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_nothing(rows, rng):
    shuffled = rng.sample(rows, len(rows))
    assert search(rows)[0] == search(shuffled)[0]


def test_lines_are_numbers_and_only_the_first_ten_are_shown():
    rows = [("train", ("same",), 0, "x.tsv", line) for line in range(1, 31)]
    random.Random(1).shuffle(rows)
    (count, exact, findings) = search(rows)[0]["duplicates", ("train",)]
    assert (count, exact) == (29, 29)
    assert [row for row, *_ in findings] == [(b"x.tsv", line) for line in range(2, 12)]
    assert {other for _, _, other, _ in findings} == {(b"x.tsv", 1)}


def test_a_pair_the_other_way_round_leaks_but_contradicts_and_repeats_nothing():
    rows = [
        ("train", ("a", "b"), 0, "x.tsv", 1),
        ("train", ("b", "a"), 1, "x.tsv", 2),
        ("eval", ("B", "A"), 1, "y.tsv", 1),
    ]
    found, leaked = search(rows)
    assert found == {
        ("leakage", ("train", "eval")): (1, 0, [((b"y.tsv", 1), False, (b"x.tsv", 1), None)])
    }
    assert leaked == [b"y.tsv:1"]


@unhurried
@given(
    st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=30),
    st.floats(0.05, 0.95),
)
def test_a_hash_split_leaks_nothing(pairs, fraction):
    rows = [
        ("eval" if falls_into_eval(pair, fraction) else "train", pair, 0, "x.tsv", line)
        for line, pair in enumerate(pairs, start=1)
    ]
    found, leaked = search(rows)
    assert not leaked
    assert ("leakage", ("train", "eval")) not in found


def test_text_is_carried_only_where_it_may_be_reported():
    rows = [("train", ("secret" * 100, "b\u2028"), 0, "x.tsv", line) for line in (1, 2)]
    texts = [
        finding[3]
        for with_text in (False, True)
        for _, _, findings in search(rows, with_text=with_text)[0].values()
        for finding in findings
    ]
    assert texts == [None, ("secret" * 100)[:200] + "\tb\u2028"]


# Memory.


@unhurried
@given(st.lists(st.lists(st.integers(0, 60), max_size=25), max_size=5))
def test_findings_are_added_up_as_if_on_one_worker(workers):
    combine = FirstFindings()
    accumulators = []
    for numbers in workers:
        accumulator = combine.create_accumulator()
        for number in numbers:
            finding = ((b"x", number), number % 2 == 0, (b"y", 1), None)
            accumulator = combine.add_input(accumulator, finding)
            assert len(accumulator[2]) <= repeats.MAX_EXAMPLES
        accumulators.append(accumulator)
    count, exact, findings = combine.extract_output(combine.merge_accumulators(accumulators))
    everything = sorted(itertools.chain(*workers))
    assert count == len(everything)
    assert exact == sum(number % 2 == 0 for number in everything)
    assert [row[1] for row, *_ in findings] == everything[:10]


def test_a_text_that_stands_everywhere_is_never_held_as_a_whole():
    class Rows:
        """Rows that are made as they are read, as a runner streams them."""

        def __iter__(self):
            for line in range(1, 100_001):
                split = "train" if line % 2 else "eval"
                yield (split, line % 3, b"x.tsv:%d" % line, b"exact", False, None)

    combine = FirstFindings()
    accumulators = collections.defaultdict(combine.create_accumulator)
    leaked = 0
    tracemalloc.start()
    for element in JudgeText().process((b"key", Rows())):
        if isinstance(element, beam.pvalue.TaggedOutput):
            leaked += 1
        else:
            where, finding = element
            accumulators[where] = combine.add_input(accumulators[where], finding)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert leaked == 50_000
    assert accumulators["duplicates", ("train",)][0] == 49_999
    assert accumulators["contradictions", ("train", "eval")][0] == 50_000
    # A hundred thousand rows would take ten megabytes.
    assert peak < 100_000


# On Beam.


def write_split(folder: pathlib.Path, rows: list[Sample], names: tuple[str, ...]) -> list[str]:
    """Writes a split's rows to two files, as the ingestion does."""
    folder.mkdir(parents=True)
    paths = [str(folder / f"data-{number}.gz") for number in range(2)]
    for number, path in enumerate(paths):
        with tf.io.TFRecordWriter(path, "GZIP") as writer:
            for _, texts, label, file, line in rows[number::2]:
                example = tf.train.Example()
                features = example.features.feature
                for name, text in zip(names, texts, strict=True):
                    features[name].bytes_list.value.append(text.encode())
                if label is not None:
                    features["label"].int64_list.value.append(label)
                features["source_row"].bytes_list.value.append(f"{file}:{line}".encode())
                writer.write(example.SerializeToString())
    return paths


def run_beam(folder: pathlib.Path, rows: list[Sample], names: tuple[str, ...], **options) -> dict:
    splits = dict.fromkeys(row[0] for row in rows)
    files = {
        split: write_split(folder / split, [row for row in rows if row[0] == split], names)
        for split in splits
    }
    (folder / "found").mkdir()
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        find_repeats(pipeline, files, names, str(folder / "found"), **options)
    return read_repeats(str(folder / "found"))


def some_rows() -> list[Sample]:
    rng = random.Random(7)
    words = ["good", "Good", "bad", "好", "很 好", "很好", "film"]
    return [
        (
            rng.choice(["train", "train", "eval", "test"]),
            (" ".join(rng.choices(words, k=2)), rng.choice(words)),
            rng.randint(0, 1),
            "数据.tsv",
            line,
        )
        for line in range(1, 200)
    ]


def test_beam_finds_what_comparing_all_rows_finds(tmp_path):
    rows = some_rows()
    found = run_beam(tmp_path, rows, ("text_a", "text_b"), with_text=False)
    expected, leaked = reference(rows)
    assert len(expected) > 6
    assert found == {
        where: Found(
            count,
            exact,
            [
                {
                    "row": f"{row[0].decode()}:{row[1]}",
                    "other_row": f"{other[0].decode()}:{other[1]}",
                }
                for row, _, other, _ in findings
            ],
        )
        for where, (count, exact, findings) in expected.items()
    }
    folder = tmp_path / "found"
    assert read_leaked_eval_rows(str(folder)) == {*leaked}
    # Nothing else is left, and the list is sorted as a person would sort it.
    assert [path.name for path in folder.iterdir()] == ["leaked_eval_rows.txt.gz"]
    lines = gzip.decompress((folder / "leaked_eval_rows.txt.gz").read_bytes()).splitlines()
    assert lines == sorted(leaked, key=lambda row: int(row.rsplit(b":")[-1]))


def test_the_same_rows_give_the_same_files(tmp_path):
    rows = some_rows()
    names = ("text_a", "text_b")
    first = run_beam(tmp_path / "first", rows, names, with_text=True)
    second = run_beam(tmp_path / "second", rows[::-1], names, with_text=True)
    assert first == second
    assert all("text" in row for found in first.values() for row in found.examples)
    leaked = [tmp_path / run / "found" / "leaked_eval_rows.txt.gz" for run in ("first", "second")]
    assert leaked[0].read_bytes() == leaked[1].read_bytes()


def test_rows_without_repeats_leave_an_empty_list(tmp_path):
    rows = [("train", (f"text {n}",), 0, "x.tsv", n) for n in range(1, 6)]
    assert run_beam(tmp_path, rows, ("text_a",), with_text=False) == {}
    assert read_leaked_eval_rows(str(tmp_path / "found")) == frozenset()


def test_no_text_reaches_a_file_unless_it_may(tmp_path):
    rows = [("train", ("secret",), 0, "x.tsv", 1), ("eval", ("secret",), 1, "y.tsv", 1)]
    for with_text in (False, True):
        folder = tmp_path / str(with_text)
        found = run_beam(folder, rows, ("text_a",), with_text=with_text)
        shown = json.dumps([result.examples for result in found.values()])
        assert ("secret" in shown) == with_text
        assert b"secret" not in gzip.decompress(next((folder / "found").iterdir()).read_bytes())


# Published data, where it lies beside the project.


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "chnsenticorp",
            {
                ("duplicates", ("train",)): (1358, 1351),
                ("duplicates", ("eval",)): (22, 22),
                ("leakage", ("train", "eval")): (340, 338),
                ("contradictions", ("train",)): (57, 0),
                ("contradictions", ("eval",)): (2, 0),
                ("contradictions", ("train", "eval")): (9, 0),
            },
        ),
        ("lcqmc", {("duplicates", ("train",)): (5, 0)}),
        (
            "sst2",
            {("duplicates", ("train",)): (371, 371), ("contradictions", ("train",)): (10, 0)},
        ),
    ],
)
def test_what_repeats_in_published_data(name, expected, tmp_path):
    data = SHARED_DATA / name
    if not data.is_dir():
        pytest.skip(f"{data} is not there")
    task = TASKS[name]
    layout = resolve_layout(task, str(data))
    rows: list[Sample] = []
    for split, files in layout.splits.items():
        for path, line, row in parse_files(files, task.labels, str(data)):
            assert not isinstance(row, Misfit)
            texts = tuple(bytes(row[feature]).decode() for feature in task.text_features)
            side = "eval" if layout.hash_split and falls_into_eval(texts, 0.1) else split
            rows.append((side, texts, int(row[LABEL]), pathlib.Path(path).name, line))
    started = time.monotonic()
    found = run_beam(tmp_path, rows, task.text_features, with_text=False)
    seconds = time.monotonic() - started
    counts = {where: (result.count, result.exact) for where, result in found.items()}
    print(f"\n{name}: {len(rows):,} rows in {seconds:.1f} s: {counts}")
    assert counts == expected
    # As published it passes, with warnings that are true.
    sizes = collections.Counter(row[0] for row in rows)
    results = check_repeats(sizes, ["train", "eval"], found, parse_limits())
    warned = {(result.name, result.splits) for result in results if not result.passed}
    assert all(result.severity == WARN for result in results if not result.passed)
    rare = {("duplicates", ("eval",)), *(() if name == "chnsenticorp" else expected)}
    assert warned == expected.keys() - rare
    leaked = read_leaked_eval_rows(str(tmp_path / "found"))
    assert len(leaked) == expected.get(("leakage", ("train", "eval")), (0, 0))[0]
