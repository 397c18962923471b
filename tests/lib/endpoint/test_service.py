"""The whole endpoint: it reports what is missing, and continues when that is available."""

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

from poundcake.config import load
from poundcake.endpoint import filesystem, installation, journal_keeper, service, supervisor
from poundcake.endpoint.announcer import Announcer
from poundcake.endpoint.journal import JournalError
from poundcake.endpoint.journal_schema import VERSION
from poundcake.endpoint.pipeline import Pipeline
from poundcake.endpoint.service import Endpoint
from poundcake.trail import database
from poundcake.trail.database import DatabaseError
from tests import services
from tests.lib import endpoint_process
from tests.lib.endpoints import (
    KINDS,
    WAYS,
    InThreads,
    Patched,
    Unpatched,
    bound_by_permissions,
    message,
)
from tests.lib.samples import alert, webhook
from tests.waiting import wait_for

QUICK = {"endpoint.supervisor.RETRY_SECONDS": 0.2}
PAGE = 4096


@pytest.fixture(params=WAYS)
def make(request, tmp_path):
    """Return a function that starts an endpoint with short retry waits, without waiting for it."""
    made = []

    def factory(**config):
        running = KINDS[request.param](tmp_path, QUICK, **config).start()
        made.append(running)
        return running

    yield factory
    for running in made:
        running.stop()


@pytest.fixture
def make_here(tmp_path):
    """Return the same function, but always for plain threads."""
    made = []

    def factory(**config):
        made.append(InThreads(tmp_path, QUICK, **config).start())
        return made[-1]

    yield factory
    for running in made:
        running.stop()


@pytest.fixture
def log(caplog, tmp_path):
    """Return a function that returns the log of the endpoints."""

    def text():
        file = tmp_path / "log"  # of an endpoint in a separate process
        return file.read_text(errors="replace") if file.exists() else caplog.text

    return text


@pytest.fixture
def failed(log):
    """Return a function that waits until the log announces a retry, and then a little longer."""

    def wait():
        wait_for(lambda: "retrying until it works" in log())
        time.sleep(0.5)

    return wait


def sql(path, statement):
    """Return all rows of a statement, on a separate connection."""
    connection = sqlite3.connect(str(path), timeout=20, isolation_level=None)
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()


def part(endpoint, name):
    return endpoint.get("/api/v1/health").json["components"][name]


def has_status(endpoint, request_id, *wanted):
    return endpoint.get("/api/v1/status/" + request_id).json["status"] in wanted


