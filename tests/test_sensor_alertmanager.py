"""The sensor as StackStorm's container makes it."""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from tests import services
from tests.lib.endpoint_process import FileBus, Service
from tests.lib.endpoints import Patched, Unpatched, message
from tests.lib.samples import alert, webhook
from tests.waiting import wait_for

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PATH = os.path.join(ROOT, "sensors", "alertmanager_sensor.py")


@pytest.fixture
def sensor_class(monkeypatch):
    """As StackStorm's loader does it: by path, without putting it into sys.modules."""
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


def test_it_is_made_by_keyword_and_has_every_method(sensor_class, config):
    sensor = sensor_class(sensor_service=Service(), config=config)
    sensor.setup()
    for name in ("add_trigger", "update_trigger", "remove_trigger"):
        assert getattr(sensor, name)(trigger={"ref": "poundcake.alert"}) is None
    sensor.cleanup()


def test_without_a_configuration(sensor_class):
    sensor_class(sensor_service=Service()).cleanup()


def test_it_serves_until_it_is_cleaned_up(sensor_class, config, tmp_path):
    sensor = sensor_class(sensor_service=Service(), config=config)
    sensor._endpoint._bus = FileBus(str(tmp_path / "published"), config)
    # StackStorm's container runs it in the main thread, which is the tests' own here.
    thread = threading.Thread(target=sensor.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not services.accepts_connections(config["port"]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    began = time.monotonic()
    sensor.cleanup()
    assert time.monotonic() - began < 5
    thread.join(5)
    assert not thread.is_alive()
    assert not services.accepts_connections(config["port"])


def run(code, *args, **environment):
    """In a process of its own, which has StackStorm's stand-in on its path."""
    path = os.pathsep.join([os.path.join(ROOT, "standalone", "st2")])
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), PATH, *args],
        env=dict(os.environ, PYTHONPATH=path, **environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        timeout=60,
    )


def test_the_packs_typing_extensions_comes_before_stackstorms(tmp_path):
    """3.8.1 has 4.1.1 before the pack's own on the path, with which SQLAlchemy 2 cannot load."""
    pytest.importorskip("typing_extensions")
    (tmp_path / "typing_extensions.py").write_text("OLD = True\n")
    found = run(
        """
        import runpy, sys
        sys.path.insert(0, sys.argv[2])
        path = list(sys.path)
        found = runpy.run_path(sys.argv[1])
        import typing_extensions
        assert not hasattr(typing_extensions, "OLD"), typing_extensions.__file__
        # What else StackStorm ships keeps its place.
        assert [p for p in sys.path if p in path] == path
        import sqlalchemy
        print("good")
        """,
        str(tmp_path),
    )
    assert found.stdout.strip() == "good", found.stderr


def test_one_that_is_loaded_already_is_left_alone(tmp_path):
    found = run(
        """
        import runpy, sys
        import typing_extensions as before
        runpy.run_path(sys.argv[1])
        import typing_extensions as after
        assert before is after
        print("good")
        """
    )
    assert found.stdout.strip() == "good", found.stderr


def test_it_needs_no_lib_on_the_path():
    found = run(
        """
        import runpy, sys
        assert not any(p.endswith("lib/poundcake") for p in sys.path)
        runpy.run_path(sys.argv[1])
        print(sys.modules["poundcake"].__file__)
        """
    )
    assert found.stdout.strip() == os.path.join(ROOT, "lib", "poundcake", "__init__.py")


def is_recorded(endpoint, request_id):
    answer = endpoint.get("/api/v1/status/" + request_id)
    return answer.json.get("status") in ("recorded", "completed")


@pytest.fixture(params=[Patched, Unpatched])
def sensor(request, tmp_path):
    """A function that makes one in a process of its own, without starting it."""
    made = []

    def factory(**given):
        made.append(request.param(tmp_path, **given))
        return made[-1]

    yield factory
    for found in made:
        found.stop()


class TestEnds:
    """SIGTERM is how StackStorm's container ends a sensor, SIGKILL what follows after 5 s."""

    def terminate(self, sensor):
        began = time.monotonic()
        sensor.process.send_signal(signal.SIGTERM)
        sensor.process.wait(10)
        assert time.monotonic() - began < 5
        # The container would not start one again that ended with 0, whoever ended it.
        assert sensor.process.returncode == 128 + signal.SIGTERM

    def log(self, tmp_path):
        return (tmp_path / "log").read_text(errors="replace")

    def test_in_order(self, sensor, tmp_path):
        endpoint = sensor().start().ready()
        endpoint.set_broker(up=False)
        request_id = endpoint.accept(webhook(alert()))
        self.terminate(endpoint)
        # SQLite takes it away when the file is closed.
        assert not (tmp_path / "state" / "journal.sqlite-wal").exists()
        assert [entry[0] for entry in endpoint.entries()] == [request_id]
        assert "stopped" in self.log(tmp_path)

    @pytest.mark.parametrize("missing", ["port", "journal", "configuration"])
    def test_while_something_is_missing(self, sensor, tmp_path, missing):
        given = {"log_level": "loud"} if missing == "configuration" else {}
        words = {"port": "cannot listen", "journal": "journal: down", "configuration": "log_level"}
        if missing == "journal":
            (tmp_path / "state").write_text("")
        with socket.socket() as taken:
            endpoint = sensor(**given)
            if missing == "port":
                taken.bind(("127.0.0.1", endpoint.port))
                taken.listen(1)
            endpoint.start()
            wait_for(lambda: words[missing] in self.log(tmp_path))
            self.terminate(endpoint)

    def test_while_a_body_is_slow_and_the_broker_silent(self, sensor, tmp_path):
        endpoint = sensor().start().ready()
        if not endpoint.patched:  # the stand-in would block all green threads
            os.mkfifo(endpoint.published_path)  # nobody reads it: who writes waits
        endpoint.accept(webhook(alert()))
        with endpoint.client() as client:
            client.send(
                message("POST", "/api/v1/webhook", b"", Content_Length="9", Expect="100-continue")
            )
            assert client.read().status == 100
            client.send(b"{")
            self.terminate(endpoint)
        assert len(endpoint.entries()) == 1

    def test_killed_at_any_moment_it_goes_on_where_it_stood(self, sensor):
        endpoint, accepted = sensor(), []

        def work():
            number = 0
            while not ended.is_set():
                number += 1
                try:
                    answer = endpoint.post(webhook(alert(f"Kill{number}")))
                except (OSError, AssertionError, AttributeError):
                    continue  # it was killed before it had answered
                if answer and answer.status == 202:
                    accepted.append(answer.json["request_id"])

        for _ in range(3):
            before, ended = len(accepted), threading.Event()
            endpoint.start().ready()
            threads = [threading.Thread(target=work) for _ in range(4)]
            for thread in threads:
                thread.start()
            wait_for(lambda: len(accepted) > before + 20)
            endpoint.process.kill()
            endpoint.process.wait()
            ended.set()
            for thread in threads:
                thread.join(20)
        endpoint.start().ready()
        assert len(set(accepted)) == len(accepted)
        for request_id in accepted:
            wait_for(lambda: is_recorded(endpoint, request_id))


def test_a_reinstall_with_requests_waiting(sensor, tmp_path):
    """`st2 pack install` replaces the pack's folder, then the sensor is started anew from it."""

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
    for request_id in ids:
        wait_for(lambda: is_recorded(endpoint, request_id))
