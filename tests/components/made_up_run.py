"""Makes up a run: its artifacts as its components write them, and its records in ML Metadata.

The tests of reports load this file by its path.
"""

import dataclasses
import gzip
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from ml_metadata import metadata_store
from ml_metadata.proto import metadata_store_pb2
from tensorflow_metadata.proto.v0 import anomalies_pb2, statistics_pb2

from bert_tfx.components.data_gate import checks
from bert_tfx.components.predictor.predictions import Predictions, read_predictions
from bert_tfx.components.promotion_gate.decision import decide
from bert_tfx.components.promotion_gate.limits import PromotionLimits
from bert_tfx.components.promotion_gate.metrics import accuracy_estimate
from bert_tfx.components.report.artifacts import (
    PRODUCERS,
    TEACHER_RUN,
    VARIANT_GATES,
    StoredArtifact,
)
from bert_tfx.components.variant_gate.judgement import judge, unusable
from bert_tfx.components.variant_gate.limits import VariantLimits
from bert_tfx.schema.tasks import TASKS

LIMITS = PromotionLimits(min_accuracy=0.8, max_regression=0.01)
CONFIG = {
    "data_dir": "/data",
    "task": json.loads(TASKS["sst2"].to_json()),
    "recipe": {"epochs": 2, "learning_rate": 0.001},
    "model": "bert",
    "size": "tiny",
}


@dataclasses.dataclass(frozen=True)
class Step:
    """A step of making a model smaller.

    Attributes:
        name: What it is called.
        wrong: Rows of the eval split that the variant has wrong.
        size: Of the variant in MB.
        speed: How many times as fast as the head of the chain the variant is.
        settings: What was asked for.
        control_wrong: Rows that the same student has wrong that was not taught; None without one.
        broken: Why a server could not load the variant, or None where it could.
    """

    name: str
    wrong: Sequence[int] = (3, 50, 120)
    size: float = 24.1
    speed: float = 2.0
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    control_wrong: Sequence[int] | None = None
    broken: str | None = None


STUDENT = Step(
    "student",
    wrong=(3, 50, 120, 121),
    size=47.5,
    speed=1.93,
    settings={"student_layers": 3, "temperature": 2.0, "alpha": 0.5, "hidden_weight": 0.0},
    control_wrong=(3, 50, 120, 121, 140, 141),
)
COMPRESSED = Step(
    "prune vocab",
    wrong=(3, 50, 120, 121, 122),
    size=31.2,
    speed=1.96,
    settings={
        **{"layers": None, "heads": 0.0, "importance_rows": 1024, "prune_vocab": True},
        **{"min_count": 1, "characters": "ascii", "recovery_steps": 0, "recovery_seed": 1},
    },
)
TOO_MUCH = Step("heads 0.5, ffn 0.5", wrong=range(0, 80, 2), settings={"heads": 0.5, "ffn": 0.5})
BROKEN = Step("store float16", broken="the server did not load it")


