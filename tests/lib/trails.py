"""Trails to read: what was recorded, what ran for it, and the pages of a view."""

import json
from dataclasses import replace

from poundcake.config import Config
from poundcake.trail import claims, database, search, sync
from poundcake.trail.record import record_requests
from poundcake.trail.search import Filters
from tests.lib.samples import NOON, iso, later, request

WORKFLOW = "poundcake.host_down"
# st2common/constants/action.py, LIVEACTION_STATUSES, and `gone`, which is the pack's own.
STATUSES = (
    "requested scheduled delayed running succeeded failed timeout abandoned canceling canceled"
    " pending pausing paused resuming gone"
).split()


def episode(fingerprint, starts_at=NOON):
    return f"{fingerprint}-{int(starts_at.timestamp() * 1000)}"


def record(engine, *alerts, config=None, **more):
    """Records one request; its id."""
    sent = request(*alerts, **more)
    record_requests(engine, config or Config(), [sent])
    return sent.request_id


def ran(engine, request_id, episode, execution="e1", workflow=WORKFLOW, **more):
    """An execution that claimed the episode and ended."""
    claims.link(engine, request_id, episode, workflow, execution)
    found = {
        "id": execution,
        "status": "succeeded",
        "start_timestamp": iso(later(10)),
        "end_timestamp": iso(later(12.5)),
        "rule": {"ref": "poundcake.host_down"},
        "result": {
            "output": {
                "dry_run": False,
                "mutated": True,
                "verified": True,
                "stage": "done",
                "message": "web-1 answers",
            }
        },
    }
    found.update(more)
    with database.transaction(engine) as connection:
        sync.write_execution(connection, found)


def view(engine, function, *args, **query):
    with database.reading(engine) as connection:
        found = function(connection, *args, **query)
    json.dumps(found)  # it is what a URL answers
    return found


def pages(engine, function, *args, filters=Filters(), **query):
    """Every page of a view, each from where the one before ended."""
    for _ in range(100):
        page = view(engine, function, *args, filters=filters, **query)
        yield page
        if "next" not in page:
            return
        filters = replace(filters, before=search.parse(before=page["next"]).before)
    raise AssertionError("there is no end to it")
