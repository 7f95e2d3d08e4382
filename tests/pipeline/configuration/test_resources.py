import json

import pytest

from bert_tfx.pipeline.configuration.resources import Resources, parse_resources
from bert_tfx.schema.errors import InputError

GIVEN = {"Transform": {"workers": 4, "memory_gb": 16}, "Trainer": {"cpus": 0.5, "gpus": 2}}


def test_nothing_given_is_nothing():
    assert parse_resources() == parse_resources({}) == parse_resources("{}") == {}


def test_an_object_json_text_and_a_file_say_the_same(tmp_path):
    (tmp_path / "resources.json").write_text(json.dumps(GIVEN))
    made = parse_resources(GIVEN)
    assert made == {
        "Transform": Resources(workers=4, memory_gb=16),
        "Trainer": Resources(cpus=0.5, gpus=2),
    }
    assert parse_resources(" " + json.dumps(GIVEN)) == made
    assert parse_resources(str(tmp_path / "resources.json")) == made


@pytest.mark.parametrize("name", ["cpus", "memory_gb", "gpus", "workers"])
@pytest.mark.parametrize("value", [-1, True, "4", None, float("nan"), float("inf")])
def test_value_out_of_range_is_refused_with_node_and_name(name, value):
    with pytest.raises(InputError, match=rf"^resources, Transform: {name} must be a .*Received: "):
        parse_resources({"Transform": {name: value}})


@pytest.mark.parametrize(("name", "value"), [("cpus", 0), ("workers", 0), ("workers", 1.5)])
def test_too_little_or_a_part_is_refused(name, value):
    with pytest.raises(InputError, match=rf"^resources, Transform: {name} must be "):
        parse_resources({"Transform": {name: value}})


def test_least_values_are_taken():
    made = parse_resources({"N": {"cpus": 0.1, "memory_gb": 0.5, "gpus": 0, "workers": 1}})
    assert made == {"N": Resources(cpus=0.1, memory_gb=0.5, gpus=0, workers=1)}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"Transform": {"worker": 4}}, r"^resources, Transform: unknown 'worker'; known are cpus,"),
        ({"Transform": 4}, r"^resources, Transform: expected an object of cpus, .*Received: 4"),
        ([GIVEN], r"^resources: expected an object by node, such as"),
        ("[]", r"^resources: expected an object by node, such as"),
        ('{"Transform": ', r"^resources: not JSON: "),
        ("no.json", r"^no\.json: cannot be read: No such file.*; --resources takes a JSON file"),
    ],
)
def test_mistakes_are_told(value, message):
    with pytest.raises(InputError, match=message):
        parse_resources(value)


def test_messages_name_the_file(tmp_path):
    path = tmp_path / "resources.json"
    path.write_text('{"Transform": {"gpus": -1}}')
    with pytest.raises(InputError, match=rf"^{path}, Transform: gpus must be"):
        parse_resources(str(path))
    path.write_bytes(b"\xff")
    with pytest.raises(InputError, match=rf"^{path}: cannot be read: not UTF-8"):
        parse_resources(str(path))
