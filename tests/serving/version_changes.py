"""Versions that change under load, and the first request to a new one, on a server process.

python tests/serving/version_changes.py --requests 10000 --clients 32 --first 5
"""

import argparse
import asyncio
import collections
import dataclasses
import importlib.resources
import pathlib
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grpc
import keras
import numpy as np
import tensorflow as tf

import bert_tfx.sample
from bert_tfx.components.model_pusher.lock import exclusive
from bert_tfx.components.model_pusher.version_folder import Origin, VersionFolder
from bert_tfx.modeling.encoders.bert import BertEncoder
from bert_tfx.modeling.encoders.classifier import TextClassifier
from bert_tfx.modeling.encoders.sizes import BERT_SIZES
from bert_tfx.modeling.export import saved_model
from bert_tfx.modeling.export.trained_model import TrainedModel
from bert_tfx.modeling.text.text_rows import rows_of_texts
from bert_tfx.modeling.training.fine_tuning import predict_rows
from bert_tfx.modeling.training.train_step import predictor
from bert_tfx.schema.tasks import TASKS
from bert_tfx.serving import DEFAULT_MODEL
from bert_tfx.serving.client import AsyncClient, Client, Prediction
from bert_tfx.serving.protocol import messages
from bert_tfx.serving.protocol.tensors import string_tensor
from bert_tfx.serving.server.process import LOCAL_SERVER, ServerProcess, model_server

TOLERANCE = 1e-5
# So far apart are two versions' answers to each text, and the classes of each answer: a wrong
# version is no rounding, and a label is none either.
APART = 1e-3
TASK = TASKS["sst2"]
MAX_ROWS = 8
CHANGES = 2
# The last version answers as many, too, even where it is loaded when the others are answered.
LAST_SHARE = 0.05
SECONDS_AT_MOST = 300.0
# One is too many already; where a server is gone, nobody need wait for the end.
FAILED_AT_MOST = 100
SLOWER_AT_MOST = 3.0
SIGNATURES = ("serve_text", "serving_default")

SPECIAL = ("", " ", "。", "😀", "ＦＵＬＬ　ＷＩＤＴＨ", "a\tb\nc", "\u200b", "x" * 300, "好" * 500)
PIECES = (
    *("the room was", "lovely", "the food", "cold", "dreadful", "we came", "again", "service:"),
    *("房间很干净", "客服很傲慢", "，", "下次还来", "味道不错", "太贵了", "！", "等了三天"),
)


# The size that a run has by default.
MINI = {**BERT_SIZES["mini"], "max_length": 128, "initializer_range": 0.02}
TOY = {
    "hidden_dim": 32,
    "num_layers": 1,
    "num_heads": 2,
    "intermediate_dim": 64,
    "max_length": 32,
    "initializer_range": 0.3,
}


def make_model(seed: int, size: Mapping[str, Any] = TOY) -> TrainedModel:
    """Makes a classifier with weights of its own, so that no other seed's answers are like its."""
    vocab_file = importlib.resources.files(bert_tfx.sample) / "vocab.txt"
    keras.utils.set_random_seed(seed)
    encoder = BertEncoder(
        vocab_size=len(vocab_file.read_text(encoding="utf-8").splitlines()), **size
    )
    classifier = TextClassifier(encoder, num_labels=2)
    return TrainedModel(classifier, TASK, str(vocab_file), True, encoder.config.max_length, 0.0, {})


def answers_of(model: TrainedModel, texts: Sequence[str]) -> np.ndarray:
    """Returns what the model says in this process: probabilities, float32 `[texts, classes]`."""
    column = np.array([text.encode() for text in texts], object)
    rows = rows_of_texts(model.transform(), {"text_a": column}, [0] * len(texts))
    logits = predict_rows(predictor(model.classifier), rows)
    return np.asarray(tf.nn.softmax(logits))


def push(model: str, folder: pathlib.Path) -> int:
    with exclusive(str(folder)):
        return VersionFolder(str(folder)).push(model, Origin()).number


def made_up_texts(count: int, rng: random.Random) -> Iterator[str]:
    """Yields texts of Chinese and English, some empty, some far longer than the model reads."""
    yield from SPECIAL
    for _ in range(count - len(SPECIAL)):
        pieces = rng.choices(PIECES, k=rng.choice((1, 2, 3, 5, 8, 13, 40)))
        yield rng.choice((" ", "")).join(pieces)


class CountingClient(AsyncClient):
    """Counts how often it sends a request, further tries included."""

    sent = 0

    def _open(self, library):
        channel, methods = super()._open(library)
        predict = methods[messages.PREDICT]

        def counted(*arguments, **options):
            self.sent += 1
            return predict(*arguments, **options)

        return channel, methods | {messages.PREDICT: counted}


