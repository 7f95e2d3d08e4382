"""The images, built and run by podman on stand-ins for the base images, which need no registry.

A base image is a small Debian (debootstrap) with `python` and `pip` in /usr/local, as the image has
that it stands in for; they are a virtual environment of Debian's Python. That of Beam holds a
worker pool in place of Beam's own program. What else is fetched comes from Debian and PyPI.
The variables `DEBIAN_MIRROR`, `PIP_INDEX_URL`, `UV_DEFAULT_INDEX` and `SSL_CERT_FILE` count where
they are set; `BERT_TFX_CONTAINERS` names a folder that is kept, so that a further run is short.
"""

import json
import os
import pathlib
import re
import resource
import shutil
import subprocess
import time
import uuid

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
PYTHON, SUITE = re.search(
    r"^ARG PYTHON_IMAGE=python:(\d+\.\d+)\.\d+-slim-(\w+)", DOCKERFILE, re.M
).groups()
TOOLS = ("buildah", "podman", "runc", "debootstrap")
PACKAGES = "ca-certificates,netbase,python3-venv,tzdata"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
POOL = """#!/bin/sh
exec python -m apache_beam.runners.worker.worker_pool_main --service_port=50000
"""
# As a service of compose.yaml, and with nothing of the network but the loopback address.
SHUT = ("--read-only", "--tmpfs=/tmp:noexec", "--cap-drop=all", "--security-opt=no-new-privileges")
ALONE = ("--network=none", *SHUT)
VERSION = re.search(r'version="([^"]+)"', (ROOT / "setup.py").read_text(encoding="utf-8"))[1]

_WITHOUT_SYSTEMD = ("--cgroup-manager=cgroupfs", "--events-backend=file")

pytestmark = [pytest.mark.real, pytest.mark.timeout(3600)]


class Engine:
    """buildah and podman with a store of their own."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self._store = [f"--root={folder}/store", f"--runroot={folder}/run"]
        (folder / "tmp").mkdir(parents=True, exist_ok=True)
        # Caches of builds lie there, too.
        self._environment = os.environ | {"TMPDIR": str(folder / "tmp")}
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        processes = resource.getrlimit(resource.RLIMIT_NPROC)[1]
        # podman's own limits may be more than the system allows.
        limit = 4096 if processes < 0 else min(processes, 4096)
        self._limits = [f"--ulimit=nofile={hard}:{hard}", f"--ulimit=nproc={limit}:{limit}"]

    def buildah(self, *arguments: object) -> str:
        return self._do("buildah", *arguments).stdout

    def podman(self, *arguments: object, code: int | None = 0) -> str:
        return self._podman(*arguments, code=code).stdout

    def run(self, *arguments: object, code: int = 0) -> str:
        """Runs a container to its end; returns what it wrote to both of its streams."""
        how = ("--rm", "--log-driver=none", "--no-healthcheck", *self._limits)
        done = self._podman("run", *how, *arguments, code=code)
        return done.stdout + done.stderr

    def start(self, name: str, *arguments: object) -> None:
        """Starts a container in the background."""
        how = ("--detach", f"--name={name}", "--log-driver=k8s-file", *self._limits)
        self.podman("run", *how, *arguments)

    def remove(self, name: str) -> None:
        """Ends a container and removes it."""
        self.podman("rm", "--force", "--volumes", name, code=None)

    def logs(self, name: str) -> str:
        """Returns what a container wrote to both of its streams."""
        done = self._podman("logs", name, code=0)
        return done.stdout + done.stderr

    def exit_code(self, name: str) -> int:
        return int(self.podman("inspect", "--format={{.State.ExitCode}}", name))

    def is_healthy(self, name: str) -> bool:
        """Whether the image's health check says so, asked now."""
        return self._podman("healthcheck", "run", name, code=None).returncode == 0

    def has(self, image: str) -> bool:
        return image in self.buildah("images", "--format={{.Name}}:{{.Tag}}").split()

    def _podman(self, *arguments: object, code: int | None) -> subprocess.CompletedProcess:
        return self._do("podman", "--runtime=runc", *_WITHOUT_SYSTEMD, *arguments, code=code)

    def _do(
        self, program: str, *arguments: object, code: int | None = 0
    ) -> subprocess.CompletedProcess:
        command = [program, *self._store, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env=self._environment)
        if code is not None and done.returncode != code:
            said = (done.stdout + done.stderr)[-6000:]
            pytest.fail(f"{' '.join(command)}: ended with {done.returncode}\n{said}")
        return done


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    if os.geteuid():
        pytest.skip("root makes the base images (debootstrap)")
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        pytest.skip(
            f"not installed: {', '.join(missing)} (Debian: apt install {' '.join(missing)})"
        )
    kept = os.environ.get("BERT_TFX_CONTAINERS")
    engine = Engine(pathlib.Path(kept) if kept else tmp_path_factory.mktemp("containers"))
    yield engine
    if not kept:
        engine.podman("system", "reset", "--force", code=None)
        shutil.rmtree(engine.folder, ignore_errors=True)


