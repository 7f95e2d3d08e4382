"""Executor of TokenGate."""

import dataclasses
import json
import logging
import os
from typing import Any

import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2
from tfx import types
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils
from tfx.utils import io_utils

from bert_tfx.components.data_gate import checks
from bert_tfx.components.data_gate.checks import Limits, Result, judge
from bert_tfx.components.data_gate.statistics import (
    SplitStatistics,
    Statistics,
    load_statistics,
    num_rows,
    number_distance,
)
from bert_tfx.schema.tasks import EVAL, NUM_TOKENS, NUM_TRUNCATED, NUM_UNKNOWN, TRAIN, Task

FEATURES = (NUM_TOKENS, NUM_UNKNOWN, NUM_TRUNCATED)

logger = logging.getLogger(__name__)

_DISTANCES = (
    # A check, what it compares, whether it compares train with eval, what to do.
    (
        checks.LENGTH_SKEW,
        NUM_TOKENS,
        True,
        "What is true of texts of one length need not be of another: look whether both files hold "
        "the same kind of text",
    ),
    (
        checks.UNKNOWN_SKEW,
        NUM_UNKNOWN,
        True,
        "Look whether both files hold the same language and kind of text",
    ),
    (
        checks.LENGTH_DRIFT,
        NUM_TOKENS,
        False,
        "Check that the new files are what you mean to train on",
    ),
    (
        checks.UNKNOWN_DRIFT,
        NUM_UNKNOWN,
        False,
        "Check that the new files and the vocabulary are those you mean to train with",
    ),
)


@dataclasses.dataclass(frozen=True)
class TokenFacts:
    """What statistics say of a split's tokens.

    Attributes:
        rows: Its rows.
        mean_tokens: Tokens a row, special ones included.
        median_tokens: The same.
        p90_tokens: What nine tenths of the rows have at most; an estimate, as the median.
        max_tokens: The same.
        truncated_rows: Rows that lost tokens.
        unknown_tokens: Tokens that the vocabulary does not have.
        tokens: All tokens but special ones.
    """

    rows: int
    mean_tokens: float
    median_tokens: float
    p90_tokens: float
    max_tokens: int
    truncated_rows: int
    unknown_tokens: int
    tokens: int


def statistics_options() -> tfdv.StatsOptions:
    """Returns how the statistics that the gate reads are made: of `FEATURES` alone.

    Most rows have no unknown token. As a number TFDV would put zeros and ones into one bucket, of
    another width in each split, and find alike splits 0.3 apart; as a category each count is one.
    """
    schema = schema_pb2.Schema()
    schema.feature.add(name=NUM_UNKNOWN, type=schema_pb2.INT).int_domain.is_categorical = True
    return tfdv.StatsOptions(schema=schema, feature_allowlist=list(FEATURES))


def token_facts(statistics: SplitStatistics, task: Task) -> TokenFacts:
    """Reads off what the checks need; the split has rows."""
    features = _features(statistics)
    lengths = features[NUM_TOKENS].num_stats
    rows = num_rows(statistics)
    special = 3 if task.is_pair else 2
    deciles = next(h for h in lengths.histograms if h.type == h.QUANTILES).buckets
    return TokenFacts(
        rows=rows,
        mean_tokens=round(lengths.mean, 2),
        median_tokens=lengths.median,
        p90_tokens=deciles[-1].low_value,
        max_tokens=int(lengths.max),
        truncated_rows=rows - int(features[NUM_TRUNCATED].num_stats.num_zeros),
        unknown_tokens=round(_mean(statistics, NUM_UNKNOWN) * rows),
        tokens=round(lengths.mean * rows) - special * rows,
    )


