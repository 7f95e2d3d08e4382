"""A SavedModel whose classifier is run by ONNX Runtime.

The text is tokenized by the SavedModel's own graph, as TensorFlow Serving does; only the token ids
go another way from there. Signatures, errors and outputs are the same.
"""

import hashlib
import json
import os
from collections.abc import Mapping

import grpc
import numpy as np
import onnxruntime
from google.protobuf.message import DecodeError
from tensorflow.core.example import example_pb2

from bert_tfx.schema.errors import InputError
from bert_tfx.serving.backends import ONNX_FILE
from bert_tfx.serving.protocol.model_api import CLASSES, LABEL, PROBABILITIES, SERVE_TEXT, TRUNCATED
from bert_tfx.serving.server.inputs import EXAMPLES, text_features
from bert_tfx.serving.server.refused import Refused, invalid
from bert_tfx.serving.server.saved_model import SERVING_DEFAULT, SavedModel

TOKENIZE = "tokenize"
"""The signature of an export in 8 bits that gives the token ids of texts."""

_ABOUT_FILE = os.path.join("assets.extra", "bert_tfx.json")
# As many as the exported graph takes at a time, padding included.
_TOKENS_PER_MICRO_BATCH = 4096


class OnnxModel(SavedModel):
    """A SavedModel that is loaded, and its classifier in ONNX Runtime.

    Args:
        path: Its folder.

    Raises:
        InputError: If the export has no ONNX file, or a damaged one.
        Exception: Of many kinds, if it cannot be loaded.
    """

    def __init__(self, path: str) -> None:
        content, self._labels = _read(path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = len(os.sched_getaffinity(0))
        # Threads that wait for work would take the cores from TensorFlow's, which tokenize.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self._classifier = onnxruntime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"]
        )
        self._inputs = [given.name for given in self._classifier.get_inputs()]
        super().__init__(path)
        if TOKENIZE not in self.signatures:
            self.close()
            raise InputError(f"{path}: has no signature {TOKENIZE!r}: export the model anew")

    def run(self, name: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Computes a signature's outputs. May be called by several threads.

        Raises:
            Refused: If TensorFlow or ONNX Runtime fails.
        """
        if name not in (SERVE_TEXT, SERVING_DEFAULT):
            return super().run(name, inputs)
        if name == SERVING_DEFAULT:
            inputs = _texts(inputs[EXAMPLES], text_features(self.signatures))
        tokens = super().run(TOKENIZE, inputs)
        probabilities = self._probabilities(tokens)
        labels = np.empty(len(self._labels), object)
        labels[:] = [label.encode() for label in self._labels]
        outputs = {
            PROBABILITIES: probabilities,
            LABEL: labels[probabilities.argmax(axis=1)],
            CLASSES: np.tile(labels, (len(probabilities), 1)),
            TRUNCATED: tokens[TRUNCATED],
        }
        return {output: outputs[output] for output in self.signatures[name].outputs}

    def close(self) -> None:
        """Gives back the memory."""
        del self._classifier
        super().close()

    def _probabilities(self, tokens: Mapping[str, np.ndarray]) -> np.ndarray:
        """Runs the classifier in micro-batches, the longest rows first.

        Returns:
            float32 `[B, classes]`, in the order of the rows.
        """
        lengths = tokens["num_tokens"]
        order = np.argsort(-lengths, kind="stable")
        probabilities = np.empty((len(order), len(self._labels)), np.float32)
        start = 0
        while start < len(order):
            width = int(lengths[order[start]])
            chosen = order[start : start + max(1, _TOKENS_PER_MICRO_BATCH // width)]
            mask = np.arange(width) < lengths[chosen, None]
            batch = {"padding_mask": mask.astype(np.int32)}
            for name in self._inputs:
                if name not in batch:
                    # A single text has no segments but the first.
                    known = tokens[name][chosen, :width] if name in tokens else mask * np.int32(0)
                    batch[name] = known
            try:
                (logits,) = self._classifier.run(["logits"], batch)
            except Exception as error:  # ONNX Runtime has a dozen, and no class above them.
                raise Refused(
                    grpc.StatusCode.INTERNAL, f"ONNX Runtime: {str(error).splitlines()[0][:500]}"
                ) from error
            powers = np.exp(logits - logits.max(axis=1, keepdims=True))
            probabilities[chosen] = powers / powers.sum(axis=1, keepdims=True)
            start += len(chosen)
        return probabilities


def _read(path: str) -> tuple[bytes, list[str]]:
    """Returns the ONNX file's content, and the labels.

    Raises:
        InputError: If a file cannot be read or is another than that of the export.
    """
    about_file, onnx_file = (os.path.join(path, name) for name in (_ABOUT_FILE, ONNX_FILE))
    try:
        with open(about_file, encoding="utf-8") as file:
            about = json.load(file)
        labels, expected = list(about["labels"]), about["sha256"]["onnx"]
        with open(onnx_file, "rb") as file:
            content = file.read()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{about_file}, {onnx_file}: cannot be read as an export in 8 bits: {error!r}"
        ) from error
    if hashlib.sha256(content).hexdigest() != expected:
        raise InputError(f"{onnx_file}: is not the file that {about_file} names: export it anew")
    return content, labels


def _texts(examples: np.ndarray, features: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Returns the texts of serialized `tf.Example`s.

    Raises:
        Refused: If one has other features.
    """
    columns = {name: np.empty(len(examples), object) for name in features}
    for row, serialized in enumerate(examples):
        try:
            found = example_pb2.Example.FromString(serialized).features.feature
            for name, column in columns.items():
                (column[row],) = found[name].bytes_list.value
        except (DecodeError, ValueError) as error:
            raise invalid(
                f"{EXAMPLES}[{row}]: expected a tf.Example with one string in each of the features "
                f"{', '.join(map(repr, features))}"
            ) from error
    return columns
