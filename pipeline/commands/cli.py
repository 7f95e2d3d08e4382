"""The `bert-tfx` command.

Loads nothing heavy before it is needed: help and argument errors answer at once.
"""

import argparse
import re
import sys
import traceback
from collections.abc import Sequence

from bert_tfx.pipeline.commands import (
    compile,
    component,
    compress,
    convert,
    distill,
    export,
    predict,
    presets,
    report,
    run,
    runs,
    serve,
    submit,
    test,
    train,
    versions,
)
from bert_tfx.pipeline.process.exit_codes import ExitCode
from bert_tfx.pipeline.process.faults import (
    exit_code_of,
    fault_sentence,
    keep_trace,
    missing_package,
)

_COMMANDS = (
    *(run, component, compile, submit, runs, report, train, test, export, convert, presets),
    *(compress, distill, serve, predict, versions),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: The arguments; by default the process's.

    Returns:
        The exit code (`ExitCode`).
    """
    arguments = _parser().parse_args(_hyphenated(sys.argv[1:] if argv is None else argv))
    try:
        return arguments.command(arguments)
    except KeyboardInterrupt as error:
        print("\nbert-tfx: stopped; the same command goes on where it was", file=sys.stderr)
        return exit_code_of(error)
    except Exception as error:
        code = exit_code_of(error)
        if package := missing_package(error):
            print(
                f"bert-tfx: {package} is not installed: `{arguments.command_name}` needs "
                "pip install 'bert-tfx[pipeline]'",
                file=sys.stderr,
            )
        elif code is ExitCode.FAULT:
            _tell_fault(error, arguments)
        else:
            print(f"bert-tfx: {error}", file=sys.stderr)
        return code


def _tell_fault(error: Exception, arguments: argparse.Namespace) -> None:
    """Says in a line what went wrong, and where its trace is."""
    trace = traceback.format_exc()
    if getattr(arguments, "verbose", False):
        print(trace, end="", file=sys.stderr)
        where = "the trace stands above"
    else:
        kept = keep_trace(trace, arguments.command_name, getattr(arguments, "fault_folder", None))
        where = f"the trace is in {kept}" if kept else f"the trace:\n{trace}"
    print(f"bert-tfx: a fault: {fault_sentence(error)}; {where}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bert-tfx",
        description="From TSV files to a served BERT classifier, as a TFX pipeline or step by "
        "step. Options may be written with _ for -.",
    )
    commands = parser.add_subparsers(
        title="commands", dest="command_name", required=True, metavar="COMMAND"
    )
    for command in _COMMANDS:
        command.add(commands)
    return parser


def _hyphenated(argv: Sequence[str]) -> list[str]:
    """Writes the names of options with hyphens: `--save_dir=a_b` is `--save-dir=a_b`."""
    return [
        re.sub(r"^--[a-z0-9_-]+", lambda name: name[0].replace("_", "-"), argument)
        for argument in argv
    ]


if __name__ == "__main__":
    sys.exit(main())
