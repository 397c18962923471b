"""The scripts in actions/hosts run in each shell that a host may have.

tests/scenarios/test_on_hosts.py runs them on a host through StackStorm.
"""

from __future__ import annotations

import json
import os
import pathlib
import pwd
import shutil
import socket
import stat
import subprocess
import sys
import time

import pytest

from poundcake.remediation import host_facts

SCRIPTS = pathlib.Path(__file__).parents[1] / "actions" / "hosts"
DAY = 86_400
# On Debian, sh is dash.
SHELLS = ("dash", "bash", "busybox")
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
def run_script(shell):
    """Return a function that runs a script and returns its exit status and its output.

    A script prints its output at once: while StackStorm's SSH runner stores what has arrived, it
    can lose what arrives just before the script ends.
    """
    command, path = shell

    def run_script(name, **parameters):
        arguments = [
            f"--{key}" if value is True else f"--{key}={value}"
            for key, value in parameters.items()
            if value is not False
        ]
        reader, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with reader, writer:
            completed = subprocess.run(
                [*command, str(SCRIPTS / name), "--host=web-1", *arguments],
                check=False,
                stdout=writer,
                stderr=subprocess.PIPE,
                timeout=60,
                env={"PATH": path, "HOME": "/nowhere"},
                cwd="/",
            )
            writer.close()
            (printed, nothing) = reader.recv(1_000_000), reader.recv(1)
        assert completed.stderr == b"", completed.stderr
        assert nothing == b"", "the script printed its output in several parts"
        return completed.returncode, json.loads(printed.decode("ascii"))

    return run_script


def execution_result(output):
    """Return the result of an execution on one host whose script printed this output."""
    return {"web-1": {"stdout": output, "stderr": "", "return_code": 0, "succeeded": True}}


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
    def test_hostile_values_are_refused_and_not_evaluated(
        self, run_script, tmp_path, name, parameters
    ):
        canary = tmp_path / "canary"
        parameter = list(parameters)[-1]
        for text in HOSTILE:
            value = text.format(canary=canary).replace("\x00", "")
            code, output = run_script(name, **{**parameters, parameter: value})
            assert (code, list(output)) == (2, ["error"]), value
            assert not canary.exists(), value
            # The error contains nothing that a template, JSON or a shell could evaluate.
            assert not set("{}<>\"'\\$`;|&*\n") & set(output["error"]), output

    @pytest.mark.parametrize("name", sorted(path.name for path in SCRIPTS.glob("*.sh")))
    def test_unknown_arguments_are_refused(self, run_script, name):
        assert run_script(name, servce="nginx")[0] == 2


class TestDisk:
    def test_shows_the_file_system_and_its_largest_directories(self, run_script, tmp_path):
        write(tmp_path / "small" / "file", 50_000)
        write(tmp_path / "large" / "inner" / "file", 900_000)
        write(tmp_path / "middle" / "file", 400_000)
        code, output = run_script("check_disk.sh", path=tmp_path, top=4)
        facts = host_facts.read_disk(execution_result(output))
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

    def test_names_of_directories_are_inert(self, run_script, shell, tmp_path):
        hostile = tmp_path / "{{ 7*7 }}\"'\\$(id)\x1b[31m\n999999999\t/etc"
        write(hostile / "file", 300_000)
        output = run_script("check_disk.sh", path=tmp_path, top=5)[1]
        paths = [entry["path"] for entry in output["directories"]]
        assert any("7_7" in path for path in paths), paths
        # BusyBox's du cannot end its entries with a null byte.
        assert "/etc" not in paths or "busybox" in shell[0][0]
        assert not set("{}<>\"'\\$`\n\x1b") & set("".join(paths))

    def test_top_0_shows_no_directories(self, run_script, tmp_path):
        facts = host_facts.read_disk(
            execution_result(run_script("check_disk.sh", path=tmp_path, top=0)[1])
        )
        assert facts.directories == ()


