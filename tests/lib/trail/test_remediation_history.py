"""The tests compare the history of remediations with figures computed row by row in Python."""

from __future__ import annotations

import random
import statistics
from collections import Counter, defaultdict
from datetime import timedelta

import pytest
from sqlalchemy import event, select, update

from poundcake.trail import database, remediation_history, search
from poundcake.trail.execution_results import ExecutionResult, execution_result, has_cleared
from poundcake.trail.remediation_history import DAY, HOUR, HistoryReader, add_figures
from poundcake.trail.schema import alerts, changes, executions, links
from poundcake.trail.search import FilterError
from tests.lib.empty_databases import restore_or_record
from tests.lib.recorded_day import record_day
from tests.lib.samples import NOON, alert, iso, later
from tests.lib.trails import STATUSES, database_time, episode, record, record_execution

MINUTES = 15
WORKFLOWS = ["linux.service", "poundcake.host_down", "mypack.own"]
NAMES = ["HostDown", "DiskFull", "PodNotReady"]
STAGES = [None, "done", "dry_run", "evidence", "refused", "verify", "remediate"]
CHANGE_RESULTS = ["", "cleared", "not_cleared", "not_verified", "failed", "unknown", "refused"]
EXPLANATIONS = ["execution", "no_rule", "no_rule", None]


def read(engine, reader=None, **query):
    """Return the history as at noon."""
    with database_time(NOON), database.reading(engine) as connection:
        filters = search.parse(now=NOON, **query)
        return (reader or HistoryReader()).read(connection, filters, MINUTES)


@pytest.fixture
def random_history(engine):
    """Record five days of random alerts, each with up to two random executions."""
    restore_or_record(engine, record_random_history)
    return engine


def record_random_history(engine):
    rng = random.Random(17)
    for number in range(15):
        at = NOON - timedelta(seconds=rng.randrange(5 * 86400))
        sent = [
            alert(
                rng.choice(NAMES),
                fingerprint=f"f{number}-{position}",
                starts_at=at,
                labels={"severity": rng.choice(["critical", "warning"]), "team": rng.choice("ab")},
            )
            for position in range(10)
        ]
        record(engine, *sent, received_at=at)
    with database.transaction(engine) as connection:
        for row in connection.execute(select(alerts)).all():
            values = {"explanation": rng.choice(EXPLANATIONS)}
            if rng.random() < 0.7:
                closed_at = row.created_at + timedelta(seconds=rng.randrange(1, 3600))
                values.update(closed_at=min(NOON, closed_at), open_fingerprint=None)
            connection.execute(update(alerts).where(alerts.c.id == row.id).values(values))
            for run in range(rng.randrange(3)):
                _add_execution(connection, rng, row, f"e{row.id}-{run}")


def _add_execution(connection, rng, row, name):
    workflow = rng.choice(WORKFLOWS)
    delay = timedelta(seconds=rng.randrange(1, 60), microseconds=rng.randrange(10**6))
    started_at = row.created_at + delay
    connection.execute(
        executions.insert().values(
            id=name,
            action=workflow,
            status=rng.choice([*STATUSES, *["succeeded"] * 10]),
            start_timestamp=started_at,
            end_timestamp=started_at + timedelta(seconds=rng.choice([0, 1, 2.5, 60.25, 1800])),
            stage=rng.choice(STAGES),
            dry_run=rng.choice([None, True, False]),
            mutated=rng.choice([None, True, True, False]),
        )
    )
    connection.execute(
        links.insert().values(
            request_id="x",
            alert_id=row.id,
            st2_execution_id=name,
            st2_action_ref=workflow,
            created_at=started_at,
        )
    )
    if rng.random() < 0.3:
        result = rng.choice(CHANGE_RESULTS)
        connection.execute(
            changes.insert().values(
                st2_execution_id=name,
                request_id="x",
                episode=row.episode,
                attempt=1,
                remediation="r",
                action="a",
                target="t",
                per_value="",
                decided_at=started_at,
                result=result,
                refusal="storm" if result == "refused" else "",
                reason="",
            )
        )


def compute(engine, width, since, matches=lambda alert: True):
    """Return {(start of the bucket, workflow): (results, durations, times to clear)}."""
    figures = defaultdict(lambda: (Counter(), [], []))
    with database.reading(engine) as connection:
        alert_rows = {row.id: row for row in connection.execute(select(alerts))}
        execution_rows = {row.id: row for row in connection.execute(select(executions))}
        change_rows = {
            (row.st2_execution_id, row.episode): row for row in connection.execute(select(changes))
        }
        for link in connection.execute(select(links)):
            alert_row = alert_rows[link.alert_id]
            execution = execution_rows[link.st2_execution_id]
            started_at = execution.start_timestamp
            if not (matches(alert_row) and since <= started_at < NOON + width):
                continue
            change = change_rows.get((execution.id, alert_row.episode))
            is_open = alert_row.open_fingerprint is not None
            cleared = has_cleared(
                execution.end_timestamp, alert_row.closed_at, is_open, NOON, MINUTES
            )
            result = execution_result(
                execution.status,
                execution.stage or "",
                execution.dry_run,
                execution.mutated,
                change.result if change else None,
                change.refusal if change else "",
                cleared,
            )
            start = started_at.replace(minute=0, second=0, microsecond=0)
            if width == DAY:
                start = start.replace(hour=0)
            results, durations, times = figures[start, link.st2_action_ref]
            results[result] += 1
            if execution.status in ENDED:
                durations.append((execution.end_timestamp - started_at).total_seconds())
            if result is ExecutionResult.CLEARED and alert_row.closed_at:
                times.append((alert_row.closed_at - alert_row.created_at).total_seconds())
    return figures


