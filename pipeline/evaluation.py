"""What the Evaluator measures."""

from collections.abc import Sequence

import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.proto import config_pb2

from bert_tfx.components.predictor.predictions import (
    BASELINE,
    CANDIDATE,
    SLICE_FEATURES,
    probabilities_feature,
)
from bert_tfx.components.promotion_gate import tfma_metrics
from bert_tfx.schema.tasks import LABEL, Task

ACCURACY = tfma_metrics.TFMA_ACCURACY


def eval_config(task: Task, *, slice_columns: Sequence[str] = ()) -> tfma.EvalConfig:
    """Makes the configuration of an Evaluator without a model, over what Predictor writes.

    It names both models. An Evaluator without a `baseline_model` takes the baseline out, and the
    candidate's name with it: results are then loaded without a `model_name`, and otherwise with
    `CANDIDATE` or `BASELINE`.

    Args:
        task: The task.
        slice_columns: Extra columns of the rows to slice by.

    Returns:
        All figures and plots of `ClassificationFigures`, overall and sliced by label, by what
        Predictor says of each row, and by the extra columns. There are no thresholds: PromotionGate
        decides.
    """
    return config_pb2.EvalConfig(
        model_specs=[
            config_pb2.ModelSpec(
                name=model,
                is_baseline=model == BASELINE,
                prediction_key=probabilities_feature(model),
                label_key=LABEL,
            )
            for model in (CANDIDATE, BASELINE)
        ],
        slicing_specs=[
            config_pb2.SlicingSpec(),
            *(
                config_pb2.SlicingSpec(feature_keys=[key])
                for key in (LABEL, *SLICE_FEATURES, *slice_columns)
            ),
        ],
        metrics_specs=[
            config_pb2.MetricsSpec(
                metrics=[
                    config_pb2.MetricConfig(class_name="ExampleCount"),
                    config_pb2.MetricConfig(
                        class_name=tfma_metrics.ClassificationFigures.__name__,
                        module=tfma_metrics.__name__,
                        config=f'{{"num_classes": {len(task.labels)}}}',
                    ),
                ]
            )
        ],
    )
