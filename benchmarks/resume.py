"""Shows that a training repeats bit for bit, and that `kill -9` does not change its result.

Trains the embedded sample three times with one seed: twice in peace, once killed again and again at
random moments. Compares every step's loss and all final weights.
"""

import argparse
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import time
import zipfile


def main() -> int:
    """Returns 0 where all three are equal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0, help="of the moments to kill at")
    arguments, options = parser.parse_known_args()
    options = options or ["--task", "sample", "--epochs", "2"]
    moments = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        first, second, killed = (pathlib.Path(folder) / name for name in ("1", "2", "3"))
        seconds = _train(first, options)
        print(f"first run: {seconds:.0f} s")
        print(f"second run: {_train(second, options):.0f} s")
        for number in range(1, arguments.kills + 1):
            limit = moments.uniform(0.3, 0.9) * seconds
            ended = _train(killed, options, kill_after=limit) < limit
            print(f"third run, kill {number} of {arguments.kills}: {_where(killed, ended)}")
            if ended:
                break
        else:
            _train(killed, options)
        expected = _result(first)
        answers = {
            "second run, the same seed": _result(second) == expected,
            "third run, killed": _result(killed) == expected,
        }
        steps = len(expected[0][0])
    for name, equal in answers.items():
        print(f"{name}: {steps} losses and all weights {'equal' if equal else 'DIFFERENT'}")
    return 0 if all(answers.values()) else 1


def _train(model: pathlib.Path, options: list[str], kill_after: float | None = None) -> float:
    """Trains, or goes on training; returns the seconds until the end or the kill."""
    command = [sys.executable, "-m", "bert_tfx.pipeline.commands.cli", "train", "--save-dir", model]
    start = time.monotonic()
    process = subprocess.Popen([*map(str, command), *options], stdout=subprocess.DEVNULL)
    try:
        if process.wait(kill_after):
            sys.exit(f"bert-tfx train failed with {process.returncode}")
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    return time.monotonic() - start


def _where(model: pathlib.Path, ended: bool) -> str:
    if ended:
        return "it had ended"
    states = [*model.glob("training_state/*/*/state.npz")]
    if not states:
        return "before the first saved state"
    return f"{time.time() - states[0].stat().st_mtime:.1f} s after the last saved state"


def _result(model: pathlib.Path) -> tuple[list[list[float]], bytes]:
    """Returns the losses of all steps, seed by seed, and the weights' file."""
    history = json.loads((model / "history.json").read_text(encoding="utf-8"))
    losses = [seed["step_losses"] for seed in history["seeds"].values()]
    with zipfile.ZipFile(model / "classifier.keras") as archive:
        return losses, archive.read("model.weights.h5")


if __name__ == "__main__":
    sys.exit(main())
