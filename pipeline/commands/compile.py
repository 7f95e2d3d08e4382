"""`bert-tfx compile`: the pipeline as another orchestrator takes it."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bert_tfx.pipeline.commands.run import add_options
from bert_tfx.pipeline.configuration import options
from bert_tfx.pipeline.process.console import quieten
from bert_tfx.schema.errors import InputError

if TYPE_CHECKING:
    from bert_tfx.pipeline.orchestrators.kubeflow.compiler import Cluster


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declares the command."""
    parser = commands.add_parser(
        "compile",
        help="write the pipeline as Kubeflow takes it",
        description="Writes the pipeline as another orchestrator takes it.",
    )
    kinds = parser.add_subparsers(dest="orchestrator", required=True, metavar="ORCHESTRATOR")
    kubeflow = kinds.add_parser(
        "kubeflow",
        help="for Kubeflow Pipelines 2",
        description="Writes the pipeline for Kubeflow Pipelines 2. All paths, such as --data and "
        "--output-dir, are those in the containers; the files need not be on this machine. Neither "
        "a cluster nor Kubeflow's SDK is needed.",
    )
    kubeflow.set_defaults(command=run)
    kubeflow.add_argument(
        "--output",
        dest="pipeline",
        metavar="FILE",
        default="pipeline.yaml",
        help="file to write (default: pipeline.yaml); of one that ends in .json the volumes stand "
        "beside it, in a file of their own",
    )
    add_cluster(kubeflow, required=True)
    add_options(kubeflow, output="--output-dir")


def add_cluster(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Adds the options that say where the pipeline is to run."""
    cluster = parser.add_argument_group("the cluster")
    cluster.add_argument(
        "--image", required=required, help="container image in which bert-tfx is installed"
    )
    cluster.add_argument(
        "--volume",
        action="append",
        metavar="CLAIM:PATH",
        help="persistent volume claim that is mounted in all containers, for many to write; "
        "--output-dir must lie there",
    )
    cluster.add_argument(
        "--secret",
        action="append",
        metavar="NAME:PATH",
        help="secret that is mounted in all containers, a file for each key",
    )
    cluster.add_argument(
        "--env",
        action="append",
        metavar="NAME=VALUE",
        help="environment variable of all containers",
    )
    cluster.add_argument(
        "--gpus", type=int, metavar="N", help="GPUs of nodes that train (default: 0)"
    )
    cluster.add_argument("--gpu-type", metavar="NAME", help="their kind (default: nvidia.com/gpu)")
    cluster.add_argument(
        "--pipeline-root",
        metavar="URL",
        help="gs://, s3:// or minio:// where Kubeflow keeps what tasks pass on (default: the "
        "cluster's)",
    )


def cluster_of(arguments: argparse.Namespace) -> "Cluster":
    """Returns where the pipeline is to run (raises InputError)."""
    from bert_tfx.pipeline.orchestrators.kubeflow.compiler import Cluster

    optional = {
        name: getattr(arguments, name)
        for name in ("gpus", "gpu_type", "pipeline_root")
        if getattr(arguments, name) is not None
    }
    return Cluster(
        image=arguments.image,
        volumes=_mounts("volume", arguments.volume),
        secrets=_mounts("secret", arguments.secret),
        env=dict(split_pair("env", pair) for pair in arguments.env or ()),
        **optional,
    )


def split_pair(option: str, text: str) -> tuple[str, str]:
    """Returns name and value of `NAME=VALUE` (raises InputError)."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise InputError(f"--{option} {text}: must be NAME=VALUE")
    return name, value


def _mounts(option: str, given: Sequence[str] | None) -> dict[str, str]:
    """Returns the names of what is mounted, by path."""
    mounts = {}
    for text in given or ():
        name, colon, path = text.partition(":")
        if not (name and colon and path):
            raise InputError(f"--{option} {text}: must be NAME:PATH")
        mounts[path] = name
    return mounts


def run(arguments: argparse.Namespace) -> int:
    """Writes the pipeline; returns the exit code."""
    cluster = cluster_of(arguments)
    quieten(arguments.verbose)

    from bert_tfx.pipeline.orchestrators.kubeflow.compiler import compile_documents, write_documents

    # A wrong name answers before the frameworks load.
    options_given = options.named(arguments)
    documents = compile_documents(options_given, cluster)
    write_documents(arguments.pipeline, documents)
    print(f"{arguments.pipeline}: {len(documents[0]['components'])} tasks in {cluster.image}")
    return 0
