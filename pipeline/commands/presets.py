"""`bert-tfx presets` and `bert-tfx fetch`: the published checkpoints."""

import argparse
import sys

from bert_tfx.modeling.checkpoints import presets


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declares the commands."""
    listing = commands.add_parser(
        "presets",
        help="list the published checkpoints",
        description="Lists the published checkpoints that `bert-tfx fetch` downloads.",
    )
    listing.set_defaults(command=_list)
    fetching = commands.add_parser(
        "fetch",
        help="download a published checkpoint",
        description="Downloads a published checkpoint; what was interrupted goes on. Afterwards "
        "`--pretrained NAME` finds it.",
    )
    fetching.set_defaults(command=_fetch)
    fetching.add_argument("preset", metavar="NAME", help="as `bert-tfx presets` lists it")
    fetching.add_argument("--output", metavar="DIR", help="where it goes (default: the cache)")


def _list(arguments: argparse.Namespace) -> int:
    print(presets.table())
    return 0


def _fetch(arguments: argparse.Namespace) -> int:
    preset = presets.find_preset(arguments.preset)
    show = _Progress() if sys.stderr.isatty() else None
    folder = presets.fetch(preset, arguments.output, on_progress=show)
    if show:
        show.end()
    print(f"{preset.name}: {folder} ({preset.licence}, {preset.source})")
    return 0


class _Progress:
    """One line on the terminal that counts the bytes of the file under way."""

    def __call__(self, done: int, size: int | None) -> None:
        share = f" of {size / 1e6:,.1f} MB, {done / size:.0%}" if size else " MB"
        print(f"\r{done / 1e6:,.1f}{share}   ", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Ends the line."""
        print(file=sys.stderr)
