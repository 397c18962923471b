"""The sensor works when StackStorm's sensor container creates, runs and stops it."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading

import pytest
import yaml

from tests import services
from tests.content import schemas
from tests.lib.endpoint_process import FileBus, Service
from tests.lib.endpoints import Patched, Unpatched, message
from tests.lib.samples import alert, webhook
from tests.waiting import wait_for

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PATH = os.path.join(ROOT, "sensors", "alertmanager_sensor.py")
STOP_SECONDS = 5  # after which StackStorm's container kills a sensor


@pytest.fixture
def sensor_class(monkeypatch):
    """Load the class as StackStorm does: by path, without an entry in sys.modules."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    if importlib.util.find_spec("st2reactor") is None:
        sys.path.append(os.path.join(ROOT, "standalone", "st2"))
    spec = importlib.util.spec_from_file_location("alertmanager_sensor", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.AlertmanagerSensor


@pytest.fixture
def config(tmp_path):
    return {"state_dir": str(tmp_path / "state"), "port": services.free_port()}


def test_the_container_can_create_the_sensor_and_call_every_method(sensor_class, config):
    sensor = sensor_class(sensor_service=Service(), config=config)
    sensor.setup()
    for name in ("add_trigger", "update_trigger", "remove_trigger"):
        assert getattr(sensor, name)(trigger={"ref": "poundcake.alert"}) is None
    sensor.cleanup()


def test_the_sensor_needs_no_configuration(sensor_class):
    sensor_class(sensor_service=Service()).cleanup()


def test_the_sensor_serves_until_cleanup(sensor_class, config, tmp_path):
    sensor = sensor_class(sensor_service=Service(), config=config)
    sensor._endpoint._bus = FileBus(str(tmp_path / "published"), config)
    # StackStorm runs the sensor in the main thread, which belongs to pytest here.
    thread = threading.Thread(target=sensor.run, daemon=True)
    thread.start()
    wait_for(lambda: services.accepts_connections(config["port"]))
    sensor.cleanup()
    thread.join(STOP_SECONDS)
    assert not thread.is_alive()
    assert not services.accepts_connections(config["port"])


def run(code, *arguments):
    """Run code in a separate process, with the path of the sensor as its first argument."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), PATH, *arguments],
        env=dict(os.environ, PYTHONPATH=os.path.join(ROOT, "standalone", "st2")),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_packs_typing_extensions_takes_precedence(tmp_path):
    """StackStorm 3.8.1 puts version 4.1.1 first on the path, which is too old for SQLAlchemy 2."""
    pytest.importorskip("typing_extensions")
    (tmp_path / "typing_extensions.py").write_text("OLD = True\n")
    completed = run(
        """
        import runpy, sys
        sys.path.insert(0, sys.argv[2])
        path = list(sys.path)
        runpy.run_path(sys.argv[1])
        import typing_extensions
        assert not hasattr(typing_extensions, "OLD"), typing_extensions.__file__
        # The other entries keep their order.
        assert [p for p in sys.path if p in path] == path
        import sqlalchemy
        print("passed")
        """,
        str(tmp_path),
    )
    assert completed.stdout.strip() == "passed", completed.stderr


def test_an_already_loaded_typing_extensions_is_kept(tmp_path):
    completed = run(
        """
        import runpy, sys
        import typing_extensions as before
        runpy.run_path(sys.argv[1])
        import typing_extensions as after
        assert before is after
        print("passed")
        """
    )
    assert completed.stdout.strip() == "passed", completed.stderr


def test_the_sensor_finds_the_packs_own_lib():
    completed = run(
        """
        import runpy, sys
        assert not any(p.endswith("lib/poundcake") for p in sys.path)
        runpy.run_path(sys.argv[1])
        print(sys.modules["poundcake"].__file__)
        """
    )
    assert completed.stdout.strip() == os.path.join(ROOT, "lib", "poundcake", "__init__.py")


def test_the_garbage_collector_does_not_search_the_imported_modules():
    completed = run(
        """
        import gc, runpy, sys
        from unittest import mock
        sensor = runpy.run_path(sys.argv[1])["AlertmanagerSensor"](mock.Mock())
        sensor._endpoint.run = lambda: print(len(gc.get_objects()) < gc.get_freeze_count() / 10)
        sensor.run()
        """
    )
    assert completed.stdout.strip() == "True", completed.stderr


def wait_until_recorded(endpoint, request_ids):
    """Wait until the tracking database contains all requests."""

    def is_recorded(request_id):
        response = endpoint.get("/api/v1/status/" + request_id)
        return response.json.get("status") in ("recorded", "completed")

    for request_id in request_ids:
        wait_for(functools.partial(is_recorded, request_id))


@pytest.fixture(params=[Patched, Unpatched])
def sensor(request, tmp_path):
    """Return a function that creates a sensor in a separate process, without starting it."""
    created = []

    def create(**config):
        created.append(request.param(tmp_path, **config))
        return created[-1]

    yield create
    for endpoint in created:
        endpoint.stop()


def test_the_sensor_accepts_a_webhook_without_a_configuration_file(sensor):
    """StackStorm then passes the defaults of the schema, and fills in nested keys."""
    with open(os.path.join(ROOT, "config.schema.yaml"), encoding="utf-8") as stream:
        schema = yaml.safe_load(stream)
    defaults = schemas.fill_in_defaults(schema, {})
    assert set(schema) == set(defaults)
    assert defaults["board_proxy"] == {"addresses": []}
    # The test's own folder and port; everything else is as StackStorm passes it.
    config = {key: value for key, value in defaults.items() if key not in ("state_dir", "port")}
    endpoint = sensor(**config).start().ready()
    endpoint.accept(webhook(alert()))
    configuration = endpoint.get("/api/v1/health").json["configuration"]
    assert (configuration["problem"], configuration["warnings"]) == ("", [])


class TestTermination:
    """StackStorm's container stops a sensor with SIGTERM, and kills it 5 seconds later."""

    def terminate(self, sensor):
        sensor.process.send_signal(signal.SIGTERM)
        sensor.process.wait(STOP_SECONDS)
        # The container does not restart a sensor that exits with 0.
        assert sensor.process.returncode == 128 + signal.SIGTERM

    def read_log(self, tmp_path):
        return (tmp_path / "log").read_text(errors="replace")

    def test_a_waiting_request_survives_sigterm(self, sensor, tmp_path):
        endpoint = sensor().start().ready()
        endpoint.set_broker(up=False)
        request_id = endpoint.accept(webhook(alert()))
        self.terminate(endpoint)
        # SQLite removes this file when the journal is closed.
        assert not (tmp_path / "state" / "journal.sqlite-wal").exists()
        assert [entry[0] for entry in endpoint.entries()] == [request_id]
        assert "stopped" in self.read_log(tmp_path)

    @pytest.mark.parametrize("obstacle", ["port", "journal", "configuration"])
    def test_sigterm_ends_a_sensor_that_cannot_start(self, sensor, tmp_path, obstacle):
        config = {"log_level": "loud"} if obstacle == "configuration" else {}
        logged = {"port": "cannot listen", "journal": "journal: down", "configuration": "log_level"}
        if obstacle == "journal":
            (tmp_path / "state").write_text("")
        with socket.socket() as listener:
            endpoint = sensor(**config)
            if obstacle == "port":
                listener.bind(("127.0.0.1", endpoint.port))
                listener.listen(1)
            endpoint.start()
            wait_for(lambda: logged[obstacle] in self.read_log(tmp_path))
            self.terminate(endpoint)

    def test_sigterm_is_not_delayed_by_a_slow_body_or_broker(self, sensor, tmp_path):
        endpoint = sensor().start().ready()
        if not endpoint.patched:  # the tests' bus would block all green threads
            os.mkfifo(endpoint.published_path)  # without a reader, so a writer blocks
        endpoint.accept(webhook(alert()))
        with endpoint.client() as client:
            client.send(
                message("POST", "/api/v1/webhook", b"", Content_Length="9", Expect="100-continue")
            )
            assert client.read().status == 100
            client.send(b"{")
            self.terminate(endpoint)
        assert len(endpoint.entries()) == 1

    def test_a_sensor_killed_at_any_moment_loses_no_accepted_request(self, sensor):
        """Case A17 of docs/CASES.md."""
        endpoint, accepted = sensor(), []
        for _ in range(3):
            accepted += post_until_killed(endpoint, 20)
        endpoint.start().ready()
        assert len(set(accepted)) == len(accepted)
        wait_until_recorded(endpoint, accepted)


def post_until_killed(endpoint, count):
    """Start an endpoint, post to it from several threads, and kill it after `count` requests.

    Return the ids of the requests that were answered 202: more than `count`.
    """
    accepted, killed = [], threading.Event()

    def post():
        number = 0
        while not killed.is_set():
            number += 1
            try:
                response = endpoint.post(webhook(alert(f"Kill{number}")))
            except (OSError, AssertionError, AttributeError):
                continue  # it was killed before it answered
            if response and response.status == 202:
                accepted.append(response.json["request_id"])

    endpoint.start().ready()
    threads = [threading.Thread(target=post) for _ in range(4)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(accepted) > count)
    endpoint.process.kill()
    endpoint.process.wait()
    killed.set()
    for thread in threads:
        thread.join(20)
    return accepted


def test_requests_that_wait_during_a_reinstall_are_recorded_after_it(sensor, tmp_path):
    """`st2 pack install` replaces the pack's folder, and then the sensor is restarted from it."""

    def install(version):
        for name in ("lib", "sensors"):
            shutil.copytree(os.path.join(ROOT, name), str(pack / name))
        (pack / "lib" / "poundcake" / "__init__.py").write_text(f'__version__ = "{version}"\n')

    pack = tmp_path / "pack"
    install("0.0.1")
    endpoint = sensor()
    endpoint.pack = str(pack)
    endpoint.start().ready()
    endpoint.set_broker(up=False)
    ids = [endpoint.accept(webhook(alert(str(n)))) for n in range(5)]
    shutil.rmtree(str(pack))
    ids.append(endpoint.accept(webhook(alert("meanwhile"))))
    endpoint.stop()
    install("0.0.2")
    endpoint.set_broker(up=True)
    endpoint.start().ready()
    assert endpoint.get("/api/v1/health").json["version"] == "0.0.2"
    wait_until_recorded(endpoint, ids)
