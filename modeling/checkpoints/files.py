"""Recognising a checkpoint: which files it has, what its configuration says.

Plain Python, so that the command line can refuse a wrong folder without loading a framework.
`bert_tfx.modeling.checkpoints.loading` reads the weights.
"""

import dataclasses
import glob
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from bert_tfx.schema.errors import InputError
from bert_tfx.schema.files import read_json

GOOGLE = "google"
HUGGING_FACE = "hugging_face"
KERAS = "keras"

CLASSIFIER_FILE = "classifier.keras"
"""A classifier of this project's own, in Keras' format."""
VOCAB_FILE = "vocab.txt"
MODEL_FILE = "model.json"
"""What the project's own classifier answers; lies beside `CLASSIFIER_FILE`."""

GOOGLE_CONFIG = "bert_config.json"
HUGGING_FACE_CONFIG = "config.json"
_SAFETENSORS = "model.safetensors"
_SAFETENSORS_INDEX = "model.safetensors.index.json"
_TOKENIZER_CONFIG = "tokenizer_config.json"
_PRESET = "preset.json"

_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "model.pth")
_FORMATS = (
    f"a folder with {GOOGLE_CONFIG} and bert_model.ckpt.* (Google's releases), with "
    f"{HUGGING_FACE_CONFIG} and {_SAFETENSORS} (Hugging Face), or with {CLASSIFIER_FILE} (bert-tfx)"
)

# The GELU that a configuration means. In Google's code "gelu" is the approximation by tanh, in
# Hugging Face's it is exact.
_GOOGLE_ACTIVATIONS = {"gelu": "gelu_tanh"}
_HUGGING_FACE_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
}


@dataclasses.dataclass(frozen=True)
class Setting:
    """Where a configuration says one argument of an encoder.

    Attributes:
        name: The key in the configuration.
        kind: `int` (1 to a million), `float` (in [0, 1)) or `str`.
        default: What counts where the key is missing, or None where it must be there.
    """

    name: str
    kind: type
    default: int | float | str | None = None


_BERT_SETTINGS: Mapping[str, Setting] = {
    "vocab_size": Setting("vocab_size", int),
    "hidden_dim": Setting("hidden_size", int),
    "num_layers": Setting("num_hidden_layers", int),
    "num_heads": Setting("num_attention_heads", int),
    "intermediate_dim": Setting("intermediate_size", int),
    "max_length": Setting("max_position_embeddings", int),
    "num_segments": Setting("type_vocab_size", int, 2),
    "activation": Setting("hidden_act", str, "gelu"),
    "hidden_dropout": Setting("hidden_dropout_prob", float, 0.1),
    "attention_dropout": Setting("attention_probs_dropout_prob", float, 0.1),
    "layer_norm_epsilon": Setting("layer_norm_eps", float, 1e-12),
    "initializer_range": Setting("initializer_range", float, 0.02),
}
SETTINGS: Mapping[str, Mapping[str, Setting]] = {
    "bert": _BERT_SETTINGS,
    "distilbert": {
        "vocab_size": Setting("vocab_size", int),
        "hidden_dim": Setting("dim", int),
        "num_layers": Setting("n_layers", int),
        "num_heads": Setting("n_heads", int),
        "intermediate_dim": Setting("hidden_dim", int),
        "max_length": Setting("max_position_embeddings", int),
        "activation": Setting("activation", str, "gelu"),
        "hidden_dropout": Setting("dropout", float, 0.1),
        "attention_dropout": Setting("attention_dropout", float, 0.1),
        "initializer_range": Setting("initializer_range", float, 0.02),
    },
    "albert": {
        **_BERT_SETTINGS,
        "embedding_dim": Setting("embedding_size", int),
        "activation": Setting("hidden_act", str, "gelu_new"),
        "hidden_dropout": Setting("hidden_dropout_prob", float, 0.0),
        "attention_dropout": Setting("attention_probs_dropout_prob", float, 0.0),
    },
}
"""For each architecture, the encoder's arguments and where Hugging Face's configuration says them.

Google's configuration uses the same keys for BERT.
"""

