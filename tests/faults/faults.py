"""Define the faults that the suite injects. Each is a row of the table."""

from __future__ import annotations

import glob
import json
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import threading
import time
import urllib.request
from dataclasses import dataclass
from typing import Callable

from amqp.exceptions import NotFound
from kombu import Connection

from tests import services
from tests.faults.load import PATH, Delivery
from tests.faults.proxy import TO_CLIENT, TO_SERVER
from tests.faults.world import STOP_SECONDS, Failed, wait_for

# Seconds to wait for a process to reach a failpoint, or for another condition to hold, under load.
HIT_SECONDS = 40
# Seconds to wait for the condition before new episodes are posted; doubled each time.
REPOST_SECONDS = 4
# Seconds until a request that kills the record action must be marked as stuck.
STUCK_SECONDS = 120
EXCHANGE = "st2.trigger_instances_dispatch"
QUEUE = EXCHANGE + ".rules_engine"
DATABASES = ("sqlite", "mariadb")


class Scene:
    """The environment of a fault: the world, its load and a random number generator."""

    def __init__(self, world, load, seed):
        self.world, self.load = world, load
        self.random = random.Random(seed)

    def wait_under_load(self, condition, description):
        """Post new episodes until condition() is true. Raise Failed after HIT_SECONDS."""
        deadline = time.monotonic() + HIT_SECONDS
        pause = REPOST_SECONDS
        while time.monotonic() < deadline:
            self.load.post(self.load.notifications.new_episodes(2))
            try:
                return wait_for(condition, pause, description)
            except Failed:
                pause *= 2
        raise Failed(f"not within {HIT_SECONDS} s: {description}")

    def kill_at(self, *failpoints):
        """Arm the failpoints and wait until a process has been killed at each."""
        for failpoint in failpoints:
            self.world.arm(failpoint)
        self.wait_for_kills(*failpoints)

    def wait_for_kills(self, *failpoints):
        """Wait until a process has been killed at each of the armed failpoints."""
        try:
            for failpoint in failpoints:
                self.wait_under_load(
                    lambda: self.world.was_hit(failpoint), "a process reaches: " + failpoint
                )
        except Failed:
            for failpoint in failpoints:
                self.world.disarm(failpoint)
            raise

    def pause(self, min_seconds, max_seconds):
        time.sleep(self.random.uniform(min_seconds, max_seconds))

    def wait_for_broker(self, state):
        """Wait until the health view shows the broker as "ok" or "down"."""

        def has_state():
            health = self.world.health()
            return health and health["components"]["broker"]["state"] == state

        self.wait_under_load(has_state, "health shows the broker as " + state)


@dataclass
class Fault:
    """A row of the table.

    Attributes:
        name: The name of the row.
        inject: A function that causes the fault once, and ends it.
        times: How often the full run injects it, on each kind of database.
        databases: The kinds of database on which it can occur.
        keeps_webhooks: Whether StackStorm must receive every webhook trigger despite the fault.
        missing: A program that the fault needs but that is not installed, or an empty string.
    """

    name: str
    inject: Callable[[Scene], None]
    times: int
    databases: tuple[str, ...] = DATABASES
    keeps_webhooks: bool = False
    missing: str = ""


# -- the sensor


def _restart_sensor(scene):
    scene.world.sensor.wait(10)
    scene.pause(0, 0.3)
    scene.world.start_sensor()


def kill_sensor(scene):
    scene.pause(0, 2)
    scene.world.sensor.kill()
    _restart_sensor(scene)


def kill_sensor_at(failpoint):
    def inject(scene):
        scene.kill_at(failpoint)
        _restart_sensor(scene)

    return inject


def kill_sensor_within_request(share):
    """Kill the sensor after it has received a share of a body, or one byte if the share is None."""

    def inject(scene):
        delivery = Delivery(scene.load.notifications.new_episodes(1))
        lines = [f"POST {PATH} HTTP/1.1", "Host: 127.0.0.1"]
        headers = dict(delivery.headers, **{"Content-Length": len(delivery.body)})
        lines += [f"{name}: {value}" for name, value in headers.items()]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode()
        partial_request = (
            head[:1] if share is None else head + delivery.body[: int(len(delivery.body) * share)]
        )
        with socket.create_connection(("127.0.0.1", scene.world.port)) as client:
            client.sendall(partial_request)
            scene.pause(0.02, 0.1)
            scene.world.sensor.kill()
        scene.load.send(delivery)
        _restart_sensor(scene)

    return inject


