"""Executor of Report."""

import json
import os
from typing import Any

from absl import logging
from tfx import types
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils
from tfx.utils import io_utils

from bert_tfx.components.report.artifacts import stored_artifact
from bert_tfx.components.report.content import read_content
from bert_tfx.components.report.page import report_documents


class Executor(base_executor.BaseExecutor):
    """Reads the artifacts and writes the files."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Writes the report.

        Args:
            input_dict: Artifacts by the keys of `artifacts.PRODUCERS`; some may be missing.
            output_dict: `report`.
            exec_properties: `config` (JSON), `report_text` (0 or 1).
        """
        config = json.loads(exec_properties["config"])
        rejects_dir = config.get("output_dir") and os.path.join(config["output_dir"], "rejects")
        sources = {
            key: stored_artifact(found[0].mlmd_artifact, found[0].type_name)
            for key, found in input_dict.items()
            if found
        }
        content = read_content(
            sources,
            config=config,
            report_text=bool(exec_properties["report_text"]),
            rejects_dir=rejects_dir,
        )
        folder = artifact_utils.get_single_uri(output_dict["report"])
        for name, text in report_documents(content, folder).items():
            io_utils.write_bytes_file(os.path.join(folder, name), text.encode())
        logging.info("Report: %s", content["verdict"]["title"])
