"""The parsers of Prometheus's client library accept the metrics.

Each metric counts what docs/METRICS.md says, and no client can choose the value of a label.
"""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
import time

import pytest
from prometheus_client import REGISTRY, generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as prometheus

import poundcake
from poundcake.endpoint import metrics
from poundcake.endpoint.metrics import Metrics
from poundcake.trail.open_counts import OpenCounts
from tests import services
from tests.lib.endpoints import ENDPOINT_CLASSES, RUNTIMES
from tests.lib.pipelines import Rig
from tests.lib.samples import alert, later, webhook
from tests.waiting import wait_for

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
UNKNOWN_ID = "0b1e6f0a-5a1c-4c3e-9d5f-2f7a1c9e4b60"
UNCACHED_HEALTH = {
    "endpoint.metrics._HEALTH_REUSE_SECONDS": 0,
    "endpoint.metrics._HEALTH_REUSE_FACTOR": 0,
}
CODES = {
    *(
        "200",
        "202",
        "302",
        "304",
        "400",
        "401",
        "403",
        "404",
        "405",
        "411",
        "413",
        "414",
        "415",
        "431",
        "503",
    )
}


class Scrape:
    """The samples of one scrape."""

    def __init__(self, text, parse=prometheus):
        self.families = list(parse(text.decode()))
        self.samples = {}
        for family in self.families:
            for sample in family.samples:
                key = (sample.name, frozenset(sample.labels.items()))
                assert key not in self.samples, key
                self.samples[key] = sample.value

    def get(self, name, **labels):
        """Return the sum of the samples with this name and these labels."""
        return sum(
            value
            for (metric, sample_labels), value in self.samples.items()
            if metric == "poundcake_" + name and set(labels.items()) <= sample_labels
        )

    def has(self, name):
        return "poundcake_" + name in {metric for metric, _ in self.samples}

    def values(self, label):
        return {value for _, labels in self.samples for name, value in labels if name == label}


def scrape_endpoint(endpoint):
    response = endpoint.get("/metrics")
    assert response.status == 200, response
    return Scrape(response.body)


def get_increase(before, after, name, **labels):
    """Return the increase of a metric between two scrapes."""
    return after.get(name, **labels) - before.get(name, **labels)


def wait_for_scrape(endpoint, condition):
    """Return the first scrape for which the condition is true."""
    scrapes = []

    def check():
        scrapes[:] = [scrape_endpoint(endpoint)]
        return condition(scrapes[0])

    wait_for(check)
    return scrapes[0]


@pytest.fixture(scope="module", params=RUNTIMES)
def endpoint(request, tmp_path_factory):
    """Return a shared endpoint that computes its health for each scrape. Tests must not stop it."""
    new_endpoint = (
        ENDPOINT_CLASSES[request.param](tmp_path_factory.mktemp(request.param), UNCACHED_HEALTH)
        .start()
        .ready()
    )
    yield new_endpoint
    new_endpoint.stop()


@pytest.fixture(params=RUNTIMES)
def start_endpoint(request, tmp_path):
    """Return a function that starts an endpoint and waits until it is ready."""
    endpoints = []

    def factory(settings=None, runtime=request.param, journal=True, **config):
        new_endpoint = ENDPOINT_CLASSES[runtime](
            tmp_path, dict(UNCACHED_HEALTH, **(settings or {})), **config
        ).start()
        endpoints.append(new_endpoint)
        return new_endpoint.ready(journal)

    yield factory
    for new_endpoint in endpoints:
        new_endpoint.stop()


@pytest.fixture
def pipeline(tmp_path, database_path, monkeypatch):
    """Return a pipeline that runs in its own thread, with short waits."""
    monkeypatch.setattr("poundcake.endpoint.retry.RECORD_WAIT", 0.3)
    monkeypatch.setattr("poundcake.endpoint.emitter.RECHECK_WAIT", 0.05)
    monkeypatch.setattr("poundcake.endpoint.retry.EMIT_WAITS", (0.1, 0.1))
    rig = Rig(tmp_path, database_path)
    yield rig
    rig.close()