ENDED = "succeeded failed timeout abandoned canceled gone".split()


def as_figures(history):
    return {
        (bucket.start, workflow): figures
        for bucket in history.buckets
        for workflow, figures in bucket.workflows.items()
    }


def check_figures(history, expected):
    found = as_figures(history)
    assert set(found) == set(expected)
    for key, (results, durations, times_to_clear) in expected.items():
        figures = found[key]
        assert figures.results == results, key
        assert figures.started == sum(results.values())
        for times, seconds in (
            (figures.durations, durations),
            (figures.times_to_clear, times_to_clear),
        ):
            assert times.count == len(seconds)
            if seconds:
                assert times.mean_seconds == pytest.approx(statistics.mean(seconds), abs=0.001)
                assert times.median_seconds == pytest.approx(statistics.median(seconds), abs=0.001)
            else:
                assert (times.mean_seconds, times.median_seconds) == (None, None)


@pytest.mark.parametrize(("since", "width"), [("5d", DAY), ("2d", HOUR), ("30h", HOUR)])
def test_the_figures_are_those_of_the_rows(random_history, since, width):
    history = read(random_history, since=since)
    assert history.is_hourly == (width == HOUR)
    expected = compute(random_history, width, history.since)
    assert expected
    check_figures(history, expected)


def test_alerts_that_no_rule_matched_are_counted_by_name_in_each_bucket(random_history):
    history = read(random_history, since="5d")
    expected = defaultdict(list)
    with database.reading(random_history) as connection:
        for row in connection.execute(select(alerts)):
            if row.explanation == "no_rule":
                day = row.created_at.replace(hour=0, minute=0, second=0, microsecond=0)
                expected[day, row.alert_name].append(row.created_at)
    assert expected
    assert {
        (bucket.start, name): (found.count, found.last_at)
        for bucket in history.buckets
        for name, found in bucket.unmatched.items()
    } == {key: (len(times), max(times)) for key, times in expected.items()}
    totals = Counter()
    for (_, name), times in expected.items():
        totals[name] += len(times)
    names = history.unmatched_names()
    assert {name.alert_name: name.count for name in names} == totals
    assert [name.count for name in names] == sorted(totals.values(), reverse=True)
    assert names[0].last_at == max(
        max(times) for (_, name), times in expected.items() if name == names[0].alert_name
    )


@pytest.mark.parametrize(
    ("query", "matches"),
    [
        ({"alert_name": "HostDown"}, lambda row: row.alert_name == "HostDown"),
        ({"alert_name": "*s*"}, lambda row: "s" in row.alert_name),
        ({"severity": "critical"}, lambda row: row.severity == "critical"),
        ({"labels": "team=a"}, lambda row: '"team": "a"' in row.labels),
        (
            {"labels": "team=~[b],severity!=critical"},
            lambda row: '"team": "b"' in row.labels and row.severity != "critical",
        ),
    ],
)
def test_the_figures_are_filtered(random_history, query, matches):
    history = read(random_history, since="5d", **query)
    expected = compute(random_history, DAY, history.since, matches)
    assert expected
    check_figures(history, expected)
    for bucket in history.buckets:
        for name in bucket.unmatched:
            assert "alert_name" not in query or matches(alerts_named(name))


def alerts_named(name):
    return type("Row", (), {"alert_name": name})


def test_results_have_the_names_that_the_charts_show(engine):
    record_day(engine)
    rows = {
        workflow: add_figures(buckets)
        for workflow, buckets in read(engine, since="20h").by_workflow().items()
    }
    service, host_down = rows["linux.service"], rows["poundcake.host_down"]
    assert (service.started, service.changed, service.cleared, service.not_cleared) == (4, 4, 2, 2)
    assert service.times_to_clear.mean_seconds == 300.0
    assert (service.failed, service.refused, service.dry_run, service.other) == (0, 0, 0, 0)
    assert (host_down.dry_run, host_down.refused) == (4, 4)
    assert host_down.other == 2  # one that collected evidence, and one that waits for approval
    assert rows["poundcake.clean_disk"].failed == 1
    assert list(rows)[:2] == ["poundcake.host_down", "linux.service"]


