"""Call the journal's methods in any order, and compare it with a list of expected requests."""

from __future__ import annotations

import pathlib
import shutil
import tempfile
import types
import uuid

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from poundcake.endpoint import journal_clock
from poundcake.endpoint.journal import KEEP_DONE, Journal, RequestState
from poundcake.request_ids import body_sha256
from tests.lib.samples import NOON, request

IDS = [str(uuid.UUID(int=n)) for n in range(3)]
WAITING = (RequestState.ACCEPTED, RequestState.ANNOUNCED)
bodies = st.sampled_from(["{}", '{"alerts": []}', "é🍰\0"])


class Model:
    """The expected state of a request. Waits are in seconds."""

    def __init__(self, request_id, body, client_id):
        self.request_id, self.body, self.client_id = request_id, body, client_id
        self.state, self.attempts, self.due_at = RequestState.ACCEPTED, 0, 0.0
        self.limit, self.batch, self.is_stuck = 0, "", False


class Machine(RuleBasedStateMachine):
    """Accept and advance requests, and reopen the journal in between. Only rules let time pass."""

    def __init__(self):
        super().__init__()
        self.now = 1000.0
        self.original_clock = journal_clock.monotonic, journal_clock.time
        journal_clock.monotonic = lambda: self.now
        journal_clock.time = types.SimpleNamespace(time=lambda: self.now)
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="poundcake-fuzz-"))
        self.path = str(self.folder / "journal.sqlite")
        self.journal = Journal(self.path)
        self.models = []  # in the order of their ids

    @rule(body=bodies, sender_request_id=st.sampled_from(["", *IDS]))
    def accept(self, body, sender_request_id):
        models_by_id = {model.request_id: model for model in self.models}
        sent_request = request(body=body, request_id="", received_at=NOON)
        accepted = self.journal.accept(sent_request, sender_request_id, body_sha256(body), 1)
        if sender_request_id in models_by_id and models_by_id[sender_request_id].body == body:
            assert accepted == sender_request_id
            return
        if sender_request_id and sender_request_id not in models_by_id:
            assert accepted == sender_request_id
        else:
            assert accepted not in models_by_id and str(uuid.UUID(accepted)) == accepted
        self.models.append(
            Model(accepted, body, "" if accepted == sender_request_id else sender_request_id)
        )

    @rule(picked=st.sets(st.integers(0, 3), min_size=1), batch=st.sampled_from("xy"))
    def mark_announced(self, picked, batch):
        chosen = self.select(picked, RequestState.ACCEPTED)
        self.journal.mark_announced(self.ids(chosen), batch)
        for model in chosen:
            model.state, model.batch = RequestState.ANNOUNCED, batch

    @rule(
        picked=st.sets(st.integers(0, 3), min_size=1),
        wait=st.integers(0, 3),
        limit=st.integers(0, 2),
        is_stuck=st.booleans(),
    )
    def mark_missed(self, picked, wait, limit, is_stuck):
        chosen = self.select(picked, RequestState.ANNOUNCED)
        self.journal.mark_missed(self.ids(chosen), wait, limit, is_stuck)
        for model in chosen:
            model.state, model.due_at = RequestState.ACCEPTED, self.now + wait
            model.limit, model.is_stuck = limit, is_stuck
            model.attempts += 1

    @rule(picked=st.sets(st.integers(0, 3), min_size=1))
    def mark_recorded(self, picked):
        chosen = self.select(picked, *WAITING)
        self.journal.mark_recorded(self.ids(chosen))
        for model in chosen:
            model.state, model.due_at = RequestState.RECORDED, self.now
            model.attempts, model.limit, model.is_stuck = 0, 0, False

    @rule(picked=st.sets(st.integers(0, 3), min_size=1), wait=st.integers(0, 3))
    def postpone(self, picked, wait):
        chosen = self.select(picked, RequestState.RECORDED)
        self.journal.postpone(self.ids(chosen), wait)
        for model in chosen:
            model.due_at = self.now + wait

    @rule(picked=st.sets(st.integers(0, 3), min_size=1))
    def mark_done(self, picked):
        chosen = self.select(picked, RequestState.RECORDED)
        self.journal.mark_done(self.ids(chosen))
        for model in chosen:
            model.state, model.due_at = RequestState.DONE, self.now + KEEP_DONE

    @rule()
    def clear_waits(self):
        self.journal.clear_waits()
        for model in self.models:
            if model.state == RequestState.ACCEPTED and model.attempts and not model.is_stuck:
                model.due_at = self.now

    @rule(seconds=st.sampled_from([1, 2, KEEP_DONE]))
    def time_passes(self, seconds):
        self.now += seconds + 0.1  # so that no wait ends exactly now

    @rule()
    def prune(self):
        remaining = [m for m in self.models if m.state != RequestState.DONE or m.due_at > self.now]
        assert self.journal.prune() == len(self.models) - len(remaining)
        self.models = remaining

    @rule()
    def reopen(self):
        self.journal.close()
        self.journal = Journal(self.path)

    @invariant()
    def matches_the_model(self):
        for model in self.models:
            entry = self.journal.find(model.request_id)
            (loaded,) = self.journal.load_requests([entry])
            assert (loaded.body, loaded.client_request_id) == (model.body, model.client_id)
            assert (entry.state, entry.attempts, entry.batch_limit, entry.is_stuck) == (
                model.state,
                model.attempts,
                model.limit,
                model.is_stuck,
            )
        by_state = {state: [m for m in self.models if m.state == state] for state in RequestState}
        waiting = [m for m in self.models if m.state in WAITING]
        stuck = [m for m in waiting if m.is_stuck]
        assert self.journal.backlog == len(waiting) - len(stuck)
        counts = self.journal.counts()
        assert {s: getattr(counts, s.value) for s in RequestState} == {
            s: len(by_state[s]) for s in RequestState
        }
        assert counts.stuck == len(stuck)
        assert self.journal.stuck_ids(99) == [m.request_id for m in stuck]
        assert request_ids(self.journal.next_fresh_batch(99)) == [
            m.request_id for m in by_state[RequestState.ACCEPTED] if not m.attempts
        ]
        assert request_ids(self.journal.announced()) == [
            m.request_id for m in by_state[RequestState.ANNOUNCED]
        ]

    @invariant()
    def returns_the_due_requests(self):
        failed = [m for m in self.models if m.state == RequestState.ACCEPTED and m.attempts]
        due = [m for m in failed if m.due_at <= self.now]
        earliest = min(due, key=lambda m: m.due_at, default=None)
        same_batch = [m for m in due if (m.batch, m.limit) == (earliest.batch, earliest.limit)]
        limit = earliest.limit or 99 if earliest else 0
        assert (
            request_ids(self.journal.next_failed_batch(99))
            == [m.request_id for m in same_batch][:limit]
        )
        due_rechecks = [
            m for m in self.models if m.state == RequestState.RECORDED and m.due_at <= self.now
        ]
        due_rechecks.sort(key=lambda m: m.due_at)
        assert request_ids(self.journal.due_recorded(99)) == [m.request_id for m in due_rechecks]

    def select(self, picked, *states):
        chosen = [self.models[n] for n in sorted(picked) if n < len(self.models)]
        return [model for model in chosen if model.state in states]

    def ids(self, models):
        return [self.journal.find(model.request_id).id for model in models]

    def teardown(self):
        self.journal.close()
        journal_clock.monotonic, journal_clock.time = self.original_clock
        shutil.rmtree(str(self.folder))


def request_ids(entries):
    return [entry.request_id for entry in entries]


TestJournal = Machine.TestCase
TestJournal.settings = settings(
    max_examples=settings.default.max_examples // 5, stateful_step_count=30
)