class TestRecovers:
    def test_a_port_that_is_taken_and_then_freed(self, make, failed):
        with socket.socket() as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(("127.0.0.1", 0))
            taken.listen(1)
            endpoint = make(port=taken.getsockname()[1])
            failed()
            assert endpoint.alive
        endpoint.ready()
        assert endpoint.post(webhook()).status == 202

    def test_a_state_directory_that_cannot_be_created_at_first(self, make, tmp_path):
        """A file is in the place of the folder, so that even root cannot write below it."""
        (tmp_path / "in-the-way").write_text("")
        state = tmp_path / "in-the-way" / "state"
        endpoint = make(state_dir=str(state)).ready(journal=False)
        answer = endpoint.post(webhook(alert()))
        assert answer.status == 503
        assert "in-the-way" in answer.json["detail"]
        assert answer.headers["content-type"] == "application/problem+json"
        health = endpoint.get("/api/v1/health")
        assert (health.status, health.json["status"]) == (503, "unavailable")
        assert health.json["components"]["journal"]["state"] == "down"
        assert "in-the-way" in health.json["components"]["journal"]["detail"]
        assert endpoint.get("/api/v1/health/live").status == 200
        assert endpoint.get("/api/v1/executions/recent").status == 503
        # The endpoint cannot rule out that the journal contains it.
        assert endpoint.get("/api/v1/status/x").status == 503
        (tmp_path / "in-the-way").unlink()
        endpoint.ready()
        assert endpoint.post(webhook(alert())).status == 202

    def test_another_endpoint_uses_the_state_directory(self, make_here):
        first = make_here().ready()
        second = make_here(port=services.free_port()).ready(journal=False)
        wait_for_refusal(second, "another endpoint")
        first.stop()
        second.ready()

    def test_a_journal_of_another_release_is_not_changed(self, make_here, tmp_path):
        endpoint = make_here().ready()
        request_id = endpoint.accept(webhook())
        endpoint.stop()
        path = tmp_path / "state" / "journal.sqlite"
        sql(path, "PRAGMA user_version = 99")
        endpoint.start().ready(journal=False)
        wait_for_refusal(endpoint, "another release")
        assert "another release" in part(endpoint, "journal")["detail"]
        assert sql(path, "SELECT request_id FROM requests") == [(request_id,)]
        sql(path, f"PRAGMA user_version = {VERSION}")
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
        self, make_here, failed, log, config
    ):
        endpoint = make_here(**config)
        failed()
        assert "configuration: {}: ".format(*config) in log()
        assert endpoint.alive
        with pytest.raises(OSError):
            endpoint.client()

    @pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "x" * 100, "192.0.2.1"])
    def test_an_unusable_address_does_not_stop_the_endpoint(self, make_here, failed, host):
        endpoint = make_here(host=host, auth_tokens=["the-token-in-use"])
        failed()
        assert endpoint.alive

    def test_a_token_file_that_is_created_later(self, make_here, failed, tmp_path):
        endpoint = make_here(auth_tokens=["file:{}".format(tmp_path / "token")])
        failed()
        (tmp_path / "token").write_text("the-token-in-use\n")
        wait_for(lambda: endpoint.alive and self.answers(endpoint))
        assert endpoint.post(webhook()).status == 401
        wait_for(
            lambda: endpoint.post(webhook(), Authorization="Bearer the-token-in-use").status == 202
        )

    def answers(self, endpoint):
        try:
            return endpoint.get("/api/v1/health/live").status == 200
        except OSError:
            return False

    def test_an_unavailable_broker(self, make):
        endpoint = make().ready()
        endpoint.set_broker(up=False)
        request_id = endpoint.accept(webhook(alert()))
        wait_for(
            lambda: endpoint.get("/api/v1/health").json["components"]["broker"]["state"] == "down"
        )
        health = endpoint.get("/api/v1/health")
        assert (health.status, health.json["status"]) == (200, "degraded")
        assert endpoint.get("/api/v1/health/ready").status == 200
        answer = endpoint.get("/api/v1/status/" + request_id).json
        assert (answer["status"], answer["blocked_by"]) == (
            "accepted",
            "broker: the broker is down",
        )
        endpoint.set_broker(up=True)
        wait_for(lambda: has_status(endpoint, request_id, "recorded"))
        wait_for(lambda: endpoint.get("/api/v1/health").json["status"] == "ok")

    def test_a_database_that_is_unavailable_at_the_start(self, make, mariadb, mariadb_url):
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


def test_the_state_of_the_broker_is_known_before_anything_is_published(make):
    """The state was once unknown after every start, until the first request."""
    endpoint = make().ready()
    wait_for(lambda: part(endpoint, "broker")["state"] == "ok")
    assert endpoint.published() == []


def test_a_restart_resumes_the_requests_of_the_journal(make, log, caplog):
    endpoint = make().ready()
    endpoint.set_broker(up=False)
    ids = [endpoint.accept(webhook(alert(str(n)))) for n in range(5)]
    endpoint.stop()
    endpoint.set_broker(up=True)
    with caplog.at_level("INFO"):
        endpoint.start().ready()
    assert "resuming 5 requests from the journal" in log()
    for request_id in ids:
        wait_for(lambda: has_status(endpoint, request_id, "recorded"))
    names = [p["alert_name"] for t, p, _ in endpoint.published() if t == "poundcake.alert"]
    wait_for(lambda: len([t for t, _, _ in endpoint.published() if t == "poundcake.alert"]) == 5)
    assert len(set(names)) == len(names)


