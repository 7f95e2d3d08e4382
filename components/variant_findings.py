"""What VariantGate finds, which PromotionGate and the report read."""

from tfx import types

FINDINGS_FILE = "findings.json"


class VariantFindings(types.Artifact):
    """What VariantGate found, as `FINDINGS_FILE`."""

    TYPE_NAME = "VariantFindings"
