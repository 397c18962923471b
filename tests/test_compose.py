"""docker-compose.yml and docker-compose.pack.yml are valid, safe, and agree with their images.

No test starts a container. IMAGES contains what the images' own sources say.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections import Counter
from pathlib import Path

import pytest
import yaml

from poundcake import config
from scripts import compose
from tests import services
from tests.content.pack import LOADER

ROOT = Path(__file__).parents[1]
FILES = {"docker-compose.yml": "stack", "docker-compose.pack.yml": "pack"}
CONFIG_FILES = [f"--config-file=/etc/st2/{n}.conf" for n in ("st2", "st2.docker", "st2.user")]


def st2(name, user="st2"):
    """Return the entry point of one of StackStorm's images.

    Source: the Dockerfiles in https://github.com/StackStorm/st2-dockerfiles, tag v3.8.1 and master.
    """
    return ([], [f"/opt/stackstorm/st2/bin/{name}", *CONFIG_FILES], user)


# {image: (entry point, default command, user)}, from each image's Dockerfile. An entry point that
# is a script runs a command that it does not know as it is.
IMAGES = {
    "stackstorm/st2api": st2("st2api"),
    "stackstorm/st2auth": st2("st2auth"),
    "stackstorm/st2stream": st2("st2stream"),
    "stackstorm/st2rulesengine": st2("st2rulesengine"),
    "stackstorm/st2timersengine": st2("st2timersengine"),
    "stackstorm/st2workflowengine": st2("st2workflowengine"),
    "stackstorm/st2scheduler": st2("st2scheduler"),
    "stackstorm/st2notifier": st2("st2notifier"),
    "stackstorm/st2garbagecollector": st2("st2garbagecollector"),
    "stackstorm/st2sensorcontainer": st2("st2sensorcontainer"),
    "stackstorm/st2actionrunner": st2("st2actionrunner", user="root"),
    "stackstorm/st2web": ([], ["/bin/bash", "-c", "… exec nginx"], "root"),
    "stackstorm/st2chatops": ([], ["bin/hubot"], "st2"),
    "mongo": (["docker-entrypoint.sh"], ["mongod"], "root"),
    "rabbitmq": (["docker-entrypoint.sh"], ["rabbitmq-server"], "root"),
    "redis": (["docker-entrypoint.sh"], ["redis-server"], "root"),
    "mariadb": (["docker-entrypoint.sh"], ["mariadbd"], "root"),
    "prom/prometheus": (["/bin/prometheus"], ["--config.file=…"], "nobody"),
    "prom/alertmanager": (["/bin/alertmanager"], ["--config.file=…"], "nobody"),
    "grafana/grafana": (["/run.sh"], [], "grafana"),
    "python": ([], ["python3"], "root"),
    "poundcake-sample-host": ([], ["sh", "/usr/local/sbin/start.sh"], "root"),
}
# The variables that an image's entry point reads. st2web's are in the template of its nginx.
VARIABLES = {
    "stackstorm/st2web": {"ST2_AUTH_URL", "ST2_API_URL", "ST2_STREAM_URL", "ST2WEB_HTTPS"},
    "stackstorm/st2chatops": {
        "ST2_AUTH_URL",
        "ST2_API_URL",
        "ST2_STREAM_URL",
        "ST2_API_KEY",
        "HUBOT_ADAPTER",
        "HUBOT_SLACK_TOKEN",
    },
    "mongo": {"MONGO_INITDB_ROOT_USERNAME", "MONGO_INITDB_ROOT_PASSWORD"},
    # RABBITMQ_DEFAULT_PASS_FILE is refused.
    "rabbitmq": {"RABBITMQ_DEFAULT_USER", "RABBITMQ_DEFAULT_PASS"},
    "mariadb": {
        "MARIADB_ROOT_HOST",
        "MARIADB_ROOT_PASSWORD",
        "MARIADB_DATABASE",
        "MARIADB_USER",
        "MARIADB_PASSWORD",
    },
    # docker-compose.yml itself reads it.
    "redis": {"REDIS_PASSWORD"},
}
# Where each image keeps its data, from VOLUME in its Dockerfile.
DATA = {
    "mongo": ["/data/db", "/data/configdb"],
    "rabbitmq": ["/var/lib/rabbitmq"],
    "redis": ["/data"],
    "mariadb": ["/var/lib/mysql"],
    "prom/prometheus": ["/prometheus"],
    "prom/alertmanager": ["/alertmanager"],
    "grafana/grafana": ["/var/lib/grafana"],
}
SECRET_VARIABLE = re.compile("PASS|TOKEN|SECRET")


def read(name):
    """Return a Compose file as it is written, with its variables."""
    return yaml.load((ROOT / name).read_text(encoding="utf-8"), LOADER)


def each_service():
    """Return each service of both files as test parameters (file, service)."""
    return [
        pytest.param(definition, id=f"{kind}-{name}")
        for file, kind in FILES.items()
        for name, definition in read(file)["services"].items()
    ]


def image_name(service):
    return service["image"].split(":")[0]


def words(command):
    return shlex.split(command) if isinstance(command, str) else command


def published_ports(document):
    """Return the published ports as (address, port), with the default values of variables."""
    ports = []
    for service in document["services"].values():
        for port in service.get("ports", []):
            address, published, _ = re.sub(r"\$\{\w+:-(\d+)\}", r"\1", port).rsplit(":", 2)
            ports.append((address, int(published)))
    return ports


@pytest.fixture
def compose_config(tmp_path):
    """Return a function that returns a file as Docker Compose understands it."""
    try:
        services.program("docker-compose")
    except services.MissingProgram as error:
        pytest.skip(str(error))
    env = tmp_path / ".env"
    compose.write_env(env)

    def read_config(name, env_file=env):
        completed = subprocess.run(
            ["docker-compose", "--env-file", str(env_file), "-f", name, "config"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        assert completed.returncode == 0, completed.stdout.decode()
        return yaml.safe_load(completed.stdout)

    return read_config


def test_docker_compose_accepts_the_stack(compose_config):
    services_of_stack = compose_config("docker-compose.yml")["services"]
    # st2chatops is optional: it is in a profile.
    assert set(services_of_stack) >= set(read("docker-compose.yml")["services"]) - {"st2chatops"}


def test_docker_compose_accepts_the_file_beside_a_stackstorm(compose_config):
    document = compose_config("docker-compose.pack.yml", ROOT / "etc" / "env.example")
    assert set(document["services"]) == {"mariadb", "alertmanager", "prometheus"}


def test_the_stack_does_not_start_without_its_passwords(compose_config, tmp_path):
    empty = tmp_path / "empty"
    empty.write_text("")
    with pytest.raises(AssertionError, match="run make up"):
        compose_config("docker-compose.yml", empty)


@pytest.mark.parametrize("service", each_service())
def test_each_image_has_a_version(service):
    tag = re.sub(r"^\$\{ST2_VERSION:-(.+)\}$", r"\1", service["image"].split(":", 1)[1])
    # A tag such as `mariadb:10` changes its content.
    assert re.match(r"v?\d+\.\d+\.\d+|1$", tag)


@pytest.mark.parametrize(
    "path", ["etc/compose/host/Dockerfile", "etc/kubernetes/Dockerfile"], ids=str
)
def test_each_base_image_has_a_version(path):
    text = (ROOT / path).read_text(encoding="utf-8")
    images = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert images and all(re.search(r":\d+\.\d+", image) for image in images)


@pytest.mark.parametrize("service", each_service())
def test_each_service_that_stays_up_restarts_and_has_a_health_check(service):
    runs_once = service["restart"] == "no"
    waits_for_people = service.get("command") == ["sleep", "infinity"] or "profiles" in service
    assert runs_once or service["restart"] == "unless-stopped"
    assert ("healthcheck" in service) == (not runs_once and not waits_for_people)


@pytest.mark.parametrize("service", each_service())
def test_each_command_suits_the_entry_point_of_its_image(service):
    entry_point, default, _ = IMAGES[image_name(service)]
    command = words(service.get("command", default))
    if entry_point and not entry_point[0].endswith(".sh"):
        # The command is the arguments of the program.
        assert all(argument.startswith("--") for argument in command)
    elif image_name(service) == "mariadb":
        # Its entry point puts mariadbd before options.
        assert command == default or all(argument.startswith("--") for argument in command)
    elif default[-1:] == CONFIG_FILES[-1:] and command[0].startswith("/opt/"):
        assert command == [*default, "--config-file=/etc/st2/keys/secrets.conf"]
    elif command != default:
        assert command[0] in ("sh", "sleep", "python3")


@pytest.mark.parametrize("service", each_service())
def test_each_variable_is_one_that_the_image_reads(service):
    name = image_name(service)
    command = words(service.get("command", [""]))
    if command[0] in ("sh", "sleep") and name.startswith("stackstorm/"):
        return  # the variables of the project's own scripts and of the st2 command
    if name == "grafana/grafana":
        assert all(key.startswith("GF_") for key in service["environment"])
        return
    assert set(service.get("environment", {})) <= VARIABLES.get(name, set())


@pytest.mark.parametrize("service", each_service())
def test_each_data_directory_is_a_named_volume(service):
    mounts = {mount.split(":")[1]: mount.split(":")[0] for mount in service.get("volumes", [])}
    for directory in DATA.get(image_name(service), []):
        assert re.fullmatch(r"[\w-]+", mounts[directory])


def test_each_mounted_file_exists():
    for name in FILES:
        for service in read(name)["services"].values():
            for mount in service.get("volumes", []):
                source = mount.split(":")[0]
                if source.startswith(".") and source != "./etc/poundcake.token":
                    assert (ROOT / source).exists(), source


def test_each_named_volume_is_used():
    for name in FILES:
        document = read(name)
        used = {
            mount.split(":")[0]
            for service in document["services"].values()
            for mount in service.get("volumes", [])
            if not mount.startswith(".")
        }
        assert used == set(document["volumes"])


def test_ports_are_published_on_loopback_only_and_do_not_collide():
    stack, pack = (published_ports(read(name)) for name in FILES)
    assert stack and pack == []
    assert {address for address, _ in stack} == {"127.0.0.1"}
    ports = [port for _, port in stack]
    assert sorted(ports) == [default for default, *_ in compose.PORTS.values()]
    # Ports of StackStorm, `make run`, docker-compose.pack.yml and node_exporter.
    others = {3306, 8000, 9090, 9093, 9100, 9101, 9102}
    assert max(Counter(ports).values()) == 1 and not others & set(ports)


def test_the_services_on_the_hosts_network_listen_on_loopback_only():
    for service in read("docker-compose.pack.yml")["services"].values():
        assert service["network_mode"] == "host"
        listening = [
            argument
            for argument in service["command"]
            if "listen-address=" in argument or "bind-address=" in argument
        ]
        addresses = {argument.partition("=")[2].split(":")[0] for argument in listening}
        assert listening and addresses <= {"127.0.0.1", ""}


@pytest.mark.parametrize("service", each_service())
def test_no_password_is_written_in_a_file(service):
    for name, value in service.get("environment", {}).items():
        if SECRET_VARIABLE.search(name):
            # A missing secret is an error, except that of an optional service.
            optional = value == "${HUBOT_SLACK_TOKEN:-}"
            assert optional or re.fullmatch(r"\$\{\w+:\?.+\}", str(value))


@pytest.mark.parametrize(
    "secret", ["ALERTMANAGER_TOKEN", "PROMETHEUS_TOKEN", "MARIADB_PASSWORD", "ST2_PASSWORD"]
)
def test_only_the_containers_that_need_a_secret_get_it(secret):
    document = read("docker-compose.yml")
    users = {
        name
        for name, service in document["services"].items()
        if any(secret in str(value) for value in service.get("environment", {}).values())
    }
    allowed = {"st2makesecrets"}
    if secret == "MARIADB_PASSWORD":
        allowed |= {"mariadb", "grafana"}
    assert "st2makesecrets" in users and users <= allowed


def test_a_service_whose_data_another_needs_is_healthy_first():
    document = read("docker-compose.yml")
    for name, service in document["services"].items():
        if name.startswith("st2") and "secrets.conf" in str(service.get("command")):
            needs = service["depends_on"]
            assert needs["st2makesecrets"]["condition"] == "service_completed_successfully"
            assert (
                needs["mongo"]["condition"] == needs["rabbitmq"]["condition"] == "service_healthy"
            )


def test_all_services_of_stackstorm_are_there():
    names = set(read("docker-compose.yml")["services"])
    assert names >= {
        *("st2api", "st2auth", "st2stream", "st2web", "st2rulesengine", "st2timersengine"),
        *("st2workflowengine", "st2scheduler", "st2notifier", "st2actionrunner"),
        *("st2sensorcontainer", "st2garbagecollector", "st2chatops", "st2client"),
        *("mongo", "rabbitmq", "redis", "mariadb", "prometheus", "alertmanager", "messages"),
        *compose.HOSTS,
    }


def test_the_configuration_of_the_pack_is_valid():
    values = yaml.safe_load((ROOT / "etc/compose/poundcake.yaml").read_text(encoding="utf-8"))
    # The files with the secrets exist only in the containers.
    loaded = config.load(without_files(values))
    assert not loaded.dry_run
    assert [entry.name for entry in loaded.remediations] == ["nginx", "disk"]
    assert loaded.remediation_errors == ()


def without_files(value):
    if isinstance(value, dict):
        return {key: without_files(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_files(item) for item in value]
    if str(value).startswith("file:"):
        return "sqlite:////tmp/none" if "database" in value else "0123456789abcdef"
    return value
