"""The served model: raw text in, class probabilities and label names out.

Text goes through the very graph that made the training data, then through the model in
micro-batches of like length, so that neither a batch of a thousand long rows (TFMA's Beam batches)
nor one long row among short ones costs what padding all of them would.

Beside the graph lies what a model server and its operators need: requests to warm it up, a
description, batching parameters.
"""

import contextlib
import json
import logging
import os
import pathlib
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_text as tf_text
from tensorflow.core.protobuf import saved_model_pb2

from bert_tfx.modeling.checkpoints.variable_names import SEED_STATE, assign_by_name, by_name
from bert_tfx.modeling.encoders.classifier import TextClassifier
from bert_tfx.modeling.export.bfloat16 import Bfloat16Computation
from bert_tfx.modeling.export.int8 import Int8Computation
from bert_tfx.modeling.export.onnx_export import is_onnx_installed, to_onnx
from bert_tfx.modeling.export.storages import BFLOAT16_COMPUTE, FLOAT32, INT8
from bert_tfx.modeling.export.teacher_files import find_teacher
from bert_tfx.modeling.export.trained_model import TrainedModel, library_versions
from bert_tfx.modeling.export.weight_storage import WidenedVariable, is_stored_narrow
from bert_tfx.modeling.text.features import NUM_TOKENS, NUM_TRUNCATED, SEGMENT_IDS, TOKEN_IDS
from bert_tfx.schema.digests import sha256_of
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.tasks import TEXT_A, TEXT_B, Task

_logger = logging.getLogger(__name__)

SERVING_DEFAULT = "serving_default"
SERVE_TEXT = "serve_text"
SLICE_FEATURES = "slice_features"
TOKENIZE = "tokenize"

EXTRA_DIR = "assets.extra"
"""Where TF Serving looks for what is not part of the graph."""
WARMUP_FILE = "tf_serving_warmup_requests"
ABOUT_FILE = "bert_tfx.json"
ONNX_FILE = "int8.onnx"
"""The classifier for ONNX Runtime, of models stored in 8 bits."""
BATCHING_FILE = "batching_params.pbtxt"
"""Lies in the SavedModel's own folder; counts with --enable_per_model_batching_parameters."""

_COMPUTATIONS: Mapping[str, type[Int8Computation] | type[Bfloat16Computation]] = {
    INT8: Int8Computation,
    BFLOAT16_COMPUTE: Bfloat16Computation,
}
_CONFIG_ASSET = "config.json"

LENGTH_BUCKET = "length_bucket"
TRUNCATED = "truncated"

# Tokens a micro-batch at most, padding included: 8 rows of 512 or 128 rows of 32. The activations
# of BERT-base stay under half a gigabyte and the matrix products are still large.
_TOKENS_PER_MICRO_BATCH = 4096

_BUCKET_BOUNDS = (16, 32, 64, 128, 256)
_BUCKET_NAMES = ("000-015", "016-031", "032-063", "064-127", "128-255", "256-")


