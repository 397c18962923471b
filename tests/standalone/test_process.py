"""The stand-in's process: its output, its configuration, its errors and its end."""

from __future__ import annotations

import pathlib
import signal
import socket
import threading

import pytest

from standalone.__main__ import check_port_is_free
from standalone.content import Content, ContentError
from standalone.sensors import SensorContainer
from tests import services
from tests.standalone.conftest import ROOT, Standalone, is_running, make_pack
from tests.waiting import wait_for


def test_the_output_shows_the_urls_and_sigterm_stops_the_process(tmp_path):
    port = services.free_port()
    options = ("--port", str(port), "--state-dir", str(tmp_path))
    standalone = Standalone(ROOT, *options, program="standalone")
    try:
        assert "without" in standalone.output[0]
        assert str(tmp_path) in " ".join(standalone.output)
        webhook = f"webhooks at http://127.0.0.1:{port}/api/v1/webhook"
        assert standalone.output[-1] == f"ready: {webhook}, API at {standalone.api}"
    finally:
        code = standalone.stop()
    assert code == 0, "".join(standalone.errors)


def test_an_interrupt_stops_running_actions(tmp_path):
    standalone = Standalone(make_pack(tmp_path / "pack"), "--no-sensor")
    pid_file = tmp_path / "note"
    standalone.start("core.local", cmd=f"echo $$ > {pid_file}; sleep 60")
    pid = int(wait_for(lambda: pid_file.exists() and pid_file.read_text()))
    assert standalone.stop(signal.SIGINT) == 0
    wait_for(lambda: not is_running(pid), 20)


# `python -m standalone` does not support action chains, so this replaces the probe's chain.
NO_CHAIN = {"actions/chain.yaml": "name: chain\nrunner_type: noop\n"}
SENSOR = """\
class Bell:
    def __init__(self, sensor_service, config):
        self.config = config
    setup = cleanup = lambda self: None
    def run(self):
        if self.config["breaks"]:
            raise RuntimeError("broken as configured")
"""


@pytest.mark.parametrize(
    "breaks, expected",
    [(True, "sensor probe.Bell: RuntimeError: broken as configured"), (False, "run() returned")],
)
def test_a_sensor_that_ends_is_reported(tmp_path, breaks, expected):
    metadata = "class_name: Bell\nentry_point: bell.py\n"
    files = {"sensors/bell.yaml": metadata, "sensors/bell.py": SENSOR}
    content = Content([make_pack(tmp_path, **NO_CHAIN, **files)])
    content.configs["probe"]["breaks"] = breaks
    reasons, reported = [], threading.Event()
    container = SensorContainer(
        content, "http://127.0.0.1:1", lambda reason: [reasons.append(reason), reported.set()]
    )
    container.start()
    assert reported.wait(20)
    assert expected in reasons[0]


@pytest.mark.parametrize(
    "path, text, reason",
    [
        ("actions/new.yaml", "name: new\nrunner_type: winrm-cmd\n", "'winrm-cmd'"),
        ("actions/new.yaml", "name: [", "new.yaml: "),
        (
            "rules/new.yaml",
            "name: new\ntrigger: {type: probe.ping}\naction: {ref: core.noop}\n"
            "criteria: {trigger.a: {type: like, pattern: b}}\n",
            "'like'",
        ),
        (
            "rules/new.yaml",
            "name: new\nenabled: true\ntrigger: {type: core.st2.CronTimer}\n"
            "action: {ref: core.noop}\n",
            "'core.st2.CronTimer'",
        ),
        ("sensors/new.yaml", "class_name: A\nentry_point: a.py\npoll_interval: 5\n", "polling"),
    ],
)
def test_the_error_about_unsupported_content_names_the_file_and_the_reason(
    tmp_path, path, text, reason
):
    make_pack(tmp_path, **NO_CHAIN, **{path: text})
    with pytest.raises(ContentError) as caught:
        Content([tmp_path])
    assert reason in str(caught.value)
    assert pathlib.Path(path).name in str(caught.value)


def test_a_configuration_overrides_the_defaults(tmp_path):
    folder, config, keys = (
        make_pack(tmp_path, **NO_CHAIN),
        tmp_path / "configuration.yaml",
        {"hail": "ave"},
    )
    config.write_text("greeting: '{{ st2kv.system.hail }}'\nnested: {other: 1}\n")
    content = Content([folder], str(config), {"secret_word": None}, keys)
    assert content.configs["probe"] == {
        "greeting": "ave",
        "secret_word": "open-sesame",
        "nested": {"other": 1, "depth": 3},
    }
    # Reading the configuration again uses the current datastore and the registered values.
    keys["hail"] = "salve"
    assert content.read_config("probe")["greeting"] == "salve"
    content.register_config("probe", {"greeting": "hi"})
    assert content.configs["probe"]["greeting"] == content.read_config("probe")["greeting"] == "hi"
    with pytest.raises(ContentError, match="greeting: 1 is not of type 'string'"):
        content.register_config("probe", {"greeting": 1})
    assert content.configs["probe"]["greeting"] == "hi"
    config.write_text("greeting: 1\n")
    with pytest.raises(
        ContentError, match=r"configuration\.yaml: greeting: 1 is not of type 'string'"
    ):
        Content([folder], str(config))


def test_a_port_in_use_is_refused():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(OSError, match=f"port {port}"):
            check_port_is_free("127.0.0.1", port)
        options = ("--no-sensor", "--api-port", str(port))
        standalone = Standalone(ROOT, *options, program="standalone")
        assert standalone.wait() == 1
        assert f"API port {port}" in "".join(standalone.errors)
