"""TensorFlow Serving's services as protobuf describes them: their methods, and what these take.

The official modules say so themselves, but those of tensorflow-serving-api below 2.21 end with
lines that protobuf 5 and later refuse, so that importing them fails. Once the oldest release that
TFX allows is 2.21, this module can go:
`prediction_service_pb2.DESCRIPTOR.services_by_name["PredictionService"]` is the same, and so on.
"""

import contextlib
import importlib
from typing import Final

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor


def _service(module: str, name: str) -> ServiceDescriptor:
    # The first thing that such a module does is to add its file to the pool; a file that is not
    # there is a KeyError below.
    with contextlib.suppress(AttributeError):
        importlib.import_module(f"tensorflow_serving.apis.{module}")
    return descriptor_pool.Default().FindServiceByName(f"tensorflow.serving.{name}")


PREDICTION_SERVICE: Final = _service("prediction_service_pb2", "PredictionService")
MODEL_SERVICE: Final = _service("model_service_pb2", "ModelService")
