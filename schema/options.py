"""Options: a field of a dataclass says how it is given on the command line, and what it means.

What is said there makes the parser, the kinds of a configuration file's values, and the help.
"""

import argparse
import dataclasses
import types
import typing
from collections.abc import Callable
from typing import Any

_KEY = "option"


@dataclasses.dataclass(frozen=True)
class Option:
    """How a field is given.

    Attributes:
        text: The help.
        name: What it is called, where not as the field.
        names: What else it is called on the command line.
        metavar: What stands for its value in the help; by default N of whole numbers, X of others.
        choices: The values that it may have, where these are few.
        parse: Understands its text on the command line, where its type alone does not.
        group: Which group of the help it belongs to, where a class has several.
        kind: What a configuration file may hold, where that is another type than the field's.
        either: Whether a flag can be denied, too (`--no-...`).
        is_path: Whether it names a file or folder.
    """

    text: str
    name: str = ""
    names: tuple[str, ...] = ()
    metavar: str | None = None
    choices: tuple[str, ...] | None = None
    parse: Callable[[str], Any] | None = None
    group: str = ""
    kind: type | None = None
    either: bool = False
    is_path: bool = False


def option(text: str, default: Any = dataclasses.MISSING, **about: Any) -> Any:
    """Declares a field that is an option.

    Args:
        text: The help.
        default: The field's default value.
        **about: Other attributes of `Option`; `default_factory` is the field's.
    """
    how: dict[str, Any] = {"default": default}
    if "default_factory" in about:
        how = {"default_factory": about.pop("default_factory")}
    return dataclasses.field(**how, metadata={_KEY: Option(text, **about)})


def options_of(dataclass: type) -> dict[str, tuple[dataclasses.Field[Any], Option]]:
    """Returns the fields that are options, by the options' names."""
    found = {}
    for field in dataclasses.fields(dataclass):
        if (told := field.metadata.get(_KEY)) is not None:
            found[told.name or field.name] = field, told
    return found


def kinds_of(dataclass: type) -> dict[str, Any]:
    """Returns the type of each field, without None, by the option's name."""
    kinds = {
        name: next(t for t in typing.get_args(kind) if t is not types.NoneType)
        if isinstance(kind, types.UnionType)
        else kind
        for name, kind in typing.get_type_hints(dataclass).items()
    }
    for name, (field, told) in options_of(dataclass).items():
        kinds[name] = told.kind or kinds[field.name]
        if name != field.name:
            del kinds[field.name]
    return kinds


def declare(group: argparse._ActionsContainer, dataclass: type, of: str = "") -> None:
    """Declares the options of a dataclass to a parser, or a group of one; none has a default there.

    Args:
        group: The parser or group.
        dataclass: Whose fields are options.
        of: The group of those to add.
    """
    kinds = kinds_of(dataclass)
    for name, (_, told) in options_of(dataclass).items():
        if told.group != of:
            continue
        flags = [f"--{flag.replace('_', '-')}" for flag in (name, *told.names)]
        kind = kinds[name]
        how: dict[str, Any]
        if told.choices is not None:
            how = {"choices": told.choices}
        elif kind is bool and told.either:
            how = {"action": argparse.BooleanOptionalAction}
        elif kind is bool:
            how = {"action": "store_true"}
        else:
            metavar = told.metavar or {int: "N", float: "X"}[kind]
            how = {"type": told.parse or (str if kind is object else kind), "metavar": metavar}
        group.add_argument(*flags, default=None, help=told.text, **how)
