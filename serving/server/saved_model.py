"""A SavedModel as TensorFlow Serving runs it: a graph in a session, its signatures by name.

A session, unlike `tf.saved_model.load`, gives back all of its memory when it is closed, and a
server that takes new versions for weeks has to. Nothing is traced: a request finds what was saved.
"""

import functools
import gc
import glob
import importlib.util
import logging
import os
from collections.abc import Callable, Iterator, Mapping

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.example import example_pb2
from tensorflow.core.protobuf import meta_graph_pb2, rewriter_config_pb2
from tensorflow_serving.apis import prediction_log_pb2

from bert_tfx.serving.protocol.model_api import SERVE_TEXT, Signature, TensorSpec
from bert_tfx.serving.server.inputs import (
    EXAMPLES,
    check_names,
    count_rows,
    takes_rows,
    text_features,
)
from bert_tfx.serving.server.refused import Refused, invalid
from bert_tfx.serving.server.tensors import read_tensor, type_name

SERVING_DEFAULT = "serving_default"
_INIT_SIGNATURE = "__saved_model_init_op"
_WARM_UP_FILE = os.path.join("assets.extra", "tf_serving_warmup_requests")
_MAX_WARM_UP_REQUESTS = 1000
# Short and long, Latin and Chinese: what a tokenizer and its model do differently.
_WARM_UP_TEXTS = ("good", "房间很干净，服务很周到。", "The staff were rude. " * 12)
_WARM_UP_BATCHES = (1, 8)

_logger = logging.getLogger(__name__)


@functools.cache
def register_text_ops() -> None:
    """Registers TF-Text's ops, which tokenizers in graphs are made of.

    `import tensorflow_text` does the same, and imports Keras as well.
    """
    spec = importlib.util.find_spec("tensorflow_text")
    for folder in (spec and spec.submodule_search_locations) or ():
        for library in sorted(glob.glob(os.path.join(folder, "python", "ops", "_*.so"))):
            tf.load_op_library(library)


