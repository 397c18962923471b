"""The ChatOps aliases: their answers are short, useful and safe.

StackStorm renders the answers with Jinja. These tests use the same settings, and the results that
the actions return in each state that a person on call meets. tests/test_st2_aliases.py matches
commands with StackStorm's own code.
"""

from __future__ import annotations

import re

import jinja2
import jinja2.sandbox
import pytest
import yaml

from poundcake import inert
from poundcake.trail import database, queries, search
from tests import documents
from tests.lib.samples import alert
from tests.lib.trail.text.on_call_states import STATES
from tests.lib.trails import on_sqlite

ALIASES = {path.stem: path for path in sorted((documents.ROOT / "aliases").glob("*.yaml"))}
MAX_LINES = 10
MAX_COLUMNS = 400
HOSTILE = "```\n@channel {{ st2kv.system.x }} <% ctx() %> <!here> " + "x" * 180
# As in st2common.util.jinja.get_jinja_environment(allow_undefined=True).
JINJA = jinja2.sandbox.SandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)


def load(name):
    return yaml.safe_load(ALIASES[name].read_text(encoding="utf-8"))


def answer(name, result, status="succeeded"):
    """Return what the chat shows, given the result that the action returned."""
    template = JINJA.from_string(load(name)["result"]["format"])
    execution = {"status": status, "result": {"result": inert.make_inert(result)}}
    return template.render(execution=execution).strip()


def check(text):
    """Check that a text is short, and one block of code that no text of an alert can leave."""
    lines = text.split("\n")
    assert len(lines) <= MAX_LINES, text
    assert max(map(len, lines)) <= MAX_COLUMNS, text
    assert text.startswith("```") and text.endswith("```") and text.count("`") == 6, text
    assert not inert.is_evaluated(text) and "<" not in text, text


def read(world, query):
    with database.reading(world.engine) as connection:
        return query(connection)


def read_active(world):
    """Return the result of poundcake.alerts_active."""
    return read(world, lambda c: queries.read_incidents(c, search.parse()).as_json())


def read_recent(world, limit=8):
    """Return the result of poundcake.executions_recent."""
    return read(world, lambda c: queries.executions_recent(c, search.parse(), limit=limit))


@pytest.mark.parametrize("name", ALIASES)
def test_each_alias_runs_an_action_of_the_pack_with_its_parameters(name):
    alias = load(name)
    assert alias["name"] == f"poundcake_{name}", "StackStorm finds aliases by name, in any pack"
    pack, _, action = alias["action_ref"].partition(".")
    assert pack == "poundcake"
    path = documents.ROOT / "actions" / f"{action}.yaml"
    parameters = yaml.safe_load(path.read_text(encoding="utf-8"))["parameters"]
    fixed = alias.get("immutable_parameters", {})
    for form in alias["formats"]:
        (representation,) = form["representation"]
        names = re.findall(r"\{\{ *(\w+)", representation)
        assert names and not set(names) & set(fixed)
        for parameter in (*names, *fixed):
            assert not parameters[parameter].get("immutable")
    if "format" in parameters:
        assert fixed["format"] == "json", "the template reads JSON"


@on_sqlite
@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_why_answers_with_the_verdict_and_the_next_command(world, state):
    view = world.why(**state(world))
    text = answer("why", view)
    check(text)
    for row in view["episodes"][: 1 if view.get("waiting") else 2]:
        assert row["title"] in text
        if row.get("approvals"):
            assert f"poundcake approve {row['episode']}" in text
        elif row["next_command"]:
            assert str(row["next_command"]).split()[-1] in text
    if view.get("waiting"):
        assert view["waiting"][0]["headline"][:60] in text
    if not view["episodes"] and not view.get("waiting"):
        assert "no matching alert is recorded" in text


@on_sqlite
@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_active_and_recent_are_short_in_every_state(world, state):
    state(world)
    view = read_active(world)
    text = answer("active", view)
    check(text)
    assert text.startswith(f"```{view['count']} active, ")
    check(answer("recent", read_recent(world)))


@on_sqlite
def test_active_shows_first_what_waits_for_a_person(world):
    state = {state.__name__: state for state in STATES}["storm"]
    state(world)
    lines = answer("active", read_active(world)).split("\n")
    assert lines[1].startswith("NOT TOUCHED: STORM"), "the only one that waits for a person"


@on_sqlite
def test_long_lists_are_cut(world):
    for number in range(30):
        world.notify(alert("Many", labels={"alertname": "Many", "instance": f"web-{number}:1"}))
        world.wait(1)
    view = read_active(world)
    assert len(view["active_alerts"]) == 30
    text = answer("active", view)
    check(text)
    assert text.startswith("```30 active") and text.count("Many") == 7
    text = answer("recent", read_recent(world))
    check(text)
    assert text.count("Many") == 8
    text = answer("why", world.why(alert_name="Many"))
    check(text)
    assert "28 more" in text


@on_sqlite
@pytest.mark.parametrize("name", ["why", "active", "recent"])
def test_hostile_text_stays_inert_and_within_the_block(world, name):
    labels = {"alertname": HOSTILE, "instance": HOSTILE, "severity": HOSTILE, HOSTILE: HOSTILE}
    world.notify(alert(HOSTILE, labels=labels, annotations={"summary": HOSTILE}))
    read_view = {
        "why": lambda: world.why(status="firing", alert_name="*"),
        "active": lambda: read_active(world),
        "recent": lambda: read_recent(world),
    }
    text = answer(name, read_view[name]())
    check(text)
    assert "channel" in text


@pytest.mark.parametrize("name", ALIASES)
def test_a_failure_is_shown_in_one_line(name):
    text = answer(name, HOSTILE * 5, status="failed")
    assert text.startswith(f"```{name}: ")
    check(text)
    assert len(text.split("\n")) == 1


@pytest.mark.parametrize("name", ALIASES)
def test_an_execution_without_a_result_is_shown_by_its_status(name):
    template = JINJA.from_string(load(name)["result"]["format"])
    for result in ({}, {"error": "timed out"}):
        text = template.render(execution={"status": "timeout", "result": result}).strip()
        assert text == f"```{name}: {result.get('error', 'timeout')}```"


def test_answers_about_one_episode_name_who_did_what():
    answered = {"change": "linux.service on web-1", "episode": "e1", "by": "anna"}
    text = answer("approve", {**answered, "state": "approved"})
    assert "linux.service on web-1 approved by anna" in text and "episode=e1" in text
    text = answer("reject", {**answered, "state": "rejected"})
    assert "linux.service on web-1 rejected by anna" in text
    silence = {"state": "created", "until": "2026-11-27T22:30:06Z", "silence_ids": ["s1"]}
    text = answer("silence", {**silence, "problems": [HOSTILE]})
    check(text)
    assert "created until 2026-11-27T22:30Z" in text and "silence_id=s1" in text
    incident = {"alert_name": HOSTILE, "instance": "web-1", "by": "anna", "episode": "e1"}
    text = answer("acknowledge", {**incident, "state": "acknowledged"})
    check(text)
    assert "acknowledged by anna" in text and "undo=true episode=e1" in text
