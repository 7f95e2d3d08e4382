import json
import os
import pathlib
import subprocess
import sys

import pytest

from bert_tfx.schema import fingerprint

INGESTION = "bert_tfx.components.tsv_example_gen.executor"
DATA_GATE = "bert_tfx.components.data_gate.executor"
PREPROCESSING = "bert_tfx.modeling.tfx.preprocessing"
TRAINING = "bert_tfx.modeling.tfx.trainer"
MODULES = (INGESTION, DATA_GATE, PREPROCESSING, TRAINING)

PROGRAM = """
import json, sys
from bert_tfx.schema import fingerprint
fingerprints = {name: fingerprint.source_fingerprint(name) for name in sys.argv[1:]}
print(json.dumps([fingerprint.__file__, fingerprints, sorted(sys.modules)]))
"""


def fingerprints(package: pathlib.Path) -> dict[str, str]:
    """Returns the fingerprints of MODULES as a process computes them that uses `package`."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *MODULES],
        env=os.environ | {"PYTHONPATH": str(package.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    file, found, modules = json.loads(done.stdout)
    assert pathlib.Path(file).is_relative_to(package)
    assert "tensorflow" not in modules, "a fingerprint reads sources and runs none"
    return found


@pytest.mark.parametrize(
    ("edited", "changed"),
    [
        # Imported by preprocessing, which training imports.
        ("modeling/text/tokenization.py", {PREPROCESSING, TRAINING}),
        # One step further away.
        ("modeling/text/vocab_file.py", {PREPROCESSING, TRAINING}),
        ("modeling/encoders/bert.py", {TRAINING}),
        ("modeling/tfx/trainer.py", {TRAINING}),
        ("components/tsv_example_gen/executor.py", {INGESTION}),
        ("components/data_gate/executor.py", {DATA_GATE}),
        ("schema/tfdv_schema.py", {DATA_GATE}),
        ("schema/tasks.py", set(MODULES)),
        ("pipeline/commands/cli.py", set()),
        ("serving/__init__.py", set()),
    ],
)
def test_fingerprint_changes_with_what_the_module_imports(tmp_path, copy_package, edited, changed):
    package = copy_package(tmp_path)
    before = fingerprints(package)
    with (package / edited).open("a", encoding="utf-8") as file:
        file.write("# An edit.\n")
    after = fingerprints(package)
    assert {name for name in MODULES if before[name] != after[name]} == changed


def test_fingerprint_is_that_of_the_content_wherever_it_lies(tmp_path, copy_package):
    here = {name: fingerprint.source_fingerprint(name) for name in MODULES}
    assert fingerprints(copy_package(tmp_path)) == here


def test_new_module_counts_once_it_is_imported(tmp_path, copy_package):
    package = copy_package(tmp_path)
    before = fingerprints(package)
    (package / "modeling" / "extra.py").write_text("X = 1\n", encoding="utf-8")
    assert fingerprints(package) == before
    with (package / "modeling" / "encoders" / "bert.py").open("a", encoding="utf-8") as file:
        file.write("def late():\n    from bert_tfx.modeling import extra\n    return extra\n")
    imported = fingerprints(package)
    (package / "modeling" / "extra.py").write_text("X = 2\n", encoding="utf-8")
    assert len({found[TRAINING] for found in (before, imported, fingerprints(package))}) == 3


def test_fingerprint_changes_with_a_library(monkeypatch):
    before = fingerprint.source_fingerprint(PREPROCESSING)
    monkeypatch.setattr(fingerprint.importlib.metadata, "version", lambda name: "99")
    assert fingerprint.source_fingerprint(PREPROCESSING) != before


def test_imported_modules_are_found_through_every_way_to_import():
    found = fingerprint.imported_modules(PREPROCESSING)
    assert {
        PREPROCESSING,
        "bert_tfx.modeling.text",
        "bert_tfx.modeling.text.features",
        "bert_tfx.modeling.text.tokenization",
        "bert_tfx.modeling.text.vocab_file",
        "bert_tfx.schema.tasks",
        "bert_tfx.schema.errors",
        "bert_tfx.schema.spans",
    } == found


def test_module_that_does_not_exist_is_an_error():
    with pytest.raises(ModuleNotFoundError, match="nothing"):
        fingerprint.source_fingerprint("bert_tfx.modeling.nothing")


def test_file_fingerprint_is_that_of_the_content(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    for path in (a, b):
        path.write_bytes(b"x" * (3 << 20))
    assert fingerprint.file_fingerprint(str(a)) == fingerprint.file_fingerprint(str(b))
    b.write_bytes(b"x" * (3 << 20) + b"y")
    assert fingerprint.file_fingerprint(str(a)) != fingerprint.file_fingerprint(str(b))
