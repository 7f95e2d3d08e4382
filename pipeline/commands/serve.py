"""`bert-tfx serve`: answers for a pushed model, as TensorFlow Serving does."""

import argparse
import os
import sys
from typing import TYPE_CHECKING

from bert_tfx.schema.errors import InputError
from bert_tfx.serving import DEFAULT_MODEL
from bert_tfx.serving.backends import BACKENDS, TENSORFLOW

if TYPE_CHECKING:
    from bert_tfx.serving.server import ServerTls


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declares the command."""
    parser = commands.add_parser(
        "serve",
        help="serve a pushed model on this machine",
        description="Serves the versions in a folder over TensorFlow Serving's gRPC and REST APIs, "
        "follows the folder as versions come and go, and says in a line when the first one can be "
        "asked. SIGTERM or Ctrl-C end it when the requests under way are answered.",
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
        "--port",
        type=int,
        default=8500,
        metavar="N",
        help="for gRPC; 0 takes a free one (default: 8500)",
    )
    parser.add_argument(
        "--rest-port",
        type=int,
        metavar="N",
        help="for REST and /monitoring/prometheus/metrics; 0 takes a free one (default: neither)",
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
        "--port-file",
        metavar="FILE",
        help="gets the ports, a line each, when the first version can be asked",
    )

    versions = parser.add_argument_group("versions")
    versions.add_argument(
        "--versions",
        default="latest",
        metavar="CHOICE",
        help="latest, latest:N or specific:N[,M...] (default: latest)",
    )
    versions.add_argument(
        "--version-label",
        action="append",
        default=[],
        metavar="LABEL=N",
        help="lets a version be asked for by a name, such as stable=3; more than one may be given",
    )
    versions.add_argument(
        "--poll-seconds",
        type=float,
        default=1.0,
        metavar="S",
        help="how often the folder is looked at (default: 1)",
    )

    load = parser.add_argument_group("batches and limits")
    load.add_argument(
        "--max-batch-size",
        type=int,
        default=128,
        metavar="N",
        help="rows that are computed together at most, and rows of a request (default: 128)",
    )
    load.add_argument(
        "--batch-timeout-ms",
        type=float,
        default=0.0,
        metavar="MS",
        help="how long a request waits for others to join; those that wait anyway are always "
        "joined (default: 0)",
    )
    load.add_argument(
        "--batch-threads",
        type=int,
        default=1,
        metavar="N",
        help="batches that are computed at the same time, each on all cores (default: 1)",
    )
    load.add_argument(
        "--max-queue",
        type=int,
        default=256,
        metavar="N",
        help="requests that may wait; further ones get UNAVAILABLE (default: 256)",
    )
    load.add_argument(
        "--max-requests",
        type=int,
        default=1024,
        metavar="N",
        help="requests under way; further ones get RESOURCE_EXHAUSTED (default: 1024)",
    )
    load.add_argument(
        "--max-message-bytes",
        type=int,
        default=16 * 1024 * 1024,
        metavar="N",
        help="size of a request (default: 16 MiB)",
    )
    load.add_argument(
        "--keepalive",
        type=float,
        default=60.0,
        metavar="S",
        help="silence after which a connection is tested (default: 60)",
    )
    load.add_argument(
        "--drain-seconds",
        type=float,
        default=30.0,
        metavar="S",
        help="how long requests under way may take at the end (default: 30)",
    )

    safety = parser.add_argument_group("who may ask")
    safety.add_argument("--tls-cert", metavar="FILE", help="encrypt; the certificate, PEM")
    safety.add_argument("--tls-key", metavar="FILE", help="its private key, PEM")
    safety.add_argument(
        "--tls-client-ca",
        metavar="FILE",
        help="let in only clients with a certificate of these authorities, PEM",
    )
    parser.add_argument("--verbose", action="store_true", help="show TensorFlow's log, too")


def run(arguments: argparse.Namespace) -> int:
    """Serves until it is told to end; returns the exit code."""
    # What gRPC's core logs stands in the error, too.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")

    from bert_tfx.pipeline.process.console import Console, logged, quieten
    from bert_tfx.serving.batching import BatchLimits
    from bert_tfx.serving.server import ServerOptions, serve
    from bert_tfx.serving.versions import VersionPolicy

    options = ServerOptions(
        os.path.expanduser(arguments.model),
        arguments.name,
        host=arguments.host,
        port=arguments.port,
        rest_port=arguments.rest_port,
        policy=VersionPolicy.parse(arguments.versions),
        labels=_labels(arguments.version_label),
        poll_seconds=arguments.poll_seconds,
        limits=BatchLimits(
            arguments.max_batch_size, arguments.batch_timeout_ms / 1000, arguments.max_queue
        ),
        batch_threads=arguments.batch_threads,
        max_message_bytes=arguments.max_message_bytes,
        max_requests=arguments.max_requests,
        keepalive=arguments.keepalive,
        tls=_tls(arguments),
        drain_seconds=arguments.drain_seconds,
        backend=arguments.backend,
        port_file=arguments.port_file and os.path.expanduser(arguments.port_file),
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


def _labels(given: list[str]) -> dict[str, int]:
    labels = {}
    for text in given:
        label, _, number = text.partition("=")
        if not number.isascii() or not number.isdigit():
            raise InputError(
                f"--version-label: expected LABEL=N, such as stable=3. Received: {text}"
            )
        labels[label] = int(number)
    return labels


def _tls(arguments: argparse.Namespace) -> "ServerTls | None":
    from bert_tfx.serving.server import ServerTls

    if (arguments.tls_cert is None) != (arguments.tls_key is None):
        raise InputError("--tls-cert and --tls-key go together")
    if arguments.tls_cert is None:
        if arguments.tls_client_ca is not None:
            raise InputError("--tls-client-ca needs the server's --tls-cert and --tls-key")
        return None
    paths = (arguments.tls_cert, arguments.tls_key, arguments.tls_client_ca)
    return ServerTls(*(path and os.path.expanduser(path) for path in paths))
