"""The process: what it refuses, a sensor on the bus, RabbitMQ, and how it ends."""

import json
import os
import pathlib
import signal
import socket
import threading
import urllib.error
import urllib.request

import pytest

from tests.standalone.conftest import Standalone, make_pack, runs
from tests.waiting import wait_for


def _free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture
def bell(tmp_path):
    """Start the pack with the sensor; further arguments are the command line's."""
    folder, running = make_pack(tmp_path, "bell"), []

    def start(*options, **keywords):
        port = _free_port()
        state = tmp_path / "state"
        state.mkdir(exist_ok=True)
        options = ("--port", str(port), "--state-dir", str(state)) + options
        standalone = Standalone(folder, *options, **keywords)
        standalone.state, standalone.port = state, port
        running.append(standalone)
        return standalone

    yield start
    for standalone in running:
        standalone.stop(signal.SIGKILL)


def _post(standalone, **body):
    url = "http://127.0.0.1:%d/" % standalone.port
    request = urllib.request.Request(url, json.dumps(body).encode(), method="POST")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def _wait_for(count, standalone):
    def look():
        found = standalone.get("/executions?action=core.noop&status=succeeded")
        return found if len(found) >= count else None

    return wait_for(look)


def test_what_it_says_and_a_clean_end(bell):
    standalone = bell()
    assert "without" in standalone.said[0] and str(standalone.state) in " ".join(standalone.said)
    webhook = "webhooks at http://127.0.0.1:%d/api/v1/webhook" % standalone.port
    assert standalone.said[-1] == f"ready: {webhook}, API at {standalone.api}"
    code, seconds = standalone.stop()
    assert code == 0 and seconds < 5, "".join(standalone.errors)
    assert (standalone.state / "cleaned-up").exists()


def test_interrupt_while_an_action_runs(bell, tmp_path):
    standalone = bell()
    note = tmp_path / "note"
    body = {"action": "core.local", "parameters": {"cmd": f"echo $$ > {note}; sleep 60"}}
    assert standalone.call("POST", "/executions", body)[0] == 201
    pid = int(wait_for(lambda: note.exists() and note.read_text()))
    code, seconds = standalone.stop(signal.SIGINT)
    assert code == 0 and seconds < 5
    wait_for(lambda: not runs(pid), 20)


def test_a_sensor_with_the_bus_in_memory(bell):
    standalone = bell()
    assert _post(standalone, ask=True) == (200 + 2, [])
    assert _post(standalone, payload={"number": 1}, tag="one") == (202, standalone.api)
    (execution,) = _wait_for(1, standalone)
    assert execution["context"]["trace_context"]["trace_tag"] == "one"
    assert _post(standalone, how="dispatch", payload={"number": 2}, tag="two")[0] == 202
    _wait_for(2, standalone)
    # An invalid payload is lost without a word when dispatched, and taken from the bus.
    assert _post(standalone, how="dispatch", payload={"number": "x"}, tag="three")[0] == 202
    assert _post(standalone, payload={"number": None}, tag="four")[0] == 202

    def failures():
        return [e for e in standalone.get("/ruleenforcements") if e["status"] == "failed"]

    (failed,) = wait_for(failures)
    assert standalone.get("/traces?trace_tag=four")
    assert "Failed to match rule" in failed["failure_reason"]
    assert standalone.get("/traces?trace_tag=three") == []


def _flood(standalone, count):
    statuses = []

    def publish(numbers):
        for number in numbers:
            tag = "flood-%d" % number
            statuses.append(_post(standalone, payload={"number": number}, tag=tag)[0])

    threads = [
        threading.Thread(target=publish, args=(range(n, count + 1, 4),)) for n in range(1, 5)
    ]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert statuses == [202] * count

    def look():
        found = standalone.get("/triggerinstances?trigger=bell.rung&status=processed&limit=100")
        return found if len(found) >= min(count, 100) else None

    return sorted(instance["payload"]["number"] for instance in wait_for(look))


def test_many_messages_in_memory_arrive_once_each(bell):
    assert _flood(bell(), 100) == list(range(1, 101))


def test_many_messages_through_rabbitmq_arrive_once_each(bell, rabbitmq_url):
    assert _flood(bell("--broker", rabbitmq_url), 100) == list(range(1, 101))


def test_rabbitmq_away_and_back(bell, rabbitmq, rabbitmq_url):
    standalone = bell("--broker", rabbitmq_url)
    assert _post(standalone, payload={"number": 1}, tag="before")[0] == 202
    _wait_for(1, standalone)
    rabbitmq.stop()
    assert _post(standalone, payload={"number": 2}, tag="lost")[0] == 503
    rabbitmq.start()
    wait_for(lambda: _post(standalone, payload={"number": 3}, tag="after")[0] == 202)
    _wait_for(2, standalone)
    assert standalone.stop()[0] == 0


def test_a_sensor_that_fails_ends_it(bell):
    standalone = bell()
    _post(standalone, how="fail")
    assert standalone.wait() == 1
    assert "broken as told" in "".join(standalone.errors)


def _refusal(folder, *options):
    standalone = Standalone(folder, "--no-sensor", *options, ready=False)
    return standalone.wait(), "".join(standalone.errors)


