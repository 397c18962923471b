"""Find out whether the contents of a folder survive a reboot."""

from __future__ import annotations

import os

_VOLATILE = ("tmpfs", "ramfs")
_MOUNTS = "/proc/self/mounts"


def volatile_filesystem(path: str) -> str:
    """Return the type of a path's file system if it is kept in memory only, otherwise ''."""
    kind = _filesystem(os.path.realpath(path))
    return kind if kind in _VOLATILE else ""


def _filesystem(path: str) -> str:
    """Return the type of the file system that a path is on, '' if it is unknown."""
    found, longest = "", -1
    try:
        with open(_MOUNTS, encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                # device, mount point (with octal escapes), type, ...
                _, point, kind = line.split(" ", 3)[:3]
                point = _unescaped(point)
                is_above = path == point or path.startswith(point.rstrip("/") + "/")
                if is_above and len(point) >= longest:
                    found, longest = kind, len(point)
    except (OSError, ValueError):
        return ""
    return found


def _unescaped(text: str) -> str:
    raw = text.encode("utf-8", "surrogateescape").decode("unicode_escape").encode("latin-1")
    return raw.decode("utf-8", "surrogateescape")
