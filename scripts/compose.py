"""Start the stack of docker-compose.yml, wait until it works, and break its sample hosts.

python3 scripts/compose.py up | down | logs | break-service | fill-disk | kill-host | storm | repair
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable

ROOT = Path(__file__).resolve().parent.parent
ENV = ROOT / ".env"
PROJECT = "poundcake-stack"
# Each is a random password or token. Letters and digits need no quotes in a URL or in a file.
SECRETS = (
    "ST2_PASSWORD",
    "MONGO_PASSWORD",
    "RABBITMQ_PASSWORD",
    "REDIS_PASSWORD",
    "MARIADB_ROOT_PASSWORD",
    "MARIADB_PASSWORD",
    "GRAFANA_PASSWORD",
    "ALERTMANAGER_TOKEN",
    "PROMETHEUS_TOKEN",
    "BOARD_PASSWORD",
)
# The published ports, all on 127.0.0.1, with the name of the service that people see.
PORTS = {
    "WEB_PORT": (8800, "StackStorm", "/"),
    "ENDPOINT_PORT": (8801, "PoundCake", "/board"),
    "GRAFANA_PORT": (8802, "Grafana", "/d/poundcake/poundcake?var-board={board}"),
    "PROMETHEUS_PORT": (8803, "Prometheus", "/alerts"),
    "ALERTMANAGER_PORT": (8804, "Alertmanager", "/"),
    "MESSAGES_PORT": (8805, "Messages", "/"),
}
HOSTS = [f"web-{number}" for number in range(1, 7)]
# Services that run once and exit.
ONE_SHOT = ("st2makesecrets", "install")
WAIT_SECONDS = 1800


class ComposeError(Exception):
    """A problem that the user can fix. Its text says how."""


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("command", choices=sorted(COMMANDS), help="what to do")
    parser.add_argument("--host", choices=HOSTS, help="the sample host to break")
    arguments = parser.parse_args()
    try:
        COMMANDS[arguments.command](arguments.host)
    except ComposeError as error:
        sys.exit(f"compose: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def up(_host: str | None = None) -> None:
    """Write .env, start all containers, wait until the pack is installed, and print addresses."""
    compose = find_compose()
    created = write_env(ENV)
    values = read_env(ENV)
    if created:
        print(f"compose: wrote {ENV.name} with random passwords")
    if not container_ids(compose, "st2web"):
        check_ports(values)
    run([*compose, "up", "-d", "--build", "--remove-orphans"])
    wait_until_installed(compose)
    print("\nThe stack is ready:\n")
    # The dashboard in Grafana has links to the board.
    board = f"http://127.0.0.1:{values.get('ENDPOINT_PORT', PORTS['ENDPOINT_PORT'][0])}/board"
    for name, (default, title, path) in PORTS.items():
        address = f"http://127.0.0.1:{values.get(name, default)}{path.format(board=board)}"
        print(f"  {title + ':':<15}{address}")
    print(
        "\nThe passwords are in .env:\n\n"
        f"  {'StackStorm:':<15}{values.get('ST2_USER', 'st2admin')}, with ST2_PASSWORD\n"
        f"  {'PoundCake:':<15}any user, with BOARD_PASSWORD\n"
        f"  {'Grafana:':<15}admin, with GRAFANA_PASSWORD\n\n"
        "Next: make break-service, make fill-disk, make storm (docs/COMPOSE.md)"
    )


def down(_host: str | None = None) -> None:
    """Remove the containers. The volumes, and so all data, remain."""
    run([*find_compose(), "down", "--remove-orphans"])
    print(
        "compose: the data remains. To delete it too, run: docker volume rm $(docker volume ls -q "
        f"-f label=com.docker.compose.project={PROJECT}); rm .env"
    )


def logs(_host: str | None = None) -> None:
    """Follow the logs of all containers."""
    run([*find_compose(), "logs", "--tail", "50", "-f"])


def break_service(host: str | None) -> None:
    """Stop nginx on a host. PoundCake restarts it."""
    on_host(host or "web-1", "service", "nginx", "stop")


def fill_disk(host: str | None) -> None:
    """Fill the small disk of a host. PoundCake asks before it cleans up."""
    on_host(host or "web-2", "sh", "/usr/local/sbin/fill-disk.sh")


def kill_host(host: str | None) -> None:
    """Kill a host. PoundCake checks it, and changes nothing."""
    run([*find_compose(), "kill", host or "web-3"])


def storm(_host: str | None = None) -> None:
    """Stop nginx on every host at once. PoundCake recognizes a storm, and changes nothing."""
    for host in HOSTS:
        on_host(host, "service", "nginx", "stop")


def repair(_host: str | None = None) -> None:
    """Start every host and its nginx, and delete the files that fill its disk."""
    run([*find_compose(), "up", "-d", "--no-deps", *HOSTS])
    for host in HOSTS:
        on_host(host, "sh", "-c", "rm -f /srv/data/cache/*; service nginx start")


COMMANDS: dict[str, Callable[[str | None], None]] = {
    "up": up,
    "down": down,
    "logs": logs,
    "break-service": break_service,
    "fill-disk": fill_disk,
    "kill-host": kill_host,
    "storm": storm,
    "repair": repair,
}


def write_env(path: Path) -> bool:
    """Write a file with a random secret for each service, readable by its owner only.

    Secrets that the file already contains are kept, because the databases were created with them.

    Returns:
        True if something was written.

    Raises:
        ComposeError: The file was not written by this script.
    """
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    values = read_env(path) if text else {}
    if text and values.get("COMPOSE_PROJECT_NAME") != PROJECT:
        raise ComposeError(
            f"{path} exists, but was not written by make up, so another Compose file may need it. "
            "Move it away, or use another clone of the repository"
        )
    lines = []
    if not text:
        lines = [
            "# Written by make up. The databases are created with these passwords, so keep them.",
            f"COMPOSE_PROJECT_NAME={PROJECT}",
        ]
    lines += [f"{name}={secrets.token_hex(24)}" for name in SECRETS if not values.get(name)]
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
    path.chmod(0o600)
    if not lines:
        return False
    with open(path, "a", encoding="utf-8") as file:
        file.write("".join(line + "\n" for line in lines))
    return True


def read_env(path: Path) -> dict[str, str]:
    """Return the variables in a file with lines of the form NAME=value."""
    lines = path.read_text(encoding="utf-8").splitlines()
    pairs = [line.split("=", 1) for line in lines if "=" in line and not line.startswith("#")]
    return {name.strip(): value.strip() for name, value in pairs}


def find_compose() -> list[str]:
    """Return the command of Docker Compose: the plugin of the Docker CLI, or docker-compose.

    Raises:
        ComposeError: Docker, its daemon or Compose is missing.
    """
    if not shutil.which("docker"):
        raise ComposeError("docker is not installed (https://docs.docker.com/engine/install/)")
    if succeeds(["docker", "compose", "version"]):
        command = ["docker", "compose"]
    elif shutil.which("docker-compose"):
        command = ["docker-compose"]
    else:
        raise ComposeError(
            "Docker Compose is not installed (https://docs.docker.com/compose/install/), neither "
            "as `docker compose` nor as `docker-compose`"
        )
    if not succeeds(["docker", "info"]):
        raise ComposeError(
            "the Docker daemon does not answer: start it, and check that you may use it "
            "(docker info shows the reason)"
        )
    return [*command, "-p", PROJECT, "-f", str(ROOT / "docker-compose.yml")]


def check_ports(values: dict[str, str]) -> None:
    """Check that the ports are free.

    Raises:
        ComposeError: A port is in use. The text names the variable that changes it.
    """
    for name, (default, title, _) in PORTS.items():
        port = int(values.get(name, default))
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                raise ComposeError(
                    f"port {port} on 127.0.0.1, for {title}, is in use: write {name}=PORT with a "
                    "free port into .env"
                ) from None


def wait_until_installed(compose: list[str]) -> None:
    """Wait until the pack is installed and every container is healthy, and print the progress.

    Raises:
        ComposeError: The installation failed, or took too long.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    shown = ""
    while True:
        states = container_states(compose)
        code = states.get("install", "").partition("exited ")[2]
        if code not in ("", "0"):
            subprocess.call([*compose, "logs", "--tail", "30", "install"])
            raise ComposeError("the pack could not be installed; the log above shows the reason")
        waiting = sorted(name for name, state in states.items() if not is_ready(name, state))
        if states and not waiting:
            return
        progress = f"{len(states) - len(waiting)} of {len(states)} containers are ready"
        progress += f"; waiting for {', '.join(waiting[:5])}" + (" …" if waiting[5:] else "")
        if progress != shown:
            print(f"compose: {progress}", flush=True)
            shown = progress
        if time.monotonic() > deadline:
            raise ComposeError(
                f"not ready after {WAIT_SECONDS // 60} minutes: {', '.join(waiting)}; see make logs"
            )
        time.sleep(2)


