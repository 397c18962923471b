"""Released claims: another execution may then work on the episode."""

from __future__ import annotations

import pytest
from sqlalchemy import update

from poundcake.trail.errors import TrackingError
from poundcake.trail.release import release_claims
from poundcake.trail.schema import executions, links
from tests.lib.samples import alert
from tests.lib.trail.test_claims import execute, link, read_rows
from tests.lib.trails import WORKFLOW, on_sqlite, record


@pytest.fixture
def claimed_alert(engine):
    """Let two workflows claim an episode, and end their executions."""
    request_id = record(engine, alert(fingerprint="f"))
    admitted_alert = (request_id, read_rows(engine)[0].episode)
    link(engine, admitted_alert)
    link(engine, admitted_alert, "e2", "other.workflow")
    execute(engine, update(executions).values(status="failed"))
    return admitted_alert


def test_a_released_episode_can_be_claimed_by_another_execution(engine, claimed_alert):
    assert release_claims(engine, claimed_alert[1]) == [
        {"st2_execution_id": "e1", "st2_workflow": WORKFLOW},
        {"st2_execution_id": "e2", "st2_workflow": "other.workflow"},
    ]
    assert link(engine, claimed_alert, "e3")["claimed"]
    assert not link(engine, claimed_alert, "e4")["claimed"]
    first, _, third = read_rows(engine, links)
    assert (first.claim, bool(first.released_at)) == (None, True)
    assert third.claim


@on_sqlite
def test_the_claims_of_other_workflows_are_kept(engine, claimed_alert):
    released_claims = release_claims(engine, claimed_alert[1], "other.workflow")
    assert [claim["st2_execution_id"] for claim in released_claims] == ["e2"]
    assert not link(engine, claimed_alert, "e3")["claimed"]


@on_sqlite
def test_releasing_an_episode_without_claims_does_nothing(engine):
    assert release_claims(engine, "unknown-1768392000000") == []


@pytest.mark.parametrize("status", ["running", "pending", "paused"])
def test_an_execution_that_still_runs_keeps_its_claim(engine, claimed_alert, status):
    execute(engine, update(executions).where(executions.c.id == "e2").values(status=status))
    for workflow in ("", "other.workflow"):
        with pytest.raises(TrackingError) as caught:
            release_claims(engine, claimed_alert[1], workflow)
        assert f"e2 of other.workflow is {status}" in str(caught.value)
        assert "force=true" in str(caught.value) and "e1" not in str(caught.value)
    assert not link(engine, claimed_alert, "e3")["claimed"]
    assert len(release_claims(engine, claimed_alert[1], WORKFLOW)) == 1
    assert link(engine, claimed_alert, "e3")["claimed"]


@on_sqlite
@pytest.mark.parametrize(
    "status_now, is_released", [("succeeded", True), ("running", False), (None, False)]
)
def test_stackstorm_is_queried_about_an_execution_recorded_as_running(
    engine, claimed_alert, status_now, is_released
):
    """It may have ended since the last round of sync."""
    execute(engine, update(executions).where(executions.c.id == "e2").values(status="running"))
    requested = []

    def fetch_statuses(ids):
        requested.extend(ids)
        return {"e2": status_now} if status_now else {}

    if is_released:
        assert len(release_claims(engine, claimed_alert[1], fetch_statuses=fetch_statuses)) == 2
    else:
        with pytest.raises(TrackingError, match="e2 of other.workflow is running"):
            release_claims(engine, claimed_alert[1], fetch_statuses=fetch_statuses)
    assert requested == ["e2"]


@on_sqlite
def test_force_releases_the_claim_of_a_running_execution(engine, claimed_alert):
    execute(engine, update(executions).values(status="running"))
    assert len(release_claims(engine, claimed_alert[1], force=True)) == 2
    assert link(engine, claimed_alert, "e3")["claimed"]
