"""What a remediation may do, and what it did."""

import itertools
import socket
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poundcake.config import load
from poundcake.hosts import host_of
from poundcake.remediation import checks
from poundcake.remediation.checks import check_host
from poundcake.remediation.errors import RemediationError
from poundcake.remediation.report import report
from poundcake.remediation.safety import permit

NOWHERE = {"host": "", "port": 0}


class TestHostOf:
    @pytest.mark.parametrize(
        "instance, host, port",
        [
            ("web-1", "web-1", 0),
            ("web-1:9100", "web-1", 9100),
            ("web_1.example.org:80", "web_1.example.org", 80),
            ("192.0.2.7:9100", "192.0.2.7", 9100),
            ("2001:db8::7", "2001:db8::7", 0),
            ("[2001:db8::7]:9100", "2001:db8::7", 9100),
            ("[::1]", "::1", 0),
            ("a" * 63 + ".b", "a" * 63 + ".b", 0),
            ("web-1:65535", "web-1", 65535),
        ],
    )
    def test_a_host(self, instance, host, port):
        assert host_of(instance) == {"host": host, "port": port}

    @pytest.mark.parametrize(
        "instance",
        [
            "",
            " ",
            ":",
            ":9100",
            "web-1:0",
            "web-1:65536",
            "web-1:99999999999999999999",
            "web-1:-1",
            "web-1:٩",
            "web-1:80:80",
            "web-1\n",
            "web-1:80\n",
            "web 1",
            "-oProxyCommand=reboot",
            "-h",
            "web-1;reboot",
            "web-1|reboot",
            "web-1&reboot",
            "$(reboot)",
            "`reboot`",
            "web'1",
            'web"1',
            "../../etc/passwd",
            "a/b",
            "user@host",
            "host\\",
            "{{st2kv.system.x}}",
            "<% st2kv(x) %>",
            "http://web-1",
            "web-.example",
            ".web",
            "web.",
            "web..x",
            "größe",
            "web\x00",
            "ѡeb",
            "a" * 64,
            "a." * 127 + "a",
            "fe80::1%eth0;reboot",
            "fe80::1%$(reboot)",
            "[fe80::1%$(reboot)]:22",
            "[fe80::1%{{x}}]:22",
            "::1%`reboot`",
            "fe80::1% -oProxyCommand=x",
            "[web-1]:22",
            "[",
            "[]",
            "[::1",
            "[::1]x",
            "[::1]:",
            "[::1]:x",
            "[[::1]]:1",
            "*",
            "10.0.0.0/8",
        ],
    )
    def test_a_hostile_instance_names_no_host(self, instance):
        if instance == "[::1]:":  # a port that is left out, RFC 3986, section 3.2.3
            assert host_of(instance)["host"] in ("", "::1")
        else:
            assert host_of(instance) == NOWHERE

    @given(st.text(alphabet="ab1.:-_[]%$(){}<>;|& \n'\"/\\@", max_size=20) | st.text(max_size=30))
    def test_whatever_comes_is_safe_as_an_argument(self, instance):
        host = host_of(instance)["host"]
        assert not host.startswith("-")
        assert all(c.isascii() and (c.isalnum() or c in "._-:") for c in host)

    def test_ports(self):
        assert checks.ports_of(0) == [22]
        assert checks.ports_of(22) == [22]
        assert checks.ports_of(9100) == [22, 9100]


