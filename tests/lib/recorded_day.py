"""A day in the trail with every result that a remediation can have, for stats and the report.

The day ends at NOON.
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import select, update

from poundcake.trail import database, outbox, pause
from poundcake.trail.audit import Actor
from poundcake.trail.outbox import Ending, EndResult
from poundcake.trail.schema import alerts, changes
from tests.lib.empty_databases import restore_or_record
from tests.lib.samples import NOON, alert, iso
from tests.lib.trails import database_time, episode, record, record_execution

NOTHING_CHANGED = {"dry_run": False, "mutated": False, "verified": False}
CHANGED = {"dry_run": False, "mutated": True, "verified": True, "stage": "done"}


def before_noon(minutes):
    return NOON - timedelta(minutes=minutes)


class RecordedDay:
    """Alerts, executions and changes, recorded one by one."""

    def __init__(self, engine):
        self.engine = engine
        self.request_ids = {}
        self.alerts = {}

    def add_alert(self, key, name, instance, minutes, **columns):
        """Record an alert that arrived some minutes before noon, and return its episode.

        Args:
            key: The fingerprint.
            name: The alert name.
            instance: The instance.
            minutes: The minutes before noon.
            columns: Columns of its row.
        """
        at = before_noon(minutes)
        fields = {"fingerprint": key, "starts_at": at, "labels": {"instance": instance}}
        self.request_ids[key] = record(self.engine, alert(name, **fields), received_at=at)
        self.alerts[key] = (name, fields)
        if columns:
            self._update_alert(key, columns)
        return episode(key, at)

    def resolve(self, key, minutes):
        """Record the resolve of an alert, some minutes before noon."""
        at = before_noon(minutes)
        name, fields = self.alerts[key]
        record(self.engine, alert(name, "resolved", ends_at=at, **fields), received_at=at)

    def add_execution(
        self, key, episode, minutes, workflow, status="succeeded", output=None, seconds=12
    ):
        """Record an execution for an alert that started some minutes before noon."""
        start = before_noon(minutes)
        has_ended = status not in ("running", "paused")
        record_execution(
            self.engine,
            self.request_ids[key],
            episode,
            f"e-{key}",
            workflow,
            status=status,
            start_timestamp=iso(start),
            end_timestamp=iso(start + timedelta(seconds=seconds)) if has_ended else None,
            result={"output": output} if output else {},
        )
        self._update_alert(key, {"explanation": "execution"})

    def add_change(self, key, episode, minutes, result, remediation="", refusal="", action=""):
        """Record a change, or its refusal, that was decided some minutes before noon."""
        at = before_noon(minutes)
        with database.transaction(self.engine) as connection:
            connection.execute(
                changes.insert().values(
                    st2_execution_id=f"e-{key}",
                    request_id=self.request_ids.get(key, "x"),
                    episode=episode,
                    attempt=1,
                    remediation=remediation or action,
                    action=action,
                    target=key,
                    per_value="",
                    decided_at=at,
                    ended_at=at + timedelta(seconds=12),
                    result=result,
                    refusal=refusal,
                    reason="",
                )
            )

    def add_ending(self, key, episode, minutes, result, **fields):
        """Record the event about the end of a remediation that changed nothing."""
        with database_time(before_noon(minutes)), database.transaction(self.engine) as connection:
            outbox.add_ending(
                connection,
                Ending(result, self.request_ids[key], episode, f"e-{key}", "r", **fields),
            )

    def _update_alert(self, key, values):
        with database.transaction(self.engine) as connection:
            first = select(alerts.c.id).where(alerts.c.fingerprint == key)
            row_id = connection.scalar(first.order_by(alerts.c.id).limit(1))
            connection.execute(update(alerts).where(alerts.c.id == row_id).values(**values))


def record_day(engine):
    """Record a day in which remediations ended in every way, and what prevents changes at noon."""
    day = RecordedDay(engine)
    day.request_ids, day.alerts = restore_or_record(engine, _record_whole_day)
    return day


def _record_whole_day(engine):
    day = RecordedDay(engine)
    _record_changes(day)
    _record_what_changed_nothing(day)
    for number in range(3):
        key = f"pod-{number}"
        day.add_alert(key, "KubePodNotReady", key, 90 - number, explanation="no_rule")
    day.resolve("pod-0", 85)
    day.add_alert("cert", "CertificateExpires", "www:443", 700, explanation="no_rule")
    day.add_alert(
        "backup",
        "BackupFailed",
        "db-4:9100",
        60,
        explanation="failed",
        explanation_reason="rule mypack.backup could not start its action: no action mypack.backup",
    )
    day.add_alert(
        "old",
        "HostDown",
        "web-99:9100",
        3 * 24 * 60 + 30,
        explanation="no_rule",
        acknowledged_at=before_noon(100),
        acknowledged_by="anna",
        acknowledged_comment="the disk is on order",
    )
    with database_time(before_noon(20)):
        pause.pause(engine, Actor("anna", "p"), "maintenance of rack 12")
    return day.request_ids, day.alerts


def _record_changes(day):
    """Record five changes, and an execution of a user's own action, which reports nothing."""
    day.add_change("web-20", "gone-1", 320, "failed", "nginx", action="linux.service")
    for key, minutes, result in (
        ("web-21", 420, "cleared"),
        ("web-22", 400, "cleared"),
        ("web-23", 300, "not_cleared"),
        ("web-24", 299, "not_verified"),
    ):
        found = day.add_alert(key, "ServiceDown", f"{key}:9100", minutes)
        verified = result != "not_verified"
        output = dict(CHANGED) if verified else dict(CHANGED, stage="verify", verified=False)
        output["message"] = "nginx answers" if verified else "nginx does not answer after 300 s"
        status = "succeeded" if verified else "failed"
        day.add_change(key, found, minutes - 1, result, "nginx", action="linux.service")
        day.add_execution(key, found, minutes - 1, "linux.service", status, output)
    day.resolve("web-21", 414)
    day.resolve("web-22", 396)
    found = day.add_alert("db-3", "DiskFull", "db-3:9100", 200)
    output = dict(CHANGED, stage="remediate", verified=False)
    output["message"] = "poundcake.clean_disk ended with status failed: No space left on device"
    day.add_change("db-3", found, 199, "failed", "disk", action="poundcake.clean_disk")
    day.add_execution("db-3", found, 199, "poundcake.clean_disk", "failed", output)
    found = day.add_alert("queue-1", "QueueStuck", "queue-1:9100", 140)
    day.add_execution("queue-1", found, 139, "mypack.restart_queue")
    day.resolve("queue-1", 137)


