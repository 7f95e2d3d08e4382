"""Loading published checkpoints into our encoders, and writing ours for others.

A table for each architecture says what Hugging Face calls each layer; Google's TF1 names follow
from it by rule. Loading is strict both ways: a tensor that is missing, left over or of another
shape is an error that names it. Only the heads and buffers in `_LEFT_OUT` may be left over.

Sources of the names: google-research/bert, `modeling.py` and `run_classifier.py`;
huggingface/transformers, `modeling_bert.py`, `modeling_distilbert.py`, `modeling_albert.py` and
`convert_bert_original_tf_checkpoint_to_pytorch.py`.
"""

import json
import logging
import os
import pathlib
import re
import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import safetensors
import safetensors.numpy

from bert_tfx.modeling.checkpoints.files import (
    GOOGLE,
    HEAD_DROPOUT,
    HUGGING_FACE_CONFIG,
    KERAS,
    SETTINGS,
    VOCAB_FILE,
    CheckpointFiles,
    find_checkpoint,
)
from bert_tfx.modeling.encoders.albert import AlbertEncoder
from bert_tfx.modeling.encoders.bert import BertEncoder
from bert_tfx.modeling.encoders.classifier import TextClassifier
from bert_tfx.modeling.encoders.distil_bert import DistilBertEncoder
from bert_tfx.modeling.encoders.encoder import Encoder
from bert_tfx.modeling.encoders.reshaping import copy_weights, rebuilt
from bert_tfx.modeling.encoders.transformer import kernel_initializer
from bert_tfx.schema import files
from bert_tfx.schema.errors import InputError

logger = logging.getLogger(__name__)

ENCODERS: Mapping[str, type[Encoder]] = {
    "bert": BertEncoder,
    "distilbert": DistilBertEncoder,
    "albert": AlbertEncoder,
}
"""The encoder of each architecture."""

_BERT_LAYERS = {
    "token_embedding": "embeddings.word_embeddings",
    "position_embedding": "embeddings.position_embeddings",
    "segment_embedding": "embeddings.token_type_embeddings",
    "embeddings_norm": "embeddings.LayerNorm",
    "block_{}/attention/query": "encoder.layer.{}.attention.self.query",
    "block_{}/attention/key": "encoder.layer.{}.attention.self.key",
    "block_{}/attention/value": "encoder.layer.{}.attention.self.value",
    "block_{}/attention/output": "encoder.layer.{}.attention.output.dense",
    "block_{}/attention_norm": "encoder.layer.{}.attention.output.LayerNorm",
    "block_{}/intermediate": "encoder.layer.{}.intermediate.dense",
    "block_{}/output": "encoder.layer.{}.output.dense",
    "block_{}/output_norm": "encoder.layer.{}.output.LayerNorm",
    "pooler": "pooler.dense",
    "logits": "classifier",
}
_ALBERT_LAYER = "encoder.albert_layer_groups.0.albert_layers.0"
# Our layer -> Hugging Face's. `{}` is the number of the block.
_LAYERS: Mapping[str, Mapping[str, str]] = {
    "bert": _BERT_LAYERS,
    "distilbert": {
        "token_embedding": "embeddings.word_embeddings",
        "position_embedding": "embeddings.position_embeddings",
        "embeddings_norm": "embeddings.LayerNorm",
        "block_{}/attention/query": "transformer.layer.{}.attention.q_lin",
        "block_{}/attention/key": "transformer.layer.{}.attention.k_lin",
        "block_{}/attention/value": "transformer.layer.{}.attention.v_lin",
        "block_{}/attention/output": "transformer.layer.{}.attention.out_lin",
        "block_{}/attention_norm": "transformer.layer.{}.sa_layer_norm",
        "block_{}/intermediate": "transformer.layer.{}.ffn.lin1",
        "block_{}/output": "transformer.layer.{}.ffn.lin2",
        "block_{}/output_norm": "transformer.layer.{}.output_layer_norm",
        "pre_classifier": "pre_classifier",
        "logits": "classifier",
    },
    "albert": {
        "token_embedding": "embeddings.word_embeddings",
        "position_embedding": "embeddings.position_embeddings",
        "segment_embedding": "embeddings.token_type_embeddings",
        "embeddings_norm": "embeddings.LayerNorm",
        "embeddings_projection": "encoder.embedding_hidden_mapping_in",
        "block/attention/query": f"{_ALBERT_LAYER}.attention.query",
        "block/attention/key": f"{_ALBERT_LAYER}.attention.key",
        "block/attention/value": f"{_ALBERT_LAYER}.attention.value",
        "block/attention/output": f"{_ALBERT_LAYER}.attention.dense",
        "block/attention_norm": f"{_ALBERT_LAYER}.attention.LayerNorm",
        "block/intermediate": f"{_ALBERT_LAYER}.ffn",
        "block/output": f"{_ALBERT_LAYER}.ffn_output",
        "block/output_norm": f"{_ALBERT_LAYER}.full_layer_layer_norm",
        "pooler": "pooler",
        "logits": "classifier",
    },
}
# How the names of Hugging Face's classes begin.
_CLASSES = {"bert": "Bert", "distilbert": "DistilBert", "albert": "Albert"}
_HEAD_LAYERS = ("pre_classifier", "logits")
_POOLER = "pooler"

