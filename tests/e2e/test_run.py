"""Whole runs: from made-up TSV files to a pushed model, again, and with something changed."""

import json
import pathlib
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_text  # noqa: F401, registers the ops of the served graph

# Two cores that others use as well may take long.
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]
# These runs share an output folder, one after the other.
one_folder = pytest.mark.xdist_group("one-folder")

INGESTION = ["ImportSchemaGen", "TsvExampleGen", "StatisticsGen", "ExampleValidator", "DataGate"]
MODEL = ["Trainer", "Baseline", "Evaluator", "ModelPusher"]
COMPONENTS = [*INGESTION, "Transform", *MODEL]

RECIPE = ("--size", "tiny", "--max-length", 16, "--batch-size", 16, "--min-accuracy", 0)


def learn(seed: int, epochs: int = 4) -> tuple[object, ...]:
    return (*RECIPE, "--epochs", epochs, "--learning-rate", 2e-3, "--seed", seed)


def baseline_accuracy(stdout: str) -> float | None:
    found = re.search(r"the last blessed model has ([\d.]+)", stdout)
    return float(found[1]) if found else None


def accuracy(stdout: str) -> float:
    return float(re.search(r"^Evaluation +accuracy ([\d.]+)", stdout, re.MULTILINE)[1])


def model_run(output: pathlib.Path) -> pathlib.Path:
    """The folder of what the only training so far wrote, besides the SavedModel."""
    (folder,) = (output / "artifacts" / "Trainer" / "model_run").iterdir()
    return folder


def predict(saved_model: pathlib.Path, rows: list[dict[str, str]]) -> list[dict[str, np.ndarray]]:
    """Asks both signatures, `serving_default` first."""
    signatures = tf.saved_model.load(str(saved_model)).signatures
    examples = []
    for row in rows:
        example = tf.train.Example()
        for name, text in row.items():
            example.features.feature[name].bytes_list.value.append(text.encode())
        examples.append(example.SerializeToString())
    texts = {name: tf.constant([row[name] for row in rows]) for name in rows[0]}
    return [
        {name: value.numpy() for name, value in answer.items()}
        for answer in (
            signatures["serving_default"](examples=tf.constant(examples)),
            signatures["serve_text"](**texts),
        )
    ]


def check_answers(answers: list[dict[str, np.ndarray]], rows: int, labels: list[bytes]) -> None:
    for answer in answers:
        assert answer["probabilities"].shape == (rows, len(labels))
        np.testing.assert_allclose(answer["probabilities"].sum(axis=1), 1, rtol=1e-5)
        assert answer["classes"].tolist() == [labels] * rows
        best = answer["probabilities"].argmax(axis=1)
        assert answer["label"].tolist() == [labels[i] for i in best]
    np.testing.assert_array_equal(answers[0]["probabilities"], answers[1]["probabilities"])


# A chain of runs into one folder. Each goes on from the one before.


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    return tmp_path_factory.mktemp("run") / "output"


@pytest.fixture(scope="module")
def first(run, glue_dir, output):
    """Everything is new; the vocabulary is learned and the test rows have no labels."""
    return run(output, "--task", "sst2", "--data", glue_dir, *learn(seed=1)).check(0)


@pytest.fixture(scope="module")
def again(run, glue_dir, output, first):
    """The same command."""
    return run(output, "--task", "sst2", "--data", glue_dir, *learn(seed=1)).check(0)


@pytest.fixture(scope="module")
def restored(run, glue_dir, output, again):
    """The same command, after someone deleted the pushed models."""
    shutil.rmtree(output / "serving")
    return run(output, "--task", "sst2", "--data", glue_dir, *learn(seed=1)).check(0)


@pytest.fixture(scope="module")
def bad(run, glue_dir, output, restored):
    """Another recipe, that learns nothing, and an accuracy that nothing reaches."""
    recipe = (*RECIPE, "--max-steps", 1, "--learning-rate", 1e-6, "--seed", 2)
    return run(
        output,
        "--task",
        "sst2",
        "--data",
        glue_dir,
        *recipe,
        "--min-accuracy",
        1,
        "--max-regression",
        0,
    ).check(3)


@pytest.fixture(scope="module")
def edited(run, glue_dir, output, bad, tmp_path_factory, copy_package):
    """Code changed that makes the token ids, and training goes on from the first model."""
    package = copy_package(tmp_path_factory.mktemp("edited"))
    with (package / "modeling" / "tokenization.py").open("a", encoding="utf-8") as file:
        file.write("# An edit.\n")
    (vocabulary,) = (output / "vocabulary").glob("*/vocab.txt")
    trainings = (output / "artifacts" / "Trainer" / "model_run").iterdir()
    start = min(trainings, key=lambda path: int(path.name)) / "classifier.keras"
    return run(
        output, "--task", "sst2", "--data", glue_dir, *learn(seed=3, epochs=2),
        "--pretrained", start, "--vocab", vocabulary, "--max-regression", 0.2, package=package,
    ).check(0)  # fmt: skip


@one_folder
def test_first_run_does_everything_and_pushes_one_model(first, output):
    assert first.components == dict.fromkeys(COMPONENTS, "done")
    (version,) = first.versions
    assert f"Model       {output / 'serving' / str(version)}" in first.stdout
    assert first.artifacts["Model"] == first.artifacts["ModelEvaluation"] == 1
    assert baseline_accuracy(first.stdout) is None


