import json
import pathlib
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bert_tfx.modeling.checkpoints.files import (
    GOOGLE,
    HUGGING_FACE,
    KERAS,
    SETTINGS,
    CheckpointFiles,
    find_checkpoint,
)
from bert_tfx.schema.errors import InputError

VOCABULARIES = pathlib.Path(__file__).parents[3] / ".." / "shared" / "vocab"

BERT = {
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 12,
    "initializer_range": 0.02,
    "intermediate_size": 20,
    "max_position_embeddings": 16,
    "num_attention_heads": 3,
    "num_hidden_layers": 2,
    "type_vocab_size": 2,
    "vocab_size": 50,
}
DISTILBERT = {
    "model_type": "distilbert",
    "activation": "gelu",
    "attention_dropout": 0.1,
    "dim": 12,
    "dropout": 0.1,
    "hidden_dim": 20,
    "initializer_range": 0.02,
    "max_position_embeddings": 16,
    "n_heads": 3,
    "n_layers": 2,
    "vocab_size": 50,
}
ALBERT = {
    **BERT,
    "model_type": "albert",
    "embedding_size": 6,
    "hidden_act": "gelu_new",
    "inner_group_num": 1,
    "num_hidden_groups": 1,
}
HUGGING_FACE_CONFIGS = {
    "bert": {**BERT, "model_type": "bert", "layer_norm_eps": 1e-12},
    "distilbert": DISTILBERT,
    "albert": ALBERT,
}
# As HFL publishes Chinese RoBERTa-wwm-ext, which is a BERT.
WWM_EXT = {
    **BERT,
    "architectures": ["BertForMaskedLM"],
    "bos_token_id": 0,
    "directionality": "bidi",
    "eos_token_id": 2,
    "layer_norm_eps": 1e-12,
    "output_past": True,
    "pad_token_id": 0,
    "pooler_fc_size": 768,
    "pooler_num_attention_heads": 12,
    "pooler_num_fc_layers": 3,
    "pooler_size_per_head": 128,
    "pooler_type": "first_token_transform",
}
TRANSLATED = {
    "vocab_size": 50,
    "hidden_dim": 12,
    "num_layers": 2,
    "num_heads": 3,
    "intermediate_dim": 20,
    "max_length": 16,
    "activation": "gelu",
    "hidden_dropout": 0.1,
    "attention_dropout": 0.1,
    "initializer_range": 0.02,
}
TRANSLATED_BERT = {**TRANSLATED, "num_segments": 2, "layer_norm_epsilon": 1e-12}


def without(config, *keys):
    return {key: value for key, value in config.items() if key not in keys}


def write(path: pathlib.Path, content: object = "") -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text, encoding="utf-8")
    return path


def google(folder, config=BERT, prefix="bert_model.ckpt"):
    write(folder / "bert_config.json", config)
    write(folder / f"{prefix}.index")
    write(folder / f"{prefix}.data-00000-of-00001")
    return folder


def hugging_face(folder, config):
    write(folder / "config.json", config)
    write(folder / "model.safetensors")
    return folder


def refusal(path) -> str:
    with pytest.raises(InputError) as error:
        find_checkpoint(str(path))
    return str(error.value)


# --- what is recognised ---


def test_google(tmp_path):
    assert find_checkpoint(str(google(tmp_path))) == CheckpointFiles(
        path=str(tmp_path),
        format=GOOGLE,
        weights=(str(tmp_path / "bert_model.ckpt"),),
        architecture="bert",
        # In Google's code GELU is the approximation.
        config={**TRANSLATED_BERT, "activation": "gelu_tanh"},
    )


@pytest.mark.parametrize("architecture", HUGGING_FACE_CONFIGS)
def test_hugging_face(tmp_path, architecture):
    expected = {
        "bert": TRANSLATED_BERT,
        "distilbert": TRANSLATED,
        "albert": {**TRANSLATED_BERT, "embedding_dim": 6, "activation": "gelu_tanh"},
    }
    found = find_checkpoint(str(hugging_face(tmp_path, HUGGING_FACE_CONFIGS[architecture])))
    assert found == CheckpointFiles(
        path=str(tmp_path),
        format=HUGGING_FACE,
        weights=(str(tmp_path / "model.safetensors"),),
        architecture=architecture,
        config=expected[architecture],
    )
    assert found.config_file == str(tmp_path / "config.json")


