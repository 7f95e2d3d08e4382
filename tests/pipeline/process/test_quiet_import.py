import os
import signal
import subprocess
import sys

import pytest

# What TensorFlow 2.21 says, and what a user should see.
NEWS = (
    b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n"
    b"I0000 00:00:1796078703.711709   25574 port.cc:153] oneDNN custom operations are on.\n"
    b"I0000 00:00:1796078703.712326   25574 cudart_stub.cc:31] Could not find cuda drivers\n"
)
NOISE = f"import os\nos.write(2, {NEWS!r} + b'needs AVX')\n"
IMPORT = """
import sys
from bert_tfx.pipeline.process.quiet_import import quieten_import
quieten_import()
quieten_import()
import tensorflow
print("after", file=sys.stderr)
"""


@pytest.fixture
def importing(tmp_path):
    """Runs a program beside a package `tensorflow` that holds some code."""

    def importing(tensorflow, program=IMPORT, **options):
        (tmp_path / "tensorflow").mkdir(exist_ok=True)
        (tmp_path / "tensorflow" / "__init__.py").write_text(tensorflow)
        return subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONPATH": str(tmp_path)},
            text=True,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "check": False, **options},
        )

    return importing


def test_the_rest_is_passed_on_in_order(importing):
    done = importing(NOISE + "os.write(2, b'\\n')")
    assert (done.returncode, done.stderr) == (0, "needs AVX\nafter\n")


def test_warnings_and_errors_are_passed_on(importing):
    lines = "".join(
        f"{kind}0000 00:00:1796078703.712326   25574 any.cc:31] what it is\n" for kind in "IWEF"
    )
    done = importing(f"import os\nos.write(2, {lines.encode()!r})")
    assert done.stderr == "".join(lines.splitlines(True)[1:]) + "after\n"


def test_what_comes_after_the_import_is_not_filtered(importing):
    done = importing("", IMPORT + NOISE)
    assert done.stderr.splitlines()[0] == "after"
    assert "Could not find cuda drivers" in done.stderr


def test_an_import_that_fails(importing):
    twice = """
import sys
from bert_tfx.pipeline.process.quiet_import import quieten_import
quieten_import()
for _ in range(2):
    try:
        import tensorflow
    except ImportError as error:
        print(error, file=sys.stderr)
"""
    done = importing(NOISE + "os.write(2, b'\\n')\nraise ImportError('no AVX')", twice)
    assert done.stderr == "needs AVX\nno AVX\n" * 2


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGKILL])
def test_an_import_that_ends_the_process(importing, number):
    done = importing(NOISE + f"os.kill(os.getpid(), {int(number)})")
    assert (done.returncode, done.stderr) == (-number, "needs AVX")


def test_a_missing_package(importing):
    done = importing("", IMPORT.replace("import tensorflow", "sys.path.clear()\nimport tensorflow"))
    assert done.returncode == 1
    assert done.stderr.endswith("ModuleNotFoundError: No module named 'tensorflow'\n")


def test_standard_error_that_is_closed(importing):
    program = "import os\nos.close(2)\n" + IMPORT.replace("sys.stderr", "sys.stdout")
    done = importing("", program)
    assert (done.returncode, done.stdout) == (0, "after\n")


def test_no_other_process_can_be_started(importing):
    program = "import sys\nsys.executable = '/nowhere'\n" + IMPORT
    done = importing(NOISE, program)
    assert done.returncode == 0
    assert "Could not find cuda drivers" in done.stderr
    assert done.stderr.endswith("needs AVXafter\n")


def test_the_package_is_what_it_is_without(importing):
    program = IMPORT + (
        "import importlib.resources, inspect\n"
        "print(tensorflow.__file__, tensorflow.__path__, tensorflow.__spec__.origin)\n"
        "print(importlib.resources.files('tensorflow').joinpath('__init__.py').is_file())\n"
        "print(inspect.getsource(tensorflow))\n"
    )
    there = importing("x = 1", program)
    assert there.returncode == 0
    assert there.stdout == importing("x = 1", program.replace("quieten_import()\n", "")).stdout


def test_nothing_of_tensorflow_reaches_the_console():
    program = (
        "from bert_tfx.pipeline.process.console import quieten\n"
        "quieten(verbose=False)\n"
        "import tensorflow as tf\n"
        "print(float(tf.constant(1.0) + 1))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("2.0\n", "")
