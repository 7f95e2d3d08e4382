"""`bert-tfx report`: the page that tells the whole story of a run."""

import argparse
import os
from typing import Any

from bert_tfx.pipeline.process.console import quieten
from bert_tfx.schema import files
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.paths import absolute

_COMPARISON = "comparison.html"


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declares the command."""
    parser = commands.add_parser(
        "report",
        help="make the report of a run, or compare two",
        description="Makes the report of a run anew from what the run has left: OUTPUT/report/"
        "index.html, one file that needs no network, with model_card.md and report.json beside "
        "it. Or compares two runs.",
    )
    parser.set_defaults(command=run)
    parser.add_argument("--output", metavar="DIR", help="the run's output folder")
    parser.add_argument(
        "--run",
        dest="run_id",
        metavar="ID",
        help="which run, as `bert-tfx runs` lists it (default: the latest)",
    )
    parser.add_argument(
        "--report-text",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="show the texts of rows, for example of the worst mistakes (default: as the run did)",
    )
    parser.add_argument(
        "--compare",
        nargs=2,
        metavar=("A", "B"),
        help="set two runs side by side: output folders, report.json files, or with --output the "
        "ids of two of its runs",
    )
    parser.add_argument(
        "--to", metavar="FILE", help=f"where the comparison goes (default: {_COMPARISON})"
    )
    parser.add_argument("--verbose", action="store_true", help="show TensorFlow's logs, too")


def run(arguments: argparse.Namespace) -> int:
    """Makes the report; returns the exit code."""
    if arguments.compare:
        for name, given in (("--run", arguments.run_id), ("--report-text", arguments.report_text)):
            if given is not None:
                raise InputError(f"{name} and --compare: a comparison has two runs and no texts")
        return _compare(arguments)
    if arguments.to:
        raise InputError("--to is for --compare; a run's report goes to OUTPUT/report")
    if not arguments.output:
        raise InputError("--output is missing: it names the folder that `bert-tfx run` wrote to")
    quieten(arguments.verbose)

    from bert_tfx.pipeline.reporting.run_report import write_report

    path = write_report(
        _folder(arguments.output), run_id=arguments.run_id, report_text=arguments.report_text
    )
    print(f"report: {path}")
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    quieten(arguments.verbose)

    from bert_tfx.components.report.page import comparison_page

    path = absolute(arguments.to or _COMPARISON)
    first, second = (_content(reference, arguments.output) for reference in arguments.compare)
    try:
        folder = os.path.dirname(path)
        files.write(path, comparison_page(first, second, folder, names=arguments.compare))
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written: {error.strerror}; --to names a file"
        ) from error
    print(f"comparison: {path}")
    return 0


def _content(reference: str, output: str | None) -> dict[str, Any]:
    """Returns the content of the report of a run that the user names."""
    from bert_tfx.pipeline.reporting.run_report import load_content, run_content

    path = absolute(reference)
    if os.path.isfile(path):
        return load_content(path)
    if os.path.isdir(path):
        return run_content(path, report_text=False)
    if output is None:
        raise InputError(
            f"{reference}: no such file or folder; for the id of a run --output names the folder "
            "that it is in"
        )
    return run_content(_folder(output), run_id=reference, report_text=False)


def _folder(path: str) -> str:
    return absolute(path)