def kill_sensor_when_answered(scene):
    killed = threading.Event()

    def kill(delivery):
        if not killed.is_set():
            killed.set()
            scene.world.sensor.signal(signal.SIGKILL)

    scene.load.on_answer = kill
    scene.load.post(scene.load.notifications.new_episodes(1))
    if not killed.wait(HIT_SECONDS):
        raise Failed("the endpoint did not answer")
    scene.load.on_answer = None
    _restart_sensor(scene)


def lose_power(scene):
    """Kill the sensor, and keep only the writes that it synced."""
    scene.pause(0, 2)
    scene.world.lose_power()
    _restart_sensor(scene)


def stop_sensor(scene):
    scene.pause(0, 2)
    seconds = scene.world.sensor.stop()
    scene.world.start_sensor()
    if seconds > STOP_SECONDS:
        raise Failed(f"the sensor took {seconds:.1f} s to stop")


def freeze_sensor(scene):
    scene.world.sensor.signal(signal.SIGSTOP)
    scene.pause(1, 6)
    scene.world.sensor.signal(signal.SIGCONT)


# -- StackStorm


def kill_stackstorm(scene):
    scene.pause(0, 2)
    scene.world.stackstorm.kill()
    scene.pause(0, 1)
    scene.world.start_stackstorm()


def kill_stackstorm_at(failpoint):
    def inject(scene):
        scene.kill_at(failpoint)
        scene.world.stackstorm.wait(10)
        scene.pause(0, 1)
        scene.world.start_stackstorm()

    return inject


def stop_stackstorm(scene):
    scene.pause(0, 2)
    scene.world.stackstorm.stop()
    scene.world.start_stackstorm()


def freeze_stackstorm(scene):
    scene.world.stackstorm.signal(signal.SIGSTOP)
    scene.pause(2, 8)
    scene.world.stackstorm.signal(signal.SIGCONT)


def kill_action_at(failpoint):
    def inject(scene):
        scene.kill_at(failpoint)

    return inject


def make_one_request_fail(scene):
    """Make the recording of a request fail, check that the error is recorded, and replay it."""
    world = scene.world
    delivery = scene.load.post(_poisoned_notification(scene))
    statement = "SELECT error FROM poundcake_api_calls WHERE request_id = :i"
    try:
        rows = scene.wait_under_load(
            lambda: delivery.request_id and world.rows(statement, i=delivery.request_id),
            "the failing request is recorded",
        )
    finally:
        world.clear_flag("poison")
    if not rows[0].error:
        raise Failed("the failing request is recorded without its error")
    run_action(world, "poundcake.replay", request_id=delivery.request_id)


def make_one_request_kill_the_action(scene):
    """Let a request kill the record action, and check that the request is marked as stuck."""
    world = scene.world
    world.set_flag("poison kills")
    delivery = scene.load.post(_poisoned_notification(scene))

    def is_stuck():
        health = world.health()
        return health and delivery.client_request_id in (
            health["components"]["journal"].get("stuck_requests") or []
        )

    try:
        # Batches are halved after two attempts each, until the request is announced alone.
        wait_for(is_stuck, STUCK_SECONDS, "health lists the request that kills the record action")
    finally:
        world.clear_flag("poison")
        world.clear_flag("poison kills")


def _poisoned_notification(scene):
    notification = scene.load.notifications.new_episodes(1)
    notification["groupKey"] = f"poison-{scene.random.getrandbits(64)}"
    scene.world.set_flag("poison", notification["groupKey"])
    return notification


