"""Run servers for the tests: MariaDB, RabbitMQ and Alertmanager, as the distribution ships them.

Each instance has its own directory and a free port on loopback, and ignores the machine's
configuration. Root or an ordinary user can start an instance, and it is stopped by its process id.
Servers that are already running on the machine are not affected.

`start`, `stop` (with SIGTERM) and `kill` (as in a crash) may be called repeatedly. The data and the
port are kept, so that a test can interrupt a server.
"""

from __future__ import annotations

import ctypes
import datetime
import glob
import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

LOOPBACK = "127.0.0.1"
PR_SET_PDEATHSIG = 1
SYSTEM_DIRECTORIES = os.pathsep.join(["/usr/sbin", "/usr/lib/rabbitmq/bin"])
MAX_SOCKET_PATH = 100
MEMORY_FOLDER = "/dev/shm"
MEMORY_NEEDED = 4 * 2**30  # bytes, for several instances of MariaDB


class MissingProgram(Exception):
    """This machine lacks a program or an account that a server needs."""


class Failed(Exception):
    """A server did not start, or refused a request. The message contains the reason or the log."""


def program(*names):
    """Return the path of the first program in the list that is installed."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), SYSTEM_DIRECTORIES])
    for name in names:
        program_path = shutil.which(name, path=path)
        if program_path:
            return program_path
    raise MissingProgram(f"{' or '.join(names)} is not installed")


def free_port():
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        return listener.getsockname()[1]


def accepts_connections(port):
    try:
        socket.create_connection((LOOPBACK, port), timeout=1).close()
        return True
    except OSError:
        return False


class Server:
    """A server process with its own directory."""

    name = "server"
    start_seconds = 30
    stop_seconds = 20

    def __init__(self):
        self.directory = tempfile.mkdtemp(prefix="poundcake-", dir=temporary_directory())
        self.process = None
        self.account = None  # the pwd entry of the account to run as; None for the current one
        try:
            self.prepare()
        except BaseException:
            self.close()
            raise

    def prepare(self):
        """Prepare the first start."""

    def command(self):
        raise NotImplementedError

    def environment(self):
        return dict(os.environ)

    def is_ready(self):
        raise NotImplementedError

    def path(self, *names):
        return os.path.join(self.directory, *names)

    @property
    def is_running(self):
        return self.process is not None and self.process.poll() is None

    def start(self):
        if self.is_running:
            return
        self.process = self.spawn(self.command(), self.environment())
        deadline = time.monotonic() + self.start_seconds
        while not self.is_ready():
            if not self.is_running:
                raise Failed(f"{self.name} ended while starting:\n{self.log()}")
            if time.monotonic() > deadline:
                self.kill()
                raise Failed(
                    f"{self.name} was not ready within {self.start_seconds} s:\n{self.log()}"
                )
            time.sleep(0.05)

    def stop(self):
        """Stop the process with SIGTERM, or with SIGKILL if it does not end in time."""
        if self.is_running:
            self.process.terminate()
            try:
                self.process.wait(self.stop_seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def kill(self):
        """Kill the process, to simulate a crash."""
        if self.is_running:
            self.process.kill()
            self.process.wait()

    def close(self):
        """Stop the instance and remove its data."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def log(self, characters=4000):
        with open(self.path("log"), errors="replace") as file:
            return file.read()[-characters:]

    def spawn(self, command, environment):
        """Start a process that ends with this one and that Ctrl-C does not interrupt."""
        with open(self.path("log"), "ab") as log:
            return subprocess.Popen(
                command,
                env=environment,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=self.prepare_child,  # noqa: PLW1509 - only the child can request this
            )

    def prepare_child(self):
        """In the child process, switch to the server's account. Make it end with its parent."""
        if self.account:
            os.initgroups(self.account.pw_name, self.account.pw_gid)
            os.setgid(self.account.pw_gid)
            os.setuid(self.account.pw_uid)
        end_with_parent()


