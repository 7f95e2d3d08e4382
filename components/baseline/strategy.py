"""Finds the model that a candidate is compared with."""

import ml_metadata as mlmd
from tfx import types
from tfx.components.evaluator import constants
from tfx.dsl.components.common import resolver

MODEL = "model"
BLESSING = "model_blessing"
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
