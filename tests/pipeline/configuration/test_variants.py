import json

import pytest

from bert_tfx.components.variant_gate.limits import VariantLimits
from bert_tfx.modeling.compression.settings import Compression
from bert_tfx.modeling.distillation.settings import Distillation
from bert_tfx.pipeline.configuration.variants import LAST, parse_compress, parse_distill
from bert_tfx.schema.errors import InputError

DISTILL = {
    "student_layers": 2,
    "alpha": 0.9,
    "max_accuracy_drop": 0.05,
    "min_speedup": 1.5,
    "control": True,
    "teacher": {"size": "small", "epochs": 3},
}
STEPS = [{"prune_vocab": True}, {"heads": 0.5, "ffn": 0.25, "recovery_steps": 9, "max_size": 20}]


def test_nothing_given_is_nothing():
    assert parse_distill() is None
    assert parse_compress() == parse_compress([]) == ()


def test_an_object_json_text_and_a_file_say_the_same(tmp_path):
    (tmp_path / "distill.json").write_text(json.dumps(DISTILL))
    plan = parse_distill(DISTILL)
    assert plan.settings == Distillation(student_layers=2, alpha=0.9)
    assert plan.limits == VariantLimits(max_accuracy_drop=0.05, min_speedup=1.5)
    assert plan.control
    assert plan.teacher_model == {"size": "small"}
    assert plan.teacher_recipe == {"epochs": 3}
    assert parse_distill(json.dumps(DISTILL)) == plan
    assert parse_distill(str(tmp_path / "distill.json")) == plan


def test_steps_are_read_in_their_order(tmp_path):
    steps = parse_compress(STEPS)
    assert [step.settings for step in steps] == [
        Compression(prune_vocab=True),
        Compression(heads=0.5, ffn=0.25, recovery_steps=9),
    ]
    assert [step.limits for step in steps] == [VariantLimits(), VariantLimits(max_size=20)]
    assert [step.name for step in steps] == ["prune vocab", "heads 0.5, ffn 0.25"]
    assert parse_compress(json.dumps(STEPS)) == steps


def test_the_last_good_model_is_a_teacher():
    plan = parse_distill({"teacher": "last", "student_layers": 1})
    assert plan.teacher == LAST
    assert plan.teacher_model == plan.teacher_recipe == {}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], r"^distill: expected an object such as \{"),
        ("[]", r"^distill: expected an object such as \{"),
        ("{", r"^distill: not JSON: "),
        ("nowhere.json", r"^nowhere\.json: cannot be read: .*; --distill takes a JSON file"),
        ({"students": 1}, r"^distill: unknown option 'students'; known are alpha, "),
        ({"alpha": "much"}, r"^distill: option 'alpha' must be float"),
        ({"alpha": 2}, r"^distill: alpha must be in \[0, 1\]\. Received: 2"),
        ({"min_speedup": 0}, r"^distill: min_speedup must be positive"),
        ({"max_accuracy_drop": -1}, r"^distill: max_accuracy_drop must be in \[0, 1\]"),
        ({"teacher": "first"}, r'^distill: teacher must be "last", .*Received: \'first\''),
        ({"teacher": {"sizes": "tiny"}}, r"^distill, teacher: unknown option 'sizes'"),
        ({"teacher": {"max_length": 64}}, r"^distill, teacher: unknown option 'max_length'"),
        (
            {"teacher": {"size": "tiny", "pretrained": "x"}},
            r"^distill, teacher: size and pretrained: give one or the other",
        ),
    ],
)
def test_bad_distill_is_refused(given, message):
    with pytest.raises(InputError, match=message):
        parse_distill(given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, r"^compress: expected a list such as \["),
        ("{}", r"^compress: expected a list such as \["),
        ([{"store": "float16"}] * 17, r"^compress: has 17 steps, and there may be 16: "),
        ([1], r"^compress, step 1: expected an object\. Received: 1"),
        ([{"store": "float16"}, {}], r"^compress, step 2: nothing to do: "),
        ([{"store": "int3"}], r"^compress, step 1: store must be one of "),
        ([{"stores": "float16"}], r"^compress, step 1: unknown option 'stores'"),
        ([{"store": "float16", "max_size": 0}], r"^compress, step 1: max_size must be positive"),
    ],
)
def test_bad_compress_is_refused(given, message):
    with pytest.raises(InputError, match=message):
        parse_compress(given)
