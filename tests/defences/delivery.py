"""List the defences against loss and repetition of requests, changes and notifications."""

from __future__ import annotations

from tests.defences.defence import Defence, faults, test
from tests.defences.mutation import Edit, Returns

BUS = "poundcake.endpoint.bus:"
OUTBOX = "poundcake.trail.outbox:"
EMITTER_TESTS = "tests/lib/endpoint/test_emitter.py::TestTwoEndpoints::"
OUTBOX_TESTS = "tests/lib/trail/test_outbox.py::"
PUBLISHER = "poundcake.endpoint.event_publisher:EventPublisher."
PUBLISHER_TESTS = "tests/lib/endpoint/test_event_publisher.py::"

CLAIM_AFTER_LEASE = test(
    OUTBOX_TESTS
    + "TestClaims::test_an_event_can_be_claimed_again_after_its_lease_until_it_is_published",
    "sqlite",
)

# Return the ids before the commit, which happens a moment later.
COMMIT_LATER = (
    "([setattr(a, 'sender_request_id', a.sender_request_id or str(uuid.uuid4())) for a in _1],"
    " [setattr(a, 'request_id', a.sender_request_id) for a in _1],"
    " threading.Timer(0.1, self._file.run, [self._commit, _1]).start())"
)

DEFENCES = [
    Defence(
        "the journal's commits are synced to the disk",
        Edit(
            "poundcake.endpoint.journal_file:_connect",
            "_1.execute('PRAGMA synchronous=FULL')",
            "_1.execute('PRAGMA synchronous=OFF')",
        ),
        faults("unsynced writes lost", 3, "sqlite"),
    ),
    Defence(
        "a 202 waits for the journal's commit",
        Edit(
            "poundcake.endpoint.group_commit:GroupCommit._commit_pending",
            "_.run_locked(self._commit, _1)",
            COMMIT_LATER,
        ),
        faults("as soon as a 202 is read", 3, "sqlite"),
    ),
    Defence(
        "an alert is done only after StackStorm has received it",
        Edit(
            "poundcake.endpoint.emitter:Emitter._complete",
            "not plan.request.unexplained_alerts",
            "True",
        ),
        faults("right after taking an alert", 2, "sqlite"),
    ),
    Defence(
        "an alert that StackStorm lost is emitted again",
        Edit("poundcake.endpoint.emission_plan:plan_emission", "_.is_lost", "False"),
        faults("right after taking an alert", 1, "sqlite"),
    ),
    Defence(
        "each workflow has at most one claim on an episode",
        Edit(
            "poundcake.trail.migrations.versions.0001_first_tables",
            "Column('claim', _1, unique=True)",
            "Column('claim', _1)",
        ),
        faults("arrive twice", 3, "mariadb"),
    ),
    Defence(
        "a publish waits for its confirm",
        Edit(
            BUS + "_stackstorm_connection",
            "{'confirm_publish': True}",
            "{'confirm_publish': False}",
        ),
        faults("webhook cut in transit", 3, "sqlite"),
    ),
    Defence(
        "an unroutable message is returned",
        Edit(BUS + "Bus._publish", "mandatory=True", "mandatory=False"),
        faults("queue unbound", 1, "sqlite"),
    ),
    Defence(
        "another endpoint emits what an endpoint that is gone has recorded",
        Edit(
            "poundcake.endpoint.tracking_queries:find_requests_to_import",
            "alerts.c.explanation == Explanation.RETRY",
            "False",
        ),
        test(EMITTER_TESTS + "test_the_other_endpoint_emits_what_an_endpoint_that_is_gone_has_not"),
    ),
    Defence(
        "a request is claimed before its lost alerts are emitted again",
        Edit("poundcake.endpoint.emission_plan:Emission.needs_claim", "any(_)", "False"),
        test(EMITTER_TESTS + "test_an_alert_that_stackstorm_lost_is_emitted_again_by_one_endpoint"),
    ),
    Defence(
        "two endpoints do not publish the same event",
        Edit(OUTBOX + "_is_claimable", "events.c.publisher_until.is_(None)", "True"),
        test(OUTBOX_TESTS + "TestClaims::test_two_endpoints_never_claim_the_same_event", "sqlite"),
    ),
    Defence(
        "an event that could not be marked is published again",
        Edit(OUTBOX + "_is_claimable", "events.c.publisher_until <= now", "False"),
        CLAIM_AFTER_LEASE,
    ),
    Defence(
        "a published event is not published again",
        Returns(OUTBOX + "mark_published", "None"),
        CLAIM_AFTER_LEASE,
    ),
    Defence(
        "a storm is reported once",
        Edit(
            OUTBOX + "_add_limit_event",
            "last_event and _ > now - LIMIT_RESET",
            "False",
        ),
        test(
            OUTBOX_TESTS + "TestLimits::test_a_storm_is_reported_once_for_its_alert_name", "sqlite"
        ),
    ),
    Defence(
        "a limit is reported for each alert name or remediation",
        Edit(OUTBOX + "_add_limit_event", "subjects.get(limit, '')", "''"),
        test(OUTBOX_TESTS + "TestLimits::test_a_limit_is_reported_once_for_each_subject", "sqlite"),
    ),
    Defence(
        "an event that the broker refuses does not delay the others",
        Edit(PUBLISHER + "_publish_all", "failures_in_a_row >= _MAX_FAILURES_IN_A_ROW", "True"),
        test(PUBLISHER_TESTS + "test_an_event_that_the_broker_refuses_does_not_delay_the_others"),
    ),
]
