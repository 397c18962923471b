"""Show one alert, from its first notification to its resolve, and its trail.

    python -m standalone.demo [--keep]

The demo starts the pack standalone on free ports, and sends a firing alert, the same notification
again, and the resolve, as Alertmanager would. It prints the views that an operator would use. With
--keep, the endpoint then keeps running until Ctrl-C, and its board shows the same. The exit code is
0 if the trail is as expected.
"""

from __future__ import annotations

import argparse
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
from typing import Any, Callable, Sequence

PACK = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# A name that never resolves (RFC 6761), so that the demo touches no real host.
LABELS = {
    "alertname": "HostDown",
    "instance": "db1.example.invalid:9100",
    "severity": "critical",
    "job": "node",
}
STEP_SECONDS = 60


class DemoError(Exception):
    """The demo did not go as expected."""


class Demo:
    """The pack that runs standalone, and the requests to it."""

    def __init__(self, folder: str):
        self.folder = folder
        self._port, self._api_port = find_free_port(), find_free_port()
        self.webhook_url = f"http://127.0.0.1:{self._port}/api/v1/webhook"
        self.board_url = f"http://127.0.0.1:{self._port}/board"
        self._api_url = f"http://127.0.0.1:{self._api_port}/v1"
        self._processes: list[subprocess.Popen] = []

    def start(self) -> None:
        """Start standalone and wait until it is ready."""
        log = os.path.join(self.folder, "standalone.log")
        command = [sys.executable, "-m", "standalone"]
        command += ["--port", str(self._port), "--api-port", str(self._api_port)]
        command += ["--state-dir", os.path.join(self.folder, "state")]
        process = self.start_program(command, log)

        def is_ready() -> bool:
            with open(log, encoding="utf-8", errors="replace") as file:
                text = file.read()
            if process.poll() is not None:
                raise DemoError(f"standalone did not start:\n{text}")
            return "ready: " in text

        wait_for("standalone", is_ready)

    def start_program(self, command: list[str], log: str = os.devnull) -> subprocess.Popen:
        """Start a program that stop() ends."""
        with open(log, "wb") as output:
            process = subprocess.Popen(command, cwd=PACK, stdout=output, stderr=output)
        self._processes.append(process)
        return process

    def wait(self) -> None:
        """Wait until the user presses Ctrl-C, which raises KeyboardInterrupt.

        Raises:
            DemoError: A program has ended by itself.
        """
        while all(process.poll() is None for process in self._processes):
            time.sleep(0.2)
        raise DemoError("standalone has ended")

    def stop(self) -> None:
        """Stop the programs, the last one first."""
        for process in reversed(self._processes):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()

    def run_action(self, name: str, **parameters: Any) -> Any:
        """Run an action of the pack as `st2 run` does, and return its result."""
        body = {"action": f"poundcake.{name}", "parameters": parameters}
        url = f"{self._api_url}/executions/{call(f'{self._api_url}/executions', body)['id']}"
        terminal = ("succeeded", "failed", "timeout", "canceled")

        def read_if_ended() -> Any:
            execution = call(url)
            return execution if execution["status"] in terminal else None

        execution = wait_for(f"poundcake.{name}", read_if_ended)
        if execution["status"] != "succeeded":
            raise DemoError(f"poundcake.{name} {execution['status']}: {execution}")
        return execution["result"]["result"]

    def find_recorded(self, outcome: str) -> Any:
        """Return the oldest recorded request whose first alert has this outcome, or None."""
        url = self.webhook_url.replace("webhook", "executions/recent?limit=100")
        for request in reversed(call(url)["executions"]):
            if request["alerts"] and request["alerts"][0]["outcome"] == outcome:
                return request
        return None

    def find_completed(self, outcome: str) -> Any:
        """Return the request that find_recorded() finds if it is completed, or None."""
        request = self.find_recorded(outcome)
        return request if request and request["status"] == "completed" else None

    def status_text(self, request: dict) -> str:
        """Return the status view of a request as text."""
        text = self.run_action("status", request_id=request["request_id"], format="text")
        return text.strip("\n")

    def execution_statuses(self, request: dict) -> list[str]:
        """Return the status of each execution of a request."""
        view = self.run_action("status", request_id=request["request_id"])
        return [execution["status"] for execution in view["stackstorm_executions"]]


