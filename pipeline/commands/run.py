"""`bert-tfx run`: the pipeline on this machine."""

import argparse
import contextlib
import dataclasses
import datetime
import os
import signal
import sys
from collections.abc import Iterator

from bert_tfx.components.data_gate.checks import CHECKS
from bert_tfx.components.model_pusher.version_folder import pushed_versions
from bert_tfx.components.promotion_gate.limits import GATE_METRICS
from bert_tfx.modeling.export.storages import INT8
from bert_tfx.pipeline.configuration import options
from bert_tfx.pipeline.configuration.beam_engine import MULTI_PROCESSING
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
from bert_tfx.pipeline.process.notification import Outcome
from bert_tfx.pipeline.process.output_lock import exclusive
from bert_tfx.schema.errors import InputError


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
    parser.add_argument(
        "--warm-start",
        action="store_true",
        default=None,
        help="training goes on from the last model that was good enough, of other rows",
    )
    smaller = parser.add_argument_group("smaller models (docs/compression.md)")
    smaller.add_argument(
        "--distill",
        metavar="FILE|JSON",
        help="a larger model is trained first and teaches this one, such as "
        '{"student_layers": 2, "max_accuracy_drop": 0.02}',
    )
    smaller.add_argument(
        "--compress",
        metavar="FILE|JSON",
        help="what is taken out of the trained model, step by step, such as "
        '[{"prune_vocab": true}, {"store": "float16"}]; a step that loses too much is left out',
    )

    data = parser.add_argument_group("what the data must be")
    options.add_numbers(
        data,
        (
            ("max_rejects", "N", "rows that may be left out because they do not fit (default: 0)"),
            ("eval_fraction", "X", "share of rows held out without an eval file (default: 0.1)"),
        ),
    )
    data.add_argument(
        "--limits",
        metavar="NAME=X[:warn|:stop],...",
        help="other limits than " + "; ".join(map(_limits_of, CHECKS)),
    )

    gates = parser.add_argument_group("what the model must reach")
    options.add_numbers(
        gates,
        (
            ("min_accuracy", "X", "eval accuracy (default: the task's)"),
            ("max_regression", "X", "how far it may lie below the last good one (default: 0.01)"),
            (
                "confidence",
                "X",
                "how sure a larger loss must be to count, over all rows and on any slice; 0.5 "
                "takes the figure as it is (default: 0.95)",
            ),
            ("min_slice_rows", "N", "smaller slices do not count (default: 50)"),
            ("min_eval_rows", "N", "with fewer rows nothing is promoted (default: 30)"),
        ),
    )
    gates.add_argument(
        "--gate-metric", choices=GATE_METRICS, help="what may not be lost (default: accuracy)"
    )
    gates.add_argument("--slice-by", metavar="A,B", help="extra columns to slice the evaluation by")

    serving = parser.add_argument_group("what the served model must keep to")
    options.add_numbers(
        serving,
        (
            (
                "serving_tolerance",
                "X",
                "how far a served probability may be off the evaluated one (default: 1e-5, in "
                "bfloat16_compute 0.02, in int8 0.05)",
            ),
            ("serving_timeout", "X", "seconds in which it must be loaded (default: 120)"),
            ("max_slowdown", "X", "times the latency of the last pushed model (default: any)"),
            ("max_model_mb", "X", "megabytes of the exported model (default: any)"),
            ("max_server_mb", "X", "megabytes of the server with it (default: any)"),
        ),
    )

    push = parser.add_argument_group("push")
    push.add_argument(
        "--push-server",
        metavar="HOST:PORT",
        help="gRPC server of OUTPUT/serving: a version that it does not serve is taken back",
    )
    push.add_argument("--push-model-name", metavar="NAME", help="the model there (default: model)")
    options.add_numbers(push, (("push_timeout", "X", "seconds it has to load it (default: 120)"),))
    for name, text in (
        ("tls-ca", "the authorities that its certificate is checked by, PEM; encrypts"),
        ("tls-cert", "own certificate, PEM; encrypts"),
        ("tls-key", "its private key, PEM"),
        ("token-file", "the token to show"),
    ):
        push.add_argument(f"--push-{name}", metavar="FILE", help=text)

    report = parser.add_argument_group("report")
    report.add_argument(
        "--report-text",
        action="store_true",
        default=None,
        help="reports may hold texts of rows, such as the worst mistakes",
    )

    records = parser.add_argument_group("records")
    records.add_argument(
        "--metadata",
        metavar="URL",
        help="metadata store: sqlite:PATH, mysql://USER@HOST:PORT/DATABASE, grpc://HOST:PORT or "
        "grpcs://HOST:PORT (default: OUTPUT/metadata.sqlite)",
    )
    for name, text in (
        ("password-file", "the password of MySQL's user"),
        ("tls-ca", "the authorities that its certificate is checked by, PEM"),
        ("tls-cert", "own certificate, PEM"),
        ("tls-key", "its private key, PEM"),
    ):
        records.add_argument(f"--metadata-{name}", metavar="FILE", help=text)
    records.add_argument(
        "--lineage",
        metavar="NAME",
        help="the pipeline's name in the store; a run is compared with earlier ones of its name "
        "(default: the task's; in a store that --metadata names the output folder's)",
    )

    hooks = parser.add_argument_group("hooks: who is told how a run has ended")
    hooks.add_argument(
        "--notify-command", metavar="COMMAND", help="called without a shell, with JSON on stdin"
    )
    hooks.add_argument("--notify-url", metavar="URL", help="JSON is posted there")
    hooks.add_argument("--notify-token-file", metavar="FILE", help="the bearer token to show there")
    options.add_numbers(
        hooks, (("notify_timeout", "X", "seconds that a try may take (default: 30)"),)
    )

    engine = parser.add_argument_group("engine")
    options.add_numbers(
        engine,
        (("parallel", "N", "nodes of `run` at a time, as they and the memory allow (default: 1)"),),
    )
    options.add_beam(engine)
    engine.add_argument(
        "--resources",
        metavar="FILE|JSON",
        help="what single nodes are given, by node: cpus, memory_gb and gpus of their container, "
        'workers of their Beam pipeline, such as {"Transform": {"workers": 4}}',
    )


def _limits_of(check: str) -> str:
    """Says what a check's default limits are."""
    limits = ",".join(f"{limit.value:g}:{limit.severity}" for limit in CHECKS[check].limits)
    return f"{check}={limits}"


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