class TestDamage:
    """The readable requests of a damaged journal are kept; see test_quarantine.py."""

    def spoil(self, path, pages=0):
        """Overwrite this many pages of entries while an endpoint uses the file; 0: all but one."""
        while sql(path, "PRAGMA wal_checkpoint(TRUNCATE)")[0][0]:
            pass  # the endpoint uses it
        sql(path, f"PRAGMA user_version = {VERSION}")  # makes other connections drop their caches
        sql(path, "PRAGMA wal_checkpoint(TRUNCATE)")
        data = path.read_bytes()
        count = len(data) // PAGE
        page_numbers = [
            n for n in range(2, count) if b"/webhook" in data[n * PAGE : (n + 1) * PAGE]
        ]
        with open(str(path), "r+b") as file:
            for page in page_numbers[1 : 1 + pages] if pages else range(1, count):
                file.seek(page * PAGE)
                file.write(bytes(PAGE))

    def test_damage_while_the_endpoint_runs(self, make, tmp_path, log):
        endpoint = make().ready()
        path = tmp_path / "state" / "journal.sqlite"
        endpoint.set_broker(up=False)
        ids = [endpoint.accept(webhook(alert(str(n), labels={"x": "y" * 999}))) for n in range(60)]
        self.spoil(path, pages=1)
        endpoint.set_broker(up=True)  # the announcer reads the waiting requests
        quarantined = wait_for(lambda: part(endpoint, "journal").get("set_aside"), 60)[0]
        endpoint.ready()
        health = endpoint.get("/api/v1/health").json
        assert (health["status"], health["components"]["journal"]["state"]) == ("degraded", "ok")
        for word in (quarantined["file"], "{} requests were saved".format(quarantined["saved"])):
            assert word in health["components"]["journal"]["detail"]
            assert word in log()
        assert os.path.exists(quarantined["file"])
        assert quarantined["saved"] + quarantined["lost"] == 60 and 0 < quarantined["lost"] < 20
        saved = [i for i in ids if endpoint.get("/api/v1/status/" + i).status == 200]
        # Requests that were recorded before the damage was noticed are in the tables.
        assert len(saved) >= quarantined["saved"]
        for request_id in saved:
            wait_for(lambda: has_status(endpoint, request_id, "recorded"))
        assert endpoint.post(webhook()).status == 202
        for name in os.listdir(str(path.parent)):
            if "corrupt" in name:
                (path.parent / name).unlink()
        assert endpoint.get("/api/v1/health").json["status"] == "ok"

    def test_at_the_start(self, make, tmp_path):
        (tmp_path / "state").mkdir()
        (tmp_path / "state" / "journal.sqlite").write_bytes(b"this is not a database" * 99)
        endpoint = make().ready()
        (quarantined,) = part(endpoint, "journal")["set_aside"]
        assert (quarantined["saved"], quarantined["unread_bytes"]) == (0, 22 * 99)
        with open(quarantined["file"], "rb") as file:
            assert file.read() == b"this is not a database" * 99
        assert endpoint.post(webhook()).status == 202
        endpoint.stop()
        endpoint.start().ready()  # a later start reports it as well
        assert part(endpoint, "journal")["set_aside"] == [quarantined]

    def test_repeated_damage(self, make, tmp_path):
        """The journal is not quarantined again immediately, and responses contain the reason."""
        endpoint = make().ready()
        endpoint.set_broker(up=False)
        path = tmp_path / "state" / "journal.sqlite"
        endpoint.accept(webhook())
        self.spoil(path)
        refused(endpoint)
        endpoint.ready()
        before = quarantined_files(path)
        self.spoil(path)
        wait_for_refusal(endpoint, "check the disk")
        assert "check the disk" in part(endpoint, "journal")["detail"]
        assert endpoint.get("/api/v1/health").status == 503
        assert quarantined_files(path) == before and len(before) == 1
        os.remove(before[0])  # the operator has handled it
        endpoint.ready()
        assert endpoint.post(webhook()).status == 202
        assert len(quarantined_files(path)) == 1


def quarantined_files(path):
    return glob.glob(str(path) + ".corrupt-*Z")


def refused(endpoint):
    """Return the response to a webhook that cannot be accepted now."""
    answer = endpoint.post(webhook(alert(labels={"x": "y" * 20000})))
    assert answer.status == 503
    return answer


def wait_for_refusal(endpoint, words):
    """Wait until a 503 contains these words: the journal is opened in another thread."""
    wait_for(lambda: words in refused(endpoint).json["detail"])


@pytest.fixture(params=[Patched, Unpatched])
def sensor(request, tmp_path):
    """Return a function that creates an endpoint in a separate process, without starting it."""
    made = []

    def factory(**config):
        made.append(request.param(tmp_path, QUICK, **config))
        return made[-1]

    yield factory
    for running in made:
        running.stop()


