"""Finds what a candidate is compared with: a model, or the statistics of its data."""

import ml_metadata as mlmd
from tfx import types
from tfx.components.evaluator import constants
from tfx.dsl.components.common import resolver

from bert_tfx.components.data_gate.checks import STATISTICS_ID

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
        blessings = {
            blessing.get_int_custom_property(
                constants.ARTIFACT_PROPERTY_CURRENT_MODEL_ID_KEY
            ): blessing
            for blessing in input_dict[BLESSING]
            if blessing.get_int_custom_property(constants.ARTIFACT_PROPERTY_BLESSED_KEY)
            == constants.BLESSED_VALUE
        }
        others = [
            model
            for model in input_dict[MODEL]
            if model.id in blessings and model.id not in candidates
        ]
        latest = max(others, key=lambda model: model.id, default=None)
        return {
            MODEL: [latest] if latest else [],
            BLESSING: [blessings[latest.id]] if latest else [],
            CANDIDATE: input_dict[CANDIDATE],
        }


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
