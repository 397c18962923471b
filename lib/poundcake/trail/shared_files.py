"""Create files that only root and the sensor's user can access, no matter which creates them.

StackStorm's packages run the sensor as `st2` and actions as root. The files contain alert text,
which other users of the machine must not be able to read.
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
    """Create an empty file with the owner and group of its folder, unless it exists.

    SQLite creates -wal and -shm with the mode of their database.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
    except FileExistsError:
        return
    try:
        os.fchmod(descriptor, FILE_MODE)  # regardless of the umask
    finally:
        os.close(descriptor)
    give_to_owner_of_folder(path)


def revoke_access_of_others(path: str) -> None:
    """Remove other users' permissions from an existing file, if this user may change them.

    Release 0.2.0 created files that all users could read.
    """
    with suppress(FileNotFoundError, PermissionError):
        mode = stat.S_IMODE(os.stat(path).st_mode)
        if mode & _OTHERS:
            os.chmod(path, mode & ~_OTHERS)


def give_to_owner_of_folder(path: str) -> None:
    """Change the owner of a file to the owner of its folder, if this process runs as root.

    The same applies to SQLite's -wal and -shm, which root may have created with the database.
    """
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        folder = os.stat(os.path.dirname(path) or ".")
        for file in (path, path + "-wal", path + "-shm"):
            if os.path.exists(file):
                os.chown(file, folder.st_uid, folder.st_gid)