def run_action(world, ref, **parameters):
    """Run an action and wait until it has ended. Raise Failed unless it succeeds."""
    body = json.dumps({"action": ref, "parameters": parameters}).encode()
    request = urllib.request.Request(
        world.api + "/executions", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        url = "{}/executions/{}".format(world.api, json.loads(response.read())["id"])

    def get_ended_execution():
        execution = world.get_json(url)
        return execution if execution and execution.get("end_timestamp") else None

    execution = wait_for(get_ended_execution, 60, ref + " ends")
    if execution["status"] != "succeeded":
        raise Failed("{}: {}".format(ref, execution["result"]))


# -- the broker


def stop_broker(scene):
    scene.world.broker.stop()
    scene.pause(0.5, 3)
    scene.world.broker.start()


def kill_broker(scene):
    scene.world.broker.kill()
    scene.pause(0, 2)
    scene.world.broker.start()


def cut_broker_at(trigger, forward):
    """Cut the connection while a trigger is in transit or, with `forward`, before its confirm."""

    def inject(scene):
        patterns = [trigger.encode()]
        trip = scene.world.broker_proxy.set_trip(TO_SERVER, patterns=patterns, forward=forward)
        scene.wait_under_load(trip.fired.is_set, "a publish of " + trigger)

    return inject


def cut_broker_anywhere(scene):
    direction = scene.random.choice((TO_SERVER, TO_CLIENT))
    max_bytes = 4000 if direction == TO_SERVER else 200
    trip = scene.world.broker_proxy.set_trip(direction, after=scene.random.randint(0, max_bytes))
    scene.wait_under_load(trip.fired.is_set, "enough bytes pass")


def stall_broker(scene):
    scene.wait_for_broker("ok")
    scene.world.broker_proxy.is_stalled = True
    try:
        scene.wait_for_broker("down")
    finally:
        scene.world.broker_proxy.is_stalled = False


def _with_channel(scene, work):
    with Connection(scene.world.broker.url) as connection:
        work(connection.default_channel)


def unbind_queue(scene):
    scene.wait_for_broker("ok")
    _wait_until_consumed(scene)  # a consumer that reconnects binds the queue again
    _with_channel(scene, lambda channel: channel.queue_unbind(QUEUE, EXCHANGE, "#"))
    try:
        scene.wait_for_broker("down")
    finally:
        _with_channel(scene, lambda channel: channel.queue_bind(QUEUE, EXCHANGE, "#"))


def _wait_until_consumed(scene):
    counts = []

    def count_consumers(channel):
        counts.append(channel.queue_declare(QUEUE, passive=True).consumer_count)

    def is_consumed():
        try:
            _with_channel(scene, count_consumers)
        except NotFound:
            return False  # another fault has just deleted the queue
        return counts[-1]

    wait_for(is_consumed, HIT_SECONDS, "StackStorm consumes its queue")


def delete_queue(scene):
    _wait_until_consumed(scene)
    _with_channel(scene, lambda channel: channel.queue_delete(QUEUE))


def raise_broker_alarm(scene):
    scene.wait_for_broker("ok")
    _rabbitmqctl(scene.world.broker, "set_vm_memory_high_watermark", "0.0000001")
    try:
        scene.wait_for_broker("down")
    finally:
        _rabbitmqctl(scene.world.broker, "set_vm_memory_high_watermark", "0.4")


def _rabbitmqctl(broker, *words):
    # /usr/sbin/rabbitmqctl is a wrapper that refuses ordinary users.
    scripts = glob.glob("/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmqctl")
    program = services.program(*scripts, "rabbitmqctl")
    command = [program, "-n", broker.node, "--longnames", *words]
    subprocess.run(
        command,
        env=broker.environment(),
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        timeout=240,
    )


# -- the database


def stop_database(scene):
    scene.world.mariadb.stop()
    scene.pause(0.5, 4)
    scene.world.mariadb.start()


def kill_database(scene):
    scene.pause(0, 1)
    scene.world.mariadb.kill()
    scene.pause(0, 2)
    scene.world.mariadb.start()


def slow_down_database(scene):
    scene.world.database_proxy.delay = 0.1
    scene.pause(3, 6)
    scene.world.database_proxy.delay = 0.0


def stall_database(scene):
    scene.world.database_proxy.is_stalled = True
    scene.pause(3, 8)
    scene.world.database_proxy.is_stalled = False


def make_database_read_only(scene):
    scene.world.mariadb.execute("SET GLOBAL read_only = 1")
    try:
        scene.pause(3, 6)
    finally:
        scene.world.mariadb.execute("SET GLOBAL read_only = 0")


def cut_database_in_commit(table, forward):
    def inject(scene):
        patterns = [f"INSERT INTO {table} ".encode(), b"\x03COMMIT"]
        trip = scene.world.database_proxy.set_trip(TO_SERVER, patterns=patterns, forward=forward)
        scene.wait_under_load(trip.fired.is_set, "a commit of " + table)

    return inject


def cut_database(scene):
    scene.pause(0, 1)
    scene.world.database_proxy.cut()


def cause_deadlocks(scene):
    """Lock the same rows in opposite orders, so that each deadlock aborts one transaction."""
    stop_writing = threading.Event()
    statement = (
        "UPDATE poundcake_alerts SET notifications = notifications WHERE id IN"
        " (SELECT id FROM (SELECT id FROM poundcake_alerts WHERE open_fingerprint IS NOT NULL"
        " ORDER BY id {} LIMIT 20) rows_to_lock)"
    )

    def update_rows(directions):
        while not stop_writing.is_set():
            try:
                with scene.world.engine.connect() as autocommit_connection:
                    connection = autocommit_connection.execution_options(
                        isolation_level="READ COMMITTED"
                    )
                    with connection.begin():
                        for direction in directions:
                            connection.exec_driver_sql(statement.format(direction))
                            time.sleep(0.05)
            except Exception:
                pass  # the transaction was aborted by a deadlock

    writers = [
        threading.Thread(target=update_rows, args=(directions,), daemon=True)
        for directions in (("ASC", "DESC"), ("DESC", "ASC"))
    ]
    for writer in writers:
        writer.start()
    scene.pause(3, 6)
    stop_writing.set()
    for writer in writers:
        writer.join()


def lock_database(scene):
    path = scene.world.folder / "tracking.sqlite"
    connection = sqlite3.connect(str(path), timeout=30, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        scene.pause(3, 12)
        connection.execute("ROLLBACK")
    finally:
        connection.close()


def deliver_alerts_twice(scene):
    """Deliver alerts twice, until one of two concurrent executions is refused the claim."""
    world = scene.world

    def refused_executions():
        executions = (
            world.get_json(world.api + "/executions?action=poundcake_faults.work&limit=100") or []
        )
        outputs = [execution["result"].get("output") or {} for execution in executions]
        return {
            e["id"]
            for e, output in zip(executions, outputs)
            if output.get("stage") == "not_claimed"
        }

    refused_before = refused_executions()
    world.set_flag("slow link")
    try:
        # If the alert that arrives twice is resolved, no execution requests a claim.
        for _ in range(20):
            cut_broker_at("poundcake.alert", True)(scene)
            try:
                return wait_for(
                    lambda: refused_executions() - refused_before,
                    2,
                    "an execution is refused the claim",
                )
            except Failed:
                pass
        raise Failed("20 alerts arrived twice, and no execution was refused the claim")
    finally:
        world.clear_flag("slow link")


SENSOR_FAILPOINTS = (
    ("before commit", "before the journal's commit"),
    ("committed", "after the journal's commit, before the answer"),
    ("before poundcake.announce", "before an announcement is published"),
    ("sent poundcake.announce", "between an announcement and its confirm"),
    ("confirmed", "after the confirm, before mark_announced"),
    ("marked announced", "after mark_announced"),
    ("recorded", "after the record, before mark_recorded"),
    ("marked recorded", "after mark_recorded"),
    ("before poundcake.webhook", "before a webhook is emitted"),
    ("sent poundcake.alert", "between an alert and its confirm"),
    ("between two alerts", "between two alerts of one request"),
    ("emitted", "after the emission, before mark_emitted"),
    ("marked emitted", "after mark_emitted"),
    ("before poundcake.sync_due", "before a sync is requested"),
    ("explained", "before mark_done"),
    ("marked done", "after mark_done"),
)
ACTION_FAILPOINTS = (
    ("record before commit", "record killed before its commit"),
    ("record committed", "record killed after its commit"),
    ("link before commit", "link killed before its commit"),
    ("link committed", "link killed after its commit"),
    ("sync explained", "sync killed halfway"),
    ("sync before commit", "sync killed before its last commit"),
    ("sync committed", "sync killed after its last commit"),
    ("before work", "the work killed before it finishes"),
    ("after work", "the work killed after it finishes"),
)
STACKSTORM_FAILPOINTS = (
    ("took poundcake.announce", "StackStorm killed right after taking an announcement"),
    ("took poundcake.webhook", "StackStorm killed right after taking a webhook"),
    ("took poundcake.alert", "StackStorm killed right after taking an alert"),
    ("took poundcake.sync_due", "StackStorm killed right after taking a sync_due"),
    ("starting poundcake.record", "StackStorm killed when record is about to start"),
    ("starting poundcake.link", "StackStorm killed when link is about to start"),
    ("starting core.local", "StackStorm killed when core.local is about to start"),
    (
        "starting poundcake_faults.work",
        "StackStorm killed when the workflow `work` is about to start",
    ),
)
MISSING_COMPILER = "" if shutil.which("cc") else "a C compiler (cc)"
MARIADB = ("mariadb",)
API_CALLS, LINKS = "poundcake_api_calls", "poundcake_st2_execution_link"

FAULTS = [
    Fault("sensor killed at a random moment", kill_sensor, 10),
    Fault("sensor killed at a request's first byte", kill_sensor_within_request(None), 4),
    Fault("sensor killed in the middle of a request's body", kill_sensor_within_request(0.5), 4),
    Fault("sensor killed as soon as a 202 is read", kill_sensor_when_answered, 6),
    *(
        Fault("sensor killed " + moment, kill_sensor_at(failpoint), 4)
        for failpoint, moment in SENSOR_FAILPOINTS
    ),
    Fault("sensor killed, and unsynced writes lost", lose_power, 4, missing=MISSING_COMPILER),
    Fault("sensor stopped (SIGTERM)", stop_sensor, 4),
    Fault("sensor hangs for several seconds", freeze_sensor, 3),
    *(Fault(name, kill_action_at(failpoint), 4) for failpoint, name in ACTION_FAILPOINTS),
    Fault("recording one request fails", make_one_request_fail, 2),
    Fault("one request kills the record action", make_one_request_kill_the_action, 1),
    Fault("StackStorm killed at a random moment", kill_stackstorm, 6),
    *(Fault(name, kill_stackstorm_at(failpoint), 3) for failpoint, name in STACKSTORM_FAILPOINTS),
    Fault("StackStorm stopped (SIGTERM)", stop_stackstorm, 2),
    Fault("StackStorm hangs for several seconds", freeze_stackstorm, 2, keeps_webhooks=True),
    Fault("RabbitMQ stopped and started", stop_broker, 2, keeps_webhooks=True),
    Fault("RabbitMQ killed and started", kill_broker, 2, keeps_webhooks=True),
    Fault("RabbitMQ's queue unbound", unbind_queue, 2, keeps_webhooks=True),
    Fault("RabbitMQ's queue deleted", delete_queue, 2),
    Fault("RabbitMQ's memory alarm", raise_broker_alarm, 2, keeps_webhooks=True),
    Fault("RabbitMQ does not answer", stall_broker, 2, keeps_webhooks=True),
    Fault(
        "RabbitMQ cut after a random number of bytes", cut_broker_anywhere, 6, keeps_webhooks=True
    ),
    *(
        Fault(f"{trigger} cut {moment}", cut_broker_at(trigger, forward), 2, keeps_webhooks=True)
        for trigger in ("poundcake.announce", "poundcake.webhook", "poundcake.alert")
        for moment, forward in (("in transit", False), ("before its confirm", True))
    ),
    Fault("alerts arrive twice concurrently", deliver_alerts_twice, 2, keeps_webhooks=True),
    Fault("MariaDB stopped and started", stop_database, 3, MARIADB, keeps_webhooks=True),
    Fault("MariaDB killed and started", kill_database, 3, MARIADB, keeps_webhooks=True),
    Fault("MariaDB slow", slow_down_database, 2, MARIADB, keeps_webhooks=True),
    Fault("MariaDB does not answer", stall_database, 2, MARIADB, keeps_webhooks=True),
    Fault("MariaDB read-only", make_database_read_only, 2, MARIADB, keeps_webhooks=True),
    Fault(
        "MariaDB's rows locked by other clients",
        cause_deadlocks,
        2,
        MARIADB,
        keeps_webhooks=True,
    ),
    Fault("MariaDB's connections cut", cut_database, 3, MARIADB, keeps_webhooks=True),
    *(
        Fault(
            f"{table} cut {moment} COMMIT",
            cut_database_in_commit(table, forward),
            3,
            MARIADB,
            keeps_webhooks=True,
        )
        for table in (API_CALLS, LINKS)
        for moment, forward in (("before", False), ("after", True))
    ),
    Fault("SQLite locked by another process", lock_database, 3, ("sqlite",), keeps_webhooks=True),
]
