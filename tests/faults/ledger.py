"""After the recovery, compare what was recorded and done with what the sender was promised."""

from __future__ import annotations

from collections import Counter

from tests.faults.load import RECEIVER

FAILED_STATUSES = ("failed", "timeout", "abandoned", "canceled", "gone")


class Balance:
    """Counts the answered and recorded requests, and the work that was done for them.

    `problems` contains a sentence for each broken promise.
    """

    def __init__(self, world, load):
        self.problems = list(dict.fromkeys(load.problems))
        self.answered = self.recorded = self.remediated = 0
        self.lost = self.twice = self.cut_off = 0
        self._count_requests(world, load)
        self._count_work(world)
        self._check_not_admitted(world)
        self.unreceived_webhooks = self._unreceived_webhooks(world)

    def _count_requests(self, world, load):
        """Check that each request that was answered 202 is recorded exactly once."""
        calls = world.rows(
            "SELECT request_id, body_sha256 FROM poundcake_api_calls WHERE replay_of IS NULL"
        )
        calls_by_id = {call.request_id: call for call in calls}
        times_recorded = Counter(call.body_sha256 for call in calls)
        tries = Counter()
        times_answered = Counter()
        has_client_id = {}
        for delivery in load.deliveries:
            tries[delivery.sha256] += delivery.tries
            times_answered[delivery.sha256] += bool(delivery.request_id)
            has_client_id[delivery.sha256] = bool(delivery.client_request_id)
            if not delivery.request_id:
                continue
            self.answered += 1
            call = calls_by_id.get(delivery.request_id)
            if call is None:
                self.problems.append(f"{delivery.request_id} is not recorded")
            elif call.body_sha256 != delivery.sha256:
                self.problems.append(f"{delivery.request_id} is recorded with a different body")
            else:
                self.recorded += 1
        for sha256, count in times_answered.items():
            max_times = count if has_client_id[sha256] else tries[sha256]
            if not count <= times_recorded[sha256] <= max_times:
                self.problems.append(
                    f"a body that was answered {count} times in {tries[sha256]} tries is recorded"
                    f" {times_recorded[sha256]} times"
                )
        unexpected = set(times_recorded) - set(tries)
        if unexpected:
            self.problems.append(f"{len(unexpected)} recorded bodies were never sent")

    def _count_work(self, world):
        """Check that the work was done once for each admitted alert that the rule matches."""
        admitted = world.rows(
            "SELECT episode FROM poundcake_alerts WHERE outcome = 'admitted'"
            " AND alert_name LIKE 'FaultsWork%'"
        )
        claims = world.rows(
            "SELECT l.claim, l.st2_execution_id, e.status FROM poundcake_st2_execution_link l"
            " LEFT JOIN execution_db e ON e.id = l.st2_execution_id WHERE l.claim IS NOT NULL"
        )
        claims_by_episode = {claim.claim.partition("|")[0]: claim for claim in claims}
        if len(claims_by_episode) != len(claims):
            self.problems.append(f"{len(claims)} claims on {len(claims_by_episode)} episodes")
        times_done = Counter(episode for episode, _, _ in world.finished_work())
        for (episode,) in admitted:
            times = times_done.pop(episode, 0)
            self.remediated += bool(times)
            self.twice += times > 1
            if times:
                continue
            claim = claims_by_episode.get(episode)
            if claim is not None and claim.status in FAILED_STATUSES:
                # The execution was killed after the claim. The trail shows it as failed, and an
                # operator has to release the claim.
                self.cut_off += 1
                continue
            self.lost += 1
            self.problems.append(f"the work on {episode} was never done")
        if self.twice:
            self.problems.append(f"{self.twice} episodes were worked on twice")
        if times_done:
            examples = sorted(times_done)[:3]
            self.problems.append(f"work on episodes that were not admitted: {examples}")

    def _check_not_admitted(self, world):
        """Check that an alert that was not admitted has a reason and started nothing."""
        not_admitted = "a.outcome NOT IN ('admitted', 'malformed')"
        unexplained = world.rows(
            "SELECT count(*) FROM poundcake_alerts a WHERE a.reason = '' AND " + not_admitted
        )
        linked = world.rows(
            "SELECT count(*) FROM poundcake_alerts a"
            " JOIN poundcake_st2_execution_link l ON l.alert_id = a.id WHERE " + not_admitted
        )
        if unexplained[0][0]:
            self.problems.append(
                f"{unexplained[0][0]} alerts that were not admitted have no reason"
            )
        if linked[0][0]:
            self.problems.append(f"{linked[0][0]} alerts were not admitted, but have an execution")
        outcomes = {
            (row.request_id, row.episode): row.outcome
            for row in world.rows(
                "SELECT c.request_id, a.episode, a.outcome FROM poundcake_alerts a"
                " JOIN poundcake_api_calls c ON c.id = a.api_call_id"
                " ORDER BY CASE a.outcome WHEN 'admitted' THEN 1 ELSE 0 END"
            )
        }
        for episode, request_id, _ in world.finished_work():
            if outcomes.get((request_id, episode)) != "admitted":
                self.problems.append(f"{episode} was worked on for {request_id}")

    @staticmethod
    def _unreceived_webhooks(world):
        """Return the recorded requests whose poundcake.webhook StackStorm did not receive.

        The trigger is emitted only once. A rules engine that is killed may lose it, but the broker
        must not.
        """
        calls = world.rows(
            "SELECT request_id FROM poundcake_api_calls WHERE receiver = :r", r=RECEIVER
        )
        return {request_id for (request_id,) in calls} - world.received_webhooks()
