"""The pipeline as Kubeflow Pipelines 2 takes it: a PipelineSpec, and what it needs of Kubernetes.

Each node becomes a task whose container runs `kubeflow_entrypoint`. TFX's own compiler for Kubeflow
is not used: it knows two resolvers that are not ours, needs schemas of a form that names artifact
types by one word, and writes this machine's paths and all parameters of a node into the
specification as text, where no parameter of the submission reaches them.
"""

import dataclasses
import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from bert_tfx.pipeline.configuration.config import OPTIONS, Config, make_config
from bert_tfx.pipeline.configuration.kinds import read_json_option
from bert_tfx.pipeline.configuration.options import with_sample
from bert_tfx.pipeline.configuration.resources import Resources, parse_resources
from bert_tfx.pipeline.configuration.variants import LAST, LONGEST, DistillPlan, parse_distill
from bert_tfx.pipeline.orchestrators.kubeflow.entrypoint import PAGE, PUSHED, RUN_ID, read_options
from bert_tfx.schema import files
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.tasks import TASKS, Task

COMMAND = ("python", "-m", "bert_tfx.pipeline.orchestrators.kubeflow.entrypoint")
"""What a container runs."""

PARAMETERS = (
    *("data", "pretrained", "vocab", "span"),
    *("epochs", "batch_size", "learning_rate", "max_length", "max_steps", "seed"),
    *("min_accuracy", "max_regression", "max_rejects"),
)
"""The options that can be changed at each submission."""

