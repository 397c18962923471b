"""The scripts in actions/hosts, run directly in each shell that a host may have.

tests/scenarios/test_on_hosts.py runs them on a host, through StackStorm.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import stat
import subprocess
import sys
import time

import pytest

from poundcake.remediation import host_facts

SCRIPTS = pathlib.Path(__file__).parents[1] / "actions" / "hosts"
DAY = 86_400
SHELLS = ("sh", "dash", "bash", "busybox")
HOSTILE = (
    "$(touch {canary})",
    "`touch {canary}`",
    "; touch {canary}",
    "| touch {canary}",
    "&& touch {canary}",
    "\n touch {canary}\n",
    "' ; touch {canary} ; '",
    '" ; touch {canary} ; "',
    "-h",
    "--",
    "--help",
    "../../etc",
    "*",
    "a b",
    "{{{{ 7*7 }}}}",
    "a\x00b",
    "é",
    "1e9",
    "-1",
    "0x10",
    "99999999999999999999",
    "1 -o 1 = 1",
    "",
)


@pytest.fixture(params=SHELLS)
def shell(request, tmp_path_factory):
    """Return the command of a shell, and the PATH with its programs."""
    program = shutil.which(request.param)
    if not program:
        pytest.skip(f"{request.param} is not installed")
    if request.param != "busybox":
        return [program], os.environ["PATH"]
    programs = tmp_path_factory.mktemp("busybox")
    subprocess.run([program, "--install", "-s", str(programs)], check=True)
    return [str(programs / "sh")], str(programs)


@pytest.fixture
def run(shell):
    """Return a function that runs a script and returns its exit status and what it printed."""
    command, path = shell

    def run(name, **parameters):
        arguments = [
            f"--{key}" if value is True else f"--{key}={value}"
            for key, value in parameters.items()
            if value is not False
        ]
        ended = subprocess.run(
            [*command, str(SCRIPTS / name), "--host=web-1", *arguments],
            check=False,
            capture_output=True,
            timeout=60,
            env={"PATH": path, "HOME": "/nowhere"},
            cwd="/",
        )
        assert ended.stderr == b"", ended.stderr
        return ended.returncode, json.loads(ended.stdout.decode("ascii"))

    return run


def result(document):
    """Return the result of an execution whose script printed this."""
    return {"web-1": {"stdout": document, "stderr": "", "return_code": 0, "succeeded": True}}


def write(path, size=10, days=0):
    """Write a file that was last modified some days ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    modified_at = time.time() - days * DAY - 60
    os.utime(path, (modified_at, modified_at))
    return path


class TestArguments:
    PARAMETERS = (
        ("check_disk.sh", {"path": "/"}),
        ("check_disk.sh", {"top": "1"}),
        ("check_disk.sh", {"seconds": "1"}),
        ("check_memory.sh", {"top": "1"}),
        ("check_cpu.sh", {"top": "1"}),
        ("check_service.sh", {"service": "x"}),
        ("check_service.sh", {"service": "x", "lines": "1"}),
        ("restart_service.sh", {"service": "x"}),
        ("restart_service.sh", {"service": "x", "wait": "1"}),
        ("clean_disk.sh", {"older_than_days": "7", "directory_list": "/tmp/x"}),
        ("clean_disk.sh", {"directory_list": "/tmp/x", "older_than_days": "7"}),
        ("clean_disk.sh", {"directory_list": "/tmp", "older_than_days": "9", "max_files": "1"}),
        ("clean_disk.sh", {"directory_list": "/tmp", "older_than_days": "9", "max_megabytes": "1"}),
    )

    @pytest.mark.parametrize(("name", "parameters"), PARAMETERS)
    def test_hostile_values_are_refused_and_not_evaluated(self, run, tmp_path, name, parameters):
        canary = tmp_path / "canary"
        tested = list(parameters)[-1]
        for text in HOSTILE:
            value = text.format(canary=canary).replace("\x00", "")
            code, printed = run(name, **{**parameters, tested: value})
            assert (code, list(printed)) == (2, ["error"]), value
            assert not canary.exists(), value
            # Nothing that a template, JSON or a shell could evaluate comes back.
            assert not set("{}<>\"'\\$`;|&*\n") & set(printed["error"]), printed

    @pytest.mark.parametrize("name", sorted(path.name for path in SCRIPTS.glob("*.sh")))
    def test_unknown_arguments_are_refused(self, run, name):
        assert run(name, servce="nginx")[0] == 2


