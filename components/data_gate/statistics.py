"""Statistics of splits: read, and how far two of them lie apart by TFDV's comparators."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2
from tfx import types
from tfx.components.statistics_gen import stats_artifact_utils
from tfx.types import artifact_utils

# TFDV's list of datasets, of which a split is one.
SplitStatistics: TypeAlias = statistics_pb2.DatasetFeatureStatisticsList
Statistics: TypeAlias = Mapping[str, SplitStatistics]


def load_statistics(artifacts: Sequence[types.Artifact]) -> dict[str, SplitStatistics]:
    """Returns the statistics of each split of an artifact; none where there is no artifact."""
    return {
        split: stats_artifact_utils.load_statistics(artifact, split).proto()
        for artifact in artifacts
        for split in artifact_utils.decode_split_names(artifact.split_names)
    }


def num_rows(statistics: SplitStatistics) -> int:
    """Returns how many rows statistics were made of."""
    return int(statistics.datasets[0].num_examples)


def label_distance(feature: str, current: SplitStatistics, other: SplitStatistics) -> float | None:
    """Returns the L-infinity distance of a category's shares: the largest difference of one.

    Args:
        feature: The category: an integer that the statistics were told is one.
        current: Of some rows.
        other: Of the rows to compare them with.

    Returns:
        A distance in [0, 1], or None where one side has no values.
    """
    schema = schema_pb2.Schema()
    compared = schema.feature.add(name=feature, type=schema_pb2.INT)
    compared.int_domain.is_categorical = True
    compared.drift_comparator.infinity_norm.threshold = 1.0
    return _distance(schema, current, other)


def number_distance(feature: str, current: SplitStatistics, other: SplitStatistics) -> float | None:
    """Returns the Jensen-Shannon divergence (to the base 2) of a number's distributions.

    Args:
        feature: The number, or the category that the statistics were told it is: then its values
            are compared, not the buckets of histograms.
        current: Of some rows.
        other: Of the rows to compare them with.

    Returns:
        A divergence in [0, 1], or None where one side has no values.
    """
    schema = schema_pb2.Schema()
    compared = schema.feature.add(name=feature, type=schema_pb2.INT)
    compared.drift_comparator.jensen_shannon_divergence.threshold = 1.0
    return _distance(schema, current, other)


def _distance(
    schema: schema_pb2.Schema, current: SplitStatistics, other: SplitStatistics
) -> float | None:
    if not (num_rows(current) and num_rows(other)):
        return None
    # Both measures are symmetric, so one comparator does for drift and for skew. What it measures
    # is told whether or not it passes the threshold.
    found = tfdv.validate_statistics(current, schema, previous_statistics=other)
    values = [m.value for info in found.drift_skew_info for m in info.drift_measurements]
    return values[0] if values else None
