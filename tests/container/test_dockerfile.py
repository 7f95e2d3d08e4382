"""What the container files promise, as far as it shows without an engine."""

import contextlib
import fnmatch
import json
import pathlib
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import grpc
import pytest
import yaml

from bert_tfx.pipeline.commands import cli
from bert_tfx.serving.protocol import messages

ROOT = pathlib.Path(__file__).resolve().parents[2]
FILES = ("Dockerfile", "Dockerfile.client")
ROOMS = ("schema", "modeling", "components", "serving", "pipeline", "sample")
TARGETS = [("Dockerfile", name) for name in ("pipeline", "server", "beam-worker", None)]
TARGETS.append(("Dockerfile.client", None))


class Stage(NamedTuple):
    """A stage of a build: its base with the arguments filled in, and its instructions."""

    base: str
    name: str
    steps: list[tuple[str, str]]

    def last(self, instruction: str) -> str | None:
        """Returns what the last such instruction says, or None."""
        return next((text for name, text in reversed(self.steps) if name == instruction), None)


def instructions(file: str) -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", (ROOT / file).read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = [line.strip() for line in re.sub(r"\\\n\s*", "", text).splitlines()]
    return [tuple(line.split(maxsplit=1)) for line in lines if line]


def stages(file: str) -> list[Stage]:
    arguments, found = {}, []
    for name, text in instructions(file):
        if name == "ARG" and not found:
            key, _, default = text.partition("=")
            arguments[key] = default
        elif name == "FROM":
            base, _, alias = text.partition(" AS ")
            base = re.sub(r"\$\{(\w+)\}", lambda match: arguments[match[1]], base)
            found.append(Stage(base, alias, []))
        else:
            found[-1].steps.append((name, text))
    return found


def built(file: str, target: str | None) -> Stage:
    """Returns what an image is made of after its base: the steps of all stages that it follows."""
    by_name = {stage.name: stage for stage in stages(file)}
    stage = by_name[target] if target else stages(file)[-1]
    while stage.base in by_name:
        base = by_name[stage.base]
        stage = Stage(base.base, stage.name, base.steps + stage.steps)
    return stage


def locked(name: str) -> str:
    text = (ROOT / "requirements" / "modern" / "run.txt").read_text(encoding="utf-8")
    return re.search(rf"^{name}==([^\s;]+)", text, re.MULTILINE)[1]


def compose() -> dict:
    return yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))


def let_in(path: str) -> bool:
    """Whether .dockerignore lets a file into a build: the last pattern that fits decides."""
    verdict = True
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.removeprefix("!")
        if not line or line.startswith("#"):
            continue
        parts = path.split("/")
        heads = ["/".join(parts[:length]) for length in range(1, len(parts) + 1)]
        if pattern.startswith("**/"):
            fits = any(fnmatch.fnmatchcase(part, pattern[3:]) for part in parts)
        else:
            fits = any(
                fnmatch.fnmatchcase(head, pattern) and head.count("/") == pattern.count("/")
                for head in heads
            )
        if fits:
            verdict = line.startswith("!")
    return verdict


