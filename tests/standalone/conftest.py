"""The stand-in as a process of its own, on a pack made of links to one under packs/."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import pytest

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT))


def make_pack(folder, template="probe", **files):
    """Lay out a pack with the stand-in inside it; `files` replace or add some, by path."""
    (folder / "standalone").symlink_to(ROOT / "standalone")
    for source in sorted((HERE / "packs" / template).rglob("*")):
        target = folder / source.relative_to(HERE / "packs" / template)
        if source.is_file() and "__pycache__" not in source.parts:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(source.read_text())
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


def runs(pid):
    """Whether a process is there and has not ended; nobody may have waited for one that has."""
    try:
        with open("/proc/%d/stat" % pid) as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Standalone:
    """A running stand-in and its API."""

    def __init__(self, folder, *options, ready=True):
        environment = dict(os.environ, PYTHONUNBUFFERED="1")
        environment.pop("PYTHONPATH", None)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "standalone", "--api-port", "0", *options],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
        )
        self.errors = []
        self._keeper = threading.Thread(target=self._keep_errors, daemon=True)
        self._keeper.start()
        self.said = []
        for line in self.process.stdout if ready else ():
            self.said.append(line.strip())
            if line.startswith("ready: "):
                self.api = line.split("API at ")[1].strip()
                break
        else:
            if ready:
                raise RuntimeError("not ready: {}".format("".join(self.errors)))

    def _keep_errors(self):
        for line in self.process.stderr:
            self.errors.append(line)

    def call(self, method, path, body=None, headers=None):
        """Return (status, document)."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.api + path, data, headers or {}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                text, status = answer.read(), answer.status
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

    def run(self, action, context=None, **parameters):
        """Run an action to its end, or to where it waits; returns its execution."""
        body = {"action": action, "parameters": parameters, "context": context or {}}
        status, document = self.call("POST", "/executions", body)
        assert status == 201, document
        return self.ended(document["id"])

    def ended(self, id_, within=60):
        until = time.monotonic() + within
        while time.monotonic() < until:
            execution = self.get("/executions/" + id_)
            if execution["status"] in ("succeeded", "failed", "timeout", "canceled"):
                return execution
            time.sleep(0.05)
        raise AssertionError("still {}: {}".format(execution["status"], execution))

    def dispatch(self, trigger, payload, tag):
        """Emit a trigger and return its instance once the rules engine is through with it."""
        body = {"trigger": trigger, "payload": payload}
        status, document = self.call("POST", "/webhooks/st2", body, {"St2-Trace-Tag": tag})
        assert status == 202, document
        until = time.monotonic() + 60
        while time.monotonic() < until:
            for trace in self.get("/traces?trace_tag=" + tag):
                id_ = trace["trigger_instances"][0]["object_id"]
                instance = self.get("/triggerinstances/" + id_)
                if instance["status"].startswith("processed"):
                    return instance
            time.sleep(0.05)
        raise AssertionError("not processed")

    def enforcements(self, instance):
        return self.get("/ruleenforcements?trigger_instance=" + instance["id"])

    def wait(self, seconds=60):
        """Its exit code, once it has ended by itself and `errors` has all that it said."""
        code = self.process.wait(seconds)
        self._keeper.join(seconds)
        return code

    def stop(self, number=signal.SIGTERM):
        """Stop it; returns (exit code, seconds)."""
        begun = time.monotonic()
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(20), time.monotonic() - begun


@pytest.fixture(scope="session")
def standalone(tmp_path_factory):
    """One stand-in with the probe pack and a secret in its datastore."""
    folder = make_pack(tmp_path_factory.mktemp("pack"))
    running = Standalone(folder, "--no-sensor", "--kv", "word=TOP-SECRET")
    running.folder = folder
    yield running
    running.stop()
