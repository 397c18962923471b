"""Links and claims: at most one execution of a workflow works on an attempt at an episode."""

from __future__ import annotations

import datetime

import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import OperationalError

from poundcake.config import Config
from poundcake.trail import claims, clock, database, queries
from poundcake.trail.errors import DatabaseError, TrackingError
from poundcake.trail.outbox import Ending, EndResult
from poundcake.trail.queries.rows import DRY_RUN_NOTE
from poundcake.trail.release import release_claims
from poundcake.trail.replay import replay_request
from poundcake.trail.schema import alerts, executions, links, meta
from tests.lib.samples import NOON, UTC, alert, later
from tests.lib.sync_trail import SyncTrail
from tests.lib.trails import (
    WORKFLOW,
    database_time,
    in_parallel,
    on_mariadb,
    on_sqlite,
    record,
    view,
)


def read_rows(engine, table=alerts):
    with database.reading(engine) as connection:
        return connection.execute(select(table).order_by(table.c.id)).all()


def execute(engine, statement):
    with database.transaction(engine) as connection:
        connection.execute(statement)


def link(
    engine, admitted_alert, execution_id="e1", workflow=WORKFLOW, host_cooldown=0, may_change=True
):
    request_id, episode = admitted_alert
    cooldown = claims.HostCooldown.from_seconds(host_cooldown)
    return claims.link(engine, request_id, episode, workflow, execution_id, cooldown, may_change)


def link_with_retries(engine, admitted_alert, execution_id, **options):
    """Link, and retry as the action does, because the threads of a test block each other."""
    return database.retry_while_unavailable(
        lambda: link(engine, admitted_alert, execution_id, **options), seconds=30
    )


@pytest.fixture
def admitted_alert(engine):
    """Return the request_id and the episode of an admitted alert."""
    request_id = record(engine, alert(fingerprint="f"))
    return request_id, read_rows(engine)[0].episode


