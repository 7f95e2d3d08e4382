"""The files of model versions."""

import os
import shutil


def sizes(folder: str) -> dict[str, int]:
    """Returns the size in bytes of each file below a folder, by its path there, sorted."""
    return {
        os.path.relpath(path, folder): os.path.getsize(path)
        for path in sorted(
            os.path.join(parent, name) for parent, _, names in os.walk(folder) for name in names
        )
    }


def copy_folder(source: str, target: str) -> None:
    """Copies the files of a folder; the first one that cannot be copied ends it."""
    for name in sizes(source):
        copied = os.path.join(target, name)
        os.makedirs(os.path.dirname(copied), exist_ok=True)
        shutil.copyfile(os.path.join(source, name), copied)
