"""Root's actions and the sensor's user share a folder, whichever of them creates it."""

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
def other(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("needs root, as StackStorm's action runner is")
    return pwd.getpwnam("nobody")


def test_what_root_creates_belongs_to_the_owner_of_the_folder(other, tmp_path):
    os.chown(str(tmp_path), other.pw_uid, other.pw_gid)
    state = tmp_path / "exports" / "poundcake"
    engine = database.open_engine("sqlite:///{}".format(state / "tracking.sqlite"))
    database.prepare(engine)
    with engine.connect() as connection:  # -wal and -shm are there while it is open
        connection.execute(select(schema.meta)).all()
        made = [state.parent, state, *state.iterdir()]
        assert len(made) >= 3
        for path in made:
            found = os.stat(str(path))
            assert (found.st_uid, found.st_gid) == (other.pw_uid, other.pw_gid), path


def test_a_folder_is_not_open_to_the_world(tmp_path):
    shared_files.make_folder(str(tmp_path / "a" / "b"))
    assert stat.S_IMODE(os.stat(str(tmp_path / "a" / "b")).st_mode) & 0o007 == 0


@pytest.fixture
def open_to_all():
    """A folder that others reach, which pytest's own are not."""
    found = pathlib.Path(tempfile.mkdtemp(prefix="poundcake-"))
    yield found
    shutil.rmtree(str(found))


def test_the_other_user_can_write_what_root_created(other, open_to_all):
    os.chown(str(open_to_all), other.pw_uid, other.pw_gid)
    os.chmod(str(open_to_all), 0o755)
    path = open_to_all / "state" / "tracking.sqlite"
    first = database.prepare(database.open_engine(f"sqlite:///{path}"))
    code = (
        "import os, sqlite3, sys;"
        "os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[3]));"
        "db = sqlite3.connect(sys.argv[1]);"
        "db.execute(\"UPDATE poundcake_meta SET value = value WHERE name = 'database_id'\");"
        "db.commit();"
        "print(db.execute(\"SELECT value FROM poundcake_meta WHERE name = 'database_id'\")"
        ".fetchone()[0])"
    )
    found = subprocess.check_output(
        [sys.executable, "-c", code, str(path), str(other.pw_gid), str(other.pw_uid)],
        universal_newlines=True,
    )
    assert found.strip() == first
