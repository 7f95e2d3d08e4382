import pathlib

import pytest

from bert_tfx.schema.errors import InputError
from bert_tfx.schema.paths import absolute, cache_folder


def test_paths_are_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/newcomer")
    assert absolute("a/../b") == str(tmp_path / "b")
    assert absolute("~/data") == "/home/newcomer/data"
    assert absolute("/a/b//") == "/a/b"
    assert absolute("a:b") == str(pathlib.Path.cwd() / "a:b")


@pytest.mark.parametrize("url", ["gs://bucket/data", "s3://bucket", "https://example.org/a"])
def test_urls_are_refused(url):
    with pytest.raises(InputError, match=rf"^{url}: is a URL; expected a path of this machine"):
        absolute(url)


def test_cache_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("BERT_TFX_CACHE", raising=False)
    assert cache_folder("presets", "x") == "/home/me/.cache/bert-tfx/presets/x"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder("presets", "x") == "/home/me/.cache/bert-tfx/presets/x"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder("presets", "x") == "/xdg/bert-tfx/presets/x"
    monkeypatch.setenv("BERT_TFX_CACHE", "/mine")
    assert cache_folder("presets", "x") == "/mine/presets/x"
    monkeypatch.setenv("BERT_TFX_CACHE", "")
    assert cache_folder("presets", "x") == "/xdg/bert-tfx/presets/x"
