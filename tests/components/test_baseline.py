import pytest
from tfx.types import standard_artifacts

from bert_tfx.components.baseline.strategy import LatestOtherBlessedModelStrategy


def model(number: int) -> standard_artifacts.Model:
    made = standard_artifacts.Model()
    made.id = number
    return made


def blessing(number: int, model_id: int, *, blessed: bool = True):
    """The Evaluator's verdict on a model."""
    made = standard_artifacts.ModelBlessing()
    made.id = number
    made.set_int_custom_property("blessed", int(blessed))
    made.set_int_custom_property("current_model_id", model_id)
    return made


def resolve(models, blessings, candidates):
    resolved = LatestOtherBlessedModelStrategy().resolve_artifacts(
        None, {"model": models, "model_blessing": blessings, "candidate": candidates}
    )
    assert resolved.keys() == {"model", "model_blessing", "candidate"}
    assert resolved["candidate"] == candidates
    return (
        [found.id for found in resolved["model"]],
        [found.id for found in resolved["model_blessing"]],
    )


def test_first_model_has_no_baseline():
    assert resolve([model(1)], [], [model(1)]) == ([], [])
    assert resolve([], [], []) == ([], [])


def test_model_that_was_not_blessed_is_no_baseline():
    assert resolve([model(1), model(2)], [blessing(9, 1, blessed=False)], [model(2)]) == ([], [])


def test_candidate_is_not_its_own_baseline():
    assert resolve([model(1)], [blessing(9, 1)], [model(1)]) == ([], [])


def test_candidate_that_is_blessed_already_keeps_the_baseline_it_had():
    models = [model(1), model(2)]
    before = resolve(models, [blessing(8, 1)], [model(2)])
    after = resolve(models, [blessing(8, 1), blessing(9, 2)], [model(2)])
    assert before == after == ([1], [8])


@pytest.mark.parametrize("backwards", [False, True])
def test_latest_blessed_model_is_the_baseline(backwards):
    models = [model(number) for number in (1, 2, 3, 4)]
    blessings = [blessing(11, 1), blessing(12, 2), blessing(13, 3, blessed=False)]
    if backwards:
        models.reverse()
        blessings.reverse()
    assert resolve(models, blessings, [model(4)]) == ([2], [12])


def test_blessing_without_model_is_passed_over():
    assert resolve([model(1), model(3)], [blessing(9, 2), blessing(8, 1)], [model(3)]) == ([1], [8])


def test_one_of_two_verdicts_on_a_model_suffices():
    verdicts = [blessing(8, 1), blessing(9, 1, blessed=False)]
    for blessings in (verdicts, verdicts[::-1]):
        assert resolve([model(1), model(2)], blessings, [model(2)]) == ([1], [8])


def test_unfinished_verdict_does_not_bless():
    unfinished = standard_artifacts.ModelBlessing()
    unfinished.id = 9
    assert resolve([model(1), model(2)], [unfinished], [model(2)]) == ([], [])
