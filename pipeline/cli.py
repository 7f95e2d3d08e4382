"""The `bert-tfx` command.

Loads nothing heavy before it is needed: help and argument errors answer at once.
"""

import argparse
import re
import sys
from collections.abc import Sequence

from bert_tfx.pipeline.commands import (
    compile,
    component,
    convert,
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
from bert_tfx.schema.errors import InputError

EXIT_INPUT_ERROR = 2
EXIT_INTERRUPTED = 130

_COMMANDS = (
    *(run, component, compile, submit, runs, report, train, test, export, convert, presets),
    *(serve, predict, versions),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: The arguments; by default the process's.

    Returns:
        The exit code: 0 where all went well, 2 for a mistake in the input, 3 where the model was
        trained but does not reach what it must, so that it was not pushed, 4 where a server could
        not be reached or failed.
    """
    arguments = _parser().parse_args(_hyphenated(sys.argv[1:] if argv is None else argv))
    try:
        return arguments.command(arguments)
    except InputError as error:
        print(f"bert-tfx: {error}", file=sys.stderr)
        return EXIT_INPUT_ERROR
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("bert_tfx"):
            raise
        print(
            f"bert-tfx: {error.name} is not installed: `{arguments.command_name}` needs "
            "pip install 'bert-tfx[pipeline]'",
            file=sys.stderr,
        )
        return EXIT_INPUT_ERROR
    except KeyboardInterrupt:
        print("\nbert-tfx: stopped; the same command goes on where it was", file=sys.stderr)
        return EXIT_INTERRUPTED


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
