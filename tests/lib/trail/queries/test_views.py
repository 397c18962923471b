"""All views share these properties."""

from __future__ import annotations

import re

from sqlalchemy import event, update

from poundcake.execution_status import TERMINAL
from poundcake.trail import database, queries, text
from poundcake.trail.schema import alerts, executions
from poundcake.trail.search import Filters
from tests.lib.samples import alert, iso, later
from tests.lib.trails import STATUSES, episode, record, record_execution, view


def test_each_view_shows_each_status_of_stackstorm(engine):
    request_id = record(engine, *[alert(fingerprint=status) for status in STATUSES])
    for status in STATUSES:
        end = iso(later(12.5)) if status in TERMINAL else None
        record_execution(
            engine,
            request_id,
            episode(status),
            "e-" + status,
            "pack.workflow",
            status=status,
            end_timestamp=end,
        )
    trail = view(engine, queries.status, request_id)
    execution_list = view(engine, queries.st2_executions)
    active = view(engine, queries.alerts_active, 24)
    why = view(engine, queries.why, Filters(alert_name="HostDown"), limit=len(STATUSES))
    for rows in (
        trail["stackstorm_executions"],
        execution_list["st2_executions"],
        [e for episode_view in why["episodes"] for e in episode_view["stackstorm_executions"]],
    ):
        rows_by_id = {row["st2_execution_id"]: row for row in rows}
        for status in STATUSES:
            row = rows_by_id["e-" + status]
            has_ended = status in (
                "succeeded",
                "failed",
                "timeout",
                "abandoned",
                "canceled",
                "gone",
            )
            assert (row["status"], row["duration_seconds"]) == (status, 2.5 if has_ended else None)
    for status in STATUSES:
        for filters in (Filters(), Filters(severity="critical")):
            page = view(engine, queries.st2_executions, status=status, filters=filters)
            assert [e["st2_execution_id"] for e in page["st2_executions"]] == ["e-" + status]
    for key in ("remediation_status", "st2_execution_status"):
        statuses = {incident["fingerprint"]: incident[key] for incident in active["active_alerts"]}
        assert statuses == {status: status for status in STATUSES}
    for output in (text.status(trail), text.st2_executions(execution_list), text.why(why)):
        lines = [re.split(r"[^\w-]+", line) for line in output.split("\nnext: ")[0].split("\n")]
        for status in STATUSES:
            (line,) = [line for line in lines if "e-" + status in line]
            assert status in line
    assert f"{len(STATUSES)} active alerts: " in text.alerts_active(active)


def test_an_execution_that_is_known_no_longer_has_to_link_itself(engine):
    """Sync may read StackStorm shortly before the execution links itself."""
    request_id = record(engine, alert(fingerprint="f"))
    reason = "pack.flow was started (e1) but has not linked itself yet"
    with database.transaction(engine) as connection:
        connection.execute(update(alerts).values(explanation_reason=reason))

    def read_reasons():
        (active,) = view(engine, queries.alerts_active, 24)["active_alerts"]
        (recent,) = view(engine, queries.executions_recent)["executions"]
        (episode_view,) = view(engine, queries.why, Filters(alert_name="HostDown"))["episodes"]
        return [
            view(engine, queries.status, request_id)["alerts"][0]["reason"],
            active["remediation_status"],
            recent["alerts"][0]["reason"],
            episode_view["alerts"][0]["reason"],
            episode_view["timeline"][0]["text"],
        ]

    assert all(reason in text for text in read_reasons())
    record_execution(engine, request_id, episode("f"), "e1", "pack.flow")
    assert not any("linked itself" in text for text in read_reasons())
    with database.transaction(engine) as connection:
        connection.execute(update(alerts).values(explanation_reason="another reason"))
    assert "another reason" in read_reasons()[0]


def test_the_views_of_an_empty_database_are_empty(engine):
    assert view(engine, queries.status, "x") is None
    assert view(engine, queries.executions_recent) == {"executions": [], "total": 0}
    assert view(engine, queries.alerts_active, 24) == {"active_alerts": [], "count": 0}
    assert view(engine, queries.st2_executions) == {"st2_executions": [], "count": 0}
    assert view(engine, queries.why, Filters()) == {"episodes": [], "count": 0}
    assert view(engine, queries.alert_of_request, "x", "x") is None


def test_no_list_reads_a_large_column(engine, sample_request_id):
    statements = []
    event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    view(engine, queries.executions_recent)
    view(engine, queries.executions_recent, Filters(alert_name="New"))
    view(engine, queries.alerts_active, 24)
    view(engine, queries.st2_executions)
    view(engine, queries.why, Filters(alert_name="New"))
    view(engine, queries.status, sample_request_id)
    assert len(statements) > 10
    for statement in statements:
        assert not re.search("body|headers|generator_url", statement)
        # Labels are read only for the alerts that are shown, and only if they are short.
        if re.search("labels|annotations", statement):
            assert re.search(r"length\(poundcake_alerts\.labels\) <= .* THEN", statement)
            assert re.search(r"WHERE poundcake_alerts\.(id|api_call_id) IN", statement)


def test_the_statuses_that_end_an_execution_fit_their_column():
    assert len("abandoned") <= executions.c.status.type.length
    assert set(TERMINAL) >= {"succeeded", "failed", "timeout", "abandoned", "canceled"}