class TestPermit:
    """Nothing is changed unless the configuration and the alert both allow it."""

    ALERT = {"instance": "web-1:9100", "status": "firing", "incident_ended_at": None}

    def ask(self, alert=None, action="linux.service", needs_host=True, **config):
        given = {"dry_run": False, "allowed_actions": ["linux.service"]}
        given.update(config)
        return permit(load(given), dict(self.ALERT, **(alert or {})), action, needs_host)

    def test_all_is_as_it_must_be(self):
        assert self.ask() == {
            "host": "web-1",
            "port": 9100,
            "may_change": True,
            "dry_run": False,
            "stage": "remediate",
            "message": "",
        }

    def test_out_of_the_box_nothing_may_change(self):
        found = permit(load({}), self.ALERT, "linux.service")
        assert found["may_change"] is False
        assert found["dry_run"] is True

    def test_dry_run_says_what_it_would_run(self):
        found = self.ask(dry_run=True)
        assert (found["may_change"], found["stage"]) == (False, "dry_run")
        assert "linux.service" in found["message"] and "web-1" in found["message"]

    def test_dry_run_without_an_action(self):
        found = self.ask(dry_run=True, action="")
        assert (found["may_change"], found["stage"]) == (False, "dry_run")
        assert found["message"]

    def test_without_an_action_there_is_only_evidence(self):
        for needs_host in (True, False):
            found = self.ask(action="", needs_host=needs_host)
            assert (found["may_change"], found["stage"]) == (False, "evidence")
            assert "no action" in found["message"]
        # Who needs no host and changes nothing may look at any alert.
        found = self.ask({"instance": ""}, "", needs_host=False, allowed_hosts=["db-*"])
        assert found["stage"] == "evidence"

    @pytest.mark.parametrize(
        "alert, action, config, word",
        [
            ({"status": "resolved"}, "linux.service", {}, "resolved"),
            ({"instance": ""}, "linux.service", {}, "no host"),
            ({"instance": "$(reboot)"}, "linux.service", {}, "no host"),
            ({}, "linux.service", {"allowed_hosts": ["db-*"]}, "allowed_hosts"),
            ({}, "linux.service", {"allowed_hosts": ["web-1.example"]}, "allowed_hosts"),
            ({}, "linux.other", {}, "allowed_actions"),
            ({}, "linux.service", {"allowed_actions": []}, "allowed_actions"),
            ({}, "linux.servic*", {"allowed_actions": ["linux.servic*"]}, "reference"),
            ({}, "{{x}}", {"allowed_actions": ["{{x}}"]}, "reference"),
            ({}, "no dot", {"allowed_actions": ["no dot"]}, "reference"),
        ],
    )
    def test_each_refusal_says_why(self, alert, action, config, word):
        found = self.ask(alert, action, **config)
        assert (found["may_change"], found["stage"]) == (False, "refused")
        assert word in found["message"]

    @pytest.mark.parametrize("pattern", ["web-1", "WEB-*", "*", "web-?", "web-[12]"])
    def test_allowed_hosts_are_shell_patterns(self, pattern):
        assert self.ask(allowed_hosts=[pattern])["may_change"] is True

    def test_an_action_that_needs_no_host(self):
        assert self.ask({"instance": ""}, needs_host=False)["may_change"] is True
        # With a list of hosts nothing goes to one that is not known.
        assert (
            self.ask({"instance": ""}, needs_host=False, allowed_hosts=["*"])["may_change"] is False
        )

    def test_what_has_ended_is_left_alone(self):
        found = self.ask({"incident_ended_at": "2026-01-14T12:00:00Z"})
        assert (found["may_change"], found["stage"]) == (False, "ended")
        assert found["message"] == "the incident ended at 2026-01-14T12:00:00Z"

    def test_every_combination(self):
        for dry_run, status, host, action, allowed in itertools.product(
            (True, False),
            ("firing", "resolved"),
            ("web-1", "a b", ""),
            ("linux.service", "linux.other", ""),
            ([], ["web-*"], ["db-*"]),
        ):
            found = self.ask(
                {"status": status, "instance": host},
                action,
                dry_run=dry_run,
                allowed_hosts=allowed,
            )
            may = (
                not dry_run
                and status == "firing"
                and host == "web-1"
                and action == "linux.service"
                and allowed != ["db-*"]
            )
            assert found["may_change"] is may
            assert (found["stage"] == "remediate") is may
            assert bool(found["message"]) is not may


