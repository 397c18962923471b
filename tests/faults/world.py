"""Run the sensor, StackStorm's stand-in, RabbitMQ and MariaDB, and inject faults into them.

The sensor connects to RabbitMQ through one proxy, and the whole pack to MariaDB through another.
"""

from __future__ import annotations

import ctypes
import http.client
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import urllib.request

import sqlalchemy

from tests import services
from tests.faults import injection
from tests.faults.proxy import Proxy
from tests.load_balancer import LoadBalancer

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
READY_SECONDS = 60
STOP_SECONDS = 5
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)

# The product's waits that the suite shortens, in seconds.
SETTINGS = {
    "poundcake.endpoint.retry": {
        "RECORD_WAIT": 4,
        "STUCK_WAIT": 6,
        "OUTAGE_WAIT": 4,
        "EMIT_WAITS": (6, 12),
        "REFUSED_WAITS": (0.5, 2),
        "SYNC_WAITS": (1, 2),
        "SYNC_CONFIRMATION_WAIT": 3,
        "SYNC_IDLE_WAIT": 5,
        "FAILURE_WAITS": (0.2, 2),
    },
    "poundcake.endpoint.emitter": {"RECHECK_WAIT": 1},
    "poundcake.trail.verdict": {"LINK_GRACE": 10, "ARRIVAL_GRACE": 6, "RULES_GRACE": 15},
    "poundcake.trail.sync_round": {"LEASE": 8},
    "poundcake.endpoint.bus": {"_TIMEOUT": 2},
    "poundcake.endpoint.supervisor": {"RETRY_SECONDS": 0.5},
}


class Failed(Exception):
    """A fault did not happen as expected, or a condition did not become true in time."""


def wait_for(condition, seconds, description):
    """Return the first true value of condition(). Raise Failed after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise Failed(f"did not happen within {seconds} s: {description}")
        time.sleep(0.05)


class Process:
    """A process that can be killed and restarted. Each start appends to its log."""

    def __init__(self, name, folder, command, environment):
        self.name = name
        self._command, self._environment = command, environment
        self._log = folder / (name + ".log")
        self._process = None

    @property
    def is_running(self):
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self):
        return self._process.pid

    def start(self):
        with open(str(self._log), "ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=str(ROOT),
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                # The process must not outlive the suite.
                preexec_fn=lambda: LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL),  # noqa: PLW1509
            )

    def signal(self, number):
        self._process.send_signal(number)

    def kill(self):
        if self.is_running:
            self._process.kill()
        self._process.wait()

    def stop(self):
        """Stop the process with SIGTERM, and return how many seconds that took."""
        started_at = time.monotonic()
        self._process.terminate()
        try:
            self._process.wait(2 * STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
        return time.monotonic() - started_at

    def wait(self, seconds):
        """Wait until the process has ended."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Failed(f"{self.name} is still running") from None

    def log(self, characters=3000):
        return self._log.read_text(errors="replace")[-characters:]


def get_json(url):
    """Return the JSON at a URL, or None if there is no valid response."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as response:
            return json.loads(response.read())
    except (OSError, http.client.HTTPException):
        return None


class Endpoint:
    """A process that runs the pack's sensor.

    Attributes:
        config: Its configuration. Endpoints of one world differ in `port` and `state_dir`.
        process: The process.
    """

    def __init__(self, name, folder, config, options, environment):
        self.config = config
        options = dict(options, config=config)
        command = [sys.executable, "-u", str(HERE / "sensor.py"), json.dumps(options)]
        self.process = Process(name, folder, command, environment)

    @property
    def port(self):
        return self.config["port"]

    def start(self):
        """Start the process and wait until it accepts webhooks."""
        self.process.start()
        wait_until_ready(self.process, self.health)

    def health(self):
        """Return the endpoint's health, or None if it accepts no webhooks."""
        return get_json(f"http://127.0.0.1:{self.port}/api/v1/health")


def wait_until_ready(process, ready):
    """Wait until ready() is true. Raise Failed if the process ends before."""

    def is_ready():
        if not process.is_running:
            raise Failed(f"{process.name} ended while starting:\n{process.log()}")
        return ready()

    wait_for(is_ready, READY_SECONDS, process.name + " is ready:\n" + process.log())