class TestLink:
    def test_the_first_execution_gets_the_claim(self, engine, admitted_alert):
        result = link(engine, admitted_alert)
        assert (result["claimed"], result["reason"]) == (True, "")
        (row,) = read_rows(engine, links)
        assert (row.request_id, row.st2_execution_id) == (admitted_alert[0], "e1")
        assert row.st2_action_ref == WORKFLOW
        assert row.alert_id == result["alert_id"] == read_rows(engine)[0].id
        (mirrored,) = read_rows(engine, executions)
        assert (mirrored.id, mirrored.action, mirrored.status) == ("e1", WORKFLOW, "running")

    def test_the_same_execution_gets_the_claim_again(self, engine, admitted_alert):
        assert [link(engine, admitted_alert)["claimed"] for _ in range(3)] == [True] * 3
        assert len(read_rows(engine, links)) == 1

    def test_another_execution_is_refused(self, engine, admitted_alert):
        link(engine, admitted_alert)
        result = link(engine, admitted_alert, "e2")
        assert result["claimed"] is False
        assert result["reason"] == (
            f"execution e1 of {WORKFLOW} holds the claim on this episode; if it ended without "
            "doing its work, release the claim with `st2 run poundcake.release "
            f"format=text episode={admitted_alert[1]}`"
        )
        assert [row.st2_execution_id for row in read_rows(engine, links)] == ["e1"]
        assert len(read_rows(engine, executions)) == 1

    def test_another_workflow_gets_a_separate_claim(self, engine, admitted_alert):
        assert link(engine, admitted_alert)["claimed"]
        assert link(engine, admitted_alert, "e2", "other.workflow")["claimed"]

    @on_sqlite
    def test_an_execution_without_a_change_takes_no_claim(self, engine, admitted_alert):
        for _ in range(2):
            assert link(engine, admitted_alert, "check-1", may_change=False)["claimed"]
        assert link(engine, admitted_alert, "change")["claimed"]
        assert link(engine, admitted_alert, "check-2", may_change=False)["claimed"]
        assert [(row.st2_execution_id, bool(row.claim)) for row in read_rows(engine, links)] == [
            ("check-1", False),
            ("change", True),
            ("check-2", False),
        ]

    @on_sqlite
    def test_an_acknowledged_incident_is_refused_even_without_a_change(
        self, engine, admitted_alert
    ):
        execute(engine, update(alerts).values(acknowledged_at=NOON, acknowledged_by="anna"))
        result = link(engine, admitted_alert, may_change=False)
        assert (result["claimed"], result["reason"]) == (False, "acknowledged by anna")
        assert read_rows(engine, links) == []

    def test_one_of_many_concurrent_executions_gets_the_claim(self, engine, admitted_alert):
        results = in_parallel(8, lambda i: link_with_retries(engine, admitted_alert, f"e{i}"))
        assert sorted(result["claimed"] for result in results) == [False] * 7 + [True]
        (row,) = read_rows(engine, links)
        assert results[int(row.st2_execution_id[1:])]["claimed"]

    def test_concurrent_requests_of_one_execution_all_get_the_claim(self, engine, admitted_alert):
        results = in_parallel(5, lambda i: link_with_retries(engine, admitted_alert, "e1"))
        assert [result["claimed"] for result in results] == [True] * 5
        assert len(read_rows(engine, links)) == 1

    @on_sqlite
    def test_another_request_with_the_same_episode_cannot_claim_it_again(
        self, engine, admitted_alert
    ):
        link(engine, admitted_alert)
        resolve = alert(status="resolved", fingerprint="f", ends_at=later(60))
        second_request_id = record(engine, resolve, received_at=later(70))
        assert link(engine, (second_request_id, admitted_alert[1]), "e2")["claimed"] is False

    @on_sqlite
    @pytest.mark.parametrize("outcome", ["duplicate", "rate_limited", "cooldown"])
    def test_an_alert_that_was_not_admitted_is_refused(self, engine, outcome):
        firing, config = alert(fingerprint="f"), Config()
        if outcome == "cooldown":
            config = Config(cooldown_seconds=3600)
            record(engine, firing)
            firing = alert(fingerprint="f", starts_at=later(1000))
        elif outcome == "duplicate":
            record(engine, firing)
        elif outcome == "rate_limited":
            config = Config(max_remediations_per_hour=1)
            record(engine, alert(fingerprint="g"))
        request_id = record(engine, firing, config=config)
        row = read_rows(engine)[-1]
        assert row.outcome == outcome
        result = link(engine, (request_id, row.episode))
        assert result["claimed"] is False
        assert f"not admitted: {outcome}, " in result["reason"]
        assert read_rows(engine, links) == []

    @on_sqlite
    @pytest.mark.parametrize(
        "request_id, episode", [("nobody", None), (None, "nothing"), ("", ""), ("'", "%s")]
    )
    def test_an_unrecorded_alert_is_an_error(self, engine, admitted_alert, request_id, episode):
        target = (
            admitted_alert[0] if request_id is None else request_id,
            admitted_alert[1] if episode is None else episode,
        )
        with pytest.raises(TrackingError, match="no alert"):
            link(engine, target)
        assert read_rows(engine, links) == []

    @on_sqlite
    def test_a_malformed_alert_has_no_episode_to_claim(self, engine):
        request_id = record(engine, {"labels": 7})
        with pytest.raises(TrackingError, match="no alert"):
            link(engine, (request_id, "f-1"))

    @on_sqlite
    def test_an_execution_id_is_required(self, engine, admitted_alert):
        with pytest.raises(TrackingError, match="^execution_id"):
            link(engine, admitted_alert, "")

    def test_an_incident_that_ended_long_ago_is_refused(self, engine, admitted_alert):
        resolve = alert(status="resolved", fingerprint="f", ends_at=later(60))
        record(engine, resolve, received_at=later(65))
        with database_time(later(600)):
            assert link(engine, admitted_alert)["claimed"]
        with database_time(later(666)):
            # The execution with the claim keeps it.
            assert link(engine, admitted_alert)["claimed"]
            result = link(engine, admitted_alert, "e2", "poundcake.default")
        assert result["claimed"] is False
        assert result["reason"] == (
            "the incident ended at 2026-01-14T12:01:05Z; to work on it anyway, run `st2 run "
            f"poundcake.replay request_id={admitted_alert[0]} force=true`"
        )
        replay_id = replay_request(engine, Config(), admitted_alert[0], force=True)["request_id"]
        assert link(engine, (replay_id, admitted_alert[1]), "e3")["claimed"]

    @on_sqlite
    def test_a_newer_schema_is_refused(self, engine, admitted_alert):
        execute(engine, meta.update().where(meta.c.name == "schema").values(value="99"))
        with pytest.raises(DatabaseError, match="schema 99.*supports only up to"):
            link(engine, admitted_alert)
        with pytest.raises(DatabaseError, match="schema 99.*supports only up to"):
            release_claims(engine, admitted_alert[1])

    @on_sqlite
    def test_a_claim_reopens_an_alert_that_was_given_up(self, engine, admitted_alert):
        execute(engine, update(alerts).values(explanation="lost", explanation_reason="x"))
        assert link(engine, admitted_alert)["claimed"]
        (row,) = read_rows(engine)
        assert (row.explanation, row.explanation_reason) == (None, None)

    @on_sqlite
    def test_an_execution_that_sync_linked_first_gets_its_claim(self, engine, admitted_alert):
        execute(
            engine,
            links.insert().values(
                request_id=admitted_alert[0],
                alert_id=read_rows(engine)[0].id,
                st2_execution_id="e1",
                created_at=NOON,
            ),
        )
        assert link(engine, admitted_alert)["claimed"]
        (row,) = read_rows(engine, links)
        assert row.claim


