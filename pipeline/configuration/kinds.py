"""Options as they are given: of which kind each is, and where an object of them may stand."""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

from bert_tfx.schema.errors import InputError


def check_options(options: Mapping[str, Any], kinds: Mapping[str, Any], where: str = "") -> None:
    """Refuses unknown names and values of another kind.

    Args:
        options: What was given.
        kinds: What may be given, with its type.
        where: What messages begin with.

    Raises:
        InputError: If a name is unknown, or a value is of another kind, empty or not finite.
    """
    for name, value in options.items():
        if name not in kinds:
            known = ", ".join(sorted(kinds))
            raise InputError(f"{where}unknown option {name!r}; known are {known}")
        kind = kinds[name]
        fits = isinstance(value, (kind, int)) if kind is float else isinstance(value, kind)
        if not fits or (isinstance(value, bool) and kind not in (bool, object)):
            raise InputError(f"{where}option {name!r} must be {kind.__name__}. Received: {value!r}")
        if value == "" or (kind is float and not math.isfinite(value)):
            raise InputError(f"{where}option {name!r} must not be {value!r}")


def fields_of(dataclass: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those of the options that are fields of a dataclass."""
    names = [field.name for field in dataclasses.fields(dataclass)]
    return {name: options[name] for name in names if name in options}


def read_json_option(text: str, where: str, example: str) -> tuple[Any, str]:
    """Reads an option that is JSON text or the path of a JSON file.

    Args:
        text: The text or the path.
        where: The option's name.
        example: Such a text, for messages.

    Returns:
        What it holds, and what a message calls its source.

    Raises:
        InputError: If it cannot be read or is no JSON.
    """
    flag = where
    if not text.lstrip().startswith(("{", "[")):
        where = text
        try:
            with open(text, encoding="utf-8") as file:
                text = file.read()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8"
            raise InputError(
                f"{where}: cannot be read: {reason}; --{flag} takes a JSON file, or JSON such as "
                f"{example}"
            ) from error
    try:
        return json.loads(text), where
    except ValueError as error:
        raise InputError(f"{where}: not JSON: {error}") from error
