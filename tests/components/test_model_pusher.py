import pathlib
import time

import pytest
from tfx.proto import pusher_pb2
from tfx.types import standard_artifacts
from tfx.utils import io_utils, proto_utils

from bert_tfx.components.model_pusher import executor
from bert_tfx.components.model_pusher.executor import push, pushed_versions


def saved_model(folder: pathlib.Path, name: str) -> str:
    """Writes what stands for a SavedModel; TensorFlow gives each save a fingerprint of its own."""
    path = folder / name / "Format-Serving"
    (path / "variables").mkdir(parents=True)
    (path / "saved_model.pb").write_bytes(b"graph")
    (path / "variables" / "variables.index").write_bytes(b"index")
    (path / "fingerprint.pb").write_bytes(name.encode())
    return str(path)


def files(folder: pathlib.Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def serving(tmp_path):
    return tmp_path / "serving"


def test_pushed_version_is_the_model_and_nothing_else(tmp_path, serving):
    model = saved_model(tmp_path, "model")
    before = int(time.time())
    version, path = push(model, str(serving))
    assert before <= version <= time.time()
    assert path == str(serving / str(version))
    assert [child.name for child in serving.iterdir()] == [str(version)]
    assert files(pathlib.Path(path)) == files(pathlib.Path(model))


def test_versions_grow_even_within_a_second_or_behind_a_fast_clock(tmp_path, serving):
    first, _ = push(saved_model(tmp_path, "a"), str(serving))
    second, _ = push(saved_model(tmp_path, "b"), str(serving))
    assert second > first
    future = int(time.time()) + 10**6
    (serving / str(second)).rename(serving / str(future))
    third, _ = push(saved_model(tmp_path, "c"), str(serving))
    assert third == future + 1
    assert pushed_versions(str(serving)) == [first, future, third]


def test_same_model_is_not_pushed_twice(tmp_path, serving):
    model = saved_model(tmp_path, "model")
    assert push(model, str(serving)) == push(model, str(serving))
    assert len(pushed_versions(str(serving))) == 1


def test_earlier_model_is_pushed_again_as_the_latest(tmp_path, serving):
    old, new = saved_model(tmp_path, "old"), saved_model(tmp_path, "new")
    versions = [push(model, str(serving))[0] for model in (old, new, old)]
    assert versions == sorted(set(versions)) == pushed_versions(str(serving))


@pytest.mark.parametrize("fingerprints", ["model", "latest", "both"])
def test_model_without_fingerprint_counts_as_another(tmp_path, serving, fingerprints):
    model = saved_model(tmp_path, "model")
    first, path = push(model, str(serving))
    for name, folder in (("model", model), ("latest", path)):
        if fingerprints in (name, "both"):
            (pathlib.Path(folder) / "fingerprint.pb").unlink()
    second, _ = push(model, str(serving))
    assert second > first


def test_copy_that_fails_leaves_no_version_and_the_next_push_cleans_up(
    tmp_path, serving, monkeypatch
):
    old, new = saved_model(tmp_path, "old"), saved_model(tmp_path, "new")
    version, _ = push(old, str(serving))

    def copy_half(source: str, target: str) -> None:
        folder = pathlib.Path(target)
        folder.mkdir()
        (folder / "saved_model.pb").write_bytes(b"gra")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as context:
        context.setattr(io_utils, "copy_dir", copy_half)
        with pytest.raises(OSError, match="No space left"):
            push(new, str(serving))
    assert pushed_versions(str(serving)) == [version]
    (left,) = (child for child in serving.iterdir() if child.name != str(version))
    assert left.name.startswith(".")
    # As if it were of another second.
    left.rename(serving / ".staging-1")

    later, path = push(new, str(serving))
    assert {child.name for child in serving.iterdir()} == {str(version), str(later)}
    assert files(pathlib.Path(path)) == files(pathlib.Path(new))


def test_version_appears_only_when_it_is_whole(tmp_path, serving, monkeypatch):
    model = saved_model(tmp_path, "model")
    seen = []
    copy, sync = io_utils.copy_dir, executor._sync

    def watch(step):
        def watched(*arguments):
            step(*arguments)
            seen.append(pushed_versions(str(serving)))

        return watched

    monkeypatch.setattr(io_utils, "copy_dir", watch(copy))
    monkeypatch.setattr(executor, "_sync", watch(sync))
    push(model, str(serving))
    assert seen == [[], []]


def test_versions_are_the_numbers_only(serving):
    assert pushed_versions(str(serving)) == []
    for name in ("10", "9", ".staging-11", "notes", "12.tmp"):
        (serving / name).mkdir(parents=True)
    assert pushed_versions(str(serving)) == [9, 10]


# The executor, on artifacts as the Evaluator leaves them.


@pytest.mark.parametrize("blessed", [True, False])
def test_executor_pushes_what_is_blessed(tmp_path, serving, blessed):
    saved_model(tmp_path, "model")
    model = standard_artifacts.Model()
    model.uri = str(tmp_path / "model")
    blessing = standard_artifacts.ModelBlessing()
    blessing.uri = str(tmp_path / "blessing")
    (tmp_path / "blessing").mkdir()
    (tmp_path / "blessing" / ("BLESSED" if blessed else "NOT_BLESSED")).touch()
    blessing.set_int_custom_property("blessed", int(blessed))
    pushed = standard_artifacts.PushedModel()
    pushed.uri = str(tmp_path / "pushed")
    destination = pusher_pb2.PushDestination(
        filesystem=pusher_pb2.PushDestination.Filesystem(base_directory=str(serving))
    )

    executor.Executor().Do(
        {"model": [model], "model_blessing": [blessing]},
        {"pushed_model": [pushed]},
        {"push_destination": proto_utils.proto_to_json(destination)},
    )

    versions = pushed_versions(str(serving))
    assert pushed.get_int_custom_property("pushed") == blessed
    assert len(versions) == blessed
    if blessed:
        assert pushed.get_string_custom_property("pushed_version") == str(versions[0])
        assert pushed.get_string_custom_property("pushed_destination") == str(
            serving / str(versions[0])
        )
