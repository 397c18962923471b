"""Run a host for the tests: an SSH server, a service and file systems in separate namespaces.

The host has its own network, processes, mounts and host name, so that a test can fill its disk,
restart its service or shut it down. It uses the programs installed on this machine, and its
changes are not visible outside. Starting a host requires root, iproute2, util-linux,
sudo and sshd. Without them, `Host()` raises services.MissingProgram, and the fixture `test_host`
skips the test.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import secrets
import signal
import subprocess

from tests import services

# Reserved for tests by RFC 2544.
NETWORK = ipaddress.ip_network("198.18.0.0/15")
SERVICE = "cake-oven"
NAME = "cake-host"
USER = "stanley"  # the default name of StackStorm's account on a host

SETUP = r"""
set -e
mount -t tmpfs none /run
mkdir /run/sshd /run/host
cp -R . /run/host
cd /run/host
for folder in /tmp /var/log /etc/init.d /usr/local/bin; do mount -t tmpfs none "$folder"; done
chmod 1777 /tmp
mount -t tmpfs -o size=16m none /srv
mkdir /srv/app
cp service "/etc/init.d/$SERVICE"
for file in passwd group shadow hosts sudoers; do
    { [ "$file" = sudoers ] || cat "/etc/$file"; cat "$file"; } >"new_$file"
    chmod 0440 "new_$file"
    [ ! -e "/etc/$file" ] || mount --bind "new_$file" "/etc/$file"
done
chmod 0444 new_passwd new_group new_hosts
hostname "$NAME"
ip link set lo up
"/etc/init.d/$SERVICE" start
"$SSHD" -D -e -f /run/host/sshd_config &
while :; do wait; sleep 1; done
"""

SSHD_CONFIG = """\
HostKey /run/host/host_key
AuthorizedKeysFile /run/host/user_key.pub
PidFile /run/sshd.pid
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
StrictModes no
UsePAM no
UseDNS no
Subsystem sftp internal-sftp
"""

# If /run/broken exists, the service does not start, as with an invalid configuration.
INIT_SCRIPT = """\
#!/bin/sh
pid() { cat /run/oven.pid 2>/dev/null; }
alive() { [ -n "$(pid)" ] && [ -d "/proc/$(pid)" ]; } # works for every user
case $1 in
start)
    alive && exit 0
    if [ -e /run/broken ]; then echo "oven: invalid configuration {{ 7*7 }}" >&2; exit 1; fi
    sleep 1000000 & # keeps its output open, as some daemons do
    echo $! >/run/oven.pid ;;
stop) alive && kill "$(pid)"; rm -f /run/oven.pid ;;
restart) "$0" stop; "$0" start ;;
status) if alive; then exit 0; elif [ -e /run/oven.pid ]; then exit 1; else exit 3; fi ;;
*) exit 2 ;;
esac
"""


NAMESPACES = ("--net", "--mount", "--pid", "--uts")
# The sudoers file that distributions ship.
SUDOERS = """\
Defaults env_reset
Defaults secure_path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
root ALL=(ALL:ALL) ALL
"""


class Host(services.Server):
    """A simulated host.

    `start`, `stop` and `kill` turn it on and off. Its address and keys stay the same.

    Attributes:
        address: Its IPv4 address, which only this machine can reach.
        key_file: The private key of root and of the account `USER`.
    """

    name = "the test host"

    def __init__(self, sudoers=""):
        self._sudoers = sudoers
        super().__init__()

    def prepare(self):
        if os.geteuid() != 0:
            raise services.MissingProgram("a test host needs root")
        for name in ("ip", "nsenter", "ssh", "ssh-keygen", "sudo", "unshare"):
            services.program(name)
        probe = ["ip", "link", "add", "probe0", "type", "veth", "peer", "name", "probe1"]
        if subprocess.run(["unshare", *NAMESPACES, "--fork", *probe], check=False).returncode:
            raise services.MissingProgram("namespaces and veth devices are not available here")
        self._sshd = services.program("sshd")
        subnet = secrets.randbelow(NETWORK.num_addresses // 4) * 4
        self._gateway, self.address = (str(NETWORK[subnet + n]) for n in (1, 2))
        self._link = "cake" + secrets.token_hex(4)
        self.key_file = self.path("user_key")
        for key in ("host_key", "user_key"):
            command = ["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-C", key]
            subprocess.run([*command, "-f", self.path(key)], check=True)
        for name, text in {
            "setup": SETUP,
            "sshd_config": SSHD_CONFIG,
            "service": INIT_SCRIPT,
            "passwd": f"{USER}:x:4242:4242::/tmp:/bin/sh\n",
            "group": f"{USER}:x:4242:\n",
            "shadow": f"{USER}:*:19000:0:99999:7:::\n",
            "hosts": f"127.0.1.1 {NAME}\n",
            "sudoers": SUDOERS + self._sudoers,
        }.items():
            with open(self.path(name), "w") as file:
                file.write(text)
        os.chmod(self.path("service"), 0o755)

    def command(self):
        return ["unshare", *NAMESPACES, "--fork", "--kill-child", "--mount-proc", "sh", "setup"]

    def environment(self):
        return {**os.environ, "SSHD": self._sshd, "SERVICE": SERVICE, "NAME": NAME}

    def prepare_child(self):
        """Let the kernel kill the host when this process ends; `unshare` ignores SIGTERM."""
        services.LIBC.prctl(services.PR_SET_PDEATHSIG, signal.SIGKILL)

    def is_ready(self):
        if not self.inner_pid():
            return False
        if not os.path.exists(f"/sys/class/net/{self._link}"):
            # The host may not be ready for a connection yet.
            with contextlib.suppress(subprocess.CalledProcessError):
                self._connect()
        return self.ssh("true").returncode == 0

    def _connect(self):
        def ip(*arguments):
            subprocess.run(["ip", *arguments], check=True, capture_output=True)

        pid = str(self.inner_pid())
        ip("link", "add", self._link, "type", "veth", "peer", "name", "eth0", "netns", pid)
        ip("addr", "add", self._gateway + "/30", "dev", self._link)
        ip("link", "set", self._link, "up")
        self.run(f"ip addr add {self.address}/30 dev eth0 && ip link set eth0 up")

    def inner_pid(self):
        """Return the process id of the host's first process, or 0."""
        pid = self.process.pid
        with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{pid}/children") as file:
            return int(file.read().partition(" ")[0] or 0)
        return 0

    def stop(self):
        """Turn the host off."""
        self.kill()

    def run(self, command, check=True):
        """Run a shell command on the host as root, without SSH, and return its output."""
        namespaces = ["--net", "--mount", "--pid", "--uts"]
        target = ["nsenter", "--target", str(self.inner_pid()), *namespaces]
        completed = subprocess.run(
            [*target, "sh", "-c", command], check=check, stdout=subprocess.PIPE
        )
        return completed.stdout.decode()

    def ssh(self, command, user="root"):
        """Run a shell command on the host over SSH."""
        options = ["BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null"]
        options += ["ConnectTimeout=5", "LogLevel=ERROR"]
        flags = [part for option in options for part in ("-o", option)]
        target = ["-i", self.key_file, f"{user}@{self.address}", command]
        return subprocess.run(
            ["ssh", "-F", "none", *flags, *target], check=False, capture_output=True, timeout=60
        )