class SavedModel:
    """A SavedModel that is loaded.

    Args:
        path: Its folder.

    Attributes:
        signature_defs: The signatures as they are saved, by name.
        signatures: What they take and give, by name; those that can be asked.

    Raises:
        Exception: Of many kinds, if it cannot be loaded.
    """

    def __init__(self, path: str) -> None:
        register_text_ops()
        config = tf.compat.v1.ConfigProto(allow_soft_placement=True)
        # Two versions are in memory while one follows the other.
        config.gpu_options.allow_growth = True
        # It estimates costs, and logs a warning for each operation whose shape it does not know.
        config.graph_options.rewrite_options.memory_optimization = (
            rewriter_config_pb2.RewriterConfig.NO_MEM_OPT
        )
        self._functions: dict[str, Callable[..., list[np.ndarray]]] = {}
        self._session = tf.compat.v1.Session(graph=tf.Graph(), config=config)
        try:
            meta_graph = tf.compat.v1.saved_model.loader.load(
                self._session, [tf.saved_model.SERVING], path
            )
        except BaseException:
            self.close()
            raise
        self.signature_defs: Mapping[str, meta_graph_pb2.SignatureDef] = dict(
            meta_graph.signature_def
        )
        self.signatures = {
            name: Signature(_specs(signature.inputs), _specs(signature.outputs))
            for name, signature in self.signature_defs.items()
            if name != _INIT_SIGNATURE and _is_of_tensors(signature)
        }
        for name in self.signatures:
            self._functions[name] = self._function(name)

    def _function(self, name: str) -> Callable[..., list[np.ndarray]]:
        signature = self.signature_defs[name]
        specs = self.signatures[name]
        return self._session.make_callable(
            [signature.outputs[output].name for output in specs.outputs],
            feed_list=[signature.inputs[alias].name for alias in specs.inputs],
        )

    def joins_rows(self, name: str) -> bool:
        """Whether a signature maps rows to rows, so that requests can be joined."""
        signature = self.signatures[name]
        return takes_rows(signature.inputs) and takes_rows(signature.outputs)

    def run(self, name: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Computes a signature's outputs. May be called by several threads.

        Raises:
            Refused: If the graph fails.
        """
        signature = self.signatures[name]
        try:
            outputs = self._functions[name](*(inputs[alias] for alias in signature.inputs))
        except tf.errors.OpError as error:
            code = _STATUS.get(error.error_code, grpc.StatusCode.INTERNAL)
            raise Refused(code, _told(error)) from error
        except UnicodeDecodeError as error:
            # The graph's own message quotes the input, and cannot be read for that.
            raise invalid("the model refuses an input that is not UTF-8") from error
        return dict(zip(signature.outputs, map(np.asarray, outputs), strict=True))

    def close(self) -> None:
        """Gives back the memory."""
        self._functions.clear()
        self._session.close()
        del self._session
        # Sessions and graphs refer to each other in circles, and what they hold is large.
        gc.collect()

    def warm_up(self, path: str) -> int:
        """Asks the model before anybody else does, so that the first answer is no slow one.

        With the requests in `assets.extra/tf_serving_warmup_requests`, or a few made up. Having
        been loaded is no proof that a model can answer.

        Args:
            path: The SavedModel's folder.

        Returns:
            How many requests it was asked.

        Raises:
            Refused: If it refuses one of them.
            tf.errors.OpError: If the file is damaged.
        """
        file = os.path.join(path, _WARM_UP_FILE)
        requests = self._recorded(file) if os.path.exists(file) else self._made_up()
        asked = 0
        for name, inputs in requests:
            try:
                self.run(name, inputs)
            except Refused as refused:
                raise Refused(
                    refused.code, f"warm-up request of {name!r} failed: {refused}"
                ) from refused
            asked += 1
        return asked

    def _recorded(self, file: str) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        dataset = tf.data.TFRecordDataset(file).take(_MAX_WARM_UP_REQUESTS)
        for record in dataset.as_numpy_iterator():
            log = prediction_log_pb2.PredictionLog.FromString(record)
            if log.WhichOneof("log_type") != "predict_log":
                _logger.warning("%s: only requests of Predict are used", file)
                continue
            request = log.predict_log.request
            name = request.model_spec.signature_name or SERVING_DEFAULT
            yield name, self.read_inputs(name, request.inputs)

    def read_inputs(
        self, name: str, tensors: Mapping[str, "tf.core.framework.TensorProto"]
    ) -> dict[str, np.ndarray]:
        """Returns the inputs of a request, checked.

        Raises:
            Refused: If there is no such signature, or the inputs are not what it takes.
        """
        signature = self.signature(name)
        check_names(tensors, signature, name)
        inputs = {}
        for alias, spec in signature.inputs.items():
            try:
                inputs[alias] = read_tensor(tensors[alias], spec)
            except ValueError as error:
                raise invalid(f"input {alias!r} of signature {name!r}: {error}") from error
        count_rows(inputs, signature)
        return inputs

    def signature(self, name: str) -> Signature:
        """Returns a signature.

        Raises:
            Refused: If there is none of that name.
        """
        if name not in self.signatures:
            known = ", ".join(map(repr, sorted(self.signatures))) or "none"
            raise invalid(f"there is no signature {name[:100]!r}; the model has: {known}")
        return self.signatures[name]

    def _made_up(self) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        texts = text_features(self.signatures)
        if not texts:
            _logger.info("no warm-up: there is no %s, and no file of requests", SERVE_TEXT)
            return
        for rows in _WARM_UP_BATCHES:
            column = np.empty(rows, object)
            column[:] = [_WARM_UP_TEXTS[row % 3].encode() for row in range(rows)]
            yield SERVE_TEXT, dict.fromkeys(self.signatures[SERVE_TEXT].inputs, column)
            default = self.signatures.get(SERVING_DEFAULT)
            if default is not None and set(default.inputs) == {EXAMPLES}:
                examples = np.empty(rows, object)
                examples[:] = [_example(dict.fromkeys(texts, text)) for text in column]
                yield SERVING_DEFAULT, {EXAMPLES: examples}


_STATUS = {code.value[0]: code for code in grpc.StatusCode if code is not grpc.StatusCode.UNKNOWN}


def _told(error: tf.errors.OpError) -> str:
    """Returns an error's message without the nodes of the graph."""
    lines = str(error.message).partition("[[")[0].strip().splitlines()
    return lines[-1].strip()[:500] if lines else type(error).__name__


def _is_of_tensors(signature: meta_graph_pb2.SignatureDef) -> bool:
    infos = [*signature.inputs.values(), *signature.outputs.values()]
    return all(info.WhichOneof("encoding") == "name" for info in infos)


def _specs(infos: Mapping[str, meta_graph_pb2.TensorInfo]) -> dict[str, TensorSpec]:
    specs = {}
    for name, info in sorted(infos.items()):
        shape = None
        if not info.tensor_shape.unknown_rank:
            shape = tuple(d.size if d.size >= 0 else None for d in info.tensor_shape.dim)
        specs[name] = TensorSpec(type_name(info.dtype), shape)
    return specs


def _example(texts: Mapping[str, bytes]) -> bytes:
    example = example_pb2.Example()
    for name, text in texts.items():
        example.features.feature[name].bytes_list.value.append(text)
    return example.SerializeToString()
