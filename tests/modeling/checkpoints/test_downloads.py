import contextlib
import hashlib
import http.server
import json
import os
import ssl
import threading
import time

import pytest

from bert_tfx.modeling.checkpoints import downloads
from bert_tfx.modeling.checkpoints.downloads import Downloaded, download
from bert_tfx.schema.errors import InputError

CONTENT = b"".join(hashlib.sha256(bytes([i])).digest() for i in range(256)) * 100
SHA256 = hashlib.sha256(CONTENT).hexdigest()
HALF = len(CONTENT) // 2


class Server:
    """A file behind HTTP, and how it misbehaves: one entry of `script` for each request.

    An entry is an int, the status to answer; ("later", seconds); ("redirect", url); or ("cut", n),
    to close the connection after n bytes of the body. After the last entry, the server behaves.
    """

    def __init__(self, content=CONTENT, etag='"v1"', ranges=True, headers=None, tls=None):
        self.content, self.etag, self.ranges, self.headers = content, etag, ranges, headers or {}
        self.script, self.requests, self.connections = [], [], 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def handle(self):
                outer.connections += 1
                # A client that does not trust it goes away before it asks.
                with contextlib.suppress(ssl.SSLError):
                    super().handle()

            def do_GET(self):
                outer.requests.append(self)
                outer.answer(self, outer.script.pop(0) if outer.script else None)

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        scheme, host = "http", "127.0.0.1"
        if tls is not None:
            scheme, host = "https", "localhost"
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"{scheme}://{host}:{self._server.server_port}/model.bin"

    def ranges_asked(self):
        return [request.headers.get("Range") for request in self.requests]

    def close(self):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, request, deed):
        if isinstance(deed, int) or (deed and deed[0] != "cut"):
            kind, value = ("status", str(deed)) if isinstance(deed, int) else deed
            status, name = {
                "status": (deed, "X-Status"),
                "later": (503, "Retry-After"),
                "redirect": (302, "Location"),
            }[kind]
            request.send_response(status)
            request.send_header(name, value)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        start, wanted = 0, request.headers.get("Range")
        if wanted and self.ranges and request.headers.get("If-Range") == self.etag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        body = self.content[start:]
        if start >= len(self.content):
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(self.content)}")
            body = b""
        elif start:
            last, whole = len(self.content) - 1, len(self.content)
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start}-{last}/{whole}")
        else:
            request.send_response(200)
        request.send_header("Content-Length", str(len(body)))
        if self.etag:
            request.send_header("ETag", self.etag)
        for name, value in self.headers.items():
            request.send_header(name, value)
        request.end_headers()
        # A client that has read enough of the headers goes away.
        with contextlib.suppress(ConnectionError):
            request.wfile.write(body[: deed[1]] if deed else body)
        request.close_connection = True


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setattr(downloads, "BACKOFF_S", 0.0)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


@pytest.fixture
def serve():
    servers = []

    def start(**options):
        servers.append(Server(**options))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def check_done(tmp_path, found=None):
    """Checks that the file is there whole, and nothing else."""
    path = tmp_path / "model.bin"
    assert path.read_bytes() == CONTENT
    assert os.listdir(tmp_path) == ["model.bin"]
    assert found in (None, Downloaded(str(path), len(CONTENT), SHA256))


def test_complete(tmp_path, serve):
    server, seen = serve(), []
    found = download(
        server.url,
        str(tmp_path / "model.bin"),
        sha256=SHA256,
        size=len(CONTENT),
        on_progress=lambda *progress: seen.append(progress),
    )
    check_done(tmp_path, found)
    assert seen == sorted(seen) and seen[-1] == (len(CONTENT), len(CONTENT)) and len(seen) > 1
    assert server.requests[0].headers["Accept-Encoding"] == "identity"


def test_file_that_is_there_is_not_asked_for(tmp_path, serve):
    server, path = serve(), str(tmp_path / "model.bin")
    download(server.url, path)
    assert download(server.url, path, sha256=SHA256, size=len(CONTENT)).sha256 == SHA256
    assert len(server.requests) == 1

    with open(path, "ab") as file:
        file.write(b"damage")
    check_done(tmp_path, download(server.url, path, sha256=SHA256))
    assert len(server.requests) == 2


def test_cut_connection_goes_on_where_it_was_cut(tmp_path, serve):
    server = serve()
    server.script = [("cut", HALF), ("cut", 1000)]
    check_done(tmp_path, download(server.url, str(tmp_path / "model.bin"), sha256=SHA256))
    assert server.ranges_asked() == [None, f"bytes={HALF}-", f"bytes={HALF + 1000}-"]
    assert server.requests[1].headers["If-Range"] == '"v1"'


