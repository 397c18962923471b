"""The monitoring servers in the configuration: the keys `alertmanagers` and `prometheus`."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Callable, Mapping, Sequence

from poundcake import secret_references
from poundcake.credentials import check_password_of_any_length, check_token_of_any_length
from poundcake.unknown_keys import refuse_unknown_keys
from poundcake.urls import check_http_url

EXTERNAL_URL = "external_url"
"""The key that only entries of `alertmanagers` have."""
_SECRETS = ("token", "basic")
_KEYS = ("url", *_SECRETS, "ca_file")


@dataclass(frozen=True)
class MonitoringServer:
    """One Alertmanager or Prometheus.

    Attributes:
        url: The base URL of its API, without a trailing slash.
        external_url: For an Alertmanager, the external URL in its notifications (its option
            --web.external-url), without a trailing slash.
        token: The bearer token that its API requires, or empty.
        basic: The user:password that its API requires, or empty.
        ca_file: If the URL begins with https://, the absolute path of the CA certificate that
            verifies the server, or empty for the system's CA certificates.
    """

    url: str
    external_url: str = ""
    token: str = field(default="", repr=False)
    basic: str = field(default="", repr=False)
    ca_file: str = ""


def read_entries(value: Any, with_external_url: bool) -> tuple[MonitoringServer, ...]:
    """Validate a list of servers, and return it with the secrets resolved.

    Args:
        value: The value of the key `alertmanagers` or `prometheus`.
        with_external_url: Whether the entries may have an external_url.

    Raises:
        ValueError: An entry is invalid. The message identifies the entry, and contains no secret.
    """
    if not isinstance(value, (list, tuple)):
        raise ValueError("must be a list of servers, each with a url")
    keys = (*_KEYS, EXTERNAL_URL) if with_external_url else _KEYS
    servers: list[MonitoringServer] = []
    for number, entry in enumerate(value, 1):
        try:
            server = _read_entry(entry, keys)
            if server.url in [other.url for other in servers]:
                raise ValueError(f"url: {server.url} is listed twice")
        except ValueError as error:
            raise ValueError(f"entry {number}: {error}") from None
        servers.append(server)
    return tuple(servers)


def has_literal_secret(value: Any) -> bool:
    """Return True if a list of servers contains a literal secret instead of a reference."""
    secrets = [entry.get(name) for entry in value for name in _SECRETS]
    return any(secret and not secret_references.is_reference(secret.strip()) for secret in secrets)


def _read_entry(entry: Any, keys: Sequence[str]) -> MonitoringServer:
    if not isinstance(entry, dict):
        raise ValueError("must have a url")
    refuse_unknown_keys(entry, sorted(keys))
    texts = {name: _read_text(entry, name) for name in keys}
    for name in ("url", EXTERNAL_URL):
        if name == "url" or texts.get(name):
            _validate(name, texts[name], check_http_url)
    if texts["token"] and texts["basic"]:
        raise ValueError("must have token or basic, not both")
    _validate("token", texts["token"], check_token_of_any_length)
    _validate("basic", texts["basic"], check_password_of_any_length)
    if texts["ca_file"] and not os.path.isabs(texts["ca_file"]):
        raise ValueError("ca_file: must be an absolute path")
    url = texts["url"].rstrip("/")
    texts.update(url=url)
    if EXTERNAL_URL in keys:
        texts.update(external_url=(texts[EXTERNAL_URL] or url).rstrip("/"))
    return MonitoringServer(**texts)


def _read_text(entry: Mapping[str, Any], name: str) -> str:
    value = entry.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{name}: must be a string")
    text = value.strip()
    if name in _SECRETS and text:
        try:
            return secret_references.resolve(text)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return text


def _validate(name: str, text: str, check: Callable[[str], None]) -> None:
    if not text and name in _SECRETS:
        return
    try:
        check(text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
