"""The actions that check and change a host, run on a test host by StackStorm's SSH runner."""

from __future__ import annotations

import json

import pytest

from poundcake.remediation import host_facts
from tests import hosts
from tests.scenarios import conftest
from tests.scenarios.notifications import alert, notification, unique

# The actions do not depend on the kind of database, so one is enough.
pytestmark = pytest.mark.parametrize("kind", conftest.KINDS[:1], indirect=True, scope="package")

SYSTEMCTL = """\
#!/bin/sh
# A fake systemd with one service, oven.service, which does not start while /run/broken exists.
case $1 in
show)
    case $* in *" oven.service") ;; *) echo LoadState=not-found; exit ;; esac
    echo LoadState=loaded
    if [ -e /run/oven ]; then echo ActiveState=active; echo SubState=running; else
        echo ActiveState=failed; echo SubState=failed; fi
    echo "ActiveEnterTimestamp=Thu 2026-11-26 19:41:39 UTC"
    echo MainPID=4711; echo NRestarts=3 ;;
restart)
    [ -e /run/broken ] && { echo "Job failed: {{ 7*7 }}" >&2; exit 1; }
    touch /run/oven ;;
esac
"""


@pytest.fixture
def host(test_host):
    """Return the test host, and clean it up afterwards."""
    yield test_host
    test_host.run(
        "rm -rf /srv/app/* /run/broken /run/systemd /usr/local/bin/systemctl;"
        f"/etc/init.d/{hosts.SERVICE} start >/dev/null 2>&1"
    )


@pytest.fixture
def execute(stack, host):
    """Return a function that runs an action on the host and returns its execution."""

    def execute(action, user="root", **parameters):
        return stack.execute(
            f"poundcake.{action}",
            host=host.address,
            username=user,
            private_key=host.key_file,
            **parameters,
        )

    return execute


def script_output(execution):
    """Return the output of a script that ran on one host."""
    (entry,) = execution["result"].values()
    output = entry["stdout"]
    # StackStorm parses the output, unless sshd has printed a warning before it.
    return json.loads(output.strip().rpartition("\n")[2]) if isinstance(output, str) else output


def test_check_disk_shows_a_full_disk_with_its_largest_directories(host, execute):
    host.run("mkdir /srv/app/logs && head -c 12000000 /dev/zero >/srv/app/logs/old.log")
    execution = execute("check_disk", path="/srv/app")
    facts = host_facts.read_disk(execution["result"])
    assert execution["status"] == "succeeded"
    assert facts.mountpoint == "/srv"
    assert facts.size_bytes == 16 * 2**20
    assert facts.used_percent > 70
    assert "/srv/app/logs" in [directory.path for directory in facts.directories]


def test_a_disk_is_cleaned_but_not_by_a_dry_run(host, execute):
    host.run(
        "mkdir /srv/app/logs; cd /srv/app/logs; head -c 9000000 /dev/zero >old.log;"
        "touch -d '10 days ago' old.log; head -c 1000000 /dev/zero >new.log;"
        "ln -s /etc/passwd link; touch -h -d '10 days ago' link"
    )
    parameters = {"directories": ["/srv/app/logs"], "older_than_days": 7}
    dry_run = script_output(execute("clean_disk", dry_run=True, **parameters))
    assert (dry_run["dry_run"], dry_run["files"]) == (True, 1)
    assert dry_run["examples"] == ["/srv/app/logs/old.log"]
    assert host.run("ls /srv/app/logs").split() == ["link", "new.log", "old.log"]
    execution = execute("clean_disk", **parameters)
    result = script_output(execution)
    assert execution["status"] == "succeeded"
    assert (result["files"], result["bytes"]) == (1, dry_run["bytes"])
    assert host.run("ls /srv/app/logs").split() == ["link", "new.log"]
    assert host_facts.read_disk(execute("check_disk", path="/srv")["result"]).used_percent < 10


def test_a_system_directory_is_refused(execute):
    execution = execute("clean_disk", directories=["/etc/nginx"], older_than_days=1)
    assert execution["status"] == "failed"
    assert script_output(execution) == {
        "error": "directories: nothing in /etc/nginx may be deleted"
    }


def test_a_runaway_process_is_found(host, execute):
    host.run("setsid sh -c 'while :; do :; done' >/dev/null 2>&1 & echo $! >/run/runaway")
    try:
        facts = host_facts.read_cpu(execute("check_cpu")["result"])
        pid = int(host.run("cat /run/runaway"))
    finally:
        host.run("kill $(cat /run/runaway)")
    assert facts.processes[0].pid == pid
    assert facts.processes[0].user == "root"


