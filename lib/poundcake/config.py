"""The pack's configuration: the keys of config.schema.yaml as one validated object.

The fields of `Config` define the default and the accepted values of each key. StackStorm validates
a configuration against config.schema.yaml when it is registered; a test checks that the two agree.
"""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass, field, fields, replace
from typing import Any, Callable, Protocol, Sequence, Tuple, TypeVar, Union

from poundcake import credentials, monitoring_servers, secret_references
from poundcake.board_proxy import BoardProxy, read_board_proxy
from poundcake.credentials import Credential, Kind, Scope
from poundcake.errors import PoundCakeError
from poundcake.hosts import HOST_LABEL, check_pattern
from poundcake.monitoring_servers import MonitoringServer
from poundcake.remediations import Remediation, read_remediations
from poundcake.unknown_keys import refuse_unknown_keys
from poundcake.urls import check_http_url

TLS_FILES = ("tls_certificate", "tls_key", "tls_client_ca")
IDENTITY_SOURCES = ("none", "external_url")
ANY_HOST = "*"
"""The entry of allowed_hosts that allows every host."""
_SSH_PORT = 22
LOG_LEVELS = ("debug", "info", "warning", "error")

CREDENTIAL_KEYS = ("auth_tokens", "basic_auth", "credentials")
"""The keys that contain the secrets of the endpoint's clients. Most actions need none of them."""

MONITORING_KEYS = ("alertmanagers", "prometheus")
"""The keys that contain the secrets of the monitoring servers. Few actions need them."""

_Value = Union[
    bool,
    int,
    str,
    Tuple[str, ...],
    Tuple[Credential, ...],
    Tuple[MonitoringServer, ...],
    Tuple[Remediation, ...],
    BoardProxy,
]
_Default = TypeVar(
    "_Default",
    bool,
    int,
    str,
    Tuple[str, ...],
    Tuple[Credential, ...],
    Tuple[MonitoringServer, ...],
    Tuple[Remediation, ...],
)
_Check = Callable[[str], None]


class ConfigError(PoundCakeError):
    """A key is unknown or has an invalid value. The message contains the key and valid values."""


_NO_PROXY = BoardProxy()


# -- the types of keys


class _KeyType(Protocol):
    """The type of a key, which parses and checks the values of the key."""

    @property
    def secret(self) -> bool:
        """Whether the key contains secrets, whose values may be references."""

    def read(self, value: Any) -> _Value:
        """Return the parsed value, or raise ValueError, for example "must be a string"."""

    def has_literal_secret(self, value: Any) -> bool:
        """Return True if a valid value contains a literal secret instead of a reference."""


class _Public:
    """The base class of types without secrets."""

    secret = False

    def has_literal_secret(self, value: Any) -> bool:
        return False


class _Boolean(_Public):
    def read(self, value: Any) -> _Value:
        if not isinstance(value, bool):
            raise ValueError("must be true or false")
        return value


@dataclass(frozen=True)
class _Integer(_Public):
    minimum: int
    maximum: int

    def read(self, value: Any) -> _Value:
        is_whole_number = isinstance(value, int) and not isinstance(value, bool)
        if not is_whole_number or not self.minimum <= value <= self.maximum:
            raise ValueError(f"must be a whole number from {self.minimum} to {self.maximum}")
        return int(value)


@dataclass(frozen=True)
class _String:
    """A string. If the default is '', an empty value means "not set" and is not checked."""

    check: _Check | None
    may_be_empty: bool
    secret: bool = False

    def read(self, value: Any) -> _Value:
        if not isinstance(value, str):
            raise ValueError("must be a string")
        text = value.strip()
        if self.secret:
            text = secret_references.resolve(text)
        if self.check and (text or not self.may_be_empty):
            self.check(text)
        return text

    def has_literal_secret(self, value: Any) -> bool:
        text = value.strip()
        return self.secret and bool(text) and not secret_references.is_reference(text)


@dataclass(frozen=True)
class _Strings:
    """A list of strings, none of them empty."""

    check: _Check | None
    secret: bool = False

    def read(self, value: Any) -> _Value:
        if not isinstance(value, (list, tuple)):
            raise ValueError("must be a list of strings")
        for position, entry in enumerate(value, start=1):
            if not isinstance(entry, str):
                raise ValueError(f"must be a list of strings, but entry {position} is not a string")
        item = _String(self.check or _check_not_empty, may_be_empty=False, secret=self.secret)
        return tuple(str(item.read(v)) for v in value)

    def has_literal_secret(self, value: Any) -> bool:
        item = _String(self.check, may_be_empty=True, secret=self.secret)
        return any(item.has_literal_secret(v) for v in value)