# Our variable -> Hugging Face's.
_VARIABLES = {
    "embeddings": "weight",
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
}
# What LayerNorm's were called before 2019, and still are in files converted then.
_OLD_NAMES = re.compile(r"(LayerNorm|layer_norm)\.(gamma|beta)$")

# What a classifier has no use for: heads of the pre-training tasks, buffers, the optimizer's state.
_LEFT_OUT = re.compile(
    r"(bert|distilbert|albert)?\.?embeddings\.(position_ids|token_type_ids)"
    r"|cls[./](predictions|seq_relationship)[./].*"
    r"|vocab_(transform|layer_norm|projector)\..*"
    r"|(predictions|sop_classifier)\..*"
    r"|global_step"
    r"|.*/adam_[mv]"
)
# A head to classify with, in a file from which only the encoder, or one with a head of another
# size, is wanted.
_HEAD = re.compile(r"(pre_)?classifier\.(weight|bias)|output_(weights|bias)")

_NAMED = 8


def load_encoder(path: str, **overrides: Any) -> Encoder:
    """Loads the encoder of a published checkpoint.

    Args:
        path: A folder in Google's TF1 format or Hugging Face's, of BERT, DistilBERT or ALBERT, or a
            classifier of this project's own (`find_checkpoint` says what is understood).
        **overrides: Arguments of the encoder that shall not be those of the checkpoint's
            configuration, such as `hidden_dropout` or `dtype`.

    Returns:
        A `BertEncoder`, `DistilBertEncoder` or `AlbertEncoder`.

    Raises:
        InputError: If `path` is no checkpoint, or its weights do not fit its configuration: the
            tensors that are missing, left over or of another shape are named.
    """
    files = find_checkpoint(path)
    if files.format == KERAS:
        return rebuilt(load_saved_classifier(files.weights[0]).encoder, overrides)
    encoder = ENCODERS[files.architecture or ""].without_values(**{**files.config, **overrides})
    weights = _open_weights(files)
    _assign(files, weights, _Plan(files, weights.shapes), encoder.variables)
    return encoder


def load_classifier(
    path: str, num_labels: int, *, head_dropout: float | None = None, **overrides: Any
) -> TextClassifier:
    """Loads a published checkpoint as a classifier.

    A head found in the checkpoint with as many labels is loaded; else the head is new, which is
    logged.

    Args:
        path: As for `load_encoder`.
        num_labels: Number of classes.
        head_dropout: Dropout rate of the head instead of the checkpoint's.
        **overrides: As for `load_encoder`.

    Returns:
        The classifier.

    Raises:
        InputError: As for `load_encoder`.
    """
    files = find_checkpoint(path)
    if files.format == KERAS:
        return _own_classifier(files, num_labels, head_dropout, overrides)
    encoder = ENCODERS[files.architecture or ""].without_values(**{**files.config, **overrides})
    if head_dropout is None:
        head_dropout = files.head_dropout
    classifier = TextClassifier(encoder, num_labels, head_dropout)
    weights = _open_weights(files)
    plan = _Plan(files, weights.shapes)
    found = plan.num_labels()
    variables = encoder.variables if found != num_labels else classifier.variables
    _assign(files, weights, plan, variables)
    if found is None and files.labels:
        raise InputError(
            f"{path}: {os.path.basename(files.config_file)} names {len(files.labels)} labels, but "
            "there is no classification head among the weights"
        )
    if found is None:
        logger.info("%s: no classification head there; the head is new", path)
    elif found != num_labels:
        logger.info(
            "%s: its head answers %d labels, not %d; the head is new", path, found, num_labels
        )
    return classifier