@pytest.mark.parametrize("as_folder", [True, False])
def test_own_classifier(tmp_path, as_folder):
    file = write(tmp_path / "classifier.keras")
    path = str(tmp_path if as_folder else file)
    found = find_checkpoint(path)
    assert found == CheckpointFiles(path, KERAS, (str(file),), None, {})
    assert found.config_file == str(file)


def test_shards_in_the_order_of_their_names(tmp_path):
    write(tmp_path / "config.json", DISTILBERT)
    for name in ("b.safetensors", "a.safetensors"):
        write(tmp_path / name)
    write(
        tmp_path / "model.safetensors.index.json",
        {"weight_map": {"x": "b.safetensors", "y": "a.safetensors", "z": "b.safetensors"}},
    )
    expected = tuple(str(tmp_path / name) for name in ("a.safetensors", "b.safetensors"))
    assert find_checkpoint(str(tmp_path)).weights == expected


@pytest.mark.parametrize("name", ["chinese", "uncased"])
@pytest.mark.skipif(not VOCABULARIES.is_dir(), reason="../shared/vocab is not here")
def test_googles_own_configs(tmp_path, name):
    config = json.loads((VOCABULARIES / f"{name}_bert_config.json").read_text())
    assert find_checkpoint(str(google(tmp_path, config))).config == {
        "vocab_size": {"chinese": 21128, "uncased": 30522}[name],
        "hidden_dim": 768,
        "num_layers": 12,
        "num_heads": 12,
        "intermediate_dim": 3072,
        "max_length": 512,
        "num_segments": 2,
        "activation": "gelu_tanh",
        "hidden_dropout": 0.1,
        "attention_dropout": 0.1,
        "layer_norm_epsilon": 1e-12,
        "initializer_range": 0.02,
    }


@pytest.mark.parametrize(
    "config", [WWM_EXT, {**WWM_EXT, "model_type": "bert"}, BERT], ids=["wwm", "wwm-typed", "old"]
)
def test_a_bert_is_one_whatever_it_is_called(tmp_path, config):
    found = find_checkpoint(str(hugging_face(tmp_path / "chinese-roberta-wwm-ext", config)))
    assert (found.architecture, found.config) == ("bert", TRANSLATED_BERT)
    assert found.has_pooler == (config is BERT)


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ("bert", {"num_segments": 2, "activation": "gelu", "hidden_dropout": 0.1}),
        ("distilbert", {"activation": "gelu", "hidden_dropout": 0.1}),
        ("albert", {"num_segments": 2, "activation": "gelu_tanh", "hidden_dropout": 0.0}),
    ],
)
def test_what_may_be_missing_has_the_published_default(tmp_path, architecture, expected):
    required = {s.name for s in SETTINGS[architecture].values() if s.default is None}
    whole = HUGGING_FACE_CONFIGS[architecture]
    config = {key: whole[key] for key in whole if key in required | {"model_type"}}
    found = find_checkpoint(str(hugging_face(tmp_path, config))).config
    assert found.items() >= expected.items()
    assert found["attention_dropout"] == expected["hidden_dropout"]
    assert found["initializer_range"] == 0.02


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("gelu", "gelu"),
        ("gelu_python", "gelu"),
        ("gelu_new", "gelu_tanh"),
        ("gelu_pytorch_tanh", "gelu_tanh"),
        ("gelu_fast", "gelu_tanh"),
    ],
)
def test_kinds_of_gelu(tmp_path, name, kind):
    config = {**HUGGING_FACE_CONFIGS["bert"], "hidden_act": name}
    assert find_checkpoint(str(hugging_face(tmp_path, config))).config["activation"] == kind


@pytest.mark.parametrize(
    ("architecture", "key"),
    [
        ("bert", "classifier_dropout"),
        ("distilbert", "seq_classif_dropout"),
        ("albert", "classifier_dropout_prob"),
    ],
)
def test_head_dropout(tmp_path, architecture, key):
    config = HUGGING_FACE_CONFIGS[architecture]
    for value in (0.3, 0, None):
        hugging_face(tmp_path, {**config, key: value})
        assert find_checkpoint(str(tmp_path)).head_dropout == value
    hugging_face(tmp_path, {**config, key: 1.5})
    message = f"{tmp_path / 'config.json'}: {key} must be a number in [0, 1). Received: 1.5"
    assert refusal(tmp_path) == message


