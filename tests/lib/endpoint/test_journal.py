"""What was accepted is on the disk, once, and moves on only as it is told."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import uuid

import pytest

from poundcake.endpoint import journal, quarantine
from poundcake.endpoint.journal import Journal, JournalError
from poundcake.request_ids import body_sha256
from tests.lib.endpoints import bound_by_permissions
from tests.lib.samples import NOON, later, request

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(__file__))))
WAYS = {
    "threads": "",
    "green": "import eventlet;"
    "eventlet.monkey_patch(os=True, select=True, socket=True, thread=True, time=True);",
}


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "journal.sqlite")


@pytest.fixture
def book(path):
    found = Journal(path)
    yield found
    found.close()


def accept(book, body="{}", wanted_id="", alerts=1):
    return book.accept(request(body=body), wanted_id, body_sha256(body), alerts)


def process(way, code, *args, prefix=()):
    return subprocess.Popen(
        [*prefix, sys.executable, "-c", WAYS[way] + PRELUDE + code, *args],
        env=dict(os.environ, PYTHONPATH=os.pathsep.join([os.path.join(ROOT, "lib"), ROOT])),
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        universal_newlines=True,
    )


PRELUDE = """
import sys, threading
from poundcake.endpoint.journal import Journal
from tests.lib.endpoint.test_journal import accept
def say(text):
    sys.stdout.write(text + chr(10)); sys.stdout.flush()
