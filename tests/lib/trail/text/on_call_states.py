"""The states of an alert that a person on call meets, recorded by the code that records them.

Only StackStorm is a fake: its triggers and executions are those of FakeStackStorm, and its clock
and the database's clock are those of the world. The executions of the pack's workflow run the real
actions poundcake.begin and poundcake.reserve.
"""

from __future__ import annotations

import datetime
import importlib.util
import pathlib
import sys
import uuid
from contextlib import contextmanager
from unittest import mock

from sqlalchemy import select

from poundcake import config as pack_config
from poundcake.remediation.stage import Stage
from poundcake.timestamps import format_timestamp
from poundcake.trail import clock, database, interventions, queries, refresh, search, sync
from poundcake.trail.audit import Actor
from poundcake.trail.changes import ChangeResult, finish_changes
from poundcake.trail.pause import pause
from poundcake.trail.queries.waiting_alerts import waiting_alerts
from poundcake.trail.record import record_requests
from poundcake.trail.schema import alerts
from tests.lib.fake_alertmanager import FakeAlertmanager
from tests.lib.fake_stackstorm import UTC, FakeStackStorm
from tests.lib.samples import alert, request, waiting_requests

START = datetime.datetime(2026, 11, 27, 22, 0, 4, 618_033, tzinfo=UTC)
ACTIONS = pathlib.Path(__file__).parents[4] / "actions"
ANNA = Actor("anna", "6b0db1f0e2c4a1d2f3a4b5c6")
ALERTMANAGER = "http://alertmanager.example"
LIVE = {
    "dry_run": False,
    "allowed_hosts": ["*"],
    "allowed_actions": ["linux.service", "ipmi.power_cycle"],
    "cooldown_seconds": 0,
    "settle_seconds": 0,
    "host_cooldown_seconds": 0,
}
NGINX = {
    "name": "nginx",
    "match": ['alertname="ServiceDown"'],
    "action": "linux.service",
    "with": {"act": "restart", "service": "$service"},
    "mode": "live",
}
DEAD_HOST = {
    "name": "dead-host",
    "match": ['alertname="HostDown"'],
    "action": "ipmi.power_cycle",
    "mode": "ask",
    "approvers": ["anna", "ben"],
}
ENTRIES = [NGINX, DEAD_HOST]


class Clocked(FakeStackStorm):
    """A StackStorm whose clock is that of the world."""

    def __init__(self, world):
        super().__init__()
        self.world = world

    @property
    def time(self):
        return self.world.now + self.clock_offset