def end_with_parent():
    """In a child process, ask the kernel to send it SIGTERM when its parent ends."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


LIBC = ctypes.CDLL(None, use_errno=True)


def temporary_directory():
    """Return a folder with a path short enough for a socket.

    The folder is in memory if there is space, because creating a database there is twice as fast.
    """
    if os.access(MEMORY_FOLDER, os.W_OK) and shutil.disk_usage(MEMORY_FOLDER).free > MEMORY_NEEDED:
        return MEMORY_FOLDER
    default = tempfile.gettempdir()
    return default if len(default) < MAX_SOCKET_PATH - 60 else "/tmp"


class MariaDB(Server):
    """A database server. Its default collation ignores case."""

    name = "MariaDB"

    def prepare(self):
        self.server = program("mariadbd", "mysqld")
        install = program("mariadb-install-db", "mysql_install_db")
        self.port = free_port()
        self.password = secrets.token_hex(16)
        if os.geteuid() == 0:  # MariaDB refuses to run as root
            self.account = find_account("mysql", "nobody")
            os.chown(self.directory, self.account.pw_uid, self.account.pw_gid)
        options = [
            "--no-defaults",
            "--datadir=" + self.path("data"),
            # Another server that starts at the same time deletes the temporary tables in /tmp.
            "--tmpdir=" + self.directory,
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            "--force",  # continue even if the name of this machine does not resolve
        ]
        if self.spawn([install, *options], self.environment()).wait():
            raise Failed(f"MariaDB's tables could not be created:\n{self.log()}")
        self.start()
        self.execute(
            f"CREATE USER 'poundcake'@'127.0.0.1' IDENTIFIED BY '{self.password}'",
            "GRANT ALL ON `poundcake\\_%`.* TO 'poundcake'@'127.0.0.1'",
        )

    def command(self):
        return [
            self.server,
            "--no-defaults",
            "--datadir=" + self.path("data"),
            "--socket=" + self.path("sock"),
            "--pid-file=" + self.path("pid"),
            "--tmpdir=" + self.directory,
            "--bind-address=" + LOOPBACK,
            f"--port={self.port}",
            "--skip-name-resolve",
            # A commit only has to reach the kernel, where it survives a kill of the server,
            # because no test cuts the power.
            "--innodb-flush-log-at-trx-commit=2",
            "--innodb-flush-method=nosync",
            "--skip-innodb-doublewrite",
            "--innodb-buffer-pool-size=64M",
            "--max-connections=200",
        ]

    def is_ready(self):
        return os.path.exists(self.path("sock")) and accepts_connections(self.port)

    def execute(self, *statements):
        """Execute statements as the server's root."""
        import pymysql

        connection = pymysql.connect(
            unix_socket=self.path("sock"),
            user="root",
            autocommit=True,
            ssl_disabled=True,  # with TLS, PyMySQL reads all certificates of the machine each time
        )
        try:
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)
        finally:
            connection.close()

    def create_database(self, name=""):
        """Create an empty database and return its name, by default a new one."""
        name = name or "poundcake_" + secrets.token_hex(6)
        self.execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
        return name

    def drop_database(self, name):
        self.execute("DROP DATABASE IF EXISTS " + name)

    def url(self, database):
        # No TLS: with it, each process would read all certificates of the machine.
        address = f"poundcake:{self.password}@{LOOPBACK}:{self.port}"
        return f"mysql+pymysql://{address}/{database}?charset=utf8mb4&ssl_disabled=true"


class RabbitMQ(Server):
    """A broker that runs as a node with its own port mapper, cookie and home directory."""

    name = "RabbitMQ"
    start_seconds = 60

    def prepare(self):
        # /usr/sbin/rabbitmq-server is a wrapper that refuses ordinary users.
        scripts = glob.glob("/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server")
        self.server = program("/usr/lib/rabbitmq/bin/rabbitmq-server", *scripts, "rabbitmq-server")
        self.port_mapper = program("epmd")
        self.port, self.node_port, self.mapper_port = free_port(), free_port(), free_port()
        # The host is an address, so that no name has to be resolved.
        self.node = f"poundcake-{secrets.token_hex(4)}@127.0.0.1"
        self.mapper = None
        for name in ("home", "mnesia", "logs", "config"):
            os.mkdir(self.path(name))
        for name in ("environment", "plugins", "rabbitmq.conf"):
            with open(self.path(name), "w") as file:
                file.write("[]." if name == "plugins" else "")

    @property
    def url(self):
        return f"amqp://guest:guest@{LOOPBACK}:{self.port}//"

    def environment(self):
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("RABBITMQ_", "ERL_"))
        }
        return dict(
            inherited,
            HOME=self.path("home"),
            ERL_EPMD_PORT=str(self.mapper_port),
            ERL_EPMD_ADDRESS=LOOPBACK,
            ERL_CRASH_DUMP=self.path("crash"),
            RABBITMQ_NODENAME=self.node,
            RABBITMQ_USE_LONGNAME="true",
            RABBITMQ_NODE_IP_ADDRESS=LOOPBACK,
            RABBITMQ_NODE_PORT=str(self.port),
            RABBITMQ_DIST_PORT=str(self.node_port),
            RABBITMQ_MNESIA_BASE=self.path("mnesia"),
            RABBITMQ_LOG_BASE=self.path("logs"),
            RABBITMQ_LOGS="-",
            RABBITMQ_CONFIG_FILE=self.path("rabbitmq.conf"),
            RABBITMQ_ADVANCED_CONFIG_FILE=self.path("advanced.config"),
            RABBITMQ_GENERATED_CONFIG_DIR=self.path("config"),
            RABBITMQ_CONF_ENV_FILE=self.path("environment"),
            RABBITMQ_ENABLED_PLUGINS_FILE=self.path("plugins"),
            RABBITMQ_PID_FILE=self.path("pid"),
            # With this setting, the script itself becomes the node, and does not supervise it.
            RABBITMQ_ALLOW_INPUT="1",
            RABBITMQ_SERVER_START_ARGS="-noinput +B i -kernel inet_dist_use_interface {127,0,0,1}",
        )

    def command(self):
        return [self.server]

    def start(self):
        if self.mapper is None or self.mapper.poll() is not None:
            command = [self.port_mapper, "-port", str(self.mapper_port), "-address", LOOPBACK]
            self.mapper = self.spawn(command, self.environment())
            deadline = time.monotonic() + 60
            while not accepts_connections(self.mapper_port) and time.monotonic() < deadline:
                time.sleep(0.05)
        super().start()

    def is_ready(self):
        """Return True if the broker sends its first frame. The port opens a moment earlier."""
        try:
            with socket.create_connection((LOOPBACK, self.port), timeout=2) as connection:
                connection.sendall(b"AMQP\x00\x00\x09\x01")
                return connection.recv(1) == b"\x01"
        except OSError:
            return False

    def close(self):
        super().close()
        mapper = getattr(self, "mapper", None)
        if mapper:
            mapper.terminate()
            mapper.wait()