def test_the_largest_process_is_found(host, execute):
    host.run(
        "sh -c 'x=$(head -c 80000000 /dev/zero | tr \"\\0\" x); echo ready >/run/ready; sleep 60'"
        " >/dev/null 2>&1 & echo $! >/run/large; while [ ! -e /run/ready ]; do sleep 0.1; done"
    )
    try:
        facts = host_facts.read_memory(execute("check_memory", top=2)["result"])
        pid = int(host.run("cat /run/large"))
    finally:
        host.run("kill $(cat /run/large); rm -f /run/ready")
    assert facts.processes[0].pid == pid
    assert facts.processes[0].used > 80_000_000


def test_a_service_is_restarted(host, execute):
    host.run(f"/etc/init.d/{hosts.SERVICE} stop")
    service = host_facts.read_service(execute("check_service", service=hosts.SERVICE)["result"])
    assert (service.state, service.manager) == ("inactive", "sysv")
    execution = execute("restart_service", service=hosts.SERVICE)
    result = script_output(execution)
    assert execution["status"] == "succeeded"
    assert (result["before"], result["after"], result["exit_code"]) == ("inactive", "active", 0)
    assert host.run(f"/etc/init.d/{hosts.SERVICE} status && echo runs").strip() == "runs"
    # The service has the umask and working directory that it has after a boot, not the script's.
    assert (
        host.run("stat -c %a /run/oven.pid; readlink /proc/$(cat /run/oven.pid)/cwd") == "644\n/\n"
    )


def test_a_service_that_does_not_start_fails_the_restart(host, execute):
    host.run(f"/etc/init.d/{hosts.SERVICE} stop; touch /run/broken")
    execution = execute("restart_service", service=hosts.SERVICE)
    result = script_output(execution)
    assert execution["status"] == "failed"
    assert result["after"] == "inactive"
    assert "invalid configuration" in result["message"]
    assert "{{" not in json.dumps(execution["result"])


def test_a_systemd_service_is_checked_and_restarted(host, execute):
    """A script replaces systemctl, because the test host does not run systemd."""
    host.run(
        "mkdir -p /run/systemd/system; rm -f /run/oven; cat >/usr/local/bin/systemctl <<'END'\n"
        f"{SYSTEMCTL}END\nchmod 755 /usr/local/bin/systemctl"
    )
    facts = host_facts.read_service(execute("check_service", service="oven")["result"])
    assert (facts.service, facts.state, facts.restarts) == ("oven.service", "failed", 3)
    failed_execution = execute("restart_service", service="oven.target", wait=5)
    assert script_output(failed_execution) == {
        "error": "the host has no service oven.target.service"
    }
    result = script_output(execute("restart_service", service="oven"))
    assert (result["exit_code"], result["before"], result["after"]) == (0, "failed", "active")
    host.run("touch /run/broken")
    execution = execute("restart_service", service="oven")
    result = script_output(execution)
    assert execution["status"] == "failed"
    assert (result["exit_code"], result["after"]) == (1, "active")  # the old process still runs
    assert result["message"] == "Job failed: __ 7_7 __"


class TestPermissions:
    """The actions run as an ordinary account that has the documented sudoers lines."""

    def test_each_check_works_without_root(self, execute):
        for action, parameters in (
            ("check_disk", {"path": "/srv"}),
            ("check_memory", {}),
            ("check_cpu", {}),
            ("check_service", {"service": hosts.SERVICE}),
        ):
            assert execute(action, hosts.USER, **parameters)["status"] == "succeeded"

    def test_a_restart_uses_sudo_for_its_command(self, host, execute):
        host.run(f"/etc/init.d/{hosts.SERVICE} stop")
        assert (
            execute("restart_service", hosts.USER, service=hosts.SERVICE)["status"] == "succeeded"
        )

    def test_other_users_files_are_deleted_only_with_the_parameter_sudo(self, host, execute):
        host.run("mkdir /srv/app/logs; touch -d '10 days ago' /srv/app/logs/old.log")
        parameters = {"directories": ["/srv/app/logs"], "older_than_days": 7}
        execution = execute("clean_disk", hosts.USER, **parameters)
        assert execution["status"] == "failed"
        assert script_output(execution)["failed"] == 1
        execution = execute("clean_disk", hosts.USER, sudo=True, **parameters)
        assert execution["status"] == "succeeded"
        assert script_output(execution)["files"] == 1


def test_a_check_of_an_unreachable_host_fails_with_the_reason(stack):
    address = "198.51.100.3" if stack.is_live else "silent-1.invalid"
    execution = stack.execute("poundcake.check_disk", host=address, timeout=20)
    assert execution["status"] == "failed"
    with pytest.raises(host_facts.RemediationError, match="Unable to connect"):
        host_facts.read_disk(execution["result"])


def test_a_check_leaves_no_files_on_the_host(host, execute):
    execute("check_disk", path="/srv")
    assert host.run("ls -A /tmp") == ""


