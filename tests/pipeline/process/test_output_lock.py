import fcntl
import logging
import threading

import pytest

from bert_tfx.pipeline.process.output_lock import exclusive, for_part
from bert_tfx.schema.errors import InputError


def test_a_second_run_is_refused(tmp_path):
    with (
        exclusive(str(tmp_path)),
        pytest.raises(InputError, match="another run is using this folder"),
        exclusive(str(tmp_path)),
    ):
        pass


def test_nodes_work_side_by_side_and_keep_runs_out(tmp_path):
    with (
        for_part(str(tmp_path), "Trainer"),
        for_part(str(tmp_path), "Evaluator"),
        pytest.raises(InputError, match="another run"),
        exclusive(str(tmp_path)),
    ):
        pass
    with exclusive(str(tmp_path)):
        pass


@pytest.mark.parametrize(
    ("file", "operation", "holder"),
    [
        (".lock", fcntl.LOCK_EX, "the run that is using"),
        (".lock-Trainer", fcntl.LOCK_EX, "another process that runs Trainer"),
    ],
)
def test_node_waits_for_who_is_there(tmp_path, caplog, monkeypatch, file, operation, holder):
    monkeypatch.setattr(logging.getLogger("bert_tfx"), "propagate", True)
    caplog.set_level(logging.INFO, "bert_tfx")
    entered = threading.Event()

    def enter():
        with for_part(str(tmp_path), "Trainer"):
            entered.set()

    with (tmp_path / file).open("w") as lock:
        fcntl.flock(lock, operation)
        thread = threading.Thread(target=enter)
        thread.start()
        assert not entered.wait(0.5)
        assert f"waiting for {holder}" in caplog.text
    thread.join(10)
    assert entered.is_set()


def test_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with (
        pytest.raises(InputError, match="cannot be written"),
        for_part(str(tmp_path / "file" / "output"), "Trainer"),
    ):
        pass
