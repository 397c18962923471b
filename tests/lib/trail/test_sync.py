"""What became of what was emitted, as StackStorm's API tells it over HTTP."""

import datetime
import http.server
import json
import threading
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import event, select, update

from poundcake import stackstorm
from poundcake.config import Config
from poundcake.stackstorm import StackStorm, StackStormError
from poundcake.trail import claims, database, sync
from poundcake.trail.record import record_requests
from poundcake.trail.replay import replay_request
from poundcake.trail.schema import alerts, api_calls, executions, links
from tests.lib.samples import UTC, alert, iso, request

NOW = datetime.datetime.now(UTC)
LINKING = "tasks:\n  link:\n    action: poundcake.link\n"


def ago(seconds):
    return datetime.datetime.now(UTC) - datetime.timedelta(seconds=seconds)


class API:
    """StackStorm's API as far as the pack asks it, and what it was asked."""

    def __init__(self):
        self.instances, self.enforcements = [], {}
        self.executions, self.texts = {}, {}
        self.asked = []
        self.status = 200
        self.page = 100
        self.hidden = set()  # executions that the list leaves out
        self.things = {}
        self.refused = set()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                url = urllib.parse.urlsplit(self.path)
                query = {k: v[0] for k, v in urllib.parse.parse_qs(url.query).items()}
                outer.asked.append((url.path, query, dict(self.headers)))
                status, found = outer.answer(url.path, query)
                text = found if isinstance(found, str) else json.dumps(found)
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def answer(self, path, query):
        if self.status != 200:
            return self.status, {"faultstring": "the fault"}
        if path in self.refused:
            return 500, {"faultstring": "the fault"}
        parts = path.split("/")[2:]
        if path == "/v1/executions":
            ids = query["id"].split(",")
            return 200, [e for i, e in self.executions.items() if i in ids and i not in self.hidden]
        if parts[0] == "executions":
            found = self.executions.get(parts[1])
        elif path == "/v1/triggerinstances":
            start = int(query.get("offset", 0))
            return (
                200,
                [i for i in self.instances if i["occurrence_time"] > query["timestamp_gt"]][
                    start : start + self.page
                ],
            )
        elif path == "/v1/ruleenforcements":
            return 200, self.enforcements.get(query["trigger_instance"], [])
        elif path.startswith("/v1/actions/views/entry_point/"):
            found = self.texts.get(parts[-1])
        else:
            found = self.things.get(path)
        return (200, found) if found is not None else (404, {"faultstring": "not found"})

    def emitted(self, row, request_id, status="processed", seconds=1, **more):
        """A trigger instance for an alert; its id."""
        instance = {
            "id": f"t{len(self.instances)}",
            "status": status,
            "occurrence_time": iso(ago(seconds)),
            "payload": {"request_id": request_id, "episode": row.episode, "status": row.status},
        }
        instance.update(more)
        self.instances.insert(0, instance)
        return instance["id"]

    def enforced(self, instance, execution=None, reason=None, rule="pack.rule"):
        found = {"rule": {"ref": rule}, "trigger_instance_id": instance}
        if execution:
            found["execution_id"] = execution
        if reason:
            found["failure_reason"] = reason
        self.enforcements.setdefault(instance, []).append(found)

    def ran(self, execution, status="succeeded", action="pack.workflow", seconds=1, **more):
        found = {
            "id": execution,
            "status": status,
            "action": {"ref": action},
            "rule": {"ref": "pack.rule"},
            "start_timestamp": iso(ago(seconds)),
            "result": {},
        }
        if status in stackstorm.TERMINAL:
            found["end_timestamp"] = iso(ago(0))
        found.update(more)
        self.executions[execution] = found


@pytest.fixture
def api():
    found = API()
    yield found
    found.server.shutdown()
    found.server.server_close()


@pytest.fixture
def client(api, monkeypatch):
    monkeypatch.delenv("ST2_API_KEY", raising=False)
    monkeypatch.delenv("ST2_AUTH_TOKEN", raising=False)
    return stackstorm.in_action(Config(st2_api_url=api.url, st2_api_key="the-key"))


