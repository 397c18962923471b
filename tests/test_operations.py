"""The commands in docs/OPERATIONS.md do what the page says."""

from __future__ import annotations

import configparser
import re
import shutil

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
    return documents.find_block(PAGE, "sh", text)


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
    documents.run_commands(find_commands(".backup("), replacements)
    assert (backups / "poundcake.sqlite").stat().st_mode & 0o077 == 0
    record(engine, alert("After"))
    # A restored file must not be combined with the log of the file that it replaces.
    (tmp_path / "tracking.sqlite-wal").write_bytes(b"left over")
    documents.run_commands(find_commands("tracking.sqlite-wal"), replacements)
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
    documents.run_commands(find_commands("mariadb-dump"), replacements)
    record(engine, alert("After"))
    documents.run_commands(find_commands("mariadb poundcake <"), replacements)
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


def test_the_configuration_and_the_secrets_can_be_restored_on_a_new_machine(tmp_path, backups):
    old, new = tmp_path / "old", tmp_path / "new"
    for name in ("configs", "exports/poundcake", "overrides"):
        (old / name).mkdir(parents=True)
    new.mkdir()
    contents = {
        "configs/poundcake.yaml": "auth_tokens: [file:token]",
        "exports/poundcake/token": "secret",
        "overrides/poundcake.yaml": "rules: {}",
    }
    for name, text in contents.items():
        (old / name).write_text(text)
        (old / name).chmod(0o600)
    (old / "configs" / "other.yaml").touch()
    for name in ("tracking.sqlite", "journal.sqlite-wal", "journal.sqlite.corrupt-1"):
        (old / "exports" / "poundcake" / name).touch()
    backup, restore = find_commands("tar -czf"), find_commands("tar -xzpf")
    documents.run_commands(backup, {"/opt/stackstorm": str(old), "/var/backups": str(backups)})
    archive = backups / "poundcake-config.tar.gz"
    assert archive.stat().st_mode & 0o077 == 0
    documents.run_commands(restore, {"/opt/stackstorm": str(new), "/var/backups": str(backups)})
    restored = {str(p.relative_to(new)): p.read_text() for p in new.rglob("*") if p.is_file()}
    assert restored == contents, "neither databases nor other packs"
    assert (new / "exports" / "poundcake" / "token").stat().st_mode & 0o777 == 0o600
    # Most installations have no overrides.
    (old / "overrides" / "poundcake.yaml").unlink()
    documents.run_commands(backup, {"/opt/stackstorm": str(old), "/var/backups": str(backups)})


def test_the_commands_of_the_uninstallation_delete_all_data(tmp_path):
    block = documents.find_block(documents.ROOT / "docs" / "INSTALL.md", "sh", "rm -r ")
    names = (
        "opt/stackstorm/exports/poundcake/journal.sqlite",
        "opt/stackstorm/exports/poundcake/token",
        "opt/stackstorm/configs/poundcake.yaml",
        "opt/stackstorm/configs/other.yaml",
        "opt/stackstorm/overrides/poundcake.yaml",
        "etc/alertmanager/poundcake.token",
        "etc/prometheus/poundcake.token",
        "etc/prometheus/poundcake.rules.yml",
        "var/backups/poundcake.sqlite",
        "var/backups/poundcake.sql",
        "var/backups/poundcake-config.tar.gz",
    )
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    documents.run_commands(block, {" /": f" {tmp_path}/"})
    files = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()]
    assert files == ["opt/stackstorm/configs/other.yaml"]


def test_the_uninstallation_deletes_each_file_that_the_documents_create():
    block = documents.find_block(documents.ROOT / "docs" / "INSTALL.md", "sh", "rm -r ")
    deleted = [word for word in block.split() if word.startswith("/")]
    created = re.compile(
        r"(?:> ?|-czf |connect\(\"|-o prometheus \S+ )(/(?:opt|etc|var)/[\w./$-]+)"
    )
    paths = {
        path
        for page in documents.DOCUMENTS
        for commands in documents.find_code_blocks(page, "sh")
        for path in created.findall(commands)
    }
    assert len(paths) > 5
    assert [path for path in sorted(paths) if not path.startswith(tuple(deleted))] == []