# --- what lies beside the weights ---


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("model.json", "lowercase"),
        ("preset.json", "lowercase"),
        ("tokenizer_config.json", "do_lower_case"),
    ],
)
@pytest.mark.parametrize("form", ["google", "hugging_face", "keras"])
def test_vocabulary_and_casing(tmp_path, form, name, key):
    if form == "google":
        google(tmp_path)
    elif form == "hugging_face":
        hugging_face(tmp_path, DISTILBERT)
    else:
        write(tmp_path / "classifier.keras")
    assert find_checkpoint(str(tmp_path)).vocab_file is None

    vocab_file = write(tmp_path / "vocab.txt")
    for lowercase in (True, False):
        write(tmp_path / name, {key: lowercase})
        found = find_checkpoint(str(tmp_path))
        assert (found.vocab_file, found.lowercase) == (str(vocab_file), lowercase)
    # Something else there says nothing.
    write(tmp_path / name, {key: "yes"})
    assert find_checkpoint(str(tmp_path)).lowercase is None


def test_the_projects_own_word_on_casing_comes_first(tmp_path):
    hugging_face(tmp_path, DISTILBERT)
    write(tmp_path / "tokenizer_config.json", {"do_lower_case": True})
    write(tmp_path / "preset.json", {"lowercase": False})
    assert find_checkpoint(str(tmp_path)).lowercase is False


def test_a_broken_file_beside_the_weights_is_named(tmp_path):
    hugging_face(tmp_path, DISTILBERT)
    file = write(tmp_path / "tokenizer_config.json", "{")
    assert refusal(tmp_path).startswith(f"{file}: not JSON: ")


# --- what is refused ---

FORMATS = (
    "expected a folder with bert_config.json and bert_model.ckpt.* (Google's releases), with "
    "config.json and model.safetensors (Hugging Face), or with classifier.keras (bert-tfx)"
)


def test_no_checkpoint(tmp_path):
    assert refusal(tmp_path / "x") == f"{tmp_path / 'x'}: no such checkpoint; {FORMATS}"
    assert refusal(tmp_path) == f"{tmp_path}: not a checkpoint; {FORMATS}, found an empty folder"
    file = write(tmp_path / "vocab.txt")
    assert refusal(file) == f"{file}: not a checkpoint; {FORMATS}"
    assert refusal(tmp_path) == f"{tmp_path}: not a checkpoint; {FORMATS}, found vocab.txt"
    for i in range(20):
        write(tmp_path / f"{i:02}.txt")
    assert refusal(tmp_path).endswith("found " + ", ".join(f"{i:02}.txt" for i in range(8)))


def test_google_without_its_weights(tmp_path):
    write(tmp_path / "bert_config.json", BERT)
    assert refusal(tmp_path) == (
        f"{tmp_path}: its weights are missing: expected bert_model.ckpt.index and "
        "bert_model.ckpt.data-00000-of-00001"
    )
    write(tmp_path / "bert_model.ckpt.index")
    assert refusal(tmp_path) == (
        f"{tmp_path / 'bert_model.ckpt'}.data-*: missing; the .index file alone holds no weights"
    )


def test_google_with_two_checkpoints(tmp_path):
    google(google(tmp_path), prefix="model.ckpt-900")
    assert refusal(tmp_path) == (
        f"{tmp_path}: holds several checkpoints (bert_model.ckpt, model.ckpt-900); leave the one "
        "to load in the folder"
    )


def test_google_with_another_prefix(tmp_path):
    google(tmp_path, prefix="model.ckpt-[900]")
    assert find_checkpoint(str(tmp_path)).weights == (str(tmp_path / "model.ckpt-[900]"),)


def test_hugging_face_without_its_weights(tmp_path):
    write(tmp_path / "config.json", DISTILBERT)
    assert refusal(tmp_path) == (
        f"{tmp_path}: its weights are missing: expected model.safetensors or "
        "model.safetensors.index.json"
    )


@pytest.mark.parametrize(
    "model_type", ["roberta", "BERT", "", None, 7, ["bert"], {"bert": 1}, False]
)
def test_other_architectures(tmp_path, model_type):
    config = without(BERT, "hidden_size") if model_type is None else BERT
    hugging_face(tmp_path, {**config, "model_type": model_type})
    assert refusal(tmp_path) == (
        f"{tmp_path / 'config.json'}: model_type must be one of bert, distilbert, albert. "
        f"Received: {model_type!r}"
    )


