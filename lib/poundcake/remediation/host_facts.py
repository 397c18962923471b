"""Parse the output of the scripts that check a host.

The scripts in actions/hosts print one JSON document. Anybody with root access to the host can make
them print anything, and local users choose the names of files and processes. So this module treats
the output as hostile: it limits the size, checks every number, and makes all text inert.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Mapping

from poundcake.inert import inert_line
from poundcake.json_depth import is_too_deep
from poundcake.remediation.errors import RemediationError

MAX_OUTPUT = 65_536
"""Maximum length of the output, in characters. The scripts print at most about 20,000."""

_MAX_TEXT = 500
_MAX_ITEMS = 50
_MAX_NUMBER = 2**63
_UNITS = ("bytes", "kB", "MB", "GB", "TB")


@dataclass(frozen=True)
class Directory:
    """A directory and the space that everything in it uses."""

    path: str
    bytes: int


@dataclass(frozen=True)
class Process:
    """A process on the host. Its arguments are not read, because they may contain secrets."""

    pid: int
    name: str
    """At most 15 characters. A process can choose its name, so the name proves nothing."""
    user: str
    used: int
    """Bytes of memory, or percent of one processor."""


@dataclass(frozen=True)
class DiskFacts:
    """The output of poundcake.check_disk."""

    path: str
    mountpoint: str
    size_bytes: int
    used_bytes: int
    free_bytes: int
    """The space that ordinary users can use."""
    used_percent: int
    inodes_used_percent: int | None
    """None if the file system has no fixed number of inodes."""
    directories: tuple[Directory, ...]
    """The largest first. The size of a directory includes its subdirectories."""
    directories_complete: bool
    """False if the search took too long, or some directories could not be read."""

    @property
    def summary(self) -> str:
        """The facts in one line, for people."""
        inodes = self.inodes_used_percent
        parts = [
            f"{self.mountpoint} is {self.used_percent}% full, "
            f"{_format_size(self.free_bytes)} of {_format_size(self.size_bytes)} free",
            f"{inodes}% of the inodes used" if inodes else "",
            "largest: "
            + ", ".join(
                f"{folder.path} {_format_size(folder.bytes)}" for folder in self.directories[:3]
            )
            if self.directories
            else "",
        ]
        return "; ".join(filter(None, parts))


@dataclass(frozen=True)
class MemoryFacts:
    """The output of poundcake.check_memory."""

    total_bytes: int
    available_bytes: int
    swap_total_bytes: int
    swap_free_bytes: int
    processes: tuple[Process, ...]
    """The largest first."""
    oom_kills_since_boot: int | None
    """Processes that the kernel has killed for lack of memory; None before Linux 4.13."""
    kernel_log_readable: bool
    last_oom_kills: tuple[str, ...]
    """Lines of the kernel log, the newest last."""

    @property
    def summary(self) -> str:
        """The facts in one line, for people."""
        available = (
            f"{_format_size(self.available_bytes)} of {_format_size(self.total_bytes)} available"
        )
        largest = ", ".join(
            f"{process.name} ({process.pid}) {_format_size(process.used)}"
            for process in self.processes[:3]
        )
        kills = self.oom_kills_since_boot
        parts = [
            available,
            f"largest: {largest}" if largest else "",
            f"{kills} killed for lack of memory since boot" if kills else "",
        ]
        return "; ".join(filter(None, parts))


@dataclass(frozen=True)
class CpuFacts:
    """The output of poundcake.check_cpu."""

    load_1m: float
    load_5m: float
    load_15m: float
    processors: int
    busy_percent: int
    """Percent of all processors' time in which they were busy, not counting waits for disks."""
    iowait_percent: int
    steal_percent: int
    """Percent of the time that the hypervisor gave to other virtual machines."""
    processes: tuple[Process, ...]
    """The busiest first; 100 percent is one processor."""

    @property
    def summary(self) -> str:
        """The facts in one line, for people."""
        processors = f"{self.processors} processor{'' if self.processors == 1 else 's'}"
        load = f"{processors} {self.busy_percent}% busy, load {self.load_1m:.2f}"
        waiting = f"{self.iowait_percent}% waiting for disks" if self.iowait_percent else ""
        busiest = ", ".join(
            f"{process.name} ({process.pid}) {process.used}%" for process in self.processes[:3]
        )
        return "; ".join(filter(None, [load, waiting, "busiest: " + busiest if busiest else ""]))