def stop_in_the_middle(server, path, monkeypatch):
    """Leaves a part, as a killed call does."""
    with monkeypatch.context() as patch:
        patch.setattr(downloads, "ATTEMPTS", 1)
        server.script = [("cut", HALF)]
        message = r"the connection .*1 times in a row.* goes on from here.*--pretrained"
        with pytest.raises(InputError, match=message):
            download(server.url, path)
    server.script, server.requests = [], []
    assert os.path.getsize(f"{path}.part") == HALF


def test_later_call_goes_on(tmp_path, serve, monkeypatch):
    server, path = serve(), str(tmp_path / "model.bin")
    stop_in_the_middle(server, path, monkeypatch)
    check_done(tmp_path, download(server.url, path, sha256=SHA256))
    assert server.ranges_asked() == [f"bytes={HALF}-"]


def test_part_that_was_whole_already(tmp_path, serve, monkeypatch):
    server, path = serve(), str(tmp_path / "model.bin")
    stop_in_the_middle(server, path, monkeypatch)
    with open(f"{path}.part", "wb") as file:
        file.write(CONTENT)
    check_done(tmp_path, download(server.url, path, sha256=SHA256))
    assert server.ranges_asked() == [f"bytes={len(CONTENT)}-"]


def test_part_that_is_longer_than_the_file(tmp_path, serve, monkeypatch):
    server, path = serve(), str(tmp_path / "model.bin")
    stop_in_the_middle(server, path, monkeypatch)
    with open(f"{path}.part", "wb") as file:
        file.write(CONTENT + b"more")
    check_done(tmp_path, download(server.url, path, sha256=SHA256))
    assert len(server.requests) == 2


def test_range_that_is_ignored_starts_over(tmp_path, serve, monkeypatch):
    server, path = serve(ranges=False), str(tmp_path / "model.bin")
    stop_in_the_middle(server, path, monkeypatch)
    check_done(tmp_path, download(server.url, path, sha256=SHA256))
    assert server.ranges_asked() == [f"bytes={HALF}-"]


def test_changed_file_starts_over(tmp_path, serve, monkeypatch):
    server, path = serve(content=bytes(len(CONTENT))), str(tmp_path / "model.bin")
    stop_in_the_middle(server, path, monkeypatch)
    server.content, server.etag = CONTENT, '"v2"'
    check_done(tmp_path, download(server.url, path))
    assert server.requests[0].headers["If-Range"] == '"v1"'


def test_file_without_a_version_starts_over(tmp_path, serve, monkeypatch):
    # A weak ETag says that two files mean the same, not that they are the same bytes.
    for number, etag in enumerate((None, 'W/"v1"')):
        server, folder = serve(etag=etag), tmp_path / str(number)
        folder.mkdir()
        stop_in_the_middle(server, str(folder / "model.bin"), monkeypatch)
        check_done(folder, download(server.url, str(folder / "model.bin")))
        assert server.ranges_asked() == [None]


def test_date_is_a_version(tmp_path, serve, monkeypatch):
    date = "Wed, 21 Oct 2015 07:28:00 GMT"
    server, path = serve(etag=None, headers={"Last-Modified": date}), str(tmp_path / "model.bin")
    stop_in_the_middle(server, path, monkeypatch)
    download(server.url, path)
    assert server.requests[0].headers["If-Range"] == date


def test_part_of_another_url_starts_over(tmp_path, serve, monkeypatch):
    server, path = serve(), str(tmp_path / "model.bin")
    stop_in_the_middle(serve(content=bytes(len(CONTENT))), path, monkeypatch)
    check_done(tmp_path, download(server.url, path))
    assert server.ranges_asked() == [None]


def test_damaged_version_file_starts_over(tmp_path, serve, monkeypatch):
    server, path = serve(), str(tmp_path / "model.bin")
    for content in ("", "[]", "{", json.dumps({"url": server.url, "version": 5})):
        stop_in_the_middle(server, path, monkeypatch)
        with open(f"{path}.part.json", "w") as file:
            file.write(content)
        check_done(tmp_path, download(server.url, path))
        assert server.ranges_asked() == [None]
        os.remove(path)


def test_wrong_checksum_deletes_what_was_downloaded(tmp_path, serve):
    server = serve()
    with pytest.raises(InputError, match=f"{server.url}: its SHA-256 is {SHA256}, expected 00"):
        download(server.url, str(tmp_path / "model.bin"), sha256="0" * 64)
    assert os.listdir(tmp_path) == []


def test_wrong_size_is_seen_before_the_body(tmp_path, serve):
    server, seen = serve(), []
    with pytest.raises(InputError, match=f"has {len(CONTENT):,} bytes, expected 7: .*another file"):
        download(
            server.url, str(tmp_path / "model.bin"), size=7, on_progress=lambda *p: seen.append(p)
        )
    assert os.listdir(tmp_path) == [] and not seen