def check_tokens(split: str, facts: TokenFacts, limits: Limits) -> list[Result]:
    """Holds a split's cut rows and unknown tokens against the limits."""
    truncated = facts.truncated_rows / facts.rows
    unknown = facts.unknown_tokens / max(1, facts.tokens)
    return [
        judge(
            checks.TRUNCATED,
            (split,),
            truncated,
            limits,
            rows=facts.rows,
            count=facts.truncated_rows,
            found=f"{facts.truncated_rows:,} of {facts.rows:,} {split} rows ({truncated:.2%}) are "
            "longer than the model reads and lose their end",
            advice="Raise --max-length as far as the checkpoint allows, if what decides may stand "
            "at a text's end",
        ),
        judge(
            checks.UNKNOWN,
            (split,),
            unknown,
            limits,
            rows=facts.rows,
            count=facts.unknown_tokens,
            found=f"{facts.unknown_tokens:,} of {facts.tokens:,} {split} tokens ({unknown:.2%}) "
            "are not in the vocabulary",
            advice="The model sees [UNK] in their place: take a checkpoint and a vocabulary of the "
            "text's language and casing",
        ),
    ]


def check_distances(
    statistics: Statistics,
    baseline: Statistics,
    limits: Limits,
) -> list[Result]:
    """Compares the tokens of train and eval, and of both with those of the last accepted run."""
    results: list[Result] = []
    for name, feature, skew, advice in _DISTANCES:
        for split in (EVAL,) if skew else (TRAIN, EVAL):
            current = statistics.get(split)
            other = statistics.get(TRAIN) if skew else baseline.get(split)
            if current is None or other is None:
                continue
            distance = number_distance(feature, current, other)
            if distance is None:
                continue
            now, then = (_mean(s, feature) for s in (current, other))
            what = "tokens" if feature == NUM_TOKENS else "unknown tokens"
            results.append(
                judge(
                    name,
                    (TRAIN, EVAL) if skew else (split,),
                    distance,
                    limits,
                    rows=num_rows(current),
                    found=f"{split} rows have {now:.2f} {what} on average, those of "
                    f"{TRAIN if skew else checks.BASELINE} {then:.2f}; the Jensen-Shannon "
                    f"divergence of the two distributions is {distance:.3f}",
                    advice=advice,
                )
            )
    return results


def _features(statistics: SplitStatistics) -> dict[str, statistics_pb2.FeatureNameStatistics]:
    return {feature.path.step[0]: feature for feature in statistics.datasets[0].features}


def _mean(statistics: SplitStatistics, name: str) -> float:
    feature = _features(statistics)[name]
    if name != NUM_UNKNOWN:
        return feature.num_stats.mean
    counts = feature.string_stats.rank_histogram.buckets
    return sum(int(c.label) * c.sample_count for c in counts) / num_rows(statistics)


class Executor(base_executor.BaseExecutor):
    """Reads statistics, writes the report, raises where the run must stop."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Checks every split.

        Args:
            input_dict: `statistics`; `baseline_statistics`, empty where no run was accepted before.
            output_dict: `report`.
            exec_properties: `task` (JSON of the `Task`), `limits` (JSON that `parse_limits` reads).

        Raises:
            DataRefused: If the model could not read the text.
        """
        task = Task.from_json(exec_properties["task"])
        limits = checks.parse_limits(json.loads(exec_properties["limits"]))
        statistics_artifact = artifact_utils.get_single_instance(input_dict["statistics"])
        report = artifact_utils.get_single_instance(output_dict["report"])
        statistics = load_statistics([statistics_artifact])
        baseline = load_statistics(input_dict.get("baseline_statistics", []))

        facts = {split: token_facts(found, task) for split, found in statistics.items()}
        results = [
            result
            for split, found in facts.items()
            for result in check_tokens(split, found, limits)
        ]
        results += check_distances(statistics, baseline, limits)
        checks.conclude(checks.TOKENS, logger, results)
        splits = {split: dataclasses.asdict(found) for split, found in facts.items()}
        io_utils.write_string_file(
            os.path.join(report.uri, checks.REPORT_FILE), checks.report_json(splits, results)
        )
        report.set_int_custom_property(checks.STATISTICS_ID, statistics_artifact.id)