def parse_metrics(endpoint_metrics):
    """Return a scrape of metrics without an endpoint."""
    return Scrape(endpoint_metrics.render("")[0])


class TestFormat:
    def test_the_default_format_is_prometheus_text(self, endpoint):
        response = endpoint.get("/metrics")
        assert response.headers["content-type"].startswith("text/plain; version=")
        assert response.headers["cache-control"] == "no-store"
        scrape = Scrape(response.body)
        build_labels = [labels for name, labels in scrape.samples if name == "poundcake_build_info"]
        assert dict(build_labels[0])["version"] == poundcake.__version__
        assert all(name.startswith("poundcake_") for name, _ in scrape.samples)
        assert all(family.documentation for family in scrape.families)

    def test_openmetrics_is_sent_to_clients_that_accept_it(self, endpoint):
        response = endpoint.get("/metrics", Accept="application/openmetrics-text;version=1.0.0,*/*")
        assert response.headers["content-type"].startswith("application/openmetrics-text")
        assert Scrape(response.body, open_metrics).has("build_info")

    @pytest.mark.parametrize(
        "accept",
        [
            "",
            "*/*",
            "application/json",
            "text/plain;version=x",
            "application/openmetrics-text;version=x",
            "application/openmetrics-text;version=9.é",
            "application/openmetrics-text;version=" + "9" * 5000,
            "text/plain;version=" + "1." * 20000,
            "text/plain;version=1.0.0;escaping={{x}}",
            ";=,;=" * 1000,
        ],
    )
    def test_any_accept_header_is_answered(self, endpoint, accept):
        response = endpoint.get("/metrics", Accept=accept)
        assert response.status == 200
        content_type = response.headers["content-type"]
        assert Scrape(
            response.body, open_metrics if "openmetrics" in content_type else prometheus
        ).samples

    def test_promtool_accepts_the_names_of_the_metrics(self, endpoint):
        endpoint.accept(webhook(alert()))
        text = endpoint.get("/metrics").body
        try:
            promtool = services.program("promtool")
        except services.MissingProgram as error:
            pytest.skip(str(error))
        command = [promtool, "check", "metrics"]
        completed = subprocess.run(
            command, input=text, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        assert (completed.returncode, completed.stdout.decode()) == (0, "")

    def test_the_documentation_lists_every_metric(self, start_endpoint):
        endpoint = start_endpoint({"endpoint.retry.SYNC_WAITS": (0.1, 0.1)})
        endpoint.accept(webhook(alert()))
        scrape = wait_for_scrape(
            endpoint,
            lambda scrape: scrape.get("syncs_asked_total") and scrape.has("incidents_open"),
        )
        with open(os.path.join(ROOT, "docs", "METRICS.md"), encoding="utf-8") as file:
            documented = set(re.findall(r"^\| `(poundcake_\w+)", file.read(), re.MULTILINE))
        assert documented == {
            family.name + ("_total" if family.type == "counter" else "")
            for family in scrape.families
        }

    def test_each_endpoint_has_its_own_registry(self):
        used_metrics, other_metrics = (
            Metrics(lambda: {"components": {"journal": DOWN}}, lambda: (0, 0, 0)) for _ in range(2)
        )
        used_metrics.alerts_received.inc()
        assert parse_metrics(used_metrics).get("alerts_received_total") == 1
        assert parse_metrics(other_metrics).get("alerts_received_total") == 0
        assert b"poundcake" not in generate_latest(REGISTRY)

    def test_actions_do_not_import_prometheus_client(self):
        code = """if True:
            import glob, importlib, os, sys
            sys.path[:0] = [os.path.abspath(p) for p in ("actions", "lib")]
            sys.path.append(os.path.abspath("standalone/st2"))
            for path in glob.glob("actions/*.py"):
                importlib.import_module(os.path.basename(path)[:-3])
            assert "poundcake.trail.record" in sys.modules
            print("prometheus_client" in sys.modules)
        """
        completed = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, check=True
        )
        assert completed.stdout.decode().strip() == "False"


