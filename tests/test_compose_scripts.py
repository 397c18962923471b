"""The scripts of docker-compose.yml: `make up` on the host, and the scripts in the containers.

Docker, StackStorm and changes of owners are replaced. tests/test_compose.py checks the files.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import threading
import urllib.request
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from scripts import compose
from tests import services

ROOT = Path(__file__).parents[1]
ETC = ROOT / "etc" / "compose"
SHELL_SCRIPTS = sorted(ETC.glob("**/*.sh"))
VOLUMES = (
    *("pack", "st2-keys", "st2-client", "st2-ssh", "host-keys", "poundcake", "poundcake-state"),
    *("alertmanager", "prometheus"),
)


def program(folder, name, text):
    """Write a program into a folder."""
    path = folder / name
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def bin_folder(tmp_path, monkeypatch):
    """Return a folder for programs that replace those of the machine."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


# --- The shell scripts


@pytest.mark.parametrize("path", SHELL_SCRIPTS, ids=lambda path: path.name)
def test_the_shell_can_parse_each_script(path):
    subprocess.run(["sh", "-n", str(path)], check=True)


@pytest.mark.parametrize("path", SHELL_SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(path):
    try:
        shellcheck = services.program("shellcheck")
    except services.MissingProgram as error:
        pytest.skip(str(error))
    completed = subprocess.run(
        [shellcheck, str(path)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    assert completed.returncode == 0, completed.stdout.decode()


# --- secrets.sh


@pytest.fixture
def write_secrets(tmp_path, bin_folder):
    """Return a function that runs secrets.sh, and the folder of its volumes."""
    volumes = tmp_path / "volumes"
    for name in VOLUMES:
        (volumes / name).mkdir(parents=True)
    repository = tmp_path / "repository"
    (repository / "actions").mkdir(parents=True)
    (repository / "etc").mkdir()
    for name in (".env", ".git", "pack.yaml", "etc/poundcake.token", "actions/why.yaml"):
        (repository / name).write_text(name)
    program(bin_folder, "chown", f'echo "$@" >>{tmp_path}/owners\n')
    program(bin_folder, "st2-generate-symmetric-crypto-key", 'echo "key $$" >"$2"\n')
    env = tmp_path / ".env"
    compose.write_env(env)
    values = compose.read_env(env)

    def run(**changes):
        environment = {**os.environ, **values, **changes, "VOLUMES": str(volumes)}
        environment["REPOSITORY"] = str(repository)
        return subprocess.run(
            ["sh", str(ETC / "init" / "secrets.sh")],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )

    run.volumes, run.values, run.owners = volumes, values, tmp_path / "owners"
    return run


def test_the_secrets_reach_the_volumes_of_their_services(write_secrets):
    completed = write_secrets()
    assert completed.returncode == 0, completed.stdout.decode()
    volumes, values = write_secrets.volumes, write_secrets.values
    token = values["ALERTMANAGER_TOKEN"] + "\n"
    assert (volumes / "alertmanager" / "poundcake.token").read_text() == token
    assert (volumes / "poundcake" / "alertmanager.token").read_text() == token
    assert values["PROMETHEUS_TOKEN"] in (volumes / "prometheus" / "poundcake.token").read_text()
    url = (volumes / "poundcake" / "database_url").read_text().strip()
    assert url == f"mysql+pymysql://poundcake:{values['MARIADB_PASSWORD']}@mariadb/poundcake"
    configuration = (volumes / "st2-keys" / "secrets.conf").read_text()
    for name in ("MONGO_PASSWORD", "RABBITMQ_PASSWORD", "REDIS_PASSWORD"):
        assert values[name] in configuration
    assert values["ST2_PASSWORD"] in (volumes / "st2-client" / "config").read_text()
    # No secret is in the output, which `make logs` shows.
    assert not [value for value in values.values() if value in completed.stdout.decode()]


def test_only_the_readers_of_a_secret_can_read_it(write_secrets):
    assert write_secrets().returncode == 0
    volumes = write_secrets.volumes
    files = [path for path in volumes.glob("*/*") if path.parent.name not in ("pack", "host-keys")]
    assert len(files) >= 12
    for path in files:
        assert mode(path) & 0o007 == 0, path
    for client in ("alertmanager", "prometheus"):
        assert mode(volumes / client / "poundcake.token") == 0o400
    owners = write_secrets.owners.read_text()
    assert f"-R root:st2 {volumes}/st2-keys\n" in owners
    assert f"-R root:st2 {volumes}/poundcake\n" in owners
    assert f"-R 65534:65534 {volumes}/alertmanager\n" in owners
    assert f"st2:st2 {volumes}/poundcake-state\n" in owners


@pytest.mark.skipif(os.geteuid() != 0, reason="a change of owners needs root")
def test_each_reader_can_read_its_secrets_and_no_others(write_secrets, bin_folder, tmp_path):
    """Prometheus and Alertmanager run as 65534, and the sensor as a member of the group st2."""
    (bin_folder / "chown").unlink()
    group = 4141
    for name in ("passwd", "group"):
        extra = f"st2:x:{group}:{group}::/:/bin/sh\n" if name == "passwd" else f"st2:x:{group}:\n"
        (tmp_path / name).write_text(Path("/etc", name).read_text() + extra)
    program(
        bin_folder,
        "sh",
        f"""exec unshare --mount /bin/sh -c 'mount --bind {tmp_path}/passwd /etc/passwd
        mount --bind {tmp_path}/group /etc/group; exec /bin/sh "$@"' sh "$@"\n""",
    )
    if subprocess.run(["unshare", "--mount", "true"], check=False).returncode:
        pytest.skip("namespaces are not available here")
    completed = write_secrets()
    assert completed.returncode == 0, completed.stdout.decode()
    volumes = write_secrets.volumes

    def readable(user, group):
        """Return the files that a user with one group can read, if their volume is mounted."""

        def permits(path, bits):
            status = path.stat()
            shift = 6 if status.st_uid == user else 3 if status.st_gid == group else 0
            return (status.st_mode >> shift) & bits == bits

        files = [path for path in volumes.glob("*/*") if path.is_file()]
        return {
            str(path.relative_to(volumes))
            for path in files
            if permits(path, 4)
            and permits(path.parent, 1)
            and path.parent.name not in ("pack", "host-keys")
        }

    assert readable(65534, 65534) == {"alertmanager/poundcake.token", "prometheus/poundcake.token"}
    names = {path.split("/")[0] for path in readable(group, group)}
    assert names == {"poundcake", "st2-keys"}
    assert readable(4242, 4242) == set()


def test_stackstorm_knows_the_password_as_a_hash(write_secrets):
    assert write_secrets().returncode == 0
    user, stored = (write_secrets.volumes / "st2-keys" / "htpasswd").read_text().strip().split(":")
    salt = stored.split("$")[2]
    command = ["openssl", "passwd", "-apr1", "-salt", salt, write_secrets.values["ST2_PASSWORD"]]
    assert user == "st2admin"
    assert subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.decode().strip() == (
        stored
    )


def test_a_second_run_keeps_the_keys_and_applies_a_changed_password(write_secrets):
    assert write_secrets().returncode == 0
    volumes = write_secrets.volumes
    keys = [volumes / "st2-keys/datastore_key.json", volumes / "st2-ssh/stanley_rsa"]
    contents = [path.read_text() for path in keys]
    assert write_secrets(ALERTMANAGER_TOKEN="0123456789abcdef").returncode == 0
    assert [path.read_text() for path in keys] == contents
    assert "0123456789abcdef" in (volumes / "alertmanager" / "poundcake.token").read_text()


def test_the_sample_hosts_get_the_public_key_only(write_secrets):
    assert write_secrets().returncode == 0
    host_keys = write_secrets.volumes / "host-keys"
    assert [path.name for path in host_keys.iterdir()] == ["stanley"]
    assert (host_keys / "stanley").read_text().startswith("ssh-rsa ")


def test_stackstorm_gets_the_pack_without_hidden_and_secret_files(write_secrets):
    pack = write_secrets.volumes / "pack"
    (pack / "removed.yaml").write_text("of the previous release")
    assert write_secrets().returncode == 0
    files = {str(path.relative_to(pack)) for path in pack.glob("**/*") if path.is_file()}
    assert files == {"pack.yaml", "actions/why.yaml"}
    assert mode(pack / "actions") == 0o755 and mode(pack / "pack.yaml") == 0o644


@pytest.mark.parametrize(
    "value, message", [("", "REDIS_PASSWORD is empty"), ("a b", "only letters and digits")]
)
def test_an_unusable_secret_is_refused(write_secrets, value, message):
    completed = write_secrets(REDIS_PASSWORD=value)
    assert completed.returncode == 1 and message in completed.stdout.decode()
    assert list((write_secrets.volumes / "st2-keys").iterdir()) == []


# --- install.sh

# It answers like StackStorm: it has no packs until `pack register` and `pack install` have run.
ST2 = r"""
state={state}
echo "$*" >>"$state/calls"
case "$*" in
"action list") [ -e "$state/up" ] || {{ touch "$state/up"; exit 1; }} ;;
"action get packs.install") [ -e "$state/registered" ] ;;
"pack register") touch "$state/registered" ;;
"pack install file://{pack}") [ ! -e "$state/broken" ] || {{ echo "pip failed"; exit 0; }}
    touch "$state/poundcake" ;;
"pack install file://{pack}/etc/compose/pack") touch "$state/trial" ;;
"action get poundcake.health") [ -e "$state/poundcake" ] ;;
"rule get poundcake_trial.message_remediation_ended") [ -e "$state/trial" ] ;;
"run packs.load packs=poundcake register=configs") ;;
*) echo "unexpected: $*" >&2; exit 9 ;;
esac
"""


@pytest.fixture
def install(tmp_path, bin_folder):
    """Return a function that runs install.sh with a replacement of StackStorm."""
    state, configs, pack = (tmp_path / name for name in ("state", "configs", "poundcake"))
    for folder in (state, configs):
        folder.mkdir()
    shutil.copytree(ETC, pack / "etc" / "compose")
    program(bin_folder, "st2", ST2.format(state=state, pack=pack))
    program(bin_folder, "curl", f'echo "$@" >>{state}/curl\n')

    def run(**changes):
        (state / "calls").write_text("")
        environment = {**os.environ, "PACK": str(pack), "CONFIGS": str(configs), "PAUSE": "0"}
        return subprocess.run(
            ["sh", str(ETC / "init" / "install.sh")],
            env={**environment, "ATTEMPTS": "3", **changes},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )

    run.state, run.configs, run.pack = state, configs, pack
    run.calls = lambda: (state / "calls").read_text().splitlines()
    return run


def test_the_pack_is_installed_with_its_configuration(install):
    completed = install()
    assert completed.returncode == 0, completed.stdout.decode()
    calls = install.calls()
    assert calls.index("pack register") < calls.index(f"pack install file://{install.pack}")
    written = yaml.safe_load((install.configs / "poundcake.yaml").read_text())
    assert written == yaml.safe_load((ETC / "poundcake.yaml").read_text())
    assert "health/live" in (install.state / "curl").read_text()
    assert completed.stdout.decode().endswith("install: PoundCake is ready\n")


def test_an_unchanged_pack_is_not_installed_again(install):
    assert install().returncode == 0
    assert install().returncode == 0
    calls = install.calls()
    assert "run packs.load packs=poundcake register=configs" in calls
    assert not [call for call in calls if call.startswith("pack install")]
    (install.pack / "etc/compose/poundcake.yaml").write_text("---\ndry_run: true\n")
    assert install().returncode == 0
    assert f"pack install file://{install.pack}" in install.calls()
    assert yaml.safe_load((install.configs / "poundcake.yaml").read_text()) == {"dry_run": True}


def test_another_port_of_alertmanager_is_written_into_the_configuration(install):
    assert install(ALERTMANAGER_PORT="9993").returncode == 0
    written = yaml.safe_load((install.configs / "poundcake.yaml").read_text())
    assert written["alertmanagers"][0]["external_url"] == "http://127.0.0.1:9993"


def test_a_pack_that_cannot_be_installed_is_an_error_with_the_reason(install):
    (install.state / "broken").touch()
    completed = install()
    text = completed.stdout.decode()
    assert completed.returncode == 1
    assert "pip failed" in text and "could not install poundcake" in text
    (install.state / "broken").unlink()
    assert install().returncode == 0


def test_the_installation_does_not_wait_forever_for_stackstorm(install, bin_folder):
    program(bin_folder, "st2", "echo refused >&2; exit 1\n")
    completed = install()
    assert completed.returncode == 1
    assert "StackStorm's API is not ready" in completed.stdout.decode()


# --- messages.py


@pytest.fixture
def messages_url():
    sys.path.insert(0, str(ETC))
    try:
        import messages
    finally:
        sys.path.remove(str(ETC))
    messages.messages.clear()
    server = ThreadingHTTPServer((services.LOOPBACK, 0), messages.Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield "http://{}:{}/".format(*server.server_address)
    server.shutdown()
    server.server_close()
    thread.join()
    del sys.modules["messages"]


def post(url, text, content_type):
    request = urllib.request.Request(url, text.encode(), {"Content-Type": content_type})
    return urllib.request.urlopen(request, timeout=10).read().decode()


def page(url):
    return urllib.request.urlopen(url, timeout=10).read().decode()


def test_messages_are_listed_newest_first(messages_url):
    assert page(messages_url) == "No messages yet.\n"
    post(messages_url, "first\nnext line", "text/plain")
    post(messages_url, "second <b>", "text/plain")
    assert re.fullmatch(r"[\d:]{8} second <b>\n\n[\d:]{8} first\nnext line\n", page(messages_url))


def test_a_notification_of_alertmanager_is_shown_as_a_line_for_each_alert(messages_url):
    sample = ROOT / "tests/scenarios/samples/firing.json"
    post(messages_url, sample.read_text(), "application/json")
    assert "Alertmanager: firing HostDown: Host web-1.example.org:9100 is down" in page(
        messages_url
    )


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"alerts": [1]}', '{"alerts": 1}'])
def test_other_json_is_shown_as_it_is(messages_url, text):
    post(messages_url, text, "application/json")
    assert text in page(messages_url)


def test_the_trial_packs_rules_post_messages_about_the_packs_triggers():
    rules = [
        yaml.safe_load(path.read_text(encoding="utf-8"))
        for path in sorted((ETC / "pack" / "rules").glob("*.yaml"))
    ]
    assert {rule["trigger"]["type"] for rule in rules} == {
        "poundcake.approval_wanted",
        "poundcake.limit_reached",
        "poundcake.remediation_ended",
    }
    for rule in rules:
        assert rule["action"]["ref"] == "core.http" and rule["enabled"]
        assert rule["action"]["parameters"]["url"] == "http://messages:8080/"


# --- scripts/compose.py


def test_the_secrets_are_written_once(tmp_path):
    path = tmp_path / ".env"
    assert compose.write_env(path) is True
    text = path.read_text()
    values = compose.read_env(path)
    assert mode(path) == 0o600
    assert set(compose.SECRETS) <= set(values) and values["COMPOSE_PROJECT_NAME"]
    secrets = [values[name] for name in compose.SECRETS]
    assert len(set(secrets)) == len(secrets) and min(map(len, secrets)) >= 32
    assert compose.write_env(path) is False
    assert path.read_text() == text


def test_a_missing_secret_is_added_and_the_rest_is_kept(tmp_path):
    path = tmp_path / ".env"
    compose.write_env(path)
    text = path.read_text()
    path.write_text(re.sub("REDIS_PASSWORD=.*\n", "", text) + "WEB_PORT=9999\n")
    path.chmod(0o644)
    before = compose.read_env(path)
    assert compose.write_env(path) is True
    values = compose.read_env(path)
    assert values.pop("REDIS_PASSWORD") and values == before
    assert mode(path) == 0o600


def test_the_env_file_of_another_compose_file_is_not_touched(tmp_path):
    path = tmp_path / ".env"
    path.write_text("MARIADB_PASSWORD=mine\n")
    with pytest.raises(compose.ComposeError, match="Move it away"):
        compose.write_env(path)
    assert path.read_text() == "MARIADB_PASSWORD=mine\n"


DOCKER = r"""
state={state}
echo "$*" >>"$state/calls"
case "$*" in
info) [ ! -e "$state/no-daemon" ] ;;
"compose version") [ ! -e "$state/no-plugin" ] ;;
*" ps -a -q st2web") [ ! -e "$state/runs" ] || echo id1 ;;
*" ps -a -q") echo id1 id2 ;;
inspect*) n=$(cat "$state/round" 2>/dev/null || echo 0); echo $((n + 1)) >"$state/round"
    [ "$n" = 0 ] && health=starting || health=healthy
    echo "st2web|running|0|$health"; echo "st2client|running|0|"; cat "$state/install" ;;
*" logs --tail 30 install") echo "pip failed" ;;
*) ;;
esac
"""


@pytest.fixture
def docker(tmp_path, bin_folder, monkeypatch):
    """Replace Docker, and return the folder with its state."""
    state = tmp_path / "docker"
    state.mkdir()
    (state / "install").write_text("install|exited|0|\n")
    program(bin_folder, "docker", DOCKER.format(state=state))
    monkeypatch.setattr(compose, "ENV", tmp_path / ".env")
    monkeypatch.setattr(compose.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(compose, "WAIT_SECONDS", 10)
    ports = {
        name: (services.free_port(), title, path)
        for name, (_, title, path) in compose.PORTS.items()
    }
    monkeypatch.setattr(compose, "PORTS", ports)
    return state


def calls_of(docker):
    return (docker / "calls").read_text()


def test_up_starts_the_stack_waits_and_prints_the_addresses(docker, capsys):
    compose.up()
    printed = capsys.readouterr().out
    assert "wrote .env with random passwords" in printed
    assert "2 of 3 containers are ready; waiting for st2web" in printed
    board = f"http://127.0.0.1:{compose.PORTS['ENDPOINT_PORT'][0]}/board"
    for port, title, path in compose.PORTS.values():
        address = f"http://127.0.0.1:{port}{path.format(board=board)}"
        assert f"{title}:" in printed and address in printed
    assert re.search(r"-f \S+/docker-compose.yml up -d --build", calls_of(docker))
    values = compose.read_env(compose.ENV)
    assert not [name for name in compose.SECRETS if values[name] in printed]


def test_up_fails_if_the_pack_cannot_be_installed(docker, capfd):
    (docker / "install").write_text("install|exited|1|\n")
    with pytest.raises(compose.ComposeError, match="could not be installed"):
        compose.up()
    assert "pip failed" in capfd.readouterr().out


def test_up_waits_for_a_container_that_still_starts(docker, monkeypatch):
    (docker / "install").write_text("install|running|0|\n")
    monkeypatch.setattr(compose, "WAIT_SECONDS", 0)
    with pytest.raises(compose.ComposeError, match="not ready after 0 minutes: install"):
        compose.up()


def test_a_port_in_use_is_named_with_its_variable(docker, monkeypatch):
    port = compose.PORTS["WEB_PORT"][0]
    with compose.socket.socket() as listener:
        listener.bind(("127.0.0.1", port))
        listener.listen()
        with pytest.raises(compose.ComposeError, match=f"port {port} .*write WEB_PORT=PORT"):
            compose.up()
        # The stack itself uses the port if it is running.
        (docker / "runs").touch()
        compose.up()


def test_missing_docker_is_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(compose.ComposeError, match="docker is not installed"):
        compose.find_compose()


def test_a_missing_plugin_and_a_missing_daemon_are_clear_errors(docker, monkeypatch):
    (docker / "no-daemon").touch()
    with pytest.raises(compose.ComposeError, match="daemon does not answer"):
        compose.find_compose()
    (docker / "no-plugin").touch()
    monkeypatch.setenv("PATH", os.environ["PATH"].partition(os.pathsep)[0] + ":/nowhere")
    program(Path(os.environ["PATH"].partition(":")[0]), "docker", "exit 1\n")
    with pytest.raises(compose.ComposeError, match="Docker Compose is not installed"):
        compose.find_compose()


def test_the_older_docker_compose_is_used_if_there_is_no_plugin(docker, bin_folder):
    (docker / "no-plugin").touch()
    program(bin_folder, "docker-compose", "exit 0\n")
    assert compose.find_compose()[0] == "docker-compose"


@pytest.mark.parametrize(
    "command, host, expected",
    [
        ("break-service", None, ["exec -T web-1 service nginx stop"]),
        ("break-service", "web-4", ["exec -T web-4 service nginx stop"]),
        ("fill-disk", None, ["exec -T web-2 sh /usr/local/sbin/fill-disk.sh"]),
        ("kill-host", None, ["kill web-3"]),
        ("storm", None, [f"exec -T web-{n} service nginx stop" for n in range(1, 7)]),
        ("repair", None, ["up -d --no-deps web-1", "service nginx start"]),
        ("down", None, ["down --remove-orphans"]),
        ("logs", None, ["logs --tail 50 -f"]),
    ],
)
def test_each_target_runs_its_command(docker, command, host, expected):
    compose.COMMANDS[command](host)
    for text in expected:
        assert text in calls_of(docker)


def test_make_has_a_target_for_each_command():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in compose.COMMANDS:
        assert re.search(rf"^{command}:.*##", makefile, re.MULTILINE), command


def test_an_error_is_one_line_and_exits_with_1(tmp_path):
    environment = {**os.environ, "PATH": str(tmp_path)}
    completed = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "compose.py"), "down"],
        env=environment,
        stderr=subprocess.PIPE,
        check=False,
    )
    assert completed.returncode == 1
    assert re.fullmatch(r"compose: docker is not installed.*\n", completed.stderr.decode())


def test_the_state_of_each_container_is_read(docker):
    states = compose.container_states(["docker", "compose"])
    assert states == {"st2web": "starting", "st2client": "running", "install": "exited 0"}
