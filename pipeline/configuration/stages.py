"""The stages of the pipeline: what a scheduler runs in one process each, one after another.

Starting a process and importing TFX takes longer than most nodes.
"""

from typing import Final

TRAIN: Final = "train"

STAGES: Final[dict[str, tuple[str, ...]]] = {
    "ingest": ("ImportSchemaGen", "TsvExampleGen"),
    "check": ("StatisticsGen", "ExampleValidator", "AcceptedData", "DataGate"),
    "tokenize": ("Transform", "TokenStatistics", "AcceptedTokens", "TokenGate"),
    # Teacher, student, and each step that makes the model smaller: whatever the others do not name.
    TRAIN: (),
    "judge": ("Baseline", "Predictor", "Evaluator", "PromotionGate", "ServingGate"),
    "release": ("ModelPusher", "Report"),
}
"""The nodes of each stage, in the order of the stages."""


def stage_of(node: str) -> str:
    """Returns the stage of a node."""
    return next((stage for stage, nodes in STAGES.items() if node in nodes), TRAIN)
