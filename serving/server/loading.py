"""Loads an exported model for the backend that is to run it."""

from bert_tfx.serving.backends import TENSORFLOW, check_model
from bert_tfx.serving.int8_products import check_export
from bert_tfx.serving.server.saved_model import SavedModel


def load_model(path: str, backend: str = TENSORFLOW) -> SavedModel:
    """Loads an exported model.

    Args:
        path: Its folder.
        backend: What runs it, one of `BACKENDS`.

    Raises:
        InputError: If the backend cannot run it here.
        Exception: Of many kinds, if it cannot be loaded.
    """
    check_model(path, backend)
    if backend == TENSORFLOW:
        check_export(path)
        return SavedModel(path)

    # Where ONNX Runtime is not installed, there is none to import.
    from bert_tfx.serving.server.onnx_model import OnnxModel

    return OnnxModel(path)
