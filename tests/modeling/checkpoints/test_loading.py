import json
import logging
import os
import pathlib
import re
import shutil
import zipfile

import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import load_file, save_file

from bert_tfx.modeling.checkpoints.loading import (
    ENCODERS,
    architecture_of,
    load_classifier,
    load_encoder,
    save_hugging_face,
)
from bert_tfx.modeling.encoders.albert import AlbertEncoder
from bert_tfx.modeling.encoders.bert import BertEncoder
from bert_tfx.modeling.encoders.classifier import TextClassifier
from bert_tfx.modeling.encoders.distil_bert import DistilBertEncoder
from bert_tfx.schema.errors import InputError

GOLDEN = pathlib.Path(__file__).parents[3] / ".." / "shared" / "golden" / "models"
ALBERT = pathlib.Path(__file__).parents[2] / "testdata" / "hf_albert_classifier"
PUBLISHED = {
    "google_bert": BertEncoder,
    "hf_bert_base": BertEncoder,
    "hf_bert_classifier": BertEncoder,
    "hf_distilbert_base": DistilBertEncoder,
    "hf_distilbert_classifier": DistilBertEncoder,
    "hf_albert_classifier": AlbertEncoder,
}
OWN = ("own_bert", "own_distilbert", "own_albert", "own_google")

TOY = {
    "vocab_size": 50,
    "hidden_dim": 12,
    "num_layers": 2,
    "num_heads": 3,
    "intermediate_dim": 20,
    "max_length": 16,
    "initializer_range": 0.3,
}
LABELS = ["bad", "good", "so-so"]


def published(name: str) -> pathlib.Path:
    folder = ALBERT if name == ALBERT.name else GOLDEN / name
    if not folder.is_dir():
        pytest.skip("the reference models (../shared/golden/models) are not here")
    return folder


def make_classifier(architecture, num_labels=3, dropout=None, **arguments) -> TextClassifier:
    """A classifier with random weights, biases and LayerNorms too."""
    if architecture == "albert":
        arguments = {"embedding_dim": 8, **arguments}
    encoder = ENCODERS[architecture](**{**TOY, **arguments})
    classifier = TextClassifier(encoder, num_labels, dropout)
    random = np.random.default_rng(len(architecture))
    for weight in classifier.weights:
        weight.assign(random.normal(0.1, 0.4, weight.shape))
    return classifier


def make_inputs():
    mask = (np.arange(9) < np.array([[9], [5], [2]])).astype("int32")
    random = np.random.default_rng(0)
    return {
        "token_ids": random.integers(1, 50, mask.shape).astype("int32") * mask,
        "segment_ids": random.integers(0, 2, mask.shape).astype("int32") * mask,
        "padding_mask": mask,
    }


# --- writing the published formats ---

TYPES = {"F32": "float32", "F64": "float64", "F16": "float16", "I8": "int8", "I64": "int64"}
NUMPY_TYPES = {**TYPES, "BF16": ml_dtypes.bfloat16}


def write_safetensors(path, tensors, **types) -> None:
    """Writes tensors, those named in `types` as that type, others as float32."""
    save_file(
        {
            name: np.array(value, NUMPY_TYPES[types.get(name, "F32")], order="C")
            for name, value in tensors.items()
        },
        path,
    )


def write_tf1(prefix, tensors) -> None:
    """Writes a checkpoint as TF1's Saver does."""
    names = sorted(tensors)
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[tf.constant(tensors[name]) for name in names],
    )


def google_tensors(tensors):
    """Renames a BERT's tensors as convert_bert_original_tf_checkpoint_to_pytorch.py reads them."""
    renamed = {}
    for name, value in tensors.items():
        if name.startswith("classifier."):
            renamed["output_weights" if name.endswith("weight") else "output_bias"] = value
            continue
        layer, _, variable = name.replace("layer.", "layer_").replace(".", "/").rpartition("/")
        if layer.endswith("_embeddings"):
            renamed[layer] = value
        elif layer.endswith("LayerNorm"):
            renamed[f"{layer}/{'gamma' if variable == 'weight' else 'beta'}"] = value
        else:
            transposed = variable == "weight"
            renamed[f"{layer}/{'kernel' if transposed else 'bias'}"] = (
                value.T if transposed else value
            )
    return renamed


