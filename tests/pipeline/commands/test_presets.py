import os
import sys

import pytest

from bert_tfx.modeling.checkpoints import presets
from bert_tfx.modeling.checkpoints.presets import PRESETS, Preset, PresetFile
from bert_tfx.schema.errors import InputError

MADE_UP = Preset(
    name="made-up",
    architecture="bert",
    language="Martian",
    vocab_size=4,
    num_layers=2,
    hidden_dim=8,
    lowercase=True,
    activation="gelu_tanh",
    format="google",
    files=(PresetFile("L-2.zip", "https://example.org/L-2.zip", None),),
    licence="Apache-2.0",
    source="https://example.org",
)


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """One preset more; notes what is downloaded instead of doing it."""
    monkeypatch.setenv("BERT_TFX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(presets, "PRESETS", {**PRESETS, "made-up": MADE_UP})
    asked = []

    def fetch(preset, folder=None, *, on_progress=None):
        asked.append((preset.name, folder))
        if on_progress:
            on_progress(0, 8_000_000)
            on_progress(8_000_000, 8_000_000)
            on_progress(500_000, None)
        return os.path.abspath(folder or presets.preset_folder(preset.name))

    monkeypatch.setattr(presets, "fetch", fetch)
    return asked


def test_presets_are_listed(bert_tfx, asked):
    done = bert_tfx("presets").check(0)
    heading, *lines = done.stdout.splitlines()
    assert heading.split()[:2] == ["name", "language"]
    assert [line.split()[0] for line in lines] == [*PRESETS, "made-up"]
    assert lines[-1].split()[1:3] == ["Martian", "uncased"]
    assert done.stderr == ""


def test_preset_goes_to_the_cache(bert_tfx, asked, tmp_path):
    done = bert_tfx("fetch", "made-up").check(0)
    folder = tmp_path / "cache" / "presets" / "made-up"
    assert done.stdout == f"made-up: {folder} (Apache-2.0, https://example.org)\n"
    # No terminal, so no progress.
    assert done.stderr == ""
    assert asked == [("made-up", None)]


def test_preset_goes_where_it_is_wanted(bert_tfx, asked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = bert_tfx("fetch", "made-up", "--output", "here").check(0)
    assert done.stdout.startswith(f"made-up: {tmp_path}/here (")
    assert asked == [("made-up", "here")]


def test_terminal_shows_how_far_it_is(bert_tfx, asked, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    done = bert_tfx("fetch", "made-up").check(0)
    shown = done.stderr.split("\r")[1:]
    assert [text.strip() for text in shown] == [
        "0.0 of 8.0 MB, 0%",
        "8.0 of 8.0 MB, 100%",
        "0.5 MB",
    ]
    assert done.stderr.endswith("\n")


def test_unknown_preset_is_told(bert_tfx, asked):
    done = bert_tfx("fetch", "Made_up").check(2)
    assert done.stderr == (
        "bert-tfx: no preset 'Made_up'; did you mean made-up? `bert-tfx presets` lists all of "
        "them\n"
    )
    assert "no preset 'x'; `bert-tfx presets` lists" in bert_tfx("fetch", "x").check(2).stderr
    assert asked == []


def test_download_that_fails_is_told(bert_tfx, asked, monkeypatch):
    def fetch(*_, **__):
        raise InputError("https://example.org/L-2.zip: not found (404)")

    monkeypatch.setattr(presets, "fetch", fetch)
    done = bert_tfx("fetch", "made-up").check(2)
    assert done.stderr == "bert-tfx: https://example.org/L-2.zip: not found (404)\n"
