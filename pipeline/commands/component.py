"""`bert-tfx component`: the pipeline node by node or stage by stage, for a scheduler."""

import argparse
import contextlib
import json
import re
import sys

from bert_tfx.pipeline.commands.run import add_options
from bert_tfx.pipeline.configuration import options
from bert_tfx.pipeline.configuration.beam_engine import MULTI_PROCESSING
from bert_tfx.pipeline.configuration.config import make_config
from bert_tfx.pipeline.configuration.stages import STAGES, stage_of
from bert_tfx.pipeline.execution.last_run import forget_last_run
from bert_tfx.pipeline.metadata.store import check_store, keep_address
from bert_tfx.pipeline.process.console import Console, logged, quiet_workers, quieten
from bert_tfx.pipeline.process.exit_codes import OF_A_RUN, ExitCode, explain
from bert_tfx.pipeline.process.output_lock import for_part
from bert_tfx.schema.errors import InputError

# It names a context in ML Metadata, and comes from the outside.
_RUN_ID = r"[\w.:+@=-]{1,200}"


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declares the commands."""
    parser = commands.add_parser(
        "component",
        help="run nodes of the pipeline, or list them",
        description="Runs nodes of the pipeline in a process of their own, or lists the nodes: "
        "for a scheduler such as Airflow.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    one = actions.add_parser(
        "run",
        help="run a stage, or single nodes",
        description="Runs nodes of the pipeline as `bert-tfx run` does. Processes that are given "
        "the same --run-id make one run; each node when those that it follows have finished. What "
        "the run has finished is not done again; what was stopped is.",
        epilog=explain(*OF_A_RUN) + " Only ModelPusher, in the stage release, ends with 3. "
        "Where 1 or a signal has ended the process, trying again may help.",
    )
    one.set_defaults(command=_run)
    which = one.add_argument_group("which part of the pipeline")
    part = which.add_mutually_exclusive_group(required=True)
    part.add_argument(
        "--stage", choices=STAGES, help="all nodes of a stage: " + ", ".join(STAGES), metavar="NAME"
    )
    part.add_argument(
        "--node",
        action="append",
        metavar="NAME",
        help="as `component list` names it; more than one may be given",
    )
    which.add_argument(
        "--run-id",
        metavar="ID",
        help="the run that it belongs to (default: the latest in the output folder)",
    )
    add_options(one)

    listing = actions.add_parser(
        "list",
        help="list the nodes",
        description="Lists the nodes in an order in which they can run, each with its stage and "
        "those that it follows.",
    )
    listing.set_defaults(command=_list)
    listing.add_argument("--json", action="store_true", help="print JSON, for programs")
    add_options(listing)


def _run(arguments: argparse.Namespace) -> int:
    """Runs nodes; returns the exit code."""
    config = make_config(options.collect(arguments))
    asked = arguments.node or []
    for name in asked:
        if not re.fullmatch(r"\w+", name):
            raise InputError(f"there is no node {name!r}; `component list` names them")
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
    stages = {arguments.stage, *map(stage_of, asked)}
    with contextlib.ExitStack() as locks:
        locks.enter_context(logged(console))
        # Who waits, waits without the frameworks; all in the same order, so that nobody waits for
        # who waits for him.
        for stage in filter(stages.__contains__, STAGES):
            locks.enter_context(for_part(config.output_dir, stage))
        quieten(arguments.verbose)
        check_store(config.metadata_address)
        keep_address(config.output_dir, config.metadata_address, config.pipeline_name)
        # It tells of whole runs, and what is done here may be another's baseline.
        forget_last_run(config.output_dir)

        from bert_tfx.pipeline.execution.local_runner import launch_node
        from bert_tfx.pipeline.execution.node_launcher import MODEL_PUSHER, NodeLauncher
        from bert_tfx.pipeline.reporting.run_report import REPORT_NODE, write_report

        launcher = NodeLauncher(config, arguments.run_id)
        for name in asked:
            if name not in launcher.nodes:
                raise InputError(
                    f"there is no node {name!r}; the nodes are {', '.join(launcher.nodes)}"
                )
        print(f"run {launcher.run_id}")
        held_back = False
        for name in launcher.nodes:
            if name not in asked and stage_of(name) != arguments.stage:
                continue
            with quiet_workers(config.beam.beam_runner == MULTI_PROCESSING, arguments.verbose):
                node = launch_node(launcher, name, console)
            if name == REPORT_NODE:
                write_report(config.output_dir, run_id=launcher.run_id, config=config)
            held_back |= name == MODEL_PUSHER and not launcher.has_pushed(node)
    return ExitCode.NOT_BLESSED if held_back else ExitCode.DONE


def _list(arguments: argparse.Namespace) -> int:
    """Lists the nodes; returns the exit code."""
    config = make_config(options.collect(arguments))
    quieten(arguments.verbose)

    from bert_tfx.pipeline.execution.node_launcher import compile_pipeline, nodes_of

    nodes = nodes_of(compile_pipeline(config))
    if arguments.json:
        told = {name: {"stage": stage_of(name), "follows": nodes[name]} for name in nodes}
        print(json.dumps(told))
    else:
        width = max(map(len, nodes))
        for name, upstream in nodes.items():
            print(f"{stage_of(name):8}  {name:{width}}  {', '.join(upstream)}".rstrip())
    return 0