def test_a_time_range_is_extended_to_whole_hours_or_days(engine):
    history = read(engine)
    assert (history.since, history.until) == (later(-24 * 3600), NOON)
    assert len(history.buckets) == 24 and history.is_hourly
    history = read(engine, since="90m", until="10m")
    assert (history.since, history.until) == (later(-2 * 3600), NOON)
    history = read(engine, since="3d")
    midnight = NOON.replace(hour=0)
    assert (history.since, history.until) == (midnight - 3 * DAY, midnight + DAY)
    assert not history.is_hourly
    assert all(bucket.is_read for bucket in history.buckets)


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ({"since": "101d"}, "since: must be at most 100 days before until"),
        ({"since": "2027-01-01T00:00:00Z"}, "since: must be earlier than until"),
    ],
)
def test_a_time_range_that_cannot_be_shown_is_refused(engine, query, problem):
    with pytest.raises(FilterError, match=problem):
        read(engine, **query)


class Queries:
    """The time ranges that a reader reads from the database."""

    def __init__(self, monkeypatch):
        self.ranges = []
        original = remediation_history._read
        monkeypatch.setattr(remediation_history, "_read", self._note)
        self._original = original

    def _note(self, connection, filters, minutes, now, run):
        self.ranges.append((run[0][2], run[-1][3]))
        return self._original(connection, filters, minutes, now, run)

    def take(self):
        ranges, self.ranges = self.ranges, []
        return ranges


@pytest.fixture
def queries(monkeypatch):
    return Queries(monkeypatch)


def test_one_call_reads_a_limited_number_of_rows_newest_first(random_history, queries):
    expected = compute(random_history, DAY, NOON - timedelta(days=5.5))
    reader = HistoryReader(max_rows=1)
    unread = []
    for _ in range(6):
        history = read(random_history, reader, since="5d")
        unread.append(history.unread_until)
        for bucket in history.buckets:
            if bucket.is_read:
                assert {key: 1 for key in expected if key[0] == bucket.start} == {
                    (bucket.start, workflow): 1 for workflow in bucket.workflows
                }
            else:
                assert not bucket.workflows
    today = NOON.replace(hour=0)
    # Today's figures and those of one more day are read in each call.
    assert unread == [today - DAY, today - 2 * DAY, today - 3 * DAY, today - 4 * DAY, None, None]
    check_figures(history, expected)
    assert queries.take()[-1] == (today, today + DAY)


def test_figures_are_kept_until_they_expire(random_history, queries, monkeypatch):
    reader = HistoryReader()
    today = NOON.replace(hour=0)
    first = read(random_history, reader, since="5d")
    assert queries.take() == [(today - 5 * DAY, today + DAY)]
    assert read(random_history, reader, since="5d") == first
    assert queries.take() == [(today, today + DAY)]
    # Another filter is another view.
    read(random_history, reader, since="5d", alert_name="HostDown")
    assert queries.take() == [(today - 5 * DAY, today + DAY)]
    at = NOON - 2 * DAY
    new_alert = alert(fingerprint="new", starts_at=at)
    request_id = record(random_history, new_alert, received_at=at)
    times = {"start_timestamp": iso(at), "end_timestamp": iso(at)}
    record_execution(random_history, request_id, episode("new", at), "new", **times)
    assert read(random_history, reader, since="5d") == first
    monkeypatch.setattr(remediation_history, "KEEP_SECONDS", 0)
    changed = read(random_history, reader, since="5d")
    check_figures(changed, compute(random_history, DAY, changed.since))
    assert changed != first


def test_expired_figures_are_shown_until_they_are_read_again(random_history, queries, monkeypatch):
    reader = HistoryReader()
    first = read(random_history, reader, since="5d")
    queries.take()
    monkeypatch.setattr(remediation_history, "KEEP_SECONDS", 0)
    monkeypatch.setattr(reader, "_max_rows", 1)
    assert read(random_history, reader, since="5d") == first
    today = NOON.replace(hour=0)
    # Yesterday was read first.
    assert queries.take() == [(today - DAY, today + DAY)]


def test_the_last_hour_is_not_kept(engine, queries):
    reader = HistoryReader()
    read(engine, reader, since="5h")
    queries.take()
    read(engine, reader, since="5h")
    assert queries.take() == [(later(-3600), NOON)]


def test_few_figures_are_kept(random_history, queries, monkeypatch):
    monkeypatch.setattr(remediation_history, "MAX_KEPT", 8)
    reader = HistoryReader()
    read(random_history, reader, since="5d")
    assert 0 < len(reader._kept) < 5


def test_a_call_reads_only_the_rows_of_its_time_range(engine):
    statements = []
    event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    read(engine, since="30d")
    of_executions = [text for text in statements if "execution_db" in text]
    assert of_executions and all("start_timestamp >=" in text for text in of_executions)
    # A long range without rows is read with one statement for each table.
    assert len([text for text in of_executions if "GROUP BY" in text]) == 1