class TestDisk:
    def test_shows_the_file_system_and_its_largest_directories(self, run, tmp_path):
        write(tmp_path / "small" / "file", 50_000)
        write(tmp_path / "large" / "inner" / "file", 900_000)
        write(tmp_path / "middle" / "file", 400_000)
        code, printed = run("check_disk.sh", path=tmp_path, top=4)
        facts = host_facts.read_disk(result(printed))
        assert code == 0
        names = [os.path.relpath(directory.path, tmp_path) for directory in facts.directories]
        assert names[0] == "."
        assert set(names[1:3]) == {"large", "large/inner"}
        assert names[3] == "middle"
        assert facts.directories[1].bytes >= 900_000
        assert facts.directories_complete
        usage = shutil.disk_usage(tmp_path)
        assert facts.size_bytes == pytest.approx(usage.total, rel=0.2)  # without reserved blocks
        assert 0 <= facts.used_percent <= 100
        assert facts.mountpoint in ["/", *map(str, tmp_path.resolve().parents)]

    def test_names_of_directories_are_inert(self, run, tmp_path):
        hostile = tmp_path / "{{ 7*7 }}\"'\\$(id)\x1b[31m\n999999999\t/etc"
        write(hostile / "file", 300_000)
        printed = run("check_disk.sh", path=tmp_path, top=5)[1]
        paths = [entry["path"] for entry in printed["directories"]]
        assert any("7_7" in path for path in paths), paths
        assert not set("{}<>\"'\\$`\n\x1b") & set("".join(paths))

    def test_no_directories(self, run, tmp_path):
        facts = host_facts.read_disk(result(run("check_disk.sh", path=tmp_path, top=0)[1]))
        assert facts.directories == ()


class TestMemory:
    def test_shows_memory_and_the_largest_processes(self, run):
        code, printed = run("check_memory.sh", top=20)
        facts = host_facts.read_memory(result(printed))
        assert code == 0
        lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
        total = int(next(line.split()[1] for line in lines if line.startswith("MemTotal")))
        assert facts.total_bytes == total * 1024
        assert 0 < facts.available_bytes < facts.total_bytes
        sizes = [process.used for process in facts.processes]
        assert sizes
        assert sizes == sorted(sizes, reverse=True)

    def test_arguments_of_processes_are_not_shown(self, run):
        command = [sys.executable, "-c", "import time; x = 'x' * 300_000_000; time.sleep(60)"]
        with subprocess.Popen([*command, "password=never-to-be-seen"]) as process:
            try:
                deadline = time.monotonic() + 30
                while True:
                    printed = run("check_memory.sh", top=20)[1]
                    shown = [p for p in printed["processes"] if p["pid"] == process.pid]
                    if shown and shown[0]["bytes"] > 300_000_000:
                        break
                    assert time.monotonic() < deadline, printed
            finally:
                process.kill()
        assert "never-to-be-seen" not in json.dumps(printed)
        assert shown[0]["user"] == account()


