"""The artifacts of a run that a report is made of, as plain values.

The component gets them from TFX, the command line from ML Metadata; both are the same records.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from google.protobuf import json_format
from ml_metadata.proto import metadata_store_pb2

from bert_tfx.components.variant_gate.limits import MAX_COMPRESSIONS

EXAMPLES = "examples"
STATISTICS = "statistics"
ANOMALIES = "anomalies"
DATA_REPORT = "data_report"
TOKEN_STATISTICS = "token_statistics"
TOKEN_REPORT = "token_report"
MODEL = "model"
MODEL_RUN = "model_run"
TEACHER_RUN = "teacher_run"
STUDENT_FINDINGS = "variant_findings_0"
BASELINE_MODEL = "baseline_model"
PREDICTIONS = "predictions"
EVALUATION = "evaluation"
DECISION = "decision"
FINDINGS = "findings"
PUSHED_MODEL = "pushed_model"

# The files in them, as the components name them. Their executors are not imported for a name: they
# load TFX, and a list of runs should answer at once.
DECISION_FILE = "decision.json"
FINDINGS_FILE = "findings.json"
HISTORY_FILE = "history.json"
MODEL_FILE = "model.json"

VARIANT_GATES: Mapping[str, str] = {
    STUDENT_FINDINGS: "StudentGate",
    **{f"variant_findings_{n}": f"CompressGate{n}" for n in range(1, MAX_COMPRESSIONS + 1)},
}
"""For each input with findings on a smaller model the node that makes them, in their order."""

PRODUCERS: Mapping[str, tuple[str, str]] = {
    EXAMPLES: ("TsvExampleGen", "examples"),
    STATISTICS: ("StatisticsGen", "statistics"),
    ANOMALIES: ("ExampleValidator", "anomalies"),
    DATA_REPORT: ("DataGate", "report"),
    TOKEN_STATISTICS: ("TokenStatistics", "statistics"),
    TOKEN_REPORT: ("TokenGate", "report"),
    MODEL: ("Trainer", "model"),
    MODEL_RUN: ("Trainer", "model_run"),
    TEACHER_RUN: ("Teacher", "model_run"),
    **{key: (gate, "findings") for key, gate in VARIANT_GATES.items()},
    BASELINE_MODEL: ("Baseline", "model"),
    PREDICTIONS: ("Predictor", "predictions"),
    EVALUATION: ("Evaluator", "evaluation"),
    DECISION: ("PromotionGate", "decision"),
    FINDINGS: ("ServingGate", "findings"),
    PUSHED_MODEL: ("ModelPusher", "pushed_model"),
}
"""For each input of a report the node that makes it, and its output there."""


@dataclasses.dataclass(frozen=True)
class StoredArtifact:
    """An artifact as ML Metadata knows it.

    Attributes:
        id: Its number, 0 where it has none.
        type: The name of its type.
        uri: Where it lies.
        properties: Declared and custom ones together.
    """

    id: int
    type: str
    uri: str
    properties: Mapping[str, Any]


def stored_artifact(artifact: metadata_store_pb2.Artifact, type_name: str = "") -> StoredArtifact:
    """Returns a record of ML Metadata as plain values.

    Args:
        artifact: The record.
        type_name: Of its type, where the record does not say it.
    """
    return StoredArtifact(
        id=artifact.id,
        type=artifact.type or type_name,
        uri=artifact.uri,
        properties={
            name: value_of(value)
            for values in (artifact.properties, artifact.custom_properties)
            for name, value in values.items()
        },
    )


def value_of(value: metadata_store_pb2.Value) -> Any:
    """Returns what a value of ML Metadata holds; None where that is nothing."""
    kind = value.WhichOneof("value")
    if kind == "struct_value":
        return json_format.MessageToDict(value.struct_value)
    return getattr(value, kind) if kind else None
