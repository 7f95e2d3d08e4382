import pytest

from bert_tfx.modeling.distillation.settings import Distillation
from bert_tfx.schema.errors import InputError


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", 0.0),
        ("temperature", float("inf")),
        ("alpha", 1.1),
        ("alpha", float("nan")),
        ("cosine_weight", -1.0),
        ("hidden_weight", float("nan")),
        ("attention_weight", float("inf")),
        ("intermediate_epochs", -1),
        ("student_layers", 0),
        ("layer_map", "first"),
        ("layer_map", ""),
        ("layer_map", "0,2"),
        ("layer_map", "3,2"),
        ("layer_map", "1,,2"),
    ],
)
def test_distillation_is_checked(field, value):
    with pytest.raises(InputError, match=f"^{field} must"):
        Distillation(**{field: value})


def test_distillation_needs_something_to_learn():
    with pytest.raises(InputError, match="intermediate_epochs need something to learn from"):
        Distillation(intermediate_epochs=1, cosine_weight=1.0)
    with pytest.raises(InputError, match="nothing would be learned from the teacher"):
        Distillation(alpha=0.0)
    assert not Distillation(alpha=0.0, cosine_weight=1.0).learns_layers
    assert Distillation(alpha=0.0, attention_weight=1.0).learns_layers


@pytest.mark.parametrize(
    ("layer_map", "student", "teacher", "expected"),
    [
        ("uniform", 6, 12, (2, 4, 6, 8, 10, 12)),
        ("uniform", 4, 12, (3, 6, 9, 12)),
        ("uniform", 3, 4, (2, 3, 4)),
        ("uniform", 1, 12, (12,)),
        ("uniform", 2, 2, (1, 2)),
        ("uniform", 4, 2, (1, 1, 2, 2)),
        ("last", 2, 5, (4, 5)),
        ("last", 3, 3, (1, 2, 3)),
        ("1,1,5", 3, 5, (1, 1, 5)),
    ],
)
def test_layer_map(layer_map, student, teacher, expected):
    assert Distillation(layer_map=layer_map).teacher_layers(student, teacher) == expected


@pytest.mark.parametrize(
    ("layer_map", "message"),
    [
        ("last", "layer_map=last: the student has 3 layers and the teacher has 2"),
        ("1,2", "must name a teacher layer for each of the student's 3 layers. Received 2"),
        ("1,2,3", "layer_map names layer 3, and the teacher has 2"),
    ],
)
def test_layer_map_outside_of_the_teacher(layer_map, message):
    with pytest.raises(InputError, match=message):
        Distillation(layer_map=layer_map).teacher_layers(3, 2)
