"""`bert-tfx submit`: starts a run of the pipeline on another orchestrator."""

import argparse
import datetime
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bert_tfx.pipeline.commands.compile import add_cluster, cluster_of, split_pair
from bert_tfx.pipeline.commands.run import add_options
from bert_tfx.pipeline.configuration import options
from bert_tfx.pipeline.process.console import quieten
from bert_tfx.pipeline.process.exit_codes import ExitCode
from bert_tfx.schema.errors import InputError

if TYPE_CHECKING:
    from bert_tfx.pipeline.orchestrators.kubeflow.client import KubeflowClient

_CLUSTER = ("volume", "secret", "env", "gpus", "gpu_type", "pipeline_root")


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declares the command."""
    parser = commands.add_parser(
        "submit",
        help="start a run on Kubeflow",
        description="Starts a run of the pipeline on another orchestrator.",
    )
    kinds = parser.add_subparsers(dest="orchestrator", required=True, metavar="ORCHESTRATOR")
    kubeflow = kinds.add_parser(
        "kubeflow",
        help="on Kubeflow Pipelines 2",
        description="Starts a run on Kubeflow Pipelines 2: of a pipeline that `compile kubeflow` "
        "wrote, or of one that is compiled now, with the options of that command.",
        epilog="Exit codes: 0 the run was started, or with --wait has succeeded, whether or not "
        "the model was good enough to be pushed; 1 it has failed; 2 a mistake in the input, or the "
        "server refuses it; 5 the server cannot be reached or fails.",
    )
    kubeflow.set_defaults(command=run)
    server = kubeflow.add_argument_group("the server")
    server.add_argument("--host", required=True, metavar="URL", help="Kubeflow Pipelines' address")
    # Not --token: what stands on a command line is for everybody on the machine to read.
    server.add_argument("--token-file", metavar="FILE", help="file of the token to show")
    server.add_argument("--namespace", metavar="NAME", help="where it serves several users")
    what = kubeflow.add_argument_group("the run")
    what.add_argument("--pipeline", metavar="FILE", help="pipeline that was compiled")
    what.add_argument(
        "--parameter",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="parameter of the pipeline that shall not have its default, such as epochs=3",
    )
    what.add_argument(
        "--experiment", metavar="NAME", default="bert-tfx", help="(default: bert-tfx)"
    )
    what.add_argument("--run-name", metavar="NAME", help="(default: the pipeline's and the time)")
    what.add_argument("--service-account", metavar="NAME", help="account of the containers")
    what.add_argument("--wait", action="store_true", help="wait for its end and show how it goes")
    add_cluster(kubeflow, required=False)
    add_options(kubeflow, output="--output-dir")


def run(arguments: argparse.Namespace) -> int:
    """Starts a run; returns the exit code."""
    from bert_tfx.pipeline.orchestrators.kubeflow.client import KubeflowClient, ServerError

    token = _token(arguments.token_file)
    client = KubeflowClient(arguments.host, token)
    given = dict(split_pair("parameter", pair) for pair in arguments.parameter)
    pipeline, platform = _documents(arguments)
    parameters = _parameters(pipeline, given)
    try:
        client.check(arguments.namespace)
        experiment = client.experiment(arguments.experiment, arguments.namespace)
        now = datetime.datetime.now().strftime("%Y-%m-%d %H:%M:%S")
        run_id = client.submit(
            pipeline,
            platform,
            name=arguments.run_name or f"{pipeline['pipelineInfo']['name']} {now}",
            experiment=experiment,
            parameters=parameters,
            service_account=arguments.service_account,
        )
        print(f"run {run_id}\n{client.url(run_id)}", flush=True)
        return _wait(client, run_id, pipeline) if arguments.wait else 0
    except ServerError as error:
        print(f"bert-tfx: {error}", file=sys.stderr)
        return ExitCode.UNAVAILABLE


def _token(path: str | None) -> str | None:
    if path is None:
        return None
    from bert_tfx.serving.protocol.connection import read_token

    return read_token(path, "--token-file")


def _documents(arguments: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads the pipeline, or compiles it."""
    from bert_tfx.pipeline.orchestrators.kubeflow.compiler import compile_documents, read_documents

    named = options.named(arguments)
    if arguments.pipeline is not None:
        compiled = ["image"] if arguments.image is not None else []
        compiled += [name for name in _CLUSTER if getattr(arguments, name) is not None]
        if clash := [*compiled, *named]:
            raise InputError(
                f"--pipeline and --{clash[0].replace('_', '-')}: the pipeline is compiled already; "
                "--parameter changes a parameter of it"
            )
        return read_documents(arguments.pipeline)
    if arguments.image is None:
        raise InputError(
            "--pipeline names the pipeline that was compiled; to compile one now, --image is "
            "missing"
        )
    quieten(arguments.verbose)
    return compile_documents(named, cluster_of(arguments))


def _parameters(pipeline: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, Any]:
    """Returns values of the kinds that the pipeline declares."""
    declared = pipeline["root"].get("inputDefinitions", {}).get("parameters", {})
    values: dict[str, Any] = {}
    for name, text in given.items():
        if name not in declared:
            raise InputError(
                f"--parameter {name}: the pipeline has no such parameter; it has "
                f"{', '.join(declared)}"
            )
        kind = declared[name]["parameterType"]
        try:
            values[name] = {"NUMBER_INTEGER": int, "NUMBER_DOUBLE": float}.get(kind, str)(text)
        except ValueError as error:
            raise InputError(f"--parameter {name}={text}: must be a number ({kind})") from error
    return values


def _wait(client: "KubeflowClient", run_id: str, pipeline: Mapping[str, Any]) -> int:
    """Shows how a run goes; returns the exit code of its end."""
    from bert_tfx.pipeline.orchestrators.kubeflow.client import SUCCEEDED

    tasks: Sequence[str] = list(pipeline["root"]["dag"]["tasks"])
    shown: dict[str, str] = {}
    state = ""
    for reached, found in client.states(run_id):
        state = reached
        for name in tasks:
            if name in found and shown.get(name) != found[name]:
                shown[name] = found[name]
                print(f"{name:18} {found[name].lower()}", flush=True)
    print(f"the run has ended: {state.lower()}")
    if state != SUCCEEDED:
        return ExitCode.FAULT
    print("whether the model was pushed, says model-pusher: its output parameter `pushed`")
    return 0
