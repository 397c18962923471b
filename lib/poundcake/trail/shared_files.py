"""Create files that both the sensor's user and root can use, whoever creates them.

StackStorm's packages run the sensor as `st2` and actions as root.
"""

from __future__ import annotations

import os


def make_folder(path: str) -> None:
    """Create a folder and its missing parents, owned by the owner of the first existing parent."""
    if path and not os.path.isdir(path):
        make_folder(os.path.dirname(path))
        try:
            os.mkdir(path, 0o770)
        except FileExistsError:
            return
        give_to_owner_of_folder(path)


def give_to_owner_of_folder(path: str) -> None:
    """Change the owner of a file that root created to the owner of its folder.

    SQLite creates -wal and -shm with the owner of the database, but not while root creates it.
    """
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        folder = os.stat(os.path.dirname(path) or ".")
        for file in (path, path + "-wal", path + "-shm"):
            if os.path.exists(file):
                os.chown(file, folder.st_uid, folder.st_gid)
