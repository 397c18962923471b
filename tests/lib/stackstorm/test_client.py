"""The client sends requests to StackStorm's API, and interprets the responses."""

from __future__ import annotations

import http.server
import json
import threading
import types
from datetime import datetime, timedelta, timezone

import pytest
from requests.exceptions import ConnectionError, ReadTimeout
from urllib3.exceptions import MaxRetryError, ProtocolError

from poundcake import stackstorm
from poundcake.config import Config
from poundcake.stackstorm import Execution, RuleEnforcement, StackStorm, StackStormError
from tests import services
from tests.lib.samples import NOON, iso, later

LINKING_WORKFLOW = "tasks:\n  link:\n    action: poundcake.link\n"


class FakeResponse:
    def __init__(self, status, body=None, **headers):
        self.status_code, self._body, self.text = status, body, str(body)
        self.headers = headers

    def json(self):
        if self._body is None or isinstance(self._body, str):
            raise ValueError
        return self._body


@pytest.fixture
def api():
    """Return a fake of the API.

    A test sets `responses`: a response or an exception for each request. The fake records in
    `requests` the path and the parameters of each request, and in `fresh`, for each connection,
    whether the client asked for a new token.
    """
    api = types.SimpleNamespace(responses=[], requests=[], fresh=[])

    def get(path, params, **options):
        api.requests.append((path, params))
        response = api.responses.pop(0)
        if isinstance(response, Exception):
            raise response
        return response

    def post(path, body, **options):
        return get(path, body, **options)

    def connect(fresh):
        api.fresh.append(fresh)
        executions = types.SimpleNamespace(client=types.SimpleNamespace(get=get, post=post))
        return types.SimpleNamespace(executions=executions, token="t", api_key=None)

    api.stackstorm = StackStorm(connect)
    return api


class TestRequesting:
    @pytest.mark.parametrize(
        "execution_id, path",
        [
            ("5f0c", "/executions/5f0c"),
            ("../keys", "/executions/..%2Fkeys"),
            ("x/re_run?a=b#c", "/executions/x%2Fre_run%3Fa%3Db%23c"),
            ("{{ x }}", "/executions/%7B%7B%20x%20%7D%7D"),
        ],
    )
    def test_an_id_cannot_change_the_path(self, api, execution_id, path):
        api.responses = [FakeResponse(404)]
        assert api.stackstorm.get_execution(execution_id) is None
        assert api.requests == [(path, {})]

    def test_an_expired_token_is_renewed_once(self, api):
        api.responses = [FakeResponse(401), FakeResponse(200, {"id": "e1"})]
        assert api.stackstorm.get_execution("e1") == Execution("e1")
        assert api.fresh == [False, True]
        api.responses = [FakeResponse(401, {"faultstring": "Unauthorized"})] * 2
        with pytest.raises(StackStormError, match="401") as caught:
            api.stackstorm.get_execution("e1")
        assert caught.value.status == 401 and caught.value.is_outage and not api.responses

    def test_an_error_has_one_line(self, api):
        api.responses = [FakeResponse(500, {"faultstring": "first line\nsecond line"})]
        with pytest.raises(StackStormError) as caught:
            api.stackstorm.get_execution("e1")
        assert str(caught.value) == "GET /executions/e1: 500 first line"
        assert not caught.value.is_outage

    @pytest.mark.parametrize("status", [502, 503, 504])
    def test_a_gateway_error_is_an_outage(self, api, status):
        api.responses = [FakeResponse(status)]
        with pytest.raises(StackStormError) as caught:
            api.stackstorm.get_execution("e1")
        assert caught.value.is_outage

    @pytest.mark.parametrize("in_body", [False, True])
    def test_a_timeout_is_distinguished_from_an_outage(self, api, in_body):
        read_timeout = (
            ConnectionError("HTTPConnectionPool: Read timed out.") if in_body else ReadTimeout()
        )
        api.responses = [read_timeout, ConnectionError("refused")]
        for timed_out in (True, False):
            with pytest.raises(StackStormError) as caught:
                api.stackstorm.get_execution("e1")
            assert (caught.value.timed_out, caught.value.is_outage) == (timed_out, not timed_out)


class TestClock:
    def test_the_clock_follows_the_last_response(self, api):
        api.responses = [FakeResponse(404, Date="Wed, 14 Jan 2026 12:00:00 GMT")]
        api.stackstorm.get_execution("e1")
        assert NOON <= api.stackstorm.now() < later(60)

    def test_the_time_is_requested_if_there_is_no_response_yet(self, api):
        api.responses = [FakeResponse(200, [], Date="Wed, 14 Jan 2026 12:00:00 GMT")]
        assert NOON <= api.stackstorm.now() < later(60)

    @pytest.mark.parametrize("headers", [{}, {"Date": "yesterday"}, {"Date": None}])
    def test_the_local_clock_is_used_without_a_date_header(self, api, headers):
        api.responses = [FakeResponse(200, [], **headers)]
        assert abs(api.stackstorm.now() - datetime.now(timezone.utc)) < timedelta(minutes=1)


