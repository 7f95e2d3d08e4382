"""Pushes that are killed at random points, while somebody watches the folder.

python tests/components/model_pusher_kills.py push MODEL FOLDER     pushes, in a process to kill
python tests/components/model_pusher_kills.py prove COUNT           kills so many, and reports
"""

import collections
import hashlib
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time

from bert_tfx.components.model_pusher.lock import exclusive
from bert_tfx.components.model_pusher.version_folder import (
    MARKER_FILE,
    Origin,
    VersionFolder,
    pushed_versions,
)

# A push takes long enough to be hit, as each file is brought to disk.
FILES = 80


def make_model(folder: pathlib.Path, seed: int) -> pathlib.Path:
    """Writes what stands for a SavedModel: many small files that no other seed has."""
    rng = random.Random(seed)
    (folder / "variables").mkdir(parents=True)
    (folder / "assets").mkdir()
    for number in range(FILES):
        path = folder / ("variables", "assets")[number % 2] / f"part-{number:04}"
        path.write_bytes(rng.randbytes(rng.randint(1, 8192)))
    (folder / "saved_model.pb").write_bytes(rng.randbytes(4096))
    (folder / "fingerprint.pb").write_bytes(rng.randbytes(64))
    return folder


def contents(folder: pathlib.Path) -> dict[str, str]:
    """Returns the SHA-256 of each file but the marker."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != MARKER_FILE
    }


class Poller(threading.Thread):
    """Looks at a folder as a model server does, only much more often.

    Attributes:
        whole: What a version may hold; a test adds to it before it pushes.
        looks: How often it has looked.
        seen: The versions it has seen.
        wrong: What it has seen that was not whole.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        super().__init__(daemon=True)
        self.folder = folder
        self.whole: list[dict[str, str]] = []
        self.looks = 0
        self.seen: set[str] = set()
        self.wrong: list[str] = []
        self._stopped = threading.Event()

    def run(self) -> None:
        while not self._stopped.is_set():
            self.look()
            time.sleep(0.0005)

    def look(self) -> None:
        self.looks += 1
        for path in self.folder.iterdir():
            if path.name.isdigit() and path.name not in self.seen:
                # Only once, at first sight: then it is hashed soonest, and nothing may come later.
                self.seen.add(path.name)
                if contents(path) not in self.whole or not (path / MARKER_FILE).is_file():
                    self.wrong.append(path.name)

    def stop(self) -> None:
        self._stopped.set()
        self.join()


def push(model: pathlib.Path, folder: pathlib.Path) -> int:
    with exclusive(str(folder)):
        return VersionFolder(str(folder)).push(str(model), Origin()).number


def start_push(model: pathlib.Path, folder: pathlib.Path) -> subprocess.Popen:
    """Starts a push in a process of its own; returns when it begins."""
    process = subprocess.Popen(
        [sys.executable, __file__, "push", model, folder], stdout=subprocess.PIPE
    )
    process.stdout.readline()
    return process


def prove(folder: pathlib.Path, count: int, seed: int = 1) -> str:
    """Kills `count` pushes; raises AssertionError where one leaves something wrong."""
    rng = random.Random(seed)
    serving = folder / "serving"
    serving.mkdir()
    poller = Poller(serving)
    first = make_model(folder / "first", seed=count)
    poller.whole.append(contents(first))
    poller.start()
    process = start_push(first, serving)
    begun = time.monotonic()
    process.communicate()
    seconds = time.monotonic() - begun

    found = collections.Counter()
    for number in range(count):
        model = make_model(folder / f"model-{number}", seed=number)
        poller.whole.append(contents(model))
        before = pushed_versions(str(serving))
        process = start_push(model, serving)
        # A little longer than a push takes, so that some kills come after it.
        time.sleep(rng.uniform(0, 1.1 * seconds))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        names = {path.name for path in serving.iterdir()}
        if any(name.startswith(".staging-") for name in names):
            found["while copying"] += 1
        elif len(pushed_versions(str(serving))) > len(before):
            found["after the rename"] += 1
        else:
            found["before the first file"] += 1

        version = push(model, serving)
        after = pushed_versions(str(serving))
        assert after == [*before, version], f"{before} became {after}"
        left = {path.name for path in serving.iterdir()} - {str(number) for number in after}
        assert not left, f"not cleaned up: {left}"
        assert contents(serving / str(version)) == contents(model)
    poller.stop()
    # Once more, all of them: nothing may have changed since.
    seen, poller.seen = poller.seen, set()
    poller.look()
    versions = pushed_versions(str(serving))
    assert not poller.wrong, f"seen before they were whole: {poller.wrong}"
    assert seen <= poller.seen == {str(version) for version in versions}
    assert len(versions) == count + 1
    where = ", ".join(f"{number} {what}" for what, number in sorted(found.items()))
    return (
        f"{count} pushes killed ({where}); a push takes {seconds:.2f} s; the poller looked "
        f"{poller.looks:,} times at {len(versions)} versions and saw none that was not whole; each "
        "next push completed and left nothing else"
    )


if __name__ == "__main__":
    if sys.argv[1] == "push":
        print("begun", flush=True)
        push(pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]))
    else:
        with tempfile.TemporaryDirectory() as place:
            print(prove(pathlib.Path(place), int(sys.argv[2])))