class TestRequests:
    def test_each_response_is_counted(self, start_endpoint):
        endpoint = start_endpoint(auth_tokens=["the-token-in-use"])
        token = {"Authorization": "Bearer the-token-in-use"}
        webhook_path, health_path = "/api/v1/webhook", "/api/v1/health"
        status_path = "/api/v1/status/"
        two_alerts = json.dumps(webhook(alert(), alert("B"))).encode()

        def scrape_with_token():
            return Scrape(endpoint.get("/metrics", **token).body)

        for code, method, route, path, body, headers in (
            (202, "POST", webhook_path, webhook_path, two_alerts, token),
            (400, "POST", webhook_path, webhook_path, b"{", token),
            (
                415,
                "POST",
                webhook_path,
                webhook_path,
                two_alerts,
                dict(token, Content_Type="text/plain"),
            ),
            (411, "POST", webhook_path, webhook_path, None, token),
            (401, "POST", webhook_path, webhook_path, two_alerts, {}),
            (401, "GET", "/metrics", "/metrics", None, {}),
            (405, "PUT", webhook_path, webhook_path, None, token),
            (404, "GET", status_path + "{request_id}", status_path + UNKNOWN_ID, None, token),
            (404, "GET", "other", "/x", None, token),
            (400, "POST", webhook_path, webhook_path, two_alerts, dict(token, Content_Length="x")),
            (400, "GET", "other", "x", None, token),
            (200, "HEAD", health_path, health_path, None, token),
        ):
            before = scrape_with_token()
            assert endpoint.request(method, path, body, **headers).status == code
            after = scrape_with_token()

            increase = functools.partial(get_increase, before, after)
            labels = {"route": route, "method": method, "code": str(code)}
            assert increase("http_requests_total", **labels) == 1, labels
            metrics_requests = 1 if route == "/metrics" else 0
            # The duration of an invalid request is not measured.
            is_timed = code != 400 or (headers is token and path == webhook_path)
            timed_requests = increase("http_request_duration_seconds_count", route=route)
            assert timed_requests == is_timed + metrics_requests
            assert increase("http_requests_total") == 2  # this request, and the scrape before it
            assert increase("failed_authentications_total") == (code == 401)
            assert increase("alerts_received_total") == (2 if code == 202 else 0)

    def test_open_and_evicted_connections_are_counted(self, start_endpoint):
        endpoint = start_endpoint(max_connections=4)
        evicted_before = scrape_endpoint(endpoint).get("connections_evicted_total")
        idle_clients = [endpoint.client() for _ in range(3)]
        wait_for_scrape(endpoint, lambda scrape: scrape.get("connections") == 4)
        idle_clients += [endpoint.client() for _ in range(2)]
        scrape = wait_for_scrape(
            endpoint, lambda scrape: scrape.get("connections_evicted_total") >= evicted_before + 2
        )
        assert scrape.get("connections") <= 4
        for client in idle_clients:
            client.socket.close()
        wait_for_scrape(endpoint, lambda scrape: scrape.get("connections") == 1)

    def test_response_times_are_measured_in_seconds(self, endpoint):
        before = scrape_endpoint(endpoint)
        endpoint.accept(webhook())
        after = scrape_endpoint(endpoint)
        name = "http_request_duration_seconds"
        seconds = [scrape.get(name + "_sum", route="/api/v1/webhook") for scrape in (before, after)]
        assert 0 < seconds[1] - seconds[0] < 10
        bounds = {
            float(dict(labels)["le"])
            for metric, labels in after.samples
            if metric == "poundcake_" + name + "_bucket"
        }
        assert (min(bounds), max(bounds - {float("inf")})) == (0.001, 10)

    def test_no_label_contains_text_from_a_client(self, endpoint):
        marker = f"marker{os.getpid()}"

        def send_everywhere(marker):
            paths = ["/", "/{}", "/api/v1/{}", "/api/v1/status/{}", "/metrics/{}", "/%00{}"]
            for path in paths:
                for method in ("GET", "POST", "HEAD", "DELETE", "BREW", marker, "get", "TRACE"):
                    body = b"{}" if method == "POST" else None
                    endpoint.request(method, path.format(marker), body, User_Agent=marker)
            endpoint.get('/api/v1/status/"%0A}}' + marker)
            endpoint.get("/api/v1/alerts/active?severity=" + marker)
            endpoint.get("/metrics?x=" + marker, Accept=marker, Authorization="Bearer " + marker)
            emitted_before = scrape_endpoint(endpoint).get("alerts_emitted_total")
            hostile_alert = alert(marker, labels={marker: marker}, fingerprint=marker)
            endpoint.accept(webhook(hostile_alert, receiver=marker))
            scrape = wait_for_scrape(
                endpoint, lambda scrape: scrape.get("alerts_emitted_total") > emitted_before
            )
            return {key for key in scrape.samples if key[0].startswith("poundcake_http")}

        series = send_everywhere(marker)
        text = endpoint.get("/metrics").body.decode()
        assert marker not in text and marker.upper() not in text
        scrape = Scrape(text.encode())
        assert scrape.values("method") <= set(metrics.METHODS) | {"other"}
        assert "other" in scrape.values("method")
        assert scrape.values("code") <= CODES
        assert scrape.values("route") <= {
            "/api/v1/webhook",
            "/api/v1/status/{request_id}",
            "/api/v1/executions/recent",
            "/api/v1/alerts/active",
            "/api/v1/st2/executions",
            "/api/v1/health",
            "/api/v1/health/live",
            "/api/v1/health/ready",
            "/metrics",
            "/",
            "other",
        }
        assert send_everywhere(marker + "again") == series


