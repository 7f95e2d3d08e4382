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

_PACKAGE = "bert_tfx"
# What else decides what our code computes.
_LIBRARIES = ("tensorflow", "keras", "tensorflow-text", "tensorflow-transform", "tfx")


def source_fingerprint(module: str) -> str:
    """Returns a hash of a module's source and of all of ours that it imports, directly or not.

    Args:
        module: Dotted name of one of our modules.

    Returns:
        16 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for library in _LIBRARIES:
        digest.update(f"{library}=={importlib.metadata.version(library)}\n".encode())
    for name in sorted(imported_modules(module)):
        digest.update(f"{name}\n".encode())
        digest.update(_path(name).read_bytes())
    return digest.hexdigest()[:16]


def file_fingerprint(path: str) -> str:
    """Returns a hash of a file's content, 16 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]


def imported_modules(module: str) -> frozenset[str]:
    """Returns the names of a module of ours and of all of ours that it imports."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += _direct_imports(name)
    return frozenset(found)


@functools.cache
def _path(module: str) -> pathlib.Path:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"No module named {module!r}")
    return pathlib.Path(spec.origin)


def _direct_imports(module: str) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(_path(module).read_bytes())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from package import name`: the name may be a module or something in one.
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [name for name in names if name.startswith(f"{_PACKAGE}.") and _is_module(name)]


def _is_module(name: str) -> bool:
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return False
    return spec is not None and spec.origin is not None
