import pytest
from ml_metadata import metadata_store
from ml_metadata.proto import metadata_store_pb2
from tfx.types import standard_artifacts

from bert_tfx.components.baseline.strategy import (
    LatestBlessedModelOfOtherRowsStrategy,
    LatestBlessedTeacherStrategy,
    LatestOtherAcceptedStatisticsStrategy,
    LatestOtherBlessedModelStrategy,
)
from bert_tfx.components.data_gate.component import DataGateReport


def model(number: int) -> standard_artifacts.Model:
    made = standard_artifacts.Model()
    made.id = number
    return made


def blessing(number: int, model_id: int, *, blessed: bool = True):
    """The Evaluator's verdict on a model."""
    made = standard_artifacts.ModelBlessing()
    made.id = number
    made.set_int_custom_property("blessed", int(blessed))
    made.set_int_custom_property("current_model_id", model_id)
    return made


def resolve(models, blessings, candidates):
    resolved = LatestOtherBlessedModelStrategy().resolve_artifacts(
        None, {"model": models, "model_blessing": blessings, "candidate": candidates}
    )
    assert resolved.keys() == {"model", "model_blessing", "candidate"}
    assert resolved["candidate"] == candidates
    return (
        [found.id for found in resolved["model"]],
        [found.id for found in resolved["model_blessing"]],
    )


def test_first_model_has_no_baseline():
    assert resolve([model(1)], [], [model(1)]) == ([], [])
    assert resolve([], [], []) == ([], [])


def test_model_that_was_not_blessed_is_no_baseline():
    assert resolve([model(1), model(2)], [blessing(9, 1, blessed=False)], [model(2)]) == ([], [])


def test_candidate_is_not_its_own_baseline():
    assert resolve([model(1)], [blessing(9, 1)], [model(1)]) == ([], [])


def test_candidate_that_is_blessed_already_keeps_the_baseline_it_had():
    models = [model(1), model(2)]
    before = resolve(models, [blessing(8, 1)], [model(2)])
    after = resolve(models, [blessing(8, 1), blessing(9, 2)], [model(2)])
    assert before == after == ([1], [8])


@pytest.mark.parametrize("backwards", [False, True])
def test_latest_blessed_model_is_the_baseline(backwards):
    models = [model(number) for number in (1, 2, 3, 4)]
    blessings = [blessing(11, 1), blessing(12, 2), blessing(13, 3, blessed=False)]
    if backwards:
        models.reverse()
        blessings.reverse()
    assert resolve(models, blessings, [model(4)]) == ([2], [12])


def test_blessing_without_model_is_passed_over():
    assert resolve([model(1), model(3)], [blessing(9, 2), blessing(8, 1)], [model(3)]) == ([1], [8])


def test_one_of_two_verdicts_on_a_model_suffices():
    verdicts = [blessing(8, 1), blessing(9, 1, blessed=False)]
    for blessings in (verdicts, verdicts[::-1]):
        assert resolve([model(1), model(2)], blessings, [model(2)]) == ([1], [8])


def test_unfinished_verdict_does_not_bless():
    unfinished = standard_artifacts.ModelBlessing()
    unfinished.id = 9
    assert resolve([model(1), model(2)], [unfinished], [model(2)]) == ([], [])


# The last good model as a teacher.


def test_teacher_is_the_latest_good_model_that_is_no_student():
    student = model(3)
    student.set_string_custom_property("variant", "student")
    models = [model(1), model(2), student]
    blessings = [blessing(11, 1), blessing(12, 2, blessed=False), blessing(13, 3)]
    resolved = LatestBlessedTeacherStrategy().resolve_artifacts(
        None, {"model": models, "model_blessing": blessings}
    )
    assert resolved == {"model": [models[0]], "model_blessing": [blessings[0]]}


def test_a_student_alone_is_no_teacher():
    student = model(3)
    student.set_string_custom_property("variant", "student")
    resolved = LatestBlessedTeacherStrategy().resolve_artifacts(
        None, {"model": [student], "model_blessing": [blessing(13, 3)]}
    )
    assert resolved == {"model": [], "model_blessing": []}


# Statistics that a gate accepted.


def statistics(number: int) -> standard_artifacts.ExampleStatistics:
    made = standard_artifacts.ExampleStatistics()
    made.id = number
    return made


def report(number: int, statistics_id: int) -> DataGateReport:
    """A gate's report on statistics that it accepted."""
    made = DataGateReport()
    made.id = number
    made.set_int_custom_property("statistics_id", statistics_id)
    return made


def resolve_statistics(statistics, reports, candidates):
    resolved = LatestOtherAcceptedStatisticsStrategy().resolve_artifacts(
        None, {"statistics": statistics, "report": reports, "candidate": candidates}
    )
    assert resolved.keys() == {"statistics", "report", "candidate"}
    assert resolved["candidate"] == candidates
    return (
        [found.id for found in resolved["statistics"]],
        [found.id for found in resolved["report"]],
    )


