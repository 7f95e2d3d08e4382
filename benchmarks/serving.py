"""Latency and throughput of a served model, in a process of its own, asked by N callers.

The server is TensorFlow Serving where it is installed, else `bert-tfx serve`. Each caller asks,
waits for the answer, and asks again (a closed loop), over one connection for all.
"""

import argparse
import os
import pathlib
import sys
import tempfile

from bert_tfx.serving.load import measure
from bert_tfx.serving.server.process import model_server

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
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        log_file = str(pathlib.Path(folder, "server.log"))
        with model_server(arguments.model, log_file=log_file) as server:
            print(f"{server.program}: ready after {server.seconds:.1f} s, {os.cpu_count()} cores")
            print("| callers | rows a request | p50 ms | p99 ms | requests/s | rows/s |")
            print("| --- | --- | --- | --- | --- | --- |")
            for callers in sorted({1, arguments.clients}):
                for rows in arguments.batches:
                    load = measure(
                        server.target,
                        TEXTS,
                        rows=rows,
                        callers=callers,
                        seconds=arguments.seconds,
                        warm_up=1.0,
                    )
                    print(
                        f"| {callers} | {rows} | {load.p50:.1f} | {load.p99:.1f} | "
                        f"{load.rows_per_second / rows:.1f} | {load.rows_per_second:.1f} |",
                        flush=True,
                    )
            memory = server.peak_memory()
        print(f"load: {' '.join(f'{load:.1f}' for load in os.getloadavg())}")
        if memory is not None:
            print(f"memory of the server: {memory / 1e6:,.0f} MB at most")
    return 0


if __name__ == "__main__":
    sys.exit(main())
