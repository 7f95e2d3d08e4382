"""Files and folders that a user names, and the cache."""

import os
import re
from typing import Final

from bert_tfx.schema.errors import InputError

CACHE_VARIABLE: Final = "BERT_TFX_CACHE"
"""Says in the environment where the cache is."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def absolute(path: str) -> str:
    """Returns an absolute path, `~` resolved.

    Raises:
        InputError: If it is a URL: what a run reads and writes lies in folders, where files can be
            locked, and renamed in one step.
    """
    if _URL.match(path):
        raise InputError(
            f"{path}: is a URL; expected a path of this machine, or of a folder that all machines "
            "share, such as NFS"
        )
    return os.path.abspath(os.path.expanduser(path))


def cache_folder(*names: str) -> str:
    """Returns a folder of the cache, where what was downloaded or unpacked is kept.

    The cache is `$BERT_TFX_CACHE`, or else `$XDG_CACHE_HOME/bert-tfx`, or else `~/.cache/bert-tfx`.

    Args:
        *names: The folders' names, one below the other.
    """
    cache = os.environ.get(CACHE_VARIABLE)
    if not cache:
        base = os.environ.get("XDG_CACHE_HOME", "")
        # The specification has relative paths ignored.
        base = base if os.path.isabs(base) else os.path.join(os.path.expanduser("~"), ".cache")
        cache = os.path.join(base, "bert-tfx")
    return os.path.abspath(os.path.join(cache, *names))