def is_ready(name: str, state: str) -> bool:
    """Return True if a container is healthy, has no health check, or has succeeded and runs once.

    Docker reports `running` only for a container without a health check.
    """
    return state == "exited 0" if name in ONE_SHOT else state in ("healthy", "running")


def container_states(compose: list[str]) -> dict[str, str]:
    """Return {service: its state}: `healthy`, `starting`, `running`, `exited 1` and so on."""
    ids = container_ids(compose)
    if not ids:
        return {}
    form = (
        '{{index .Config.Labels "com.docker.compose.service"}}|{{.State.Status}}|'
        "{{.State.ExitCode}}|{{if .State.Health}}{{.State.Health.Status}}{{end}}"
    )
    states = {}
    for line in output(["docker", "inspect", "-f", form, *ids]).splitlines():
        service, status, code, health = line.split("|")
        states[service] = f"exited {code}" if status == "exited" else health or status
    return states


def container_ids(compose: list[str], *services: str) -> list[str]:
    """Return the ids of the project's containers, including those that have exited."""
    return output([*compose, "ps", "-a", "-q", *services]).split()


def on_host(host: str, *command: str) -> None:
    """Run a command on a sample host as root."""
    run([*find_compose(), "exec", "-T", host, *command])
    print(f"compose: {host}: {' '.join(command)}")


def run(command: list[str]) -> None:
    """Run a command, and raise ComposeError if it fails."""
    code = subprocess.call(command)
    if code:
        raise ComposeError(f"{' '.join(command)} failed with status {code}")


def output(command: list[str]) -> str:
    """Return the output of a command, and raise ComposeError if it fails."""
    completed = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if completed.returncode:
        raise ComposeError(f"{' '.join(command)} failed with status {completed.returncode}")
    return completed.stdout.decode()


def succeeds(command: list[str]) -> bool:
    """Return True if a command exits with 0. Its output is discarded."""
    discard = subprocess.DEVNULL
    return subprocess.call(command, stdout=discard, stderr=discard) == 0


if __name__ == "__main__":
    main()