def test_first_statistics_have_no_baseline():
    assert resolve_statistics([], [], []) == ([], [])
    assert resolve_statistics([statistics(1)], [], [statistics(1)]) == ([], [])
    # A second run over the same rows.
    assert resolve_statistics([statistics(1)], [report(9, 1)], [statistics(1)]) == ([], [])


def test_statistics_that_no_gate_accepted_are_no_baseline():
    found = [statistics(1), statistics(2), statistics(3)]
    assert resolve_statistics(found, [], [statistics(3)]) == ([], [])
    unfinished = DataGateReport()
    unfinished.id = 9
    assert resolve_statistics(found, [unfinished], [statistics(3)]) == ([], [])
    assert resolve_statistics(found, [report(9, 1)], [statistics(3)]) == ([1], [9])


def test_statistics_accepted_already_keep_the_baseline_they_had():
    found = [statistics(1), statistics(2)]
    before = resolve_statistics(found, [report(8, 1)], [statistics(2)])
    after = resolve_statistics(found, [report(8, 1), report(9, 2)], [statistics(2)])
    assert before == after == ([1], [8])


@pytest.mark.parametrize("backwards", [False, True])
def test_statistics_accepted_last_are_the_baseline(backwards):
    # Those of 1 were accepted again after those of 2.
    found = [statistics(number) for number in (1, 2, 3)]
    reports = [report(7, 1), report(8, 2), report(9, 1)]
    if backwards:
        found.reverse()
        reports.reverse()
    assert resolve_statistics(found, reports, [statistics(3)]) == ([1], [9])
    assert resolve_statistics(found, reports, [statistics(1)]) == ([2], [8])


def test_report_on_other_statistics_is_passed_over():
    # Channels hold the artifacts of every component, and other gates accept other statistics.
    assert resolve_statistics([statistics(1)], [report(8, 1), report(9, 5)], [statistics(2)]) == (
        [1],
        [8],
    )


# A model to go on from.


class Lineage:
    """Rows and the models that were made of them, in a store of ML Metadata in memory."""

    def __init__(self) -> None:
        config = metadata_store_pb2.ConnectionConfig()
        config.fake_database.SetInParent()
        self.store = metadata_store.MetadataStore(config)
        self._artifact = self.store.put_artifact_type(metadata_store_pb2.ArtifactType(name="any"))
        kind = metadata_store_pb2.ExecutionType(name="any")
        self._execution = self.store.put_execution_type(kind)

    def rows(self) -> int:
        (number,) = self.store.put_artifacts([metadata_store_pb2.Artifact(type_id=self._artifact)])
        return number

    def model(self, *made_of: int) -> int:
        """Trains on what a transform makes of rows, and on models; returns the model's number."""
        transformed = self._run(made_of[0])
        return self._run(transformed, *made_of[1:])

    def _run(self, *inputs: int) -> int:
        (execution,) = self.store.put_executions(
            [metadata_store_pb2.Execution(type_id=self._execution)]
        )
        output = self.rows()
        kinds = metadata_store_pb2.Event
        events = [
            *(kinds(artifact_id=i, execution_id=execution, type=kinds.INPUT) for i in inputs),
            kinds(artifact_id=output, execution_id=execution, type=kinds.OUTPUT),
        ]
        self.store.put_events(events)
        return output


def go_on_from(lineage, rows, models, blessed):
    candidate = standard_artifacts.Examples()
    candidate.id = rows
    resolved = LatestBlessedModelOfOtherRowsStrategy().resolve_artifacts(
        lineage.store,
        {
            "model": [model(number) for number in models],
            "model_blessing": [blessing(1000 + number, number) for number in blessed],
            "candidate": [candidate],
        },
    )
    assert [found.id - 1000 for found in resolved["model_blessing"]] == [
        found.id for found in resolved["model"]
    ]
    return [found.id for found in resolved["model"]]


def test_training_goes_on_from_the_latest_blessed_model_of_other_rows():
    lineage = Lineage()
    monday, tuesday = lineage.rows(), lineage.rows()
    first = lineage.model(monday)
    assert go_on_from(lineage, monday, [], []) == []
    assert go_on_from(lineage, tuesday, [first], []) == []
    assert go_on_from(lineage, tuesday, [first], [first]) == [first]
    second = lineage.model(tuesday, first)
    # The same day again, after its model was blessed.
    assert go_on_from(lineage, tuesday, [first, second], [first, second]) == [first]
    wednesday = lineage.rows()
    assert go_on_from(lineage, wednesday, [first, second], [first, second]) == [second]
    assert go_on_from(lineage, wednesday, [first, second], [first]) == [first]


def test_a_model_that_went_on_from_one_of_these_rows_has_learned_them():
    lineage = Lineage()
    monday, tuesday = lineage.rows(), lineage.rows()
    first = lineage.model(monday)
    second = lineage.model(tuesday, first)
    assert go_on_from(lineage, monday, [first, second], [first, second]) == []
