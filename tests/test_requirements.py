"""The lock files fit together, and hold nothing of the machine that wrote them."""

import re
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements"


def pins(name: str) -> dict[str, str]:
    text = (REQUIREMENTS / name).read_text(encoding="utf-8")
    return dict(re.findall(r"^([\w.-]+)(?:\[[\w,-]+\])?==([^\s;]+)", text, re.MULTILINE))


def test_dev_lock_extends_run_lock():
    run, dev = pins("run.txt"), pins("dev.txt")
    assert run.items() <= dev.items(), "one set-up would undo the other: run `make lock`"
    assert "pytest" in dev.keys() - run.keys()


def test_locks_keep_the_constraints():
    constraints = pins("constraints.txt")
    assert constraints
    assert constraints.items() <= pins("run.txt").items(), "run `make lock`"


def test_run_lock_can_build_the_project():
    assert "setuptools" in pins("run.txt"), "the editable install builds without isolation"


def test_locks_name_no_machine():
    for path in REQUIREMENTS.glob("*.txt"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"https?:|file:|^-|(?<![\w.])/\w", text, re.MULTILINE), path.name


def test_airflow_lock_holds_no_framework():
    airflow = pins("airflow.txt")
    # The DAG starts a command; what that computes with is in the environment of run.txt.
    forbidden = re.compile("tfx|tensorflow|keras|apache-beam|ml-metadata|numpy")
    assert not {name for name in airflow if forbidden.match(name)}
    assert airflow["apache-airflow"].startswith("3.")
