import pytest

from bert_tfx.components.report.artifacts import PRODUCERS
from bert_tfx.pipeline.configuration.config import make_config

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


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # The model before the first step is the one at the head itself.
        ({}, {"CompressAnswers1": {"before"}, "CompressAnswers2": {"before", "reference"}}),
        (
            {"distill": DISTILL | {"control": True}},
            {
                "StudentAnswers": {"before", "control"},
                "CompressAnswers1": {"before", "reference"},
                "CompressAnswers2": {"before", "reference"},
            },
        ),
    ],
)
def test_each_gate_reads_the_answers_of_its_models(
    tmp_path, glue_dir, vocab_file, options, expected
):
    from bert_tfx.pipeline.pipeline import create_pipeline

    given = {"task": "sst2", "data": str(glue_dir), "vocab": str(vocab_file), "compress": STEPS}
    config = make_config(given | {"output": str(tmp_path)} | options)
    nodes = {node.id: node for node in create_pipeline(config).components}
    assert {name for name in nodes if "Answers" in name} - {"TeacherAnswers"} == expected.keys()
    for name, beside in expected.items():
        asked, judged = nodes[name].inputs, nodes[name.replace("Answers", "Gate")].inputs
        assert set(asked) == {"examples", "data_report", "candidate", *beside}
        assert judged["predictions"] is nodes[name].outputs["predictions"]
        assert judged["variant"] is asked["candidate"]
        for key in beside:
            assert judged[key] is asked[key]


def training_nodes(tmp_path, glue_dir, vocab_file, **distill):
    """The nodes of a run whose model learns from a teacher, by name."""
    from bert_tfx.pipeline.pipeline import create_pipeline

    given = {"task": "sst2", "data": str(glue_dir), "vocab": str(vocab_file), "max_steps": 3}
    config = make_config(given | {"output": str(tmp_path), "distill": DISTILL | distill})
    return {node.id: node for node in create_pipeline(config).components}


@pytest.mark.parametrize(
    ("distill", "expected"),
    [
        ({}, True),
        ({"teacher": "last"}, True),
        ({"hidden_weight": 1, "intermediate_epochs": 1}, True),
        ({"hidden_weight": 1}, False),
        ({"cosine_weight": 1}, False),
        ({"alpha": 0, "hidden_weight": 1, "intermediate_epochs": 1}, False),
    ],
)
def test_teacher_is_asked_beforehand_where_its_answers_are_enough(
    tmp_path, glue_dir, vocab_file, distill, expected
):
    nodes = training_nodes(tmp_path, glue_dir, vocab_file, control=True, **distill)
    assert ("TeacherAnswers" in nodes) == expected
    learned = nodes["Trainer"].inputs["examples"]
    transformed = nodes["Transform"].outputs["transformed_examples"]
    assert learned is (nodes["TeacherAnswers"].outputs["examples"] if expected else transformed)
    assert nodes["Control"].inputs["examples"] is transformed
    if expected:
        assert nodes["TeacherAnswers"] in nodes["Control"].upstream_nodes
        assert nodes["TeacherAnswers"].exec_properties["rows_seen"] == 3 * 32


def test_a_student_that_learns_otherwise_finds_the_same_answers(tmp_path, glue_dir, vocab_file):
    first, other = (
        training_nodes(tmp_path, glue_dir, vocab_file, **distill)
        for distill in ({}, {"temperature": 7, "alpha": 0.9, "student_layers": 2})
    )
    assert first["Trainer"].exec_properties != other["Trainer"].exec_properties
    assert first["TeacherAnswers"].exec_properties == other["TeacherAnswers"].exec_properties
