import json
import logging
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_tfx.components.data_gate import checks
from bert_tfx.components.data_gate.checks import (
    CHECKS,
    STOP,
    WARN,
    Result,
    conclude,
    judge,
    limits_json,
    parse_limits,
    report_json,
)
from bert_tfx.schema.errors import InputError

logger = logging.getLogger("bert_tfx.test")


def result(name: str, value: float, limits: str = "", **fields) -> Result:
    facts = {"rows": 100, "found": "5 of 100 rows are odd", "advice": "Mend them"}
    return judge(name, ("eval",), value, parse_limits(limits), **(facts | fields))


# The table.


def test_every_check_says_what_it_is_and_has_a_limit_in_range():
    for name, check in CHECKS.items():
        assert name.isidentifier()
        assert check.gate in (checks.DATA, checks.TOKENS)
        assert check.about.endswith(".") and check.about[0].isupper()
        severities = [limit.severity for limit in check.limits]
        assert severities in ([WARN], [WARN, STOP])
        values = [limit.value for limit in check.limits]
        assert all(0 < value < 1 for value in values)
        assert values == sorted(values, reverse=check.at_least)


def test_reading_limits_needs_no_framework():
    code = "import sys, bert_tfx.components.data_gate.checks; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"apache_beam", "tensorflow", "tfx", "numpy"} & set(done.stdout.split())


# What is given on the command line and in files.


def test_without_limits_given_the_defaults_hold():
    assert parse_limits() == {
        name: {limit.severity: limit.value for limit in check.limits}
        for name, check in CHECKS.items()
    }


def test_a_limit_takes_the_place_of_that_of_its_severity():
    limits = parse_limits(" leakage = 0.3:stop, truncated=0.5 ,class_balance=0.05:stop,")
    assert limits["leakage"] == {"warn": 0.01, "stop": 0.3}
    assert limits["truncated"] == {"warn": 0.5}
    assert limits["class_balance"] == {"warn": 0.2, "stop": 0.05}
    assert limits["unknown"] == parse_limits()["unknown"]


def test_a_file_says_the_same_in_json():
    from_file = {"leakage": {"stop": 0.3}, "truncated": 0.5, "class_balance": {"stop": 0.05}}
    given = parse_limits(json.loads(json.dumps(from_file)))
    assert given == parse_limits("leakage=0.3:stop,truncated=0.5,class_balance=0.05:stop")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("leak=0.1", "flags: there is no check 'leak'; known are leakage, duplicates, contr"),
        ("0.1", "flags: there is no check '0.1'; known are"),
        ("leakage=0.1:fail", "flags, leakage: a severity is warn (the run goes on) or stop. Rec"),
        ("leakage=0.1:", "flags, leakage: a severity is warn (the run goes on) or stop. Receiv"),
        ("leakage", "flags, leakage: expected a number from 0 to 1, for example leakage=0.05:st"),
        ("leakage=5", "flags, leakage: expected a number from 0 to 1"),
        ("leakage=-0.1", "flags, leakage: expected a number from 0 to 1"),
        ("leakage=nan", "flags, leakage: expected a number from 0 to 1"),
        ("leakage=5%:stop", "stands in train too"),
        ("leakage=0.1,leakage=0.2:warn", "flags, leakage: the limit to warn is given twice"),
        ({"leak": 0.1}, "flags: there is no check 'leak'"),
        ({"leakage": None}, "flags, leakage: expected a number from 0 to 1"),
        ({"leakage": True}, "flags, leakage: expected a number from 0 to 1"),
        ({"leakage": [0.1]}, "flags, leakage: expected a number from 0 to 1"),
        ({"leakage": {"fail": 0.1}}, "flags, leakage: a severity is warn"),
        ([0.1], 'flags: expected an object of limits, for example {"leakage": {"stop": 0.05}'),
        (None, "flags: expected an object of limits"),
    ],
)
def test_what_is_no_limit_is_refused(given, message):
    with pytest.raises(InputError) as refused:
        parse_limits(given, where="flags")
    assert message in str(refused.value)


@given(
    st.dictionaries(
        st.sampled_from(sorted(CHECKS)),
        st.dictionaries(st.sampled_from([WARN, STOP]), st.floats(0, 1), min_size=1),
    )
)
def test_text_json_and_parameters_carry_the_same_limits(given):
    limits = parse_limits(given)
    for name, values in given.items():
        assert {severity: limits[name][severity] for severity in values} == values
    text = ",".join(f"{n}={v!r}:{s}" for n, values in given.items() for s, v in values.items())
    assert parse_limits(text) == limits
    for gate in (checks.DATA, checks.TOKENS):
        own = {name: limits[name] for name, check in CHECKS.items() if check.gate == gate}
        assert json.loads(limits_json(limits, gate)) == own
        carried = parse_limits(json.loads(limits_json(limits, gate)))
        assert {name: carried[name] for name in own} == own


