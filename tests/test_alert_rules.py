"""Each of the pack's alerts fires in its state, and only there.

An endpoint is brought into each state that an alert reports, and its /metrics is scraped. promtool
then evaluates the rules: first on what the endpoint exports in normal use, then on what it exports
in the state, then on normal use again.
"""

from __future__ import annotations

import json
import re
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import yaml

from tests import documents, services
from tests.documents import ROOT, find_block, find_code_blocks
from tests.lib import endpoint_states as states
from tests.lib.certificates import Authority
from tests.lib.endpoint_states import REMEDIATION, StatesEndpoint, read_metrics
from tests.lib.endpoints import InThreads
from tests.waiting import wait_for

RULES = ROOT / "etc" / "poundcake.rules.yml"
ENDPOINT, ALERTMANAGER = "127.0.0.1:8000", "127.0.0.1:9093"
INSTANCES = {"poundcake": ENDPOINT, "alertmanager": ALERTMANAGER}
NORMAL_MINUTES = 13  # longer than the ranges in the rules
RECOVERY_MINUTES = 13
RUNBOOKS = ROOT / "docs" / "runbooks"
RUNBOOK_URL = "https://poundcake.example.org/docs/runbooks/"

DOWN = f"PoundCake's endpoint {ENDPOINT} has not answered for two minutes"
BROKER_DOWN = ({"component": "broker"}, f"PoundCake on {ENDPOINT} cannot use RabbitMQ")

# The alerts in each state: {function: {alert: summary, or (other labels, summary)}}.
MAIN_STATES = {
    states.refuse_a_webhook: {
        "PoundCakeRefusesWebhooks": (
            {"reason": "unauthenticated"},
            f"PoundCake on {ENDPOINT} refuses webhooks: unauthenticated",
        )
    },
    states.fill_the_backlog: {
        "PoundCakeBacklogNearlyFull": f"5 requests wait to be recorded on {ENDPOINT}",
        "PoundCakeBrokerDown": BROKER_DOWN,
    },
    states.let_a_request_wait: {
        "PoundCakeWaiting": f"A request has waited 7m 0s to be recorded on {ENDPOINT}",
        "PoundCakeBrokerDown": BROKER_DOWN,
    },
    states.lose_the_broker: {
        "PoundCakeBrokerDown": BROKER_DOWN,
    },
    states.mark_a_request_stuck: {
        "PoundCakeStuck": f"Requests that cannot be recorded on {ENDPOINT}: 1"
    },
    states.disable_the_rule_that_records: {
        "PoundCakeStackStormDown": (
            {"component": "stackstorm"},
            f"StackStorm does not record the requests of {ENDPOINT}",
        )
    },
    states.refuse_the_trigger_of_an_alert: {
        "PoundCakeNotProcessing": f"PoundCake on {ENDPOINT} does not process all of its requests"
    },
    states.lose_an_alert: {
        "PoundCakeAlertsLost": "StackStorm has lost an alert repeatedly for 17m 0s"
    },
    states.do_not_sync: {"PoundCakeSyncLate": "poundcake.sync has not run for 12m 0s"},
    states.lose_an_alertmanager: {
        "PoundCakeMonitoringDown": "PoundCake cannot compare its incidents with Alertmanager"
    },
    states.break_the_configuration: {
        "PoundCakeConfigurationProblem": f"Part of the configuration of {ENDPOINT} is not used"
    },
    states.need_a_migration: {
        "PoundCakeMigrationPending": "PoundCake's database has to be migrated"
    },
    states.set_the_clock_ahead: {
        "PoundCakeClockOffset": f"The clocks of {ENDPOINT} and of the database differ by 1m 0s"
    },
    states.fill_the_disk: {
        "PoundCakeDiskNearlyFull": f"The disk of state_dir on {ENDPOINT} has 512MiB left"
    },
    states.fail_to_help: {
        "PoundCakeRemediationFailed": [
            (
                {"remediation": REMEDIATION, "result": result},
                f"The remediation {REMEDIATION} did not help: {result}",
            )
            for result in ("failed", "not_cleared")
        ]
    },
    states.open_a_breaker: {
        "PoundCakeBreakerOpen": "Remediations that are off because their last changes failed: 1"
    },
    states.reach_a_limit: {
        "PoundCakeLimitReached": ({"limit": "storm"}, "A limit stops remediations: storm")
    },
    states.wait_for_an_approval: {
        "PoundCakeWorkflowWaiting": "Workflows that have waited for a person for ten minutes: 1"
    },
    states.hang: {"PoundCakeExecutionHangs": "An execution has been running for 2h 0m 0s"},
    states.pause_changes: {"PoundCakePaused": "All changes have been paused for four hours"},
    states.refuse_the_trigger_of_an_event: {
        "PoundCakeEventsLate": "A notification has waited 10m 0s to be published"
    },
    states.miss_the_notifications: {
        "PoundCakeIncidentsStale": "Open incidents without a recent notification: {incidents_stale}"
    },
}
OTHER_STATES = {
    states.use_a_folder_that_cannot_be_created: {
        "PoundCakeJournalDown": (
            {"component": "journal"},
            f"PoundCake on {ENDPOINT} cannot write its journal",
        )
    },
    states.damage_the_journal: {
        "PoundCakeJournalDamaged": f"Damaged journals on {ENDPOINT}: 1",
    },
    states.lose_the_database: {
        "PoundCakeDatabaseDown": (
            {"component": "database"},
            f"PoundCake on {ENDPOINT} cannot use its database",
        )
    },
    states.use_a_certificate_of_an_hour: {
        "PoundCakeCertificateExpires": f"The certificate on {ENDPOINT} expires in 45m 0s"
    },
}