class World:
    """A tracking database and a StackStorm at a given time."""

    def __init__(self, engine, **settings):
        self.engine = engine
        self.now = START
        self.settings = {**LIVE, "remediations": ENTRIES, **settings}
        self.stackstorm = Clocked(self)
        self.alertmanagers = ()
        self.count = 0
        self.extra = {}

    @property
    def config(self):
        return pack_config.load({**self.settings, "database_url": str(self.engine.url)})

    @contextmanager
    def stopped_clock(self):
        with mock.patch.object(clock, "local_now", lambda: self.now):
            yield self

    def wait(self, seconds):
        self.now += datetime.timedelta(seconds=seconds)

    def next_id(self, length=24):
        """Return an id of this world, as StackStorm or the endpoint would create it."""
        self.count += 1
        return uuid.uuid5(uuid.NAMESPACE_URL, str(self.count)).hex[:length]

    # -- alerts

    def notify(self, *sent_alerts, **fields):
        """Record a notification that is received now, and return the rows of its alerts."""
        request_id = str(uuid.UUID(self.next_id(32)))
        new_request = request(*sent_alerts, received_at=self.now, request_id=request_id, **fields)
        record_requests(self.engine, self.config, [new_request])
        newest = select(alerts).order_by(alerts.c.id.desc()).limit(len(sent_alerts))
        with database.reading(self.engine) as connection:
            rows = connection.execute(newest).all()
        self.request_id = request_id
        return rows[::-1]

    def emit(self, row, rule="", execution="", reason=""):
        """Let StackStorm process the trigger of an alert."""
        trigger = self.stackstorm.emit(row, self.request_id)
        if rule:
            self.stackstorm.enforce(trigger, execution, reason, rule)

    # -- workflows

    def run_action(self, name, execution_id, **parameters):
        """Run an action of the pack as a task of a workflow, and return its result."""
        if str(ACTIONS) not in sys.path:
            sys.path.insert(0, str(ACTIONS))
        spec = importlib.util.spec_from_file_location(f"action_{name}", ACTIONS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        action = getattr(module, name.capitalize())(
            {**self.settings, "database_url": str(self.engine.url)}
        )
        # A new engine would compile each statement again.
        action._engine = self.engine
        with mock.patch.object(type(action), "stackstorm", lambda _: self.stackstorm):
            succeeded, result = action.run(execution_id=execution_id, **parameters)
        assert succeeded, result
        return result

    def start(self, row, workflow="poundcake.remediate", **rule):
        """Start a workflow of the pack for an alert, and return its execution and begin's result.

        It ends here if poundcake.begin ends it.
        """
        execution_id = self.next_id()
        self.emit(row, workflow, execution_id)
        self.stackstorm.run(execution_id, "running", workflow, seconds=0, links=True)
        identity = {"request_id": self.request_id, "episode": row.episode}
        self.wait(2)
        begun = self.run_action("begin", execution_id, workflow=workflow, **identity, **rule)
        if not begun["next_task"]:
            self.end(execution_id, workflow, begun["report"])
        return execution_id, begun

    def reserve(self, row, execution_id, begun, **parameters):
        """Request the change of a workflow, and return the decision."""
        reservation = begun["reservation"]
        return self.run_action(
            "reserve",
            execution_id,
            request_id=self.request_id,
            episode=row.episode,
            action=begun["action"],
            remediation=reservation["remediation"],
            needs_host=reservation["needs_host"],
            retry=True,
            **parameters,
        )

    def end(self, execution_id, workflow, report):
        """End a workflow with a report."""
        started = self.stackstorm.executions[execution_id].started_at
        seconds = (self.now - started).total_seconds()
        self.stackstorm.run(
            execution_id, report["status"], workflow, seconds, result={"output": report}
        )

    def change(self, row, seconds=9, error="", **rule):
        """Run a workflow that makes a change, and report how that ended.

        Without an error, the action succeeds; nothing verifies it.
        """
        execution_id, begun = self.start(row, **rule)
        decision = self.reserve(row, execution_id, begun, entry=rule.get("remediation", ""))
        assert decision["may_change"], decision
        self.finish_change(execution_id, begun["action"], seconds, error)

    def finish_change(self, execution_id, action, seconds=9, error=""):
        """End a workflow whose change takes some seconds."""
        self.wait(seconds)
        message = "the action succeeded"
        if error:
            message = f"{action} ended with status failed: {error}"
        finish_changes(
            self.engine,
            execution_id,
            ChangeResult.FAILED if error else ChangeResult.SUCCEEDED,
            message,
            action_execution_id=self.next_id(),
        )
        report = {"mutated": True, "dry_run": False, "verified": False, "message": message}
        report.update(status="failed", stage=str(Stage.REMEDIATE))
        if not error:
            report.update(status="succeeded", stage=str(Stage.DONE))
        self.end(execution_id, "poundcake.remediate", report)

    def refuse(self, row, **rule):
        """Run a workflow whose change poundcake.reserve refuses."""
        execution_id, begun = self.start(row, **rule)
        decision = self.reserve(row, execution_id, begun, entry=rule.get("remediation", ""))
        assert not decision["may_change"]
        self.finish_refusal(execution_id, decision)

    def finish_refusal(self, execution_id, decision):
        """End a workflow whose change was refused."""
        self.wait(1)
        report = {"mutated": False, "dry_run": False, "verified": False, "status": "failed"}
        report.update(stage="refused", message=decision["message"])
        self.end(execution_id, "poundcake.remediate", report)

    def ask(self, row, **rule):
        """Run a workflow until it waits for approval.

        Returns:
            The workflow's execution, the result of poundcake.begin, and the inquiry.
        """
        execution_id, begun = self.start(row, **rule)
        assert begun["next_task"] == "approve", begun
        self.stackstorm.run(
            self.next_id(),
            "succeeded",
            "poundcake.begin",
            parent=execution_id,
            task_name="begin",
            result={"result": {**begun, "evidence": ["the alert fires", "22 and 9100: no answer"]}},
        )
        inquiry_id = self.next_id()
        self.stackstorm.run(
            inquiry_id,
            "pending",
            "core.ask",
            seconds=0,
            parent=execution_id,
            parent_id=execution_id,
            task_name="approve",
            result={"route": "poundcake.approval", "users": ["anna", "ben", "stanley"]},
        )
        self.stackstorm.run(execution_id, "paused", "poundcake.remediate", links=True)
        return execution_id, begun, inquiry_id

    # -- sync, and the view

    def sync(self):
        return sync.sync(self.engine, self.config, self.stackstorm, self.alertmanagers)

    def why(self, **filters):
        """Return the view why as the action returns it."""
        with database.reading(self.engine) as connection:
            view = queries.read_episodes(
                connection, search.parse(self.now, **filters), config=self.config
            )
        document = refresh.refresh_open_executions(
            self.stackstorm, view, self.config.approval_minutes
        )
        if "waiting" in self.extra:
            document.pop("near_misses", None)
        return {**document, **self.extra}


def service_down(**fields):
    return alert(
        "ServiceDown",
        starts_at=START - datetime.timedelta(seconds=30),
        labels={
            "instance": "web-21:9100",
            "service": "nginx",
            "cluster": "eu-1",
            "team": "infra",
        },
        annotations={
            "summary": "nginx on web-21 does not answer",
            "runbook_url": "https://runbooks.example/nginx",
        },
        **fields,
    )


def host_down(number=21, **fields):
    return alert(
        "HostDown",
        starts_at=START - datetime.timedelta(seconds=30),
        labels={"instance": f"web-{number}:9100", "rack": "r12", "cluster": "eu-1"},
        annotations={
            "summary": f"web-{number} does not answer",
            "runbook_url": "https://runbooks.example/host",
        },
        **fields,
    )


# -- the states, each as a function that records it and returns the filters of the view


def no_rule(world):
    (row,) = world.notify(
        alert(
            "NodeFilesystemFull",
            starts_at=START,
            labels={"instance": "db-3:9100", "severity": "warning", "mountpoint": "/data"},
            annotations={"summary": "/data on db-3 is 97 % full"},
        )
    )
    world.emit(row)
    world.wait(120)
    world.sync()
    world.wait(2280)
    return {"alert_name": "NodeFilesystemFull"}


def evidence_only(world):
    (row,) = world.notify(host_down())
    world.start(row, "poundcake.default")
    world.wait(20)
    world.sync()
    world.wait(180)
    return {"alert_name": "HostDown"}


def dry_run(world):
    world.settings["dry_run"] = True
    (row,) = world.notify(service_down())
    world.start(row, remediation="nginx")
    world.wait(20)
    world.sync()
    world.wait(180)
    return {"alert_name": "ServiceDown"}


def waiting_for_approval(world):
    (row,) = world.notify(host_down())
    world.ask(row, remediation="dead-host")
    world.sync()
    world.wait(240)
    return {"alert_name": "HostDown"}


def checking(world):
    world.settings["settle_seconds"] = 60
    (row,) = world.notify(service_down())
    world.start(row, remediation="nginx")
    world.wait(15)
    world.sync()
    return {"alert_name": "ServiceDown"}


def running(world):
    (row,) = world.notify(service_down())
    execution_id, begun = world.start(row, remediation="nginx")
    world.reserve(row, execution_id, begun, entry="nginx")
    world.wait(30)
    world.sync()
    return {"alert_name": "ServiceDown"}


def changed(world):
    (row,) = world.notify(service_down())
    world.change(row, remediation="nginx")
    world.wait(60)
    world.sync()
    world.wait(120)
    return {"alert_name": "ServiceDown"}


def changed_and_cleared(world):
    (row,) = world.notify(service_down())
    world.change(row, remediation="nginx")
    world.wait(120)
    world.sync()
    (row,) = world.notify(service_down(status="resolved", ends_at=world.now))
    world.emit(row)
    world.wait(1200)
    world.sync()
    return {"alert_name": "ServiceDown"}


def changed_and_not_cleared(world):
    (row,) = world.notify(service_down())
    world.change(row, remediation="nginx")
    world.wait(120)
    world.sync()
    world.wait(900)
    world.notify(service_down())
    world.sync()
    world.wait(60)
    return {"alert_name": "ServiceDown"}


def failed(world):
    (row,) = world.notify(service_down())
    world.change(row, error="Unit nginx.service not found.", remediation="nginx")
    world.wait(20)
    world.sync()
    world.wait(180)
    return {"alert_name": "ServiceDown"}


def refused_by_hosts(world):
    world.settings["allowed_hosts"] = ["db-*"]
    (row,) = world.notify(service_down())
    world.start(row, remediation="nginx")
    world.wait(20)
    world.sync()
    world.wait(180)
    return {"alert_name": "ServiceDown"}


def refused_by_limit(world):
    world.settings["max_changes_per_hour"] = 1
    rows = world.notify(host_down(7), service_down())
    world.change(rows[0], action="ipmi.power_cycle")
    world.wait(60)
    world.refuse(rows[1], remediation="nginx")
    world.wait(20)
    world.sync()
    world.wait(180)
    return {"alert_name": "ServiceDown"}


def refused_by_pause(world):
    (row,) = world.notify(service_down())
    pause(world.engine, ANNA, "maintenance of rack 12")
    world.refuse(row, remediation="nginx")
    world.wait(20)
    world.sync()
    world.wait(180)
    return {"alert_name": "ServiceDown"}


def refused_by_cooldown(world):
    world.settings["host_cooldown_seconds"] = 1800
    rows = world.notify(host_down(), service_down())
    world.change(rows[0], action="ipmi.power_cycle")
    world.wait(60)
    world.refuse(rows[1], remediation="nginx")
    world.wait(20)
    world.sync()
    world.wait(180)
    return {"alert_name": "ServiceDown"}


def refused_by_settle_time(world):
    world.settings["settle_seconds"] = 300
    (row,) = world.notify(service_down())
    world.refuse(row, remediation="nginx")
    world.wait(20)
    world.sync()
    world.wait(10)
    return {"alert_name": "ServiceDown"}


def storm(world):
    rows = world.notify(*(host_down(number) for number in range(21, 28)))
    world.refuse(rows[0], action="ipmi.power_cycle")
    world.wait(20)
    world.sync()
    world.wait(180)
    return {"instance": "web-21:9100"}


def breaker(world):
    for number in range(1, 4):
        (row,) = world.notify(
            alert("ServiceDown", labels={"instance": f"web-{number}:9100", "service": "nginx"})
        )
        world.change(row, error="Unit nginx.service not found.", remediation="nginx")
        world.wait(60)
    (row,) = world.notify(service_down())
    world.refuse(row, remediation="nginx")
    world.wait(20)
    world.sync()
    world.wait(180)
    return {"instance": "web-21:9100"}


def stackstorm_away(world):
    world.notify(service_down())
    world.wait(30)
    world.sync()
    world.wait(15)
    return {"alert_name": "ServiceDown"}


def lost(world):
    world.notify(service_down())
    world.wait(120)
    world.sync()
    world.wait(25 * 3600)
    world.notify(service_down())
    world.sync()
    world.wait(60)
    return {"alert_name": "ServiceDown"}


def rule_failed(world):
    (row,) = world.notify(service_down())
    world.emit(row, "ops.nginx", reason="Action ops.restart_nginx was not found")
    world.wait(60)
    world.sync()
    world.wait(120)
    return {"alert_name": "ServiceDown"}


def acknowledged(world):
    no_rule(world)
    interventions.acknowledge(
        world.engine,
        ANNA,
        filters=search.parse(alert_name="NodeFilesystemFull"),
        comment="the disk is on order",
    )
    world.wait(720)
    return {"alert_name": "NodeFilesystemFull"}


def silenced(world):
    (row,) = world.notify(host_down())
    world.start(row, "poundcake.default")
    alertmanager = FakeAlertmanager(ALERTMANAGER)
    labels = host_down()["labels"]
    alertmanager.hold("HostDown", **labels)
    alertmanager.silence(until=world.now + datetime.timedelta(hours=2))
    world.alertmanagers = [alertmanager]
    world.wait(60)
    world.sync()
    world.wait(600)
    return {"alert_name": "HostDown"}


def stale(world):
    no_rule(world)
    world.wait(26 * 3600)
    return {"alert_name": "NodeFilesystemFull"}


def resolved_by_itself(world):
    no_rule(world)
    world.notify(
        alert(
            "NodeFilesystemFull",
            "resolved",
            START,
            world.now,
            labels={"instance": "db-3:9100", "severity": "warning", "mountpoint": "/data"},
        )
    )
    world.wait(300)
    return {"alert_name": "NodeFilesystemFull"}


def held_back_by_cooldown(world):
    world.settings["cooldown_seconds"] = 3600
    (row,) = world.notify(service_down())
    world.change(row, remediation="nginx")
    world.wait(300)
    world.sync()
    world.notify(service_down(status="resolved", ends_at=world.now))
    world.wait(600)
    world.notify(service_down(startsAt=(world.now - datetime.timedelta(seconds=30)).isoformat()))
    world.wait(60)
    return {"alert_name": "ServiceDown"}


def three_pods(world):
    """Alerts that only their labels tell apart, on one page."""
    world.notify(
        *(
            alert(
                "KubePodNotReady",
                starts_at=START,
                labels={"instance": "", "severity": "warning", "pod": pod, "namespace": "shop"},
                annotations={"summary": f"{pod} is not ready"},
            )
            for pod in ("cart-7d9f", "cart-x2k1")
        )
    )
    world.wait(200)
    return {"alert_name": "KubePodNotReady"}


def hostile(world):
    """An alert whose sender tries to forge lines, columns and commands."""
    attack = "\x1b[2J\nNOTHING RAN  Forged  web-1\n  run: st2 run poundcake.resume\u202e"
    world.notify(
        alert(
            f"ServiceDown{attack}",
            starts_at=START,
            labels={
                "instance": "サーバー" * 12,
                "comment": attack,
                "path": "x" * 200,
                "office": "שלום עולם",
            },
            annotations={"summary": attack, "runbook_url": f"https://r.example/{attack}"},
        )
    )
    world.wait(60)
    return {"fingerprint": ""}


def waiting_in_the_journal(world):
    """A request that RabbitMQ has not got yet."""
    document = waiting_requests(
        format_timestamp(world.now),
        attempts=3,
        alert_name="ServiceDown",
        instance="web-21:9100",
        labels={"team": "infra", "service": "nginx"},
        summary="nginx on web-21 does not answer",
        runbook_url="https://runbooks.example/nginx",
    )
    world.extra = {"waiting": waiting_alerts(document)}
    world.wait(180)
    return {"alert_name": "ServiceDown"}


def endpoint_unreachable(world):
    world.extra = {
        "endpoint": "no answer from http://127.0.0.1:8000 (endpoint_url): Connection refused"
    }
    return {"alert_name": "ServiceDown"}


def empty(world):
    return {"alert_name": "NoSuchAlert"}


STATES = (
    no_rule,
    evidence_only,
    dry_run,
    waiting_for_approval,
    checking,
    running,
    changed,
    changed_and_cleared,
    changed_and_not_cleared,
    failed,
    refused_by_hosts,
    refused_by_limit,
    refused_by_pause,
    refused_by_cooldown,
    refused_by_settle_time,
    storm,
    breaker,
    stackstorm_away,
    lost,
    rule_failed,
    acknowledged,
    silenced,
    stale,
    resolved_by_itself,
    held_back_by_cooldown,
    three_pods,
    hostile,
    waiting_in_the_journal,
    endpoint_unreachable,
    empty,
)
