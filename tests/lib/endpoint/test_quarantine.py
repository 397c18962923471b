"""The readable requests of a damaged journal are kept, and its file is quarantined."""

from __future__ import annotations

import os
import random
import re
import resource
import shutil
import signal
import sqlite3
import time

import pytest

from poundcake.endpoint import quarantine
from poundcake.endpoint.journal import Journal, JournalError
from poundcake.endpoint.journal_schema import VERSION, select_one
from tests.lib.endpoint.test_journal import RUNTIMES, accept, load, start_process

PAGE_BYTES = 4096
REQUEST_COUNT = 120


@pytest.fixture(scope="module")
def intact_journal(tmp_path_factory):
    """Return the path of a journal with requests in all states, and its rows by id."""
    path = str(tmp_path_factory.mktemp("intact") / "journal.sqlite")
    journal, generator = Journal(path), random.Random(5)
    for _ in range(REQUEST_COUNT):
        # Some bodies fit into a page, others need overflow pages.
        accept(journal, "x" * generator.choice([10, 300, 2000, 9000]))
    entries = [entry.id for entry in journal.next_fresh_batch(REQUEST_COUNT)]
    journal.mark_announced(entries, "the-batch")
    journal.mark_missed(entries[:90], 300, 3)
    journal.mark_recorded(entries[:60])
    journal.mark_emitted(entries[:45], 777, 888)
    journal.mark_done(entries[:30])
    rows = read_rows(journal)
    journal.close()
    assert len(rows) == REQUEST_COUNT
    return path, rows


@pytest.fixture
def path(intact_journal, tmp_path):
    """Return the path of a copy that a test may damage."""
    return shutil.copy(intact_journal[0], str(tmp_path / "journal.sqlite"))


def read_rows(journal):
    return journal._file.run(read_all)


def read_all(connection):
    """Return {id: request with its body} for each request that plain SQL can read."""
    requests = {}
    for number in range(1, REQUEST_COUNT + 1):
        try:
            for row in connection.execute(select_one(VERSION), (number,)):
                requests[number] = tuple(row)
        except sqlite3.DatabaseError:
            pass
    return requests


def readable_ids(path, rows):
    """Return the ids of the unchanged requests that SQLite can read one by one."""
    connection = sqlite3.connect(path)
    requests = read_all(connection)
    connection.close()
    return {number for number, row in requests.items() if row == rows[number]}


def write_page(path, page, data):
    with open(path, "r+b") as file:
        file.seek((page - 1) * PAGE_BYTES)
        file.write(data)