class TestCpu:
    def test_finds_a_busy_process_whatever_its_name(self, run, tmp_path):
        """A name can contain what separates the fields in /proc, and templates."""
        program = tmp_path / "a) S {{7*7}}"
        shutil.copy(shutil.which("dash") or shutil.which("sh"), program)
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        with subprocess.Popen([str(program), "-c", "while :; do :; done"]) as process:
            try:
                code, printed = run("check_cpu.sh", top=20)
            finally:
                process.kill()
        facts = host_facts.read_cpu(result(printed))
        (busy,) = [p for p in facts.processes if p.pid == process.pid]
        assert code == 0
        assert busy.name == "a) S __7_7__"
        assert busy.used > 5  # percent of a processor, on a busy machine
        assert facts.processors == os.cpu_count()
        assert facts.busy_percent > 0


class TestCleanDisk:
    def clean(self, run, *directories, **parameters):
        arguments = {"older_than_days": 7, **parameters}
        return run("clean_disk.sh", directory_list=":".join(map(str, directories)), **arguments)

    @pytest.fixture
    def logs(self, tmp_path):
        """Return a directory with files to delete and files to keep."""
        base = tmp_path / "logs"
        write(base / "old.log", 20_000, days=8)
        write(base / "inner" / "older {{x}} \"'\\.log", 30_000, days=400)
        write(base / "-rf", 10, days=8)
        write(base / "new.log", 10, days=6)
        write(tmp_path / "outside" / "old.log", 10, days=8)
        (base / "to_outside").symlink_to(tmp_path / "outside")
        (base / "to_file").symlink_to(tmp_path / "outside" / "old.log")
        os.mkfifo(base / "pipe")
        for name in ("to_outside", "to_file", "pipe"):
            modified_at = time.time() - 9 * DAY
            os.utime(base / name, (modified_at, modified_at), follow_symlinks=False)
        return base

    KEPT = ("inner", "new.log", "pipe", "to_file", "to_outside")

    def test_deletes_old_regular_files_and_nothing_else(self, run, logs, tmp_path):
        code, printed = self.clean(run, logs)
        done = host_facts.read_cleaned_disk(result(printed))
        assert code == 0
        assert (done.files, done.left_open, done.failed, done.dry_run) == (3, 0, 0, False)
        assert done.bytes >= 50_000
        assert sorted(path.name for path in logs.iterdir()) == list(self.KEPT)
        assert list((logs / "inner").iterdir()) == []
        assert (tmp_path / "outside" / "old.log").exists()

    def test_a_dry_run_deletes_nothing_and_counts_the_same(self, run, logs):
        before = sorted(logs.rglob("*"))
        planned = self.clean(run, logs, dry_run=True)[1]
        assert sorted(logs.rglob("*")) == before
        done = self.clean(run, logs)[1]
        assert planned["dry_run"]
        assert {k: planned[k] for k in ("files", "bytes", "examples")} == {
            k: done[k] for k in ("files", "bytes", "examples")
        }

    def test_an_open_file_stays(self, run, logs):
        with open(logs / "old.log"):
            done = self.clean(run, logs)[1]
        assert (done["files"], done["left_open"]) == (2, 1)
        assert (logs / "old.log").exists()

    def test_stops_at_the_number_of_files(self, run, tmp_path):
        for number in range(10):
            write(tmp_path / "logs" / f"{number}.log", days=8)
        done = self.clean(run, tmp_path / "logs", max_files=4)[1]
        assert (done["files"], done["limit_reached"]) == (4, "max_files")
        assert len(list((tmp_path / "logs").iterdir())) == 6

    def test_stops_at_the_size(self, run, tmp_path):
        for number in range(5):
            write(tmp_path / "logs" / f"{number}.log", 400_000, days=8)
        done = self.clean(run, tmp_path / "logs", max_megabytes=1)[1]
        assert (done["files"], done["limit_reached"]) == (2, "max_megabytes")
        assert done["bytes"] <= 1_000_000

    def test_a_path_with_a_line_break_stays(self, run, tmp_path):
        """It looks like two paths; the second one must not be deleted."""
        victim = write(tmp_path / "victim" / "old.log", days=8)
        write(tmp_path / "logs" / ("x\n" + str(victim).lstrip("/")), days=8)
        write(tmp_path / "logs" / "incomplete\n" / "file", days=8)
        done = self.clean(run, tmp_path / "logs")[1]
        assert done["files"] == 0
        assert done["search_complete"]
        assert victim.exists()

    def test_a_directory_that_becomes_a_link_is_not_entered(self, run, shell, tmp_path):
        """Its owner can replace it after the search has found a file in it."""
        victim = write(tmp_path / "victim" / "old.log", days=8)
        inner = write(tmp_path / "logs" / "inner" / "old.log", days=8).parent
        fake = tmp_path / "bin"
        fake.mkdir()
        # The search finds the file, and its owner replaces the directory before anything else.
        (fake / "find").write_text(
            "#!/bin/sh\n"
            f'case $1 in {tmp_path}/logs) mv "{inner}" "{inner}.away";'
            f' ln -s "{victim.parent}" "{inner}"; echo "{inner}/old.log" ;; esac\n'
        )
        (fake / "find").chmod(0o755)
        command, path = shell
        arguments = [f"--directory_list={tmp_path}/logs", "--older_than_days=7"]
        ended = subprocess.run(
            [*command, str(SCRIPTS / "clean_disk.sh"), *arguments],
            check=False,
            stdout=subprocess.PIPE,
            env={"PATH": f"{fake}:{path}"},
            timeout=60,
        )
        done = json.loads(ended.stdout.decode())
        assert (done["files"], done["left_changed"]) == (0, 1)
        assert victim.exists()

    @pytest.mark.parametrize(
        "directory",
        [
            "/",
            "//",
            "/.",
            "/bin",
            "/boot/x",
            "/dev",
            "/etc",
            "/etc/nginx",
            "/home",
            "/home/anna",
            "/lib/x",
            "/opt",
            "/proc/self/fd",
            "/root/x",
            "/run/x",
            "/sbin",
            "/sys/kernel",
            "/usr",
            "/usr/share/doc",
            "/var",
            "/var/lib/mysql",
            "/var/log/../../etc",
            "/var/log/.",
            "/var/log/",
            "relative/path",
            "~/logs",
            "$HOME/logs",
            "",
        ],
    )
    def test_directories_that_are_never_cleaned(self, run, directory):
        code, printed = self.clean(run, directory, dry_run=True)
        assert (code, list(printed)) == (2, ["error"])

    def test_a_link_to_a_directory_is_refused(self, run, logs, tmp_path):
        code, printed = self.clean(run, logs / "to_outside")
        assert code == 2
        assert str(tmp_path / "outside") in printed["error"]  # the path to use instead

    def test_one_refused_directory_refuses_all(self, run, logs):
        assert self.clean(run, logs, "/etc")[0] == 2
        assert (logs / "old.log").exists()

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may delete every file")
    def test_a_file_that_cannot_be_deleted_fails_the_run(self, run, logs):
        (logs / "inner").chmod(0o555)
        code, printed = self.clean(run, logs)
        (logs / "inner").chmod(0o755)
        assert (code, printed["failed"], printed["files"]) == (1, 1, 2)


class TestService:
    @pytest.mark.parametrize("name", ["check_service.sh", "restart_service.sh"])
    def test_a_service_that_the_host_does_not_have(self, run, name):
        code, printed = run(name, service="no-such-service")
        assert code == 2
        assert "no service no-such-service" in printed["error"]

    @pytest.mark.parametrize("service", ["systemd-poweroff", "systemd-reboot.service", "reboot"])
    def test_a_service_that_stops_the_host_is_never_restarted(self, run, service):
        code, printed = run("restart_service.sh", service=service)
        assert code == 2
        assert "stops the host" in printed["error"]


def account():
    """Return the name of this user, or its number."""
    import pwd

    return pwd.getpwuid(os.geteuid()).pw_name