WORK = "poundcake_scenarios.work"
FULL_DISK = {
    "name": "scenario-full-disk",
    "match": ["alertname=ScenarioFullDisk"],
    "mode": "live",
    "action": "poundcake.disk_cleanup",
    "with": {"directories": ["/srv/app/logs"], "older_than_days": 7, "above": 50},
    "evidence": ["poundcake.check_memory", WORK],
    "wait": 8,
}
ASKED_DISK = {
    **FULL_DISK,
    "name": "scenario-asked-disk",
    "match": ["alertname=ScenarioAskedDisk"],
    "mode": "ask",
    "approvers": ["anna"],
    "evidence": ["poundcake.check_memory"],
}
FILL = "head -c 9000000 /dev/zero >{0}.log"
AGE = "touch -d '10 days ago' {0}.log"


@pytest.fixture(scope="module")
def remediating_stack(armed_stack, test_host):
    """Return a stack that may clean the disks of hosts and restart their services."""
    changed_keys = {
        "allowed_actions": [WORK, "poundcake.clean_disk", "poundcake.restart_service"],
        "ssh_user": "root",
        "ssh_key_file": test_host.key_file,
    }
    with armed_stack.configured_remediations([FULL_DISK, ASKED_DISK], **changed_keys):
        yield armed_stack


def send_alert(stack, host, name):
    """Send an alert about the host, and return its trail."""
    labels = {"alertname": name, "instance": f"{host.address}:9100", "note": unique("note")}
    return stack.wait_until_completed(stack.send(notification(alert(name, labels=labels))))


def test_a_disk_is_cleaned_only_if_it_is_full_and_the_result_is_verified(remediating_stack, host):
    def remediate(*commands):
        """Prepare the folder, send the alert, and return the report, the actions and the files."""
        host.run("mkdir -p /srv/app/logs; cd /srv/app/logs; rm -f *; " + "; ".join(commands))
        trail = send_alert(remediating_stack, host, "ScenarioFullDisk")
        path = "/executions/" + trail["stackstorm_executions"][0]["st2_execution_id"]
        actions = [child["action"]["ref"] for child in remediating_stack.api(path + "/children")]
        output = remediating_stack.api(path)["result"]["output"]
        return output, actions, host.run("ls /srv/app/logs").split()

    report, actions, files = remediate(AGE.format("old"))
    assert (report["status"], report["stage"], report["mutated"]) == ("succeeded", "refused", False)
    assert report["message"].startswith("/srv is ")
    assert "(not more than 50%)" in report["message"]
    assert files == ["old.log"]

    report, actions, files = remediate(FILL.format("old"), AGE.format("old"))
    assert (report["status"], report["stage"]) == ("succeeded", "done"), report
    assert (report["mutated"], report["verified"]) == (True, True)
    assert files == []
    names = {"after", "disk:/srv/app/logs>50", WORK, "poundcake.check_memory"}
    assert set(report["evidence"]) == names
    assert "(more than 50%)" in report["evidence"]["disk:/srv/app/logs>50"]
    assert "available; largest: " in report["evidence"]["poundcake.check_memory"]
    assert actions.count("poundcake.check_disk") == 2

    report, actions, files = remediate(AGE.format("old"), FILL.format("new"))
    assert (report["status"], report["stage"]) == ("failed", "verify"), report
    assert "not verified within 8 s: /srv is " in report["message"]
    assert files == ["new.log"]
    assert actions.count("poundcake.check_disk") > 2
    assert actions.count("poundcake.on_host") == 1


