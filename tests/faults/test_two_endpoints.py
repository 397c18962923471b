"""Two endpoints behind HAProxy lose nothing and do nothing twice, whatever fails."""

from __future__ import annotations

import copy
import shutil
import time
from types import SimpleNamespace

import pytest

from tests import services
from tests.faults.ledger import Balance
from tests.faults.load import Load, Notifications
from tests.faults.run import ANSWER_SECONDS, RECOVERY_SECONDS, TITLES, Run
from tests.faults.two_endpoints import FAULTS
from tests.faults.world import SETTINGS, World, wait_for

SEED = 1
SELECTED = [
    "the first endpoint killed",
    "the second endpoint killed",
    "MariaDB stopped",
    "an endpoint killed after the journal's commit, before the answer",
    "an endpoint killed after the emission, before mark_emitted",
    "both endpoints killed",
    "an endpoint hangs",
    "HAProxy killed",
    "RabbitMQ stopped",
    "StackStorm killed",
]


@pytest.fixture(autouse=True)
def _haproxy():
    try:
        services.program("haproxy")
    except services.MissingProgram as error:
        pytest.skip(f"HAProxy: {error}")


class Pair:
    """Two endpoints without a running StackStorm, and a sender for each."""

    def __init__(self, folder, broker, mariadb):
        settings = {**SETTINGS, "poundcake.trail.emissions": {"LEASE": 8}}
        self.world = World(folder, broker, mariadb, settings, endpoints=2)
        self.world.start_sensor()
        self.notifications = Notifications(SEED)
        self.senders = [
            Load(endpoint.port, self.notifications, SEED, 1) for endpoint in self.world.endpoints
        ]

    def send(self, number, notification, with_id=False):
        """Send a notification to one of the endpoints, and return the accepted Delivery."""
        delivery = self.senders[number].post(notification, with_id)
        wait_for(lambda: delivery.request_id, ANSWER_SECONDS, "the request is answered")
        return delivery

    def send_and_kill(self, number, notification):
        """Let an endpoint accept a notification, and kill it before it can announce it."""
        proxy = self.world.broker_proxy
        proxy.is_stalled = True
        delivery = self.send(number, notification)
        self.world.endpoints[number].process.kill()
        proxy.cut()
        time.sleep(0.3)  # until what was sent in the meantime can no longer reach the broker
        proxy.is_stalled = False
        return delivery

    def is_recorded(self, delivery):
        statement = "SELECT 1 FROM poundcake_api_calls WHERE request_id = :i"
        return bool(self.world.rows(statement, i=delivery.request_id))

    def finish(self):
        """Wait until no work is pending, and return the Balance."""
        wait_for(lambda: not self.world.pending_work(), RECOVERY_SECONDS, "all work is done")
        deliveries = [d for sender in self.senders for d in sender.deliveries]
        problems = [p for sender in self.senders for p in sender.problems]
        return Balance(self.world, SimpleNamespace(deliveries=deliveries, problems=problems))

    def lose_journal(self, number):
        """Delete the journal of an endpoint that was killed, as if the host's disk were lost."""
        shutil.rmtree(self.world.endpoints[number].config["state_dir"])

    def close(self):
        for sender in self.senders:
            sender.close()
        self.world.close()


@pytest.fixture
def pair(rabbitmq, mariadb, tmp_path):
    new_pair = Pair(tmp_path / "world", rabbitmq, mariadb)
    yield new_pair
    new_pair.close()


def test_nothing_is_lost_and_nothing_is_done_twice(rabbitmq, mariadb, tmp_path):
    faults_by_name = {fault.name: fault for fault in FAULTS}
    print(TITLES)
    run = Run("mariadb", tmp_path / "world", rabbitmq, mariadb, SEED, print, endpoints=2)
    try:
        run.start()
        for name in SELECTED:
            run.inject(name, [faults_by_name[name]])
        assert not run.problems
        assert run.injected == len(SELECTED)
    finally:
        run.close()


def test_what_a_killed_endpoint_holds_is_recorded_after_its_restart(pair):
    world = pair.world
    held = pair.send_and_kill(0, pair.notifications.new_episodes(2))
    other = pair.send(1, pair.notifications.new_episodes(2))
    world.start_stackstorm()
    wait_for(lambda: pair.is_recorded(other), RECOVERY_SECONDS, "the other endpoint works on")
    assert not pair.is_recorded(held)
    world.start_sensor()
    balance = pair.finish()
    assert not balance.problems
    assert (balance.recorded, balance.remediated) == (2, 4)


def test_a_notification_that_reaches_both_endpoints_starts_one_remediation(pair):
    notification = pair.notifications.new_episodes(1)
    without_ids = [pair.send(number, notification) for number in (0, 1)]
    with_id = pair.send(0, pair.notifications.new_episodes(1), with_id=True)
    # The sender got no answer, and tries the other endpoint with the same id.
    retry = copy.copy(with_id)
    retry.request_id = ""
    pair.senders[1].send(retry)
    wait_for(lambda: retry.request_id, ANSWER_SECONDS, "the retry is answered")
    pair.world.start_stackstorm()
    balance = pair.finish()
    assert retry.request_id == with_id.request_id
    statement = "SELECT request_id FROM poundcake_api_calls WHERE body_sha256 = :s"
    assert len(pair.world.rows(statement, s=with_id.sha256)) == 1
    assert len(pair.world.rows(statement, s=without_ids[0].sha256)) >= 2
    assert (balance.remediated, balance.lost, balance.twice) == (2, 0, 0)


def test_a_request_that_haproxy_sends_to_both_endpoints_is_recorded_once(pair):
    world = pair.world
    world.load_balancer.start()
    pair.senders.append(Load(world.port, pair.notifications, SEED, 1))
    world.arm("committed")
    pair.send(2, pair.notifications.new_episodes(1))
    assert world.was_hit("committed")
    world.start_sensor()
    world.start_stackstorm()
    balance = pair.finish()
    assert not balance.problems, "the id that HAProxy sets is the same for both endpoints"
    assert (balance.recorded, balance.remediated) == (1, 1)


def test_a_lost_journal_loses_only_what_was_not_recorded(pair):
    world = pair.world
    notification = pair.notifications.new_episodes(1)
    lost = pair.send_and_kill(0, notification)
    pair.lose_journal(0)
    world.start_stackstorm()
    world.start_sensor()
    # What still fires is sent again, here to the other endpoint. Nothing is known about it yet.
    repeat = pair.send(1, dict(notification, groupKey="{}:repeat"))
    balance = pair.finish()
    assert pair.is_recorded(repeat) and balance.remediated == 1
    assert balance.problems == [f"{lost.request_id} is not recorded"] + [
        "a body that was answered 1 times in 1 tries is recorded 0 times"
    ]


@pytest.mark.parametrize("with_id", [False, True], ids=["without an id", "with an id"])
def test_the_other_endpoint_remediates_what_was_recorded_before_a_journal_was_lost(pair, with_id):
    world = pair.world
    world.arm("before poundcake.webhook")
    pair.send(0, pair.notifications.new_episodes(2), with_id)
    world.start_stackstorm()
    world.sensor.wait(RECOVERY_SECONDS)
    assert world.was_hit("before poundcake.webhook") and not world.finished_work()
    pair.lose_journal(0)
    # The endpoint stays down, and the other one takes over after a while.
    wait_for(lambda: len(world.finished_work()) == 2, RECOVERY_SECONDS, "the work is done")
    world.start_sensor()
    balance = pair.finish()
    assert not balance.problems
    assert (balance.recorded, balance.remediated) == (1, 2)
