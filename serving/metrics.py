"""What a server counts and measures, for Prometheus."""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE = CONTENT_TYPE_LATEST

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """A server's metrics.

    Labels hold only what the server knows itself: names that requests make up would fill the
    memory.

    Args:
        model: The model's name.
        waiting: Tells how many requests wait.
    """

    def __init__(self, model: str, waiting: Callable[[], int]) -> None:
        self._model = model
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "bert_tfx_requests",
            "Requests that were answered, by gRPC's name of their status.",
            ("protocol", "method", "model", "signature", "code"),
            registry=registry,
        )
        self._seconds = Histogram(
            "bert_tfx_request_seconds",
            "Seconds from a request's arrival to its answer.",
            ("protocol", "method", "model", "signature"),
            buckets=_SECONDS,
            registry=registry,
        )
        self._rows = Histogram(
            "bert_tfx_batch_rows",
            "Rows of a batch that was computed.",
            ("model", "signature"),
            buckets=_ROWS,
            registry=registry,
        )
        self._waited = Histogram(
            "bert_tfx_queue_seconds",
            "Seconds that the first request of a batch waited.",
            ("model", "signature"),
            buckets=_SECONDS,
            registry=registry,
        )
        Gauge(
            "bert_tfx_queue_requests", "Requests that wait to be computed.", registry=registry
        ).set_function(waiting)
        self._versions = Gauge(
            "bert_tfx_model_version",
            "1 for the state in which a version is.",
            ("model", "version", "state"),
            registry=registry,
        )
        self._latest = Gauge(
            "bert_tfx_latest_version",
            "The version that answers where none is asked for; 0 while there is none.",
            ("model",),
            registry=registry,
        )

    def answered(
        self, protocol: str, method: str, signature: str, code: str, seconds: float
    ) -> None:
        """Counts a request.

        Args:
            protocol: `grpc` or `rest`.
            method: Such as `Predict`.
            signature: A signature of the model, or nothing.
            code: gRPC's name of the status.
            seconds: How long it took.
        """
        self._requests.labels(protocol, method, self._model, signature, code).inc()
        self._seconds.labels(protocol, method, self._model, signature).observe(seconds)

    def computed(self, signature: str, rows: int, waited: float) -> None:
        """Counts a batch whose first request waited so many seconds."""
        self._rows.labels(self._model, signature).observe(rows)
        self._waited.labels(self._model, signature).observe(waited)

    def set_versions(self, states: Iterable[tuple[int, str]]) -> None:
        """Notes the state of each version, the highest first."""
        self._versions.clear()
        available = 0
        for version, state in states:
            self._versions.labels(self._model, str(version), state).set(1)
            if state == "AVAILABLE":
                available = max(available, version)
        self._latest.labels(self._model).set(available)

    def page(self) -> bytes:
        """Returns everything in Prometheus' text format, which is `CONTENT_TYPE`."""
        return generate_latest(self._registry)
