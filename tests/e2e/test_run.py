"""Runs into one folder: to a pushed model, again, and with something changed.

Each run goes on from the one before, so these tests belong on one worker.
"""

import re
import shutil

import pytest

# Two cores that others use as well may take long.
pytestmark = pytest.mark.timeout(1200)

INGESTION = ["ImportSchemaGen", "TsvExampleGen", "StatisticsGen", "ExampleValidator", "DataGate"]
TOKENS = ["Transform", "TokenStatistics", "TokenGate"]
JUDGEMENT = ["Predictor", "Evaluator", "PromotionGate", "ServingGate"]
MODEL = ["Trainer", *JUDGEMENT, "ModelPusher", "Report"]
# Resolvers look anew each time.
RESOLVERS = dict.fromkeys(["AcceptedData", "AcceptedTokens", "Baseline"], "done")
COMPONENTS = [*INGESTION, *TOKENS, *MODEL]
ALL_DONE = dict.fromkeys(COMPONENTS, "done") | RESOLVERS
ALL_CACHED = dict.fromkeys(COMPONENTS, "cached") | RESOLVERS

RECIPE = ("--max-length", 16, "--batch-size", 16, "--min-accuracy", 0)
TINY = ("--size", "tiny")


def learn(seed: int, epochs: int = 4) -> tuple[object, ...]:
    return (*RECIPE, "--epochs", epochs, "--learning-rate", 2e-3, "--seed", seed)


def baseline_accuracy(stdout: str) -> float | None:
    found = re.search(r"the last promoted model has ([\d.]+)", stdout)
    return float(found[1]) if found else None


def accuracy(stdout: str) -> float:
    return float(re.search(r"^Evaluation +accuracy ([\d.]+)", stdout, re.MULTILINE)[1])


@pytest.fixture(scope="module")
def glue(glue_dir):
    return "--task", "sst2", "--data", glue_dir


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    return tmp_path_factory.mktemp("run") / "output"


@pytest.fixture(scope="module")
def first(run, glue, output):
    """Everything is new; the vocabulary is learned and the test rows have no labels."""
    return run(output, *glue, *TINY, *learn(seed=1)).check(0)


@pytest.fixture(scope="module")
def again(run, glue, output, first):
    """The same command."""
    return run(output, *glue, *TINY, *learn(seed=1)).check(0)


@pytest.fixture(scope="module")
def restored(run, glue, output, again):
    """After someone deleted the pushed models; with another engine, which changes no output."""
    shutil.rmtree(output / "serving")
    engine = ("--beam-runner", "multi_processing", "--beam-workers", 1)
    return run(output, *glue, *TINY, *learn(seed=1), *engine).check(0)


@pytest.fixture(scope="module")
def bad(run, glue, output, restored):
    """Another recipe, that learns nothing, and an accuracy that nothing reaches."""
    recipe = (*TINY, *RECIPE, "--max-steps", 1, "--learning-rate", 1e-6, "--seed", 2)
    return run(output, *glue, *recipe, "--min-accuracy", 1, "--max-regression", 0).check(3)


@pytest.fixture(scope="module")
def edited(run, glue, output, bad, tmp_path_factory, copy_package):
    """Code changed that makes the token ids, and training goes on from the first model."""
    package = copy_package(tmp_path_factory.mktemp("edited"))
    with (package / "modeling" / "text" / "tokenization.py").open("a", encoding="utf-8") as file:
        file.write("# An edit.\n")
    (vocabulary,) = (output / "vocabulary").glob("*/vocab.txt")
    trainings = (output / "artifacts" / "Trainer" / "model_run").iterdir()
    start = min(trainings, key=lambda path: int(path.name)) / "classifier.keras"
    return run(
        output, *glue, *learn(seed=3, epochs=2), "--pretrained", start, "--vocab", vocabulary,
        "--max-regression", 0.2, package=package,
    ).check(0)  # fmt: skip


def test_first_run_does_everything_and_pushes_one_model(first, output):
    assert first.components == ALL_DONE
    (version,) = first.versions
    assert f"Model       {output / 'serving' / str(version)}" in first.stdout
    assert first.artifacts["Model"] == first.artifacts["ModelEvaluation"] == 1
    assert baseline_accuracy(first.stdout) is None


def test_first_run_is_told_on_one_page(first, output):
    page = (output / "report" / "index.html").read_text(encoding="utf-8")
    assert f"Report      {output / 'report' / 'index.html'}" in first.stdout
    assert f"Pushed as version {first.versions[0]}" in page


def test_first_run_learns_what_the_rows_show(first):
    assert accuracy(first.stdout) > 0.9


def test_first_run_counts_the_rows(first, output):
    for split, count in (("train", 300), ("eval", 80), ("test", 40)):
        assert f"{split}: {count} read, {count} written, 0 rejected" in first.stdout
    assert not (output / "rejects").exists()


def test_first_run_leaves_no_training_state_and_writes_no_complaint(first, output):
    assert not (output / "training_state").exists()
    assert first.stderr == ""


@pytest.mark.slow
def test_pushed_model_answers_by_both_signatures_alike(ask, restored, output):
    (version,) = restored.versions
    texts = ["a lovely room", "the meal was awful", "story", "words, that nobody 见过 before"]
    rows = [{"text_a": text} for text in texts]
    answer = ask(output / "serving" / str(version), rows, classes=["0", "1"])
    assert answer["label"][:2].tolist() == [b"1", b"0"]


def test_same_command_takes_everything_from_the_cache(first, again):
    assert again.components == ALL_CACHED
    assert again.versions == first.versions
    assert again.artifacts == first.artifacts
    assert accuracy(again.stdout) == accuracy(first.stdout)


@pytest.mark.slow
def test_deleted_model_is_pushed_again(again, restored):
    assert restored.components == ALL_CACHED | {"ModelPusher": "done", "Report": "done"}
    (version,) = restored.versions
    assert version > again.versions[0]
    assert restored.artifacts["Model"] == 1


@pytest.mark.slow
def test_another_recipe_trains_anew_on_the_same_tokens(bad):
    assert bad.components == ALL_CACHED | dict.fromkeys(MODEL, "done")


@pytest.mark.slow
def test_bad_model_is_not_pushed(restored, bad, first):
    assert bad.versions == restored.versions
    assert "Promotion   Not promoted: accuracy " in bad.stdout
    assert "Serving     The server was not asked" in bad.stdout
    assert "Model       not pushed" in bad.stdout
    assert baseline_accuracy(bad.stdout) == accuracy(first.stdout) > accuracy(bad.stdout)


@pytest.mark.slow
def test_edited_source_makes_the_cache_void_from_there_on(edited):
    assert edited.components == ALL_DONE | dict.fromkeys(INGESTION, "cached")


@pytest.mark.slow
def test_next_good_model_is_held_against_the_last_good_one(first, bad, edited):
    assert baseline_accuracy(edited.stdout) == accuracy(first.stdout) != accuracy(bad.stdout)
    assert edited.versions[0] == bad.versions[0]
    assert len(edited.versions) == 2