def load_saved_classifier(path: str) -> TextClassifier:
    """Loads a classifier of this project's own.

    Args:
        path: The `.keras` file.

    Returns:
        The classifier, with its head.

    Raises:
        InputError: If it is no such file.
    """
    try:
        classifier = keras.models.load_model(path, compile=False)
    except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: cannot be loaded as a Keras model: {error}") from error
    if not isinstance(classifier, TextClassifier):
        raise InputError(f"{path}: holds a {type(classifier).__name__}, not a TextClassifier")
    return classifier


def save_hugging_face(
    model: keras.Model,
    folder: str,
    *,
    vocab_file: str,
    lowercase: bool,
    labels: Sequence[str] = (),
) -> None:
    """Writes a model in Hugging Face's format, for `transformers` and all that read it.

    Writes `config.json`, `model.safetensors`, `vocab.txt` and `tokenizer_config.json`: the folder
    as a whole or nothing. Weights are written as float32.

    Args:
        model: A `TextClassifier` or an encoder.
        folder: Where; it must not exist.
        vocab_file: The vocabulary.
        lowercase: Whether it is uncased.
        labels: The label of each class index of a classifier.

    Raises:
        InputError: If the folder exists, or heads were pruned.
    """
    target = pathlib.Path(folder)
    if target.exists():
        raise InputError(f"{folder}: exists already; name a new folder, or remove this one first")
    is_classifier = isinstance(model, TextClassifier)
    encoder = model.encoder if is_classifier else model
    shape = encoder.config
    if shape.head_dim is not None:
        raise InputError(
            f"the model has {shape.num_heads} attention heads of {shape.head_dim} for hidden "
            f"states of {shape.hidden_dim}, as heads were pruned: Hugging Face's configuration "
            "cannot say that"
        )
    architecture = architecture_of(encoder)
    prefix = f"{architecture}." if is_classifier else ""
    tensors = {}
    for variable in model.weights:
        value = np.asarray(variable, dtype=np.float32)
        name = _hugging_face_name(architecture, variable, prefix)
        tensors[name] = np.ascontiguousarray(value.T if _is_kernel(variable) else value)
    config = _hugging_face_config(encoder)
    if is_classifier:
        config["architectures"] = [f"{_CLASSES[architecture]}ForSequenceClassification"]
        config["id2label"] = {str(i): label for i, label in enumerate(labels)}
        config["label2id"] = {label: i for i, label in enumerate(labels)}
        config[HEAD_DROPOUT[architecture]] = model.dropout_rate
    target.parent.mkdir(parents=True, exist_ok=True)
    with files.appearing(target) as folder:
        partial = pathlib.Path(folder)
        partial.mkdir()
        safetensors.numpy.save_file(
            tensors, partial / "model.safetensors", metadata={"format": "pt"}
        )
        for name, content in (
            (HUGGING_FACE_CONFIG, config),
            ("tokenizer_config.json", _tokenizer_config(encoder, lowercase)),
        ):
            text = json.dumps(content, indent=2, ensure_ascii=False)
            (partial / name).write_text(f"{text}\n", encoding="utf-8")
        shutil.copyfile(vocab_file, partial / VOCAB_FILE)
        # safetensors makes its file readable by its owner alone.
        shutil.copymode(partial / VOCAB_FILE, partial / "model.safetensors")


def architecture_of(encoder: Encoder) -> str:
    """Returns an encoder's name in `ENCODERS`."""
    return next(name for name, kind in ENCODERS.items() if type(encoder) is kind)


class _Weights:
    """The tensors of a checkpoint, read one at a time.

    Attributes:
        shapes: Shape of each tensor.
        read: Reads one, float32.
    """

    def __init__(
        self, shapes: Mapping[str, tuple[int, ...]], read: Callable[[str], np.ndarray]
    ) -> None:
        self.shapes = shapes
        self.read = read


def _open_weights(files: CheckpointFiles) -> _Weights:
    return (_open_tf1 if files.format == GOOGLE else _open_safetensors)(files.weights)