class House:
    def __init__(self, engine, api, client):
        self.engine, self.api, self.client = engine, api, client

    def record(self, *found, seconds=5, **more):
        """Records a request; its id and the rows of its alerts."""
        sent = request(*found, received_at=ago(seconds), **more)
        record_requests(self.engine, Config(max_remediations_per_hour=0), [sent])
        with database.reading(self.engine) as connection:
            call = connection.scalar(
                select(api_calls.c.id).where(api_calls.c.request_id == sent.request_id)
            )
        with database.transaction(self.engine) as connection:
            connection.execute(
                update(alerts).where(alerts.c.api_call_id == call).values(recorded_at=ago(seconds))
            )
        with database.reading(self.engine) as connection:
            found = connection.execute(
                select(alerts).where(alerts.c.api_call_id == call).order_by(alerts.c.position)
            ).all()
        return sent.request_id, found

    def sync(self, **config):
        return sync.sync(self.engine, Config(**config), self.client)

    def rows(self, table):
        with database.reading(self.engine) as connection:
            return connection.execute(select(table).order_by(table.c.id)).all()

    def one(self, table=alerts):
        (found,) = self.rows(table)
        return found

    @property
    def completed(self):
        return [bool(row.completed_at) for row in self.rows(api_calls)]


@pytest.fixture
def house(engine, api, client):
    return House(engine, api, client)


