import importlib.util
import os
import subprocess
import sys

import pytest

from bert_tfx.serving.protocol import messages

# In a process of its own, for TensorFlow's 10 s of import.
AGAINST_THE_OFFICIAL_ONES = """
from bert_tfx.serving.protocol import messages
import contextlib
from google.protobuf import descriptor_pb2, descriptor_pool
from tensorflow_serving.apis import predict_pb2
# Those of tensorflow-serving-api below 2.21 end with lines that protobuf 5 and later refuse, after
# they have added their file to the pool.
for module in ("prediction_service_pb2", "model_service_pb2"):
    with contextlib.suppress(AttributeError):
        __import__(f"tensorflow_serving.apis.{module}")

official = descriptor_pool.Default()
seen = 0

def compare(ours, theirs, path):
    global seen
    for field in ours.fields:
        other = theirs.fields_by_name[field.name]
        place = f"{path}.{field.name}"
        for what in ("number", "type", "cpp_type", "label", "json_name", "has_presence"):
            pair = [getattr(f, what, None) for f in (field, other)]
            assert pair[0] == pair[1], (place, what, pair)
        for what in ("message_type", "enum_type", "containing_oneof"):
            pair = [getattr(f, what) and getattr(f, what).full_name for f in (field, other)]
            assert pair[0] == pair[1], (place, what, pair)
        seen += 1
        if field.enum_type:
            for value in field.enum_type.values:
                assert other.enum_type.values_by_name[value.name].number == value.number, place
        if field.message_type:
            options = [f.message_type.GetOptions().map_entry for f in (field, other)]
            assert options[0] == options[1], place
            compare_nested = field.message_type.full_name.endswith("Entry")
            if compare_nested:
                compare(field.message_type, other.message_type, place)

def declared(messages, package):
    for message in messages:
        if not message.options.map_entry:
            yield f"{package}.{message.name}"
            yield from declared(message.nested_type, f"{package}.{message.name}")

with open(messages.DESCRIPTORS_FILE, "rb") as file:
    files = descriptor_pb2.FileDescriptorSet.FromString(file.read()).file
names = [
    name
    for file in files
    if file.package not in ("google.protobuf", "grpc.health.v1")
    for name in declared(file.message_type, file.package)
]
for name in names:
    ours = messages.message_class(name).DESCRIPTOR
    theirs = official.FindMessageTypeByName(name)
    assert ours.full_name == theirs.full_name == name
    compare(ours, theirs, name)

for method in (messages.PREDICT, messages.GET_MODEL_METADATA, messages.GET_MODEL_STATUS):
    _, service, name = method.path.split("/")
    other = official.FindServiceByName(service).methods_by_name[name]
    assert other.input_type.full_name == method.request.DESCRIPTOR.full_name
    assert other.output_type.full_name == method.response.DESCRIPTOR.full_name

# The same bytes, both ways.
request = predict_pb2.PredictRequest()
request.model_spec.name = "model"
request.model_spec.version.value = 0
request.model_spec.signature_name = "serve_text"
request.inputs["text_a"].string_val.append(b"x")
request.output_filter.append("label")
again = messages.PredictRequest.FromString(request.SerializeToString())
assert again.model_spec.WhichOneof("version_choice") == "version"
assert predict_pb2.PredictRequest.FromString(again.SerializeToString()) == request
print(len(names), seen)
"""


@pytest.mark.parametrize("implementation", ["cpp", pytest.param("python", marks=pytest.mark.slow)])
def test_messages_are_the_official_ones_field_by_field(implementation):
    pytest.importorskip("tensorflow_serving", reason="the official messages are not installed")
    if implementation == "cpp":
        environment = os.environ
    else:
        environment = os.environ | {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", AGAINST_THE_OFFICIAL_ONES],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    compared, fields = map(int, done.stdout.split())
    assert compared == 15
    assert fields > 40


def test_the_descriptors_are_those_of_the_sources(tmp_path):
    if importlib.util.find_spec("grpc_tools") is None:
        pytest.skip("grpcio-tools, which compiles the messages, is not installed")
    folder = os.path.dirname(messages.DESCRIPTORS_FILE)
    sources = sorted(name for name in os.listdir(folder) if name.endswith(".proto"))
    made = tmp_path / "made"
    # Not here: in a process that has loaded TensorFlow's protobuf, too, the compiler crashes.
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", "--include_imports"]
    subprocess.run(
        [*command, f"--descriptor_set_out={made}", *sources],
        cwd=folder,
        check=True,
    )
    with open(messages.DESCRIPTORS_FILE, "rb") as file:
        assert file.read() == made.read_bytes(), "make protocol writes it anew"


def test_health_messages_are_those_of_the_protocol():
    # https://github.com/grpc/grpc/blob/master/src/proto/grpc/health/v1/health.proto
    assert messages.HealthCheckRequest(service="s").SerializeToString() == b"\x0a\x01s"
    assert messages.HealthCheckResponse(status=messages.SERVING).SerializeToString() == b"\x08\x01"
    assert messages.CHECK_HEALTH.path == "/grpc.health.v1.Health/Check"


def test_unknown_fields_are_skipped():
    future = b"\xfa\x3e\x03new" + messages.PredictRequest(output_filter=["x"]).SerializeToString()
    assert list(messages.PredictRequest.FromString(future).output_filter) == ["x"]


LIGHT = """
import sys, time
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"tensorflow", "tensorflow_serving", "keras", "numpy", "tfx"}:
            raise ImportError(f"{name} must not be imported")
sys.meta_path.insert(0, Refuse())
start = time.monotonic()
import bert_tfx.serving.client
import bert_tfx.serving.files.batch_files
print(time.monotonic() - start)
print(*sys.modules)
"""


def test_the_client_is_light():
    seconds, modules = [], ""
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", LIGHT], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        first, modules = done.stdout.splitlines()
        seconds.append(float(first))
    assert min(seconds) < 1.0
    outside = {name.split(".")[0] for name in modules.split()} - {*sys.stdlib_module_names}
    assert not outside & {"tensorflow", "tensorflow_serving", "numpy", "keras", "absl"}
