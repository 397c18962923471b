"""Notifications from two real clustered Alertmanagers and a real Prometheus.

Cases A2, A3, A4 and A7 in docs/CASES.md.
"""

from __future__ import annotations

import contextlib

import pytest

from tests import services
from tests.cluster.world import EXPIRY, MAX_SECONDS, World, can_cut_gossip, wait_until_equal
from tests.scenarios import conftest
from tests.scenarios.notifications import unique

pytestmark = pytest.mark.parametrize("kind", conftest.KINDS[:1], indirect=True, scope="package")


class Cluster:
    """A World, and the stack whose endpoint receives its notifications."""

    def __init__(self, world, stack, alert_name):
        self.world, self.stack, self.alert_name = world, stack, alert_name

    def shown_instances(self):
        """Return the instances whose alerts the endpoint shows as open."""
        return {alert["instance"] for alert in self.stack.active_alerts(self.alert_name)}

    def set_faulty(self, *instances):
        """Make only these instances faulty, and wait until the endpoint shows only their alerts."""
        self.world.set_faulty(*instances)
        self.stack.wait_until(self.world.agreed_alerts, lambda agreed: agreed == set(instances))
        wait_until_equal(self.world, self.shown_instances, MAX_SECONDS)
        return self

    def outcomes(self, instance):
        """Return the outcomes of the alerts of an instance, oldest first."""
        rows = self.stack.rows(
            "SELECT outcome FROM poundcake_alerts WHERE alert_name = :name AND instance = :instance"
            " ORDER BY id",
            name=self.alert_name,
            instance=instance,
        )
        return [row["outcome"] for row in rows]

    def ended_by(self, instance):
        """Return what ended the only incident of an instance, or None while it is open."""
        (row,) = self.stack.rows(
            "SELECT ended_by FROM poundcake_alerts WHERE alert_name = :name"
            " AND instance = :instance AND outcome = 'admitted'",
            name=self.alert_name,
            instance=instance,
        )
        return row["ended_by"]


@pytest.fixture(scope="module")
def cluster(stack):
    """Return a Cluster without active alerts, which notifies the stack."""
    name = unique("ScenarioCluster")
    try:
        world = World(stack.url, stack.token, name, [f"web-{number}" for number in range(6)])
    except services.MissingProgram as missing:
        pytest.skip(f"no cluster: {missing}")
    with contextlib.closing(world), stack.configured(**world.configuration):
        yield Cluster(world, stack, name)


def test_an_alert_from_two_alertmanagers_is_admitted_once(cluster):
    """Cases A2 and A3: a peer sends the alert and its resolve only if the other has not."""
    cluster.set_faulty("web-0").set_faulty()
    assert cluster.outcomes("web-0").count("admitted") == 1


def test_alertmanagers_that_cannot_reach_each_other_both_notify(cluster):
    """Case A7: the second notification is a duplicate, and so is the second resolve."""
    if not can_cut_gossip():
        pytest.skip("the gossip between the Alertmanagers cannot be cut: this needs nft, as root")
    cluster.world.cut_gossip()
    try:
        cluster.set_faulty("web-1")
        cluster.stack.wait_until(lambda: "duplicate" in cluster.outcomes("web-1"))
        cluster.set_faulty()
    finally:
        cluster.world.restore_gossip()
    assert cluster.outcomes("web-1").count("admitted") == 1


def test_an_alert_that_expired_while_prometheus_was_frozen_is_shown_again(cluster):
    """Case A4: Alertmanager resolves the alert, which then fires again with the same startsAt."""
    cluster.set_faulty("web-2")
    cluster.world.freeze_prometheus()
    try:
        cluster.stack.wait_until(
            cluster.world.agreed_alerts, lambda instances: instances == set(), 10 * EXPIRY
        )
        wait_until_equal(cluster.world, cluster.shown_instances, MAX_SECONDS)
    finally:
        cluster.world.thaw_prometheus()
    cluster.set_faulty("web-2").set_faulty()
    assert cluster.outcomes("web-2").count("admitted") == 1


def test_an_alert_is_shown_if_one_alertmanager_cannot_reach_the_endpoint(cluster):
    """Cases A2 and A3: the other one sends the notifications instead."""
    for link in cluster.world.to_endpoint:
        cluster.world.cut(link)
        try:
            cluster.set_faulty("web-3").set_faulty()
        finally:
            cluster.world.restore(link)


def test_an_alertmanager_that_is_killed_and_restarted_changes_nothing(cluster):
    """Case A2: the Alertmanager gets the lost state from its peer."""
    cluster.set_faulty("web-4")
    for alertmanager in cluster.world.alertmanagers:
        alertmanager.kill()
        alertmanager.start()
        cluster.set_faulty("web-4")
    cluster.set_faulty()
    assert cluster.outcomes("web-4").count("admitted") == 1


def test_an_alert_that_ends_while_it_is_silenced_is_closed(cluster):
    """Alertmanager sends no resolve for the alert, not even after the silence."""
    cluster.set_faulty("web-5")
    cluster.world.alertmanagers[0].silence(instance="web-5")

    def read_silence():
        (incident,) = cluster.stack.active_alerts(cluster.alert_name)
        return incident.get("silenced_by"), incident.get("silenced_comment")

    cluster.stack.wait_until(
        read_silence, lambda silence: silence == ("anna", "a new disk"), MAX_SECONDS
    )
    cluster.world.set_faulty()
    cluster.stack.wait_until(cluster.shown_instances, lambda instances: not instances, MAX_SECONDS)
    assert cluster.ended_by("web-5") == "gone"
    assert "resolved" not in cluster.outcomes("web-5")
