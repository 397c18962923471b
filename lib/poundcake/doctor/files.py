"""Check who may read and change the files of this host."""

from __future__ import annotations

import os
import stat
from typing import Any, Iterator, Mapping

from poundcake.config import Config
from poundcake.doctor.finding import Finding, ok, problem, unknown
from poundcake.trail.shared_files import FILE_MODE, FOLDER_MODE

_REFERENCE = "file:"
_SUFFIXES = ("", "-wal", "-shm")
_CHANGED_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def check_state_dir(config: Config) -> list[Finding]:
    """Check the folder of the journal and of the SQLite database, and the files in it."""
    folder = config.state_dir
    if not os.path.isdir(folder):
        return [
            unknown(
                "files.state_dir",
                f"{folder} does not exist on this host",
                "run doctor on the host of the sensor as well; if this is that host, the log of "
                "the sensor shows why the endpoint could not create the folder",
            )
        ]
    databases = (config.journal_path, config.default_tracking_path)
    paths = [database + suffix for database in databases for suffix in _SUFFIXES]
    findings = _check_modes("files.state_dir", [folder], FOLDER_MODE)
    findings += _check_modes("files.databases", paths, FILE_MODE)
    if not findings:
        return [ok("files.state_dir", f"only StackStorm can read {folder} and its databases")]
    return findings


def check_secret_files(pack_config: Mapping[str, Any]) -> list[Finding]:
    """Check the files that the configuration references as file:/path, and private keys."""
    texts = _find_texts(pack_config)
    paths = [text[len(_REFERENCE) :] for text in texts if text.startswith(_REFERENCE)]
    key = pack_config.get("tls_key")
    paths += [key] if isinstance(key, str) and key else []
    if not paths:
        return []
    findings = _check_modes("files.secrets", paths, FILE_MODE)
    return findings or [ok("files.secrets", "only StackStorm can read the files with secrets")]


def check_configuration_file(path: str, literal_secrets: tuple[str, ...]) -> list[Finding]:
    """Check the registered configuration, which contains secrets that are not references.

    Args:
        path: The path of the configuration on StackStorm's host.
        literal_secrets: The keys that contain a secret.
    """
    if not literal_secrets:
        return []
    return _check_modes("files.configuration", [path], FILE_MODE)


def _check_modes(check: str, paths: list[str], mode: int) -> list[Finding]:
    """Return a problem for each existing file that other users can read or change.

    Args:
        check: The name of the check.
        paths: The files and folders.
        mode: The mode that they should have.
    """
    findings = []
    for path in dict.fromkeys(paths):
        try:
            actual = stat.S_IMODE(os.stat(path).st_mode)
        except OSError:
            continue  # config.load() reports a file that cannot be read
        if actual & (_CHANGED_BY_OTHERS | stat.S_IRWXO):
            verb = "change" if actual & _CHANGED_BY_OTHERS else "read"
            findings.append(
                problem(check, f"other users can {verb} {path}", f"run: chmod {mode:o} {path}")
            )
    return findings


def _find_texts(value: Any) -> Iterator[str]:
    """Yield each text in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _find_texts(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _find_texts(inner)
