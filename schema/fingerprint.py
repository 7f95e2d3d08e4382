"""Fingerprints of what TFX's cache does not see.

Its key holds a component's parameters as they are written: of code the dotted path, of a file the
name. After an edit of either it would hand out what the old one made. A fingerprint of the content
among the parameters makes it see.
"""

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
import pathlib

from bert_tfx.schema.digests import sha256_of

_PACKAGE = "bert_tfx"
# What else decides what our code computes.
_LIBRARIES = ("tensorflow", "keras", "tensorflow-text", "tensorflow-transform", "tfx")


def source_fingerprint(*modules: str, but: str | None = None) -> str:
    """Returns a hash of modules' source and of all of ours that they import, directly or not.

    Args:
        *modules: Dotted names of modules of ours.
        but: A package of ours that does not count, nor what it alone imports.

    Returns:
        16 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for library in _LIBRARIES:
        digest.update(f"{library}=={importlib.metadata.version(library)}\n".encode())
    for name in sorted(imported_modules(*modules, but=but)):
        digest.update(f"{name}\n".encode())
        digest.update(_read(name))
    return digest.hexdigest()[:16]


def file_fingerprint(*paths: str) -> str:
    """Returns a hash of the content of files, in this order, 16 hexadecimal digits."""
    return hashlib.sha256("".join(map(sha256_of, paths)).encode()).hexdigest()[:16]


def imported_modules(*modules: str, but: str | None = None) -> frozenset[str]:
    """Returns the names of modules of ours and of all of ours that they import.

    Args:
        *modules: Dotted names of modules of ours.
        but: A package that is left out.
    """
    found: set[str] = set()
    waiting = [*modules]
    while waiting:
        name = waiting.pop()
        left_out = but is not None and f"{name}.".startswith(f"{but}.")
        if name not in found and not left_out:
            found.add(name)
            waiting += _direct_imports(name)
    return frozenset(found)


@functools.cache
def _find(module: str) -> pathlib.Path | None:
    """Returns the file of a module of ours, or None where the name is none.

    Nothing but the namespace is imported: `importlib.util.find_spec` alone would run every module
    above the one it looks for.
    """
    package, _, name = module.partition(".")
    if package != _PACKAGE or not name:
        return None
    room, *rest = name.split(".")
    spec = importlib.util.find_spec(f"{_PACKAGE}.{room}")
    if spec is None or spec.origin is None:
        return None
    path = pathlib.Path(spec.origin).parent.joinpath(*rest)
    files = (path / "__init__.py", path.with_name(f"{path.name}.py"))
    return next((file for file in files if file.is_file()), None)


def _read(module: str) -> bytes:
    path = _find(module)
    if path is None:
        raise ModuleNotFoundError(f"No module named {module!r}")
    return path.read_bytes()


def _direct_imports(module: str) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(_read(module))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from package import name`: the name may be a module or something in one.
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [name for name in names if _find(name)]
