import pathlib

import pytest

from bert_tfx.schema.errors import InputError
from bert_tfx.schema.paths import absolute


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