def test_an_untyped_albert_is_not_taken_for_a_bert(tmp_path):
    hugging_face(tmp_path, without(ALBERT, "model_type"))
    assert "model_type must be one of" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "computed"),
    [
        ("position_embedding_type", "relative_key", '"absolute"'),
        ("is_decoder", True, "false"),
        ("add_cross_attention", True, "false"),
        ("pruned_heads", {"0": [1]}, "{}"),
        ("quantization_config", {"bits": 4}, "null"),
        ("num_hidden_groups", 2, "1"),
        ("inner_group_num", 3, "1"),
    ],
)
def test_what_is_not_computed_here(tmp_path, key, value, computed):
    hugging_face(tmp_path, {**ALBERT, key: value})
    assert refusal(tmp_path) == (
        f"{tmp_path / 'config.json'}: {key} must be {computed}, the only kind that is computed "
        f"here. Received: {json.dumps(value)}"
    )
    hugging_face(tmp_path, {**ALBERT, key: None})
    find_checkpoint(str(tmp_path))


@pytest.mark.parametrize(
    ("architecture", "argument"),
    [(kind, argument) for kind in SETTINGS for argument in SETTINGS[kind]],
)
def test_every_setting_is_checked(tmp_path, architecture, argument):
    setting = SETTINGS[architecture][argument]
    config = HUGGING_FACE_CONFIGS[architecture]
    where = f"{tmp_path / 'config.json'}: {setting.name}"
    kind, wrong = {
        int: ("a whole number from 1 to 1,000,000", [0, -1, 2.0, "3", True, [1], 10**6 + 1]),
        float: ("a number in [0, 1)", [1, -0.1, "0.1", False, float("nan"), 10**400, [0.1]]),
        str: ("a string", [1, True, ["gelu"], {}]),
    }[setting.kind]
    for value in wrong:
        hugging_face(tmp_path, {**config, setting.name: value})
        assert refusal(tmp_path) == f"{where} must be {kind}. Received: {value!r}"
    hugging_face(tmp_path, {**config, setting.name: None})
    assert refusal(tmp_path) == f"{where} is missing; it must be {kind}"
    if setting.default is None:
        hugging_face(tmp_path, without(config, setting.name))
        assert refusal(tmp_path) == f"{where} is missing; it must be {kind}"


def test_activation_that_is_not_known(tmp_path):
    hugging_face(tmp_path, {**DISTILBERT, "activation": "relu"})
    assert refusal(tmp_path) == (
        f"{tmp_path / 'config.json'}: activation must be one of gelu, gelu_python, gelu_new, "
        "gelu_pytorch_tanh, gelu_fast. Received: 'relu'"
    )
    google(tmp_path, {**BERT, "hidden_act": "relu"})
    assert refusal(tmp_path) == (
        f"{tmp_path / 'bert_config.json'}: hidden_act must be one of gelu. Received: 'relu'"
    )


def test_heads_that_do_not_divide_the_width(tmp_path):
    hugging_face(tmp_path, {**DISTILBERT, "n_heads": 5})
    assert refusal(tmp_path) == (
        f"{tmp_path / 'config.json'}: dim must be a multiple of n_heads. Received: 12 and 5"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON: "),
        ("[" * 100_000, "not JSON: "),
        ("[]", "must hold a JSON object"),
        ("null", "must hold a JSON object"),
    ],
)
@pytest.mark.parametrize("name", ["config.json", "bert_config.json"])
def test_malformed_config(tmp_path, name, content, message):
    file = write(tmp_path / name, content)
    assert refusal(tmp_path).startswith(f"{file}: {message}")


def test_config_that_is_not_utf8(tmp_path):
    (tmp_path / "config.json").write_bytes(b'{"model_type": "\xff"}')
    assert refusal(tmp_path).startswith(f"{tmp_path / 'config.json'}: not JSON: ")


@pytest.mark.parametrize(
    "weight_map", [None, {}, [], "a.safetensors", {"x": ["a"]}, {"x": 1, "y": "a"}, {"x": {}}]
)
def test_malformed_index(tmp_path, weight_map):
    write(tmp_path / "config.json", DISTILBERT)
    index = write(tmp_path / "model.safetensors.index.json", {"weight_map": weight_map})
    assert refusal(tmp_path).startswith(f"{index}: weight_map ")


@pytest.mark.parametrize("name", ["../a.safetensors", "/etc/passwd", "sub/a.safetensors", ".."])
def test_index_that_leaves_the_folder(tmp_path, name):
    folder = tmp_path / "model"
    write(tmp_path / "a.safetensors")
    write(folder / "sub" / "a.safetensors")
    write(folder / "config.json", DISTILBERT)
    write(folder / "model.safetensors.index.json", {"weight_map": {"x": name}})
    message = refusal(folder)
    assert str(folder) in message
    assert name in message


