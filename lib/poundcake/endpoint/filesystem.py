"""Find out how full the disk of a folder is, and whether the folder survives a reboot."""

from __future__ import annotations

import os
import shutil
from typing import NamedTuple

_VOLATILE = ("tmpfs", "ramfs")
_MOUNTS = "/proc/self/mounts"


class DiskUsage(NamedTuple):
    """How full a disk is, in bytes.

    Attributes:
        size: The size of its file system.
        free: What this process's user can still write.
    """

    size: int
    free: int


def disk_usage(path: str) -> DiskUsage | None:
    """Return how full the disk of a path is, or None if the path does not exist."""
    try:
        usage = shutil.disk_usage(path)
    except OSError:
        return None
    return DiskUsage(usage.total, usage.free)


def volatile_filesystem(path: str) -> str:
    """Return the type of a path's file system if it exists only in memory, otherwise ''."""
    filesystem_type = _filesystem_type(os.path.realpath(path))
    return filesystem_type if filesystem_type in _VOLATILE else ""


def _filesystem_type(path: str) -> str:
    """Return the type of the file system that a path is on, or '' if it is unknown."""
    innermost_type, longest_mount_point = "", -1
    try:
        with open(_MOUNTS, encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                # device, mount point (with octal escapes), type, ...
                _, mount_point, filesystem_type = line.split(" ", 3)[:3]
                mount_point = _unescape(mount_point)
                contains_path = path == mount_point or path.startswith(
                    mount_point.rstrip("/") + "/"
                )
                if contains_path and len(mount_point) >= longest_mount_point:
                    innermost_type, longest_mount_point = filesystem_type, len(mount_point)
    except (OSError, ValueError):
        return ""
    return innermost_type


def _unescape(text: str) -> str:
    raw = text.encode("utf-8", "surrogateescape").decode("unicode_escape").encode("latin-1")
    return raw.decode("utf-8", "surrogateescape")