class TestEndReport:
    """poundcake.begin records the report of a remediation that ends without a change."""

    @pytest.fixture
    def begin(self, trail, run_action):
        """Return a function that runs poundcake.begin for an alert of a host that is not there."""
        request_id, (row,) = trail.record(alert(instance="web-1.invalid:9100"))

        def run(**parameters):
            return run_action(
                "begin", "e1", request_id=request_id, episode=row.episode, execution_id="e1",
                **{"workflow": "poundcake.default", **parameters},
            )  # fmt: skip

        return run

    @pytest.fixture
    def trail(self, engine):
        return SyncTrail(engine)

    def read_result(self, trail):
        """Return what the list of executions shows, without asking StackStorm."""
        (execution,) = view(trail.engine, queries.st2_executions)["st2_executions"]
        return execution["status"], execution["result"], execution["message"]

    def test_the_views_show_it_before_sync_has_read_the_execution(self, trail, begin):
        message = begin()["message"]
        assert message
        expected = f"{DRY_RUN_NOTE}. {message}"
        assert self.read_result(trail) == ("running", "dry_run", expected)
        (request,) = view(trail.engine, queries.executions_recent)["executions"]
        assert request["alerts"][0]["result"] == "dry_run"

    def test_a_message_that_mariadb_could_not_store_is_truncated(self, trail):
        request_id, (row,) = trail.record(alert())
        ending = Ending(EndResult.DRY_RUN, request_id, row.episode, "e1", "r")
        report = claims.EndReport("dry_run", "x" * 70_000, dry_run=True, verified=False)
        assert claims.link_ended(trail.engine, WORKFLOW, ending, report)["claimed"]
        with database.reading(trail.engine) as connection:
            assert connection.scalar(select(executions.c.message)) == "x" * 4000

    def test_a_refusal_that_fails_the_workflow_is_shown_as_well(self, trail, begin):
        begin(workflow="poundcake.host_down", action="mypack.reboot", config={"dry_run": False})
        assert self.read_result(trail)[:2] == ("running", "refused")

    def test_a_failed_check_is_left_to_sync(self, trail, begin):
        config = {"dry_run": False, "allowed_hosts": ["*"], "allowed_actions": ["mypack.reboot"]}
        begin(
            workflow="poundcake.host_down",
            action="mypack.reboot",
            host_parameter="host",
            config={**config, "settle_seconds": 0},
        )
        assert self.read_result(trail)[:2] == ("running", "running")

    def test_sync_confirms_it(self, trail, begin):
        report = begin()["report"]
        trail.stackstorm.run("e1", "succeeded", "poundcake.default", result={"output": report})
        trail.sync()
        assert self.read_result(trail)[:2] == ("succeeded", "dry_run")

    def test_a_workflow_that_fails_after_it_is_shown_as_failed(self, trail, begin):
        begin(mode="evidence")
        assert self.read_result(trail)[1] == "evidence"
        trail.stackstorm.run("e1", "failed", "poundcake.default", result={"stderr": "no space"})
        trail.sync()
        assert self.read_result(trail)[:2] == ("failed", "failed")

    def test_it_stays_if_stackstorm_deletes_the_execution_first(self, trail, begin):
        begin(mode="evidence")
        trail.sync()
        assert self.read_result(trail)[:2] == ("gone", "evidence")

    def test_a_refused_execution_records_nothing(self, trail, begin):
        trail.change(alerts, acknowledged_at=NOON, acknowledged_by="anna")
        assert not begin()["claimed"]
        assert view(trail.engine, queries.st2_executions)["st2_executions"] == []