def bases() -> dict[str, str]:
    """Returns the base images that the Dockerfile names, by what they are."""
    python = re.search("^ARG PYTHON_IMAGE=(.+)", DOCKERFILE, re.MULTILINE)[1]
    beam = re.search("^ARG BEAM_VERSION=(.+)", DOCKERFILE, re.MULTILINE)[1]
    image = re.search(r"^FROM (apache/\w+\.\w+):", DOCKERFILE, re.MULTILINE)[1]
    return {"python": f"docker.io/library/{python}", "beam": f"docker.io/{image}:{beam}"}


@pytest.fixture(scope="module")
def base_images(engine):
    """Stand-ins, under the names of what they stand for."""
    names = bases()
    if not engine.has(names["python"]):
        root = engine.folder / "debian"
        make_debian_with_python(root)
        settings = ["--env=PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "--env=LANG=C.UTF-8"]
        if "SSL_CERT_FILE" in os.environ:
            shutil.copyfile(os.environ["SSL_CERT_FILE"], f"{root}{CERTIFICATES}")
            settings += [f"--env={name}={CERTIFICATES}" for name in ("SSL_CERT_FILE", "PIP_CERT")]
        commit(engine, root, names["python"], *settings)
        shutil.rmtree(root)
    if not engine.has(names["beam"]):
        root = engine.folder / "beam"
        boot = root / "opt" / "apache" / "beam" / "boot"
        boot.parent.mkdir(parents=True)
        boot.write_text(POOL, encoding="utf-8")
        boot.chmod(0o755)
        commit(engine, root, names["beam"])
        shutil.rmtree(root)
    return names


def commit(engine: Engine, root: pathlib.Path, name: str, *settings: str) -> None:
    container = engine.buildah("from", "scratch").strip()
    engine.buildah("add", "--quiet", container, root, "/")
    engine.buildah("config", *settings, container)
    engine.buildah("commit", "--quiet", "--rm", container, name)


def make_debian_with_python(root: pathlib.Path) -> None:
    mirror = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org/debian")
    debootstrap = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}"]
    subprocess.run([*debootstrap, SUITE, root, mirror], check=True, stdout=subprocess.DEVNULL)
    # Debian's own Python lets pip install into virtual environments alone.
    venv = ["chroot", root, f"python{PYTHON}", "-m", "venv", "/usr/local"]
    subprocess.run(venv, check=True, capture_output=True)
    for folder in ("var/cache/apt/archives", "var/lib/apt/lists"):
        shutil.rmtree(root / folder)


def build(engine: Engine, *arguments: object) -> None:
    indexes = [name for name in ("PIP_INDEX_URL", "UV_DEFAULT_INDEX") if name in os.environ]
    engine.buildah(
        *("build", "--layers", "--pull-never", "--isolation=chroot", "--format=docker"),
        *(f"--build-arg={name}={os.environ[name]}" for name in indexes),
        *arguments,
    )