class TestFates:
    def test_no_rule_matched(self, house):
        request_id, (row,) = house.record(alert())
        house.api.emitted(row, request_id)
        assert house.sync()["explained"] == 1
        assert (house.one().explanation, house.one().explanation_reason) == (
            "no_rule",
            "no rule matched",
        )
        assert house.completed == [True]

    def test_a_rule_could_not_start_its_action(self, house):
        request_id, (row,) = house.record(alert())
        instance = house.api.emitted(row, request_id)
        house.api.enforced(instance, reason="Action pack.gone not found")
        house.sync()
        found = house.one()
        assert (found.explanation, found.st2_rule_matched) == ("failed", "pack.rule")
        assert "Action pack.gone not found" in found.explanation_reason
        assert house.completed == [True]

    def test_a_claimed_execution(self, house):
        request_id, (row,) = house.record(alert())
        instance = house.api.emitted(row, request_id)
        house.api.enforced(instance, execution="e1")
        house.api.ran("e1", "running", action="pack.workflow")
        claims.link(house.engine, request_id, row.episode, "pack.workflow", "e1")
        house.sync()
        assert house.one().explanation == "execution"
        assert house.one(links).st2_rule_ref == "pack.rule"
        assert house.one(executions).status == "running"
        assert house.completed == [False]
        house.api.ran(
            "e1",
            result={"output": {"dry_run": True, "mutated": False, "stage": "s", "message": "m"}},
        )
        house.sync()
        found = house.one(executions)
        assert (found.status, found.stage, found.message) == ("succeeded", "s", "m")
        assert (found.dry_run, found.mutated, found.verified) == (True, False, None)
        assert found.end_timestamp and found.rule == "pack.rule"
        assert house.completed == [True]

    def test_what_has_no_link_task_is_linked_while_it_runs(self, house):
        request_id, (row,) = house.record(alert())
        instance = house.api.emitted(row, request_id)
        house.api.enforced(instance, execution="e1")
        house.api.ran("e1", "running")
        house.sync()
        assert house.one(links).claim is None and house.one(executions).status == "running"
        assert house.one().explanation == "execution" and house.completed == [False]
        house.api.ran("e1", "failed", result={"stderr": "it broke"})
        for _ in range(2):
            house.sync()
        link = house.one(links)
        assert (link.st2_execution_id, link.claim, link.request_id) == ("e1", None, request_id)
        assert (link.st2_action_ref, link.st2_rule_ref) == ("pack.workflow", "pack.rule")
        assert house.one().explanation == "execution"
        assert (house.one(executions).status, house.one(executions).error) == (
            "failed",
            "it broke",
        )
        assert house.completed == [True]

    def test_what_links_itself_is_left_to_do_so_for_a_minute(self, house):
        request_id, (row,) = house.record(alert())
        house.api.texts["pack.workflow"] = LINKING
        house.api.enforced(house.api.emitted(row, request_id), execution="e1")
        house.api.ran("e1", "running", seconds=50)
        house.sync()
        assert house.rows(links) == [] and house.one().explanation is None
        assert (
            "pack.workflow was started (e1) and has not linked itself"
            in house.one().explanation_reason
        )
        house.api.ran("e1", "running", seconds=61)
        house.sync()
        assert house.one(links).claim is None
        assert house.one().explanation is None and house.completed == [False]

    def test_one_that_did_not_get_the_claim_has_no_link(self, house):
        request_id, (row,) = house.record(alert())
        house.api.texts["pack.workflow"] = LINKING
        house.api.enforced(house.api.emitted(row, request_id), execution="e2")
        house.api.ran("e2", result={"output": {"stage": "not_claimed"}})
        house.sync()
        assert house.one().explanation == "execution"
        assert house.rows(links) == []
        assert house.completed == [True]

    def test_one_that_was_refused_says_why_where_nobody_has_the_claim(self, house):
        first, (row,) = house.record(alert())
        house.api.texts["pack.workflow"] = LINKING
        refused = {"output": {"stage": "not_claimed", "message": "cooldown of this host"}}
        house.api.enforced(house.api.emitted(row, first), execution="e1")
        house.api.ran("e1", result=refused)
        house.sync()
        found = house.one()
        assert found.explanation == "execution"
        assert found.explanation_reason == "pack.workflow did nothing: cooldown of this host"
        assert house.completed == [True]

    def test_one_whose_episode_was_worked_on_before_says_so(self, house):
        """Alertmanager resolved what it heard nothing of, and fires it again with its old start."""
        start = ago(3000)
        first, (row,) = house.record(alert(starts_at=start), seconds=3000)
        house.api.texts["pack.workflow"] = LINKING
        claims.link(house.engine, first, row.episode, "pack.workflow", "e1")
        house.record(alert(status="resolved", starts_at=start, ends_at=ago(2000)), seconds=2000)
        second, (row,) = house.record(alert(starts_at=start), seconds=60)
        assert row.outcome == "admitted"
        refused = claims.link(house.engine, second, row.episode, "pack.workflow", "e2")
        assert not refused["claimed"] and "execution e1" in refused["reason"]
        told = {"output": {"stage": "not_claimed", "message": refused["reason"]}}
        house.api.enforced(house.api.emitted(row, second), execution="e2")
        house.api.ran("e2", result=told)
        house.sync()
        found = house.rows(alerts)[-1]
        assert found.explanation == "execution"
        assert found.explanation_reason == "pack.workflow did nothing: " + refused["reason"]

    def cooled(self, house, **more):
        """Two alerts of one host: the workflow worked on the first, and was refused the second."""
        house.api.texts["pack.workflow"] = LINKING
        host = {"instance": "web-1:9100"}
        first, (one,) = house.record(alert("One", labels=host))
        claims.link(house.engine, first, one.episode, "pack.workflow", "e1", 600)
        with database.transaction(house.engine) as connection:
            connection.execute(update(alerts).values(explanation="execution"))
        second, (two,) = house.record(alert("Two", labels=host), **more)
        refused = claims.link(house.engine, second, two.episode, "pack.workflow", "e2", 600)
        told = {"output": {"stage": "not_claimed", "message": refused["reason"]}}
        house.api.enforced(house.api.emitted(two, second), execution="e2")
        house.api.ran("e2", result=told)
        return second, two, refused["reason"]

    def later_on(self, house, seconds):
        """So many seconds after the claim."""
        with database.transaction(house.engine) as connection:
            connection.execute(update(links).values(created_at=ago(seconds)))

    def test_after_the_cooldown_of_its_host_an_alert_is_tried_again(self, house):
        request_id, row, reason = self.cooled(house)
        assert reason.startswith("cooldown of this host until")
        for seconds, explanation in ((0, None), (590, None), (610, "retry")):
            self.later_on(house, seconds)
            house.sync(host_cooldown_seconds=600)
            found = house.rows(alerts)[-1]
            assert found.explanation == explanation
            assert found.explanation_reason == "pack.workflow did nothing: " + reason
            assert house.completed[-1] is False
        house.api.enforced(house.api.emitted(row, request_id), execution="e3")
        house.api.ran("e3", "running")
        assert claims.link(house.engine, request_id, row.episode, "pack.workflow", "e3", 600)[
            "claimed"
        ]
        house.sync(host_cooldown_seconds=600)
        found = house.rows(alerts)[-1]
        assert (found.explanation, found.explanation_reason) == ("execution", "")

    def test_a_cooldown_that_outlasts_the_alert_is_its_end(self, house):
        _, _, reason = self.cooled(house)
        house.record(alert("Two", "resolved", ends_at=ago(1)), seconds=0)
        self.later_on(house, 610)
        house.sync(host_cooldown_seconds=600)
        found = house.rows(alerts)[1]
        assert (found.explanation, found.explanation_reason) == (
            "execution",
            "pack.workflow did nothing: " + reason,
        )

    def test_a_cooldown_that_outlasts_the_time_to_give_up_is_the_end(self, house):
        self.cooled(house, seconds=3000)
        house.sync(host_cooldown_seconds=1000, give_up_hours=1)
        assert house.rows(alerts)[-1].explanation == "execution"

    @pytest.mark.parametrize(
        "status, explanation", [("succeeded", "execution"), ("failed", "execution")]
    )
    def test_what_is_claimed_for_another_action_is_its_own(self, house, status, explanation):
        """poundcake.remediate claims under the name of the action that it is given."""
        request_id, (row,) = house.record(alert())
        house.api.texts["poundcake.remediate"] = LINKING
        claims.link(house.engine, request_id, row.episode, "pack.clean", "e1")
        wanted = {"action": "poundcake.remediate", "parameters": {"action": "pack.clean"}}
        told = {"output": {"stage": "not_claimed", "message": "execution e1 has this episode"}}
        house.api.ran("e1", **wanted)
        house.api.ran("e2", status, result=told if status == "succeeded" else {}, **wanted)
        house.api.enforced(house.api.emitted(row, request_id), execution="e2")
        house.sync()
        found = house.one()
        assert (found.explanation, found.explanation_reason) == (explanation, "")

    @pytest.mark.parametrize("minutes, explanation", [(9, "retry"), (11, "ended")])
    def test_what_ended_is_not_tried_again_for_long(self, house, minutes, explanation):
        house.record(alert(), seconds=3 * 3600)
        house.record(alert(status="resolved", ends_at=ago(60 * minutes)), seconds=60 * minutes)
        house.sync()
        found = house.rows(alerts)[0]
        assert found.explanation == explanation
        assert ("the incident ended at 20" in found.explanation_reason) is (explanation == "ended")

    def test_what_was_given_up_and_is_claimed_after_all_is_not_lost(self, house):
        request_id, (row,) = house.record(alert(), seconds=25 * 3600)
        house.sync()
        assert house.one().explanation == "lost" and house.completed == [True]
        claims.link(house.engine, request_id, row.episode, "pack.workflow", "e1")
        assert house.one().explanation is None and house.completed == [False]
        house.api.enforced(house.api.emitted(row, request_id), execution="e1")
        house.api.ran("e1")
        house.sync()
        found = house.one()
        assert (found.explanation, found.explanation_reason) == ("execution", "")
        assert house.completed == [True]

    @pytest.mark.parametrize("status", ["failed", "timeout", "abandoned", "canceled"])
    def test_one_that_ended_before_its_claim_is_tried_again(self, house, status):
        request_id, (row,) = house.record(alert())
        house.api.texts["pack.workflow"] = LINKING
        house.api.enforced(house.api.emitted(row, request_id), execution="e1")
        house.api.ran("e1", status, result={"errors": [{"message": "no database"}]})
        house.sync()
        assert house.one().explanation == "retry"
        assert (
            status in house.one().explanation_reason
            and "no database" in house.one().explanation_reason
        )
        assert house.completed == [False]
        # The next one gets it.
        house.api.enforced(house.api.emitted(row, request_id), execution="e2")
        house.api.ran("e2", "running")
        claims.link(house.engine, request_id, row.episode, "pack.workflow", "e2")
        house.sync()
        assert house.one().explanation == "execution"

    @pytest.mark.parametrize("seconds, explanation", [(590, None), (610, "retry")])
    def test_one_that_runs_and_never_claims_is_tried_again(self, house, seconds, explanation):
        request_id, (row,) = house.record(alert(), seconds=900)
        house.api.texts["pack.workflow"] = LINKING
        house.api.enforced(house.api.emitted(row, request_id), execution="e1")
        house.api.ran("e1", "running", seconds=seconds)
        house.sync()
        assert house.one().explanation == explanation
        assert "e1" in house.one().explanation_reason or explanation is None

    def test_released_it_is_not_tried_again_by_itself(self, house):
        request_id, (row,) = house.record(alert())
        house.api.texts["pack.workflow"] = LINKING
        house.api.enforced(house.api.emitted(row, request_id), execution="e1")
        house.api.ran("e1", "failed")
        claims.link(house.engine, request_id, row.episode, "pack.workflow", "e1")
        claims.release(house.engine, row.episode, force=True)
        house.sync()
        assert house.one().explanation == "execution"

    def test_a_further_attempt_is_not_explained_by_the_claim_on_the_first(self, house):
        first, (row,) = house.record(alert())
        house.api.texts["pack.workflow"] = LINKING
        claims.link(house.engine, first, row.episode, "pack.workflow", "e1")
        house.api.ran("e1")
        again = replay_request(house.engine, Config(), first, force=True)["request_id"]
        house.api.enforced(house.api.emitted(row, again), execution="e2")
        house.api.ran("e2", "failed", result={"errors": [{"message": "no database"}]})
        house.sync()
        assert house.rows(alerts)[1].explanation == "retry"
        # The other way about it does: what took the episode over is at work for both.
        claims.link(house.engine, again, row.episode, "pack.workflow", "e3")
        house.api.enforced(house.api.emitted(row, again), execution="e3")
        house.api.ran("e3", "running")
        house.sync()
        assert house.rows(alerts)[1].explanation == "execution"

    @pytest.mark.parametrize("seconds, explanation", [(5, None), (90, "retry")])
    def test_a_trigger_that_never_arrived(self, house, seconds, explanation):
        house.record(alert(), seconds=seconds)
        found = house.sync()
        assert (found["explained"], found["unexplained"]) == (0, 1)
        assert house.one().explanation == explanation
        assert house.completed == [False]

    @pytest.mark.parametrize(
        "status, seconds, explanation",
        [
            ("pending", 5, None),
            ("processing", 5, None),
            ("processing_failed", 5, "retry"),
            ("pending", 400, "retry"),
            ("processing", 400, "retry"),
        ],
    )
    def test_a_trigger_that_the_rules_engine_has(self, house, status, seconds, explanation):
        request_id, (row,) = house.record(alert(), seconds=seconds + 1)
        house.api.emitted(row, request_id, status, seconds)
        house.sync()
        assert house.one().explanation == explanation
        assert explanation is None or status in house.one().explanation_reason

    def test_given_up_it_says_that_stackstorm_lost_it(self, house):
        house.record(alert(), seconds=3700)
        house.sync(give_up_hours=1)
        assert house.one().explanation == "lost"
        assert "StackStorm lost it" in house.one().explanation_reason
        assert house.completed == [True]

    def test_emitted_twice_it_is_explained_by_either(self, house):
        request_id, (row,) = house.record(alert())
        house.api.emitted(row, request_id, "processing_failed", 5)
        house.api.emitted(row, request_id, "processed", 1)
        house.sync()
        assert house.one().explanation == "no_rule"

    def test_two_rules_one_of_which_failed(self, house):
        request_id, (row,) = house.record(alert())
        instance = house.api.emitted(row, request_id)
        house.api.enforced(instance, reason="no such action", rule="pack.broken")
        house.api.enforced(instance, execution="e1", rule="pack.rule")
        house.api.ran("e1")
        house.sync()
        found = house.one()
        assert found.explanation == "execution"
        assert (
            "pack.broken" in found.explanation_reason
            and "no such action" in found.explanation_reason
        )
        assert found.st2_rule_matched == "pack.broken, pack.rule"

    def test_an_execution_that_was_collected_already(self, house):
        request_id, (row,) = house.record(alert())
        house.api.enforced(house.api.emitted(row, request_id), execution="e1")
        house.sync()
        assert house.one().explanation == "execution"

    def test_another_requests_trigger_explains_nothing(self, house):
        _, (row,) = house.record(alert())
        house.api.emitted(row, "another-request")
        house.sync()
        assert house.one().explanation is None

    def test_of_two_alerts_each_has_its_own(self, house):
        request_id, (first, second) = house.record(alert("A"), alert("B"))
        house.api.emitted(first, request_id)
        house.sync()
        assert [row.explanation for row in house.rows(alerts)] == ["no_rule", None]
        assert house.completed == [False]

    def test_the_firing_one_is_told_from_its_resolve(self, house):
        ends = alert(status="resolved", ends_at=ago(0))
        request_id, (first, second) = house.record(alert(), ends)
        assert first.episode == second.episode
        house.api.emitted(second, request_id)
        house.sync()
        assert [row.explanation for row in house.rows(alerts)] == [None, "no_rule"]

    def test_what_was_not_emitted_is_left_alone(self, house):
        house.record(alert())
        with database.transaction(house.engine) as connection:
            connection.execute(update(alerts).values(explanation="execution"))
        house.record(alert())
        assert house.sync()["unexplained"] == 0
        assert [row.explanation for row in house.rows(alerts)] == ["execution", "none"]

    def test_many_pages_of_triggers(self, house):
        request_id, (row,) = house.record(alert())
        house.api.emitted(row, request_id)
        for _ in range(250):
            house.api.emitted(row, "another-request")
        house.sync()
        assert house.one().explanation == "no_rule"
        pages = [q for path, q, _ in house.api.asked if path == "/v1/triggerinstances"]
        assert [q.get("offset", "0") for q in pages] == ["0", "100", "200"]

    def test_those_that_wait_long_do_not_hold_up_the_others(self, house, monkeypatch):
        monkeypatch.setattr(sync, "_ALERTS_AT_ONCE", 3)
        house.record(*(alert(f"Lost{n}") for n in range(4)), seconds=3000)
        request_id, (row,) = house.record(alert("Later"))
        house.api.emitted(row, request_id)
        for _ in range(3):
            house.sync()
        assert house.rows(alerts)[-1].explanation == "no_rule"


