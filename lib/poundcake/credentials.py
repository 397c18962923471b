"""The credentials of the endpoint's clients: their names, scopes and secrets."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Mapping, Sequence

from poundcake import secret_references
from poundcake.string_enum import StringEnum

MIN_SECRET_CHARACTERS = 16
"""Minimum length of a token, password or shared secret. Shorter ones can be guessed."""

MAX_NAME_CHARACTERS = 64
"""Maximum length of a name in the journal and the tracking database."""

# Brackets and equals signs are reserved: `auth_tokens[1]` and `CN=…` are names of other
# credentials.
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MAX_NAME_CHARACTERS - 1}}}\Z")
# A value that StackStorm's datastore has encrypted (AES, upper-case hex). A sensor gets the
# ciphertext if the schema declares `secret` on an array and not on its items.
_CIPHERTEXT = re.compile(r"[0-9A-F]{96,}\Z")


class Scope(StringEnum):
    """The requests that a credential allows."""

    POST = "post"
    """Posting webhooks."""
    READ = "read"
    """All other requests: the trail, the health view, the metrics."""
    BOTH = "both"

    def allows(self, required: Scope) -> bool:
        """Return True if this scope includes the required one."""
        return self in (Scope.BOTH, required)


class Kind(StringEnum):
    """How a client proves that it has a credential. The values are keys in the configuration."""

    TOKEN = "token"
    """The client sends the token: `Authorization: Bearer …`."""
    BASIC = "basic"
    """The client sends user and password: `Authorization: Basic …`."""
    HMAC = "hmac_sha256"
    """The client signs the body with the secret, as Grafana does. The secret is never sent."""


@dataclass(frozen=True)
class Credential:
    """One credential. The trail shows its name for each request that used it."""

    name: str
    scope: Scope
    kind: Kind
    secret: str = field(repr=False)


def read_entries(value: Any) -> tuple[Credential, ...]:
    """Validate the key `credentials`, and return its entries with their secrets resolved.

    Raises:
        ValueError: An entry is invalid. The message identifies the entry.
    """
    if not isinstance(value, (list, tuple)):
        raise ValueError("must be a list of credentials, each with name, scope and a secret")
    entries: list[Credential] = []
    for number, entry in enumerate(value, 1):
        try:
            credential = _read_entry(entry)
        except ValueError as error:
            raise ValueError(f"{_describe_entry(number, entry)}: {error}") from None
        entries.append(credential)
    check_names(entries)
    return tuple(entries)


def check_names(credentials: Sequence[Credential]) -> None:
    """Raise ValueError if two credentials have the same name."""
    names = [credential.name for credential in credentials]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"the name {name} is used twice: give each credential its own")


def has_literal_secret(value: Any) -> bool:
    """Return True if the key `credentials` contains a literal secret instead of a reference."""
    secrets = [entry.get(kind.value) for entry in value for kind in Kind]
    return any(s is not None and not secret_references.is_reference(s.strip()) for s in secrets)


def _read_entry(entry: Any) -> Credential:
    if not isinstance(entry, dict):
        raise ValueError("must have name, scope and one of " + _join_names(Kind))
    valid_keys = ["name", "scope", *(kind.value for kind in Kind)]
    unknown_keys = sorted(str(key) for key in entry if key not in valid_keys)
    if unknown_keys:
        raise ValueError(f"unknown key {unknown_keys[0]}: the keys are {', '.join(valid_keys)}")
    name = entry.get("name")
    if not isinstance(name, str) or not _NAME.match(name):
        raise ValueError(
            "name: must consist of letters, digits, dots, hyphens and underscores, begin with a "
            f"letter or a digit, and have at most {MAX_NAME_CHARACTERS} characters"
        )
    scope = _read_scope(entry)
    kind = _read_kind(entry)
    if kind == Kind.HMAC and scope != Scope.POST:
        raise ValueError("scope: must be post for hmac_sha256, because only a webhook is signed")
    try:
        return Credential(name, scope, kind, _read_secret(kind, entry[kind.value]))
    except ValueError as error:
        raise ValueError(f"{kind}: {error}") from None


def _read_scope(entry: Mapping[str, Any]) -> Scope:
    try:
        return Scope(entry.get("scope"))
    except ValueError:
        raise ValueError(f"scope: must be one of {', '.join(map(str, Scope))}") from None


def _read_kind(entry: Mapping[str, Any]) -> Kind:
    kinds = [kind for kind in Kind if entry.get(kind.value) is not None]
    if len(kinds) != 1:
        present = " and ".join(map(str, kinds)) or "none"
        raise ValueError(f"must have exactly one of {_join_names(Kind)}, but has {present}")
    return kinds[0]


def _read_secret(kind: Kind, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a string")
    secret = secret_references.resolve(value.strip())
    _CHECKS[kind](secret)
    return secret


def _describe_entry(number: int, entry: Any) -> str:
    """Return the text that identifies an entry in an error: its number, from 1, and its name."""
    name = entry.get("name") if isinstance(entry, dict) else None
    suffix = f" ({name})" if isinstance(name, str) and _NAME.match(name) else ""
    return f"entry {number}{suffix}"


def _join_names(kinds: type[Kind]) -> str:
    return ", ".join(map(str, kinds))


# -- checks of secrets; each raises ValueError, whose message never contains the secret


def check_token(value: str) -> None:
    """Raise ValueError if a bearer token is invalid or too short."""
    check_token_of_any_length(value)
    _check_length("a token", value)


def check_token_of_any_length(value: str) -> None:
    """Raise ValueError if a bearer token is invalid. Another server may have chosen its length."""
    check_not_ciphertext(value)
    if not value.isascii() or not value.isprintable() or " " in value:
        raise ValueError("must contain visible ASCII characters only (RFC 6750)")


def check_user_and_password(value: str) -> None:
    """Raise ValueError if the user:password for basic authentication is invalid or too short."""
    check_password_of_any_length(value)
    _check_length("the password", value.partition(":")[2])


def check_password_of_any_length(value: str) -> None:
    """Raise ValueError if a user:password is invalid. Another server may have chosen its length."""
    user, _, password = value.partition(":")
    if not (user and password and value.isprintable()):
        raise ValueError("must be user:password (RFC 7617)")


def _check_shared_secret(value: str) -> None:
    check_not_ciphertext(value)
    _check_length("the shared secret", value)


def check_not_ciphertext(value: str) -> None:
    """Raise ValueError if a secret is empty or is ciphertext from StackStorm's datastore."""
    if not value:
        raise ValueError("must not be empty")
    if _CIPHERTEXT.match(value):
        raise ValueError(
            "contains ciphertext that StackStorm has not decrypted (put `secret: true` on the "
            "items of the list, or use file:/path)"
        )


def _check_length(name: str, value: str) -> None:
    if len(value) < MIN_SECRET_CHARACTERS:
        raise ValueError(
            f"{name} must have at least {MIN_SECRET_CHARACTERS} characters "
            "(`openssl rand -hex 32` generates one)"
        )


_CHECKS = {
    Kind.TOKEN: check_token,
    Kind.BASIC: check_user_and_password,
    Kind.HMAC: _check_shared_secret,
}
