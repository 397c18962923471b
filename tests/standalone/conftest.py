"""Run the stand-in in a separate process, with the pack in probe/."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import pytest

from tests.waiting import wait_for

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent


def make_pack(folder, **files):
    """Copy the probe pack, and link the stand-in. `files` maps paths to new or changed files."""
    shutil.copytree(HERE / "probe", folder, dirs_exist_ok=True)
    for name in ("standalone", "tests"):
        (folder / name).symlink_to(ROOT / name)
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


def is_running(pid):
    """Return True if a process exists and is not a zombie."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Standalone:
    """A running stand-in and its API."""

    def __init__(self, folder, *options, program="tests.standin"):
        environment = dict(os.environ, PYTHONUNBUFFERED="1")
        environment.pop("PYTHONPATH", None)
        self.process = subprocess.Popen(
            [sys.executable, "-m", program, "--api-port", "0", *options],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.errors = []
        self._reader = threading.Thread(target=self._read_errors, daemon=True)
        self._reader.start()
        self.api = ""
        self.output = []
        for line in self.process.stdout:
            self.output.append(line.strip())
            if line.startswith("ready: "):
                self.api = line.split("API at ")[1].strip()
                break

    def _read_errors(self):
        for line in self.process.stderr:
            self.errors.append(line)

    def call(self, method, path, body=None, headers=None):
        """Send a request, and return the status and the JSON document of the response."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.api + path, data, headers or {}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                text, status = response.read(), response.status
        except urllib.error.HTTPError as error:
            text, status = error.read(), error.code
        try:
            return status, json.loads(text) if text else None
        except ValueError:
            return status, text.decode()

    def get(self, path):
        status, document = self.call("GET", path)
        assert status == 200, document
        return document

    def start(self, action, **parameters):
        """Request an execution, and return its id."""
        status, document = self.call(
            "POST", "/executions", {"action": action, "parameters": parameters}
        )
        assert status == 201, document
        return document["id"]

    def run(self, action, **parameters):
        """Run an action, wait until it has ended, and return its execution."""
        return self.wait_for_end(self.start(action, **parameters))

    def wait_for_status(self, id_, *statuses):
        """Wait until an execution has one of these statuses, and return it."""

        def execution_with_status():
            execution = self.get(f"/executions/{id_}")
            return execution if execution["status"] in statuses else None

        return wait_for(execution_with_status)

    def wait_for_end(self, id_):
        return self.wait_for_status(id_, "succeeded", "failed", "timeout", "canceled")

    def dispatch(self, trigger, payload, tag):
        """Emit a trigger, wait until the rules engine has processed it, and return its instance."""
        body = {"trigger": trigger, "payload": payload}
        status, document = self.call("POST", "/webhooks/st2", body, {"St2-Trace-Tag": tag})
        assert status == 202, document

        def processed_instances():
            instances = self.get("/triggerinstances?status=processed&limit=100")
            return [i for i in instances if tag in self.tags_of(i)]

        return wait_for(processed_instances)[0]

    def tags_of(self, instance):
        """Return the trace tags of a trigger instance."""
        traces = self.get("/traces?limit=100")
        matching_traces = [
            trace
            for trace in traces
            if any(
                component["object_id"] == instance["id"] for component in trace["trigger_instances"]
            )
        ]
        return [trace["trace_tag"] for trace in matching_traces]

    def enforcements(self, instance):
        return self.get("/ruleenforcements?trigger_instance=" + instance["id"])

    def wait(self, seconds=60):
        """Wait until the process has ended and `errors` is complete. Return the exit code."""
        code = self.process.wait(seconds)
        self._reader.join(seconds)
        return code

    def stop(self, signal_number=signal.SIGTERM):
        """Stop the process with a signal, and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal_number)
        return self.wait(20)


@pytest.fixture(scope="session")
def standalone(tmp_path_factory):
    """Return a stand-in with the probe pack and a secret in its datastore."""
    folder = make_pack(tmp_path_factory.mktemp("pack"))
    running = Standalone(folder, "--no-sensor", "--kv", "word=TOP-SECRET")
    running.folder = folder
    yield running
    running.stop()
