"""`bert-tfx versions`, `rollback` and `prune`: the pushed versions of a model."""

import argparse
import contextlib
import os
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence

from bert_tfx.pipeline.process.console import Console, logged
from bert_tfx.pipeline.process.exit_codes import ExitCode
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.paths import absolute
from bert_tfx.serving import DEFAULT_MODEL

_SERVER_TIMEOUT = 30.0
# All of it stands in taken_back.json.
_REASON_WIDTH = 120


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declares the commands."""
    listing = commands.add_parser(
        "versions",
        help="list the pushed versions of a model",
        description="Lists the versions in the folder that a model server watches, those that "
        "were rolled back, and those that were taken back because no server answered for them.",
    )
    listing.set_defaults(command=_list)
    _add_folder(listing)

    back = commands.add_parser(
        "rollback",
        help="go back to an earlier version",
        description="Hides the latest versions of a model, so that the server goes back to the one "
        "below them. They are kept, and --undo brings them back. Until then a run that ends with "
        "one of these very models does not push it.",
    )
    back.set_defaults(command=_roll_back)
    _add_folder(back)
    which = back.add_mutually_exclusive_group()
    which.add_argument(
        "--to", type=int, metavar="VERSION", help="default: the one before the latest"
    )
    which.add_argument("--undo", action="store_true", help="bring back what the last one hid")
    _add_dry_run(back)

    prune = commands.add_parser(
        "prune",
        help="delete old versions of a model",
        description="Deletes all but the latest versions of a model. What was rolled back stays.",
    )
    prune.set_defaults(command=_prune)
    _add_folder(prune)
    prune.add_argument(
        "--keep", type=int, required=True, metavar="N", help="so many stay, at least 1"
    )
    prune.add_argument(
        "--server",
        metavar="HOST:PORT",
        help="gRPC address of a server; what it serves stays, too (for one that does not simply "
        "serve the latest)",
    )
    prune.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        metavar="NAME",
        help=f"the model's name on that server (default: {DEFAULT_MODEL})",
    )
    _add_dry_run(prune)


def _add_folder(parser: argparse.ArgumentParser) -> None:
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--serving", metavar="DIR", help="the folder that the server watches")
    where.add_argument("--output", metavar="DIR", help="a run's output: means DIR/serving")


def _add_dry_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")


def _list(arguments: argparse.Namespace) -> int:
    from bert_tfx.components.model_pusher.version_folder import State, VersionFolder

    path = _path(arguments)
    with _told(path):
        folder = VersionFolder(path)
        versions = folder.versions()
    if not versions:
        print(f"{path}: no versions")
        return 0
    latest = max(folder.numbers(), default=None)
    rows = [("version", "pushed (UTC)", "task", "accuracy", "model", "state")]
    for version in reversed(versions):
        accuracy = _at(version.about, "training", "eval", "eval_accuracy")
        state = version.state.value
        if version.number == latest and version.state is State.PUSHED:
            state = "latest"
        elif version.state is State.ROLLED_BACK:
            state += f" {_time(version.change)} to {version.change.get('to', '?')}"
        elif version.state is State.TAKEN_BACK:
            reason = str(version.change.get("reason", "?"))
            state += f" {_time(version.change)}: " + textwrap.shorten(reason, _REASON_WIDTH)
        rows.append(
            (
                str(version.number),
                _time(version.marker),
                str(version.about.get("task", "-")),
                f"{accuracy:.4f}" if isinstance(accuracy, float) else "-",
                _model(version.marker.get("model_uri")),
                state,
            )
        )
    for line in _columns(rows):
        print(line)
    return 0


def _roll_back(arguments: argparse.Namespace) -> int:
    from bert_tfx.components.model_pusher.version_folder import VersionFolder

    path = _path(arguments)
    would = "would be " if arguments.dry_run else ""
    with _changing(path):
        folder = VersionFolder(path)
        if not arguments.dry_run:
            folder.clean_up()
        if arguments.undo:
            numbers = folder.to_restore()
            if not arguments.dry_run:
                folder.restore(numbers)
            latest = max([*folder.numbers(), *numbers])
            print(f"{path}: {would}brought back: {_listed(numbers)}; the latest is {latest}")
            return 0
        numbers = folder.to_roll_back(arguments.to)
        latest = max(n for n in folder.numbers() if n < numbers[0])
        if not arguments.dry_run:
            folder.roll_back(numbers)
    print(f"{path}: {would}hidden: {_listed(numbers)}; the latest is {latest}")
    if not arguments.dry_run:
        print(f"`bert-tfx rollback --serving {path} --undo` brings that back")
    return 0


def _prune(arguments: argparse.Namespace) -> int:
    from bert_tfx.components.model_pusher.version_folder import VersionFolder

    path = _path(arguments)
    served: Sequence[int] = ()
    if arguments.server:
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")

        from bert_tfx.serving.client import Client
        from bert_tfx.serving.protocol.errors import ServingError

        try:
            with Client(arguments.server, arguments.model, timeout=_SERVER_TIMEOUT) as client:
                served = [s.version for s in client.model_status() if s.state != "END"]
        except ServingError as error:
            print(f"bert-tfx: {error}. Nothing was deleted", file=sys.stderr)
            return ExitCode.UNAVAILABLE
    with _changing(path):
        folder = VersionFolder(path)
        if not arguments.dry_run:
            folder.clean_up()
        numbers = folder.to_prune(arguments.keep, served)
        if not arguments.dry_run:
            folder.prune(numbers)
        left = len(folder.numbers()) - (len(numbers) if arguments.dry_run else 0)
    would = "would be " if arguments.dry_run else ""
    print(f"{path}: {would}deleted: {_listed(numbers)}; {left} left")
    return 0


def _path(arguments: argparse.Namespace) -> str:
    """Returns the folder of versions.

    Raises:
        InputError: If there is none.
    """
    path = arguments.serving or f"{arguments.output.rstrip('/')}/serving"
    path = absolute(path)
    if not os.path.isdir(path):
        raise InputError(
            f"{path}: no such folder; --serving names the one that the model server watches, "
            "--output that of a run"
        )
    return path


@contextlib.contextmanager
def _changing(path: str) -> Iterator[None]:
    """Keeps pushes out meanwhile."""
    from bert_tfx.components.model_pusher.lock import exclusive

    with logged(Console(sys.stderr, indent=0)), _told(path), exclusive(path):
        yield


@contextlib.contextmanager
def _told(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{error.filename or path}: {error.strerror or error}") from error


def _at(content: object, *names: str) -> object:
    for name in names:
        content = content.get(name) if isinstance(content, dict) else None
    return content


def _time(record: object) -> str:
    time = _at(record, "time")
    return time[:19].replace("T", " ") if isinstance(time, str) else "-"


def _model(uri: object) -> str:
    """Returns the end of a model's path: component, output, number."""
    return "/".join(uri.rstrip("/").split("/")[-3:]) if isinstance(uri, str) else "-"


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers)) or "nothing"


def _columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()