"""


class TestAccept:
    def test_an_entry_is_the_request(self, book):
        sent = request(body='{"alerts": ["🍰 \\u0000"]}', headers={"User-Agent": "é", "X": "{{x}}"})
        request_id = book.accept(sent, "", "the-hash", 3)
        assert str(uuid.UUID(request_id)) == request_id
        found = book.find(request_id)
        assert found.request.request_id == request_id
        for name in ("received_at", "client_host", "method", "path", "headers", "body"):
            assert getattr(found.request, name) == getattr(sent, name)
        assert (found.state, found.alerts, found.sha256) == ("accepted", 3, "the-hash")
        assert (found.tries, found.list_limit, found.emit_at) == (0, 0, 0)
        assert abs(found.state_at - time.time()) < 60

    def test_each_has_an_id_of_its_own(self, book):
        assert len({accept(book) for _ in range(10)}) == 10

    def test_the_senders_id_is_taken(self, book):
        wanted = str(uuid.uuid4())
        assert accept(book, wanted_id=wanted) == wanted
        assert book.find(wanted).request.client_request_id == ""

    def test_the_same_id_with_the_same_body_is_the_same_request(self, book):
        wanted = str(uuid.uuid4())
        assert [accept(book, "a", wanted) for _ in range(3)] == [wanted] * 3
        assert book.backlog == 1
        book.mark_recorded([book.find(wanted).id])
        assert accept(book, "a", wanted) == wanted
        assert book.find(wanted).state == "recorded"

    def test_the_same_id_with_another_body_is_another_and_keeps_the_senders(self, book):
        wanted = str(uuid.uuid4())
        accept(book, "a", wanted)
        other = accept(book, "b", wanted)
        assert other != wanted
        assert book.find(other).request.client_request_id == wanted
        assert book.find(other).request.body == "b"
        assert book.find(wanted).request.body == "a"

    def test_both_in_one_commit(self, book):
        """A fixed header from many threads at once."""
        wanted, found = str(uuid.uuid4()), []
        start = threading.Barrier(8)

        def work(body):
            start.wait()
            found.append((body, accept(book, body, wanted)))

        threads = [threading.Thread(target=work, args=(str(i % 2),)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(found) == 8
        bodies = {book.find(request_id).request.body for _, request_id in found}
        assert bodies == {"0", "1"}
        for body, request_id in found:
            assert book.find(request_id).request.body == body

    def test_many_at_once_share_commits_and_each_is_there(self, book, monkeypatch):
        sizes = []
        commit = book._commit

        def slow(batch):
            sizes.append(len(batch))
            time.sleep(0.05)
            return commit(batch)

        monkeypatch.setattr(book, "_commit", slow)
        ids, start = [], threading.Barrier(20)

        def work():
            start.wait()
            ids.append(accept(book))

        threads = [threading.Thread(target=work) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(set(ids)) == 20 and "" not in ids
        assert sum(sizes) == 20 and len(sizes) < 10
        assert book.backlog == 20
        assert all(book.find(i) for i in ids)

    def test_one_that_comes_while_a_commit_begins_is_not_forgotten(self, book):
        """A thread may lose its turn between reading the list of those that wait and adding
        itself to it.
        """
        others = threading.Event()

        class Preempted(list):
            def append(self, acceptance):
                if acceptance.request.body == "late":
                    # Where accept() guards the list, the other waits for us instead.
                    others.wait(0.5)
                super().append(acceptance)

        book._pending = Preempted()
        ids = {}
        late = threading.Thread(target=lambda: ids.update(late=accept(book, "late")))
        late.start()
        time.sleep(0.1)
        ids["early"] = accept(book, "early")
        others.set()
        late.join(30)
        assert book.find(ids["early"]).request.body == "early"
        assert ids["late"] and book.find(ids["late"]).request.body == "late"

    @pytest.mark.parametrize("error", [sqlite3.OperationalError, MemoryError, ValueError, KeyError])
    def test_whatever_a_commit_fails_with_nobody_believes_it_worked(self, book, monkeypatch, error):
        insert, start = book._insert, threading.Barrier(4)

        def failing(acceptance, request_id):
            time.sleep(0.05)
            raise error("a fault")

        monkeypatch.setattr(book, "_insert", failing)
        found = []

        def work():
            start.wait()
            try:
                found.append(accept(book))
            except Exception as caught:
                found.append(type(caught))

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert found == [JournalError] * 4
        assert book.backlog == 0 and book.fresh(10) == []
        monkeypatch.setattr(book, "_insert", insert)
        assert book.find(accept(book))


class TestProblem:
    """It is over when what failed would work."""

    def fail(self, book, monkeypatch, body="{}"):
        insert = book._insert

        def full(acceptance, request_id):
            raise sqlite3.OperationalError("database or disk is full")

        monkeypatch.setattr(book, "_insert", full)
        with pytest.raises(JournalError, match="full"):
            accept(book, body)
        monkeypatch.setattr(book, "_insert", insert)

    def test_an_accepted_request_ends_it(self, book, monkeypatch):
        assert book.problem == ""
        self.fail(book, monkeypatch)
        assert "full" in book.problem and not book.damaged
        accept(book)
        assert book.problem == ""

    def test_a_page_that_could_be_written_does_not_where_more_was_wanted(self, book, monkeypatch):
        self.fail(book, monkeypatch, "x" * 100000)
        usage = shutil.disk_usage("/")
        for free, works in ((0, False), (100000, False), (1 << 30, True)):
            monkeypatch.setattr(
                journal.shutil, "disk_usage", lambda folder: usage._replace(free=free)
            )
            if works:
                book.check()
            else:
                with pytest.raises(JournalError, match="full"):
                    book.check()
            assert bool(book.problem) != works
        monkeypatch.setattr(journal.shutil, "disk_usage", lambda folder: usage._replace(free=0))
        book.check()  # nothing has failed since

    def test_a_disk_with_room_that_cannot_be_written_does_not(self, book, path):
        with sqlite3.connect(path, isolation_level=None) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(JournalError, match="locked"):
                accept(book)
            with pytest.raises(JournalError, match="locked"):
                book.check()
            assert "locked" in book.problem
            other.execute("ROLLBACK")
        book.check()
        assert (book.problem, book.fresh(10)) == ("", [])


@pytest.mark.parametrize("way", sorted(WAYS))
class TestProcesses:
    def test_what_was_accepted_outlives_a_kill(self, way, path):
        child = process(
            way,
            "book = Journal(sys.argv[1])\nsay(accept(book, 'durable'))\nthreading.Event().wait(60)",
            path,
        )
        request_id = child.stdout.readline().strip()
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert os.path.getsize(path + "-wal")
        again = Journal(path)
        assert again.find(request_id).request.body == "durable"
        assert again.backlog == 1
        again.close()

    def test_everyone_of_many_that_was_answered_outlives_a_kill(self, way, path):
        child = process(
            way,
            """
book = Journal(sys.argv[1])
def work():
    while True:
        say(accept(book))
for _ in range(8):
    threading.Thread(target=work, daemon=True).start()
threading.Event().wait(60)
""",
            path,
        )
        answered = {child.stdout.readline().strip() for _ in range(40)}
        child.send_signal(signal.SIGKILL)
        answered |= {line.strip() for line in child.stdout.read().split("\n") if len(line) == 36}
        child.wait()
        again = Journal(path)
        assert all(again.find(request_id) for request_id in answered)
        again.close()

    def test_another_process_is_refused_until_the_first_ends(self, way, path):
        child = process(way, "b = Journal(sys.argv[1]); say('open'); sys.stdin.readline()", path)
        assert child.stdout.readline().strip() == "open"
        with pytest.raises(JournalError, match="another endpoint"):
            Journal(path)
        child.send_signal(signal.SIGKILL)
        child.wait()
        Journal(path).close()

    def test_threads_wait_for_each_other_not_for_ever(self, way, path):
        child = process(
            way,
            """
