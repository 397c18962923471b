"""Run the pack in one process, without StackStorm: python -m standalone."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import types
from typing import Any, Callable, Sequence

HERE = os.path.dirname(os.path.abspath(__file__))
PACK = os.path.dirname(HERE)
READY_SECONDS = 30
STOP_SECONDS = 4.0
NOTICE = """\
poundcake standalone: the pack's own sensor, rules, actions and workflows in one process, without
StackStorm. For a first look and for development. Only the pack's own data is kept, in
{location}."""


class StandIn:
    """All components of the stand-in, connected to each other. start() starts them."""

    def __init__(self, options: argparse.Namespace, on_failure: Callable[[str], None]):
        # Import these here, because set_up() must extend sys.path first.
        from standalone import broker, rules, sensors, store

        self.options = options
        self.store = store.Store()
        classes = self.component_classes()
        self.content = self.load_content(classes.Content)
        self.server = self.create_server(classes.ApiServer)
        url = self.server.url
        self.engine = classes.WorkflowEngine(self.content, self.store, url)
        self.executor = classes.Executor(self.content, self.store, self.engine, url)
        engine = rules.RulesEngine(self.content, self.store, self.executor)
        self.consumer = broker.TriggerConsumer(engine)
        self.server.api = classes.Api(self.content, self.store, self.executor)
        self.sensors = sensors.SensorContainer(self.content, url, on_failure)

    def component_classes(self) -> types.SimpleNamespace:
        """Return the classes to use. The stand-in of the tests overrides some of them."""
        from standalone import api, content, executor, orquesta_engine

        return types.SimpleNamespace(
            Content=content.Content,
            ApiServer=api.ApiServer,
            Api=api.Api,
            WorkflowEngine=orquesta_engine.WorkflowEngine,
            Executor=executor.Executor,
        )

    def load_content(self, content_class: Any) -> Any:
        """Load the pack that contains this folder."""
        return content_class([PACK], self.options.config, config_overrides(self.options))

    def create_server(self, server_class: Any) -> Any:
        """Create the API server, which opens its port."""
        port = self.options.api_port
        try:
            server = server_class(port)
        except OSError as error:
            raise OSError(f"API port {port}: {error.strerror}") from None
        os.environ.update(ST2_API_URL=server.url, ST2_AUTH_TOKEN="standalone")
        return server

    def start(self, stop_requested: threading.Event) -> None:
        """Start all components, and print a line when they are ready."""
        config = next(iter(self.content.configs.values()))
        print(NOTICE.format(location=config.get("state_dir", "its database")), flush=True)
        self.consumer.start()
        threading.Thread(target=self.server.serve_forever, name="api", daemon=True).start()
        ready = f"API at {self.server.url}"
        if not self.options.no_sensor:
            url = self._start_sensors(config, stop_requested)
            ready = f"webhooks at {url}, {ready}"
        if not stop_requested.is_set():
            # print() would write the text and the line break separately, and another thread could
            # write a log line in between.
            sys.stdout.write(f"ready: {ready}\n")
            sys.stdout.flush()

    def _start_sensors(self, config: dict, stop_requested: threading.Event) -> str:
        host, port = config.get("host") or "127.0.0.1", config["port"]
        check_port_is_free(host, port)
        self.sensors.start()
        wait_for_port(host, port, stop_requested)
        scheme = "https" if config.get("tls_certificate") else "http"
        return f"{scheme}://{host}:{port}/api/v1/webhook"

    def stop(self) -> None:
        """Stop the components in the order in which alerts reach them, so that no work arrives."""
        self.sensors.stop()
        self.consumer.stop()
        self.executor.stop()
        self.server.shutdown()


def create_parser(program: str = "python -m standalone") -> argparse.ArgumentParser:
    """Return the parser for the command line."""
    parser = argparse.ArgumentParser(program, description=__doc__)
    parser.add_argument("--host", help="address for webhooks (default: the pack's config)")
    parser.add_argument("--port", type=int, help="port for webhooks (default: the pack's config)")
    parser.add_argument("--api-port", type=int, default=9101, help="port of the API; 0 = any")
    parser.add_argument("--state-dir", help="the pack's state_dir (default: a new directory)")
    parser.add_argument("--database", help="the pack's database_url")
    parser.add_argument("--config", metavar="FILE", help="the pack's config, read at the start")
    parser.add_argument("--broker", metavar="URL", help="RabbitMQ (default: in memory)")
    parser.add_argument("--no-sensor", action="store_true", help="do not start the sensor")
    parser.add_argument("--verbose", action="store_true")
    return parser


def main(options: argparse.Namespace, stand_in_class: type[StandIn] = StandIn) -> int:
    """Run until a signal or a failure. Return the exit code."""
    set_up(options)
    stop_requested = threading.Event()
    received_signals: list[int] = []
    failures: list[str] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        # The handler must not call stop_requested.set(): it may interrupt the thread that holds the
        # event's lock.
        signal.signal(number, lambda number, _: received_signals.append(number))

    def fail(reason: str) -> None:
        failures.append(reason)
        stop_requested.set()

    try:
        stand_in = stand_in_class(options, fail)
    except Exception as error:
        return report_failure(error)
    try:
        stand_in.start(stop_requested)
        while not received_signals and not stop_requested.wait(0.1):
            pass
    except Exception as error:
        fail(one_line(error))
    # Determine the exit code before stopping the sensors: a run() that returns later is no failure.
    code = report_failure(failures[0]) if failures else 0
    stopper = threading.Thread(target=stand_in.stop, daemon=True)
    stopper.start()
    stopper.join(STOP_SECONDS)
    return code


def set_up(options: argparse.Namespace) -> None:
    """Prepare logging, sys.path and the environment."""
    logging.basicConfig(
        level=logging.DEBUG if options.verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    logging.getLogger("SensorWrapper").setLevel(logging.INFO)
    # At the end of the path, so that an installed StackStorm takes precedence.
    sys.path.append(os.path.join(HERE, "st2"))
    if options.broker:
        os.environ["STANDALONE_BROKER_URL"] = options.broker
    if not options.state_dir and not options.no_sensor:
        options.state_dir = tempfile.mkdtemp(prefix="poundcake-")


def config_overrides(options: argparse.Namespace) -> dict[str, Any]:
    """Return the values of the pack's configuration that the command line overrides."""
    names = {"host": "host", "port": "port", "state_dir": "state_dir", "database_url": "database"}
    return {key: getattr(options, name) for key, name in names.items()}


