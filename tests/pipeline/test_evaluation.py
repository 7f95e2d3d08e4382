import functools
import math
import os

import numpy as np
import pytest
import sklearn.metrics
import tensorflow as tf
import tensorflow_model_analysis as tfma
from google.protobuf import json_format
from tfx.components.evaluator import executor
from tfx.types import standard_artifacts

from bert_tfx.components.predictor.predictions import BASELINE, CANDIDATE, SLICE_FEATURES
from bert_tfx.components.promotion_gate.metrics import CALIBRATION_BINS
from bert_tfx.pipeline.evaluation import ACCURACY, eval_config
from bert_tfx.schema.tasks import TASKS, own_task

ROWS = 300
TWO = TASKS["sample"]
THREE = own_task(
    {
        "name": "own",
        "labels": ["a", "b", "c"],
        "columns": ["text_a", "label", "language"],
        "train": "x",
    },
    where="here",
)
BUCKETS = ("1-16", "17-32")
LANGUAGES = ("en", "zh")


def answers(labels: np.ndarray, classes: int, seed: int, skill: float) -> np.ndarray:
    """Makes up probabilities that are right more often the higher the skill."""
    scores = np.random.default_rng(seed).normal(size=(len(labels), classes))
    scores[np.arange(len(labels)), labels] += skill
    odds = np.exp(3 * scores)
    return (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)


@functools.cache
def rows_of(classes: int):
    labels = np.random.default_rng(classes).permutation(ROWS) % classes
    return labels, {
        CANDIDATE: answers(labels, classes, seed=1, skill=1.0),
        BASELINE: answers(labels, classes, seed=2, skill=0.7),
    }


def evaluate(folder, task, labels, predictions) -> str:
    """Runs TFX's Evaluator over such rows; returns the folder of its results."""
    split = folder / "examples" / "Split-eval"
    split.mkdir(parents=True)
    with tf.io.TFRecordWriter(str(split / "data.gz"), "GZIP") as writer:
        for i, label in enumerate(labels):
            example = tf.train.Example()
            feature = example.features.feature
            feature["text_a"].bytes_list.value.append("很好".encode())
            feature["label"].int64_list.value.append(label)
            for model, probabilities in predictions.items():
                feature[f"{model}_probabilities"].float_list.value.extend(probabilities[i])
            for name in SLICE_FEATURES:
                feature[name].bytes_list.value.append(BUCKETS[i % 3 == 0].encode())
            feature["language"].bytes_list.value.append(LANGUAGES[i % 2].encode())
            writer.write(example.SerializeToString())
    examples = standard_artifacts.Examples()
    examples.uri = str(folder / "examples")
    examples.split_names = '["eval"]'
    examples.set_string_custom_property("payload_format", "FORMAT_TF_EXAMPLE")
    evaluation = standard_artifacts.ModelEvaluation()
    evaluation.uri = str(folder / "evaluation")
    config = eval_config(task, slice_columns=["language"])
    inputs = {"examples": [examples]}
    if BASELINE in predictions:
        inputs["baseline_model"] = [standard_artifacts.Model()]
    arguments = ["--runner=FnApiRunner", "--direct_running_mode=in_memory"]
    context = executor.Executor.Context(
        beam_pipeline_args=arguments, tmp_dir=str(folder), unique_id="1"
    )
    executor.Executor(context).Do(
        inputs,
        {"evaluation": [evaluation]},
        {
            "eval_config": json_format.MessageToJson(config, preserving_proto_field_name=True),
            "example_splits": '["eval"]',
            "fairness_indicator_thresholds": None,
        },
    )
    assert os.listdir(evaluation.uri)
    return evaluation.uri


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    """Returns the results with so many classes, with a baseline or without."""

    @functools.cache
    def evaluation(classes: int, has_baseline: bool) -> str:
        labels, predictions = rows_of(classes)
        if not has_baseline:
            predictions = {CANDIDATE: predictions[CANDIDATE]}
        folder = tmp_path_factory.mktemp("evaluation")
        return evaluate(folder, {2: TWO, 3: THREE}[classes], labels, predictions)

    return evaluation


def load(uri: str, model: str | None):
    return tfma.load_eval_result(uri, model_name=model)


def flat(metrics) -> dict[str, float]:
    """Returns figures by `name`, or `name.class`."""
    return {
        name + (f".{key.split(':')[1]}" if key else ""): float(value["doubleValue"])
        for key, by_name in metrics[""].items()
        for name, value in by_name.items()
        if "doubleValue" in value
    }


def by_slice(uri: str, model: str | None) -> dict[tuple, dict[str, float]]:
    """Returns a model's own figures by slice; TFMA adds the differences to the candidate's."""
    return {
        key: {name: value for name, value in flat(metrics).items() if "_diff" not in name}
        for key, metrics in load(uri, model).slicing_metrics
    }


