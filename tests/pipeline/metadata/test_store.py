import dataclasses
import importlib.util
import json
import pathlib
import socket
import subprocess
import sys
import time

import pytest
from ml_metadata.proto import metadata_store_pb2

from bert_tfx.pipeline.metadata.lineage import find_run, read_runs
from bert_tfx.pipeline.metadata.store import (
    ADDRESS_FILE,
    Address,
    address_of,
    check_name,
    connection_config,
    keep_address,
    open_store,
    parse_url,
)
from bert_tfx.schema.errors import InputError


def loaded(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


_HERE = pathlib.Path(__file__).parent
MetadataServer = loaded("metadata_server", _HERE / "metadata_server.py").MetadataServer

# What a node writes, sixty times, in a process of its own.
WRITER = """
import sys
from ml_metadata.proto import metadata_store_pb2 as mlmd
from bert_tfx.pipeline.metadata.store import Address, open_store
url, name = sys.argv[1:]
for i in range(60):
    store = open_store(Address(url))
    kind = store.put_execution_type(mlmd.ExecutionType(name="Trainer"))
    made = store.put_artifact_type(mlmd.ArtifactType(name="Model"))
    place = store.put_context_type(mlmd.ContextType(name="pipeline_run"))
    execution = mlmd.Execution(type_id=kind, name=f"{name}-{i}")
    artifact = mlmd.Artifact(type_id=made, uri=f"/{name}/{i}")
    event = mlmd.Event(type=mlmd.Event.OUTPUT)
    context = mlmd.Context(type_id=place, name=name)
    store.put_execution(
        execution, [(artifact, event)], [context], reuse_context_if_already_exist=True
    )
"""


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("sqlite:/a/b.db", "sqlite:/a/b.db"),
        ("sqlite:///a/b.db", "sqlite:/a/b.db"),
        ("sqlite:////a/b.db", "sqlite:/a/b.db"),
        ("mysql://tfx@db/records", "mysql://tfx@db:3306/records"),
        ("mysql://tfx@[::1]:3307/records", "mysql://tfx@[::1]:3307/records"),
        ("grpc://mlmd", "grpc://mlmd:8080"),
        ("grpcs://mlmd:443/", "grpcs://mlmd:443"),
    ],
)
def test_url_in_full(text, url):
    assert parse_url(text) == parse_url(url) == url


def test_relative_path_is_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse_url("sqlite:shared/runs.db") == f"sqlite:{tmp_path}/shared/runs.db"


@pytest.mark.parametrize(
    "text",
    [
        *("", "runs.db", "sqlite:", "sqlite://host/runs.db", "postgres://u@db/records"),
        *("mysql://db/records", "mysql://u@db", "mysql://u@db/a/b", "mysql://u@db/a?ssl=1"),
        *("grpc://u@mlmd", "grpc://mlmd:99999", "grpc://mlmd/path", "grpc:mlmd"),
    ],
)
def test_what_is_no_store_is_refused(text):
    with pytest.raises(InputError, match="expected sqlite:PATH, mysql://USER@HOST:PORT/DATABASE"):
        parse_url(text)


@pytest.mark.parametrize("password", ["hush", "hu/sh", "hu@sh", "hu:sh"])
def test_password_in_a_url_is_refused_and_not_repeated(password):
    with pytest.raises(InputError) as refused:
        parse_url(f"mysql://tfx:{password}@db/records")
    assert "hu" not in str(refused.value)
    assert "mysql://tfx:...@db/records" in str(refused.value)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ({"url": "grpc://h:1", "password_file": "/f"}, "password-file is for a store of mysql"),
        ({"url": "grpc://h:1", "tls_ca": "/f"}, "--metadata-tls-ca is for a store of mysql:// or"),
        ({"url": "grpcs://h:1", "tls_cert": "/f"}, "tls-cert and --metadata-tls-key go together"),
        ({"url": "grpcs://h:1", "tls_ca": "/no"}, r"/no: cannot be read \(--metadata-tls-ca\)"),
        ({"url": "mysql://u@h:1/d", "password_file": "/no"}, "/no: cannot be read"),
    ],
)
def test_options_that_do_not_go_together(address, message):
    with pytest.raises(InputError, match=message):
        Address(**address).check()


