import io
import threading
import types

import pytest

from bert_tfx.pipeline.execution import local_runner
from bert_tfx.pipeline.execution.node_launcher import NodeRun
from bert_tfx.pipeline.process.console import Console
from bert_tfx.schema.errors import InputError

NODES = {
    "Read": [],
    "Schema": [],
    "Count": ["Read", "Schema"],
    "Train": ["Count"],
    "Measure": ["Train"],
    "Judge": ["Train"],
    "ServingGate": ["Judge"],
    "Report": ["Measure", "ServingGate"],
}


class Launcher:
    """Nodes that take no time but for those that wait for one another."""

    def __init__(self, *, together=(), failing=()):
        self.nodes = NODES
        self.begun = []
        self.beside = {}
        self._running = set()
        self._lock = threading.Lock()
        self._barrier = threading.Barrier(len(together), timeout=30) if together else None
        self._together = together
        self._failing = failing

    def launch(self, name):
        with self._lock:
            self.begun.append(name)
            self._running.add(name)
            for other in self._running:
                self.beside.setdefault(other, set()).update(self._running - {other})
        if name in self._together:
            self._barrier.wait()
        with self._lock:
            self._running.remove(name)
        if name in self._failing:
            raise InputError(f"{name}: no")
        return NodeRun(name, len(self.begun), False, 0.1)


def side_by_side(launcher, limit=2, before_node=lambda: None):
    stream = io.StringIO()
    runs = local_runner._side_by_side(launcher, Console(stream), limit, before_node)
    return runs, stream.getvalue().splitlines()


def test_each_node_begins_after_those_that_it_follows():
    launcher = Launcher()
    runs, lines = side_by_side(launcher, limit=4)
    assert [run.name for run in runs] == [*NODES]
    for name, upstream in NODES.items():
        assert all(launcher.begun.index(name) > launcher.begun.index(before) for before in upstream)
    assert lines.index("[ 4/8] Train begins") > lines.index("[ 3/8] Count 0.1 s")


@pytest.mark.parametrize("together", [("Read", "Schema"), ("Measure", "Judge")])
def test_nodes_that_do_not_follow_each_other_run_at_a_time(together):
    launcher = Launcher(together=together)
    side_by_side(launcher)
    assert together[0] in launcher.beside[together[1]]


def test_no_more_than_allowed_run_at_a_time():
    launcher = Launcher()
    side_by_side(launcher, limit=1)
    assert not any(launcher.beside.values())


def test_the_serving_gate_runs_alone():
    launcher = Launcher()
    side_by_side(launcher, limit=8)
    assert launcher.beside["ServingGate"] == set()


def test_without_memory_nodes_take_turns(monkeypatch):
    monkeypatch.setattr(local_runner, "_available_memory", lambda: 0)
    launcher = Launcher()
    side_by_side(launcher, limit=8)
    assert not any(launcher.beside.values())


def test_where_one_fails_the_others_end_and_none_begins():
    launcher = Launcher(together=("Measure", "Judge"), failing=("Judge",))
    with pytest.raises(InputError, match=r"^Judge: no$"):
        side_by_side(launcher)
    assert {*NODES} - {*launcher.begun} == {"ServingGate", "Report"}


def test_memory_is_told_in_bytes():
    assert 2**20 < local_runner._available_memory() < 2**50
    assert 2**20 < local_runner._used_memory() < 2**40


@pytest.mark.parametrize("parallel", [1, 2])
def test_what_is_raised_before_a_node_ends_the_run(monkeypatch, parallel):
    launcher = Launcher()
    monkeypatch.setattr(local_runner, "NodeLauncher", lambda config, run_id: launcher)
    config = types.SimpleNamespace(parallel=parallel)

    def swallowed():
        """As an interrupt that a library has swallowed while Count was at work."""
        if "Count" in launcher.begun:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        local_runner.run(config, "run", before_node=swallowed)
    assert "Train" not in launcher.begun
