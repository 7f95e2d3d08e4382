import os
import threading

import pytest

from bert_tfx.schema import files
from bert_tfx.schema.errors import InputError


def test_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "a.txt"
    files.write(path, "好\n")
    assert path.read_bytes() == "好\n".encode()
    files.write(str(path), b"\r\n")
    assert path.read_bytes() == b"\r\n"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_file_of_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files.write("a.txt", "a")
    assert os.listdir() == ["a.txt"]


@pytest.mark.parametrize("partial", [None, "elsewhere"])
def test_folder_appears_at_the_end(tmp_path, partial):
    partial = partial and tmp_path / partial
    with files.appearing(tmp_path / "a", partial) as made:
        assert partial is None or made == str(partial)
        os.makedirs(os.path.join(made, "b"))
        files.write(os.path.join(made, "b", "c"), "c")
        assert not (tmp_path / "a").exists()
    assert (tmp_path / "a" / "b" / "c").read_text() == "c"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("make", [os.mkdir, lambda path: files.write(path, "half")])
def test_what_fails_leaves_nothing_but_the_one_before(tmp_path, make, error):
    (tmp_path / "a").write_text("before")
    with pytest.raises(error), files.appearing(tmp_path / "a") as made:
        make(made)
        raise error
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "before"


def test_folder_that_is_there_is_not_replaced(tmp_path):
    files.write(tmp_path / "file", "")
    (tmp_path / "a").mkdir()
    files.move(tmp_path / "file", tmp_path / "a" / "file")
    with pytest.raises(OSError, match="not empty"), files.appearing(tmp_path / "a") as made:
        os.mkdir(made)
    with pytest.raises(IsADirectoryError) as caught:
        files.write(tmp_path / "a", "file")
    assert caught.value.filename == str(tmp_path / "a")
    assert os.listdir(tmp_path) == ["a"]


def test_content_is_on_disk_before_the_name_and_the_name_after_it(tmp_path, monkeypatch):
    steps = []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(descriptor):
        steps.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def watched_replace(source, target):
        steps.append(f"{source} -> {target}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    with files.appearing(tmp_path / "a.txt", tmp_path / "b") as made, open(made, "w") as file:
        file.write("a")
    a, b = f"{tmp_path}/a.txt", f"{tmp_path}/b"
    assert steps == [b, f"{b} -> {a}", str(tmp_path)]

    steps.clear()
    (tmp_path / "d" / "e").mkdir(parents=True)
    (tmp_path / "d" / "e" / "f").touch()
    c, d = f"{tmp_path}/c", f"{tmp_path}/d"
    files.move(d, c)
    assert sorted(steps[:3]) == [d, f"{d}/e", f"{d}/e/f"]
    assert steps[3:] == [f"{d} -> {c}", str(tmp_path)]


def test_several_may_write_the_same_file(tmp_path):
    contents = [letter * 100_000 for letter in "abcd"]

    def write(content):
        for _ in range(20):
            files.write(tmp_path / "a", content)
            assert (tmp_path / "a").read_text() in contents

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read: No such file"), (b"{", "not JSON: "), (b"\xff", "not JSON: ")],
)
def test_file_that_is_no_json_is_told(tmp_path, content, message):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=f"a.json: {message}"):
        files.read_json(path)
    path.write_text('{"a": ["好"]}', encoding="utf-8")
    assert files.read_json(str(path)) == {"a": ["好"]}