class TestClaimKey:
    def test_long_names_have_distinct_keys(self):
        first, second = "pack." + "w" * 250, "pack." + "w" * 249 + "x"
        keys = {claims.claim_key("e" * 96, name, n) for name in (first, second) for n in (1, 2, 3)}
        assert len(keys) == 6
        assert max(map(len, keys)) <= 255

    def test_the_first_attempt_has_no_number(self):
        assert claims.claim_key("f-1", "pack.w") == "f-1|pack.w"
        assert claims.claim_key("f-1", "pack.w", 2) == "f-1|pack.w|2"


def test_a_claim_is_retried_after_a_deadlock(engine, admitted_alert, monkeypatch):
    failures, write_link = [1213, 1205], claims._write_link

    def fail_twice(*args):
        if failures:
            raise OperationalError("", {}, Exception(failures.pop(), "try restarting transaction"))
        return write_link(*args)

    monkeypatch.setattr(claims, "_write_link", fail_twice)
    assert link(engine, admitted_alert)["claimed"]
    assert not failures


class TestHostCooldown:
    """After a claim, the workflow cannot claim another episode of the same host for a while."""

    SECONDS = 600

    @pytest.fixture
    def admit(self, engine):
        """Return a function that records an alert and returns (request_id, episode)."""

        def admit(instance, received_at=NOON, **fields):
            host_alert = alert(labels={"instance": instance}, **fields)
            request_id = record(engine, host_alert, received_at=received_at)
            return request_id, read_rows(engine)[-1].episode

        return admit

    def claim(self, engine, admitted_alert, execution_id, at=NOON, **options):
        with database_time(at):
            options.setdefault("host_cooldown", self.SECONDS)
            return link(engine, admitted_alert, execution_id, **options)

    @pytest.mark.parametrize(
        "first, second, claimed",
        [
            ("web1:9100", "web1:9100", False),
            ("web1:9100", "web1:9256", False),
            ("web1", "web1:9100", False),
            ("web1:9100", "web1", False),
            ("[2001:db8::1]:9100", "[2001:db8::1]:9256", False),
            ("2001:db8::1", "[2001:db8::1]:9100", False),
            ("[2001:db8::1]:9100", "2001:db8::1", False),
            ("2001:db8::1", "2001:db8::2", True),
            ("2001:db8::1", "2001:db8::1:2", True),
            ("web1:9100", "web10:9100", True),
            ("web1:9100", "web1.example.org:9100", True),
            ("web1:9100", "WEB1.:9256", False),
            ("web1:9100", "http://Web1:9100/metrics", False),
            ("web1:9100", "web1:", False),
            ("192.0.2.7:9100", "[::ffff:192.0.2.7]:9100", False),
            ("2001:db8::1", "[2001:0DB8:0:0::1]:9100", False),
            ("web_:9100", "web1:9100", True),
            ("web%:9100", "web1:9100", True),
            ("", "", True),
            ("a b", "a b", True),
        ],
    )
    def test_instances_of_the_same_host_share_the_cooldown(
        self, engine, admit, first, second, claimed
    ):
        assert self.claim(engine, admit(first, fingerprint="one"), "e1")["claimed"]
        second_alert = admit(second, fingerprint="two")
        result = self.claim(engine, second_alert, "e2", later(30))
        assert result["claimed"] is claimed
        assert len(read_rows(engine, links)) == 1 + claimed
        if not claimed:
            assert result["reason"] == (
                "this host is in cooldown until 2026-01-14T12:10:00Z: execution e1 of "
                f"{WORKFLOW} was started for it"
            )
            # The cooldown applies neither to another workflow nor to a claim without a cooldown.
            assert self.claim(engine, second_alert, "e3", workflow="v")["claimed"]
            assert self.claim(engine, second_alert, "e4", host_cooldown=0)["claimed"]

    @on_sqlite
    def test_the_configured_host_label_identifies_the_host(self, engine):
        """Many alerts name the same exporter as their instance, but concern different hosts."""
        exporter = {"instance": "kube-state-metrics:8080"}
        config = Config(host_label="node", cooldown_seconds=0)
        nodes = ("worker-1", "worker-2", "WORKER-1.", "")
        for i, node in enumerate(nodes):
            node_alert = alert(labels={**exporter, "node": node, "id": str(i)})
            request_id = record(engine, node_alert, config=config)
            result = self.claim(
                engine, (request_id, read_rows(engine)[-1].episode), f"e{i}", later(i)
            )
            assert result["claimed"] is (i != 2), node

    @on_sqlite
    def test_the_cooldown_lasts_half_an_hour_by_default(self, admit, run_action):
        first, second = (admit("web1:9100", fingerprint=name) for name in ("one", "two"))
        for admitted_alert, seconds, claimed in (
            (first, 0, True),
            (second, 17, False),
            (second, 1799, False),
            (second, 1800, True),
        ):
            parameters = {"workflow": WORKFLOW, "execution_id": f"e{seconds}"}
            parameters.update(zip(("request_id", "episode"), admitted_alert))
            with database_time(later(seconds)):
                result = run_action("link", f"task {seconds}", **parameters)
            assert result["claimed"] is claimed, seconds

    @on_sqlite
    def test_a_cooldown_ends(self, engine, admit):
        self.claim(engine, admit("web1:9100", fingerprint="one"), "e1")
        second_alert = admit("web1:9100", fingerprint="two")
        assert not self.claim(engine, second_alert, "e2", later(599))["claimed"]
        assert self.claim(engine, second_alert, "e2", later(600))["claimed"]

    @on_mariadb
    def test_the_cooldown_uses_the_databases_clock(self, engine, admit, monkeypatch):
        """Another runner's clock is hours ahead."""
        now = datetime.datetime.now(UTC)
        first = admit("web1:9100", now, fingerprint="one")
        second = admit("web1:9100", now, fingerprint="two")
        assert link(engine, first, "e1", host_cooldown=600)["claimed"]
        ahead = now + datetime.timedelta(hours=3)
        monkeypatch.setattr(clock, "local_now", lambda: ahead)
        assert not link(engine, second, "e2", host_cooldown=600)["claimed"]

    @on_sqlite
    def test_the_same_execution_gets_its_claim_again(self, engine, admit):
        admitted_alert = admit("web1:9100")
        assert [self.claim(engine, admitted_alert, "e1")["claimed"] for _ in range(2)] == [
            True,
            True,
        ]

    @on_sqlite
    def test_a_released_claim_causes_no_cooldown(self, engine, admit):
        admitted_alert = admit("web1:9100")
        self.claim(engine, admitted_alert, "e1")
        release_claims(engine, admitted_alert[1], force=True)
        assert self.claim(engine, admitted_alert, "e2")["claimed"]

    @pytest.mark.parametrize(
        "status, mutated, starts_cooldown",
        [
            ("succeeded", False, False),
            ("succeeded", True, True),
            ("succeeded", None, True),
            ("running", None, True),
            # The output of a workflow that was cut short may lack the change that it made.
            ("failed", False, True),
            ("canceled", False, True),
        ],
    )
    def test_an_execution_that_changed_nothing_causes_no_cooldown(
        self, engine, admit, status, mutated, starts_cooldown
    ):
        self.claim(engine, admit("web1:9100", fingerprint="one"), "e1")
        execute(engine, update(executions).values(status=status, mutated=mutated))
        second_alert = admit("web1:9100", fingerprint="two")
        assert self.claim(engine, second_alert, "e2", later(30))["claimed"] is not starts_cooldown

    @on_sqlite
    def test_the_cooldown_does_not_apply_to_an_execution_without_a_change(self, engine, admit):
        first, second = (admit("web1:9100", fingerprint=name) for name in ("one", "two"))
        assert self.claim(engine, first, "check-1", may_change=False)["claimed"]
        assert self.claim(engine, second, "change")["claimed"]
        assert not self.claim(engine, first, "waiting")["claimed"]
        assert self.claim(engine, first, "check-2", may_change=False)["claimed"]

    def test_one_of_several_concurrent_executions_gets_a_claim(self, engine, admit):
        admitted_alerts = [admit(f"web1:{9100 + i}", fingerprint=str(i)) for i in range(4)]
        with database_time(NOON):
            results = in_parallel(
                4, lambda i: link(engine, admitted_alerts[i], f"e{i}", host_cooldown=600)
            )
        assert sorted(result["claimed"] for result in results) == [False, False, False, True]
