import os
import subprocess
import sys

import pytest

ASK = """
import sys
import numpy as np
from bert_tfx.schema.errors import InputError
from bert_tfx.serving.server.loading import load_model

path, backend = sys.argv[1:]
try:
    model = load_model(path, backend)
except InputError as error:
    print("refused:", error)
else:
    print("requests:", model.warm_up(path))
"""


@pytest.fixture(scope="module")
def paths(tmp_path_factory, export_model):
    folder = tmp_path_factory.mktemp("exports")
    return {
        storage: str(export_model(folder / storage, storage=storage))
        for storage in ("float32", "int8")
    }


def ask(path, backend, onednn):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ASK, path, backend],
        env=os.environ | {"TF_ENABLE_ONEDNN_OPTS": onednn, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("storage", "backend", "onednn"),
    [
        ("int8", "tensorflow", "1"),
        pytest.param("int8", "onnx", "0", marks=pytest.mark.slow),
        pytest.param("float32", "tensorflow", "0", marks=pytest.mark.slow),
    ],
)
def test_what_is_computed(paths, storage, backend, onednn):
    assert ask(paths[storage], backend, onednn).startswith("requests: ")


def test_tensorflow_without_onednn_is_refused(paths):
    assert ask(paths["int8"], "tensorflow", "0") == (
        f"refused: {paths['int8']}: TensorFlow cannot multiply in 8 bits here, as oneDNN is off: "
        "set TF_ENABLE_ONEDNN_OPTS=1 in the environment, which TensorFlow itself does only on "
        "processors with AVX512-VNNI or AMX, or store the model in another type than int8; "
        "`--backend onnx` of serve and predict does without, where the export holds an ONNX file"
    )