def test_certificate_that_is_not_checked_is_warned_of(tmp_path, caplog):
    file = tmp_path / "ca.pem"
    file.write_text("", encoding="utf-8")
    Address("mysql://u@h:1/d", tls_ca=str(file)).check()
    assert "does not check the server's certificate" in caplog.text
    caplog.clear()
    Address("grpcs://h:1", tls_ca=str(file)).check()
    assert caplog.text == ""


@pytest.mark.parametrize("name", ["", "Reviews", "a b", "-a", "x" * 64, "a/b"])
def test_name_of_a_lineage_must_suit_every_store(name):
    check_name("reviews-2026.daily_1")
    with pytest.raises(InputError, match="--lineage"):
        check_name(name)


def test_mysql_is_told_what_the_files_hold(tmp_path):
    password = tmp_path / "password"
    password.write_text("hu sh\n", encoding="utf-8")
    address = Address(
        "mysql://tfx@localhost:3307/records", str(password), "ca.pem", "cert.pem", "key.pem"
    )
    mysql = connection_config(address).mysql
    assert (mysql.host, mysql.port, mysql.user) == ("127.0.0.1", 3307, "tfx")
    assert (mysql.database, mysql.password, mysql.skip_db_creation) == ("records", "hu sh", True)
    assert not mysql.ssl_options.verify_server_cert
    assert (mysql.ssl_options.ca, mysql.ssl_options.key) == ("ca.pem", "key.pem")
    # It is read where it is needed, and stands nowhere else.
    assert "hu sh" not in repr(address)


@pytest.mark.parametrize("scheme", ["mysql", "grpc"])
def test_server_that_is_not_there_is_named_at_once(scheme):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    url = {"mysql": f"mysql://tfx@127.0.0.1:{port}/records", "grpc": f"grpc://127.0.0.1:{port}"}
    begun = time.monotonic()
    with pytest.raises(InputError, match=f"{url[scheme]}: the metadata store cannot be reached"):
        open_store(Address(url[scheme]))
    assert time.monotonic() - begun < 2


def test_folder_says_where_its_records_are(tmp_path):
    own = Address(f"sqlite:{tmp_path}/metadata.sqlite")
    assert address_of(str(tmp_path)) == own
    there = Address("mysql://u@h:1/d", password_file="/secret")
    keep_address(str(tmp_path), there, "one")
    keep_address(str(tmp_path), there, "two")
    assert address_of(str(tmp_path)) == dataclasses.replace(there, pipelines=["one", "two"])
    keep_address(str(tmp_path), Address("grpc://h:1"), "three")
    assert address_of(str(tmp_path)) == Address("grpc://h:1", pipelines=["three"])
    (tmp_path / ADDRESS_FILE).write_text('{"uri"', encoding="utf-8")
    with pytest.raises(InputError, match=r"metadata\.json: cannot be understood"):
        address_of(str(tmp_path))
    keep_address(str(tmp_path), own, "four")
    assert not (tmp_path / ADDRESS_FILE).exists()


