"""The Grafana dashboard asks Prometheus for what the endpoint exports.

The queries run on a real Prometheus, which has scraped an endpoint with a history: accepted and
refused webhooks, an outage of the broker, remediations with every result, limits, and what waits
for people.
"""

from __future__ import annotations

import json
import math
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from datetime import datetime, timedelta, timezone

import pytest
import yaml
from sqlalchemy import select, update

from poundcake.trail import database, outbox, pause
from poundcake.trail.audit import Actor
from poundcake.trail.claims import add_execution
from poundcake.trail.outbox import Ending, EndResult
from poundcake.trail.schema import alerts, api_calls, changes
from tests import services
from tests.lib.endpoints import InThreads
from tests.lib.samples import alert, webhook
from tests.waiting import wait_for

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DASHBOARD = os.path.join(ROOT, "dashboards", "poundcake.json")
PROVISIONING = os.path.join(ROOT, "etc", "grafana", "provisioning")
TOKEN = "a-token-for-the-tests"
REMEDIATION = "linux.service"
VARIABLES = {
    "$job": "poundcake",
    "$instance": ".*",
    "$remediation": ".*",
    "$__rate_interval": "5m",
    "$__range": "1h",
}
SETTINGS = {
    "endpoint.pipeline.OPEN_COUNTS_WAIT": 0.2,
    "endpoint.pipeline.PAUSE_WAIT": 0.2,
    "endpoint.event_publisher.CHECK_WAIT": 0.2,
    "endpoint.retry.FAILURE_WAITS": (0.05, 0.05),
    "endpoint.metrics._HEALTH_REUSE_SECONDS": 0,
    "endpoint.metrics._HEALTH_REUSE_FACTOR": 0,
}


def read_dashboard():
    with open(DASHBOARD, encoding="utf-8") as file:
        return json.load(file)


def list_panels():
    """Return the panels that show something, without the rows."""
    return [panel for panel in read_dashboard()["panels"] if panel["type"] != "row"]


def list_queries():
    """Return (title, query) for each query of the dashboard, also those of its annotations."""
    queries = [
        (panel["title"], target["expr"]) for panel in list_panels() for target in panel["targets"]
    ]
    annotations = read_dashboard()["annotations"]["list"]
    return queries + [(each["name"], each["expr"]) for each in annotations if "expr" in each]


def fill_in(query):
    """Return a query with the values of the dashboard's variables."""
    for name, value in sorted(VARIABLES.items(), reverse=True):
        query = query.replace(name, value)
    assert "$" not in query, query
    return query


class Prometheus(services.Server):
    """A Prometheus that scrapes one endpoint."""

    name = "Prometheus"

    def __init__(self, endpoint_port):
        self._endpoint_port = endpoint_port
        super().__init__()

    def prepare(self):
        self.server = services.program("prometheus")
        self.port = services.free_port()
        job = {
            "job_name": "poundcake",
            "authorization": {"credentials": TOKEN},
            "static_configs": [{"targets": [f"{services.LOOPBACK}:{self._endpoint_port}"]}],
        }
        configuration = {
            "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms"},
            "scrape_configs": [job],
        }
        with open(self.path("prometheus.yml"), "w") as file:
            json.dump(configuration, file)  # JSON is YAML

    def command(self):
        return [
            self.server,
            "--config.file=" + self.path("prometheus.yml"),
            "--storage.tsdb.path=" + self.path("data"),
            f"--web.listen-address={services.LOOPBACK}:{self.port}",
        ]

    def is_ready(self):
        try:
            self._get("/-/ready")
            return True
        except OSError:
            return False

    def query(self, query):
        """Return the labels and the value of each series."""
        result = self._get_json("query", query=query)["result"]
        return [(each["metric"], float(each["value"][1])) for each in result]

    def label_values(self, label, match):
        return self._get_json(f"label/{label}/values", **{"match[]": match})

    def _get_json(self, path, **parameters):
        try:
            text = self._get(f"/api/v1/{path}?{urllib.parse.urlencode(parameters)}")
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error
        return json.loads(text)["data"]

    def _get(self, path):
        url = f"http://{services.LOOPBACK}:{self.port}{path}"
        with services.PROXYLESS_OPENER.open(url, timeout=5) as response:
            return response.read().decode()


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory):
    """Return a Prometheus that has scraped an endpoint with a history."""
    endpoint = InThreads(
        tmp_path_factory.mktemp("endpoint"),
        SETTINGS,
        auth_tokens=[TOKEN],
        allowed_actions=[REMEDIATION],
        max_remediations_per_hour=2,
        breaker_failures=1,
    ).start()
    try:
        server = Prometheus(endpoint.port)
    except services.MissingProgram as error:
        endpoint.stop()
        pytest.skip(str(error))
    try:
        endpoint.ready()
        server.start()
        # Rates and increases are computed from the values before the history.
        known = f'poundcake_remediations_total{{remediation="{REMEDIATION}"}}'
        wait_for(lambda: server.query(known))
        record_history(endpoint)
        wait_for(lambda: has_scraped_history(server))
        yield server
    finally:
        server.close()
        endpoint.stop()


