"""ServingGate: blesses what a server loads and answers right, and nothing else."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_text  # noqa: F401, registers the ops of the tokenizer
from tfx.components.util import model_utils
from tfx.types import standard_artifacts

from bert_tfx.components.model_pusher.version_folder import Origin, VersionFolder
from bert_tfx.components.serving_gate import executor, requests, served
from bert_tfx.components.serving_gate.component import ServingFindings
from bert_tfx.components.serving_gate.limits import ServingLimits
from bert_tfx.schema.errors import InputError
from bert_tfx.serving.load import Load
from bert_tfx.serving.protocol.errors import BadAnswer
from bert_tfx.serving.protocol.model_api import SERVE_TEXT

LABELS = ["0", "1"]


@pytest.fixture(scope="module")
def model(tmp_path_factory, model_artifact):
    return model_artifact(tmp_path_factory.mktemp("candidate") / "model")


@pytest.fixture(scope="module")
def predicted(model, reviews):
    """Rows with the answers of the model, as Predictor writes them."""
    rows = reviews(40, seed=5)
    loaded = tf.saved_model.load(f"{model.uri}/Format-Serving")
    answers = loaded.signatures["serve_text"](text_a=tf.constant([text for _, text in rows]))
    return [
        {"text_a": text, "label": label, "candidate_probabilities": [float(p) for p in answer]}
        for (label, text), answer in zip(rows, answers["probabilities"].numpy(), strict=True)
    ]


@pytest.fixture
def gate(tmp_path, write_examples, monkeypatch):
    """Runs the gate; returns whether it blesses, and the findings."""
    monkeypatch.setattr(served, "_TURN_SECONDS", 0.1)

    def gate(model, rows, *, blessed=True, **limits):
        blessing = standard_artifacts.ModelBlessing()
        blessing.set_int_custom_property("blessed", int(blessed))
        findings, infra_blessing = ServingFindings(), standard_artifacts.InfraBlessing()
        findings.uri, infra_blessing.uri = str(tmp_path / "findings"), str(tmp_path / "blessing")
        executor.Executor().Do(
            {
                "model": [model],
                "model_blessing": [blessing],
                "predictions": [write_examples(tmp_path / "predictions", rows)],
            },
            {"findings": [findings], "blessing": [infra_blessing]},
            {
                "base_directory": str(tmp_path / "serving"),
                "limits": ServingLimits(**limits).to_json(),
            },
        )
        found = json.loads((tmp_path / "findings" / "findings.json").read_text(encoding="utf-8"))
        (marker,) = (tmp_path / "blessing").iterdir()
        passed = model_utils.is_infra_validated(infra_blessing)
        assert (marker.name == "INFRA_BLESSED") == passed == found["passed"]
        return found

    return gate


def test_a_sound_model_is_asked_and_blessed(tmp_path, model, predicted, gate):
    VersionFolder(str(tmp_path / "serving")).push(
        f"{model.uri}/Format-Serving", Origin(model_uri=model.uri)
    )
    found = gate(
        model, predicted, max_slowdown=1000.0, max_model_mb=1000.0, max_server_mb=1_000_000.0
    )
    assert found["passed"], found["verdict"]
    assert found["golden"]["rows"] == 40
    assert set(found["golden"]["differences"]) == {"serve_text", "serving_default"}
    assert max(found["golden"]["differences"].values()) < 1e-5
    assert len(found["hostile"]) > 25
    assert {request["problem"] for request in found["hostile"]} == {None}
    assert found["first_request_ms"] > 0
    assert [load["rows"] for load in found["load"]["candidate"]] == [1, 32]
    assert [load["rows"] for load in found["load"]["last_pushed"]] == [1, 32]
    assert found["model_bytes"] > 100_000
    assert found["server_peak_bytes"] > 100_000_000


@pytest.mark.slow
def test_a_model_that_answers_otherwise_than_evaluated_is_not(model, predicted, gate):
    wrong = predicted[7] | {"candidate_probabilities": [0.5, 0.5]}
    found = gate(model, [*predicted[:7], wrong, *predicted[8:]])
    assert "off the evaluated one" in found["verdict"]
    # What is wrong is not timed.
    assert "load" not in found


def test_a_model_that_the_server_cannot_load_is_not(tmp_path, model, predicted, gate):
    broken = standard_artifacts.Model()
    broken.uri = str(tmp_path / "broken")
    shutil.copytree(model.uri, broken.uri)
    weights = next((tmp_path / "broken" / "Format-Serving" / "variables").glob("*.data*"))
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    found = gate(broken, predicted)
    assert "cannot load the model" in found["verdict"]


def test_a_model_that_is_not_good_enough_is_not_asked(model, predicted, gate, monkeypatch):
    monkeypatch.setattr(executor, "one_model_server", None)
    found = gate(model, predicted, blessed=False)
    assert not found["passed"]
    assert "not asked" in found["verdict"]


def test_no_row_to_ask_for_is_no_pass(model, gate):
    assert "there is no eval row" in gate(model, [])["verdict"]


@pytest.mark.slow
def test_limits_of_size_and_memory(model, predicted, gate):
    found = gate(model, predicted, max_model_mb=0.1, max_server_mb=1.0)
    assert "the exported model has" in found["verdict"]
    assert "the server held" in found["verdict"]
    assert "where 0.1 MB are allowed" in found["verdict"]


@pytest.mark.slow
def test_a_slower_model_is_named_with_its_times(tmp_path, model, predicted, gate, monkeypatch):
    VersionFolder(str(tmp_path / "serving")).push(
        f"{model.uri}/Format-Serving", Origin(model_uri=model.uri)
    )
    targets: list[str] = []

    def measure(target, texts, *, rows, seconds, warm_up):
        if target not in targets:
            targets.append(target)
        slow = 3.0 if target == targets[0] else 1.0
        return Load(rows, 1, 10, 10.0 * slow, 20.0, 100.0)

    monkeypatch.setattr(served, "measure", measure)
    found = gate(model, predicted, max_slowdown=1.5)
    assert not found["passed"]
    assert (
        "requests of 1 rows take 30.0 ms (p50), 3.00 times the 10.0 ms of the last pushed model, "
        "where 1.5 times is allowed" in found["verdict"]
    )


@pytest.mark.slow
@pytest.mark.parametrize(("storage", "tolerance"), [("bfloat16_compute", 0.02), ("int8", 0.05)])
def test_a_model_in_few_bits_may_round_otherwise_than_it_was_evaluated(
    tmp_path, model_artifact, predicted, gate, storage, tolerance
):
    narrow = model_artifact(tmp_path / "narrow", storage=storage)
    loaded = tf.saved_model.load(f"{narrow.uri}/Format-Serving")
    texts = tf.constant([row["text_a"] for row in predicted])
    answers = loaded.signatures["serve_text"](text_a=texts)["probabilities"].numpy()
    moved = np.array([0.01, -0.01]) * np.where(answers[:, :1] < 0.5, 1, -1)
    rows = [
        {**row, "candidate_probabilities": answer.tolist()}
        for row, answer in zip(predicted, answers + moved, strict=True)
    ]
    found = gate(narrow, rows)
    assert found["passed"]
    assert found["limits"]["serving_tolerance"] == tolerance


@pytest.mark.parametrize("name", ["serving_tolerance", "max_slowdown", "max_model_mb"])
def test_limits_are_positive(name):
    for value in (0, -1, float("nan")):
        with pytest.raises(InputError, match=f"{name} must be positive. Received: {value}"):
            ServingLimits(**{name: value})


def test_golden_rows_are_the_same_ones_each_time_and_of_the_whole_split(predicted):
    examples = []
    for index in range(1000):
        example = tf.train.Example()
        example.features.feature["text_a"].bytes_list.value.append(str(index).encode())
        example.features.feature["candidate_probabilities"].float_list.value.extend([0.25, 0.75])
        examples.append(example)
    rows = requests.golden_rows(iter(examples), 64)
    numbers = [int(row.texts["text_a"]) for row in rows]
    assert numbers == [int(r.texts["text_a"]) for r in requests.golden_rows(iter(examples), 64)]
    assert len(set(numbers)) == 64
    assert 350 < np.mean(numbers) < 650


GOOD_ANSWER = {
    "probabilities": np.array([[0.25, 0.75]], np.float32),
    "label": np.array([b"1"], object),
    "classes": np.array([[b"0", b"1"]], object),
}


@pytest.mark.parametrize(
    "change, says",
    [
        ({"label": None}, "has no label"),
        ({"probabilities": np.ones([2, 2], np.float32) / 2}, r"probabilities \(2, 2\)"),
        ({"classes": np.array([[b"1", b"0"]], object)}, "are not the labels"),
        ({"probabilities": np.array([[np.nan, 1]], np.float32)}, "no number"),
        ({"probabilities": np.array([[0.5, 0.6]], np.float32)}, "do not sum to 1"),
        ({"label": np.array([b"0"], object)}, "not its most probable class"),
    ],
)
def test_answers_of_a_wrong_form_are_told(change, says):
    requests.checked_probabilities(GOOD_ANSWER, 1, LABELS)
    wrong = {name: value for name, value in (GOOD_ANSWER | change).items() if value is not None}
    with pytest.raises(BadAnswer, match=says):
        requests.checked_probabilities(wrong, 1, LABELS)


class Scripted:
    """Stands for a connection: answers, or refuses, as it is told."""

    def __init__(self, answer) -> None:
        self.answer = answer

    def ask(self, signature, inputs):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


REFUSED = requests.Refused("INVALID_ARGUMENT", "no")


@pytest.mark.parametrize(
    "rows, may_refuse, answer, says",
    [
        (1, False, GOOD_ANSWER, None),
        (1, False, REFUSED, "INVALID_ARGUMENT: no"),
        (1, True, REFUSED, None),
        (None, False, REFUSED, None),
        (None, False, GOOD_ANSWER, "it was answered, where INVALID_ARGUMENT was expected"),
        (None, False, requests.Refused("UNAVAILABLE", "gone"), "UNAVAILABLE: gone"),
        (2, False, GOOD_ANSWER, "the answer has probabilities"),
    ],
)
def test_outcomes_of_hostile_requests(rows, may_refuse, answer, says):
    request = requests.HostileRequest("a test", SERVE_TEXT, {}, rows, may_refuse)
    outcome = requests.hostile_outcome(Scripted(answer), request, LABELS)
    assert outcome is None if says is None else outcome.startswith(says)