def _open_safetensors(paths: Sequence[str]) -> _Weights:
    shapes: dict[str, tuple[int, ...]] = {}
    holders: dict[str, tuple[str, str]] = {}
    for path in paths:
        try:
            with safetensors.safe_open(path, framework="numpy") as file:
                for stored in file.keys():  # noqa: SIM118  (no mapping)
                    name = _OLD_NAMES.sub(_new_name, stored)
                    if name in shapes:
                        raise InputError(f"{path}: tensor {stored} stands twice in the checkpoint")
                    shapes[name] = tuple(file.get_slice(stored).get_shape())
                    holders[name] = (path, stored)
        except (OSError, safetensors.SafetensorError) as error:
            raise InputError(f"{path}: cannot be read as safetensors: {error}") from error

    def read(name: str) -> np.ndarray:
        path, stored = holders[name]
        # Opened for each tensor, because an open file is mapped into memory and what has been read
        # of it counts as ours.
        with safetensors.safe_open(path, framework="numpy") as file:
            kind = file.get_slice(stored).get_dtype()
            if kind not in ("F64", "F32", "F16", "BF16"):
                raise InputError(
                    f"{path}: tensor {stored} is of type {kind}; weights must be F64, F32, F16 or "
                    "BF16: a quantized checkpoint cannot be loaded"
                )
            return np.asarray(file.get_tensor(stored)).astype(np.float32, copy=False)

    return _Weights(shapes, read)


def _new_name(old: re.Match[str]) -> str:
    return f"{old[1]}.{'weight' if old[2] == 'gamma' else 'bias'}"


def _open_tf1(paths: Sequence[str]) -> _Weights:
    import tensorflow as tf

    (prefix,) = paths
    try:
        reader = tf.train.load_checkpoint(prefix)
        shapes = {name: tuple(s) for name, s in reader.get_variable_to_shape_map().items()}
        kinds = reader.get_variable_to_dtype_map()
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        raise InputError(f"{prefix}: cannot be read as a TF1 checkpoint: {error}") from error

    def read(name: str) -> np.ndarray:
        if not kinds[name].is_floating:
            raise InputError(
                f"{prefix}: tensor {name} is of type {kinds[name].name}; weights must be floating: "
                "a quantized checkpoint cannot be loaded"
            )
        try:
            return reader.get_tensor(name).astype(np.float32, copy=False)
        except (tf.errors.OpError, ValueError, RuntimeError, IndexError) as error:
            raise InputError(f"{prefix}: tensor {name} cannot be read: {error}") from error

    return _Weights(shapes, read)


