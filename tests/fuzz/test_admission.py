"""Record alerts in any order, and compare with the rules written down a second time, plainly."""

from __future__ import annotations

import datetime
import json
import pathlib
import shutil
import tempfile

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from sqlalchemy import select

from poundcake.config import Config
from poundcake.trail import database
from poundcake.trail.record import record_requests
from poundcake.trail.schema import alerts, api_calls
from tests.lib.samples import NOON, alert, iso, request
from tests.lib.trails import database_time, do_not_sync

SKEW = 120
LATE = 600
HOUR = 3600
# Two of them have one name.
FINGERPRINTS = {"fp-a": "HostDown", "fp-b": "HostDown", "fp-c": "DiskFull"}
# Minutes from now, few of them, so that one start comes often and each bound is met exactly.
moments = st.sampled_from([None, -60, -15, -11, -10, -3, -2, -1, 0, 0, 1, 2])
drawn_alerts = st.fixed_dictionaries(
    {
        "fingerprint": st.sampled_from(sorted(FINGERPRINTS)),
        "status": st.sampled_from(["firing", "firing", "resolved", None, "?"]),
        "starts": moments,
        "ends": moments,
    }
)
drawn_requests = st.fixed_dictionaries(
    {
        "group_status": st.sampled_from(["firing", "resolved"]),
        "alerts": st.lists(drawn_alerts, max_size=3),
    }
)


class Rules:
    """The rules of admission. All times are seconds since NOON."""

    def __init__(self, cooldown, limit):
        self.cooldown, self.limit = cooldown, limit
        self.open = {}  # fingerprint: {start, episode, admitted, notifications}
        self.resolves = []  # (fingerprint, end, came)
        self.admitted = []  # (fingerprint, name, when by the database's clock)
        self.clock = 0  # the database's

    def request(self, found, now):
        """[(outcome, episode)] of a request's alerts: (fingerprint, status, start, end)."""
        outcomes, seen = [], {}
        for key, status, start, end in found:
            if status not in ("firing", "resolved"):
                outcomes.append(("malformed", None))
                continue
            if (key, status, start) in seen:
                outcome = ("duplicate", seen[key, status, start])
                if status == "firing":
                    self.seen_again(key, outcome[1])
            elif status == "resolved":
                outcome = self.resolve(key, end)
            else:
                outcome = self.fire(key, start, now)
            seen.setdefault((key, status, start), outcome[1])
            if status == "resolved":
                self.resolves.append((key, now if end is None else end, now))
            outcomes.append(outcome)
        return outcomes

    def resolve(self, key, end):
        incident = self.open.get(key)
        if incident is None or (end is not None and end < incident["start"]):
            return "duplicate", None
        del self.open[key]
        return "resolved", incident["episode"]

    def fire(self, key, start, now):
        incident = self.open.get(key)
        if incident:
            start = incident["start"] if start is None else start
            if start - incident["start"] <= SKEW:
                if incident["admitted"]:
                    self.seen_again(key, incident["episode"])
                    return "duplicate", incident["episode"]
                refused = self.refused(key)
                if refused:
                    self.seen_again(key, incident["episode"])
                    return refused, incident["episode"]
                incident.update(admitted=True, notifications=1)
                self.admitted.append((key, FINGERPRINTS[key], self.clock))
                return "admitted", incident["episode"]
        else:
            start = now if start is None else start
            for other, end, came in self.resolves:
                if other == key and end >= start and came >= max(start, now - LATE):
                    return "duplicate", self.name(key, start)
        refused = self.refused(key)
        episode = self.name(key, start)
        self.open[key] = {
            "start": start,
            "episode": episode,
            "admitted": not refused,
            "notifications": 1,
        }
        if not refused:
            self.admitted.append((key, FINGERPRINTS[key], self.clock))
        return refused or "admitted", episode

    def seen_again(self, key, episode):
        incident = self.open.get(key)
        if incident and incident["episode"] == episode:
            incident["notifications"] += 1

    def refused(self, key):
        now = self.clock
        if any(k == key and now < when + self.cooldown for k, _, when in self.admitted):
            return "cooldown"
        of_name = [w for _, n, w in self.admitted if n == FINGERPRINTS[key] and w > now - HOUR]
        return "rate_limited" if self.limit and len(of_name) >= self.limit else ""

    @staticmethod
    def name(key, start):
        epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
        return f"{key}-{int((moment(start) - epoch).total_seconds()) * 1000}"