_NODE_RESOURCES = Resources(cpus=2, memory_gb=8)
_RESOURCES: Mapping[str, Resources] = dict.fromkeys(LONGEST, Resources(cpus=4, memory_gb=16))
# Options that name a path in the containers.
_PATHS = (
    *("data", "output", "vocab", "beam_job_server_jar"),
    *("push_tls_ca", "push_tls_cert", "push_tls_key", "push_token_file"),
)
_YAML = (".yaml", ".yml")
_SCHEMA_VERSION = "2.1.0"
_KINDS = {int: "NUMBER_INTEGER", float: "NUMBER_DOUBLE", str: "STRING", bool: "BOOLEAN"}
_ARTIFACT = {"schemaTitle": "system.Artifact", "schemaVersion": "0.0.1"}
_HTML = {"schemaTitle": "system.HTML", "schemaVersion": "0.0.1"}
_KNOWN_TYPES = {
    "Examples": "system.Dataset",
    "Model": "system.Model",
    "PushedModel": "system.Model",
}
_PIPELINE_ROOT = re.compile(r"(gs|s3|minio)://.+")


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Where the pipeline is to run.

    Attributes:
        image: The containers' image; bert-tfx is installed in it, as `python` on its PATH finds it.
        volumes: Persistent volume claims by the path where they are mounted in all containers. The
            output folder must lie below one of them.
        secrets: Secrets by the path where they are mounted in all containers, a file for each key.
        env: Environment variables of all containers.
        gpus: GPUs of the Trainer and of the nodes that run a teacher.
        gpu_type: Kubernetes' name of the GPUs.
        pipeline_root: Where Kubeflow keeps what its tasks pass on, `gs://`, `s3://` or `minio://`;
            by default what the cluster is set up for.

    Raises:
        InputError: If a value makes no sense.
    """

    image: str
    volumes: Mapping[str, str]
    secrets: Mapping[str, str] = dataclasses.field(default_factory=dict)
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    gpus: int = 0
    gpu_type: str = "nvidia.com/gpu"
    pipeline_root: str | None = None

    def __post_init__(self) -> None:
        """Checks the values."""
        if not self.image or any(letter.isspace() for letter in self.image):
            raise InputError(f"--image must name a container image. Received: {self.image!r}")
        if self.gpus < 0:
            raise InputError(f"--gpus must be 0 or more. Received: {self.gpus}")
        for name in self.env:
            if not re.fullmatch(r"[A-Za-z_]\w*", name):
                raise InputError(f"--env: {name!r} is no name of an environment variable")
        for kind, mounts in (("volume", self.volumes), ("secret", self.secrets)):
            for path, name in mounts.items():
                if not os.path.isabs(path) or not re.fullmatch(
                    r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?", name
                ):
                    raise InputError(
                        f"--{kind} {name}:{path}: must be NAME:PATH, the {kind} in Kubernetes "
                        "and an absolute path in the containers"
                    )
        if self.pipeline_root is not None and not _PIPELINE_ROOT.fullmatch(self.pipeline_root):
            raise InputError(
                f"--pipeline-root {self.pipeline_root}: must begin with gs://, s3:// or minio://, "
                "because Kubeflow keeps what tasks pass on in an object store"
            )


def compile_documents(
    options: Mapping[str, Any], cluster: Cluster
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Compiles the pipeline.

    Args:
        options: A run's options, as `make_config` takes them; paths are those in the containers,
            and are not looked at here.
        cluster: Where it is to run.

    Returns:
        The PipelineSpec and the PlatformSpec, as JSON values.

    Raises:
        InputError: If an option is unknown, missing or out of range, a path is relative or the
            output folder lies on no volume, or resources are for a node that there is not.
    """
    options = _portable(options)
    config = _check(options, cluster)
    nodes, producers, outputs = _graph(config, parse_distill(options.get("distill", "")))
    parameters = _parameters(options, config)
    fixed = {name: value for name, value in options.items() if name not in parameters}

    tasks: dict[str, Any] = {}
    components: dict[str, Any] = {}
    executors: dict[str, Any] = {}
    for name, upstream in nodes.items():
        task = task_name(name)
        artifacts = {key: _artifact(kind) for key, kind in outputs[name].items()}
        if name == "Report":
            artifacts[PAGE] = {"artifactType": _HTML}
        tasks[task] = {
            "taskInfo": {"name": task},
            "componentRef": {"name": f"comp-{task}"},
            # The runs' own records know whether the files are still the same; the path does not.
            "cachingOptions": {},
            "inputs": {
                "parameters": {
                    RUN_ID: {"runtimeValue": {"constant": "{{$.pipeline_job_uuid}}"}},
                    **{key: {"componentInputParameter": key} for key in parameters},
                },
            },
        }
        components[f"comp-{task}"] = {
            "executorLabel": f"exec-{task}",
            "inputDefinitions": {
                "parameters": {
                    RUN_ID: {"parameterType": "STRING"},
                    **{
                        key: {"parameterType": value["parameterType"]}
                        for key, value in parameters.items()
                    },
                },
            },
            "outputDefinitions": {"artifacts": artifacts},
        }
        if upstream:
            tasks[task]["dependentTasks"] = [task_name(before) for before in upstream]
        if taken := producers[name]:
            tasks[task]["inputs"]["artifacts"] = {
                _input_name(key): {
                    "taskOutputArtifact": {
                        "producerTask": task_name(producer),
                        "outputArtifactKey": output,
                    }
                }
                for key, (producer, output) in taken.items()
            }
            components[f"comp-{task}"]["inputDefinitions"]["artifacts"] = {
                _input_name(key): _artifact(outputs[producer][output])
                for key, (producer, output) in taken.items()
            }
        if name == "ModelPusher":
            components[f"comp-{task}"]["outputDefinitions"]["parameters"] = {
                PUSHED: {"parameterType": "BOOLEAN"}
            }
        executors[f"exec-{task}"] = {
            "container": {
                "image": cluster.image,
                "command": list(COMMAND),
                "args": [
                    *("--node", name),
                    *("--options", json.dumps(fixed, ensure_ascii=False, sort_keys=True)),
                    *("--executor-input", "{{$}}"),
                    *(
                        argument
                        for key in taken
                        for argument in (
                            "--input",
                            f"{key}={{{{$.inputs.artifacts['{_input_name(key)}'].path}}}}",
                        )
                    ),
                    *(
                        argument
                        for key in artifacts
                        for argument in (
                            "--output",
                            f"{key}={{{{$.outputs.artifacts['{key}'].path}}}}",
                        )
                    ),
                ],
                **_environment(cluster.env),
                "resources": _resources(name, config.resources, cluster),
            }
        }
    pipeline = {
        "pipelineInfo": {"name": re.sub(r"[^a-z0-9-]", "-", config.pipeline_name.lower())},
        "schemaVersion": _SCHEMA_VERSION,
        "sdkVersion": "bert-tfx",
        "root": {"dag": {"tasks": tasks}, "inputDefinitions": {"parameters": parameters}},
        "components": components,
        "deploymentSpec": {"executors": executors},
    }
    if cluster.pipeline_root is not None:
        pipeline["defaultPipelineRoot"] = cluster.pipeline_root
    return pipeline, _platform(executors, cluster)


