"""python -m standalone.demo: one alert from its first notification to its end, and its trail.

Starts the pack standalone on free ports, has a firing alert, the same notification again and its
resolve sent to it (by a real Alertmanager where one is installed), and prints what an operator
would ask for. Ends with 0 where the trail is as it has to be.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from datetime import datetime, timezone

PACK = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# A name that never resolves (RFC 6761): the host of the demo does not answer, and is nobody's.
LABELS = {
    "alertname": "HostDown",
    "instance": "db1.example.invalid:9100",
    "severity": "critical",
    "job": "node",
}
ALERTMANAGER = """\
route:
  receiver: poundcake
  group_by: [alertname]
  group_wait: 0s
  group_interval: 4s
  repeat_interval: 4s
receivers:
  - name: poundcake
    webhook_configs:
      - url: %s
        send_resolved: true
"""
PATIENCE = 60  # seconds for each step


class DemoError(Exception):
    """The demo did not go as it has to."""


class Demo:
    """Standalone, and what is asked of it."""

    def __init__(self, folder):
        self._folder = folder
        self._port, self._api_port = _free_port(), _free_port()
        self.webhook_url = "http://127.0.0.1:%d/api/v1/webhook" % self._port
        self._api_url = "http://127.0.0.1:%d/v1" % self._api_port
        self._processes = []

    def start(self):
        """Start standalone and wait until it is ready."""
        output = open(os.path.join(self._folder, "standalone.log"), "wb+")
        command = [sys.executable, "-m", "standalone"]
        command += ["--port", str(self._port), "--api-port", str(self._api_port)]
        command += ["--state-dir", os.path.join(self._folder, "state")]
        process = self.run(command, output)
        until = time.monotonic() + PATIENCE
        while True:
            output.seek(0)
            said = output.read().decode("utf-8", "replace")
            if "ready: " in said:
                return
            if process.poll() is not None or time.monotonic() > until:
                raise DemoError("standalone did not start:\n" + said)
            time.sleep(0.1)

    def run(self, command, output=subprocess.DEVNULL):
        """Start a program that ends with the demo."""
        process = subprocess.Popen(command, cwd=PACK, stdout=output, stderr=subprocess.STDOUT)
        self._processes.append(process)
        return process

    def stop(self):
        """End what was started."""
        for process in reversed(self._processes):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()

    def action(self, name, **parameters):
        """Run an action of the pack as `st2 run` does, and return its result."""
        asked = {"action": "poundcake." + name, "parameters": parameters}
        execution = _call(self._api_url + "/executions", asked)
        until = time.monotonic() + PATIENCE
        while execution["status"] not in ("succeeded", "failed", "timeout", "canceled"):
            if time.monotonic() > until:
                raise DemoError(f"poundcake.{name} does not end")
            time.sleep(0.2)
            execution = _call("{}/executions/{}".format(self._api_url, execution["id"]))
        if execution["status"] != "succeeded":
            raise DemoError("poundcake.{} {}: {}".format(name, execution["status"], execution))
        return execution["result"]["result"]

    def recorded(self):
        """The requests on record, oldest first."""
        url = self.webhook_url.replace("webhook", "executions/recent?limit=100")
        return list(reversed(_call(url)["executions"]))

    def wait_for(self, what, check):
        """The first true value of check() within a minute."""
        until = time.monotonic() + PATIENCE
        while True:
            found = check()
            if found:
                return found
            if time.monotonic() > until:
                raise DemoError("waited a minute in vain for " + what)
            time.sleep(0.3)

    def request_with(self, outcome):
        """The first request with an alert of that outcome."""
        for request in self.recorded():
            if request["alerts"] and request["alerts"][0]["outcome"] == outcome:
                return request
        return None

    def completed(self, outcome):
        """The first request with that outcome, once it is completed."""
        request = self.request_with(outcome)
        return request if request and request["status"] == "completed" else None


class Alertmanager:
    """A real Alertmanager that posts to the demo."""

    def __init__(self, demo, program, folder):
        self._demo, self._program, self._folder = demo, program, folder
        self._url = "http://127.0.0.1:%d" % _free_port()
        self._starts_at = _now()

    def start(self):
        """Start it on a port of its own, alone."""
        config = os.path.join(self._folder, "alertmanager.yml")
        with open(config, "w") as file:
            file.write(ALERTMANAGER % self._demo.webhook_url)
        self._demo.run(
            [
                self._program,
                "--config.file=" + config,
                "--storage.path=" + os.path.join(self._folder, "alertmanager"),
                "--web.listen-address=" + self._url[len("http://") :],
                "--cluster.listen-address=",
            ]
        )
        self._demo.wait_for("Alertmanager", lambda: _answers(self._url + "/-/ready"))

    def fire(self):
        """Have the alert fire; Alertmanager repeats it by itself, every four seconds."""
        alert = {"labels": LABELS, "startsAt": self._starts_at}
        _call(self._url + "/api/v2/alerts", [alert])

    repeat = staticmethod(lambda: None)

    def resolve(self):
        """Have the alert end."""
        alert = {"labels": LABELS, "startsAt": self._starts_at, "endsAt": _now()}
        _call(self._url + "/api/v2/alerts", [alert])


class Sender:
    """Posts what Alertmanager would, where none is installed."""

    def __init__(self, demo):
        self._demo = demo
        self._starts_at = _now()

    def start(self):
        """Nothing to start."""

    def fire(self):
        """Post the firing alert."""
        self._post("firing", "0001-01-01T00:00:00Z")

    repeat = fire

    def resolve(self):
        """Post its end."""
        self._post("resolved", _now())

    def _post(self, status, ends_at):
        alert = {"status": status, "labels": LABELS, "annotations": {}, "generatorURL": ""}
        alert.update(startsAt=self._starts_at, endsAt=ends_at)
        body = {"version": "4", "status": status, "receiver": "poundcake", "alerts": [alert]}
        body.update(groupKey='{}:{alertname="HostDown"}', truncatedAlerts=0)
        _call(self._demo.webhook_url, body)


def main():
    """Run the demo; returns the exit code."""
    folder = tempfile.mkdtemp(prefix="poundcake-demo-")
    demo = Demo(folder)
    program = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
    sender = Alertmanager(demo, program, folder) if program else Sender(demo)
    try:
        _say("PoundCake standalone: the pack's own files in one process, without StackStorm.")
        if program:
            _say(f"Alerts are sent by {program}.")
        else:
            _say("No Alertmanager is installed: the demo posts what it would.")
        demo.start()
        sender.start()
        _tell(demo, sender)
    except (DemoError, OSError) as error:
        print(f"the demo failed: {error}\nits files are in {folder}", file=sys.stderr)
        return 1
    finally:
        demo.stop()
    shutil.rmtree(folder, ignore_errors=True)
    return 0


def _tell(demo, sender):
    _say("\n1. The alert fires. Its workflow runs.")
    sender.fire()
    first = demo.wait_for("the remediation", lambda: demo.completed("admitted"))
    print(_status(demo, first))
    executions = demo.action("status", request_id=first["request_id"])["stackstorm_executions"]
    _expect([e["status"] for e in executions] == ["succeeded"], "one execution, succeeded")

    _say("\n2. The same notification comes again. Nothing is run twice.")
    sender.repeat()
    second = demo.wait_for("the repeat", lambda: demo.completed("duplicate"))
    print(_status(demo, second))
    executions = demo.action("status", request_id=second["request_id"])["stackstorm_executions"]
    _expect(executions == [], "no execution for the repeat")

    _say("\n3. The alert is resolved.")
    sender.resolve()
    third = demo.wait_for("the resolve", lambda: demo.request_with("resolved"))
    print(_status(demo, third))

    _say("\nWhat is firing now?")
    print(demo.action("alerts_active", format="text").strip("\n"))
    _expect(demo.action("alerts_active")["count"] == 0, "no active alert is left")

    _say("\nAnd why did nothing change on the host?")
    print(demo.action("why", alert_name="HostDown", format="text").strip("\n"))


def _status(demo, request):
    answer = demo.action("status", request_id=request["request_id"], format="text")
    return answer.strip("\n")


def _say(text):
    print(text, flush=True)


def _expect(fact, what):
    if not fact:
        raise DemoError("expected: " + what)


def _now():
    return datetime.now(timezone.utc).isoformat().replace("+00:00", "Z")


def _free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _answers(url):
    try:
        urllib.request.urlopen(url, timeout=2).close()
        return True
    except OSError:
        return False


def _call(url, data=None):
    request = urllib.request.Request(url, headers={"Content-Type": "application/json"})
    if data is not None:
        request.data = json.dumps(data).encode()
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            text = answer.read()
    except urllib.error.HTTPError as error:
        raise DemoError(f"{url}: {error.code} {error.read()[:500]}") from None
    return json.loads(text) if text.strip() else None


if __name__ == "__main__":
    sys.exit(main())
