"""Takes from the import of TensorFlow what its libraries tell while they are loaded.

Those of TensorFlow 2.21 write to the process's standard error that there is no GPU and which
instructions are used, whatever TF_CPP_MIN_LOG_LEVEL is
(https://github.com/tensorflow/tensorflow/issues/100442). Once none of the releases that TFX allows
does so, this module can go.
"""

import contextlib
import importlib.abc
import importlib.machinery
import os
import subprocess
import sys
import types
from collections.abc import Iterator, Sequence

# What the filter runs: standard input without news (I, as in "I0000 00:00:1796077906.934809   12798
# cudart_stub.cc:31] ...") goes to standard error. Warnings and errors stay.
_FILTER = r"""
import os, re
noise = re.compile(
    rb"I\d{4} \d\d:\d\d:[\d.]+ +\d+ \S+:\d+\] "
    rb"|WARNING: All log messages before absl::InitializeLog\(\) is called are written to STDERR"
)
for line in open(0, "rb", buffering=0):
    if not noise.match(line):
        os.write(2, line)
"""
# It ends when nobody writes to it any more. A process that was started meanwhile may live on.
_END_SECONDS = 1.0


def quieten_import() -> None:
    """Has standard error filtered while TensorFlow is imported, if that is still to come."""
    known = any(isinstance(finder, _Finder) for finder in sys.meta_path)
    if not known and "tensorflow" not in sys.modules:
        sys.meta_path.insert(0, _Finder())


class _Finder(importlib.abc.MetaPathFinder):
    """Finds TensorFlow on the path, as Python does."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != "tensorflow":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads with standard error filtered."""

    def exec_module(self, module: types.ModuleType) -> None:
        with filtered():
            super().exec_module(module)


@contextlib.contextmanager
def filtered() -> Iterator[None]:
    """Filters standard error of this process and of those that it starts meanwhile.

    Another process filters: so the last words of a library that ends this one are passed on, too.
    Where there is no standard error or no other process, nothing is filtered.
    """
    try:
        stderr = os.dup(2)
    except OSError:
        yield
        return
    filtering = _start_filter()
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        if filtering is not None:
            # So that nothing that comes later overtakes what it still holds.
            with contextlib.suppress(subprocess.TimeoutExpired):
                filtering.wait(_END_SECONDS)


def _start_filter() -> "subprocess.Popen[bytes] | None":
    """Starts the filter and puts it in the place of standard error; None if it does not start."""
    read, write = os.pipe()
    try:
        filtering = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _FILTER],
            stdin=read,
            # Ctrl-C is for this process; the filter ends after it.
            start_new_session=True,
        )
        os.dup2(write, 2)
    except OSError:
        return None
    finally:
        os.close(read)
        os.close(write)
    return filtering
