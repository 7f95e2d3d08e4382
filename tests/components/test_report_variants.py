import dataclasses
import importlib.util
import pathlib
import sys

import pytest

from bert_tfx.components.report.variants import (
    batch_sizes,
    change_sentence,
    compressions,
    cost_clause,
    is_student,
    limits_text,
    load_of,
    settings_text,
    taught_difference,
    variants_section,
)
from bert_tfx.components.variant_gate.limits import VariantLimits
from bert_tfx.modeling.compression.settings import Compression

_PATH = pathlib.Path(__file__).with_name("made_up_run.py")
_SPEC = importlib.util.spec_from_file_location("made_up_run", _PATH)
made_up_run = importlib.util.module_from_spec(_SPEC)
sys.modules["made_up_run"] = made_up_run
_SPEC.loader.exec_module(made_up_run)
STUDENT, COMPRESSED, TOO_MUCH, BROKEN = (
    *(made_up_run.STUDENT, made_up_run.COMPRESSED),
    *(made_up_run.TOO_MUCH, made_up_run.BROKEN),
)
BAD_STUDENT = made_up_run.Step("student", wrong=range(0, 60, 2))


def section(*steps) -> dict | None:
    """Returns what a report tells of made-up steps."""
    run = made_up_run.MadeUpRun(pathlib.Path(), steps=steps)
    return variants_section(run.variant_findings(), None)


def test_nothing_made_smaller_is_nothing():
    assert section() is None


def test_chain_has_the_head_first_and_each_step_once():
    found = section(STUDENT, COMPRESSED, TOO_MUCH)
    assert [(model["name"], model["state"]) for model in found["models"]] == [
        ("teacher", "head"),
        ("student, not taught", "control"),
        ("student", "accepted"),
        ("prune vocab", "accepted"),
        ("heads 0.5, ffn 0.5", "refused"),
    ]
    assert found["models"][found["kept"]]["name"] == "prune vocab"
    assert [gate["node"] for gate in found["gates"]] == [
        *("StudentGate", "CompressGate1", "CompressGate2"),
    ]
    assert [is_student(gate) for gate in found["gates"]] == [True, False, False]
    assert [gate["step"] for gate in compressions(found)] == ["prune vocab", "heads 0.5, ffn 0.5"]


def test_speed_is_told_against_the_head_as_it_was_measured_with_the_step():
    found = section(STUDENT, COMPRESSED)
    gate = found["gates"][1]
    # Another hour, another load: all of this step's models take twice as long.
    for model in gate["models"].values():
        for load in model["load"]:
            load["p50"] *= 2
    findings = {f"variant_findings_{n}": gate for n, gate in enumerate(found["gates"])}
    models = variants_section(findings, None)["models"]
    assert models[-1]["load"][0]["p50"] == pytest.approx(2 * 15.9 / 1.96)
    assert models[-1]["times_as_fast"] == pytest.approx({"1": 1.96, "32": 1.96})
    assert models[0]["times_as_fast"] == {"1": 1.0, "32": 1.0}


def test_difference_is_to_the_model_before():
    student, compressed = section(STUDENT, COMPRESSED)["models"][2:]
    assert student["difference"]["value"] == pytest.approx(-0.01)
    assert (student["only_this"], student["only_before"]) == (0, 2)
    assert compressed["difference"]["value"] == pytest.approx(-0.005)
    assert (compressed["only_this"], compressed["only_before"]) == (0, 1)


def test_a_refused_step_is_left_out_and_a_refused_student_is_not():
    found = section(BAD_STUDENT, TOO_MUCH)
    assert found["models"][found["kept"]]["name"] == "student"
    assert found["models"][found["kept"]]["state"] == "refused"
    assert section(TOO_MUCH)["kept"] == 0


def test_a_variant_that_could_not_be_asked_has_no_figures():
    found = section(BROKEN, COMPRESSED)
    head, broken, compressed = found["models"]
    assert broken["accuracy"]["value"] is broken["difference"] is None
    assert (broken["load"], broken["times_as_fast"]) == ([], {})
    assert broken["bytes"] == 24_100_000
    assert compressed["times_as_fast"]["1"] == pytest.approx(1.96)
    # What was not measured beside the broken one was measured later.
    assert head["accuracy"]["value"] == 0.99
    only = section(BROKEN)
    assert only["models"][0]["accuracy"]["value"] is None
    assert only["models"][0]["name"] == "trained"


def test_slices_that_lost_most_come_first():
    slices = section(STUDENT, TOO_MUCH)["slices"]
    losses = [found["difference"]["estimate"]["value"] for found in slices]
    assert losses == sorted(losses)
    assert max(losses) < 0
    assert (slices[0]["step"], slices[0]["state"]) == ("heads 0.5, ffn 0.5", "refused")
    assert {found["step"] for found in slices} == {"student", "heads 0.5, ffn 0.5"}


def test_loads_by_rows_of_a_request():
    models = section(COMPRESSED, BROKEN)["models"]
    assert batch_sizes(models) == [1, 32]
    assert load_of(models[0], 32)["p50"] == 301.5
    assert load_of(models[2], 32) is None


def test_what_the_chain_came_to():
    assert change_sentence(section(STUDENT, COMPRESSED)) == (
        "31.2 MB instead of 94.1, 1.96 times as fast with 1 row a request, 1.96 with 32, "
        "accuracy 0.9750 instead of 0.9900."
    )
    assert change_sentence(section(TOO_MUCH)) is None
    broken_student = made_up_run.Step("student", broken="it does not load")
    assert change_sentence(section(broken_student)) == "24.1 MB instead of 94.1."


def test_what_a_step_cost():
    student, broken = section(STUDENT, BROKEN)["gates"]
    assert cost_clause(student) == (
        "accuracy 0.9800 instead of 0.9900 (-0.0100, 95% interval -0.0250 to +0.0000), "
        "47.5 MB instead of 94.1, 1.93 times as fast with 1 row a request, 1.93 with 32"
    )
    assert cost_clause(broken) == "24.1 MB instead of 47.5"


def test_what_the_teacher_brought():
    assert taught_difference(section(STUDENT, COMPRESSED)) == pytest.approx(0.01)
    assert taught_difference(section(COMPRESSED)) is None
    broken = made_up_run.Step("student", broken="no", control_wrong=(1,))
    assert taught_difference(section(broken)) is None


def test_limits_in_words():
    assert limits_text({"max_accuracy_drop": 0.0, "min_speedup": 1.5, "max_size": 20}) == (
        "0 less accuracy at most, 1.5 times as fast at least, 20 MB at most"
    )
    names = set(VariantLimits.__dataclass_fields__)
    assert names == {"max_accuracy_drop", "min_speedup", "max_size"}


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"store": "float16"}, "store float16"),
        ({"prune_vocab": True}, "prune vocab, min count 1, characters ascii"),
        (
            {"heads": 0.5, "recovery_steps": 300},
            "heads 0.5, importance rows 1024, recovery steps 300, recovery learning rate 3e-05, "
            "recovery seed 1",
        ),
    ],
)
def test_settings_tell_how_only_where_it_was_asked_what(asked, expected):
    settings = dataclasses.asdict(Compression(**asked))
    assert sorted(settings_text(settings).split(", ")) == sorted(expected.split(", "))
