"""Two models side by side: what they answer, what their exports take."""

import logging
import os
import pathlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bert_tfx.modeling.export.trained_model import TrainedModel
    from bert_tfx.schema.labelled_texts import LabelledTexts

logger = logging.getLogger(__name__)

# Requests whose time is taken, of one row and of `_BATCH` rows. The median counts.
_SINGLE_REQUESTS, _BATCH_REQUESTS, _BATCH = 50, 10, 32
# The exported graph works a batch off in parts, so this bounds the rows in memory only.
_ASKED = 512


def measure(
    models: Mapping[str, "TrainedModel"], read: "LabelledTexts", scratch: str
) -> dict[str, dict[str, float]]:
    """Measures models by the same rows.

    Args:
        models: The models by the names they are shown under; the others' answers are compared with
            the first one's.
        read: Labelled rows that all of them can read.
        scratch: Folder for their exports. It has no folders of these names yet.

    Returns:
        For each model `parameters`, `megabytes` (of the export's files, 10^6 bytes), `accuracy` and
        `agreement` (shares of the rows), `single_ms` (a request of one row, milliseconds) and
        `rows_per_second` (in requests of 32).
    """
    import numpy as np
    import tensorflow as tf

    from bert_tfx.modeling.export.saved_model import SERVE_TEXT, save_for_serving
    from bert_tfx.serving.int8_products import check_export

    labels = np.asarray(read.labels or [])
    exports = {}
    asked: dict[str, Callable[..., Any]] = {}
    answers: dict[str, Any] = {}
    measured: dict[str, dict[str, float]] = {}
    for name, model in models.items():
        logger.info("measuring: %s rows, %s", f"{len(read):,}", name)
        folder = os.path.join(scratch, name)
        save_for_serving(model, folder)
        # As it will be served: in 8 bits the classifier itself would answer otherwise.
        check_export(folder)
        exports[name] = tf.saved_model.load(folder)
        asked[name] = exports[name].signatures[SERVE_TEXT]
        answers[name] = _answers(asked[name], read)
        files = [path for path in pathlib.Path(folder).rglob("*") if path.is_file()]
        first = next(iter(answers.values()))
        measured[name] = {
            "parameters": model.classifier.count_params(),
            "megabytes": sum(path.stat().st_size for path in files) / 1e6,
            "accuracy": float((answers[name] == labels).mean()),
            "agreement": float((answers[name] == first).mean()),
        }
    for name, times in _times(asked, read).items():
        measured[name] |= times
    return measured


def _answers(ask: Callable[..., Any], read: "LabelledTexts") -> Any:
    """Returns the class indices that an export answers, int64 `[rows]`."""
    import numpy as np
    import tensorflow as tf

    parts = []
    for start in range(0, len(read), _ASKED):
        texts = {
            name: tf.constant(column[start : start + _ASKED]) for name, column in read.texts.items()
        }
        parts.append(ask(**texts)["probabilities"].numpy().argmax(axis=1))
    return np.concatenate(parts)


def table(task: str, rows: int, measured: Mapping[str, Mapping[str, float]]) -> str:
    """Returns what `measure` found, a column for each model, for a person.

    Args:
        task: Name of the task whose rows these were.
        rows: Their number.
        measured: From `measure`.
    """
    lines: Sequence[Sequence[str]] = (
        ("", *measured),
        *(
            (text, *(form.format(of_model[key]) for of_model in measured.values()))
            for text, key, form in (
                ("parameters", "parameters", "{:,.0f}"),
                ("exported, MB", "megabytes", "{:,.1f}"),
                (f"accuracy ({task}, {rows:,} eval rows)", "accuracy", "{:.4f}"),
                (f"the same answer as {next(iter(measured))}", "agreement", "{:.2%}"),
                ("1 row, ms", "single_ms", "{:,.1f}"),
                (f"batches of {_BATCH}, rows/s", "rows_per_second", "{:,.0f}"),
            )
        ),
    )
    first, *widths = (max(map(len, column)) for column in zip(*lines, strict=True))
    return "\n" + "\n".join(
        "  ".join((f"{text:{first}}", *(f"{v:>{w}}" for v, w in zip(values, widths, strict=True))))
        for text, *values in lines
    )


def _times(
    signatures: Mapping[str, Callable[..., Any]], read: "LabelledTexts"
) -> dict[str, dict[str, float]]:
    """Times exports in turns, so that what else the machine does meets all of them alike."""
    import tensorflow as tf

    def seconds(rows: int, requests: int) -> dict[str, float]:
        taken: dict[str, list[float]] = {name: [] for name in signatures}
        # Two more before, which also make the graphs ready.
        for request in range(-2, requests):
            chosen = [(max(request, 0) * rows + i) % len(read) for i in range(rows)]
            texts = {
                name: tf.constant([column[row] for row in chosen])
                for name, column in read.texts.items()
            }
            for name, ask in signatures.items():
                start = time.perf_counter()
                ask(**texts)["probabilities"].numpy()
                if request >= 0:
                    taken[name].append(time.perf_counter() - start)
        return {name: statistics.median(values) for name, values in taken.items()}

    single, batch = seconds(1, _SINGLE_REQUESTS), seconds(_BATCH, _BATCH_REQUESTS)
    return {
        name: {"single_ms": 1000 * single[name], "rows_per_second": _BATCH / batch[name]}
        for name in signatures
    }
