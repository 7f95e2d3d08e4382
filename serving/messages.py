"""The messages of TensorFlow Serving's gRPC API, without TensorFlow.

The generated modules of tensorflow-serving-api import all of TensorFlow. Here the messages that a
client of the Predict API needs, and those of gRPC's health check, are declared once more: same full
names, numbers and types, therefore the same bytes on the wire. They live in a descriptor pool of
their own, so that the generated modules may be imported in the same process. Fields that are
neither sent nor read are left out; protobuf skips them.

Sources: `tensorflow/core/framework/{types,tensor,tensor_shape}.proto`,
`tensorflow/core/protobuf/{meta_graph,error_codes}.proto`,
`tensorflow_serving/apis/{model,predict,get_model_status,get_model_metadata}.proto`,
`tensorflow_serving/util/status.proto`, `grpc/health/v1/health.proto`.
"""

from typing import Any, NamedTuple

from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory, wrappers_pb2

_FieldProto = descriptor_pb2.FieldDescriptorProto


class _Field(NamedTuple):
    """A field as a .proto file declares it; a type that is no scalar is an enum or a message."""

    name: str
    number: int
    type: str
    repeated: bool = False
    oneof: str = ""
    json_name: str = ""


class _Map(NamedTuple):
    """A field `map<string, value>`."""

    name: str
    number: int
    value: str


_SCALARS = {
    "bool": _FieldProto.TYPE_BOOL,
    "bytes": _FieldProto.TYPE_BYTES,
    "float": _FieldProto.TYPE_FLOAT,
    "int64": _FieldProto.TYPE_INT64,
    "string": _FieldProto.TYPE_STRING,
}

# In order of their values, from 0.
_DATA_TYPES = (
    "INVALID FLOAT DOUBLE INT32 UINT8 INT16 INT8 STRING COMPLEX64 INT64 BOOL QINT8 QUINT8 QINT32 "
    "BFLOAT16 QINT16 QUINT16 UINT16 COMPLEX128 HALF RESOURCE VARIANT UINT32 UINT64"
)
_ERROR_CODES = (
    "OK CANCELLED UNKNOWN INVALID_ARGUMENT DEADLINE_EXCEEDED NOT_FOUND ALREADY_EXISTS "
    "PERMISSION_DENIED RESOURCE_EXHAUSTED FAILED_PRECONDITION ABORTED OUT_OF_RANGE UNIMPLEMENTED "
    "INTERNAL UNAVAILABLE DATA_LOSS UNAUTHENTICATED"
)

_ENUMS: dict[str, dict[str, int]] = {
    "tensorflow.DataType": {f"DT_{name}": value for value, name in enumerate(_DATA_TYPES.split())},
    "tensorflow.error.Code": {name: value for value, name in enumerate(_ERROR_CODES.split())},
    "tensorflow.serving.ModelVersionStatus.State": {
        "UNKNOWN": 0,
        "START": 10,
        "LOADING": 20,
        "AVAILABLE": 30,
        "UNLOADING": 40,
        "END": 50,
    },
    "grpc.health.v1.HealthCheckResponse.ServingStatus": {
        "UNKNOWN": 0,
        "SERVING": 1,
        "NOT_SERVING": 2,
        "SERVICE_UNKNOWN": 3,
    },
}

# What lies inside of another message stands below it.
_MESSAGES: dict[str, tuple[_Field | _Map, ...]] = {
    "tensorflow.TensorShapeProto": (
        _Field("dim", 2, "tensorflow.TensorShapeProto.Dim", repeated=True),
        _Field("unknown_rank", 3, "bool"),
    ),
    "tensorflow.TensorShapeProto.Dim": (_Field("size", 1, "int64"), _Field("name", 2, "string")),
    "tensorflow.TensorProto": (
        _Field("dtype", 1, "tensorflow.DataType"),
        _Field("tensor_shape", 2, "tensorflow.TensorShapeProto"),
        _Field("tensor_content", 4, "bytes"),
        _Field("float_val", 5, "float", repeated=True),
        _Field("string_val", 8, "bytes", repeated=True),
        _Field("bool_val", 11, "bool", repeated=True),
    ),
    "tensorflow.TensorInfo": (
        _Field("name", 1, "string", oneof="encoding"),
        _Field("dtype", 2, "tensorflow.DataType"),
        _Field("tensor_shape", 3, "tensorflow.TensorShapeProto"),
    ),
    "tensorflow.SignatureDef": (
        _Map("inputs", 1, "tensorflow.TensorInfo"),
        _Map("outputs", 2, "tensorflow.TensorInfo"),
        _Field("method_name", 3, "string"),
    ),
    "tensorflow.serving.ModelSpec": (
        _Field("name", 1, "string"),
        _Field("version", 2, "google.protobuf.Int64Value", oneof="version_choice"),
        _Field("version_label", 4, "string", oneof="version_choice"),
        _Field("signature_name", 3, "string"),
    ),
    "tensorflow.serving.PredictRequest": (
        _Field("model_spec", 1, "tensorflow.serving.ModelSpec"),
        _Map("inputs", 2, "tensorflow.TensorProto"),
        _Field("output_filter", 3, "string", repeated=True),
    ),
    "tensorflow.serving.PredictResponse": (
        _Field("model_spec", 2, "tensorflow.serving.ModelSpec"),
        _Map("outputs", 1, "tensorflow.TensorProto"),
    ),
    "tensorflow.serving.GetModelMetadataRequest": (
        _Field("model_spec", 1, "tensorflow.serving.ModelSpec"),
        _Field("metadata_field", 2, "string", repeated=True),
    ),
    "tensorflow.serving.GetModelMetadataResponse": (
        _Field("model_spec", 1, "tensorflow.serving.ModelSpec"),
        _Map("metadata", 2, "google.protobuf.Any"),
    ),
    "tensorflow.serving.SignatureDefMap": (_Map("signature_def", 1, "tensorflow.SignatureDef"),),
    "tensorflow.serving.StatusProto": (
        _Field("error_code", 1, "tensorflow.error.Code", json_name="error_code"),
        _Field("error_message", 2, "string", json_name="error_message"),
    ),
    "tensorflow.serving.GetModelStatusRequest": (
        _Field("model_spec", 1, "tensorflow.serving.ModelSpec"),
    ),
    "tensorflow.serving.ModelVersionStatus": (
        _Field("version", 1, "int64"),
        _Field("state", 2, "tensorflow.serving.ModelVersionStatus.State"),
        _Field("status", 3, "tensorflow.serving.StatusProto"),
    ),
    "tensorflow.serving.GetModelStatusResponse": (
        _Field(
            "model_version_status",
            1,
            "tensorflow.serving.ModelVersionStatus",
            repeated=True,
            json_name="model_version_status",
        ),
    ),
    "grpc.health.v1.HealthCheckRequest": (_Field("service", 1, "string"),),
    "grpc.health.v1.HealthCheckResponse": (
        _Field("status", 1, "grpc.health.v1.HealthCheckResponse.ServingStatus"),
    ),
}

