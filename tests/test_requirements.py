"""The lock files fit together, and hold nothing of the machine that wrote them."""

import re
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet
from packaging.version import Version

REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements"
STACKS = ("modern", "classic")
ON_BOTH = pytest.mark.parametrize("stack", STACKS)


def pins(name: str) -> dict[str, set[str]]:
    """Each package's releases: a lock for several Python releases may have more than one."""
    text = (REQUIREMENTS / name).read_text(encoding="utf-8")
    found: dict[str, set[str]] = {}
    for package, version in re.findall(
        r"^([\w.-]+)(?:\[[\w,-]+\])?==([^\s;]+)", text, re.MULTILINE
    ):
        found.setdefault(package, set()).add(version)
    return found


@ON_BOTH
def test_dev_lock_extends_run_lock(stack):
    run, dev = pins(f"{stack}/run.txt"), pins(f"{stack}/dev.txt")
    assert run.items() <= dev.items(), "one set-up would undo the other: run `make lock`"
    assert "pytest" in dev.keys() - run.keys()


@ON_BOTH
def test_locks_keep_the_constraints(stack):
    constraints = pins(f"{stack}/constraints.txt")
    assert constraints["tfx"] == {{"modern": "1.21.0", "classic": "1.16.0"}[stack]}
    assert constraints.items() <= pins(f"{stack}/run.txt").items(), "run `make lock`"


def test_modern_lock_keeps_the_overrides():
    overrides = pins("modern/overrides.txt")
    assert overrides
    for lock in ("run", "dev", "kubeflow"):
        assert overrides.items() <= pins(f"modern/{lock}.txt").items(), "run `make lock`"


@ON_BOTH
def test_locks_can_build_the_project(stack):
    for lock in ("run", "dev", "kubeflow", "jax"):
        locked = pins(f"{stack}/{lock}.txt")
        assert "setuptools" in locked, "the editable install builds without isolation"


@ON_BOTH
def test_jax_lock_has_the_keras_of_the_stack(stack):
    dev, jax = pins(f"{stack}/dev.txt"), pins(f"{stack}/jax.txt")
    assert jax["keras"] == dev["keras"]
    assert "tensorflow" not in jax


def test_locks_name_no_machine():
    files = [*REQUIREMENTS.glob("**/*.txt")]
    assert len(files) > 10
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"https?:|file:|^-|(?<![\w.])/\w", text, re.MULTILINE), path.name


def test_setup_declares_both_stacks():
    setup = (REQUIREMENTS.parent / "setup.py").read_text(encoding="utf-8")
    for stack in STACKS:
        locked = pins(f"{stack}/run.txt")
        declared = dict(re.findall(r'"([a-z][\w.-]+)((?:[<>=!]=?[^",]+,?)+)"', setup))
        names = declared.keys() & locked.keys()
        assert len(names) > 20
        for name in names:
            (version,) = locked[name]
            assert SpecifierSet(declared[name]).contains(Version(version)), (stack, name, version)


def test_airflow_lock_holds_no_framework():
    airflow = pins("airflow.txt")
    # The DAG starts a command; what that computes with is in the environment of run.txt.
    forbidden = re.compile("tfx|tensorflow|keras|apache-beam|ml-metadata|numpy")
    assert not {name for name in airflow if forbidden.match(name)}
    (release,) = airflow["apache-airflow"]
    assert release.startswith("3.")