class TestExecutions:
    @pytest.fixture
    def linked(self, house):
        request_id, (row,) = house.record(alert())
        house.api.enforced(house.api.emitted(row, request_id), execution="e1")
        claims.link(house.engine, request_id, row.episode, "pack.workflow", "e1")
        return house

    @pytest.mark.parametrize(
        "status",
        [
            "requested",
            "scheduled",
            "delayed",
            "running",
            "canceling",
            "pending",
            "pausing",
            "paused",
            "resuming",
        ],
    )
    def test_one_that_is_open(self, linked, status):
        linked.api.ran("e1", status)
        assert linked.sync()["executions"] == 1
        assert linked.one(executions).status == status
        assert linked.completed == [False]
        with database.reading(linked.engine) as connection:
            count, moving = sync.still_open(connection)
        assert (count, moving) == (1, status not in ("pending", "paused", "pausing"))

    @pytest.mark.parametrize("status", ["succeeded", "failed", "timeout", "abandoned", "canceled"])
    def test_one_that_ended_stays_as_it_ended(self, linked, status):
        linked.api.ran("e1", status)
        linked.sync()
        before = linked.one(executions)
        assert before.status == status
        linked.api.ran("e1", "running")
        linked.sync()
        with database.transaction(linked.engine) as connection:
            sync.write_execution(connection, linked.api.executions["e1"])
        assert linked.one(executions) == before
        assert linked.completed == [True]

    def test_one_that_stackstorm_no_longer_has(self, linked):
        linked.sync()
        found = linked.one(executions)
        assert found.status == "gone" and "no longer" in found.error
        assert len(linked.rows(links)) == 1
        assert linked.completed == [True]
        asked = len(linked.api.asked)
        linked.sync()
        assert len(linked.api.asked) == asked

    def test_one_that_a_short_list_lacks_is_not_gone(self, linked):
        linked.api.ran("e1", "running")
        linked.api.hidden.add("e1")
        linked.sync()
        assert linked.one(executions).status == "running"

    def test_hostile_results(self, linked):
        linked.api.ran(
            "e1",
            "failed",
            result={
                "output": {
                    "dry_run": "yes",
                    "stage": "\ud800" * 200,
                    "message": "{{x}}" * 5000,
                    "mutated": 1,
                    "verified": None,
                },
                "errors": [{"message": "\udfff<% x %>"}],
            },
        )
        linked.sync()
        found = linked.one(executions)
        assert found.status == "failed"
        assert (found.dry_run, found.mutated, found.verified) == (None, None, None)
        assert found.message.startswith("{{x}}")

    @pytest.mark.parametrize(
        "result", [None, "text", [], 5, {"output": None}, {"output": "x"}, {"errors": [None]}]
    )
    def test_odd_results(self, linked, result):
        linked.api.ran("e1", "failed", result=result)
        linked.sync()
        assert linked.one(executions).status == "failed"


