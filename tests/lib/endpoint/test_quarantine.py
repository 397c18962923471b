"""Nothing that can be read of a damaged journal is lost, and its file is kept."""

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
from tests.lib.endpoint.test_journal import WAYS, accept, process

PAGE = 4096
COUNT = 400


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """The path of a journal of COUNT entries in every state, and {id: row} of it."""
    path = str(tmp_path_factory.mktemp("sound") / "journal.sqlite")
    book, chance = Journal(path), random.Random(5)
    for _ in range(COUNT):
        # Some within their page, some beyond it.
        accept(book, "x" * chance.choice([10, 300, 2000, 9000]))
    entries = [entry.id for entry in book.fresh(COUNT)]
    while len(entries) < COUNT:  # lists have a bound
        book.mark_announced(entries, "a")
        entries += [entry.id for entry in book.fresh(COUNT)]
    book.mark_announced(entries, "the-list")
    book.mark_missed(entries[:300], 12345.0, 3)
    book.mark_recorded(entries[:200])
    book.mark_emitted(entries[:150], 777.0, 888.0)
    book.mark_done(entries[:100])
    rows = rows_of(book)
    book.close()
    assert len(rows) == COUNT
    return path, rows


@pytest.fixture
def path(sound, tmp_path):
    """A copy of it, to be damaged."""
    return shutil.copy(sound[0], str(tmp_path / "journal.sqlite"))


def rows_of(book):
    return {row["id"]: tuple(row) for row in book._fetch("SELECT * FROM entries", ())}


def write(path, page, data):
    with open(path, "r+b") as file:
        file.seek((page - 1) * PAGE)
        file.write(data)


def readable(path, rows):
    """The ids of what SQLite finds, as it was, when it is asked for one after the other."""
    found = set()
    connection = sqlite3.connect(path)
    for number in rows:
        try:
            found.update(connection.execute("SELECT * FROM entries WHERE id = ?", (number,)))
        except sqlite3.DatabaseError:
            pass
    connection.close()
    return {row[0] for row in found if row == rows[row[0]]}


