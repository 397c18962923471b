"""python -m standalone: the pack in one process, without StackStorm."""

import argparse
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
READY_WITHIN = 30
STOP_WITHIN = 4.0
NOTICE = """\
poundcake standalone: the pack's own sensor, rules, actions and workflows in one process, without
StackStorm. For a first look, for development and for tests; nothing here survives its end but
what the pack itself keeps under %s"""


def arguments():
    """Return the command line's parser."""
    parser = argparse.ArgumentParser("python -m standalone", description=__doc__)
    parser.add_argument("--host", help="where the webhooks come in (default: the pack's config)")
    parser.add_argument("--port", type=int, help="its port (default: the pack's config)")
    parser.add_argument("--api-port", type=int, default=9101, help="StackStorm's API; 0 = any")
    parser.add_argument("--state-dir", help="the pack's state_dir (default: a new directory)")
    parser.add_argument("--database", help="the pack's database_url")
    parser.add_argument("--config", metavar="FILE", help="the pack's config, as StackStorm has it")
    parser.add_argument("--broker", metavar="URL", help="RabbitMQ (default: in memory)")
    parser.add_argument("--pack", metavar="DIR", action="append", default=[], help="another pack")
    parser.add_argument("--kv", metavar="NAME=VALUE", action="append", default=[])
    parser.add_argument("--no-sensor", action="store_true", help="start no sensor")
    parser.add_argument("--verbose", action="store_true")
    return parser


def main(argv=None):
    """Run until a signal or a failure; returns the exit code."""
    options = arguments().parse_args(argv)
    logging.basicConfig(
        level=logging.DEBUG if options.verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    logging.getLogger("SensorWrapper").setLevel(logging.INFO)
    # Last on the path: where StackStorm is installed its own modules are used.
    sys.path.append(os.path.join(HERE, "st2"))
    if options.broker:
        os.environ["STANDALONE_BROKER_URL"] = options.broker
    if not options.state_dir and not options.no_sensor:
        options.state_dir = tempfile.mkdtemp(prefix="poundcake-")
    ended = threading.Event()
    asked = []
    reasons = []
    for number in (signal.SIGTERM, signal.SIGINT):
        # Not ended.set(): the handler may run while this very thread holds the event's lock.
        signal.signal(number, lambda *_: asked.append(True))

    def fail(reason):
        reasons.append(reason)
        ended.set()

    try:
        stand_in = StandIn(options, fail)
    except Exception as error:
        return _refuse(error)
    try:
        stand_in.start(ended)
        while not asked and not ended.wait(0.1):
            pass
    except Exception as error:
        fail(_line(error))
    # A sensor that returns because it is being stopped is no failure.
    code = _refuse(reasons[0]) if reasons else 0
    stopper = threading.Thread(target=stand_in.stop, daemon=True)
    stopper.start()
    stopper.join(STOP_WITHIN)
    return code


def _line(error):
    return " ".join(str(error).split()) or type(error).__name__


def _refuse(reason):
    if isinstance(reason, Exception):
        logging.debug("refused", exc_info=reason)
        reason = _line(reason)
    print(f"standalone: {reason}", file=sys.stderr, flush=True)
    return 1


class StandIn:
    """All parts, wired. Nothing runs before start()."""

    def __init__(self, options, on_failure):
        # Imported here: the path has to be set first, and a mistake in the arguments shows faster.
        from standalone.api import Api, ApiServer
        from standalone.broker import TriggerConsumer
        from standalone.content import COMPLETION_TRIGGER, Content
        from standalone.executor import Executor
        from standalone.orquesta_engine import WorkflowEngine
        from standalone.rules import RulesEngine
        from standalone.sensors import SensorContainer
        from standalone.store import Store

        self.options = options
        keys = dict(pair.partition("=")[::2] for pair in options.kv)
        overrides = {name: getattr(options, name) for name in ("host", "port", "state_dir")}
        overrides["database_url"] = options.database
        folders = [os.path.dirname(HERE)] + options.pack
        self.content = Content(folders, options.config, overrides, keys)
        try:
            self.server = ApiServer(options.api_port)
        except OSError as error:
            raise OSError("API port %d: %s" % (options.api_port, error.strerror))
        os.environ.update(ST2_API_URL=self.server.url, ST2_AUTH_TOKEN="standalone")
        self.store = Store()
        self.store.keys.update(keys)
        self.engine = WorkflowEngine(self.content, self.store, self.server.url)
        self.executor = Executor(self.content, self.store, self.engine, self.server.url)
        self.consumer = TriggerConsumer(RulesEngine(self.content, self.store, self.executor))
        if any(r["trigger"]["type"] == COMPLETION_TRIGGER for r in self.content.rules.values()):
            self.executor.emit = self.consumer.emit
        self.server.api = Api(self.content, self.store, self.executor, self.consumer)
        self.sensors = SensorContainer(
            self.content, self.consumer.emit, self.server.url, on_failure
        )

    def start(self, ended):
        """Start every part, and say when all of them are ready."""
        config = next(iter(self.content.configs.values()))
        print(NOTICE % config.get("state_dir", "its database"), flush=True)
        self.consumer.start()
        threading.Thread(target=self.server.serve_forever, name="api", daemon=True).start()
        ready = f"API at {self.server.url}"
        if not self.options.no_sensor:
            address = (config.get("host") or "127.0.0.1", config.get("port"))
            listens = bool(self.content.sensors and address[1])
            if listens:
                self._check_free(address)
            self.sensors.start()
            if listens:
                self._wait_for(address, ended)
                scheme = "https" if config.get("tls_certificate") else "http"
                url = "%s://%s:%d/api/v1/webhook" % ((scheme,) + address)
                ready = f"webhooks at {url}, {ready}"
        if not ended.is_set():
            print("ready: " + ready, flush=True)

    @staticmethod
    def _check_free(address):
        """Refuse a taken port. The pack's sensor would wait for it, and another be taken for it."""
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(address)
            except OSError as error:
                raise OSError("%s port %d: %s" % (*address, error.strerror or error))

    @staticmethod
    def _wait_for(address, ended):
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address[0], address[0])
        until = time.monotonic() + READY_WITHIN
        while not ended.is_set():
            try:
                socket.create_connection((host, address[1]), timeout=1).close()
                return
            except OSError as error:
                if time.monotonic() > until:
                    raise TimeoutError(
                        "the sensor does not listen at %s:%d: %s" % (*address, error)
                    )
                time.sleep(0.05)

    def stop(self):
        """Stop in the order of the way of an alert, so that nothing new comes in."""
        self.sensors.stop()
        self.consumer.stop()
        self.executor.stop()
        self.server.shutdown()


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of the sensor and of pools may still sit in a call; they must not hold up the end.
    os._exit(code)