class TestApprovals:
    """The host is inspected before the approval is requested, and again after the answer."""

    NAME = "ScenarioAskedDisk"

    def prepare_disk(self, host, *commands):
        host.run("mkdir -p /srv/app/logs; cd /srv/app/logs; rm -f *; " + "; ".join(commands))

    def wait_for_inquiry(self, stack, host):
        """Send an alert about a full disk, and return its workflow and the inquiry."""
        if stack.is_live and not stack.user_tokens:
            pytest.skip("live: POUNDCAKE_USER_TOKENS is not set")
        self.prepare_disk(host, FILL.format("old"), AGE.format("old"))
        labels = {"alertname": self.NAME, "instance": f"{host.address}:9100", "note": unique("n")}
        trail = stack.wait_for_trail(
            stack.send(notification(alert(self.NAME, labels=labels))),
            lambda t: [e for e in t["stackstorm_executions"] if e["status"] == "paused"],
        )
        (execution,) = trail["stackstorm_executions"]
        children = stack.api(f"/executions/{execution['st2_execution_id']}/children")
        (inquiry,) = [child for child in children if child["action"]["ref"] == "core.ask"]
        return execution, inquiry

    def approve(self, stack, execution, inquiry):
        """Approve the change, and return the report and the actions of the workflow."""
        body = {"id": inquiry["id"], "response": {"approve": True}}
        stack.api(f"/inquiries/{inquiry['id']}", "PUT", body, user="anna")
        report = stack.wait_until_ended(execution["st2_execution_id"])["result"]["output"]
        children = stack.api(f"/executions/{execution['st2_execution_id']}/children")
        return report, [child["action"]["ref"] for child in children]

    def test_nobody_is_asked_to_clean_a_disk_that_is_not_full(self, remediating_stack, host):
        """Case A36: a check of the host does not permit the change."""
        self.prepare_disk(host, AGE.format("old"))
        trail = send_alert(remediating_stack, host, self.NAME)
        path = "/executions/" + trail["stackstorm_executions"][0]["st2_execution_id"]
        actions = [child["action"]["ref"] for child in remediating_stack.api(path + "/children")]
        report = remediating_stack.api(path)["result"]["output"]
        assert (report["status"], report["stage"]) == ("succeeded", "refused"), report
        assert "(not more than 50%)" in report["message"]
        assert sorted(actions) == [
            "poundcake.begin",
            "poundcake.change",
            "poundcake.check_disk",
            "poundcake.check_memory",
            "poundcake.report",
            "poundcake.reserve",
        ]

        def ended_events():
            instances = remediating_stack.list_all(
                "/triggerinstances", trigger="poundcake.remediation_ended"
            )
            payloads = [instance["payload"] for instance in instances]
            return [p for p in payloads if p["request_id"] == trail["request_id"]]

        (event,) = remediating_stack.wait_until(ended_events)
        assert (event["result"], event["refusal"]) == ("refused", "not_confirmed")
        assert "(not more than 50%)" in event["evidence"][0]

    def test_an_approver_sees_how_full_the_disk_is(self, remediating_stack, host):
        """Case A36: the views show what the checks of the host saw."""
        execution, inquiry = self.wait_for_inquiry(remediating_stack, host)
        assert "; seen: /srv is " in execution["message"]
        assert "(more than 50%)" in execution["message"]
        assert "available; largest: " in execution["message"]
        report, actions = self.approve(remediating_stack, execution, inquiry)
        assert (report["status"], report["stage"]) == ("succeeded", "done"), report
        assert report["message"].startswith("approved by anna; /srv is ")
        assert host.run("ls /srv/app/logs") == ""
        # The disk is checked before the approval is requested, and before and after the change.
        assert actions.count("poundcake.check_disk") >= 3

    def test_a_disk_that_a_person_cleans_in_the_meantime_is_not_cleaned_again(
        self, remediating_stack, host
    ):
        """Case A36: the host is inspected again after the answer."""
        execution, inquiry = self.wait_for_inquiry(remediating_stack, host)
        self.prepare_disk(host, AGE.format("kept"))
        report, actions = self.approve(remediating_stack, execution, inquiry)
        assert (report["status"], report["stage"]) == ("succeeded", "refused"), report
        assert "(not more than 50%)" in report["message"]
        assert "poundcake.on_host" not in actions
        assert host.run("ls /srv/app/logs").split() == ["kept.log"]

    def test_nobody_is_asked_if_the_host_cannot_be_inspected(self, remediating_stack):
        """Case A36: a check of the host fails."""
        address = "198.51.100.3" if remediating_stack.is_live else "silent-1.invalid"
        labels = {"alertname": self.NAME, "instance": f"{address}:9100", "note": unique("note")}
        request_id = remediating_stack.send(notification(alert(self.NAME, labels=labels)))
        (execution,) = remediating_stack.wait_until_completed(request_id)["stackstorm_executions"]
        assert (execution["status"], execution["stage"]) == ("succeeded", "refused")
        assert (
            "the host could not be checked for disk:/srv/app/logs above 50%"
            in (execution["message"])
        )


def test_shipped_remediations_run_on_the_alerts_host(remediating_stack, host):
    host.run(f"/etc/init.d/{hosts.SERVICE} stop")
    trail = send_alert(remediating_stack, host, "ScenarioUnmatched")
    ids = {"request_id": trail["request_id"], "episode": trail["alerts"][0]["episode"]}
    report = remediating_stack.execute("poundcake.memory_check", **ids)["result"]["output"]
    assert (report["status"], report["stage"]) == ("succeeded", "evidence"), report
    assert "available; largest: " in report["message"]

    parameters = {"service": hosts.SERVICE}
    execution = remediating_stack.execute("poundcake.service_restart", **ids, parameters=parameters)
    report = execution["result"]["output"]
    assert (report["status"], report["stage"]) == ("succeeded", "done"), report
    assert (report["mutated"], report["verified"]) == (True, True)
    assert f"{hosts.SERVICE}: active" in report["message"]
    assert host.run(f"/etc/init.d/{hosts.SERVICE} status && echo runs").strip() == "runs"
