"""A MariaDB of the benchmark's own, whose data stays from one run to the next.

    python -m bench.server DIRECTORY

runs it until Ctrl-C and says how to connect.
"""

from __future__ import annotations

import os
import signal
import sys

from tests import services

# Half of the machine's memory: MariaDB's advice for a host of its own is up to 80 %.
BUFFER_POOL = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') // 2 >> 20}M"
LOG_FILE = "1G"


class MariaDB(services.MariaDB):
    """The tests' server with the data in a directory that is given, and more memory."""

    start_seconds = 300  # it may have to recover from its log
    stop_seconds = 300

    def __init__(self, directory):
        self.directory = os.path.abspath(directory)
        os.makedirs(self.directory, exist_ok=True)
        self.process = None
        self.account = None
        self.prepare()

    def prepare(self):
        if not os.path.exists(self.path("password")):
            super().prepare()
            with open(os.open(self.path("password"), os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
                file.write(self.password)
            return
        with open(self.path("password")) as file:
            self.password = file.read()
        self.server = services.program("mariadbd", "mysqld")
        self.port = services.free_port()
        if os.geteuid() == 0:
            self.account = services.account_of("mysql", "nobody")
        self.start()

    def command(self):
        return super().command() + [
            "--innodb-buffer-pool-size=" + BUFFER_POOL,
            "--innodb-log-file-size=" + LOG_FILE,
            # As MariaDB comes, which the tests' server is not: what is committed is on the disk,
            # and what is not in the buffer pool is read from it.
            "--innodb-flush-log-at-trx-commit=1",
            "--innodb-flush-method=O_DIRECT",
            "--innodb-doublewrite=ON",
            # The indexes of a large history are made by sorting.
            "--innodb-sort-buffer-size=64M",
        ]

    def version(self):
        import pymysql

        connection = pymysql.connect(unix_socket=self.path("sock"), user="root", ssl_disabled=True)
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT VERSION()")
                return cursor.fetchone()[0]
        finally:
            connection.close()

    def close(self):
        """The end of the server. Its data stays."""
        self.stop()


def interrupted(*_):
    raise KeyboardInterrupt


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    signal.signal(signal.SIGTERM, interrupted)
    server = MariaDB(sys.argv[1])
    try:
        print("URL: " + server.url("DATABASE"), flush=True)
        server.process.wait()
    except KeyboardInterrupt:
        pass
    finally:
        server.close()


if __name__ == "__main__":
    main()
