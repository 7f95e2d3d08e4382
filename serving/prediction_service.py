"""TensorFlow Serving's services over the official messages: `PredictionService`, `ModelService`."""

from typing import Any

import grpc
import numpy as np
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    predict_pb2,
)

from bert_tfx.serving.arrays import write_tensor
from bert_tfx.serving.batching import Arrays
from bert_tfx.serving.inputs import EXAMPLES, takes_rows
from bert_tfx.serving.model_api import CLASSES, PROBABILITIES, Signature
from bert_tfx.serving.refused import Refused, invalid
from bert_tfx.serving.rpc import Answer, Call, Observer, method
from bert_tfx.serving.saved_model import SERVING_DEFAULT
from bert_tfx.serving.service import Service
from bert_tfx.serving.service_descriptors import MODEL_SERVICE, PREDICTION_SERVICE

_SIGNATURE_DEF = "signature_def"
# tensorflow.error.Code UNKNOWN: what a version's error is, nobody knows but its message.
_UNKNOWN_ERROR = 2


def handlers(service: Service, observe: Observer) -> dict[str, grpc.RpcMethodHandler]:
    """Returns the methods by path.

    Args:
        service: Answers.
        observe: Told of each call.
    """
    api = _Api(service)
    answers: dict[str, tuple[Any, Answer]] = {
        "Predict": (predict_pb2.PredictRequest, api.predict),
        "Classify": (classification_pb2.ClassificationRequest, api.classify),
        "GetModelMetadata": (get_model_metadata_pb2.GetModelMetadataRequest, api.metadata),
        "GetModelStatus": (get_model_status_pb2.GetModelStatusRequest, api.status),
    }
    found = {}
    for descriptor in (PREDICTION_SERVICE, MODEL_SERVICE):
        for name in (known.name for known in descriptor.methods):
            # What is not offered takes any message, as it reads none.
            request, answer = answers.get(name, (predict_pb2.PredictResponse, _unimplemented(name)))
            found[f"/{descriptor.full_name}/{name}"] = method(answer, request, name, observe)
    return found


def fill_spec(spec: model_pb2.ModelSpec, model: str, version: int, signature: str = "") -> None:
    """Writes which model answers; a label has no place beside the version (`version_choice`)."""
    spec.name = model
    spec.version.value = version
    spec.signature_name = signature


def choice(spec: model_pb2.ModelSpec) -> tuple[str, int | None, str | None]:
    """Returns model, version and label that a request asks for."""
    asked = spec.WhichOneof("version_choice")
    return (
        spec.name,
        spec.version.value if asked == "version" else None,
        spec.version_label if asked == "version_label" else None,
    )


class _Api:
    """The methods that are offered."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def predict(self, request: Any, call: Call) -> Any:
        with self._service.use(*choice(request.model_spec)) as (version, served):
            name = request.model_spec.signature_name or SERVING_DEFAULT
            signature = served.model.signature(name)
            call.signature = name
            wanted = _filtered(request.output_filter, signature)
            if takes_rows(signature.inputs):
                # Before millions of them are looked at one by one.
                for tensor in request.inputs.values():
                    self._service.check_rows(sum(d.size for d in tensor.tensor_shape.dim[:1]))
            inputs = served.model.read_inputs(name, request.inputs)
            outputs = await self._service.run(served, name, inputs, call.seconds)
            response = predict_pb2.PredictResponse()
            fill_spec(response.model_spec, self._service.model, version, name)
            for alias in wanted:
                dtype = served.model.signature_defs[name].outputs[alias].dtype
                response.outputs[alias].CopyFrom(write_tensor(outputs[alias], dtype))
            return response

    async def classify(self, request: Any, call: Call) -> Any:
        with self._service.use(*choice(request.model_spec)) as (version, served):
            name = request.model_spec.signature_name or SERVING_DEFAULT
            signature = served.model.signature(name)
            call.signature = name
            scores = _scores(signature, name)
            inputs = {EXAMPLES: _serialized(request.input)}
            served.model.check(inputs, signature)
            outputs = await self._service.run(served, name, inputs, call.seconds)
            response = classification_pb2.ClassificationResponse()
            fill_spec(response.model_spec, self._service.model, version, name)
            _classify(outputs, scores, response.result)
            return response

    async def metadata(self, request: Any, call: Call) -> Any:
        fields = set(request.metadata_field)
        if fields != {_SIGNATURE_DEF}:
            raise invalid(f"metadata_field must be {_SIGNATURE_DEF!r}, which is all there is")
        with self._service.use(*choice(request.model_spec)) as (version, served):
            signatures = get_model_metadata_pb2.SignatureDefMap()
            for name, signature in served.model.signature_defs.items():
                signatures.signature_def[name].CopyFrom(signature)
            response = get_model_metadata_pb2.GetModelMetadataResponse()
            fill_spec(response.model_spec, self._service.model, version)
            response.metadata[_SIGNATURE_DEF].Pack(signatures)
            return response

    async def status(self, request: Any, call: Call) -> Any:
        model, version, label = choice(request.model_spec)
        if label is not None:
            raise invalid("the status is told for a version, not for a label")
        response = get_model_status_pb2.GetModelStatusResponse()
        for known in self._service.statuses(model, version):
            status = response.model_version_status.add(
                version=known.number, state=int(known.state)
            ).status
            if known.error:
                status.error_code = _UNKNOWN_ERROR
                status.error_message = known.error
        return response


def _unimplemented(name: str) -> Answer:
    async def answer(request: Any, call: Call) -> Any:
        raise Refused(
            grpc.StatusCode.UNIMPLEMENTED,
            f"{name} is not offered by this server; it answers Predict, Classify, "
            "GetModelMetadata and GetModelStatus",
        )

    return answer


def _filtered(wanted: Any, signature: Signature) -> list[str]:
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


def _scores(signature: Signature, name: str) -> str:
    """Returns which output holds the classes' scores.

    Raises:
        Refused: If the signature is none for classifying examples.
    """
    found = [alias for alias in ("scores", PROBABILITIES) if alias in signature.outputs]
    if set(signature.inputs) != {EXAMPLES} or CLASSES not in signature.outputs or not found:
        raise invalid(
            f"signature {name!r} cannot classify: that takes the input {EXAMPLES!r} and gives "
            f"{CLASSES!r} and 'scores' or {PROBABILITIES!r}"
        )
    return found[0]


def _serialized(given: Any) -> np.ndarray:
    if given.WhichOneof("kind") == "example_list_with_context":
        raise Refused(
            grpc.StatusCode.UNIMPLEMENTED, "example_list_with_context is not offered; send examples"
        )
    examples = [example.SerializeToString() for example in given.example_list.examples]
    if not examples:
        raise invalid("input: expected examples, received none")
    array = np.empty(len(examples), object)
    array[:] = examples
    return array


def _classify(outputs: Arrays, scores: str, result: Any) -> None:
    for labels, row in zip(outputs[CLASSES], outputs[scores], strict=True):
        classes = result.classifications.add().classes
        for label, score in zip(labels, row, strict=True):
            classes.add(label=label.decode(errors="replace"), score=float(score))