@pytest.mark.parametrize(
    ("status", "message"),
    [(404, "not there any more.*by hand"), (410, "not there any more"), (403, "answered 403")],
)
def test_final_answers_are_not_asked_for_twice(tmp_path, serve, status, message):
    server = serve()
    server.script = [status]
    with pytest.raises(InputError, match=f"{server.url}: .*{message}.*--pretrained"):
        download(server.url, str(tmp_path / "model.bin"))
    assert len(server.requests) == 1 and os.listdir(tmp_path) == []


def test_passing_errors_are_tried_again(tmp_path, serve):
    server = serve()
    server.script = [500, 429, 503, ("cut", 0)]
    check_done(tmp_path, download(server.url, str(tmp_path / "model.bin"), sha256=SHA256))
    assert len(server.requests) == 5


def test_attempts_are_bounded(tmp_path, serve, monkeypatch):
    server, pauses = serve(), []
    monkeypatch.setattr(downloads, "BACKOFF_S", 1.0)
    monkeypatch.setattr(time, "sleep", pauses.append)
    server.script = [500] * 10
    with pytest.raises(InputError, match=r"answered 500 .*5 times in a row.*HTTPS_PROXY"):
        download(server.url, str(tmp_path / "model.bin"))
    assert len(server.requests) == downloads.ATTEMPTS
    # The second attempt comes at once.
    assert pauses == [2.0, 4.0, 8.0]


def test_server_may_ask_to_wait(tmp_path, serve, monkeypatch):
    server, pauses = serve(), []
    monkeypatch.setattr(time, "sleep", pauses.append)
    server.script = [("later", "120"), ("later", "7"), ("later", "tomorrow")]
    check_done(tmp_path, download(server.url, str(tmp_path / "model.bin")))
    assert pauses == [60.0, 7.0]


def test_nobody_answers(tmp_path, serve):
    server = Server()
    server.close()
    with pytest.raises(InputError, match=r"no connection .*5 times in a row.*--pretrained"):
        download(server.url, str(tmp_path / "model.bin"))


def test_certificate_is_not_tried_again(tmp_path, serve, tls, monkeypatch):
    server = serve(tls=tls)
    with pytest.raises(InputError, match=r"certificate is not trusted.*REQUESTS_CA_BUNDLE"):
        download(server.url, str(tmp_path / "model.bin"))
    assert server.connections == 1

    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tls[0]))
    check_done(tmp_path, download(server.url, str(tmp_path / "model.bin"), sha256=SHA256))


def test_gzip_on_the_way_is_not_undone(tmp_path, serve):
    server = serve(headers={"Content-Encoding": "gzip"})
    check_done(tmp_path, download(server.url, str(tmp_path / "model.bin"), sha256=SHA256))


def test_redirect(tmp_path, serve):
    server, elsewhere = serve(), serve()
    server.script = [("redirect", "/moved"), ("redirect", elsewhere.url)]
    elsewhere.script = [("cut", HALF)]
    check_done(tmp_path, download(server.url, str(tmp_path / "model.bin"), sha256=SHA256))
    # The second attempt begins at the address that was asked for.
    assert [request.path for request in server.requests] == ["/model.bin", "/moved", "/model.bin"]
    assert elsewhere.ranges_asked() == [None]


def test_endless_redirects(tmp_path, serve):
    server = serve()
    server.script = [("redirect", "/again")] * 20
    with pytest.raises(InputError, match="more than 10 redirections"):
        download(server.url, str(tmp_path / "model.bin"))


@pytest.mark.parametrize(
    "url", ["http://host/file", "ftp://host/file", "file:///etc/passwd", "host/file", "https:///x"]
)
def test_only_https_leads_off_this_machine(tmp_path, serve, url):
    with pytest.raises(InputError, match=f"begins with https://.*Received: '{url}'"):
        download(url, str(tmp_path / "model.bin"))
    if "://" in url:
        server = serve()
        server.script = [("redirect", url)]
        with pytest.raises(InputError, match=f"{server.url}: .*begins with https://"):
            download(server.url, str(tmp_path / "model.bin"))


def test_folder_that_is_not_there(tmp_path, serve):
    with pytest.raises(InputError, match="cannot be written: No such file"):
        download(serve().url, str(tmp_path / "no" / "model.bin"))


def test_full_disk_keeps_what_is_there(tmp_path, serve, monkeypatch):
    server, path = serve(), str(tmp_path / "model.bin")
    stop_in_the_middle(server, path, monkeypatch)

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(downloads.os, "fsync", full)
        with pytest.raises(InputError, match=r"No space left on device; make room.*goes on"):
            download(server.url, path)
    assert os.path.getsize(f"{path}.part") == len(CONTENT)
    check_done(tmp_path, download(server.url, path, sha256=SHA256))
