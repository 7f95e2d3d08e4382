"""`bert-tfx predict` without a server; tests/serving/ has it with one."""

import pytest

TEXT = "the film was good"


@pytest.fixture(scope="module")
def serving(tmp_path_factory, export_model):
    """A folder of versions with different weights."""
    folder = tmp_path_factory.mktemp("serving")
    for version in (3, 12):
        export_model(folder / str(version), seed=version)
    return folder


def test_a_text_is_answered_by_the_latest_version_over_grpc(bert_tfx, serving):
    done = bert_tfx("predict", "--model", serving, "--json", TEXT)
    assert done.code == 0
    assert '"model_version": 12' in done.stdout
    by_folder = bert_tfx("predict", "--model", serving / "12", "--json", TEXT)
    assert by_folder.stdout == done.stdout


def test_a_file_is_answered_by_the_version_asked_for(bert_tfx, serving, tmp_path):
    source, target = tmp_path / "rows.tsv", tmp_path / "answers.tsv"
    source.write_text(f"text_a\n{TEXT}\n", encoding="utf-8")
    arguments = ["--input", source, "--output", target]
    done = bert_tfx("predict", "--model", serving, "--version", 3, *arguments)
    assert (done.code, done.stderr.splitlines()[-1]) == (0, f"1 rows: {target}")
    one = bert_tfx("predict", "--model", serving, "--version", 3, TEXT)
    label, probability = one.stdout.rstrip("\n").split("\t")
    assert target.read_text(encoding="utf-8") == (
        f"text_a\tprediction\tprobability\tmodel_version\n{TEXT}\t{label}\t{probability}\t3\n"
    )


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["hello"], "expected --server HOST:PORT, or --model DIR"),
        (["--model", "nowhere", "hello"], "nowhere: no such folder; --model names an exported"),
        (["--model", "{}", "--version", "4", "hello"], "there is 3, 12, and no version 4"),
        (["--model", "{}/3", "--version", "4", "hello"], "is version 3, not 4"),
        (["--model", "{}", "--token-file", "t", "hello"], "--token-file belongs to --server"),
        (["--model", "{}"], "expected either a TEXT"),
        (["--model", "{}", "--backend", "onnx", "hello"], "holds no assets.extra/int8.onnx"),
        (["--server", "a:1", "--backend", "onnx", "hello"], "is for predictions without"),
        (["--server", "a:1", "--beam-runner", "in_memory", "hello"], "is for predictions without"),
    ],
)
def test_mistakes_are_told(bert_tfx, serving, arguments, says):
    done = bert_tfx("predict", *(argument.format(serving) for argument in arguments))
    assert done.code == 2
    assert says in done.stderr
