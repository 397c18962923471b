"""Run a private MariaDB for the benchmarks. Its data is kept between runs.

    python -m bench.server DIRECTORY

The command prints the URL of the server, and runs it until Ctrl-C.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

from tests import services

# Half of the machine's memory. On a dedicated machine, MariaDB recommends up to 80%.
BUFFER_POOL = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') // 2 >> 20}M"
LOG_FILE = "1G"


class MariaDB(services.MariaDB):
    """The tests' server with more memory, and with its data in a directory that is kept."""

    start_seconds = 300  # the server may have to recover from its log
    stop_seconds = 300

    def __init__(self, directory: str) -> None:
        self.directory = os.path.abspath(directory)
        os.makedirs(self.directory, exist_ok=True)
        self.process = None
        self.account = None
        self.prepare()

    def prepare(self) -> None:
        """Start the server on the data in the directory. Create the directory if it is missing."""
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
            self.account = services.find_account("mysql", "nobody")
        self.start()

    def command(self) -> list[str]:
        """Return the command line."""
        return [
            *super().command(),
            "--innodb-buffer-pool-size=" + BUFFER_POOL,
            "--innodb-log-file-size=" + LOG_FILE,
            # MariaDB's defaults, which the tests' server overrides: commits are written to the
            # disk, and pages outside the buffer pool are read from the disk.
            "--innodb-flush-log-at-trx-commit=1",
            "--innodb-flush-method=O_DIRECT",
            "--innodb-doublewrite=ON",
            # The indexes of a large history are built by sorting.
            "--innodb-sort-buffer-size=64M",
        ]

    def version(self) -> str:
        """Return the server's version."""
        import pymysql

        connection = pymysql.connect(unix_socket=self.path("sock"), user="root", ssl_disabled=True)
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT VERSION()")
                return str(cursor.fetchone()[0])
        finally:
            connection.close()

    def close(self) -> None:
        """Stop the server, and keep its data."""
        self.stop()


def interrupt(signal_number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, so that SIGTERM stops the server as Ctrl-C does."""
    raise KeyboardInterrupt


def main() -> None:
    """Run the server of a directory."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    signal.signal(signal.SIGTERM, interrupt)
    server = MariaDB(sys.argv[1])
    try:
        print("URL: " + server.url("DATABASE"), flush=True)
        if server.process:
            server.process.wait()
    except KeyboardInterrupt:
        pass
    finally:
        server.close()


if __name__ == "__main__":
    main()
