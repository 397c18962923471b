"""The endpoint as a whole: whatever is missing is said, and had as soon as it is there."""

import json
import logging
import os
import socket
import threading
import time

import pytest

from poundcake import endpoint as module
from poundcake.config import load
from poundcake.endpoint import Endpoint
from poundcake.endpoint_client import health, status
from tests import services
from tests.lib import endpoint_process
from tests.lib.endpoints import KINDS, WAYS
from tests.lib.samples import alert, webhook

QUICK = {"endpoint._RETRY": 0.2}


@pytest.fixture(params=WAYS)
def make(request, tmp_path):
    """A function that starts one that tries again quickly, without waiting for it."""
    made = []

    def factory(**config):
        found = KINDS[request.param](tmp_path, QUICK, **config).start()
        made.append(found)
        return found

    yield factory
    for found in made:
        found.stop()


@pytest.fixture
def failed(caplog, tmp_path):
    """A function that waits until one that was made has said that it will try again, and then
    for the time of some more tries."""

    def said():
        log = tmp_path / "log"  # of one in a process of its own
        text = log.read_text(errors="replace") if log.exists() else caplog.text
        return "tried again every" in text

    def wait():
        wait_for(said)
        time.sleep(0.5)

    return wait


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, "not in {} s".format(seconds)
        time.sleep(0.05)


def has_status(endpoint, request_id, *wanted):
    return endpoint.get("/api/v1/status/" + request_id).json["status"] in wanted


class TestRecovers:
    def test_the_port_taken_and_freed(self, make, failed):
        with socket.socket() as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(("127.0.0.1", 0))
            taken.listen(1)
            endpoint = make(port=taken.getsockname()[1])
            failed()
            assert endpoint.alive
        endpoint.ready()
        assert endpoint.post(webhook()).status == 202

    def test_the_state_directory_cannot_be_and_then_can(self, make, tmp_path):
        """A file is where the folder should be: even root cannot write below it."""
        (tmp_path / "in-the-way").write_text("")
        state = tmp_path / "in-the-way" / "state"
        endpoint = make(state_dir=str(state)).ready(journal=False)
        answer = endpoint.post(webhook(alert()))
        assert answer.status == 503
        assert "in-the-way" in answer.json["detail"]
        found = endpoint.get("/api/v1/health")
        assert (found.status, found.json["status"]) == (503, "unavailable")
        assert found.json["components"]["journal"]["state"] == "down"
        assert "in-the-way" in found.json["components"]["journal"]["detail"]
        assert endpoint.get("/api/v1/health/live").status == 200
        assert endpoint.get("/api/v1/executions/recent").status == 503
        assert endpoint.get("/api/v1/status/x").status in (404, 503)
        (tmp_path / "in-the-way").unlink()
        endpoint.ready()
        assert endpoint.post(webhook(alert())).status == 202

    def test_the_state_directory_read_only(self, make, tmp_path):
        if os.geteuid() == 0:
            pytest.skip("root may write anywhere")
        (tmp_path / "state").mkdir(mode=0o555)
        endpoint = make().ready(journal=False)
        assert endpoint.post(webhook()).status == 503
        (tmp_path / "state").chmod(0o755)
        endpoint.ready()
        assert endpoint.post(webhook()).status == 202

    def test_another_has_the_state_directory(self, make):
        first = make().ready()
        second = make(port=services.free_port()).ready(journal=False)
        assert "another endpoint" in second.post(webhook()).json["detail"]
        first.stop()
        second.ready()

    @pytest.mark.parametrize(
        "config",
        [
            {"log_level": "loud"},
            {"host": "0.0.0.0"},
            {"st2_web_url": "http://[bad"},
            {"database_url": "mysql+pymysql://u:p@h:port/db"},
            {"database_url": "sqlite://"},
            {"auth_tokens": ["env:POUNDCAKE_NO_SUCH_VARIABLE"]},
        ],
    )
    def test_a_configuration_that_cannot_be_used_does_not_end_it(self, make, failed, config):
        endpoint = make(**config)
        failed()
        assert endpoint.alive
        with pytest.raises(OSError):
            endpoint.client()

    @pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "x" * 100, "192.0.2.1"])
    def test_an_address_that_cannot_be_had_does_not_end_it(self, make, failed, host):
        endpoint = make(host=host, auth_tokens=["t"])
        failed()
        assert endpoint.alive

    def test_the_token_file_comes_later(self, make, failed, tmp_path):
        endpoint = make(auth_tokens=["file:{}".format(tmp_path / "token")])
        failed()
        (tmp_path / "token").write_text("the-token\n")
        wait_for(lambda: endpoint.alive and self.answers(endpoint))
        assert endpoint.post(webhook()).status == 401
        wait_for(lambda: endpoint.post(webhook(), Authorization="Bearer the-token").status == 202)

    def answers(self, endpoint):
        try:
            return endpoint.get("/api/v1/health/live").status == 200
        except OSError:
            return False

    def test_the_broker_away(self, make):
        endpoint = make().ready()
        endpoint.set_broker(up=False)
        request_id = endpoint.accept(webhook(alert()))
        wait_for(
            lambda: endpoint.get("/api/v1/health").json["components"]["broker"]["state"] == "down"
        )
        found = endpoint.get("/api/v1/health")
        assert (found.status, found.json["status"]) == (200, "degraded")
        assert endpoint.get("/api/v1/health/ready").status == 200
        answer = endpoint.get("/api/v1/status/" + request_id).json
        assert (answer["status"], answer["held_up_by"]) == (
            "accepted",
            "broker: the broker is away",
        )
        endpoint.set_broker(up=True)
        wait_for(lambda: has_status(endpoint, request_id, "recorded"))
        wait_for(lambda: endpoint.get("/api/v1/health").json["status"] == "ok")

    def test_the_database_away_at_the_start(self, make, mariadb, mariadb_url):
        mariadb.stop()
        endpoint = make(database_url=mariadb_url).ready()
        request_id = endpoint.accept(webhook(alert()))
        found = wait_for(
            lambda: [
                f
                for f in [endpoint.get("/api/v1/health").json]
                if f["components"]["database"]["state"] == "down"
            ]
        )[0]
        assert (found["status"], found["database"]) == ("degraded", "MariaDB")
        assert mariadb.password not in json.dumps(found)
        began = time.monotonic()
        answer = endpoint.get("/api/v1/executions/recent")
        assert answer.status == 503 and time.monotonic() - began < 8
        assert mariadb.password not in answer.body.decode()
        answer = endpoint.get("/api/v1/status/" + request_id)
        assert (answer.status, answer.json["status"]) == (200, "accepted")
        assert mariadb.password not in answer.body.decode()
        assert endpoint.post(webhook()).status == 202
        mariadb.start()
        wait_for(lambda: has_status(endpoint, request_id, "recorded"))