@pytest.fixture(scope="module")
def images(engine, base_images):
    """The images by name, built by their Dockerfiles as they are."""
    names = {}
    for name, arguments in {
        "client": ("--file", ROOT / "Dockerfile.client"),
        "pipeline": ("--target=pipeline",),
        "server": ("--target=server",),
        "beam-worker": ("--target=beam-worker",),
    }.items():
        begun = time.monotonic()
        names[name] = f"bert-tfx-{name}:{VERSION}"
        build(engine, *arguments, "--tag", names[name], ROOT)
        size = engine.podman("image", "inspect", "--format={{.Size}}", names[name])
        seconds = time.monotonic() - begun
        print(f"\n{names[name]}: {int(size) / 1e6:,.0f} MB, built in {seconds:.0f} s")
    return names


def test_context_holds_the_package_alone(engine, tmp_path):
    file = tmp_path / "Dockerfile"
    file.write_text("FROM scratch\nCOPY . /\n", encoding="utf-8")
    build(engine, "--file", file, "--tag=context", ROOT)
    folder = pathlib.Path(engine.podman("image", "mount", "context").strip())
    try:
        top = {path.name for path in folder.iterdir()}
        locks = folder / "requirements"
        requirements = {str(path.relative_to(locks)) for path in locks.rglob("*") if path.is_file()}
        odd = [
            path for path in folder.rglob("*") if path.name.startswith(".") or path.suffix == ".pyc"
        ]
    finally:
        engine.podman("image", "unmount", "context")
    rooms = {"schema", "modeling", "components", "serving", "pipeline", "sample"}
    assert top == rooms | {"LICENSE", "pyproject.toml", "setup.py", "requirements"}
    assert requirements == {"client.txt", "modern/run.txt", "uv.txt"}
    assert not odd


@pytest.mark.parametrize("name", ["client", "pipeline", "server", "beam-worker"])
def test_image_holds_no_tools_and_no_root(engine, images, name):
    script = """
        id -u; id -g
        for tool in gcc cc g++ make ld pip pip3 uv git curl; do command -v $tool; done
        ls -d /source /wheel /root/.cache
        python -m pip --version
        python -c 'import bert_tfx.serving as s; print(s.__file__)'
        for folder in /opt/bert-tfx /etc /; do touch $folder/x && echo writes to $folder; done
        find / -xdev -user 10001 -not -path '/proc/*' -not -path '/home/*' -not -path '/work*'
        find / -xdev \\( -name '*.pem' -o -name '.netrc' -o -name 'pip.conf' -o -name '.git' \\) \
            -path '/opt/*'  -not -path '*/certifi/*' -not -path '*/grpc/_cython/*'
    """
    said = engine.run("--entrypoint=sh", images[name], "-c", f"({script}) 2>/dev/null; true")
    assert said.split() == [
        "10001",
        "10001",
        f"/opt/bert-tfx/lib/python{PYTHON}/site-packages/bert_tfx/serving/__init__.py",
    ]
    (settings,) = json.loads(engine.podman("image", "inspect", images[name]))
    assert settings["Config"]["User"] == "10001:10001"
    shown = json.dumps([settings["Config"], settings["History"]])
    assert not re.search(r"(?i)token|password|secret|index_url=|default_index=", shown)


def test_client_holds_no_tensorflow(engine, images):
    heavy = ["tensorflow", "tfx", "apache_beam", "numpy", "keras"]
    script = f"import importlib.util as i; print([n for n in {heavy} if i.find_spec(n)])"
    said = engine.run("--entrypoint=python", images["client"], "-c", script)
    assert said.strip() == "[]"


