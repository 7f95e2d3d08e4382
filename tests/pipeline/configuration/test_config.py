import dataclasses
import datetime
import json
import os

import pytest

from bert_tfx.components.data_gate.checks import parse_limits
from bert_tfx.modeling.training.recipes import RECIPES, TASK_RECIPES, Recipe
from bert_tfx.pipeline.configuration.beam_engine import BEAM_SETTINGS
from bert_tfx.pipeline.configuration.config import OPTIONS, load_options, make_config
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.tasks import TASKS

OWN = {"name": "own", "labels": ["a", "b", "c", "d"], "columns": ["text_a", "label"], "train": "x"}
NEEDED = {"task": "sst2", "data": "data", "output": "output"}


@pytest.fixture
def pem(tmp_path):
    """Files for a server that wants to know who asks."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = x509.CertificateBuilder(
        name, name, key.public_key(), 1, now, now + datetime.timedelta(hours=1)
    ).sign(key, hashes.SHA256())
    encoding = serialization.Encoding.PEM
    contents = {
        "ca": certificate.public_bytes(encoding),
        "client_cert": certificate.public_bytes(encoding),
        "client_key": key.private_bytes(
            encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
        "token": b"a-token",
    }
    for file, content in contents.items():
        (tmp_path / file).write_bytes(content)
    return {file: str(tmp_path / file) for file in contents}


def config(**options):
    return make_config(NEEDED | options)


@pytest.mark.parametrize("name", TASKS)
def test_defaults_are_those_of_the_task(name):
    made = config(task=name)
    assert made.task is TASKS[name]
    assert made.recipe == RECIPES[TASK_RECIPES[name]]
    assert 0.5 < made.promotion.min_accuracy < 1
    assert made.max_rejects == 0
    assert made.vocab_file is made.pretrained is None


def test_own_task_gets_the_plain_recipe_and_must_beat_guessing():
    made = config(task=OWN)
    assert made.task.labels == ("a", "b", "c", "d")
    assert made.recipe == Recipe()
    assert made.promotion.min_accuracy == pytest.approx(1 / 4 + 0.1)
    assert config(task=made.task) == made


def test_lineage_is_that_of_models_that_answer_the_same_questions():
    pairs = {**OWN, "columns": ["text_a", "text_b", "label"]}
    tasks = [OWN, pairs, {**OWN, "labels": ["a", "b"]}, {**OWN, "labels": ["b", "a"]}, "sst2"]
    names = [config(task=task).pipeline_name for task in tasks]
    assert len(set(names)) == len(names)
    assert names[0].startswith("bert-tfx-own-")
    # Where the files lie and what else is in them changes no answer.
    extra = {**OWN, "columns": ["label", "text_a", "source"], "train": "y", "eval": "z"}
    assert config(task=extra, epochs=9, data="elsewhere").pipeline_name == names[0]


def test_own_task_of_a_published_name_takes_over_nothing():
    made = config(task={**OWN, "name": "sst2"})
    assert made.recipe == Recipe() != RECIPES["seed-sst2"]
    assert made.promotion.min_accuracy == pytest.approx(1 / 4 + 0.1)


def test_sample_is_learned_by_the_smallest_size_unless_told_otherwise():
    assert config(task="sample").size == "tiny"
    assert config(task="sample", size="mini").size == "mini"
    assert config(task=OWN).size == "mini"


def test_options_reach_config_and_its_parts(vocab_file, pem):
    values = {
        "model": "distilbert",
        "size": "base",
        "vocab": str(vocab_file),
        "lowercase": False,
        "max_regression": 0,
        "confidence": 0.9,
        "gate_metric": "mcc",
        "min_slice_rows": 7,
        "min_eval_rows": 8,
        "serving_tolerance": 0.01,
        "serving_timeout": 60,
        "max_slowdown": 1.5,
        "max_model_mb": 500,
        "max_server_mb": 2000,
        "max_rejects": 7,
        "min_accuracy": 0.5,
        "eval_fraction": 0.25,
        "span": "7",
        "window": 2,
        "warm_start": True,
        "parallel": 2,
        "slice_by": "source",
        "push_server": "localhost:8500",
        "push_model_name": "reviews",
        "push_timeout": 9,
        "push_tls_ca": pem["ca"],
        "push_tls_cert": pem["client_cert"],
        "push_tls_key": pem["client_key"],
        "push_token_file": pem["token"],
        "report_text": True,
        "beam_runner": "multi_processing",
        "metadata": "mysql://tfx@localhost:3306/records",
        "metadata_password_file": pem["token"],
        "metadata_tls_ca": pem["ca"],
        "metadata_tls_cert": pem["client_cert"],
        "metadata_tls_key": pem["client_key"],
        "lineage": "reviews",
        "notify_command": "true",
        "notify_url": "https://localhost/",
        "notify_token_file": pem["token"],
        "notify_timeout": 9,
        "beam_workers": 2,
        "max_length": 64,
        "batch_size": 8,
        "epochs": 1,
        "learning_rate": 0.5,
        "warmup_fraction": 0,
        "weight_decay": 0,
        "clip_norm": 2.5,
        "patience": 3,
        "max_steps": 5,
        "seed": 0,
        "num_seeds": 2,
        "metric": "mcc",
        "layer_decay": 0.9,
        "freeze_embeddings": True,
        "freeze_layers": 1,
        "label_smoothing": 0.1,
        "class_weights": "balanced",
        "accumulation_steps": 2,
        "precision": "mixed_bfloat16",
        "gradient_checkpointing": True,
        "dropout": 0,
        "distribution": "mirrored",
    }
    made = config(**values)
    parts = {
        field.name: part
        for part in (made.recipe, made.promotion, made.serving, made.hooks, made.beam)
        for field in dataclasses.fields(part)
    }
    # The settings of other engines: test_beam_engine.py.
    others = set(BEAM_SETTINGS) - values.keys()
    assert parts.keys() - others < values.keys()
    for name, value in values.items():
        owner = parts.get(name, made)
        assert getattr(owner, "vocab_file" if name == "vocab" else name) == value
    parsed = {"limits", "resources", "distill", "compress"}
    others |= {"task", "data", "output", "recipe", "pretrained", "pretrained_sha256"} | parsed
    assert others | values.keys() == OPTIONS.keys()


def test_the_newest_span_is_pinned(tmp_path):
    for span in (1, 2):
        (tmp_path / f"{span}.tsv").write_text("text_a\tlabel\nx\ta\n")
    task = {**OWN, "train": "{SPAN}.tsv"}
    made = config(task=task, data=str(tmp_path), window=3)
    assert (made.span, made.spans) == ("2", ("1", "2"))
    (tmp_path / "3.tsv").write_text("text_a\tlabel\nx\ta\n")
    assert made.spans == ("1", "2")
    assert config(task=task, data=str(tmp_path), span="1").spans == ("1",)


@pytest.mark.parametrize("name", ["window", "parallel"])
def test_counts_are_positive(name):
    with pytest.raises(InputError, match=f"{name} must be at least 1"):
        config(**{name: 0})


def test_limits_of_the_data():
    assert config().data_limits == parse_limits()
    given = config(limits="leakage=0.2:stop,truncated=0.5").data_limits
    assert given["leakage"]["stop"] == 0.2
    assert given["truncated"] == {"warn": 0.5}
    assert config(limits={"leakage": {"stop": 0.2}, "truncated": 0.5}).data_limits == given
    with pytest.raises(InputError, match=r"^limits: there is no check 'leaks'; known are leakage,"):
        config(limits="leaks=0.2")


def test_resources_of_nodes():
    assert config().resources == {}
    given = config(resources='{"Trainer": {"gpus": 2}}').resources
    assert given == config(resources={"Trainer": {"gpus": 2}}).resources
    assert given["Trainer"].gpus == 2
    with pytest.raises(InputError, match=r"^resources, Transform: unknown 'worker'; known are"):
        config(resources={"Transform": {"worker": 2}})


def test_files_for_a_server_need_one(pem):
    with pytest.raises(InputError, match=r"^--push-tls-ca is for the server that --push-server"):
        config(push_tls_ca=pem["ca"])
    with pytest.raises(InputError, match=r"none\.pem"):
        config(push_server="localhost:8500", push_tls_ca="none.pem")


def test_recipe_by_name():
    made = config(task=OWN, recipe="seed-sst2", epochs=1)
    assert made.recipe == dataclasses.replace(RECIPES["seed-sst2"], epochs=1)
    with pytest.raises(InputError, match=r"^unknown recipe 'sst2'; known are seed-chnsenticorp, "):
        config(recipe="sst2")


def test_task_is_known_by_the_forerunners_name():
    assert config(task="sst-2") == config(task="sst2")


@pytest.mark.parametrize("name", NEEDED)
def test_needed_option_that_is_missing_is_named(name):
    options = {key: value for key, value in NEEDED.items() if key != name}
    with pytest.raises(InputError, match=rf"^option '{name}' is missing: --{name} names "):
        make_config(options)


def test_unknown_option_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match=r"^unknown option 'epoch'; known are .*epochs, "):
        config(epoch=3)


@pytest.mark.parametrize("task", ["sst-3", "", ["sst2"], 3, None])
def test_unknown_task_is_refused_with_the_known_ones(task):
    with pytest.raises(InputError, match=r"known are chnsenticorp, .*--task-file|must not be ''"):
        config(task=task)


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("epochs", "3", "int"),
        ("epochs", 3.0, "int"),
        ("epochs", True, "int"),
        ("epochs", None, "int"),
        ("max_steps", 3.5, "int"),
        ("learning_rate", "3e-5", "float"),
        ("learning_rate", False, "float"),
        ("min_accuracy", None, "float"),
        ("lowercase", "no", "bool"),
        ("lowercase", 1, "bool"),
        ("data", 3, "str"),
        ("output", ["x"], "str"),
        ("pretrained", None, "str"),
        ("model", 1, "str"),
    ],
)
def test_value_of_another_kind_is_refused(name, value, kind):
    with pytest.raises(InputError, match=rf"^option '{name}' must be {kind}\. Received: "):
        config(**{name: value})


@pytest.mark.parametrize("name", ["data", "output", "vocab", "pretrained", "model"])
def test_empty_value_is_refused(name):
    with pytest.raises(InputError, match=rf"^option '{name}' must not be ''"):
        config(**{name: ""})


@pytest.mark.parametrize("name", [name for name, kind in OPTIONS.items() if kind is float])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_value_that_is_no_number_is_refused(name, value):
    with pytest.raises(InputError, match=rf"^option '{name}' must not be -?(nan|inf)"):
        config(**{name: value})


@pytest.mark.parametrize(
    ("name", "wrong", "right"),
    [
        ("model", ["roberta", "BERT"], ["bert", "distilbert", "albert"]),
        ("size", ["large"], ["tiny", "mini", "small", "medium", "base"]),
        ("beam_runner", ["prism", "DirectRunner"], ["in_memory", "multi_processing"]),
        ("min_accuracy", [-0.01, 1.01], [0, 1, 0.5]),
        ("max_regression", [-0.01, 1.01], [0, 1]),
        ("confidence", [0.49, 1], [0.5, 0.99]),
        ("gate_metric", ["f1"], ["accuracy", "macro_f1", "balanced_accuracy", "mcc"]),
        ("min_slice_rows", [0], [1]),
        ("min_eval_rows", [0], [1]),
        ("serving_tolerance", [0], [1e-6]),
        ("max_slowdown", [0, -1], [0.5, 2]),
        ("eval_fraction", [0, 1, -0.5], [0.01, 0.99]),
        ("max_rejects", [-1], [0, 10**9]),
        ("push_timeout", [0, -1], [0.5]),
        ("max_length", [4, -1], [5, 512]),
        ("batch_size", [0], [1]),
        ("epochs", [0], [1]),
        ("patience", [0], [1]),
        ("seed", [-1], [0]),
        ("max_steps", [0], [1]),
        ("learning_rate", [0, 1, -1e-5], [1e-9, 0.9]),
        ("warmup_fraction", [-0.1, 1], [0, 0.9]),
        ("weight_decay", [-0.01], [0, 0.1]),
        ("clip_norm", [0, -1], [1e-3]),
    ],
)
def test_ranges(name, wrong, right):
    for value in wrong:
        with pytest.raises(InputError, match=name):
            config(**{name: value})
    for value in right:
        config(**{name: value})


def test_paths_become_absolute_and_home_is_filled_in(monkeypatch, tmp_path, vocab_file):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vocab.txt").write_bytes(vocab_file.read_bytes())
    made = config(data="~/rows", output="here/../there", vocab="~/vocab.txt")
    assert made.data_dir == str(tmp_path / "rows")
    assert made.output_dir == str(tmp_path / "there")
    assert made.vocab_file == str(tmp_path / "vocab.txt")
    assert all(
        os.path.dirname(path) == made.output_dir
        for path in (made.artifacts_dir, made.metadata_file, made.serving_dir, made.rejects_dir)
    )


@pytest.mark.parametrize("name", ["a*", "a?", "[a]", "a\\b"])
def test_output_that_would_be_a_pattern_is_refused(monkeypatch, tmp_path, name):
    with pytest.raises(InputError, match=r"must not stand in the path of the output folder"):
        config(output=f"{name}/output")
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    with pytest.raises(InputError, match=r"--output names another"):
        config()


@pytest.mark.parametrize("name", ["data", "output", "vocab", "pretrained"])
def test_urls_are_refused_by_name(tmp_path, vocab_file, name):
    options = {"task": "sst2", "data": str(tmp_path), "output": str(tmp_path / "output")}
    with pytest.raises(InputError, match=r"^gs://bucket/x: is a URL; expected a path of this"):
        make_config({**options, "vocab": str(vocab_file), name: "gs://bucket/x"})


def test_missing_files_are_named_with_the_option(tmp_path, vocab_file):
    nothing = str(tmp_path / "nothing")
    with pytest.raises(InputError, match=rf"^{nothing}: no such file; --vocab names"):
        config(vocab=nothing)
    with pytest.raises(InputError, match=rf"^{nothing}: no such file or folder, and no preset"):
        config(pretrained=nothing, vocab=str(vocab_file))


# The checkpoint to start from.

BERT_CONFIG = {
    "model_type": "bert",
    "vocab_size": 40,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 64,
}
NO_VOCAB = r"there is no vocab.txt beside the weights: --vocab names"


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint's folder; its weights are not read here."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(BERT_CONFIG))
    (folder / "model.safetensors").touch()
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\nx\n")
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    return folder


def test_checkpoint_says_model_vocabulary_and_casing(checkpoint, vocab_file):
    made = config(pretrained=str(checkpoint), max_length=64)
    assert made.pretrained == str(checkpoint)
    assert made.model == "bert"
    assert made.vocab_file == str(checkpoint / "vocab.txt")
    assert made.lowercase is False
    assert config(pretrained=str(checkpoint), max_length=64, lowercase=True).lowercase is True
    with pytest.raises(InputError, match=r"is another vocabulary than .*: leave --vocab out$"):
        config(pretrained=str(checkpoint), max_length=64, vocab=str(vocab_file))
    (checkpoint / "vocab.txt").unlink()
    told = config(pretrained=str(checkpoint), max_length=64, vocab=str(vocab_file))
    assert told.vocab_file == str(vocab_file)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "distilbert"}, r"is a bert checkpoint, but --model says distilbert"),
        ({"size": "mini"}, r"^--size and --pretrained: a checkpoint has a size"),
        ({"max_length": 65}, r"^max_length is 65, but .* has positions for 64 tokens only"),
        ({"pretrained_sha256": "00"}, r"is no archive, so it has no SHA-256 to check"),
    ],
)
def test_checkpoint_and_options_that_contradict_each_other(checkpoint, options, message):
    with pytest.raises(InputError, match=message):
        config(**{"pretrained": str(checkpoint), "max_length": 64, **options})


def test_uncased_vocabulary_without_lower_casing_is_warned_of(vocab_file, tmp_path, caplog):
    config(vocab=str(vocab_file))
    assert not caplog.records
    config(vocab=str(vocab_file), lowercase=False)
    assert "--lowercase mends that" in caplog.text
    caplog.clear()
    (tmp_path / "cased.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n##A\n")
    config(vocab=str(tmp_path / "cased.txt"), lowercase=False)
    assert not caplog.records


def test_vocabulary_must_fit_the_checkpoint(checkpoint):
    def made():
        return config(pretrained=str(checkpoint), max_length=64)

    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *map(str, range(36))]
    (checkpoint / "vocab.txt").write_text("\n".join(tokens))
    assert made()
    (checkpoint / "vocab.txt").write_text("\n".join([*tokens, "more"]))
    with pytest.raises(InputError, match=r"holds 41 tokens, but .* has embeddings for 40 only"):
        made()
    (checkpoint / "vocab.txt").unlink()
    with pytest.raises(InputError, match=NO_VOCAB):
        made()


def test_sha256_without_a_checkpoint_is_refused():
    with pytest.raises(InputError, match=r"^pretrained_sha256: there is no --pretrained to check"):
        config(pretrained_sha256="00")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[UNK]\n[CLS]\nx\n", r"\[SEP\] not found in 3 lines"),
        (b"", r"\[UNK\], \[CLS\], \[SEP\] not found"),
        (b"[UNK]\n[CLS]\n[SEP]\nx\ny\nx\n", r", line 6: token 'x' stands already in line 4"),
        (b"[UNK]\n[CLS]\n\n[SEP]\n", r", line 3: the line is empty"),
        (b"[UNK]\n[CLS]\n[SEP]\n\xff\n", r", line 4: not UTF-8"),
    ],
)
def test_malformed_vocabulary_is_refused(tmp_path, content, message):
    path = tmp_path / "vocab.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"^{path}.*{message}"):
        config(vocab=str(path))


@pytest.mark.parametrize("eval_file", [True, False])
def test_slices_are_extra_columns_of_the_eval_rows(tmp_path, eval_file):
    columns = ["text_a", "label", "source", "year"]
    task = {**OWN, "columns": columns, "train": "train.tsv"}
    (tmp_path / "train.tsv").write_text("text_a\tlabel\tsource\tyear\n")
    if eval_file:
        task["eval"] = "dev.tsv"
        (tmp_path / "dev.tsv").write_text("text_a\tlabel\tsource\tyear\n")

    def slices(**options):
        return config(task=task, data=str(tmp_path), **options).slice_columns

    assert slices() == ()
    assert slices(slice_by="year") == ("year",)
    assert slices(slice_by="year,source") == ("year", "source")
    for name in ("text_a", "label", "place", " year"):
        message = rf"^slice_by: '{name}' is no extra column .*; there are source, year$"
        with pytest.raises(InputError, match=message):
            slices(slice_by=name)


def test_path_of_the_beam_job_server_becomes_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    flink = {"beam_master": "[local]", "beam_environment": "loopback"}
    made = config(beam_runner="flink", beam_job_server_jar="flink.jar", **flink)
    assert made.beam.beam_job_server_jar == str(tmp_path / "flink.jar")


def test_workers_of_a_node_need_an_engine_that_has_more_than_one():
    workers = {"Transform": {"workers": 2}}
    with pytest.raises(InputError, match=r"^resources, Transform: workers .*in_memory, which has"):
        config(resources=workers)
    assert config(resources=workers, beam_runner="multi_processing")


def test_options_come_from_a_file(tmp_path):
    path = tmp_path / "options.json"
    path.write_text(json.dumps(NEEDED | {"task": OWN, "epochs": 2}), encoding="utf-8")
    made = make_config(load_options(str(path)))
    assert made.recipe.epochs == 2
    assert made.task.name == "own"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "must hold a JSON object"),
        ('{"epoch": 1}', "unknown option 'epoch'"),
        ('{"epochs": "1"}', "option 'epochs' must be int"),
        ('{"learning_rate": NaN}', "option 'learning_rate' must not be nan"),
    ],
)
def test_wrong_options_file_is_named(tmp_path, content, message):
    path = tmp_path / "options.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=rf"^{path}: {message}"):
        load_options(str(path))


def test_options_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(InputError, match=rf"^{tmp_path}: cannot be read: Is a directory"):
        load_options(str(tmp_path))


def test_lineage_is_the_folders_own_in_a_store_of_several():
    own = config(output="/one").pipeline_name
    assert config(output="/two").pipeline_name == own
    shared = {f: config(output=f, metadata="sqlite:/s.db").pipeline_name for f in ("/one", "/two")}
    assert len({own, *shared.values()}) == 3
    assert config(metadata="sqlite:/s.db", lineage="reviews").pipeline_name == "reviews"


def test_metadata_is_kept_where_it_is_said():
    assert config(output="/one").metadata_address.url == "sqlite:/one/metadata.sqlite"
    assert config(metadata="grpc://mlmd").metadata_address.url == "grpc://mlmd:8080"
    with pytest.raises(InputError, match="--metadata-password-file is for a store of mysql"):
        config(metadata_password_file="/password")


def test_teacher_differs_from_the_student_in_what_is_said():
    made = config(
        size="tiny",
        epochs=5,
        distill={"alpha": 0.9, "teacher": {"size": "small", "epochs": 2, "learning_rate": 0.0001}},
    )
    teacher = made.teacher
    assert (made.size, made.recipe.epochs) == ("tiny", 5)
    assert (teacher.size, teacher.recipe.epochs) == ("small", 2)
    assert teacher.recipe.learning_rate == 0.0001
    assert teacher.recipe.max_length == made.recipe.max_length
    assert teacher.distill is None
    assert teacher.compress == ()


def test_the_last_good_model_needs_no_teacher_of_this_run():
    assert config(distill={"teacher": "last"}).teacher is None
    assert config().teacher is None


def test_student_of_layers_may_say_nothing_of_its_teacher():
    assert config(distill={"student_layers": 2}).teacher.size == config().size


def test_teacher_like_its_student_is_refused():
    with pytest.raises(InputError, match=r"^distill: the teacher would be like its student: give "):
        config(distill={"alpha": 0.5, "teacher": {"epochs": 9}})


def test_teacher_and_warm_start_are_refused():
    with pytest.raises(InputError, match=r"^warm_start and distill: "):
        config(warm_start=True, distill={"student_layers": 2})


def test_teacher_out_of_range_is_refused():
    with pytest.raises(InputError, match=r"^size must be one of tiny, .*Received: 'huge'"):
        config(distill={"teacher": {"size": "huge"}})
    with pytest.raises(InputError, match=r"^epochs must be at least 1"):
        config(distill={"teacher": {"size": "small", "epochs": 0}})


@pytest.mark.parametrize(
    ("distill", "message"),
    [
        (
            {"student_layers": 2, "layer_map": "2,9"},
            r"^distill: layer_map names layer 9, and the teacher has 4: 2,9",
        ),
        (
            {"student_layers": 9, "layer_map": "last"},
            r"^distill: layer_map=last: the student has 9 layers and the teacher has 4",
        ),
        (
            {"cosine_weight": 1.0, "teacher": {"size": "small"}},
            r"^distill: cosine_weight compares .* the student's is 256, the teacher's 512",
        ),
        (
            {"attention_weight": 1.0, "teacher": {"size": "small"}},
            r"^distill: attention_weight compares .* the student has 4, the teacher 8",
        ),
        (
            {"student_layers": 2, "teacher": {"model": "albert"}},
            r"^distill: the teacher is albert, its layers cannot be copied into bert: ",
        ),
    ],
)
def test_teacher_that_its_student_does_not_fit_is_refused_before_it_is_trained(distill, message):
    with pytest.raises(InputError, match=message):
        config(distill=distill)


def test_distilbert_starts_from_a_berts_layers():
    made = config(model="distilbert", distill={"student_layers": 2, "teacher": {"model": "bert"}})
    assert (made.model, made.teacher.model) == ("distilbert", "bert")
