import shutil
import threading

import pytest

from bert_tfx.serving.server.versions import State, Versions, scan


def test_only_folders_with_numbers_are_versions(tmp_path):
    for name in ("7", "1795358144", ".staging-9", "9.tmp", "v1", "-1", "１", "9" * 30, "tmp"):
        (tmp_path / name).mkdir()
    (tmp_path / "8").write_text("a file")
    (tmp_path / "10").symlink_to(tmp_path / "7")
    (tmp_path / "11").symlink_to(tmp_path / "missing")
    assert sorted(scan(str(tmp_path))) == [7, 10, 1795358144]
    with pytest.raises(OSError):
        scan(str(tmp_path / "missing"))


class Models:
    """Loads `model` files: their text is the model, `broken` is none."""

    def __init__(self, base) -> None:
        self.base = base
        self.loads: list[str] = []
        self.unloaded: list[str] = []
        self.seen: list[dict[int, str]] = []

    def push(self, version, text):
        (self.base / str(version)).mkdir(exist_ok=True)
        (self.base / str(version) / "model").write_text(text)

    def remove(self, version):
        shutil.rmtree(self.base / str(version))

    def load(self, path):
        with open(f"{path}/model") as file:
            text = file.read()
        self.loads.append(text)
        if text.startswith("broken"):
            raise ValueError(f"{text} indeed\nand more")
        return text

    def unload(self, model):
        self.unloaded.append(model)

    def states(self):
        return {v.number: v.state.name for v in self.versions.all()}

    def begin(self):
        self.versions = Versions(
            str(self.base),
            self.load,
            self.unload,
            lambda version: self.seen.append(self.states()),
        )
        return self.versions


@pytest.fixture
def models(tmp_path):
    models = Models(tmp_path)
    models.begin()
    return models


def test_a_new_version_is_there_before_the_old_one_goes(models):
    models.versions.poll()
    assert models.versions.find() is None
    models.push(1, "one")
    models.versions.poll()
    models.push(2, "two")
    models.versions.poll()
    assert models.versions.find().number == 2
    assert models.versions.find(2).model == "two"
    assert models.versions.find(1) is None
    assert models.loads == ["one", "two"]
    assert models.unloaded == ["one"]
    assert models.seen == [
        {1: "AVAILABLE"},
        {2: "AVAILABLE", 1: "AVAILABLE"},
        {2: "AVAILABLE", 1: "END"},
    ]


def test_a_model_is_not_given_back_while_somebody_takes_it(models):
    models.push(1, "one")
    models.versions.poll()
    with models.versions.lock:
        models.push(2, "two")
        poller = threading.Thread(target=models.versions.poll)
        poller.start()
        poller.join(0.3)
        assert poller.is_alive()
        assert models.versions.find(1).model == "one"
        assert models.unloaded == []
    poller.join(20)
    assert models.unloaded == ["one"]


def test_what_cannot_be_loaded_is_tried_again_when_its_files_change(models):
    models.push(1, "one")
    models.versions.poll()
    models.push(2, "broken")
    models.versions.poll()
    models.versions.poll()
    assert models.loads == ["one", "broken"]
    assert models.states() == {2: "END", 1: "AVAILABLE"}
    assert [v.error for v in models.versions.all()] == ["broken indeed", ""]
    models.push(2, "broken still")
    models.versions.poll()
    assert models.versions.find().number == 1
    models.push(2, "mended")
    models.versions.poll()
    models.versions.poll()
    assert models.loads == ["one", "broken", "broken still", "mended"]
    assert models.states() == {2: "AVAILABLE", 1: "END"}


def test_at_the_start_the_latest_that_can_be_loaded_serves(models):
    for version, text in ((1, "one"), (2, "two"), (3, "broken")):
        models.push(version, text)
    models.versions.poll()
    assert models.states() == {3: "END", 2: "AVAILABLE"}
    assert models.loads == ["broken", "two"]


def test_nothing_that_can_be_loaded_leaves_the_old_one(models):
    models.push(1, "one")
    models.versions.poll()
    models.push(2, "broken")
    models.remove(1)
    models.versions.poll()
    assert models.versions.find().number == 1
    # Nothing there at all is meant.
    models.remove(2)
    models.versions.poll()
    assert models.states()[1] == "END"
    models.push(1, "one again")
    models.versions.poll()
    assert models.versions.find(1).model == "one again"


def test_a_rollback(models):
    models.push(1, "one")
    models.versions.poll()
    models.push(2, "two")
    models.versions.poll()
    models.remove(2)
    models.versions.poll()
    assert models.states() == {2: "END", 1: "AVAILABLE"}
    assert models.loads == ["one", "two", "one"]


def test_a_folder_that_cannot_be_read_changes_nothing(models, caplog):
    models.push(1, "one")
    models.versions.poll()
    away = models.base.with_name("away")
    models.base.rename(away)
    models.versions.poll()
    models.versions.poll()
    assert models.versions.find().number == 1
    away.rename(models.base)
    models.versions.poll()
    assert models.states() == {1: "AVAILABLE"}
    assert caplog.text.count("cannot be read") == 1


def test_ended_versions_are_forgotten_in_time(models):
    for version in range(1, 21):
        models.push(version, str(version))
        models.versions.poll()
        if version > 1:
            models.remove(version - 1)
    models.versions.poll()
    assert list(models.states()) == list(range(20, 11, -1))
    assert models.versions.all()[0].state is State.AVAILABLE