@pytest.fixture
def small_disk(tmp_path):
    """Return the path of a file system with 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("only root can mount a file system, and not everywhere")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


class TestDisk:
    """A full or read-only disk loses no accepted request, and stops no process."""

    def check_full(self, endpoint, ids, make_room, word):
        answer = refused(endpoint)
        assert answer.headers["content-type"] == "application/problem+json"
        assert word in answer.json["detail"]
        health = endpoint.get("/api/v1/health")
        assert (health.status, health.json["status"]) == (503, "unavailable")
        assert word in health.json["components"]["journal"]["detail"]
        assert endpoint.get("/api/v1/status/" + ids[0]).json["status"] == "accepted"
        make_room()
        endpoint.ready()  # without a webhook, because a load balancer would not send one
        ids.append(endpoint.accept(webhook(alert("later"))))
        assert set(ids) <= {entry[0] for entry in endpoint.entries()}
        assert quarantined_files(endpoint.config["state_dir"] + "/journal.sqlite") == []
        endpoint.set_broker(up=True)
        for request_id in ids:
            wait_for(lambda: has_status(endpoint, request_id, "recorded", "completed"))

    def test_full(self, sensor, small_disk, tmp_path):
        tracking = "sqlite:///{}".format(tmp_path / "tracking.sqlite")
        endpoint = sensor(state_dir=str(small_disk / "state"), database_url=tracking)
        endpoint.start().ready()
        endpoint.set_broker(up=False)
        ids = []
        with open(str(small_disk / "filler"), "wb") as filler:
            # Unbuffered, because a buffer would write the rest again when it is closed.
            os.write(filler.fileno(), bytes(500000))
        while True:
            answer = endpoint.post(webhook(alert(labels={"x": "y" * 20000})))
            if answer.status != 202:
                break
            ids.append(answer.json["request_id"])
            assert len(ids) < 100
        assert ids
        self.check_full(endpoint, ids, (small_disk / "filler").unlink, "full")

    def test_a_view_does_not_wait_for_free_space(self, small_disk, monkeypatch):
        engine = database.open_engine("sqlite:///{}".format(small_disk / "tracking.sqlite"))
        with open(str(small_disk / "filler"), "wb") as filler:
            while os.write(filler.fileno(), bytes(4096)) == 4096:
                if os.statvfs(str(small_disk)).f_bavail == 0:
                    break
        monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waits"))
        with pytest.raises(DatabaseError, match="full"):
            database.prepare(engine)

    def test_a_limit(self, sensor, tmp_path):
        """The same without a file system: no file may grow beyond the journal's current size."""
        endpoint = sensor().start().ready()
        endpoint.set_broker(up=False)
        ids = [endpoint.accept(webhook(alert(labels={"x": "y" * 9000}))) for _ in range(40)]
        size = (tmp_path / "state" / "journal.sqlite-wal").stat().st_size
        assert size > (tmp_path / "log").stat().st_size
        unlimited = resource.prlimit(endpoint.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(endpoint.process.pid, resource.RLIMIT_FSIZE, (size, unlimited[1]))

        def lift():
            resource.prlimit(endpoint.process.pid, resource.RLIMIT_FSIZE, unlimited)

        self.check_full(endpoint, ids, lift, "disk I/O error")

    def test_an_unwritable_state_directory(self, sensor, tmp_path):
        state = tmp_path / "state"
        state.mkdir(mode=0o555)
        endpoint = sensor()
        endpoint.prefix = bound_by_permissions()
        endpoint.start().ready(journal=False)
        wait_for_refusal(endpoint, "Permission denied")
        assert str(state) in part(endpoint, "journal")["detail"]
        state.chmod(0o755)
        endpoint.ready()
        request_id = endpoint.accept(webhook())
        # Open files are still written, and responses contain the reason.
        state.chmod(0o555)
        assert endpoint.post(webhook()).status == 202
        assert endpoint.get("/api/v1/health/ready").status == 200
        state.chmod(0o755)
        endpoint.stop()
        assert request_id in [entry[0] for entry in endpoint.entries()]


class TestBounds:
    @pytest.mark.parametrize("headers", [{}, {"Expect": "100-continue"}])
    def test_over_the_backlog_limit_no_body_is_requested(self, make, headers):
        endpoint = make(backlog_limit=2).ready()
        endpoint.set_broker(up=False)
        for _ in range(2):
            endpoint.accept(webhook(alert()))
        with endpoint.client() as client:
            head = message("POST", "/api/v1/webhook", b"", Content_Length="100000", **headers)
            client.send(head)
            answer = client.read()
        assert (answer.status, answer.headers["connection"]) == (503, "close")
        assert "backlog_limit" in answer.json["detail"]
        assert len(endpoint.entries()) == 2


class TestInside:
    """Faults that occur at a certain moment."""

    @pytest.fixture
    def quick(self, monkeypatch):
        monkeypatch.setattr(supervisor, "RETRY_SECONDS", 0.02)
        monkeypatch.setattr(supervisor, "TICK_SECONDS", 0.01)

    def run_until(self, found, condition):
        thread = threading.Thread(target=found.run, daemon=True)
        thread.start()
        try:
            wait_for(condition)
            assert thread.is_alive()
        finally:
            found.stop()
            thread.join(10)

    @pytest.mark.parametrize(
        "module, what",
        [
            (service, "load"),
            (service, "Server"),
            (journal_keeper, "Journal"),
            (installation, "Pipeline"),
        ],
    )
    def test_a_programming_error_does_not_stop_the_endpoint(
        self, tmp_path, monkeypatch, caplog, quick, module, what
    ):
        endpoint_service, _ = self.start(tmp_path)
        works, tries = getattr(module, what), []

        def fails(*args):
            tries.append(1)
            if len(tries) < 4:
                raise KeyError("a fault")
            return works(*args)

        monkeypatch.setattr(module, what, fails)
        self.run_until(endpoint_service, lambda: endpoint_service.journal and len(tries) == 4)
        assert caplog.text.count("cannot be started") == 1  # with a traceback
        assert caplog.text.count("retrying until it works") == 1

    @pytest.mark.parametrize("error", [JournalError, RuntimeError])
    def test_a_pipeline_that_cannot_start_closes_the_journal(
        self, tmp_path, monkeypatch, quick, error
    ):
        service, _ = self.start(tmp_path)
        works, tries = Pipeline.start, []

        def fails(pipeline):
            tries.append(1)
            if len(tries) < 4:
                raise error("can't start new thread")
            return works(pipeline)

        monkeypatch.setattr(Pipeline, "start", fails)
        self.run_until(service, lambda: service.journal)

    def test_opening_a_failed_journal_is_retried_until_it_works(self, tmp_path, monkeypatch, quick):
        """This works even if no more requests arrive."""
        service, _ = self.start(tmp_path)
        tries = []

        def check():
            tries.append(service.health()["status"])
            if len(tries) < 4:
                raise JournalError("full")

        def broken():
            if service.journal:
                monkeypatch.setattr(service.journal, "check", check)
                service.journal_failed("full")
                return True
            return False

        self.run_until(
            service,
            lambda: tries or (broken() and wait_for(lambda: service.health()["status"] == "ok")),
        )
        assert tries == ["unavailable"] * 4

    def test_a_request_is_not_reported_as_unknown_while_the_journal_is_unreadable(
        self, tmp_path, monkeypatch, quick
    ):
        service, port = self.start(tmp_path)
        probe = InThreads(tmp_path, port=port)

        def fails(request_id):
            raise JournalError("disk I/O error")

        def was_queried():
            if not service.journal or not services.accepts_connections(port):
                return False
            wait_for(lambda: probe.get("/api/v1/status/x").status == 404)
            monkeypatch.setattr(service.journal, "find", fails)
            answer = probe.get("/api/v1/status/x")
            assert (answer.status, answer.json["detail"]) == (503, "disk I/O error")
            return True

        self.run_until(service, was_queried)

    def test_damage_that_the_pipeline_finds_first(self, tmp_path, monkeypatch, quick):
        service, _ = self.start(tmp_path)
        works, tries = Pipeline.start, []

        def fails(pipeline):
            tries.append(1)
            if len(tries) == 1:
                file = pipeline._dependencies.journal._file
                raise file.note_failure(sqlite3.DatabaseError("malformed"))
            return works(pipeline)

        monkeypatch.setattr(Pipeline, "start", fails)
        self.run_until(service, lambda: service.journal)
        assert len(quarantined_files(tmp_path / "state" / "journal.sqlite")) == 1

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    def test_an_ended_thread_is_restarted(self, tmp_path, monkeypatch, caplog, quick):
        """Requests once waited for a dead thread while health was ok."""
        service, port = self.start(tmp_path)
        probe = InThreads(tmp_path, port=port)
        poll_recorded, killed = Announcer.poll_recorded, []

        def kill(announcer):
            if not killed:
                killed.append(1)
                raise SystemExit  # as a green thread ends that is killed
            return poll_recorded(announcer)

        monkeypatch.setattr(Announcer, "poll_recorded", kill)

        def recorded():
            if not killed or not services.accepts_connections(port):
                return False
            request_id = probe.accept(webhook(alert()))
            wait_for(lambda: has_status(probe, request_id, "recorded"))
            return True

        self.run_until(service, recorded)
        assert "has died; it is being restarted" in caplog.text

    def test_the_warning_about_a_state_dir_in_memory_is_logged_once(
        self, tmp_path, monkeypatch, caplog, quick
    ):
        (tmp_path / "mounts").write_text(f"x / ext4 rw 0 0\nx {tmp_path} tmpfs rw 0 0\n")
        monkeypatch.setattr(filesystem, "_MOUNTS", str(tmp_path / "mounts"))
        service, _ = self.start(tmp_path)
        self.run_until(service, lambda: service.journal and service.health()["status"] == "ok")
        assert caplog.text.count("is on tmpfs, which a reboot empties") == 1

    def test_a_state_is_logged_once(self, tmp_path, monkeypatch, caplog, quick):
        service, port = self.start(tmp_path)
        tries, listen = [], service._listen
        monkeypatch.setattr(service, "_listen", lambda *args: tries.append(1) or listen(*args))
        (tmp_path / "state").write_text("")
        with socket.socket() as taken, caplog.at_level("INFO"):
            taken.bind(("127.0.0.1", port))
            taken.listen(1)
            thread = threading.Thread(target=service.run, daemon=True)
            thread.start()
            wait_for(lambda: len(tries) > 5)
        (tmp_path / "state").unlink()
        wait_for(lambda: service.journal and service.health()["status"] != "unavailable")
        service.stop()
        thread.join(10)
        assert caplog.text.count(f"cannot listen on 127.0.0.1:{port}") == 1
        assert caplog.text.count("journal: down") == 1
        assert caplog.text.count("webhooks at http") == 1
        assert caplog.text.count("journal: works again") == 1

    def test_the_interval_between_retries_grows(self, tmp_path, monkeypatch, quick):
        endpoint_service, _ = self.start(tmp_path, host="0.0.0.0")
        times = []
        monkeypatch.setattr(
            service, "load", lambda config: times.append(time.monotonic()) or load(config)
        )
        self.run_until(endpoint_service, lambda: len(times) > 5)
        waits = [later - earlier for earlier, later in zip(times, times[1:])]
        assert all(wait >= 0.02 * least for wait, least in zip(waits, (2, 4, 8, 10, 10)))

    def start(self, tmp_path, **config):
        given = {"state_dir": str(tmp_path / "state"), "port": services.free_port()}
        given.update(config)
        log = logging.getLogger("inside")
        endpoint = Endpoint(
            given,
            endpoint_process.FileBus(str(tmp_path / "published"), given),
            lambda checked: endpoint_process.NoStackStorm(),
            log,
        )
        return endpoint, given["port"]

    def test_a_webhook_during_the_start_is_either_accepted_or_refused(self, tmp_path, monkeypatch):
        probe = InThreads(tmp_path, port=services.free_port())
        service, _ = self.start(tmp_path, port=probe.port)
        pipeline, answers = installation.Pipeline, []

        def late(*args):
            answers.append(probe.post(webhook()))
            return pipeline(*args)

        monkeypatch.setattr(installation, "Pipeline", late)
        thread = threading.Thread(target=service.run, daemon=True)
        thread.start()
        wait_for(lambda: answers)
        probe.ready()
        service.stop()
        thread.join(10)
        assert (answers[0].status == 202) == bool(probe.entries())

    def test_the_warning_about_literal_secrets_contains_only_their_names(self, tmp_path, caplog):
        service, _ = self.start(tmp_path, auth_tokens=["hush-hush-hush-hush"])
        thread = threading.Thread(target=service.run, daemon=True)
        with caplog.at_level("DEBUG"):
            thread.start()
            wait_for(lambda: service.journal)
            assert service.health()["literal_secrets"] == ["auth_tokens"]
            service.stop()
            thread.join(10)
        assert "auth_tokens is a literal secret" in caplog.text
        assert "hush-hush" not in caplog.text

    def test_problems_are_logged(self, tmp_path, caplog):
        service, _ = self.start(tmp_path, host="0.0.0.0")
        thread = threading.Thread(target=service.run, daemon=True)
        thread.start()
        wait_for(lambda: "auth_tokens" in caplog.text)
        service.stop()
        thread.join(10)

    def test_stopping_before_run(self, tmp_path):
        service, _ = self.start(tmp_path)
        began = time.monotonic()
        service.stop(0.2)
        assert time.monotonic() - began < 4
