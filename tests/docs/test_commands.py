"""The commands that the documents show: options and targets that there are."""

import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

from bert_tfx.pipeline.commands import cli

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = [
    *sorted(ROOT.glob("README*.md")),
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
_BLOCK = re.compile(r"^ *```(\w*)[^\n]*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
_SHELL = {"", "sh", "bash", "console"}
_ENDS = {"&&", "||", "|", "&", ">", "<", ">>"}


def commands(page: pathlib.Path) -> list[list[str]]:
    """Returns the simple commands in a page's shell blocks, as words."""
    found = []
    for language, block in _BLOCK.findall(page.read_text(encoding="utf-8")):
        if language not in _SHELL:
            continue
        for line in block.replace("\\\n", " ").splitlines():
            lexer = shlex.shlex(line.strip().removeprefix("$ "), posix=True, punctuation_chars=True)
            lexer.wordchars += ":,@%{}$[]+!?"
            try:
                words = list(lexer)
            except ValueError:
                # Another language than the shell's, or a text over several lines.
                continue
            command: list[str] = []
            for word in [*words, "&"]:
                if word in _ENDS:
                    found.append(command)
                    command = []
                else:
                    command.append(word)
    return [words for words in found if words]


def of_program(page: pathlib.Path, program: str) -> list[list[str]]:
    """Returns the arguments of each call of a program."""
    return [
        words[number + 1 :]
        for words in commands(page)
        for number, word in enumerate(words)
        if word.rpartition("/")[2] == program and all("=" in before for before in words[:number])
    ]


def test_pages_show_commands():
    shown = [words for page in PAGES for words in of_program(page, "bert-tfx")]
    assert len(shown) > 20
    assert {"run", "train", "serve", "predict", "component"} <= {words[0] for words in shown}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_understood(page, capsys):
    for words in of_program(page, "bert-tfx"):
        # `...` stands for what the reader knows.
        given = [word for word in words if word != "..."]
        try:
            cli._parser().parse_args(cli._hyphenated(given))
        except SystemExit as end:
            error = capsys.readouterr().err
            if end.code and not (len(given) < len(words) and "required" in error):
                pytest.fail(f"{page.name}: bert-tfx {shlex.join(words)}\n{error}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_targets_are_there(page):
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for words in of_program(page, "make"):
        named = {word for word in words if re.fullmatch(r"[a-z0-9-]+", word)}
        assert named <= targets, f"{page.name}: make {shlex.join(words)}"


def blocks_to_run() -> list[tuple[str, str]]:
    """Returns the shell scripts that the ways to run show, one for a page.

    The README's need datasets and checkpoints of the reader's own, as those of docs/tasks.md do.
    """
    scripts = {}
    for page in (ROOT / "docs").glob("*.md"):
        if page.name == "tasks.md":
            continue
        text = page.read_text(encoding="utf-8")
        # `sh` alone; `sh cluster` needs what lies outside of this machine.
        found = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        if found:
            scripts[page.name] = "\n".join(found)
    return [*scripts.items()]


@pytest.mark.real
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("page", "script"), blocks_to_run(), ids=lambda value: value[:20])
def test_what_a_page_shows_runs(page, script, tmp_path):
    # The project as a fresh clone has it, and the commands on PATH as its environment has them.
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    (clone / ".venv").symlink_to(pathlib.Path(sys.prefix))
    path = os.pathsep.join((str(pathlib.Path(sys.executable).parent), os.environ["PATH"]))
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=clone,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{page}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