def has_scraped_history(server):
    ended = f'poundcake_remediations_total{{remediation="{REMEDIATION}"}} > 0'
    return (
        len(server.query(ended)) == len(EndResult)
        and server.query("poundcake_workflows_waiting > 0")
        and server.query("poundcake_breakers_open > 0")
        and server.query("poundcake_paused > 0")
        and server.query('poundcake_limits_reached_total{limit="rate_limit"} > 0')
        and server.query('poundcake_limits_reached_total{limit="storm"} > 0')
        # The series of the failures exists only since the first one, and a rate needs two values.
        and server.query(
            fill_in('rate(poundcake_publishes_total{result="failed"}[$__rate_interval])')
        )
    )


def record_history(endpoint):
    headers = {"Authorization": f"Bearer {TOKEN}"}
    request_id = endpoint.accept(
        webhook(*[alert("A", fingerprint=f"f{number}") for number in range(4)]), **headers
    )
    assert endpoint.post(b"{}", **headers).status == 400
    assert endpoint.post(webhook(alert("A"))).status == 401
    endpoint.set_broker(up=False)
    endpoint.accept(webhook(alert("B", fingerprint="g")), **headers)
    failed = re.compile(r'poundcake_publishes_total{result="failed"')
    wait_for(lambda: failed.search(endpoint.get("/metrics", **headers).body.decode()))
    endpoint.set_broker(up=True)
    engine = database.open_engine(f"sqlite:///{endpoint.config['state_dir']}/tracking.sqlite")
    wait_for(lambda: find_episode(engine, request_id))
    record_remediations(engine, request_id)
    pause.pause(engine, Actor("anna", "p"), "a test")
    engine.dispose()


def find_episode(engine, request_id):
    with database.reading(engine) as connection:
        return connection.scalar(
            select(alerts.c.episode)
            .join(api_calls, api_calls.c.id == alerts.c.api_call_id)
            .where(api_calls.c.request_id == request_id)
            .order_by(alerts.c.id)
        )


def record_remediations(engine, request_id):
    """Record a remediation with each result, a workflow that waits, and a failed change."""
    episode = find_episode(engine, request_id)
    now = datetime.now(timezone.utc)
    with database.transaction(engine) as connection:
        values = {"closed_at": now + timedelta(seconds=90), "open_fingerprint": None}
        connection.execute(update(alerts).where(alerts.c.episode == episode).values(values))
        for number, result in enumerate(EndResult):
            refusal = "storm" if result == EndResult.REFUSED else ""
            ending = Ending(result, request_id, episode, f"e{number}", REMEDIATION, refusal=refusal)
            outbox.add_ending(connection, ending)
        add_execution(connection, "waiting", "poundcake.remediate", "paused", now)
        connection.execute(
            changes.insert().values(
                st2_execution_id="e",
                request_id=request_id,
                episode=episode,
                attempt=1,
                remediation=REMEDIATION,
                action=REMEDIATION,
                target="web-1",
                per_value="",
                decided_at=now,
                ended_at=now,
                result="failed",
                refusal="",
                reason="",
            )
        )


@pytest.mark.parametrize(("title", "query"), list_queries())
def test_each_query_returns_data(prometheus, title, query):
    series = prometheus.query(fill_in(query))
    assert any(math.isfinite(value) for _, value in series), (title, query)


