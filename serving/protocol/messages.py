"""The messages of TensorFlow Serving's gRPC API, without TensorFlow.

The generated modules of tensorflow-serving-api import all of TensorFlow. The messages that a client
of the Predict API needs, and those of gRPC's health check, are declared once more in `protos/`:
same full names, numbers and types, therefore the same bytes on the wire. Fields that are neither
sent nor read are left out; protobuf skips them. `make protocol` compiles them to the descriptor set
that is read here, into a pool of its own, so that the generated modules may be imported in the same
process.
"""

import os
from typing import Any, NamedTuple

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import MethodDescriptor

DESCRIPTORS_FILE = os.path.join(os.path.dirname(__file__), "protos", "descriptors.binpb")


def _read_pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    with open(DESCRIPTORS_FILE, "rb") as file:
        for known in descriptor_pb2.FileDescriptorSet.FromString(file.read()).file:
            pool.AddSerializedFile(known.SerializeToString())
    return pool


_POOL = _read_pool()

# protobuf 4.22 put a function in the place of the factory, which later releases do not have.
if hasattr(message_factory, "GetMessageClass"):
    _class_of = message_factory.GetMessageClass
else:
    _class_of = message_factory.MessageFactory(_POOL).GetPrototype


def message_class(full_name: str) -> Any:
    """Returns the class of a message.

    Args:
        full_name: One that is declared here, such as `tensorflow.TensorProto`.

    Raises:
        KeyError: If it is not.
    """
    return _class_of(_POOL.FindMessageTypeByName(full_name))


def enum_name(full_name: str, value: int) -> str:
    """Returns what an enum calls a value, or the number where it has no name for it."""
    known = _POOL.FindEnumTypeByName(full_name).values_by_number.get(value)
    return known.name if known else str(value)


def _enum_value(full_name: str, name: str) -> int:
    return int(_POOL.FindEnumTypeByName(full_name).values_by_name[name].number)


TensorProto = message_class("tensorflow.TensorProto")
PredictRequest = message_class("tensorflow.serving.PredictRequest")
PredictResponse = message_class("tensorflow.serving.PredictResponse")
GetModelStatusRequest = message_class("tensorflow.serving.GetModelStatusRequest")
GetModelStatusResponse = message_class("tensorflow.serving.GetModelStatusResponse")
GetModelMetadataRequest = message_class("tensorflow.serving.GetModelMetadataRequest")
GetModelMetadataResponse = message_class("tensorflow.serving.GetModelMetadataResponse")
SignatureDefMap = message_class("tensorflow.serving.SignatureDefMap")
HealthCheckRequest = message_class("grpc.health.v1.HealthCheckRequest")
HealthCheckResponse = message_class("grpc.health.v1.HealthCheckResponse")

DT_BOOL = _enum_value("tensorflow.DataType", "DT_BOOL")
DT_FLOAT = _enum_value("tensorflow.DataType", "DT_FLOAT")
DT_STRING = _enum_value("tensorflow.DataType", "DT_STRING")
AVAILABLE = _enum_value("tensorflow.serving.ModelVersionStatus.State", "AVAILABLE")
SERVING = _enum_value("grpc.health.v1.HealthCheckResponse.ServingStatus", "SERVING")


class Method(NamedTuple):
    """A method of a gRPC service.

    Attributes:
        path: Its name on the wire.
        request: The message it takes.
        response: The message it answers with.
    """

    path: str
    request: Any
    response: Any


def _method(service: str, name: str) -> Method:
    found: MethodDescriptor = _POOL.FindServiceByName(service).methods_by_name[name]
    return Method(f"/{service}/{name}", _class_of(found.input_type), _class_of(found.output_type))


PREDICT = _method("tensorflow.serving.PredictionService", "Predict")
GET_MODEL_METADATA = _method("tensorflow.serving.PredictionService", "GetModelMetadata")
GET_MODEL_STATUS = _method("tensorflow.serving.ModelService", "GetModelStatus")
CHECK_HEALTH = _method("grpc.health.v1.Health", "Check")
METHODS = (PREDICT, GET_MODEL_METADATA, GET_MODEL_STATUS, CHECK_HEALTH)