@pytest.mark.parametrize(
    "path, text, reason",
    [
        ("actions/new.yaml", "name: new\nrunner_type: winrm-cmd\n", "'winrm-cmd'"),
        ("actions/new.yaml", "name: new\nrunner_type: noop\nodd: 1\n", "['odd']"),
        (
            "actions/new.yaml",
            "name: new\nrunner_type: noop\nparameters: {a: {typ: string}}\n",
            "['typ']",
        ),
        (
            "actions/new.yaml",
            "name: new\nrunner_type: orquesta\nentry_point: ../workflows/x.yaml\n",
            "'../workflows/x.yaml'",
        ),
        ("actions/new.yaml", "name: [", "new.yaml: "),
        (
            "actions/new.yaml",
            "name: new\nrunner_type: python-script\nentry_point: none.py\n",
            "'none.py'",
        ),
        (
            "rules/new.yaml",
            "name: new\ntrigger: {type: probe.ping}\naction: {ref: core.noop}\n"
            "criteria: {trigger.a: {type: like, pattern: b}}\n",
            "'like'",
        ),
        (
            "rules/new.yaml",
            "name: new\ntrigger: {type: core.st2.CronTimer}\naction: {ref: core.noop}\n",
            "'core.st2.CronTimer'",
        ),
        (
            "rules/new.yaml",
            "name: new\ntrigger: {type: probe.ping}\n"
            "action: {ref: core.noop, parameters: {a: '{{ 1 | decrypt_kv }}'}}\n",
            "'decrypt_kv'",
        ),
        (
            "policies/new.yaml",
            "name: new\nresource_ref: a.b\npolicy_type: action.retry\nparameters: {}\n",
            "'action.retry'",
        ),
        (
            "actions/workflows/chain.yaml",
            "vars: {}\nchain: [{name: a}]\n",
            "only chain and default",
        ),
        ("actions/workflows/chain.yaml", "chain: [{name: a, publish: {}}]\n", "['publish']"),
        ("triggers/new.yaml", "name: new\npayload_schema: {type: odd}\n", "payload_schema"),
        ("sensors/new.yaml", "class_name: A\nentry_point: a.py\npoll_interval: 5\n", "polling"),
    ],
)
def test_content_it_does_not_know_is_refused_by_name(tmp_path, path, text, reason):
    code, errors = _refusal(make_pack(tmp_path, **{path: text}))
    assert code == 1 and reason in errors and pathlib.Path(path).name in errors
    assert len(errors.strip().splitlines()) == 1, errors


def test_bad_config_and_taken_ports(tmp_path, bell):
    config = tmp_path / "config.yaml"
    config.write_text("port: 70000\n")
    standalone = bell("--config", str(config), "--state-dir", str(tmp_path), ready=False)
    # The command line's port takes the file's place; the file alone is refused.
    standalone.stop(signal.SIGKILL)
    folder = make_pack(tmp_path / "second", "bell") if (tmp_path / "second").mkdir() is None else 0
    code, errors = _refusal(folder, "--config", str(config), "--state-dir", str(tmp_path))
    assert code == 1 and "70000" in errors and "config.yaml" in errors, errors
    code, errors = _refusal(folder)
    assert code == 1 and "state_dir" in errors, errors
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        taken = str(listener.getsockname()[1])
        code, errors = _refusal(folder, "--api-port", taken, "--state-dir", str(tmp_path))
        assert code == 1 and f"API port {taken}" in errors, errors
        standalone = bell("--port", taken, ready=False)
        assert standalone.wait() == 1
        assert "in use" in "".join(standalone.errors), standalone.errors


def test_config_from_a_file_over_the_defaults(tmp_path):
    folder = make_pack(tmp_path)
    config = tmp_path / "given.yaml"
    config.write_text("greeting: '{{ st2kv.system.hail }}'\nnested: {other: 1}\n")
    standalone = Standalone(folder, "--no-sensor", "--config", str(config), "--kv", "hail=ave")
    try:
        execution = standalone.run("probe.show", text="x")
        assert execution["result"]["result"]["config"] == {
            "greeting": "ave",
            "secret_word": "open-sesame",
            "nested": {"other": 1, "depth": 3},
        }
    finally:
        standalone.stop()


def test_another_pack(tmp_path):
    folder = make_pack(tmp_path, "probe", **{"more/pack.yaml": "ref: more\nname: more\n"})
    (folder / "more" / "actions").mkdir()
    action = "name: hello\nrunner_type: local-shell-cmd\nparameters:\n"
    action += "  cmd: {type: string, default: echo hello, immutable: true}\n"
    (folder / "more" / "actions" / "hello.yaml").write_text(action)
    standalone = Standalone(folder, "--no-sensor", "--pack", str(folder / "more"))
    try:
        assert standalone.run("more.hello")["result"]["stdout"] == "hello"
        assert os.path.exists(str(folder / "standalone"))
    finally:
        standalone.stop()


def test_a_changed_rule_changes_what_happens(tmp_path):
    rule = "name: backstop\nenabled: true\ntrigger: {type: probe.ping}\n"
    rule += "action: {ref: core.echo, parameters: {message: '{{ trigger.name }}'}}\n"
    standalone = Standalone(make_pack(tmp_path, **{"rules/backstop.yaml": rule}), "--no-sensor")
    try:
        instance = standalone.dispatch("probe.ping", {"name": "else"}, "changed")
        (enforcement,) = standalone.enforcements(instance)
        execution = standalone.ended(enforcement["execution_id"])
        assert execution["result"]["stdout"] == "else"
    finally:
        standalone.stop()