def read_rules():
    """Return the alerting rules by name."""
    document = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    rules = [rule for group in document["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    return {rule["alert"]: rule for rule in rules}


@pytest.fixture
def promtool():
    """Return a function that runs promtool and checks that it succeeds."""
    try:
        program = services.program("promtool")
    except services.MissingProgram as error:
        pytest.skip(str(error))

    def run(*arguments):
        completed = subprocess.run(
            [program, *map(str, arguments)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        assert completed.returncode == 0, completed.stdout.decode()

    return run


# -- evaluating the rules with promtool, which starts at the time 0, in steps of a minute


def find_metrics():
    """Return the names of the metrics in the rules."""
    expressions = " ".join(rule["expr"] for rule in read_rules().values())
    return set(re.findall(r"\b(?:poundcake|alertmanager)_\w+", expressions))


def list_samples(job, scrape):
    """Return {series: value} of a scrape, as Prometheus stores it.

    A scrape of None is one that failed. Durations are rounded to minutes, because the machine may
    be slow. Times are relative to the scrape.
    """
    target = f'job="{job}",instance="{INSTANCES[job]}"'
    samples = {f"up{{{target}}}": 0 if scrape is None else 1}
    for (name, labels), exported in scrape.samples.items() if scrape else ():
        if name not in METRICS:
            continue
        value = exported - scrape.at if name.endswith("_timestamp_seconds") else exported
        if name.endswith("_seconds") and value > 60:
            value = round(value / 60) * 60
        pairs = "".join(f",{label}={json.dumps(text)}" for label, text in labels)
        samples[f"{name}{{{target}{pairs}}}"] = value
    return samples


METRICS = find_metrics()


def list_series(phases):
    """Return promtool's series for phases [(minutes, {series: value})]."""
    names = dict.fromkeys(name for _, samples in phases for name in samples)
    series = []
    for name in names:
        values = []
        was_present = False
        for minutes, samples in phases:
            if name in samples:
                values.append(f"{samples[name]:.9g}x{minutes - 1}")
            else:
                values.append(("stale" if was_present else "_") + f" _x{minutes - 1}")
            was_present = name in samples
        series.append({"series": name, "values": " ".join(values)})
    return series


def read_minutes(text):
    units = {"m": 1, "h": 60}
    return int(text[:-1]) * units[text[-1]] if text else 0


def describe_test(name, normal, bad, expected):
    """Return a test for promtool.

    Args:
        name: The name of the state.
        normal: {job: scrape} in normal use.
        bad: The same in the state.
        expected: The alerts in the state.
    """
    rules = read_rules()
    wait = max(read_minutes(rules[alert].get("for", "")) for alert in expected)
    state_minutes = wait + 3
    samples = [
        {k: v for job, scrape in each.items() for k, v in list_samples(job, scrape).items()}
        for each in (normal, bad)
    ]
    # A counter does not fall when the state ends.
    counters = {k: v for k, v in samples[1].items() if "_total{" in k}
    phases = [
        (NORMAL_MINUTES, samples[0]),
        (state_minutes, samples[1]),
        (RECOVERY_MINUTES, {**samples[0], **counters}),
    ]
    fired_at = NORMAL_MINUTES + wait + 2
    firing = 'count by (alertname) (ALERTS{alertstate="firing"})'
    ended_at = NORMAL_MINUTES + state_minutes + RECOVERY_MINUTES - 1
    expected = {alert: list_expected(alert, value, bad) for alert, value in expected.items()}
    queries = [
        {"expr": "ALERTS", "eval_time": f"{NORMAL_MINUTES - 1}m", "exp_samples": []},
        {
            "expr": firing,
            "eval_time": f"{fired_at}m",
            "exp_samples": [
                {"labels": f'{{alertname="{alert}"}}', "value": len(instances)}
                for alert, instances in expected.items()
            ],
        },
        {"expr": "ALERTS", "eval_time": f"{ended_at}m", "exp_samples": []},
    ]
    alert_tests = [
        {"eval_time": f"{fired_at}m", "alertname": alert, "exp_alerts": instances}
        for alert, instances in expected.items()
    ]
    for alert in expected:
        minutes = read_minutes(rules[alert].get("for", ""))
        if minutes:
            time = f"{NORMAL_MINUTES + minutes - 1}m"
            alert_tests.append({"eval_time": time, "alertname": alert, "exp_alerts": []})
    return {
        "name": name,
        "interval": "1m",
        "input_series": list_series(phases),
        "alert_rule_test": alert_tests,
        "promql_expr_test": queries,
    }


def list_expected(alert, value, bad):
    """Return the labels and annotations of the alerts with a name."""
    rule = read_rules()[alert]
    expected = []
    for item in value if isinstance(value, list) else [value]:
        labels, summary = item if isinstance(item, tuple) else ({}, item)
        expected.append(
            {
                "exp_labels": {
                    "severity": rule["labels"]["severity"],
                    "job": "poundcake",
                    **({"instance": ENDPOINT} if is_about_one_instance(rule) else {}),
                    **labels,
                },
                "exp_annotations": {
                    **rule["annotations"],
                    "summary": summary.format_map(Values(bad.get("poundcake"))),
                },
            }
        )
    return expected


class Values(dict):
    """The values of a scrape by the name of the metric, for the text of a summary."""

    def __init__(self, scrape):
        self.scrape = scrape

    def __missing__(self, name):
        return int(self.scrape.get(f"poundcake_{name}"))


def is_about_one_instance(rule):
    """Return False if the rule reports once what all endpoints read from the same tables."""
    grouping = re.search(r"by \(([^)]*)\)", rule["expr"])
    return "instance" in grouping.group(1) if grouping else "absent" not in rule["expr"]


def describe_healthy_test(name, scrapes):
    """Return a test in which no alert is pending or firing."""
    samples = {k: v for job, s in scrapes.items() for k, v in list_samples(job, s).items()}
    eval_time = f"{NORMAL_MINUTES - 1}m"
    query = {"expr": "ALERTS", "eval_time": eval_time, "exp_samples": []}
    series = list_series([(NORMAL_MINUTES, samples)])
    return {"name": name, "interval": "1m", "input_series": series, "promql_expr_test": [query]}


@pytest.fixture(scope="module")
def scrapes(tmp_path_factory):
    """Return {name of the state: (scrape in normal use, scrape in the state)}.

    The states "empty" and "in_use" have only one scrape.
    """
    found = {}
    folder = tmp_path_factory.mktemp("states")
    endpoint = StatesEndpoint(
        folder / "main",
        backlog_limit=5,
        breaker_failures=1,
        allowed_actions=[REMEDIATION],
        alertmanagers=[{"url": f"http://{ALERTMANAGER}"}],
    ).start()
    try:
        endpoint.ready()
        # The outcome of a request is written by the test.
        found["empty"] = endpoint.scrape(
            lambda get: (
                get("incidents_open") == 0 and get("component_down", component="broker") == 0
            )
        )
        found["in_use"] = states.use_normally(endpoint)
        for state in MAIN_STATES:
            normal = endpoint.scrape()
            found[state.__name__] = (normal, state(endpoint))
    finally:
        endpoint.stop()
    for number, state in enumerate(OTHER_STATES):
        found[state.__name__] = (found["in_use"], state(folder / str(number)))
    return found


def test_each_alert_fires_only_in_its_state(promtool, scrapes, tmp_path):
    tests = [
        describe_healthy_test(name, {"poundcake": scrapes[name]}) for name in ("empty", "in_use")
    ]
    for state, expected in {**MAIN_STATES, **OTHER_STATES}.items():
        normal, bad = ({"poundcake": scrape} for scrape in scrapes[state.__name__])
        tests.append(describe_test(state.__name__, normal, bad, expected))
    in_use = {"poundcake": scrapes["in_use"]}
    tests.append(describe_test("down", in_use, {"poundcake": None}, {"PoundCakeDown": DOWN}))
    summary = "Prometheus has no target with the job poundcake"
    tests.append(describe_test("not scraped", in_use, {}, {"PoundCakeNotScraped": summary}))
    run_tests(promtool, tests, tmp_path)


def run_tests(promtool, tests, folder):
    document = {"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}
    path = folder / "tests.json"
    path.write_text(json.dumps(document))  # JSON is YAML
    promtool("test", "rules", path)


@pytest.mark.services
def test_an_alert_fires_if_alertmanager_cannot_deliver_webhooks(
    promtool, scrapes, alertmanager, tmp_path
):
    class NotTheEndpoint(BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_error(404)

    def read(count):
        def find():
            scrape = read_metrics(server.url + "/metrics")
            failed = "alertmanager_notifications_failed_total"
            return scrape if scrape.get(failed, integration="webhook") == count else None

        return wait_for(find)

    with HTTPServer((services.LOOPBACK, 0), NotTheEndpoint) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        server = alertmanager(f"http://{services.LOOPBACK}:{other.server_port}/")
        normal = read(0)
        server.fire(alertname="HostDown")
        bad = read(1)
        other.shutdown()
    in_use = scrapes["in_use"]
    normal, bad = ({"poundcake": in_use, "alertmanager": scrape} for scrape in (normal, bad))
    labels = {"job": "alertmanager", "instance": ALERTMANAGER}
    summary = f"Alertmanager {ALERTMANAGER} cannot deliver webhooks"
    expected = {"PoundCakeWebhooksNotDelivered": (labels, summary)}
    tests = [describe_test("not delivered", normal, bad, expected)]
    # Another alert says why, so this one does not fire.
    down = {"poundcake": None, "alertmanager": bad["alertmanager"]}
    tests.append(describe_test("down", normal, down, {"PoundCakeDown": DOWN}))
    run_tests(promtool, tests, tmp_path)


# -- the files


def test_the_configuration_is_valid(promtool):
    promtool("check", "config", "--syntax-only", ROOT / "etc" / "prometheus.yml")


def test_the_size_of_a_notification_is_limited():
    """Alertmanager does not retry a notification that is refused for its size."""
    text = (ROOT / "etc" / "alertmanager.yml").read_text(encoding="utf-8")
    receivers = yaml.safe_load(text)["receivers"]
    webhooks = [webhook for r in receivers for webhook in r.get("webhook_configs", [])]
    assert webhooks and all(0 < webhook["max_alerts"] <= 5000 for webhook in webhooks)


def test_the_rules_are_valid(promtool):
    promtool("check", "rules", RULES)


def test_each_alert_has_a_state():
    expected = [alert for alerts in {**MAIN_STATES, **OTHER_STATES}.values() for alert in alerts]
    others = {"PoundCakeDown", "PoundCakeNotScraped", "PoundCakeWebhooksNotDelivered"}
    assert set(read_rules()) == {*expected, *others}


# -- the runbooks

HEADINGS = [
    "What it means",
    "What is lost meanwhile",
    "How to see it",
    "What to do",
    "When it is over",
]
# The commands on the pages that no test executes as they are, and why.
NOT_EXECUTED = {
    "chown ": "it needs StackStorm's user",
    "dmesg": "it reads the log of the kernel",
    "journalctl ": "the tests have no systemd",
    "mariadb-admin ": "it needs the server's own account",
    "promtool check config ": "test_the_configuration_is_valid checks the file in etc/",
    "rabbitmqctl ": "it needs the cookie of a node",
    "st2 execution cancel ": "tests/scenarios/test_statuses.py cancels an execution",
    "st2 rule enable ": "tests/scenarios/test_doctor.py enables a rule",
    "st2 sensor enable ": "the stand-in has no sensor container",
    "st2ctl ": "it is part of StackStorm's packages",
    "systemctl ": "the tests have no systemd",
    "timedatectl": "the tests do not change the clock",
}
# tests/scenarios/test_cli.py runs these.
RUN_BY_TEST_CLI = ("st2 run poundcake.", "st2 execution ", "st2 rule list ", "st2 sensor list")


def read_pages():
    return {path.stem: path for path in sorted(RUNBOOKS.iterdir())}


def list_commands():
    """Return the commands on the pages, without duplicates."""
    blocks = [block for page in read_pages().values() for block in find_code_blocks(page, "sh")]
    return list(dict.fromkeys(line for block in blocks for line in block.splitlines()))


def test_each_alert_has_a_runbook_and_each_runbook_has_an_alert():
    rules = read_rules()
    assert list(read_pages()) == sorted(rules)
    for name, rule in rules.items():
        assert rule["annotations"]["runbook_url"] == f"{RUNBOOK_URL}{name}.md"


@pytest.mark.parametrize("path", read_pages().values(), ids=read_pages())
def test_each_runbook_answers_the_same_questions_in_short(path):
    text = path.read_text(encoding="utf-8")
    assert text.startswith(f"# {path.stem}\n")
    assert re.findall("^## (.*)", text, re.MULTILINE) == HEADINGS
    assert len([line for line in text.splitlines() if line]) <= 30
    assert find_code_blocks(path, "sh")


def test_the_page_of_the_metrics_lists_each_alert():
    text = (ROOT / "docs" / "METRICS.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[`(\w+)`\]\(runbooks/(\w+)\.md\) \| (\w+) \| \S", text, re.MULTILINE)
    expected = [(name, name, rule["labels"]["severity"]) for name, rule in read_rules().items()]
    assert rows == expected


def test_the_address_of_the_runbooks_can_be_replaced(promtool, tmp_path):
    block = find_block(ROOT / "docs" / "METRICS.md", "sh", "sed ")
    replacements = {"/etc/prometheus/": f"{tmp_path}/", " etc/": f" {ROOT}/etc/"}
    documents.run_commands(block, replacements)
    text = (tmp_path / "poundcake.rules.yml").read_text(encoding="utf-8")
    assert "example.org" not in text.partition("groups:")[2]
    address = "https://git.example.com/ops/poundcake/blob/main/"
    paths = re.findall(rf"runbook_url: {address}(docs/runbooks/\w+\.md)\n", text)
    assert len(paths) == len(read_rules())
    assert all((ROOT / path).exists() for path in paths)


@pytest.mark.services
def test_each_command_of_the_runbooks_works(alertmanager, tmp_path):
    """Those for the shell run with other paths and ports."""
    server = alertmanager("http://127.0.0.1:1/")
    endpoint = InThreads(tmp_path).start()
    certificate, _ = Authority(tmp_path).issue("tls")
    log = tmp_path / "log"
    log.write_text("poundcake: refused a webhook\npoundcake: publishing events failed\n")
    replacements = {
        "127.0.0.1:8000": f"127.0.0.1:{endpoint.port}",
        "127.0.0.1:9093": f"127.0.0.1:{server.port}",
        "/opt/stackstorm/exports/poundcake/tls.pem": certificate,
        "/opt/stackstorm/exports/poundcake": str(tmp_path / "state"),
        "/var/log/st2/st2sensorcontainer.log": str(log),
        "curl ": "curl -sf -o /dev/null ",
    }
    try:
        endpoint.ready()
        executed = [
            command
            for command in list_commands()
            if not command.startswith((*NOT_EXECUTED, *RUN_BY_TEST_CLI))
        ]
        assert len(executed) > 8
        for command in executed:
            documents.run_commands(command, replacements)
    finally:
        endpoint.stop()
    commands = list_commands()
    assert [p for p in NOT_EXECUTED if not any(c.startswith(p) for c in commands)] == []