@dataclasses.dataclass
class Load:
    """What the clients ask, and what they get.

    Attributes:
        texts: What they choose from.
        requests: So many they ask at least.
        wanted: Version and number of answers that they wait for beyond that, once it is known.
        stopped: Whether they shall end.
        begun: Requests that were begun.
        done: Requests that were answered, or failed.
        sent: Requests that were sent; more where a client tried again.
        got: Row numbers and answers of each request.
        failed: What went wrong.
        versions: Answered requests of each version.
        slowest: Seconds that a request took at most.
    """

    texts: Sequence[str]
    requests: int
    wanted: tuple[int, int] | None = None
    stopped: bool = False
    begun: int = 0
    done: int = 0
    sent: int = 0
    got: list[tuple[list[int], list[Prediction]]] = dataclasses.field(default_factory=list)
    failed: list[str] = dataclasses.field(default_factory=list)
    versions: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)
    slowest: float = 0.0

    @property
    def more(self) -> bool:
        if self.stopped:
            return False
        enough = self.wanted is not None and self.versions[self.wanted[0]] >= self.wanted[1]
        return self.begun < self.requests or not enough

    async def ask(self, target: str, rng: random.Random) -> None:
        """Asks with a client of its own, a request after the other."""
        async with CountingClient(target) as client:
            while self.more:
                self.begun += 1
                rows = rng.choices(range(len(self.texts)), k=rng.randint(1, MAX_ROWS))
                since = time.monotonic()
                try:
                    answers = await client.predict([self.texts[row] for row in rows])
                except Exception as error:
                    self.failed.append(f"{type(error).__name__}: {error}")
                else:
                    self.got.append((rows, answers))
                    self.versions.update({answer.model_version for answer in answers})
                self.slowest = max(self.slowest, time.monotonic() - since)
                self.done += 1
            self.sent += client.sent

    async def change(self, models: Sequence[str], folder: pathlib.Path) -> list[int]:
        """Pushes the models, each when its share of the requests is done; returns the versions."""
        numbers = []
        for index, model in enumerate(models, start=1):
            await self._until(lambda i=index: self.done >= i * self.requests / (len(models) + 1))
            loop = asyncio.get_running_loop()
            numbers.append(await loop.run_in_executor(None, push, model, folder))
            await self._until(lambda: self.versions[numbers[-1]])
        self.wanted = numbers[-1], max(1, int(LAST_SHARE * self.requests))
        return numbers

    async def _until(self, condition) -> None:
        while not condition():
            assert len(self.failed) < FAILED_AT_MOST, f"{len(self.failed)} failed: {self.failed[0]}"
            await asyncio.sleep(0.005)

    async def run(
        self, target: str, clients: int, models: Sequence[str], folder: pathlib.Path
    ) -> list[int]:
        askers = [asyncio.create_task(self.ask(target, random.Random(n))) for n in range(clients)]
        try:
            return await asyncio.wait_for(self.change(models, folder), SECONDS_AT_MOST)
        except BaseException:
            self.stopped = True
            raise
        finally:
            await asyncio.gather(*askers)


def differences(load: Load, expected: dict[int, np.ndarray]) -> tuple[float, list[str]]:
    """Holds each answer against that of its version; returns the largest difference, and errors."""
    largest, wrong = 0.0, []
    for rows, answers in load.got:
        (version, *others) = {answer.model_version for answer in answers}
        if others or version not in expected or len(answers) != len(rows):
            wrong.append(f"{len(answers)} answers of {version}, {others} for {len(rows)} rows")
            continue
        right = expected[version][rows]
        given = np.array([list(answer.probabilities.values()) for answer in answers])
        apart = np.abs(given - right).max(axis=1)
        largest = max(largest, apart.max())
        for row, answer, best, far in zip(rows, answers, right.argmax(axis=1), apart, strict=True):
            if answer.label != TASK.labels[best] or far > TOLERANCE:
                wrong.append(f"{load.texts[row]!r}: {answer}, {expected[version][row]} expected")
    return largest, wrong


