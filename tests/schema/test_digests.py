import hashlib
import json
import os
import subprocess
import sys
import time

import pytest

from bert_tfx.schema import digests
from bert_tfx.schema.digests import CACHE_FILE, sha256_of
from bert_tfx.schema.errors import InputError

CONTENT = b"weights" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The file of the cache; what is large and settled is so at once."""
    monkeypatch.setenv("BERT_TFX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "_LARGE_BYTES", len(CONTENT))
    monkeypatch.setattr(digests, "_SETTLED_S", -1.0)
    return tmp_path / "cache" / CACHE_FILE


@pytest.fixture
def reads(monkeypatch):
    """The names of the files that are read."""
    found = []
    computed = digests._computed

    def watched(file):
        found.append(os.path.basename(file.name))
        return computed(file)

    monkeypatch.setattr(digests, "_computed", watched)
    return found


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(CONTENT)
    return path


def test_large_file_is_read_once(weights, cache, reads):
    assert [sha256_of(weights), sha256_of(str(weights))] == [SHA256, SHA256]
    assert reads == ["weights"]
    os.link(weights, weights.with_name("link"))
    # It has another link, so it was touched; under either name it is the same file.
    assert sha256_of(weights.with_name("link")) == sha256_of(weights) == SHA256
    assert reads == ["weights", "link"]


def test_other_processes_need_not_read_it_again(weights, cache):
    sha256_of(weights)
    script = (
        "import sys\n"
        "from bert_tfx.schema import digests\n"
        f"digests._LARGE_BYTES, digests._SETTLED_S = {len(CONTENT)}, -1.0\n"
        "digests._computed = None\n"
        "print(digests.sha256_of(sys.argv[1]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, weights], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{SHA256}\n"


def test_other_content_in_the_same_time_and_size_is_seen(weights, cache):
    assert sha256_of(weights) == SHA256
    before = weights.stat()
    weights.write_bytes(CONTENT[::-1])
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert sha256_of(weights) == hashlib.sha256(CONTENT[::-1]).hexdigest()


def test_file_that_is_replaced_is_seen(weights, cache):
    assert sha256_of(weights) == SHA256
    other = weights.with_name("other")
    other.write_bytes(CONTENT[::-1])
    other.replace(weights)
    assert sha256_of(weights) == hashlib.sha256(CONTENT[::-1]).hexdigest()


def test_file_that_changes_while_it_is_read_is_not_kept(weights, cache, monkeypatch):
    computed = digests._computed

    def changes(file):
        digest = computed(file)
        time.sleep(0.02)
        weights.write_bytes(CONTENT[::-1])
        return digest

    monkeypatch.setattr(digests, "_computed", changes)
    sha256_of(weights)
    assert not cache.exists()


def test_file_of_this_moment_or_a_small_one_is_not_kept(weights, cache, monkeypatch):
    monkeypatch.setattr(digests, "_SETTLED_S", 60.0)
    assert sha256_of(weights) == SHA256
    monkeypatch.setattr(digests, "_SETTLED_S", -1.0)
    monkeypatch.setattr(digests, "_LARGE_BYTES", len(CONTENT) + 1)
    assert sha256_of(weights) == SHA256
    assert not cache.exists()


def test_oldest_digests_are_dropped(tmp_path, weights, cache, reads, monkeypatch):
    monkeypatch.setattr(digests, "_MAX_KEPT", 2)
    for name in "abc":
        (tmp_path / name).write_bytes(CONTENT + name.encode())
        sha256_of(tmp_path / name)
    assert len(json.loads(cache.read_text())) == 2
    for name in "cba":
        sha256_of(tmp_path / name)
    assert reads == ["a", "b", "c", "a"]


@pytest.mark.parametrize("content", ["", "[]", "{", '"a"'])
def test_damaged_cache_is_made_anew(weights, cache, reads, content):
    cache.parent.mkdir()
    cache.write_text(content)
    assert sha256_of(weights) == sha256_of(weights) == SHA256
    assert reads == ["weights"]


def test_cache_that_cannot_be_written_costs_time_only(weights, cache):
    cache.parent.write_text("a file")
    assert sha256_of(weights) == sha256_of(weights) == SHA256


def test_file_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="none: cannot be read: No such file"):
        sha256_of(tmp_path / "none")
