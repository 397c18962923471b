"""The audit for known vulnerabilities never reports an unchecked package as safe."""

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
    """Return a function that audits a given output of pip-audit, and returns (code, report)."""
    spec = importlib.util.spec_from_file_location("audit", str(PATH))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    class Response:
        close = staticmethod(lambda: None)

    def run_audit(output, code=0, online=True):
        def urlopen(*_, **__):
            if not online:
                raise urllib.error.URLError("no route")
            return Response()

        def run(*command):
            is_installation = "venv.py" in command[1]
            stdout = "" if is_installation else output
            exit_code = 0 if is_installation else code
            return subprocess.CompletedProcess(command, exit_code, stdout, "an error\n")

        monkeypatch.setattr(module.urllib.request, "urlopen", urlopen)
        monkeypatch.setattr(module, "run", run)
        return module.audit()

    return run_audit


def make_report(**fields):
    return json.dumps({"dependencies": [{"name": "requests", "version": "2.0", **fields}]})


def test_a_package_without_known_vulnerabilities_passes(audit):
    assert audit(make_report(vulns=[])) == (0, "packages: 1, known vulnerabilities: 0")


def test_a_known_vulnerability_is_named(audit):
    code, report = audit(make_report(vulns=[{"id": "PYSEC-1"}]), 1)
    assert code == 1
    assert "requests 2.0: PYSEC-1" in report


def test_a_package_that_could_not_be_checked_is_named(audit):
    assert audit(make_report(skip_reason="not found")) == (3, "not found: requests")


@pytest.mark.parametrize("output", ["", '{"dependencies": []}'])
def test_an_audit_without_a_result_is_inconclusive(audit, output):
    assert audit(output, 1).code == 3


def test_an_offline_audit_is_inconclusive(audit):
    code, report = audit(make_report(vulns=[]), online=False)
    assert code == 3
    assert "does not answer" in report
