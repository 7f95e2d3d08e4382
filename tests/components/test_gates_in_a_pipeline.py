"""DataGate and TokenGate as the orchestrator runs them: over new rows, and over the same again."""

import json
import pathlib
import random

import pytest
import tensorflow_data_validation as tfdv
from ml_metadata.proto import metadata_store_pb2
from tfx import types
from tfx.components import ExampleValidator, StatisticsGen, Transform
from tfx.components.schema_gen.import_schema_gen.component import ImportSchemaGen
from tfx.dsl.components.common.resolver import Resolver
from tfx.orchestration import metadata
from tfx.orchestration import pipeline as tfx_pipeline
from tfx.orchestration.local.local_dag_runner import LocalDagRunner
from tfx.proto import transform_pb2
from tfx.types import standard_artifacts

from bert_tfx.components.baseline.strategy import LatestOtherAcceptedStatisticsStrategy
from bert_tfx.components.data_gate import checks
from bert_tfx.components.data_gate.component import DataGate, DataGateReport
from bert_tfx.components.data_gate.repeats import read_leaked_eval_rows
from bert_tfx.components.token_gate.component import TokenGate, TokenGateReport
from bert_tfx.components.token_gate.executor import statistics_options
from bert_tfx.components.tsv_example_gen.component import TsvExampleGen
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.tasks import SOURCE_ROW, TASKS, resolve_layout
from bert_tfx.schema.tfdv_schema import write_task_schema

SST2 = TASKS["sst2"]
WORDS = ("good", "bad", "the", "film", "was", "a", "very")


class Runs:
    """Runs of one pipeline over a folder whose files change."""

    def __init__(self, folder: pathlib.Path, vocab_file: pathlib.Path) -> None:
        self.data = folder / "data"
        self.data.mkdir()
        self._folder = folder
        self._vocab_file = vocab_file
        self._connection = metadata.sqlite_metadata_connection_config(
            str(folder / "metadata.sqlite")
        )

    def run(self, limits: str = "") -> None:
        layout = resolve_layout(SST2, str(self.data))
        given = checks.parse_limits(limits)
        example_gen = TsvExampleGen(
            SST2, layout, str(self.data), rejects_dir=str(self._folder / "rejects")
        )
        examples = example_gen.outputs["examples"]
        schema_file = write_task_schema(SST2, layout, str(self._folder / "schema"))
        import_schema = ImportSchemaGen(schema_file=schema_file)
        schema = import_schema.outputs["schema"]
        statistics_gen = StatisticsGen(
            examples=examples,
            schema=schema,
            stats_options=tfdv.StatsOptions(feature_allowlist=["text_a", "label"]),
        )
        statistics = statistics_gen.outputs["statistics"]
        validator = ExampleValidator(statistics=statistics, schema=schema)
        data_baseline = Resolver(
            strategy_class=LatestOtherAcceptedStatisticsStrategy,
            statistics=types.Channel(type=standard_artifacts.ExampleStatistics),
            report=types.Channel(type=DataGateReport),
            candidate=statistics,
        ).with_id("DataBaseline")
        data_gate = DataGate(
            examples=examples,
            statistics=statistics,
            schema=schema,
            anomalies=validator.outputs["anomalies"],
            baseline_statistics=data_baseline.outputs["statistics"],
            task=SST2,
            unlabelled_splits=[],
            limits=given,
            report_text=False,
        )
        transform = Transform(
            examples=examples,
            schema=schema,
            preprocessing_fn="bert_tfx.modeling.tfx.preprocessing.preprocessing_fn",
            splits_config=transform_pb2.SplitsConfig(
                analyze=["train"], transform=["train", "eval"]
            ),
            custom_config={
                "vocab_file": str(self._vocab_file),
                "lowercase": True,
                "max_length": 16,
            },
        )
        transform.add_upstream_node(data_gate)
        token_statistics_gen = StatisticsGen(
            examples=transform.outputs["transformed_examples"], stats_options=statistics_options()
        ).with_id("TokenStatistics")
        token_statistics = token_statistics_gen.outputs["statistics"]
        token_baseline = Resolver(
            strategy_class=LatestOtherAcceptedStatisticsStrategy,
            statistics=types.Channel(type=standard_artifacts.ExampleStatistics),
            report=types.Channel(type=TokenGateReport),
            candidate=token_statistics,
        ).with_id("TokenBaseline")
        token_gate = TokenGate(
            statistics=token_statistics,
            baseline_statistics=token_baseline.outputs["statistics"],
            task=SST2,
            limits=given,
        )
        LocalDagRunner().run(
            tfx_pipeline.Pipeline(
                pipeline_name="gates",
                pipeline_root=str(self._folder / "artifacts"),
                metadata_connection_config=self._connection,
                components=[
                    example_gen,
                    import_schema,
                    statistics_gen,
                    validator,
                    data_baseline,
                    data_gate,
                    transform,
                    token_statistics_gen,
                    token_baseline,
                    token_gate,
                ],
                enable_cache=True,
                # The image is never pulled; where one is named, TFX does not pack itself into an
                # sdist.
                beam_pipeline_args=["--runner=FnApiRunner", "--sdk_container_image=none"],
            )
        )

    def states(self) -> list[str]:
        """Returns how the executions of the gates ended, in their order."""
        with metadata.Metadata(self._connection) as handle:
            types_by_id = {found.id: found.name for found in handle.store.get_execution_types()}
            executions = sorted(handle.store.get_executions(), key=lambda found: found.id)
        state = metadata_store_pb2.Execution.State
        return [
            f"{name} {state.Name(found.last_known_state).lower()}"
            for found in executions
            if (name := types_by_id[found.type_id].rsplit(".")[-1]) in ("DataGate", "TokenGate")
        ]

    def reports(self, kind: str) -> list[dict]:
        """Returns the reports of a gate, in the order of their making."""
        with metadata.Metadata(self._connection) as handle:
            artifacts = handle.store.get_artifacts_by_type(kind)
        self.folders = [artifact.uri for artifact in artifacts]
        return [json.loads(pathlib.Path(a.uri, "report.json").read_text()) for a in artifacts]

    def write(self, *, seed: int, words: int, good: float) -> None:
        """Writes new rows; the first text of both files is the same but for case."""
        rng = random.Random(seed)
        for name, count in (("train", 200), ("dev", 100)):
            texts = [
                f"{name} {n} {seed} {' '.join(rng.choices(WORDS, k=words))}" for n in range(count)
            ]
            labels = [int(rng.random() < good) for _ in texts]
            texts[0], labels[0] = f"{'Same' if name == 'dev' else 'same'} {seed}", 1
            rows = "".join(f"{t}\t{label}\n" for t, label in zip(texts, labels, strict=True))
            (self.data / f"{name}.tsv").write_text(f"sentence\tlabel\n{rows}")