@dataclasses.dataclass
class MadeUpRun:
    """What the artifacts of a run shall say; `write` writes them.

    Attributes:
        folder: Where they go.
        labels: The task's labels.
        rows: Rows of the eval split; their labels go round.
        wrong: Of these, those that the candidate has wrong.
        baseline_wrong: Those that the baseline has wrong, or None where there is no baseline.
        text: The text of row `i`, as a template.
        passed: Whether the server passes.
        pushed: Whether the model is pushed; by default where it may be.
        rejected: Rows of train that did not fit.
        leaked: Share of the eval rows that leaked.
        padding: What the training noted for each epoch, or None.
        steps: Of making the model smaller; the first is the student's where it is called so.
    """

    folder: pathlib.Path
    labels: Sequence[str] = ("0", "1")
    rows: int = 200
    wrong: Sequence[int] = (3, 50, 120)
    baseline_wrong: Sequence[int] | None = None
    text: str = "secret text of row {i}"
    passed: bool = True
    pushed: bool | None = None
    rejected: int = 0
    leaked: float = 0.0
    padding: float | None = None
    steps: Sequence[Step] = ()

    def write(self) -> dict[str, StoredArtifact]:
        """Writes all artifacts; returns them by the keys of `PRODUCERS`."""
        self._predictions()
        decision = self._decision()
        blessed = json.loads(decision)["blessed"]
        pushed = blessed and self.passed if self.pushed is None else self.pushed
        self._file("Evaluator/evaluation/eval_config.json", "{}")
        self._file("PromotionGate/decision/decision.json", decision)
        self._file("ServingGate/findings/findings.json", json.dumps(self._findings(blessed)))
        self._file("DataGate/report/report.json", self._data_report())
        leaked = self.folder / "DataGate/report/leaked_eval_rows.txt.gz"
        leaked.write_bytes(gzip.compress(b""))
        self._file("TokenGate/report/report.json", self._token_report())
        for split in ("train", "eval"):
            self._file(f"TsvExampleGen/examples/Split-{split}/data.gz", f"records of {split}")
            path = f"TokenStatistics/statistics/Split-{split}/FeatureStats.pb"
            self._file(path, self._statistics())
            path = f"ExampleValidator/anomalies/Split-{split}/SchemaDiff.pb"
            self._file(path, anomalies_pb2.Anomalies().SerializeToString())
        self._training()
        made = self._variants()
        (self.folder / "Trainer/model").mkdir()
        (self.folder / "StatisticsGen/statistics").mkdir(parents=True)
        (self.folder / "ModelPusher/pushed_model").mkdir(parents=True)
        splits = {"split_names": '["train", "eval"]'}
        properties: dict[str, Mapping[str, Any]] = {
            "examples": splits | self._counts(),
            "anomalies": splits,
            "token_statistics": splits,
            "pushed_model": {
                "pushed": 1,
                "pushed_version": "17",
                "pushed_destination": "/out/serving/17",
                "pushed_sha256": "ab" * 32,
            }
            if pushed
            else {"pushed": 0},
        }
        return {
            key: StoredArtifact(
                id=number,
                type="Made",
                uri=str(self.folder / node / output),
                properties=properties.get(key, {}),
            )
            for number, (key, (node, output)) in enumerate(self._outputs(made), start=1)
            if key != "baseline_model" or self.baseline_wrong is not None
        }

    def _outputs(self, made: Sequence[str]) -> list[tuple[str, tuple[str, str]]]:
        """Returns what is made in every run, and these besides."""
        rare = {TEACHER_RUN, *VARIANT_GATES} - set(made)
        return [(key, output) for key, output in PRODUCERS.items() if key not in rare]

    def _file(self, name: str, content: str | bytes) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    def _answer(self, row: int, is_wrong: bool) -> list[float]:
        count = len(self.labels)
        answer = (row + is_wrong) % count
        # The later a row, the surer the answer.
        top = 0.7 + 0.25 * row / self.rows
        return [top if i == answer else (1 - top) / (count - 1) for i in range(count)]

    def _predictions(self) -> None:
        split = self.folder / "Predictor/predictions/Split-eval"
        split.mkdir(parents=True)
        with tf.io.TFRecordWriter(str(split / "data.gz"), "GZIP") as writer:
            for row in range(self.rows):
                example = tf.train.Example()
                feature = example.features.feature
                feature["label"].int64_list.value.append(row % len(self.labels))
                for name, value in (
                    ("text_a", self.text.format(i=row)),
                    ("source_row", f"dev.tsv:{row + 2}"),
                    ("truncated", "no"),
                    ("language", "zh" if row < self.rows // 2 else "en"),
                ):
                    feature[name].bytes_list.value.append(value.encode())
                feature["candidate_probabilities"].float_list.value.extend(
                    self._answer(row, row in self.wrong)
                )
                if self.baseline_wrong is not None:
                    feature["baseline_probabilities"].float_list.value.extend(
                        self._answer(row, row in self.baseline_wrong)
                    )
                writer.write(example.SerializeToString())

    def _decision(self) -> str:
        split = str(self.folder / "Predictor/predictions/Split-eval")
        predictions = read_predictions(split, ["truncated", "language"])
        return decide(predictions, self.labels, LIMITS, resamples=50).to_json()

    def _findings(self, blessed: bool) -> dict[str, Any]:
        if not blessed:
            return {"passed": False, "verdict": "The server was not asked."}
        problems = [] if self.passed else ["serve_text, a blank: it did not answer"]
        return {
            "passed": self.passed,
            "verdict": "; ".join(problems) or "it answers as it was evaluated.",
            "problems": problems,
            "program": "tensorflow_model_server 2.16",
            "model_bytes": 3652872,
            "limits": {"serving_tolerance": 1e-05, "max_slowdown": None},
            "seconds_to_available": 4.43,
            "golden": {"rows": 64, "differences": {"serve_text": 5.2e-08}},
            "hostile": [
                {"name": "a blank", "signature": "serve_text", "problem": p}
                for p in problems or [None]
            ],
            "first_request_ms": 9.7,
            "load": {
                "candidate": [
                    {"rows": 1, "callers": 1, "requests": 559}
                    | {"p50": 3.72, "p99": 5.13, "rows_per_second": 266.9}
                ]
            },
            "server_peak_bytes": 796860416,
        }

    def _data_report(self) -> str:
        limits = checks.parse_limits()
        count = round(self.leaked * self.rows)
        example = {"row": "train.tsv:3", "other_row": "dev.tsv:5", "text": self.text.format(i=3)}
        result = checks.judge(
            checks.LEAKAGE,
            ("train", "eval"),
            self.leaked,
            limits,
            rows=self.rows,
            count=count,
            found=f"{count} of {self.rows} eval rows stand in train",
            advice="Remove them",
            examples=[example] if count else [],
        )
        skew = checks.judge(
            checks.LABEL_SKEW, ("train", "eval"), 0.0, limits, rows=self.rows, found="a", advice="b"
        )
        return checks.report_json({"eval": {"rows": self.rows}}, [skew, result])

    def _token_report(self) -> str:
        facts = {"rows": 1000, "mean_tokens": 32.0, "median_tokens": 30.0, "max_tokens": 128}
        facts |= {"truncated_rows": 45, "unknown_tokens": 12, "tokens": 30000}
        return checks.report_json({"train": facts, "eval": facts}, [])

    def _statistics(self) -> bytes:
        statistics = statistics_pb2.DatasetFeatureStatisticsList()
        dataset = statistics.datasets.add(num_examples=1000)
        feature = dataset.features.add()
        feature.path.step.append("num_tokens")
        histogram = feature.num_stats.histograms.add(type=statistics_pb2.Histogram.QUANTILES)
        for low, high in ((4, 20), (20, 30), (30, 128)):
            histogram.buckets.add(low_value=low, high_value=high, sample_count=333)
        return statistics.SerializeToString()

    def _counts(self) -> dict[str, int]:
        counts = {"rows_read_train": 1000 + self.rejected, "rows_written_train": 1000}
        counts |= {"rows_rejected_train": self.rejected, "rows_read_eval": self.rows}
        counts |= {"rows_written_eval": self.rows, "rows_rejected_eval": 0}
        for label in self.labels:
            counts[f"rows_written_train_{label}"] = 1000 // len(self.labels)
            counts[f"rows_written_eval_{label}"] = self.rows // len(self.labels)
        return counts

    def variant_findings(self) -> dict[str, dict[str, Any]]:
        """Returns what the gates of the steps have found, by their keys in `VARIANT_GATES`."""
        keys = list(VARIANT_GATES)[0 if self._has_student else 1 :]
        wrong: Sequence[int] = (3, 50)
        head = {"name": "teacher" if self._has_student else "trained", "parameters": 22_713_986}
        head |= {"bytes": 94_100_000, "accuracy": self._accuracy(wrong), "load": self._load(1)}
        found, before = {}, head
        for key, step in zip(keys, self.steps, strict=False):
            found[key] = self._variant_findings(step, head, before, wrong)
            goes_on = found[key]["accepted"] or step.name == STUDENT.name
            if goes_on and step.broken is None:
                before, wrong = found[key]["models"]["variant"], step.wrong
        # Each has what it measured for itself.
        return json.loads(json.dumps(found))

    @property
    def _has_student(self) -> bool:
        return bool(self.steps) and self.steps[0].name == STUDENT.name

    def _variants(self) -> list[str]:
        """Writes the findings; returns their keys, and the teacher's."""
        found = self.variant_findings()
        for key, findings in found.items():
            path = f"{VARIANT_GATES[key]}/findings/findings.json"
            self._file(path, json.dumps(findings))
        if not self._has_student:
            return list(found)
        about = {"model": "bert", "size": None, "pretrained": "/checkpoints/teacher"}
        about |= {"warm_start": None, "distillation": None}
        self._training("Teacher", training=about)
        return [*found, TEACHER_RUN]

    def _variant_findings(
        self,
        step: Step,
        head: Mapping[str, Any],
        before: Mapping[str, Any],
        before_wrong: Sequence[int],
    ) -> dict[str, Any]:
        variant = {"name": step.name, "parameters": round(step.size * 1e6 / 4.14)}
        variant |= {"bytes": round(step.size * 1e6)}
        models = {"before": before, "variant": variant}
        if before is not head:
            models["reference"] = head
        if step.control_wrong is not None:
            models["control"] = variant | {"name": f"{step.name}, not taught"}
            models["control"] |= {"accuracy": self._accuracy(step.control_wrong)}
            models["control"] |= {"load": self._load(step.speed)}
        limits = VariantLimits()
        if step.broken is None:
            variant |= {"accuracy": self._accuracy(step.wrong), "load": self._load(step.speed)}
            judgement = judge(
                self._answered(step.wrong, before_wrong),
                self.labels,
                models,
                limits,
                name=step.name,
                of=str(before["name"]),
                row_names=[f"dev.tsv:{row + 2}" for row in range(self.rows)],
            )
        else:
            names = ("name", "parameters", "bytes")
            models = {key: {n: found[n] for n in names} for key, found in models.items()}
            judgement = unusable(step.name, step.broken)
        return {
            "step": step.name,
            "settings": step.settings,
            "limits": dataclasses.asdict(limits),
            "rows": self.rows,
            "models": models,
            **dataclasses.asdict(judgement),
        }

    def _load(self, speed: float) -> list[dict[str, float]]:
        return [
            {"rows": rows, "callers": 1, "requests": 70, "p50": p50 / speed, "p99": p50 / speed + 2}
            | {"rows_per_second": 1000 * rows * speed / p50}
            for rows, p50 in ((1, 15.9), (32, 301.5))
        ]

    def _accuracy(self, wrong: Sequence[int]) -> dict[str, Any]:
        return dataclasses.asdict(accuracy_estimate(self.rows - len(wrong), self.rows))

    def _answered(self, wrong: Sequence[int], baseline_wrong: Sequence[int]) -> Predictions:
        answers = [
            np.array([self._answer(row, row in rows) for row in range(self.rows)], np.float32)
            for rows in (wrong, baseline_wrong)
        ]
        languages = np.array(["zh" if row < self.rows // 2 else "en" for row in range(self.rows)])
        labels = np.arange(self.rows) % len(self.labels)
        return Predictions(labels, *answers, {"language": languages})

    def _training(
        self, node: str = "Trainer", *, training: Mapping[str, Any] | None = None
    ) -> None:
        noted = {} if self.padding is None else {"padding": self.padding}
        epochs = [
            {"loss": 0.6 / epoch, "accuracy": 0.7 + 0.1 * epoch, "eval_loss": 0.5 / epoch}
            | {"eval_accuracy": 0.75 + 0.1 * epoch}
            | noted
            for epoch in (1, 2)
        ]
        progress = {"epoch": 2, "best_epoch": 2, "best_value": 0.95, "best_accuracy": 0.95}
        progress |= {"history": epochs, "step_losses": [1 / (i + 1) for i in range(600)]}
        progress |= {"learning_rates": [1e-5 * i for i in range(600)]}
        history = {"metric": "accuracy", "best_seed": 1, "mean": 0.95, "standard_deviation": 0.0}
        history["seeds"] = {"1": progress}
        about = {
            "task": CONFIG["task"],
            "lowercase": True,
            "max_length": 128,
            "training": training or self._trained(),
            "versions": {"bert-tfx": "0.1.0", "keras": "3.12.4"},
        }
        self._file(f"{node}/model_run/history.json", json.dumps(history))
        self._file(f"{node}/model_run/model.json", json.dumps(about))

    def _trained(self) -> dict[str, Any]:
        about = {"model": "bert", "size": "tiny", "pretrained": None}
        if self._has_student:
            teachers = [str(self.folder / "Teacher/model/Format-Serving")]
            about |= {"size": None, "warm_start": None}
            about |= {"distillation": {"teachers": teachers, **self.steps[0].settings}}
        return about


class Records:
    """ML Metadata's records of runs, as TFX keeps them.

    Args:
        output_dir: The folder of the runs.
    """

    def __init__(self, output_dir: pathlib.Path) -> None:
        connection = metadata_store_pb2.ConnectionConfig()
        connection.sqlite.filename_uri = str(output_dir / "metadata.sqlite")
        connection.sqlite.connection_mode = (
            metadata_store_pb2.SqliteMetadataSourceConfig.READWRITE_OPENCREATE
        )
        self._store = metadata_store.MetadataStore(connection)
        self._artifacts: dict[str, int] = {}

    def add_run(
        self,
        run_id: str,
        sources: Mapping[str, StoredArtifact],
        *,
        pipeline: str = "bert-tfx-sst2-1234",
        states: Mapping[str, str] | None = None,
        parameters: Mapping[str, Mapping[str, Any]] | None = None,
        inputs: Mapping[str, Mapping[str, str]] | None = None,
        until: str = "ModelPusher",
    ) -> None:
        """Records a run of the components that make a report's inputs.

        Args:
            run_id: Its name.
            sources: What its components made.
            pipeline: The pipeline's name.
            states: `CACHED`, `FAILED` or `RUNNING` of components that are not `COMPLETE`.
            parameters: Of components.
            inputs: Of components, keys of `sources` by the input; made by components before them.
            until: The component after which there is none.
        """
        states = states or {}
        run = self._context("pipeline_run", run_id)
        outputs: dict[str, list[tuple[str, str]]] = {}
        for key, (node, output) in PRODUCERS.items():
            outputs.setdefault(node, []).append((key, output))
        rare = {"Teacher", *VARIANT_GATES.values()}
        for node, keys in outputs.items():
            if node in rare and not any(key in sources for key, _ in keys):
                continue
            execution = metadata_store_pb2.Execution(
                type_id=self._type("execution", node),
                last_known_state=states.get(node, "COMPLETE"),
            )
            for name, value in (parameters or {}).get(node, {}).items():
                kind = "int_value" if isinstance(value, int) else "string_value"
                setattr(execution.custom_properties[name], kind, value)
            made = []
            if states.get(node) not in ("FAILED", "RUNNING"):
                made = [
                    (self._artifact(sources[key]), self._event(output))
                    for key, output in keys
                    if key in sources
                ]
            made += [
                (self._artifact(sources[key]), self._event(name, is_input=True))
                for name, key in (inputs or {}).get(node, {}).items()
            ]
            contexts = [run, self._context("pipeline", pipeline)]
            contexts.append(self._context("node", f"{pipeline}.{node}"))
            self._store.put_execution(execution, made, contexts)
            if node == until:
                return

    def _type(self, kind: str, name: str) -> int:
        made = {
            "artifact": metadata_store_pb2.ArtifactType,
            "execution": metadata_store_pb2.ExecutionType,
            "context": metadata_store_pb2.ContextType,
        }[kind](name=name)
        return getattr(self._store, f"put_{kind}_type")(made)

    def _context(self, kind: str, name: str) -> metadata_store_pb2.Context:
        found = self._store.get_context_by_type_and_name(kind, name)
        if found is not None:
            return found
        made = metadata_store_pb2.Context(type_id=self._type("context", kind), name=name)
        (made.id,) = self._store.put_contexts([made])
        return made

    def _artifact(self, source: StoredArtifact) -> metadata_store_pb2.Artifact:
        artifact = metadata_store_pb2.Artifact(
            type_id=self._type("artifact", source.type), uri=source.uri
        )
        if source.uri in self._artifacts:
            artifact.id = self._artifacts[source.uri]
        for name, value in source.properties.items():
            kind = "int_value" if isinstance(value, int) else "string_value"
            setattr(artifact.custom_properties[name], kind, value)
        if not artifact.id:
            (artifact.id,) = self._store.put_artifacts([artifact])
            self._artifacts[source.uri] = artifact.id
        return artifact

    def _event(self, key: str, *, is_input: bool = False) -> metadata_store_pb2.Event:
        kinds = metadata_store_pb2.Event
        event = kinds(type=kinds.INPUT if is_input else kinds.OUTPUT)
        event.path.steps.add(key=key)
        event.path.steps.add(index=0)
        return event
