"""The sensor as StackStorm's container makes it."""

import importlib.util
import os
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from tests import services
from tests.lib.endpoint_process import FileBus, Service

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
    deadline = time.monotonic() + 15
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