@pytest.fixture(scope="module")
def pushed(engine, images):
    """The volume of a pipeline that was stopped while it trained, and started again."""
    volume = f"work-{uuid.uuid4().hex[:8]}"
    command = ["run", "--task=sample", "--output=sample"]
    where = [*ALONE, f"--volume={volume}:/work", images["pipeline"], *command]
    engine.start("stopped", *where)
    try:
        wait_for(lambda: "epoch 1/5: loss" in engine.logs("stopped"), 400)
        engine.podman("stop", "--time=60", "stopped")
        assert engine.exit_code("stopped") == 130, engine.logs("stopped")[-3000:]
        assert "stopped; the same command goes on where it was" in engine.logs("stopped")
    finally:
        engine.remove("stopped")
    begun = time.monotonic()
    said = engine.run(*where)
    print(f"\nthe pipeline, gone on with: {time.monotonic() - begun:.0f} s\n{said[-2500:]}")
    assert "Promoted" in said
    assert "epoch 1/5: loss" not in said
    yield volume
    engine.podman("volume", "rm", "--force", volume, code=None)


def wait_for(condition, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.5)


def test_help_answers(engine, images):
    assert "COMMAND" in engine.run(*ALONE, images["pipeline"])
    assert "--server" in engine.run(*ALONE, images["client"])


def test_any_user_may_run_it(engine, images):
    # As Kubernetes and OpenShift do: a number that has no name in the image.
    who = ("--user=12345:12345", "--passwd=false", "--tmpfs=/out:mode=1777")
    command = ("component", "run", "--node=TsvExampleGen", "--task=sample", "--output=/out/sample")
    said = engine.run(*ALONE, *who, images["pipeline"], *command)
    assert "TsvExampleGen ..." in said


def test_server_is_healthy_answers_and_ends(engine, images, pushed):
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    probe = compose["services"]["serving"]["healthcheck"]["test"][1:]
    where = [*ALONE, f"--volume={pushed}:/work:ro", images["server"]]
    engine.start("server", *where, "--model=/work/sample/serving")
    try:
        assert not engine.is_healthy("server")
        wait_for(lambda: engine.is_healthy("server"), 180)
        engine.podman("exec", "server", *probe)
        beside = ["--network=container:server", *SHUT, images["client"]]
        answer = engine.run(*beside, "--server=127.0.0.1:8500", "The staff were rude.").strip()
        assert re.fullmatch(r"0\t0\.\d{6}", answer)
        engine.run(*beside, "--server=127.0.0.1:1", "--timeout=2", "rude", code=4)
        begun = time.monotonic()
        engine.podman("stop", "--time=40", "server")
        print(f"\nanswered: {answer}; the server ended in {time.monotonic() - begun:.1f} s")
        assert engine.exit_code("server") == 0
        assert "requests under way are answered" in engine.logs("server")
    finally:
        engine.remove("server")


JOB = """
import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.local_job_service import LocalJobServicer
from apache_beam.testing.util import assert_that, equal_to

def tokens(text):
    import os
    from bert_tfx.modeling.text.tokenization import WordPieceTokenizer
    from bert_tfx.sample import __file__ as sample
    vocab = os.path.join(os.path.dirname(sample), "vocab.txt")
    tokenizer = WordPieceTokenizer(vocab, lowercase=True)
    return os.environ.get("POOL"), len(tokenizer.tokenize([text])[0]) > 3

server = LocalJobServicer(staging_dir="/tmp/staging")
port = server.start_grpc_server()
options = PipelineOptions([
    "--runner=PortableRunner", f"--job_endpoint=localhost:{port}", "--environment_type=EXTERNAL",
    "--environment_config=localhost:50000", "--sdk_container_image=unused",
])
with beam.Pipeline(options=options) as pipeline:
    counted = pipeline | beam.Create(["The staff were rude.", "房间很干净"]) | beam.Map(tokens)
    assert_that(counted, equal_to([("here", True)] * 2))
print("the workers have answered")
"""


def test_beam_worker_computes(engine, images):
    engine.start("pool", *ALONE, "--env=POOL=here", images["beam-worker"])
    try:
        beside = ["--network=container:pool", *SHUT, "--entrypoint=python", images["pipeline"]]
        said = engine.run(*beside, "-c", JOB)
        assert "the workers have answered" in said
    finally:
        print(engine.logs("pool")[-1500:])
        engine.remove("pool")
