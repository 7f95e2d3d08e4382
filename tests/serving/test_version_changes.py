import importlib.util
import pathlib

import numpy as np
import pytest

from bert_tfx.serving.client import Prediction

_SPEC = importlib.util.spec_from_file_location(
    "version_changes", pathlib.Path(__file__).parent / "version_changes.py"
)
version_changes = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(version_changes)


@pytest.mark.slow
def test_no_request_fails_and_no_answer_is_wrong_while_versions_change(tmp_path):
    report = version_changes.prove_changes(tmp_path, requests=300, clients=32)
    assert "2 version changes" in report
    assert "failed 0, wrong 0" in report


def test_answers_are_held_against_the_version_that_gave_them():
    expected = {1: np.array([[0.2, 0.8], [0.9, 0.1]]), 2: np.array([[0.6, 0.4], [0.3, 0.7]])}

    def answer(label: str, good: float, version: int) -> Prediction:
        return Prediction(label, max(good, 1 - good), {"0": 1 - good, "1": good}, version)

    def wrong(*answers: Prediction) -> int:
        load = version_changes.Load(["a", "b"], requests=1)
        load.got.append(([0, 1], list(answers)))
        return len(version_changes.differences(load, expected)[1])

    assert wrong(answer("1", 0.8, 1), answer("0", 0.1, 1)) == 0
    # The answer of another version, another label, a little off, two versions in an answer, a
    # version that nobody pushed, an answer too few.
    assert wrong(answer("1", 0.8, 2), answer("0", 0.1, 2)) == 2
    assert wrong(answer("0", 0.8, 1), answer("0", 0.1, 1)) == 1
    assert wrong(answer("1", 0.8 + 2e-5, 1), answer("0", 0.1, 1)) == 1
    assert wrong(answer("1", 0.8, 1), answer("1", 0.7, 2)) == 1
    assert wrong(answer("1", 0.8, 3), answer("0", 0.1, 3)) == 1
    assert wrong(answer("1", 0.8, 1)) == 1


@pytest.mark.real
def test_the_first_request_to_a_version_is_no_slow_one(tmp_path):
    assert "largest ratio" in version_changes.prove_first(tmp_path, times=5)