def put_run(store, pipeline, run_id, uri):
    """Records a run of one node as TFX does."""
    types = {
        name: store.put_context_type(metadata_store_pb2.ContextType(name=name))
        for name in ("pipeline_run", "node")
    }
    kind = store.put_execution_type(metadata_store_pb2.ExecutionType(name="Trainer"))
    made = store.put_artifact_type(metadata_store_pb2.ArtifactType(name="Model"))
    event = metadata_store_pb2.Event(type=metadata_store_pb2.Event.OUTPUT)
    event.path.steps.add().key = "model"
    store.put_execution(
        metadata_store_pb2.Execution(
            type_id=kind, last_known_state=metadata_store_pb2.Execution.COMPLETE
        ),
        [(metadata_store_pb2.Artifact(type_id=made, uri=uri), event)],
        [
            metadata_store_pb2.Context(type_id=types["pipeline_run"], name=run_id),
            metadata_store_pb2.Context(type_id=types["node"], name=f"{pipeline}.Trainer"),
        ],
        reuse_context_if_already_exist=True,
    )


def test_folders_in_one_store_keep_their_runs_apart(tmp_path):
    address = Address(f"sqlite:{tmp_path}/shared.sqlite")
    store = open_store(address)
    for folder, run_ids in (("a", ("monday", "tuesday")), ("b", ("monday",))):
        (tmp_path / folder).mkdir()
        keep_address(str(tmp_path / folder), address, f"pipeline-{folder}")
        for run_id in run_ids:
            # A scheduler gives the runs of all its pipelines the same names.
            put_run(store, f"pipeline-{folder}", run_id, f"/{folder}/{run_id}")
    assert [run.id for run in read_runs(str(tmp_path / "a"))] == ["tuesday", "monday"]
    for folder in "ab":
        run = find_run(str(tmp_path / folder), "monday")
        assert run.pipeline == f"pipeline-{folder}"
        assert run.output("Trainer", "model").uri == f"/{folder}/monday"
    assert [run.id for run in read_runs(str(tmp_path / "b"))] == ["monday"]


def test_processes_that_write_to_one_file_lose_nothing(tmp_path):
    url = f"sqlite:{tmp_path}/shared.sqlite"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, url, name], stderr=subprocess.PIPE)
        for name in ("one", "two")
    ]
    for writer in writers:
        _, told = writer.communicate(timeout=300)
        assert writer.returncode == 0, told.decode()
    store = open_store(Address(url))
    assert len(store.get_executions()) == len(store.get_artifacts()) == 120
    assert len(store.get_events_by_execution_ids([e.id for e in store.get_executions()])) == 120
    assert {context.name for context in store.get_contexts()} == {"one", "two"}


def test_grpc_server_that_wants_tls(tmp_path, tls):
    certificate, key = tls
    with MetadataServer(tmp_path, (certificate.read_bytes(), key.read_bytes())) as server:
        url = f"grpcs://localhost:{server.port}"
        store = open_store(Address(url, tls_ca=str(certificate)))
        put_run(store, "p", "monday", "/uri")
        assert [artifact.uri for artifact in store.get_artifacts()] == ["/uri"]
        with pytest.raises(InputError, match=f"{url}: the metadata store cannot be used"):
            open_store(Address(url))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nodes_and_commands_over_grpc(tmp_path, command, glue_dir):
    output = tmp_path / "output"
    with MetadataServer(tmp_path) as server:
        options = (
            "--task", "sst2", "--data", glue_dir, "--output", output, "--size", "tiny",
            "--metadata", f"grpc://localhost:{server.port}", "--lineage", "reviews",
        )  # fmt: skip
        node = ("component", "run", "--node", "ImportSchemaGen")
        for run_id, state in (("a", " s"), ("b", "cached")):
            done = command(*node, "--run-id", run_id, *options)
            assert done.returncode == 0, done.stderr
            assert done.stdout.splitlines()[-1].endswith(state), done.stdout
        assert server.calls > 20
        assert not (output / "metadata.sqlite").exists()
        # These know from the folder where the records are.
        listed = json.loads(command("runs", "--json", "--output", output).stdout)
        assert [(run["run"], run["pipeline"]) for run in listed] == [
            ("b", "reviews"),
            ("a", "reviews"),
        ]
    done = command("runs", "--output", output)
    assert done.returncode == 2
    assert "the metadata store cannot be reached: Connection refused" in done.stderr
