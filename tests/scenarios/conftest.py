"""One stack for each kind of database, shared by all scenarios; or the live StackStorm.

With ST2_API_URL and ST2_API_KEY (or ST2_AUTH_TOKEN) set, everything runs there instead: the
endpoint is POUNDCAKE_URL, its token POUNDCAKE_TOKEN; what is read from the tables themselves is
read at POUNDCAKE_DATABASE_URL, and StackStorm's logs in the folder POUNDCAKE_LOGS.
"""

import uuid

import pytest

from tests.scenarios import stack as stacks

if stacks.live():
    KINDS = ["live"]
else:
    KINDS = ["sqlite", pytest.param("mariadb", marks=pytest.mark.services)]

TOKENS = ["scenario-token-" + uuid.uuid4().hex, "scenario-token-" + uuid.uuid4().hex]


@pytest.fixture(scope="package", params=KINDS)
def kind(request):
    """What the scenarios run on."""
    return request.param


@pytest.fixture(scope="package")
def new_stack(request, kind, tmp_path_factory):
    """A function that starts a stand-in of its own with a configuration."""
    started, dropped = [], []

    def start(config=None, token=""):
        """config: a dict, or a function that makes it of the database's URL."""
        folder = tmp_path_factory.mktemp("stack")
        server = None
        if kind == "mariadb":
            server = request.getfixturevalue("mariadb_server")
            server.start()  # tests of others may have stopped it
            name = server.create_database()
            dropped.append((server, name))
            url = server.url(name)
        else:
            url = "sqlite:///%s" % (folder / "tracking.sqlite")
        config = config(url) if callable(config) else config
        stack = stacks.Standalone(folder, url, config, token)
        stack.mariadb = server
        started.append(stack)
        return stack

    yield start
    for stack in started:
        stack.close()
    for server, name in dropped:
        server.drop_database(name)


@pytest.fixture(scope="package")
def stack(request, kind):
    """The endpoint and StackStorm, as installed without any configuration."""
    if kind != "live":
        yield request.getfixturevalue("new_stack")()
        return
    found = stacks.Live()
    yield found
    found.close()


@pytest.fixture(scope="package")
def armed(request, kind, tmp_path_factory):
    """One that asks for a token and may change something: dry_run is off."""
    if kind == "live":
        found = request.getfixturevalue("stack")
        if found.get("/health").json()["dry_run"]:
            pytest.skip("live: dry_run is true there, and stays so")
        return found
    secret = tmp_path_factory.mktemp("secrets") / "token"
    secret.write_text(TOKENS[1] + "\n")
    config = {
        "auth_tokens": [TOKENS[0], f"file:{secret}"],
        "dry_run": False,
        "allowed_actions": ["poundcake_scenarios.work"],
    }
    return request.getfixturevalue("new_stack")(config, TOKENS[0])


@pytest.fixture(scope="package")
def guarded(request, kind):
    """One that asks for a token."""
    if kind != "live":
        return request.getfixturevalue("armed")
    found = request.getfixturevalue("stack")
    if not found.token:
        pytest.skip("live: no POUNDCAKE_TOKEN is set")
    return found


@pytest.fixture(scope="package")
def secret(stack):
    """A value in the datastore that nothing but its owner may ever get to see."""
    key = "/keys/poundcake_scenario_secret"
    value = "never-to-be-seen-" + uuid.uuid4().hex
    stack.api(key, "PUT", {"name": "poundcake_scenario_secret", "value": value})
    yield value
    if stack.live:  # the stand-in's datastore ends with it
        stack.api(key, "DELETE")
