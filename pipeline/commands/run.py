"""`bert-tfx run`: the pipeline on this machine."""

import argparse
import contextlib

from bert_tfx.components.data_gate.checks import CHECKS
from bert_tfx.components.promotion_gate.limits import GATE_METRICS
from bert_tfx.pipeline.commands import options
from bert_tfx.pipeline.config import BEAM_RUNNERS, make_config
from bert_tfx.pipeline.console import quieten
from bert_tfx.pipeline.output_lock import exclusive
from bert_tfx.schema.errors import InputError

EXIT_NOT_BLESSED = 3


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declares the command."""
    parser = commands.add_parser(
        "run",
        help="run the pipeline on this machine",
        description="Runs the pipeline on this machine: TSV rows become TFRecords, statistics, "
        "WordPiece ids, a trained model, an evaluation and, where the model is good enough, a "
        "pushed SavedModel. What an earlier run finished is not done again; a run that was stopped "
        "goes on.",
        epilog="Exit codes: 0 all went well; 2 a mistake in the input; 3 the model does not reach "
        "what it must and was not pushed.",
    )
    parser.set_defaults(command=run)
    add_options(parser)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say what is run: all of the configuration."""
    options.add_config(parser)
    what = parser.add_argument_group("what to learn")
    options.add_task(what)
    what.add_argument("--output", metavar="DIR", help="folder for all that the run makes")
    options.add_own_task(parser)
    options.add_model(parser)
    options.add_recipe(parser)

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
                "how far a served probability may be off the evaluated one (default: 1e-5)",
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

    engine = parser.add_argument_group("engine")
    engine.add_argument("--beam-runner", choices=BEAM_RUNNERS, help="(default: in_memory)")
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
    with exclusive(config.output_dir):
        quieten(arguments.verbose)

        from bert_tfx.pipeline import local_runner
        from bert_tfx.pipeline.node_launcher import new_run_id
        from bert_tfx.pipeline.run_report import write_report
        from bert_tfx.pipeline.summary import summarize

        run_id = new_run_id()
        try:
            runs = local_runner.run(config, run_id)
        except InputError as error:
            # Before the first component there is nothing to tell of.
            with contextlib.suppress(InputError):
                page = write_report(
                    config.output_dir, run_id=run_id, config=config, error=str(error)
                )
                error = InputError(f"{error}\nReport: {page}")
            raise error from None
        summary = summarize(config, runs)
        page = write_report(config.output_dir, run_id=run_id, config=config)
    print(summary.text)
    print(f"Report      {page}")
    return 0 if summary.blessed else EXIT_NOT_BLESSED
