"""Report: one page that tells the whole story of a run, for an engineer and for who asks them."""

import os
from collections.abc import Mapping

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import component_spec, standard_artifacts

from bert_tfx.components.data_gate.component import DataGateReport
from bert_tfx.components.promotion_gate.component import PromotionDecision
from bert_tfx.components.report import artifacts, executor, page
from bert_tfx.components.serving_gate.component import ServingFindings
from bert_tfx.components.token_gate.component import TokenGateReport
from bert_tfx.components.variant_findings import VariantFindings
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.fingerprint import file_fingerprint, source_fingerprint


class RunReport(types.Artifact):
    """The report of a run.

    `index.html` is the page, `model_card.md` the model card, `report.json` all that the page shows.
    """

    TYPE_NAME = "RunReport"


def _optional(kind: type[types.Artifact]) -> component_spec.ChannelParameter:
    return component_spec.ChannelParameter(type=kind, optional=True)


def fingerprint() -> str:
    """Returns a hash of all that makes a page of a run: the source and the templates."""
    folder = os.path.dirname(page.__file__)
    templates = file_fingerprint(*(os.path.join(folder, name) for name in page.TEMPLATES))
    return f"{source_fingerprint(executor.__name__)}-{templates}"


class ReportSpec(component_spec.ComponentSpec):
    """Inputs, outputs and parameters of `Report`."""

    PARAMETERS = {
        "config": component_spec.ExecutionParameter(type=str),
        "report_text": component_spec.ExecutionParameter(type=int),
        "fingerprint": component_spec.ExecutionParameter(type=str),
    }
    INPUTS = {
        artifacts.EXAMPLES: _optional(standard_artifacts.Examples),
        artifacts.STATISTICS: _optional(standard_artifacts.ExampleStatistics),
        artifacts.ANOMALIES: _optional(standard_artifacts.ExampleAnomalies),
        artifacts.DATA_REPORT: _optional(DataGateReport),
        artifacts.TOKEN_STATISTICS: _optional(standard_artifacts.ExampleStatistics),
        artifacts.TOKEN_REPORT: _optional(TokenGateReport),
        artifacts.MODEL: _optional(standard_artifacts.Model),
        artifacts.MODEL_RUN: _optional(standard_artifacts.ModelRun),
        artifacts.TEACHER_RUN: _optional(standard_artifacts.ModelRun),
        **{key: _optional(VariantFindings) for key in artifacts.VARIANT_GATES},
        artifacts.BASELINE_MODEL: _optional(standard_artifacts.Model),
        artifacts.PREDICTIONS: _optional(standard_artifacts.Examples),
        artifacts.EVALUATION: _optional(standard_artifacts.ModelEvaluation),
        artifacts.DECISION: _optional(PromotionDecision),
        artifacts.FINDINGS: _optional(ServingFindings),
        artifacts.PUSHED_MODEL: _optional(standard_artifacts.PushedModel),
    }
    OUTPUTS = {"report": component_spec.ChannelParameter(type=RunReport)}


class Report(base_component.BaseComponent):
    """Writes the report of a run from what its components made.

    It knows nothing of times and of what else only ML Metadata holds; `pipeline.run_report` makes
    the same page anew with these, once the run has ended.

    Args:
        inputs: Channels by the keys of `artifacts.PRODUCERS`; a section whose channels are missing
            is left out.
        config: The run's configuration as JSON.
        report_text: Whether texts of rows may stand in the report.

    Raises:
        InputError: If there is no such input.
    """

    SPEC_CLASS = ReportSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        *,
        inputs: Mapping[str, types.BaseChannel],
        config: str,
        report_text: bool,
    ) -> None:
        if unknown := set(inputs) - set(ReportSpec.INPUTS):
            raise InputError(
                f"Report has no input {', '.join(sorted(unknown))}; it has "
                f"{', '.join(ReportSpec.INPUTS)}"
            )
        super().__init__(
            ReportSpec(
                **inputs,
                config=config,
                report_text=int(report_text),
                fingerprint=fingerprint(),
                report=types.Channel(type=RunReport),
            )
        )
