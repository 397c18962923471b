from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poundcake.inert import make_inert
from poundcake.remediation import host_facts
from poundcake.remediation.errors import RemediationError

DISK = {
    "check": "disk",
    "path": "/var/log",
    "mountpoint": "/var",
    "size_bytes": 20_000_000_000,
    "used_bytes": 18_500_000_000,
    "free_bytes": 1_500_000_000,
    "used_percent": 93,
    "inodes_used_percent": 7,
    "directories": [
        {"path": "/var/log", "bytes": 9_400_000_000},
        {"path": "/var/log/app", "bytes": 9_000_000_000},
    ],
    "directories_complete": True,
}
MEMORY = {
    "check": "memory",
    "total_bytes": 8_000_000_000,
    "available_bytes": 420_000_000,
    "swap_total_bytes": 0,
    "swap_free_bytes": 0,
    "processes": [{"pid": 812, "name": "java", "user": "app", "bytes": 6_100_000_000}],
    "oom_kills_since_boot": 2,
    "kernel_log_readable": True,
    "last_oom_kills": ["Out of memory: Killed process 700 (java)"],
}
CPU = {
    "check": "cpu",
    "load_1m": 9.5,
    "load_5m": 8.0,
    "load_15m": 2.25,
    "processors": 4,
    "busy_percent": 97,
    "iowait_percent": 2,
    "steal_percent": 0,
    "processes": [{"pid": 4711, "name": "spin", "user": "app", "cpu_percent": 388}],
}
SERVICE = {
    "check": "service",
    "service": "nginx.service",
    "manager": "systemd",
    "state": "failed",
    "detail": "failed",
    "since": "Thu 2026-11-26 19:41:39 UTC",
    "pid": None,
    "restarts": 5,
    "log": ["nginx: configuration file test failed"],
}
CLEANED = {
    "change": "clean_disk",
    "dry_run": False,
    "files": 12,
    "bytes": 3_200_000_000,
    "examples": ["/var/log/app/a.log"],
    "left_open": 1,
    "left_changed": 0,
    "failed": 0,
    "limit_reached": "",
    "search_complete": True,
}
RESTARTED = {
    "change": "restart_service",
    "service": "nginx.service",
    "manager": "systemd",
    "before": "failed",
    "before_since": "",
    "after": "active",
    "after_since": "",
    "exit_code": 0,
    "seconds": 4,
    "message": "",
}
READERS = {
    "disk": (host_facts.read_disk, DISK),
    "memory": (host_facts.read_memory, MEMORY),
    "cpu": (host_facts.read_cpu, CPU),
    "service": (host_facts.read_service, SERVICE),
    "clean_disk": (host_facts.read_cleaned_disk, CLEANED),
    "restart_service": (host_facts.read_restarted_service, RESTARTED),
}
each = pytest.mark.parametrize(("read", "document"), READERS.values(), ids=READERS)


def result(stdout, **entry):
    """Return the result of an execution on one host. StackStorm parses JSON on stdout."""
    return {"web-1": {"stdout": stdout, "stderr": "", "return_code": 0, "succeeded": True, **entry}}


class TestSummaries:
    def test_disk(self):
        assert host_facts.read_disk(result(DISK)).summary == (
            "/var is 93% full, 1.5 GB of 20.0 GB free; 7% of the inodes used; "
            "largest: /var/log 9.4 GB, /var/log/app 9.0 GB"
        )

    def test_memory(self):
        assert host_facts.read_memory(result(MEMORY)).summary == (
            "420 MB of 8.0 GB available; largest: java (812) 6.1 GB; "
            "2 killed for lack of memory since boot"
        )

    def test_cpu(self):
        assert host_facts.read_cpu(result(CPU)).summary == (
            "4 processors 97% busy, load 9.50; 2% waiting for disks; busiest: spin (4711) 388%"
        )

    def test_service(self):
        facts = host_facts.read_service(result(SERVICE))
        assert not facts.is_active
        assert facts.summary == (
            "nginx.service is failed (failed) since Thu 2026-11-26 19:41:39 UTC"
        )

    def test_cleaned_disk(self):
        done = host_facts.read_cleaned_disk(result(CLEANED))
        assert done.summary == "deleted 12 files, 3.2 GB; left 1 that are open"
        promised = host_facts.read_cleaned_disk(result({**CLEANED, "dry_run": True, "files": 1}))
        assert promised.summary.startswith("would delete 1 file, 3.2 GB")

    def test_restarted_service(self):
        done = host_facts.read_restarted_service(result(RESTARTED))
        assert done.succeeded
        assert done.summary == "restarted nginx.service: was failed, is active"


