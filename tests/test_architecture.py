"""Holds the arrows between the rooms: who may import whom, and what must stay out."""

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# room -> the rooms it may import, besides itself
ARROWS = {
    "schema": set(),
    "sample": set(),
    "modeling": {"schema"},
    "serving": {"schema"},
    "components": {"schema", "serving"},
    "pipeline": {"schema", "sample", "modeling", "serving", "components"},
}

# room -> its floors, from the ground up: each may import those before it, and none after
FLOORS = {
    "modeling": [
        "encoders",
        "text",
        "checkpoints",
        "export",
        "training",
        "distillation",
        "compression",
        "training_run",
        "tfx",
    ],
    "serving": [
        "int8_products",
        "backends",
        "protocol",
        "client",
        "load",
        "files",
        "server",
    ],
    "pipeline": [
        "process",
        "metadata",
        "configuration",
        "reporting",
        "evaluation",
        "pipeline",
        "execution",
        "orchestrators",
        "commands",
    ],
}

TFX = {"tfx", "tfx_bsl", "tensorflow_transform"}

SLOW_TO_IMPORT = {"apache_beam", "keras", "tensorflow", "tensorflow_transform", "tfx"}


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """Yields `(place, dotted name)` of each import, wherever in the file it stands."""
    package = ("bert_tfx", *path.parent.relative_to(ROOT).parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*parents, *filter(None, [node.module])))
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            yield f"{path.relative_to(ROOT)}:{node.lineno}", name


@pytest.mark.parametrize("room", ARROWS)
def test_room_imports_only_along_the_arrows(room):
    allowed = {room} | ARROWS[room]
    wrong = [
        f"{place} imports {name}"
        for path in sources(room)
        for place, name in imports(path)
        if name.split(".")[0] == "bert_tfx" and f"{name}.".split(".")[1] not in allowed
    ]
    assert not wrong, f"{room} may import only {sorted(allowed)}:\n" + "\n".join(wrong)


@pytest.mark.parametrize("room", FLOORS)
def test_floor_imports_only_those_below_it(room):
    floors = FLOORS[room]
    wrong = []
    for path in sources(room):
        floor = path.relative_to(ROOT / room).parts[0].removesuffix(".py")
        if floor == "__init__":
            continue
        assert floor in floors, f"{room} has no floor {floor}: {path.relative_to(ROOT)}"
        above = floors[floors.index(floor) + 1 :]
        for place, name in imports(path):
            parts = name.split(".")
            if parts[:2] == ["bert_tfx", room] and parts[2] in above:
                wrong.append(f"{place} imports {name}")
    assert not wrong, f"the floors of {room} are {floors}:\n" + "\n".join(wrong)


def test_modeling_knows_tfx_only_in_its_adapters():
    wrong = [
        f"{place} imports {name}"
        for path in sources("modeling")
        for place, name in imports(path)
        if name.split(".")[0] in TFX and path.parent.name != "tfx"
    ]
    assert not wrong, "TFX belongs into modeling/tfx:\n" + "\n".join(wrong)


def test_no_room_is_imported_by_its_bare_name():
    wrong = [
        f"{place} imports {name}"
        for path in sources(*ARROWS, "tests", "benchmarks")
        for place, name in imports(path)
        if name.split(".")[0] in ARROWS
    ]
    assert not wrong, "import bert_tfx.<room> instead:\n" + "\n".join(wrong)


def test_every_folder_with_code_is_a_package():
    missing = {
        str(folder)
        for path in sources(*ARROWS)
        for folder in path.relative_to(ROOT).parents
        if folder.parts and not (ROOT / folder / "__init__.py").is_file()
    }
    assert not missing, f"no __init__.py, so setup.py leaves these out: {sorted(missing)}"


def test_no_module_is_named_utils():
    found = [
        str(path.relative_to(ROOT)) for path in sources(*ARROWS, "tests") if path.stem == "utils"
    ]
    assert not found, f"name these after what they do: {found}"


@pytest.mark.parametrize("room", ARROWS)
def test_room_is_installed_under_its_import_name(room):
    spec = importlib.util.find_spec(f"bert_tfx.{room}")
    assert spec is not None, f"bert_tfx.{room} is not installed: is {room} in setup.py?"
    origin = Path(spec.origin).resolve()
    assert origin == ROOT / room / "__init__.py", f"bert_tfx.{room} is {origin}, another tree's"


def test_command_line_starts_without_the_frameworks():
    if importlib.util.find_spec("bert_tfx.pipeline.commands.cli") is None:
        pytest.skip("bert_tfx.pipeline.commands.cli does not exist")
    code = "import sys, bert_tfx.pipeline.commands.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = SLOW_TO_IMPORT & set(done.stdout.split())
    assert not loaded, f"importing the command line must not import {sorted(loaded)}"