# Each after those that it needs.
_PACKAGES = ("tensorflow.error", "tensorflow", "tensorflow.serving", "grpc.health.v1")


def _add_field(
    message: descriptor_pb2.DescriptorProto, full_name: str, field: _Field | _Map
) -> None:
    """Adds a field to the message's declaration, and the entry that stands behind a map."""
    proto = message.field.add(name=field.name, number=field.number)
    proto.label = _FieldProto.LABEL_OPTIONAL
    if isinstance(field, _Map):
        entry = message.nested_type.add(
            name="".join(word.capitalize() for word in field.name.split("_")) + "Entry"
        )
        entry.options.map_entry = True
        _add_field(entry, "", _Field("key", 1, "string"))
        _add_field(entry, "", _Field("value", 2, field.value))
        proto.label = _FieldProto.LABEL_REPEATED
        proto.type = _FieldProto.TYPE_MESSAGE
        proto.type_name = f".{full_name}.{entry.name}"
        return
    if field.repeated:
        proto.label = _FieldProto.LABEL_REPEATED
    if field.type in _SCALARS:
        proto.type = _SCALARS[field.type]
    else:
        proto.type = _FieldProto.TYPE_ENUM if field.type in _ENUMS else _FieldProto.TYPE_MESSAGE
        proto.type_name = f".{field.type}"
    if field.json_name:
        proto.json_name = field.json_name
    if field.oneof:
        names = [oneof.name for oneof in message.oneof_decl]
        if field.oneof not in names:
            message.oneof_decl.add(name=field.oneof)
            names.append(field.oneof)
        proto.oneof_index = names.index(field.oneof)


def _make_pool() -> descriptor_pool.DescriptorPool:
    files = {
        package: descriptor_pb2.FileDescriptorProto(
            name=f"bert_tfx/{package}.proto", package=package, syntax="proto3"
        )
        for package in _PACKAGES
    }
    messages: dict[str, descriptor_pb2.DescriptorProto] = {}
    for full_name, fields in _MESSAGES.items():
        parent, _, name = full_name.rpartition(".")
        message = (
            messages[parent].nested_type if parent in messages else files[parent].message_type
        ).add(name=name)
        messages[full_name] = message
        for field in fields:
            _add_field(message, full_name, field)
    for full_name, values in _ENUMS.items():
        parent, _, name = full_name.rpartition(".")
        enum = (messages[parent] if parent in messages else files[parent]).enum_type.add(name=name)
        for value, number in values.items():
            enum.value.add(name=value, number=number)
    pool = descriptor_pool.DescriptorPool()
    known = []
    for module in (any_pb2, wrappers_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
        known.append(module.DESCRIPTOR.name)
    for file in files.values():
        file.dependency.extend(known)
        known.append(file.name)
        pool.AddSerializedFile(file.SerializeToString())
    return pool


_POOL = _make_pool()

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

DT_BOOL = _ENUMS["tensorflow.DataType"]["DT_BOOL"]
DT_FLOAT = _ENUMS["tensorflow.DataType"]["DT_FLOAT"]
DT_STRING = _ENUMS["tensorflow.DataType"]["DT_STRING"]
AVAILABLE = _ENUMS["tensorflow.serving.ModelVersionStatus.State"]["AVAILABLE"]
SERVING = _ENUMS["grpc.health.v1.HealthCheckResponse.ServingStatus"]["SERVING"]


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


PREDICT = Method("/tensorflow.serving.PredictionService/Predict", PredictRequest, PredictResponse)
GET_MODEL_METADATA = Method(
    "/tensorflow.serving.PredictionService/GetModelMetadata",
    GetModelMetadataRequest,
    GetModelMetadataResponse,
)
GET_MODEL_STATUS = Method(
    "/tensorflow.serving.ModelService/GetModelStatus",
    GetModelStatusRequest,
    GetModelStatusResponse,
)
CHECK_HEALTH = Method("/grpc.health.v1.Health/Check", HealthCheckRequest, HealthCheckResponse)
METHODS = (PREDICT, GET_MODEL_METADATA, GET_MODEL_STATUS, CHECK_HEALTH)
