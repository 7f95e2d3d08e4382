"""Runs the pipeline on this machine, and says how it goes.

One component after another; or, where more are allowed at a time, each as soon as those that it
follows have finished.
"""

import queue
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterable

from bert_tfx.pipeline.configuration.config import Config
from bert_tfx.pipeline.execution.node_launcher import NodeLauncher, NodeRun
from bert_tfx.pipeline.process.console import Console, logged

# It measures how fast the model answers.
_ALONE = frozenset({"ServingGate"})


def run(
    config: Config, run_id: str, *, before_node: Callable[[], None] = lambda: None
) -> list[NodeRun]:
    """Runs the pipeline; finished components of earlier runs are not run again.

    The caller keeps other runs out of the output folder (`output_lock.exclusive`).

    Args:
        config: What to run.
        run_id: A name for the run.
        before_node: Called before each node; what it raises ends the run.

    Returns:
        What each component did, in order.

    Raises:
        InputError: If a component refuses its input.
    """
    console = Console(sys.stdout)
    with logged(console):
        launcher = NodeLauncher(config, run_id)
        if config.parallel > 1:
            return _side_by_side(launcher, console, config.parallel, before_node)
        runs = []
        for name in launcher.nodes:
            before_node()
            runs.append(launch_node(launcher, name, console))
        return runs


def launch_node(launcher: NodeLauncher, name: str, console: Console) -> NodeRun:
    """Launches a node, and says so.

    Args:
        launcher: The run.
        name: The node.
        console: Where to say it.

    Returns:
        What it did.

    Raises:
        InputError: If it refuses its input.
    """
    number = list(launcher.nodes).index(name) + 1
    console.begin(f"[{number:2}/{len(launcher.nodes)}] {name}")
    start = time.monotonic()
    try:
        node = launcher.launch(name)
    except BaseException:
        console.end(f"failed after {time.monotonic() - start:.1f} s")
        raise
    if node.before:
        console.end("has finished in this run already")
    else:
        console.end("cached" if node.cached else f"{node.seconds:.1f} s")
    return node


def _side_by_side(
    launcher: NodeLauncher, console: Console, limit: int, before_node: Callable[[], None]
) -> list[NodeRun]:
    """Launches the nodes in threads, so many at a time at most.

    Where one fails, those that are running come to their end, and no other begins.
    """
    finished: queue.SimpleQueue[tuple[str, NodeRun | BaseException]] = queue.SimpleQueue()

    def work(name: str) -> None:
        try:
            finished.put((name, launcher.launch(name)))
        except BaseException as error:
            finished.put((name, error))

    numbers = {name: f"[{i:2}/{len(launcher.nodes)}]" for i, name in enumerate(launcher.nodes, 1)}
    waiting = dict(launcher.nodes)
    running: set[str] = set()
    done: dict[str, NodeRun] = {}
    failure: BaseException | None = None
    while waiting or running:
        before_node()
        ready = [name for name, upstream in waiting.items() if done.keys() >= set(upstream)]
        for name in ready if failure is None else ():
            if len(running) < limit and _may_begin(name, running):
                console.tell(f"{numbers[name]} {name} begins")
                del waiting[name]
                running.add(name)
                # Of an interrupted run none is waited for.
                threading.Thread(target=work, args=(name,), name=name, daemon=True).start()
        if not running:
            break
        name, result = finished.get()
        running.remove(name)
        if isinstance(result, BaseException):
            console.tell(f"{numbers[name]} {name} failed")
            failure = failure or result
            continue
        done[name] = result
        how = "cached" if result.cached else f"{result.seconds:.1f} s"
        console.tell(f"{numbers[name]} {name} {how}")
    if failure is not None:
        raise failure
    return [done[name] for name in launcher.nodes]


def _may_begin(name: str, running: Iterable[str]) -> bool:
    """Returns whether a node may begin beside those that are running."""
    beside = set(running)
    if not beside:
        return True
    return not _ALONE & {name, *beside} and _available_memory() > _used_memory()


def _available_memory() -> float:
    """Returns the bytes that the machine has left; without limit where it does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            kilobytes = next(line.split()[1] for line in file if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return float("inf")
    return int(kilobytes) * 1024


def _used_memory() -> int:
    """Returns the bytes that this process has held at most: what another node may take."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
