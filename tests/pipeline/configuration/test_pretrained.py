import hashlib
import json
import os
import zipfile

import pytest

from bert_tfx.modeling.checkpoints import presets
from bert_tfx.modeling.checkpoints.files import find_checkpoint
from bert_tfx.pipeline.configuration.pretrained import checkpoint_folder
from bert_tfx.schema.errors import InputError

NAME = "bert-base-chinese"
CONFIG = {
    "vocab_size": 5,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 8,
}


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("BERT_TFX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def archive(place):
    with zipfile.ZipFile(place / "uncased.zip", "w") as file:
        file.writestr("L-1/bert_config.json", json.dumps(CONFIG))
        file.writestr("L-1/bert_model.ckpt.index", "index")
        file.writestr("L-1/bert_model.ckpt.data-00000-of-00001", "data")
        file.writestr("L-1/vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\nx\n")
    return place / "uncased.zip"


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_folder_or_file_is_itself(place):
    (place / "folder").mkdir()
    (place / "classifier.keras").touch()
    for name in ("folder", "./folder/", str(place / "folder"), "~/folder"):
        assert checkpoint_folder(name) == str(place / "folder")
    assert checkpoint_folder("classifier.keras") == str(place / "classifier.keras")
    assert not (place / "cache").exists()


def test_archive_is_unpacked_once(place, archive):
    folder = checkpoint_folder("uncased.zip")
    assert folder.startswith(str(place / "cache"))
    assert find_checkpoint(folder).config["hidden_dim"] == 8
    before = os.stat(folder).st_mtime_ns
    for sha256 in (None, digest(archive), digest(archive).upper()):
        assert checkpoint_folder(str(archive), sha256=sha256) == folder
    assert os.stat(folder).st_mtime_ns == before


def test_archive_with_another_sha256_is_refused(place, archive):
    with pytest.raises(InputError, match=rf"{archive}: .*{digest(archive)}"):
        checkpoint_folder("uncased.zip", sha256="0" * 64)
    assert not (place / "cache").exists()


def test_sha256_of_what_is_no_archive_is_refused(place):
    (place / "folder").mkdir()
    with pytest.raises(InputError, match=r"^folder: is no archive, so it has no SHA-256 to check$"):
        checkpoint_folder("folder", sha256="0" * 64)


def test_damaged_archive_is_refused(place, archive):
    archive.write_bytes(archive.read_bytes()[:-100])
    with pytest.raises(InputError, match=rf"^{archive}: "):
        checkpoint_folder("uncased.zip")


def test_preset_must_have_been_fetched(place):
    with pytest.raises(InputError, match=f"^{NAME}: not fetched yet: bert-tfx fetch {NAME}$"):
        checkpoint_folder(NAME)
    folder = presets.preset_folder(NAME)
    os.makedirs(folder)
    with pytest.raises(InputError, match="not fetched yet"):
        checkpoint_folder(NAME)
    with open(os.path.join(folder, presets.PRESET_FILE), "w", encoding="utf-8") as file:
        json.dump({"name": NAME}, file)
    assert checkpoint_folder(NAME) == folder


def test_folder_goes_before_a_preset_of_its_name(place):
    (place / NAME).mkdir()
    assert checkpoint_folder(NAME) == str(place / NAME)


def test_unknown_name_is_told_with_those_that_come_close():
    with pytest.raises(InputError) as error:
        checkpoint_folder("bert-base-chines")
    assert str(error.value).startswith("bert-base-chines: no such file or folder, and no preset")
    assert "did you mean bert-base-chinese" in str(error.value)
    with pytest.raises(InputError, match=r"^x/y: no such file or folder.*`bert-tfx presets` lists"):
        checkpoint_folder("x/y")
