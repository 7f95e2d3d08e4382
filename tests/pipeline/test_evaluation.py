import pytest
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.evaluators import metrics_validator
from tensorflow_model_analysis.metrics import metric_types

from bert_tfx.pipeline.evaluation import ACCURACY, eval_config
from bert_tfx.schema.tasks import TASKS, own_task

THREE = own_task(
    {"name": "own", "labels": ["a", "b", "c"], "columns": ["text_a", "label"], "train": "x"},
    where="here",
)


@pytest.fixture
def config():
    return eval_config(
        TASKS["sst2"], min_accuracy=0.8, max_regression=0.01, slice_columns=["source"]
    )


def thresholds(config: tfma.EvalConfig) -> list:
    return [
        threshold
        for spec in config.metrics_specs
        for metric in spec.metrics
        for threshold in metric.per_slice_thresholds
    ]


def test_exported_signature_is_what_is_evaluated(config):
    (spec,) = config.model_specs
    assert spec.signature_name == "serving_default"
    assert spec.label_key == "label"
    assert spec.prediction_key == "probabilities"


def test_threshold_holds_for_all_rows_together_and_for_no_slice(config):
    (threshold,) = thresholds(config)
    assert list(threshold.slicing_specs) == [tfma.SlicingSpec()]
    for spec in config.metrics_specs:
        assert not spec.thresholds and not spec.per_slice_thresholds
        for metric in spec.metrics:
            assert not metric.HasField("threshold")
            assert metric.config == f'{{"name": "{ACCURACY}"}}' or not metric.per_slice_thresholds


def test_equal_model_passes_and_a_worse_one_only_within_what_is_allowed(config):
    (threshold,) = thresholds(config)
    assert threshold.threshold.value_threshold.lower_bound.value == 0.8
    change = threshold.threshold.change_threshold
    assert change.direction == tfma.MetricDirection.HIGHER_IS_BETTER
    # The difference to the baseline must be at least this: 0 for an equal model.
    assert change.absolute.value == -0.01
    assert not change.HasField("relative")


def test_slices(config):
    keys = [tuple(spec.feature_keys) for spec in config.slicing_specs]
    assert keys == [(), ("label",), ("length_bucket",), ("truncated",), ("source",)]
    assert not any(spec.feature_values for spec in config.slicing_specs)


@pytest.mark.parametrize(("task", "classes"), [(TASKS["sst2"], 2), (THREE, 3)])
def test_metrics_of_all_classes_and_of_each(task, classes):
    config = eval_config(task, min_accuracy=0.5, max_regression=0)
    overall, per_class = config.metrics_specs
    assert not overall.HasField("binarize")
    assert {metric.class_name for metric in overall.metrics} == {
        "ExampleCount",
        "SparseCategoricalAccuracy",
        "SparseCategoricalCrossentropy",
        "MultiClassConfusionMatrixPlot",
    }
    assert list(per_class.binarize.class_ids.values) == list(range(classes))
    assert {metric.class_name for metric in per_class.metrics} == {
        "Precision",
        "Recall",
        "F1Score",
        "AUC",
    }


@pytest.mark.parametrize("has_baseline", [True, False])
def test_without_baseline_only_the_change_does_not_count(config, has_baseline):
    (threshold,) = thresholds(as_evaluator_has_it(config, has_baseline))
    assert threshold.threshold.HasField("value_threshold")
    assert threshold.threshold.HasField("change_threshold") is has_baseline


def as_evaluator_has_it(config: tfma.EvalConfig, has_baseline: bool) -> tfma.EvalConfig:
    updated = tfma.utils.update_eval_config_with_defaults(
        config, has_baseline=has_baseline, rubber_stamp=True
    )
    tfma.utils.verify_eval_config(updated)
    return updated


def verdict(config: tfma.EvalConfig, candidate: float, baseline: float | None, slice_key=()):
    """Holds accuracies against the thresholds as the Evaluator does; returns the failures."""
    has_baseline = baseline is not None
    config = as_evaluator_has_it(config, has_baseline)
    name = tfma.CANDIDATE_KEY if has_baseline else ""
    key = metric_types.MetricKey(ACCURACY, model_name=name)
    metrics = {key: candidate}
    if has_baseline:
        metrics[key.make_baseline_key(tfma.BASELINE_KEY)] = baseline
        metrics[key.make_diff_key()] = candidate - baseline
    return metrics_validator.validate_metrics((slice_key, metrics), config)


@pytest.mark.parametrize(
    ("candidate", "baseline", "passes"),
    [
        (0.81, None, True),
        (0.80, None, True),
        (0.79, None, False),
        (0.90, 0.90, True),
        (0.895, 0.90, True),
        (0.885, 0.90, False),
        (0.99, 0.90, True),
        (0.79, 0.70, False),
    ],
)
def test_verdict_on_all_rows(config, candidate, baseline, passes):
    assert verdict(config, candidate, baseline).validation_ok is passes


def test_bad_slice_does_not_count(config):
    result = verdict(config, 0.1, 0.9, slice_key=(("label", 1),))
    assert not result.metric_validations_per_slice