def write_documents(path: str, documents: Sequence[Mapping[str, Any]]) -> None:
    """Writes the pipeline and what it needs of Kubernetes.

    Args:
        path: A `.yaml` file gets both, as Kubeflow's web page and client take them: two YAML
            documents, which are JSON. JSON knows no two documents in a file: beside a `.json`
            file with the pipeline the other one is `.platform.json`.
        documents: As `compile_documents` returns them.

    Raises:
        InputError: If the file's name ends otherwise, or cannot be written.
    """
    if not path.endswith((*_YAML, ".json")):
        raise InputError(f"{path}: must end in .yaml or .json")
    texts = [json.dumps(one, ensure_ascii=False, indent=1) for one in documents]
    contents = {path: "\n---\n".join(texts)}
    if path.endswith(".json"):
        contents = dict(zip((path, _platform_path(path)), texts, strict=True))
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        # The pipeline last: where it lies, the rest does.
        for name, text in reversed(contents.items()):
            files.write(name, f"{text}\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error


def _platform_path(path: str) -> str:
    return f"{path.removesuffix('.json')}.platform.json"


def read_documents(path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads what `write_documents` wrote; without volumes the second one is empty.

    Raises:
        InputError: If it cannot be read or holds no pipeline.
    """
    try:
        with open(path, encoding="utf-8") as file:
            documents = list(yaml.safe_load_all(file))
        if os.path.exists(platform := _platform_path(path)):
            with open(platform, encoding="utf-8") as file:
                documents.append(json.load(file))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{path}: not YAML: {error}") from error
    if not 1 <= len(documents) <= 2 or not all(isinstance(one, dict) for one in documents):
        raise InputError(f"{path}: holds no pipeline; bert-tfx compile kubeflow writes one")
    if "deploymentSpec" not in documents[0]:
        raise InputError(f"{path}: holds no pipeline; bert-tfx compile kubeflow writes one")
    return documents[0], documents[1] if len(documents) == 2 else {}


def task_name(node: str) -> str:
    """Returns the name of a node's task: `TsvExampleGen` is `tsv-example-gen`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", node).lower()


def _portable(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns options as JSON values, for `read_options` on another machine."""
    portable = dict(options)
    task = portable.get("task")
    if isinstance(task, Task):
        published = TASKS.get(task.name) == task
        portable["task"] = task.name if published else json.loads(task.to_json())
    if "resources" in portable:
        # It may be the name of a file here.
        portable["resources"] = {
            node: {name: value for name, value in dataclasses.asdict(given).items() if value}
            for node, given in parse_resources(portable["resources"]).items()
        }
    for name in ("distill", "compress"):
        if isinstance(portable.get(name), str):
            portable[name], _ = read_json_option(portable[name], name, "the documentation's")
    return portable


def _check(options: Mapping[str, Any], cluster: Cluster) -> Config:
    """Checks all that can be said without the files, which are on the cluster's volumes."""
    for name in _PATHS:
        if options.get(name) is not None:
            _check_absolute(name, options[name])
    output = options.get("output")
    if output is None:
        raise InputError(
            "--output-dir is missing: it names the run's folder in the containers (`output` in a "
            "configuration file)"
        )
    if not any(
        os.path.commonpath((path, output)) == os.path.normpath(path) for path in cluster.volumes
    ):
        raise InputError(
            f"output: {output} lies on no volume, so that tasks could not hand on what they make; "
            "--volume CLAIM:PATH mounts one"
        )
    if "metadata" in options:
        raise InputError(
            "metadata: on Kubeflow the records lie in the output folder, on its volume, and in no "
            "metadata store; leave it out"
        )
    absent = {"data": "/", **options} if options.get("task") == "sample" else dict(options)
    # The newest one is looked for where the files are.
    absent.setdefault("span", "newest")
    for name in ("vocab", "pretrained", "pretrained_sha256", *_PATHS[3:]):
        absent.pop(name, None)
    plan = parse_distill(absent.get("distill", ""))
    if plan is not None and "pretrained" in plan.teacher_model:
        _check_absolute("distill, teacher, pretrained", plan.teacher_model["pretrained"])
        absent["distill"] = {**absent["distill"], "teacher": LAST}
    return make_config(read_options(absent))


def _check_absolute(name: str, path: str) -> None:
    if not os.path.isabs(path):
        raise InputError(f"{name}: must be an absolute path in the containers, not {path!r}")


def _graph(
    config: Config, distill: DistillPlan | None
) -> tuple[dict[str, list[str]], dict[str, dict[str, tuple[str, str]]], dict[str, dict[str, str]]]:
    """Returns each node's upstream nodes, the producers of its inputs, and its outputs' types.

    They are the same for all data. The embedded sample's files are at hand.
    """
    from bert_tfx.pipeline.execution.node_launcher import compile_pipeline, nodes_of
    from bert_tfx.pipeline.execution.node_runner import is_resolver, outputs_of, producers_of

    with tempfile.TemporaryDirectory() as folder:
        sample = make_config(
            with_sample(
                {
                    "task": "sample",
                    "output": folder,
                    "warm_start": config.warm_start,
                    **_like(config, distill),
                    # There the names of nodes are checked.
                    "resources": {name: {} for name in config.resources},
                }
            )
        )
        ir = compile_pipeline(sample)
    by_name = {node.pipeline_node.node_info.id: node.pipeline_node for node in ir.nodes}
    producers = {name: producers_of(node) for name, node in by_name.items()}
    outputs = {
        name: {
            key: "" if is_resolver(node) else node.outputs.outputs[key].artifact_spec.type.name
            for key in outputs_of(node)
        }
        for name, node in by_name.items()
    }
    return nodes_of(ir), producers, outputs


def _like(config: Config, distill: DistillPlan | None) -> dict[str, Any]:
    """Returns options by which the sample's pipeline has the same nodes of smaller models."""
    options: dict[str, Any] = {"compress": [{"store": "float16"}] * len(config.compress)}
    if distill is not None:
        options["distill"] = {
            "student_layers": 1,
            "teacher": LAST if distill.teacher == LAST else {"size": "tiny"},
            "control": distill.control,
            # With layers to learn from nothing asks the teacher beforehand.
            "hidden_weight": float(not distill.settings.learns_answers_alone),
        }
    return options


def _parameters(options: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """Returns the pipeline's input parameters with their defaults; empty text is no value."""
    of_config = {
        **dataclasses.asdict(config.recipe),
        **dataclasses.asdict(config.promotion),
        "max_rejects": config.max_rejects,
    }
    parameters = {}
    for name in PARAMETERS:
        value = options.get(name, of_config.get(name))
        parameters[name] = {
            "parameterType": "STRING" if value is None else _KINDS[OPTIONS[name]],
            "defaultValue": "" if value is None else value,
            "isOptional": True,
            "description": f"bert-tfx run --{name.replace('_', '-')}",
        }
    return parameters


def _artifact(kind: str) -> dict[str, Any]:
    title = _KNOWN_TYPES.get(kind)
    return {"artifactType": {**_ARTIFACT, "schemaTitle": title} if title else _ARTIFACT}


def _input_name(key: str) -> str:
    """Returns an input's name as Kubeflow takes it; TFX's hidden ones begin with `_`."""
    return re.sub(r"\W", "_", key).strip("_").lower()


def _environment(env: Mapping[str, str]) -> dict[str, Any]:
    return {"env": [{"name": name, "value": env[name]} for name in sorted(env)]} if env else {}


def _resources(node: str, given: Mapping[str, Resources], cluster: Cluster) -> dict[str, Any]:
    """Returns the limits of a node's container; Kubernetes reserves as much."""
    default = _RESOURCES.get(node, _NODE_RESOURCES)
    named = given.get(node, Resources())
    gpus = named.gpus or (cluster.gpus if node in LONGEST else 0)
    resources: dict[str, Any] = {
        "cpuLimit": float(named.cpus or default.cpus or 0),
        "memoryLimit": float(named.memory_gb or default.memory_gb or 0),
    }
    if gpus:
        resources["accelerator"] = {"type": cluster.gpu_type, "count": str(gpus)}
    return resources


def _platform(executors: Mapping[str, Any], cluster: Cluster) -> dict[str, Any]:
    """Returns the PlatformSpec: what is mounted in the containers."""
    mounts: dict[str, Any] = {
        "pvcMount": [
            {"constant": claim, "mountPath": path} for path, claim in cluster.volumes.items()
        ]
    }
    if cluster.secrets:
        mounts["secretAsVolume"] = [
            {"secretName": name, "mountPath": path} for path, name in cluster.secrets.items()
        ]
    return {
        "platforms": {
            "kubernetes": {"deploymentSpec": {"executors": dict.fromkeys(executors, mounts)}}
        }
    }
