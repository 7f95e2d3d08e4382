import argparse
import re
import time

import pytest

from bert_tfx.modeling.training.recipes import RECIPES
from bert_tfx.pipeline.commands import cli
from bert_tfx.pipeline.configuration import options
from bert_tfx.pipeline.configuration.config import make_config

COMMANDS = ("run", "train", "test", "export", "convert", "presets", "fetch")
FRAMEWORKS = r"\b(tensorflow|keras|apache_beam|tfx|numpy|absl|sklearn|requests)\b"


def parsed(*argv) -> argparse.Namespace:
    return cli._parser().parse_args(cli._hyphenated([str(argument) for argument in argv]))


def config(*argv):
    return make_config(options.collect(parsed(*argv)))


@pytest.mark.parametrize("name", COMMANDS)
def test_help_answers_at_once_and_loads_no_framework(command, monkeypatch, name):
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    seconds = []
    for _ in range(2):
        start = time.monotonic()
        done = command(name, "--help")
        seconds.append(time.monotonic() - start)
        assert done.returncode == 0
    assert min(seconds) < 1.5
    assert f"usage: bert-tfx {name}" in done.stdout
    assert "bert_tfx.pipeline.configuration.config" in done.stderr
    assert not re.findall(FRAMEWORKS, done.stderr)


def test_help_lists_the_commands(command):
    stdout = command("--help").stdout
    for name in COMMANDS:
        assert re.search(rf"^    {name} ", stdout, re.MULTILINE)


# The spelling of the command's forerunner.


def test_train_understands_the_forerunners_names(tmp_path):
    made = config(
        "train", "--model_name", "distillbert", "--task_name", "sst-2", "--data_dir", "my_data",
        "--save_dir", tmp_path / "my_model", "--max_seq_len", 64, "--lr", "1e-4",
        "--batch_size", 8, "--epochs", 2, "--use_fp16", "--use_token_type",
        "--recipe", "seed-chnsenticorp", "--warmup_fraction", 0.2,
    )  # fmt: skip
    assert made.model == "distilbert"
    assert made.task.name == "sst2"
    assert made.data_dir.endswith("/my_data")
    assert made.output_dir == str(tmp_path / "my_model")
    recipe = made.recipe
    assert (recipe.max_length, recipe.learning_rate, recipe.batch_size) == (64, 1e-4, 8)
    assert (recipe.epochs, recipe.warmup_fraction) == (2, 0.2)
    assert recipe.precision == "mixed_float16"
    assert recipe.weight_decay == RECIPES["seed-chnsenticorp"].weight_decay


def test_train_understands_a_pretrained_path(toy_dir):
    made = config(
        "train", "--task", "sst2", "--data", "x", "--output", "y", "--pretrained_path", toy_dir,
        "--max_seq_len", 16,
    )  # fmt: skip
    assert made.pretrained == toy_dir
    assert made.vocab_file == f"{toy_dir}/vocab.txt"
    assert made.lowercase is True


def test_the_others_understand_the_forerunners_names():
    test = parsed(
        "test", "--save_dir", "a_b", "--task_name", "sst-2", "--data_dir", "c_d",
        "--write_test_result", "e_f", "--max_rejects", 2,
    )  # fmt: skip
    assert (test.model_path, test.task, test.data) == ("a_b", "sst-2", "c_d")
    assert (test.write_test_result, test.max_rejects) == ("e_f", 2)
    export = parsed("export", "--model_path", "a_b", "--export_model_dir", "c_d")
    assert (export.model_path, export.export_model_dir, export.model_version) == ("a_b", "c_d", 1)
    assert parsed("export", "--save_dir", "x", "--export_model_dir=y", "--model_version=7")
    assert parsed("convert", "--save_dir", "a_b", "--output", "c").model_path == "a_b"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("--task_name=own_task", "--task-name=own_task"),
        ("--data_dir a_b", "--data-dir a_b"),
        ("--text_a my_text --no_header", "--text-a my_text --no-header"),
        ("--log_dir=/a_b/--c_d", "--log-dir=/a_b/--c_d"),
        ("--precision=mixed_bfloat16", "--precision=mixed_bfloat16"),
        ("--freeze_embeddings --layer_decay 0.9", "--freeze-embeddings --layer-decay 0.9"),
        ("--no_lowercase", "--no-lowercase"),
    ],
)
def test_underscores_in_names_are_hyphens_and_in_values_stay(one, other):
    assert vars(parsed("train", *one.split())) == vars(parsed("train", *other.split()))
    values = re.findall(r"[ =]([^- ]\S*)", one)
    given = [str(value) for value in vars(parsed("train", *one.split())).values()]
    assert all(value in given for value in values)


def test_unknown_model_is_told(capsys):
    with pytest.raises(SystemExit, match="2"):
        parsed("train", "--model_name", "roberta")
    assert "'roberta': choose from bert, distilbert, albert" in capsys.readouterr().err


def test_every_recipe_is_shown_with_its_name(command):
    # argparse breaks lines behind hyphens, too.
    stdout = re.sub(r"\s+", "", command("train", "--help").stdout)
    for name in RECIPES:
        assert name in stdout


def test_sample_has_all_that_it_takes():
    made = config("train", "--task_name", "sample", "--save_dir", "x")
    assert made.data_dir == str(options.SAMPLE)
    assert made.vocab_file == str(options.SAMPLE / "vocab.txt")
    assert made.size == "tiny"
