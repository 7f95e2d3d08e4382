"""Whole runs of the pipeline, and what they leave behind."""

import collections
import dataclasses
import pathlib
import re
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_text  # noqa: F401, registers the ops of the served graph
from ml_metadata import metadata_store
from ml_metadata.proto import metadata_store_pb2


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that has ended, and what there was at its end.

    Attributes:
        code: The exit code.
        stdout: What it printed.
        stderr: What it complained of.
        versions: The model versions under `serving/`.
        artifacts: The number of live artifacts of each type in ML Metadata.
    """

    code: int
    stdout: str
    stderr: str
    versions: tuple[int, ...]
    artifacts: Mapping[str, int]

    @property
    def components(self) -> dict[str, str]:
        """`done` or `cached` by component, in the order of the summary."""
        rows = re.findall(r"^(\w+) +(done|cached) +[\d.]+ s$", self.stdout, re.MULTILINE)
        return dict(rows)

    def check(self, code: int) -> "Run":
        assert self.code == code, f"exit code {self.code}\n{self.stdout}\n{self.stderr}"
        assert "Traceback" not in self.stdout + self.stderr
        return self


def look(output: pathlib.Path, code: int, stdout: str, stderr: str) -> Run:
    """Notes what lies in an output folder now."""
    serving = output / "serving"
    # Every name: a staging folder that was left behind is no number.
    versions = sorted(int(path.name) for path in serving.iterdir()) if serving.exists() else []
    return Run(code, stdout, stderr, tuple(versions), live_artifacts(output / "metadata.sqlite"))


def live_artifacts(metadata: pathlib.Path) -> Mapping[str, int]:
    if not metadata.exists():
        return collections.Counter()
    config = metadata_store_pb2.ConnectionConfig()
    config.sqlite.filename_uri = str(metadata)
    config.sqlite.connection_mode = metadata_store_pb2.SqliteMetadataSourceConfig.READONLY
    artifacts = metadata_store.MetadataStore(config).get_artifacts()
    return collections.Counter(a.type for a in artifacts if a.state == a.LIVE)


@pytest.fixture(scope="session")
def run(command) -> Callable[..., Run]:
    """Runs `bert-tfx run --output OUTPUT ARGUMENTS` to its end."""

    def run(output: pathlib.Path, *arguments: object, **options) -> Run:
        done = command("run", "--output", output, *arguments, **options)
        return look(output, done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def ask() -> Callable[..., dict[str, np.ndarray]]:
    """Asks a SavedModel by both signatures; checks the answers, which must be the same."""

    def ask(
        saved_model: pathlib.Path, rows: list[dict[str, str]], *, classes: list[str]
    ) -> dict[str, np.ndarray]:
        examples = []
        for row in rows:
            example = tf.train.Example()
            for name, text in row.items():
                example.features.feature[name].bytes_list.value.append(text.encode())
            examples.append(example.SerializeToString())
        texts = {name: tf.constant([row[name] for row in rows]) for name in rows[0]}
        signatures = tf.saved_model.load(str(saved_model)).signatures
        by_example = signatures["serving_default"](examples=tf.constant(examples))
        by_text = signatures["serve_text"](**texts)

        answer = {name: value.numpy() for name, value in by_example.items()}
        assert {*answer} == {*by_text} == {"probabilities", "label", "classes", "truncated"}
        for name, value in by_text.items():
            np.testing.assert_array_equal(value.numpy(), answer[name])
        labels = [label.encode() for label in classes]
        assert answer["classes"].tolist() == [labels] * len(rows)
        assert answer["probabilities"].shape == (len(rows), len(classes))
        np.testing.assert_allclose(answer["probabilities"].sum(axis=1), 1, rtol=1e-5)
        best = answer["probabilities"].argmax(axis=1)
        assert answer["label"].tolist() == [labels[i] for i in best]
        return answer

    return ask
