"""Record alerts in any order, and compare the outcomes with a second, simpler implementation."""

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

from poundcake import alertmanager
from poundcake.config import Config
from poundcake.trail import database
from poundcake.trail.record import record_requests
from poundcake.trail.schema import alerts, api_calls
from tests.lib.samples import NOON, alert, iso, request
from tests.lib.trails import database_time, disable_fsync

SKEW = 120
GRACE = 90
HOUR = 3600
# {id of an alert: its name}. Two alerts have the same name.
NAMES = {"id-a": "HostDown", "id-b": "HostDown", "id-c": "DiskFull"}
RECEIVERS = ("may-start", "only-observes")
# Minutes from now. There are few values, so that starts repeat, and times fall exactly on bounds.
minutes_from_now = st.sampled_from([None, -60, -15, -11, -10, -3, -2, -1, 0, 0, 1, 2])
drawn_alerts = st.fixed_dictionaries(
    {
        "id": st.sampled_from(sorted(NAMES)),
        "status": st.sampled_from(["firing", "firing", "resolved", None, "?"]),
        "starts": minutes_from_now,
        "ends": minutes_from_now,
    }
)
drawn_requests = st.fixed_dictionaries(
    {
        "group_status": st.sampled_from(["firing", "resolved"]),
        "receiver": st.sampled_from((RECEIVERS[0], *RECEIVERS)),
        # How many seconds before the others of its batch the request was received.
        "delay": st.sampled_from([0, 0, 0, 60, 100]),
        "alerts": st.lists(drawn_alerts, max_size=3),
    }
)


class Rules:
    """A second implementation of the admission rules. All times are seconds since NOON."""

    def __init__(self, cooldown, limit):
        self.cooldown, self.limit = cooldown, limit
        self.open = {}  # id: {start, sender_start, last_seen, episode, outcome, notifications}
        self.resolves = []  # (id, end, time of receipt)
        self.admitted = []  # (id, name, time by the database's clock)
        self.episodes = set()  # the names of the recorded episodes
        self.clock = 0  # the current time of the database

    def request(self, sent_alerts, now, may_start):
        """Return [(outcome, episode)] for a request's alerts, each (id, status, start, end)."""
        outcomes, earlier_episodes = [], {}
        for key, status, start, end in sent_alerts:
            if status not in ("firing", "resolved"):
                outcomes.append(("malformed", None))
                continue
            if (key, status, start) in earlier_episodes:
                outcome = ("duplicate", earlier_episodes[key, status, start])
                if status == "firing":
                    self.count_notification(key, outcome[1], start, now)
            elif status == "resolved":
                outcome = self.resolve(key, end, now)
            else:
                outcome = self.fire(key, start, now, may_start)
            earlier_episodes.setdefault((key, status, start), outcome[1])
            if status == "resolved":
                self.resolves.append((key, end, now))
            outcomes.append(outcome)
            self.episodes.add(outcome[1])
        return outcomes

    def resolve(self, key, end, now):
        incident = self.open.get(key)
        if incident is None or now < incident["last_seen"]:
            return "duplicate", None
        if (
            end is not None
            and incident["sender_start"] is not None
            and end < incident["sender_start"]
        ):
            return "duplicate", None
        del self.open[key]
        closes_silently = incident["outcome"] in ("unconfirmed", "observed")
        return incident["outcome"] if closes_silently else "resolved", incident["episode"]

    def fire(self, key, start, now, may_start):
        incident = self.open.get(key)
        has_starts = incident and None not in (start, incident["sender_start"])
        if incident is None or (has_starts and start - incident["sender_start"] > SKEW):
            return self.begin(key, start, now, may_start, self.judge_refire(key, start, now))
        outcome = "duplicate"
        if incident["outcome"] != "admitted":
            outcome = "observed"
            if may_start:
                outcome = (
                    self.judge_refire(key, start, now) or self.limit_outcome(key) or "admitted"
                )
        if outcome == "admitted" or (outcome, incident["outcome"]) == ("unconfirmed", "observed"):
            # A new row represents the incident from now on.
            incident.update(outcome=outcome, notifications=0)
        self.count_notification(key, incident["episode"], start, now)
        if outcome == "admitted":
            self.admitted.append((key, NAMES[key], self.clock))
        return outcome, incident["episode"]

    def begin(self, key, start, now, may_start, refire_outcome):
        begins = now if start is None else min(start, now)
        episode = self.episode_name(key, begins)
        if refire_outcome == "duplicate":
            return "duplicate", episode
        while episode in self.episodes:
            episode, now = self.episode_name(key, now), now + 0.001
        now = round(now)
        outcome = refire_outcome or self.limit_outcome(key) or "admitted"
        if not may_start:
            outcome = "observed"
        self.open[key] = {
            "start": begins,
            "sender_start": start,
            "last_seen": now,
            "episode": episode,
            "outcome": outcome,
            "notifications": 1,
        }
        self.episodes.add(episode)
        if outcome == "admitted":
            self.admitted.append((key, NAMES[key], self.clock))
        return outcome, episode

    def judge_refire(self, key, start, now):
        """Return how a recorded resolve affects a firing notification, or None if it does not."""
        receipt_times = [
            received_at
            for other, end, received_at in self.resolves
            if other == key and (start is None or end is None or end >= start)
        ]
        if any(received_at > now for received_at in receipt_times):
            return "duplicate"
        in_grace = any(now - received_at < GRACE for received_at in receipt_times)
        return "unconfirmed" if in_grace else None

    def count_notification(self, key, episode, start, now):
        incident = self.open.get(key)
        if incident and incident["episode"] == episode:
            incident["notifications"] += 1
            incident["last_seen"] = max(incident["last_seen"], now)
            if incident["sender_start"] is None:
                incident["sender_start"] = start

    def limit_outcome(self, key):
        now = self.clock
        if any(k == key and now < when + self.cooldown for k, _, when in self.admitted):
            return "cooldown"
        same_name = [
            when for _, name, when in self.admitted if name == NAMES[key] and when > now - HOUR
        ]
        return "rate_limited" if self.limit and len(same_name) >= self.limit else ""

    @staticmethod
    def episode_name(key, start):
        epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
        return f"{fingerprint_of(key)}-{round((time_at(start) - epoch).total_seconds() * 1000)}"