book = Journal(sys.argv[1])
ids = []
threads = [threading.Thread(target=lambda: ids.append(accept(book))) for _ in range(50)]
[t.start() for t in threads]; [t.join(20) for t in threads]
book.mark_announced([e.id for e in book.fresh(100)], 'l')
say(str((len(set(ids)), book.counts()['announced'], book.backlog))); book.close()
""",
            path,
        )
        assert child.communicate(timeout=60)[0].strip() == "(50, 50, 50)"


class TestStates:
    """accepted -> announced -> recorded -> done."""

    def test_all_the_way(self, book):
        entry = book.find(accept(book))
        assert [e.id for e in book.fresh(10)] == [entry.id]
        book.mark_announced([entry.id], "the-list")
        assert book.fresh(10) == []
        assert [(e.id, e.list_id) for e in book.announced()] == [(entry.id, "the-list")]
        assert book.backlog == 1
        book.mark_recorded([entry.id])
        assert (book.announced(), book.backlog) == ([], 0)
        assert [e.id for e in book.recorded(time.time(), 10)] == [entry.id]
        book.mark_emitted([entry.id], time.time() + 60, time.time() + 120)
        assert book.recorded(time.time(), 10) == []
        assert [e.tries for e in book.recorded(time.time() + 61, 10)] == [1]
        book.mark_done([entry.id])
        assert book.recorded(time.time() + 1000, 10) == []
        assert book.find(entry.request.request_id).state == "done"

    def test_missed(self, book):
        ids = [book.find(accept(book)).id for _ in range(4)]
        book.mark_announced(ids, "a")
        book.mark_missed(ids, 100.0, 2)
        assert book.fresh(10) == []  # they are no longer fresh
        assert book.failed(99.0, 10) == []
        assert [e.id for e in book.failed(101.0, 10)] == ids[:2]
        book.mark_announced(ids[:2], "b")
        assert [e.id for e in book.failed(101.0, 10)] == ids[2:]
        assert book.backlog == 4

    def test_lists_do_not_mix(self, book):
        ids = [book.find(accept(book)).id for _ in range(4)]
        book.mark_announced(ids[:2], "a")
        book.mark_announced(ids[2:], "b")
        book.mark_missed(ids[2:], 50.0, 0)
        book.mark_missed(ids[:2], 60.0, 0)
        assert [e.id for e in book.failed(101.0, 10)] == ids[2:]

    def test_clear_waits(self, book):
        entry = book.find(accept(book))
        book.mark_announced([entry.id], "a")
        book.mark_missed([entry.id], time.time() + 600, 5)
        book.clear_waits()
        assert [e.id for e in book.failed(time.time(), 10)] == [entry.id]

    def test_counts(self, book):
        ids = [book.find(accept(book)).id for _ in range(6)]
        book.mark_announced(ids[1:4], "a")
        book.mark_recorded(ids[2:4])
        book.mark_done(ids[3:4])
        found = book.counts()
        assert {k: found[k] for k in ("accepted", "announced", "recorded", "done")} == {
            "accepted": 3,
            "announced": 1,
            "recorded": 1,
            "done": 1,
        }
        assert found["oldest"] == NOON.timestamp()
        assert found["stuck"] == 0

    def test_no_try_makes_the_oldest_younger(self, book):
        for seconds in (60, 90):
            sent = request(received_at=later(seconds))
            book.accept(sent, "", body_sha256(sent.body), 0)
        first = book.fresh(1)[0]
        for _ in range(2):
            book.mark_announced([first.id], "a")
            assert book.counts()["oldest"] == later(60).timestamp()
            book.mark_missed([first.id], 0, 1)
            assert book.counts()["oldest"] == later(60).timestamp()

    def test_what_is_stuck_is_named_and_does_not_fill_the_backlog(self, book):
        ids = [accept(book) for _ in range(2)]
        entry = book.find(ids[0])
        for number in range(3):
            book.mark_announced([entry.id], str(number))
            book.mark_missed([entry.id], 0, journal.STUCK)
        assert book.counts()["stuck"] == 1
        assert book.stuck(10) == [ids[0]]
        assert book.backlog == 1
        assert book.counts()["oldest"] == NOON.timestamp()  # the other's
        book.mark_recorded([book.find(ids[1]).id])
        assert book.counts()["oldest"] is None

    def test_prune_takes_what_has_been_done_for_a_day(self, book, monkeypatch):
        ids = [book.find(accept(book)).id for _ in range(3)]
        book.mark_done(ids[:2])
        assert book.prune() == 0
        clock = time.time() + journal.KEEP_DONE.total_seconds() + 5
        monkeypatch.setattr(journal.time, "time", lambda: clock)
        assert book.prune() == 2
        assert [e.id for e in book.fresh(10)] == ids[2:]

    def test_nothing_is_unknown(self, book):
        assert book.find("nobody") is None
        book.mark_done([])


class TestOpening:
    def test_it_goes_on_where_it_stood(self, path):
        first = Journal(path)
        ids = [accept(first) for _ in range(3)]
        first.mark_announced([first.find(ids[0]).id], "a")
        first.close()
        second = Journal(path)
        assert second.backlog == 3
        assert [e.request.request_id for e in second.announced()] == [ids[0]]
        second.close()

    @pytest.mark.parametrize("version", [2, 99, -1])
    def test_another_releases_is_refused_and_not_touched(self, path, version):
        book = Journal(path)
        request_id = accept(book)
        book.close()
        with sqlite3.connect(path) as connection:
            connection.execute(f"PRAGMA user_version={version}")
        with pytest.raises(JournalError, match="release"):
            Journal(path)
        with pytest.raises(JournalError, match="release"):  # and no lock is left behind
            Journal(path)
        with sqlite3.connect(path) as connection:
            found = connection.execute("SELECT request_id FROM entries").fetchall()
            assert found == [(request_id,)]
            assert connection.execute("PRAGMA user_version").fetchone() == (version,)

    @pytest.mark.parametrize("torn", [1, 24, 2000, 4119])
    def test_a_last_write_that_was_torn_costs_nobody_else(self, path, torn, tmp_path):
        """As a power cut leaves it: the file, and a -wal whose last page is not whole."""
        book, there = Journal(path), str(tmp_path / "there.sqlite")
        ids = [accept(book) for _ in range(5)]
        before = os.path.getsize(path + "-wal")
        accept(book)
        shutil.copy(path, there)
        shutil.copy(path + "-wal", there + "-wal")
        book.close()
        frame = 24 + 4096
        last = before + (os.path.getsize(there + "-wal") - before) // frame * frame - frame
        os.truncate(there + "-wal", last + torn)
        with open(there + "-wal", "ab") as file:
            file.write(os.urandom(100))
        again = Journal(there)
        assert [e.request.request_id for e in again.fresh(10)] == ids
        assert again.find(accept(again))
        again.close()
        assert quarantine.reports(there) == []

    @pytest.mark.parametrize("way", sorted(WAYS))
    def test_a_file_that_may_only_be_read_is_not_opened(self, way, path):
        """What was opened to be read cannot be written once it may be, either."""
        Journal(path).close()
        os.chmod(path, 0o444)
        child = process(
            way,
            """