class TestTrouble:
    def test_the_api_away_changes_nothing(self, house):
        house.record(alert(), seconds=90)
        house.api.status = 500
        with pytest.raises(StackStormError, match="500"):
            house.sync()
        assert house.one().explanation is None
        with database.reading(house.engine) as connection:
            assert sync.last_synced(connection) is None

    def test_a_round_is_noted(self, house):
        for _ in range(2):
            house.sync()
            with database.reading(house.engine) as connection:
                assert abs((sync.last_synced(connection) - NOW).total_seconds()) < 3600

    def test_nothing_open_asks_nothing(self, house):
        assert house.sync() == {"executions": 0, "explained": 0, "unexplained": 0, "completed": 0}
        assert house.api.asked == []


class TestClient:
    def test_the_key_is_sent_and_not_shown(self, api, client):
        client.get("/executions/x")
        ((_, _, headers),) = api.asked
        assert headers["St2-Api-Key"] == "the-key"
        api.status = 403
        with pytest.raises(StackStormError) as caught:
            client.get("/executions/x")
        assert caught.value.status == 403
        assert "the fault" in str(caught.value) and "the-key" not in str(caught.value)

    def test_404_is_none(self, client):
        assert client.execution("nothing") is None

    def test_401_is_tried_once_with_a_new_token(self, api):
        from st2client.client import Client

        asked = []

        def connect(fresh):
            asked.append(fresh)
            return Client(api_url=api.url, token="t")

        api.status = 401
        with pytest.raises(StackStormError) as caught:
            StackStorm(connect).get("/x")
        assert (asked, caught.value.status) == ([False, True], 401)

    def test_nobody_there_is_said_in_a_line(self):
        from tests import services

        url = f"http://127.0.0.1:{services.free_port()}/v1"
        lost = stackstorm.in_action(Config(st2_api_url=url, st2_api_key="the-key"))
        with pytest.raises(StackStormError) as caught:
            lost.execution("x")
        assert caught.value.status == 0
        assert "\n" not in str(caught.value) and "the-key" not in str(caught.value)

    @pytest.mark.parametrize(
        "things, word",
        [
            ({}, "rule p.r is missing"),
            ({"/v1/rules/p.r": {"enabled": False}}, "st2 rule enable p.r"),
            ({"/v1/rules/p.r": {"enabled": True}}, "action p.a is missing"),
            (
                {"/v1/rules/p.r": {"enabled": True}, "/v1/actions/p.a": {"enabled": False}},
                "st2 action enable p.a",
            ),
            ({"/v1/rules/p.r": {"enabled": True}, "/v1/actions/p.a": {"enabled": True}}, ""),
        ],
    )
    def test_what_is_in_the_way(self, api, client, things, word):
        api.things = things
        found = client.problem_with("p.r", "p.a")
        assert word in found and bool(word) == bool(found)


