"""The client in environments of its own, with gRPC and each protobuf that it is said to take."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

from bert_tfx.serving.server.process import LOCAL_SERVER

_SPEC = importlib.util.spec_from_file_location(
    "version_changes", pathlib.Path(__file__).parent / "version_changes.py"
)

ASK = """
import asyncio, sys, time, warnings
warnings.simplefilter("error")
begun = time.perf_counter()
from bert_tfx.serving.client import AsyncClient, Client
from bert_tfx.serving.protocol.errors import BadRequest, ModelNotFound
seconds = time.perf_counter() - begun
import google.protobuf

target, texts = sys.argv[1], ["the room was lovely", "客服很傲慢", "", "good " * 200] * 5

def refused(kind, *texts, model="model"):
    with Client(target, model, timeout=30) as client:
        try:
            client.predict(*texts)
        except kind:
            return True

async def ask():
    async with AsyncClient(target, timeout=30) as client:
        answers = await asyncio.gather(*(client.predict([text]) for text in texts))
        return [answer for (answer,) in answers], await client.metadata()

with Client(target, timeout=30, batch_size=3) as client:
    client.wait_until_ready(30)
    answers, streamed = client.predict(texts), list(client.stream(iter(texts)))
    metadata, (status,) = client.metadata(), client.model_status()
    assert client.is_healthy() and status.available
awaited, again = asyncio.run(ask())
assert streamed == answers and again == metadata
assert [answer.label for answer in awaited] == [answer.label for answer in answers]
assert refused(BadRequest, ["a"], ["b"]) and refused(ModelNotFound, ["a"], model="other")
assert not {"tensorflow", "numpy"} & set(sys.modules)
print(google.protobuf.__version__, f"{seconds:.2f}", *(answer.label for answer in answers[:4]))
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory, start_model_server):
    """A server, and what it says of the first four texts."""
    version_changes = importlib.util.module_from_spec(_SPEC)
    _SPEC.loader.exec_module(version_changes)
    from bert_tfx.modeling.export import saved_model

    folder = tmp_path_factory.mktemp("model")
    model = version_changes.make_model(1)
    saved_model.save_for_serving(model, str(folder / "model"))
    version_changes.push(str(folder / "model"), folder / "serving")
    texts = ["the room was lovely", "客服很傲慢", "", "good " * 200]
    best = version_changes.answers_of(model, texts).argmax(axis=1)
    with start_model_server(LOCAL_SERVER, folder / "serving") as server:
        yield server, [version_changes.TASK.labels[index] for index in best]


@pytest.mark.real
@pytest.mark.parametrize("release", ["3.20.3", "4.25", "5.29", "6"])
def test_client_with_each_protobuf(release, served, copy_package, tmp_path):
    package = copy_package(tmp_path)
    python = tmp_path / "environment" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", python.parent.parent], check=True)
    pip = [python, "-m", "pip", "install", "--quiet", "grpcio", f"protobuf=={release}.*"]
    installed = subprocess.run(pip, capture_output=True, text=True)
    if installed.returncode:
        pytest.skip(f"protobuf {release} cannot be installed here: {installed.stderr[-300:]}")
    server, labels = served
    asked = subprocess.run(
        [python, "-c", ASK, server.target],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(package.parent)},
    )
    assert asked.returncode == 0, asked.stderr
    found, seconds, *answers = asked.stdout.split()
    assert found.startswith(release)
    assert float(seconds) < 2
    assert answers == labels