@dataclass(frozen=True)
class ServiceFacts:
    """The output of poundcake.check_service."""

    service: str
    """The name in the service manager, such as nginx.service."""
    manager: str
    """``systemd``, ``openrc`` or ``sysv``."""
    state: str
    """``active``, ``inactive``, ``failed``, ``unknown``, or another state of systemd."""
    detail: str
    since: str
    """When the state began, as the host prints it; empty if unknown."""
    pid: int | None
    restarts: int | None
    """Automatic restarts by systemd; None if unknown."""
    log: tuple[str, ...]

    @property
    def is_active(self) -> bool:
        """Whether the service is running."""
        return self.state == "active"

    @property
    def summary(self) -> str:
        """The facts in one line, for people."""
        detail = f" ({self.detail})" if self.detail else ""
        since = f" since {self.since}" if self.since else ""
        return f"{self.service}: {self.state}{detail}{since}"


def read_disk(result: Mapping[str, Any]) -> DiskFacts:
    """Return the facts in the result of an execution of poundcake.check_disk.

    Raises:
        RemediationError: The check failed, or its output is invalid. The message is inert and
            gives the reason. The functions for other checks raise the same error.
    """
    output = _Output(result)
    return DiskFacts(
        path=output.text("path"),
        mountpoint=output.text("mountpoint"),
        size_bytes=output.integer("size_bytes"),
        used_bytes=output.integer("used_bytes"),
        free_bytes=output.integer("free_bytes"),
        used_percent=output.integer("used_percent"),
        inodes_used_percent=output.integer_or_none("inodes_used_percent"),
        directories=tuple(
            Directory(directory.text("path"), directory.integer("bytes"))
            for directory in output.objects("directories")
        ),
        directories_complete=output.flag("directories_complete"),
    )


def read_memory(result: Mapping[str, Any]) -> MemoryFacts:
    """Return the facts in the result of an execution of poundcake.check_memory."""
    output = _Output(result)
    return MemoryFacts(
        total_bytes=output.integer("total_bytes"),
        available_bytes=output.integer("available_bytes"),
        swap_total_bytes=output.integer("swap_total_bytes"),
        swap_free_bytes=output.integer("swap_free_bytes"),
        processes=_read_processes(output, "bytes"),
        oom_kills_since_boot=output.integer_or_none("oom_kills_since_boot"),
        kernel_log_readable=output.flag("kernel_log_readable"),
        last_oom_kills=output.texts("last_oom_kills"),
    )


def read_cpu(result: Mapping[str, Any]) -> CpuFacts:
    """Return the facts in the result of an execution of poundcake.check_cpu."""
    output = _Output(result)
    return CpuFacts(
        load_1m=output.number("load_1m"),
        load_5m=output.number("load_5m"),
        load_15m=output.number("load_15m"),
        processors=output.integer("processors"),
        busy_percent=output.integer("busy_percent"),
        iowait_percent=output.integer("iowait_percent"),
        steal_percent=output.integer("steal_percent"),
        processes=_read_processes(output, "cpu_percent"),
    )


def read_service(result: Mapping[str, Any]) -> ServiceFacts:
    """Return the facts in the result of an execution of poundcake.check_service."""
    output = _Output(result)
    return ServiceFacts(
        service=output.text("service"),
        manager=output.text("manager"),
        state=output.text("state"),
        detail=output.text("detail"),
        since=output.text("since"),
        pid=output.integer_or_none("pid"),
        restarts=output.integer_or_none("restarts"),
        log=output.texts("log"),
    )