class _Credentials:
    """A list of named credentials."""

    secret = True

    def read(self, value: Any) -> _Value:
        return credentials.read_entries(value)

    def has_literal_secret(self, value: Any) -> bool:
        return credentials.has_literal_secret(value)


@dataclass(frozen=True)
class _MonitoringServers:
    """A list of Alertmanagers, which have an external URL, or of Prometheus servers."""

    with_external_url: bool
    secret: bool = True

    def read(self, value: Any) -> _Value:
        return monitoring_servers.read_entries(value, self.with_external_url)

    def has_literal_secret(self, value: Any) -> bool:
        return monitoring_servers.has_literal_secret(value)


class _Remediations(_Public):
    """The list of remediations. Invalid entries are left out: see Config.remediation_errors."""

    def read(self, value: Any) -> _Value:
        if not isinstance(value, (list, tuple)):
            raise ValueError("must be a list of entries, each with name, match and mode")
        return read_remediations(value)[0]


class _BoardProxy(_Public):
    def read(self, value: Any) -> _Value:
        return read_board_proxy(value)


def _boolean(default: bool) -> bool:
    return _key(default, _Boolean())


def _integer(default: int, minimum: int, maximum: int) -> int:
    return _key(default, _Integer(minimum, maximum))


def _string(default: str = "", check: _Check | None = None, secret: bool = False) -> str:
    return _key(default, _String(check, may_be_empty=not default, secret=secret))


def _strings(check: _Check | None = None, secret: bool = False) -> tuple[str, ...]:
    return _key((), _Strings(check, secret))


def _key(default: _Default, key_type: _KeyType) -> _Default:
    return field(default=default, repr=not key_type.secret, metadata={"type": key_type})


# -- checks of strings; each raises ValueError with a message such as "must be an absolute path"


def _check_not_empty(value: str) -> None:
    if not value:
        raise ValueError("must not contain an empty entry")


def _check_label_name(value: str) -> None:
    if not value:
        raise ValueError("must be the name of a label")


def _check_absolute_path(value: str) -> None:
    if not os.path.isabs(value):
        raise ValueError("must be an absolute path")


def _check_database_url(value: str) -> None:
    if not value.startswith(("mysql+pymysql://", "sqlite:")):
        raise ValueError("must be mysql+pymysql://… or sqlite:///…")


def _one_of(choices: Sequence[str]) -> _Check:
    def check(value: str) -> None:
        if value not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")

    return check


def _check_token(value: str) -> None:
    _check_not_empty(value)
    credentials.check_token(value)


def _check_user_name(value: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.@-]*", value):
        raise ValueError("must be the name of an account")


def _check_host_pattern(value: str) -> None:
    _check_not_empty(value)
    check_pattern(value)


# -- the keys


