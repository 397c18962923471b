"""The audit of known vulnerabilities never reports an unchecked package as safe."""

from __future__ import annotations

import importlib.util
import json
import pathlib
import subprocess
import urllib.error

import pytest

PATH = pathlib.Path(__file__).parent.parent / "scripts" / "audit.py"


@pytest.fixture
def audit(monkeypatch):
    """Return a function that audits with given output of pip-audit and returns (code, report)."""
    spec = importlib.util.spec_from_file_location("audit", str(PATH))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    class Answer:
        close = staticmethod(lambda: None)

    def audited(printed, code=0, online=True):
        def urlopen(*_, **__):
            if not online:
                raise urllib.error.URLError("no route")
            return Answer()

        def run(*command):
            installs = "venv.py" in command[1]
            out = "" if installs else printed
            exit_code = 0 if installs else code
            return subprocess.CompletedProcess(command, exit_code, out, "went wrong\n")

        monkeypatch.setattr(module.urllib.request, "urlopen", urlopen)
        monkeypatch.setattr(module, "run", run)
        return module.audit()

    return audited


def report_of(**more):
    return json.dumps({"dependencies": [{"name": "requests", "version": "2.0", **more}]})


def test_no_known_vulnerability(audit):
    assert audit(report_of(vulns=[])) == (0, "1 packages, 0 known vulnerabilities")


def test_a_known_vulnerability_is_named(audit):
    code, report = audit(report_of(vulns=[{"id": "PYSEC-1"}]), 1)
    assert code == 1
    assert "requests 2.0: PYSEC-1" in report


def test_a_package_that_could_not_be_checked(audit):
    assert audit(report_of(skip_reason="not found")) == (3, "not found: requests")


@pytest.mark.parametrize("printed", ["", '{"dependencies": []}'])
def test_an_audit_without_a_result(audit, printed):
    assert audit(printed, 1).code == 3


def test_an_audit_offline(audit):
    code, report = audit(report_of(vulns=[]), online=False)
    assert code == 3
    assert "does not answer" in report
