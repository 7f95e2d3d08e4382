"""Files and folders that a user names."""

import os
import re

from bert_tfx.schema.errors import InputError

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
