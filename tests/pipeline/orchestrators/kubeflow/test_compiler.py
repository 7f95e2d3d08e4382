"""The pipeline for Kubeflow. What needs its SDK runs where that is: `make test-kubeflow`."""

import importlib.util
import json
import re

import pytest
import yaml

from bert_tfx.pipeline.configuration.options import SAMPLE
from bert_tfx.pipeline.orchestrators.kubeflow.compiler import (
    PARAMETERS,
    Cluster,
    compile_documents,
    read_documents,
    task_name,
    write_documents,
)
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.tasks import own_task

kfp = pytest.mark.skipif(
    importlib.util.find_spec("kfp") is None, reason="kfp is not installed: make test-kubeflow"
)
# It announces the end of what it uses itself.
lenient = pytest.mark.filterwarnings("ignore")

OPTIONS = {"task": "sample", "output": "/work/out", "min_accuracy": 0.8, "epochs": 3}
RESOLVERS = {"AcceptedData", "AcceptedTokens", "Baseline"}


def cluster(**fields):
    return Cluster(**{"image": "registry/bert-tfx:1", "volumes": {"/work": "claim"}, **fields})


@pytest.fixture(scope="module")
def documents():
    options = {**OPTIONS, "resources": {"Transform": {"cpus": 8, "memory_gb": 30.5}}}
    return compile_documents(
        options,
        cluster(
            gpus=2,
            env={"B": "2", "A": "1"},
            secrets={"/secret": "push-token"},
            pipeline_root="gs://bucket/runs",
        ),
    )


@pytest.fixture(scope="module")
def containers(documents):
    """The containers by node."""
    executors = documents[0]["deploymentSpec"]["executors"]
    found = (executor["container"] for executor in executors.values())
    return {container["args"][1]: container for container in found}