def expected(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """What scikit-learn finds, with NaN for what it would make up or refuse."""
    classes = range(probabilities.shape[1])
    found = probabilities.argmax(axis=1)
    of_class = sklearn.metrics.precision_recall_fscore_support(
        labels, found, labels=classes, zero_division=np.nan
    )
    figures = {
        "example_count": len(labels),
        ACCURACY: sklearn.metrics.accuracy_score(labels, found),
        "macro_precision": np.mean(of_class[0]),
        "macro_recall": np.mean(of_class[1]),
        "balanced_accuracy": np.mean(of_class[1]),
        "macro_f1": np.mean(of_class[2]),
        "mcc": sklearn.metrics.matthews_corrcoef(labels, found),
        "log_loss": sklearn.metrics.log_loss(labels, probabilities, labels=classes),
        "brier_score": np.mean(((probabilities - np.eye(len(classes))[labels]) ** 2).sum(axis=1)),
        "expected_calibration_error": calibration_error(labels, probabilities),
    }
    roc, pr = [], []
    for i in classes:
        own, scores = labels == i, probabilities[:, i]
        both = own.any() and not own.all()
        roc.append(sklearn.metrics.roc_auc_score(own, scores) if both else math.nan)
        pr.append(sklearn.metrics.average_precision_score(own, scores) if own.any() else math.nan)
        values = {
            "precision": of_class[0][i],
            "recall": of_class[1][i],
            "f1": of_class[2][i],
            "roc_auc": roc[i],
            "pr_auc": pr[i],
        }
        figures |= {f"{name}.{i}": value for name, value in values.items()}
    if len(set(labels)) == 1:
        figures["mcc"] = math.nan
    return figures | {"macro_roc_auc": np.mean(roc), "macro_pr_auc": np.mean(pr)}


def calibration_error(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Guo et al. 2017, equation 3, row by row."""
    top = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    error = 0.0
    for i in range(CALIBRATION_BINS):
        rows = (top > i / CALIBRATION_BINS) & (top <= (i + 1) / CALIBRATION_BINS)
        if rows.any():
            error += rows.mean() * abs(right[rows].mean() - top[rows].mean())
    return error


def slices_of(labels: np.ndarray) -> dict[tuple, np.ndarray]:
    position = np.arange(len(labels))
    slices = {(): position >= 0}
    slices |= {(("label", int(label)),): labels == label for label in set(labels)}
    for name in SLICE_FEATURES:
        slices |= {((name, BUCKETS[value]),): (position % 3 == 0) == value for value in (0, 1)}
    slices |= {(("language", LANGUAGES[value]),): position % 2 == value for value in (0, 1)}
    return slices


CASES = [
    (3, True, CANDIDATE),
    (2, True, BASELINE),
    pytest.param(2, True, CANDIDATE, marks=pytest.mark.slow),
    pytest.param(2, False, None, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("classes", "has_baseline", "model"), CASES)
def test_every_figure_of_every_slice_is_what_scikit_learn_finds(
    evaluation, classes, has_baseline, model
):
    labels, predictions = rows_of(classes)
    probabilities = predictions[model or CANDIDATE]
    found = by_slice(evaluation(classes, has_baseline), model)
    slices = slices_of(labels)
    assert set(found) == set(slices)
    for key, rows in slices.items():
        reference = expected(labels[rows], probabilities[rows])
        assert set(found[key]) == set(reference)
        for name, value in reference.items():
            # Scores are in bins, which two may share.
            tolerance = 1e-4 if "auc" in name else 1e-6
            assert found[key][name] == pytest.approx(value, abs=tolerance, nan_ok=True), (key, name)


def test_candidate_has_its_differences_to_the_baseline(evaluation):
    uri = evaluation(2, True)
    found = flat(next(metrics for key, metrics in load(uri, CANDIDATE).slicing_metrics if not key))
    baseline = by_slice(uri, BASELINE)[()]
    for name in (ACCURACY, "macro_f1", "mcc", "log_loss"):
        assert found[f"{name}_diff"] == pytest.approx(found[name] - baseline[name])


def test_figures_of_a_single_class_are_undefined_and_not_made_up(evaluation):
    figures = by_slice(evaluation(2, False), None)[(("label", 0),)]
    undefined = {name for name, value in figures.items() if math.isnan(value)}
    assert undefined == {
        "balanced_accuracy",
        "macro_recall",
        "mcc",
        "macro_roc_auc",
        "macro_pr_auc",
        "recall.1",
        "roc_auc.0",
        "roc_auc.1",
        "pr_auc.1",
    }
    assert 0 < figures[ACCURACY] == figures["recall.0"] < 1


def plots(uri: str, model: str | None, key: tuple = ()) -> dict[str, dict]:
    return next(found[""] for slice_key, found in load(uri, model).plots if slice_key == key)


def test_confusion_matrix(evaluation):
    labels, predictions = rows_of(3)
    plot = plots(evaluation(3, True), CANDIDATE)[""]
    (matrix,) = plot["multiClassConfusionMatrixAtThresholds"]["matrices"]
    found = np.zeros((3, 3))
    for entry in matrix["entries"]:
        place = entry.get("actualClassId", 0), entry.get("predictedClassId", 0)
        found[place] = entry.get("numWeightedExamples", 0)
    reference = sklearn.metrics.confusion_matrix(labels, predictions[CANDIDATE].argmax(axis=1))
    assert found.tolist() == reference.tolist()


@pytest.mark.parametrize("index", [0, 1, 2])
def test_curves_go_through_the_points_that_scikit_learn_finds(evaluation, index):
    labels, predictions = rows_of(3)
    plot = plots(evaluation(3, True), CANDIDATE)[f"classId:{index}"]
    points = plot["confusionMatrixAtThresholds"]["matrices"]
    scores = predictions[CANDIDATE][:, index].astype(np.float64)
    for point in points:
        above, own = scores >= point.get("threshold", 0) - 1e-12, labels == index
        assert point.get("truePositives", 0) == (above & own).sum()
        assert point.get("falsePositives", 0) == (above & ~own).sum()
        assert point.get("trueNegatives", 0) == (~above & ~own).sum()
        assert point.get("falseNegatives", 0) == (~above & own).sum()
    assert points[0].get("falseNegatives", 0) == points[0].get("trueNegatives", 0) == 0
    assert points[-1].get("truePositives", 0) == points[-1].get("falsePositives", 0) == 0
    assert len(points) > 100


@pytest.mark.parametrize("index", [None, 0, 1, 2])
def test_reliability_diagrams(evaluation, index):
    labels, predictions = rows_of(3)
    probabilities = predictions[CANDIDATE]
    plot = plots(evaluation(3, True), CANDIDATE)["" if index is None else f"classId:{index}"]
    buckets = plot["calibrationHistogramBuckets"]["buckets"]
    scores = probabilities.max(axis=1) if index is None else probabilities[:, index]
    own = labels == (probabilities.argmax(axis=1) if index is None else index)
    for i, bucket in enumerate(buckets):
        rows = (scores > i / len(buckets)) & (scores <= (i + 1) / len(buckets))
        assert bucket["numWeightedExamples"] == rows.sum()
        assert bucket["totalWeightedLabel"] == own[rows].sum()
        assert bucket["totalWeightedRefinedPrediction"] == pytest.approx(scores[rows].sum())
    assert len(buckets) == CALIBRATION_BINS


def test_results_name_the_models_only_where_there_are_two(evaluation):
    with_baseline = load(evaluation(2, True), CANDIDATE).config
    assert [spec.name for spec in with_baseline.model_specs] == [CANDIDATE, BASELINE]
    (spec,) = load(evaluation(2, False), None).config.model_specs
    assert spec.name == ""
    assert spec.prediction_key == "candidate_probabilities"


def test_answers_that_are_no_probabilities_leave_no_figure(tmp_path):
    labels, predictions = rows_of(2)
    spoilt = predictions[CANDIDATE][:40].copy()
    spoilt[7] = math.nan
    uri = evaluate(tmp_path, TWO, labels[:40], {CANDIDATE: spoilt})
    found = by_slice(uri, None)
    figures = found[()]
    assert figures.pop("example_count") == 40
    assert all(math.isnan(value) for value in figures.values())
    # Row 7 is Chinese, so the English slice is whole.
    assert not any(math.isnan(value) for value in found[(("language", "en"),)].values())


def test_model_that_is_sure_of_all_it_says(tmp_path):
    labels = np.arange(40) % 2
    sure = np.eye(2, dtype=np.float32)[labels]
    sure[:4] = 1 - sure[:4]
    figures = by_slice(evaluate(tmp_path, TWO, labels, {CANDIDATE: sure}), None)[()]
    for name, value in expected(labels, sure).items():
        assert figures[name] == pytest.approx(value, abs=1e-5), name


def test_slices():
    config = eval_config(TWO, slice_columns=["language"])
    keys = [tuple(spec.feature_keys) for spec in config.slicing_specs]
    assert keys == [(), ("label",), *((name,) for name in SLICE_FEATURES), ("language",)]
    assert not any(spec.feature_values for spec in config.slicing_specs)


def test_nothing_is_held_against_a_threshold():
    for spec in eval_config(TWO).metrics_specs:
        assert not tfma.metrics.metric_thresholds_from_metrics_specs([spec])
