"""What is done with a request, whichever way it came: version, checks, batch, run."""

import asyncio
import contextlib
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor

import grpc
import numpy as np

from bert_tfx.serving.batching import Arrays, Batcher, BatchLimits, Compute
from bert_tfx.serving.inputs import count_rows
from bert_tfx.serving.metrics import Metrics
from bert_tfx.serving.refused import Refused, invalid
from bert_tfx.serving.saved_model import SavedModel, load_model
from bert_tfx.serving.versions import Version, Versions


class Served:
    """A version that answers: its model, and a queue before each of its signatures.

    Attributes:
        model: The model.
    """

    def __init__(self, model: SavedModel) -> None:
        self.model = model
        self.batchers: dict[str, Batcher] = {}


class Service:
    """Answers for the versions of one model.

    Args:
        model: The model's name.
        labels: The version of each label.
        compute: The threads.
        limits: How requests are joined.
        metrics: Where batches are counted.
    """

    def __init__(
        self,
        model: str,
        labels: Mapping[str, int],
        compute: Compute,
        limits: BatchLimits,
        metrics: Metrics,
    ) -> None:
        self.model = model
        self.metrics = metrics
        self._labels = labels
        self._compute = compute
        self._limits = limits

    versions: Versions[Served]
    """The versions; set once, as their model's functions are made by this service."""

    @contextlib.contextmanager
    def use(
        self, model: str, version: int | None = None, label: str | None = None
    ) -> Iterator[tuple[int, Served]]:
        """Gives the version that answers, which stays loaded while the context lasts.

        Args:
            model: The name that was asked for.
            version: The version, by default the highest one.
            label: Its label.

        Yields:
            The version's number, and what answers.

        Raises:
            Refused: If there is none.
        """
        self.check_model(model)
        if label is not None:
            if label not in self._labels:
                known = ", ".join(map(repr, sorted(self._labels))) or "none"
                raise invalid(f"unknown version label {label[:100]!r}; the labels are: {known}")
            version = self._labels[label]
        try:
            found = self.versions.find(version)
        except LookupError:
            asked = "no version" if version is None else f"version {version} is not"
            states = ", ".join(f"{v.number} {v.state.name}" for v in self.versions.all())
            raise Refused(
                grpc.StatusCode.NOT_FOUND,
                f"model {self.model!r}: {asked} available"
                + (f"; there are: {states}" if states else ""),
            ) from None
        with found.use() as served:
            yield found.number, served

    def check_model(self, model: str) -> None:
        """Raises if another model is asked for.

        Raises:
            Refused: If so.
        """
        if not model:
            raise invalid("the request does not name a model (model_spec.name)")
        if model != self.model:
            raise Refused(
                grpc.StatusCode.NOT_FOUND,
                f"there is no model {model[:100]!r}; this server has {self.model!r}",
            )

    def statuses(self, model: str, version: int | None) -> list[Version[Served]]:
        """Returns how far the server is with each version, or with one.

        Raises:
            Refused: If there is nothing to say of it.
        """
        self.check_model(model)
        found = [v for v in self.versions.all() if version in (None, v.number)]
        if not found:
            what = "any version" if version is None else f"version {version}"
            raise Refused(
                grpc.StatusCode.NOT_FOUND, f"could not find {what} of model {self.model!r}"
            )
        return found

    def check_rows(self, rows: int) -> None:
        """Raises if a request has too many rows.

        Raises:
            Refused: If so.
        """
        if rows > self._limits.max_rows:
            raise invalid(
                f"the request has {rows:,} rows, at most {self._limits.max_rows:,} are taken "
                "(--max-batch-size)"
            )

    async def run(
        self,
        served: Served,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        seconds: float | None,
    ) -> Arrays:
        """Returns a signature's outputs.

        Args:
            served: The version, in use.
            signature: A signature of its model.
            inputs: What it takes, checked.
            seconds: How long the caller waits.

        Raises:
            Refused: If there are too many rows, too many requests wait, or the graph fails.
        """
        rows = count_rows(inputs, served.model.signatures[signature])
        self.check_rows(rows)
        deadline = None if seconds is None else time.monotonic() + seconds
        if signature not in served.batchers:
            served.batchers[signature] = self._batcher(served.model, signature)
        return await served.batchers[signature].submit(inputs, rows, deadline)

    def _batcher(self, model: SavedModel, signature: str) -> Batcher:
        return Batcher(
            lambda inputs: model.run(signature, inputs),
            self._compute,
            self._limits,
            joins=model.joins_rows(signature),
            observe=lambda rows, waited: self.metrics.computed(signature, rows, waited),
        )


def load(path: str, backend: str) -> Served:
    """Loads a version and warms it up.

    Args:
        path: Its folder.
        backend: What runs it, one of `BACKENDS`.

    Raises:
        Exception: Of many kinds, if it cannot be loaded or does not answer.
    """
    model = load_model(path, backend)
    try:
        model.warm_up(path)
    except BaseException:
        model.close()
        raise
    return Served(model)


async def unload(served: Served, loader: Executor) -> None:
    """Gives back a version's memory."""
    served.batchers.clear()
    await asyncio.get_running_loop().run_in_executor(loader, served.model.close)