class TestMemory:
    def test_shows_memory_and_the_largest_processes(self, run_script):
        code, output = run_script("check_memory.sh", top=20)
        facts = host_facts.read_memory(execution_result(output))
        assert code == 0
        lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
        total = int(next(line.split()[1] for line in lines if line.startswith("MemTotal")))
        assert facts.total_bytes == total * 1024
        assert 0 < facts.available_bytes < facts.total_bytes
        sizes = [process.used for process in facts.processes]
        assert sizes
        assert sizes == sorted(sizes, reverse=True)

    def test_arguments_of_processes_are_not_shown(self, run_script):
        command = [sys.executable, "-c", "import time; x = 'x' * 300_000_000; time.sleep(60)"]
        with subprocess.Popen([*command, "password=must-not-be-shown"]) as process:
            try:
                deadline = time.monotonic() + 30
                while True:
                    output = run_script("check_memory.sh", top=20)[1]
                    matching = [p for p in output["processes"] if p["pid"] == process.pid]
                    if matching and matching[0]["bytes"] > 300_000_000:
                        break
                    assert time.monotonic() < deadline, output
            finally:
                process.kill()
        assert "must-not-be-shown" not in json.dumps(output)
        assert matching[0]["user"] == current_user()


class TestCpu:
    def test_finds_a_busy_process_with_a_hostile_name(self, run_script, tmp_path):
        """A name can contain templates and the separators of the fields in /proc."""
        program = tmp_path / "a) S {{7*7}}"
        shutil.copy(shutil.which("dash") or shutil.which("sh"), program)
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        with subprocess.Popen([str(program), "-c", "while :; do :; done"]) as process:
            try:
                code, output = run_script("check_cpu.sh", top=20)
            finally:
                process.kill()
        facts = host_facts.read_cpu(execution_result(output))
        (busy_process,) = [p for p in facts.processes if p.pid == process.pid]
        assert code == 0
        assert busy_process.name == "a) S __7_7__"
        assert busy_process.used > 5  # percent of a processor, on a busy machine
        assert facts.processors == os.cpu_count()
        assert facts.busy_percent > 0