def test_a_restart_goes_on_where_the_journal_stood(make):
    endpoint = make().ready()
    endpoint.set_broker(up=False)
    ids = [endpoint.accept(webhook(alert(str(n)))) for n in range(5)]
    endpoint.stop()
    endpoint.set_broker(up=True)
    endpoint.start().ready()
    for request_id in ids:
        wait_for(lambda: has_status(endpoint, request_id, "recorded"))
    names = [p["alert_name"] for t, p, _ in endpoint.published() if t == "poundcake.alert"]
    wait_for(lambda: len([t for t, _, _ in endpoint.published() if t == "poundcake.alert"]) == 5)
    assert len(set(names)) == len(names)


class TestInside:
    """What only shows at a certain moment."""

    def start(self, tmp_path, **config):
        given = {"state_dir": str(tmp_path / "state"), "port": services.free_port()}
        given.update(config)
        log = logging.getLogger("inside")
        found = Endpoint(
            given,
            endpoint_process.FileBus(str(tmp_path / "published"), given),
            lambda checked: endpoint_process.NoStackStorm(),
            log,
        )
        return found, given["port"]

    def test_a_webhook_while_it_starts_is_taken_or_refused_and_never_both(
        self, tmp_path, monkeypatch
    ):
        from tests.lib.endpoints import InThreads

        probe = InThreads(tmp_path, port=services.free_port())
        found, _ = self.start(tmp_path, port=probe.port)
        relay, answers = module.Relay, []

        def late(*args):
            answers.append(probe.post(webhook()))
            return relay(*args)

        monkeypatch.setattr(module, "Relay", late)
        thread = threading.Thread(target=found.run, daemon=True)
        thread.start()
        wait_for(lambda: answers)
        probe.ready()
        found.stop()
        thread.join(10)
        assert (answers[0].status == 202) == bool(probe.entries())

    def test_literal_secrets_are_warned_of_by_name_alone(self, tmp_path, caplog):
        found, _ = self.start(tmp_path, auth_tokens=["hush-hush"])
        thread = threading.Thread(target=found.run, daemon=True)
        with caplog.at_level("DEBUG"):
            thread.start()
            wait_for(lambda: found.journal)
            assert found.health()["literal_secrets"] == ["auth_tokens"]
            found.stop()
            thread.join(10)
        assert "auth_tokens stands in" in caplog.text
        assert "hush-hush" not in caplog.text

    def test_what_is_wrong_is_logged(self, tmp_path, caplog):
        found, _ = self.start(tmp_path, host="0.0.0.0")
        thread = threading.Thread(target=found.run, daemon=True)
        thread.start()
        wait_for(lambda: "auth_tokens" in caplog.text)
        found.stop()
        thread.join(10)

    def test_stopped_before_it_ran(self, tmp_path):
        found, _ = self.start(tmp_path)
        began = time.monotonic()
        found.stop(0.2)
        assert time.monotonic() - began < 4


class TestAskedByActions:
    def test_health_and_status(self, tmp_path):
        running = KINDS["threads"](tmp_path, auth_tokens=["the-token"]).start().ready()
        try:
            config = load({"port": running.port, "auth_tokens": ["the-token"]})
            assert health(config)["status"] in ("ok", "degraded")
            answer = running.post(webhook(), Authorization="Bearer the-token")
            request_id = answer.json["request_id"]
            assert status(config, request_id)["request_id"] == request_id
            assert status(config, "nothing") is None
            assert status(config, "../../health") is None
            wrong = load({"port": running.port, "auth_tokens": ["wrong"]})
            assert health(wrong) is None
            assert status(wrong, request_id) is None
        finally:
            running.stop()

    def test_nobody_there(self):
        config = load({"port": services.free_port()})
        assert health(config) is None
        assert status(config, "x") is None
