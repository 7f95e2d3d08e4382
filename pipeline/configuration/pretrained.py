"""What `--pretrained` names: a checkpoint's folder or file, an archive of one, or a preset."""

import os

from bert_tfx.modeling.checkpoints.archives import extract, is_archive
from bert_tfx.modeling.checkpoints.presets import fetched, find_preset
from bert_tfx.schema.errors import InputError
from bert_tfx.schema.paths import absolute, cache_folder


def checkpoint_folder(name: str, *, sha256: str | None = None) -> str:
    """Returns the checkpoint that a user names, an archive unpacked.

    Args:
        name: A folder or a `.keras` file; an archive, which is unpacked into the cache, once; or
            the name of a preset that was fetched. A file or folder of that name goes before a
            preset.
        sha256: What the archive's SHA-256 must be, or None.

    Returns:
        An absolute path for `find_checkpoint`.

    Raises:
        InputError: If there is no such file or preset, the preset was not fetched, the archive
            cannot be unpacked, or there is a SHA-256 but no archive.
    """
    path = absolute(name)
    if os.path.isfile(path) and is_archive(path):
        return extract(path, cache_folder("archives"), sha256=sha256).folder
    if sha256 is not None:
        raise InputError(f"{name}: is no archive, so it has no SHA-256 to check")
    if os.path.exists(path):
        return path
    try:
        find_preset(name)
    except InputError as error:
        raise InputError(f"{name}: no such file or folder, and {error}") from error
    folder = fetched(name)
    if folder is None:
        raise InputError(f"{name}: not fetched yet: bert-tfx fetch {name}")
    return folder