def make_alert(key):
    """Return an alert with this id as a label."""
    return alert(NAMES[key], labels={"id": key})


def fingerprint_of(key):
    return alertmanager.fingerprint(make_alert(key)["labels"])


def time_at(seconds):
    return NOON + datetime.timedelta(seconds=seconds)


class Recording(RuleBasedStateMachine):
    """Batches of requests, recorded one after another."""

    template = None

    def __init__(self):
        super().__init__()
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="poundcake-fuzz-"))
        path = self.folder / "tracking.db"
        if Recording.template is None:  # creating the tables takes longer than an example
            engine = database.open_engine(f"sqlite:///{path}")
            database.prepare(engine)
            engine.dispose()
            Recording.template = path.read_bytes()
        path.write_bytes(Recording.template)
        self.engine = database.open_engine(f"sqlite:///{path}")
        disable_fsync(self.engine)
        self.now = 0
        self.recorded_requests = []

    @initialize(cooldown=st.sampled_from([0, 180, 180]), limit=st.sampled_from([0, 1, 3, 100]))
    def configure(self, cooldown, limit):
        self.config = Config(
            cooldown_seconds=cooldown,
            max_remediations_per_hour=limit,
            receivers=RECEIVERS[:1],
        )
        self.rules = Rules(cooldown, limit)

    @rule(minutes=st.sampled_from([1, 2, 3, 3, 11, 60]))
    def time_passes(self, minutes):
        self.now += 60 * minutes

    @rule(
        drawn=st.lists(drawn_requests, min_size=1, max_size=3),
        minutes=st.sampled_from([0, 0, 0, 2, 600, -600]),
    )
    def record_a_batch(self, drawn, minutes):
        """Record a batch that waited for some minutes, or from a clock that is ten hours ahead."""
        self.now += 1  # no two batches arrive within the same millisecond
        batch_time = self.now - 60 * minutes
        batch = [
            (drawn_request, self.request(drawn_request, batch_time - drawn_request["delay"]))
            for drawn_request in drawn
        ]
        requests = [recorded_request for _, recorded_request in batch]
        with database_time(time_at(self.now)):
            counts = record_requests(self.engine, self.config, requests)
        assert (counts["recorded"], counts["known"], counts["failed"]) == (len(batch), 0, 0)
        batch.sort(key=lambda pair: min(batch_time - pair[0]["delay"], self.now))
        for drawn_request, recorded_request in batch:
            sent_at = batch_time - drawn_request["delay"]
            sent_alerts = [
                (
                    a["id"],
                    a["status"] or drawn_request["group_status"],
                    None if a["starts"] is None else sent_at + 60 * a["starts"],
                    None if a["ends"] is None else sent_at + 60 * a["ends"],
                )
                for a in drawn_request["alerts"]
            ]
            self.rules.clock = self.now
            received_at = min(sent_at, self.now)
            may_start = drawn_request["receiver"] == RECEIVERS[0]
            expected = self.rules.request(sent_alerts, received_at, may_start)
            with database.reading(self.engine) as connection:
                rows = connection.execute(
                    select(alerts)
                    .join(api_calls)
                    .where(api_calls.c.request_id == recorded_request.request_id)
                    .order_by(alerts.c.position)
                ).all()
            outcomes = [(row.outcome, row.episode) for row in rows]
            alerts_in_body = json.loads(recorded_request.body)["alerts"]
            assert outcomes == expected, (outcomes, expected, alerts_in_body)
            assert all(row.reason for row in rows)
        self.recorded_requests += requests

    @rule(data=st.data())
    def record_requests_again(self, data):
        if self.recorded_requests:
            repeated = data.draw(
                st.lists(st.sampled_from(self.recorded_requests), max_size=3), label="repeated"
            )
            counts = record_requests(self.engine, self.config, repeated)
            assert (counts["recorded"], counts["outcomes"]) == (0, {})

    @invariant()
    def open_incidents_match_the_rules(self):
        with database.reading(self.engine) as connection:
            rows = connection.execute(
                select(alerts).where(alerts.c.open_fingerprint.is_not(None))
            ).all()
        open_rows = [
            (
                row.open_fingerprint,
                row.episode,
                row.starts_at,
                row.outcome,
                row.notifications,
                row.last_seen_at,
                row.sender_starts_at,
            )
            for row in rows
        ]
        expected = [
            (
                fingerprint_of(key),
                incident["episode"],
                time_at(incident["start"]),
                incident["outcome"],
                incident["notifications"],
                time_at(incident["last_seen"]),
                None if incident["sender_start"] is None else time_at(incident["sender_start"]),
            )
            for key, incident in (self.rules.open.items() if hasattr(self, "rules") else ())
        ]
        assert sorted(open_rows, key=str) == sorted(expected, key=str), (open_rows, expected)

    def request(self, drawn, received):
        sent_alerts = []
        for drawn_alert in drawn["alerts"]:
            sent_alert = make_alert(drawn_alert["id"])
            sent_alert["status"] = drawn_alert["status"]
            for name, field in (("starts", "startsAt"), ("ends", "endsAt")):
                minutes = drawn_alert[name]
                sent_alert[field] = (
                    None if minutes is None else iso(time_at(received + 60 * minutes))
                )
            sent_alerts.append(sent_alert)
        return request(
            *sent_alerts,
            status=drawn["group_status"],
            receiver=drawn["receiver"],
            received_at=time_at(received),
        )

    def teardown(self):
        self.engine.dispose()
        shutil.rmtree(str(self.folder))


TestRecording = Recording.TestCase
TestRecording.settings = settings(
    max_examples=settings.default.max_examples // 5, stateful_step_count=30
)
