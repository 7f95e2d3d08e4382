import json

import pytest

from bert_tfx.pipeline.configuration.options import SAMPLE
from bert_tfx.pipeline.orchestrators.kubeflow import entrypoint
from bert_tfx.pipeline.orchestrators.kubeflow.entrypoint import effective_options
from bert_tfx.schema.errors import InputError


def test_parameters_take_the_place_of_options():
    options = effective_options(
        {"task": "sst2", "data": "/a", "epochs": 4, "learning_rate": 3e-5},
        # JSON has one kind of number; text stands for one where there is no default.
        {"data": "/b", "epochs": 2.0, "learning_rate": 1, "max_steps": "7", "vocab": ""},
    )
    assert options == {
        "task": "sst2",
        "data": "/b",
        "epochs": 2,
        "learning_rate": 1.0,
        "max_steps": 7,
    }
    assert isinstance(options["epochs"], int)


@pytest.mark.parametrize("value", (2.5, "many"))
def test_parameter_of_another_kind_is_refused(value):
    with pytest.raises(InputError, match=r"^parameter 'epochs' must be int\. Received: "):
        effective_options({"task": "sst2"}, {"epochs": value})


def test_sample_lies_in_the_image():
    options = effective_options({"task": "sample"}, {"data": "", "vocab": ""})
    assert options["data"] == str(SAMPLE)
    assert options["vocab"] == str(SAMPLE / "vocab.txt")


def test_refusal_is_one_sentence(tmp_path, capsys):
    executor_input = {"inputs": {"parameterValues": {"run_id": "r", "data": "/nowhere"}}}
    code = entrypoint.main(
        [
            *("--node", "TsvExampleGen"),
            *("--options", json.dumps({"task": "sst2", "output": str(tmp_path)})),
            *("--executor-input", json.dumps(executor_input)),
        ]
    )
    assert code == 2
    assert capsys.readouterr().err.startswith("TsvExampleGen refuses its input: /nowhere: ")


def test_node_hands_on_a_file_that_says_where_its_output_lies(tmp_path, capsys):
    output, handed_on = tmp_path / "output", tmp_path / "pod" / "schema"
    executor_input = {
        "inputs": {"parameterValues": {"run_id": "r", "epochs": 2.0}},
        "outputs": {"outputFile": str(tmp_path / "pod" / "kfp" / "output.json")},
    }
    arguments = [
        *("--node", "ImportSchemaGen"),
        *("--options", json.dumps({"task": "sample", "output": str(output)})),
        *("--executor-input", json.dumps(executor_input)),
        *("--output", f"schema={handed_on}"),
    ]
    assert entrypoint.main(arguments) == 0
    first = handed_on.read_text(encoding="utf-8")
    (artifact,) = json.loads(first)
    assert (output / "artifacts" / "ImportSchemaGen" / "schema").is_dir()
    assert artifact["artifact"]["uri"].startswith(str(output / "artifacts"))
    written = json.loads((tmp_path / "pod" / "kfp" / "output.json").read_text(encoding="utf-8"))
    (shown,) = written["artifacts"]["schema"]["artifacts"]
    assert shown["metadata"]["location"] == artifact["artifact"]["uri"]
    (record,) = (output / "records").iterdir()
    assert json.loads(record.read_text(encoding="utf-8"))["run_id"] == "r"
    # Nothing has changed for this node, and what is handed on is the same artifact.
    capsys.readouterr()
    assert entrypoint.main(arguments) == 0
    assert "ImportSchemaGen ... cached" in capsys.readouterr().out
    assert handed_on.read_text(encoding="utf-8") == first
