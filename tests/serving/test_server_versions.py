import asyncio
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest

from bert_tfx.schema.errors import InputError
from bert_tfx.serving.versions import State, VersionPolicy, Versions, check_labels, scan


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("latest", [9]),
        ("latest:2", [9, 7]),
        ("latest:9", [9, 7, 3]),
        ("specific:3", [3]),
        ("specific:3,8,9", [9, 3]),
    ],
)
def test_policies(text, chosen):
    assert VersionPolicy.parse(text).choose({3, 7, 9}) == chosen


@pytest.mark.parametrize(
    "text",
    ["", "all", "latest:0", "latest:", "latest:-1", "specific:", "specific:1,", "specific:a"],
)
def test_what_is_no_policy(text):
    with pytest.raises(InputError, match=r"expected latest, latest:N \(N from 1\) or specific"):
        VersionPolicy.parse(text)


@pytest.mark.parametrize("label", ["", "a b", "a/b", "a:b"])
def test_what_is_no_label(label):
    check_labels({"stable": 3})
    with pytest.raises(InputError, match="is no label"):
        check_labels({label: 3})


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

    async def unload(self, model):
        self.unloaded.append(model)

    def states(self):
        return {v.number: v.state.name for v in self.versions.all()}

    def follow(self, scenario, policy="latest"):
        async def main():
            with ThreadPoolExecutor(1) as loader:
                self.versions = Versions(
                    str(self.base),
                    VersionPolicy.parse(policy),
                    self.load,
                    self.unload,
                    loader,
                    lambda: self.seen.append(self.states()),
                )

                async def poll():
                    await self.versions.poll()
                    await asyncio.sleep(0.01)

                await scenario(poll)

        asyncio.run(main())


@pytest.fixture
def models(tmp_path):
    return Models(tmp_path)


def test_a_new_version_is_there_before_the_old_one_goes(models):
    async def scenario(poll):
        await poll()
        with pytest.raises(LookupError):
            models.versions.find(None)
        models.push(1, "one")
        await poll()
        models.push(2, "two")
        await poll()
        assert models.versions.find(None).number == 2
        with pytest.raises(LookupError):
            models.versions.find(1)

    models.follow(scenario)
    assert models.loads == ["one", "two"]
    assert models.unloaded == ["one"]
    served = [{n for n, s in states.items() if s == "AVAILABLE"} for states in models.seen]
    assert served == [set(), {1}, {1}, {1, 2}, {2}, {2}]
    assert models.seen[-2:] == [
        {2: "AVAILABLE", 1: "UNLOADING"},
        {2: "AVAILABLE", 1: "END"},
    ]


def test_a_version_in_use_is_not_unloaded(models):
    async def scenario(poll):
        models.push(1, "one")
        await poll()
        with models.versions.find(1).use() as model, models.versions.find(None).use():
            models.push(2, "two")
            await poll()
            assert model == "one"
            assert models.states() == {2: "AVAILABLE", 1: "UNLOADING"}
            assert models.unloaded == []
            # The folder is followed all the same.
            models.push(3, "three")
            await poll()
            assert models.versions.find(None).number == 3
        await poll()
        assert sorted(models.unloaded) == ["one", "two"]
        with pytest.raises(LookupError):
            models.versions.all()[-1].use().__enter__()

    models.follow(scenario)


def test_what_cannot_be_loaded_is_tried_again_when_its_files_change(models):
    async def scenario(poll):
        models.push(1, "one")
        await poll()
        models.push(2, "broken")
        await poll()
        await poll()
        assert models.loads == ["one", "broken"]
        assert models.states() == {2: "END", 1: "AVAILABLE"}
        assert [v.error for v in models.versions.all()] == ["broken indeed", ""]
        models.push(2, "broken still")
        await poll()
        assert models.versions.find(None).number == 1
        models.push(2, "mended")
        await poll()
        await poll()
        assert models.loads == ["one", "broken", "broken still", "mended"]
        assert models.states() == {2: "AVAILABLE", 1: "END"}

    models.follow(scenario)


def test_at_the_start_the_latest_that_can_be_loaded_serves(models):
    async def scenario(poll):
        for version, text in ((1, "one"), (2, "two"), (3, "broken")):
            models.push(version, text)
        await poll()
        assert models.states() == {3: "END", 2: "AVAILABLE"}
        assert models.loads == ["broken", "two"]

    models.follow(scenario)


def test_nothing_that_can_be_loaded_leaves_the_old_one(models):
    async def scenario(poll):
        models.push(1, "one")
        await poll()
        models.push(2, "broken")
        models.remove(1)
        await poll()
        assert models.versions.find(None).number == 1
        # Nothing there at all is meant.
        models.remove(2)
        await poll()
        assert models.states()[1] == "END"
        models.push(1, "one again")
        await poll()
        assert models.versions.find(1).number == 1

    models.follow(scenario)


def test_a_rollback(models):
    async def scenario(poll):
        models.push(1, "one")
        models.push(2, "two")
        await poll()
        models.remove(2)
        await poll()
        assert models.states() == {2: "END", 1: "AVAILABLE"}

    models.follow(scenario)


def test_a_folder_that_cannot_be_read_changes_nothing(models, caplog):
    async def scenario(poll):
        models.push(1, "one")
        await poll()
        away = models.base.with_name("away")
        models.base.rename(away)
        await poll()
        await poll()
        assert models.versions.find(None).number == 1
        away.rename(models.base)
        await poll()
        assert models.states() == {1: "AVAILABLE"}

    models.follow(scenario)
    assert caplog.text.count("cannot be read") == 1


def test_specific_versions(models):
    async def scenario(poll):
        for version in (1, 2, 3):
            models.push(version, str(version))
        await poll()
        assert models.states() == {3: "AVAILABLE", 1: "AVAILABLE"}

    models.follow(scenario, "specific:1,3,7")


def test_ended_versions_are_forgotten_in_time(models):
    async def scenario(poll):
        for version in range(1, 21):
            models.push(version, str(version))
            await poll()
            if version > 1:
                models.remove(version - 1)
        await poll()
        await poll()
        assert list(models.states()) == list(range(20, 11, -1))
        assert models.versions.all()[0].state is State.AVAILABLE

    models.follow(scenario)