@pytest.mark.parametrize(("file", "target"), TARGETS)
def test_user_is_a_number_and_not_root(file, target):
    user = built(file, target).last("USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)


@pytest.mark.parametrize(("file", "target"), TARGETS)
def test_processes_are_started_without_a_shell(file, target):
    stage = built(file, target)
    assert isinstance(json.loads(stage.last("ENTRYPOINT")), list)
    assert isinstance(json.loads(stage.last("CMD")), list)


@pytest.mark.parametrize("file", FILES)
def test_bases_are_pinned(file):
    names = {stage.name for stage in stages(file)}
    bases = {stage.base for stage in stages(file)} - names
    assert bases
    for base in bases:
        assert re.search(r":\d+\.\d+\.\d+(-[\w-]+)?$", base), base


def test_what_is_built_without_a_target_is_the_pipeline():
    assert stages("Dockerfile")[-1] == Stage("pipeline", "", [])


@pytest.mark.parametrize("file", FILES)
def test_every_installation_is_locked(file):
    for stage in stages(file):
        for name, text in stage.steps:
            if name == "RUN":
                for command in re.findall(r"pip (?:install|sync)[^&]*", text):
                    assert "--require-hashes" in command or "--no-deps" in command, command


@pytest.mark.parametrize(("file", "target"), TARGETS)
def test_an_image_takes_no_source_and_no_builder_along(file, target):
    copied = [text for name, text in built(file, target).steps if name in ("COPY", "ADD")]
    assert "--from=builder /opt/bert-tfx /opt/bert-tfx" in copied
    assert all(text.startswith("--from=") for text in copied)


def test_versions_agree():
    bases = {stage.name: stage.base for stage in stages("Dockerfile")}
    set_up = (ROOT / "requirements" / "set-up").read_text(encoding="utf-8")
    # The best of the releases that the stack runs on.
    python = re.search(r'RELEASES=\(\[modern\]="([\d.]+)', set_up)[1]
    assert bases["pipeline"].startswith(f"python:{python}.")
    assert bases["beam-sdk"] == f"apache/beam_python{python}_sdk:{locked('apache-beam')}"
    assert stages("Dockerfile.client")[0].base == bases["pipeline"]

    release = re.search(r'version="([^"]+)"', (ROOT / "setup.py").read_text(encoding="utf-8"))[1]
    for file, target in TARGETS:
        labels = [text for name, text in built(file, target).steps if name == "LABEL"]
        assert f'image.version="{release}"' in labels[-1]

    services = compose()["services"]
    serving = services["serving"]["image"].partition(":")[2]
    assert serving.split(".")[:2] == locked("tensorflow").split(".")[:2]
    ours = [service["image"] for service in services.values() if "build" in service]
    assert len(ours) == 3
    assert all(image.endswith(f":{release}") for image in ours)
    for page in ("README.md", "README.zh-CN.md", "docs/container.md"):
        named = re.findall(r"tensorflow/serving:([\d.]+)", (ROOT / page).read_text("utf-8"))
        assert set(named) == {serving}, page
    assert f"`{bases['pipeline']}`" in (ROOT / "docs" / "container.md").read_text("utf-8")


def test_client_lock_holds_no_tensorflow():
    text = (ROOT / "requirements" / "client.txt").read_text(encoding="utf-8")
    names = re.findall(r"^([\w.-]+)==", text, re.MULTILINE)
    assert {"grpcio", "protobuf"} <= set(names) <= {"grpcio", "protobuf", "typing-extensions"}


def test_the_package_enters_a_build():
    named = ("setup.py", "pyproject.toml", "LICENSE")
    locks = [f"requirements/{name}.txt" for name in ("uv", "modern/run", "client")]
    for name in (*named, *locks):
        assert (ROOT / name).is_file()
        assert let_in(name), name
    for room in ROOMS:
        for path in (ROOT / room).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert let_in(path.relative_to(ROOT).as_posix()), path


@pytest.mark.parametrize("file", FILES)
def test_what_is_copied_from_the_source_enters(file):
    for stage in stages(file):
        for name, text in stage.steps:
            if name == "COPY" and not text.startswith("--from=") and text != ". .":
                *sources, _ = text.split()
                assert all(let_in(source) for source in sources), text


@pytest.mark.parametrize(
    "path",
    [
        *(".git/config", ".venv/bin/python", ".env", ".ci/run", "build/sample/metadata.sqlite"),
        *("data/train.tsv", "tests/conftest.py", "docs/tasks.md", "README.md", "Dockerfile"),
        *("requirements/modern/dev.txt", "requirements/classic/run.txt", "requirements/set-up"),
        *("dist/bert_tfx-0.1.0.tar.gz", "bert_tfx.egg-info/PKG-INFO"),
        *("schema/__pycache__/rows.cpython-313.pyc", "pipeline/.secret", "key.pem", "id_rsa"),
        *("other/schema/rows.py", "serving_model/1/saved_model.pb"),
    ],
)
def test_nothing_else_enters_a_build(path):
    assert not let_in(path)


@contextlib.contextmanager
def health_server(status: int):
    """A server with nothing but a health service."""
    handler = grpc.unary_unary_rpc_method_handler(
        lambda request, context: messages.HealthCheckResponse(status=status).SerializeToString()
    )
    server = grpc.server(ThreadPoolExecutor(1))
    service = grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": handler})
    server.add_generic_rpc_handlers((service,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port
    server.stop(None).wait()


@pytest.mark.parametrize(("status", "code"), [(messages.SERVING, 0), (2, 1), (None, 1)])
def test_health_check_tells_whether_the_server_can_answer(status, code):
    check = built("Dockerfile", "server").last("HEALTHCHECK")
    program, option, source = json.loads(check.partition(" CMD ")[2])
    assert (program, option) == ("python", "-c")
    with contextlib.nullcontext(1) if status is None else health_server(status) as port:
        source = source.replace(":8500", f":{port}")
        assert f":{port}" in source
        done = subprocess.run([sys.executable, "-c", source], capture_output=True, timeout=30)
    assert (done.returncode, done.stderr) == (code, b"")


def arguments_of(command: list[str]):
    """What `bert-tfx` understands of a command of a container."""
    assert command[0] == "bert-tfx"
    return cli._parser().parse_args(command[1:])


def test_commands_are_ours():
    server = built("Dockerfile", "server")
    entrypoint = json.loads(server.last("ENTRYPOINT"))
    served = arguments_of(entrypoint + json.loads(server.last("CMD")))
    assert server.last("EXPOSE") == str(served.port)
    services = compose()["services"]
    local = arguments_of(entrypoint + services["local"]["command"])
    run = arguments_of(["bert-tfx", *services["pipeline"]["command"]])
    asked = arguments_of(services["client"]["entrypoint"] + services["client"]["command"])
    assert local.model == f"{run.output}/serving"
    assert f"--model_base_path={local.model}" in services["serving"]["command"]
    assert asked.server == "serving:8500"


def test_services_may_do_nothing_but_their_work():
    services = compose()["services"]
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not service.keys() & {"privileged", "network_mode", "pid", "cap_add"}, name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
    # TensorFlow Serving's image would run as root.
    user = built("Dockerfile", "pipeline").last("USER")
    assert services["serving"]["user"] == user
    assert services["serving"]["volumes"] == services["local"]["volumes"] == ["work:/work:ro"]


def test_published_ports_differ():
    ports = [p for service in compose()["services"].values() for p in service.get("ports", [])]
    assert len(ports) == len({port.split(":")[1] for port in ports}) == 3


def test_a_service_waits_for_what_it_needs():
    services = compose()["services"]
    waits = {
        name: {other: how["condition"] for other, how in service["depends_on"].items()}
        for name, service in services.items()
        if "depends_on" in service
    }
    pushed = {"pipeline": "service_completed_successfully"}
    assert waits == {
        "serving": pushed,
        "local": pushed,
        "client": {"serving": "service_healthy"},
    }
    assert "healthcheck" in services["serving"]
