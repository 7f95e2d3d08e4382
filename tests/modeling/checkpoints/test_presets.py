import dataclasses
import functools
import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading
import zipfile

import pytest

from bert_tfx.modeling.checkpoints import downloads, presets
from bert_tfx.modeling.checkpoints.presets import (
    PRESETS,
    Preset,
    PresetFile,
    fetch,
    fetched,
    find_preset,
    preset_folder,
    table,
)
from bert_tfx.schema.errors import InputError

CONFIG, VOCAB, WEIGHTS = b'{"vocab_size": 4}', b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n", bytes(5000)


def digest(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves a folder; yields the folder and what was asked for."""
    folder, asked = tmp_path / "published", []
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path.lstrip("/"))
            super().do_GET()

        def log_message(self, *_):
            pass

    handler = functools.partial(Handler, directory=str(folder))
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("BERT_TFX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(downloads, "BACKOFF_S", 0.0)
    folder_and_more = type("Server", (), {})()
    folder_and_more.folder, folder_and_more.asked = folder, asked
    folder_and_more.url = f"http://127.0.0.1:{httpd.server_port}"
    yield folder_and_more
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def made_up(files, **changes):
    options = {
        "name": "made-up",
        "architecture": "bert",
        "language": "English",
        "vocab_size": 4,
        "num_layers": 2,
        "hidden_dim": 8,
        "lowercase": False,
        "activation": "gelu_tanh",
        "format": "google",
        "files": tuple(files),
        "licence": "Apache-2.0",
        "source": "https://example.org",
        "max_length": 64,
    }
    return Preset(**{**options, **changes})


def google(server, **changes):
    members = {
        "L-2/bert_config.json": CONFIG,
        "L-2/vocab.txt": VOCAB,
        "L-2/bert_model.ckpt.index": b"index",
        "L-2/bert_model.ckpt.data-00000-of-00001": WEIGHTS,
    }
    with zipfile.ZipFile(server.folder / "L-2.zip", "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    sha256 = changes.pop("sha256", None)
    return made_up([PresetFile("L-2.zip", f"{server.url}/L-2.zip", sha256)], **changes)


def hugging_face(server, **changes):
    contents = {"config.json": CONFIG, "vocab.txt": VOCAB, "model.safetensors": WEIGHTS}
    files = []
    for name, content in contents.items():
        (server.folder / name).write_bytes(content)
        files.append(PresetFile(name, f"{server.url}/{name}", digest(content)))
    return made_up(files, format="hugging_face", **changes)


def test_archive_is_fetched_once(server):
    preset, seen = google(server), []
    assert fetched("made-up") is None
    folder = fetch(preset, on_progress=lambda *progress: seen.append(progress))
    assert folder == preset_folder("made-up") == fetched("made-up")
    assert sorted(os.listdir(folder)) == [
        "bert_config.json",
        "bert_model.ckpt.data-00000-of-00001",
        "bert_model.ckpt.index",
        "preset.json",
        "vocab.txt",
    ]
    zipped = (server.folder / "L-2.zip").read_bytes()
    assert seen[-1] == (len(zipped), len(zipped))
    with open(os.path.join(folder, "preset.json"), encoding="utf-8") as file:
        assert json.load(file) == {
            "name": "made-up",
            "architecture": "bert",
            "lowercase": False,
            "activation": "gelu_tanh",
            "max_length": 64,
            "licence": "Apache-2.0",
            "source": "https://example.org",
            "downloads": [{"url": f"{server.url}/L-2.zip", "sha256": digest(zipped)}],
            "sha256": {
                "bert_config.json": digest(CONFIG),
                "bert_model.ckpt.data-00000-of-00001": digest(WEIGHTS),
                "bert_model.ckpt.index": digest(b"index"),
                "vocab.txt": digest(VOCAB),
            },
        }
    # The archive itself takes up no room any more, and nothing is asked for again.
    assert sorted(os.listdir(os.path.dirname(folder))) == [".made-up.lock", "made-up"]
    assert fetch(preset) == folder and server.asked == ["L-2.zip"]


def test_files_are_fetched_into_a_named_folder(server, tmp_path):
    preset, folder = hugging_face(server), str(tmp_path / "deeper" / "mine")
    assert fetch(preset, folder) == folder
    assert sorted(os.listdir(folder)) == [
        "config.json",
        "model.safetensors",
        "preset.json",
        "vocab.txt",
    ]
    assert sorted(os.listdir(tmp_path / "deeper")) == [".mine.lock", "mine"]
    assert fetch(preset, folder) == folder and len(server.asked) == 3
    assert fetched("made-up") is None


def test_half_fetched_is_not_whole_and_goes_on(server):
    preset = hugging_face(server)
    os.rename(server.folder / "model.safetensors", server.folder / "away")
    with pytest.raises(InputError, match=r"/model\.safetensors: not there any more"):
        fetch(preset)
    assert fetched("made-up") is None and not os.path.exists(preset_folder("made-up"))
    os.rename(server.folder / "away", server.folder / "model.safetensors")
    assert fetch(preset) == fetched("made-up")
    assert server.asked == ["config.json", "vocab.txt", *["model.safetensors"] * 2]


@pytest.mark.parametrize(
    ("module", "step"), [(presets, "extract"), (presets.files, "move"), (os, "replace")]
)
def test_killed_at_any_step(server, monkeypatch, module, step):
    preset = google(server)
    whole = getattr(module, step)

    class Killed(BaseException):
        pass

    def kill(*paths):
        # Only at the end: the download and the archive are brought to their places likewise.
        if step == "extract" or paths[-1] == preset_folder("made-up"):
            raise Killed
        return whole(*paths)

    with monkeypatch.context() as patch:
        patch.setattr(module, step, kill)
        with pytest.raises(Killed):
            fetch(preset)
    assert fetched("made-up") is None
    folder = fetch(preset)
    assert folder == fetched("made-up") and server.asked == ["L-2.zip"]
    assert sorted(os.listdir(os.path.dirname(folder))) == [".made-up.lock", "made-up"]


def test_killed_between_the_rename_and_the_end(server):
    folder = fetch(google(server))
    left = os.path.join(os.path.dirname(folder), ".made-up.partial")
    os.mkdir(left)
    assert fetch(google(server)) == folder
    assert not os.path.exists(left)


def test_member_of_an_archive_with_another_checksum(server):
    preset = google(server, contents={"vocab.txt": digest(VOCAB), "bert_config.json": "0" * 64})
    with pytest.raises(InputError, match=rf"L-2\.zip: bert_config\.json .*{digest(CONFIG)}.*000"):
        fetch(preset)
    assert fetched("made-up") is None
    good = dataclasses.replace(preset, contents={"vocab.txt": digest(VOCAB)})
    assert fetch(good) == fetched("made-up")
    # What was damaged was not kept.
    assert server.asked == ["L-2.zip"] * 2


def test_member_that_is_missing(server):
    with pytest.raises(InputError, match=r"L-2\.zip: albert\.txt in it has the SHA-256 None"):
        fetch(google(server, contents={"albert.txt": "0" * 64}))


def test_archive_with_another_checksum(server):
    with pytest.raises(InputError, match=r"L-2\.zip: its SHA-256 is .*, expected 000"):
        fetch(google(server, sha256="0" * 64))
    assert fetched("made-up") is None


def test_corrupt_archive_is_not_kept(server):
    preset = google(server)
    whole = (server.folder / "L-2.zip").read_bytes()
    (server.folder / "L-2.zip").write_bytes(b"<html>log in first</html>")
    with pytest.raises(InputError, match="truncated, corrupt or no such archive"):
        fetch(preset)
    (server.folder / "L-2.zip").write_bytes(whole)
    assert fetch(preset) == fetched("made-up")


def test_archive_is_kept_where_the_disk_is_full(server, monkeypatch):
    preset = google(server)

    def full(source, target):
        if os.path.isdir(source):
            raise OSError(28, "No space left on device")
        move(source, target)

    move = presets.files.move
    with monkeypatch.context() as patch:
        patch.setattr(presets.files, "move", full)
        with pytest.raises(InputError, match="No space left on device"):
            fetch(preset)
    assert fetch(preset) == fetched("made-up") and server.asked == ["L-2.zip"]


def test_folder_of_something_else_is_left_alone(server, tmp_path):
    preset, folder = hugging_face(server), tmp_path / "mine"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    for content in (None, "[]", "{", '{"name": "other"}'):
        if content is not None:
            (folder / "preset.json").write_text(content)
        with pytest.raises(InputError, match="mine: holds something else than made-up"):
            fetch(preset, str(folder))
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="file: holds something else"):
        fetch(preset, str(tmp_path / "file"))
    assert (folder / "thesis.txt").read_text() == "mine" and server.asked == []

    (tmp_path / "empty").mkdir()
    assert fetch(preset, str(tmp_path / "empty")) == str(tmp_path / "empty")


def test_folder_that_cannot_be_made(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"made-up cannot be put there: .*BERT_TFX_CACHE"):
        fetch(hugging_face(server), str(tmp_path / "file" / "mine"))


def test_two_processes_fetch_once(server):
    preset, folders = google(server), []
    threads = [threading.Thread(target=lambda: folders.append(fetch(preset))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert folders == [preset_folder("made-up")] * 4 and server.asked == ["L-2.zip"]


def test_find_preset():
    assert find_preset("bert-base-chinese").vocab_size == 21128
    for wrong, close in [
        ("bert-base-chinse", "bert-base-chinese"),
        ("distilbert", "distilbert-base"),
        ("BERT-Base-Uncased", "bert-base-uncased"),
    ]:
        with pytest.raises(InputError, match=f"no preset '{wrong}'; did you mean .*{close}"):
            find_preset(wrong)
    with pytest.raises(InputError, match="no preset 'x'; `bert-tfx presets` lists all of them"):
        find_preset("x")


def test_table_is_aligned():
    lines = table().split("\n")
    assert len(lines) == len(PRESETS) + 1
    assert [line.split()[0] for line in lines[1:]] == list(PRESETS)
    for title in ("language", "casing", "licence", "source"):
        start = lines[0].index(title)
        assert all(line[start - 2 : start] == "  " and line[start] != " " for line in lines)
    chinese = next(line for line in lines if line.startswith("bert-base-chinese "))
    assert re.split(r"  +", chinese) == [
        "bert-base-chinese",
        "Chinese",
        "uncased",
        "12 x 768",
        "102.3 M",
        "Apache-2.0",
        "github.com/google-research/bert",
    ]


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_presets_are_well_formed(preset):
    assert preset.architecture in ("bert", "distilbert")
    assert preset.activation == {"google": "gelu_tanh", "hugging_face": "gelu"}[preset.format]
    assert preset.lowercase == ("uncased" in preset.name or "chinese" in preset.name)
    assert preset.source.startswith("https://") and preset.licence == "Apache-2.0"
    hashes = [*(file.sha256 for file in preset.files), *preset.contents.values()]
    assert all(value is None or re.fullmatch("[0-9a-f]{64}", value) for value in hashes)
    if preset.format == "google":
        [file] = preset.files
        shape = re.search(r"L-(\d+)_H-(\d+)_A-", file.name)
        assert (preset.num_layers, preset.hidden_dim) == tuple(map(int, shape.groups()))
        base = r"https://storage\.googleapis\.com/bert_models/\d{4}_\d\d_\d\d"
        assert re.fullmatch(f"{base}/{re.escape(file.name)}", file.url)
    else:
        assert {file.name for file in preset.files} == {
            "config.json",
            "vocab.txt",
            "model.safetensors",
        }
        # A revision's files never change; a branch's may.
        assert all(
            re.fullmatch(rf"{preset.source}/resolve/[0-9a-f]{{40}}/{file.name}", file.url)
            for file in preset.files
        )
        weights = next(file for file in preset.files if file.name == "model.safetensors")
        assert weights.sha256


@pytest.mark.parametrize("architecture", ["bert", "distilbert"])
def test_parameters_are_those_of_the_encoder(architecture):
    from bert_tfx.modeling.encoders.bert import BertEncoder
    from bert_tfx.modeling.encoders.distil_bert import DistilBertEncoder

    preset = made_up([], architecture=architecture)
    encoder = {"bert": BertEncoder, "distilbert": DistilBertEncoder}[architecture](
        vocab_size=preset.vocab_size,
        num_layers=preset.num_layers,
        hidden_dim=preset.hidden_dim,
        intermediate_dim=4 * preset.hidden_dim,
        num_heads=2,
        max_length=preset.max_length,
    )
    assert preset.parameters == encoder.count_params()


def test_command_line_imports_no_framework_and_no_requests():
    script = (
        "import sys\n"
        "from bert_tfx.modeling.checkpoints import archives, downloads, presets\n"
        "heavy = {'numpy', 'keras', 'tensorflow', 'requests', 'urllib3'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    assert presets.PRESET_FILE == "preset.json"