def prove_changes(folder: pathlib.Path, requests: int, clients: int) -> str:
    """Changes the version twice under load; raises AssertionError where anything goes wrong."""
    models = [make_model(seed) for seed in range(1, CHANGES + 2)]
    paths = [str(folder / f"model-{number}") for number in range(len(models))]
    for model, path in zip(models, paths, strict=True):
        saved_model.save_for_serving(model, path)
    texts = list(made_up_texts(400, random.Random(1)))
    answers = np.stack([answers_of(model, texts) for model in models])
    good = answers[:, :, 1]
    apart = np.abs(good - np.roll(good, 1, axis=0)).min(axis=0)
    sure = np.abs(good - 0.5).min(axis=0)
    chosen = np.flatnonzero((apart > APART) & (sure > APART))
    assert len(chosen) > 300
    assert chosen[0] == 0, "the empty text is among them"

    serving = folder / "serving"
    versions = [push(paths[0], serving)]
    load = Load([texts[index] for index in chosen], requests)
    with model_server(
        str(serving), log_file=str(folder / "server.log"), program=LOCAL_SERVER
    ) as server:
        begun = time.monotonic()
        versions += asyncio.run(load.run(server.target, clients, paths[1:], serving))
        seconds = time.monotonic() - begun
        with Client(server.target) as client:
            states = {status.version: status.state for status in client.model_status()}
    largest, wrong = differences(load, dict(zip(versions, answers[:, chosen], strict=True)))
    counts = [load.versions[version] for version in versions]
    assert not load.failed, f"{len(load.failed)} failed, the first one: {load.failed[0]}"
    assert not wrong, f"{len(wrong)} wrong answers, the first one: {wrong[0]}"
    assert all(counts) and sum(counts) == load.done == load.begun >= requests
    assert states[versions[-1]] == "AVAILABLE"
    assert "AVAILABLE" not in [states[version] for version in versions[:-1]]
    rows = [len(rows) for rows, _ in load.got]
    return (
        f"{load.done:,} requests of {clients} clients ({sum(rows):,} rows, 1 to {max(rows)} each, "
        f"{len(load.texts)} texts) in {seconds:.1f} s, {load.done / seconds:,.0f} requests/s; "
        f"{len(versions) - 1} version changes, answered by "
        + ", ".join(f"version {number}: {count:,}" for number, count in enumerate(counts, start=1))
        + f"; failed 0, wrong 0, tried again {load.sent - load.done}; largest difference "
        f"{largest:.1e}; slowest request {load.slowest:.2f} s"
    )


def _example(text: str) -> bytes:
    example = tf.train.Example()
    example.features.feature["text_a"].bytes_list.value.append(text.encode())
    return example.SerializeToString()


def _request(signature: str, texts: Sequence[str]) -> bytes:
    request = messages.PredictRequest()
    request.model_spec.name = DEFAULT_MODEL
    request.model_spec.signature_name = signature
    if signature == "serve_text":
        request.inputs["text_a"].CopyFrom(string_tensor(texts))
    else:
        tensor = messages.TensorProto(dtype=messages.DT_STRING)
        tensor.string_val.extend(map(_example, texts))
        tensor.tensor_shape.dim.add(size=len(texts))
        request.inputs["examples"].CopyFrom(tensor)
    return request.SerializeToString()


def _timed(server: ServerProcess, further: int) -> dict[str, tuple[float, float]]:
    """Returns seconds of the first request and the median of further ones, by signature."""
    texts = ("房间很干净，下次还来", "the food was cold", "", "we came again " * 30)
    requests = {signature: _request(signature, texts) for signature in SIGNATURES}
    with grpc.insecure_channel(server.target) as channel:
        status = channel.unary_unary(messages.GET_MODEL_STATUS.path)
        asked = messages.GetModelStatusRequest()
        asked.model_spec.name = DEFAULT_MODEL
        answer = messages.GetModelStatusResponse.FromString(status(asked.SerializeToString()))
        assert [v.state for v in answer.model_version_status] == [messages.AVAILABLE]
        predict = channel.unary_unary(messages.PREDICT.path)

        def seconds(signature: str) -> float:
            since = time.perf_counter()
            predict(requests[signature], timeout=30)
            return time.perf_counter() - since

        first = {signature: seconds(signature) for signature in SIGNATURES}
        return {
            signature: (
                first[signature],
                statistics.median(seconds(signature) for _ in range(further)),
            )
            for signature in SIGNATURES
        }


def prove_first(folder: pathlib.Path, times: int, further: int = 100) -> str:
    """Holds first requests against later ones; raises AssertionError where they are far slower."""
    lines, ratios = [], []
    for number in range(times):
        place = folder / f"first-{number}"
        saved_model.save_for_serving(make_model(number, MINI), str(place / "model"))
        push(str(place / "model"), place / "serving")
        with model_server(
            str(place / "serving"), log_file=str(place / "server.log"), program=LOCAL_SERVER
        ) as server:
            timed = _timed(server, further)
        for signature, (first, median) in timed.items():
            ratios.append(first / median)
            lines.append(
                f"start {number + 1}, {signature}: first request {1000 * first:.1f} ms, median of "
                f"{further} further ones {1000 * median:.1f} ms, ratio {first / median:.2f}"
            )
    report = "\n".join(lines)
    assert max(ratios) <= SLOWER_AT_MOST, report
    return f"{report}\nlargest ratio {max(ratios):.2f}, at most {SLOWER_AT_MOST:g} is allowed"


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--first", type=int, default=5, help="starts of a fresh server")
    parsed = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as place:
        if parsed.requests:
            print(prove_changes(pathlib.Path(place), parsed.requests, parsed.clients), flush=True)
        if parsed.first:
            print(prove_first(pathlib.Path(place), parsed.first))


if __name__ == "__main__":
    main(sys.argv[1:])
