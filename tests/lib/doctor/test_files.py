"""Files that other users can read or change are found."""

from __future__ import annotations

import os

import pytest

from poundcake.config import Config
from poundcake.doctor import files
from poundcake.doctor.finding import Status


@pytest.fixture
def config(tmp_path):
    """Return a configuration whose folder and files have the modes that the pack creates."""
    folder = tmp_path / "state"
    folder.mkdir(mode=0o750)
    for name in ("journal.sqlite", "journal.sqlite-wal", "tracking.sqlite"):
        (folder / name).touch()
        (folder / name).chmod(0o640)
    return Config(state_dir=str(folder))


def find_problems(findings):
    return [(f.what, f.remedy) for f in findings if f.status is Status.PROBLEM]


def test_the_modes_that_the_pack_creates_are_ok(config):
    (finding,) = files.check_state_dir(config)
    assert finding.status is Status.OK
    assert config.state_dir in finding.what


@pytest.mark.parametrize("mode, verb", [(0o644, "read"), (0o660, "change"), (0o666, "change")])
@pytest.mark.parametrize("name", ["journal.sqlite", "journal.sqlite-wal", "tracking.sqlite"])
def test_a_database_that_others_can_use_is_a_problem(config, name, mode, verb):
    path = os.path.join(config.state_dir, name)
    os.chmod(path, mode)
    ((what, remedy),) = find_problems(files.check_state_dir(config))
    assert what == f"other users can {verb} {path}"
    assert remedy == f"run: chmod 640 {path}"


def test_a_folder_that_others_can_use_is_a_problem(config):
    os.chmod(config.state_dir, 0o755)
    ((what, remedy),) = find_problems(files.check_state_dir(config))
    assert what == f"other users can read {config.state_dir}"
    assert remedy == f"run: chmod 750 {config.state_dir}"


def test_a_folder_on_another_host_is_unknown(tmp_path):
    (finding,) = files.check_state_dir(Config(state_dir=str(tmp_path / "missing")))
    assert finding.status is Status.UNKNOWN
    assert "does not exist on this host" in finding.what


def test_each_referenced_secret_file_is_checked(tmp_path):
    paths = {name: tmp_path / name for name in ("token", "key", "password", "url")}
    for path in paths.values():
        path.write_text("secret")
        path.chmod(0o600)
    configuration = {
        "auth_tokens": [f"file:{paths['token']}"],
        "tls_key": str(paths["key"]),
        "alertmanagers": [{"url": "http://x", "basic": f"file:{paths['password']}"}],
        "database_url": f"file:{paths['url']}",
        "host": "127.0.0.1",
    }
    (finding,) = files.check_secret_files(configuration)
    assert finding.status is Status.OK
    for path in paths.values():
        path.chmod(0o604)
        ((what, remedy),) = find_problems(files.check_secret_files(configuration))
        assert str(path) in what and str(path) in remedy
        path.chmod(0o600)


def test_without_secret_files_nothing_is_reported():
    assert files.check_secret_files({"auth_tokens": ["env:TOKEN"], "port": 8000}) == []


def test_a_readable_configuration_is_a_problem_only_if_it_contains_a_secret(tmp_path):
    path = tmp_path / "poundcake.yaml"
    path.write_text("auth_tokens: [x]")
    path.chmod(0o644)
    assert files.check_configuration_file(str(path), ()) == []
    ((what, _),) = find_problems(files.check_configuration_file(str(path), ("auth_tokens",)))
    assert what == f"other users can read {path}"
