"""Actions, which run as root, and the sensor, which does not, share a folder and its files."""

from __future__ import annotations

import os
import pathlib
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile

import pytest
from sqlalchemy import select

from poundcake.trail import database, schema, shared_files


@pytest.fixture
def other_user():
    """Return a user other than root, or skip the test if it does not run as root."""
    if os.geteuid() != 0:
        pytest.skip("must run as root, like StackStorm's action runner")
    return pwd.getpwnam("nobody")


def test_files_created_by_root_belong_to_the_owner_of_the_folder(other_user, tmp_path):
    os.chown(str(tmp_path), other_user.pw_uid, other_user.pw_gid)
    state_dir = tmp_path / "exports" / "poundcake"
    engine = database.open_engine("sqlite:///{}".format(state_dir / "tracking.sqlite"))
    database.prepare(engine)
    with engine.connect() as connection:  # -wal and -shm exist while it is open
        connection.execute(select(schema.meta)).all()
        paths = [state_dir.parent, state_dir, *state_dir.iterdir()]
        assert len(paths) >= 3
        for path in paths:
            status = os.stat(str(path))
            assert (status.st_uid, status.st_gid) == (other_user.pw_uid, other_user.pw_gid), path


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def umask(request):
    original_umask = os.umask(request.param)
    yield request.param
    os.umask(original_umask)


def read_mode(path):
    return stat.S_IMODE(os.stat(str(path)).st_mode)


def test_other_users_cannot_access_a_folder(tmp_path, umask):
    shared_files.make_folder(str(tmp_path / "a" / "b"))
    assert read_mode(tmp_path / "a") == read_mode(tmp_path / "a" / "b") == 0o750 & ~umask


def test_only_the_owner_and_the_group_can_access_a_database(tmp_path, umask):
    engine = database.open_engine("sqlite:///{}".format(tmp_path / "tracking.sqlite"))
    database.prepare(engine)
    with engine.connect() as connection:  # -wal and -shm exist while it is open
        connection.execute(select(schema.meta)).all()
        modes = {path.name: read_mode(path) for path in tmp_path.iterdir()}
    assert modes == dict.fromkeys(
        ["tracking.sqlite", "tracking.sqlite-wal", "tracking.sqlite-shm"], 0o640
    )


@pytest.mark.parametrize(
    "before, after",
    [(0o644, 0o640), (0o666, 0o660), (0o640, 0o640), (0o660, 0o660), (0o600, 0o600)],
)
def test_other_users_lose_access_to_an_existing_database(tmp_path, before, after):
    path = tmp_path / "tracking.sqlite"
    engine = database.open_engine(f"sqlite:///{path}")
    database.prepare(engine)
    with engine.connect() as connection:
        connection.execute(select(schema.meta)).all()
        files = [path, tmp_path / "tracking.sqlite-wal", tmp_path / "tracking.sqlite-shm"]
        for file in files:
            file.chmod(before)
        database.prepare(engine)
        assert [read_mode(file) for file in files] == [after] * 3


def test_a_file_whose_mode_cannot_be_changed_is_ignored(tmp_path, monkeypatch):
    def refuse(path, mode):
        raise PermissionError(1, "Operation not permitted")

    (tmp_path / "x").write_text("")
    (tmp_path / "x").chmod(0o644)
    monkeypatch.setattr(shared_files.os, "chmod", refuse)
    shared_files.revoke_access_of_others(str(tmp_path / "x"))
    shared_files.revoke_access_of_others(str(tmp_path / "missing"))


@pytest.fixture
def reachable_folder():
    """Return a folder that other users can access, unlike pytest's tmp_path."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="poundcake-"))
    yield path
    shutil.rmtree(str(path))


def test_another_user_can_write_a_database_created_by_root(other_user, reachable_folder):
    os.chown(str(reachable_folder), other_user.pw_uid, other_user.pw_gid)
    os.chmod(str(reachable_folder), 0o755)
    path = reachable_folder / "state" / "tracking.sqlite"
    database_id = database.prepare(database.open_engine(f"sqlite:///{path}"))
    code = (
        "import os, sqlite3, sys;"
        "os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[3]));"
        "db = sqlite3.connect(sys.argv[1]);"
        "db.execute(\"UPDATE poundcake_meta SET value = value WHERE name = 'database_id'\");"
        "db.commit();"
        "print(db.execute(\"SELECT value FROM poundcake_meta WHERE name = 'database_id'\")"
        ".fetchone()[0])"
    )
    output = subprocess.check_output(
        [sys.executable, "-c", code, str(path), str(other_user.pw_gid), str(other_user.pw_uid)],
        universal_newlines=True,
    )
    assert output.strip() == database_id