def test_each_metric_is_exported(prometheus):
    exported = set(prometheus.label_values("__name__", '{job="poundcake"}'))
    names = {name for _, query in list_queries() for name in re.findall(r"poundcake_\w+", query)}
    assert len(names) > 20
    assert names <= exported


def test_each_variable_has_values(prometheus):
    queries = [
        variable["query"]["query"]
        for variable in read_dashboard()["templating"]["list"]
        if variable["type"] == "query"
    ]
    values = {}
    for query in queries:
        match, label = re.fullmatch(r"label_values\((.*), (\w+)\)", query).groups()
        values[label] = prometheus.label_values(label, fill_in(match))
    assert values["job"] == ["poundcake"]
    assert len(values["instance"]) == 1
    assert values["remediation"] == [REMEDIATION]


def test_the_panels_show_the_history(prometheus):
    queries = {title: query for title, query in list_queries()}

    def values(title):
        return [(labels, value) for labels, value in prometheus.query(fill_in(queries[title]))]

    by_result = {labels["result"]: value for labels, value in values("Results by remediation")}
    assert set(by_result) == {str(result) for result in EndResult}
    assert all(value >= 1 for value in by_result.values())
    ((labels, share),) = values("Share of changes that cleared their alert")
    assert labels == {"remediation": REMEDIATION} and share == pytest.approx(0.5)
    ((_, seconds),) = values("Median time to clear")
    assert 60 < seconds <= 120  # the bucket of 90 seconds
    assert [value for _, value in values("Waiting for approval")] == [1]
    assert [value for _, value in values("Open breakers")] == [1]
    assert [value for _, value in values("Changes")] == [1]
    reasons = {labels["reason"]: value for labels, value in values("Refused webhooks by reason")}
    assert {r for r, value in reasons.items() if value} == {"invalid_payload", "unauthenticated"}
    limits = {labels["limit"]: value for labels, value in values("Storms and other limits")}
    assert limits["storm"] > 0 and limits["rate_limit"] > 0 and limits["site_limit"] == 0
    assert {labels["component"] for labels, _ in values("Components")} == {
        "journal",
        "broker",
        "database",
        "stackstorm",
    }


def test_every_panel_says_what_to_do_and_uses_the_chosen_data_source():
    source = {"type": "prometheus", "uid": "${datasource}"}
    for panel in list_panels():
        assert len(panel["description"]) > 40, panel["title"]
        assert panel["fieldConfig"]["defaults"].get("unit") or panel["type"] in (
            "table",
            "state-timeline",
        )
        assert panel["datasource"] == source
        for target in panel["targets"]:
            assert target["datasource"] == source
            assert 'job=~"$job",instance=~"$instance"' in target["expr"], panel["title"]


def test_the_panels_fill_the_grid_without_overlapping():
    panels = read_dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = {}
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]


def test_the_dashboard_links_to_the_board():
    dashboard = read_dashboard()
    links = [link["url"] for link in dashboard["links"]]
    assert links == ["${board}", "${board}/episodes", "${board}/automation"]
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert variables["board"]["query"].endswith("/board")
    assert variables["datasource"]["query"] == "prometheus"


def test_grafana_is_provisioned_with_prometheus_and_the_dashboard():
    def read(*names):
        with open(os.path.join(PROVISIONING, *names), encoding="utf-8") as file:
            return yaml.safe_load(file)

    (source,) = read("datasources", "prometheus.yml")["datasources"]
    assert source["type"] == "prometheus" and source["isDefault"]
    (provider,) = read("dashboards", "poundcake.yml")["providers"]
    assert provider["type"] == "file"
    with open(os.path.join(ROOT, "docker-compose.yml"), encoding="utf-8") as file:
        compose = yaml.safe_load(file)["services"]
    mounts = compose["grafana"]["volumes"]
    assert f"./dashboards:{provider['options']['path']}:ro" in mounts
    assert "./etc/grafana/provisioning:/etc/grafana/provisioning:ro" in mounts
    host = urllib.parse.urlsplit(source["url"]).hostname
    assert set(compose[host]["networks"]) & set(compose["grafana"]["networks"])


def test_commands_in_the_descriptions_exist():
    actions = {name[: -len(".yaml")] for name in os.listdir(os.path.join(ROOT, "actions"))}
    for panel in list_panels():
        for name in re.findall(r"poundcake\.(\w+)", panel["description"]):
            assert name in actions, panel["title"]
