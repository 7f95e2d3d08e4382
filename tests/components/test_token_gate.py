import json
import pathlib

import numpy as np
import pandas as pd
import pytest
import tensorflow_data_validation as tfdv
from tfx.types import artifact_utils, standard_artifacts

from bert_tfx.components.data_gate import checks
from bert_tfx.components.data_gate.checks import parse_limits
from bert_tfx.components.data_gate.statistics import SplitStatistics
from bert_tfx.components.token_gate import executor
from bert_tfx.components.token_gate.component import TokenGateReport
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.tasks import TASKS

SST2 = TASKS["sst2"]
LCQMC = TASKS["lcqmc"]


def statistics(tokens, unknown=None, truncated=None) -> SplitStatistics:
    """Statistics as StatisticsGen makes them of transformed examples."""
    rows = pd.DataFrame(
        {
            "num_tokens": tokens,
            "num_unknown": 0 if unknown is None else unknown,
            "num_truncated": 0 if truncated is None else truncated,
            "label": 1,
        }
    )
    # By way of JSON, as the options reach the component.
    options = tfdv.StatsOptions.from_json(executor.statistics_options().to_json())
    return tfdv.generate_statistics_from_dataframe(rows, stats_options=options, n_jobs=1)


def lengths(count: int, mean: float, seed: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(mean, mean / 3, count)
    return np.clip(drawn.astype(int), 3, 64)


def test_statistics_are_of_the_tokens_alone():
    found = statistics([5, 6], [0, 1], [0, 0])
    assert {feature.path.step[0] for feature in found.datasets[0].features} == {*executor.FEATURES}


@pytest.mark.parametrize(("task", "special"), [(SST2, 2), (LCQMC, 3)])
def test_facts_of_a_split(task, special):
    tokens, unknown = [6, 8, 10, 64], [0, 3, 0, 12]
    facts = executor.token_facts(statistics(tokens, unknown, [0, 0, 0, 9]), task)
    assert facts == executor.TokenFacts(
        rows=4,
        mean_tokens=22.0,
        median_tokens=facts.median_tokens,
        p90_tokens=facts.p90_tokens,
        max_tokens=64,
        truncated_rows=1,
        unknown_tokens=15,
        tokens=88 - 4 * special,
    )
    assert 8 <= facts.median_tokens <= 10 <= facts.p90_tokens <= 64


def test_cut_rows_and_unknown_tokens_are_held_against_their_limits():
    facts = executor.TokenFacts(
        rows=1000,
        mean_tokens=12.0,
        median_tokens=11.0,
        p90_tokens=20.0,
        max_tokens=32,
        truncated_rows=250,
        unknown_tokens=6000,
        tokens=10000,
    )
    truncated, unknown = executor.check_tokens("eval", facts, parse_limits())
    assert (truncated.value, truncated.count, truncated.rows) == (0.25, 250, 1000)
    assert (truncated.passed, truncated.severity) == (False, "warn")
    assert truncated.message.startswith("250 of 1,000 eval rows (25.00%) are longer than the model")
    assert (unknown.value, unknown.count) == (0.6, 6000)
    assert (unknown.passed, unknown.severity) == (False, "stop")
    assert unknown.message.startswith("6,000 of 10,000 eval tokens (60.00%) are not in the vocab")
    allowed = parse_limits("truncated=0.25,unknown=1,unknown=1:stop")
    assert all(result.passed for result in executor.check_tokens("eval", facts, allowed))


def test_rows_without_tokens_have_no_unknown_ones():
    facts = executor.token_facts(statistics([2, 2]), SST2)
    _, unknown = executor.check_tokens("train", facts, parse_limits())
    assert (unknown.value, unknown.passed) == (0, True)


def test_splits_drawn_alike_are_not_told_apart():
    # Most rows have no unknown token, and the most of any row differs much between the splits.
    rng = np.random.default_rng(5)
    train = statistics(lengths(4000, 20, 1), np.append(rng.binomial(3, 0.01, 3999), 40))
    held_out = statistics(lengths(800, 20, 2), np.append(rng.binomial(3, 0.01, 799), 5))
    both = {"train": train, "eval": held_out}
    results = executor.check_distances(both, both, parse_limits())
    assert [(result.name, result.splits) for result in results] == [
        ("length_skew", ("train", "eval")),
        ("unknown_skew", ("train", "eval")),
        ("length_drift", ("train",)),
        ("length_drift", ("eval",)),
        ("unknown_drift", ("train",)),
        ("unknown_drift", ("eval",)),
    ]
    assert all(result.passed for result in results)
    assert [result.value for result in results[2:]] == [0, 0, 0, 0]
    assert results[0].value < 0.05
    assert results[1].value < 0.01


def test_longer_texts_and_another_language_are_seen():
    train = statistics(lengths(2000, 12, 1))
    held_out = statistics(lengths(500, 30, 2), np.random.default_rng(3).binomial(5, 0.5, 500))
    skews = executor.check_distances({"train": train, "eval": held_out}, {}, parse_limits())
    assert [(result.name, result.passed) for result in skews] == [
        ("length_skew", False),
        ("unknown_skew", False),
    ]
    assert "those of train 11." in skews[0].message
    assert "0.00; the Jensen-Shannon divergence" in skews[1].message

    drifts = executor.check_distances({"eval": held_out}, {"eval": train}, parse_limits())
    assert [(result.name, result.splits, result.passed) for result in drifts] == [
        ("length_drift", ("eval",), False),
        ("unknown_drift", ("eval",), False),
    ]
    assert "those of the last accepted run 11." in drifts[0].message


# The executor, on artifacts as the components before it write them.


def artifact(folder: pathlib.Path, splits: dict[str, SplitStatistics]):
    made = standard_artifacts.ExampleStatistics()
    made.uri = str(folder)
    made.split_names = artifact_utils.encode_split_names(list(splits))
    for split, found in splits.items():
        path = folder / f"Split-{split}" / "FeatureStats.pb"
        path.parent.mkdir(parents=True)
        path.write_bytes(found.SerializeToString())
    return made


def run(folder: pathlib.Path, splits, baseline=None, limits: str = "") -> dict:
    report = TokenGateReport()
    report.uri = str(folder / "report")
    current = artifact(folder / "statistics", splits)
    current.id = 23
    executor.Executor().Do(
        {
            "statistics": [current],
            "baseline_statistics": [artifact(folder / "baseline", baseline)] if baseline else [],
        },
        {"report": [report]},
        {
            "task": SST2.to_json(),
            "limits": checks.limits_json(parse_limits(limits), checks.TOKENS),
        },
    )
    assert report.get_int_custom_property(checks.STATISTICS_ID) == 23
    return json.loads((folder / "report" / checks.REPORT_FILE).read_text())


def test_good_tokens_pass_with_a_report(tmp_path, caplog):
    both = {"train": statistics(lengths(900, 20, 1)), "eval": statistics(lengths(300, 20, 2))}
    report = run(tmp_path, both)
    assert {split: facts["rows"] for split, facts in report["splits"].items()} == {
        "train": 900,
        "eval": 300,
    }
    assert report["splits"]["train"]["unknown_tokens"] == 0
    assert [check["name"] for check in report["checks"]] == [
        *["truncated", "unknown"] * 2,
        "length_skew",
        "unknown_skew",
    ]
    assert all(check["passed"] for check in report["checks"])
    assert not caplog.records


def test_drift_is_warned_of_and_stops_where_it_shall(tmp_path, caplog):
    both = {"train": statistics(lengths(900, 40, 1)), "eval": statistics(lengths(300, 40, 2))}
    before = {"train": statistics(lengths(900, 15, 3)), "eval": both["eval"]}
    report = run(tmp_path / "warn", both, before)
    assert [c["name"] for c in report["checks"] if not c["passed"]] == ["length_drift"]
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "TokenGate warns, length_drift"
    ]
    with pytest.raises(InputError, match=r"train rows have 38\.\d+ tokens on average, those of"):
        run(tmp_path / "stop", both, before, "length_drift=0.3:stop")


def test_a_vocabulary_of_another_language_stops_the_run(tmp_path):
    tokens = lengths(900, 20, 1)
    both = dict.fromkeys(("train", "eval"), statistics(tokens, tokens - 3))
    with pytest.raises(InputError) as stopped:
        run(tmp_path, both)
    first, *problems, hint = str(stopped.value).splitlines()
    assert first == "TokenGate stopped the run before training:"
    assert len(problems) == 2
    assert all(
        "are not in the vocabulary (limit: at most 0.5). The model sees" in p for p in problems
    )
    assert hint.endswith("--limits unknown=VALUE:stop")
    assert not (tmp_path / "report").exists()
