"""The endpoint reports unavailable dependencies, and resumes when they become available."""

from __future__ import annotations

import glob
import json
import logging
import os
import resource
import socket
import sqlite3
import subprocess
import threading
import time

import pytest

import poundcake
from poundcake.config import load
from poundcake.endpoint import (
    filesystem,
    installation,
    journal_keeper,
    pipeline,
    service,
    supervisor,
)
from poundcake.endpoint.announcer import Announcer
from poundcake.endpoint.journal import JournalError
from poundcake.endpoint.journal_schema import VERSION
from poundcake.endpoint.pipeline import Pipeline
from poundcake.endpoint.service import Endpoint
from poundcake.trail import database, pause
from poundcake.trail.audit import Actor
from poundcake.trail.database import DatabaseError
from tests import services
from tests.lib import endpoint_process
from tests.lib.endpoints import (
    ENDPOINT_CLASSES,
    RUNTIMES,
    InThreads,
    Patched,
    Unpatched,
    message,
    permission_enforcing_prefix,
)
from tests.lib.samples import alert, webhook
from tests.waiting import wait_for

SHORT_RETRIES = {"endpoint.supervisor.RETRY_SECONDS": 0.2}
PAGE_BYTES = 4096


@pytest.fixture(params=RUNTIMES)
def start_endpoint(request, tmp_path):
    """Return a function that starts an endpoint that retries often, without waiting for it."""
    endpoints = []

    def factory(**config):
        new_endpoint = ENDPOINT_CLASSES[request.param](tmp_path, SHORT_RETRIES, **config).start()
        endpoints.append(new_endpoint)
        return new_endpoint

    yield factory
    for new_endpoint in endpoints:
        new_endpoint.stop()


@pytest.fixture
def start_in_threads(tmp_path):
    """Like start_endpoint, but every endpoint runs in this process."""
    endpoints = []

    def factory(**config):
        endpoints.append(InThreads(tmp_path, SHORT_RETRIES, **config).start())
        return endpoints[-1]

    yield factory
    for new_endpoint in endpoints:
        new_endpoint.stop()


@pytest.fixture
def read_log(caplog, tmp_path):
    """Return a function that reads the log of the endpoints."""

    def read():
        file = tmp_path / "log"  # of an endpoint in a separate process
        return file.read_text(errors="replace") if file.exists() else caplog.text

    return read


@pytest.fixture
def wait_for_retry(read_log):
    """Return a function that waits until the log announces retries, and then for a few of them."""

    def wait():
        wait_for(lambda: "retrying until it works" in read_log())
        time.sleep(0.5)  # longer than RETRY_SECONDS

    return wait


def query(path, statement):
    """Run a statement on a separate connection, and return its rows."""
    connection = sqlite3.connect(str(path), timeout=20, isolation_level=None)
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()


def get_component(endpoint, name):
    return endpoint.get("/api/v1/health").json["components"][name]


def has_status(endpoint, request_id, *statuses):
    return endpoint.get("/api/v1/status/" + request_id).json["status"] in statuses