def failed(report: dict) -> list[str]:
    return sorted({check["name"] for check in report["checks"] if not check["passed"]})


@pytest.mark.slow
def test_the_last_accepted_run_is_what_the_next_is_compared_with(tmp_path, vocab_file):
    runs = Runs(tmp_path, vocab_file)
    # The names and numbers in the texts are no words of the vocabulary.
    allowed = "unknown=1:stop"
    runs.write(seed=1, words=4, good=0.5)
    runs.run(allowed)
    (first,) = runs.reports("DataGateReport")
    assert not any(check["name"] == "label_drift" for check in first["checks"])
    (leak,) = (check for check in first["checks"] if check["name"] == "leakage")
    assert leak["examples"] == [{"row": "dev.tsv:2", "other_row": "train.tsv:2"}]
    assert read_leaked_eval_rows(runs.folders[0]) == {b"dev.tsv:2"}
    (first,) = runs.reports("TokenGateReport")
    assert not any(check["name"] == "length_drift" for check in first["checks"])

    # The same again: what was accepted last is not compared with itself.
    runs.run(allowed)
    states = ["DataGate complete", "TokenGate complete", "DataGate cached", "TokenGate cached"]
    assert runs.states() == states

    # What a gate refuses is nobody's baseline.
    runs.write(seed=2, words=4, good=0.9)
    with pytest.raises(InputError, match=r"DataGate stopped the run.*\n.*the last accepted run"):
        runs.run(f"{allowed},label_drift=0.1:stop")
    assert len(runs.reports("DataGateReport")) == 1
    runs.write(seed=3, words=12, good=0.9)
    runs.run(allowed)
    _, second = runs.reports("DataGateReport")
    assert "label_drift" in failed(second)
    _, second = runs.reports("TokenGateReport")
    assert "length_drift" in failed(second)

    # Where a row stands is in the examples, and goes no further.
    paths = [*(tmp_path / "artifacts").rglob("FeatureStats.pb")]
    assert paths
    for path in paths:
        statistics = tfdv.load_stats_binary(str(path))
        features = {feature.path.step[0] for feature in statistics.datasets[0].features}
        assert features and SOURCE_ROW not in features, path
