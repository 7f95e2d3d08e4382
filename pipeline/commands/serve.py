"""`bert-tfx serve`: answers for a pushed model on this machine, as TensorFlow Serving does."""

import argparse
import os
import sys

from bert_tfx.serving import DEFAULT_MODEL
from bert_tfx.serving.backends import BACKENDS, TENSORFLOW


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declares the command."""
    parser = commands.add_parser(
        "serve",
        help="serve a pushed model on this machine",
        description="Serves the latest version in a folder over TensorFlow Serving's gRPC API "
        "(Predict, GetModelMetadata, GetModelStatus, health), follows the folder as versions come "
        "and go, and says in a line when the first one can be asked. SIGTERM or Ctrl-C end it when "
        "the requests under way are answered. For development and tests; in production, "
        "TensorFlow Serving serves the same folder.",
    )
    parser.set_defaults(command=run)
    parser.add_argument(
        "--model",
        required=True,
        metavar="DIR",
        help="the folder of the numbered versions, such as OUTPUT/serving of a run",
    )
    parser.add_argument(
        "--name",
        default=DEFAULT_MODEL,
        help=f"the name by which the model is asked for (default: {DEFAULT_MODEL})",
    )
    parser.add_argument(
        "--port", type=int, default=8500, metavar="N", help="0 takes a free one (default: 8500)"
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)"
    )
    parser.add_argument(
        "--backend",
        choices=BACKENDS,
        default=TENSORFLOW,
        help="what computes; onnx is for exports in int8 (default: tensorflow)",
    )
    parser.add_argument(
        "--max-batch-size",
        type=int,
        default=128,
        metavar="N",
        help="rows that are computed together at most, and rows of a request (default: 128)",
    )
    parser.add_argument("--verbose", action="store_true", help="show TensorFlow's log, too")


def run(arguments: argparse.Namespace) -> int:
    """Serves until it is told to end; returns the exit code."""
    # What gRPC's core logs stands in the error, too.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")

    from bert_tfx.pipeline.process.console import Console, logged, quieten
    from bert_tfx.serving.server.server import ServerOptions, serve

    options = ServerOptions(
        os.path.expanduser(arguments.model),
        arguments.name,
        host=arguments.host,
        port=arguments.port,
        max_rows=arguments.max_batch_size,
        backend=arguments.backend,
    )
    quieten(arguments.verbose)
    with logged(Console(sys.stderr, indent=0)):
        at_rest = serve(options, lambda line: print(line, flush=True))
    if not at_rest:
        # A thread that still computes cannot be stopped, and would be waited for.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    return 0