class TestRecovery:
    def test_the_endpoint_starts_once_its_port_is_free(self, start_endpoint, wait_for_retry):
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", 0))
            listener.listen(1)
            endpoint = start_endpoint(port=listener.getsockname()[1])
            wait_for_retry()
            assert endpoint.is_alive
        endpoint.ready()
        assert endpoint.post(webhook()).status == 202

    def test_the_endpoint_works_once_its_state_directory_can_be_created(
        self, start_endpoint, tmp_path
    ):
        """Even root cannot create it while a file has the name of its parent folder."""
        (tmp_path / "blocking-file").write_text("")
        state = tmp_path / "blocking-file" / "state"
        endpoint = start_endpoint(state_dir=str(state)).ready(journal=False)
        response = endpoint.post(webhook(alert()))
        assert response.status == 503
        assert "blocking-file" in response.json["detail"]
        assert response.headers["content-type"] == "application/problem+json"
        health = endpoint.get("/api/v1/health")
        assert (health.status, health.json["status"]) == (503, "unavailable")
        assert health.json["components"]["journal"]["state"] == "down"
        assert "blocking-file" in health.json["components"]["journal"]["detail"]
        assert endpoint.get("/api/v1/health/live").status == 200
        assert endpoint.get("/api/v1/executions/recent").status == 503
        # Not 404, because the unavailable journal may contain this request.
        assert endpoint.get("/api/v1/status/x").status == 503
        (tmp_path / "blocking-file").unlink()
        endpoint.ready()
        assert endpoint.post(webhook(alert())).status == 202

    def test_an_endpoint_waits_while_its_state_directory_is_in_use(self, start_in_threads):
        first_endpoint = start_in_threads().ready()
        second_endpoint = start_in_threads(port=services.free_port()).ready(journal=False)
        wait_for_refusal(second_endpoint, "another endpoint")
        first_endpoint.stop()
        second_endpoint.ready()

    def test_a_journal_of_another_release_is_not_changed(self, start_in_threads, tmp_path):
        endpoint = start_in_threads().ready()
        request_id = endpoint.accept(webhook())
        endpoint.stop()
        path = tmp_path / "state" / "journal.sqlite"
        query(path, "PRAGMA user_version = 99")
        endpoint.start().ready(journal=False)
        wait_for_refusal(endpoint, "another release")
        assert "another release" in get_component(endpoint, "journal")["detail"]
        assert query(path, "SELECT request_id FROM requests") == [(request_id,)]
        query(path, f"PRAGMA user_version = {VERSION}")
        endpoint.ready()
        assert endpoint.post(webhook()).status == 202

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
    def test_an_unusable_configuration_does_not_stop_the_endpoint(
        self, start_in_threads, wait_for_retry, read_log, config
    ):
        endpoint = start_in_threads(**config)
        wait_for_retry()
        assert "configuration: {}: ".format(*config) in read_log()
        assert endpoint.is_alive
        with pytest.raises(OSError):
            endpoint.client()

    @pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "x" * 100, "192.0.2.1"])
    def test_an_unusable_address_does_not_stop_the_endpoint(
        self, start_in_threads, wait_for_retry, host
    ):
        endpoint = start_in_threads(host=host, auth_tokens=["the-token-in-use"])
        wait_for_retry()
        assert endpoint.is_alive

    def test_a_token_file_can_be_created_after_the_start(
        self, start_in_threads, wait_for_retry, tmp_path
    ):
        endpoint = start_in_threads(auth_tokens=["file:{}".format(tmp_path / "token")])
        wait_for_retry()
        (tmp_path / "token").write_text("the-token-in-use\n")
        wait_for(lambda: endpoint.is_alive and self.is_live(endpoint))
        assert endpoint.post(webhook()).status == 401
        wait_for(
            lambda: endpoint.post(webhook(), Authorization="Bearer the-token-in-use").status == 202
        )

    def is_live(self, endpoint):
        try:
            return endpoint.get("/api/v1/health/live").status == 200
        except OSError:
            return False

    def test_requests_wait_while_the_broker_is_unavailable(self, start_endpoint):
        endpoint = start_endpoint().ready()
        endpoint.set_broker(up=False)
        request_id = endpoint.accept(webhook(alert()))
        wait_for(
            lambda: endpoint.get("/api/v1/health").json["components"]["broker"]["state"] == "down"
        )
        health = endpoint.get("/api/v1/health")
        assert (health.status, health.json["status"]) == (200, "degraded")
        assert endpoint.get("/api/v1/health/ready").status == 200
        response = endpoint.get("/api/v1/status/" + request_id).json
        assert (response["status"], response["blocked_by"]) == (
            "accepted",
            "broker: the broker is down",
        )
        endpoint.set_broker(up=True)
        wait_for(lambda: has_status(endpoint, request_id, "recorded"))
        wait_for(lambda: endpoint.get("/api/v1/health").json["status"] == "ok")

    def test_requests_wait_for_a_database_that_is_unavailable_at_startup(
        self, start_endpoint, mariadb, mariadb_url
    ):
        mariadb.stop()
        endpoint = start_endpoint(database_url=mariadb_url).ready()
        request_id = endpoint.accept(webhook(alert()))
        health = wait_for(
            lambda: [
                report
                for report in [endpoint.get("/api/v1/health").json]
                if report["components"]["database"]["state"] == "down"
            ]
        )[0]
        assert (health["status"], health["database"]) == ("degraded", "MariaDB")
        assert mariadb.password not in json.dumps(health)
        started_at = time.monotonic()
        response = endpoint.get("/api/v1/executions/recent")
        assert response.status == 503 and time.monotonic() - started_at < 8
        assert mariadb.password not in response.body.decode()
        response = endpoint.get("/api/v1/status/" + request_id)
        assert (response.status, response.json["status"]) == (200, "accepted")
        assert mariadb.password not in response.body.decode()
        assert endpoint.post(webhook()).status == 202
        mariadb.start()
        wait_for(lambda: has_status(endpoint, request_id, "recorded"))


