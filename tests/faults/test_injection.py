"""A misspelt hook or setting is reported, so that no fault silently fails to occur."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.faults import injection
from tests.faults.world import HERE, ROOT, SETTINGS


def run_code(tmp_path, settings, code):
    """Run code in a process with the hooks installed and the settings changed."""
    for name in ("armed", "hit", "while"):
        (tmp_path / name).mkdir()
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    path = [str(HERE / "inject"), str(ROOT / "lib"), str(ROOT), str(ROOT / "standalone" / "st2")]
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=str(ROOT),
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(path), FAULTS_DIR=str(tmp_path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )


def test_every_hook_and_setting_exists(tmp_path):
    injection.check(SETTINGS)
    modules = ", ".join([*injection.load_hooks(), *SETTINGS])
    code = f"import {modules}; print(poundcake.endpoint.retry.RECORD_WAIT)"
    result = run_code(tmp_path, SETTINGS, code)
    assert (result.returncode, result.stdout) == (0, "4\n")


@pytest.mark.parametrize(
    "settings",
    [{"poundcake.endpoint.relay": {}}, {"poundcake.endpoint.retry": {"RECORD_WAITS": 4}}],
)
def test_a_misspelt_setting_is_an_error(settings):
    with pytest.raises(injection.UnknownNameError, match="relay|RECORD_WAITS"):
        injection.check(settings)


def test_a_misspelt_hook_is_an_error(tmp_path):
    code = (
        "import sitecustomize, types;"
        " sitecustomize.wrap(types.SimpleNamespace(), 'missing', 'failpoint')"
    )
    result = run_code(tmp_path, {}, code)
    assert result.returncode == 1 and "'missing'" in result.stdout
