"""A real endpoint in each state that an alert about the pack reports, and what it exports then."""

from __future__ import annotations

import contextlib
import functools
import ssl
import time
import urllib.request
from datetime import datetime, timedelta, timezone
from unittest import mock

from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import delete, insert, select, update

from poundcake.endpoint.filesystem import DiskUsage
from poundcake.endpoint.triggers import ALERT, SYNC_DUE
from poundcake.timestamps import format_timestamp
from poundcake.trail import database, outbox, pause
from poundcake.trail.audit import Actor
from poundcake.trail.claims import add_execution
from poundcake.trail.open_work import MONITORING_PROBLEM, SYNCED_AT
from poundcake.trail.outbox import Ending, EndResult
from poundcake.trail.schema import alerts, api_calls, changes, events, executions, meta
from tests import services
from tests.lib import endpoint_process
from tests.lib.certificates import Authority
from tests.lib.endpoints import InThreads
from tests.lib.pipelines import MODULES_WITH_A_CLOCK
from tests.lib.samples import alert, webhook
from tests.waiting import wait_for

TOKEN = "a-token-for-the-tests"
REMEDIATION = "linux.service"
SETTINGS = {
    "endpoint.pipeline.OPEN_COUNTS_WAIT": 0.05,
    "endpoint.pipeline.PAUSE_WAIT": 0.05,
    "endpoint.pipeline.PENDING_WAIT": 0.05,
    "endpoint.worker.IDLE_WAIT": 0.05,
    "endpoint.event_publisher.CHECK_WAIT": 0.05,
    "endpoint.emitter.RECHECK_WAIT": 0.05,
    "endpoint.config_watcher.POLL_SECONDS": 0.05,
    "endpoint.supervisor.RETRY_SECONDS": 0.05,
    "endpoint.retry.FAILURE_WAITS": (0.05, 0.05),
    "endpoint.retry.REFUSED_WAITS": (0.05, 0.05),
    "endpoint.retry.SYNC_WAITS": (0.05, 0.05),
    "endpoint.metrics._HEALTH_REUSE_SECONDS": 0,
    "endpoint.metrics._HEALTH_REUSE_FACTOR": 0,
}


class Scrape:
    """The samples of one scrape.

    Attributes:
        samples: {(name, ((label, value), …)): value}
        at: When it was read, in seconds since the epoch.
    """

    def __init__(self, text, at):
        self.samples = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        self.at = at

    def get(self, name, **labels):
        """Return the value of a sample, or None if it is missing."""
        return self.samples.get((name, tuple(sorted(labels.items()))))