@pytest.mark.parametrize(
    "change", [{"after": "failed"}, {"exit_code": 1}, {"exit_code": None, "after": "inactive"}]
)
def test_a_restart_succeeds_only_if_the_service_is_active_afterwards(change):
    done = host_facts.read_restarted_service(result({**RESTARTED, **change}, succeeded=False))
    assert not done.succeeded
    assert done.summary.startswith("could not restart nginx.service")


@each
def test_output_as_text_and_as_parsed_by_stackstorm(read, document):
    assert read(result(json.dumps(document))) == read(result(document))


@each
def test_output_after_warnings_of_the_terminal(read, document):
    text = f"lastlog_openseek: Couldn't stat /var/log/lastlog\n{json.dumps(document)}\n"
    assert read(result(text)) == read(result(document))


@each
def test_every_missing_or_wrong_field_is_named(read, document):
    """Also the fields of the first object in a list."""
    for name in document:
        if name in ("check", "change", "manager", "before_since", "after_since"):
            continue  # not read by every reader
        for wrong in ([], {}, True, "x", -1, float("nan"), float("inf"), 2**70, ["x", 1], [{}]):
            damaged = {**document, name: wrong}
            try:
                read(result(damaged))
            except RemediationError as error:
                assert "the host printed" in str(error)
            else:
                # It is of the right type after all.
                assert isinstance(wrong, type(document[name])) or document[name] is None


@each
@given(text=st.text(max_size=2000))
def test_every_text_is_inert_and_short(read, document, text):
    def replaced(value):
        if isinstance(value, str):
            return text
        if isinstance(value, list):
            return [replaced(inner) for inner in value]
        if isinstance(value, dict):
            return {name: replaced(inner) for name, inner in value.items()}
        return value

    facts = dataclasses.asdict(read(result(replaced(document))))
    for shown in texts_in(facts):
        assert make_inert(shown) == shown
        assert len(shown) <= 500


def texts_in(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from texts_in(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from texts_in(inner)


@each
@given(
    stdout=st.one_of(
        st.text(max_size=300),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner),
        ).map(json.dumps),
    )
)
def test_any_other_output_is_an_error(read, document, stdout):
    with pytest.raises(RemediationError) as caught:
        read(result(stdout))
    assert make_inert(str(caught.value)) == str(caught.value)


@each
def test_too_much_output_is_an_error(read, document):
    with pytest.raises(RemediationError, match="too long"):
        read(result(json.dumps({**document, "more": "x" * host_facts.LONGEST_OUTPUT})))
    with pytest.raises(RemediationError, match="too long"):
        read(result("[" * 5000))


@each
def test_why_a_check_failed(read, document):
    refused = {"error": "path: /x is not a directory on this host"}
    unreachable = {"error": "Unable to connect to any one of the hosts: ['web-1'].\n{{ x }}"}
    for failed, expected in (
        (result(refused, succeeded=False), "path: /x is not a directory on this host"),
        ({**unreachable, "traceback": "…", "failed": True}, "Unable to connect to any one"),
        (result("", timeout=True, error="timed out"), "did not answer in time"),
        (result("sh: not found", succeeded=False), "no JSON: sh: not found"),
        (result("", stderr="Permission denied", succeeded=False), "no JSON: Permission denied"),
        ({}, "no result, or results of several"),
        ({**result(document), "web-2": {"stdout": document}}, "no result, or results of several"),
    ):
        with pytest.raises(RemediationError) as caught:
            read(failed)
        assert expected in str(caught.value)
        assert "{{" not in str(caught.value)