def pages_of_entries(path):
    with open(path, "rb") as file:
        data = file.read()
    pages = range(1, len(data) // PAGE + 1)
    return [page for page in pages if b"/api/v1/webhook" in data[(page - 1) * PAGE : page * PAGE]]


def names(path):
    return sorted(os.listdir(os.path.dirname(path)))


def roots(path):
    """{table or index: its first page}"""
    connection = sqlite3.connect(path)
    found = dict(connection.execute("SELECT name, rootpage FROM sqlite_master"))
    connection.close()
    return found


class TestReadable:
    """All of it goes on, with its state, and nothing is invented."""

    def check(self, path, rows, wanted, book):
        found = rows_of(book)
        assert {i: rows[i] for i in wanted} == found
        (report,) = quarantine.reports(path)
        assert report["saved"] == len(wanted)
        assert book.find(accept(book, "new")).request.body == "new"
        book.close()
        assert re.search(r"journal\.sqlite\.corrupt-\d{8}T\d{6}Z$", report["file"])
        assert os.path.exists(report["file"])
        aside = os.path.basename(report["file"])
        assert names(path) == [
            "journal.sqlite",
            aside,
            aside + ".json",
            "journal.sqlite.lock",
        ]
        return report

    @pytest.mark.parametrize("data", [bytes, os.urandom], ids=["zeros", "noise"])
    @pytest.mark.parametrize("count", [1, 3, 20])
    def test_around_pages_that_were_overwritten(self, sound, path, count, data):
        for page in random.Random(count).sample(pages_of_entries(path), count):
            write(path, page, data(PAGE))
        wanted = readable(path, sound[1])
        assert COUNT // 2 < len(wanted) < COUNT
        # Asked for, as the endpoint does once it has met damage: not each page is met by reading.
        report = self.check(path, sound[1], wanted, Journal(path, "it was overwritten"))
        assert report["reason"] == "it was overwritten"
        assert report["unread_bytes"] >= count * PAGE / 2
        assert report["lost"] == COUNT - len(wanted)

    @pytest.mark.parametrize(
        "name", ["sqlite_autoindex_entries_1", "ix_entries_state", "ix_entries_stuck"]
    )
    def test_all_of_it_where_an_index_is_damaged(self, sound, path, name):
        write(path, roots(path)[name], bytes(PAGE))
        report = self.check(path, sound[1], set(sound[1]), Journal(path, "an index"))
        assert report["lost"] == 0

    @pytest.mark.parametrize("data", [bytes, os.urandom], ids=["zeros", "noise"])
    def test_all_of_it_where_the_first_page_is_gone(self, sound, path, data):
        write(path, 1, data(PAGE))
        self.check(path, sound[1], set(sound[1]), Journal(path))

    @pytest.mark.parametrize("part", [0.3, 0.7, 0.999])
    def test_what_stands_before_the_end_of_a_file_that_was_cut(self, sound, path, part):
        size = os.path.getsize(path)
        os.truncate(path, int(size * part) // PAGE * PAGE)
        # SQLite refuses a file that is shorter than it says, whatever is in it.
        padded = shutil.copy(path, path + "-padded")
        os.truncate(padded, size)
        wanted = readable(padded, sound[1])
        os.remove(padded)
        assert COUNT > len(wanted) > COUNT * (part - 0.2)
        self.check(path, sound[1], wanted, Journal(path))

    def test_nothing_where_the_table_cannot_be_read(self, sound, path):
        size = os.path.getsize(path)
        write(path, roots(path)["entries"], bytes(PAGE))
        report = self.check(path, sound[1], set(), Journal(path, "the table"))
        assert (report["lost"], report["unread_bytes"]) == (COUNT, size)

    def test_a_file_that_is_no_database(self, sound, path):
        text = b"this is no database, and long enough to be taken for one" * 200
        with open(path, "wb") as file:
            file.write(text)
        report = self.check(path, sound[1], set(), Journal(path))
        assert open(report["file"], "rb").read() == text
        assert "not a database" in report["reason"]
        assert report["unread_bytes"] == len(text)

    @pytest.mark.parametrize(
        "script",
        [
            "CREATE TABLE entries (a, b)",
            "CREATE TABLE entries (id, request_id, state); PRAGMA user_version = 1",
            "CREATE TABLE others (a, b); PRAGMA user_version = 1",
        ],
    )
    def test_a_database_that_is_no_journal(self, sound, path, script):
        os.remove(path)
        connection = sqlite3.connect(path)
        connection.executescript(script)
        connection.close()
        self.check(path, sound[1], set(), Journal(path))

    @pytest.mark.parametrize("left", ["", "empty"])
    def test_a_wal_without_its_file_is_not_thrown_away(self, sound, path, left, tmp_path):
        """SQLite deletes it when it opens an empty file."""
        other = str(tmp_path / "other" / "journal.sqlite")
        os.mkdir(os.path.dirname(other))
        book = Journal(other)
        request_id = accept(book, "only in the -wal")
        os.remove(path)
        shutil.copy(other + "-wal", path + "-wal")
        book.close()
        if left:
            open(path, "wb").close()
        again = Journal(path)
        assert again.find(request_id).request.body == "only in the -wal"
        again.close()
        assert len(quarantine.reports(path)) == 1

    def test_what_was_overwritten_inside_of_a_body_is_no_longer_what_was_sent(self, sound, path):
        data = open(path, "rb").read()
        at = data.index(b"x" * 3000)
        with open(path, "r+b") as file:
            file.seek(at + 100)
            file.write(b"y")
        report = self.check_all_but_one(sound, path, Journal(path, "something else"))
        assert report["lost"] == 1

    @pytest.mark.parametrize("text", [b"\xff\xfe", b"?!"], ids=["no text", "no JSON"])
    def test_an_entry_that_cannot_be_read_holds_up_no_other(self, sound, path, text):
        """SQLite itself sees nothing wrong with it."""
        connection = sqlite3.connect(path)
        connection.execute(
            "UPDATE entries SET headers = CAST(? AS TEXT) WHERE id = ?", (text, COUNT)
        )
        connection.commit()
        connection.close()
        book = Journal(path)
        with pytest.raises(JournalError):
            book.announced()
        assert book.damaged
        with pytest.raises(JournalError):
            accept(book)  # what is accepted from now on is safer in the next one
        book.close()
        self.check_all_but_one(sound, path, Journal(path, book.problem))

    def check_all_but_one(self, sound, path, book):
        (missing,) = set(sound[1]) - set(rows_of(book))
        return self.check(path, sound[1], set(sound[1]) - {missing}, book)

    def test_what_is_met_at_work_is_what_is_met_at_opening(self, sound, path):
        write(path, roots(path)["ix_entries_state"], bytes(PAGE))
        self.check(path, sound[1], set(sound[1]), Journal(path))  # the backlog is counted by it


class TestAside:
    def spoil(self, path):
        write(path, 1, b"nothing")
        with open(path, "r+b") as file:
            file.truncate(100)

    def test_only_a_handful_in_a_row(self, path, monkeypatch):
        class Clock:
            now, gmtime, strftime = 0.0, time.gmtime, time.strftime

            def time(self):
                return self.now

        clock, made = Clock(), []
        monkeypatch.setattr(quarantine, "time", clock)
        while clock.now < 86400:
            self.spoil(path)
            try:
                Journal(path).close()
                made.append(clock.now)
            except JournalError as error:
                assert "look at the disk" in str(error)
            clock.now += 30 if clock.now < 600 else 1800
        assert len(quarantine.reports(path)) == len(made) <= 7
        assert made[0] == 0 and made[1] >= 60 and made[2] - made[1] >= 240

    def test_one_that_has_to_wait_stays_as_it_is(self, path):
        self.spoil(path)
        Journal(path).close()
        self.spoil(path)
        before = names(path)
        for _ in range(3):
            with pytest.raises(JournalError, match="not a database|malformed"):
                Journal(path)
        assert names(path) == before
        assert os.path.getsize(path) == 100

    def test_it_is_reported_until_it_is_moved_away(self, path):
        self.spoil(path)
        Journal(path).close()
        (report,) = quarantine.reports(path)
        assert report["file"] in quarantine.sentence(report)
        Journal(path).close()
        assert quarantine.reports(path) == [report]
        os.remove(report["file"])
        assert quarantine.reports(path) == []

    def test_without_its_report(self, path):
        self.spoil(path)
        Journal(path).close()
        (report,) = quarantine.reports(path)
        for text in ("", "{"):
            with open(report["file"] + ".json", "w") as file:
                file.write(text)
            assert quarantine.reports(path) == []

    @pytest.mark.parametrize("version", [2, 99])
    def test_a_newer_releases_is_refused_and_not_set_aside(self, path, version):
        connection = sqlite3.connect(path)
        connection.execute(f"PRAGMA user_version={version}")
        connection.close()
        write(path, roots(path)["ix_entries_state"], bytes(PAGE))
        before = open(path, "rb").read()
        with pytest.raises(JournalError, match="release"):
            Journal(path)
        assert names(path) == ["journal.sqlite", "journal.sqlite.lock"]
        assert open(path, "rb").read() == before

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
    def test_a_disk_that_is_full_or_fails_is_no_damage(self, error, is_damage):
        assert quarantine.is_damage(error) == is_damage


# Renames, in order: the new one is whole, the damaged one goes aside, the new one takes its place.
KILLED = """
import os, signal
from poundcake.endpoint import journal, quarantine
steps = int(sys.argv[2])
def step(function):
    def counted(*args):
        global steps
        steps -= 1
        if steps < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args)
    return counted
journal._is_sound = step(journal._is_sound)
os.rename = step(os.rename)
try:
    Journal(sys.argv[1], "damaged")
finally:
    say("went on")
"""


@pytest.mark.parametrize("way", sorted(WAYS))
class TestKilled:
    @pytest.mark.parametrize("steps", [0, 150, COUNT, COUNT + 1, COUNT + 2])
    def test_whoever_is_killed_at_it_nothing_is_lost(self, sound, path, way, steps):
        child = process(way, KILLED, path, str(steps))
        assert child.communicate(timeout=60)[0] == ""
        assert child.returncode == -signal.SIGKILL
        # The next start finds the old one, damaged or not, or the new one.
        book = Journal(path)
        assert rows_of(book) == sound[1]
        book.close()
        if steps <= COUNT:
            assert quarantine.reports(path) == []
            again = Journal(path, "damaged")
            assert rows_of(again) == sound[1]
            again.close()
        assert [report["saved"] for report in quarantine.reports(path)] == [COUNT]
        assert "salvage" not in "".join(names(path))

    def test_and_who_is_not(self, sound, path, way):
        child = process(way, KILLED, path, str(COUNT + 3))
        assert child.communicate(timeout=60)[0] == "went on\n"
        book = Journal(path)
        assert rows_of(book) == sound[1]
        book.close()


FULL = """
import os, resource
path, most = sys.argv[1], int(sys.argv[2])
before = sorted(os.listdir(os.path.dirname(path)))
resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
try:
    Journal(path, "damaged")
except Exception as error:
    say(type(error).__name__ + str(error))
assert set(os.listdir(os.path.dirname(path))) - set(before) <= {"journal.sqlite.lock"}
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
book = Journal(path, "damaged")
say(str(len(book._fetch("SELECT id FROM entries", ()))))
"""


@pytest.mark.parametrize("way", sorted(WAYS))
def test_without_room_for_the_new_one_the_old_one_stays(path, way):
    if resource.getrlimit(resource.RLIMIT_FSIZE)[1] != resource.RLIM_INFINITY:
        pytest.skip("this process may not raise its limit again")
    child = process(way, FULL, path, str(100 * PAGE))
    first, second = child.communicate(timeout=60)[0].split("\n")[:2]
    assert first.startswith("JournalError") and path in first
    assert second == str(COUNT)
