"""What a model of an exported folder is run by. Plain Python, for the command line."""

import importlib.util
import os
from typing import Final

from bert_tfx.schema.errors import InputError

TENSORFLOW: Final = "tensorflow"
ONNX: Final = "onnx"
BACKENDS: Final = (TENSORFLOW, ONNX)

ONNX_FILE = os.path.join("assets.extra", "int8.onnx")
"""The classifier for ONNX Runtime, in an export in 8 bits."""


def has_onnx(model_path: str) -> bool:
    """Whether ONNX Runtime can run an exported model.

    Args:
        model_path: Its folder, on this machine.
    """
    return os.path.isfile(os.path.join(model_path, ONNX_FILE))


def check_backend(backend: str) -> None:
    """Raises if a backend is not installed.

    Args:
        backend: One of `BACKENDS`.

    Raises:
        InputError: If so.
    """
    if backend == ONNX and importlib.util.find_spec("onnxruntime") is None:
        raise InputError(
            "--backend onnx needs the package onnxruntime, which is not installed: "
            'pip install "bert-tfx[onnx]"'
        )


def check_model(model_path: str, backend: str) -> None:
    """Raises if a backend cannot run a model.

    Args:
        model_path: The model's folder, on this machine.
        backend: One of `BACKENDS`.

    Raises:
        InputError: If the backend is not installed, or the export has nothing for it.
    """
    check_backend(backend)
    if backend == ONNX and not has_onnx(model_path):
        raise InputError(
            f"{model_path}: holds no {ONNX_FILE}, which --backend onnx needs; an export of a model "
            "stored in int8 has it, where the package onnx was installed: "
            'pip install "bert-tfx[onnx]", and export it anew'
        )
