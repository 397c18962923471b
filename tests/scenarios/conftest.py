"""Give the scenarios a shared stack for each kind of database, or the live StackStorm.

tests/lib/trail tests the differences between databases, so most files run on one kind.

If ST2_API_URL and ST2_API_KEY (or ST2_AUTH_TOKEN) are set, all scenarios run on that StackStorm.
The endpoint is then at POUNDCAKE_URL and accepts the token POUNDCAKE_TOKEN. The tables are read
from POUNDCAKE_DATABASE_URL, and StackStorm's logs from the folder POUNDCAKE_LOGS.
"""

from __future__ import annotations

import uuid

import pytest

from tests import services
from tests.scenarios import stack as stacks

if stacks.uses_live_stackstorm():
    KINDS = ["live"]
else:
    KINDS = ["sqlite", pytest.param("mariadb", marks=pytest.mark.services)]

RUN_ON_BOTH_KINDS = ("test_one_alert",)
# These files run on MariaDB if it is installed. Some of them test features of a database server;
# the others are here only to balance the time that the two kinds take.
RUN_ON_MARIADB = ("test_endpoint", "test_rules", "test_secrets", "test_views")

TOKENS = ["scenario-token-" + uuid.uuid4().hex, "scenario-token-" + uuid.uuid4().hex]


def pytest_generate_tests(metafunc):
    """Parametrize `kind` for each file, unless the file does so itself."""
    parametrized = [mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")]
    if "kind" in metafunc.fixturenames and "kind" not in parametrized:
        module = metafunc.module.__name__.rpartition(".")[2]
        kinds = kinds_for(module, metafunc.config.option.markexpr)
        metafunc.parametrize("kind", kinds, indirect=True, scope="package")


def kinds_for(module, marker_expression):
    """Return the kinds of database on which the scenarios of a file run."""
    if module in RUN_ON_BOTH_KINDS:
        return KINDS
    try:
        services.program("mariadbd", "mysqld")
    except services.MissingProgram:
        return KINDS[:1]
    prefers_mariadb = module in RUN_ON_MARIADB and "not services" not in marker_expression
    return KINDS[-1:] if prefers_mariadb else KINDS[:1]


@pytest.fixture(scope="package")
def kind(request):
    """Return the kind of database on which the scenario runs."""
    return request.param


@pytest.fixture(scope="package")
def new_stack(request, kind, tmp_path_factory):
    """Return a function that starts a separate stand-in."""
    stacks_to_close, databases_to_drop = [], []

    def start(config=None, token="", **options):
        """Start a stand-in. `config` is a dict, or a function from the database's URL to a dict."""
        folder = tmp_path_factory.mktemp("stack")
        server = None
        if kind == "mariadb":
            server = request.getfixturevalue("mariadb_server")
            server.start()  # another test may have stopped it
            name = server.create_database()
            databases_to_drop.append((server, name))
            url = server.url(name)
        else:
            url = f"sqlite:///{folder / 'tracking.sqlite'}"
        config = config(url) if callable(config) else config
        stack = stacks.Standalone(folder, url, config, token, **options)
        stack.mariadb = server
        stacks_to_close.append(stack)
        return stack

    yield start
    for stack in stacks_to_close:
        stack.close()
    for server, name in databases_to_drop:
        server.drop_database(name)


@pytest.fixture(scope="package")
def stack(request, kind):
    """Return the endpoint and StackStorm with the default configuration."""
    if kind != "live":
        yield request.getfixturevalue("new_stack")()
        return
    live_stack = stacks.Live()
    yield live_stack
    live_stack.close()


@pytest.fixture(scope="package")
def armed_stack(request, kind, tmp_path_factory):
    """Return a stack that requires a token and may change hosts: dry_run is off."""
    if kind == "live":
        shared_stack = request.getfixturevalue("stack")
        if shared_stack.get("/health").json()["dry_run"]:
            pytest.skip("live: dry_run is true there, and the tests do not change it")
        return shared_stack
    secret = tmp_path_factory.mktemp("secrets") / "token"
    secret.write_text(TOKENS[1] + "\n")
    config = {
        "auth_tokens": [TOKENS[0], f"file:{secret}"],
        "dry_run": False,
        "allowed_hosts": ["*"],
        "allowed_actions": ["poundcake_scenarios.work"],
    }
    return request.getfixturevalue("new_stack")(config, TOKENS[0])


@pytest.fixture(scope="package")
def guarded_stack(request, kind):
    """Return a stack that requires a token."""
    if kind != "live":
        return request.getfixturevalue("armed_stack")
    shared_stack = request.getfixturevalue("stack")
    if not shared_stack.token:
        pytest.skip("live: no POUNDCAKE_TOKEN is set")
    return shared_stack
