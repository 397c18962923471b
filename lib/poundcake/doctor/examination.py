"""Run all checks of an installation."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Callable, Mapping, Sequence

from sqlalchemy import select
from sqlalchemy.engine import Engine

from poundcake import config as pack_config
from poundcake import endpoint_client
from poundcake.config import Config, ConfigError
from poundcake.doctor import (
    clocks,
    configuration,
    endpoint_state,
    entries,
    files,
    pack_content,
    permissions,
    routing,
    rules,
    st2_settings,
    tracking_tables,
)
from poundcake.doctor.account import read_account
from poundcake.doctor.clocks import ClockReading, read_clock
from poundcake.doctor.finding import Finding, problem, unknown
from poundcake.monitoring import (
    AlertmanagerApi,
    LoadedRules,
    MonitoringError,
    alertmanagers,
    prometheus_servers,
)
from poundcake.remediation import plan
from poundcake.stackstorm import StackStorm, StackStormError, client_for_action
from poundcake.trail import clock, database, health
from poundcake.trail.database import DatabaseError
from poundcake.trail.schema import api_calls

_RECENT_REQUESTS = 1000
_NO_SERVERS = "docs/CONFIGURATION.md, Monitoring servers"


@dataclass(frozen=True)
class Examination:
    """The examination of an installation.

    Attributes:
        registered_config: The configuration as StackStorm passed it to the action.
        pack_folder: The folder of the pack on this host.
        connect: Returns a client of StackStorm's API.
    """

    registered_config: Mapping[str, Any]
    pack_folder: str
    connect: Callable[[Config], StackStorm] = client_for_action

    def run(self) -> list[Finding]:
        """Return the findings of all checks, in a fixed order."""
        config, findings = self._read_config()
        api = self.connect(config)
        engine = database.open_engine(config.tracking_url)
        try:
            return [*findings, *self._examine(config, api, engine)]
        finally:
            engine.dispose()

    def _read_config(self) -> tuple[Config, list[Finding]]:
        """Return the configuration, and why parts of it cannot be used on this host."""
        registered = dict(self.registered_config)
        secret_keys = (*pack_config.CREDENTIAL_KEYS, *pack_config.MONITORING_KEYS)
        try:
            return pack_config.load(registered), []
        except ConfigError as error:
            findings = configuration.check_error(str(error))
        try:
            return pack_config.load(registered, secret_keys), findings
        except ConfigError:
            return Config(), findings

    def _examine(self, config: Config, api: StackStorm, engine: Engine) -> list[Finding]:
        account = read_account(api)
        pack = pack_content.read_pack(api, account, self.pack_folder)
        rbac = permissions.read_rbac(api, account)
        st2_conf = st2_settings.read_st2_conf()
        readings = [read_clock("the StackStorm API", api.now)]
        if engine.dialect.name != "sqlite":  # SQLite uses the clock of this host
            readings.append(read_clock("the database", lambda: _read_database_clock(engine)))
        return [
            *self._examine_files(config),
            *configuration.check_configuration(config),
            *configuration.check_access(config),
            *_examine_endpoint(config, engine),
            *tracking_tables.check_database(tracking_tables.read_database(engine)),
            *pack_content.check_pack(pack),
            *permissions.check_rbac(rbac, bool(config.st2_api_key), st2_conf),
            *st2_settings.check_settings(st2_conf),
            *st2_settings.check_work(st2_settings.read_work(api), config.approval_minutes),
            *_examine_entries(config, api, bool(self.registered_config.get("alertmanagers"))),
            *entries.check_approvers(config, pack.user),
            *_examine_alertmanagers(config, _read_receivers(engine), readings),
            *_examine_prometheus(config, readings),
            *clocks.check_clocks(readings),
        ]

    def _examine_files(self, config: Config) -> list[Finding]:
        # StackStorm installs packs into packs/, and reads their configurations from configs/.
        base = os.path.dirname(os.path.dirname(os.path.abspath(self.pack_folder)))
        registered_file = os.path.join(base, "configs", "poundcake.yaml")
        return [
            *files.check_state_dir(config),
            *files.check_secret_files(self.registered_config),
            *files.check_configuration_file(registered_file, config.literal_secrets),
        ]


def _examine_entries(config: Config, api: StackStorm, has_alertmanagers: bool) -> list[Finding]:
    try:
        planned = plan.check_entries(config, api, has_alertmanagers)
    except StackStormError as error:
        what = f"the remediations could not be checked: {error}"
        return [unknown("remediations", what, "start st2api, then run doctor again")]
    # `check_configuration` reports the invalid entries. Without entries, no rule has to start them.
    errors = [error for error in planned["errors"] if error not in config.remediation_errors]
    return entries.check_entries({**planned, "errors": errors if config.remediations else []})


def _examine_endpoint(config: Config, engine: Engine) -> list[Finding]:
    result = endpoint_client.health(config)
    if not isinstance(result, endpoint_client.Answered):
        return endpoint_state.check_no_health(result)
    view = health.add_differences(result.document, config)
    return endpoint_state.check_health(health.add_pause(view, engine))


def _examine_alertmanagers(
    config: Config, receivers: Sequence[str], readings: list[ClockReading]
) -> list[Finding]:
    """Check each Alertmanager, and add the reading of its clock."""
    if not config.alertmanagers:
        what = "the configuration lists no Alertmanagers, so their configuration is not checked"
        return [unknown("alertmanager", what, f"list them in alertmanagers ({_NO_SERVERS})")]
    findings: list[Finding] = []
    for server in alertmanagers(config):
        findings += _examine_alertmanager(server, config, receivers, readings)
    return findings


def _examine_alertmanager(
    server: AlertmanagerApi,
    config: Config,
    receivers: Sequence[str],
    readings: list[ClockReading],
) -> list[Finding]:
    try:
        text = server.configuration()
    except MonitoringError as error:
        remedy = "start Alertmanager, or correct alertmanagers in the configuration"
        return [problem("alertmanager", str(error), remedy)]
    readings.append(read_clock(f"Alertmanager {server.url}", lambda: server.status().now))
    return routing.check_routing(text, server.url, config, receivers)


def _examine_prometheus(config: Config, readings: list[ClockReading]) -> list[Finding]:
    """Check each Prometheus, and add the reading of its clock."""
    if not config.prometheus:
        what = "the configuration lists no Prometheus, so its rules are not checked"
        return [unknown("prometheus", what, f"list it in prometheus ({_NO_SERVERS})")]
    findings: list[Finding] = []
    loaded: list[LoadedRules] = []
    for server in prometheus_servers(config):
        try:
            loaded.append(server.alerting_rules())
        except MonitoringError as error:
            remedy = "start Prometheus, or correct prometheus in the configuration"
            findings.append(problem("prometheus", str(error), remedy))
        else:
            readings.append(read_clock(f"Prometheus {server.url}", lambda: loaded[-1].now))
            findings += rules.check_rules(loaded[-1].rules, server.url)
    if loaded:
        findings += rules.check_own_alerts([rule for each in loaded for rule in each.rules])
    return findings


def _read_database_clock(engine: Engine) -> datetime:
    with database.reading(engine) as connection:
        return clock.database_now(connection)


def _read_receivers(engine: Engine) -> list[str]:
    """Return the names of the receivers in the newest recorded webhooks."""
    newest = select(api_calls.c.receiver).order_by(api_calls.c.id.desc()).limit(_RECENT_REQUESTS)
    try:
        with database.reading(engine) as connection:
            names = {str(name) for name in connection.scalars(newest) if name}
    except DatabaseError:
        return []
    # Alertmanager escapes the name as a regular expression (web\.hook).
    return sorted({*names, *(name.replace("\\", "") for name in names)})
