"""Runs the pipeline on this machine, one component after another, and says how it goes."""

import sys
import time

from bert_tfx.pipeline.config import Config
from bert_tfx.pipeline.console import Console, logged
from bert_tfx.pipeline.node_launcher import NodeLauncher, NodeRun


def run(config: Config, run_id: str) -> list[NodeRun]:
    """Runs the pipeline; finished components of earlier runs are not run again.

    The caller keeps other runs out of the output folder (`output_lock.exclusive`).

    Args:
        config: What to run.
        run_id: A name for the run.

    Returns:
        What each component did, in order.

    Raises:
        InputError: If a component refuses its input.
    """
    console = Console(sys.stdout)
    with logged(console):
        launcher = NodeLauncher(config, run_id)
        return [launch_node(launcher, name, console) for name in launcher.nodes]


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
