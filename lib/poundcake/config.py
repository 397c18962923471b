"""The pack's configuration: config.schema.yaml as one checked object."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass, field, fields
from typing import Any, Sequence
from urllib.parse import urlsplit

from poundcake.errors import PoundCakeError

SECRETS = ("database_url", "auth_tokens", "basic_auth", "st2_api_key")
TLS_FILES = ("tls_certificate", "tls_key", "tls_client_ca")
# What StackStorm's datastore makes of a value (AES, upper-case hex): seen where `secret` is
# declared on the array instead of on its items.
_CIPHERTEXT = re.compile(r"[0-9A-F]{96,}\Z")


class ConfigError(PoundCakeError):
    """A key of the pack's configuration that cannot be used. The message names the key."""


@dataclass(frozen=True)
class Config:
    """The keys of config.schema.yaml, with its defaults. Secrets are resolved, never logged."""

    database_url: str = field(default="", repr=False)
    state_dir: str = "/opt/stackstorm/exports/poundcake"
    host: str = "127.0.0.1"
    port: int = 8000
    auth_tokens: tuple[str, ...] = field(default=(), repr=False)
    basic_auth: str = field(default="", repr=False)
    tls_certificate: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""
    max_body_bytes: int = 1 << 20
    max_connections: int = 512
    backlog_limit: int = 100_000
    dry_run: bool = True
    allowed_hosts: tuple[str, ...] = ()
    allowed_actions: tuple[str, ...] = ()
    cooldown_seconds: int = 0
    host_cooldown_seconds: int = 0
    max_remediations_per_hour: int = 100
    episode_skew_seconds: int = 120
    give_up_hours: int = 24
    stale_after_hours: int = 24
    not_cleared_minutes: int = 15
    retention_days: int = 90
    auto_migrate: bool = True
    log_level: str = "info"
    endpoint_url: str = ""
    st2_web_url: str = ""
    st2_api_url: str = ""
    st2_api_key: str = field(default="", repr=False)
    # The secret keys whose value stands in the configuration itself, where `ps` shows it.
    literal_secrets: tuple[str, ...] = ()

    @property
    def authentication(self) -> list[str]:
        """The ways in which a client can say who it is; one of them is enough."""
        ways = {
            "bearer": self.auth_tokens,
            "basic": self.basic_auth,
            "client certificate": self.tls_client_ca,
        }
        return [way for way, given in ways.items() if given]

    @property
    def journal_path(self) -> str:
        return os.path.join(self.state_dir, "journal.sqlite")

    @property
    def tracking_url(self) -> str:
        """The SQLAlchemy URL of the tracking database."""
        return self.database_url or "sqlite:///" + os.path.join(self.state_dir, "tracking.sqlite")

    @property
    def endpoint(self) -> str:
        """Where an action reaches the endpoint, without a slash at the end."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::", "localhost") else self.host
        host = f"[{host}]" if ":" in host else host
        scheme = "https" if self.tls_certificate else "http"
        return (self.endpoint_url or f"{scheme}://{host}:{self.port}").rstrip("/")


def load(pack_config: Any, without: Sequence[str] = ()) -> Config:
    """Checks what StackStorm hands a sensor or an action as the pack's configuration.

    without: keys that are not needed, whose secrets need not be readable here. Raises
    ConfigError. Keys that the schema does not know are ignored, as StackStorm allows them.
    """
    given: dict[str, Any] = dict(pack_config or {})
    values: dict[str, Any] = {}
    literal: list[str] = []
    for spec in fields(Config):
        if spec.name == "literal_secrets" or spec.name in without:
            continue
        if given.get(spec.name) is None:
            continue
        value = _typed(spec.name, given[spec.name], getattr(Config, spec.name, ()))
        if spec.name in SECRETS and value:
            secrets = [value] if isinstance(value, str) else list(value)
            if any(not _is_reference(s) for s in secrets):
                literal.append(spec.name)
            resolved = [_resolve(spec.name, s) for s in secrets]
            value = resolved[0] if isinstance(value, str) else tuple(resolved)
        values[spec.name] = value
    config = Config(literal_secrets=tuple(literal), **values)
    _check(config, without)
    return config


def is_loopback(host: str) -> bool:
    """Whether the address can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _typed(name: str, value: Any, default: Any) -> Any:
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise ConfigError(f"{name}: true or false is expected")
    elif isinstance(default, int):
        if isinstance(value, bool) or not isinstance(value, int):
            raise ConfigError(f"{name}: a whole number is expected")
    elif isinstance(default, str):
        if not isinstance(value, str):
            raise ConfigError(f"{name}: a string is expected")
        value = value.strip()
    else:
        if not isinstance(value, (list, tuple)) or not all(isinstance(v, str) for v in value):
            raise ConfigError(f"{name}: a list of strings is expected")
        value = tuple(v.strip() for v in value)
        if not all(value):
            raise ConfigError(f"{name}: an entry is empty")
    return value