def check_port_is_free(host: str, port: int) -> None:
    """Raise OSError if a port is in use. The pack's sensor would only log that and wait."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise OSError(f"{host} port {port}: {error.strerror or error}") from None


def wait_for_port(host: str, port: int, stop_requested: threading.Event) -> None:
    """Wait until the sensor listens, or until a stop is requested."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    deadline = time.monotonic() + READY_SECONDS
    while not stop_requested.wait(0.05):
        try:
            socket.create_connection((host, port), timeout=1).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                text = f"the sensor does not listen at {host}:{port}: {error}"
                raise TimeoutError(text) from None


def one_line(error: Exception) -> str:
    """Return the message of an error on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def report_failure(reason: Exception | str) -> int:
    """Print why the program failed, and return its exit code."""
    if isinstance(reason, Exception):
        logging.getLogger("standalone").debug("failed", exc_info=reason)
        reason = one_line(reason)
    print(f"standalone: {reason}", file=sys.stderr, flush=True)
    return 1


def run_and_exit(
    parser: argparse.ArgumentParser,
    stand_in_class: type[StandIn] = StandIn,
    command_line: Sequence[str] | None = None,
) -> None:
    """Run the program and end the process, whatever its threads are doing."""
    code = main(parser.parse_args(command_line), stand_in_class)
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of the sensor and of pools may be blocked in a call, and must not delay the exit.
    os._exit(code)


if __name__ == "__main__":
    run_and_exit(create_parser())
