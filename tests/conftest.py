"""Provide fixtures for all tests: private databases, a broker, Alertmanagers and a host.

They start when a test first uses them, and end with the session. If a program is missing, the tests
that need it are skipped with a message.
"""

from __future__ import annotations

import fnmatch
import functools
import gc
import importlib.util
import os
import re

import pytest
from hypothesis import HealthCheck, settings

from poundcake.config import Config
from tests import hosts, services

# No deadline, because the time that an example takes depends on the machine's load.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("fuzz", settings.get_profile("untimed"), max_examples=3000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "untimed"))

SERVICE_FIXTURES = {
    "alertmanager",
    "cluster",
    "mariadb",
    "mariadb_server",
    "mariadb_url",
    "prometheus",
    "rabbitmq",
    "rabbitmq_server",
    "rabbitmq_url",
    "test_host",
}
# The tests in these files and classes start processes or wait for a long time. `make test-fast`
# skips them.
PROCESS_FILES = (
    "tests/browser/",
    "tests/faults/",
    "tests/fuzz/",
    "tests/lib/endpoint/board/test_board_process.py::TestProcess::",
    "tests/lib/trail/test_migrations.py",
    "tests/scenarios/",
    "tests/standalone/",
    "tests/test_compose_scripts.py",
    "tests/test_host_scripts.py",
    "tests/test_sensor_alertmanager.py",
    "tests/test_services.py",
)
# The tests in these files wait for an endpoint in this process, or search long histories.
# `make test-fast` skips them as well.
SLOW_FILES = (
    *(
        f"tests/lib/endpoint/test_{name}.py"
        for name in (
            "http_server",
            "metrics",
            "reconfiguration",
            "refused_webhooks",
            "service",
            "tls",
        )
    ),
    "tests/lib/trail/queries/test_bounded_search.py",
    "tests/lib/trail/test_copy_trail.py",
    "tests/lib/trail/test_purge.py",
    "tests/lib/trail/test_record.py::TestBatches",
    "tests/test_alert_rules.py::test_an_alert_fires_if_alertmanager_cannot_deliver_webhooks",
    "tests/test_alert_rules.py::test_each_alert_fires_only_in_its_state",
)
# `make test` leaves these to `make test-long`, because they take a long time, or because they
# repeat the checks of other tests on another database, another runtime or another proxy. (As in a
# shell, an asterisk stands for any text, and [[] for an opening bracket.)
LONG_TESTS = (
    "tests/faults/test_faults.py::*",
    "tests/faults/test_two_endpoints.py::*",
    "tests/fuzz/test_admission.py::*",
    "tests/fuzz/test_flood.py::*",
    "tests/lib/endpoint/test_bus.py::*_broker_*",
    "tests/lib/endpoint/test_through_proxies.py::*-not reusing*",
    "tests/lib/endpoint/test_through_proxies.py::*[[]Apache*",
    "tests/lib/endpoint/test_through_proxies.py::*[[]nginx*",
    "tests/lib/trail/queries/test_bounded_search.py::*mariadb*",
    "tests/lib/trail/queries/test_bounded_search.py::*test_next_continues_*",
    "tests/lib/trail/queries/test_bounded_search.py::*test_new_rows_between_pages_*",
    "tests/lib/trail/test_copy_trail.py::*[[]mariadb to sqlite*",
    "tests/lib/trail/test_copy_trail.py::TestSourceInUse::*",
    "tests/lib/trail/test_copy_trail.py::TestKilled::*",
    "tests/lib/trail/test_copy_trail.py::TestOnlyOneDatabaseInUse::*",
    "tests/lib/trail/test_copy_trail.py::test_a_long_history_is_copied_in_bounded_memory",
    "tests/lib/trail/test_database.py::*test_concurrent_processes_*",
    "tests/lib/trail/test_expire.py::TestOutage::*mariadb*",
    "tests/lib/trail/test_limits.py::*_hourly_limit_*",
    "tests/lib/trail/test_limits.py::TestSimultaneous::*sqlite*",
    "tests/lib/trail/test_migrations.py::TestConcurrentMigrations::*",
    "tests/lib/trail/test_migrations.py::TestKilled::*",
    "tests/lib/trail/test_migrations.py::TestProcesses::*mariadb*",
    "tests/lib/trail/test_purge.py::TestBatches::*_killed_*",
    "tests/lib/trail/test_purge.py::TestConcurrentRecording::*mariadb*",
    "tests/lib/trail/test_purge.py::TestPlans::*",
    "tests/lib/trail/test_record.py::TestBatches::*mariadb*",
    "tests/lib/trail/test_record.py::TestBatches::test_a_batch_is_recorded_like_*",
    "tests/lib/trail/test_retry_refused.py::*_the_wait_doubles_*mariadb*",
    "tests/lib/trail/test_settle_changes.py::*mariadb*",
    "tests/scenarios/test_another_database.py::*",
    "tests/scenarios/test_clustered_alertmanagers.py::*",
    "tests/scenarios/test_log.py::*_outage_*",
    "tests/scenarios/test_limits.py::test_fifty_hosts_*",
    "tests/scenarios/test_on_hosts.py::test_a_disk_is_cleaned_only_if_it_is_full_*",
    "tests/scenarios/test_one_alert.py::*mariadb*",
    "tests/scenarios/test_statuses.py::test_a_paused_workflow_*",
    "tests/scenarios/test_verified_remediations.py::*by-expression*",
    "tests/scenarios/test_verified_remediations.py::test_a_condition_that_no_longer_holds_*",
)
LONG_TEST = re.compile("|".join(fnmatch.translate(pattern) for pattern in LONG_TESTS))
# StackStorm runs a sensor in a process that eventlet has patched. On plain threads, the tests that
# start processes or are slow run only in `make test-long`.
THREADS = ("threads", "Unpatched")
PROCESS_WORDS = ("kill", "processes", "signals")
PROCESS_PARAMETERS = ("green", "Patched", "Unpatched")
# These scenarios spend most of their time waiting. The files with the same number form a group, and
# share a stand-in and a process.
WAITING_SCENARIOS = {
    "tests/scenarios/test_another_database.py": 1,
    "tests/scenarios/test_approvals.py": 1,
    "tests/scenarios/test_clustered_alertmanagers.py": 1,
    "tests/scenarios/test_hostile_corpus.py": 1,
    "tests/scenarios/test_reasons.py": 1,
    "tests/scenarios/test_configuration.py": 2,
    "tests/scenarios/test_dead_host.py": 2,
    "tests/scenarios/test_remediation.py": 2,
    "tests/scenarios/test_silences.py": 2,
    "tests/scenarios/test_statuses.py": 2,
    "tests/scenarios/test_verified_remediations.py": 2,
}
# The longest tests come first, so that none of them runs alone at the end.
LONGEST_FIRST = (
    "tests/faults/",
    "tests/scenarios/",
    "tests/lib/trail/test_limits.py",
    "tests/lib/trail/test_retry_refused.py",
    "tests/lib/trail/test_copy_trail.py",
    "tests/lib/trail/test_purge.py",
    "tests/lib/trail/test_migrations.py",
    "tests/lib/endpoint/test_service.py",
)