class TestSeveral:
    """Several triggers for one alert, several rules on it."""

    def test_a_newer_execution_of_a_rule_replaces_one_that_failed(self, house):
        request_id, (row,) = house.record(alert())
        first = house.api.emitted(row, request_id, seconds=120)
        house.api.enforced(first, execution="e1")
        house.api.ran("e1", "failed", action="poundcake.remediate")
        house.api.texts["poundcake.remediate"] = LINKING
        house.sync()
        assert house.one().explanation == "retry"
        second = house.api.emitted(row, request_id)
        house.api.enforced(second, execution="e2")
        house.api.ran("e2", action="poundcake.remediate")
        # remediate claims under the name of the action that it wraps
        claims.link(house.engine, request_id, row.episode, "other.action", "e2")
        house.sync()
        assert house.one().explanation == "execution"
        assert house.completed == [True]

    def test_while_rules_are_still_evaluated_nothing_is_concluded(self, house):
        request_id, (row,) = house.record(alert())
        instance = house.api.emitted(row, request_id, status="processing")
        house.api.enforced(instance, execution="e1")
        house.api.ran("e1")
        house.sync()
        assert house.one().explanation is None
        house.api.instances[0]["status"] = "processed"
        house.api.enforced(instance, execution="e2", rule="pack.other")
        house.api.ran("e2")
        house.sync()
        assert house.one().explanation == "execution"
        assert {link.st2_execution_id for link in house.rows(links)} == {"e1", "e2"}

    def test_the_name_of_the_link_task_in_a_comment_is_no_link_task(self, house):
        request_id, (row,) = house.record(alert())
        instance = house.api.emitted(row, request_id)
        house.api.enforced(instance, execution="e1")
        house.api.ran("e1", "failed")
        house.api.texts["pack.workflow"] = "# no poundcake.link\ntasks: {a: {action: core.noop}}"
        house.sync()
        assert house.one().explanation == "execution"

    def test_the_time_to_give_up_begins_with_the_record(self, house):
        """After an outage of a day what waited in the journal is not given up at once."""
        house.record(alert())
        with database.transaction(house.engine) as connection:
            connection.execute(update(alerts).values(created_at=ago(25 * 3600)))
        house.sync()
        assert house.one().explanation is None

    def test_a_request_whose_record_ends_meanwhile_is_not_completed(self, house):
        """MariaDB lets an UPDATE see a row that its own subquery does not see the alerts of."""
        house.record(alert())
        held, go_on = threading.Event(), threading.Event()

        def hold(connection, cursor, statement, *rest):
            if statement.startswith("INSERT INTO poundcake_alerts"):
                held.set()
                assert go_on.wait(20)

        event.listen(house.engine, "after_cursor_execute", hold)
        with ThreadPoolExecutor(2) as pool:
            recording = pool.submit(house.record, alert(fingerprint="another"))
            assert held.wait(20)
            syncing = pool.submit(house.sync)
            time.sleep(0.5)  # for what it may wait for now
            go_on.set()
            recording.result()
            assert syncing.result()["completed"] == 0
        assert house.completed == [False, False]

    def test_one_round_at_a_time(self, house):
        request_id, (row,) = house.record(alert())
        house.api.emitted(row, request_id)
        assert sync._begin(house.engine)
        assert house.sync()["explained"] == 0
        assert house.one().explanation is None

    def test_what_stackstorm_refuses_for_one_alert_does_not_hold_up_the_others(self, house):
        found = [house.record(alert(f"One{n}")) for n in range(2)]
        for request_id, (row,) in found:
            instance = house.api.emitted(row, request_id)
            house.api.enforced(instance, execution="e-" + row.alert_name)
        house.api.ran("e-One1")
        house.api.refused = {"/v1/executions/e-One0"}
        house.sync()
        explanations = {row.alert_name: row.explanation for row in house.rows(alerts)}
        assert explanations == {"One0": None, "One1": "execution"}