class Folder:
    """A checkpoint to change."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self.is_google = (path / "bert_config.json").exists()
        self.config_file = path / ("bert_config.json" if self.is_google else "config.json")
        self.weights = path / ("bert_model.ckpt" if self.is_google else "model.safetensors")

    def tensors(self):
        if not self.is_google:
            return load_file(self.weights)
        reader = tf.train.load_checkpoint(str(self.weights))
        return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}

    def write(self, tensors, **types) -> None:
        if self.is_google:
            tensors = {
                name: value.astype(TYPES[types[name]] if name in types else value.dtype)
                for name, value in tensors.items()
            }
            write_tf1(self.weights, tensors)
        else:
            write_safetensors(self.weights, tensors, **types)

    def configure(self, **changes) -> None:
        config = json.loads(self.config_file.read_text())
        self.config_file.write_text(json.dumps({**config, **changes}))

    def setting(self, *names):
        """The first of the keys that the configuration has, and its value."""
        config = json.loads(self.config_file.read_text())
        return next((name, config[name]) for name in names if name in config)

    def load(self):
        return load_encoder(str(self.path))

    def refusal(self) -> str:
        with pytest.raises(InputError) as error:
            self.load()
        message = str(error.value)
        assert str(self.path) in message
        return message


def save(classifier, folder: pathlib.Path, **options) -> Folder:
    vocab_file = folder.with_name(f"{folder.name}.txt")
    vocab_file.parent.mkdir(parents=True, exist_ok=True)
    vocab_file.write_text("".join(f"词{i}\n" for i in range(50)), encoding="utf-8")
    options = {"labels": LABELS, "vocab_file": str(vocab_file), "lowercase": True, **options}
    save_hugging_face(classifier, str(folder), **options)
    return Folder(folder)


def save_google(classifier, folder: pathlib.Path) -> Folder:
    tensors = save(classifier, folder.with_name("source")).tensors()
    config = json.loads((folder.with_name("source") / "config.json").read_text())
    folder.mkdir()
    (folder / "bert_config.json").write_text(json.dumps({**config, "hidden_act": "gelu"}))
    write_tf1(folder / "bert_model.ckpt", google_tensors(tensors))
    return Folder(folder)


def make_folder(name: str, path: pathlib.Path) -> Folder:
    """A copy of a published checkpoint, or one of our own."""
    if name in PUBLISHED:
        shutil.copytree(published(name), path)
        for file in (path, *path.iterdir()):
            file.chmod(0o755)
        return Folder(path)
    architecture = name.removeprefix("own_")
    if architecture == "google":
        return save_google(make_classifier("bert", activation="gelu_tanh"), path)
    return save(make_classifier(architecture), path)


@pytest.fixture(params=[*OWN, *PUBLISHED])
def folder(request, tmp_path) -> Folder:
    return make_folder(request.param, tmp_path / "checkpoint")


INNER = re.compile(r"(intermediate[./]dense|lin1|\.ffn)[./](weight|kernel)$")


def inner_kernel(tensors) -> str:
    """The first kernel that is not square."""
    return min(name for name in tensors if INNER.search(name))


def assert_same_weights(model, other) -> None:
    assert [w.path for w in model.weights] == [w.path for w in other.weights]
    for ours, theirs in zip(model.weights, other.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=ours.path)


@pytest.fixture
def messages(caplog):
    """What the module under test has logged."""
    caplog.set_level(logging.INFO, "bert_tfx.modeling.checkpoints.loading")
    return lambda: [record.getMessage() for record in caplog.records]


# --- what published checkpoints compute ---


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_layer_is_the_references(name):
    folder = published(name)
    expected = np.load(folder / "expected.npz")
    mask = expected["input_mask" if name == "google_bert" else "attention_mask"]
    inputs = {
        "token_ids": expected["input_ids"],
        "segment_ids": expected["segment_ids" if name == "google_bert" else "token_type_ids"],
        "padding_mask": mask,
    }
    if name == "google_bert":
        states = [expected[key] for key in ("embedding", "layer_0", "layer_1", "layer_2")]
    else:
        states = [expected[f"hidden_{i}"] for i in range(5) if f"hidden_{i}" in expected]
    assert len(states) >= 4

    encoder = load_encoder(str(folder))
    assert type(encoder) is PUBLISHED[name]
    classifier = load_classifier(str(folder), 3)
    for outputs in (encoder(inputs), classifier.encoder(inputs)):
        for layer, (ours, theirs) in enumerate(zip(outputs["hidden_states"], states, strict=True)):
            difference = np.abs(np.asarray(ours) - theirs)[mask == 1].max()
            assert difference < 1e-5, f"hidden state {layer} is {difference:.1e} away"
        np.testing.assert_array_equal(outputs["sequence_output"], outputs["hidden_states"][-1])
        assert ("pooled_output" in outputs) == (not name.startswith("hf_distilbert"))
        if "pooled" in expected:
            np.testing.assert_allclose(
                outputs["pooled_output"], expected["pooled"], rtol=0, atol=1e-5
            )
    if "logits" in expected:
        np.testing.assert_allclose(classifier(inputs), expected["logits"], rtol=0, atol=1e-5)


def test_every_copy_loads_before_it_is_changed(folder):
    """Else the refusals below would show nothing."""
    assert folder.load().weights
    # What the tests write is what they read.
    folder.write(folder.tensors())
    assert folder.load().weights


# --- strict both ways ---


def test_a_renamed_tensor(folder):
    tensors = folder.tensors()
    name = inner_kernel(tensors)
    tensors[f"{name}_old"] = tensors.pop(name)
    folder.write(tensors)
    message = folder.refusal()
    assert f"\n  missing: {name}\n" in message
    assert message.endswith(f"\n  not known: {name}_old")


def test_a_missing_tensor(folder):
    tensors = folder.tensors()
    left_over = re.compile(r"cls|classifier|pre_classifier|output_|global_step")
    names = sorted(name for name in tensors if not left_over.match(name))
    for name in names[:: len(names) // 8]:
        folder.write({key: value for key, value in tensors.items() if key != name})
        assert folder.refusal().endswith(f" describes it:\n  missing: {name}")


def test_a_tensor_too_many(folder):
    folder.write({**folder.tensors(), "encoder.extra": np.zeros((2, 3), "float32")})
    assert folder.refusal().endswith(" describes it:\n  not known: encoder.extra")


def test_a_transposed_tensor(folder):
    tensors = folder.tensors()
    name = inner_kernel(tensors)
    rows, columns = tensors[name].shape
    assert rows != columns
    tensors[name] = tensors[name].T
    folder.write(tensors)
    assert folder.refusal().endswith(
        f"\n  {name}: shape [{columns}, {rows}], where {folder.config_file.name} asks for "
        f"[{rows}, {columns}]"
    )


def test_another_number_of_layers(folder):
    key, layers = folder.setting("num_hidden_layers", "n_layers")
    last = re.compile(rf"layer[._]{layers - 1}\b")
    if not any(last.search(name) for name in folder.tensors()):
        pytest.skip("ALBERT's layers are one layer many times")
    folder.configure(**{key: layers + 1})
    message = folder.refusal()
    assert re.search(rf"\n  missing: \S*layer[._]{layers}[./]", message)
    assert message.endswith("\n  and 8 more")
    folder.configure(**{key: layers - 1})
    message = folder.refusal()
    assert len(re.findall(rf"\n  not known: \S*layer[._]{layers - 1}[./]", message)) == 8


def test_another_width(folder):
    key, width = folder.setting("hidden_size", "dim")
    folder.configure(**{key: 2 * width})
    message = folder.refusal()
    assert f"[{2 * width}, {2 * width}]" in message
    assert f"[{width}, {width}]" in message


def test_another_vocabulary(folder):
    (name,) = (key for key in folder.tensors() if re.search(r"word_embeddings(\.weight)?$", key))
    rows, width = folder.tensors()[name].shape
    folder.configure(vocab_size=rows + 1)
    assert folder.refusal().endswith(
        f"\n  {name}: shape [{rows}, {width}], where {folder.config_file.name} asks for "
        f"[{rows + 1}, {width}]"
    )


def test_a_quantized_tensor(folder):
    tensors = folder.tensors()
    name = inner_kernel(tensors)
    folder.write(tensors, **{name: "I8"})
    message = folder.refusal()
    assert f"tensor {name} is of type " in message
    assert "a quantized checkpoint cannot be loaded" in message


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6])
def test_a_truncated_file(folder, share):
    files = [folder.weights]
    if folder.is_google:
        files = [
            folder.weights.with_name(f"bert_model.ckpt.{end}")
            for end in ("index", "data-00000-of-00001")
        ]
    for file in files:
        content = file.read_bytes()
        file.write_bytes(content[: int(share * len(content))])
        assert str(folder.weights) in folder.refusal()
        file.write_bytes(content)
    folder.load()


# --- safetensors ---


@pytest.fixture(params=["bert", "distilbert", "albert"])
def own(request, tmp_path):
    classifier = make_classifier(request.param)
    return classifier, save(classifier, tmp_path / "checkpoint")


def test_one_tensor_under_two_names(own):
    classifier, folder = own
    norms = {"bert": "LayerNorm", "distilbert": "sa_layer_norm", "albert": "full_layer_layer_norm"}
    norm = norms[architecture_of(classifier.encoder)]
    tensors = folder.tensors()
    name = min(key for key in tensors if key.endswith(f"{norm}.weight"))
    old = name.replace(".weight", ".gamma")
    folder.write({**tensors, old: tensors[name]})
    # Which of the two is met first is the file's affair.
    assert re.search(
        rf"tensor {re.escape(name[:-6])}(weight|gamma) stands twice in the checkpoint$",
        folder.refusal(),
    )


def write_shards(folder: Folder, *shards) -> None:
    folder.weights.unlink()
    weight_map = {}
    for i, tensors in enumerate(shards):
        file = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        write_safetensors(folder.path / file, tensors)
        weight_map |= dict.fromkeys(tensors, file)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder.path / "model.safetensors.index.json").write_text(json.dumps(index))


def test_shards(own):
    classifier, folder = own
    tensors = list(folder.tensors().items())
    write_shards(folder, dict(tensors[:5]), dict(tensors[5:9]), dict(tensors[9:]))
    assert_same_weights(load_classifier(str(folder.path), 3), classifier)


def test_one_tensor_in_two_shards(own):
    _, folder = own
    tensors = folder.tensors()
    name = inner_kernel(tensors)
    write_shards(folder, tensors, {name: tensors[name]})
    assert f"tensor {name} stands twice in the checkpoint" in folder.refusal()


@pytest.mark.parametrize("kind", ["F16", "BF16", "F64", "F32"])
def test_weights_of_other_types(own, kind):
    classifier, folder = own
    tensors = folder.tensors()
    folder.write(tensors, **dict.fromkeys(tensors, kind))
    for weight in classifier.weights:
        weight.assign(np.asarray(weight).astype(NUMPY_TYPES[kind]).astype("float32"))
    loaded = load_classifier(str(folder.path), 3)
    assert_same_weights(loaded, classifier)
    assert {weight.dtype for weight in loaded.weights} == {"float32"}


def test_the_old_names_of_layer_norm(own):
    classifier, folder = own
    old = {
        re.sub(
            r"(LayerNorm|layer_norm)\.(weight|bias)$",
            lambda m: f"{m[1]}.{'gamma' if m[2] == 'weight' else 'beta'}",
            name,
        ): value
        for name, value in folder.tensors().items()
    }
    assert sum(name.endswith(".gamma") for name in old) >= 3
    folder.write(old)
    assert_same_weights(load_classifier(str(folder.path), 3), classifier)


def test_with_and_without_the_models_prefix(own):
    classifier, folder = own
    prefix = f"{architecture_of(classifier.encoder)}."
    whole = folder.tensors()
    bare = {name.removeprefix(prefix): value for name, value in whole.items()}
    assert set(bare).isdisjoint(name for name in whole if name.startswith(prefix))
    folder.write(bare)
    assert_same_weights(load_classifier(str(folder.path), 3), classifier)
    # A prefix for some only fits no model.
    name = inner_kernel(whole)
    folder.write({**whole, name.removeprefix(prefix): whole[name]})
    assert folder.refusal().endswith(f"\n  not known: {name.removeprefix(prefix)}")


LEFT_OVER = {
    "bert": [
        "cls.predictions.bias",
        "cls.predictions.decoder.weight",
        "cls.predictions.transform.dense.weight",
        "cls.predictions.transform.LayerNorm.gamma",
        "cls.predictions.transform.LayerNorm.bias",
        "cls.seq_relationship.weight",
        "cls.seq_relationship.bias",
        "bert.embeddings.position_ids",
        "bert.embeddings.token_type_ids",
    ],
    "distilbert": [
        "vocab_transform.weight",
        "vocab_layer_norm.weight",
        "vocab_layer_norm.beta",
        "vocab_projector.bias",
        "distilbert.embeddings.position_ids",
    ],
    "albert": [
        "predictions.bias",
        "predictions.LayerNorm.weight",
        "predictions.dense.weight",
        "predictions.decoder.weight",
        "sop_classifier.classifier.weight",
        "albert.embeddings.position_ids",
        "albert.embeddings.token_type_ids",
    ],
}


def test_other_heads_and_buffers_are_left_over_quietly(own, messages):
    classifier, folder = own
    extra = LEFT_OVER[architecture_of(classifier.encoder)]
    buffers = {name: "I64" for name in extra if name.endswith("_ids")}
    tensors = {**folder.tensors(), **dict.fromkeys(extra, np.ones((2, 3)))}
    folder.write(tensors, **buffers)
    assert_same_weights(load_classifier(str(folder.path), 3), classifier)
    assert_same_weights(folder.load(), classifier.encoder)
    assert messages() == []


@pytest.mark.parametrize(
    "name", ["global_step_2", "embeddings.position_ids.weight", "x.cls.predictions.bias"]
)
def test_what_only_looks_like_it_is_not_left_over(own, name):
    _, folder = own
    folder.write({**folder.tensors(), name: np.ones(3)})
    assert folder.refusal().endswith(f"\n  not known: {name}")


def test_a_broken_header(own):
    _, folder = own
    for content in (b"", b"\xff" * 100, b"\x02\0\0\0\0\0\0\0{}x", b"version https://git-lfs"):
        folder.weights.write_bytes(content)
        if content:
            assert folder.refusal().startswith(f"{folder.weights}: cannot be read as safetensors: ")


# --- Google's format ---


@pytest.fixture
def own_google(tmp_path):
    classifier = make_classifier("bert", activation="gelu_tanh")
    return classifier, save_google(classifier, tmp_path / "uncased_L-2_H-12_A-3")


def test_googles_head(own_google, messages):
    classifier, folder = own_google
    assert folder.tensors()["output_weights"].shape == (3, 12)
    loaded = load_classifier(str(folder.path), 3)
    assert_same_weights(loaded, classifier)
    np.testing.assert_array_equal(loaded(make_inputs()), classifier(make_inputs()))
    assert messages() == []


def test_what_pre_training_and_fine_tuning_leave_is_left_over_quietly(own_google, messages):
    classifier, folder = own_google
    tensors = folder.tensors()
    slots = {f"{name}/adam_{slot}": value for name, value in tensors.items() for slot in "mv"}
    heads = [
        "cls/predictions/output_bias",
        "cls/predictions/transform/LayerNorm/gamma",
        "cls/predictions/transform/dense/kernel",
        "cls/seq_relationship/output_weights",
        "cls/seq_relationship/output_bias/adam_m",
    ]
    extra = {**slots, **dict.fromkeys(heads, np.ones((2, 3))), "global_step": np.int64(7)}
    folder.write({**tensors, **extra})
    assert_same_weights(load_classifier(str(folder.path), 3), classifier)
    assert_same_weights(folder.load(), classifier.encoder)
    assert messages() == []


def test_a_flipped_bit(own_google):
    _, folder = own_google
    file = folder.path / "bert_model.ckpt.data-00000-of-00001"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    # TensorFlow's check sum knows.
    assert re.search(r"tensor bert/\S+ cannot be read: .*[Cc]hecksum", folder.refusal())


def test_a_saver_that_names_no_model(own_google):
    _, folder = own_google
    folder.write({"weights": np.ones(3, "float32")})
    message = folder.refusal()
    assert "missing: bert/embeddings/word_embeddings\n" in message
    assert re.search(r"\n  and \d+ more$", message)


# --- BERT under other names, BERT without a pooler ---


def test_roberta_wwm_ext_is_a_bert(tmp_path, messages):
    classifier = make_classifier("bert")
    folder = save(classifier, tmp_path / "chinese-roberta-wwm-ext")
    config = json.loads(folder.config_file.read_text())
    for key in ("id2label", "label2id", "model_type", "classifier_dropout"):
        del config[key]
    folder.config_file.write_text(json.dumps(config))
    folder.configure(
        architectures=["BertForMaskedLM"],
        directionality="bidi",
        output_past=True,
        pooler_fc_size=768,
        pooler_num_attention_heads=12,
        pooler_num_fc_layers=3,
        pooler_size_per_head=128,
        pooler_type="first_token_transform",
    )
    tensors = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): value
        for name, value in folder.tensors().items()
        if not name.startswith("classifier.")
    }
    heads = dict.fromkeys(LEFT_OVER["bert"][:6], np.ones((2, 3), "float32"))
    folder.write({**tensors, **heads})
    encoder = folder.load()
    assert type(encoder) is BertEncoder
    assert_same_weights(encoder, classifier.encoder)
    assert messages() == []


@pytest.mark.parametrize("architecture", ["bert", "albert"])
def test_masked_words_alone_need_no_pooler(tmp_path, messages, architecture):
    classifier = make_classifier(architecture)
    folder = save(classifier, tmp_path / "checkpoint")
    name = {"bert": "BertForMaskedLM", "albert": "AlbertForMaskedLM"}[architecture]
    folder.configure(architectures=[name], initializer_range=0.02)
    folder.write({key: v for key, v in folder.tensors().items() if "pooler" not in key})
    encoder = folder.load()
    message = f"{folder.path}: made for masked words, without a pooler; the pooler is new"
    assert messages() == [message]

    kernel, bias = encoder.pooler.weights
    assert 0.01 < np.std(kernel) < 0.03
    assert not np.any(bias)
    for ours, theirs in zip(encoder.weights[:-2], classifier.encoder.weights[:-2], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    # The configuration of any other model promises one.
    folder.configure(architectures=["BertModel"])
    prefix = architecture
    dense = {"bert": "pooler.dense", "albert": "pooler"}[architecture]
    assert folder.refusal().endswith(
        f"\n  missing: {prefix}.{dense}.weight\n  missing: {prefix}.{dense}.bias"
    )


# --- the head ---


def test_a_head_with_as_many_labels_is_loaded(folder, messages):
    tensors = folder.tensors()
    head = tensors.get("classifier.weight", tensors.get("output_weights"))
    classifier = load_classifier(str(folder.path), 3)
    if head is None:
        assert messages() == [f"{folder.path}: no classification head there; the head is new"]
        assert np.any(classifier.logits.kernel)
        assert not np.any(classifier.logits.bias)
    else:
        assert messages() == []
        np.testing.assert_array_equal(classifier.logits.kernel, head.T)
    assert_same_weights(classifier.encoder, folder.load())


def test_a_head_with_other_labels_is_new(own, own_google, messages):
    for classifier, folder in (own, own_google):
        loaded = load_classifier(str(folder.path), 5)
        message = f"{folder.path}: its head answers 3 labels, not 5; the head is new"
        assert messages().pop() == message
        assert loaded.logits.kernel.shape == (12, 5)
        heads = [loaded.logits, *filter(None, [loaded.pre_classifier])]
        for head in heads:
            assert 0.1 < np.std(head.kernel) < 0.5
            assert not np.any(head.bias)
        assert_same_weights(loaded.encoder, classifier.encoder)


def test_half_a_head_is_refused(own):
    _, folder = own
    folder.write({k: v for k, v in folder.tensors().items() if k != "classifier.bias"})
    with pytest.raises(InputError, match=r"\n  missing: classifier.bias$"):
        load_classifier(str(folder.path), 3)
    # Who wants the encoder alone does not need it.
    folder.load()
    load_classifier(str(folder.path), 4)


def test_a_head_that_is_none_is_new(own, messages):
    _, folder = own
    folder.write({**folder.tensors(), "classifier.weight": np.float32(1.0)})
    load_classifier(str(folder.path), 3)
    assert messages() == [f"{folder.path}: its head answers 0 labels, not 3; the head is new"]


def test_the_heads_dropout(own):
    _, folder = own
    key, value = folder.setting(
        "classifier_dropout", "seq_classif_dropout", "classifier_dropout_prob"
    )
    assert load_classifier(str(folder.path), 3).dropout_rate == value
    folder.configure(**{key: 0.35})
    assert load_classifier(str(folder.path), 3).dropout_rate == 0.35
    assert load_classifier(str(folder.path), 3, head_dropout=0.0).dropout_rate == 0.0


# --- overrides ---


@pytest.mark.parametrize("form", ["safetensors", "keras"])
def test_overrides(own, form):
    classifier, folder = own
    path = str(folder.path)
    if form == "keras":
        path = str(folder.path / "classifier.keras")
        classifier.save(path)
    exact = np.asarray(classifier(make_inputs()))

    loaded = load_classifier(path, 3, hidden_dropout=0.4, attention_dropout=0.25)
    assert loaded.encoder.config.hidden_dropout == 0.4
    assert loaded.encoder.get_config()["attention_dropout"] == 0.25
    assert_same_weights(loaded, classifier)
    np.testing.assert_array_equal(loaded(make_inputs()), exact)

    loaded = load_classifier(path, 3, dtype="mixed_bfloat16")
    assert loaded.compute_dtype == loaded.encoder.compute_dtype == "bfloat16"
    assert_same_weights(loaded, classifier)
    assert 0 < np.abs(np.asarray(loaded(make_inputs())) - exact).max() < 0.2

    activation = "gelu_tanh" if classifier.encoder.config.activation == "gelu" else "gelu"
    encoder = load_encoder(path, activation=activation)
    assert encoder.config.activation == activation
    assert_same_weights(encoder, classifier.encoder)
    states = [model(make_inputs())["sequence_output"] for model in (encoder, classifier.encoder)]
    assert 0 < np.abs(np.asarray(states[0]) - np.asarray(states[1])).max() < 0.1


def test_loaded_layers_keep_the_range_of_initial_values(own):
    _, folder = own
    folder.configure(initializer_range=0.07)
    assert folder.load().get_config()["initializer_range"] == 0.07
    loaded = load_classifier(str(folder.path), 3, initializer_range=0.05)
    assert loaded.encoder.config.initializer_range == 0.05


@pytest.mark.parametrize("form", ["safetensors", "keras"])
def test_overrides_that_the_weights_do_not_fit(own, form):
    classifier, folder = own
    path = str(folder.path)
    if form == "keras":
        path = str(folder.path / "classifier.keras")
        classifier.save(path)
    with pytest.raises(InputError, match=r"\[50, (12|8)\].*\[60, (12|8)\]"):
        load_encoder(path, vocab_size=60)
    if not isinstance(classifier.encoder, AlbertEncoder):
        with pytest.raises(InputError, match=r"block_2|layer.2"):
            load_encoder(path, num_layers=3)


# --- classifiers of our own ---


@pytest.mark.parametrize("architecture", ENCODERS)
@pytest.mark.parametrize("as_folder", [True, False])
def test_own_classifiers(tmp_path, messages, architecture, as_folder):
    classifier = make_classifier(architecture, dropout=0.3)
    classifier.save(tmp_path / "classifier.keras")
    path = str(tmp_path if as_folder else tmp_path / "classifier.keras")

    encoder = load_encoder(path)
    assert type(encoder) is ENCODERS[architecture]
    assert_same_weights(encoder, classifier.encoder)

    loaded = load_classifier(path, 3)
    assert_same_weights(loaded, classifier)
    assert loaded.dropout_rate == 0.3
    loaded = load_classifier(path, 3, head_dropout=0.1)
    assert_same_weights(loaded, classifier)
    assert loaded.dropout_rate == 0.1
    assert messages() == []

    loaded = load_classifier(path, 5)
    assert messages() == [f"{path}: its head answers 3 labels, not 5; the head is new"]
    assert_same_weights(loaded.encoder, classifier.encoder)
    assert loaded.logits.kernel.shape == (12, 5)
    assert np.any(loaded.logits.kernel)


def test_keras_files_that_hold_something_else(tmp_path):
    path = tmp_path / "classifier.keras"
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(path)
    with pytest.raises(InputError) as error:
        load_encoder(str(path))
    assert str(error.value) == f"{path}: holds a Sequential, not a TextClassifier"


def test_broken_keras_files(tmp_path):
    path = tmp_path / "classifier.keras"
    make_classifier("bert").save(path)
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}

    def refused(content: bytes) -> None:
        path.write_bytes(content)
        with pytest.raises(InputError) as error:
            load_encoder(str(tmp_path))
        assert str(error.value).startswith(f"{path}: cannot be loaded as a Keras model: ")

    def archive(**changes) -> bytes:
        with zipfile.ZipFile(path, "w") as file:
            for name, content in {**members, **changes}.items():
                if content is not None:
                    file.writestr(name, content)
        return path.read_bytes()

    refused(b"")
    refused(b"not a zip file")
    refused(whole[: len(whole) // 2])
    # One bit, in the middle of the weights: the archive's check sum knows.
    middle = whole.index(members["model.weights.h5"][:64]) + len(members["model.weights.h5"]) // 2
    refused(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    for name in ("config.json", "model.weights.h5"):
        refused(archive(**{name: None}))
    refused(archive(**{"config.json": b"{"}))
    refused(archive(**{"config.json": b"[]"}))
    refused(archive(**{"model.weights.h5": b"nothing"}))
    config = members["config.json"]
    refused(archive(**{"config.json": config.replace(b"TextClassifier", b"OtherClassifier")}))
    refused(archive(**{"config.json": config.replace(b'"num_labels": 3', b'"num_labels": 4')}))
    refused(archive(**{"config.json": config.replace(b'"num_labels"', b'"labels"')}))


# --- writing ---

BLOCKS = {
    "bert": {
        "encoder.layer.0.attention.self": ["query", "key", "value"],
        "encoder.layer.0.attention.output": ["dense", "LayerNorm"],
        "encoder.layer.0.intermediate": ["dense"],
        "encoder.layer.0.output": ["dense", "LayerNorm"],
        "pooler": ["dense"],
    },
    "distilbert": {
        "transformer.layer.0.attention": ["q_lin", "k_lin", "v_lin", "out_lin"],
        "transformer.layer.0.ffn": ["lin1", "lin2"],
        "transformer.layer.0": ["sa_layer_norm", "output_layer_norm"],
    },
}
EMBEDDINGS = {
    "bert": ["word_embeddings", "position_embeddings", "token_type_embeddings"],
    "distilbert": ["word_embeddings", "position_embeddings"],
}
HEADS = {"bert": ["classifier"], "distilbert": ["pre_classifier", "classifier"]}


def hugging_faces_names(architecture) -> set[str]:
    """The tensors of a classifier with one layer."""
    layers = [f"{architecture}.embeddings.LayerNorm", *HEADS[architecture]]
    for part, names in BLOCKS[architecture].items():
        layers += [f"{architecture}.{part}.{name}" for name in names]
    embeddings = [f"{architecture}.embeddings.{name}.weight" for name in EMBEDDINGS[architecture]]
    return {*embeddings, *(f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias"))}


def test_the_names_are_hugging_faces(tmp_path):
    expected = {kind: hugging_faces_names(kind) for kind in BLOCKS}
    expected["albert"] = set(load_file(ALBERT / "model.safetensors"))
    for architecture, names in expected.items():
        folder = save(make_classifier(architecture, num_layers=1), tmp_path / architecture)
        assert set(folder.tensors()) == names


@pytest.mark.parametrize("architecture", ENCODERS)
@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh"])
def test_round_trip_is_exact(tmp_path, messages, architecture, activation):
    classifier = make_classifier(
        architecture,
        dropout=0.25,
        activation=activation,
        hidden_dropout=0.15,
        attention_dropout=0.05,
    )
    folder = save(classifier, tmp_path / "deep" / "folder")
    loaded = load_classifier(str(folder.path), 3)
    assert messages() == []
    assert_same_weights(loaded, classifier)
    assert loaded.get_config() == classifier.get_config()
    np.testing.assert_array_equal(loaded(make_inputs()), classifier(make_inputs()))
    # And once more: the same bytes.
    again = save(loaded, tmp_path / "again")
    for name in ("config.json", "model.safetensors", "tokenizer_config.json", "vocab.txt"):
        assert (again.path / name).read_bytes() == (folder.path / name).read_bytes(), name


def test_a_trained_classifier_is_written_without_its_optimizer(tmp_path):
    classifier = make_classifier("bert")
    classifier.compile(
        "adam",
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        run_eagerly=True,
    )
    classifier.train_on_batch(make_inputs(), np.array([0, 1, 2]))
    folder = save(classifier, tmp_path / "checkpoint")
    assert_same_weights(load_classifier(str(folder.path), 3), classifier)


@pytest.mark.parametrize("architecture", ENCODERS)
def test_an_encoder_alone(tmp_path, architecture):
    encoder = make_classifier(architecture).encoder
    folder = save(encoder, tmp_path / "checkpoint", labels=())
    assert folder.setting("architectures")[1] == [
        {"bert": "BertModel", "distilbert": "DistilBertModel", "albert": "AlbertModel"}[
            architecture
        ]
    ]
    assert_same_weights(folder.load(), encoder)


def test_the_files_beside_the_weights(tmp_path):
    folder = save(make_classifier("distilbert"), tmp_path / "checkpoint", lowercase=False)
    config = json.loads(folder.config_file.read_text())
    assert config["architectures"] == ["DistilBertForSequenceClassification"]
    assert config["id2label"] == {"0": "bad", "1": "good", "2": "so-so"}
    assert config["label2id"] == {"bad": 0, "good": 1, "so-so": 2}
    assert config["seq_classif_dropout"] == 0.2
    assert json.loads((folder.path / "tokenizer_config.json").read_text()) == {
        "tokenizer_class": "DistilBertTokenizer",
        "do_lower_case": False,
        "model_max_length": 16,
    }
    assert (folder.path / "vocab.txt").read_bytes() == (tmp_path / "checkpoint.txt").read_bytes()
    # Whoever may read the folder may read all of it.
    assert len({file.stat().st_mode & 0o777 for file in folder.path.iterdir()}) == 1


def test_weights_of_a_mixed_policy_are_written_as_float32(tmp_path):
    classifier = make_classifier("bert", dtype="mixed_bfloat16")
    tensors = save(classifier, tmp_path / "checkpoint").tensors()
    assert {tensor.dtype for tensor in tensors.values()} == {np.dtype("float32")}


def test_labels_in_any_script_under_any_locale(tmp_path, monkeypatch):
    write_text = pathlib.Path.write_text

    def latin(path, text, encoding="latin-1", **options):
        return write_text(path, text, encoding=encoding, **options)

    monkeypatch.setattr(pathlib.Path, "write_text", latin)
    folder = tmp_path / "checkpoint"
    vocab_file = tmp_path / "vocab.txt"
    vocab_file.write_bytes(b"x\n")
    save_hugging_face(
        make_classifier("bert", 2),
        str(folder),
        labels=["差评", "好评"],
        vocab_file=str(vocab_file),
        lowercase=True,
    )
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["id2label"] == {"0": "差评", "1": "好评"}


def test_an_existing_folder_is_refused(tmp_path):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    with pytest.raises(InputError) as error:
        save(make_classifier("bert"), folder)
    assert str(error.value) == (
        f"{folder}: exists already; name a new folder, or remove this one first"
    )
    assert not os.listdir(folder)


@pytest.mark.parametrize(
    "failing", ["shutil.copyfile", "safetensors.numpy.save_file", "json.dumps"]
)
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_failure_in_the_middle_leaves_nothing(tmp_path, monkeypatch, failing, error):
    def fail(*arguments, **options):
        raise error("no space left")

    classifier = make_classifier("bert")
    monkeypatch.setattr(failing, fail)
    with pytest.raises(error, match="no space left"):
        save(classifier, tmp_path / "checkpoint")
    assert os.listdir(tmp_path) == ["checkpoint.txt"]