@one_folder
def test_first_run_learns_what_the_rows_show(first):
    assert accuracy(first.stdout) > 0.9


@one_folder
def test_first_run_counts_the_rows(first, output):
    for split, count in (("train", 300), ("eval", 80), ("test", 40)):
        assert f"{split}: {count} read, {count} written, 0 rejected" in first.stdout
    assert not (output / "rejects").exists()


@one_folder
def test_first_run_leaves_no_training_state_and_writes_no_complaint(first, output):
    assert not (output / "training_state").exists()
    assert first.stderr == ""


@one_folder
def test_pushed_model_answers_by_both_signatures_alike(first, restored, output):
    # The one that was pushed again, because the first one was deleted.
    (version,) = restored.versions
    texts = ["a lovely room", "the meal was awful", "story", "words, that nobody 见过 before"]
    rows = [{"text_a": text} for text in texts]
    answers = predict(output / "serving" / str(version), rows)
    check_answers(answers, len(rows), [b"0", b"1"])
    assert answers[0]["label"][:2].tolist() == [b"1", b"0"]


@one_folder
def test_same_command_takes_everything_from_the_cache(first, again):
    assert again.components == dict.fromkeys(COMPONENTS, "cached")
    assert again.versions == first.versions
    assert again.artifacts == first.artifacts
    assert accuracy(again.stdout) == accuracy(first.stdout)


@one_folder
def test_deleted_model_is_pushed_again(again, restored):
    assert restored.components == dict.fromkeys(COMPONENTS, "cached") | {"ModelPusher": "done"}
    (version,) = restored.versions
    assert version > again.versions[0]
    assert restored.artifacts["Model"] == 1


@one_folder
def test_another_recipe_trains_anew_on_the_same_tokens(bad):
    done = dict.fromkeys([*INGESTION, "Transform"], "cached") | dict.fromkeys(MODEL, "done")
    assert bad.components == done


@one_folder
def test_bad_model_is_not_pushed(restored, bad, first):
    assert bad.versions == restored.versions
    assert "not pushed: it does not reach what it must" in bad.stdout
    assert baseline_accuracy(bad.stdout) == accuracy(first.stdout) > accuracy(bad.stdout)


@one_folder
def test_edited_source_makes_the_cache_void_from_there_on(edited):
    done = dict.fromkeys(INGESTION, "cached") | dict.fromkeys(["Transform", *MODEL], "done")
    assert edited.components == done


@one_folder
def test_next_good_model_is_held_against_the_last_good_one(first, bad, edited):
    assert baseline_accuracy(edited.stdout) == accuracy(first.stdout) != accuracy(bad.stdout)
    assert edited.versions[0] == bad.versions[0]
    assert len(edited.versions) == 2


@pytest.fixture(scope="module")
def pairs(run, reviews, tmp_path_factory):
    """Pairs in a file of one's own, without one to evaluate on; one row does not fit."""
    folder = tmp_path_factory.mktemp("pairs")
    lines = ["same\tquestion\tanswer\tsource"]
    rows = zip(reviews(400, seed=4), reviews(400, seed=5), strict=True)
    for number, ((label, question), (_, answer)) in enumerate(rows):
        lines.append(
            f"{('no', 'yes')[label]}\t{question}\t{answer}\t{('web', 'mail')[number % 3 == 0]}"
        )
    lines.insert(7, "maybe\tis it?\tthat depends\tweb")
    (folder / "data").mkdir()
    (folder / "data" / "pairs.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    options = {
        "max_length": 24,
        "batch_size": 32,
        "epochs": 1,
        "learning_rate": 1e-3,
        "min_accuracy": 0,
    }
    (folder / "options.json").write_text(json.dumps(options), encoding="utf-8")
    output = folder / "output"
    result = run(
        output, "--config", folder / "options.json", "--data", folder / "data",
        "--task", "pairs", "--labels", "no,yes", "--train", "pairs.tsv",
        "--text-a", "question", "--text-b", "answer", "--label", "same",
        "--model", "distilbert", "--size", "tiny", "--max-rejects", 1, "--eval-fraction", 0.2,
    )  # fmt: skip
    return result.check(0), output


def test_pairs_without_eval_file_are_divided(pairs):
    result, _ = pairs
    written = dict(re.findall(r"(train|eval): \d+ read, (\d+) written", result.stdout))
    assert sum(map(int, written.values())) == 400
    assert 40 <= int(written["eval"]) <= 120
    assert "distilbert tiny" in result.stdout


def test_row_that_does_not_fit_is_kept_with_its_reason(pairs):
    result, output = pairs
    assert f"Rejects     {output / 'rejects'}" in result.stdout
    (rejects,) = (output / "rejects").iterdir()
    (_, row) = rejects.read_text(encoding="utf-8").splitlines()
    assert "\t8\tsame\tunknown label 'maybe'" in row


def test_extra_column_is_a_slice(pairs):
    result, _ = pairs
    assert re.search(r"^ +by source: mail [\d.]+ \(\d+\), web [\d.]+ \(\d+\)$", result.stdout, re.M)


def test_model_of_pairs_answers_by_both_signatures_alike(pairs):
    result, output = pairs
    (version,) = result.versions
    rows = [
        {"text_a": "the good film", "text_b": "a dull story"},
        {"text_a": "a dull story", "text_b": "the good film"},
        {"text_a": "poor", "text_b": "very " * 50},
    ]
    answers = predict(output / "serving" / str(version), rows)
    check_answers(answers, len(rows), [b"no", b"yes"])