class TestCheckHost:
    def test_one_that_listens(self):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(1)
            port = listener.getsockname()[1]
            found = check_host("127.0.0.1", [port], 0)
        assert (found["reachable"], found["port"]) == (True, port)

    def test_a_refusal_is_an_answer(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
            assert check_host("127.0.0.1", [port], 0)["reachable"] is True

    def test_silence_is_none(self, monkeypatch):
        monkeypatch.setattr(checks, "_answers", lambda host, port: False)
        began = time.monotonic()
        found = check_host("192.0.2.1", [22, 80], 0)
        assert (found["reachable"], found["port"]) == (False, 0)
        assert time.monotonic() - began < 10

    def test_it_is_asked_again_until_it_answers(self, monkeypatch):
        answers = iter([False, False, True])
        monkeypatch.setattr(checks, "_answers", lambda host, port: next(answers))
        monkeypatch.setattr(checks.time, "sleep", lambda seconds: None)
        assert check_host("127.0.0.1", [22, 80], 60)["reachable"] is True

    def test_a_host_that_does_not_take_the_connection_is_waited_for_no_longer_than_its_time(self):
        with socket.socket() as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            port = full.getsockname()[1]
            others = []
            try:
                for _ in range(3):  # the queue is full, so the next SYN is not answered
                    other = socket.socket()
                    other.setblocking(False)
                    other.connect_ex(("127.0.0.1", port))
                    others.append(other)
                original, checks.CONNECT_TIME = checks.CONNECT_TIME, 0.3
                began = time.monotonic()
                check_host("127.0.0.1", [port], 0)
                assert time.monotonic() - began < 20
            finally:
                checks.CONNECT_TIME = original
                for other in others:
                    other.close()

    @pytest.mark.parametrize("host", ["", "a b", "-x", "$(reboot)", "fe80::1%$(x)", "web-1:80"])
    def test_what_is_no_host_is_refused(self, host):
        with pytest.raises(RemediationError, match="^host: "):
            check_host(host, [22], 0)

    def test_a_name_that_nobody_knows(self):
        done = threading.Event()

        def ask():
            assert check_host("no-such-host.invalid", [22], 0)["reachable"] is False
            done.set()

        threading.Thread(target=ask, daemon=True).start()
        assert done.wait(10)


class Children:
    """StackStorm as report() asks it."""

    def __init__(self, **tasks):
        self.tasks = tasks

    def children(self, execution_id):
        assert execution_id == "the-workflow"
        return [
            {
                "id": name,
                "status": "succeeded",
                "context": {"orquesta": {"task_name": name}},
                "action": {"ref": "poundcake.x"},
                "result": {"result": found},
                **({"status": found} if isinstance(found, str) else {}),
                **(found if isinstance(found, dict) and "status" in found else {}),
            }
            for name, found in self.tasks.items()
        ]


LINKED = {"claimed": True, "reason": ""}
DRY = {
    "host": "web-1",
    "may_change": False,
    "dry_run": True,
    "stage": "dry_run",
    "message": "would run x",
}
WET = {"host": "web-1", "may_change": True, "dry_run": False, "stage": "remediate", "message": ""}
REFUSED = dict(WET, may_change=False, stage="refused", message="allowed_hosts does not name web-1")
OVER = dict(WET, may_change=False, stage="ended", message="the incident ended at 12:00")
UP = {"reachable": True, "port": 22, "seconds": 0.1}
DOWN = {"reachable": False, "port": 0, "seconds": 60}
RUN = {"status": "succeeded", "action": {"ref": "linux.service"}, "result": {"stdout": "{{x}}"}}
RUN_FAILED = dict(RUN, status="failed")
RUN_LOST = dict(RUN, status="timeout")


class TestReport:
    @pytest.mark.parametrize(
        "tasks, status, stage, mutated, dry_run, verified",
        [
            ({}, "succeeded", "not_claimed", False, True, False),
            ({"link": "failed"}, "succeeded", "not_claimed", False, True, False),
            (
                {"link": {"claimed": False, "reason": "r"}},
                "succeeded",
                "not_claimed",
                False,
                True,
                False,
            ),
            ({"link": LINKED}, "failed", "alert", False, True, False),
            ({"link": LINKED, "alert": "failed"}, "failed", "alert", False, True, False),
            (
                {"link": LINKED, "alert": DRY, "evidence": UP},
                "succeeded",
                "evidence",
                False,
                True,
                True,
            ),
            (
                {"link": LINKED, "alert": DRY, "evidence": DOWN},
                "succeeded",
                "dry_run",
                False,
                True,
                False,
            ),
            (
                {"link": LINKED, "alert": REFUSED, "evidence": DOWN},
                "failed",
                "refused",
                False,
                False,
                False,
            ),
            (
                {"link": LINKED, "alert": OVER, "evidence": DOWN},
                "succeeded",
                "ended",
                False,
                False,
                False,
            ),
            (
                {"link": LINKED, "alert": WET, "remediate": RUN_FAILED},
                "failed",
                "remediate",
                True,
                False,
                False,
            ),
            (
                {"link": LINKED, "alert": WET, "remediate": RUN_LOST},
                "failed",
                "remediate",
                True,
                False,
                False,
            ),
            (
                {"link": LINKED, "alert": WET, "remediate": RUN},
                "succeeded",
                "done",
                True,
                False,
                False,
            ),
            (
                {"link": LINKED, "alert": WET, "remediate": RUN, "verify": UP},
                "succeeded",
                "done",
                True,
                False,
                True,
            ),
            (
                {"link": LINKED, "alert": WET, "remediate": RUN, "verify": DOWN},
                "failed",
                "verify",
                True,
                False,
                False,
            ),
        ],
    )
    def test_by_its_tasks(self, tasks, status, stage, mutated, dry_run, verified):
        found = report(Children(**tasks), "the-workflow")
        assert (found["status"], found["stage"]) == (status, stage)
        assert (found["mutated"], found["dry_run"], found["verified"]) == (
            mutated,
            dry_run,
            verified,
        )
        assert set(found) == {
            "status",
            "mutated",
            "dry_run",
            "verified",
            "stage",
            "message",
            "evidence",
        }

    def test_what_another_packs_action_returned_is_not_passed_on(self):
        hostile = {
            "status": "succeeded",
            "action": {"ref": "core.remote"},
            "result": {"result": {"reachable": True, "port": "{{ st2kv.system.x }}"}},
        }
        found = report(
            Children(link=LINKED, alert=WET, evidence=hostile, remediate=RUN), "the-workflow"
        )
        assert "st2kv" not in repr(found) and "{{" not in repr(found)

    def test_evidence_is_kept(self):
        found = report(
            Children(link=LINKED, alert=WET, evidence=DOWN, remediate=RUN, verify=UP),
            "the-workflow",
        )
        assert found["evidence"] == {"before": DOWN, "after": UP}
        assert "web-1" in found["message"]
