"""How fast a served model answers: N callers that ask, wait for the answer, and ask again."""

import asyncio
import dataclasses
import random
import time
from collections.abc import Sequence
from statistics import quantiles

from bert_tfx.serving import DEFAULT_MODEL
from bert_tfx.serving.client import AsyncClient, Row

_REQUEST_SECONDS = 60.0


@dataclasses.dataclass(frozen=True)
class Load:
    """What was measured.

    Attributes:
        rows: In a request.
        callers: At the same time.
        requests: That were answered.
        p50: Milliseconds within which half of them were.
        p99: Milliseconds within which 99 of 100 were.
        rows_per_second: Of all callers together.
    """

    rows: int
    callers: int
    requests: int
    p50: float
    p99: float
    rows_per_second: float


def measure(
    target: str,
    texts: Sequence[Row],
    *,
    rows: int,
    callers: int = 1,
    seconds: float,
    model: str = DEFAULT_MODEL,
    warm_up: float = 0.5,
) -> Load:
    """Asks a server over one connection, as fast as it answers.

    Args:
        target: The server's gRPC address.
        texts: Texts, or pairs as tuples, from which each request draws; the same draws each time.
        rows: Texts in a request.
        callers: How many ask at the same time.
        seconds: How long.
        model: The model's name there.
        warm_up: Seconds of asking before that do not count.

    Returns:
        Latency and throughput, seen from the client.

    Raises:
        ServingError: If a request fails.
    """
    return asyncio.run(_measured(target, texts, rows, callers, seconds, model, warm_up))


async def _measured(
    target: str,
    texts: Sequence[Row],
    rows: int,
    callers: int,
    seconds: float,
    model: str,
    warm_up: float,
) -> Load:
    async with AsyncClient(target, model, timeout=_REQUEST_SECONDS, batch_size=rows) as client:
        await _asked(client, texts, rows, time.monotonic() + warm_up, 0)
        begun = time.monotonic()
        until = begun + seconds
        asked = await asyncio.gather(
            *(_asked(client, texts, rows, until, seed) for seed in range(callers))
        )
        taken = time.monotonic() - begun
    times = [milliseconds for caller in asked for milliseconds in caller]
    # One request can be slower than all the time there is.
    percentiles = quantiles(times * 2, n=100, method="inclusive")
    return Load(
        rows=rows,
        callers=callers,
        requests=len(times),
        p50=percentiles[49],
        p99=percentiles[98],
        rows_per_second=len(times) * rows / taken,
    )


async def _asked(
    client: AsyncClient, texts: Sequence[Row], rows: int, until: float, seed: int
) -> list[float]:
    """Asks until the time is over, once at least; returns the milliseconds of each request."""
    rng = random.Random(seed)
    times: list[float] = []
    while not times or time.monotonic() < until:
        begun = time.monotonic()
        async for _ in client.stream(rng.choices(texts, k=rows)):
            pass
        times.append(1000 * (time.monotonic() - begun))
    return times