class _Output:
    """The JSON object that a script printed. Each method validates the field that it returns."""

    def __init__(self, result: Mapping[str, Any]):
        self._fields = _parse_stdout(_find_host_entry(result))
        if "error" in self._fields:
            raise RemediationError(self.text("error"))

    @classmethod
    def _from_fields(cls, fields: Mapping[str, Any]) -> _Output:
        output = cls.__new__(cls)
        output._fields = fields
        return output

    def number(self, name: str) -> float:
        value = self._fields.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise _invalid_field(name)
        if not 0 <= value <= _MAX_NUMBER:  # false for NaN
            raise _invalid_field(name)
        return float(value)

    def integer(self, name: str) -> int:
        self.number(name)
        return int(self._fields[name])

    def integer_or_none(self, name: str) -> int | None:
        return None if self._fields.get(name) is None else self.integer(name)

    def flag(self, name: str) -> bool:
        value = self._fields.get(name)
        if not isinstance(value, bool):
            raise _invalid_field(name)
        return value

    def text(self, name: str) -> str:
        value = self._fields.get(name)
        if not isinstance(value, str):
            raise _invalid_field(name)
        return _inert(value)

    def texts(self, name: str) -> tuple[str, ...]:
        values = self._list(name)
        if not all(isinstance(value, str) for value in values):
            raise _invalid_field(name)
        return tuple(map(_inert, values))

    def objects(self, name: str) -> list[_Output]:
        values = self._list(name)
        if not all(isinstance(value, dict) for value in values):
            raise _invalid_field(name)
        return [self._from_fields(value) for value in values]

    def _list(self, name: str) -> list[Any]:
        values = self._fields.get(name)
        if not isinstance(values, list) or len(values) > _MAX_ITEMS:
            raise _invalid_field(name)
        return values


def _read_processes(output: _Output, usage_field: str) -> tuple[Process, ...]:
    return tuple(
        Process(
            pid=process.integer("pid"),
            name=process.text("name"),
            user=process.text("user"),
            used=process.integer(usage_field),
        )
        for process in output.objects("processes")
    )


def _find_host_entry(result: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of an execution's result that belongs to its only host."""
    entries = [entry for entry in result.values() if isinstance(entry, dict)]
    if len(entries) == 1 and "error" not in result:
        entry: Mapping[str, Any] = entries[0]
        if entry.get("timeout") is True:
            raise RemediationError("the host did not answer in time")
        if "error" in entry and not entry.get("stdout"):
            raise RemediationError(_inert(str(entry["error"])))
        return entry
    reason = result.get("error")
    raise RemediationError(
        _inert(str(reason))
        if reason
        else "the execution has no result, or results from several hosts"
    )


def _parse_stdout(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the JSON object on stdout, which StackStorm may already have parsed.

    The JSON is on the last line. Other lines are possible, because StackStorm allocates a terminal
    for sudo, and sshd may print warnings to it.
    """
    output = entry.get("stdout")
    if isinstance(output, str):
        if len(output) > MAX_OUTPUT:
            raise RemediationError(f"the host printed {len(output)} characters, which is too long")
        if is_too_deep(output.encode("utf-8", "replace")):
            raise RemediationError("the host printed JSON that is nested too deeply")
        try:
            output = json.loads(output.strip().rpartition("\n")[2])
        except (ValueError, RecursionError):
            text = str(entry.get("stdout") or entry.get("stderr") or "nothing")
            raise RemediationError(f"the host printed no JSON: {_inert(text)}") from None
    if not isinstance(output, dict):
        raise RemediationError("the host printed no JSON object")
    return output


def _invalid_field(name: str) -> RemediationError:
    return RemediationError(f"the host printed no valid {name}")


def _inert(text: str) -> str:
    return inert_line(text[:_MAX_TEXT])


def _format_size(count: float) -> str:
    """Return a number of bytes in a readable unit, such as 1.2 GB."""
    unit = 0
    while count >= 1000 and unit < len(_UNITS) - 1:
        count /= 1000
        unit += 1
    digits = 0 if unit == 0 or count >= 100 else 1
    return f"{count:.{digits}f} {_UNITS[unit]}"