class ServedClassifier(tf.Module):
    """A transform graph and a classifier behind the signatures that TF Serving calls.

    Args:
        classifier: Called with a dict of `token_ids`, `segment_ids`, `padding_mask`, int32
            `[B, T]`; returns logits, float32 `[B, classes]`.
        transform: The transform graph: maps a dict of string `[B]` features to a dict with ragged
            `token_ids` (`text_features` says what else).
        labels: The label of each class index.
        is_pair: Whether rows hold two texts.
        storage: What the matrices are held in, one of `storages.STORAGES`.
    """

    def __init__(
        self,
        classifier: keras.Model,
        transform: Callable[[Mapping[str, tf.Tensor]], Mapping[str, tf.Tensor]],
        *,
        labels: Sequence[str],
        is_pair: bool,
        storage: str = FLOAT32,
    ) -> None:
        super().__init__()
        # Not as an attribute that tf.Module tracks: Keras would put a copy of each variable into
        # the saved graph, and restore the copies alone. TensorFlow's own loader sees through that,
        # TF Serving does not, and answers that it could not find the variable.
        object.__setattr__(self, "classifier", classifier)
        # Trackable dicts: their keys, the weights' names, become those of the checkpoint.
        self._variables: dict[str, tf.Variable] = {}
        self._widened: dict[str, WidenedVariable] = {}
        self._computation: Int8Computation | Bfloat16Computation | None = None
        if storage in _COMPUTATIONS:
            self._computation = _COMPUTATIONS[storage](classifier)
        for name, weight in self._weights().items():
            if self._computation is not None:
                self._variables[name] = self._computation.matrices.get(name, weight.value)
            elif storage == FLOAT32 or not is_stored_narrow(weight):
                self._variables[name] = weight.value
            else:
                narrow = tf.Variable(tf.cast(weight.value, storage), trainable=False)
                self._variables[name] = narrow
                self._widened[name] = WidenedVariable(narrow)
        if isinstance(self._computation, Int8Computation):
            self._scales = self._computation.scales
            self._sums = self._computation.sums
        self.transform = transform
        self._labels = list(labels)
        self._text_features = (TEXT_A, TEXT_B) if is_pair else (TEXT_A,)

    def save(self, directory: str) -> None:
        """Writes the SavedModel with its signatures.

        `serving_default` takes `examples` (string `[B]`, serialized `tf.Example`), `serve_text`
        takes `text_a` and, for pairs, `text_b` (string `[B]`). Both return `probabilities` (float32
        `[B, classes]`), `label` (string `[B]`), `classes` (string `[B, classes]`) and `truncated`
        (bool `[B]`: whether a text was longer than the model reads). A text that is not UTF-8 is an
        InvalidArgumentError.
        `slice_features` takes `examples` and returns what evaluations slice by: `length_bucket`
        and `truncated` (string `[B]`).
        In 8 bits there is `tokenize`, too, for whoever runs the classifier by itself: it takes
        what `serve_text` takes and returns `token_ids` and, for pairs, `segment_ids` (int32
        `[B, T]`, 0 where a row is shorter than the longest), `num_tokens` (int64 `[B]`) and
        `truncated` (bool `[B]`).

        Args:
            directory: Where the SavedModel goes.
        """
        with tempfile.TemporaryDirectory() as folder:
            labels_file = os.path.join(folder, "labels.txt")
            config_file = os.path.join(folder, _CONFIG_ASSET)
            with open(labels_file, "w", encoding="utf-8") as file:
                file.writelines(f"{label}\n" for label in self._labels)
            with open(config_file, "w", encoding="utf-8") as file:
                json.dump(self.classifier.get_config(), file)
            # Whoever has the SavedModel alone can tell what it is, and make it again.
            self.label_asset = tf.saved_model.Asset(labels_file)
            self.config_asset = tf.saved_model.Asset(config_file)
            tf.saved_model.save(self, directory, signatures=self._signatures())

    def _weights(self) -> dict[str, keras.Variable]:
        return by_name(self.classifier.weights, self.classifier)

    def _signatures(self) -> dict[str, Callable[..., Any]]:
        """Makes what `save` says; tokenizer and model are traced, and stand in the graph, once."""
        examples = tf.TensorSpec([None], tf.string, name="examples")
        texts = {name: tf.TensorSpec([None], tf.string, name=name) for name in self._text_features}
        features_of = _concrete(lambda **texts: self.transform(_checked(texts)), **texts)
        ids = [name for name in (TOKEN_IDS, SEGMENT_IDS) if name in features_of.structured_outputs]
        classify = _concrete(
            self._probabilities, {name: features_of.structured_outputs[name] for name in ids}
        )

        def serve_text(**texts: tf.Tensor) -> dict[str, tf.Tensor]:
            features = features_of(**texts)
            probabilities = classify({name: features[name] for name in ids})
            labels = tf.constant(self._labels)
            return {
                "probabilities": probabilities,
                "label": tf.gather(labels, tf.argmax(probabilities, axis=1)),
                "classes": tf.repeat(labels[None, :], tf.shape(probabilities)[0], axis=0),
                TRUNCATED: features[NUM_TRUNCATED] > 0,
            }

        def tokenize(**texts: tf.Tensor) -> dict[str, tf.Tensor]:
            features = features_of(**texts)
            return {
                **{name: tf.cast(features[name].to_tensor(), tf.int32) for name in ids},
                NUM_TOKENS: features[TOKEN_IDS].row_lengths(),
                TRUNCATED: features[NUM_TRUNCATED] > 0,
            }

        def slice_features(**texts: tf.Tensor) -> dict[str, tf.Tensor]:
            features = features_of(**texts)
            bucket = tf.searchsorted(
                tf.constant(_BUCKET_BOUNDS, tf.int64), features[NUM_TOKENS], side="right"
            )
            return {
                LENGTH_BUCKET: tf.gather(tf.constant(_BUCKET_NAMES), bucket),
                TRUNCATED: tf.where(features[NUM_TRUNCATED] > 0, "yes", "no"),
            }

        serve = _concrete(serve_text, **texts)
        signatures = {
            SERVING_DEFAULT: _concrete(lambda examples: serve(**self._parse(examples)), examples),
            SERVE_TEXT: serve,
            SLICE_FEATURES: _concrete(
                lambda examples: slice_features(**self._parse(examples)), examples
            ),
        }
        if isinstance(self._computation, Int8Computation):
            signatures[TOKENIZE] = _concrete(tokenize, **texts)
        return signatures

    def _parse(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        spec = {name: tf.io.FixedLenFeature([], tf.string) for name in self._text_features}
        return tf.io.parse_example(examples, spec)

    def _probabilities(self, features: Mapping[str, tf.RaggedTensor]) -> tf.Tensor:
        """Runs the classifier in micro-batches, the longest rows first.

        Args:
            features: `token_ids` and, unless all are 0, `segment_ids`, int64 `[B, (T)]`.

        Returns:
            float32 `[B, classes]`, in the order of the rows.
        """
        token_ids, segment_ids = features[TOKEN_IDS], features.get(SEGMENT_IDS)
        weights = self._weights()
        scope = keras.StatelessScope(
            [(weights[name], widened.read()) for name, widened in self._widened.items()]
        )
        lengths = token_ids.row_lengths()
        order = tf.argsort(lengths, direction="DESCENDING", stable=True)
        rows = tf.size(order)

        def micro_batch(start: tf.Tensor, done: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            width = tf.cast(lengths[order[start]], tf.int32)
            end = tf.minimum(rows, start + tf.maximum(1, _TOKENS_PER_MICRO_BATCH // width))
            chosen = order[start:end]
            ids = tf.cast(tf.gather(token_ids, chosen).to_tensor(), tf.int32)
            segments = (
                tf.zeros_like(ids)
                if segment_ids is None
                else tf.cast(tf.gather(segment_ids, chosen).to_tensor(), tf.int32)
            )
            mask = tf.sequence_mask(tf.gather(lengths, chosen), width, tf.int32)
            computing = self._computation.computing if self._computation else contextlib.nullcontext
            with scope, computing():
                logits = self.classifier(
                    {"token_ids": ids, "segment_ids": segments, "padding_mask": mask},
                    training=False,
                )
            return end, tf.concat([done, tf.nn.softmax(logits)], axis=0)

        classes = len(self._labels)
        _, sorted_probabilities = tf.while_loop(
            lambda start, done: start < rows,
            micro_batch,
            (tf.constant(0), tf.zeros([0, classes])),
            shape_invariants=(tf.TensorShape([]), tf.TensorShape([None, classes])),
            parallel_iterations=1,
        )
        return tf.gather(sorted_probabilities, tf.argsort(order))


def _concrete(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Traces a function for arguments of the given specs."""
    return tf.function(function).get_concrete_function(*args, **kwargs)


def _checked(texts: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Returns texts that are there only where all are UTF-8."""
    with tf.control_dependencies(_utf8_checks(texts)):
        return {name: tf.identity(values) for name, values in texts.items()}


def _utf8_checks(texts: Mapping[str, tf.Tensor]) -> list[tf.Operation]:
    """Makes ops that fail where texts are not UTF-8, naming the rows."""
    checks = []
    for name, values in texts.items():
        repaired = tf.strings.unicode_transcode(values, "UTF-8", "UTF-8", errors="replace")
        rows = tf.where(repaired != values)[:, 0]
        checks.append(
            tf.debugging.Assert(tf.size(rows) == 0, [f"{name} is not UTF-8 in rows", rows])
        )
    return checks


# Invented, of several lengths, in the languages of the published tasks.
_WARMUP_TEXTS = (
    "好",
    "The staff were kind and the room was spotless.",
    "房间很干净，服务也很周到，下次还会再来。",
    "What a waste of an evening: the plot goes nowhere, the jokes fall flat, and the ending, which "
    "the film takes two hours to reach, was plain from the first scene.",
    "快递很慢，包装破了，打电话给客服也没有人接，等了三天才有人回复，说要自己承担运费，再也不会在这家店买东西了。",
)
_WARMUP_BATCHES = (1, 8, 32)


def save_for_serving(
    model: TrainedModel,
    directory: str,
    transform: Callable[[Mapping[str, tf.Tensor]], Mapping[str, tf.Tensor]] | None = None,
) -> None:
    """Writes a trained model as TF Serving loads it: SavedModel, warm-up, description.

    Args:
        model: What to serve.
        directory: Where; see `ServedClassifier.save`. `batching_params.pbtxt` and, in
            `assets.extra`, the warm-up requests, `bert_tfx.json` and, in 8 bits where the package
            onnx is installed, `int8.onnx` are added.
        transform: The transform graph, where it is not the model's own.

    Raises:
        RuntimeError: If the graph has an op that TF Serving does not link.
    """
    task = model.task
    ServedClassifier(
        model.classifier,
        transform or model.transform(),
        labels=task.labels,
        is_pair=task.is_pair,
        storage=model.storage,
    ).save(directory)
    if foreign := served_ops(directory)["other"]:
        raise RuntimeError(
            f"{directory}: TF Serving has no op {', '.join(sorted(foreign))}: neither TensorFlow's "
            "core nor TF-Text"
        )
    extra = os.path.join(directory, EXTRA_DIR)
    os.makedirs(extra, exist_ok=True)
    with tf.io.TFRecordWriter(os.path.join(extra, WARMUP_FILE)) as writer:
        for request in _warmup_requests(task.text_features):
            writer.write(request)
    about: dict[str, Any] = {
        "task": task.name,
        "labels": task.labels,
        "text_features": task.text_features,
        "max_length": model.max_length,
        "lowercase": model.lowercase,
        "weights": shapes_of(model.classifier),
        "storage": model.storage,
        "training": model.training,
        "versions": library_versions(),
        "sha256": {
            "vocabulary": sha256_of(model.vocab_file),
            "graph": sha256_of(os.path.join(directory, "saved_model.pb")),
            "weights": sha256_of(
                os.path.join(directory, "variables", "variables.data-00000-of-00001")
            ),
        },
    }
    if model.storage == INT8:
        if is_onnx_installed():
            file_name = os.path.join(extra, ONNX_FILE)
            with open(file_name, "wb") as onnx_file:
                onnx_file.write(to_onnx(model.classifier, int8=True))
            about["sha256"]["onnx"] = sha256_of(file_name)
        else:
            _logger.info("without %s: the package onnx is not installed", ONNX_FILE)
    with open(os.path.join(extra, ABOUT_FILE), "w", encoding="utf-8") as file:
        json.dump(about, file, ensure_ascii=False, indent=1)
    with open(os.path.join(directory, BATCHING_FILE), "w", encoding="utf-8") as file:
        file.write(_BATCHING_PARAMETERS)


def shapes_of(classifier: TextClassifier) -> dict[str, list[int]]:
    """Returns the shape of each weight by its path."""
    return {weight.path: list(weight.shape) for weight in classifier.weights}


def about_exported(directory: str) -> dict[str, Any]:
    """Reads what `save_for_serving` says of a model.

    Args:
        directory: The SavedModel.

    Raises:
        InputError: If it is not there or is of a version that did not say it.
    """
    path = os.path.join(directory, EXTRA_DIR, ABOUT_FILE)
    try:
        with open(path, encoding="utf-8") as file:
            about = json.load(file)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}; it comes with an export") from error
    if missing := {"lowercase", "weights", "sha256", "max_length", "training"} - about.keys():
        raise InputError(
            f"{path}: does not say {', '.join(sorted(missing))}: export the model anew"
        )
    return about


def load_exported_classifier(directory: str) -> TextClassifier:
    """Reads the classifier back that `save_for_serving` wrote.

    Args:
        directory: The SavedModel.

    Returns:
        The classifier, in float32.

    Raises:
        InputError: If the SavedModel is not one of this project's, is damaged, or holds other
            weights than the classifier that it describes has in this release.
    """
    config_file = os.path.join(directory, "assets", _CONFIG_ASSET)
    try:
        with open(config_file, encoding="utf-8") as file:
            classifier = TextClassifier.from_config(json.load(file))
        values = _stored_weights(directory, classifier)
    except (OSError, ValueError, KeyError, TypeError, tf.errors.OpError) as error:
        raise InputError(
            f"{directory}: cannot be read as an exported classifier: {error}"
        ) from error
    assign_by_name(
        by_name(classifier.weights, classifier),
        values,
        source=directory,
        remedy="Read it with the release that exported it, or export the model anew",
    )
    return classifier


# The keys of a `ServedClassifier`'s checkpoint, in which TensorFlow writes .S for a slash and two
# dots for one.
_STORED = re.compile(r"(_variables|_scales)/([^/]+)/\.ATTRIBUTES/VARIABLE_VALUE")
_UNESCAPED = {".S": "/", "..": "."}


def _stored_weights(directory: str, classifier: TextClassifier) -> dict[str, np.ndarray]:
    """Reads what an export holds of its classifier's weights, float32, by their names."""
    reader = tf.train.load_checkpoint(os.path.join(directory, "variables", "variables"))
    stored: dict[str, dict[str, np.ndarray]] = {"_variables": {}, "_scales": {}}
    for key in reader.get_variable_to_shape_map():
        if match := _STORED.fullmatch(key):
            name = re.sub(r"\.[.S]", lambda escape: _UNESCAPED[escape[0]], match[2])
            stored[match[1]][name] = reader.get_tensor(key)
    values = {name: value.astype(np.float32) for name, value in stored["_variables"].items()}
    for name, value in stored["_variables"].items():
        if value.dtype == np.int8:
            values[name] *= stored["_scales"][name]
    if "0" not in values:
        return values
    # 0.1 stored variables by their position, random states among them. To be deleted with 0.3.
    names = {str(i): name for i, name in enumerate(by_name(classifier.variables, classifier))}
    by_position = {names.get(number, number): value for number, value in values.items()}
    return {k: v for k, v in by_position.items() if not k.endswith(f"/{SEED_STATE}")}


def load_exported_model(directory: str, task: Task, eval_fraction: float) -> TrainedModel:
    """Reads a model back that `save_for_serving` wrote.

    Args:
        directory: The SavedModel.
        task: What its rows and labels mean; the SavedModel says its name, labels and texts only.
        eval_fraction: Share of the rows that was held out, where there was no eval file.

    Returns:
        The model, in float32; its vocabulary is the SavedModel's own file. Of one that is stored
        in 16 bits it has the rounded weights, and the same storage.

    Raises:
        InputError: If the SavedModel is not one of this project's, is damaged, or does not answer
            the task.
    """
    about = about_exported(directory)
    files = find_teacher(directory)
    for name, ours, theirs in (
        ("labels", list(files.labels), list(task.labels)),
        ("text_features", list(files.text_features), list(task.text_features)),
    ):
        if ours != theirs:
            raise InputError(f"{directory}: its {name} are {ours}, those of {task.name} {theirs}")
    return TrainedModel(
        classifier=load_exported_classifier(directory),
        task=task,
        vocab_file=files.vocab_file,
        lowercase=files.lowercase,
        max_length=about["max_length"],
        eval_fraction=eval_fraction,
        training=about["training"],
        # Models of before there was a choice do not say it.
        storage=about.get("storage", FLOAT32),
    )


# The graph works off batches of any size in parts, so that no sizes need be allowed. A pause of one
# millisecond costs a lone request little, and joins those that come together.
_BATCHING_PARAMETERS = """max_batch_size { value: 64 }
batch_timeout_micros { value: 1000 }
max_enqueued_batches { value: 100 }
"""


# They call back into the Python process that made the graph.
_PYTHON_OPS = {"PyFunc", "PyFuncStateless", "EagerPyFunc"}


def served_ops(directory: str) -> dict[str, set[str]]:
    """Returns the ops of a SavedModel by where TF Serving has them from.

    Args:
        directory: The SavedModel.

    Returns:
        Names of ops under `core` (TensorFlow), `text` (TF-Text, which TF Serving links) and
        `other` (neither).
    """
    saved_model = saved_model_pb2.SavedModel()
    saved_model.ParseFromString(pathlib.Path(directory, "saved_model.pb").read_bytes())
    ops: set[str] = set()
    functions: set[str] = set()
    for graph in saved_model.meta_graphs:
        ops.update(node.op for node in graph.graph_def.node)
        for function in graph.graph_def.library.function:
            functions.add(function.signature.name)
            ops.update(node.op for node in function.node_def)
    folder = pathlib.Path(tf_text.__file__).parent / "python" / "ops"
    libraries = [tf.load_op_library(str(path)) for path in sorted(folder.glob("*.so"))]
    found: dict[str, set[str]] = {"core": set(), "text": set(), "other": set()}
    for op in ops - functions:
        # Only TensorFlow's own ops are there: what is loaded later is not.
        if hasattr(tf.raw_ops, op) and op not in _PYTHON_OPS:
            found["core"].add(op)
        elif any(hasattr(library, op) for library in libraries):
            found["text"].add(op)
        else:
            found["other"].add(op)
    return found


def _warmup_requests(text_features: Sequence[str]) -> Iterable[bytes]:
    """Yields serialized `PredictionLog`s for both signatures, in several batch sizes."""
    from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

    for size in _WARMUP_BATCHES:
        texts = {
            name: [_WARMUP_TEXTS[(row + i) % len(_WARMUP_TEXTS)] for row in range(size)]
            for i, name in enumerate(text_features)
        }
        examples = []
        for row in range(size):
            example = tf.train.Example()
            for name in text_features:
                example.features.feature[name].bytes_list.value.append(texts[name][row].encode())
            examples.append(example.SerializeToString())
        for signature, inputs in ((SERVE_TEXT, texts), (SERVING_DEFAULT, {"examples": examples})):
            request = predict_pb2.PredictRequest()
            request.model_spec.signature_name = signature
            for name, values in inputs.items():
                request.inputs[name].CopyFrom(tf.make_tensor_proto(values, tf.string))
            log = prediction_log_pb2.PredictionLog(
                predict_log=prediction_log_pb2.PredictLog(request=request)
            )
            yield log.SerializeToString()