def test_the_state_of_the_broker_is_known_before_the_first_request(start_endpoint):
    """After a start, the state used to be unknown until the first request."""
    endpoint = start_endpoint().ready()
    wait_for(lambda: get_component(endpoint, "broker")["state"] == "ok")
    assert endpoint.published() == []


def test_a_restart_resumes_the_requests_of_the_journal(start_endpoint, read_log, caplog):
    endpoint = start_endpoint().ready()
    endpoint.set_broker(up=False)
    ids = [endpoint.accept(webhook(alert(str(n)))) for n in range(5)]
    endpoint.stop()
    endpoint.set_broker(up=True)
    with caplog.at_level("INFO"):
        endpoint.start().ready()
    assert "resuming 5 requests from the journal" in read_log()
    for request_id in ids:
        wait_for(lambda: has_status(endpoint, request_id, "recorded"))

    def list_emitted():
        return [p["alert_name"] for t, p, _ in endpoint.published() if t == "poundcake.alert"]

    wait_for(lambda: len(list_emitted()) == 5)
    assert len(set(list_emitted())) == 5


class TestDamage:
    """The readable requests of a damaged journal are kept; see test_quarantine.py."""

    def overwrite_pages(self, path, pages=0):
        """Overwrite pages of requests in a file in use: this many, or all but the first if 0."""
        while query(path, "PRAGMA wal_checkpoint(TRUNCATE)")[0][0]:
            pass  # busy: the endpoint is reading or writing
        query(path, f"PRAGMA user_version = {VERSION}")  # other connections drop their caches
        query(path, "PRAGMA wal_checkpoint(TRUNCATE)")
        data = path.read_bytes()
        count = len(data) // PAGE_BYTES
        page_numbers = [
            n for n in range(2, count) if b"/webhook" in data[n * PAGE_BYTES : (n + 1) * PAGE_BYTES]
        ]
        with open(str(path), "r+b") as file:
            for page in page_numbers[1 : 1 + pages] if pages else range(1, count):
                file.seek(page * PAGE_BYTES)
                file.write(bytes(PAGE_BYTES))

    def test_a_journal_damaged_while_the_endpoint_runs_is_quarantined(
        self, start_endpoint, tmp_path, read_log
    ):
        endpoint = start_endpoint().ready()
        path = tmp_path / "state" / "journal.sqlite"
        endpoint.set_broker(up=False)
        ids = [endpoint.accept(webhook(alert(str(n), labels={"x": "y" * 999}))) for n in range(60)]
        self.overwrite_pages(path, pages=1)
        endpoint.set_broker(up=True)  # the announcer reads the waiting requests
        quarantined = wait_for(lambda: get_component(endpoint, "journal").get("set_aside"), 60)[0]
        endpoint.ready()
        health = endpoint.get("/api/v1/health").json
        assert (health["status"], health["components"]["journal"]["state"]) == ("degraded", "ok")
        for text in (quarantined["file"], "{} requests were saved".format(quarantined["saved"])):
            assert text in health["components"]["journal"]["detail"]
            assert text in read_log()
        assert os.path.exists(quarantined["file"])
        assert quarantined["saved"] + quarantined["lost"] == 60 and 0 < quarantined["lost"] < 20
        saved_ids = [i for i in ids if endpoint.get("/api/v1/status/" + i).status == 200]
        # Requests that were recorded before the damage was noticed are in the tables.
        assert len(saved_ids) >= quarantined["saved"]
        for request_id in saved_ids:
            wait_for(lambda: has_status(endpoint, request_id, "recorded"))
        assert endpoint.post(webhook()).status == 202
        for name in os.listdir(str(path.parent)):
            if "corrupt" in name:
                (path.parent / name).unlink()
        assert endpoint.get("/api/v1/health").json["status"] == "ok"

    def test_a_file_that_is_not_a_database_is_quarantined_at_the_start(
        self, start_endpoint, tmp_path
    ):
        (tmp_path / "state").mkdir()
        (tmp_path / "state" / "journal.sqlite").write_bytes(b"this is not a database" * 99)
        endpoint = start_endpoint().ready()
        (quarantined,) = get_component(endpoint, "journal")["set_aside"]
        assert (quarantined["saved"], quarantined["unread_bytes"]) == (0, 22 * 99)
        with open(quarantined["file"], "rb") as file:
            assert file.read() == b"this is not a database" * 99
        assert endpoint.post(webhook()).status == 202
        endpoint.stop()
        endpoint.start().ready()  # a later start reports it as well
        assert get_component(endpoint, "journal")["set_aside"] == [quarantined]

    def test_a_journal_damaged_again_soon_is_not_quarantined_again(self, start_endpoint, tmp_path):
        """Responses contain the reason until an operator removes the quarantined file."""
        endpoint = start_endpoint().ready()
        endpoint.set_broker(up=False)
        path = tmp_path / "state" / "journal.sqlite"
        endpoint.accept(webhook())
        self.overwrite_pages(path)
        post_refused(endpoint)
        endpoint.ready()
        files = list_quarantined_files(path)
        self.overwrite_pages(path)
        wait_for_refusal(endpoint, "check the disk")
        assert "check the disk" in get_component(endpoint, "journal")["detail"]
        assert endpoint.get("/api/v1/health").status == 503
        assert list_quarantined_files(path) == files and len(files) == 1
        os.remove(files[0])  # as an operator does
        endpoint.ready()
        assert endpoint.post(webhook()).status == 202
        assert len(list_quarantined_files(path)) == 1


