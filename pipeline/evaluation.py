"""What the Evaluator measures, and what a model must reach to be blessed."""

from collections.abc import Sequence

import tensorflow_model_analysis as tfma
from google.protobuf import wrappers_pb2
from tensorflow_model_analysis.proto import config_pb2

from bert_tfx.schema.tasks import LABEL, Task

ACCURACY = "sparse_categorical_accuracy"

_SIGNATURE = "serving_default"
_SLICE_SIGNATURE = "slice_features"
_SLICE_FEATURES = ("length_bucket", "truncated")
_PER_CLASS_METRICS = (
    ("Precision", "precision"),
    ("Recall", "recall"),
    ("F1Score", "f1_score"),
    ("AUC", "auc"),
)


def eval_config(
    task: Task,
    *,
    min_accuracy: float,
    max_regression: float,
    slice_columns: Sequence[str] = (),
) -> tfma.EvalConfig:
    """Makes the Evaluator's configuration.

    The exported signature is what is evaluated: raw examples through `serving_default`.

    Args:
        task: The task.
        min_accuracy: Accuracy that a model must reach.
        max_regression: By how much its accuracy may lie below the baseline's; with no baseline
            yet, only `min_accuracy` counts.
        slice_columns: Extra columns of the rows to slice by.

    Returns:
        Accuracy, log loss and confusion matrix over all classes; precision, recall, F1 and ROC AUC
        of each class; overall and sliced by label, length, truncation and the extra columns.
    """
    threshold = config_pb2.MetricThreshold(
        value_threshold=config_pb2.GenericValueThreshold(
            lower_bound=wrappers_pb2.DoubleValue(value=min_accuracy)
        ),
        change_threshold=config_pb2.GenericChangeThreshold(
            direction=config_pb2.MetricDirection.HIGHER_IS_BETTER,
            # TFMA asks for a change of at least this much, so a loss that is allowed is negative.
            absolute=wrappers_pb2.DoubleValue(value=-max_regression),
        ),
    )
    overall = config_pb2.MetricsSpec(
        metrics=[
            config_pb2.MetricConfig(class_name="ExampleCount"),
            config_pb2.MetricConfig(
                class_name="SparseCategoricalAccuracy",
                config=f'{{"name": "{ACCURACY}"}}',
                # The empty specification is the slice of all rows. A plain `threshold` would be
                # held against every slice, however few its rows.
                per_slice_thresholds=[
                    config_pb2.PerSliceMetricThreshold(
                        slicing_specs=[config_pb2.SlicingSpec()], threshold=threshold
                    )
                ],
            ),
            config_pb2.MetricConfig(class_name="SparseCategoricalCrossentropy"),
            config_pb2.MetricConfig(class_name="MultiClassConfusionMatrixPlot"),
        ]
    )
    per_class = config_pb2.MetricsSpec(
        binarize=config_pb2.BinarizationOptions(
            class_ids=config_pb2.RepeatedInt32Value(values=range(len(task.labels)))
        ),
        metrics=[
            config_pb2.MetricConfig(class_name=name, config=f'{{"name": "{metric}"}}')
            for name, metric in _PER_CLASS_METRICS
        ],
    )
    return config_pb2.EvalConfig(
        model_specs=[
            config_pb2.ModelSpec(
                model_type="tf_generic",
                signature_name=_SIGNATURE,
                preprocessing_function_names=[_SLICE_SIGNATURE],
                label_key=LABEL,
                prediction_key="probabilities",
            )
        ],
        slicing_specs=[
            config_pb2.SlicingSpec(),
            *(
                config_pb2.SlicingSpec(feature_keys=[key])
                for key in (LABEL, *_SLICE_FEATURES, *slice_columns)
            ),
        ],
        metrics_specs=[overall, per_class],
    )