def pytest_ignore_collect(collection_path):
    """Under `st2-run-pack-tests`, run only the tests that use StackStorm's own test classes.

    The others need the tools that `make test` installs, and take many minutes in one process.
    """
    name = collection_path.name
    is_test = name.startswith("test_") and name.endswith(".py")
    if not is_test or name.startswith("test_st2_") or not is_installed("st2tests"):
        return None  # pytest decides
    return True


@functools.lru_cache(maxsize=None)
def is_installed(package):
    return importlib.util.find_spec(package) is not None


@pytest.hookimpl(hookwrapper=True)
def pytest_collection():
    """Collect no garbage while the tests are found, because all of the new objects are kept."""
    gc.disable()
    yield
    gc.enable()


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups in the same hook
def pytest_collection_modifyitems(items):
    """Mark the tests with their requirements, and order them for parallel workers."""
    repeated_tests = find_repeated_tests(items)
    for item in items:
        if needs_services(item):
            item.add_marker("services")
        if starts_processes(item):
            item.add_marker("processes")
        if item.nodeid.startswith(SLOW_FILES):
            item.add_marker("slow")
        if takes_long(item) or item in repeated_tests:
            item.add_marker("long")
        item.add_marker(pytest.mark.xdist_group(find_group(item)))
    items.sort(key=lambda item: find_position(item.nodeid))


def get_parameters(item):
    """Return the parameters of a test by name."""
    callspec = getattr(item, "callspec", None)
    return callspec.params if callspec else {}


def list_parameters(item):
    """Return the parameters of a test that are strings, and the names of those that are classes."""
    values = [getattr(value, "__name__", value) for value in get_parameters(item).values()]
    return [value for value in values if isinstance(value, str)]


def needs_services(item):
    """Return True if a test needs a server. `-m "not services"` skips it."""
    on_mariadb = get_parameters(item).get("database_url") == "mariadb"
    return on_mariadb or bool(SERVICE_FIXTURES & set(getattr(item, "fixturenames", ())))


@functools.lru_cache(maxsize=None)
def starts_processes(item):
    """Return True if a test starts a process of the pack."""
    if any(name in PROCESS_PARAMETERS for name in list_parameters(item)):
        return True
    name = item.nodeid.partition("::")[2].lower()
    return item.nodeid.startswith(PROCESS_FILES) or any(word in name for word in PROCESS_WORDS)


@functools.lru_cache(maxsize=None)
def takes_long(item):
    """Return True if only `make test-long` runs a test."""
    on_threads = any(name in THREADS for name in list_parameters(item))
    return bool(LONG_TEST.match(item.nodeid)) or (
        on_threads and (starts_processes(item) or item.nodeid.startswith(SLOW_FILES))
    )


