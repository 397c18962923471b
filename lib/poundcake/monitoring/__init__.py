"""Query the monitoring servers: what Alertmanager holds, and what Prometheus evaluates.

Only actions use this package. `monitoring.api` defines the interfaces and their types, and the
other modules implement them over HTTP.
"""

from __future__ import annotations

from poundcake.config import Config
from poundcake.monitoring.alertmanager import Alertmanager
from poundcake.monitoring.api import (
    AlertingRule,
    AlertmanagerApi,
    AlertmanagerStatus,
    AlertReading,
    AlertRule,
    AlertState,
    HeldAlert,
    LoadedRules,
    Matcher,
    MonitoringError,
    PrometheusApi,
    Sample,
    Silence,
    SilenceState,
)
from poundcake.monitoring.prometheus import Prometheus

__all__ = [
    "AlertReading",
    "AlertRule",
    "AlertState",
    "AlertingRule",
    "Alertmanager",
    "AlertmanagerApi",
    "AlertmanagerStatus",
    "HeldAlert",
    "LoadedRules",
    "Matcher",
    "MonitoringError",
    "Prometheus",
    "PrometheusApi",
    "Sample",
    "Silence",
    "SilenceState",
    "alertmanagers",
    "prometheus_servers",
]


def alertmanagers(config: Config) -> list[AlertmanagerApi]:
    """Return a client for each entry of the key `alertmanagers`."""
    return [Alertmanager(server) for server in config.alertmanagers]


def prometheus_servers(config: Config) -> list[PrometheusApi]:
    """Return a client for each entry of the key `prometheus`."""
    return [Prometheus(server) for server in config.prometheus]
