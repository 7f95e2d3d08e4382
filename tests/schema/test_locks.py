import logging
import subprocess
import sys
import threading

import pytest

from bert_tfx.schema.locks import lock


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "folder" / ".lock")


def test_second_one_is_refused_until_the_first_is_done(path):
    with lock(path), pytest.raises(ValueError, match="busy"):
        lock(path, refusal=ValueError("busy"))
    with lock(path, refusal=ValueError("busy")):
        pass


def test_who_shares_keeps_out_who_does_not(path):
    refusal = ValueError("busy")
    with lock(path, shared=True), lock(path, shared=True, refusal=refusal):
        pass
    with lock(path, shared=True), pytest.raises(ValueError, match="busy"):
        lock(path, refusal=refusal)
    with lock(path), pytest.raises(ValueError, match="busy"):
        lock(path, shared=True, refusal=refusal)


@pytest.mark.parametrize("removed", [False, True])
def test_second_one_says_so_and_waits(path, removed, caplog, monkeypatch, tmp_path):
    monkeypatch.setattr(logging.getLogger("bert_tfx"), "propagate", True)
    caplog.set_level(logging.INFO, "bert_tfx")
    entered = threading.Event()

    def enter():
        with lock(path, waiting="waiting for 100%"):
            entered.set()
            # Held by its name, not only as a file that was removed.
            with pytest.raises(ValueError, match="busy"):
                lock(path, refusal=ValueError("busy"))

    with lock(path):
        thread = threading.Thread(target=enter)
        thread.start()
        assert not entered.wait(0.3)
        assert caplog.messages == ["waiting for 100%"]
        if removed:
            (tmp_path / "folder" / ".lock").unlink()
    thread.join(10)
    assert entered.is_set()


def test_lock_of_a_killed_process_is_free(path):
    script = (
        "import os, sys\n"
        "from bert_tfx.schema.locks import lock\n"
        "held = lock(sys.argv[1])\n"
        "os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, path], check=False).returncode == -9
    with lock(path, refusal=ValueError("busy")):
        pass


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        lock(str(tmp_path / "file" / "folder" / ".lock"))
