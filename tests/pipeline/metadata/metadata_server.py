"""ML Metadata's gRPC service over a SQLite file: its wheel holds the service, but no server."""

import concurrent.futures
import pathlib
import threading

import grpc
from ml_metadata import errors, metadata_store
from ml_metadata.metadata_store.pywrap.metadata_store_extension import (
    metadata_store as serialized,
)
from ml_metadata.proto import (
    metadata_store_pb2,
    metadata_store_service_pb2,
    metadata_store_service_pb2_grpc,
)
from ml_metadata.proto.metadata_store_service_pb2 import DESCRIPTOR

_METHODS = DESCRIPTOR.services_by_name["MetadataStoreService"].methods
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class MetadataServer:
    """A server on a free port of the loopback address.

    Args:
        folder: Where the SQLite file is made.
        tls: Certificate and private key, PEM, or None.
    """

    def __init__(self, folder: pathlib.Path, tls: tuple[bytes, bytes] | None = None) -> None:
        connection = metadata_store_pb2.ConnectionConfig()
        connection.sqlite.filename_uri = str(folder / "served.sqlite")
        connection.sqlite.connection_mode = (
            metadata_store_pb2.SqliteMetadataSourceConfig.READWRITE_OPENCREATE
        )
        self._store = metadata_store.MetadataStore(connection)
        self._lock = threading.Lock()
        self.calls = 0
        servicer = metadata_store_service_pb2_grpc.MetadataStoreServiceServicer()
        for method in _METHODS:
            setattr(servicer, method.name, self._method(method))
        self._server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
        metadata_store_service_pb2_grpc.add_MetadataStoreServiceServicer_to_server(
            servicer, self._server
        )
        place = "localhost:0"
        if tls is None:
            self.port = self._server.add_insecure_port(place)
        else:
            certificate, key = tls
            credentials = grpc.ssl_server_credentials([(key, certificate)])
            self.port = self._server.add_secure_port(place, credentials)

    def __enter__(self) -> "MetadataServer":
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(0).wait()

    def _method(self, method):
        answer_type = getattr(metadata_store_service_pb2, method.output_type.name)

        def answer(request, context):
            response = answer_type()
            with self._lock:
                self.calls += 1
                try:
                    self._store._pywrap_cc_call(getattr(serialized, method.name), request, response)
                except errors.StatusError as error:
                    context.abort(_CODES[error.error_code], str(error))
            return response

        return answer
