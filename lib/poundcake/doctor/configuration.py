"""Check the configuration."""

from __future__ import annotations

from poundcake.config import Config, is_loopback
from poundcake.doctor.finding import Finding, ok, problem, warning

_RELOAD = (
    "correct /opt/stackstorm/configs/poundcake.yaml, then run: st2ctl reload --register-configs"
)


def check_error(error: str) -> list[Finding]:
    """Report a configuration that cannot be used, or of which a secret cannot be read here."""
    return [problem("configuration", error, _RELOAD)]


def check_configuration(config: Config) -> list[Finding]:
    """Check a valid configuration for settings that are probably mistakes."""
    findings = [
        *[problem("configuration", text, _RELOAD) for text in config.remediation_errors],
        *[warning("configuration", text, _RELOAD) for text in config.warnings],
        *[
            warning(
                "configuration",
                f"{key} contains a secret in plain text, which the process list shows",
                "write it into a file, and use file:/path (docs/INSTALL.md)",
            )
            for key in config.literal_secrets
        ],
    ]
    return [*(findings or [ok("configuration", "the configuration is valid")]), _check_mode(config)]


def check_access(config: Config) -> list[Finding]:
    """Check who can reach the endpoint, and with which credentials."""
    check = "configuration.access"
    methods = ", ".join(config.authentication)
    if methods and (is_loopback(config.host) or config.tls_certificate):
        return [ok(check, f"the endpoint requires a credential ({methods})")]
    if methods:
        return [
            warning(
                check,
                f"other machines reach the endpoint at {config.host} without TLS, so that its "
                "credentials can be read on the network",
                "set tls_certificate and tls_key (docs/INSTALL.md), or let a proxy encrypt",
            )
        ]
    return [ok(check, "the endpoint requires no credential, and only this host can reach it")]


def _check_mode(config: Config) -> Finding:
    mode = "dry_run is true, so nothing is changed" if config.dry_run else "dry_run is false"
    return ok("configuration.mode", mode)
