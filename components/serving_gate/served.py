"""Models in model servers of their own, and how fast they answer beside one another."""

import contextlib
import statistics
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any

from bert_tfx.serving.client import Row
from bert_tfx.serving.load import Load, measure
from bert_tfx.serving.protocol.errors import ServingError
from bert_tfx.serving.server.process import ServerProcess, one_model_server

MEASURED_BATCHES = (1, 32)
"""Rows of the requests that are measured."""

# Many short turns, one model's after the other, so that what else the machine does meets all of
# them.
_TURNS = 7
_TURN_SECONDS = 0.3
_WARM_UP_SECONDS = 0.1


@contextlib.contextmanager
def all_served(
    paths: Mapping[str, str], timeout: float
) -> Iterator[Mapping[str, ServerProcess | ServingError]]:
    """Serves several models, all started at once.

    Args:
        paths: The folders of their SavedModels, by name.
        timeout: Seconds that each server has to load its model.

    Yields:
        For each name the server, or why there is none.
    """
    with contextlib.ExitStack() as stack, futures.ThreadPoolExecutor(len(paths)) as pool:
        contexts = {name: one_model_server(path, timeout=timeout) for name, path in paths.items()}
        starting = {name: pool.submit(context.__enter__) for name, context in contexts.items()}
        servers: dict[str, ServerProcess | ServingError] = {}
        for name, future in starting.items():
            try:
                servers[name] = future.result()
                stack.push(contexts[name])
            except ServingError as error:
                servers[name] = error
        yield servers


def measure_in_turns(
    targets: Mapping[str, str], texts: Sequence[Row]
) -> dict[str, list[dict[str, Any]]]:
    """Measures servers by requests of one row and of 32.

    Args:
        targets: gRPC addresses by name.
        texts: What is asked, drawn alike for all.

    Returns:
        For each name and batch size the medians over the turns, by the fields of `Load`.

    Raises:
        ServingError: If a request fails.
    """
    measured: dict[str, list[dict[str, Any]]] = {name: [] for name in targets}
    for rows in MEASURED_BATCHES:
        turns: dict[str, list[Load]] = {name: [] for name in targets}
        for _ in range(_TURNS):
            for name, target in targets.items():
                load = measure(
                    target, texts, rows=rows, seconds=_TURN_SECONDS, warm_up=_WARM_UP_SECONDS
                )
                turns[name].append(load)
        for name, loads in turns.items():
            measured[name].append(_middle(loads))
    return measured


def as_row(texts: Mapping[str, bytes]) -> Row:
    """Returns a row of texts by feature as clients take it."""
    text_a, *others = (text.decode() for text in texts.values())
    return (text_a, others[0]) if others else text_a


def _middle(loads: Sequence[Load]) -> dict[str, Any]:
    return {
        **{name: getattr(loads[0], name) for name in ("rows", "callers")},
        "requests": sum(load.requests for load in loads),
        **{
            name: statistics.median(getattr(load, name) for load in loads)
            for name in ("p50", "p99", "rows_per_second")
        },
    }