ROUTE = {
    "receiver": "poundcake",
    "group_by": ["alertname", "instance"],
    "group_wait": "0s",
    "group_interval": "1s",
    "repeat_interval": "1h",
}


class Alertmanager(Server):
    """An Alertmanager that notifies one webhook, by default immediately.

    `route` contains the keys of Alertmanager's route, with its durations ("1s").
    """

    name = "Alertmanager"
    cluster_options = ("--cluster.listen-address=",)

    def __init__(self, webhook_url, http_config=None, **route):
        webhook = {"url": webhook_url, "send_resolved": True}
        if http_config:
            webhook["http_config"] = http_config
        self.configuration = {
            "route": {**ROUTE, **route},
            "receivers": [{"name": "poundcake", "webhook_configs": [webhook]}],
        }
        super().__init__()

    def prepare(self):
        self.server = program("prometheus-alertmanager", "alertmanager")
        self.port = free_port()
        with open(self.path("alertmanager.yml"), "w") as file:
            json.dump(self.configuration, file)  # JSON is YAML

    @property
    def url(self):
        return f"http://{LOOPBACK}:{self.port}"

    def command(self):
        return [
            self.server,
            "--config.file=" + self.path("alertmanager.yml"),
            "--storage.path=" + self.path("data"),
            f"--web.listen-address={LOOPBACK}:{self.port}",
            *self.cluster_options,
        ]

    def is_ready(self):
        try:
            self.request("/-/ready")
            return True
        except OSError:
            return False

    def request(self, path, body=None, timeout=5, method=None):
        """Return the response as text. A body makes the request a POST."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path, data, {"Content-Type": "application/json"}, method=method
        )
        try:
            with PROXYLESS_OPENER.open(request, timeout=timeout) as response:
                return response.read().decode()
        except urllib.error.HTTPError as error:
            raise Failed(f"{error.code} {path}: {error.read().decode()}") from error

    def post(self, *alerts):
        """Post alerts as Prometheus does. Each is a mapping with labels and other fields."""
        self.request("/api/v2/alerts", list(alerts))

    def fire(self, starts_at=None, annotations=None, generator_url="", **labels):
        """Post a firing alert, and return its startsAt for `resolve`."""
        starts_at = starts_at or now()
        self.post(
            {
                "labels": labels,
                "annotations": annotations or {},
                "startsAt": starts_at,
                "generatorURL": generator_url,
            }
        )
        return starts_at

    def resolve(self, starts_at, annotations=None, **labels):
        alert = {"labels": labels, "annotations": annotations or {}}
        self.post(dict(alert, startsAt=starts_at, endsAt=now()))

    def alerts(self):
        """Return the alerts that Alertmanager holds."""
        return json.loads(self.request("/api/v2/alerts"))

    def silences(self):
        return json.loads(self.request("/api/v2/silences"))


# Requests to loopback must not use a proxy.
PROXYLESS_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def now():
    return datetime.datetime.now(datetime.timezone.utc).isoformat().replace("+00:00", "Z")


def find_account(*names):
    for name in names:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            pass
    raise MissingProgram("there is no account to run as: " + " or ".join(names))
