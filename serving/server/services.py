"""TensorFlow Serving's gRPC services, as far as they are offered: Predict, metadata and status."""

import functools
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

import grpc
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from bert_tfx.serving.protocol.model_api import Signature
from bert_tfx.serving.server.compute import Compute
from bert_tfx.serving.server.inputs import count_rows
from bert_tfx.serving.server.refused import Refused, invalid
from bert_tfx.serving.server.saved_model import SERVING_DEFAULT, SavedModel
from bert_tfx.serving.server.tensors import write_tensor
from bert_tfx.serving.server.versions import Version, Versions

PREDICTION_SERVICE = "tensorflow.serving.PredictionService"
MODEL_SERVICE = "tensorflow.serving.ModelService"

_SIGNATURE_DEF = "signature_def"
# tensorflow.error.Code UNKNOWN: what a version's error is, nobody knows but its message.
_UNKNOWN_ERROR = 2
# gRPC sends details as a header, and headers are limited.
_MAX_DETAILS = 1000

_logger = logging.getLogger(__name__)


class Models:
    """What the services answer with.

    Args:
        name: The model's name.
        versions: Its versions.
        compute: Computes the answers.
        max_rows: Rows of a request at most.
    """

    def __init__(
        self, name: str, versions: Versions[SavedModel], compute: Compute, max_rows: int
    ) -> None:
        self.name = name
        self.versions = versions
        self.compute = compute
        self.max_rows = max_rows

    def check_name(self, spec: model_pb2.ModelSpec) -> None:
        """Raises if another model is asked for.

        Raises:
            Refused: If so.
        """
        if not spec.name:
            raise invalid("the request does not name a model (model_spec.name)")
        if spec.name != self.name:
            raise Refused(
                grpc.StatusCode.NOT_FOUND,
                f"there is no model {spec.name[:100]!r}; this server has {self.name!r}",
            )
        if spec.WhichOneof("version_choice") == "version_label":
            raise invalid("this server knows no version labels; ask for a version, or for none")

    def find(self, spec: model_pb2.ModelSpec) -> tuple[Version[SavedModel], SavedModel]:
        """Returns the version that answers, and its model; call it with the versions' lock.

        Raises:
            Refused: If there is none.
        """
        self.check_name(spec)
        asked = spec.version.value if spec.HasField("version") else None
        version = self.versions.find(asked)
        if version is not None and version.model is not None:
            return version, version.model
        states = ", ".join(f"{v.number} {v.state.name}" for v in self.versions.all())
        what = "no version" if asked is None else f"version {asked} is not"
        raise Refused(
            grpc.StatusCode.NOT_FOUND,
            f"model {self.name!r}: {what} available" + (f"; there are: {states}" if states else ""),
        )


def _refusing(answer: Callable[..., Any]) -> Callable[..., Any]:
    """Lets a method raise `Refused`."""

    @functools.wraps(answer)
    def answered(self: Any, request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return answer(self, request, context)
        except Refused as refused:
            context.abort(refused.code, refused.message[:_MAX_DETAILS])
        except Exception:
            _logger.exception("%s failed", answer.__name__)
            context.abort(grpc.StatusCode.INTERNAL, "the server failed; its log says more")

    return answered


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict and GetModelMetadata; gRPC answers UNIMPLEMENTED to the others.

    Args:
        models: Answers.
    """

    def __init__(self, models: Models) -> None:
        self._models = models

    @_refusing
    def Predict(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Runs a signature of the model."""
        models = self._models
        # Until it is queued, the model must not be given back.
        with models.versions.lock:
            version, model = models.find(request.model_spec)
            name = request.model_spec.signature_name or SERVING_DEFAULT
            signature = model.signature(name)
            wanted = _filtered(request.output_filter, signature)
            inputs = model.read_inputs(name, request.inputs)
            rows = count_rows(inputs, signature)
            if rows > models.max_rows:
                raise invalid(
                    f"the request has {rows:,} rows, at most {models.max_rows:,} are taken "
                    "(--max-batch-size)"
                )
            computed = models.compute.submit(
                functools.partial(model.run, name),
                inputs,
                rows,
                key=(version.number, name) if model.joins_rows(name) else None,
            )
        # Nobody waits for it then.
        context.add_callback(computed.cancel)
        try:
            outputs = computed.result(context.time_remaining())
        except FutureTimeoutError:
            raise Refused(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline passed") from None
        except CancelledError:
            raise Refused(grpc.StatusCode.CANCELLED, "the caller has gone") from None
        response = predict_pb2.PredictResponse()
        _fill(response.model_spec, models.name, version.number, name)
        for alias in wanted:
            dtype = model.signature_defs[name].outputs[alias].dtype
            response.outputs[alias].CopyFrom(write_tensor(outputs[alias], dtype))
        return response

    @_refusing
    def GetModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Tells the model's signatures."""
        if set(request.metadata_field) != {_SIGNATURE_DEF}:
            raise invalid(f"metadata_field must be {_SIGNATURE_DEF!r}, which is all there is")
        with self._models.versions.lock:
            version, model = self._models.find(request.model_spec)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        for name, signature in model.signature_defs.items():
            signatures.signature_def[name].CopyFrom(signature)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        _fill(response.model_spec, self._models.name, version.number)
        response.metadata[_SIGNATURE_DEF].Pack(signatures)
        return response


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus.

    Args:
        models: Answers.
    """

    def __init__(self, models: Models) -> None:
        self._models = models

    @_refusing
    def GetModelStatus(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Tells how far the server is with each version, or with one."""
        spec = request.model_spec
        self._models.check_name(spec)
        asked = spec.version.value if spec.HasField("version") else None
        found = [v for v in self._models.versions.all() if asked in (None, v.number)]
        if not found:
            what = "any version" if asked is None else f"version {asked}"
            raise Refused(
                grpc.StatusCode.NOT_FOUND, f"could not find {what} of model {spec.name!r}"
            )
        response = get_model_status_pb2.GetModelStatusResponse()
        for version in found:
            status = response.model_version_status.add(
                version=version.number, state=int(version.state)
            ).status
            if version.error:
                status.error_code = _UNKNOWN_ERROR
                status.error_message = version.error
        return response


def _fill(spec: model_pb2.ModelSpec, model: str, version: int, signature: str = "") -> None:
    """Writes which model answers."""
    spec.name = model
    spec.version.value = version
    spec.signature_name = signature


def _filtered(wanted: Sequence[str], signature: Signature) -> list[str]:
    """Returns the outputs to answer with.

    Raises:
        Refused: If an unknown one is wanted, or one twice.
    """
    if not wanted:
        return list(signature.outputs)
    if unknown := sorted(set(wanted) - set(signature.outputs)):
        raise invalid(
            f"output_filter: unknown {unknown[0][:100]!r}; the outputs are: "
            + ", ".join(map(repr, signature.outputs))
        )
    if len(set(wanted)) < len(wanted):
        raise invalid("output_filter names an output twice")
    return list(wanted)