class TestPipelineMetrics:
    def test_requests_and_alerts_are_counted_until_they_are_emitted(self, start_endpoint):
        endpoint = start_endpoint({"endpoint.retry.SYNC_WAITS": (0.1, 0.1)})
        first_scrape = scrape_endpoint(endpoint)
        for outcome in metrics.OUTCOMES:  # each outcome has a sample from the start
            assert ("poundcake_alerts_recorded_total", frozenset({("outcome", outcome)})) in (
                first_scrape.samples
            )
        endpoint.accept(webhook(alert("A"), alert("B"), 5))
        wait_for_scrape(endpoint, lambda scrape: scrape.get("alerts_emitted_total") == 2)
        endpoint.accept(webhook(alert("A"), alert("B", status="resolved", ends_at=later(60))))
        scrape = wait_for_scrape(
            endpoint,
            lambda scrape: (
                scrape.get("alerts_emitted_total") == 3 and scrape.get("syncs_asked_total")
            ),
        )
        outcomes = {o: scrape.get("alerts_recorded_total", outcome=o) for o in metrics.OUTCOMES}
        assert {o: n for o, n in outcomes.items() if n} == {
            "admitted": 2,
            "malformed": 1,
            "duplicate": 1,
            "resolved": 1,
        }
        assert scrape.get("alerts_received_total") == 5
        assert scrape.get("alerts_emitted_total", emission="first") == 3
        assert scrape.get("requests_recorded_total") == 2
        assert scrape.get("accept_to_record_seconds_count") == 2
        assert 0 < scrape.get("accept_to_record_seconds_sum") < 60
        assert scrape.get("accept_to_emit_seconds_count") == 2
        assert scrape.get("accept_to_emit_seconds_sum") >= scrape.get(
            "accept_to_record_seconds_sum"
        )
        assert scrape.get("journal_requests", state="recorded") == 2
        assert scrape.get("announcement_misses_total") == 0
        endpoint.set_broker(up=False)  # no more triggers are published
        scrape = wait_for_scrape(
            endpoint,
            lambda scrape: scrape.get("publishes_total", result="ok") >= len(endpoint.published()),
        )
        for trigger in ("announce", "webhook", "alert", "sync_due"):
            name = "poundcake." + trigger
            count = len([t for t, _, _ in endpoint.published() if t == name])
            assert scrape.get("publishes_total", trigger=name, result="ok") == count > 0
        syncs = scrape.get("publishes_total", trigger="poundcake.sync_due", result="ok")
        assert scrape.get("syncs_asked_total") == syncs

    def test_a_broker_outage_is_counted(self, start_endpoint):
        endpoint = start_endpoint({"endpoint.retry.FAILURE_WAITS": (0.05, 0.05)}, backlog_limit=7)
        endpoint.accept(webhook())
        up = wait_for_scrape(
            endpoint,
            lambda scrape: (
                scrape.get("requests_recorded_total") == 1
                and scrape.get("component_down") == 0
                and scrape.get("journal_oldest_waiting_seconds") == 0
            ),
        )
        since = up.get("component_since_timestamp_seconds", component="broker")
        endpoint.set_broker(up=False)
        endpoint.accept(webhook())
        endpoint.accept(webhook())
        down = wait_for_scrape(
            endpoint,
            lambda scrape: (
                scrape.get("component_down", component="broker") == 1
                and scrape.get("journal_oldest_waiting_seconds") > 0
                and scrape.get("journal_requests", state="accepted") == 2
                and scrape.get("publishes_total", trigger="poundcake.announce", result="failed") > 0
            ),
        )
        assert down.get("component_since_timestamp_seconds", component="broker") > since
        assert down.get("component_since_timestamp_seconds", component="broker") <= time.time()
        assert down.values("component") == {"journal", "broker", "database", "stackstorm"}
        assert down.get("component_down") == 1
        assert down.get("journal_backlog_requests") == 2
        assert down.get("journal_backlog_limit_requests") == 7
        endpoint.set_broker(up=True)
        wait_for_scrape(
            endpoint,
            lambda scrape: (
                scrape.get("requests_recorded_total") == 3
                and scrape.get("component_down") == 0
                and scrape.get("journal_backlog_requests") == 0
                and scrape.get("journal_oldest_waiting_seconds") == 0
            ),
        )

    def test_stuck_requests_have_a_separate_metric(self, start_endpoint):
        endpoint = start_endpoint(runtime="threads")
        endpoint.set_broker(up=False)
        for _ in range(30):
            endpoint.accept(webhook())
        journal = endpoint.endpoint.journal
        entries = journal.next_fresh_batch(25)
        journal.mark_missed([e.id for e in entries], 600, 1, is_stuck=True)
        scrape = wait_for_scrape(endpoint, lambda scrape: scrape.get("journal_stuck_requests"))
        assert scrape.get("journal_stuck_requests") == 25
        assert scrape.get("journal_backlog_requests") == 5

    def test_an_unavailable_journal_has_no_request_counts(self, start_endpoint, tmp_path):
        (tmp_path / "blocking-file").write_text("")
        state = str(tmp_path / "blocking-file" / "state")
        endpoint = start_endpoint(
            {"endpoint.supervisor.RETRY_SECONDS": 0.2}, journal=False, state_dir=state
        )
        scrape = wait_for_scrape(
            endpoint, lambda scrape: scrape.get("component_down", component="journal")
        )
        assert not scrape.has("journal_requests")
        (tmp_path / "blocking-file").unlink()
        scrape = wait_for_scrape(endpoint, lambda scrape: scrape.has("journal_requests"))
        assert scrape.get("component_down", component="journal") == 0

    def test_missed_announcements_and_late_records_are_counted(self, pipeline):
        pipeline.bus.records = False
        pipeline.start()
        request_id = pipeline.accept(alert())
        wait_for(lambda: parse_metrics(pipeline.metrics).get("announcement_misses_total") >= 1)
        assert parse_metrics(pipeline.metrics).get("requests_recorded_total") == 0
        pipeline.bus.records = True
        pipeline.wait_for_state(request_id, "recorded")
        wait_for(lambda: parse_metrics(pipeline.metrics).get("alerts_emitted_total"))
        values = parse_metrics(pipeline.metrics)
        assert values.get("requests_recorded_total") == 1
        assert values.get("accept_to_record_seconds_count") == 1

    def test_a_repeated_emission_is_counted_separately(self, pipeline):
        pipeline.start()
        request_id = pipeline.accept(alert())
        pipeline.wait_for_state(request_id, "recorded")
        wait_for(
            lambda: parse_metrics(pipeline.metrics).get("alerts_emitted_total", emission="first")
        )
        assert parse_metrics(pipeline.metrics).get("alerts_emitted_total", emission="again") == 0
        pipeline.set_explanation("retry")
        wait_for(
            lambda: parse_metrics(pipeline.metrics).get("alerts_emitted_total", emission="again")
        )
        values = parse_metrics(pipeline.metrics)
        assert values.get("accept_to_emit_seconds_count") == 1
        assert values.get("alerts_emitted_total", emission="first") == 1
        # An alert that is emitted again is still counted once.
        assert values.get("alerts_recorded_total") == 1


