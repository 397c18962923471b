"""The lists, status and health as a person on call reads them, in representative states.

The expected texts are in golden_views/. After an intended change of the text, write them again, and
read the difference as the person on call would:

    UPDATE_GOLDEN=1 .venv/bin/python -m pytest tests/lib/trail/text/test_golden_views.py
    git diff tests/lib/trail/text/golden_views
"""

from __future__ import annotations

import os
import pathlib
import re

import pytest

from poundcake.trail import database, queries, refresh, text
from poundcake.trail.text.layout import display_width
from tests.lib.samples import later
from tests.lib.trail.text import on_call_states as states
from tests.lib.trail.text.rows import health
from tests.lib.trails import on_sqlite

GOLDEN = pathlib.Path(__file__).with_name("golden_views")
MICROSECONDS = re.compile(r"\d\d:\d\d:\d\d\.\d")
# A person copies an id or a command from one line.
ID = re.compile(r"[0-9a-f]{24}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def mixed(world):
    """Several incidents at once."""
    states.failed(world)
    states.waiting_for_approval(world)
    states.three_pods(world)
    states.acknowledged(world)


GOLDEN_VIEWS = [
    ("alerts_active", mixed),
    ("alerts_active", states.storm),
    ("alerts_active", states.three_pods),
    ("alerts_active", states.silenced),
    ("alerts_active", states.stale),
    ("alerts_active", states.refused_by_pause),
    ("alerts_active", states.hostile),
    ("alerts_active", states.empty),
    ("executions_recent", mixed),
    ("executions_recent", states.changed_and_cleared),
    ("executions_recent", states.hostile),
    ("executions_recent", states.empty),
    ("st2_executions", mixed),
    ("st2_executions", states.changed_and_not_cleared),
    ("st2_executions", states.refused_by_limit),
    ("st2_executions", states.evidence_only),
    ("st2_executions", states.hostile),
    ("st2_executions", states.empty),
    ("status", states.no_rule),
    ("status", states.dry_run),
    ("status", states.waiting_for_approval),
    ("status", states.running),
    ("status", states.failed),
    ("status", states.refused_by_limit),
    ("status", states.changed_and_cleared),
    ("status", states.stackstorm_away),
    ("status", states.acknowledged),
    ("status", states.hostile),
]
READERS = {
    "alerts_active": queries.read_incidents,
    "executions_recent": queries.executions_recent,
    "st2_executions": queries.st2_executions,
    "status": queries.status,
}


def read_view(world, name):
    """Return a view as JSON, as its action returns it."""
    query = {"request_id": world.request_id} if name == "status" else {}
    if name == "alerts_active":
        query["config"] = world.config
    with database.reading(world.engine) as connection:
        view = READERS[name](connection, **query)
    return refresh.refresh_open_executions(world.stackstorm, view, world.config.approval_minutes)


def check(output, name):
    file = GOLDEN / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text(output + "\n", encoding="utf-8")
    assert output + "\n" == file.read_text(encoding="utf-8")
    assert not MICROSECONDS.search(output)
    assert not re.search(r"\b1 (alert|execution|request|notification)s\b", output)
    for line in output.split("\n"):
        is_command = re.match(r" *(next: )?st2 run \S", line)  # one that does not fit
        assert display_width(line) <= 80 or is_command, line
    assert re.match(r"(next: |      )\S", output.split("\n")[-1])


@on_sqlite
@pytest.mark.parametrize(
    "name, state", GOLDEN_VIEWS, ids=[f"{name}-{state.__name__}" for name, state in GOLDEN_VIEWS]
)
def test_a_view_is_shown_as_a_person_reads_it(world, name, state):
    state(world)
    view = read_view(world, name)
    output = getattr(text, name)(view, world.now)
    check(output, f"{name}_{state.__name__}")
    narrow = getattr(text, name)(view, world.now, 40)
    wide = getattr(text, name)(view, world.now, 200)
    for word in ID.findall(output):
        assert word in narrow and word in wide
    assert wide.count("\n") <= output.count("\n") <= narrow.count("\n")


def part(state="ok", detail="", waiting=0):
    since = "2026-01-14T11:00:00.123456Z"
    return {"state": state, "since": since, "detail": detail, "waiting": waiting}


HEALTHY = {name: part() for name in ("journal", "broker", "database", "stackstorm")}
HEALTH_STATES = {
    "ok": health(components=HEALTHY, newest_webhook_at="2026-01-14T11:48:00.123456Z"),
    "live": health(components=HEALTHY, dry_run=False, newest_webhook_at=None),
    "paused": health(
        components=HEALTHY,
        dry_run=False,
        paused={"by": "anna", "at": "2026-01-14T11:00:00Z", "until": None, "reason": "storage"},
    ),
    "broker_down": health(
        status="degraded",
        components={
            **HEALTHY,
            "journal": part(detail="the oldest request has waited 12 min to be recorded"),
            "broker": part("down", "[Errno 111] connection refused by amqp://127.0.0.1", 12),
        },
    ),
    "journal_full": health(
        status="unavailable",
        components={
            **HEALTHY,
            "journal": part("full", "backlog_limit is reached", 10_000),
            "database": part("down", "cannot connect to db-1:3306: no route to host", 10_000),
        },
    ),
    "stuck": health(
        status="degraded",
        components={
            **HEALTHY,
            "journal": {**part(), "stuck_requests": ["6b3a1c1e-9c51-4f0e-a3a4-0d0f6a1f7a10"]},
        },
    ),
    "no_answer": health(
        status="unknown",
        address="no answer from http://127.0.0.1:8000 (endpoint_url)",
        components={
            "journal": {"state": "unknown", "since": "", "detail": "only the endpoint knows"},
            "database": {"state": "ok", "since": "", "detail": ""},
        },
    ),
}


@pytest.mark.parametrize("name", HEALTH_STATES)
def test_health_begins_with_a_verdict(name):
    view = HEALTH_STATES[name]
    output = text.health(view, later(0))
    check(output, f"health_{name}")
    assert output.startswith(f"\n{view['status'].upper()}: ")


def test_every_golden_file_belongs_to_a_view():
    names = {f"{name}_{state.__name__}" for name, state in GOLDEN_VIEWS}
    names |= {f"health_{name}" for name in HEALTH_STATES}
    assert {file.stem for file in GOLDEN.glob("*.txt")} == names
