import numpy as np
import pytest

from bert_tfx.components.predictor.predictions import Predictions
from bert_tfx.components.variant_gate.judgement import judge, unusable
from bert_tfx.components.variant_gate.limits import VariantLimits

ROWS = 400


def judged(wrong=(), wrong_before=(), *, limits=None, p50=(5.0, 50.0), size=40, slices=None):
    """Judges a variant that has these rows wrong, beside a model of 10 and 80 ms and 80 MB."""
    right = np.arange(ROWS) % 2
    answers = []
    for mistakes in (wrong, wrong_before):
        given = right.copy()
        given[list(mistakes)] = 1 - given[list(mistakes)]
        answers.append(np.eye(2, dtype=np.float32)[given])
    measured = {
        name: {
            "bytes": megabytes * 1_000_000,
            "load": [{"rows": 1, "p50": times[0]}, {"rows": 32, "p50": times[1]}],
        }
        for name, megabytes, times in (("before", 80, (10.0, 80.0)), ("variant", size, p50))
    }
    return judge(
        Predictions(right, *answers, slices or {}),
        ["0", "1"],
        measured,
        VariantLimits(**(limits or {})),
        name="student",
        of="teacher",
        row_names=[str(i) for i in range(ROWS)],
    )


def test_what_loses_little_and_gains_enough_is_accepted():
    found = judged(range(8), limits={"min_speedup": 1.6, "max_size": 40})
    assert found.accepted
    assert not found.reasons
    assert found.verdict == (
        "Accepted: student has accuracy 0.9800 against teacher's 1.0000, 40.0 MB against 80.0, and "
        "is 2.00 times as fast with 1 row and 1.60 times as fast with 32 rows."
    )
    assert found.speedup == {"1": 2.0, "32": 1.6}
    assert found.comparison.counts.only_baseline == 8


def test_the_figure_itself_counts_over_all_rows():
    # One row more than the 2% that are allowed: no interval would show it.
    found = judged(range(9))
    assert not found.accepted
    assert found.verdict == (
        "Refused: Student has 0.0225 less accuracy than teacher on 400 rows, where 0.0200 less is "
        "allowed."
    )


def test_what_the_model_before_had_wrong_too_is_no_loss():
    assert judged(range(40), range(35)).accepted


def test_a_slice_that_falls_is_refused_although_all_rows_together_do_not():
    slices = {"language": np.array(["zh"] * 60 + ["en"] * (ROWS - 60), object)}
    found = judged(range(20), range(60, 75), slices=slices)
    assert not found.accepted
    assert found.reasons[0].startswith("On language=zh (60 rows) accuracy fell from 1.0000 to 0.66")


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (
            {"min_speedup": 1.61},
            "Student answers requests of 32 rows 1.60 times as fast, where 1.61 times is asked "
            "for.",
        ),
        ({"max_size": 39.9}, "Student has 40.0 MB, where 39.9 MB are allowed."),
    ],
)
def test_what_gains_too_little_is_refused(limits, reason):
    found = judged(limits=limits)
    assert not found.accepted
    assert found.reasons == [reason]


def test_all_reasons_are_told():
    found = judged(range(100), p50=(20.0, 160.0), limits={"min_speedup": 1, "max_size": 1})
    assert len(found.reasons) >= 4
    more = len(found.reasons) - 1
    assert found.verdict.endswith(f"(and {more} more reasons).")


def test_what_no_server_can_load_is_refused():
    found = unusable("student", "the server cannot load the model.")
    assert not found.accepted
    assert found.verdict == ("Refused: Student cannot be used: the server cannot load the model.")
    assert found.comparison is None