class TestMetrics:
    def test_an_outcome_of_another_release_is_counted_as_other(self):
        endpoint_metrics = Metrics(lambda: {"components": {"journal": DOWN}}, lambda: (0, 0, 0))
        endpoint_metrics.count_emission(
            {"admitted": 2, "future_outcome": 3}, 2, is_repeat=False, received_at=later(0)
        )
        values = parse_metrics(endpoint_metrics)
        assert values.get("alerts_recorded_total", outcome="admitted") == 2
        assert values.get("alerts_recorded_total", outcome="other") == 3
        assert "future_outcome" not in values.values("outcome")

    def test_a_clock_set_back_records_no_negative_duration(self):
        endpoint_metrics = Metrics(lambda: {"components": {"journal": DOWN}}, lambda: (0, 0, 0))
        endpoint_metrics.count_recorded([later(10**9)])
        endpoint_metrics.count_emission({}, 1, is_repeat=False, received_at=later(10**9))
        values = parse_metrics(endpoint_metrics)
        assert values.get("accept_to_record_seconds_sum") == 0
        assert values.get("accept_to_emit_seconds_sum") == 0
        assert values.get("accept_to_emit_seconds_count") == 1

    def test_what_is_open_is_left_out_while_it_is_not_known(self, monkeypatch):
        clock = [100.0]
        monkeypatch.setattr(metrics.time, "monotonic", lambda: clock[0])
        endpoint_metrics = Metrics(lambda: {"components": {"journal": DOWN}}, lambda: (0, 0, 0))
        names = ("incidents_open", "workflows_waiting", "breakers_open")
        assert not any(parse_metrics(endpoint_metrics).has(name) for name in names)
        endpoint_metrics.open_counts.set(OpenCounts(3, 2, 1))
        clock[0] += 100
        values = parse_metrics(endpoint_metrics)
        assert [values.get(name) for name in names] == [3, 2, 1]
        clock[0] += 100  # the tables could not be read in the meantime
        assert not any(parse_metrics(endpoint_metrics).has(name) for name in names)

    def test_an_unknown_limit_is_counted_as_other(self):
        endpoint_metrics = Metrics(lambda: {"components": {"journal": DOWN}}, lambda: (0, 0, 0))
        endpoint_metrics.count_limit('a"b')
        assert parse_metrics(endpoint_metrics).get("limits_reached_total", limit="other") == 1

    def test_health_that_is_slow_to_compute_is_cached_longer(self, monkeypatch):
        clock, computed_at = [100.0], []
        duration = 0.0

        def health():
            computed_at.append(clock[0])
            clock[0] += duration
            return {"components": {"journal": DOWN}}

        # The other tests in this file use an endpoint without this cache.
        monkeypatch.setattr(metrics, "_HEALTH_REUSE_SECONDS", 1.0)
        monkeypatch.setattr(metrics, "_HEALTH_REUSE_FACTOR", 20)
        monkeypatch.setattr(metrics.time, "monotonic", lambda: clock[0])
        endpoint_metrics = Metrics(health, lambda: (0, 0, 0))
        for _ in range(50):
            endpoint_metrics.render("")
            clock[0] += 0.1
        assert 4 <= len(computed_at) <= 6  # in five seconds
        duration = 2.0
        computed_at.clear()
        for _ in range(1000):
            endpoint_metrics.render("")
            clock[0] += 0.1
        assert len(computed_at) in (2, 3)  # in a hundred seconds


DOWN = {"state": "down", "since": "2026-01-14T12:00:00Z"}