class World:
    """Endpoints, StackStorm's stand-in, a broker and a database, in one folder.

    Args:
        folder: Contains the logs, the journals and the control files.
        broker: A running services.RabbitMQ.
        mariadb: A running services.MariaDB, or None for SQLite.
        settings: {module: {constant: value}} of the product's constants to change.
        shadow: Whether to copy the first endpoint's journal at each sync, for lose_power().
        endpoints: The number of endpoints. Two are behind a load balancer, the HAProxy of
            etc/haproxy.cfg.
        config: The configuration of the pack.

    Attributes:
        endpoints: The endpoints. Most faults concern only the first one: `sensor` is its process.
        load_balancer: A LoadBalancer, or None in front of a single endpoint.
        port: The port to which senders post.
    """

    def __init__(
        self, folder, broker, mariadb=None, settings=SETTINGS, shadow=False, endpoints=1, **config
    ):
        injection.check(settings)
        self.folder, self.broker, self.mariadb = folder, broker, mariadb
        self.control = folder / "control"
        for name in ("armed", "hit", "while"):
            (self.control / name).mkdir(parents=True)
        for name in ("lines", "webhooks"):
            (self.control / name).touch()
        (self.control / "settings.json").write_text(json.dumps(settings))
        self.broker_proxy = Proxy(broker.port)
        self.database_proxy = None
        if mariadb:
            self._database = mariadb.create_database()
            self.database_proxy = Proxy(mariadb.port)
            url = mariadb.url(self._database)
            proxied_url = url.replace(f":{mariadb.port}/", f":{self.database_proxy.port}/")
        else:
            proxied_url = url = "sqlite:///{}".format(folder / "tracking.sqlite")
        self.engine = sqlalchemy.create_engine(
            url, poolclass=sqlalchemy.pool.NullPool, isolation_level="AUTOCOMMIT"
        )
        api_port = services.free_port()
        self.api = f"http://127.0.0.1:{api_port}/v1"
        self.shadow = folder / "shadow"
        self.shadow.mkdir()
        proxied_broker_url = f"amqp://guest:guest@127.0.0.1:{self.broker_proxy.port}//"
        environment = self._environment(STANDALONE_BROKER_URL=proxied_broker_url)
        self.endpoints = []
        for number in range(endpoints):
            suffix = f"-{number}" if number else ""
            state_dir = str(folder / ("state" + suffix))
            endpoint_config = dict(
                config, database_url=proxied_url, port=services.free_port(), state_dir=state_dir
            )
            if shadow and not number:
                endpoint_environment = {**environment, **self._shadow_environment(state_dir)}
            else:
                endpoint_environment = environment
            options = {"api": self.api, "patched": bool(mariadb)}
            self.endpoints.append(
                Endpoint("sensor" + suffix, folder, endpoint_config, options, endpoint_environment)
            )
        self.config, self.sensor = self.endpoints[0].config, self.endpoints[0].process
        self.load_balancer = None
        if endpoints > 1:
            self.load_balancer = LoadBalancer([endpoint.port for endpoint in self.endpoints])
        self.port = (self.load_balancer or self.endpoints[0]).port
        config_file = folder / "poundcake.yaml"
        config_file.write_text(json.dumps(self.config))  # JSON is YAML
        broker_url = f"amqp://guest:guest@127.0.0.1:{broker.port}//"
        command = [sys.executable, "-u", "-m", "tests.standin", "--no-sensor"]
        command += ["--api-port", str(api_port), "--broker", broker_url]
        command += ["--config", str(config_file), "--pack", str(HERE / "pack")]
        self.stackstorm = Process("stackstorm", folder, command, self._environment())

    def _environment(self, **variables):
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("ST2_", "FAULTS_"))
        }
        environment.update(PYTHONPATH=str(HERE / "inject"), FAULTS_DIR=str(self.control))
        environment.update(variables)
        return environment

    def _shadow_environment(self, state_dir):
        """Return the environment in which shadow.c copies the journal at each sync."""
        library = str(self.folder / "shadow.so")
        command = ["cc", "-shared", "-fPIC", "-o", library, str(HERE / "shadow.c"), "-ldl"]
        subprocess.run(command, check=True)
        return {
            "LD_PRELOAD": library,
            "SHADOW_OF": state_dir,
            "SHADOW": str(self.shadow),
        }

    # -- starting and stopping

    def start(self):
        self.start_stackstorm()
        self.start_sensor()
        if self.load_balancer:
            self.load_balancer.start()

    def start_sensor(self):
        """Start the endpoints that do not run, and wait until they accept webhooks."""
        for endpoint in self.endpoints:
            if not endpoint.process.is_running:
                endpoint.start()

    def start_stackstorm(self):
        """Start the stand-in and wait until its rules engine processes triggers."""
        self.stackstorm.start()
        wait_until_ready(self.stackstorm, lambda: get_json(self.api + "/rules?limit=1"))

    def close(self, keep=False):
        """Stop everything, and remove the folder unless `keep` is set."""
        for process in (*(endpoint.process for endpoint in self.endpoints), self.stackstorm):
            if process.is_running:
                process.stop()
        for proxy in (self.load_balancer, self.broker_proxy, self.database_proxy):
            if proxy:
                proxy.close()
        self.engine.dispose()
        if self.mariadb:
            self.mariadb.start()
            self.mariadb.drop_database(self._database)
        if not keep:
            shutil.rmtree(str(self.folder), ignore_errors=True)

    # -- faults

    def arm(self, failpoint):
        """Arm a failpoint: the next process that reaches it is killed."""
        (self.control / "armed" / failpoint).touch()

    def was_hit(self, failpoint):
        """Return True, once, if a process was killed at the armed failpoint."""
        try:
            (self.control / "hit" / failpoint).unlink()
            return True
        except FileNotFoundError:
            return False

    def disarm(self, failpoint):
        try:
            (self.control / "armed" / failpoint).unlink()
        except FileNotFoundError:
            pass

    def set_flag(self, name, text=""):
        """Set a flag that the hooks read, until clear_flag(name)."""
        (self.control / "while" / name).write_text(text)

    def clear_flag(self, name):
        (self.control / "while" / name).unlink()

    def lose_power(self):
        """Kill the first endpoint, and restore its journal as of the last sync to the disk."""
        self.sensor.kill()
        for suffix in ("", "-wal", "-shm", "-journal"):
            name = "journal.sqlite" + suffix
            journal_file = pathlib.Path(self.config["state_dir"]) / name
            if journal_file.exists():
                journal_file.unlink()
            if (self.shadow / name).exists():
                shutil.copy(str(self.shadow / name), str(journal_file))

    # -- inspection

    @staticmethod
    def get_json(url):
        """Return the JSON at a URL, or None if there is no valid response."""
        return get_json(url)

    def health(self):
        """Return the first endpoint's health, or None if it accepts no webhooks."""
        return self.endpoints[0].health()

    def rows(self, statement, **values):
        """Query the tracking tables directly, without the pack and the proxy."""
        with self.engine.connect() as connection:
            return connection.execute(sqlalchemy.text(statement), values).all()

    def count(self, statement):
        """Return the number that a statement selects, or 0 if the tables do not exist yet."""
        try:
            return self.rows(statement)[0][0]
        except sqlalchemy.exc.SQLAlchemyError:
            return 0

    def finished_work(self):
        """Return (episode, request_id, execution_id) for each time that the work was done."""
        return [tuple(s.split()) for s in (self.control / "lines").read_text().splitlines()]

    def received_webhooks(self):
        """Return the request_ids of the webhook triggers that StackStorm received."""
        return set((self.control / "webhooks").read_text().split())

    def pending_work(self):
        """Describe the work that is still pending. Return '' if there is none."""
        for endpoint in self.endpoints:
            health = endpoint.health()
            if not health:
                return f"{endpoint.process.name} accepts no webhooks"
            journal = health["components"]["journal"]
            states = ("accepted", "announced", "recorded")
            unfinished = {state: journal[state] for state in states if journal[state]}
            if unfinished:
                return f"in the journal of {endpoint.process.name}: {unfinished}"
        try:
            open_requests = self.rows(
                "SELECT count(*) FROM poundcake_api_calls WHERE completed_at IS NULL"
            )[0][0]
        except sqlalchemy.exc.SQLAlchemyError as error:
            return str(error).splitlines()[0]
        return f"{open_requests} requests are not completed" if open_requests else ""