def find_repeated_tests(items):
    """Return the tests on MariaDB that only repeat the statements of another test there.

    If a test with several sets of parameters runs on SQLite and MariaDB, `make test` runs only the
    first set on MariaDB. `make test-long` runs the others.
    """

    def list_functions(kind):
        """Return the names of the test functions on a kind of database, with their tests."""
        return [
            (item.nodeid.partition("[")[0], item)
            for item in items
            if get_parameters(item).get("database_url") == kind and not takes_long(item)
        ]

    functions_on_sqlite = {function for function, _ in list_functions("sqlite")}
    seen_functions, repeated_tests = set(), set()
    for function, item in list_functions("mariadb"):
        if function in functions_on_sqlite & seen_functions:
            repeated_tests.add(item)
        seen_functions.add(function)
    return repeated_tests


def find_group(item):
    """Return the name of the group of tests that run in the same process as this one.

    The tests of a file share fixtures. The scenarios share a stand-in for each kind of database, or
    one that may change hosts, and the fault suite shares a world for each kind.
    """
    file, _, test_name = item.nodeid.partition("::")
    parameters = get_parameters(item)
    if file in WAITING_SCENARIOS:
        return f"scenarios-{WAITING_SCENARIOS[file]}"
    if file.startswith("tests/scenarios/") and "kind" in parameters:
        # With MariaDB, a second process would also need a second server.
        armed = parameters["kind"] == "sqlite" and "armed_stack" in item.fixturenames
        return f"scenarios-{parameters['kind']}" + ("-armed" if armed else "")
    if file == "tests/faults/test_faults.py":
        return item.nodeid
    if starts_processes(item) and "::" in test_name:
        return f"{file}::{test_name.partition('::')[0]}"
    return file


def find_position(nodeid):
    """Return the position of a test in the session."""
    positions = [i for i, name in enumerate(LONGEST_FIRST) if nodeid.startswith(name)]
    return positions[0] if positions else len(LONGEST_FIRST)


def pytest_collection_finish():
    """Exclude the tests and their modules from garbage collections, which would all visit them."""
    gc.freeze()


def pytest_configure(config):
    """Keep the order of the groups; pytest-xdist would sort them by the number of tests."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


@pytest.fixture(autouse=True)
def no_installed_database(monkeypatch):
    """Keep the tests away from the database of a pack that is installed on this machine."""
    installed_path = Config().default_tracking_path
    get_path = Config.default_tracking_path.fget

    def path(config):
        value = get_path(config)
        return "/no-such-folder/tracking.sqlite" if value == installed_path else value

    monkeypatch.setattr(Config, "default_tracking_path", property(path))


def start(server_class, *args, **kwargs):
    """Start a server. If something is missing on this machine, skip the test with a message."""
    try:
        server = server_class(*args, **kwargs)
        server.start()
    except services.MissingProgram as error:
        pytest.skip(f"{server_class.name}: {error}")
    return server


@pytest.fixture(scope="session")
def mariadb_server():
    server = start(services.MariaDB)
    yield server
    server.close()


@pytest.fixture
def mariadb(mariadb_server):
    """Return the session's MariaDB, restarted if an earlier test has stopped it."""
    mariadb_server.start()
    return mariadb_server


@pytest.fixture
def mariadb_url(mariadb):
    """Return the URL of an empty database. All tests of a session get the same URL."""
    mariadb.create_database("poundcake_test")
    yield mariadb.url("poundcake_test")
    mariadb.start()
    mariadb.drop_database("poundcake_test")


@pytest.fixture(scope="session")
def rabbitmq_server():
    server = start(services.RabbitMQ)
    yield server
    server.close()


@pytest.fixture
def rabbitmq(rabbitmq_server):
    """Return the session's RabbitMQ, restarted if an earlier test has stopped it."""
    rabbitmq_server.start()
    return rabbitmq_server


@pytest.fixture
def rabbitmq_url(rabbitmq):
    return rabbitmq.url


@pytest.fixture
def alertmanager():
    """Return a function that starts an Alertmanager: `alertmanager(url, group_wait="1s")`."""
    servers = []

    def factory(webhook_url, **options):
        server = start(services.Alertmanager, webhook_url, **options)
        servers.append(server)
        return server

    yield factory
    for server in servers:
        server.close()


@pytest.fixture(scope="session")
def test_host():
    """Return a simulated host, on which the account `stanley` may use sudo."""
    host = start(hosts.Host, f"{hosts.USER} ALL=(ALL) NOPASSWD: SETENV: ALL\n")
    yield host
    host.close()


@pytest.fixture(scope="session")
def sqlite_path(tmp_path_factory):
    """Return the path of the session's SQLite database. Each test gets a new file there."""
    return tmp_path_factory.mktemp("database") / "tracking.db"


@pytest.fixture(params=["sqlite", "mariadb"])
def database_url(request):
    """Return the URL of an empty database. The test runs once on SQLite and once on MariaDB.

    All tests of a session get the same URL for a kind of database.
    """
    if request.param == "mariadb":
        return request.getfixturevalue("mariadb_url")
    path = request.getfixturevalue("sqlite_path")
    for file in path.parent.iterdir():
        file.unlink()
    return f"sqlite:///{path}"