class TestCleanDisk:
    def clean(self, run_script, *directories, **parameters):
        arguments = {"older_than_days": 7, **parameters}
        return run_script(
            "clean_disk.sh", directory_list=":".join(map(str, directories)), **arguments
        )

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

    KEPT_NAMES = ("inner", "new.log", "pipe", "to_file", "to_outside")

    def test_deletes_old_regular_files_and_nothing_else(self, run_script, logs, tmp_path):
        code, report = self.clean(run_script, logs)
        assert code == 0
        assert (report["files"], report["left_open"], report["failed"]) == (3, 0, 0)
        assert not report["dry_run"]
        assert report["bytes"] >= 50_000
        assert sorted(path.name for path in logs.iterdir()) == list(self.KEPT_NAMES)
        assert list((logs / "inner").iterdir()) == []
        assert (tmp_path / "outside" / "old.log").exists()

    def test_a_dry_run_deletes_nothing_and_reports_the_same_counts(self, run_script, logs):
        files_before = sorted(logs.rglob("*"))
        planned = self.clean(run_script, logs, dry_run=True)[1]
        assert sorted(logs.rglob("*")) == files_before
        report = self.clean(run_script, logs)[1]
        assert planned["dry_run"]
        assert {k: planned[k] for k in ("files", "bytes", "examples")} == {
            k: report[k] for k in ("files", "bytes", "examples")
        }

    def test_an_open_file_is_kept(self, run_script, logs):
        with open(logs / "old.log"):
            report = self.clean(run_script, logs)[1]
        assert (report["files"], report["left_open"]) == (2, 1)
        assert (logs / "old.log").exists()

    def test_stops_at_the_file_limit(self, run_script, tmp_path):
        for number in range(10):
            write(tmp_path / "logs" / f"{number}.log", days=8)
        report = self.clean(run_script, tmp_path / "logs", max_files=4)[1]
        assert (report["files"], report["limit_reached"]) == (4, "max_files")
        assert len(list((tmp_path / "logs").iterdir())) == 6

    def test_stops_at_the_size_limit(self, run_script, tmp_path):
        for number in range(5):
            write(tmp_path / "logs" / f"{number}.log", 400_000, days=8)
        report = self.clean(run_script, tmp_path / "logs", max_megabytes=1)[1]
        assert (report["files"], report["limit_reached"]) == (2, "max_megabytes")
        assert report["bytes"] <= 1_000_000

    def test_a_path_with_a_line_break_is_kept(self, run_script, tmp_path):
        """The path looks like two paths, the second of which must not be deleted."""
        victim = write(tmp_path / "victim" / "old.log", days=8)
        write(tmp_path / "logs" / ("x\n" + str(victim).lstrip("/")), days=8)
        write(tmp_path / "logs" / "incomplete\n" / "file", days=8)
        report = self.clean(run_script, tmp_path / "logs")[1]
        assert report["files"] == 0
        assert report["search_complete"]
        assert victim.exists()

    def test_a_directory_that_becomes_a_link_is_not_entered(self, run_script, shell, tmp_path):
        """The directory's owner can replace it after the search has found a file in it."""
        victim = write(tmp_path / "victim" / "old.log", days=8)
        inner = write(tmp_path / "logs" / "inner" / "old.log", days=8).parent
        fake_programs = tmp_path / "bin"
        fake_programs.mkdir()
        # This `find` replaces the directory, as its owner could, and then prints the file.
        (fake_programs / "find").write_text(
            "#!/bin/sh\n"
            f'case $1 in {tmp_path}/logs) mv "{inner}" "{inner}.away";'
            f' ln -s "{victim.parent}" "{inner}"; echo "{inner}/old.log" ;; esac\n'
        )
        (fake_programs / "find").chmod(0o755)
        command, path = shell
        arguments = [f"--directory_list={tmp_path}/logs", "--older_than_days=7"]
        completed = subprocess.run(
            [*command, str(SCRIPTS / "clean_disk.sh"), *arguments],
            check=False,
            stdout=subprocess.PIPE,
            env={"PATH": f"{fake_programs}:{path}"},
            timeout=60,
        )
        if not inner.with_name("inner.away").exists():
            pytest.skip("this BusyBox runs its own find, whatever PATH contains")
        report = json.loads(completed.stdout.decode())
        assert (report["files"], report["left_changed"]) == (0, 1)
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
    def test_protected_directories_are_refused(self, run_script, directory):
        code, output = self.clean(run_script, directory, dry_run=True)
        assert (code, list(output)) == (2, ["error"])

    def test_a_link_to_a_directory_is_refused(self, run_script, logs, tmp_path):
        code, output = self.clean(run_script, logs / "to_outside")
        assert code == 2
        assert str(tmp_path / "outside") in output["error"]  # the path to use instead

    def test_one_refused_directory_prevents_the_whole_run(self, run_script, logs):
        assert self.clean(run_script, logs, "/etc")[0] == 2
        assert (logs / "old.log").exists()

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may delete every file")
    def test_a_file_that_cannot_be_deleted_fails_the_run(self, run_script, logs):
        (logs / "inner").chmod(0o555)
        code, output = self.clean(run_script, logs)
        (logs / "inner").chmod(0o755)
        assert (code, output["failed"], output["files"]) == (1, 1, 2)


class TestService:
    @pytest.mark.parametrize("name", ["check_service.sh", "restart_service.sh"])
    def test_an_unknown_service_is_refused(self, run_script, name):
        code, output = run_script(name, service="no-such-service")
        assert code == 2
        assert "no service no-such-service" in output["error"]

    @pytest.mark.parametrize("service", ["systemd-poweroff", "systemd-reboot.service", "reboot"])
    def test_a_service_that_stops_the_host_is_never_restarted(self, run_script, service):
        code, output = run_script("restart_service.sh", service=service)
        assert code == 2
        assert "stops the host" in output["error"]


def current_user():
    """Return the name of the user that runs the tests."""
    return pwd.getpwuid(os.geteuid()).pw_name
