"""Read secrets that the configuration references as ``file:/path`` or ``env:NAME``.

StackStorm passes a pack's configuration to its actions on the command line, where ``ps`` shows it.
A reference keeps the secret itself off the command line.
"""

from __future__ import annotations

import os
import pwd

_FILE = "file:"
_ENVIRONMENT = "env:"
_FORMS = {_FILE: "file:/path", _ENVIRONMENT: "env:NAME"}


def is_reference(value: str) -> bool:
    """Return True if the value is a reference to a secret and not the secret itself."""
    return value.startswith((_FILE, _ENVIRONMENT))


def resolve(value: str) -> str:
    """Return the secret that a reference points to, or any other value unchanged.

    Raises:
        ValueError: The file or the environment variable is missing, unreadable or empty, or the
            reference is misspelt. The message never contains the secret.
    """
    prefix, colon, name = value.partition(":")
    kind = prefix.strip().lower() + colon
    if kind in _FORMS and (prefix + colon != kind or name != name.strip()):
        raise ValueError(f"must be {_FORMS[kind]}, in lower case and without a space")
    if value in _FORMS:
        raise ValueError(f"must be {_FORMS[value]}, but nothing follows the colon")
    if value.startswith(_FILE):
        return _from_file(value[len(_FILE) :])
    if value.startswith(_ENVIRONMENT):
        return _from_environment(value[len(_ENVIRONMENT) :])
    return value


def _from_environment(name: str) -> str:
    secret = os.environ.get(name, "").strip()
    if not secret:
        raise ValueError(f"the environment variable {name} is not set")
    return secret


def _from_file(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            secret = file.read().strip()
    except PermissionError:
        hint = f"run: chown {_current_user()}: {path}"
        raise ValueError(f"cannot read {path}: permission denied ({hint})") from None
    except OSError as error:
        reason = (error.strerror or "unknown error").lower()
        raise ValueError(f"cannot read {path}: {reason}") from None
    except UnicodeDecodeError:
        raise ValueError(f"cannot read {path}: not UTF-8") from None
    except ValueError:  # a null character in the path
        raise ValueError(f"cannot read {path}: no file can have this name") from None
    if not secret:
        raise ValueError(f"{path} is empty")
    return secret


def _current_user() -> str:
    user = os.geteuid()
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)