@given(st.text())
def test_any_text_is_limits_or_an_input_error(text):
    try:
        assert set(parse_limits(text)) == set(CHECKS)
    except InputError as refused:
        assert str(refused).startswith("limits")


def test_a_gate_does_not_see_the_other_ones_limits():
    before, after = parse_limits(), parse_limits("truncated=0.9")
    assert limits_json(before, checks.DATA) == limits_json(after, checks.DATA)
    assert limits_json(before, checks.TOKENS) != limits_json(after, checks.TOKENS)


# A value against its limits.


@pytest.mark.parametrize(
    ("name", "value", "limits", "passed", "severity", "limit"),
    [
        ("leakage", 0.01, "", True, WARN, 0.01),
        ("leakage", 0.011, "", False, WARN, 0.01),
        ("leakage", 0.5, "", False, WARN, 0.01),
        ("leakage", 0.51, "", False, STOP, 0.5),
        ("leakage", 0.2, "leakage=0.1:stop,leakage=0.3", False, STOP, 0.1),
        ("leakage", 1.0, "leakage=1,leakage=1:stop", True, WARN, 1.0),
        ("class_balance", 0.2, "", True, WARN, 0.2),
        ("class_balance", 0.19, "", False, WARN, 0.2),
        ("class_balance", 0.04, "class_balance=0.05:stop", False, STOP, 0.05),
        ("class_balance", 0.1, "class_balance=0.05:stop", False, WARN, 0.2),
        ("class_balance", 0.0, "class_balance=0", True, WARN, 0.0),
    ],
)
def test_the_severest_limit_that_was_passed_counts(name, value, limits, passed, severity, limit):
    judged = result(name, value, limits)
    assert (judged.passed, judged.severity, judged.limit) == (passed, severity, limit)


def test_a_message_names_figures_limit_and_first_row_and_advises_where_it_must():
    examples = [{"row": "dev.tsv:3", "other_row": "train.tsv:9"}, {"row": "dev.tsv:4"}]
    assert result("leakage", 0.05, examples=examples).message == (
        "5 of 100 rows are odd (limit: at most 0.01), first dev.tsv:3 and train.tsv:9. Mend them"
    )
    assert result("leakage", 0.001).message == "5 of 100 rows are odd (limit: at most 0.01)"
    assert "(limit: at least 0.2)" in result("class_balance", 0.5).message


# The end of a gate.


def test_warnings_are_logged_in_a_line_each_and_stop_nothing(caplog):
    found = [result("leakage", 0.05), result("duplicates", 0.01), result("truncated", 0.3)]
    conclude("DataGate", logger, found)
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "DataGate warns, leakage",
        "DataGate warns, truncated",
    ]
    assert all("\n" not in record.getMessage() for record in caplog.records)


def test_all_that_stops_is_told_at_once(caplog):
    always = Result("rows", ("eval",), 0, None, STOP, False, 0, 0, "split 'eval' has no rows")
    found = [always, result("leakage", 0.6), result("truncated", 0.3), result("unknown", 0.7)]
    with pytest.raises(InputError) as stopped:
        conclude("DataGate", logger, found)
    first, *problems, last = str(stopped.value).split("\n")
    assert first == "DataGate stopped the run before training:"
    assert problems[0] == "  - split 'eval' has no rows"
    assert len(problems) == 3
    assert last.endswith("move the limit: --limits leakage=VALUE:stop")
    # What only warns is told, too.
    assert len(caplog.records) == 1


def test_no_limit_moves_a_split_without_rows():
    always = Result("rows", ("eval",), 0, None, STOP, False, 0, 0, "split 'eval' has no rows")
    with pytest.raises(InputError) as stopped:
        conclude("DataGate", logger, [always])
    assert "--limits" not in str(stopped.value)


def test_a_report_holds_every_field():
    always = Result("rows", ("eval",), 3, None, STOP, True, 3, 3, "fine")
    written = json.loads(report_json({"eval": {"rows": 3}}, [always, result("unknown", 1 / 3)]))
    assert written["splits"] == {"eval": {"rows": 3}}
    assert written["checks"][0] == {
        "name": "rows",
        "splits": ["eval"],
        "value": 3,
        "limit": None,
        "severity": "stop",
        "passed": True,
        "count": 3,
        "exact": None,
        "rows": 3,
        "message": "fine",
        "examples": [],
    }
    assert written["checks"][1]["limit"] == 0.05
    assert written["checks"][1]["value"] == 0.333333
