"""The output of the host scripts is validated strictly, and its text is made inert."""

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
READERS = {
    "disk": (host_facts.read_disk, DISK),
    "memory": (host_facts.read_memory, MEMORY),
    "cpu": (host_facts.read_cpu, CPU),
    "service": (host_facts.read_service, SERVICE),
}
with_each_reader = pytest.mark.parametrize(("read", "document"), READERS.values(), ids=READERS)


def execution_result(stdout, **entry):
    """Return the result of an execution on one host, in which StackStorm may have parsed stdout."""
    return {"web-1": {"stdout": stdout, "stderr": "", "return_code": 0, "succeeded": True, **entry}}


class TestSummaries:
    def test_disk(self):
        assert host_facts.read_disk(execution_result(DISK)).summary == (
            "/var is 93% full, 1.5 GB of 20.0 GB free; 7% of the inodes used; "
            "largest: /var/log 9.4 GB, /var/log/app 9.0 GB"
        )

    def test_memory(self):
        assert host_facts.read_memory(execution_result(MEMORY)).summary == (
            "420 MB of 8.0 GB available; largest: java (812) 6.1 GB; "
            "2 killed for lack of memory since boot"
        )

    def test_cpu(self):
        assert host_facts.read_cpu(execution_result(CPU)).summary == (
            "4 processors 97% busy, load 9.50; 2% waiting for disks; busiest: spin (4711) 388%"
        )

    def test_service(self):
        facts = host_facts.read_service(execution_result(SERVICE))
        assert not facts.is_active
        assert facts.summary == "nginx.service: failed (failed) since Thu 2026-11-26 19:41:39 UTC"


@with_each_reader
def test_output_is_read_as_text_and_as_parsed_by_stackstorm(read, document):
    assert read(execution_result(json.dumps(document))) == read(execution_result(document))


@with_each_reader
def test_warnings_before_the_output_are_ignored(read, document):
    text = f"lastlog_openseek: Couldn't stat /var/log/lastlog\n{json.dumps(document)}\n"
    assert read(execution_result(text)) == read(execution_result(document))


# The fields that no reader uses.
IGNORED_FIELDS = {"check"}
# Fields that may be missing or null, because their values are not always known.
NULLABLE_FIELDS = {"inodes_used_percent", "oom_kills_since_boot", "pid", "restarts"}


@with_each_reader
def test_a_missing_field_is_an_error(read, document):
    for name in document.keys() - IGNORED_FIELDS - NULLABLE_FIELDS:
        remaining_fields = {key: value for key, value in document.items() if key != name}
        with pytest.raises(RemediationError, match="the host printed"):
            read(execution_result(remaining_fields))


@with_each_reader
def test_a_field_with_a_wrong_value_is_an_error(read, document):
    wrong_values = [{}, -1, float("nan"), float("inf"), 2**70, ["x", 1], [{}]]
    for name in document.keys() - IGNORED_FIELDS:
        for value in [*wrong_values, "x", True, []]:
            if value in ("x", True, []) and type(value) is type(document[name]):
                continue  # a valid value of this field
            with pytest.raises(RemediationError, match="the host printed"):
                read(execution_result({**document, name: value}))


@with_each_reader
@given(text=st.text(max_size=2000))
def test_every_string_is_inert_and_short(read, document, text):
    def replace_strings(value):
        if isinstance(value, str):
            return text
        if isinstance(value, list):
            return [replace_strings(inner) for inner in value]
        if isinstance(value, dict):
            return {name: replace_strings(inner) for name, inner in value.items()}
        return value

    facts = dataclasses.asdict(read(execution_result(replace_strings(document))))
    for fact_string in iterate_strings(facts):
        assert make_inert(fact_string) == fact_string
        assert len(fact_string) <= 500


def iterate_strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from iterate_strings(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from iterate_strings(inner)


@with_each_reader
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
        read(execution_result(stdout))
    assert make_inert(str(caught.value)) == str(caught.value)


@with_each_reader
def test_output_that_is_too_long_or_nested_too_deeply_is_an_error(read, document):
    with pytest.raises(RemediationError, match="too long"):
        read(execution_result(json.dumps({**document, "more": "x" * host_facts.MAX_OUTPUT})))
    with pytest.raises(RemediationError, match="nested too deeply"):
        read(execution_result("[" * 5000))


@with_each_reader
def test_an_error_explains_why_a_check_failed(read, document):
    refusal = {"error": "path: /x is not a directory on this host"}
    connection_error = {"error": "Unable to connect to any one of the hosts: ['web-1'].\n{{ x }}"}
    for output, expected_text in (
        (execution_result(refusal, succeeded=False), "path: /x is not a directory on this host"),
        ({**connection_error, "traceback": "…", "failed": True}, "Unable to connect to any one"),
        (execution_result("", timeout=True, error="timed out"), "did not answer in time"),
        (execution_result("sh: not found", succeeded=False), "no JSON: sh: not found"),
        (
            execution_result("", stderr="Permission denied", succeeded=False),
            "no JSON: Permission denied",
        ),
        ({}, "no result, or results from several"),
        (
            {**execution_result(document), "web-2": {"stdout": document}},
            "no result, or results from several",
        ),
    ):
        with pytest.raises(RemediationError) as caught:
            read(output)
        assert expected_text in str(caught.value)
        assert "{{" not in str(caught.value)