def _is_reference(value: str) -> bool:
    return value.startswith(("file:", "env:"))


def _resolve(name: str, value: str) -> str:
    if value.startswith("env:"):
        found = os.environ.get(value[4:], "").strip()
        if not found:
            raise ConfigError(f"{name}: the environment variable {value[4:]} is not set")
        return found
    if value.startswith("file:"):
        try:
            with open(value[5:], encoding="utf-8") as file:
                found = file.read().strip()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "no such name, or not UTF-8"
            raise ConfigError(f"{name}: cannot read {value[5:]}: {reason}") from None
        if not found:
            raise ConfigError(f"{name}: {value[5:]} is empty")
        return found
    return value


def _is_url(value: str) -> bool:
    try:
        parts = urlsplit(value)
        return parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return False


def _check(config: Config, without: Sequence[str]) -> None:
    bounds = {
        "port": (1, 65535),
        # PyMySQL writes each quote as two bytes, and MariaDB's max_allowed_packet is 16 MiB.
        "max_body_bytes": (1024, 7 << 20),
        "max_connections": (1, 65536),
        "backlog_limit": (1, 10_000_000),
        "cooldown_seconds": (0, 604_800),
        "host_cooldown_seconds": (0, 86_400),
        "max_remediations_per_hour": (0, 100_000),
        "episode_skew_seconds": (0, 86_400),
        "give_up_hours": (1, 720),
        "stale_after_hours": (1, 8760),
        "not_cleared_minutes": (1, 10_080),
        "retention_days": (1, 36_500),
    }
    for name, (least, most) in bounds.items():
        if not least <= getattr(config, name) <= most:
            raise ConfigError(f"{name}: {least} to {most} is expected")
    if config.log_level not in ("debug", "info", "warning", "error"):
        raise ConfigError("log_level: debug, info, warning or error is expected")
    if not os.path.isabs(config.state_dir):
        raise ConfigError("state_dir: an absolute path is expected")
    for token in config.auth_tokens:
        if _CIPHERTEXT.match(token):
            raise ConfigError(
                "auth_tokens: an entry is ciphertext; StackStorm has not decrypted it "
                "(put `secret: true` on the items of the list, or use file:/path)"
            )
        if not token.isascii() or not token.isprintable() or " " in token:
            raise ConfigError("auth_tokens: a token is visible ASCII without spaces (RFC 6750)")
    user, _, password = config.basic_auth.partition(":")
    if config.basic_auth and not (user and password and config.basic_auth.isprintable()):
        raise ConfigError("basic_auth: user:password is expected (RFC 7617)")
    if bool(config.tls_certificate) != bool(config.tls_key):
        missing = "tls_key" if config.tls_certificate else "tls_certificate"
        raise ConfigError(f"{missing}: tls_certificate and tls_key are set together")
    if config.tls_client_ca and not config.tls_certificate:
        raise ConfigError("tls_client_ca: needs tls_certificate and tls_key")
    for name in TLS_FILES:
        value = getattr(config, name)
        if value and not os.path.isabs(value):
            raise ConfigError(f"{name}: an absolute path is expected")
    for name in ("endpoint_url", "st2_web_url", "st2_api_url"):
        value = getattr(config, name)
        if value and not _is_url(value):
            raise ConfigError(f"{name}: a URL with http:// or https:// is expected")
    if config.database_url and not config.database_url.startswith(("mysql+pymysql://", "sqlite:")):
        raise ConfigError("database_url: mysql+pymysql://… or sqlite:///… is expected")
    open_to_all = not is_loopback(config.host) and not config.authentication
    if open_to_all and not {"auth_tokens", "basic_auth"} & set(without):
        raise ConfigError(
            f"host: {config.host} can be reached from other machines, and nobody would be asked "
            "who they are: set auth_tokens, basic_auth or tls_client_ca, or leave host at 127.0.0.1"
        )
