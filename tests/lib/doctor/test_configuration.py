"""Mistakes in the configuration are found."""

from __future__ import annotations

from poundcake.config import load
from poundcake.doctor import configuration
from poundcake.doctor.finding import Status

TOKEN = "a-token-of-many-characters"


def check(**keys):
    """Return {status: what} of the findings about a configuration."""
    findings = configuration.check_configuration(load(keys))
    return {finding.status.value: finding.what for finding in findings}


def test_the_default_configuration_is_ok():
    findings = configuration.check_configuration(load({}))
    assert [finding.status for finding in findings] == [Status.OK, Status.OK]
    assert findings[1].what == "dry_run is true, so nothing is changed"


def test_an_empty_list_of_hosts_without_dry_run_is_a_warning():
    assert "allowed_hosts is empty" in check(dry_run=False)["warning"]


def test_an_invalid_remediation_is_a_problem():
    assert "broken" in check(remediations=[{"name": "broken"}])["problem"]


def test_a_secret_in_plain_text_is_a_warning(tmp_path):
    assert "auth_tokens contains a secret" in check(auth_tokens=[TOKEN])["warning"]
    path = tmp_path / "token"
    path.write_text(TOKEN)
    assert "warning" not in check(auth_tokens=[f"file:{path}"])


def test_credentials_that_cross_the_network_need_tls(tmp_path):
    (finding,) = configuration.check_access(load({"host": "0.0.0.0", "auth_tokens": [TOKEN]}))
    assert finding.status is Status.WARNING
    assert "without TLS" in finding.what
    (finding,) = configuration.check_access(load({"auth_tokens": [TOKEN]}))
    assert (finding.status, finding.what) == (
        Status.OK,
        "the endpoint requires a credential (bearer)",
    )
    (finding,) = configuration.check_access(load({}))
    assert "only this host can reach it" in finding.what


def test_an_unusable_configuration_names_the_key_and_the_command():
    (finding,) = configuration.check_error("port: must be a whole number from 1 to 65535")
    assert finding.status is Status.PROBLEM
    assert finding.what.startswith("port: ") and "--register-configs" in finding.remedy