def test_index_that_names_a_missing_shard(tmp_path):
    write(tmp_path / "config.json", DISTILBERT)
    write(tmp_path / "model.safetensors.index.json", {"weight_map": {"x": "a.safetensors"}})
    assert refusal(tmp_path) == (
        f"{tmp_path / 'a.safetensors'}: missing; model.safetensors.index.json names it as a shard"
    )


# --- pickles ---


@pytest.mark.parametrize(
    ("architectures", "model"),
    [
        (["BertForMaskedLM"], "BertForMaskedLM"),
        (None, "BertModel"),
        ([], "BertModel"),
        ("BertModel", "BertModel"),
        ({"a": 1}, "BertModel"),
        (["x; import os"], "BertModel"),
        ([7], "BertModel"),
    ],
)
@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model.bin.index.json"])
def test_a_pickle_is_refused_with_the_way_out(tmp_path, name, architectures, model):
    write(tmp_path / "config.json", {**BERT, "architectures": architectures})
    file = write(tmp_path / name)
    assert refusal(tmp_path) == (
        f"{file}: not loaded: {name} is a pickle, and a pickle can run any code when it is loaded. "
        "Where you trust its origin, convert it once, where torch and transformers are installed:\n"
        f"  python -c \"import transformers; transformers.{model}.from_pretrained('{tmp_path}')"
        f".save_pretrained('{tmp_path}-safetensors')\"\n"
        f"then name {tmp_path}-safetensors, with vocab.txt copied into it"
    )


def test_a_pickle_without_config_or_named_itself(tmp_path):
    file = write(tmp_path / "pytorch_model.bin")
    for path in (tmp_path, file):
        message = refusal(path)
        assert message.startswith(f"{path}: not a checkpoint" if path == file else f"{file}: not")
        assert "pytorch_model.bin is a pickle" in message
        assert f"transformers.BertModel.from_pretrained('{tmp_path}')" in message


def test_a_pickle_beside_safetensors_does_not_matter(tmp_path):
    write(hugging_face(tmp_path, DISTILBERT) / "pytorch_model.bin")
    assert find_checkpoint(str(tmp_path)).weights == (str(tmp_path / "model.safetensors"),)


# --- whatever is in the files ---

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(10**400)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["bert", "albert", "gelu", "model.safetensors", "../x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=4,
)
KEYS = sorted(
    {"model_type", "architectures", "classifier_dropout", "seq_classif_dropout"}
    | {"classifier_dropout_prob", "is_decoder", "pruned_heads", "num_hidden_groups"}
    | {setting.name for kind in SETTINGS.values() for setting in kind.values()}
)


def is_found_or_refused(path: pathlib.Path) -> None:
    try:
        assert isinstance(find_checkpoint(str(path)), CheckpointFiles)
    except InputError as error:
        assert str(path) in str(error)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoint")


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(sorted(HUGGING_FACE_CONFIGS)),
    st.dictionaries(st.sampled_from(KEYS), JSON, min_size=1, max_size=3),
    st.booleans(),
)
def test_any_config_is_found_or_refused(folder, architecture, changes, pickled):
    config = {**HUGGING_FACE_CONFIGS[architecture], **changes}
    google(folder / "google", config)
    hugging_face(folder / "hugging_face", config)
    write(folder / "pickle" / "config.json", config)
    write(folder / "pickle" / "pytorch_model.bin")
    for name in ("google", "hugging_face", "pickle"):
        is_found_or_refused(folder / name)


@settings(deadline=None)
@given(JSON, JSON)
def test_any_index_and_companion_is_found_or_refused(folder, index, companion):
    sharded = folder / "sharded"
    write(sharded / "config.json", DISTILBERT)
    for content in (index, {"weight_map": index}, {"weight_map": {"x": index, "y": "z"}}):
        write(sharded / "model.safetensors.index.json", content)
        is_found_or_refused(sharded)
    for content in (companion, {"lowercase": companion, "do_lower_case": companion}):
        for name in ("model.json", "preset.json", "tokenizer_config.json"):
            write(folder / "beside" / name, content)
        is_found_or_refused(hugging_face(folder / "beside", DISTILBERT))


@settings(deadline=None)
@given(st.binary(max_size=40))
def test_any_bytes_are_found_or_refused(folder, content):
    for name in ("config.json", "bert_config.json"):
        file = folder / "bytes" / name.removesuffix(".json") / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        is_found_or_refused(file.parent)


def test_no_framework_is_loaded():
    code = "import sys, bert_tfx.modeling.checkpoints.files; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {"keras", "numpy", "safetensors", "tensorflow"} & set(done.stdout.split())
    assert not loaded
