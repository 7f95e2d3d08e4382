"""`bert-tfx component`: the pipeline's nodes one by one, for a scheduler that orders them."""

import argparse
import dataclasses
import hashlib
import json
import os
import re
import sys

from bert_tfx.pipeline.commands.run import add_options
from bert_tfx.pipeline.configuration import options
from bert_tfx.pipeline.configuration.beam_engine import MULTI_PROCESSING
from bert_tfx.pipeline.configuration.config import Config, make_config
from bert_tfx.pipeline.execution.last_run import forget_last_run
from bert_tfx.pipeline.metadata.store import check_store, keep_address
from bert_tfx.pipeline.process.console import Console, logged, quiet_workers, quieten
from bert_tfx.pipeline.process.exit_codes import OF_A_RUN, ExitCode, explain
from bert_tfx.pipeline.process.output_lock import for_node
from bert_tfx.schema import files
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.fingerprint import source_fingerprint

NODES_FILE = "nodes.json"

_PIPELINE = "bert_tfx.pipeline.pipeline"
# It names a context in ML Metadata, and comes from the outside.
_RUN_ID = r"[\w.:+@=-]{1,200}"


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declares the commands."""
    parser = commands.add_parser(
        "component",
        help="run one node of the pipeline, or list them",
        description="Runs one node of the pipeline in a process of its own, or lists the nodes: "
        "for a scheduler such as Airflow.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    one = actions.add_parser(
        "run",
        help="run one node",
        description="Runs one node of the pipeline as `bert-tfx run` does. Processes that are "
        "given the same --run-id make one run; each node when those that it follows have finished. "
        "What the run has finished is not done again; what was stopped is.",
        epilog=explain(*OF_A_RUN) + " Only ModelPusher ends with 3. "
        "Where 1 or a signal has ended a node, trying again may help.",
    )
    one.set_defaults(command=_run)
    which = one.add_argument_group("which part of the pipeline")
    which.add_argument("--node", required=True, metavar="NAME", help="as `component list` names it")
    which.add_argument(
        "--run-id",
        metavar="ID",
        help="the run that it belongs to (default: the latest in the output folder)",
    )
    add_options(one)

    listing = actions.add_parser(
        "list",
        help="list the nodes",
        description="Lists the nodes in an order in which they can run, each with those that it "
        f"follows. The list is kept in the output folder, as {NODES_FILE}, and taken from there as "
        "long as neither the configuration nor the source changes.",
    )
    listing.set_defaults(command=_list)
    listing.add_argument("--json", action="store_true", help="print JSON, for programs")
    add_options(listing)


def _run(arguments: argparse.Namespace) -> int:
    """Runs a node; returns the exit code."""
    config = make_config(options.collect(arguments))
    if not re.fullmatch(r"\w+", arguments.node):
        raise InputError(f"there is no node {arguments.node!r}; `component list` names them")
    if arguments.run_id is not None and not re.fullmatch(_RUN_ID, arguments.run_id):
        raise InputError(
            f"--run-id {arguments.run_id!r}: must be 1 to 200 letters, digits and any of . : + @ = "
            "_ -"
        )
    # The task's files are looked at before the frameworks load: a wrong path answers at once.
    config.slice_columns  # noqa: B018
    arguments.fault_folder = config.output_dir
    config.beam.check_here()
    console = Console(sys.stdout)
    # Who waits, waits without the frameworks.
    with logged(console), for_node(config.output_dir, arguments.node):
        quieten(arguments.verbose)
        check_store(config.metadata_address)
        keep_address(config.output_dir, config.metadata_address, config.pipeline_name)
        # It tells of whole runs, and what is done here may be another's baseline.
        forget_last_run(config.output_dir)

        from bert_tfx.pipeline.execution.local_runner import launch_node
        from bert_tfx.pipeline.execution.node_launcher import MODEL_PUSHER, NodeLauncher
        from bert_tfx.pipeline.reporting.run_report import REPORT_NODE, write_report

        launcher = NodeLauncher(config, arguments.run_id)
        # Of this source now: the DAG of the next run is read from it.
        if _known_nodes(config) is None:
            _keep_nodes(config, launcher.nodes)
        if arguments.node not in launcher.nodes:
            raise InputError(
                f"there is no node {arguments.node!r}; the nodes are {', '.join(launcher.nodes)}"
            )
        print(f"run {launcher.run_id}")
        with quiet_workers(config.beam.beam_runner == MULTI_PROCESSING, arguments.verbose):
            node = launch_node(launcher, arguments.node, console)
        if node.name == REPORT_NODE:
            write_report(config.output_dir, run_id=launcher.run_id, config=config)
        held_back = node.name == MODEL_PUSHER and not launcher.has_pushed(node)
    return ExitCode.NOT_BLESSED if held_back else ExitCode.DONE


def _list(arguments: argparse.Namespace) -> int:
    """Lists the nodes; returns the exit code."""
    config = make_config(options.collect(arguments))
    nodes = _known_nodes(config)
    if nodes is None:
        quieten(arguments.verbose)

        from bert_tfx.pipeline.execution.node_launcher import compile_pipeline, nodes_of

        nodes = nodes_of(compile_pipeline(config))
        _keep_nodes(config, nodes)
    if arguments.json:
        print(json.dumps(nodes))
    else:
        width = max(map(len, nodes))
        for name, upstream in nodes.items():
            print(f"{name:{width}}  {', '.join(upstream)}".rstrip())
    return 0


def _known_nodes(config: Config) -> dict[str, list[str]] | None:
    """Returns the nodes as they were found before, or None where something has changed since."""
    try:
        with open(os.path.join(config.output_dir, NODES_FILE), encoding="utf-8") as file:
            kept = json.load(file)
    except (OSError, ValueError):
        return None
    return kept["nodes"] if kept["key"] == _key(config) else None


def _keep_nodes(config: Config, nodes: dict[str, list[str]]) -> None:
    path = os.path.join(config.output_dir, NODES_FILE)
    files.write(path, json.dumps({"key": _key(config), "nodes": nodes}, indent=1))


def _key(config: Config) -> str:
    """Returns a hash of all that the pipeline's nodes may depend on."""
    # The same nodes read each day's files.
    parts = (source_fingerprint(_PIPELINE), repr(dataclasses.replace(config, span=None)))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