@dataclass(frozen=True)
class Config:
    """The configuration with defaults applied. Secrets are resolved, and omitted from repr()."""

    database_url: str = _string(check=_check_database_url, secret=True)
    state_dir: str = _string("/opt/stackstorm/exports/poundcake", _check_absolute_path)
    host: str = _string("127.0.0.1")
    port: int = _integer(8000, 1, 65_535)
    auth_tokens: tuple[str, ...] = _strings(_check_token, secret=True)
    basic_auth: str = _string(check=credentials.check_user_and_password, secret=True)
    credentials: tuple[Credential, ...] = _key((), _Credentials())
    board_proxy: BoardProxy = field(default=_NO_PROXY, metadata={"type": _BoardProxy()})
    tls_certificate: str = _string(check=_check_absolute_path)
    tls_key: str = _string(check=_check_absolute_path)
    tls_client_ca: str = _string(check=_check_absolute_path)
    # PyMySQL escapes each quote with a second byte, and MariaDB's max_allowed_packet is 16 MiB.
    max_body_bytes: int = _integer(7 << 20, 1024, 7 << 20)
    max_connections: int = _integer(512, 1, 65_536)
    backlog_limit: int = _integer(100_000, 1, 10_000_000)
    dry_run: bool = _boolean(True)
    allowed_hosts: tuple[str, ...] = _strings(_check_host_pattern)
    denied_hosts: tuple[str, ...] = _strings(_check_host_pattern)
    allowed_actions: tuple[str, ...] = _strings()
    remediations: tuple[Remediation, ...] = _key((), _Remediations())
    ssh_user: str = _string(check=_check_user_name)
    ssh_key_file: str = _string(check=_check_absolute_path)
    ssh_port: int = _integer(_SSH_PORT, 1, 65_535)
    host_label: str = _string(HOST_LABEL, _check_label_name)
    ignored_labels: tuple[str, ...] = _strings()
    identity_source: str = _string("none", _one_of(IDENTITY_SOURCES))
    receivers: tuple[str, ...] = _strings()
    cooldown_seconds: int = _integer(300, 0, 604_800)
    host_cooldown_seconds: int = _integer(1800, 0, 86_400)
    power_cooldown_seconds: int = _integer(3600, 0, 86_400)
    settle_seconds: int = _integer(60, 0, 900)
    fresh_minutes: int = _integer(15, 0, 1440)
    storm_limit: int = _integer(5, 0, 100_000)
    storm_quiet_minutes: int = _integer(10, 0, 1440)
    max_in_flight: int = _integer(3, 0, 1000)
    max_changes_per_hour: int = _integer(10, 0, 10_000)
    max_changes_per_remediation_per_hour: int = _integer(5, 0, 10_000)
    max_changes_per_target_per_day: int = _integer(3, 0, 10_000)
    breaker_failures: int = _integer(3, 0, 100)
    retry_refused_minutes: int = _integer(10, 0, 60)
    max_remediations_per_hour: int = _integer(100, 0, 100_000)
    episode_skew_seconds: int = _integer(120, 0, 86_400)
    give_up_hours: int = _integer(24, 1, 720)
    stale_after_hours: int = _integer(24, 1, 8760)
    expire_stale_hours: int = _integer(0, 0, 8760)
    alertmanagers: tuple[MonitoringServer, ...] = _key((), _MonitoringServers(True))
    prometheus: tuple[MonitoringServer, ...] = _key((), _MonitoringServers(False))
    gone_after_seconds: int = _integer(600, 15, 86_400)
    not_cleared_minutes: int = _integer(15, 1, 10_080)
    approval_minutes: int = _integer(30, 1, 10_080)
    retention_days: int = _integer(90, 1, 36_500)
    auto_migrate: bool = _boolean(True)
    log_level: str = _string("info", _one_of(LOG_LEVELS))
    endpoint_url: str = _string(check=check_http_url)
    st2_web_url: str = _string(check=check_http_url)
    grafana_url: str = _string(check=check_http_url)
    st2_api_url: str = _string(check=check_http_url)
    st2_api_key: str = _string(secret=True)

    literal_secrets: tuple[str, ...] = ()
    """Not a key: the keys that contain a literal secret instead of a reference."""
    remediation_errors: tuple[str, ...] = ()
    """Not a key: a sentence for each invalid entry of `remediations`, which is ignored."""

    @property
    def all_credentials(self) -> tuple[Credential, ...]:
        """The credentials of all keys. Unnamed credentials are named after their key."""
        unnamed_credentials = [
            Credential(f"auth_tokens[{number}]", Scope.BOTH, Kind.TOKEN, token)
            for number, token in enumerate(self.auth_tokens, 1)
        ]
        if self.basic_auth:
            unnamed_credentials.append(
                Credential("basic_auth", Scope.BOTH, Kind.BASIC, self.basic_auth)
            )
        return (*unnamed_credentials, *self.credentials)

    @property
    def settings(self) -> dict[str, Any]:
        """The keys without secrets, with their values as JSON types."""
        return {name: _as_json(getattr(self, name)) for name in _KEY_TYPES if name not in SECRETS}

    @property
    def ssh_parameters(self) -> dict[str, Any]:
        """The SSH parameters for the pack's actions, except those with StackStorm's defaults."""
        parameters = {
            "username": self.ssh_user,
            "private_key": self.ssh_key_file,
            "port": self.ssh_port if self.ssh_port != _SSH_PORT else 0,
        }
        return {name: value for name, value in parameters.items() if value}

    def remediation(self, name: str) -> Remediation | None:
        """Return the valid entry of `remediations` with this name, or None."""
        return next((entry for entry in self.remediations if entry.name == name), None)

    @property
    def without_dry_run(self) -> Config:
        """The configuration with dry_run off."""
        return replace(self, dry_run=False)

    @property
    def warnings(self) -> list[str]:
        """Sentences about valid settings that are probably mistakes."""
        if self.dry_run or self.allowed_hosts:
            return []
        return [
            "dry_run is false and allowed_hosts is empty, so no host may be changed: list the "
            'hosts in allowed_hosts, or "*" for any (before 0.3.0, an empty list meant any)'
        ]

    @property
    def authentication(self) -> list[str]:
        """The methods by which a client can authenticate; any one of them is enough."""
        kinds = {credential.kind for credential in self.all_credentials}
        methods = {
            "bearer": Kind.TOKEN in kinds,
            "basic": Kind.BASIC in kinds,
            "hmac": Kind.HMAC in kinds,
            "client certificate": self.tls_client_ca,
        }
        return [method for method, is_configured in methods.items() if is_configured]

    @property
    def journal_path(self) -> str:
        """The path of the journal's SQLite file."""
        return os.path.join(self.state_dir, "journal.sqlite")

    @property
    def tracking_url(self) -> str:
        """The SQLAlchemy URL of the tracking database."""
        return self.database_url or self.default_tracking_url

    @property
    def default_tracking_path(self) -> str:
        """The path of the SQLite file that is used if database_url is not set."""
        return os.path.join(self.state_dir, "tracking.sqlite")

    @property
    def default_tracking_url(self) -> str:
        """The SQLAlchemy URL of the default SQLite file."""
        return "sqlite:///" + self.default_tracking_path

    def other_tracking_url(self, name: str, value: str) -> str:
        """Return the SQLAlchemy URL of a database other than the tracking database.

        Args:
            name: The name of the parameter that contains the value, for the error.
            value: The word `sqlite` for the default SQLite file, or any valid database_url.

        Raises:
            ConfigError: The value is invalid, or its reference cannot be read.
        """
        if value.strip() == "sqlite":
            return self.default_tracking_url
        try:
            url = secret_references.resolve(value.strip())
            _check_database_url(url)
        except ValueError as error:
            raise ConfigError(f"{name}: {error}") from None
        return url

    @property
    def endpoint(self) -> str:
        """The URL at which actions reach the endpoint, without a trailing slash."""
        is_local = self.host in ("", "0.0.0.0", "::", "localhost")  # '' means all addresses, too
        host = "127.0.0.1" if is_local else self.host
        host = f"[{host}]" if ":" in host else host
        scheme = "https" if self.tls_certificate else "http"
        return (self.endpoint_url or f"{scheme}://{host}:{self.port}").rstrip("/")