class TestExecutions:
    def test_an_invalid_id_is_not_found(self, api):
        api.responses = [FakeResponse(400, {"faultstring": "Invalid ObjectId"})]
        assert api.stackstorm.get_execution("x") is None

    def test_an_invalid_id_does_not_hide_the_others(self, api):
        refusal = FakeResponse(400, {"faultstring": "Invalid"})
        api.responses = [refusal, FakeResponse(400), FakeResponse(200, {"id": "e2"})]
        assert api.stackstorm.get_executions(["x", "e2"]) == {"e2": Execution("e2")}

    def test_up_to_100_executions_are_read_in_one_request(self, api):
        ids = [f"e{n}" for n in range(150)]
        api.responses = [
            FakeResponse(200, [{"id": "e1"}, {"no": "id"}, 5]),
            FakeResponse(200, None),
        ]
        assert set(api.stackstorm.get_executions(ids)) == {"e1"}
        assert [len(params["id"].split(",")) for _, params in api.requests] == [100, 50]

    def test_children_are_listed_oldest_first(self, api):
        later_child, earlier_child = (
            {"id": i, "start_timestamp": iso(later(s))} for i, s in (("b", 9), ("a", 1))
        )
        api.responses = [FakeResponse(200, [later_child, earlier_child])]
        assert [child.id for child in api.stackstorm.get_children("e1")] == ["a", "b"]
        assert api.requests[0][1]["parent"] == "e1"


class TestReRun:
    def test_an_execution_is_started_again_with_its_parameters(self, api):
        api.responses = [FakeResponse(201, {"id": "e2"})]
        assert api.stackstorm.re_run("../e1") == "e2"
        assert api.requests == [("/executions/..%2Fe1/re_run", {})]

    @pytest.mark.parametrize("body", [None, "<html>", [], {}])
    def test_an_unreadable_response_means_that_the_execution_was_started(self, api, body):
        api.responses = [FakeResponse(201, body)]
        assert api.stackstorm.re_run("e1") == ""

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 409])
    def test_a_refused_request_has_no_effect_and_is_not_repeated(self, api, status):
        api.responses = [FakeResponse(status, {"faultstring": "the fault"})]
        with pytest.raises(StackStormError, match="POST /executions/e1/re_run") as caught:
            api.stackstorm.re_run("e1")
        assert caught.value.had_no_effect and len(api.requests) == 1

    @pytest.mark.parametrize(
        "response",
        [
            FakeResponse(500),
            FakeResponse(502),
            FakeResponse(503),
            FakeResponse(504),
            ReadTimeout(),
            ConnectionError("HTTPConnectionPool: Read timed out."),
            ConnectionError(ProtocolError("Connection aborted.", ConnectionResetError())),
            ConnectionError(MaxRetryError(None, "/", ProtocolError("Connection aborted."))),
            OSError("something else"),
        ],
    )
    def test_any_other_failure_may_have_had_an_effect(self, api, response):
        api.responses = [response]
        with pytest.raises(StackStormError) as caught:
            api.stackstorm.re_run("e1")
        assert not caught.value.had_no_effect and len(api.requests) == 1


def trigger_instance(n, **fields):
    return {
        "id": f"t{n}",
        "status": "processed",
        "occurrence_time": iso(later(n)),
        "payload": {"episode": "e"},
        **fields,
    }


