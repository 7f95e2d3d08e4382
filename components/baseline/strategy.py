"""Finds what earlier runs left for this one: to be compared with, or to go on from."""

import ml_metadata as mlmd
from ml_metadata.proto import metadata_store_pb2
from tfx import types
from tfx.components.evaluator import constants
from tfx.dsl.components.common import resolver

from bert_tfx.components.data_gate.checks import STATISTICS_ID
from bert_tfx.components.variant_gate.limits import VARIANT_NAME

MODEL = "model"
BLESSING = "model_blessing"
STATISTICS = "statistics"
REPORT = "report"
CANDIDATE = "candidate"


class LatestOtherBlessedModelStrategy(resolver.ResolverStrategy):
    """Resolves to the latest blessed model that is not the candidate itself.

    With TFX's `LatestBlessedModelStrategy` a second run over unchanged inputs finds the candidate
    of the first run as its own baseline: the Evaluator's inputs have changed, so the same model is
    evaluated and pushed again. Leaving the candidate out keeps a run's inputs what they were.

    The Resolver takes `model` and `model_blessing` (all there are) and `candidate`.
    """

    def resolve_artifacts(
        self, store: mlmd.MetadataStore, input_dict: dict[str, list[types.Artifact]]
    ) -> dict[str, list[types.Artifact]]:
        """Returns the baseline and its blessing, or empty lists where there is none.

        Args:
            store: Not used; the blessings name the models they bless.
            input_dict: All artifacts of each channel.

        Returns:
            The same keys, with at most one artifact each.
        """
        candidates = {artifact.id for artifact in input_dict[CANDIDATE]}
        others = (model for model in _blessed_models(input_dict) if model.id not in candidates)
        return _with_blessing(next(others, None), input_dict)


class LatestBlessedTeacherStrategy(resolver.ResolverStrategy):
    """Resolves to the latest blessed model that was not made smaller out of another one.

    The last model that was good enough may be this teacher's own student.

    The Resolver takes `model` and `model_blessing` (all there are).
    """

    def resolve_artifacts(
        self, store: mlmd.MetadataStore, input_dict: dict[str, list[types.Artifact]]
    ) -> dict[str, list[types.Artifact]]:
        """Returns the model and its blessing, or empty lists where there is none.

        Args:
            store: Not used; the models say what made them.
            input_dict: All artifacts of each channel.

        Returns:
            The same keys, with at most one artifact each.
        """
        teachers = (
            model
            for model in _blessed_models(input_dict)
            if not model.get_string_custom_property(VARIANT_NAME)
        )
        return _with_blessing(next(teachers, None), input_dict)


class LatestBlessedModelOfOtherRowsStrategy(resolver.ResolverStrategy):
    """Resolves to the latest blessed model that has not learned from the given rows.

    What trains on from it learns from these rows once, also where the run is repeated: the model
    of the first time, and all that went on from that one, have the rows among what they were made
    of. So a second run over unchanged inputs goes on from the same model, and its training is
    found in the cache.

    The Resolver takes `model` and `model_blessing` (all there are) and `candidate`, the rows.
    """

    def resolve_artifacts(
        self, store: mlmd.MetadataStore, input_dict: dict[str, list[types.Artifact]]
    ) -> dict[str, list[types.Artifact]]:
        """Returns the model and its blessing, or empty lists where there is none.

        Args:
            store: Knows what each model was made of.
            input_dict: All artifacts of each channel.

        Returns:
            The same keys, with at most one artifact each.
        """
        rows = {artifact.id for artifact in input_dict[CANDIDATE]}
        others = (
            model for model in _blessed_models(input_dict) if not rows & _made_of(store, model.id)
        )
        return _with_blessing(next(others, None), input_dict)


def _blessings(input_dict: dict[str, list[types.Artifact]]) -> dict[int, types.Artifact]:
    """Returns the blessings by the number of the model that they bless."""
    return {
        blessing.get_int_custom_property(constants.ARTIFACT_PROPERTY_CURRENT_MODEL_ID_KEY): blessing
        for blessing in input_dict[BLESSING]
        if blessing.get_int_custom_property(constants.ARTIFACT_PROPERTY_BLESSED_KEY)
        == constants.BLESSED_VALUE
    }


def _blessed_models(input_dict: dict[str, list[types.Artifact]]) -> list[types.Artifact]:
    """Returns the blessed models, the latest first."""
    blessings = _blessings(input_dict)
    models = [model for model in input_dict[MODEL] if model.id in blessings]
    return sorted(models, key=lambda model: model.id, reverse=True)


def _with_blessing(
    model: types.Artifact | None, input_dict: dict[str, list[types.Artifact]]
) -> dict[str, list[types.Artifact]]:
    return {
        MODEL: [model] if model else [],
        BLESSING: [_blessings(input_dict)[model.id]] if model else [],
        **{key: found for key, found in input_dict.items() if key == CANDIDATE},
    }


def _made_of(store: mlmd.MetadataStore, artifact: int) -> set[int]:
    """Returns the numbers of all that an artifact was made of, directly or not."""
    found: set[int] = set()
    waiting = {artifact}
    while waiting:
        made_by = {
            event.execution_id
            for event in store.get_events_by_artifact_ids(waiting)
            if event.type == metadata_store_pb2.Event.OUTPUT
        }
        inputs = {
            event.artifact_id
            for event in (store.get_events_by_execution_ids(made_by) if made_by else ())
            if event.type == metadata_store_pb2.Event.INPUT
        }
        waiting = inputs - found
        found |= inputs
    return found


class LatestOtherAcceptedStatisticsStrategy(resolver.ResolverStrategy):
    """Resolves to the statistics that a gate accepted last, other than the candidate itself.

    As with models, a second run over unchanged inputs would otherwise find the statistics of the
    first run as its own baseline: the gate's inputs would have changed, and it would run again to
    find that nothing has drifted from itself.

    The Resolver takes `statistics` and `report` (all there are; the reports of one gate) and
    `candidate`. A gate writes a report only of data that it accepts.
    """

    def resolve_artifacts(
        self, store: mlmd.MetadataStore, input_dict: dict[str, list[types.Artifact]]
    ) -> dict[str, list[types.Artifact]]:
        """Returns the baseline and the report that accepts it, or empty lists where there is none.

        Args:
            store: Not used; the reports name the statistics they accept.
            input_dict: All artifacts of each channel.

        Returns:
            The same keys, with at most one artifact each.
        """
        candidates = {artifact.id for artifact in input_dict[CANDIDATE]}
        statistics = {artifact.id: artifact for artifact in input_dict[STATISTICS]}
        others = [
            report
            for report in input_dict[REPORT]
            if report.get_int_custom_property(STATISTICS_ID) in statistics.keys() - candidates
        ]
        latest = max(others, key=lambda report: report.id, default=None)
        accepted = latest and statistics[latest.get_int_custom_property(STATISTICS_ID)]
        return {
            STATISTICS: [accepted] if accepted else [],
            REPORT: [latest] if latest else [],
            CANDIDATE: input_dict[CANDIDATE],
        }
