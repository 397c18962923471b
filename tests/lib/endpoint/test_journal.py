"""The journal keeps each accepted request despite crashes, full disks and upgrades."""

from __future__ import annotations

import os
import pathlib
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from dataclasses import replace

import pytest

from poundcake.endpoint import group_commit, journal_clock, journal_file, quarantine
from poundcake.endpoint.journal import KEEP_DONE, Journal, JournalError, RequestState
from poundcake.endpoint.journal_schema import VERSION
from poundcake.request_ids import body_sha256
from tests.lib.endpoints import permission_enforcing_prefix
from tests.lib.samples import request
from tests.waiting import wait_for

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(__file__))))
RUNTIMES = {
    "threads": "",
    "green": "import eventlet;"
    "eventlet.monkey_patch(os=True, select=True, socket=True, thread=True, time=True);",
}


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "journal.sqlite")


@pytest.fixture
def journal(path):
    journal = Journal(path)
    yield journal
    journal.close()


def accept(journal, body="{}", sender_request_id="", alerts=1):
    """Store a request, and return its request_id."""
    return journal.accept(request(body=body), sender_request_id, body_sha256(body), alerts)


def load(journal, request_id):
    """Return the request with its body."""
    return journal.load_requests([journal.find(request_id)])[0]


def start_process(runtime, code, *args, prefix=()):
    """Run code after CHILD_PRELUDE in a child process, on plain threads or under eventlet."""
    return subprocess.Popen(
        [*prefix, sys.executable, "-c", RUNTIMES[runtime] + CHILD_PRELUDE + code, *args],
        env=dict(os.environ, PYTHONPATH=os.pathsep.join([os.path.join(ROOT, "lib"), ROOT])),
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        universal_newlines=True,
    )


CHILD_PRELUDE = """
import sys, threading
from poundcake.endpoint.journal import Journal
from tests.lib.endpoint.test_journal import accept
def print_line(text):
    sys.stdout.write(text + chr(10)); sys.stdout.flush()
"""