_KEY_TYPES: dict[str, _KeyType] = {
    spec.name: spec.metadata["type"] for spec in fields(Config) if "type" in spec.metadata
}
SECRETS = tuple(name for name, key_type in _KEY_TYPES.items() if key_type.secret)


def changed_keys(before: Config, after: Config) -> list[str]:
    """Return the names of the keys that differ between two configurations."""
    changed = [name for name in _KEY_TYPES if getattr(before, name) != getattr(after, name)]
    if before.remediation_errors != after.remediation_errors and "remediations" not in changed:
        changed.append("remediations")
    return changed


def load(pack_config: dict[str, Any] | None, without: Sequence[str] = ()) -> Config:
    """Validate the configuration that StackStorm passes to a sensor or an action.

    Args:
        pack_config: The keys that are set, or None. For a null value, the default applies.
        without: Keys that the caller does not need. They are not read.

    Raises:
        ConfigError: A key is unknown, or a key or a combination of keys has an invalid value.
    """
    # StackStorm ignores unknown keys when it registers a configuration, so a misspelt key would
    # silently have no effect.
    try:
        refuse_unknown_keys(pack_config or {}, sorted(_KEY_TYPES))
    except ValueError as error:
        raise ConfigError(str(error)) from None
    set_values = {
        name: value
        for name, value in (pack_config or {}).items()
        if name not in without and value is not None
    }
    values = {name: _read(name, value) for name, value in set_values.items()}
    literal_secrets = [
        name for name, value in set_values.items() if _KEY_TYPES[name].has_literal_secret(value)
    ]
    _, errors = read_remediations(set_values.get("remediations", ()))
    config = Config(literal_secrets=tuple(literal_secrets), remediation_errors=errors, **values)
    _check_tls(config)
    if not set(CREDENTIAL_KEYS) & set(without):
        _check_authentication(config)
    return config


def is_loopback(host: str) -> bool:
    """Return True if the address is reachable only from this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _as_json(value: _Value) -> Any:
    if isinstance(value, BoardProxy):
        return value.as_json()
    if not isinstance(value, tuple):
        return value
    return [item.summary if isinstance(item, Remediation) else item for item in value]


def _read(name: str, value: Any) -> Any:
    try:
        return _KEY_TYPES[name].read(value)
    except ValueError as error:
        raise ConfigError(f"{name}: {error}") from None


def _check_tls(config: Config) -> None:
    if bool(config.tls_certificate) != bool(config.tls_key):
        missing = "tls_key" if config.tls_certificate else "tls_certificate"
        raise ConfigError(f"{missing}: must be set, because tls_certificate and tls_key are a pair")
    if config.tls_client_ca and not config.tls_certificate:
        raise ConfigError("tls_client_ca: needs tls_certificate and tls_key")


def _check_authentication(config: Config) -> None:
    """Refuse duplicate names, and an endpoint that other machines can reach without credentials."""
    try:
        credentials.check_names(config.all_credentials)
    except ValueError as error:
        raise ConfigError(f"credentials: {error}") from None
    if not is_loopback(config.host) and not config.authentication:
        raise ConfigError(
            f"host: other machines could reach {config.host} without credentials; set "
            "credentials, auth_tokens, basic_auth or tls_client_ca, or leave host at 127.0.0.1"
        )