class TestTriggers:
    def test_a_page_is_selected_by_time(self, api):
        api.responses = [FakeResponse(200, [trigger_instance(2), trigger_instance(1)])]
        page = api.stackstorm.list_triggers("poundcake.alert", NOON, later(3))
        assert [item.id for item in page.items] == ["t2", "t1"]
        assert (page.older, page.unreadable) == (None, 0)
        ((path, params),) = api.requests
        assert path == "/triggerinstances" and params == {
            "trigger": "poundcake.alert",
            "timestamp_gt": "2026-01-14T12:00:00Z",
            "timestamp_lt": "2026-01-14T12:00:03Z",
            "limit": 100,
        }

    def test_the_next_page_begins_at_the_oldest_time_of_a_full_page(self, api):
        """With an offset, the last pages of a long list timed out."""
        api.responses = [FakeResponse(200, [trigger_instance(200 - n) for n in range(100)])]
        page = api.stackstorm.list_triggers("poundcake.alert", NOON, None)
        assert page.older == later(101.001)
        assert "offset" not in api.requests[0][1]

    def test_a_full_page_of_equal_times_does_not_repeat_forever(self, api):
        api.responses = [FakeResponse(200, [trigger_instance(1)] * 100)] * 2
        first_page = api.stackstorm.list_triggers("poundcake.alert", NOON, None)
        second_page = api.stackstorm.list_triggers("poundcake.alert", NOON, first_page.older)
        assert second_page.older < first_page.older

    @pytest.mark.parametrize(
        "malformed_entry",
        [
            5,
            None,
            {},
            trigger_instance(1, id=None),
            trigger_instance(1, occurrence_time=None),
            trigger_instance(1, occurrence_time="yesterday"),
            trigger_instance(1, payload=["x"]),
            trigger_instance(1, payload=None),
        ],
    )
    def test_a_malformed_entry_is_skipped_and_counted(self, api, malformed_entry):
        api.responses = [FakeResponse(200, [trigger_instance(2), malformed_entry])]
        page = api.stackstorm.list_triggers("poundcake.alert", NOON, None)
        assert [item.id for item in page.items] == ["t2"] and page.unreadable == 1

    def test_triggers_are_selected_by_id(self, api):
        """An API that ignores the filter returns other triggers."""
        api.responses = [FakeResponse(200, [trigger_instance(1), trigger_instance(2), 5])]
        assert set(api.stackstorm.get_triggers(["t2", "t3"])) == {"t2"}
        assert api.requests[0][1]["id"] == "t2,t3"

    @pytest.mark.parametrize("response", [None, {}, "text"])
    def test_a_response_that_is_not_a_list_counts_as_empty(self, api, response):
        api.responses = [FakeResponse(200, response)] * 2
        assert api.stackstorm.list_triggers("poundcake.alert", NOON, None).items == []
        assert api.stackstorm.get_enforcements("t1") == []


class TestEnforcements:
    DOCUMENT = {
        "trigger_instance_id": "t1",
        "rule": {"ref": "pack.rule"},
        "execution_id": "e1",
        "enforced_at": iso(later(1)),
    }
    ENFORCEMENT = RuleEnforcement("t1", "pack.rule", "e1", "", later(1))

    def test_enforcements_are_listed_by_trigger(self, api):
        failed_enforcement = {
            "trigger_instance_id": "t1",
            "rule": None,
            "failure_reason": "no action",
        }
        api.responses = [FakeResponse(200, [self.DOCUMENT, failed_enforcement, {}])]
        assert api.stackstorm.get_enforcements("t1") == [
            self.ENFORCEMENT,
            RuleEnforcement("t1", "", failure_reason="no action"),
        ]
        assert api.requests[0][1]["trigger_instance"] == "t1"

    def test_enforcements_of_all_rules_are_listed_by_time(self, api):
        api.responses = [
            FakeResponse(200, [self.DOCUMENT] * 100),
            FakeResponse(200, [self.DOCUMENT, {}]),
        ]
        page = api.stackstorm.list_enforcements(NOON, None)
        assert page.older == later(1.000001) and len(page.items) == 100
        page = api.stackstorm.list_enforcements(NOON, page.older)
        assert (page.items, page.older, page.unreadable) == ([self.ENFORCEMENT], None, 1)
        assert api.requests[1][1]["enforced_at_lt"] == "2026-01-14T12:00:01.000001Z"