HEAD_DROPOUT: Mapping[str, str] = {
    "bert": "classifier_dropout",
    "distilbert": "seq_classif_dropout",
    "albert": "classifier_dropout_prob",
}
"""Where Hugging Face's configuration says the classification head's dropout rate."""

# Settings that change what is computed, with the one value that this project computes.
_FIXED: Mapping[str, Any] = {
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "pruned_heads": {},
    "quantization_config": None,
    # ALBERT's groups: one group of one layer is all that was ever published.
    "num_hidden_groups": 1,
    "inner_group_num": 1,
}


@dataclasses.dataclass(frozen=True)
class CheckpointFiles:
    """The files of a checkpoint and what they say of it, the weights apart.

    Attributes:
        path: The folder, or the `.keras` file.
        format: `GOOGLE`, `HUGGING_FACE` or `KERAS`.
        weights: The files that hold the weights: safetensors, the `.keras` file, or the prefix of
            the TF1 checkpoint.
        architecture: `bert`, `distilbert` or `albert`; None for `KERAS`, whose file says it.
        config: The encoder's arguments; empty for `KERAS`.
        labels: What the classification head answers, by class index; empty where there is none.
        head_dropout: Dropout rate of the classification head, or None for the usual one.
        has_pooler: Whether the pooler's weights should be there: a model made for masked words
            alone (`BertForMaskedLM`) has none.
        vocab_file: The vocabulary that lies beside the weights, or None.
        lowercase: Whether the vocabulary is uncased, or None where nothing beside it says so.
    """

    path: str
    format: str
    weights: tuple[str, ...]
    architecture: str | None
    config: Mapping[str, Any]
    labels: tuple[str, ...] = ()
    head_dropout: float | None = None
    has_pooler: bool = True
    vocab_file: str | None = None
    lowercase: bool | None = None

    @property
    def config_file(self) -> str:
        """The configuration, for messages."""
        if self.format == KERAS:
            return self.weights[0]
        name = GOOGLE_CONFIG if self.format == GOOGLE else HUGGING_FACE_CONFIG
        return os.path.join(self.path, name)

    @property
    def files(self) -> tuple[str, ...]:
        """All files that decide what is loaded."""
        if self.format == KERAS:
            return self.weights
        if self.format == HUGGING_FACE:
            return (self.config_file, *self.weights)
        prefix = pathlib.Path(self.weights[0])
        shards = sorted(map(os.fspath, prefix.parent.glob(f"{prefix.name}.*")))
        return (self.config_file, *shards)


def find_checkpoint(path: str) -> CheckpointFiles:
    """Recognises a checkpoint by its files and reads its configuration.

    Args:
        path: A folder in Google's or Hugging Face's format, a folder with a `classifier.keras`, or
            a `.keras` file.

    Returns:
        What was found.

    Raises:
        InputError: If it is no checkpoint, holds its weights as a pickle only, lacks a file, or its
            configuration is malformed or asks for what is not computed here.
    """
    folder = pathlib.Path(path)
    if folder.is_file() and folder.suffix == ".keras":
        return CheckpointFiles(path, KERAS, (path,), None, {}, **_companions(folder.parent))
    if not folder.exists():
        raise InputError(f"{path}: no such checkpoint; expected {_FORMATS}")
    if not folder.is_dir():
        hint = _pickle_hint(folder) if folder.name in _PICKLES else ""
        raise InputError(f"{path}: not a checkpoint; expected {_FORMATS}{hint}")
    if (folder / CLASSIFIER_FILE).is_file():
        file = os.fspath(folder / CLASSIFIER_FILE)
        return CheckpointFiles(path, KERAS, (file,), None, {}, **_companions(folder))
    if (folder / GOOGLE_CONFIG).is_file():
        return _google(folder)
    if (folder / HUGGING_FACE_CONFIG).is_file():
        return _hugging_face(folder)
    if any((folder / name).exists() for name in _PICKLES):
        raise InputError(_pickle_message(folder, {}))
    inside = sorted(p.name for p in folder.iterdir())[:8]
    raise InputError(
        f"{path}: not a checkpoint; expected {_FORMATS}, found "
        + (", ".join(inside) if inside else "an empty folder")
    )


