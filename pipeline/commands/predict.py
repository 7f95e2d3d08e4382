"""`bert-tfx predict`: asks a served model."""

import argparse
import dataclasses
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from bert_tfx.components.model_pusher.version_folder import State, VersionFolder
from bert_tfx.pipeline.configuration.beam_engine import MULTI_PROCESSING, BeamEngine
from bert_tfx.pipeline.process.console import Console, logged, quiet_workers, quieten
from bert_tfx.pipeline.process.exit_codes import ExitCode, explain
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.options import declare
from bert_tfx.serving import DEFAULT_MODEL
from bert_tfx.serving.backends import BACKENDS, TENSORFLOW, check_model

if TYPE_CHECKING:
    from bert_tfx.serving.client import Client
    from bert_tfx.serving.files.batch_files import Written
    from bert_tfx.serving.protocol.model_api import Prediction

_OF_A_SERVER = [
    "version_label",
    "tls",
    "tls_ca",
    "tls_cert",
    "tls_key",
    "tls_server_name",
    "token_file",
]
_SECONDS_PER_LINE = 5.0


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declares the command."""
    parser = commands.add_parser(
        "predict",
        help="ask a served or an exported model",
        description="Asks a model on TensorFlow Serving, or on `bert-tfx serve`, for the label of "
        "a text or pair, or of all rows of a TSV file. Without --server, --model names the folder "
        "of an exported model, which answers in this process; a file is then answered on Beam.",
        epilog=explain(ExitCode.DONE, ExitCode.INPUT_ERROR, ExitCode.UNAVAILABLE),
    )
    parser.set_defaults(command=run)
    parser.add_argument("text_of_row", nargs="?", metavar="TEXT", help="the text")
    parser.add_argument("text_b_of_row", nargs="?", metavar="TEXT_B", help="a pair's second text")
    parser.add_argument("--server", metavar="HOST:PORT", help="its gRPC address")
    parser.add_argument(
        "--model",
        metavar="NAME|DIR",
        help=f"with --server its name there (default: {DEFAULT_MODEL}); without, a folder: an "
        "exported model, or the folder of its versions, of which the latest counts",
    )
    parser.add_argument(
        "--backend",
        choices=BACKENDS,
        help="without --server: what computes; onnx is for exports in int8 (default: tensorflow)",
    )
    version = parser.add_mutually_exclusive_group()
    version.add_argument("--version", type=int, metavar="N", help="default: the server's latest")
    version.add_argument("--version-label", metavar="LABEL", help="such as stable or canary")
    parser.add_argument(
        "--timeout",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="how long a request may take, further tries included (default: 30)",
    )
    parser.add_argument("--json", action="store_true", help="show all probabilities, as JSON")

    rows = parser.add_argument_group("many rows")
    rows.add_argument("--input", metavar="FILE", help="TSV file, UTF-8, plain or .gz")
    rows.add_argument(
        "--output",
        metavar="FILE",
        help="the input's columns, then prediction, probability, model_version; the same command "
        "goes on where it was stopped",
    )
    rows.add_argument(
        "--text-a", metavar="COLUMN", help="column of the text (default: text_a, or the first)"
    )
    rows.add_argument(
        "--text-b", metavar="COLUMN", help="of a pair's second text (default: text_b, or the 2nd)"
    )
    rows.add_argument(
        "--no-header",
        action="store_true",
        help="the first line is a row; columns are numbered from 1",
    )
    rows.add_argument(
        "--max-rejects",
        type=int,
        default=0,
        metavar="N",
        help="rows that may be left out as they do not fit (default: 0)",
    )
    rows.add_argument(
        "--batch-size", type=int, default=32, metavar="N", help="rows in a request (default: 32)"
    )
    rows.add_argument(
        "--in-flight",
        type=int,
        default=4,
        metavar="N",
        help="requests under way at a time (default: 4)",
    )

    declare(parser.add_argument_group("engine, without --server"), BeamEngine)

    safety = parser.add_argument_group("a server that wants to know who asks")
    safety.add_argument(
        "--tls", action="store_true", help="encrypt; with the authorities that gRPC knows"
    )
    safety.add_argument("--tls-ca", metavar="FILE", help="encrypt; the authorities to trust, PEM")
    safety.add_argument("--tls-cert", metavar="FILE", help="encrypt; own certificate, PEM")
    safety.add_argument("--tls-key", metavar="FILE", help="its private key, PEM")
    safety.add_argument("--tls-server-name", metavar="NAME", help="name in the certificate")
    safety.add_argument("--token-file", metavar="FILE", help="file of the token to show")


def run(arguments: argparse.Namespace) -> int:
    """Asks; returns the exit code."""
    _check(arguments)
    if arguments.server is None:
        return _run_without_server(arguments)
    # What gRPC's core logs stands in the error, too.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")

    from bert_tfx.serving.client import Client, Tls
    from bert_tfx.serving.protocol.connection import read_token
    from bert_tfx.serving.protocol.errors import BadRequest, ModelNotFound, NotAllowed, ServingError

    tls = None
    if arguments.tls or any(
        (arguments.tls_ca, arguments.tls_cert, arguments.tls_key, arguments.tls_server_name)
    ):
        tls = Tls(
            arguments.tls_ca, arguments.tls_cert, arguments.tls_key, arguments.tls_server_name
        )
    try:
        with Client(
            arguments.server,
            arguments.model or DEFAULT_MODEL,
            timeout=arguments.timeout,
            tls=tls,
            token=arguments.token_file and read_token(arguments.token_file, "--token-file"),
            version=arguments.version,
            version_label=arguments.version_label,
            batch_size=arguments.batch_size,
            in_flight=arguments.in_flight,
        ) as client:
            if arguments.input is None:
                (prediction,) = client.predict(*_texts(arguments))
                _tell_one(prediction, arguments)
            else:
                _predict_file(client, arguments)
    except ServingError as error:
        print(f"bert-tfx: {error}", file=sys.stderr)
        users = isinstance(error, BadRequest | ModelNotFound | NotAllowed)
        if arguments.input and not users:
            print("bert-tfx: the same command goes on from here", file=sys.stderr)
        return ExitCode.INPUT_ERROR if users else ExitCode.UNAVAILABLE
    return 0


def _run_without_server(arguments: argparse.Namespace) -> int:
    """Answers with an exported model; returns the exit code."""
    path, version = _exported(os.path.expanduser(arguments.model), arguments.version)
    backend = arguments.backend or TENSORFLOW
    check_model(path, backend)
    if arguments.input is None:
        _tell_one(_answer_here(path, version, backend, arguments), arguments)
        return 0
    engine = _engine(arguments)
    engine.check_here()
    with logged(Console(sys.stderr, indent=0)):
        quieten(verbose=False)

        from bert_tfx.components.exported_model import read_exported_model
        from bert_tfx.pipeline.commands.batch_prediction import predict_file

        with quiet_workers(engine.beam_runner == MULTI_PROCESSING, verbose=False):
            written = predict_file(
                read_exported_model(path),
                version,
                os.path.expanduser(arguments.input),
                os.path.expanduser(arguments.output),
                beam_args=engine.arguments(),
                backend=backend,
                text_a=arguments.text_a,
                text_b=arguments.text_b,
                has_header=not arguments.no_header,
                max_rejects=arguments.max_rejects,
                progress=_Progress(),
            )
    _tell(written, arguments.output)
    return 0


def _answer_here(
    path: str, version: int, backend: str, arguments: argparse.Namespace
) -> "Prediction":
    """Loads an exported model, and asks it for the text."""
    quieten(verbose=False)

    from bert_tfx.serving.protocol.model_api import paired_rows
    from bert_tfx.serving.server.answers import predict
    from bert_tfx.serving.server.loading import load_model
    from bert_tfx.serving.server.refused import Refused

    rows = paired_rows(*_texts(arguments))
    try:
        model = load_model(path, backend)
    except InputError:
        raise
    except Exception as error:
        first_line = str(error).strip().partition("\n")[0] or type(error).__name__
        raise InputError(f"{path}: the model cannot be loaded: {first_line}") from error
    try:
        (prediction,) = predict(model, rows, version)
    except Refused as refused:
        raise InputError(f"{path}: {refused}") from refused
    finally:
        model.close()
    return prediction


def _engine(arguments: argparse.Namespace) -> BeamEngine:
    """Returns the Beam engine to answer the rows of a file with."""
    settings = _engine_settings(arguments)
    if jar := settings.get("beam_job_server_jar"):
        settings["beam_job_server_jar"] = os.path.expanduser(jar)
    return BeamEngine(**settings)


def _engine_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(BeamEngine)]
    given = {name: getattr(arguments, name) for name in names}
    return {name: value for name, value in given.items() if value is not None}


def _exported(model: str, version: int | None) -> tuple[str, int]:
    """Returns the folder of a SavedModel, and its version (1 where the folder's name says none).

    Raises:
        InputError: If there is none.
    """
    folder = os.path.abspath(model)
    if not os.path.isdir(folder):
        raise InputError(
            f"{model}: no such folder; --model names an exported model, such as OUTPUT/serving of "
            "a run, or --server the address of a server"
        )
    if os.path.isfile(os.path.join(folder, "saved_model.pb")):
        name = os.path.basename(folder)
        found = int(name) if name.isascii() and name.isdigit() else 1
        if version not in (None, found):
            raise InputError(f"{model}: is version {found}, not {version}")
        return folder, found
    versions = [v for v in VersionFolder(folder).versions() if v.state is State.PUSHED]
    for pushed in reversed(versions):
        if version in (None, pushed.number):
            return pushed.folder, pushed.number
    there = ", ".join(str(pushed.number) for pushed in versions) or "no version of a model"
    raise InputError(
        f"{model}: there is {there}"
        + (
            f", and no version {version}"
            if versions
            else "; expected an exported model, such as OUTPUT/serving of a run"
        )
    )


def _check(arguments: argparse.Namespace) -> None:
    """Refuses what cannot be meant."""
    if arguments.server is None:
        if arguments.model is None:
            raise InputError(
                "expected --server HOST:PORT, or --model DIR of an exported model; `bert-tfx serve "
                "--model OUTPUT/serving` starts a server on this machine"
            )
        for option in _OF_A_SERVER:
            if getattr(arguments, option):
                raise InputError(f"--{option.replace('_', '-')} belongs to --server")
    elif arguments.backend is not None:
        raise InputError("--backend is for predictions without --server")
    elif _engine_settings(arguments):
        option = next(iter(_engine_settings(arguments))).replace("_", "-")
        raise InputError(f"--{option} is for predictions without --server")
    if (arguments.input is None) == (arguments.text_of_row is None):
        raise InputError("expected either a TEXT (for a pair, two) or --input FILE")
    if (arguments.input is None) != (arguments.output is None):
        raise InputError("--input and --output go together: each names a TSV file")
    if arguments.max_rejects < 0:
        raise InputError(f"max_rejects must not be negative. Received: {arguments.max_rejects}")
    if arguments.input is not None:
        if arguments.json:
            raise InputError("--json is for a single TEXT; --output gets a TSV file")
        return
    for option in ("text_a", "text_b", "no_header"):
        if getattr(arguments, option):
            raise InputError(f"--{option.replace('_', '-')} belongs to --input")


def _texts(arguments: argparse.Namespace) -> tuple[list[str], list[str] | None]:
    """Returns the text, and a pair's second one, as lists of one."""
    text_b = arguments.text_b_of_row
    return [arguments.text_of_row], None if text_b is None else [text_b]


def _tell_one(prediction: "Prediction", arguments: argparse.Namespace) -> None:
    if arguments.json:
        print(json.dumps(dataclasses.asdict(prediction), ensure_ascii=False))
    else:
        print(f"{prediction.label}\t{prediction.probability:.6f}")
        if prediction.truncated:
            print(
                "bert-tfx: the text is longer than the model reads; its end did not count",
                file=sys.stderr,
            )


def _predict_file(client: "Client", arguments: argparse.Namespace) -> None:
    from bert_tfx.serving.files.batch_files import predict_file

    version = arguments.version if arguments.version is not None else arguments.version_label
    written = predict_file(
        client,
        os.path.expanduser(arguments.input),
        os.path.expanduser(arguments.output),
        text_a=arguments.text_a,
        text_b=arguments.text_b,
        has_header=not arguments.no_header,
        max_rejects=arguments.max_rejects,
        asked_of=json.dumps([arguments.model or DEFAULT_MODEL, version]),
        progress=_Progress(),
    )
    _tell(written, arguments.output)


def _tell(written: "Written", output: str) -> None:
    print(f"{written.rows:,} rows: {output}", file=sys.stderr)
    if written.rejects:
        named = "\n  ".join(written.first_rejects)
        print(f"{written.rejects:,} rows do not fit, and are left out:\n  {named}", file=sys.stderr)


class _Progress:
    """Shows on stderr how far it is, every few seconds."""

    def __init__(self) -> None:
        self._begun: tuple[float, int] | None = None
        self._shown = 0.0

    def __call__(self, done: int, rows: int) -> None:
        now = time.monotonic()
        if self._begun is None:
            self._begun = now, done
            self._shown = now
            if done:
                print(f"going on: {done:,} of {rows:,} rows are there", file=sys.stderr)
            return
        if now - self._shown < _SECONDS_PER_LINE:
            return
        self._shown = now
        begun, already = self._begun
        rate = (done - already) / max(now - begun, 1e-9)
        print(f"{done:,} of {rows:,} rows, {rate:,.0f} rows/s", file=sys.stderr, flush=True)