def find_pages_of_requests(path):
    """Return the numbers of the pages that contain requests or bodies."""
    with open(path, "rb") as file:
        data = file.read()
    pages = range(1, len(data) // PAGE_BYTES + 1)
    markers = (b"/api/v1/webhook", b"x" * 200)  # of requests and of bodies
    return [
        p
        for p in pages
        if any(marker in data[(p - 1) * PAGE_BYTES : p * PAGE_BYTES] for marker in markers)
    ]


def file_names(path):
    return sorted(os.listdir(os.path.dirname(path)))


def find_root_pages(path):
    """Return {name: number of its root page} for each table and index."""
    connection = sqlite3.connect(path)
    pages = dict(connection.execute("SELECT name, rootpage FROM sqlite_master"))
    connection.close()
    return pages


class TestSavedRequests:
    """The readable requests keep their state, and the report counts the missing ones."""

    def check_quarantine(self, path, rows, expected_ids, journal):
        """Assert that the journal has only these requests, and return the report."""
        assert read_rows(journal) == {i: rows[i] for i in expected_ids}
        (report,) = quarantine.read_reports(path)
        assert report.saved == len(expected_ids)
        assert load(journal, accept(journal, "new")).body == "new"
        journal.close()
        assert re.search(r"journal\.sqlite\.corrupt-\d{8}T\d{6}Z$", report.file)
        assert os.path.exists(report.file)
        quarantined_name = os.path.basename(report.file)
        assert file_names(path) == [
            "journal.sqlite",
            quarantined_name,
            quarantined_name + ".json",
            "journal.sqlite.lock",
        ]
        return report

    @pytest.mark.parametrize("data", [bytes, os.urandom], ids=["zeros", "noise"])
    @pytest.mark.parametrize("count", [1, 8])
    def test_requests_around_overwritten_pages_are_saved(self, intact_journal, path, count, data):
        for page in random.Random(count).sample(find_pages_of_requests(path), count):
            write_page(path, page, data(PAGE_BYTES))
        expected_ids = readable_ids(path, intact_journal[1])
        assert 0 < len(expected_ids) < REQUEST_COUNT
        # Pass the damage, as the endpoint does, because opening the file may miss a damaged page.
        report = self.check_quarantine(
            path, intact_journal[1], expected_ids, Journal(path, "it was overwritten")
        )
        assert report.reason == "it was overwritten"
        assert report.unread_bytes >= count * PAGE_BYTES / 2
        assert report.lost == REQUEST_COUNT - len(expected_ids)

    @pytest.mark.parametrize("name", ["sqlite_autoindex_requests_1", "ix_requests_due"])
    def test_all_requests_are_saved_if_an_index_is_damaged(self, intact_journal, path, name):
        write_page(path, find_root_pages(path)[name], bytes(PAGE_BYTES))
        report = self.check_quarantine(
            path, intact_journal[1], set(intact_journal[1]), Journal(path, "an index is damaged")
        )
        assert report.lost == 0

    def test_requests_in_a_truncated_file_are_saved(self, intact_journal, path):
        os.truncate(path, int(os.path.getsize(path) * 0.7) // PAGE_BYTES * PAGE_BYTES)
        journal = Journal(path)
        saved_ids = set(read_rows(journal))
        assert saved_ids < set(intact_journal[1])
        self.check_quarantine(path, intact_journal[1], saved_ids, journal)

    @pytest.mark.parametrize("data", [bytes, os.urandom], ids=["zeros", "noise"])
    def test_a_file_without_its_first_page_is_kept_and_nothing_is_saved(
        self, intact_journal, path, data
    ):
        write_page(path, 1, data(PAGE_BYTES))
        damaged_bytes = open(path, "rb").read()
        report = self.check_quarantine(path, intact_journal[1], set(), Journal(path))
        assert report.unread_bytes == len(damaged_bytes)
        assert open(report.file, "rb").read() == damaged_bytes

    def test_the_loss_is_counted_if_the_table_is_unreadable(self, intact_journal, path):
        size = os.path.getsize(path)
        write_page(path, find_root_pages(path)["requests"], bytes(PAGE_BYTES))
        report = self.check_quarantine(
            path, intact_journal[1], set(), Journal(path, "the table is damaged")
        )
        assert (report.lost, report.unread_bytes) == (REQUEST_COUNT, size)

    def test_a_file_that_is_not_a_database_is_kept(self, intact_journal, path):
        text = b"this is not a database, but long enough to look like one" * 200
        with open(path, "wb") as file:
            file.write(text)
        report = self.check_quarantine(path, intact_journal[1], set(), Journal(path))
        assert open(report.file, "rb").read() == text
        assert "not a database" in report.reason
        assert report.unread_bytes == len(text)

    @pytest.mark.parametrize(
        "script",
        [
            "CREATE TABLE entries (a, b)",
            "CREATE TABLE entries (id, request_id, state); PRAGMA user_version = 1",
            "CREATE TABLE others (a, b); PRAGMA user_version = 1",
            "CREATE TABLE others (a, b); PRAGMA user_version = 2",
            "CREATE TABLE journal (endpoint_id, clock); PRAGMA user_version = 2",
        ],
    )
    def test_a_database_that_is_not_a_journal_is_kept(self, intact_journal, path, script):
        os.remove(path)
        connection = sqlite3.connect(path)
        connection.executescript(script)
        connection.close()
        self.check_quarantine(path, intact_journal[1], set(), Journal(path))

    def test_others_cannot_access_the_quarantined_files(self, intact_journal, path, tmp_path):
        with open(path, "wb") as file:
            file.write(b"this is not a database, but long enough to look like one" * 200)
        os.chmod(path, 0o644)
        old_umask = os.umask(0)
        try:
            Journal(path).close()
        finally:
            os.umask(old_umask)
        modes = {file.name: oct(file.stat().st_mode & 0o007) for file in tmp_path.iterdir()}
        assert len(modes) >= 3 and set(modes.values()) == {"0o0"}

    @pytest.mark.parametrize("main_file", ["missing", "empty"])
    def test_a_wal_file_without_its_main_file_is_kept(self, path, main_file, tmp_path):
        """When SQLite opens an empty main file, it deletes the -wal file."""
        other_path = str(tmp_path / "other" / "journal.sqlite")
        os.mkdir(os.path.dirname(other_path))
        journal = Journal(other_path)
        accept(journal, "only in the -wal")
        os.remove(path)
        shutil.copy(other_path + "-wal", path + "-wal")
        journal.close()
        if main_file == "empty":
            open(path, "wb").close()
        Journal(path).close()
        (report,) = quarantine.read_reports(path)
        with open(report.file + "-wal", "rb") as file:
            assert b"only in the -wal" in file.read()
        assert report.unread_bytes > PAGE_BYTES

    def test_a_request_whose_body_was_changed_is_lost(self, intact_journal, path):
        data = open(path, "rb").read()
        offset = data.index(b"x" * 3000)
        with open(path, "r+b") as file:
            file.seek(offset + 100)
            file.write(b"y")
        assert (
            self.check_all_but_one(
                intact_journal, path, Journal(path, "reported by an operator")
            ).lost
            == 1
        )

    @pytest.mark.parametrize("text", [b"\xff\xfe", b"?!"], ids=["no text", "no JSON"])
    def test_an_unreadable_request_does_not_block_the_others(self, intact_journal, path, text):
        """SQLite itself can read the row."""
        connection = sqlite3.connect(path)
        connection.execute(
            "UPDATE requests SET headers = CAST(? AS TEXT) WHERE id = ?", (text, REQUEST_COUNT)
        )
        connection.commit()
        connection.close()
        journal = Journal(path)
        with pytest.raises(JournalError):
            journal.load_requests(journal.announced())
        assert journal.is_damaged
        with pytest.raises(JournalError):
            accept(journal)  # a damaged journal accepts no requests
        journal.close()
        self.check_all_but_one(intact_journal, path, Journal(path, journal.problem))

    def check_all_but_one(self, intact_journal, path, journal):
        (missing_id,) = set(intact_journal[1]) - set(read_rows(journal))
        return self.check_quarantine(
            path, intact_journal[1], set(intact_journal[1]) - {missing_id}, journal
        )

    def test_all_requests_are_saved_if_damage_is_found_at_opening(self, intact_journal, path):
        write_page(path, find_root_pages(path)["ix_requests_due"], bytes(PAGE_BYTES))
        # The constructor finds the damage, because it uses this index to count the requests.
        self.check_quarantine(path, intact_journal[1], set(intact_journal[1]), Journal(path))

    def test_the_endpoint_id_is_kept(self, path):
        journal = Journal(path)
        endpoint_id = journal.endpoint_id
        journal.close()
        journal = Journal(path, "damaged")
        assert journal.endpoint_id == endpoint_id
        journal.close()


class TestQuarantine:
    def overwrite_start(self, path):
        write_page(path, 1, b"nothing")
        with open(path, "r+b") as file:
            file.truncate(100)

    def test_only_a_few_journals_a_day_are_quarantined(self, path, monkeypatch):
        class Clock:
            now, gmtime, strftime = 0.0, time.gmtime, time.strftime

            def time(self):
                return self.now

        clock, quarantined_at = Clock(), []
        monkeypatch.setattr(quarantine, "time", clock)
        while clock.now < 86400:
            self.overwrite_start(path)
            try:
                Journal(path).close()
                quarantined_at.append(clock.now)
            except JournalError as error:
                assert "check the disk" in str(error)
            clock.now += 30 if clock.now < 600 else 1800
        assert len(quarantine.read_reports(path)) == len(quarantined_at) <= 7
        assert (
            quarantined_at[0] == 0
            and quarantined_at[1] >= 60
            and quarantined_at[2] - quarantined_at[1] >= 240
        )

    def test_a_journal_damaged_again_immediately_is_not_changed(self, path):
        self.overwrite_start(path)
        Journal(path).close()
        self.overwrite_start(path)
        names_before = file_names(path)
        for _ in range(3):
            with pytest.raises(JournalError, match="not a database|malformed"):
                Journal(path)
        assert file_names(path) == names_before
        assert os.path.getsize(path) == 100

    def test_the_report_is_shown_until_the_file_is_moved(self, path):
        self.overwrite_start(path)
        Journal(path).close()
        (report,) = quarantine.read_reports(path)
        assert report.file in str(report)
        Journal(path).close()
        assert quarantine.read_reports(path) == [report]
        os.remove(report.file)
        assert quarantine.read_reports(path) == []

    def test_an_unreadable_report_is_ignored(self, path):
        self.overwrite_start(path)
        Journal(path).close()
        (report,) = quarantine.read_reports(path)
        for text in ("", "{", "{}", "[]"):
            with open(report.file + ".json", "w") as file:
                file.write(text)
            assert quarantine.read_reports(path) == []

    @pytest.mark.parametrize("version", [VERSION + 1, 99])
    def test_a_journal_of_a_newer_release_is_not_quarantined(self, path, version):
        connection = sqlite3.connect(path)
        connection.execute(f"PRAGMA user_version={version}")
        connection.close()
        write_page(path, find_root_pages(path)["ix_requests_due"], bytes(PAGE_BYTES))
        bytes_before = open(path, "rb").read()
        with pytest.raises(JournalError, match="release"):
            Journal(path)
        assert file_names(path) == ["journal.sqlite", "journal.sqlite.lock"]
        assert open(path, "rb").read() == bytes_before

    @pytest.mark.parametrize(
        "error, is_damage",
        [
            (sqlite3.DatabaseError("database disk image is malformed"), True),
            (sqlite3.DatabaseError("file is not a database"), True),
            (sqlite3.OperationalError("disk I/O error"), False),
            (sqlite3.OperationalError("database or disk is full"), False),
            (sqlite3.OperationalError("database is locked"), False),
            (sqlite3.OperationalError("unable to open database file"), False),
            (sqlite3.OperationalError("attempt to write a readonly database"), False),
            (sqlite3.IntegrityError("UNIQUE constraint failed"), False),
            (sqlite3.ProgrammingError("Cannot operate on a closed database."), False),
            (MemoryError(), False),
        ],
    )
    def test_only_a_malformed_file_counts_as_damaged(self, error, is_damage):
        assert quarantine.is_damage(error) == is_damage


# Kill the process after the given number of steps. Each call of is_intact(), one per request, is a
# step, and so is each later call of os.rename(), which marks the new journal as complete, moves the
# damaged one aside, and moves the new one into its place.
KILL_BEFORE_STEP = """
import os, signal
from poundcake.endpoint import journal_file, quarantine
steps = int(sys.argv[2])
def step(function):
    def count_and_call(*args):
        global steps
        steps -= 1
        if steps < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args)
    return count_and_call
journal_file.is_intact = step(journal_file.is_intact)
os.rename = step(os.rename)
try:
    Journal(sys.argv[1], "damaged")
finally:
    print_line("completed")
"""


@pytest.mark.parametrize("runtime", sorted(RUNTIMES))
class TestKill:
    @pytest.mark.parametrize(
        "steps", [REQUEST_COUNT // 2, REQUEST_COUNT, REQUEST_COUNT + 1, REQUEST_COUNT + 2]
    )
    def test_a_kill_at_any_step_loses_nothing(self, intact_journal, path, runtime, steps):
        child = start_process(runtime, KILL_BEFORE_STEP, path, str(steps))
        assert child.communicate(timeout=60)[0] == ""
        assert child.returncode == -signal.SIGKILL
        # The next start finds the old journal, damaged or not, or the new one.
        journal = Journal(path)
        assert read_rows(journal) == intact_journal[1]
        journal.close()
        if steps <= REQUEST_COUNT:
            assert quarantine.read_reports(path) == []
            journal = Journal(path, "damaged")
            assert read_rows(journal) == intact_journal[1]
            journal.close()
        assert [report.saved for report in quarantine.read_reports(path)] == [REQUEST_COUNT]
        assert "salvage" not in "".join(file_names(path))

    def test_the_quarantine_completes_without_a_kill(self, intact_journal, path, runtime):
        child = start_process(runtime, KILL_BEFORE_STEP, path, str(REQUEST_COUNT + 3))
        assert child.communicate(timeout=60)[0] == "completed\n"
        journal = Journal(path)
        assert read_rows(journal) == intact_journal[1]
        journal.close()


FULL_DISK = """
import os, resource
path, max_bytes = sys.argv[1], int(sys.argv[2])
before = sorted(os.listdir(os.path.dirname(path)))
resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, resource.RLIM_INFINITY))
try:
    Journal(path, "damaged")
except Exception as error:
    print_line(type(error).__name__ + str(error))
assert set(os.listdir(os.path.dirname(path))) - set(before) <= {"journal.sqlite.lock"}
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
journal = Journal(path, "damaged")
states = ("accepted", "announced", "recorded", "done")
print_line(str(sum(vars(journal.counts())[state] for state in states)))
"""


@pytest.mark.parametrize("runtime", sorted(RUNTIMES))
def test_a_full_disk_leaves_the_old_journal_unchanged(path, runtime):
    if resource.getrlimit(resource.RLIMIT_FSIZE)[1] != resource.RLIM_INFINITY:
        pytest.skip("this process cannot raise its limit again")
    child = start_process(runtime, FULL_DISK, path, str(20 * PAGE_BYTES))
    error, saved_count = child.communicate(timeout=60)[0].split("\n")[:2]
    assert error.startswith("JournalError") and path in error
    assert saved_count == str(REQUEST_COUNT)