def _google(folder: pathlib.Path) -> CheckpointFiles:
    config_file = folder / GOOGLE_CONFIG
    raw = _read_json(config_file)
    config = _encoder_config("bert", raw, config_file, _GOOGLE_ACTIVATIONS)
    prefixes = sorted(
        os.fspath(p).removesuffix(".index") for p in folder.glob("*.index") if p.is_file()
    )
    if not prefixes:
        raise InputError(
            f"{folder}: its weights are missing: expected bert_model.ckpt.index and "
            "bert_model.ckpt.data-00000-of-00001"
        )
    if len(prefixes) > 1:
        names = ", ".join(os.path.basename(prefix) for prefix in prefixes)
        raise InputError(
            f"{folder}: holds several checkpoints ({names}); leave the one to load in the folder"
        )
    if not list(folder.glob(f"{glob.escape(os.path.basename(prefixes[0]))}.data-*")):
        raise InputError(f"{prefixes[0]}.data-*: missing; the .index file alone holds no weights")
    return CheckpointFiles(
        os.fspath(folder), GOOGLE, tuple(prefixes), "bert", config, **_companions(folder)
    )


def _hugging_face(folder: pathlib.Path) -> CheckpointFiles:
    config_file = folder / HUGGING_FACE_CONFIG
    raw = _read_json(config_file)
    architecture = raw.get("model_type")
    if architecture is None and "hidden_size" in raw and "embedding_size" not in raw:
        # Files of before 2020 do not say it; those of the other architectures have other keys.
        architecture = "bert"
    if not isinstance(architecture, str) or architecture not in SETTINGS:
        raise InputError(
            f"{config_file}: model_type must be one of {', '.join(SETTINGS)}. "
            f"Received: {architecture!r}"
        )
    config = _encoder_config(architecture, raw, config_file, _HUGGING_FACE_ACTIVATIONS)
    head_dropout = raw.get(HEAD_DROPOUT[architecture])
    if head_dropout is not None:
        setting = Setting(HEAD_DROPOUT[architecture], float)
        head_dropout = _value(raw, setting, config_file)
    return CheckpointFiles(
        os.fspath(folder),
        HUGGING_FACE,
        _safetensors_files(folder, raw),
        architecture,
        config,
        labels=_labels(raw, config_file),
        head_dropout=head_dropout,
        has_pooler=raw.get("architectures") not in (["BertForMaskedLM"], ["AlbertForMaskedLM"]),
        **_companions(folder),
    )


