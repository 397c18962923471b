"""Pure functions decide when requests are retried, and how large their batches are."""

from __future__ import annotations

import pytest

from poundcake.endpoint import retry
from poundcake.endpoint.retry import FailedAttempt, ObservedSync, Pace, RetryPlan
from tests.lib.samples import NOON, later

MANY_ATTEMPTS = 100_000


@pytest.mark.parametrize(
    "times, expected_wait",
    [(0, 60), (1, 120), (5, 1920), (6, 3600), (7, 3600), (MANY_ATTEMPTS, 3600)],
)
def test_waits_double_up_to_the_maximum(times, expected_wait):
    assert retry.doubled((60.0, 3600.0), times) == expected_wait


def test_jitter_only_shortens_waits():
    waits = {retry.jittered(100.0) for _ in range(200)}
    assert 90 <= min(waits) < max(waits) <= 100


@pytest.mark.parametrize(
    "size, attempts, others_recorded, plan",
    [
        # The first miss keeps the size; each later miss halves the batch and doubles the wait.
        (8, 0, False, RetryPlan(30, 8, False)),
        (8, 1, False, RetryPlan(60, 4, False)),
        (4, 2, False, RetryPlan(120, 2, False)),
        (2, 3, False, RetryPlan(240, 1, False)),
        (1, 4, False, RetryPlan(480, 1, False)),
        (1, 5, False, RetryPlan(600, 1, False)),
        (1, MANY_ATTEMPTS, False, RetryPlan(600, 1, False)),
        # If other requests were recorded, the batch is at fault. A single request is stuck after
        # its second miss.
        (8, 3, True, RetryPlan(240, 4, False)),
        (1, 0, True, RetryPlan(30, 1, False)),
        (1, 1, True, RetryPlan(600, 1, True)),
        (1, MANY_ATTEMPTS, True, RetryPlan(600, 1, True)),
    ],
)
def test_a_batch_that_was_not_recorded_is_retried_in_smaller_batches(
    size, attempts, others_recorded, plan
):
    assert retry.plan_missed(FailedAttempt(size, attempts, others_recorded)) == plan


@pytest.mark.parametrize(
    "attempts, others_recorded, plan",
    [
        (0, False, RetryPlan(1, 0, False)),  # the broker may have been down
        (0, True, RetryPlan(1, 0, False)),
        (1, False, RetryPlan(2, 1, False)),
        (9, False, RetryPlan(60, 1, False)),
        (1, True, RetryPlan(600, 1, True)),
    ],
)
def test_a_request_that_cannot_be_published_is_retried_with_longer_waits(
    attempts, others_recorded, plan
):
    assert retry.plan_refused(FailedAttempt(1, attempts, others_recorded)) == plan


def test_announcements_slow_down_while_nothing_is_recorded():
    pace, pauses = Pace(), []
    for _ in range(4):
        pace = retry.pace_after_miss(pace, now=1000.0)
        pauses.append(pace.next_at - 1000.0)
    assert pauses == [30, 60, 60, 60]
    pace = retry.pace_after_record(pace, now=2000.0)
    assert (pace.misses, pace.next_at, pace.recorded_at) == (0, 0.0, 2000.0)


def test_a_refusal_resets_the_batch_size_which_then_doubles():
    pace = retry.pace_after_refusal(Pace())
    sizes = []
    for _ in range(11):
        sizes.append(pace.batch_requests)
        pace = retry.pace_after_publish(pace)
    assert sizes == [1, 2, 4, 8, 16, 32, 64, 128, 256, 500, 500]


@pytest.mark.parametrize(
    "previous, synced_at, database_age, elapsed, age",
    [
        # For the first observation, only the database's clock gives an age.
        (None, None, 0, 0, float("inf")),
        (None, NOON, 40, 0, 40),
        (None, NOON, -7200, 0, 0),
        # The same sync as before: its age grows with the monotonic clock.
        (ObservedSync(NOON, 10), NOON, -7200, 5, 15),
        (ObservedSync(NOON, 10), NOON, 7200, 5, 15),
        # Another sync: it ended after the last observation, so its age is at most `elapsed`.
        (ObservedSync(NOON, 10), later(5), 3, 5, 3),
        (ObservedSync(NOON, 10), later(5), -7200, 5, 0),
        (ObservedSync(NOON, 10), later(5), 7200, 5, 5),
    ],
)
def test_the_age_of_the_last_sync_does_not_depend_on_wrong_clocks(
    previous, synced_at, database_age, elapsed, age
):
    assert retry.observe_sync(previous, synced_at, database_age, elapsed) == ObservedSync(
        synced_at, age
    )


def test_the_interval_between_syncs_grows():
    waits = [retry.SYNC_WAITS[0]]
    while waits[-1] < retry.SYNC_WAITS[1]:
        waits.append(retry.next_sync_wait(waits[-1]))
    assert waits == [10.0, 20.0, 40.0, 60.0]
    assert retry.sync_wait(10.0, can_proceed_unattended=True) == 10.0
    assert retry.sync_wait(10.0, can_proceed_unattended=False) == 600.0