def moment(seconds):
    return NOON + datetime.timedelta(seconds=seconds)


class Recording(RuleBasedStateMachine):
    """Lists of requests, recorded as they come."""

    template = None

    def __init__(self):
        super().__init__()
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="poundcake-fuzz-"))
        path = self.folder / "tracking.db"
        if Recording.template is None:  # to make the tables takes longer than an example
            first = database.open_engine(f"sqlite:///{path}")
            database.prepare(first)
            first.dispose()
            Recording.template = path.read_bytes()
        path.write_bytes(Recording.template)
        self.engine = database.open_engine(f"sqlite:///{path}")
        do_not_sync(self.engine)
        self.now = 0
        self.known = []

    @initialize(cooldown=st.sampled_from([0, 180, 180]), limit=st.sampled_from([0, 1, 3, 100]))
    def configure(self, cooldown, limit):
        self.config = Config(cooldown_seconds=cooldown, max_remediations_per_hour=limit)
        self.rules = Rules(cooldown, limit)

    @rule(minutes=st.sampled_from([1, 2, 3, 3, 11, 60]))
    def time_passes(self, minutes):
        self.now += 60 * minutes

    @rule(
        drawn=st.lists(drawn_requests, min_size=1, max_size=3),
        minutes=st.sampled_from([0, 0, 0, 2, 600, -600]),
    )
    def a_list_is_recorded(self, drawn, minutes):
        """It waited for some minutes, or another clock is ahead by ten hours."""
        received = self.now - 60 * minutes
        requests = [self.request(one, received) for one in drawn]
        with database_time(moment(self.now)):
            counts = record_requests(self.engine, self.config, requests)
        assert (counts["recorded"], counts["known"], counts["failed"]) == (len(requests), 0, 0)
        for one, sent in zip(drawn, requests):
            found = [
                (
                    a["fingerprint"],
                    a["status"] or one["group_status"],
                    None if a["starts"] is None else received + 60 * a["starts"],
                    None if a["ends"] is None else received + 60 * a["ends"],
                )
                for a in one["alerts"]
            ]
            self.rules.clock = self.now
            expected = self.rules.request(found, received)
            with database.reading(self.engine) as connection:
                rows = connection.execute(
                    select(alerts)
                    .join(api_calls)
                    .where(api_calls.c.request_id == sent.request_id)
                    .order_by(alerts.c.position)
                ).all()
            outcomes = [(row.outcome, row.episode) for row in rows]
            assert outcomes == expected, json.dumps(json.loads(sent.body)["alerts"])
            assert all(row.reason for row in rows)
        self.known += requests

    @rule(data=st.data())
    def recorded_requests_come_again(self, data):
        if self.known:
            again = data.draw(st.lists(st.sampled_from(self.known), max_size=3), label="again")
            counts = record_requests(self.engine, self.config, again)
            assert (counts["recorded"], counts["outcomes"]) == (0, {})

    @invariant()
    def the_open_incidents_are_those_of_the_rules(self):
        with database.reading(self.engine) as connection:
            rows = connection.execute(
                select(alerts).where(alerts.c.open_fingerprint.is_not(None))
            ).all()
        open_rows = [(r.open_fingerprint, r.episode, r.starts_at, r.notifications) for r in rows]
        assert sorted(open_rows) == sorted(
            (key, one["episode"], moment(one["start"]), one["notifications"])
            for key, one in (self.rules.open.items() if hasattr(self, "rules") else ())
        )

    def request(self, drawn, received):
        found = []
        for one in drawn["alerts"]:
            made = alert(FINGERPRINTS[one["fingerprint"]], fingerprint=one["fingerprint"])
            made["status"] = one["status"]
            for name, field in (("starts", "startsAt"), ("ends", "endsAt")):
                minutes = one[name]
                made[field] = None if minutes is None else iso(moment(received + 60 * minutes))
            found.append(made)
        return request(*found, status=drawn["group_status"], received_at=moment(received))

    def teardown(self):
        self.engine.dispose()
        shutil.rmtree(str(self.folder))


TestRecording = Recording.TestCase
TestRecording.settings = settings(
    max_examples=settings.default.max_examples // 5, stateful_step_count=30
)