def _safetensors_files(folder: pathlib.Path, config: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the file, or the shards, that hold the weights."""
    if (folder / _SAFETENSORS).is_file():
        return (os.fspath(folder / _SAFETENSORS),)
    index = folder / _SAFETENSORS_INDEX
    if not index.is_file():
        if any((folder / name).exists() for name in _PICKLES):
            raise InputError(_pickle_message(folder, config))
        raise InputError(
            f"{folder}: its weights are missing: expected {_SAFETENSORS} or {_SAFETENSORS_INDEX}"
        )
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{index}: weight_map is missing: it says which shard holds which tensor")
    for name in weight_map.values():
        if not isinstance(name, str) or os.path.basename(name) != name:
            raise InputError(f"{index}: weight_map must name files of this folder, found {name!r}")
        if not (folder / name).is_file():
            raise InputError(f"{folder / name}: missing; {_SAFETENSORS_INDEX} names it as a shard")
    return tuple(os.fspath(folder / name) for name in sorted(set(weight_map.values())))


def _encoder_config(
    architecture: str,
    raw: Mapping[str, Any],
    config_file: pathlib.Path,
    activations: Mapping[str, str],
) -> dict[str, Any]:
    """Translates a configuration into the encoder's arguments."""
    for name, value in _FIXED.items():
        if raw.get(name, value) != value and raw[name] is not None:
            raise InputError(
                f"{config_file}: {name} must be {json.dumps(value)}, the only kind that is "
                f"computed here. Received: {json.dumps(raw[name])}"
            )
    config = {
        argument: _value(raw, setting, config_file)
        for argument, setting in SETTINGS[architecture].items()
    }
    if config["activation"] not in activations:
        raise InputError(
            f"{config_file}: {SETTINGS[architecture]['activation'].name} must be one of "
            f"{', '.join(activations)}. Received: {config['activation']!r}"
        )
    config["activation"] = activations[config["activation"]]
    if config["hidden_dim"] % config["num_heads"]:
        settings = SETTINGS[architecture]
        raise InputError(
            f"{config_file}: {settings['hidden_dim'].name} must be a multiple of "
            f"{settings['num_heads'].name}. Received: {config['hidden_dim']} and "
            f"{config['num_heads']}"
        )
    return config


def _labels(raw: Mapping[str, Any], config_file: pathlib.Path) -> tuple[str, ...]:
    """Returns the labels of a classification head."""
    architectures = raw.get("architectures")
    if not isinstance(architectures, list) or not architectures:
        return ()
    if not str(architectures[0]).endswith("ForSequenceClassification"):
        return ()
    names = raw.get("id2label")
    if names is None:
        # Two labels are what a configuration need not mention.
        return ("LABEL_0", "LABEL_1")
    if not isinstance(names, dict) or sorted(names) != sorted(map(str, range(len(names)))):
        raise InputError(
            f"{config_file}: id2label must name a label for each of 0, 1, ... Received: "
            f"{json.dumps(names)[:200]}"
        )
    return tuple(str(names[str(index)]) for index in range(len(names)))


def _value(raw: Mapping[str, Any], setting: Setting, config_file: pathlib.Path) -> Any:
    """Returns a setting's value, checked."""
    value = raw.get(setting.name, setting.default)
    where = f"{config_file}: {setting.name}"
    if value is None:
        raise InputError(f"{where} is missing; it must be {_KINDS[setting.kind]}")
    if setting.kind is str:
        fits = isinstance(value, str)
    elif setting.kind is int:
        fits = isinstance(value, int) and not isinstance(value, bool)
        fits = fits and 0 < value <= _LARGEST
    else:
        fits = isinstance(value, int | float) and not isinstance(value, bool)
        fits = fits and 0 <= value < 1
    if not fits:
        raise InputError(f"{where} must be {_KINDS[setting.kind]}. Received: {value!r}")
    return value


# The largest published value is a vocabulary of 250,000; one beyond this ends in no memory.
_LARGEST = 1_000_000
_KINDS = {
    int: f"a whole number from 1 to {_LARGEST:,}",
    float: "a number in [0, 1)",
    str: "a string",
}


def _companions(folder: pathlib.Path) -> dict[str, Any]:
    """Returns what lies beside the weights: the vocabulary and whether it is uncased."""
    found: dict[str, Any] = {}
    if (folder / VOCAB_FILE).is_file():
        found["vocab_file"] = os.fspath(folder / VOCAB_FILE)
    for name, key in (
        (MODEL_FILE, "lowercase"),
        (_PRESET, "lowercase"),
        (_TOKENIZER_CONFIG, "do_lower_case"),
    ):
        if (folder / name).is_file():
            lowercase = _read_json(folder / name).get(key)
            if isinstance(lowercase, bool):
                found["lowercase"] = lowercase
                break
    return found


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: must hold a JSON object")
    return content


def _pickle_message(folder: pathlib.Path, config: Mapping[str, Any]) -> str:
    name = next(name for name in _PICKLES if (folder / name).exists())
    return f"{folder / name}: not loaded{_pickle_hint(folder / name, config)}"


def _pickle_hint(file: pathlib.Path, config: Mapping[str, Any] | None = None) -> str:
    """Says why a pickle is refused and how to convert it."""
    names = (config or {}).get("architectures")
    model = names[0] if isinstance(names, list) and names else None
    if not isinstance(model, str) or not model.isidentifier():
        model = "BertModel"
    folder = file.parent
    return (
        f": {file.name} is a pickle, and a pickle can run any code when it is loaded. "
        "Where you trust its origin, convert it once, where torch and transformers are installed:\n"
        f"  python -c \"import transformers; transformers.{model}.from_pretrained('{folder}')"
        f".save_pretrained('{folder}-safetensors')\"\n"
        f"then name {folder}-safetensors, with {VOCAB_FILE} copied into it"
    )
