"""The journal, told anything in any order, against a list."""

from __future__ import annotations

import datetime
import pathlib
import shutil
import tempfile
import uuid

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from poundcake.endpoint import journal
from poundcake.endpoint.journal import STUCK, Journal
from poundcake.request_ids import body_sha256
from tests.lib.samples import NOON, request

IDS = [str(uuid.UUID(int=n)) for n in range(3)]
STATES = ("accepted", "announced", "recorded", "done")
bodies = st.sampled_from(["{}", '{"alerts": []}', "é🍰\0"])


class Entry:
    def __init__(self, request_id, body, client_id):
        self.request_id, self.body, self.client_id = request_id, body, client_id
        self.state, self.tries, self.next_at, self.limit, self.list = "accepted", 0, 0, 0, ""


class Book(RuleBasedStateMachine):
    """Requests in, and on; closed and opened again in between."""

    def __init__(self):
        super().__init__()
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="poundcake-fuzz-"))
        self.path = str(self.folder / "journal.sqlite")
        self.journal = Journal(self.path)
        self.entries = []  # in the order of their ids

    @rule(body=bodies, wanted=st.sampled_from(["", *IDS]))
    def accept(self, body, wanted):
        known = {entry.request_id: entry for entry in self.entries}
        sent = request(body=body, request_id="", received_at=NOON)
        found = self.journal.accept(sent, wanted, body_sha256(body), 1)
        if wanted in known and known[wanted].body == body:
            assert found == wanted
            return
        if wanted and wanted not in known:
            assert found == wanted
        else:
            assert found not in known and str(uuid.UUID(found)) == found
        self.entries.append(Entry(found, body, "" if found == wanted else wanted))

    @rule(picked=st.sets(st.integers(0, 3), min_size=1), name=st.sampled_from("xy"))
    def announced(self, picked, name):
        # The relay announces what is accepted.
        found = [n for n in self.some(picked) if self.entries[n].state == "accepted"]
        self.journal.mark_announced(self.ids(found), name)
        for n in found:
            self.entries[n].state, self.entries[n].list = "announced", name

    @rule(
        picked=st.sets(st.integers(0, 3), min_size=1),
        wait=st.integers(0, 3),
        limit=st.integers(-1, 2),
    )
    def missed(self, picked, wait, limit):
        found = [n for n in self.some(picked) if self.entries[n].state == "announced"]
        self.journal.mark_missed(self.ids(found), wait, limit)
        for n in found:
            entry = self.entries[n]
            entry.state, entry.next_at, entry.limit = "accepted", wait, limit
            entry.tries += 1

    @rule(picked=st.sets(st.integers(0, 3), min_size=1))
    def recorded(self, picked):
        found = [n for n in self.some(picked) if self.entries[n].state in STATES[:2]]
        self.journal.mark_recorded(self.ids(found))
        for n in found:
            entry = self.entries[n]
            entry.state, entry.tries, entry.next_at, entry.limit = "recorded", 0, 0, 0

    @rule(picked=st.sets(st.integers(0, 3), min_size=1), wait=st.integers(0, 3))
    def looked_at(self, picked, wait):
        found = [n for n in self.some(picked) if self.entries[n].state == "recorded"]
        self.journal.look_again(self.ids(found), wait)
        for n in found:
            self.entries[n].next_at = wait

    @rule(picked=st.sets(st.integers(0, 3), min_size=1))
    def done(self, picked):
        found = [n for n in self.some(picked) if self.entries[n].state == "recorded"]
        self.journal.mark_done(self.ids(found))
        for n in found:
            self.entries[n].state = "done"

    @rule()
    def waits_are_over(self):
        self.journal.clear_waits()
        for entry in self.entries:
            if entry.state == "accepted" and entry.tries and entry.limit != STUCK:
                entry.next_at = 0

    @rule(at_once=st.booleans())
    def pruned(self, at_once):
        kept = journal.KEEP_DONE
        journal.KEEP_DONE = -datetime.timedelta(days=1) if at_once else kept
        try:
            gone = self.journal.prune()
        finally:
            journal.KEEP_DONE = kept
        left = [entry for entry in self.entries if not at_once or entry.state != "done"]
        assert gone == len(self.entries) - len(left)
        self.entries = left

    @rule()
    def reopened(self):
        self.journal.close()
        self.journal = Journal(self.path)

    @invariant()
    def it_has_what_it_was_told(self):
        for entry in self.entries:
            found = self.journal.find(entry.request_id)
            assert found.request.body == entry.body
            assert found.request.client_request_id == entry.client_id
            assert (found.state, found.tries, found.next_at, found.list_limit) == (
                entry.state,
                entry.tries,
                entry.next_at,
                entry.limit,
            )
        of = {state: [e for e in self.entries if e.state == state] for state in STATES}
        waiting = of["accepted"] + of["announced"]
        stuck = [e for e in self.entries if e in waiting and e.limit == STUCK]
        assert self.journal.backlog == len(waiting) - len(stuck)
        counts = self.journal.counts()
        assert {s: counts.get(s, 0) for s in STATES} == {s: len(of[s]) for s in STATES}
        assert counts["stuck"] == len(stuck)
        assert (counts["oldest"] is None) == (len(waiting) == len(stuck))
        assert self.journal.stuck(99) == [e.request_id for e in stuck]
        assert names(self.journal.fresh(99)) == [
            e.request_id for e in of["accepted"] if not e.tries
        ]
        assert names(self.journal.announced()) == [e.request_id for e in of["announced"]]

    @invariant()
    def what_is_due_is_given_out(self):
        now = 1
        due = [e for e in self.entries if e.state == "accepted" and e.tries and e.next_at <= now]
        due.sort(key=lambda entry: entry.next_at)
        found = names(self.journal.failed(now, 99))
        same = [e for e in self.entries if due and e.state == "accepted" and e.list == due[0].list]
        most = abs(due[0].limit) or 99 if due else 0
        assert found == [e.request_id for e in same][:most]
        looks = [e for e in self.entries if e.state == "recorded" and e.next_at <= now]
        looks.sort(key=lambda entry: entry.next_at)
        assert names(self.journal.recorded(now, 99)) == [e.request_id for e in looks]

    def some(self, picked):
        return [n for n in sorted(picked) if n < len(self.entries)]

    def ids(self, places):
        return [self.journal.find(self.entries[n].request_id).id for n in places]

    def teardown(self):
        self.journal.close()
        shutil.rmtree(str(self.folder))


def names(entries):
    return [entry.request.request_id for entry in entries]


TestBook = Book.TestCase
TestBook.settings = settings(
    max_examples=settings.default.max_examples // 5, stateful_step_count=30
)
