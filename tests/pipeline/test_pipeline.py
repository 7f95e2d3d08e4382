import pytest

from bert_tfx.components.report.artifacts import PRODUCERS
from bert_tfx.pipeline.config import make_config

DISTILL = {"student_layers": 1}
STEPS = [{"prune_vocab": True}, {"store": "float16"}]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, set()),
        ({"compress": STEPS}, {"variant_findings_1", "variant_findings_2"}),
        (
            {"distill": DISTILL, "compress": STEPS[:1]},
            {"variant_findings_0", "variant_findings_1", "teacher_run"},
        ),
        ({"distill": DISTILL | {"teacher": "last"}}, {"variant_findings_0"}),
    ],
)
def test_report_has_the_findings_on_smaller_models(
    tmp_path, glue_dir, vocab_file, options, expected
):
    from bert_tfx.pipeline.pipeline import create_pipeline

    given = {"task": "sst2", "data": str(glue_dir), "vocab": str(vocab_file)}
    config = make_config(given | {"output": str(tmp_path)} | options)
    nodes = {node.id: node for node in create_pipeline(config).components}
    inputs = nodes["Report"].inputs
    assert {key for key in inputs if key.startswith(("variant", "teacher"))} == expected
    # What `bert-tfx report` looks for later by the names of nodes is the same.
    for key in expected:
        node, output = PRODUCERS[key]
        assert inputs[key] is nodes[node].outputs[output]
