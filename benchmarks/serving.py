"""Latency and throughput of a served model: `bert-tfx serve` in a process of its own, asked by N.

Each client asks, waits for the answer, and asks again (a closed loop), over one connection for all.
"""

import argparse
import asyncio
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time

from bert_tfx.serving.client import AsyncClient

# Written for this benchmark; about as long as the rows of the published tasks.
TEXTS = (
    "好",
    "The staff were kind and the room was spotless.",
    "房间很干净，服务也很周到，下次还会再来。",
    "a dull, overlong film",
    "快递很慢，包装破了，打电话给客服也没有人接，等了三天才有人回复，再也不会在这家店买东西了。",
    "What a waste of an evening: the plot goes nowhere and the jokes fall flat.",
)


def main() -> int:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, metavar="DIR", help="folder of the versions")
    parser.add_argument("--clients", type=int, default=4, metavar="N", help="default: 4")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each row (default: 10)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32], help="default: 1 32")
    arguments, options = parser.parse_known_args()
    print(f"load: {' '.join(f'{load:.1f}' for load in os.getloadavg())}, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as folder:
        port_file = pathlib.Path(folder, "port")
        begun = time.monotonic()
        command = [sys.executable, "-m", "bert_tfx.pipeline.cli", "serve", "--model"]
        command += [arguments.model, "--port", "0", "--port-file", str(port_file), *options]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                print(server.stdout.readline().strip() if server.stdout else "")
                if not port_file.exists():
                    return 1
                print(f"ready after {time.monotonic() - begun:.1f} s")
                target = f"127.0.0.1:{port_file.read_text().split()[0]}"
                asyncio.run(_measure(target, arguments))
            finally:
                server.terminate()
    return 0


async def _measure(target: str, arguments: argparse.Namespace) -> None:
    print("| clients | rows a request | p50 ms | p99 ms | requests/s | rows/s |")
    print("| --- | --- | --- | --- | --- | --- |")
    async with AsyncClient(target, timeout=60, batch_size=max(arguments.batches)) as client:
        for clients in sorted({1, arguments.clients}):
            for rows in arguments.batches:
                # Whatever comes first is slow.
                await _asked(client, rows, time.monotonic() + 1.0)
                begun = time.monotonic()
                until = begun + arguments.seconds
                asked = await asyncio.gather(
                    *(_asked(client, rows, until, seed) for seed in range(clients))
                )
                seconds = time.monotonic() - begun
                times = sorted(1e3 * t for ts in asked for t in ts)
                p50, p99 = (times[int(share * (len(times) - 1))] for share in (0.5, 0.99))
                rate = len(times) / seconds
                print(
                    f"| {clients} | {rows} | {p50:.1f} | {p99:.1f} | {rate:.1f} | "
                    f"{rate * rows:.1f} |",
                    flush=True,
                )


async def _asked(client: AsyncClient, rows: int, until: float, seed: int = 0) -> list[float]:
    """Asks until the time is over; returns the seconds of each request."""
    rng = random.Random(seed)
    times = []
    while (begun := time.monotonic()) < until:
        await client.predict(rng.choices(TEXTS, k=rows))
        times.append(time.monotonic() - begun)
    return times


if __name__ == "__main__":
    sys.exit(main())