def list_quarantined_files(path):
    return glob.glob(str(path) + ".corrupt-*Z")


def post_refused(endpoint):
    """Post a webhook that the endpoint must refuse with 503, and return the response."""
    response = endpoint.post(webhook(alert(labels={"x": "y" * 20000})))
    assert response.status == 503
    return response


def wait_for_refusal(endpoint, reason):
    """Wait until a 503 contains this reason. Another thread opens the journal."""
    wait_for(lambda: reason in post_refused(endpoint).json["detail"])


@pytest.fixture(params=[Patched, Unpatched])
def create_endpoint(request, tmp_path):
    """Return a function that creates an endpoint in a separate process, without starting it."""
    endpoints = []

    def factory(**config):
        endpoints.append(request.param(tmp_path, SHORT_RETRIES, **config))
        return endpoints[-1]

    yield factory
    for new_endpoint in endpoints:
        new_endpoint.stop()


@pytest.fixture
def small_disk(tmp_path):
    """Return the path of a file system with 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, check=False).returncode != 0:
        pytest.skip("mounting a file system requires root and a host that permits it")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


class TestDisk:
    """A full or read-only disk neither loses an accepted request nor stops the process."""

    def check_recovery(self, endpoint, ids, free_space, reason):
        response = post_refused(endpoint)
        assert response.headers["content-type"] == "application/problem+json"
        assert reason in response.json["detail"]
        health = endpoint.get("/api/v1/health")
        assert (health.status, health.json["status"]) == (503, "unavailable")
        assert reason in health.json["components"]["journal"]["detail"]
        assert endpoint.get("/api/v1/status/" + ids[0]).json["status"] == "accepted"
        free_space()
        endpoint.ready()  # without a webhook, because a load balancer would not send one
        ids.append(endpoint.accept(webhook(alert("later"))))
        assert set(ids) <= {entry.request_id for entry in endpoint.entries()}
        assert list_quarantined_files(endpoint.config["state_dir"] + "/journal.sqlite") == []
        endpoint.set_broker(up=True)
        for request_id in ids:
            wait_for(lambda: has_status(endpoint, request_id, "recorded", "completed"))

    def test_a_full_disk_loses_no_accepted_request(self, create_endpoint, small_disk, tmp_path):
        tracking_url = "sqlite:///{}".format(tmp_path / "tracking.sqlite")
        endpoint = create_endpoint(state_dir=str(small_disk / "state"), database_url=tracking_url)
        endpoint.start().ready()
        endpoint.set_broker(up=False)
        ids = []
        with open(str(small_disk / "filler"), "wb") as filler:
            # Unbuffered, because closing a buffered file would try to write the remainder again.
            os.write(filler.fileno(), bytes(500000))
        while True:
            response = endpoint.post(webhook(alert(labels={"x": "y" * 20000})))
            if response.status != 202:
                break
            ids.append(response.json["request_id"])
            assert len(ids) < 100
        assert ids
        self.check_recovery(endpoint, ids, (small_disk / "filler").unlink, "full")

    def test_a_view_does_not_wait_for_free_space(self, small_disk, monkeypatch):
        engine = database.open_engine("sqlite:///{}".format(small_disk / "tracking.sqlite"))
        with open(str(small_disk / "filler"), "wb") as filler:
            while os.write(filler.fileno(), bytes(4096)) == 4096:
                if os.statvfs(str(small_disk)).f_bavail == 0:
                    break
        monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("the view waited"))
        with pytest.raises(DatabaseError, match="full"):
            database.prepare(engine)

    def test_a_file_size_limit_loses_no_accepted_request(self, create_endpoint, tmp_path):
        """The limit is the current size of the journal, so the next request does not fit."""
        endpoint = create_endpoint().start().ready()
        endpoint.set_broker(up=False)
        ids = [endpoint.accept(webhook(alert(labels={"x": "y" * 9000}))) for _ in range(40)]
        size = (tmp_path / "state" / "journal.sqlite-wal").stat().st_size
        assert size > (tmp_path / "log").stat().st_size
        old_limits = resource.prlimit(endpoint.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(endpoint.process.pid, resource.RLIMIT_FSIZE, (size, old_limits[1]))

        def lift_limit():
            resource.prlimit(endpoint.process.pid, resource.RLIMIT_FSIZE, old_limits)

        self.check_recovery(endpoint, ids, lift_limit, "disk I/O error")

    def test_an_unwritable_state_directory_is_reported_until_it_is_writable(
        self, create_endpoint, tmp_path
    ):
        state = tmp_path / "state"
        state.mkdir(mode=0o555)
        endpoint = create_endpoint()
        endpoint.prefix = permission_enforcing_prefix()
        endpoint.start().ready(journal=False)
        wait_for_refusal(endpoint, "Permission denied")
        assert str(state) in get_component(endpoint, "journal")["detail"]
        state.chmod(0o755)
        endpoint.ready()
        request_id = endpoint.accept(webhook())
        # The endpoint can still write to the files that it has opened.
        state.chmod(0o555)
        assert endpoint.post(webhook()).status == 202
        assert endpoint.get("/api/v1/health/ready").status == 200
        state.chmod(0o755)
        endpoint.stop()
        assert request_id in [entry.request_id for entry in endpoint.entries()]


class TestBounds:
    @pytest.mark.parametrize("headers", [{}, {"Expect": "100-continue"}])
    def test_no_body_is_requested_when_the_backlog_limit_is_reached(self, start_endpoint, headers):
        endpoint = start_endpoint(backlog_limit=2).ready()
        endpoint.set_broker(up=False)
        for _ in range(2):
            endpoint.accept(webhook(alert()))
        with endpoint.client() as client:
            head = message("POST", "/api/v1/webhook", b"", Content_Length="100000", **headers)
            client.send(head)
            response = client.read()
        assert (response.status, response.headers["connection"]) == (503, "close")
        assert "backlog_limit" in response.json["detail"]
        assert len(endpoint.entries()) == 2


class TestInternalFaults:
    """The endpoint recovers from a fault inside its own code, at any moment."""

    @pytest.fixture
    def short_intervals(self, monkeypatch):
        monkeypatch.setattr(supervisor, "RETRY_SECONDS", 0.02)
        monkeypatch.setattr(supervisor, "TICK_SECONDS", 0.01)

    def run_until(self, endpoint_service, condition):
        thread = threading.Thread(target=endpoint_service.run, daemon=True)
        thread.start()
        try:
            wait_for(condition)
            assert thread.is_alive()
        finally:
            endpoint_service.stop()
            thread.join(10)

    @pytest.mark.parametrize(
        "module, name",
        [
            (service, "load"),
            (service, "Server"),
            (journal_keeper, "Journal"),
            (installation, "Pipeline"),
        ],
    )
    def test_a_programming_error_does_not_stop_the_endpoint(
        self, tmp_path, monkeypatch, caplog, short_intervals, module, name
    ):
        endpoint_service, _ = self.create(tmp_path)
        original, attempts = getattr(module, name), []

        def fail_three_times(*args):
            attempts.append(1)
            if len(attempts) < 4:
                raise KeyError("a fault")
            return original(*args)

        monkeypatch.setattr(module, name, fail_three_times)
        self.run_until(endpoint_service, lambda: endpoint_service.journal and len(attempts) == 4)
        assert caplog.text.count("cannot be started") == 1  # with a traceback
        assert caplog.text.count("retrying until it works") == 1

    @pytest.mark.parametrize("error", [JournalError, RuntimeError])
    def test_a_pipeline_that_cannot_start_closes_the_journal(
        self, tmp_path, monkeypatch, short_intervals, error
    ):
        endpoint_service, _ = self.create(tmp_path)
        original_start, attempts = Pipeline.start, []

        def fail_three_times(pipeline):
            attempts.append(1)
            if len(attempts) < 4:
                raise error("can't start new thread")
            return original_start(pipeline)

        monkeypatch.setattr(Pipeline, "start", fail_three_times)
        self.run_until(endpoint_service, lambda: endpoint_service.journal)

    def test_a_failed_journal_is_checked_until_it_works(
        self, tmp_path, monkeypatch, short_intervals
    ):
        """The retries do not depend on further requests."""
        endpoint_service, _ = self.create(tmp_path)
        statuses = []

        def check():
            statuses.append(endpoint_service.health()["status"])
            if len(statuses) < 4:
                raise JournalError("full")

        def break_journal():
            if endpoint_service.journal:
                monkeypatch.setattr(endpoint_service.journal, "check", check)
                endpoint_service.note_journal_failure("full")
                return True
            return False

        self.run_until(
            endpoint_service,
            lambda: (
                statuses
                or (
                    break_journal()
                    and wait_for(lambda: endpoint_service.health()["status"] == "ok")
                )
            ),
        )
        assert statuses == ["unavailable"] * 4

    def test_a_request_is_not_reported_as_unknown_while_the_journal_is_unreadable(
        self, tmp_path, monkeypatch, short_intervals
    ):
        endpoint_service, port = self.create(tmp_path)
        probe = InThreads(tmp_path, port=port)

        def fail(request_id):
            raise JournalError("disk I/O error")

        def unreadable_status_is_503():
            if not endpoint_service.journal or not services.accepts_connections(port):
                return False
            wait_for(lambda: probe.get("/api/v1/status/x").status == 404)
            monkeypatch.setattr(endpoint_service.journal, "find", fail)
            response = probe.get("/api/v1/status/x")
            assert (response.status, response.json["detail"]) == (503, "disk I/O error")
            return True

        self.run_until(endpoint_service, unreadable_status_is_503)

    def test_a_journal_that_the_pipeline_finds_damaged_is_quarantined(
        self, tmp_path, monkeypatch, short_intervals
    ):
        endpoint_service, _ = self.create(tmp_path)
        original_start, attempts = Pipeline.start, []

        def fail_once(pipeline):
            attempts.append(1)
            if len(attempts) == 1:
                file = pipeline._dependencies.journal._file
                raise file.note_failure(sqlite3.DatabaseError("malformed"))
            return original_start(pipeline)

        monkeypatch.setattr(Pipeline, "start", fail_once)
        self.run_until(endpoint_service, lambda: endpoint_service.journal)
        assert len(list_quarantined_files(tmp_path / "state" / "journal.sqlite")) == 1

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    def test_an_ended_thread_is_restarted(self, tmp_path, monkeypatch, caplog, short_intervals):
        """Requests used to wait for a dead thread while health was ok."""
        endpoint_service, port = self.create(tmp_path)
        probe = InThreads(tmp_path, port=port)
        poll_recorded, killed = Announcer.poll_recorded, []

        def kill(announcer):
            if not killed:
                killed.append(1)
                raise SystemExit  # as when eventlet kills a green thread
            return poll_recorded(announcer)

        monkeypatch.setattr(Announcer, "poll_recorded", kill)

        def request_is_recorded():
            if not killed or not services.accepts_connections(port):
                return False
            request_id = probe.accept(webhook(alert()))
            wait_for(lambda: has_status(probe, request_id, "recorded"))
            return True

        self.run_until(endpoint_service, request_is_recorded)
        assert "has ended; it is being restarted" in caplog.text

    def test_the_warning_about_a_state_dir_in_memory_is_logged_once(
        self, tmp_path, monkeypatch, caplog, short_intervals
    ):
        (tmp_path / "mounts").write_text(f"x / ext4 rw 0 0\nx {tmp_path} tmpfs rw 0 0\n")
        monkeypatch.setattr(filesystem, "_MOUNTS", str(tmp_path / "mounts"))
        endpoint_service, _ = self.create(tmp_path)
        self.run_until(
            endpoint_service,
            lambda: endpoint_service.journal and endpoint_service.health()["status"] == "ok",
        )
        assert caplog.text.count("is on tmpfs, which is cleared on reboot") == 1

    def test_each_state_is_logged_once(self, tmp_path, monkeypatch, caplog, short_intervals):
        endpoint_service, port = self.create(tmp_path)
        attempts, listen = [], endpoint_service._listen
        monkeypatch.setattr(
            endpoint_service, "_listen", lambda *args: attempts.append(1) or listen(*args)
        )
        (tmp_path / "state").write_text("")
        with socket.socket() as listener, caplog.at_level("INFO"):
            listener.bind(("127.0.0.1", port))
            listener.listen(1)
            thread = threading.Thread(target=endpoint_service.run, daemon=True)
            thread.start()
            wait_for(lambda: len(attempts) > 5)
        (tmp_path / "state").unlink()
        wait_for(
            lambda: (
                endpoint_service.journal and endpoint_service.health()["status"] != "unavailable"
            )
        )
        wait_for(lambda: "webhooks at http" in caplog.text)
        endpoint_service.stop()
        thread.join(10)
        assert caplog.text.count(f"cannot listen on 127.0.0.1:{port}") == 1
        assert caplog.text.count("journal: down") == 1
        assert caplog.text.count("webhooks at http") == 1
        assert caplog.text.count("journal: works again") == 1

    @pytest.mark.parametrize(
        ("config", "credentials", "mode"),
        [
            ({}, "none, so only loopback names are answered", "dry run, so nothing is changed"),
            (
                {"dry_run": False, "basic_auth": "on-call:a-hidden-password"},
                "basic",
                "live, so remediations make changes; paused by anna: 'a test'",
            ),
        ],
    )
    def test_one_line_describes_the_endpoint_when_it_starts(
        self, tmp_path, caplog, config, credentials, mode
    ):
        path = tmp_path / "tracking.sqlite"
        url = f"sqlite:///{path}"
        if "paused" in mode:
            engine = database.open_engine(url)
            pause.pause(engine, Actor("anna", ""), "a test", create=True)
        endpoint_service, port = self.create(tmp_path, database_url=url, **config)
        with caplog.at_level("INFO"):
            self.run_until(endpoint_service, lambda: "webhooks at" in caplog.text)
        (line,) = [r.getMessage() for r in caplog.records if "webhooks at" in r.getMessage()]
        assert line == (
            f"poundcake {poundcake.__version__}: webhooks at "
            f"http://127.0.0.1:{port}/api/v1/webhook; credentials: {credentials}; "
            f"database: {url}; mode: {mode}"
        )
        assert "hidden-password" not in caplog.text

    def test_the_start_is_logged_while_the_database_is_down(
        self, tmp_path, caplog, short_intervals
    ):
        url = f"mysql+pymysql://poundcake:a-hidden-password@127.0.0.1:{services.free_port()}/trail"
        endpoint_service, _ = self.create(tmp_path, database_url=url)
        with caplog.at_level("INFO"):
            self.run_until(endpoint_service, lambda: "webhooks at" in caplog.text)
        assert "database: down: " in caplog.text and "hidden-password" not in caplog.text

    def test_a_pause_is_logged_when_it_begins_and_when_it_ends(self, tmp_path, monkeypatch, caplog):
        monkeypatch.setattr(pipeline, "PAUSE_WAIT", 0.05)
        url = f"sqlite:///{tmp_path / 'tracking.sqlite'}"
        endpoint_service, _ = self.create(tmp_path, database_url=url)
        thread = threading.Thread(target=endpoint_service.run, daemon=True)
        with caplog.at_level("INFO"):
            thread.start()
            wait_for(lambda: "webhooks at" in caplog.text)
            engine = database.open_engine(url)
            pause.pause(engine, Actor("anna", ""), "a\nforged line")
            wait_for(lambda: "changes are paused by anna: 'a\\nforged line'" in caplog.text)
            pause.resume(engine, Actor("anna", ""))
            wait_for(lambda: "changes are no longer paused" in caplog.text)
            endpoint_service.stop()
        thread.join(10)
        assert caplog.text.count("changes are paused") == 1

    def test_the_interval_between_retries_grows(self, tmp_path, monkeypatch, short_intervals):
        endpoint_service, _ = self.create(tmp_path, host="0.0.0.0")
        times = []
        monkeypatch.setattr(
            service, "load", lambda config: times.append(time.monotonic()) or load(config)
        )
        self.run_until(endpoint_service, lambda: len(times) > 5)
        waits = [later - earlier for earlier, later in zip(times, times[1:])]
        assert all(wait >= 0.02 * minimum for wait, minimum in zip(waits, (2, 4, 8, 10, 10)))

    def create(self, tmp_path, **config):
        """Return an endpoint that is not running yet, and its port."""
        full_config = {"state_dir": str(tmp_path / "state"), "port": services.free_port()}
        full_config.update(config)
        log = logging.getLogger("endpoint")
        endpoint = Endpoint(
            full_config,
            endpoint_process.FileBus(str(tmp_path / "published"), full_config),
            lambda validated: endpoint_process.EmptyStackStorm(),
            log,
        )
        return endpoint, full_config["port"]

    def test_a_webhook_during_startup_is_either_accepted_or_refused(self, tmp_path, monkeypatch):
        probe = InThreads(tmp_path, port=services.free_port())
        endpoint_service, _ = self.create(tmp_path, port=probe.port)
        create_pipeline, responses = installation.Pipeline, []

        def post_and_create(*args):
            responses.append(probe.post(webhook()))
            return create_pipeline(*args)

        monkeypatch.setattr(installation, "Pipeline", post_and_create)
        thread = threading.Thread(target=endpoint_service.run, daemon=True)
        thread.start()
        wait_for(lambda: responses)
        probe.ready()
        endpoint_service.stop()
        thread.join(10)
        assert (responses[0].status == 202) == bool(probe.entries())

    def test_the_warning_about_literal_secrets_contains_only_their_names(self, tmp_path, caplog):
        endpoint_service, _ = self.create(tmp_path, auth_tokens=["a-literal-secret"])
        thread = threading.Thread(target=endpoint_service.run, daemon=True)
        with caplog.at_level("DEBUG"):
            thread.start()
            wait_for(lambda: endpoint_service.journal)
            assert endpoint_service.health()["literal_secrets"] == ["auth_tokens"]
            endpoint_service.stop()
            thread.join(10)
        assert "auth_tokens contains a literal secret" in caplog.text
        assert "a-literal-secret" not in caplog.text

    def test_configuration_problems_are_logged(self, tmp_path, caplog):
        endpoint_service, _ = self.create(tmp_path, host="0.0.0.0")
        thread = threading.Thread(target=endpoint_service.run, daemon=True)
        thread.start()
        wait_for(lambda: "auth_tokens" in caplog.text)
        endpoint_service.stop()
        thread.join(10)

    def test_an_endpoint_can_be_stopped_before_it_runs(self, tmp_path):
        endpoint_service, _ = self.create(tmp_path)
        stopped_at = time.monotonic()
        endpoint_service.stop(0.2)
        assert time.monotonic() - stopped_at < 4