class TestAccept:
    def test_the_name_of_the_credential_is_stored(self, journal):
        sent_request = replace(request(), credential="grafana")
        request_id = journal.accept(sent_request, "", body_sha256(sent_request.body), 1)
        assert journal.find(request_id).credential == "grafana"
        assert load(journal, request_id) == replace(sent_request, request_id=request_id)

    def test_an_accepted_request_can_be_read_back(self, journal):
        sent_request = request(
            body='{"alerts": ["🍰 \\u0000"]}', headers={"User-Agent": "é", "X": "{{x}}"}
        )
        request_id = journal.accept(sent_request, "", "the-hash", 3)
        assert str(uuid.UUID(request_id)) == request_id
        assert load(journal, request_id) == replace(sent_request, request_id=request_id)
        entry = journal.find(request_id)
        assert (entry.request_id, entry.received_at) == (request_id, sent_request.received_at)
        assert (entry.state, entry.alert_count, entry.body_sha256) == ("accepted", 3, "the-hash")
        assert entry.body_bytes == len(sent_request.body.encode())
        assert (entry.attempts, entry.batch_limit, entry.emit_after) == (0, 0, None)
        assert abs(entry.state_since - time.monotonic()) < 60

    def test_each_request_has_a_new_id(self, journal):
        assert len({accept(journal) for _ in range(10)}) == 10

    def test_the_senders_id_is_used(self, journal):
        sender_request_id = str(uuid.uuid4())
        assert accept(journal, sender_request_id=sender_request_id) == sender_request_id
        assert load(journal, sender_request_id).client_request_id == ""

    def test_the_same_id_with_the_same_body_is_the_same_request(self, journal):
        sender_request_id = str(uuid.uuid4())
        assert [accept(journal, "a", sender_request_id) for _ in range(3)] == [
            sender_request_id
        ] * 3
        assert journal.backlog == 1
        journal.mark_recorded([journal.find(sender_request_id).id])
        assert accept(journal, "a", sender_request_id) == sender_request_id
        assert journal.find(sender_request_id).state == "recorded"

    def test_the_same_id_with_a_different_body_is_a_different_request(self, journal):
        sender_request_id = str(uuid.uuid4())
        accept(journal, "a", sender_request_id)
        other_id = accept(journal, "b", sender_request_id)
        assert other_id != sender_request_id
        assert load(journal, other_id).client_request_id == sender_request_id
        assert load(journal, other_id).body == "b"
        assert load(journal, sender_request_id).body == "a"

    def test_concurrent_requests_with_the_same_id_are_distinguished_by_their_bodies(self, journal):
        """The requests may share one commit."""
        sender_request_id, results = str(uuid.uuid4()), []
        start = threading.Barrier(8)

        def work(body):
            start.wait()
            results.append((body, accept(journal, body, sender_request_id)))

        threads = [threading.Thread(target=work, args=(str(i % 2),)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(results) == 8
        bodies = {load(journal, request_id).body for _, request_id in results}
        assert bodies == {"0", "1"}
        for body, request_id in results:
            assert load(journal, request_id).body == body

    def test_concurrent_requests_share_commits(self, journal, monkeypatch):
        batch_sizes = []
        commits = journal._group_commit
        commit = commits._commit

        def slow_commit(connection, batch):
            batch_sizes.append(len(batch))
            time.sleep(0.05)
            return commit(connection, batch)

        monkeypatch.setattr(commits, "_commit", slow_commit)
        ids, start = [], threading.Barrier(20)

        def work():
            start.wait()
            ids.append(accept(journal))

        threads = [threading.Thread(target=work) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(set(ids)) == 20 and "" not in ids
        assert sum(batch_sizes) == 20 and len(batch_sizes) < 10
        assert journal.backlog == 20
        assert all(journal.find(i) for i in ids)

    def test_a_request_that_arrives_while_a_commit_begins_is_stored(self, journal):
        """A thread may be preempted between reading the list of waiting requests and appending."""
        early_is_stored = threading.Event()

        class PreemptedList(list):
            def append(self, acceptance):
                if acceptance.request.body == "late":
                    # Use a timeout, because the other thread waits for this one if accept()
                    # locks the list.
                    early_is_stored.wait(0.5)
                super().append(acceptance)

        journal._group_commit._pending = PreemptedList()
        ids = {}
        late_thread = threading.Thread(target=lambda: ids.update(late=accept(journal, "late")))
        late_thread.start()
        time.sleep(0.1)
        ids["early"] = accept(journal, "early")
        early_is_stored.set()
        late_thread.join(30)
        assert load(journal, ids["early"]).body == "early"
        assert ids["late"] and load(journal, ids["late"]).body == "late"

    @pytest.mark.parametrize("error", [sqlite3.OperationalError, MemoryError, ValueError, KeyError])
    def test_a_failed_commit_raises_an_error_for_each_of_its_requests(
        self, journal, monkeypatch, error
    ):
        insert, start = group_commit.insert, threading.Barrier(4)

        def failing_insert(*args):
            time.sleep(0.05)
            raise error("a fault")

        monkeypatch.setattr(group_commit, "insert", failing_insert)
        results = []

        def work():
            start.wait()
            try:
                results.append(accept(journal))
            except Exception as caught:
                results.append(type(caught))

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert results == [JournalError] * 4
        assert journal.backlog == 0 and journal.next_fresh_batch(10) == []
        monkeypatch.setattr(group_commit, "insert", insert)
        assert journal.find(accept(journal))

    def test_a_thread_killed_during_a_commit_leaves_no_request_unanswered(
        self, journal, monkeypatch
    ):
        """The other requests of the commit used to get a 202 with an empty request_id."""
        commits = journal._group_commit
        commit, first_commit_began = commits._commit, threading.Event()

        def die_during_second_commit(connection, batch):
            if not first_commit_began.is_set():
                first_commit_began.set()
                wait_for(lambda: len(commits._pending) >= 3)
                return commit(connection, batch)
            monkeypatch.setattr(commits, "_commit", commit)
            raise SystemExit  # as when eventlet kills a green thread

        monkeypatch.setattr(commits, "_commit", die_during_second_commit)
        results = []

        def work():
            try:
                results.append(accept(journal))
            except BaseException as error:
                results.append(type(error))

        threads = [threading.Thread(target=work) for _ in range(4)]
        threads[0].start()
        assert first_commit_began.wait(60)
        for thread in threads[1:]:
            thread.start()
        for thread in threads:
            thread.join(60)
        ids = [result for result in results if isinstance(result, str)]
        assert len(ids) == 1 and journal.find(ids[0])
        errors = [result for result in results if not isinstance(result, str)]
        assert sorted(e.__name__ for e in errors) == ["JournalError", "JournalError", "SystemExit"]
        assert journal.find(accept(journal))

    def test_accept_fails_if_its_request_was_not_committed(self, journal, monkeypatch):
        monkeypatch.setattr(journal._group_commit, "_commit", lambda connection, batch: None)
        with pytest.raises(JournalError, match="interrupted"):
            accept(journal)


class TestProblem:
    """The problem is reported until the failed operation would succeed."""

    def fail_to_accept(self, journal, monkeypatch, body="{}"):
        insert = group_commit.insert

        def failing_insert(*args):
            raise sqlite3.OperationalError("database or disk is full")

        monkeypatch.setattr(group_commit, "insert", failing_insert)
        with pytest.raises(JournalError, match="full"):
            accept(journal, body)
        monkeypatch.setattr(group_commit, "insert", insert)

    def test_an_accepted_request_ends_the_problem(self, journal, monkeypatch):
        assert journal.problem == ""
        self.fail_to_accept(journal, monkeypatch)
        assert "full" in journal.problem and not journal.is_damaged
        accept(journal)
        assert journal.problem == ""

    def test_too_little_free_space_does_not_end_the_problem(self, journal, monkeypatch):
        self.fail_to_accept(journal, monkeypatch, "x" * 100000)
        usage = shutil.disk_usage("/")
        for free, is_enough in ((0, False), (100000, False), (1 << 30, True)):
            monkeypatch.setattr(
                journal_file.shutil, "disk_usage", lambda folder: usage._replace(free=free)
            )
            if is_enough:
                journal.check()
            else:
                with pytest.raises(JournalError, match="full"):
                    journal.check()
            assert bool(journal.problem) != is_enough
        monkeypatch.setattr(
            journal_file.shutil, "disk_usage", lambda folder: usage._replace(free=0)
        )
        journal.check()  # no operation has failed since the last successful check

    def test_the_problem_lasts_while_another_process_holds_the_lock(self, journal, path):
        with sqlite3.connect(path, isolation_level=None) as other_connection:
            other_connection.execute("BEGIN IMMEDIATE")
            with pytest.raises(JournalError, match="locked"):
                accept(journal)
            with pytest.raises(JournalError, match="locked"):
                journal.check()
            assert "locked" in journal.problem
            other_connection.execute("ROLLBACK")
        journal.check()
        assert (journal.problem, journal.next_fresh_batch(10)) == ("", [])


@pytest.mark.parametrize("runtime", sorted(RUNTIMES))
class TestProcesses:
    def test_an_accepted_request_survives_a_kill(self, runtime, path):
        child = start_process(
            runtime,
            "journal = Journal(sys.argv[1])\nprint_line(accept(journal, 'durable'))\n"
            "threading.Event().wait(60)",
            path,
        )
        request_id = child.stdout.readline().strip()
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert os.path.getsize(path + "-wal")
        reopened = Journal(path)
        assert load(reopened, request_id).body == "durable"
        assert reopened.backlog == 1
        reopened.close()

    def test_every_accepted_request_survives_a_kill_under_load(self, runtime, path):
        child = start_process(
            runtime,
            """
journal = Journal(sys.argv[1])
def work():
    while True:
        print_line(accept(journal))
for _ in range(8):
    threading.Thread(target=work, daemon=True).start()
threading.Event().wait(60)
""",
            path,
        )
        accepted_ids = {child.stdout.readline().strip() for _ in range(40)}
        child.send_signal(signal.SIGKILL)
        accepted_ids |= {
            line.strip() for line in child.stdout.read().split("\n") if len(line) == 36
        }
        child.wait()
        reopened = Journal(path)
        assert all(reopened.find(request_id) for request_id in accepted_ids)
        reopened.close()

    def test_another_process_is_refused_until_the_first_ends(self, runtime, path):
        child = start_process(
            runtime,
            "journal = Journal(sys.argv[1]); print_line('open'); sys.stdin.readline()",
            path,
        )
        assert child.stdout.readline().strip() == "open"
        with pytest.raises(JournalError, match="another endpoint"):
            Journal(path)
        child.send_signal(signal.SIGKILL)
        child.wait()
        Journal(path).close()

    def test_fifty_concurrent_threads_do_not_deadlock(self, runtime, path):
        child = start_process(
            runtime,
            """
journal = Journal(sys.argv[1])
ids = []
threads = [threading.Thread(target=lambda: ids.append(accept(journal))) for _ in range(50)]
[t.start() for t in threads]; [t.join(20) for t in threads]
journal.mark_announced([e.id for e in journal.next_fresh_batch(100)], 'l')
print_line(str((len(set(ids)), journal.counts().announced, journal.backlog))); journal.close()
""",
            path,
        )
        assert child.communicate(timeout=60)[0].strip() == "(50, 50, 50)"


class TestStates:
    """A request passes through the states accepted, announced, recorded and done."""

    def test_a_request_passes_through_all_states(self, journal, clock):
        entry = journal.find(accept(journal))
        assert [e.id for e in journal.next_fresh_batch(10)] == [entry.id]
        journal.mark_announced([entry.id], "the-batch")
        assert journal.next_fresh_batch(10) == []
        assert [(e.id, e.batch_id) for e in journal.announced()] == [(entry.id, "the-batch")]
        assert journal.backlog == 1
        journal.mark_recorded([entry.id])
        assert (journal.announced(), journal.backlog) == ([], 0)
        assert [e.emit_after for e in journal.due_recorded(10)] == [None]
        journal.mark_emitted([entry.id], 60, 120)
        assert journal.due_recorded(10) == []
        clock.offset += 61
        (loaded,) = journal.due_recorded(10)
        assert (loaded.attempts, round(loaded.emit_after - clock())) == (1, 59)
        journal.postpone([entry.id], 60)
        assert journal.due_recorded(10) == []
        journal.mark_done([entry.id])
        clock.offset += 1000
        assert journal.due_recorded(10) == []
        assert journal.find(entry.request_id).state == RequestState.DONE

    def test_missed_requests_are_due_after_their_wait(self, journal, clock):
        ids = [journal.find(accept(journal)).id for _ in range(4)]
        journal.mark_announced(ids, "a")
        journal.mark_missed(ids, 100, 2)
        assert journal.next_fresh_batch(10) == []  # they were announced, so they are not fresh
        assert journal.next_failed_batch(10) == []
        clock.offset += 101
        assert [e.id for e in journal.next_failed_batch(10)] == ids[:2]
        journal.mark_announced(ids[:2], "b")
        assert [e.id for e in journal.next_failed_batch(10)] == ids[2:]
        assert journal.backlog == 4

    def test_batches_are_not_mixed(self, journal, clock):
        ids = [journal.find(accept(journal)).id for _ in range(6)]
        journal.mark_announced(ids[:2], "a")
        journal.mark_announced(ids[2:], "b")
        journal.mark_missed(ids[2:4], 50, 0)
        journal.mark_missed(ids[4:], 50, 1)
        journal.mark_missed(ids[:2], 60, 0)
        clock.offset += 101
        assert [e.id for e in journal.next_failed_batch(10)] == ids[2:4]
        journal.mark_recorded(ids[2:4])
        assert [e.id for e in journal.next_failed_batch(10)] == ids[4:5]

    def test_clear_waits_skips_stuck_requests(self, journal):
        ids = [journal.find(accept(journal)).id for _ in range(2)]
        journal.mark_announced(ids, "a")
        journal.mark_missed(ids[:1], 600, 5)
        journal.mark_missed(ids[1:], 600, 1, is_stuck=True)
        journal.clear_waits()
        assert [e.id for e in journal.next_failed_batch(10)] == ids[:1]

    def test_counts_cover_each_state_and_the_oldest_request(self, journal, clock):
        ids = [journal.find(accept(journal)).id for _ in range(6)]
        journal.mark_announced(ids[1:4], "a")
        journal.mark_recorded(ids[2:4])
        journal.mark_done(ids[3:4])
        clock.offset += 90
        counts = journal.counts()
        assert (counts.accepted, counts.announced, counts.recorded, counts.done) == (3, 1, 1, 1)
        assert (round(counts.oldest_seconds), round(counts.overdue_seconds)) == (90, 90)
        assert counts.stuck == 0

    def test_attempts_do_not_reset_the_age_of_the_oldest_request(self, journal, clock):
        accept(journal)
        clock.offset += 60
        accept(journal)
        oldest = journal.next_fresh_batch(1)[0]
        for _ in range(2):
            journal.mark_announced([oldest.id], "a")
            assert round(journal.counts().oldest_seconds) == 60
            journal.mark_missed([oldest.id], 0, 1)
            assert round(journal.counts().oldest_seconds) == 60

    def test_stuck_requests_are_listed_and_not_counted_in_the_backlog(self, journal, clock):
        ids = [accept(journal)]
        clock.offset += 30
        ids.append(accept(journal))
        clock.offset += 30
        entry = journal.find(ids[0])
        for number in range(3):
            journal.mark_announced([entry.id], str(number))
            journal.mark_missed([entry.id], 0, 1, is_stuck=True)
        assert journal.find(ids[0]).is_stuck
        assert (journal.counts().stuck, journal.stuck_ids(10)) == (1, [ids[0]])
        assert journal.backlog == 1
        assert round(journal.counts().oldest_seconds) == 30  # the age of the other request
        journal.mark_recorded([journal.find(ids[1]).id])
        assert journal.counts().oldest_seconds == 0

    def test_prune_removes_requests_done_for_a_day(self, journal, clock):
        ids = [journal.find(accept(journal)).id for _ in range(3)]
        journal.mark_done(ids[:2])
        assert journal.prune() == 0
        clock.offset += KEEP_DONE + 5
        assert journal.prune() == 2
        assert journal.prune() == 0
        assert [e.id for e in journal.next_fresh_batch(10)] == ids[2:]
        assert journal.counts().done == 0
        count = "SELECT count(*) FROM bodies"
        assert journal._file.run(lambda db: db.execute(count).fetchone()[0]) == 1

    def test_an_unknown_request_is_not_found(self, journal):
        assert journal.find("no-such-id") is None
        journal.mark_done([])

    def test_an_id_chosen_by_the_sender_is_marked_as_shared(self, journal):
        """Another endpoint can have the same request only if the sender chose its id."""
        sender_request_id = str(uuid.uuid4())
        accept(journal, "a", sender_request_id)
        generated_id = accept(journal, "b", sender_request_id)
        assert journal.find(sender_request_id).is_shared
        assert not journal.find(generated_id).is_shared
        assert not journal.find(accept(journal)).is_shared
        replay = request(request_id=str(uuid.uuid4()))
        journal.import_recorded(replay, body_sha256(replay.body), 1)
        journal.import_recorded(replay, body_sha256(replay.body), 1)
        (entry,) = journal.due_recorded(10)
        assert (entry.request_id, entry.is_shared) == (replay.request_id, True)
        assert journal.load_requests([entry]) == [replay]


class TestQueryCosts:
    """The cost of a query depends on its requests, not on the size of the journal."""

    COUNT = 3000

    @pytest.fixture
    def count_steps(self, journal):
        """Return a function that counts the steps of SQLite's virtual machine, in hundreds."""
        connection = journal._file._connection

        def count(function):
            callbacks = []
            connection.set_progress_handler(lambda: callbacks.append(1) and 0, 100)
            try:
                function()
            finally:
                connection.set_progress_handler(None, 0)
            return len(callbacks)

        return count

    def add_requests(self, journal, state, due_at, **columns):
        """Insert COUNT requests directly into the file, without updating the journal's counters."""
        values = dict(
            body_sha256="'x'", body_bytes=2, alert_count=0, received_at="'2026-01-14T12:00:00Z'",
            client_host="''", client_request_id="''", method="''", path="''", headers="'{}'",
            shared=0, accepted_at=0, state=f"'{state}'", state_since=0, due_at=due_at, attempts=0,
            batch_id="''", batch_limit=0, stuck=0, emit_after="NULL", **columns,
        )  # fmt: skip
        statement = (
            f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {self.COUNT})"
            f" INSERT INTO requests (request_id, {', '.join(values)})"
            f" SELECT '{state}-{due_at}-' || i, {', '.join(map(str, values.values()))} FROM n"
        )
        journal._file.write(lambda db: db.execute(statement))

    def test_the_newest_waiting_requests_are_read_without_the_others(self, journal, count_steps):
        """The board reads them for each page, and webhooks wait for the file meanwhile."""
        self.add_requests(journal, "accepted", 0)
        self.add_requests(journal, "announced", 1e12)
        assert count_steps(lambda: journal.newest_waiting(5)) < 10

    def test_stuck_requests_are_among_the_newest_waiting_ones(self, journal):
        ids = [journal.find(accept(journal, str(n))).id for n in range(6)]
        journal.mark_missed(ids[1::2], 600, 1, is_stuck=True)
        journal.mark_done(ids[4:5])
        newest = [ids[n] for n in (5, 3, 2, 1, 0)]
        assert [entry.id for entry in journal.newest_waiting(9)] == newest
        assert [entry.id for entry in journal.newest_waiting(3)] == newest[:3]

    def test_pruning_reads_only_the_requests_that_it_deletes(self, journal, count_steps):
        self.add_requests(journal, "done", 1e12)
        assert count_steps(journal.prune) < 5

    def test_pruning_deletes_in_batches(self, journal):
        self.add_requests(journal, "done", 1)
        assert journal.prune() == 200
        request_ids = [accept(journal, "x" * (3 << 20)) for _ in range(3)]
        journal.mark_done([journal.find(request_id).id for request_id in request_ids])
        journal._file.write(lambda db: db.execute("DELETE FROM requests WHERE body_bytes = 2"))
        journal._file.clock._offset += KEEP_DONE + 1
        assert [journal.prune() for _ in range(4)] == [1, 1, 1, 0]

    @pytest.mark.parametrize("state, due_at", [("accepted", 0), ("done", 1e12), ("recorded", 1e12)])
    def test_finding_due_requests_does_not_read_the_others(
        self, journal, count_steps, state, due_at
    ):
        self.add_requests(journal, state, due_at)
        for query in (
            lambda: journal.next_fresh_batch(1),
            lambda: journal.next_failed_batch(10),
            lambda: journal.due_recorded(10),
            journal.announced,
            journal.counts,
            lambda: accept(journal),
        ):
            assert count_steps(query) < 10

    def test_bodies_are_read_only_when_needed(self, path):
        """A large body is stored in separate pages, so damage to them affects nothing else."""
        journal = Journal(path)
        entry = journal.find(accept(journal, "x" * 200_000))
        journal.close()
        data = pathlib.Path(path).read_bytes()
        with open(path, "r+b") as file:
            for page in range(0, len(data), 4096):
                if data[page + 4 : page + 4000] == b"x" * 3996:
                    file.seek(page)
                    file.write(bytes(4096))
        journal = Journal(path)
        assert journal.find(entry.request_id).state == RequestState.ACCEPTED
        assert [e.body_bytes for e in journal.next_fresh_batch(10)] == [200_000]
        journal.mark_announced([entry.id], "a")
        assert journal.counts().announced == 1
        assert [e.id for e in journal.announced()] == [entry.id]
        journal.mark_recorded([entry.id])
        assert [e.id for e in journal.due_recorded(10)] == [entry.id]
        journal.mark_done([entry.id])
        with pytest.raises(JournalError, match="malformed"):
            journal.load_requests([entry])
        journal.close()

    def test_a_page_of_recorded_requests_has_a_maximum_number_of_alerts(self, journal):
        ids = [journal.find(accept(journal, alerts=4000)).id for _ in range(5)]
        journal.mark_recorded(ids)
        assert [e.id for e in journal.due_recorded(10)] == ids[:2]

    def test_a_batch_has_a_maximum_size(self, journal):
        for _ in range(3):
            accept(journal, "x" * (2 << 20))
        assert len(journal.next_fresh_batch(10)) == 2
        accept(journal, "x" * (6 << 20))
        journal.mark_recorded([e.id for e in journal.next_fresh_batch(10)])
        journal.mark_recorded([e.id for e in journal.next_fresh_batch(10)])
        # A request that is larger than the limit forms a batch alone.
        assert [e.body_bytes for e in journal.next_fresh_batch(10)] == [6 << 20]


class TestClock:
    """Stored times are limited to plausible values, regardless of the clocks."""

    def test_a_restart_does_not_end_a_wait(self, path, clock, wall_clock):
        journal = Journal(path)
        entry = journal.find(accept(journal))
        journal.mark_missed([entry.id], 600, 0)
        for hours in (5, -5, 24, 0):
            journal.close()
            wall_clock.offset = hours * 3600
            journal = Journal(path)
            assert journal.next_failed_batch(10) == []
        clock.offset += 600
        assert [e.id for e in journal.next_failed_batch(10)] == [entry.id]
        journal.close()

    def test_an_implausible_saved_time_is_ignored(self, path, clock):
        journal = Journal(path)
        entry = journal.find(accept(journal))
        journal.mark_recorded([entry.id])
        journal.mark_emitted([entry.id], 5, 60)
        journal.close()
        with sqlite3.connect(path) as db:
            db.execute("UPDATE requests SET due_at = 1e12, emit_after = 1e12, accepted_at = 1e12")
        journal = Journal(path)
        clock.offset += journal_clock.MAX_WAIT + 1
        (loaded,) = journal.due_recorded(10)
        assert loaded.emit_after <= clock()
        journal.close()

    def test_waits_end_even_if_the_process_is_killed_repeatedly(self, path, clock, wall_clock):
        """After a restart, the clock counts up to a minute of downtime."""
        journal = Journal(path)
        entry = journal.find(accept(journal))
        journal.mark_missed([entry.id], 100, 0)
        for _ in range(3):
            os.close(journal._file._lock_file)  # as the kernel does when a process ends
            clock.offset += 40
            wall_clock.offset += 40
            journal = Journal(path)
        assert [e.id for e in journal.next_failed_batch(10)] == [entry.id]
        journal.close()


class TestUpgrade:
    """A journal of release 0.2.0 is upgraded in place, and no request is lost."""

    BODY = "é🍰" * 100

    @pytest.fixture
    def old_path(self, path):
        """Return the path of an old journal with requests in each state, from a clock set ahead."""
        now = time.time() + 3600
        db = sqlite3.connect(path, isolation_level=None)
        db.execute("PRAGMA journal_mode=WAL")
        db.executescript(TABLES_OF_0_2_0)
        # state, state_at, tries, next_at, list_id, list_limit, emit_at
        for number, values in enumerate(
            [
                ("accepted", now - 50, 0, 0, "", 0, 0),
                ("accepted", now - 40, 2, now + 100, "missed", 4, 0),
                ("accepted", now - 40, 2, now + 100, "missed", 4, 0),
                ("accepted", now - 40, 3, 0, "cleared", 2, 0),
                ("accepted", now - 30, 5, now + 500, "alone", -1, 0),
                ("announced", now - 20, 0, 0, "in flight", 0, 0),
                ("announced", now - 20, 4, now - 30, "alone again", -1, 0),
                ("recorded", now - 10, 0, 0, "", 0, 0),
                ("recorded", now - 10, 1, now + 3, "", 0, now + 50),
                ("done", now - 5, 1, 0, "", 0, now - 60),
            ]
        ):
            db.execute(
                "INSERT INTO entries (request_id, received_at, client_host, client_request_id,"
                " method, path, headers, body, sha256, alerts, state, state_at, tries, next_at,"
                " list_id, list_limit, emit_at) VALUES (?, '2026-01-14T12:00:00Z', '192.0.2.7', '',"
                " 'POST', '/api/v1/webhook', ?, ?, ?, 3, ?, ?, ?, ?, ?, ?, ?)",
                (
                    str(uuid.UUID(int=number)),
                    '{"User-Agent": "Alertmanager/0.25"}',
                    self.BODY.encode(),
                    body_sha256(self.BODY),
                    *values,
                ),
            )
        db.close()
        return path

    def entry_numbers(self, entries):
        """Return the numbers that old_path gave these requests."""
        return [uuid.UUID(entry.request_id).int for entry in entries]

    def test_an_upgrade_keeps_every_request_and_its_state(self, old_path, clock):
        journal = Journal(old_path)
        counts = journal.counts()
        assert (counts.accepted, counts.announced, counts.recorded, counts.done) == (5, 2, 2, 1)
        assert (counts.stuck, journal.backlog) == (2, 5)
        assert self.entry_numbers(journal.next_fresh_batch(10)) == [0]
        assert self.entry_numbers(journal.next_failed_batch(10)) == [3]
        assert self.entry_numbers(journal.announced()) == [5, 6]
        assert journal.announced()[0].batch_id == "in flight"
        # The clock continues from the newest stored time, `now + 3`, so 47 of the 50 s remain.
        entries = journal.due_recorded(10)
        assert self.entry_numbers(entries) == [7, 8]
        assert (entries[0].emit_after, round(entries[1].emit_after - clock())) == (None, 47)
        clock.offset += 100
        journal.mark_recorded([journal.find(str(uuid.UUID(int=3))).id])
        failed = journal.next_failed_batch(10)
        assert self.entry_numbers(failed) == [1, 2]
        assert (failed[0].attempts, failed[0].batch_limit) == (2, 4)
        clock.offset += 500
        journal.mark_recorded([entry.id for entry in failed])
        assert self.entry_numbers(journal.next_failed_batch(10)) == [4]
        for number in range(10):
            entry = journal.find(str(uuid.UUID(int=number)))
            # Release 0.2.0 did not record whether the sender chose the id. This matters only
            # until the request is done.
            assert entry.is_shared == (entry.state != RequestState.DONE)
            # Release 0.2.0 did not store the credential.
            assert entry.credential == ""
            assert load(journal, entry.request_id) == request(
                body=self.BODY, request_id=entry.request_id
            )
        journal.mark_done([entry.id for entry in entries])
        clock.offset += KEEP_DONE
        assert journal.prune() == 3
        journal.close()

    def test_a_failed_upgrade_changes_nothing(self, old_path, monkeypatch):
        """The upgrade is one transaction, so the old journal survives a full disk or a kill."""
        upgrade = journal_file.journal_schema.upgrade

        def failing_upgrade(connection, version):
            upgrade(connection, version)
            raise sqlite3.OperationalError("database or disk is full")

        monkeypatch.setattr(journal_file.journal_schema, "upgrade", failing_upgrade)
        with pytest.raises(JournalError, match="full"):
            Journal(old_path)
        with sqlite3.connect(old_path) as db:
            assert db.execute("PRAGMA user_version").fetchone() == (1,)
            assert db.execute("SELECT count(*) FROM entries").fetchone() == (10,)
        monkeypatch.undo()
        journal = Journal(old_path)
        assert journal.backlog == 5
        journal.close()

    @pytest.mark.parametrize("damage", ["", "reported by an operator"])
    def test_a_journal_of_release_0_3_0_is_upgraded(self, path, damage):
        """The old journal has no column for the name of the credential."""
        old_journal = Journal(path)
        ids = [accept(old_journal, body) for body in ("{}", "[]")]
        old_journal.mark_announced([old_journal.find(ids[0]).id], "a")
        old_entries = [old_journal.find(request_id) for request_id in ids]
        old_journal.close()
        db = sqlite3.connect(path)
        indexes = "SELECT sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
        statements = [row[0] for row in db.execute(indexes)]
        db.executescript("CREATE TABLE newer AS SELECT * FROM requests; DROP TABLE requests")
        db.executescript(REQUESTS_OF_0_3_0)
        columns = ", ".join(row[1] for row in db.execute("PRAGMA table_info(requests)"))
        db.execute(f"INSERT INTO requests SELECT {columns} FROM newer")
        db.commit()
        db.executescript("; ".join(["DROP TABLE newer", *statements]))
        db.close()
        journal = Journal(path, damage)
        assert [e.request_id for e in journal.announced()] == [ids[0]]
        assert [e.request_id for e in journal.next_fresh_batch(10)] == [ids[1]]
        for entry in old_entries:
            assert journal.find(entry.request_id).body_sha256 == entry.body_sha256
            assert load(journal, entry.request_id).credential == ""
        named_request = replace(request(), credential="grafana")
        request_id = journal.accept(named_request, "", body_sha256(named_request.body), 1)
        assert journal.find(request_id).credential == "grafana"
        journal.close()

    def test_the_upgraded_journal_keeps_its_endpoint_id(self, old_path):
        journal = Journal(old_path)
        endpoint_id = journal.endpoint_id
        assert str(uuid.UUID(endpoint_id)) == endpoint_id
        journal.close()
        journal = Journal(old_path)
        assert journal.endpoint_id == endpoint_id
        journal.close()

    def test_requests_are_saved_from_a_damaged_old_journal(self, old_path):
        journal = Journal(old_path, "reported by an operator")
        assert journal.backlog == 5
        assert self.entry_numbers(journal.announced()) == [5, 6]
        assert load(journal, str(uuid.UUID(int=9))).body == self.BODY
        journal.close()
        (report,) = quarantine.read_reports(old_path)
        assert (report.saved, report.lost) == (10, 0)


TABLES_OF_0_2_0 = """
CREATE TABLE entries (
    id INTEGER PRIMARY KEY,
    request_id TEXT NOT NULL UNIQUE,
    received_at TEXT NOT NULL,
    client_host TEXT NOT NULL,
    client_request_id TEXT NOT NULL,
    method TEXT NOT NULL,
    path TEXT NOT NULL,
    headers TEXT NOT NULL,
    body BLOB NOT NULL,
    sha256 TEXT NOT NULL,
    alerts INTEGER NOT NULL,
    state TEXT NOT NULL,
    state_at REAL NOT NULL,
    tries INTEGER NOT NULL DEFAULT 0,
    next_at REAL NOT NULL DEFAULT 0,
    list_id TEXT NOT NULL DEFAULT '',
    list_limit INTEGER NOT NULL DEFAULT 0,
    emit_at REAL NOT NULL DEFAULT 0
);
CREATE INDEX ix_entries_state ON entries (state, next_at, id);
CREATE INDEX ix_entries_stuck ON entries (state) WHERE list_limit < 0;
PRAGMA user_version = 1;
"""


REQUESTS_OF_0_3_0 = """
CREATE TABLE requests (
    id INTEGER PRIMARY KEY,
    request_id TEXT NOT NULL UNIQUE,
    body_sha256 TEXT NOT NULL,
    body_bytes INTEGER NOT NULL,
    alert_count INTEGER NOT NULL,
    received_at TEXT NOT NULL,
    client_host TEXT NOT NULL,
    client_request_id TEXT NOT NULL,
    method TEXT NOT NULL,
    path TEXT NOT NULL,
    headers TEXT NOT NULL,
    shared INTEGER NOT NULL,
    accepted_at REAL NOT NULL,
    state TEXT NOT NULL,
    state_since REAL NOT NULL,
    due_at REAL NOT NULL,
    attempts INTEGER NOT NULL,
    batch_id TEXT NOT NULL,
    batch_limit INTEGER NOT NULL,
    stuck INTEGER NOT NULL,
    emit_after REAL
);
PRAGMA user_version = 2;
"""


class TestOpening:
    FILES = ("journal.sqlite", "journal.sqlite-wal", "journal.sqlite-shm")

    @pytest.mark.parametrize("umask", [0o000, 0o022, 0o077], ids=oct)
    def test_only_the_owner_and_the_group_can_access_the_files(self, path, tmp_path, umask):
        old_umask = os.umask(umask)
        try:
            journal = Journal(path)
            accept(journal)
            modes = {name: (tmp_path / name).stat().st_mode & 0o777 for name in self.FILES}
            journal.close()
        finally:
            os.umask(old_umask)
        assert modes == dict.fromkeys(self.FILES, 0o640)

    def test_others_lose_access_to_existing_files(self, path, tmp_path):
        """Release 0.2.0 created its files with mode 0644."""
        old_journal = Journal(path)
        accept(old_journal)
        quarantined_files = [
            f"{path}.corrupt-20260114T120000Z{suffix}" for suffix in ("", "-wal", ".json")
        ]
        for file in quarantined_files:
            with open(file, "w"):
                pass
        for file in tmp_path.iterdir():
            file.chmod(0o644)
        copied_folder = tmp_path / "killed"
        shutil.copytree(str(tmp_path), str(copied_folder))
        old_journal.close()
        journal = Journal(str(copied_folder / "journal.sqlite"))
        assert {file.stat().st_mode & 0o777 for file in copied_folder.iterdir()} == {0o640}
        journal.close()

    def test_a_reopened_journal_has_the_same_requests(self, path):
        journal = Journal(path)
        ids = [accept(journal) for _ in range(3)]
        journal.mark_announced([journal.find(ids[0]).id], "a")
        journal.close()
        reopened = Journal(path)
        assert reopened.backlog == 3
        assert [e.request_id for e in reopened.announced()] == [ids[0]]
        reopened.close()

    @pytest.mark.parametrize("version", [VERSION + 1, 99, -1])
    def test_a_journal_of_another_release_is_refused_and_not_changed(self, path, version):
        journal = Journal(path)
        request_id = accept(journal)
        journal.close()
        with sqlite3.connect(path) as connection:
            connection.execute(f"PRAGMA user_version={version}")
        with pytest.raises(JournalError, match="release"):
            Journal(path)
        with pytest.raises(JournalError, match="release"):  # the first attempt released the lock
            Journal(path)
        with sqlite3.connect(path) as connection:
            stored = connection.execute("SELECT request_id FROM requests").fetchall()
            assert stored == [(request_id,)]
            assert connection.execute("PRAGMA user_version").fetchone() == (version,)

    @pytest.mark.parametrize("torn_bytes", [1, 24, 2000, 4119])
    def test_a_torn_last_write_loses_only_the_last_request(self, path, torn_bytes, tmp_path):
        """A power cut can leave a -wal file whose last page is incomplete."""
        journal, copied_path = Journal(path), str(tmp_path / "copied.sqlite")
        ids = [accept(journal) for _ in range(5)]
        size_before = os.path.getsize(path + "-wal")
        accept(journal)
        shutil.copy(path, copied_path)
        shutil.copy(path + "-wal", copied_path + "-wal")
        journal.close()
        frame_bytes = 24 + 4096
        last_frame = (
            size_before
            + (os.path.getsize(copied_path + "-wal") - size_before) // frame_bytes * frame_bytes
            - frame_bytes
        )
        os.truncate(copied_path + "-wal", last_frame + torn_bytes)
        with open(copied_path + "-wal", "ab") as file:
            file.write(os.urandom(100))
        reopened = Journal(copied_path)
        assert [e.request_id for e in reopened.next_fresh_batch(10)] == ids
        assert reopened.find(accept(reopened))
        reopened.close()
        assert quarantine.read_reports(copied_path) == []

    @pytest.mark.parametrize("runtime", sorted(RUNTIMES))
    def test_a_read_only_file_is_refused_until_it_is_writable(self, runtime, path):
        """A connection to a read-only file stays read-only after the permissions change."""
        Journal(path).close()
        os.chmod(path, 0o444)
        child = start_process(
            runtime,
            """
from poundcake.endpoint.journal import JournalError
try:
    Journal(sys.argv[1])
except JournalError as error:
    print_line(str(error))
import os
os.chmod(sys.argv[1], 0o644)
print_line(accept(Journal(sys.argv[1])))
""",
            path,
            prefix=permission_enforcing_prefix(),
        )
        problem, request_id = child.communicate(timeout=60)[0].splitlines()
        assert "cannot write" in problem
        assert str(uuid.UUID(request_id)) == request_id

    @pytest.mark.parametrize("relative_path", ["missing/journal.sqlite", "file/journal.sqlite"])
    def test_a_journal_in_a_missing_folder_is_refused(self, tmp_path, relative_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(JournalError, match="journal.sqlite"):
            Journal(str(tmp_path / relative_path))

    def test_a_closed_journal_raises_errors(self, path):
        journal = Journal(path)
        journal.close()
        with pytest.raises(JournalError):
            accept(journal)
        with pytest.raises(JournalError):
            journal.find("x")

    def test_each_commit_is_synced_to_the_disk(self, journal):
        pragmas = journal._file.run(
            lambda db: [
                db.execute(f"PRAGMA {p}").fetchone()[0] for p in ("synchronous", "journal_mode")
            ]
        )
        assert pragmas == [2, "wal"]  # FULL
