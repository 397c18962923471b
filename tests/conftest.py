"""Fixtures for every test: databases, a broker and an Alertmanager, each an instance of its own.

They start when the first test asks for them and end with the session. Where a program is missing,
the tests that need it are skipped and say so.
"""

import os

import pytest
from hypothesis import HealthCheck, settings

from tests import services

# How long an example takes says how busy the machine is.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("fuzz", settings.get_profile("untimed"), max_examples=3000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "untimed"))

SERVICE_FIXTURES = {
    "alertmanager",
    "mariadb",
    "mariadb_server",
    "mariadb_url",
    "rabbitmq",
    "rabbitmq_server",
    "rabbitmq_url",
}


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in this hook, too
def pytest_collection_modifyitems(items):
    """`-m "not services"` leaves out what needs a server, and `--dist loadgroup` keeps
    together what shares servers: the tests of a file, the scenarios on one kind of database. The
    longest come first, so that none is left alone at the end."""
    for item in items:
        parameters = getattr(item, "callspec", None)
        parameters = parameters.params if parameters else {}
        on_mariadb = parameters.get("database_url") == "mariadb"
        if on_mariadb or SERVICE_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("services")
        file = item.nodeid.split("::")[0]
        group = file
        if file.startswith("tests/scenarios/") and "kind" in parameters:
            group = "scenarios-{}".format(parameters["kind"])
        item.add_marker(pytest.mark.xdist_group(group))
    longest = ("tests/scenarios/", "tests/faults/")
    items.sort(key=lambda item: not item.nodeid.startswith(longest))


def pytest_configure(config):
    if hasattr(config.option, "loadscopereorder"):  # by pytest-xdist, by number instead of length
        config.option.loadscopereorder = False


def start(kind, *args, **kwargs):
    """A running server, or a skip that says what is missing."""
    try:
        server = kind(*args, **kwargs)
        server.start()
    except services.Missing as missing:
        pytest.skip(f"{kind.name}: {missing}")
    return server


@pytest.fixture(scope="session")
def mariadb_server():
    server = start(services.MariaDB)
    yield server
    server.close()


@pytest.fixture
def mariadb(mariadb_server):
    """The session's MariaDB, up again should the test before have taken it away."""
    mariadb_server.start()
    return mariadb_server


@pytest.fixture
def mariadb_url(mariadb):
    """The URL of a fresh database."""
    name = mariadb.create_database()
    yield mariadb.url(name)
    mariadb.start()
    mariadb.drop_database(name)


@pytest.fixture(scope="session")
def rabbitmq_server():
    server = start(services.RabbitMQ)
    yield server
    server.close()


@pytest.fixture
def rabbitmq(rabbitmq_server):
    """The session's RabbitMQ, up again should the test before have taken it away."""
    rabbitmq_server.start()
    return rabbitmq_server


@pytest.fixture
def rabbitmq_url(rabbitmq):
    return rabbitmq.url


@pytest.fixture
def alertmanager():
    """A function that starts an Alertmanager: `alertmanager(webhook_url, group_wait="1s", …)`."""
    servers = []

    def factory(webhook_url, **options):
        server = start(services.Alertmanager, webhook_url, **options)
        servers.append(server)
        return server

    yield factory
    for server in servers:
        server.close()


@pytest.fixture(params=["sqlite", "mariadb"])
def database_url(request, tmp_path):
    """The test runs on SQLite and on MariaDB, each time on a fresh database."""
    if request.param == "sqlite":
        return "sqlite:///{}".format(tmp_path / "tracking.db")
    return request.getfixturevalue("mariadb_url")