from poundcake.endpoint.journal import JournalError
try:
    Journal(sys.argv[1])
except JournalError as error:
    say(str(error))
import os
os.chmod(sys.argv[1], 0o644)
say(accept(Journal(sys.argv[1])))
""",
            path,
            prefix=bound_by_permissions(),
        )
        problem, request_id = child.communicate(timeout=60)[0].splitlines()
        assert "may not be written" in problem
        assert str(uuid.UUID(request_id)) == request_id

    @pytest.mark.parametrize("where", ["missing/journal.sqlite", "file/journal.sqlite"])
    def test_no_such_folder(self, tmp_path, where):
        (tmp_path / "file").write_text("")
        with pytest.raises(JournalError, match="journal.sqlite"):
            Journal(str(tmp_path / where))

    def test_closed_it_takes_nothing(self, path):
        book = Journal(path)
        book.close()
        with pytest.raises(JournalError):
            accept(book)
        with pytest.raises(JournalError):
            book.find("x")

    def test_a_commit_is_on_the_disk(self, book):
        assert book._db.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL
        assert book._db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"

    def test_headers_are_json(self, book):
        request_id = accept(book)
        (text,) = book._db.execute(
            "SELECT headers FROM entries WHERE request_id = ?", (request_id,)
        ).fetchone()
        assert json.loads(text) == {"User-Agent": "Alertmanager/0.25"}
