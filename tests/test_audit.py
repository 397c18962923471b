"""The check for known vulnerabilities: what is not known is never called good."""

import importlib.util
import json
import pathlib
import subprocess
import urllib.error

import pytest

PATH = pathlib.Path(__file__).parent.parent / "scripts" / "audit.py"


@pytest.fixture
def audit(monkeypatch):
    """audit(what pip-audit prints): (the code that the check ends with)."""
    spec = importlib.util.spec_from_file_location("audit", str(PATH))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    class Answer:
        close = staticmethod(lambda: None)

    def ended(printed, code=0, online=True):
        def ask(*_, **__):
            if not online:
                raise urllib.error.URLError("no route")
            return Answer()

        def run(*command):
            made = "venv.py" in command[1]
            out = "" if made else printed
            return subprocess.CompletedProcess(command, 0 if made else code, out, "went wrong\n")

        monkeypatch.setattr(module.urllib.request, "urlopen", ask)
        monkeypatch.setattr(module, "run", run)
        with pytest.raises(SystemExit) as caught:
            module.main()
        return caught.value.code

    return ended


def found(**more):
    return json.dumps({"dependencies": [dict({"name": "requests", "version": "2.0"}, **more)]})


def test_none_is_known(audit, capsys):
    assert audit(found(vulns=[])) == 0
    assert "1 packages, 0 known vulnerabilities" in capsys.readouterr().out


def test_one_is_known(audit, capsys):
    assert audit(found(vulns=[{"id": "PYSEC-1"}]), 1) == 1
    assert "requests 2.0: PYSEC-1" in capsys.readouterr().out


def test_one_that_could_not_be_looked_up(audit, capsys):
    assert audit(found(skip_reason="not found")) == 3
    assert "not found: requests" in capsys.readouterr().out


@pytest.mark.parametrize("printed", ["", '{"dependencies": []}'])
def test_nothing_was_looked_up(audit, printed):
    assert audit(printed, 1) == 3


def test_offline(audit, capsys):
    assert audit(found(vulns=[]), online=False) == 3
    assert "does not answer" in capsys.readouterr().out
