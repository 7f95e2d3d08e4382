"""What the exit code of `bert-tfx` means, the same for every command.

Loads nothing. `pipeline/orchestrators/airflow_dag.py` repeats what it needs of it, as it may live
where this package is not installed.
"""

import enum
from collections.abc import Mapping


class ExitCode(enum.IntEnum):
    """How a command has ended."""

    DONE = 0
    FAULT = 1
    INPUT_ERROR = 2
    NOT_BLESSED = 3
    DATA_REFUSED = 4
    UNAVAILABLE = 5
    INTERRUPTED = 130


MEANINGS: Mapping[ExitCode, str] = {
    ExitCode.DONE: "all went well (after a run its model is the one that is served)",
    ExitCode.FAULT: "a fault of the program or the machine",
    ExitCode.INPUT_ERROR: "a mistake in what was given",
    ExitCode.NOT_BLESSED: "the model does not reach what it must and was not pushed",
    ExitCode.DATA_REFUSED: "a gate of the data stopped the run before training",
    ExitCode.UNAVAILABLE: "a server cannot be reached, is too slow or fails",
    ExitCode.INTERRUPTED: "interrupted (Ctrl-C, SIGTERM)",
}

OF_A_RUN = tuple(code for code in ExitCode if code is not ExitCode.UNAVAILABLE)
"""What `bert-tfx run` ends with."""


def explain(*codes: ExitCode) -> str:
    """Returns the sentence on codes that stands at the end of a command's help."""
    return "Exit codes: " + "; ".join(f"{code.value} {MEANINGS[code]}" for code in codes) + "."