class Sender:
    """Post the notifications that Alertmanager would send."""

    def __init__(self, demo: Demo):
        self._demo, self._starts_at = demo, now()

    def fire(self) -> None:
        """Post the firing alert."""
        self._post("firing", "0001-01-01T00:00:00Z")

    repeat = fire

    def resolve(self) -> None:
        """Post the resolve."""
        self._post("resolved", now())

    def _post(self, status: str, ends_at: str) -> None:
        times = {"startsAt": self._starts_at, "endsAt": ends_at}
        alert = {"status": status, "labels": LABELS, "annotations": {}, "generatorURL": "", **times}
        group = {"groupKey": '{}:{alertname="HostDown"}', "truncatedAlerts": 0}
        body = {"version": "4", "status": status, "receiver": "poundcake", "alerts": [alert]}
        call(self._demo.webhook_url, {**body, **group})


def create_parser() -> argparse.ArgumentParser:
    """Return the parser for the command line."""
    parser = argparse.ArgumentParser(
        "python -m standalone.demo", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "--keep", action="store_true", help="keep the endpoint and its board running until Ctrl-C"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo. Return the exit code."""
    options = create_parser().parse_args(arguments)
    # A shell lets a command in the background ignore SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = tempfile.mkdtemp(prefix="poundcake-demo-")
    demo = Demo(folder)
    try:
        print_text("PoundCake standalone: the pack's own files in one process, without StackStorm.")
        demo.start()
        play_alert(demo, Sender(demo))
        show_board(demo, options.keep)
    except KeyboardInterrupt:
        print_text("\nThe demo was stopped.")
    except (DemoError, OSError) as error:
        print(f"the demo failed: {error}\nits files are in {folder}", file=sys.stderr)
        return 1
    finally:
        demo.stop()
    shutil.rmtree(folder, ignore_errors=True)
    return 0


def play_alert(demo: Demo, sender: Sender) -> None:
    """Play one alert from firing to resolved, and print its trail."""
    print_text("\n1. The alert fires. Its workflow runs.")
    sender.fire()
    firing = wait_for("the remediation", lambda: demo.find_completed("admitted"))
    print_text(demo.status_text(firing))
    expect(demo.execution_statuses(firing) == ["succeeded"], "one execution, succeeded")

    print_text("\n2. The same notification arrives again. Nothing runs twice.")
    sender.repeat()
    repeat = wait_for("the repeat", lambda: demo.find_completed("duplicate"))
    print_text(demo.status_text(repeat))
    expect(demo.execution_statuses(repeat) == [], "no execution for the repeat")

    print_text("\n3. The alert is resolved.")
    sender.resolve()
    print_text(demo.status_text(wait_for("the resolve", lambda: demo.find_recorded("resolved"))))

    print_text("\nWhat is firing now?")
    print_text(demo.run_action("alerts_active", format="text").strip("\n"))
    expect(demo.run_action("alerts_active")["count"] == 0, "no active alerts")

    print_text("\nAnd why did nothing change on the host?")
    print_text(demo.run_action("why", alert_name="HostDown", format="text").strip("\n"))


def show_board(demo: Demo, keep: bool) -> None:
    """Print where the board shows the trail. If it is kept, wait until the user presses Ctrl-C."""
    if not keep:
        print_text(
            "\nThe board shows the same in a browser: `make demo ARGS=--keep` keeps it running."
        )
        return
    print_text(
        f"\nThe board shows the same in a browser: {demo.board_url}\n"
        f"What happened: {demo.board_url}/episodes?alert_name={LABELS['alertname']}\n"
        "It runs until you press Ctrl-C."
    )
    demo.wait()


def wait_for(description: str, check: Callable[[], Any]) -> Any:
    """Return the first true value of check(), or raise DemoError after a minute."""
    deadline = time.monotonic() + STEP_SECONDS
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > deadline:
            raise DemoError(f"waited {STEP_SECONDS} s for {description}")
        time.sleep(0.2)


def print_text(text: str) -> None:
    """Print a text, and flush it."""
    print(text, flush=True)


def expect(condition: bool, description: str) -> None:
    """Raise DemoError unless a condition holds."""
    if not condition:
        raise DemoError(f"expected: {description}")


def now() -> str:
    """Return the current time in the format that Prometheus uses."""
    return datetime.now(timezone.utc).isoformat().replace("+00:00", "Z")


def find_free_port() -> int:
    """Return a port that is not in use."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def call(url: str, data: Any = None) -> Any:
    """Return the JSON response of a URL. With `data`, send a POST."""
    request = urllib.request.Request(url, headers={"Content-Type": "application/json"})
    if data is not None:
        request.data = json.dumps(data).encode()
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            text = response.read()
    except urllib.error.HTTPError as error:
        raise DemoError(f"{url}: {error.code} {error.read()[:500]!r}") from None
    return json.loads(text) if text.strip() else None


if __name__ == "__main__":
    sys.exit(main())