class _Plan:
    """Says what a checkpoint calls our variables, and which of its tensors may be left over."""

    def __init__(self, files: CheckpointFiles, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._files = files
        self._shapes = shapes
        self._architecture = files.architecture or ""
        prefix = f"{self._architecture}."
        self._prefix = prefix if any(name.startswith(prefix) for name in shapes) else ""

    def published_name(self, variable: keras.Variable) -> str:
        """Returns the checkpoint's name of a variable."""
        if self._files.format == GOOGLE:
            return _google_name(variable)
        return _hugging_face_name(self._architecture, variable, self._prefix)

    def is_transposed(self, variable: keras.Variable) -> bool:
        """Returns whether the checkpoint stores a variable [outputs, inputs]."""
        if self._files.format == GOOGLE:
            return _layer(variable) == "logits" and _is_kernel(variable)
        return _is_kernel(variable)

    def num_labels(self) -> int | None:
        """Returns the number of labels of the checkpoint's head, or None where it has no head."""
        name = "output_weights" if self._files.format == GOOGLE else "classifier.weight"
        return next(iter(self._shapes[name]), 0) if name in self._shapes else None


def _assign(
    files: CheckpointFiles,
    weights: _Weights,
    plan: _Plan,
    variables: Sequence[keras.Variable],
) -> None:
    """Gives variables the checkpoint's values, or raises and names every tensor that is wrong."""
    wanted = {plan.published_name(v): v for v in variables if not _is_seed(v)}
    if not files.has_pooler and not any(_POOLER in name for name in weights.shapes):
        pooler = {name: v for name, v in wanted.items() if _layer(v) == _POOLER}
        wanted = {name: v for name, v in wanted.items() if name not in pooler}
        for variable in filter(_is_kernel, pooler.values()):
            draw = kernel_initializer(files.config["initializer_range"])
            variable.assign(draw(variable.shape, variable.dtype))
        logger.info("%s: made for masked words, without a pooler; the pooler is new", files.path)

    problems = [f"missing: {name}" for name in wanted if name not in weights.shapes]
    problems += [
        f"not known: {name}"
        for name in weights.shapes
        if name not in wanted and not _LEFT_OUT.fullmatch(name) and not _HEAD.fullmatch(name)
    ]
    for name, variable in wanted.items():
        shape = tuple(variable.shape)
        expected = shape[::-1] if plan.is_transposed(variable) else shape
        found = weights.shapes.get(name, expected)
        if found != expected:
            problems.append(
                f"{name}: shape {list(found)}, where {os.path.basename(files.config_file)} asks "
                f"for {list(expected)}"
            )
    if problems:
        more = len(problems) - _NAMED
        raise InputError(
            f"{files.path}: the weights do not fit a {files.architecture} encoder as "
            f"{os.path.basename(files.config_file)} describes it:\n  "
            + "\n  ".join(problems[:_NAMED])
            + (f"\n  and {more} more" if more > 0 else "")
        )
    for name, variable in wanted.items():
        value = weights.read(name)
        variable.assign(value.T if plan.is_transposed(variable) else value)


def _hugging_face_name(architecture: str, variable: keras.Variable, prefix: str) -> str:
    """Returns what Hugging Face calls a variable, `prefix` before the encoder's."""
    layer = _layer(variable)
    block = re.search(r"block_(\d+)/", layer)
    pattern = layer if block is None else layer.replace(f"block_{block[1]}/", "block_{}/")
    name = _LAYERS[architecture][pattern]
    if block is not None:
        name = name.format(block[1])
    if layer in _HEAD_LAYERS:
        prefix = ""
    return f"{prefix}{name}.{_VARIABLES[variable.name]}"


def _google_name(variable: keras.Variable) -> str:
    """Returns what Google's code calls a variable: Hugging Face's name, in slashes."""
    if _layer(variable) == "logits":
        return "output_weights" if _is_kernel(variable) else "output_bias"
    name = _hugging_face_name("bert", variable, "bert.").rpartition(".")[0]
    name = name.replace("layer.", "layer_").replace(".", "/")
    return name if variable.name == "embeddings" else f"{name}/{variable.name}"


def _layer(variable: keras.Variable) -> str:
    """Returns the path of a variable's layer below its model: `block_0/attention/query`."""
    return variable.path.split("/", 1)[1].rpartition("/")[0]


def _is_kernel(variable: keras.Variable) -> bool:
    return variable.name == "kernel"


def _is_seed(variable: keras.Variable) -> bool:
    """Returns whether a variable is the state of a dropout's random numbers."""
    return variable.name not in _VARIABLES


def _own_classifier(
    files: CheckpointFiles,
    num_labels: int,
    head_dropout: float | None,
    overrides: Mapping[str, Any],
) -> TextClassifier:
    source = load_saved_classifier(files.weights[0])
    same_head = source.num_labels == num_labels
    if same_head and head_dropout is None and not overrides:
        return source
    encoder = rebuilt(source.encoder, overrides)
    dropout = source.dropout_rate if head_dropout is None else head_dropout
    classifier = TextClassifier(encoder, num_labels, dropout)
    if same_head:
        copy_weights(source, classifier)
    else:
        logger.info(
            "%s: its head answers %d labels, not %d; the head is new",
            files.path,
            source.num_labels,
            num_labels,
        )
    return classifier


def _hugging_face_config(encoder: Encoder) -> dict[str, Any]:
    """Returns the `config.json` of an encoder."""
    architecture = architecture_of(encoder)
    settings = SETTINGS[architecture]
    arguments = encoder.get_config()
    config = {s.name: arguments[argument] for argument, s in settings.items()}
    # The tanh approximation bears another name there.
    activation = encoder.config.activation
    config[settings["activation"].name] = {"gelu_tanh": "gelu_new"}.get(activation, activation)
    return {
        "architectures": [f"{_CLASSES[architecture]}Model"],
        "model_type": architecture,
        "pad_token_id": 0,
        **config,
    }


def _tokenizer_config(encoder: Encoder, lowercase: bool) -> dict[str, Any]:
    kind = "DistilBert" if isinstance(encoder, DistilBertEncoder) else "Bert"
    return {
        "tokenizer_class": f"{kind}Tokenizer",
        "do_lower_case": lowercase,
        "model_max_length": encoder.config.max_length,
    }
