import importlib.util
import json
import pathlib
import sys

import pytest

from bert_tfx.pipeline.commands import summary

_PATH = pathlib.Path(__file__).parents[2] / "components" / "made_up_run.py"
_SPEC = importlib.util.spec_from_file_location("made_up_run", _PATH)
made_up_run = importlib.util.module_from_spec(_SPEC)
sys.modules["made_up_run"] = made_up_run
_SPEC.loader.exec_module(made_up_run)
STUDENT, COMPRESSED = made_up_run.STUDENT, made_up_run.COMPRESSED

TRAINING = {"pretrained": None, "size": "tiny", "warm_start": None}
TAUGHT = {"teachers": ["/teacher"], "student_layers": None}


def lines(*steps) -> list[str]:
    run = made_up_run.MadeUpRun(pathlib.Path(), steps=steps)
    return summary._smaller_lines(list(run.variant_findings().values()))


def test_nothing_is_told_of_smaller_models_where_there_are_none():
    assert lines() == []


def test_smaller_models_stand_beside_the_one_before():
    assert " ".join(" ".join(lines(STUDENT, COMPRESSED)).split()) == (
        "Smaller student: 0.9800 (teacher 0.9900, -0.0100), 47.5 MB (94.1), 1 row 8.2 ms (15.9), "
        "32 rows 156.2 ms (301.5): accepted prune vocab: 0.9750 (student 0.9800, -0.0050), "
        "31.2 MB (47.5), 1 row 8.1 ms (8.2), 32 rows 153.8 ms (156.2): accepted"
    )


def test_why_a_smaller_model_was_refused_is_told():
    told = lines(made_up_run.TOO_MUCH, made_up_run.BROKEN)
    assert told[0].startswith("Smaller     heads 0.5, ffn 0.5: 0.8000 (trained 0.9900, -0.1900), ")
    text = " ".join(" ".join(told).split())
    assert ": refused Heads 0.5, ffn 0.5 has 0.1900 less accuracy than trained on 200 rows" in text
    assert "store float16: 24.1 MB (94.1): refused Store float16 cannot be used: the server" in text
    assert max(map(len, told)) <= 112


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, "with new weights of size tiny"),
        ({"pretrained": "/c", "size": None}, "from /c"),
        ({"warm_start": {"model": "/m", "why_not": None}}, "from the last good model"),
        (
            {"warm_start": {"model": "/m", "why_not": "it is cased"}},
            "with new weights of size tiny, not from the last good model: it is cased",
        ),
        ({"distillation": TAUGHT}, "with new weights of size tiny, taught by /teacher"),
        (
            {"size": None, "distillation": TAUGHT | {"student_layers": 3}},
            "from 3 layers of its teacher, taught by /teacher",
        ),
        (
            {"size": None, "distillation": TAUGHT | {"student_layers": 1}},
            "from 1 layer of its teacher, taught by /teacher",
        ),
        (
            {"compressions": [{"asked": {"prune_vocab": True}}, {"asked": {"store": "float16"}}]},
            "with new weights of size tiny, then made smaller (prune vocab), then made smaller "
            "(store float16)",
        ),
    ],
)
def test_what_a_training_began_with(tmp_path, changed, expected):
    path = tmp_path / "Format-Serving" / "assets.extra" / "bert_tfx.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"training": TRAINING | changed}))
    assert summary._origin(str(tmp_path)) == expected