def _record_what_changed_nothing(day):
    """Record dry runs, collected evidence, refusals, and a request for approval."""
    dry_run = dict(NOTHING_CHANGED, dry_run=True, stage="dry_run", message="would run ipmi.power")
    for number in range(4):
        key = f"dry-{number}"
        found = day.add_alert(key, "HostDown", f"{key}:9100", 180)
        day.add_execution(key, found, 179, "poundcake.host_down", output=dry_run)
    evidence = dict(NOTHING_CHANGED, stage="evidence", message="web-1 answers")
    found = day.add_alert("web-1", "HostDown", "web-1:9100", 170)
    day.add_execution("web-1", found, 169, "poundcake.host_down", output=evidence)
    day.resolve("web-1", 168)
    refused = dict(NOTHING_CHANGED, stage="refused", message="no")
    for number, refusal in enumerate(("host_not_allowed", "host_not_allowed", "storm")):
        key = f"refused-{number}"
        found = day.add_alert(key, "HostDown", f"{key}:9100", 160)
        if refusal == "storm":  # poundcake.reserve refused it
            day.add_change(key, found, 159, "refused", refusal=refusal, action="ipmi.power")
        else:  # poundcake.begin did
            day.add_ending(key, found, 159, EndResult.REFUSED, refusal=refusal)
        day.add_execution(key, found, 159, "poundcake.host_down", output=refused)
    found = day.add_alert("rack-9", "HostDown", "rack-9:9100", 150)
    day.add_change("rack-9", found, 119, "refused", refusal="approval_missing", action="ipmi.power")
    expired = EndResult.APPROVAL_EXPIRED
    fields = {"refusal": "approval_missing", "action": "ipmi.power", "target": "rack-9"}
    day.add_ending("rack-9", found, 119, expired, **fields)
    day.add_execution("rack-9", found, 149, "poundcake.host_down", output=refused)
    found = day.add_alert("rack-8", "HostDown", "rack-8:9100", 10)
    day.add_execution("rack-8", found, 9, "poundcake.host_down", "paused")
