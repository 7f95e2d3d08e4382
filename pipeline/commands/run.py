"""`bert-tfx run`: the pipeline on this machine."""

import argparse
import contextlib
import dataclasses
import datetime
import os
import signal
import sys
from collections.abc import Iterator

from bert_tfx.components.model_pusher.version_folder import pushed_versions
from bert_tfx.components.promotion_gate.limits import PromotionLimits
from bert_tfx.components.serving_gate.limits import ServingLimits
from bert_tfx.modeling.export.storages import INT8
from bert_tfx.pipeline.configuration import options
from bert_tfx.pipeline.configuration.beam_engine import MULTI_PROCESSING, BeamEngine
from bert_tfx.pipeline.configuration.config import Config, make_config
from bert_tfx.pipeline.execution.last_run import (
    LAST_RUN_FILE,
    VERDICTS,
    Dependencies,
    changes,
    dependencies,
    keep_last_run,
    read_last_run,
)
from bert_tfx.pipeline.metadata.store import check_store, keep_address, new_run_id
from bert_tfx.pipeline.process.console import Console, logged, quiet_workers, quieten
from bert_tfx.pipeline.process.exit_codes import OF_A_RUN, ExitCode, explain
from bert_tfx.pipeline.process.faults import exit_code_of, fault_sentence
from bert_tfx.pipeline.process.notification import Hooks, Outcome
from bert_tfx.pipeline.process.output_lock import exclusive
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.options import declare


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declares the command."""
    parser = commands.add_parser(
        "run",
        help="run the pipeline on this machine",
        description="Runs the pipeline on this machine: TSV rows become TFRecords, statistics, "
        "WordPiece ids, a trained model, an evaluation and, where the model is good enough, a "
        "pushed SavedModel. What an earlier run finished is not done again; a run that was stopped "
        "goes on.",
        epilog=explain(*OF_A_RUN),
    )
    parser.set_defaults(command=run)
    parser.add_argument(
        "--if-changed",
        action="store_true",
        help="do nothing where nothing has changed that the result of the last run depends on",
    )
    add_options(parser)


def add_options(parser: argparse.ArgumentParser, *, output: str = "--output") -> None:
    """Adds the options that say what is run: all of the configuration.

    Args:
        parser: The command's.
        output: What names the output folder, where `--output` names something else.
    """
    options.add_config(parser)
    what = parser.add_argument_group("what to learn")
    options.add_task(what)
    what.add_argument(
        output, dest="output", metavar="DIR", help="folder for all that the run makes"
    )
    options.add_own_task(parser)
    options.add_model(parser)
    options.add_recipe(parser)
    declare(parser, Config, "start")
    smaller = parser.add_argument_group("smaller models (docs/compression.md)")
    declare(smaller, Config, "smaller")
    data = parser.add_argument_group("what the data must be")
    declare(data, Config, "rows")
    declare(data, Config, "data")
    gates = parser.add_argument_group("what the model must reach")
    declare(gates, PromotionLimits)
    declare(gates, Config, "gates")
    serving = parser.add_argument_group("what the served model must keep to")
    declare(serving, ServingLimits)
    for group in ("push", "report", "records"):
        declare(parser.add_argument_group(group), Config, group)
    hooks = parser.add_argument_group("hooks: who is told how a run has ended")
    declare(hooks, Hooks)
    engine = parser.add_argument_group("engine")
    declare(engine, Config, "engine")
    declare(engine, BeamEngine)
    declare(engine, Config, "resources")


def run(arguments: argparse.Namespace) -> int:
    """Runs the pipeline; returns the exit code."""
    config = make_config(options.collect(arguments))
    # The task's files are looked at before the frameworks load: a wrong path answers at once.
    config.slice_columns  # noqa: B018
    arguments.fault_folder = config.output_dir
    config.beam.check_here()
    with exclusive(config.output_dir):
        last = read_last_run(config.output_dir)
        found = dependencies(config)
        if arguments.if_changed and last is not None:
            changed = changes(config, last, found)
            if not changed:
                print(f"nothing has changed since run {last.text}")
                return last.code
            print("\n".join(f"since run {last.run}: {change}" for change in changed))
        interrupt = _Interrupt()
        with interrupt.listening():
            outcome, error = _run(config, found, interrupt, verbose=arguments.verbose)
        # Not later: of nodes side by side some may still be at work where one was interrupted.
        with logged(Console(sys.stderr, indent=0)):
            config.hooks.tell(outcome.message())
    if error is not None:
        raise error
    return outcome.code


class _Interrupt:
    """Ctrl-C, and SIGTERM, which a scheduler sends: what was begun is put in order.

    A library that is at work just then may swallow it; so it is raised again before the next node.
    """

    def __init__(self) -> None:
        self._asked = False

    def check(self) -> None:
        """Raises KeyboardInterrupt where one was asked for."""
        if self._asked:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Listens for the signals, for as long as the context lasts."""

        def interrupt(*_: object) -> None:
            self._asked = True
            raise KeyboardInterrupt

        before = {
            number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _run(
    config: Config, found: Dependencies, interrupt: _Interrupt, *, verbose: bool
) -> tuple[Outcome, BaseException | None]:
    """Runs the pipeline and shows what it did.

    Returns:
        How it has ended, and what has ended it before its time.
    """
    before = pushed_versions(config.serving_dir)
    outcome = Outcome(
        code=ExitCode.FAULT,
        run=new_run_id(),
        task=config.task.name,
        pipeline=config.pipeline_name,
        output=config.output_dir,
        started=_now(),
        ended="",
        previous_version=str(before[-1]) if before else None,
    )
    error: BaseException | None = None
    begun = False
    try:
        quieten(verbose)
        check_store(config.metadata_address)
        keep_address(config.output_dir, config.metadata_address, config.pipeline_name)

        from bert_tfx.pipeline.commands.summary import summarize
        from bert_tfx.pipeline.execution import local_runner
        from bert_tfx.pipeline.reporting.run_report import write_report
        from bert_tfx.serving.int8_products import check_products

        if any(step.settings.store == INT8 for step in config.compress):
            # Before anything is trained.
            check_products()
        begun = True
        with quiet_workers(config.beam.beam_runner == MULTI_PROCESSING, verbose):
            runs = local_runner.run(config, outcome.run, before_node=interrupt.check)
        summary = summarize(config, runs)
        page = write_report(config.output_dir, run_id=outcome.run, config=config)
        print(summary.text)
        print(f"Report      {page}")
        version = os.path.basename(summary.pushed_to) if summary.pushed_to else None
        outcome = dataclasses.replace(
            outcome,
            code=ExitCode.DONE if summary.blessed else ExitCode.NOT_BLESSED,
            pushed_version=version,
            pushed_now=version is not None and int(version) not in before,
            report=page,
            sentences=summary.sentences,
            metrics=summary.metrics,
        )
    # One that is interrupted is told of, too.
    except BaseException as raised:
        error, outcome = _stopped(config, outcome, raised, begun=begun)
    outcome = dataclasses.replace(outcome, ended=_now())
    if outcome.code in VERDICTS:
        try:
            keep_last_run(outcome, found)
        except OSError as full:
            print(f"bert-tfx: {LAST_RUN_FILE} cannot be written: {full.strerror}", file=sys.stderr)
    return outcome, error


def _stopped(
    config: Config, outcome: Outcome, error: BaseException, *, begun: bool
) -> tuple[BaseException, Outcome]:
    """Makes the report of a run that did not come to its end."""
    code = exit_code_of(error)
    sentence = fault_sentence(error) if code is ExitCode.FAULT else str(error) or None
    # What follows in other lines may quote rows; the gates' sentences quote none.
    told = sentence
    if sentence and code is ExitCode.INPUT_ERROR and not config.report_text:
        told = sentence.splitlines()[0]
    page = None
    # Who interrupts does not wait.
    if begun and code is not ExitCode.INTERRUPTED:
        # Before the first component there is nothing to tell of.
        with contextlib.suppress(Exception):
            from bert_tfx.pipeline.reporting.run_report import write_report

            page = write_report(
                config.output_dir, run_id=outcome.run, config=config, error=sentence
            )
    if page is not None and isinstance(error, InputError):
        error = type(error)(f"{error}\nReport: {page}").with_traceback(error.__traceback__)
    return error, dataclasses.replace(outcome, code=code, error=told, report=page)


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
