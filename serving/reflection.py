"""gRPC's reflection service, with which grpcurl and the like find out what a server offers.

It is written out here for the same reason as the client's messages: grpcio-reflection would bring a
second copy of descriptors, and its releases are tied to those of protobuf.

Source: `grpc/reflection/v1/reflection.proto`; v1alpha differs in its package alone.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
import grpc.aio
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
)
from google.protobuf.message import DecodeError

from bert_tfx.serving import messages

_FieldProto = descriptor_pb2.FieldDescriptorProto
_FileProto = descriptor_pb2.FileDescriptorProto
_PACKAGES = ("grpc.reflection.v1", "grpc.reflection.v1alpha")
_HEALTH_FILE = "grpc/health/v1/health.proto"

# (name, number, type, repeated, oneof)
_MESSAGES: dict[str, tuple[tuple[str, int, str, bool, bool], ...]] = {
    "ServerReflectionRequest": (
        ("host", 1, "string", False, False),
        ("file_by_filename", 3, "string", False, True),
        ("file_containing_symbol", 4, "string", False, True),
        ("file_containing_extension", 5, "ExtensionRequest", False, True),
        ("all_extension_numbers_of_type", 6, "string", False, True),
        ("list_services", 7, "string", False, True),
    ),
    "ExtensionRequest": (
        ("containing_type", 1, "string", False, False),
        ("extension_number", 2, "int32", False, False),
    ),
    "ServerReflectionResponse": (
        ("valid_host", 1, "string", False, False),
        ("original_request", 2, "ServerReflectionRequest", False, False),
        ("file_descriptor_response", 4, "FileDescriptorResponse", False, True),
        ("all_extension_numbers_response", 5, "ExtensionNumberResponse", False, True),
        ("list_services_response", 6, "ListServiceResponse", False, True),
        ("error_response", 7, "ErrorResponse", False, True),
    ),
    "FileDescriptorResponse": (("file_descriptor_proto", 1, "bytes", True, False),),
    "ExtensionNumberResponse": (
        ("base_type_name", 1, "string", False, False),
        ("extension_number", 2, "int32", True, False),
    ),
    "ListServiceResponse": (("service", 1, "ServiceResponse", True, False),),
    "ServiceResponse": (("name", 1, "string", False, False),),
    "ErrorResponse": (
        ("error_code", 1, "int32", False, False),
        ("error_message", 2, "string", False, False),
    ),
}
_ONEOFS = {
    "ServerReflectionRequest": "message_request",
    "ServerReflectionResponse": "message_response",
}
_SCALARS = {
    "string": _FieldProto.TYPE_STRING,
    "bytes": _FieldProto.TYPE_BYTES,
    "int32": _FieldProto.TYPE_INT32,
}


def _reflection_file(package: str) -> descriptor_pb2.FileDescriptorProto:
    file = _FileProto(
        name=f"{package.replace('.', '/')}/reflection.proto", package=package, syntax="proto3"
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        if name in _ONEOFS:
            message.oneof_decl.add(name=_ONEOFS[name])
        for field_name, number, kind, repeated, in_oneof in fields:
            field = message.field.add(name=field_name, number=number)
            field.label = _FieldProto.LABEL_REPEATED if repeated else _FieldProto.LABEL_OPTIONAL
            field.type = _SCALARS.get(kind, _FieldProto.TYPE_MESSAGE)
            if kind not in _SCALARS:
                field.type_name = f".{package}.{kind}"
            if in_oneof:
                field.oneof_index = 0
    service = file.service.add(name="ServerReflection")
    service.method.add(
        name="ServerReflectionInfo",
        input_type=f".{package}.ServerReflectionRequest",
        output_type=f".{package}.ServerReflectionResponse",
        client_streaming=True,
        server_streaming=True,
    )
    return file


def _health_file() -> descriptor_pb2.FileDescriptorProto:
    file = _FileProto()
    messages.HealthCheckRequest.DESCRIPTOR.file.CopyToProto(file)
    file.name = _HEALTH_FILE
    del file.dependency[:]
    service = file.service.add(name="Health")
    for name, streams in (("Check", False), ("Watch", True)):
        service.method.add(
            name=name,
            input_type=".grpc.health.v1.HealthCheckRequest",
            output_type=".grpc.health.v1.HealthCheckResponse",
            server_streaming=streams,
        )
    return file


_OWN_POOL = descriptor_pool.DescriptorPool()
for _file in (*map(_reflection_file, _PACKAGES), _health_file()):
    _OWN_POOL.AddSerializedFile(_file.SerializeToString())


def message_class(name: str, package: str = _PACKAGES[0]) -> Any:
    """Returns the class of one of reflection's messages."""
    descriptor = _OWN_POOL.FindMessageTypeByName(f"{package}.{name}")
    # protobuf 4.22 put a function in the place of the factory.
    if hasattr(message_factory, "GetMessageClass"):
        return message_factory.GetMessageClass(descriptor)
    return message_factory.MessageFactory(_OWN_POOL).GetPrototype(descriptor)