@functools.lru_cache(maxsize=None)
def create_opener():
    """Return what opens URLs without a proxy, and without a check of the certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )


def read_metrics(url, token=""):
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    at = time.time()
    with create_opener().open(request, timeout=10) as response:
        return Scrape(response.read().decode(), at)


class StatesEndpoint(InThreads):
    """An endpoint whose clock, broker and StackStorm a test controls.

    Attributes:
        offset: How far its monotonic clock is ahead, in seconds.
        refused_triggers: The triggers that cannot be published.
        records: Whether StackStorm records the announced requests.
        syncs: Whether StackStorm runs poundcake.sync when it is due.
        rule_problem: What StackStorm says about the rule that records requests.
    """

    scheme = "http"

    def __init__(self, folder, **config):
        self.offset = 0.0
        self.refused_triggers = set()
        self.records = self.syncs = True
        self.rule_problem = ""
        folder.mkdir(exist_ok=True)
        settings = dict(SETTINGS)
        for module in MODULES_WITH_A_CLOCK:
            name = module.__name__.replace("poundcake.", "") + ".monotonic"
            settings[name] = lambda: time.monotonic() + self.offset
        super().__init__(folder, settings, auth_tokens=[TOKEN], **config)

    def start(self):
        publish, record = endpoint_process.FileBus.publish, endpoint_process.record

        def publish_unless_refused(bus, trigger, payload, trace_tag):
            if trigger in self.refused_triggers:
                raise ValueError("refused")
            publish(bus, trigger, payload, trace_tag)
            if trigger == SYNC_DUE and self.syncs:
                self.write_meta(SYNCED_AT, format_timestamp(datetime.now(timezone.utc)))

        def record_if_running(config, payload):
            if self.records:
                record(config, payload)

        self.patches = contextlib.ExitStack()
        for name, function in (
            ("FileBus.publish", publish_unless_refused),
            ("record", record_if_running),
        ):
            target = "tests.lib.endpoint_process." + name
            self.patches.enter_context(mock.patch(target, function))
        return super().start()

    def stop(self):
        super().stop()
        self.patches.close()

    def stackstorm(self):
        problem = mock.Mock(side_effect=lambda rule, action: self.rule_problem)
        return mock.Mock(endpoint_process.EmptyStackStorm(), find_rule_problem=problem)

    @property
    def installation(self):
        return self.endpoint._installation

    def scrape(self, condition=lambda get: True):
        """Return the first scrape for which condition(get) is true.

        `get("paused")` and `get("component_down", component="broker")` return a value or None.
        """

        def read():
            scrape = read_metrics(f"{self.scheme}://127.0.0.1:{self.port}/metrics", TOKEN)
            is_wanted = condition(lambda name, **labels: scrape.get(f"poundcake_{name}", **labels))
            return scrape if is_wanted else None

        return wait_for(read)

    def accept_alert(self, name, **fields):
        """Accept a webhook, and return its request_id."""
        headers = {"Authorization": f"Bearer {TOKEN}"}
        return self.accept(webhook(alert(name, fingerprint=name, **fields)), **headers)

    def record_alert(self, name):
        """Accept an alert, wait until it is recorded, and return its request_id and its episode."""
        request_id = self.accept_alert(name)
        episode = wait_for(functools.partial(self.find_episode, request_id))
        self.explain()
        return request_id, episode

    def find_episode(self, request_id):
        with database.reading(self.installation.reader.engine) as connection:
            return connection.scalar(
                select(alerts.c.episode)
                .join(api_calls, api_calls.c.id == alerts.c.api_call_id)
                .where(api_calls.c.request_id == request_id)
            )

    def explain(self):
        """Write that every alert is explained, as sync does."""
        now = datetime.now(timezone.utc)
        self.write(
            update(alerts).values(explanation="no_rule"),
            update(api_calls).values(completed_at=now),
        )

    def write(self, *statements):
        with database.transaction(self.installation.reader.engine) as connection:
            for statement in statements:
                connection.execute(statement)

    def write_meta(self, name, value):
        self.write(
            delete(meta).where(meta.c.name == name), insert(meta).values(name=name, value=value)
        )

    def end_remediation(self, name, result, refusal=""):
        """Record an alert, and the end of its remediation."""
        request_id, episode = self.record_alert(name)
        ending = Ending(result, request_id, episode, name, REMEDIATION, refusal=refusal)
        with database.transaction(self.installation.reader.engine) as connection:
            outbox.add_ending(connection, ending)


def ago(**units):
    return datetime.now(timezone.utc) - timedelta(**units)


# -- the states of one endpoint. Each function returns what is exported, and ends the state.


def use_normally(endpoint):
    """Alerts are recorded and emitted, and a remediation cleared one of them."""
    endpoint.accept_alert("Used")
    endpoint.scrape(lambda get: get("alerts_emitted_total", emission="first") == 1)
    endpoint.end_remediation("Cleared", EndResult.CLEARED)
    return endpoint.scrape(
        lambda get: (
            get("remediations_total", remediation=REMEDIATION, result="cleared") == 1
            and get("incidents_open") == 2
            and get("journal_requests", state="done") == 2
        )
    )


def refuse_a_webhook(endpoint):
    assert endpoint.post(webhook(alert())).status == 401
    return endpoint.scrape(lambda get: get("refused_webhooks_total", reason="unauthenticated"))


def fill_the_backlog(endpoint):
    with outage_of_the_broker(endpoint):
        for number in range(5):
            endpoint.accept_alert(f"Backlog{number}")
        return endpoint.scrape(lambda get: get("component_down", component="broker"))


def let_a_request_wait(endpoint):
    with outage_of_the_broker(endpoint):
        endpoint.accept_alert("Waits")
        endpoint.offset += 420
        return endpoint.scrape(lambda get: get("component_down", component="broker"))


def lose_the_broker(endpoint):
    with outage_of_the_broker(endpoint):
        endpoint.accept_alert("BrokerIsDown")
        return endpoint.scrape(lambda get: get("component_down", component="broker"))


@contextlib.contextmanager
def outage_of_the_broker(endpoint):
    endpoint.set_broker(up=False)
    yield
    endpoint.set_broker(up=True)
    recover(endpoint)


def recover(endpoint):
    """Wait until every request is recorded and emitted."""

    def has_recovered(get):
        endpoint.offset += 61  # do not wait for the next attempt
        endpoint.explain()
        waiting = [get("journal_requests", state=s) for s in ("accepted", "announced", "recorded")]
        down = [get("component_down", component=c) for c in ("broker", "database", "stackstorm")]
        is_in_time = get("sync_late_seconds") < 60 and not get("processing_problem")
        return is_in_time and not any(waiting) and not any(down)

    endpoint.scrape(has_recovered)


def mark_a_request_stuck(endpoint):
    endpoint.set_broker(up=False)
    endpoint.accept_alert("Stuck")
    journal = endpoint.endpoint.journal
    # Another trigger may have found out that the broker is down before this request was announced.
    endpoint.scrape(lambda get: get("component_down", component="broker") and journal.failed(9))
    journal.mark_missed([entry.id for entry in journal.failed(9)], 600, 1, is_stuck=True)
    endpoint.set_broker(up=True)
    endpoint.accept_alert("NotStuck")
    scrape = endpoint.scrape(
        lambda get: (
            get("journal_stuck_requests") == 1 and not get("component_down", component="broker")
        )
    )
    endpoint.offset += 601
    recover(endpoint)
    return scrape


def disable_the_rule_that_records(endpoint):
    endpoint.records, endpoint.rule_problem = False, "the rule poundcake.record is disabled"
    endpoint.accept_alert("NotRecorded")
    endpoint.scrape(lambda get: get("journal_requests", state="announced") == 1)
    endpoint.offset += 31
    scrape = endpoint.scrape(lambda get: get("component_down", component="stackstorm"))
    endpoint.records, endpoint.rule_problem = True, ""
    recover(endpoint)
    return scrape


def refuse_the_trigger_of_an_alert(endpoint):
    endpoint.refused_triggers = {ALERT}
    endpoint.accept_alert("NotEmitted")
    scrape = endpoint.scrape(lambda get: get("processing_problem"))
    endpoint.refused_triggers = set()
    recover(endpoint)
    return scrape


def lose_an_alert(endpoint):
    endpoint.record_alert("Lost")
    endpoint.write(update(alerts).values(explanation="retry", recorded_at=ago(minutes=17)))
    scrape = endpoint.scrape(lambda get: get("oldest_lost_alert_seconds"))
    endpoint.explain()
    endpoint.scrape(lambda get: not get("oldest_lost_alert_seconds"))
    return scrape


def do_not_sync(endpoint):
    endpoint.syncs = False
    endpoint.scrape(lambda get: get("sync_late_seconds"))
    endpoint.offset += 720
    # While the clock jumps, a step seems to hang.
    scrape = endpoint.scrape(
        lambda get: get("sync_late_seconds") > 700 and not get("processing_problem")
    )
    endpoint.syncs = True
    endpoint.scrape(lambda get: not get("sync_late_seconds"))
    return scrape


def lose_an_alertmanager(endpoint):
    endpoint.write_meta(MONITORING_PROBLEM, "an Alertmanager does not answer")
    scrape = endpoint.scrape(lambda get: get("component_down", component="monitoring"))
    endpoint.write(delete(meta).where(meta.c.name == MONITORING_PROBLEM))
    endpoint.scrape(lambda get: not get("component_down", component="monitoring"))
    return scrape


def break_the_configuration(endpoint):
    endpoint.register(allowed_host=["web-1"])
    scrape = endpoint.scrape(lambda get: get("configuration_problem"))
    endpoint.register(allowed_host=None)
    endpoint.scrape(lambda get: not get("configuration_problem"))
    return scrape


def need_a_migration(endpoint):
    with database.reading(endpoint.installation.reader.engine) as connection:
        indexes = connection.scalar(select(meta.c.value).where(meta.c.name == "indexes"))
    endpoint.write_meta("indexes", "4")
    scrape = endpoint.scrape(lambda get: get("migration_pending"))
    endpoint.write_meta("indexes", indexes)
    endpoint.scrape(lambda get: not get("migration_pending"))
    return scrape


def set_the_clock_ahead(endpoint):
    # With SQLite, both use the same clock.
    with mock.patch.object(endpoint.installation.reader, "_clock_offset", 60.0):
        return endpoint.scrape(lambda get: get("clock_offset_seconds"))


def fill_the_disk(endpoint):
    usage = DiskUsage(size=10 * 2**30, free=512 * 2**20)
    with mock.patch("poundcake.endpoint.journal_keeper.disk_usage", lambda path: usage):
        return endpoint.scrape(lambda get: get("state_dir_free_bytes") == usage.free)


def fail_to_help(endpoint):
    endpoint.end_remediation("Failed", EndResult.FAILED)
    endpoint.end_remediation("NotCleared", EndResult.NOT_CLEARED)
    return endpoint.scrape(
        lambda get: all(
            get("remediations_total", remediation=REMEDIATION, result=result)
            for result in ("failed", "not_cleared")
        )
    )


def open_a_breaker(endpoint):
    request_id, episode = endpoint.record_alert("Breaker")
    endpoint.write(
        changes.insert().values(
            st2_execution_id="breaker",
            request_id=request_id,
            episode=episode,
            attempt=1,
            remediation=REMEDIATION,
            action=REMEDIATION,
            target="web-1",
            per_value="",
            decided_at=ago(minutes=2),
            ended_at=ago(minutes=1),
            result="failed",
            refusal="",
            reason="",
        )
    )
    scrape = endpoint.scrape(lambda get: get("breakers_open") == 1)
    endpoint.write(update(changes).values(released_at=ago(seconds=0)))
    endpoint.scrape(lambda get: not get("breakers_open"))
    return scrape


def reach_a_limit(endpoint):
    endpoint.end_remediation("Storm", EndResult.REFUSED, "storm")
    return endpoint.scrape(lambda get: get("limits_reached_total", limit="storm"))


def wait_for_an_approval(endpoint):
    with execution(endpoint, "paused", ago(minutes=11)):
        return endpoint.scrape(lambda get: get("workflows_waiting") == 1)


def hang(endpoint):
    with execution(endpoint, "running", ago(hours=2)):
        return endpoint.scrape(lambda get: get("oldest_running_execution_seconds"))


@contextlib.contextmanager
def execution(endpoint, status, started_at):
    with database.transaction(endpoint.installation.reader.engine) as connection:
        add_execution(connection, status, "poundcake.remediate", status, started_at)
    yield
    endpoint.write(update(executions).values(status="succeeded"))
    endpoint.scrape(
        lambda get: not get("workflows_waiting") and not get("oldest_running_execution_seconds")
    )


def pause_changes(endpoint):
    engine = endpoint.installation.reader.engine
    pause.pause(engine, Actor("anna", "p"), "maintenance")
    scrape = endpoint.scrape(lambda get: get("paused"))
    pause.resume(engine, Actor("anna", "p"))
    endpoint.scrape(lambda get: not get("paused"))
    return scrape


def refuse_the_trigger_of_an_event(endpoint):
    endpoint.refused_triggers = {"poundcake.remediation_ended"}
    endpoint.end_remediation("Event", EndResult.DRY_RUN)
    endpoint.write(update(events).where(events.c.published_at.is_(None)).values(at=ago(minutes=10)))
    scrape = endpoint.scrape(lambda get: get("oldest_unpublished_event_seconds") > 500)
    endpoint.refused_triggers = set()
    endpoint.write(update(events).values(publisher_until=None))
    endpoint.scrape(lambda get: not get("oldest_unpublished_event_seconds"))
    return scrape


def miss_the_notifications(endpoint):
    endpoint.record_alert("Stale")
    endpoint.write(update(alerts).values(last_seen_at=ago(hours=25)))
    scrape = endpoint.scrape(lambda get: get("incidents_stale"))
    endpoint.write(update(alerts).values(last_seen_at=ago(hours=0)))
    endpoint.scrape(lambda get: not get("incidents_stale"))
    return scrape


# -- the states of an endpoint of their own. Each function takes a folder.


@contextlib.contextmanager
def running(folder, **config):
    endpoint = StatesEndpoint(folder, **config).start()
    try:
        yield endpoint
    finally:
        endpoint.stop()


def use_a_folder_that_cannot_be_created(folder):
    folder.mkdir()
    (folder / "file").write_text("")
    with running(folder, state_dir=str(folder / "file" / "state")) as endpoint:
        endpoint.ready(journal=False)
        return endpoint.scrape(lambda get: get("component_down", component="journal"))


def damage_the_journal(folder):
    (folder / "state").mkdir(parents=True)
    (folder / "state" / "journal.sqlite").write_bytes(b"not a database" * 99)
    with running(folder) as endpoint:
        endpoint.ready()
        return endpoint.scrape(lambda get: get("journal_quarantined_files"))


def lose_the_database(folder):
    url = f"mysql+pymysql://u:p@127.0.0.1:{services.free_port()}/poundcake"
    with running(folder, database_url=url) as endpoint:
        endpoint.ready()
        return endpoint.scrape(lambda get: get("component_down", component="database"))


def use_a_certificate_of_an_hour(folder):
    folder.mkdir()
    certificate, key = Authority(folder).issue("endpoint")
    with running(folder, tls_certificate=certificate, tls_key=key) as endpoint:
        endpoint.scheme = "https"
        wait_for(lambda: services.accepts_connections(endpoint.port))
        return endpoint.scrape(
            lambda get: get("certificate_expiry_timestamp_seconds") and get("incidents_open") == 0
        )
