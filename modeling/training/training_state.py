"""The state of a fine-tuning: how far it is, and all that it needs to go on from there."""

import dataclasses
import json
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from bert_tfx.modeling.checkpoints.variable_names import assign_by_name, by_name
from bert_tfx.schema import files

# The state is saved after so many seconds, or after so many times what saving takes, whichever is
# longer: a crash costs little and saving costs less than a twentieth of the time.
_SECONDS_BETWEEN_SAVES = 20.0
_SAVE_COST_FACTOR = 20.0

_STATE_FILE = "state.npz"
_BEST_FILE = "best.npz"
# Fields of Progress with a number for each step: saved as arrays, as JSON would take long.
_CURVES = ("step_losses", "learning_rates")
# Stands before a variable's name, so that none is taken for another entry of the file.
_VARIABLE = "variable/"


@dataclasses.dataclass
class Progress:
    """Where a fine-tuning stands.

    Attributes:
        epoch: Epochs finished.
        step_in_epoch: Steps taken in the epoch after those.
        rows: Rows seen in the current epoch.
        loss_sum: The sum of their losses, nats.
        correct: How many of them were classified correctly.
        best_epoch: The epoch (from 1) with the best eval metric so far, 0 before the first.
        best_value: Its eval metric, the one that the recipe names.
        best_accuracy: Its eval accuracy.
        best_loss: Its eval loss.
        history: For each finished epoch the training `loss` and `accuracy`, `padding` (the share of
            computed token places that hold no token) and, with `eval_` before their names, what
            `evaluate` returns.
        step_losses: Each step's training loss, float32.
        learning_rates: Each step's learning rate (the head's), float32.
    """

    epoch: int = 0
    step_in_epoch: int = 0
    rows: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    best_epoch: int = 0
    best_value: float | None = None
    best_accuracy: float = -1.0
    best_loss: float = float("inf")
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)
    step_losses: list[float] = dataclasses.field(default_factory=list)
    learning_rates: list[float] = dataclasses.field(default_factory=list)


class TrainingState:
    """Saves and restores all that a fine-tuning needs to go on as if it had never stopped.

    Args:
        model: All its variables are saved: weights and the seeds of its dropouts.
        optimizer: Built for it.
        folder: Where to save; made if it is not there.
        is_writer: Whether to write at all.

    Raises:
        RuntimeError: If two variables have the same name.
    """

    def __init__(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        folder: str,
        *,
        is_writer: bool = True,
    ) -> None:
        self._model = model
        self._variables = by_name([*model.variables, *optimizer.variables], model)
        self._folder = pathlib.Path(folder)
        self._is_writer = is_writer
        self._due = time.monotonic() + _SECONDS_BETWEEN_SAVES
        if is_writer:
            self._folder.mkdir(parents=True, exist_ok=True)

    def save_if_due(self, progress: Progress) -> None:
        """Saves if the last time is long enough ago."""
        if self._is_writer and time.monotonic() >= self._due:
            self.save(progress)

    def save(self, progress: Progress) -> None:
        """Saves everything but the best epoch's weights."""
        start = time.monotonic()
        arrays = _arrays(self._variables)
        fields = dict(vars(progress))
        arrays |= {name: np.array(fields.pop(name), np.float64) for name in _CURVES}
        arrays["progress"] = np.asarray(json.dumps(fields))
        self._write(_STATE_FILE, arrays)
        now = time.monotonic()
        self._due = now + max(_SECONDS_BETWEEN_SAVES, _SAVE_COST_FACTOR * (now - start))

    def restore(self) -> Progress | None:
        """Restores what `save` has saved, or returns None where nothing was.

        Raises:
            InputError: If it was saved of other variables; none is changed then.
        """
        path = self._folder / _STATE_FILE
        if not path.exists():
            return None
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        curves = {name: arrays.pop(name).tolist() for name in _CURVES}
        progress = Progress(**json.loads(str(arrays.pop("progress"))), **curves)
        self._assign(self._variables, arrays, path)
        return progress

    def save_best(self) -> None:
        """Saves the trainable variables as those of the best epoch."""
        self._write(_BEST_FILE, _arrays(self._trainable()))

    def restore_best(self) -> None:
        """Restores the trainable variables of the best epoch.

        Raises:
            InputError: If it was saved of other variables; none is changed then.
        """
        path = self._folder / _BEST_FILE
        with np.load(path, allow_pickle=False) as file:
            self._assign(self._trainable(), dict(file), path)

    def _trainable(self) -> dict[str, keras.Variable]:
        return by_name(self._model.trainable_variables, self._model)

    def _assign(
        self,
        variables: Mapping[str, keras.Variable],
        arrays: Mapping[str, np.ndarray],
        path: pathlib.Path,
    ) -> None:
        # 0.1 saved variables by their position. To be deleted with 0.3.
        by_position = {f"v{i}": name for i, name in enumerate(variables)}
        assign_by_name(
            variables,
            {by_position.get(k, k.removeprefix(_VARIABLE)): array for k, array in arrays.items()},
            source=str(path),
            remedy="Finish this training with the release that began it, or remove "
            f"{self._folder} and start anew",
        )

    # Of Any: NumPy 2 has an option of `savez` besides the arrays, which mypy takes them for.
    def _write(self, name: str, arrays: Mapping[str, Any]) -> None:
        """Writes a file whole or not at all."""
        if not self._is_writer:
            return
        # They are large: what a killed run leaves is overwritten by the next.
        with (
            files.appearing(self._folder / name, self._folder / f".{name}") as partial,
            open(partial, "wb") as file,
        ):
            np.savez(file, **arrays)


def _arrays(variables: Mapping[str, keras.Variable]) -> dict[str, np.ndarray]:
    return {f"{_VARIABLE}{name}": np.asarray(variable) for name, variable in variables.items()}