_Request = message_class("ServerReflectionRequest")
_Response = message_class("ServerReflectionResponse")


class Reflection:
    """Tells which services there are, and the files that declare them.

    Args:
        services: Full names of the services, besides health and reflection.

    Attributes:
        handlers: The methods by path.
    """

    def __init__(self, services: Iterable[str]) -> None:
        own = [f"{package}.ServerReflection" for package in _PACKAGES]
        self._services = sorted({*services, "grpc.health.v1.Health", *own})
        self._closed = asyncio.Event()
        self.handlers = {
            f"/{name}/ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(self._answers)
            for name in own
        }

    def close(self) -> None:
        """Ends the calls that are open; they would hold up the server's end."""
        self._closed.set()

    async def _answers(
        self, requests: AsyncIterator[bytes], context: "grpc.aio.ServicerContext"
    ) -> AsyncIterator[bytes]:
        closed = asyncio.ensure_future(self._closed.wait())
        try:
            while True:
                read = asyncio.ensure_future(context.read())
                await asyncio.wait({read, closed}, return_when=asyncio.FIRST_COMPLETED)
                if not read.done():
                    read.cancel()
                    return
                content = read.result()
                if content is grpc.aio.EOF:
                    return
                try:
                    request = _Request.FromString(content)
                except DecodeError:
                    await context.abort(
                        grpc.StatusCode.INVALID_ARGUMENT,
                        "the request is no ServerReflectionRequest",
                    )
                yield self._answer(request).SerializeToString()
        finally:
            closed.cancel()

    def _answer(self, request: Any) -> Any:
        response = _Response(valid_host=request.host)
        response.original_request.CopyFrom(request)
        kind = request.WhichOneof("message_request")
        if kind == "list_services":
            for name in self._services:
                response.list_services_response.service.add(name=name)
            return response
        try:
            if kind == "file_by_filename":
                file = _find("FindFileByName", request.file_by_filename)
            elif kind == "file_containing_symbol":
                file = _find("FindFileContainingSymbol", request.file_containing_symbol)
            else:
                response.error_response.error_code = grpc.StatusCode.UNIMPLEMENTED.value[0]
                response.error_response.error_message = "only files and services are told of"
                return response
        except KeyError:
            response.error_response.error_code = grpc.StatusCode.NOT_FOUND.value[0]
            response.error_response.error_message = "not found"
            return response
        files: dict[str, bytes] = {}
        _add_files(file, files)
        response.file_descriptor_response.file_descriptor_proto.extend(files.values())
        return response


def _find(method: str, name: str) -> Any:
    """Raises KeyError if no pool has it."""
    try:
        return getattr(_OWN_POOL, method)(name)
    except KeyError:
        return getattr(descriptor_pool.Default(), method)(name)


def _add_files(file: Any, files: dict[str, bytes]) -> None:
    """Adds a file and all that it needs."""
    if file.name not in files:
        files[file.name] = file.serialized_pb
        for dependency in file.dependencies:
            _add_files(dependency, files)