def test_each_node_is_a_task_with_all_its_parts(documents, containers):
    pipeline, platform = documents
    tasks = pipeline["root"]["dag"]["tasks"]
    assert set(tasks) == set(map(task_name, containers))
    assert {"tsv-example-gen", "trainer", "model-pusher", "accepted-data"} < set(tasks)
    executors = {one["executorLabel"] for one in pipeline["components"].values()}
    assert executors == set(pipeline["deploymentSpec"]["executors"])
    assert executors == set(platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"])
    for name, task in tasks.items():
        # Kubeflow looks a producer up by what it says of itself.
        assert task["taskInfo"]["name"] == name
        assert set(task.get("dependentTasks", ())) <= set(tasks)


def test_artifacts_come_from_tasks_that_are_waited_for(documents):
    tasks = documents[0]["root"]["dag"]["tasks"]
    components = documents[0]["components"]
    for task in tasks.values():
        component = components[task["componentRef"]["name"]]
        taken = task["inputs"].get("artifacts", {})
        declared = component["inputDefinitions"].get("artifacts", {})
        assert set(taken) == set(declared)
        for key, source in taken.items():
            produced = source["taskOutputArtifact"]
            assert produced["producerTask"] in task["dependentTasks"]
            producer = components[tasks[produced["producerTask"]]["componentRef"]["name"]]
            outputs = producer["outputDefinitions"]["artifacts"]
            made = outputs[produced["outputArtifactKey"]]["artifactType"]
            assert made == declared[key]["artifactType"]


def test_resolvers_are_containers_that_are_given_the_candidate(documents, containers):
    tasks = documents[0]["root"]["dag"]["tasks"]
    for name, producer in (
        ("AcceptedData", "statistics-gen"),
        ("AcceptedTokens", "token-statistics"),
        ("Baseline", "trainer"),
    ):
        (given,) = tasks[task_name(name)]["inputs"]["artifacts"].values()
        assert given["taskOutputArtifact"]["producerTask"] == producer
        assert containers[name]["image"] == "registry/bert-tfx:1"
    wanted = {"producerTask": "baseline", "outputArtifactKey": "model"}
    for name, key in (
        ("predictor", "baseline"),
        *dict.fromkeys(("evaluator", "promotion-gate"), "baseline_model").items(),
    ):
        given = tasks[name]["inputs"]["artifacts"][key]
        assert given["taskOutputArtifact"] == wanted


def test_image_command_and_environment(containers):
    for name, container in containers.items():
        assert container["image"] == "registry/bert-tfx:1"
        assert container["command"] == [
            "python",
            "-m",
            "bert_tfx.pipeline.orchestrators.kubeflow.entrypoint",
        ]
        assert container["args"][:2] == ["--node", name]
        assert container["env"] == [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]


def test_resources_and_gpus_of_the_trainer_only(containers):
    assert {name for name, one in containers.items() if "accelerator" in one["resources"]} == {
        "Trainer"
    }
    accelerator = containers["Trainer"]["resources"]["accelerator"]
    assert accelerator == {"type": "nvidia.com/gpu", "count": "2"}
    given = {"cpuLimit": 8.0, "memoryLimit": 30.5}
    assert containers["Transform"]["resources"] == given
    for container in containers.values():
        assert container["resources"]["cpuLimit"] > 0 < container["resources"]["memoryLimit"]


def test_no_path_of_this_machine_is_in_it(documents, containers):
    text = json.dumps(documents)
    assert str(SAMPLE) not in text
    assert "/tmp" not in text
    for container in containers.values():
        options = json.loads(container["args"][3])
        assert options["output"] == "/work/out"


def test_parameters_have_the_defaults_of_the_configuration(documents):
    parameters = documents[0]["root"]["inputDefinitions"]["parameters"]
    assert tuple(parameters) == PARAMETERS
    kinds = {name: (one["parameterType"], one["defaultValue"]) for name, one in parameters.items()}
    assert kinds["min_accuracy"] == ("NUMBER_DOUBLE", 0.8)
    assert kinds["epochs"] == ("NUMBER_INTEGER", 3)
    # Left to what the container knows.
    assert kinds["data"] == kinds["pretrained"] == kinds["max_steps"] == ("STRING", "")
    for task in documents[0]["root"]["dag"]["tasks"].values():
        assert set(PARAMETERS) < set(task["inputs"]["parameters"])


def test_kubeflow_caches_nothing(documents):
    # Its cache sees the path of the rows, not the rows.
    for task in documents[0]["root"]["dag"]["tasks"].values():
        assert not task["cachingOptions"].get("enableCache")


def test_pusher_says_whether_it_pushed_and_the_report_shows_its_page(documents):
    components = documents[0]["components"]
    outputs = components["comp-model-pusher"]["outputDefinitions"]
    assert outputs["parameters"] == {"pushed": {"parameterType": "BOOLEAN"}}
    page = components["comp-report"]["outputDefinitions"]["artifacts"]["page"]
    assert page["artifactType"]["schemaTitle"] == "system.HTML"


def test_volumes_and_secrets_are_mounted_everywhere(documents):
    executors = documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for mounts in executors.values():
        assert mounts == {
            "pvcMount": [{"constant": "claim", "mountPath": "/work"}],
            "secretAsVolume": [{"secretName": "push-token", "mountPath": "/secret"}],
        }


def test_file_is_read_as_it_was_written(documents, tmp_path):
    path = tmp_path / "pipeline.yaml"
    write_documents(str(path), documents)
    assert read_documents(str(path)) == documents
    assert list(yaml.safe_load_all(path.read_text(encoding="utf-8"))) == list(documents)
    assert [one.name for one in tmp_path.iterdir()] == ["pipeline.yaml"]


def test_json_is_two_files(documents, tmp_path):
    path = tmp_path / "pipeline.json"
    write_documents(str(path), documents)
    assert read_documents(str(path)) == documents
    assert json.loads(path.read_text(encoding="utf-8")) == documents[0]
    assert {one.name for one in tmp_path.iterdir()} == {path.name, "pipeline.platform.json"}


@kfp
@lenient
def test_kubeflows_own_loader_takes_it(documents, tmp_path):
    from kfp import components
    from kfp.client import client

    path = str(tmp_path / "pipeline.yaml")
    write_documents(path, documents)
    loaded = components.load_component_from_file(path)
    assert loaded.pipeline_spec.pipeline_info.name == documents[0]["pipelineInfo"]["name"]
    inputs = loaded.component_spec.inputs
    assert set(inputs) == set(PARAMETERS)
    assert all(one.optional for one in inputs.values())
    assert inputs["epochs"].default == 3
    # What the client sends to the server.
    sent = client._extract_pipeline_yaml(path).to_dict()
    assert len(sent["pipeline_spec"]["root"]["dag"]["tasks"]) == 18
    assert "kubernetes" in sent["platform_spec"]["platforms"]
    assert sent["pipeline_spec"]["defaultPipelineRoot"] == "gs://bucket/runs"


def test_own_task_travels_in_full():
    task = own_task(
        {"name": "mine", "labels": ["no", "yes"], "columns": ["text_a", "label"], "train": "*.tsv"},
        where="test",
    )
    pipeline, _ = compile_documents(
        {"task": task, "data": "/work/d", "output": "/work/o"}, cluster()
    )
    assert re.fullmatch(r"bert-tfx-mine-[0-9a-f]{8}", pipeline["pipelineInfo"]["name"])
    executor = pipeline["deploymentSpec"]["executors"]["exec-trainer"]
    from bert_tfx.pipeline.orchestrators.kubeflow.entrypoint import effective_options

    options = effective_options(json.loads(executor["container"]["args"][3]), {})
    assert options["task"] == task


def test_files_of_each_day_are_looked_for_where_they_are():
    task = own_task(
        {
            "name": "mine",
            "labels": ["no", "yes"],
            "columns": ["text_a", "label"],
            "train": "{YYYY}-{MM}-{DD}/train.tsv",
        },
        where="test",
    )
    options = {"task": task, "data": "/work/d", "output": "/work/o", "warm_start": True}
    pipeline, _ = compile_documents(options, cluster())
    span = pipeline["root"]["inputDefinitions"]["parameters"]["span"]
    assert (span["parameterType"], span["defaultValue"]) == ("STRING", "")
    warm_start = pipeline["root"]["dag"]["tasks"]["warm-start"]
    assert warm_start["dependentTasks"] == ["tsv-example-gen"]
    trainer = pipeline["root"]["dag"]["tasks"]["trainer"]["inputs"]["artifacts"]
    assert {"taskOutputArtifact": {"producerTask": "warm-start", "outputArtifactKey": "model"}} in (
        trainer.values()
    )


def test_smaller_models_are_tasks_and_travel_in_full(tmp_path):
    distill = {
        "student_layers": 1,
        "control": True,
        "teacher": {"pretrained": "/work/models/bert", "epochs": 2},
    }
    (tmp_path / "steps.json").write_text('[{"prune_vocab": true}, {"store": "float16"}]')
    options = {**OPTIONS, "distill": distill, "compress": str(tmp_path / "steps.json")}
    pipeline, _ = compile_documents(options, cluster(gpus=1))
    tasks = pipeline["root"]["dag"]["tasks"]
    names = {"teacher", "control", "student-gate", "compress1", "compress-gate1", "compress-gate2"}
    assert names <= tasks.keys()
    # The teacher is trained, not looked for among earlier models.
    assert "transform" in tasks["teacher"]["dependentTasks"]
    assert "teacher" in tasks["teacher-answers"]["dependentTasks"]
    learned = tasks["trainer"]["inputs"]["artifacts"]["examples"]["taskOutputArtifact"]
    assert learned["producerTask"] == "teacher-answers"
    of_gate = tasks["compress-gate2"]["inputs"]["artifacts"]
    producers = {made["taskOutputArtifact"]["producerTask"] for made in of_gate.values()}
    assert {"compress2", "compress-gate1", "teacher"} <= producers
    containers = pipeline["deploymentSpec"]["executors"]
    for name in ("teacher", "teacher-answers", "control", "trainer"):
        resources = containers[f"exec-{name}"]["container"]["resources"]
        assert (resources["cpuLimit"], resources["accelerator"]["count"]) == (4, "1")
    from bert_tfx.pipeline.orchestrators.kubeflow.entrypoint import effective_options

    told = effective_options(json.loads(containers["exec-teacher"]["container"]["args"][3]), {})
    assert told["distill"] == distill
    assert told["compress"] == [{"prune_vocab": True}, {"store": "float16"}]


@pytest.mark.parametrize(
    "distill",
    [
        {"student_layers": 1, "hidden_weight": 1},
        {"teacher": "last", "cosine_weight": 1},
        {"alpha": 0, "hidden_weight": 1, "intermediate_epochs": 1, "teacher": {"size": "small"}},
    ],
)
def test_teacher_is_not_asked_beforehand_where_answers_are_not_enough(distill):
    pipeline, _ = compile_documents({**OPTIONS, "distill": distill}, cluster())
    tasks = pipeline["root"]["dag"]["tasks"]
    assert {"teacher", "trainer"} <= tasks.keys()
    assert "teacher-answers" not in tasks


def test_teacher_of_this_machine_is_refused():
    distill = {"student_layers": 1, "teacher": {"pretrained": "models/bert"}}
    with pytest.raises(InputError, match=r"^distill, teacher, pretrained: must be an absolute "):
        compile_documents({**OPTIONS, "distill": distill}, cluster())


@pytest.mark.parametrize(
    ("options", "message"),
    (
        ({"metadata": "sqlite:x"}, "metadata: on Kubeflow the records lie in the output folder"),
        ({"resources": {"Trainr": {"cpus": 1}}}, "resources: there is no node 'Trainr'"),
        ({"output": "out"}, "output: must be an absolute path in the containers, not 'out'"),
        ({"vocab": "vocab.txt"}, "vocab: must be an absolute path"),
        ({"output": "/works/out"}, "output: /works/out lies on no volume"),
        ({"epochs": 0}, "epochs"),
        ({"epoch": 1}, "unknown option 'epoch'"),
    ),
)
def test_mistakes_in_options_are_refused(options, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}"):
        compile_documents({**OPTIONS, **options}, cluster())


@pytest.mark.parametrize(
    ("fields", "message"),
    (
        ({"image": ""}, "--image must name"),
        ({"gpus": -1}, "--gpus must be 0 or more"),
        ({"env": {"A-B": "1"}}, "--env: 'A-B'"),
        ({"volumes": {"work": "claim"}}, "--volume claim:work: must be"),
        ({"secrets": {"/s": "Not_a_name"}}, "--secret Not_a_name:/s: must be"),
        ({"pipeline_root": "/work"}, "--pipeline-root /work: must begin with gs://"),
    ),
)
def test_mistakes_about_the_cluster_are_refused(fields, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}"):
        cluster(**fields)


def test_file_of_another_kind_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"pipeline\.pb: must end in \.yaml or \.json"):
        write_documents(str(tmp_path / "pipeline.pb"), ({}, {}))
    path = tmp_path / "other.yaml"
    for text in ("a: 1", "- 1", ""):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match="holds no pipeline"):
            read_documents(str(path))
    with pytest.raises(InputError, match="cannot be read"):
        read_documents(str(tmp_path / "nothing.yaml"))
