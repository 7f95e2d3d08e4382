import dataclasses
import os

import numpy as np
import pytest

from bert_tfx.modeling.encoders.reshaping import as_array, reshaped
from bert_tfx.modeling.export.trained_model import load_trained_model
from bert_tfx.pipeline.commands.before_after import measure, table
from bert_tfx.schema.labelled_texts import LabelledTexts


def test_models_are_measured_by_the_same_rows(toy_dir, tmp_path):
    first = load_trained_model(toy_dir)
    logits = first.classifier.logits
    contrary = reshaped(
        first.classifier,
        {},
        {weight.path: -as_array(weight) for weight in (logits.kernel, logits.bias)},
    )
    models = {"one": first, "other": dataclasses.replace(first, classifier=contrary)}
    rows = LabelledTexts({"text_a": [b"good film", b"a dull story", b"fine"]}, [1, 0, 1])
    measured = measure(models, rows, str(tmp_path))
    assert [*measured] == ["one", "other"]
    one, other = measured.values()
    assert one["parameters"] == other["parameters"] == first.classifier.count_params()
    files = [os.path.join(f, n) for f, _, names in os.walk(tmp_path / "one") for n in names]
    assert one["megabytes"] == sum(map(os.path.getsize, files)) / 1e6
    np.testing.assert_allclose(one["accuracy"] + other["accuracy"], 1)
    assert (one["agreement"], other["agreement"]) == (1, 0)
    assert min(m[key] for m in (one, other) for key in ("single_ms", "rows_per_second")) > 0


@pytest.mark.parametrize("names", [("before", "after"), ("the teacher", "the student", "third")])
def test_table_has_a_column_for_each_model(names):
    measured = {
        name: {
            "parameters": 1234 * number,
            "megabytes": 5.25 * number,
            "accuracy": 0.9,
            "agreement": 1 / number,
            "single_ms": 2.0,
            "rows_per_second": 1000.0 * number,
        }
        for number, name in enumerate(names, start=1)
    }
    blank, head, *lines = table("own", 12345, measured).splitlines()
    assert blank == ""
    assert head.split("  ")[-1].strip() == names[-1]
    assert len({len(line) for line in [head, *lines]}) == 1
    assert lines[0].split()[:3] == ["parameters", "1,234", "2,468"]
    assert lines[2].startswith("accuracy (own, 12,345 eval rows)  ")
    assert lines[3].startswith(f"the same answer as {names[0]}  ")
    assert lines[3].split()[-len(names) :][:2] == ["100.00%", "50.00%"]
