"""The commands in docs/OPERATIONS.md do what the page says."""

from __future__ import annotations

import configparser
import shutil
import subprocess

import pytest
import sqlalchemy

from poundcake.trail import database
from poundcake.trail.database import tables
from tests import documents
from tests.lib.samples import alert
from tests.lib.trails import record

PAGE = documents.ROOT / "docs" / "OPERATIONS.md"
# The options of StackStorm 3.8 and 3.9 (conf/st2.conf.sample) that the page sets.
ST2_OPTIONS = {
    "scheduler": {"sleep_interval"},
    "garbagecollector": {
        "action_executions_ttl",
        "workflow_executions_ttl",
        "task_executions_ttl",
        "trigger_instances_ttl",
        "rule_enforcements_ttl",
        "traces_ttl",
        "tokens_ttl",
    },
}


def find_commands(text):
    """Return the one block of shell commands on the page that contains this text."""
    (block,) = [b for b in documents.find_code_blocks(PAGE, "sh") if text in b]
    return block


def run_commands(block, replacements):
    """Run a block in a shell, without the commands for the sensor."""
    lines = [line for line in block.splitlines() if not line.startswith("st2 ")]
    commands = "\n".join(lines)
    for old, new in replacements.items():
        commands = commands.replace(old, new)
    subprocess.run(["sh", "-eu"], input=commands.encode(), check=True)


def count_alerts(url):
    engine = sqlalchemy.create_engine(url)
    try:
        with engine.connect() as connection:
            return connection.scalar(sqlalchemy.text("SELECT COUNT(*) FROM poundcake_alerts"))
    finally:
        engine.dispose()


@pytest.fixture
def backups(tmp_path):
    """Return the folder that stands for /var/backups."""
    folder = tmp_path / "backups"
    folder.mkdir()
    return folder


def test_a_backup_of_sqlite_can_be_restored(tmp_path, backups):
    replacements = {
        "/opt/stackstorm/exports/poundcake": str(tmp_path),
        "/var/backups": str(backups),
        "-o st2 -g st2 ": "",
    }
    url = f"sqlite:///{tmp_path / 'tracking.sqlite'}"
    engine = database.open_engine(url)
    tables.prepare(engine)
    record(engine, alert("Before"))
    run_commands(find_commands(".backup("), replacements)
    assert (backups / "poundcake.sqlite").stat().st_mode & 0o077 == 0
    record(engine, alert("After"))
    # A restored file must not be combined with the log of the file that it replaces.
    (tmp_path / "tracking.sqlite-wal").write_bytes(b"left over")
    run_commands(find_commands("tracking.sqlite-wal"), replacements)
    assert count_alerts(url) == 1
    record(engine, alert("After"))
    assert count_alerts(url) == 2


@pytest.mark.parametrize("database_url", ["mariadb"], indirect=True)
def test_a_backup_of_mariadb_can_be_restored(database_url, backups):
    if not (shutil.which("mariadb-dump") and shutil.which("mariadb")):
        pytest.skip("the clients of MariaDB are not installed")
    url = sqlalchemy.make_url(database_url)
    options = f"-h{url.host} -P{url.port} -u{url.username} -p{url.password}"
    replacements = {
        "/var/backups/poundcake.sql": str(backups / "dump.sql"),
        "mariadb-dump --single-transaction poundcake": f"mariadb-dump {options}"
        f" --single-transaction {url.database}",
        "mariadb poundcake": f"mariadb {options} {url.database}",
    }
    engine = database.open_engine(database_url)
    tables.prepare(engine)
    record(engine, alert("Before"))
    run_commands(find_commands("mariadb-dump"), replacements)
    record(engine, alert("After"))
    run_commands(find_commands("mariadb poundcake <"), replacements)
    assert count_alerts(database_url) == 1
    record(engine, alert("After"))
    assert count_alerts(database_url) == 2
    engine.dispose()


def test_the_options_of_stackstorm_exist():
    (block,) = documents.find_code_blocks(PAGE, "ini")
    parser = configparser.ConfigParser()
    parser.read_string(block)
    options = {name: set(parser[name]) for name in parser.sections()}
    assert options == ST2_OPTIONS
    values = [float(value) for name in options for value in parser[name].values()]
    assert min(values) > 0


def test_the_commands_of_the_uninstallation_delete_all_data(tmp_path):
    (block,) = [
        b
        for b in documents.find_code_blocks(documents.ROOT / "docs" / "INSTALL.md", "sh")
        if b.startswith("rm -r ")
    ]
    for name in ("exports/poundcake", "configs", "overrides"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "exports" / "poundcake" / "journal.sqlite").touch()
    (tmp_path / "configs" / "poundcake.yaml").touch()
    (tmp_path / "configs" / "other.yaml").touch()
    run_commands(block, {"/opt/stackstorm": str(tmp_path)})
    files = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()]
    assert files == ["configs/other.yaml"]
