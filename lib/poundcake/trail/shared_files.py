"""Files that the sensor's user and root can both use, and nobody else, whichever creates them.

StackStorm's packages run the sensor as `st2` and actions as root. The files contain the text of
alerts, which is not for every user of the machine.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress

FILE_MODE = 0o640
FOLDER_MODE = 0o750
_OTHERS = stat.S_IRWXO


def make_folder(path: str) -> None:
    """Create a folder and its missing parents, owned by the owner of the first existing parent."""
    if path and not os.path.isdir(path):
        make_folder(os.path.dirname(path))
        try:
            os.mkdir(path, FOLDER_MODE)
        except FileExistsError:
            return
        give_to_owner_of_folder(path)


def create_file(path: str) -> None:
    """Create an empty file for the owner of its folder and that group, if there is none.

    SQLite gives -wal and -shm the mode of the database that they belong to.
    """
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
    except FileExistsError:
        return
    try:
        os.fchmod(file, FILE_MODE)  # whatever the umask is
    finally:
        os.close(file)
    give_to_owner_of_folder(path)


def close_to_others(path: str) -> None:
    """Take from an existing file what other users may do with it, as far as we own it.

    Release 0.2.0 made files that all could read.
    """
    with suppress(FileNotFoundError, PermissionError):
        mode = stat.S_IMODE(os.stat(path).st_mode)
        if mode & _OTHERS:
            os.chmod(path, mode & ~_OTHERS)


def give_to_owner_of_folder(path: str) -> None:
    """Change the owner of a file that root created to the owner of its folder.

    SQLite creates -wal and -shm with the owner of the database, but not while root creates it.
    """
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        folder = os.stat(os.path.dirname(path) or ".")
        for file in (path, path + "-wal", path + "-shm"):
            if os.path.exists(file):
                os.chown(file, folder.st_uid, folder.st_gid)