class TestContent:
    @pytest.mark.parametrize(
        "response, expected",
        [
            (LINKING_WORKFLOW, True),
            ("tasks: {begin: {action: poundcake.begin}}", True),
            ("# no poundcake.link\ntasks: {a: {action: core.noop}}", False),
            ("tasks: [", False),
            ("chain: []", False),
            (None, False),
        ],
    )
    def test_a_workflow_with_a_link_task_is_recognized(self, api, response, expected):
        api.responses = [FakeResponse(200 if response else 404, response)]
        assert api.stackstorm.runs_link_task("pack.flow") is expected
        assert api.requests == [("/actions/views/entry_point/pack.flow", {})]

    def test_an_action_without_an_entry_point_has_no_link_task(self, api):
        api.responses = [FakeResponse(500, {"faultstring": "no entry point"})]
        assert api.stackstorm.runs_link_task("core.noop") is False

    def test_an_outage_does_not_mean_that_there_is_no_link_task(self, api):
        api.responses = [FakeResponse(503)]
        with pytest.raises(StackStormError):
            api.stackstorm.runs_link_task("pack.flow")

    @pytest.mark.parametrize(
        "rule, action, expected_text",
        [
            (None, None, "rule p.r is missing"),
            ({"enabled": False}, None, "st2 rule enable p.r"),
            ({"enabled": True}, None, "action p.a is missing"),
            ({"enabled": True}, {"enabled": False}, "st2 action enable p.a"),
            ({"enabled": True}, {"enabled": True}, ""),
        ],
    )
    def test_a_rule_that_cannot_start_its_action_is_explained(
        self, api, rule, action, expected_text
    ):
        api.responses = [
            FakeResponse(200, document) if document else FakeResponse(404)
            for document in (rule, action)
        ]
        explanation = api.stackstorm.find_rule_problem("p.r", "p.a")
        assert expected_text in explanation and bool(expected_text) == bool(explanation)

    @pytest.mark.parametrize(
        "status, process",
        [
            ("requested", "st2scheduler"),
            ("scheduled", "st2actionrunner"),
            ("running", ""),
            (None, ""),
        ],
    )
    def test_the_process_that_does_not_start_an_execution_is_named(self, api, status, process):
        api.responses = [FakeResponse(200, [{"id": "e1", "status": status}] if status else [])]
        explanation = api.stackstorm.describe_stuck_execution("poundcake.record", NOON)
        expected_start = (
            f"execution e1 of poundcake.record is stuck in status {status}: "
            "run st2ctl restart-component"
        )
        assert explanation == (f"{expected_start} {process}" if process else "")
        assert api.requests[0][1]["timestamp_gt"] == "2026-01-14T11:55:00Z"

    def test_the_last_failure_is_read_from_the_failed_execution(self, api):
        api.responses = [
            FakeResponse(200, [{"id": "e1", "result": {"stderr": "no disk"}}]),
            FakeResponse(200, []),
        ]
        assert api.stackstorm.find_last_failure("poundcake.record", NOON) == "no disk"
        assert api.stackstorm.find_last_failure("poundcake.record", NOON) == ""


class TestOverHttp:
    """The client sends real requests, through st2client."""

    @pytest.fixture
    def server(self):
        requests = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                requests.append((self.path, json.loads(body)))
                if "silent" in self.path:
                    self.close_connection = True  # without a response
                    return
                self.send_response(201)
                self.end_headers()
                self.wfile.write(json.dumps({"id": "e2"}).encode())

            def do_GET(self):
                requests.append((self.path, dict(self.headers)))
                body = json.dumps({"faultstring": "the fault"}).encode()
                self.send_response(403 if "secret" in self.path else 404)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/v1"
        yield types.SimpleNamespace(url=url, requests=requests)
        server.shutdown()
        server.server_close()

    @pytest.fixture(autouse=True)
    def no_token(self, monkeypatch):
        monkeypatch.delenv("ST2_API_KEY", raising=False)
        monkeypatch.delenv("ST2_AUTH_TOKEN", raising=False)

    def test_the_key_is_sent_and_not_shown(self, server):
        client = stackstorm.client_for_action(Config(st2_api_url=server.url, st2_api_key="the-key"))
        assert client.get_execution("nothing") is None
        assert server.requests[0][1]["St2-Api-Key"] == "the-key"
        assert abs(client.now() - datetime.now(timezone.utc)) < timedelta(minutes=1)
        with pytest.raises(StackStormError) as caught:
            client.get_execution("secret")
        assert caught.value.status == 403
        assert "the fault" in str(caught.value) and "the-key" not in str(caught.value)

    def test_an_unreachable_api_is_an_outage_with_a_one_line_error(self):
        url = f"http://127.0.0.1:{services.free_port()}/v1"
        client = stackstorm.client_for_action(Config(st2_api_url=url, st2_api_key="the-key"))
        with pytest.raises(StackStormError) as caught:
            client.get_execution("x")
        assert caught.value.status == 0 and caught.value.is_outage and caught.value.had_no_effect
        assert "\n" not in str(caught.value) and "the-key" not in str(caught.value)

    def test_an_execution_is_started_again(self, server):
        client = stackstorm.client_for_action(Config(st2_api_url=server.url, st2_api_key="the-key"))
        assert client.re_run("e1") == "e2"
        assert server.requests == [("/v1/executions/e1/re_run", {})]

    def test_a_connection_that_is_lost_after_the_request_may_have_had_an_effect(self, server):
        client = stackstorm.client_for_action(Config(st2_api_url=server.url, st2_api_key="the-key"))
        with pytest.raises(StackStormError) as caught:
            client.re_run("silent")
        assert not caught.value.had_no_effect and server.requests
